//! What tokens of identity providers say, and where they come.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::common::{Client, Edge, SECRET, bearer, now, request, signed, upgrade};

/// A token with members in its head and claims besides the usual.
fn with(head: Value, claims: Value) -> String {
    let mut whole = [
        json!({ "alg": "HS256" }),
        json!({ "sub": "alice", "exp": now() + 3_600 }),
    ];
    for (whole, more) in whole.iter_mut().zip([head, claims]) {
        let more = more.as_object().expect("an object").clone();
        whole.as_object_mut().expect("an object").extend(more);
    }
    let part = |value: &Value| BASE64.encode(value.to_string());
    let signed = format!("{}.{}", part(&whole[0]), part(&whole[1]));
    let key = EncodingKey::from_secret(SECRET.as_bytes()).expect("a secret");
    let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("a signature");
    format!("{signed}.{signature}")
}

/// Whose the token is, in each of its three places.
fn user(edge: &Edge, token: &str) -> Vec<Value> {
    let protocol = format!("Sec-WebSocket-Protocol: online-status.v1.json, bearer.{token}\r\n");
    let mut users: Vec<Value> = [bearer(token), protocol]
        .iter()
        .map(|headers| Client::open(edge, headers).message()["user"].clone())
        .collect();
    let mut client = edge.stranger();
    let welcome = client.ask(&json!({ "type": "auth", "token": token }), "welcome");
    users.push(welcome["user"].clone());
    users
}

/// What is said before the upgrade, and that it is said in a message too, as far as a close frame
/// has room.
fn refusal(edge: &Edge, token: &str) -> String {
    let (status, body) = request(edge.address, &upgrade(&bearer(token)));
    assert_eq!(status, 401, "{body}");
    let problem: Value = serde_json::from_str(&body).expect("JSON");
    let detail = problem["detail"].as_str().expect("text").to_owned();
    let mut client = edge.stranger();
    client.say(&json!({ "type": "auth", "token": token }));
    let (opcode, payload) = client.next().expect("a close frame");
    assert_eq!((opcode, &payload[..2]), (8, &4401_u16.to_be_bytes()[..]));
    let reason = std::str::from_utf8(&payload[2..]).expect("text");
    assert_eq!(reason, &detail[..detail.len().min(123)]);
    detail
}

#[test]
fn each_refusal_names_the_setting_that_would_let_the_token_in() {
    let flags = [
        "--auth-issuer",
        "https://a.example/,https://b.example",
        "--auth-audience",
        "web,mobile",
    ];
    let strict = Edge::start(&flags);
    let fine = json!({ "iss": "https://b.example", "aud": ["mobile"] });
    assert_eq!(user(&strict, &with(json!({}), fine.clone())), ["alice"; 3]);
    let cognito = json!({ "iss": "https://b.example", "client_id": "web" });
    let bound = json!({ "iss": "https://b.example", "aud": "web", "cnf": { "jkt": "x" } });
    let number = json!({ "iss": "https://b.example", "aud": "web", "sub": null, "uid": 7 });
    let cases = [
        (
            json!({}),
            json!({ "iss": "https://c.example", "aud": "web" }),
            "auth.issuer",
        ),
        (
            json!({}),
            json!({ "iss": "https://b.example", "aud": "x" }),
            "auth.audience",
        ),
        (json!({}), cognito.clone(), "auth.audience_claims"),
        (
            json!({ "typ": "secevent+jwt" }),
            fine.clone(),
            "auth.token_types",
        ),
        (json!({ "alg": "HS512" }), fine.clone(), "auth.algorithms"),
        (json!({}), bound.clone(), "auth.accept_bound_tokens"),
        (json!({}), number.clone(), "auth.user_claim"),
    ];
    for (head, claims, setting) in cases {
        let said = refusal(&strict, &with(head, claims));
        assert!(said.contains(setting), "{said}");
    }
    for claims in [json!({ "exp": null }), json!({ "exp": null, "nbf": null })] {
        assert!(refusal(&strict, &with(json!({}), claims)).contains("exp is missing or null"));
    }
    let more = [
        "--auth-audience-claims",
        "aud,client_id",
        "--auth-accept-bound-tokens",
        "true",
        "--auth-token-types",
        "secevent+jwt",
        "--auth-user-claim",
        "uid",
    ];
    let lenient = Edge::start(&[&flags[..], &more].concat());
    for claims in [cognito, bound, number, fine] {
        let mut claims = claims;
        claims["uid"] = json!(7);
        let token = with(json!({ "typ": "secevent+jwt" }), claims);
        assert_eq!(user(&lenient, &token), ["7"; 3]);
    }
}

