//! Starts, stops, kills, and what is kept over them.

use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::json;

use crate::common::{Client, Edge, Folder, SECRET, bearer, moment, token};

fn edge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
        .args(arguments)
        .env_remove("JWT_SECRET")
        .output()
        .expect("the edge runs")
}

#[test]
fn sigterm_closes_every_session_with_1001() {
    let mut edge = Edge::start(&["--server-drain-rate", "50"]);
    let mut clients: Vec<Client> = (0..30).map(|n| edge.user(&format!("user-{n}"))).collect();
    edge.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.closed(), 1001);
    }
    assert_eq!(edge.wait(), Some(0));
}

#[test]
fn a_signal_that_is_sent_twice_is_one_and_a_later_one_ends_it_at_once() {
    let folder = Folder::new();
    let log = folder.0.join("log");
    for (rate, is_later) in [("5000", false), ("1", true)] {
        let flags = ["--auth-secret", SECRET, "--server-drain-timeout", "10m"];
        let rate = ["--server-drain-rate", rate, "--log-format", "json"];
        let mut edge = Edge::start_logged(&log, &[flags, rate].concat());
        let _sessions: Vec<Client> = (0..600).map(|n| edge.user(&n.to_string())).collect();
        edge.signal(Signal::STOP);
        edge.signal(Signal::TERM);
        edge.signal(Signal::INT);
        edge.signal(Signal::CONT);
        if is_later {
            edge.until("it drains", |edge| edge.get_admin("/readyz").0 == 503);
            std::thread::sleep(std::time::Duration::from_millis(300));
            edge.signal(Signal::TERM);
        }
        assert_eq!(edge.wait(), Some(0));
        let log = std::fs::read_to_string(&log).expect("a log");
        let at_once = "\"event\":\"stopped_at_once\"";
        assert_eq!(log.contains(at_once), is_later, "{log}");
    }
}

#[test]
fn an_edge_whose_output_nobody_reads_goes_on() {
    let folder = Folder::new();
    let (certificate, key) = crate::tls::in_files(&folder, &crate::tls::certificate());
    let mut edge = Edge::start_unheard(&["--tls-certificate", &certificate, "--tls-key", &key]);
    // It has something to say on both outputs.
    edge.signal(Signal::HUP);
    folder.file("cert.pem", "none");
    moment();
    edge.signal(Signal::HUP);
    moment();
    assert_eq!(edge.get_admin("/readyz").0, 200);
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));
}

#[test]
fn a_data_folder_outlives_a_kill() {
    let folder = Folder::new();
    let data = folder.0.join("data");
    let flags = [
        "--data",
        data.to_str().expect("UTF-8"),
        "--presence-grace",
        "1s",
    ];
    let edge = Edge::start(&flags);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice", "bob"]);
    let mut alice = edge.user("alice");
    alice.ask(
        &json!({ "type": "status", "mode": "busy", "text": "writing" }),
        "ok",
    );
    let mut bob = edge.user("bob");
    bob.say(&json!({ "type": "bye" }));
    let (mut busy, mut offline) = (None, None);
    while busy.is_none() || offline.is_none() {
        for record in watcher.message()["users"].as_array().expect("records") {
            match record["status"].as_str() {
                Some("busy") => busy = Some(record.clone()),
                Some("offline") => offline = Some(record.clone()),
                _ => {}
            }
        }
    }
    edge.until_metric("online_status_store_queue", "", 0.0);
    moment();
    edge.signal(Signal::KILL);
    drop(edge);

    let edge = Edge::start(&flags);
    let mut watcher = edge.user("watcher");
    // Alice may still come back: she is in grace, and Bob was last seen when he was.
    let records = watcher.watch(&["alice", "bob"]);
    assert_eq!(
        (&records[0]["status"], &records[0]["text"]),
        (&json!("busy"), &json!("writing"))
    );
    assert!(records[0]["version"].as_u64() > busy.expect("a record")["version"].as_u64());
    assert_eq!(
        records[1]["last_seen"],
        offline.expect("a record")["last_seen"]
    );
    let gone = watcher.change();
    assert_eq!(
        (&gone["user"], &gone["status"]),
        (&json!("alice"), &json!("offline"))
    );
    let mut alice = Client::open(&edge, &bearer(&token("alice")));
    let welcome = alice.message();
    assert_eq!(
        (&welcome["mode"], &welcome["text"]),
        (&json!("busy"), &json!("writing"))
    );
    let back = watcher.change();
    assert_eq!(
        (&back["status"], &back["text"]),
        (&json!("busy"), &json!("writing"))
    );
}

