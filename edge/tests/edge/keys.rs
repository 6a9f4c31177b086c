//! Keys of tokens that a web server has.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use rustix::process::Signal;
use serde_json::json;

use crate::common::{Client, Edge, bearer, moment, now, request, upgrade};

/// Answers with what it is given; nobody is answered before, or while it is held.
struct KeyServer {
    url: String,
    body: Arc<Mutex<Option<String>>>,
    held: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let body: Arc<Mutex<Option<String>>> = Arc::default();
        let served = Arc::clone(&body);
        let (held, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (holds, counts) = (Arc::clone(&held), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let lines = BufReader::new(&stream).lines();
                // Up to the end of the head.
                lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .for_each(drop);
                counts.fetch_add(1, Relaxed);
                while holds.load(Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if let Some(body) = &*served.lock().expect("no panic") {
                    let length = body.len();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                    // The edge may have ended meanwhile.
                    let _ = stream.write_all((head + body).as_bytes());
                }
            }
        });
        Self {
            url: format!("http://{address}/"),
            body,
            held,
            asked,
        }
    }

    fn serves(&self, body: String) {
        *self.body.lock().expect("no panic") = Some(body);
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).expect("a key")
}

fn set(keys: &[(&str, &KeyPair)]) -> String {
    let keys = keys.iter().map(|(name, pair)| {
        let x = BASE64.encode(pair.public_key_raw());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": name, "x": x })
    });
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

fn token(name: &str, pair: &KeyPair) -> String {
    until(name, pair, 3_600)
}

/// One that ends after so many seconds.
fn until(name: &str, pair: &KeyPair, ttl: u64) -> String {
    let header = Header {
        kid: Some(name.into()),
        ..Header::new(Algorithm::EdDSA)
    };
    let claims = json!({ "sub": "alice", "exp": now() + ttl });
    let key = EncodingKey::from_ed_der(&pair.serialize_der());
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}

/// Of an upgrade with the token.
fn status(edge: &Edge, token: &str) -> u16 {
    request(edge.address, &upgrade(&bearer(token))).0
}

#[test]
fn an_edge_is_ready_when_it_has_the_keys_and_takes_new_ones() {
    let (server, first, second) = (KeyServer::start(), key(), key());
    let flags = ["--auth-algorithms", "EdDSA", "--auth-jwks-url", &server.url];
    let mut edge = Edge::launch(&flags);
    let fetches = "online_status_jwks_fetches_total";
    edge.until_metric_is(fetches, "failed", |failed| failed > 0.5);
    let (ready, body) = edge.get_admin("/readyz");
    assert_eq!(
        (ready, &*body),
        (503, "the keys for tokens are not there yet\n")
    );
    assert_eq!(
        status(&edge, &token("first", &first)),
        503,
        "nobody is told that its token is bad"
    );
    server.serves(set(&[("first", &first)]));
    edge.until_metric("online_status_jwks_keys", "", 1.0);
    edge.until_ready();
    let mut client = Client::open(&edge, &bearer(&token("first", &first)));
    assert_eq!(client.message()["user"], "alice");
    assert_eq!(status(&edge, &token("second", &second)), 401);
    edge.until_metric("online_status_bad_tokens_total", "unknown_key", 1.0);
    server.serves(set(&[("first", &first), ("second", &second)]));
    edge.signal(Signal::HUP);
    edge.until_metric("online_status_jwks_keys", "", 2.0);
    let mut client = Client::open(&edge, &bearer(&token("second", &second)));
    assert_eq!(client.message()["user"], "alice");
    // Garbage changes nothing.
    server.serves("garbage".into());
    let failed = edge.metric(fetches, "failed");
    edge.signal(Signal::HUP);
    edge.until_metric_is(fetches, "failed", |is| is > failed);
    moment();
    assert_eq!(edge.get_admin("/readyz").0, 200);
    let mut client = Client::open(&edge, &bearer(&token("second", &second)));
    assert_eq!(client.message()["user"], "alice");
}

/// An edge of one core that has the first key only, with what its server has next.
fn before_rotation(next: &[(&str, &KeyPair)], first: &KeyPair, more: &[&str]) -> (KeyServer, Edge) {
    let server = KeyServer::start();
    server.serves(set(&[("first", first)]));
    let flags = ["--auth-algorithms", "EdDSA", "--auth-jwks-url", &server.url];
    let edge = Edge::start_with(&[&flags[..], &["--server-cores", "1"], more].concat());
    server.serves(set(next));
    (server, edge)
}

#[test]
fn the_first_clients_with_a_new_key_wait_for_it_and_are_let_in() {
    let (first, second, third) = (key(), key(), key());
    let (server, edge) = before_rotation(&[("second", &second)], &first, &[]);
    let mut old = Client::open(&edge, &bearer(&token("first", &first)));
    old.message();
    server.held.store(true, Relaxed);
    let waits = "online_status_jwks_waiting";
    let asks = &edge;
    std::thread::scope(|scope| {
        let new = token("second", &second);
        let by_protocol =
            format!("Sec-WebSocket-Protocol: online-status.v1.json, bearer.{new}\r\n");
        let plain = format!(
            "GET /status?userId=x HTTP/1.1\r\nhost: x\r\n{}\r\n",
            bearer(&new)
        );
        let mut clients = Vec::new();
        for headers in [bearer(&new), by_protocol] {
            clients.push(scope.spawn(move || Client::open(asks, &headers).message()));
        }
        clients.push(scope.spawn(move || {
            let mut client = asks.stranger();
            client.ask(&json!({ "type": "auth", "token": new }), "welcome")
        }));
        let status = scope.spawn(move || request(asks.address, &plain).0);
        edge.until_metric(waits, "", 4.0);
        // The others of the core go on.
        old.works();
        server.held.store(false, Relaxed);
        for client in clients {
            assert_eq!(client.join().expect("no panic")["user"], "alice");
        }
        assert_eq!(status.join().expect("no panic"), 200);
    });
    edge.until_metric("online_status_jwks_waits_total", "let_in", 4.0);
    edge.until_metric(waits, "", 0.0);
    assert!(edge.metric("online_status_bad_tokens_total", "") < 0.5);
    // Behind the same name.
    server.serves(set(&[("second", &third)]));
    assert_eq!(
        Client::open(&edge, &bearer(&token("second", &third))).message()["user"],
        "alice"
    );
    assert_eq!(status(&edge, &token("second", &second)), 401);
    assert_eq!(status(&edge, &token("first", &first)), 401);
    old.works();
}

#[test]
fn what_a_client_sends_behind_a_token_that_waits_is_answered_behind_it() {
    let (first, second) = (key(), key());
    let (server, edge) = before_rotation(&[("second", &second)], &first, &[]);
    let mut client = Client::open(&edge, &bearer(&until("first", &first, 60)));
    let ends = client.message()["expires"].clone();
    server.held.store(true, Relaxed);
    client.say(&json!({ "type": "auth", "token": token("second", &second), "id": 1 }));
    edge.until_metric("online_status_jwks_waiting", "", 1.0);
    for id in 2..500 {
        client.say(&json!({ "type": "ping", "id": id }));
    }
    moment();
    server.held.store(false, Relaxed);
    let welcome = client.message();
    assert_eq!(
        (&welcome["type"], &welcome["id"]),
        (&json!("welcome"), &json!(1))
    );
    assert!(welcome["expires"].as_u64() > ends.as_u64(), "{welcome}");
    for id in 2..500 {
        assert_eq!(client.message()["id"], id);
    }
}

#[test]
fn a_key_that_does_not_come_in_time_ends_the_waiting_and_a_session_goes_on() {
    let (first, second) = (key(), key());
    let in_time = [
        "--server-upgrade-timeout",
        "500ms",
        "--server-auth-timeout",
        "500ms",
    ];
    let (server, edge) = before_rotation(&[("second", &second)], &first, &in_time);
    let mut client = Client::open(&edge, &bearer(&token("first", &first)));
    client.message();
    server.held.store(true, Relaxed);
    let began = Instant::now();
    let (code, body) = request(edge.address, &upgrade(&bearer(&token("second", &second))));
    assert_eq!(code, 401);
    assert!(body.contains("in time"), "{body}");
    let mut stranger = edge.stranger();
    stranger.say(&json!({ "type": "auth", "token": token("second", &second) }));
    assert_eq!(stranger.closed(), 4401);
    let renewal = json!({ "type": "auth", "token": token("second", &second), "id": 1 });
    let error = client.ask(&renewal, "error");
    assert_eq!(
        (&error["code"], &error["id"]),
        (&json!("bad_token"), &json!(1))
    );
    assert!(began.elapsed() > Duration::from_millis(1_000));
    client.works();
    edge.until_metric("online_status_jwks_waits_total", "in_vain", 3.0);
    edge.until_metric("online_status_bad_tokens_total", "unknown_key", 3.0);
    // One that hangs up while it waits leaves nothing behind.
    let mut gone = edge.stranger();
    gone.say(&json!({ "type": "auth", "token": token("second", &second) }));
    edge.until_metric("online_status_jwks_waiting", "", 1.0);
    drop(gone);
    edge.until_metric("online_status_jwks_waiting", "", 0.0);
    server.held.store(false, Relaxed);
    client.works();
}

#[test]
fn strangers_with_keys_that_nobody_has_cause_few_fetches_and_shut_nobody_out() {
    let (first, second, other) = (key(), key(), key());
    let (server, edge) = before_rotation(&[("first", &first)], &first, &[]);
    let before = server.asked.load(Relaxed);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (edge, other) = (&edge, &other);
            scope.spawn(move || {
                for n in 0..200 {
                    if began.elapsed() > Duration::from_secs(6) {
                        return;
                    }
                    assert_eq!(status(edge, &token(&format!("{thread}-{n}"), other)), 401);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1_500));
        let known = token("first", &first);
        Client::open(&edge, &bearer(&known)).message();
        // In the midst of it, a real rotation.
        server.serves(set(&[("second", &second)]));
        assert_eq!(status(&edge, &token("second", &second)), 101);
    });
    let fetches = server.asked.load(Relaxed) - before;
    let most = began.elapsed().as_secs() / 4 + 4;
    assert!(
        (fetches as u64) <= most,
        "{fetches} fetches in {:?}",
        began.elapsed()
    );
}
