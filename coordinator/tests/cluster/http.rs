//! The HTTP interface against its document: every answer is described, and every description is
//! an answer that is given.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use redis_store::testing::RedisServer;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    common::{Answer, Coordinator, Edge, PATIENCE, SECRET, admin, ask, read_answer, token, until},
    survey::answered,
};

type Described = BTreeSet<(String, String, u16)>;

/// (path, method, status) of the document.
fn described() -> Described {
    let document: Value =
        serde_json::from_str(include_str!("../../openapi.json")).expect("the document is JSON");
    assert_eq!(document["openapi"], "3.1.0");
    let mut all = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            for status in operation["responses"]
                .as_object()
                .expect("responses")
                .keys()
            {
                let status = status.parse().expect("a status");
                all.insert((path.clone(), method.to_uppercase(), status));
            }
        }
    }
    all
}

/// Asks, and notes what was answered.
struct Asker<'a> {
    coordinator: &'a Coordinator,
    seen: RefCell<Described>,
}

impl Asker<'_> {
    fn ask(
        &self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
        expected: u16,
    ) -> Answer {
        let answer = self.coordinator.ask(method, path, headers, body);
        assert_eq!(
            answer.status,
            expected,
            "{method} {path}: {}",
            answer.text()
        );
        if expected >= 400 && !path.starts_with("/readyz") {
            let problem = answer.json();
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json")
            );
            assert_eq!(
                (&problem["status"], &problem["type"]),
                (&expected.into(), &"about:blank".into())
            );
            assert!(problem["title"].is_string() && problem["detail"].is_string());
        }
        if expected == 503 && !path.starts_with("/readyz") {
            assert!(answer.header("retry-after").is_some(), "{path}");
        }
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let template = match path.split(['?', '/']).collect::<Vec<_>>()[..] {
            ["", "nodes", _, action] => format!("/nodes/{{id}}/{action}"),
            ["", first, ..] => format!("/{first}"),
            _ => panic!("{path}"),
        };
        self.seen
            .borrow_mut()
            .insert((template, method.to_owned(), expected));
        answer
    }
}