#[test]
fn a_reconnecting_watcher_is_told_what_changed_over_a_restart() {
    let folder = Folder::new();
    let data = folder.0.join("data");
    let flags = [
        "--data",
        data.to_str().expect("UTF-8"),
        "--presence-grace",
        "1s",
    ];
    let edge = Edge::start(&flags);
    let alice = edge.user("alice");
    let version = edge.user("watcher").watch(&["alice"])[0]["version"].clone();
    moment();
    edge.signal(Signal::KILL);
    drop((alice, edge));
    let edge = Edge::start(&flags);
    let mut watcher = edge.user("watcher");
    let again = json!({ "type": "watch", "users": ["alice"], "known": { "alice": version } });
    let snapshot = watcher.ask(&again, "snapshot");
    let mut last = snapshot["users"]
        .as_array()
        .expect("records")
        .last()
        .cloned();
    while last
        .as_ref()
        .is_none_or(|record| record["status"] != "offline")
    {
        last = Some(watcher.change());
    }
    assert!(last.expect("a record")["version"].as_u64() > version.as_u64());
}

#[test]
fn wrong_settings_are_named_with_what_is_allowed() {
    let folder = Folder::new();
    let file = folder.file(
        "edge.toml",
        "[presence]\ngrace = \"soon\"\nhartbeat = \"1s\"\n",
    );
    let output = edge(&["config", "check", "--config", &file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        text.contains("presence.grace") && text.contains("soon"),
        "{text}"
    );
    assert!(
        text.contains("hartbeat") && text.contains("heartbeat"),
        "{text}"
    );
    let output = edge(&["standalone", "--auth-secret", "short"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("32"), "{text}");
    assert!(
        !text.contains("short\""),
        "a secret is not repeated: {text}"
    );
    let output = edge(&["standalone", "--listen", "0.0.0.0:0"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("JWT_SECRET"),
        "{text}"
    );
    let output = edge(&["config", "check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("50400"),
        "the bound of I6: {text}"
    );
}

#[test]
fn config_check_reads_the_files_too_and_mistakes_of_usage_end_with_2() {
    let folder = Folder::new();
    let no_key = folder.file("none.pem", "no key");
    for arguments in [
        &["config", "check", "--auth-algorithms", "none"][..],
        &[
            "config",
            "check",
            "--auth-public-key",
            &no_key,
            "--auth-algorithms",
            "ES256",
        ],
        &[
            "standalone",
            "--tls-certificate",
            &no_key,
            "--tls-key",
            &no_key,
        ],
        &[
            "standalone",
            "--auth-algorithms",
            "RS256",
            "--auth-secret",
            SECRET,
        ],
        &["token", "--user", "a", "--ttl", "0s"],
        &["token", "--user", "a", "--ttl", "-1s"],
        &["token", "--user", "a", "--ttl", "4000d"],
        &["token", "--user", ""],
        &["standalone", "--presence-grase", "1s"],
    ] {
        let output = edge(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.starts_with("error: ") && !text.contains(SECRET),
            "{text}"
        );
    }
}

#[test]
fn a_database_that_is_broken_or_in_use_is_said_so() {
    let folder = Folder::new();
    let data = folder.0.to_str().expect("UTF-8");
    let first = Edge::start(&["--data", data]);
    let second = |what: &str| {
        let output = edge(&[
            "standalone",
            "--listen",
            "127.0.0.1:0",
            "--server-admin-listen",
            "127.0.0.1:0",
            "--auth-secret",
            SECRET,
            "--data",
            data,
        ]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("store.data = ") && text.contains(what),
            "{text}"
        );
    };
    second("another process has its database open");
    // An edge that runs has its settings checked.
    let check = edge(&["config", "check", "--data", data]);
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.status.success() && text.contains("another process has its database open now"),
        "{text}"
    );
    drop(first);
    let check = edge(&["config", "check", "--data", data]);
    assert!(check.status.success(), "what it left is mended by a start");
    folder.file("presence.redb", "nonsense".repeat(1_000));
    second("presence.redb cannot be used");
}

#[test]
fn an_edge_whose_disk_is_full_stays_ready_and_says_so_until_it_is_not() {
    let folder = Folder::new();
    let data = folder.0.to_str().expect("UTF-8");
    let mut edge = Edge::start_on_a_disk(&["--data", data]);
    edge.user("alice").works();
    edge.until("it is ready", |edge| {
        edge.get_admin("/readyz").1.trim_end() == "ready"
    });
    edge.limit_files(Some(4_096));
    let mut bob = edge.user("bob");
    edge.until("it says why", |edge| {
        let (status, text) = edge.get_admin("/readyz");
        assert_eq!(status, 200, "{text}");
        text.starts_with("ready; not storing: ") && text.contains("File too large")
    });
    bob.works();
    edge.limit_files(None);
    edge.until("it stores again", |edge| {
        edge.get_admin("/readyz").1.trim_end() == "ready"
    });
    bob.works();
}

#[test]
fn the_token_command_makes_tokens_that_are_accepted() {
    let edge_ = Edge::start(&[]);
    let output = edge(&[
        "token",
        "--user",
        "alice",
        "--ttl",
        "1m",
        "--auth-secret",
        SECRET,
    ]);
    let made = String::from_utf8(output.stdout).expect("ASCII");
    let mut client = Client::open(&edge_, &bearer(made.trim()));
    assert_eq!(client.message()["user"], "alice");
    assert_ne!(made.trim(), token("bob"));
    let check = |token: &str| edge(&["check-token", token, "--auth-secret", SECRET]);
    let good = check(made.trim());
    let text = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(
        good.status.success() && text.starts_with("user      alice\n"),
        "{text}"
    );
    let bad = check("nonsense");
    let text = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert_eq!(
        (bad.status.code(), text.as_str()),
        (
            Some(1),
            "error: the token is no JWT: it is not three parts with a dot between each\n"
        )
    );
    let other = edge(&[
        "check-token",
        made.trim(),
        "--auth-secret",
        SECRET,
        "--auth-issuer",
        "https://i",
    ]);
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    for part in [
        "auth.issuer",
        r#"its head is    {"alg":"HS256""#,
        r#""sub":"alice""#,
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn config_check_asks_redis_when_it_can_be_reached_and_says_when_it_cannot() {
    let mut redis = redis_store::testing::RedisServer::start();
    let port = redis.port().to_string();
    let replica =
        redis_store::testing::RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let check = |url: &str| {
        let output = edge(&["config", "check", "--redis-url", url]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, said, _) = check(&redis.url());
    assert!(
        code == Some(0) && said.contains("maxmemory-policy is noeviction"),
        "{said}"
    );
    let _ = redis.cli(&["config", "set", "maxmemory-policy", "allkeys-lru"]);
    let (code, said, _) = check(&redis.url());
    assert!(
        code == Some(0) && said.contains("takes keys away when its memory is full"),
        "{said}"
    );
    assert!(said.contains("allkeys-lru"), "{said}");
    let (code, _, wrong) = check(&replica.url());
    assert!(
        code == Some(1) && wrong.contains("is a replica of"),
        "{wrong}"
    );
    redis.stop();
    let (code, said, _) = check(&redis.url());
    assert!(code == Some(0) && said.contains("was not asked"), "{said}");
}
