//! Plain requests: presence by HTTP, health, metrics.

use serde_json::{Value, json};

use crate::common::{Edge, bearer, now, request, response, signed, token};

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
fn a_body_is_read_of_those_who_may_and_with_its_length() {
    let edge = Edge::start(&[]);
    let admin = signed(&json!({ "sub": "ops", "exp": now() + 60, "scope": "presence:admin" }));
    let head = |token: &str, more: &str| {
        format!(
            "POST /status HTTP/1.1\r\nhost: x\r\n{}{more}\r\n",
            bearer(token)
        )
    };
    // Refused before the body comes, which it never does.
    let length = "content-length: 100000\r\n";
    assert_eq!(request(edge.address, &head(&token("bob"), length)).0, 403);
    let nobody = format!("POST /status HTTP/1.1\r\nhost: x\r\n{length}\r\n");
    assert_eq!(request(edge.address, &nobody).0, 401);
    assert_eq!(request(edge.address, &head(&admin, "")).0, 411);
    let chunked = head(&admin, "transfer-encoding: chunked\r\n");
    assert_eq!(request(edge.address, &chunked).0, 411);
    let huge = head(&admin, "content-length: 10000000\r\n");
    assert_eq!(request(edge.address, &huge).0, 413);
    // As long as 1,000 names can make it.
    let users: Vec<String> = (0..1_000).map(|n| format!("{n:0>256}")).collect();
    let escaped: String = users
        .join("")
        .chars()
        .map(|digit| format!("\\u{:04x}", u32::from(digit)))
        .collect();
    let escaped: Vec<&str> = (0..1_000)
        .map(|n| &escaped[n * 256 * 6..(n + 1) * 256 * 6])
        .collect();
    let body = format!("{{\"users\":[\"{}\"]}}", escaped.join("\",\""));
    let (status, all) = post(&edge, &body, &admin);
    assert_eq!(
        (status, all["users"].as_array().map(Vec::len)),
        (200, Some(1_000))
    );
}

#[test]
fn health_checks_of_load_balancers_are_answered_in_their_own_forms() {
    let edge = Edge::start(&[]);
    let own_host = format!("host: {}", edge.address);
    for address in [edge.address, edge.admin] {
        for target in [
            "/",
            "*",
            "/healthz",
            "/readyz",
            "/version",
            "http://x",
            "http://x/",
        ] {
            for rest in ["HTTP/1.0\r\n\r\n", "HTTP/1.1\r\nhost: x\r\n\r\n"] {
                let (head, body) = response(address, &format!("OPTIONS {target} {rest}"));
                assert!(head.starts_with("http/1.1 204 "), "{target} {rest}: {head}");
                assert!(head.contains("\r\nallow: get, head, options\r\n"), "{head}");
                assert!(
                    !head.contains("content-length") && body.is_empty(),
                    "{head}"
                );
            }
        }
        for host in [
            "host: ",
            "host: 10.0.0.1:1",
            "host: [::1]",
            "host: a_b.c",
            &own_host,
        ] {
            for method in ["GET", "HEAD"] {
                let text =
                    format!("{method} /readyz HTTP/1.1\r\n{host}\r\nconnection: close\r\n\r\n");
                let head = first_line(address, &text);
                assert!(head.starts_with("HTTP/1.1 200 "), "{text}: {head}");
            }
        }
        for text in [
            "GET /readyz HTTP/1.0\r\n\r\n",
            "HEAD /healthz HTTP/1.0\r\n\r\n",
        ] {
            let head = first_line(address, text);
            assert!(head.starts_with("HTTP/1.1 200 "), "{text}: {head}");
        }
        assert_eq!(request(address, "OPTIONS /nothing HTTP/1.0\r\n\r\n").0, 404);
    }
}

/// The first line of an answer that may have a length and no body.
fn first_line(address: std::net::SocketAddr, text: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    stream.write_all(text.as_bytes()).expect("it is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an end");
    answer.lines().next().expect("an answer").to_owned()
}