#[test]
fn every_answer_is_described_and_every_described_answer_is_given() {
    let redis = RedisServer::start();
    let flags = [
        "--coordinator-map-wait",
        "300ms",
        "--coordinator-max-waiters",
        "1",
        "--redis-response-timeout",
        "200ms",
        "--auth-watch-policy",
        "claim",
    ];
    let coordinator = Coordinator::start(&redis, "c1", &flags);
    let asker = Asker {
        coordinator: &coordinator,
        seen: RefCell::default(),
    };
    let (admin, user) = (admin(), token("bob", None));
    let none: [(&str, &str); 0] = [];
    let admin = [("authorization", admin.as_str())];
    let user = [("authorization", user.as_str())];
    let bad = [("authorization", "Bearer x.y.z")];

    asker.ask(("GET", "/route?userId=alice"), &none, b"", 503);
    asker.ask(("GET", "/map"), &none, b"", 503);
    asker.ask(("GET", "/readyz"), &none, b"", 503);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();

    asker.ask(("GET", "/route?userId=alice"), &none, b"", 200);
    for wrong in [
        "/route",
        "/route?userId=",
        "/route?userId=a&userId=b",
        "/route?userId=%00",
    ] {
        asker.ask(("GET", wrong), &none, b"", 400);
    }
    let long = format!("/route?userId={}", "x".repeat(257));
    asker.ask(("GET", &long), &none, b"", 400);
    let answer = asker.ask(("OPTIONS", "/route"), &none, b"", 204);
    assert_eq!(
        answer.header("access-control-allow-methods"),
        Some("GET, HEAD")
    );

    asker.ask(("GET", "/map"), &none, b"", 200);
    asker.ask(("GET", "/map?after=x"), &none, b"", 400);
    asker.ask(("GET", "/map?after=1&after=2"), &none, b"", 400);
    asker.ask(("GET", "/map?after=1000000"), &none, b"", 204);

    asker.ask(("GET", "/status?userId=alice"), &none, b"", 401);
    asker.ask(("GET", "/status?userId=alice"), &bad, b"", 401);
    asker.ask(("GET", "/status?userId=alice"), &user, b"", 403);
    asker.ask(("GET", "/status"), &user, b"", 400);
    asker.ask(("POST", "/status"), &none, b"{}", 401);
    asker.ask(("POST", "/status"), &user, br#"{"users":["alice"]}"#, 403);
    asker.ask(("POST", "/status"), &admin, br#"{"users":["alice"]}"#, 200);
    for wrong in [
        &b"{}"[..],
        b"nonsense",
        br#"{"users":[1]}"#,
        br#"{"users":[""]}"#,
    ] {
        asker.ask(("POST", "/status"), &admin, wrong, 400);
    }
    let many = serde_json::json!({ "users": vec!["x"; 1_001] }).to_string();
    asker.ask(("POST", "/status"), &admin, many.as_bytes(), 400);
    asker.ask(("POST", "/status"), &admin, &vec![b' '; 600 << 10], 413);

    asker.ask(("GET", "/nodes"), &none, b"", 200);
    asker.ask(("GET", "/history"), &none, b"", 401);
    asker.ask(("GET", "/history"), &user, b"", 403);
    asker.ask(("GET", "/history?after=x"), &admin, b"", 400);
    asker.ask(("GET", "/history?after=1&after=2"), &admin, b"", 400);
    let last = until("there is a sample", || {
        let told = asker.ask(("GET", "/history"), &admin, b"", 200).json();
        assert!(
            told["samples"]["sessions"]
                .as_array()
                .is_some_and(|all| all.iter().all(|of| of == 0))
        );
        told["samples"]["at"][0].as_u64()
    });
    let later = format!("/history?after={}", last + 3_600_000);
    let told = asker.ask(("GET", &later), &admin, b"", 200).json();
    assert_eq!(told["samples"]["at"], serde_json::json!([]));
    asker.ask(("GET", "/users?userId=alice"), &none, b"", 401);
    asker.ask(("GET", "/users?userId=alice"), &user, b"", 403);
    asker.ask(("GET", "/users"), &admin, b"", 400);
    let told = asker
        .ask(("GET", "/users?userId=alice"), &admin, b"", 200)
        .json();
    assert_eq!(
        (&told["node"], &told["record"]["status"]),
        (&"a".into(), &"offline".into())
    );
    for action in ["drain", "undrain"] {
        let known = format!("/nodes/a/{action}");
        asker.ask(("POST", &known), &admin, b"", 200);
        asker.ask(("POST", &known), &none, b"", 401);
        asker.ask(("POST", &known), &user, b"", 403);
        for unknown in ["b", "a%20b"] {
            let unknown = format!("/nodes/{unknown}/{action}");
            asker.ask(("POST", &unknown), &admin, b"", 404);
        }
    }
    let admins = |method, path, body: &str, answers: &[(&str, u16)]| {
        asker.ask((method, path), &none, body.as_bytes(), 401);
        asker.ask((method, path), &user, body.as_bytes(), 403);
        for (body, status) in answers {
            asker.ask((method, path), &admin, body.as_bytes(), *status);
        }
    };
    let of_all = ["/watchers?userId=alice", "/slow"];
    for path in of_all {
        let nobody = [("a", r#"{"total":0,"sessions":[]}"#)];
        answered(&redis, &nobody, || admins("GET", path, "", &[("", 200)]));
    }
    admins("GET", "/watchers", "", &[("", 400)]);
    let large = " ".repeat(600 << 10);
    let revoked = r#"{"user":"carol"}"#;
    // Issued before that.
    let carol = token("carol", None);
    admins(
        "POST",
        "/revocations",
        revoked,
        &[(revoked, 200), ("{}", 400), (&large, 413)],
    );
    let list = r#"{"users":["eve"]}"#;
    let blocks = "/blocks?userId=carol";
    admins(
        "PUT",
        blocks,
        list,
        &[(list, 200), ("[]", 400), (&large, 413)],
    );
    admins("GET", blocks, "", &[("", 200)]);
    admins("GET", "/blocks", "", &[("", 400)]);
    let group = "/groups?group=staff";
    admins(
        "PUT",
        group,
        list,
        &[(list, 200), ("[]", 400), (&large, 413)],
    );
    admins("GET", group, "", &[("", 200)]);
    admins("GET", "/groups", "", &[("", 400)]);
    let trace = "/trace?userId=carol";
    let minutes = r#"{"minutes":5}"#;
    admins(
        "PUT",
        trace,
        minutes,
        &[(minutes, 200), ("", 200), ("[]", 400), (&large, 413)],
    );
    admins("GET", trace, "", &[("", 200)]);
    admins("GET", "/trace?userId=a&userId=b", "", &[("", 400)]);
    let traced = |user: &str| {
        let named = format!("/trace?userId={user}");
        coordinator.ask("PUT", &named, &admin, b"").status
    };
    for user in ["t1", "t2", "t3", "t4"] {
        assert_eq!(traced(user), 200);
    }
    asker.ask(("PUT", "/trace?userId=t5"), &admin, b"", 409);
    // What was asked first is known.
    let revocations = coordinator.ask("GET", "/revocations", &admin, b"").json();
    assert_eq!(
        revocations["revocations"][0]["user"], "carol",
        "{revocations}"
    );
    let carol = [("authorization", carol.as_str())];
    asker.ask(("GET", "/status?userId=carol"), &carol, b"", 401);
    admins("GET", "/revocations", "", &[("", 200)]);
    let named = "/revocations?user=carol";
    admins("DELETE", named, "", &[("", 200), ("", 404)]);
    admins("DELETE", "/revocations", "", &[("", 400)]);
    admins("DELETE", blocks, "", &[("", 200)]);
    admins("DELETE", "/blocks", "", &[("", 400)]);
    admins("DELETE", trace, "", &[("", 200), ("", 404)]);
    admins("DELETE", "/trace", "", &[("", 400)]);
    admins("DELETE", group, "", &[("", 200)]);
    admins("DELETE", "/groups", "", &[("", 400)]);
    // In pieces, so that the store stands still for no longer than it may.
    let more = "for n = ARGV[1], ARGV[1] + 4999 do redis.call('HSET', KEYS[1], n, '{}') end";
    for from in (0..100_000).step_by(5_000) {
        let from = from.to_string();
        let _ = redis.cli(&["EVAL", more, "1", "os:{policy}:entries", &from]);
    }
    admins("POST", "/revocations", revoked, &[(revoked, 507)]);
    admins("PUT", blocks, list, &[(list, 507)]);
    admins("PUT", group, list, &[(list, 507)]);
    for path in of_all {
        admins("GET", path, "", &[("", 507)]);
    }
    asker.ask(("PUT", trace), &admin, b"", 507);
    let _ = redis.cli(&["DEL", "os:{policy}:entries"]);

    for path in [
        "/",
        "/console.js",
        "/console.css",
        "/uplot.js",
        "/uplot.css",
        "/healthz",
        "/readyz",
        "/metrics",
        "/version",
        "/openapi.json",
    ] {
        asker.ask(("GET", path), &none, b"", 200);
    }
    let answer = coordinator.ask("DELETE", "/status", &[], b"");
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET,HEAD,POST"))
    );
    assert_eq!(coordinator.get("/nothing").status, 404);
    let head = coordinator.ask("HEAD", "/route?userId=alice", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));

    // Whom the token's claim lists.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let claims = serde_json::json!({
        "sub": "bob", "exp": now.expect("after 1970").as_secs() + 60, "watch": ["team-*"],
    });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()).expect("a secret");
    let signed = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
    let bearer = format!("Bearer {}", signed.expect("a token"));
    let lead = [("authorization", bearer.as_str())];
    asker.ask(("GET", "/status?userId=team-7"), &lead, b"", 200);
    asker.ask(("GET", "/status?userId=carol"), &lead, b"", 403);

    // A store that hangs.
    let store = redis.process_id().expect("it runs").cast_signed();
    let store = Pid::from_raw(store).expect("a process");
    kill_process(store, Signal::STOP).expect("it runs");
    asker.ask(("GET", "/status?userId=team-7"), &lead, b"", 503);
    asker.ask(("POST", "/status"), &admin, br#"{"users":["alice"]}"#, 503);
    asker.ask(("GET", "/users?userId=alice"), &admin, b"", 503);
    asker.ask(("POST", "/nodes/a/drain"), &admin, b"", 503);
    asker.ask(("POST", "/nodes/a/undrain"), &admin, b"", 503);
    asker.ask(("POST", "/revocations"), &admin, revoked.as_bytes(), 503);
    asker.ask(("DELETE", named), &admin, b"", 503);
    asker.ask(("PUT", blocks), &admin, list.as_bytes(), 503);
    asker.ask(("DELETE", blocks), &admin, b"", 503);
    asker.ask(("PUT", group), &admin, list.as_bytes(), 503);
    asker.ask(("DELETE", group), &admin, b"", 503);
    asker.ask(("GET", trace), &admin, b"", 503);
    for path in of_all {
        asker.ask(("GET", path), &admin, b"", 503);
    }
    asker.ask(("PUT", "/trace?userId=t1"), &admin, b"", 503);
    asker.ask(("DELETE", trace), &admin, b"", 503);
    kill_process(store, Signal::CONT).expect("it runs");

    let (seen, described) = (asker.seen.into_inner(), described());
    let undescribed: Vec<_> = seen.difference(&described).collect();
    assert!(
        undescribed.is_empty(),
        "not in the document: {undescribed:?}"
    );
    let never: Vec<_> = described.difference(&seen).collect();
    assert!(never.is_empty(), "described and never given: {never:?}");
}

