//! Keys of tokens that a web server has.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519};
use rustix::process::Signal;
use serde_json::json;

use crate::common::{Client, Edge, bearer, moment, now, request, upgrade};

/// Answers with what it is given; nobody is answered before.
struct KeyServer {
    url: String,
    body: Arc<Mutex<Option<String>>>,
}

impl KeyServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let body: Arc<Mutex<Option<String>>> = Arc::default();
        let served = Arc::clone(&body);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let lines = BufReader::new(&stream).lines();
                // Up to the end of the head.
                lines
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .for_each(drop);
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
    let header = Header {
        kid: Some(name.into()),
        ..Header::new(Algorithm::EdDSA)
    };
    let claims = json!({ "sub": "alice", "exp": now() + 3_600 });
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
