//! Plain requests: presence by HTTP, health, metrics.

use serde_json::{Value, json};

use crate::common::{Edge, bearer, now, request, signed, token};

fn get(edge: &Edge, path: &str, token: &str) -> (u16, Value) {
    let text = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{}\r\n", bearer(token));
    let (status, body) = request(edge.address, &text);
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn post(edge: &Edge, body: &str, token: &str) -> (u16, Value) {
    let length = body.len();
    let token = bearer(token);
    let text =
        format!("POST /status HTTP/1.1\r\nhost: x\r\n{token}content-length: {length}\r\n\r\n");
    let (status, body) = request(edge.address, &format!("{text}{body}"));
    (status, serde_json::from_str(&body).expect("JSON"))
}

#[test]
fn one_status_and_many() {
    let edge = Edge::start(&[]);
    let _alice = edge.user("alice");
    let (status, record) = get(&edge, "/status?userId=alice", &token("bob"));
    assert_eq!(
        (status, &record["status"]),
        (200, &json!("online")),
        "{record}"
    );
    let (_, never) = get(&edge, "/status?userId=z%C3%B6e", &token("bob"));
    assert_eq!(
        (&never["user"], &never["status"]),
        (&json!("zöe"), &json!("offline"))
    );
    assert_eq!(get(&edge, "/status", &token("bob")).0, 400);
    assert_eq!(edge.get("/status?userId=alice").0, 401);
    let admin = signed(&json!({ "sub": "ops", "exp": now() + 60, "scope": "x presence:admin" }));
    let (status, all) = post(&edge, r#"{"users":["alice","bob"]}"#, &admin);
    assert_eq!(status, 200, "{all}");
    assert_eq!(all["users"].as_array().map(Vec::len), Some(2), "{all}");
    assert_eq!(post(&edge, r#"{"users":["alice"]}"#, &token("bob")).0, 403);
    assert_eq!(post(&edge, r#"{"users":5}"#, &admin).0, 400);
    assert_eq!(post(&edge, "{", &admin).0, 400);
    let many: Vec<String> = (0..1_000).map(|n| format!("user-{n}")).collect();
    let (status, all) = post(&edge, &json!({ "users": many }).to_string(), &admin);
    assert_eq!(
        (status, all["users"].as_array().map(Vec::len)),
        (200, Some(1_000))
    );
    let many: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    let status = post(&edge, &json!({ "users": many }).to_string(), &admin).0;
    assert!([400, 413].contains(&status), "{status}");
}

#[test]
fn a_route_is_an_address_that_works() {
    let edge = Edge::start(&[]);
    let (status, body) = edge.get("/route?userId=alice");
    let route: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 200);
    assert_eq!(
        route["address"],
        json!(format!("ws://{}/socket", edge.address))
    );
    assert_eq!(route["userId"], "alice");
    assert!(route["vnode"].as_u64().is_some_and(|vnode| vnode < 4_096));
    assert!(route["epoch"].is_u64() && route["mapVersion"].is_u64() && route["node"].is_string());
    for bad in ["/route", "/route?userId=", "/route?userId=%07"] {
        let (status, body) = edge.get(bad);
        let problem: Value = serde_json::from_str(&body).expect("problem+json");
        assert_eq!((status, &problem["status"]), (400, &json!(400)), "{bad}");
    }
}

#[test]
fn health_and_metrics_are_on_both_addresses() {
    let edge = Edge::start(&[]);
    let _alice = edge.user("alice");
    for get in [Edge::get, Edge::get_admin] {
        assert_eq!(get(&edge, "/healthz").0, 200);
        assert_eq!(get(&edge, "/readyz").0, 200);
        assert_eq!(get(&edge, "/nothing").0, 404);
        let (status, page) = get(&edge, "/metrics");
        assert_eq!(status, 200);
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("online_status_"), "{line}");
            assert!(!line.contains("alice"), "no user in a label: {line}");
            let value = line.rsplit_once(' ').expect("a value").1;
            value.parse::<f64>().expect("a number");
        }
        assert!(page.contains("online_status_handshake_seconds_bucket"));
    }
    edge.until_metric("online_status_sessions", "", 1.0);
    let (status, body) = edge.get("/version");
    assert_eq!(status, 200);
    assert!(body.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_a_secret_there_are_demo_tokens_and_with_one_there_are_none() {
    let edge = Edge::start(&[]);
    assert_eq!(edge.get("/demo/token?user=alice").0, 404);
    let open = Edge::start_with(&[]);
    assert_eq!(open.get("/").0, 200);
    assert_eq!(open.get("/demo/token?user=alice").0, 200);
}

#[test]
fn requests_may_follow_each_other_on_a_connection() {
    use std::io::{Read, Write};
    let edge = Edge::start(&[]);
    let mut stream = std::net::TcpStream::connect(edge.address).expect("a connection");
    let one = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream
        .write_all(format!("{one}{one}{last}").as_bytes())
        .expect("it is read");
    let mut answers = String::new();
    stream
        .read_to_string(&mut answers)
        .expect("three answers and an end");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
}
