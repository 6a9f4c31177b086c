//! Where tokens come, and which are refused.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};

use crate::common::{Client, Edge, Folder, bearer, now, request, signed, token, upgrade};

fn good(user: &str) -> Value {
    json!({ "sub": user, "exp": now() + 3_600 })
}

fn sign(algorithm: Algorithm, id: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header {
        kid: id.map(Into::into),
        ..Header::new(algorithm)
    };
    jsonwebtoken::encode(&header, claims, key).expect("a token")
}

/// The status before the upgrade, and that a message with the same token is closed with 4401.
fn refused(edge: &Edge, what: &str, token: &str) {
    assert_eq!(
        request(edge.address, &upgrade(&bearer(token))).0,
        401,
        "{what}"
    );
    let protocol = format!("Sec-WebSocket-Protocol: online-status.v1.json, bearer.{token}\r\n");
    assert_eq!(request(edge.address, &upgrade(&protocol)).0, 401, "{what}");
    let mut client = edge.stranger();
    client.say(&json!({ "type": "auth", "token": token }));
    assert_eq!(client.closed(), 4401, "{what}");
}

#[test]
fn a_token_comes_in_a_header_a_subprotocol_or_a_message() {
    let edge = Edge::start(&[]);
    edge.user("header");
    let offer = format!(
        "Sec-WebSocket-Protocol: online-status.v1.json, bearer.{}\r\n",
        token("subprotocol")
    );
    let mut client = Client::open(&edge, &offer);
    assert!(
        client
            .head
            .contains("sec-websocket-protocol: online-status.v1.json\r\n")
    );
    assert_eq!(client.message()["user"], "subprotocol");
    let mut client = edge.stranger();
    client.say(&json!({ "type": "auth", "token": token("message"), "id": "a" }));
    let welcome = client.message();
    assert_eq!(
        (&welcome["user"], &welcome["id"]),
        (&json!("message"), &json!("a"))
    );
    let expires = welcome["expires"].as_u64().expect("milliseconds");
    assert!(expires / 1_000 > now() + 3_500 && expires / 1_000 <= now() + 3_600);
}