#[test]
fn pages_of_allowed_origins_alone_may_read_routes() {
    let redis = RedisServer::start();
    let flags = [
        "--coordinator-allowed-origins",
        "https://a.example,https://b.example",
    ];
    let coordinator = Coordinator::start(&redis, "c1", &flags);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let allowed = |origin: &str| {
        let answer = coordinator.ask("GET", "/route?userId=x", &[("origin", origin)], b"");
        assert_eq!(
            (answer.status, answer.header("vary")),
            (200, Some("origin"))
        );
        answer
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    assert_eq!(
        allowed("https://b.example").as_deref(),
        Some("https://b.example")
    );
    assert_eq!(allowed("https://c.example"), None);
    let status = coordinator.ask(
        "GET",
        "/status?userId=x",
        &[("origin", "https://a.example")],
        b"",
    );
    assert_eq!(status.header("access-control-allow-origin"), None);
    let everyone = Coordinator::start(&redis, "c2", &[]);
    everyone.ready();
    for (path, status) in [
        ("/route?userId=x", 200),
        ("/route", 400),
        ("/route?userId=%FF", 400),
        ("/route?userId=x&user=%C3", 400),
    ] {
        let answer = everyone.ask("GET", path, &[("origin", "https://c.example")], b"");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    }
}

#[test]
fn heads_connections_and_waiters_have_limits() {
    let redis = RedisServer::start();
    let flags = [
        "--coordinator-max-connections",
        "3",
        "--coordinator-max-waiters",
        "1",
        "--coordinator-header-timeout",
        "300ms",
    ];
    let coordinator = Coordinator::start(&redis, "c1", &flags);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let large = "x".repeat(20 << 10);
    assert_eq!(
        coordinator
            .ask("GET", "/healthz", &[("x", &large)], b"")
            .status,
        431
    );
    let many: Vec<(String, &str)> = (0..70).map(|n| (format!("x{n}"), "y")).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(coordinator.ask("GET", "/healthz", &many, b"").status, 431);

    // One that says nothing, and one that has been answered and says nothing more.
    let mut quiet = TcpStream::connect(coordinator.address).expect("a connection");
    quiet.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut idle = TcpStream::connect(coordinator.address).expect("a connection");
    idle.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    let started = Instant::now();
    assert_eq!(read_answer(&mut idle).status, 200);
    let mut nothing = Vec::new();
    let _ = std::io::Read::read_to_end(&mut quiet, &mut nothing);
    assert!(started.elapsed() < PATIENCE, "they are closed");

    // No map comes to this version, whether the first ones have all been made or not.
    let (address, path) = (coordinator.address, format!("/map?after={}", u64::MAX));
    let waiting = {
        let path = path.clone();
        std::thread::spawn(move || ask(address, "GET", &path, &[], b""))
    };
    until("one waits", || {
        (coordinator.metric("waiters", "") > 0.5).then_some(())
    });
    let refused = coordinator.get(&path);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, Some("5"))
    );
    assert!((coordinator.metric("waiters_refused_total", "") - 1.0).abs() < 0.1);

    // That one, and two more.
    let open = || TcpStream::connect(address).expect("a connection");
    let busy = until("it is full", || {
        let _held = [open(), open()];
        std::thread::sleep(Duration::from_millis(20));
        let mut third = open();
        third
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a timeout");
        let mut bytes = Vec::new();
        let _ = std::io::Read::read_to_end(&mut third, &mut bytes);
        bytes.starts_with(b"HTTP/1.1 503").then_some(bytes)
    });
    let busy = String::from_utf8(busy).expect("text");
    let (_, body) = busy.split_once("\r\n\r\n").expect("a head and a body");
    assert_eq!(body.len(), 100, "as its head says");
    let problem: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(problem["detail"], "too many connections");
    let counted = until("there is room again", || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).ok()?;
        let answer = read_answer(&mut stream);
        (answer.status == 200).then(|| answer.text())
    });
    assert!(counted.contains("online_status_coordinator_connections_refused_total"));
    drop(coordinator);
    let _ = waiting.join();
}

