//! The process: its command line, its start and its end.

use std::{process::Command, time::Instant};

use redis_store::testing::RedisServer;
use rustix::process::Signal;

use crate::common::{Coordinator, Edge, PATIENCE, SECRET, admin, ask, command, until};

#[test]
fn told_to_stop_it_finishes_requests_gives_the_leadership_back_and_ends_with_0() {
    let redis = RedisServer::start();
    let mut coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    until("it leads", || coordinator.leads().then_some(()));
    let version = coordinator.map_version();
    let address = coordinator.address;
    let waiting =
        std::thread::spawn(move || ask(address, "GET", &format!("/map?after={version}"), &[], b""));
    until("it waits", || {
        (coordinator.metric("waiters", "") > 0.5).then_some(())
    });
    let told = Instant::now();
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.wait(), Some(0));
    assert!(told.elapsed() < PATIENCE);
    assert_eq!(waiting.join().expect("no panic").status, 204);
    assert_eq!(redis.cli(&["get", "os:leader"]).trim(), "");
    let last = coordinator.log();
    let last = last.lines().last().expect("a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&last["event"], &last["level"]),
        (&"stopped".into(), &"INFO".into())
    );
}

#[test]
fn told_to_stop_it_is_not_ready_and_does_not_lead_but_answers_on_until_balancers_have_noticed() {
    let redis = RedisServer::start();
    let delay = ["--coordinator-shutdown-delay", "2s"];
    let mut coordinator = Coordinator::start(&redis, "c1", &delay);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    until("it leads", || coordinator.leads().then_some(()));
    coordinator.signal(Signal::TERM);
    until("it is not ready", || {
        (coordinator.get("/readyz").status == 503).then_some(())
    });
    until("another one may lead", || {
        (redis.cli(&["get", "os:leader"]).trim() == "").then_some(())
    });
    assert_eq!(coordinator.get("/route?userId=bob").status, 200);
    assert_eq!(coordinator.get("/healthz").status, 200);
    assert_eq!(coordinator.wait(), Some(0));
}

#[test]
fn a_signal_that_is_sent_twice_is_one_and_a_later_one_ends_it_at_once() {
    let redis = RedisServer::start();
    let delay = ["--coordinator-shutdown-delay", "10m"];
    let mut coordinator = Coordinator::start(&redis, "c1", &delay);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let at_once = |log: &str| log.contains("\"event\":\"stopped_at_once\"");
    coordinator.signal(Signal::STOP);
    coordinator.signal(Signal::TERM);
    coordinator.signal(Signal::INT);
    coordinator.signal(Signal::CONT);
    until("it is not ready", || {
        (coordinator.get("/readyz").status == 503).then_some(())
    });
    // Sooner, it would be the same word.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let log = coordinator.log();
    assert!(!at_once(&log), "{log}");
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.wait(), Some(0));
    let log = coordinator.log();
    assert!(at_once(&log), "{log}");
}

#[test]
fn a_coordinator_whose_output_nobody_reads_goes_on() {
    let redis = RedisServer::start();
    let mut coordinator = Coordinator::start_unheard(&redis, "c1");
    let edge = Edge::start(&redis, "a");
    // It has said that it leads, and which map is in force.
    coordinator.ready();
    drop(edge);
    // An unreadable lease is an error to name.
    assert_eq!(redis.cli(&["sadd", "os:nodes", "b"]).trim(), "1");
    assert_eq!(redis.cli(&["set", "os:node:b", "nonsense"]).trim(), "OK");
    until("it has named the problem", || {
        (coordinator.metric("problems", "lease") > 0.5).then_some(())
    });
    assert_eq!(coordinator.get("/readyz").status, 200);
    coordinator.signal(Signal::TERM);
    assert_eq!(coordinator.wait(), Some(0));
}

#[test]
fn it_ends_in_time_when_the_store_does_not_answer() {
    let redis = RedisServer::start();
    let mut coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let store = redis.process_id().expect("it runs");
    let store = rustix::process::Pid::from_raw(store.cast_signed()).expect("a process");
    rustix::process::kill_process(store, Signal::STOP).expect("it runs");
    coordinator.signal(Signal::TERM);
    let code = coordinator.wait();
    rustix::process::kill_process(store, Signal::CONT).expect("it runs");
    assert_eq!(code, Some(0));
}