#[test]
fn a_socket_may_be_asked_for_by_its_whole_url() {
    let edge = Edge::start(&[]);
    for scheme in ["ws", "wss", "http", "https", "WSS"] {
        let text = crate::common::upgrade(&bearer(&token("alice")));
        let text = text.replace(
            "GET /socket",
            &format!("GET {scheme}://chat.example:1/socket"),
        );
        assert_eq!(request(edge.address, &text).0, 101, "{text}");
    }
    let other = crate::common::upgrade("").replace("GET /socket", "GET ftp://x/socket");
    assert_eq!(request(edge.address, &other).0, 404);
}

#[test]
fn a_client_that_waits_for_100_gets_it() {
    use std::io::{Read, Write};
    let edge = Edge::start_with(&[]);
    let mut stream = std::net::TcpStream::connect(edge.address).expect("a connection");
    let body = r#"{"users":["a"]}"#;
    let length = body.len();
    let head = format!(
        "POST /status HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is read");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).expect("an answer");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).expect("it is read");
    let (head, body) = crate::common::read_response(&mut stream);
    assert!(head.starts_with("http/1.1 200"), "{head}{body}");
}

#[test]
fn pages_of_allowed_origins_may_read_answers() {
    let ask = |edge: &Edge, method: &str, origin: &str| {
        let text = format!(
            "{method} /route?userId=a HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\n\
             connection: close\r\n\r\n"
        );
        response(edge.address, &text).0
    };
    let open = Edge::start(&[]);
    for method in ["GET", "OPTIONS"] {
        let head = ask(&open, method, "https://any.example");
        assert!(
            head.contains("access-control-allow-origin: *\r\n"),
            "{head}"
        );
    }
    let head = ask(&open, "OPTIONS", "https://any.example");
    assert!(head.starts_with("http/1.1 204 "), "{head}");
    assert!(
        head.contains("access-control-allow-headers: authorization, content-type\r\n"),
        "{head}"
    );
    let listed = Edge::start(&["--server-origins", "https://a.example,https://b.example"]);
    let head = ask(&listed, "GET", "https://b.example");
    assert!(
        head.contains("access-control-allow-origin: https://b.example\r\n"),
        "{head}"
    );
    let below = Edge::start(&["--server-origins", "https://*.example.com"]);
    let head = ask(&below, "GET", "https://a.example.com");
    assert!(
        head.contains("access-control-allow-origin: https://a.example.com\r\n"),
        "{head}"
    );
    for evil in [
        "https://example.com.evil.example",
        "https://aexample.com",
        "null",
    ] {
        let head = ask(&below, "GET", evil);
        assert!(!head.contains("access-control-allow-origin"), "{head}");
    }
    let head = ask(&listed, "GET", "https://evil.example");
    assert!(!head.contains("access-control-allow-origin"), "{head}");
    // A page whose WebSockets are refused may look whether the node is alive.
    for (origin, allowed) in [("https://b.example", true), ("https://evil.example", false)] {
        let text = format!("GET /healthz HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\n\r\n");
        let (head, body) = response(listed.address, &text);
        assert_eq!(body, "ok\n");
        assert_eq!(
            head.contains(&format!("access-control-allow-origin: {origin}\r\n")),
            allowed,
            "{head}"
        );
    }
    let (status, client) = open.get("/client.js");
    assert_eq!(status, 200);
    assert!(client.contains("online-status.v1.json"), "{client}");
    // Not even a refusal is kept from the page.
    let text = "GET /status?userId=a HTTP/1.1\r\nhost: x\r\n\r\n";
    let (head, _) = response(open.address, text);
    assert!(head.starts_with("http/1.1 401 "), "{head}");
    assert!(
        head.contains("access-control-allow-origin: *\r\n"),
        "{head}"
    );
    // The tokens of the live page are its own.
    let demo = Edge::start_with(&[]);
    let text = "GET /demo/token?user=a HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\n\r\n";
    let (head, _) = response(demo.address, text);
    assert!(!head.contains("access-control"), "{head}");
}