#[test]
fn health_checks_of_load_balancers_are_answered_in_their_own_forms() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    for target in ["/", "*", "/healthz", "/readyz", "/version"] {
        for rest in [
            "HTTP/1.0\r\n\r\n",
            "HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(coordinator.address).expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let request = format!("OPTIONS {target} {rest}");
            stream.write_all(request.as_bytes()).expect("it is read");
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer).expect("an end");
            assert!(answer.starts_with("HTTP/1."), "{request}: {answer}");
            assert!(answer[8..].starts_with(" 204 "), "{request}: {answer}");
            assert!(answer.contains("allow: GET,HEAD,OPTIONS\r\n"), "{answer}");
        }
    }
    assert_eq!(coordinator.ask("OPTIONS", "/nodes", &[], b"").status, 405);
}

#[test]
fn metrics_have_one_prefix_a_type_and_no_user() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    coordinator.json("/route?userId=somebody-special");
    let _ = coordinator.get("/somebody-special");
    let page = coordinator.get("/metrics").text();
    assert!(!page.contains("somebody"));
    let mut declared = BTreeSet::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(declared.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                name.strip_suffix(end)
                    .filter(|base| declared.contains(*base))
            });
            assert!(declared.contains(base.unwrap_or(name)), "{line}");
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(
        declared
            .iter()
            .all(|name| name.starts_with("online_status_coordinator_"))
    );
    assert!(declared.len() > 20);
    assert!((coordinator.metric("node_vnodes", "node=\"a\"") - 64.0).abs() < 0.1);
    assert!(coordinator.metric("http_responses_total", "path=\"/route\",status=\"200\"") > 0.5);
}

#[test]
fn a_refused_client_that_is_still_sending_reads_the_status_and_an_end_and_no_reset() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "a", &[]);
    let head = |headers: &str| format!("POST /revocations HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let bearer = format!("authorization: {}\r\n", admin());
    let long = "content-length: 1000000000\r\n";
    std::thread::scope(|scope| {
        for (head, status) in [
            (head(long), "401"),
            (head(&format!("{bearer}{long}")), "413"),
            ("GET / HTTP/1.1\r\nx: ".into(), "431"),
        ] {
            let address = coordinator.address;
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                stream.write_all(head.as_bytes()).expect("it is read");
                let block = [b'x'; 64 << 10];
                for _ in 0..256 {
                    stream.write_all(&block).expect("the server reads on");
                }
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).expect("an end, no reset");
                let answer = String::from_utf8_lossy(&answer);
                let expected = format!("HTTP/1.1 {status} ");
                assert!(answer.starts_with(&expected), "{status}: {answer}");
                // It does not read for ever.
                let began = Instant::now();
                while stream.write_all(&block).is_ok() {
                    assert!(began.elapsed() < PATIENCE, "{status}");
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
}