#[test]
fn without_a_secret_it_needs_no_token_and_listens_on_loopback_only() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start_with(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    assert_eq!(coordinator.get("/status?userId=bob").status, 200);
    let drained = coordinator.ask("POST", "/nodes/a/drain", &[], b"");
    assert_eq!(drained.status, 200);
    let own = format!("http://{}", coordinator.address);
    let undrained = coordinator.ask("POST", "/nodes/a/undrain", &[("origin", &own)], b"");
    assert_eq!(undrained.status, 200);
    for origin in ["https://evil.example", "null"] {
        let answer = coordinator.ask("POST", "/nodes/a/drain", &[("origin", origin)], b"");
        assert_eq!(answer.status, 403, "{origin}");
    }
    let output = command()
        .args(["run", "--listen", "0.0.0.0:0", "--redis-url", &redis.url()])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("set JWT_SECRET"), "{error}");
}

#[test]
fn on_sighup_it_reads_its_token_keys_again() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let redis = RedisServer::start();
    let keys = |secret: &str| {
        let secret = URL_SAFE_NO_PAD.encode(secret);
        format!(r#"{{"keys":[{{"kty":"oct","kid":"k","alg":"HS256","k":"{secret}"}}]}}"#)
    };
    let file = redis.directory().join("keys.json");
    let name = file.to_str().expect("UTF-8").to_owned();
    std::fs::write(&file, keys("another secret, that is long enough for HS256")).expect("a file");
    let coordinator = Coordinator::start_with(&redis, "c1", &["--auth-jwks-file", &name]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let auth = admin();
    let status = || {
        let auth = [("authorization", auth.as_str())];
        coordinator
            .ask("GET", "/status?userId=bob", &auth, b"")
            .status
    };
    assert_eq!(status(), 401);
    assert_eq!(
        coordinator.get("/status?userId=bob").status,
        401,
        "no development secret"
    );
    assert!(coordinator.metric("bad_tokens_total", "signature") > 0.5);
    std::fs::write(&file, "nonsense").expect("a file");
    coordinator.signal(Signal::HUP);
    until("it complains", || {
        coordinator
            .log()
            .contains("the old keys for tokens stay")
            .then_some(())
    });
    std::fs::write(&file, keys(SECRET)).expect("a file");
    coordinator.signal(Signal::HUP);
    until("the new keys hold", || (status() == 200).then_some(()));
}

#[test]
fn without_the_keys_that_it_is_to_fetch_it_is_not_ready_and_asks_again() {
    use std::io::{Read, Write};
    let redis = RedisServer::start();
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = probe.local_addr().expect("an address");
    drop(probe);
    let url = format!("http://{address}/");
    let flags = ["--auth-algorithms", "EdDSA", "--auth-jwks-url", &url];
    let coordinator = Coordinator::start_with(&redis, "c1", &flags);
    let _a = Edge::start(&redis, "a");
    until("it has asked", || {
        (coordinator.metric("jwks_fetches_total", "failed") > 0.5).then_some(())
    });
    until("it knows where users connect", || {
        (coordinator.get("/route?userId=bob").status == 200).then_some(())
    });
    assert_eq!(coordinator.get("/readyz").status, 503);
    let token = [("authorization", "Bearer a.b.c")];
    let asked = coordinator.ask("GET", "/status?userId=bob", &token, b"");
    assert_eq!(asked.status, 503, "nobody is told that its token is bad");
    let listener = std::net::TcpListener::bind(address).expect("the port is still free");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let asked = stream.read(&mut [0; 1_024]).expect("a request");
            assert!(asked > 0);
            // The key of RFC 8037, appendix A.2.
            let set = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
            let length = set.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            stream
                .write_all((head + set).as_bytes())
                .expect("it is read");
        }
    });
    coordinator.ready();
    assert!(coordinator.metric("jwks_keys", "") > 0.5);
    let asked = coordinator.ask("GET", "/status?userId=bob", &token, b"");
    assert_eq!(asked.status, 401);
}