#[test]
fn bad_tokens_are_refused_everywhere() {
    let edge = Edge::start(&[]);
    let other =
        EncodingKey::from_secret(b"another secret, also long enough for it").expect("a secret");
    let unsigned = |header: &str, claims: &Value, signature: &str| {
        let claims = BASE64.encode(claims.to_string());
        format!("{}.{claims}.{signature}", BASE64.encode(header))
    };
    let with = |name: &str, value: Value| {
        let mut claims = good("alice");
        claims[name] = value;
        signed(&claims)
    };
    let fine = token("alice");
    let (rest, signature) = fine.rsplit_once('.').expect("a signature");
    let forged = format!("{}.{signature}", {
        let (header, _) = rest.split_once('.').expect("claims");
        format!("{header}.{}", BASE64.encode(good("mallory").to_string()))
    });
    let cases = [
        ("no token", "x".to_owned()),
        ("nothing", "..".into()),
        (
            "no algorithm",
            unsigned(r#"{"alg":"none"}"#, &good("alice"), ""),
        ),
        (
            "no algorithm, spelled otherwise",
            unsigned(r#"{"alg":"nOnE"}"#, &good("alice"), ""),
        ),
        ("no signature", format!("{rest}.")),
        (
            "another's signature",
            sign(Algorithm::HS256, None, &other, &good("alice")),
        ),
        ("claims changed", forged),
        ("an algorithm that is not allowed", {
            let key = EncodingKey::from_secret(crate::common::SECRET.as_bytes()).expect("a secret");
            sign(Algorithm::HS512, None, &key, &good("alice"))
        }),
        ("expired", with("exp", json!(now() - 5))),
        ("no end", signed(&json!({ "sub": "alice" }))),
        ("an end that is no number", with("exp", json!("tomorrow"))),
        ("not yet good", with("nbf", json!(now() + 60))),
        ("no user", signed(&json!({ "exp": now() + 60 }))),
        ("an empty user", with("sub", json!(""))),
        ("a user that is a fraction", with("sub", json!(5.5))),
        ("a user that is null", with("sub", json!(null))),
        ("an end that is null", with("exp", json!(null))),
        ("a long user", with("sub", json!("x".repeat(257)))),
        ("a control character", with("sub", json!("a\u{7}b"))),
        (
            "critical extensions",
            unsigned(
                r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
                &good("alice"),
                signature,
            ),
        ),
    ];
    for (what, token) in &cases {
        refused(&edge, what, token);
    }
    edge.until_metric_reaches(
        "online_status_bad_tokens_total",
        "",
        cases.len() as f64 * 3.0,
    );
    assert_eq!(
        request(edge.address, &upgrade("Authorization: Basic YTpi\r\n")).0,
        401
    );
    // At the edges of what is allowed.
    edge.user(&"x".repeat(256));
    edge.user("zoë 🦀");
}

#[test]
fn a_request_has_one_token_or_none() {
    let edge = Edge::start(&[]);
    let (alice, bob) = (token("alice"), token("bob"));
    let protocol = |tokens: &[&str]| {
        let tokens: Vec<String> = tokens
            .iter()
            .map(|token| format!(", bearer.{token}"))
            .collect();
        format!(
            "Sec-WebSocket-Protocol: online-status.v1.json{}\r\n",
            tokens.concat()
        )
    };
    for (headers, status) in [
        (format!("{}{}", bearer(&alice), bearer(&alice)), 401),
        (format!("{}{}", bearer("nonsense"), bearer(&alice)), 401),
        (format!("{}{}", bearer(&alice), protocol(&[&bob])), 400),
        (
            format!("{}{}", bearer(&alice), protocol(&["nonsense"])),
            400,
        ),
        (protocol(&[&alice, &bob]), 400),
        (protocol(&[""]), 401),
    ] {
        assert_eq!(
            request(edge.address, &upgrade(&headers)).0,
            status,
            "{headers}"
        );
    }
    let plain =
        |headers: &str| format!("GET /status?userId=x HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let twice = format!("{}{}", bearer(&alice), bearer(&alice));
    assert_eq!(request(edge.address, &plain(&twice)).0, 401);
    let (head, _) = crate::common::response(edge.address, &plain(&bearer("nonsense")));
    assert!(
        head.contains("www-authenticate: bearer error=\"invalid_token\"\r\n"),
        "{head}"
    );
    edge.until_metric_reaches("online_status_bad_tokens_total", "", 5.0);
}

#[test]
fn a_public_key_is_no_secret() {
    let folder = Folder::new();
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let pem = folder.file("public.pem", pair.public_key_pem());
    let edge = Edge::start_with(&["--auth-public-key", &pem, "--auth-algorithms", "ES256"]);
    let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
    let ours = sign(Algorithm::ES256, None, &private, &good("alice"));
    Client::open(&edge, &bearer(&ours)).message();
    for bytes in [pair.public_key_pem().as_bytes(), pair.public_key_raw()] {
        let confused = EncodingKey::from_secret(bytes).expect("a secret");
        refused(
            &edge,
            "HS256",
            &sign(Algorithm::HS256, None, &confused, &good("alice")),
        );
    }
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let other = EncodingKey::from_ec_pem(other.serialize_pem().as_bytes()).expect("a key");
    refused(
        &edge,
        "another key",
        &sign(Algorithm::ES256, None, &other, &good("alice")),
    );
}

#[test]
fn a_key_set_is_read_again_on_sighup() {
    let folder = Folder::new();
    let jwk = |id: &str, pair: &KeyPair| {
        let x = BASE64.encode(pair.public_key_raw());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": id, "x": x })
    };
    let pairs = [(); 2].map(|()| KeyPair::generate_for(&PKCS_ED25519).expect("a key"));
    let set = |ids: &[usize]| {
        let keys: Vec<Value> = ids
            .iter()
            .map(|n| jwk(&n.to_string(), &pairs[*n]))
            .collect();
        json!({ "keys": keys }).to_string()
    };
    let of = |n: usize, id: &str| {
        let key = EncodingKey::from_ed_pem(pairs[n].serialize_pem().as_bytes()).expect("a key");
        sign(Algorithm::EdDSA, Some(id), &key, &good("alice"))
    };
    let file = folder.file("keys.json", set(&[0]));
    let edge = Edge::start_with(&["--auth-jwks-file", &file, "--auth-algorithms", "EdDSA"]);
    let mut old = Client::open(&edge, &bearer(&of(0, "0")));
    old.message();
    refused(&edge, "an unknown key", &of(1, "1"));
    refused(&edge, "another key's name", &of(1, "0"));
    folder.file("keys.json", set(&[1]));
    edge.signal(rustix::process::Signal::HUP);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let plain = |token: &str| {
        format!(
            "GET /status?userId=x HTTP/1.1\r\nhost: x\r\n{}\r\n",
            bearer(token)
        )
    };
    while request(edge.address, &plain(&of(0, "0"))).0 != 401 {
        assert!(
            std::time::Instant::now() < deadline,
            "the old key is still good"
        );
    }
    Client::open(&edge, &bearer(&of(1, "1"))).message();
    old.works();
}

#[test]
fn issuer_and_audience_are_checked_when_set() {
    let edge = Edge::start(&["--auth-issuer", "us", "--auth-audience", "presence"]);
    let with = |issuer: Value, audience: Value| {
        signed(&json!({ "sub": "alice", "exp": now() + 60, "iss": issuer, "aud": audience }))
    };
    Client::open(&edge, &bearer(&with(json!("us"), json!("presence")))).message();
    Client::open(&edge, &bearer(&with(json!("us"), json!(["x", "presence"])))).message();
    refused(
        &edge,
        "another issuer",
        &with(json!("them"), json!("presence")),
    );
    refused(&edge, "another audience", &with(json!("us"), json!(["x"])));
    refused(&edge, "neither", &token("alice"));
}

#[test]
fn no_token_in_time_and_anything_before_it_end_the_connection() {
    let edge = Edge::start(&["--server-auth-timeout", "300ms"]);
    assert_eq!(edge.stranger().closed(), 4408);
    let mut hasty = edge.stranger();
    hasty.say(&json!({ "type": "watch", "users": ["bob"] }));
    assert_eq!(hasty.closed(), 4401);
}

#[test]
fn a_session_ends_with_its_token_unless_it_is_renewed() {
    let edge = Edge::start(&[]);
    let short = || signed(&json!({ "sub": "alice", "exp": now() + 3 }));
    let (mut ends, mut stays) = (
        Client::open(&edge, &bearer(&short())),
        Client::open(&edge, &bearer(&short())),
    );
    for client in [&mut ends, &mut stays] {
        assert_eq!(client.message()["type"], "welcome");
        assert_eq!(client.message()["type"], "expiring");
    }
    let refuse = |client: &mut Client, token: &str, code: &str| {
        let error = client.ask(&json!({ "type": "auth", "token": token, "id": 4 }), "error");
        assert_eq!((&error["code"], &error["id"]), (&json!(code), &json!(4)));
    };
    refuse(&mut stays, &token("bob"), "wrong_user");
    refuse(&mut stays, "nonsense", "bad_token");
    let renewal = json!({ "type": "auth", "token": token("alice"), "id": 5 });
    assert_eq!(stays.ask(&renewal, "welcome")["id"], 5);
    assert_eq!(ends.closed(), 4401);
    std::thread::sleep(std::time::Duration::from_secs(1));
    stays.works();
}

#[test]
fn claims_say_whom_a_session_may_watch() {
    let edge = Edge::start(&["--auth-watch-policy", "claim"]);
    let claims = json!({ "sub": "alice", "exp": now() + 60, "watch": ["bob", "team-*"] });
    let mut alice = Client::open(&edge, &bearer(&signed(&claims)));
    alice.message();
    alice.watch(&["bob", "team-1"]);
    for (kind, answer) in [("watch", "snapshot"), ("query", "result")] {
        let asked = json!({ "type": kind, "users": ["carol", "bob", "dave"], "id": 7 });
        let error = alice.ask(&asked, "error");
        assert_eq!(error["code"], "not_allowed");
        assert_eq!(
            (&error["users"], error.get("id")),
            (&json!(["carol", "dave"]), None)
        );
        // The rest is in force.
        let rest = alice.message();
        assert_eq!((&rest["type"], &rest["id"]), (&json!(answer), &json!(7)));
        assert_eq!(rest["users"][0]["user"], "bob");
        assert_eq!(rest["users"].as_array().map(Vec::len), Some(1));
    }
    let mut nobody = edge.user("mallory");
    let error = nobody.ask(&json!({ "type": "watch", "users": ["bob"] }), "error");
    assert_eq!(error["code"], "not_allowed");
}

#[test]
fn a_narrower_token_in_band_ends_the_watches_that_it_does_not_allow() {
    let edge = Edge::start(&["--auth-watch-policy", "claim"]);
    let with = |watch: &[&str]| {
        let claims = json!({ "sub": "alice", "exp": now() + 60, "watch": watch });
        signed(&claims)
    };
    let mut alice = Client::open(&edge, &bearer(&with(&["bob", "team-*"])));
    alice.message();
    alice.watch(&["team-1", "bob", "team-2", "team-3"]);
    let renewal = json!({ "type": "auth", "token": with(&["bob", "team-2"]) });
    alice.ask(&renewal, "welcome");
    let error = alice.message();
    assert_eq!(
        (&error["code"], error.get("id")),
        (&json!("not_allowed"), None)
    );
    assert_eq!(error["users"], json!(["team-1", "team-3"]));
    edge.until_metric("online_status_watchers", "", 2.0);

    let _hidden = edge.user("team-1");
    let _seen = edge.user("team-2");
    assert_eq!(alice.message()["users"][0]["user"], "team-2");
    // The same rule again, and a wider one, end nothing.
    for watch in [&["bob", "team-2"][..], &["*"]] {
        alice.ask(&json!({ "type": "auth", "token": with(watch) }), "welcome");
    }
    let _seen = edge.user("bob");
    assert_eq!(alice.message()["users"][0]["user"], "bob");
}