#[test]
fn heads_and_other_methods_are_answered_as_http_has_it() {
    use std::io::{Read, Write};
    let edge = Edge::start(&[]);
    for address in [edge.address, edge.admin] {
        let mut stream = std::net::TcpStream::connect(address).expect("a connection");
        let head = "HEAD /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("it is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an end");
        let length = answer
            .to_ascii_lowercase()
            .contains("content-length: 3\r\n");
        assert!(length && answer.ends_with("\r\n\r\n"), "{answer}");
        assert!(
            answer.contains("date: ") && answer.contains(" GMT\r\n"),
            "{answer}"
        );
        for method in ["POST", "PUT", "DELETE", "FOO"] {
            let text = format!("{method} /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
            let (head, _) = response(address, &text);
            assert!(head.starts_with("http/1.1 405 "), "{head}");
            assert!(head.contains("allow: get, head, options\r\n"), "{head}");
        }
    }
    let cases = [
        ("GET http://x/healthz HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\nx: \u{e9}\r\n\r\n", 200),
        ("GET /healthz HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        ("GET /route?userId=%FF HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", 400),
    ];
    for (text, status) in cases {
        assert_eq!(request(edge.address, text).0, status, "{text}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(9_000));
    assert_eq!(request(edge.address, &long).0, 414);
}

#[test]
fn the_admin_address_serves_many_at_a_time() {
    let edge = Edge::start(&[]);
    let silent: Vec<_> = (0..30)
        .map(|_| std::net::TcpStream::connect(edge.admin).expect("a connection"))
        .collect();
    let started = std::time::Instant::now();
    assert_eq!(edge.get_admin("/healthz").0, 200);
    // The silent ones may each take two seconds: a minute, one after the other.
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
    drop(silent);
}

#[test]
fn the_admin_address_answers_who_asked_while_the_process_stood_still() {
    let edge = Edge::start(&[]);
    let mut stream = std::net::TcpStream::connect(edge.admin).expect("a connection");
    // It is being read from by then.
    edge.get_admin("/readyz");
    edge.signal(rustix::process::Signal::STOP);
    std::io::Write::write_all(&mut stream, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    std::thread::sleep(std::time::Duration::from_millis(2_300));
    edge.signal(rustix::process::Signal::CONT);
    let (head, _) = crate::common::read_response(&mut stream);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
}

#[test]
fn a_connection_that_asks_for_nothing_is_closed_without_a_word() {
    use std::io::{Read, Write};
    let edge = Edge::start(&["--server-upgrade-timeout", "300ms"]);
    let mut stream = std::net::TcpStream::connect(edge.address).expect("a connection");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end");
    assert!(answer.is_empty());
    let mut stream = std::net::TcpStream::connect(edge.address).expect("a connection");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    stream.read_to_end(&mut answer).expect("an end");
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
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
fn an_edge_on_every_address_is_where_it_was_asked() {
    let edge = Edge::start_everywhere(&[]);
    let route = |host: &str| {
        let text = format!("GET /route?userId=a HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let (_, body) = request(edge.address, &text);
        let route: Value = serde_json::from_str(&body).expect("JSON");
        route["address"].as_str().expect("an address").to_owned()
    };
    assert_eq!(route("chat.example:8080"), "ws://chat.example:8080/socket");
    let port = edge.address.port();
    for odd in ["", "a%20b", "a;b", "$a"] {
        assert_eq!(route(odd), format!("ws://[::]:{port}/socket"), "{odd}");
    }
}

#[test]
fn health_is_on_both_addresses_and_metrics_are_for_clients_only_where_that_is_wanted() {
    let closed = Edge::start(&[]);
    assert_eq!(closed.get_admin("/metrics").0, 200);
    for method in ["GET", "OPTIONS", "POST"] {
        let text = format!("{method} /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
        let (head, _) = response(closed.address, &text);
        assert!(head.starts_with("http/1.1 404 "), "{head}");
    }
    let edge = Edge::start(&["--server-public-metrics", "true"]);
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