#[test]
fn the_first_request_with_a_new_key_waits_for_it_and_is_answered() {
    use std::{
        io::{Read, Write},
        sync::{Arc, Mutex},
    };
    // The key of RFC 8037, appendix A.1.
    let private = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v_VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
    let private = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE, private);
    let key = jsonwebtoken::EncodingKey::from_ed_der(&private.expect("base64"));
    let token = |kid: &str, head: jsonwebtoken::Header| {
        let head = jsonwebtoken::Header {
            kid: Some(kid.into()),
            ..head
        };
        let now = jsonwebtoken::get_current_timestamp();
        let claims = serde_json::json!({
            "sub": "ops", "exp": now + 60, "iss": "https://b.example", "client_id": "app",
            "scp": ["presence:admin"], "scope": null,
        });
        let token = jsonwebtoken::encode(&head, &claims, &key).expect("a token");
        format!("Bearer {token}")
    };
    let set = |kid: &str| {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","alg":"Ed25519","kid":"{kid}","x":"{x}"}}]}}"#
        )
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let served = Arc::new(Mutex::new(set("old")));
    let serves = Arc::clone(&served);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let asked = stream.read(&mut [0; 1_024]).expect("a request");
            assert!(asked > 0);
            let body = serves.lock().expect("no panic").clone();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            // The coordinator may have ended meanwhile.
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    let redis = RedisServer::start();
    let flags = [
        "--auth-algorithms",
        "Ed25519",
        "--auth-jwks-url",
        &url,
        "--auth-issuer",
        "https://a.example,https://b.example",
        "--auth-audience",
        "app",
        "--auth-audience-claims",
        "aud,client_id",
    ];
    let coordinator = Coordinator::start_with(&redis, "c1", &flags);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let ask = |bearer: &str| {
        let head = [("authorization", bearer)];
        coordinator.ask("POST", "/status", &head, br#"{"users":["bob"]}"#)
    };
    let eddsa = || jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    assert_eq!(ask(&token("old", eddsa())).status, 200);
    *served.lock().expect("no panic") = set("new");
    assert_eq!(ask(&token("new", eddsa())).status, 200);
    assert!(coordinator.metric("jwks_waits_total", "let_in") > 0.5);
    let gone = ask(&token("old", eddsa()));
    assert_eq!(gone.status, 401);
    let logout = jsonwebtoken::Header {
        typ: Some("logout+jwt".into()),
        ..eddsa()
    };
    let refused = ask(&token("new", logout));
    assert_eq!(refused.status, 401);
    assert!(String::from_utf8_lossy(&refused.body).contains("auth.token_types"));
}