#[test]
fn a_scope_is_one_wherever_it_stands() {
    let edge = Edge::start(&[]);
    let status = |token: &str| {
        let body = r#"{"users":["bob"]}"#;
        let length = body.len();
        let head = format!(
            "POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{}\r\n{body}",
            bearer(token)
        );
        request(edge.address, &head).0
    };
    for claims in [
        json!({ "scope": "x presence:admin" }),
        json!({ "scp": "presence:admin" }),
        json!({ "scp": ["presence:admin"] }),
        json!({ "scope": null, "scopes": ["x", "presence:admin"] }),
    ] {
        assert_eq!(status(&with(json!({}), claims.clone())), 200, "{claims}");
    }
    for claims in [
        json!({ "scope": "presence" }),
        json!({ "permissions": ["presence:admin"] }),
    ] {
        assert_eq!(status(&with(json!({}), claims.clone())), 403, "{claims}");
    }
}

#[test]
fn a_token_of_the_largest_size_fits_wherever_tokens_come_and_what_is_too_long_is_called_so() {
    let edge = Edge::start(&[]);
    let of_length = |length: usize| {
        let empty = with(json!({}), json!({ "pad": "" })).len();
        // Four characters for three bytes.
        let token = with(
            json!({}),
            json!({ "pad": "x".repeat((length - empty) / 4 * 3) }),
        );
        assert!(
            (length - 4..=length).contains(&token.len()),
            "{}",
            token.len()
        );
        token
    };
    assert_eq!(user(&edge, &of_length(16 << 10)), ["alice"; 3]);
    let said = refusal(&edge, &of_length((16 << 10) + 8));
    assert_eq!(said, "the token is too long: at most 16384 bytes");
    // Beside the cookies of a large site.
    let cookies = format!(
        "Cookie: x={}\r\n{}",
        "y".repeat(16 << 10),
        bearer(&crate::common::token("bob"))
    );
    assert_eq!(Client::open(&edge, &cookies).message()["user"], "bob");
    let (status, body) = request(
        edge.address,
        &upgrade(&format!("Cookie: {}\r\n", "y".repeat(21_000))),
    );
    assert_eq!(status, 431);
    assert!(
        body.contains("20480") && body.contains("server.max_header"),
        "{body}"
    );
}

#[test]
fn a_name_of_an_algorithm_or_a_member_that_is_none_is_said_at_the_start() {
    for (flag, value, what) in [
        ("--auth-algorithms", "Ed448", "Ed25519"),
        ("--auth-user-claim", "", "auth.user_claim"),
        (
            "--auth-jwks-proxy",
            "http://127.0.0.1:3128",
            "auth.jwks_url",
        ),
        (
            "--auth-accept-bound-tokens",
            "maybe",
            "auth.accept_bound_tokens",
        ),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
            .args(["config", "check", flag, value])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() == Some(2) && said.contains(what),
            "{said}"
        );
    }
    // As they were given before there were lists of them.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
        .args(["config", "check"])
        .env("ONLINE_STATUS_AUTH_ISSUER", "us")
        .env("ONLINE_STATUS_AUTH_AUDIENCE", "presence")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    // So that a test of tokens that are refused does not pass without any that are not.
    let edge = Edge::start(&[]);
    assert_eq!(
        user(
            &edge,
            &signed(&json!({ "sub": "alice", "exp": now() + 60 }))
        ),
        ["alice"; 3]
    );
}