#[test]
fn every_mistake_names_the_program_its_place_its_value_and_what_to_do() {
    let folder = std::env::temp_dir().join(format!("coordinator-mistakes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(
        folder.join("c.toml"),
        "[coordinator]\npoll = \"1ms\"\nlisten = \"::1:8090\"\npol = \"1s\"\n[auth]\nsecret = \"hunter2\"\n",
    )
    .expect("a file");
    let redis = ["--redis-url", "redis://h"];
    let cases = [
        (
            2,
            &[][..],
            &[
                "redis.url (REDIS_URL) is not set",
                "REDIS_URL=redis://127.0.0.1:6379",
            ][..],
        ),
        (
            2,
            &["--config", "none.toml"],
            &["--config none.toml: No such file", "config default"],
        ),
        (
            2,
            &["--config", "c.toml"],
            &[
                "c.toml, line 4: there is no setting coordinator.pol (did you mean coordinator.poll?)",
                "coordinator.listen = \"::1:8090\" (c.toml, line 3)",
                "as [::1]:8090",
            ],
        ),
        (
            2,
            &["--coordinator-poll", "1ms"],
            &[
                "coordinator.poll = 1ms: allowed are 50ms to 10s",
                "comes from --coordinator-poll",
            ],
        ),
        (
            2,
            &["--cluster-lease-ttl", "1s", "--coordinator-poll", "1s"],
            &[
                "coordinator.poll must be at most a third of cluster.lease_ttl",
                "cluster.lease_ttl = \"1s\" comes from --cluster-lease-ttl",
            ],
        ),
        (
            2,
            &["--auth-jwks-file", "none"],
            &["auth.jwks_file = \"none\": No such file"],
        ),
        (
            1,
            &["--listen", "192.0.2.1:8090", redis[0], redis[1]],
            &[
                "coordinator.listen = 192.0.2.1:8090: cannot listen there",
                "`ip address`",
            ],
        ),
        (
            1,
            &["--listen", "0.0.0.0:0", redis[0], redis[1]],
            &[
                "coordinator.listen = 0.0.0.0:0 is not a loopback address",
                "set JWT_SECRET",
            ],
        ),
    ];
    let commands = [&["run"][..], &["config", "check"]];
    for (words, (code, flags, parts)) in
        (commands.into_iter()).flat_map(|words| cases.map(|case| (words, case)))
    {
        let mut command = command();
        if code == 1 && flags[1].starts_with("192") {
            command.env("JWT_SECRET", SECRET);
        }
        let output = command
            .current_dir(&folder)
            .args(words)
            .args(flags)
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(
            error.starts_with("error: online-status-coordinator: "),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "a secret: {error}");
        for part in parts {
            assert!(error.contains(part), "without {part:?}: {error}");
        }
    }
    for words in ["run", "config check"] {
        let line = format!("ulimit -n 64; exec \"$0\" {words} --listen 127.0.0.1:0 \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_online-status-coordinator")])
            .args(redis)
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the limit of open files is 64"), "{error}");
    }
    std::fs::remove_dir_all(&folder).expect("it was made");
}

#[test]
fn an_address_that_another_process_has_is_waited_for_and_then_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let started = Instant::now();
    let output = command()
        .args([
            "run",
            "--redis-url",
            "redis://127.0.0.1:1",
            "--listen",
            &address,
        ])
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let name = format!("coordinator.listen = {address}");
    assert_eq!(
        error
            .matches(&format!("{name} is in use, waiting up to 5 s for it"))
            .count(),
        1,
        "{error}"
    );
    assert!(
        error.contains(&format!(
            "error: online-status-coordinator: {name}: cannot listen there"
        )),
        "{error}"
    );
    assert!(started.elapsed() >= std::time::Duration::from_secs(5));
}

#[test]
fn service_links_of_kubernetes_are_passed_over_with_a_line_that_says_so() {
    let mut check = command();
    check
        .args(["config", "check", "--redis-url", "redis://h"])
        .env("ONLINE_STATUS_COORDINATOR_PORT", "tcp://10.96.0.7:8090");
    let output = check.output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("1 variable is passed over, Kubernetes made it"),
        "{error}"
    );
    let output = check
        .env("ONLINE_STATUS_REDIS_SERVICE_HOST", "10.96.0.8")
        .env("ONLINE_STATUS_PORT_8080_TCP_ADDR", "10.96.0.9")
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.starts_with("online-status-coordinator: 3 variables")
            && error.contains("enableServiceLinks: false"),
        "{error}"
    );
}

#[test]
fn mistakes_in_the_configuration_are_named_and_end_it_with_2() {
    let output = command()
        .args(["config", "check", "--cluster-vnodes", "100"])
        .env("ONLINE_STATUS_REBALANCE_PENALTI", "1s")
        .env("JWT_SECRET", "short")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("did you mean ONLINE_STATUS_REBALANCE_PENALTY?"),
        "{error}"
    );
    let output = command()
        .args(["config", "check", "--cluster-vnodes", "100"])
        .env("JWT_SECRET", "short")
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("100 is not a count of vnodes"), "{error}");
    assert!(
        error.contains("auth.secret (JWT_SECRET) has 5 bytes"),
        "{error}"
    );
    let output = command()
        .args(["run", "--redis-url", "http://127.0.0.1"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("REDIS_URL") && error.contains("redis://"),
        "{error}"
    );
    let output = command()
        .args(["config", "check", "--redis-url", "redis://:hunter2@h"])
        .output()
        .expect("it runs");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        shown.contains("url = \"(set)\"") && !shown.contains("hunter2"),
        "{shown}"
    );
}
