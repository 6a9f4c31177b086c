//! What watchers are told, and when.

use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use crate::common::{Client, Edge, FIN, TEXT, bearer, frame, moment, token};

/// Short times, so that tests need not wait for long ones.
const QUICK: &[&str] = &[
    "--presence-grace",
    "1s",
    "--presence-heartbeat",
    "1s",
    "--presence-heartbeat-timeout",
    "1s",
];

fn state(record: &Value) -> (&str, u64) {
    let devices = record["devices"].as_u64().expect("a number");
    (record["status"].as_str().expect("a status"), devices)
}

fn set(client: &mut Client, status: &str) {
    client.ask(&json!({ "type": "status", "status": status }), "ok");
}

fn choose(client: &mut Client, mode: &str) {
    client.ask(&json!({ "type": "status", "mode": mode }), "ok");
}

#[test]
fn a_user_is_online_with_its_first_session_and_offline_after_its_last() {
    let edge = Edge::start(&[]);
    let mut watcher = edge.user("watcher");
    let records = watcher.watch(&["alice"]);
    assert_eq!(state(&records[0]), ("offline", 0));
    assert_eq!(records[0]["version"], 0);
    let mut first = edge.user("alice");
    let online = watcher.change();
    assert_eq!(
        (state(&online), &online["user"]),
        (("online", 1), &json!("alice"))
    );
    let second = edge.user("alice");
    assert_eq!(state(&watcher.change()), ("online", 2));
    first.say(&json!({ "type": "bye" }));
    assert_eq!(first.closed(), 1000);
    assert_eq!(state(&watcher.change()), ("online", 1));
    let mut second = second;
    second.raw(&frame(FIN | 8, &[0x03, 0xe8]));
    assert_eq!(second.closed(), 1000);
    let offline = watcher.change();
    assert_eq!(state(&offline), ("offline", 0));
    let seen = offline["last_seen"].as_u64().expect("milliseconds") / 1_000;
    assert!(seen.abs_diff(crate::common::now()) < 60);
    assert!(offline["version"].as_u64() > online["version"].as_u64());
}

#[test]
fn back_within_grace_is_no_event_and_after_it_one() {
    let edge = Edge::start(QUICK);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice"]);
    let alice = edge.user("alice");
    assert_eq!(state(&watcher.change()), ("online", 1));
    // A FIN without a close frame.
    drop(alice);
    edge.until_metric("online_status_sessions", "", 1.0);
    watcher.nothing_comes();
    let alice = edge.user("alice");
    moment();
    watcher.nothing_comes();
    drop(alice);
    assert_eq!(state(&watcher.change()), ("offline", 0));
    moment();
    watcher.nothing_comes();
}

#[test]
fn resets_silence_and_ends_are_one_offline_each() {
    let edge = Edge::start(QUICK);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["reset", "silent", "ended"]);
    let stream = TcpStream::connect(edge.address).expect("a connection");
    let handle = stream.try_clone().expect("a handle");
    let mut reset = Client::over(Box::new(stream), &bearer(&token("reset")));
    reset.message();
    assert_eq!(watcher.change()["status"], "online");
    let silent = edge.user("silent");
    assert_eq!(watcher.change()["status"], "online");
    let ended = edge.user("ended");
    assert_eq!(watcher.change()["status"], "online");
    let zero = Some(std::time::Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&handle, zero).expect("an option");
    drop((handle, reset, ended));
    let mut gone: Vec<Value> = Vec::new();
    while gone.len() < 3 {
        let message = watcher.message();
        assert_eq!(message["type"], "presence");
        gone.extend(
            message["users"]
                .as_array()
                .expect("records")
                .iter()
                .cloned(),
        );
    }
    assert!(
        gone.iter().all(|record| state(record) == ("offline", 0)),
        "{gone:?}"
    );
    let mut names: Vec<&str> = gone
        .iter()
        .filter_map(|record| record["user"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["ended", "reset", "silent"]);
    moment();
    watcher.nothing_comes();
    drop(silent);
}

#[test]
fn sessions_and_users_have_statuses() {
    let edge = Edge::start(&[]);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice"]);
    let (mut phone, mut desk) = (edge.user("alice"), edge.user("alice"));
    let mut last = watcher.change();
    while last["devices"] != 2 {
        last = watcher.change();
    }
    set(&mut phone, "away");
    watcher.nothing_comes();
    set(&mut desk, "away");
    assert_eq!(watcher.change()["status"], "away");
    choose(&mut phone, "busy");
    assert_eq!(watcher.change()["status"], "busy");
    // What a device reports ends nothing that was chosen.
    set(&mut desk, "online");
    watcher.nothing_comes();
    choose(&mut desk, "auto");
    assert_eq!(watcher.change()["status"], "online");
    choose(&mut phone, "invisible");
    let invisible = watcher.change();
    assert_eq!(state(&invisible), ("offline", 0));
    assert!(invisible["last_seen"].is_u64());
    set(&mut desk, "away");
    set(&mut desk, "online");
    phone.say(&json!({ "type": "bye" }));
    assert_eq!(phone.closed(), 1000);
    let _tablet = edge.user("alice");
    // Not even the version tells that anything happened.
    let asked = json!({ "type": "query", "users": ["alice"] });
    assert_eq!(watcher.ask(&asked, "result")["users"][0], invisible);
    choose(&mut desk, "auto");
    assert_eq!(state(&watcher.change()), ("online", 2));
    for word in ["busy", "invisible"] {
        let error = desk.ask(&json!({ "type": "status", "status": word }), "error");
        let message = error["message"].as_str().expect("a text");
        assert!(message.contains("mode"), "{message}");
    }
}

/// The user's own record, which comes next.
fn own(client: &mut Client) -> (String, String, u64, u64) {
    let record = client.change();
    let word = |member: &str| record[member].as_str().expect("a word").to_owned();
    let number = |member: &str| record[member].as_u64().expect("a number");
    (
        word("mode"),
        word("status"),
        number("devices"),
        number("version"),
    )
}

#[test]
fn a_users_own_sessions_are_told_the_truth_and_what_was_chosen_on_another_device() {
    let edge = Edge::start(&[]);
    let mut phone = edge.user("alice");
    let [record] = &phone.watch(&["alice"])[..] else {
        panic!("one user is watched")
    };
    assert_eq!(
        (state(record), &record["mode"]),
        (("online", 1), &json!("auto"))
    );
    let mut desk = Client::open(&edge, &bearer(&token("alice")));
    let welcome = desk.message();
    assert_eq!(welcome["mode"], "auto");
    assert!(welcome.get("text").is_none());
    let seen = |client: &mut Client, mode: &str, status: &str, devices: u64, last: &mut u64| {
        let (is, shown, many, version) = own(client);
        assert_eq!((&*is, &*shown, many), (mode, status, devices));
        assert!(version > *last, "{version} after {last}");
        *last = version;
    };
    let mut last = record["version"].as_u64().expect("a version");
    seen(&mut phone, "auto", "online", 2, &mut last);
    choose(&mut desk, "invisible");
    seen(&mut phone, "invisible", "online", 2, &mut last);
    set(&mut desk, "away");
    phone.nothing_comes();
    phone.say(&json!({ "type": "status", "status": "away" }));
    // The change and the answer, in either order.
    for _ in 0..2 {
        let message = phone.message();
        if message["type"] == "presence" {
            assert_eq!(message["users"][0]["status"], "away");
            last = message["users"][0]["version"].as_u64().expect("a version");
        }
    }
    desk.say(&json!({ "type": "bye" }));
    assert_eq!(desk.closed(), 1000);
    seen(&mut phone, "invisible", "away", 1, &mut last);
    // A question of its own says the same, one of others does not.
    let asked = json!({ "type": "query", "users": ["alice"] });
    let mine = &phone.ask(&asked, "result")["users"][0];
    assert_eq!(
        (state(mine), &mine["mode"]),
        (("away", 1), &json!("invisible"))
    );
    let theirs = &edge.user("bob").ask(&asked, "result")["users"][0];
    assert_eq!(state(theirs), ("offline", 0));
    assert!(theirs.get("mode").is_none());
    // A new device, after all are gone, and with the version that the old one had.
    phone.ask(&json!({ "type": "status", "text": "hidden" }), "ok");
    phone.say(&json!({ "type": "bye" }));
    phone.closed();
    moment();
    let mut tablet = Client::open(&edge, &bearer(&token("alice")));
    let welcome = tablet.message();
    assert_eq!(
        (&welcome["mode"], &welcome["text"]),
        (&json!("invisible"), &json!("hidden"))
    );
    last += 1_000;
    let known = json!({ "type": "watch", "users": ["alice"], "known": { "alice": last } });
    let snapshot = tablet.ask(&known, "snapshot");
    let record = &snapshot["users"][0];
    assert_eq!(
        (state(record), &record["mode"]),
        (("online", 1), &json!("invisible"))
    );
    assert!(record["version"].as_u64() > Some(last));
}

#[test]
fn a_text_is_kept_until_changed() {
    let edge = Edge::start(&[]);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice"]);
    let mut alice = edge.user("alice");
    watcher.change();
    let longest = "é".repeat(64);
    alice.ask(&json!({ "type": "status", "text": longest, "id": 3 }), "ok");
    assert_eq!(watcher.change()["text"], json!(longest));
    let error = alice.ask(
        &json!({ "type": "status", "text": "x".repeat(129) }),
        "error",
    );
    assert_eq!(error["code"], "text_too_long");
    watcher.nothing_comes();
    alice.say(&json!({ "type": "bye" }));
    assert_eq!(watcher.change()["text"], json!(longest));
    let mut alice = edge.user("alice");
    assert_eq!(watcher.change()["text"], json!(longest));
    alice.ask(&json!({ "type": "status", "text": "" }), "ok");
    assert!(watcher.change().get("text").is_none());
}

#[test]
fn a_snapshot_has_what_the_client_does_not_know() {
    let edge = Edge::start(&[]);
    let _alice = edge.user("alice");
    let mut watcher = edge.user("watcher");
    let version = watcher.watch(&["alice"])[0]["version"].clone();
    let known =
        json!({ "type": "watch", "users": ["alice", "bob"], "known": { "alice": version } });
    let mut again = edge.user("watcher");
    let snapshot = again.ask(&known, "snapshot");
    let users: Vec<&Value> = snapshot["users"]
        .as_array()
        .expect("records")
        .iter()
        .collect();
    assert_eq!(users.len(), 1);
    assert_eq!(users[0]["user"], "bob");
    // Nobody has made what it claims to know: it gets what there is.
    for n in 0..4 {
        let user = format!("user-{n}");
        let _online = edge.user(&user);
        let mut odd = edge.user("odd");
        let known = json!({ user.as_str(): (1_u64 << 53) - 1 });
        let asked = json!({ "type": "watch", "users": [user], "known": known });
        let snapshot = odd.ask(&asked, "snapshot");
        let records = snapshot["users"].as_array().expect("records").clone();
        let record = records.first().cloned().unwrap_or_else(|| odd.change());
        assert_eq!(state(&record), ("online", 1));
    }
    // No process of this server has made the second version, whose epoch is a day of 1970: it is told
    // what there is, also of users that may yet come back after the start.
    for made_up in [5, (2_u64 << 32) + 9] {
        let asked = json!({ "type": "watch", "users": ["nobody"], "known": { "nobody": made_up } });
        let mut odd = edge.user("odd");
        let snapshot = odd.ask(&asked, "snapshot");
        let records = snapshot["users"].as_array().expect("records").clone();
        let record = records.first().cloned().unwrap_or_else(|| odd.change());
        assert_eq!(record["status"], "offline", "{record}");
    }
    // A query answers for each, as often as asked.
    let query = json!({ "type": "query", "users": ["alice", "bob", "alice"], "id": "q" });
    let result = again.ask(&query, "result");
    assert_eq!(result["users"].as_array().map(Vec::len), Some(3));
    again.ask(
        &json!({ "type": "unwatch", "users": ["bob", "nobody"], "id": 2 }),
        "ok",
    );
    let _bob = edge.user("bob");
    moment();
    again.nothing_comes();
}

#[test]
fn bad_messages_are_errors_and_the_session_stays() {
    let edge = Edge::start(&["--presence-max-watches", "3"]);
    let mut alice = edge.user("alice");
    let cases = [
        ("{", "bad_message"),
        ("[]", "bad_message"),
        ("7", "bad_message"),
        ("{}", "bad_message"),
        (r#"{"type":"dance"}"#, "unknown_type"),
        (r#"{"type":"watch"}"#, "bad_member"),
        (r#"{"type":"watch","users":"bob"}"#, "bad_member"),
        (r#"{"type":"watch","users":[5]}"#, "bad_member"),
        (r#"{"type":"watch","users":[""]}"#, "bad_user"),
        (r#"{"type":"watch","users":["a\u0000"]}"#, "bad_user"),
        (r#"{"type":"status","status":"asleep"}"#, "bad_member"),
        (r#"{"type":"status","status":"offline"}"#, "bad_member"),
        (r#"{"type":"ping","id":{}}"#, "bad_member"),
        (
            r#"{"type":"watch","users":["a","b","c","d"]}"#,
            "watch_limit",
        ),
    ];
    for (text, code) in cases {
        alice.raw(&frame(FIN | TEXT, text.as_bytes()));
        let error = alice.message();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{text}"
        );
        assert!(error["message"].is_string());
    }
    edge.until_metric_reaches("online_status_bad_messages_total", "", 13.0);
    let many: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    let error = alice.ask(&json!({ "type": "query", "users": many }), "error");
    assert_eq!(error["code"], "too_many_users");
    // Unknown members are ignored.
    let odd = json!({ "type": "watch", "users": ["a"], "id": 1, "colour": "red" });
    alice.ask(&odd, "snapshot");
    alice.works();
}

#[test]
fn limits_close_with_their_codes() {
    let edge = Edge::start(&[
        "--presence-max-devices",
        "2",
        "--presence-message-rate",
        "1",
        "--presence-message-burst",
        "20",
    ]);
    let mut first = edge.user("alice");
    let _second = edge.user("alice");
    let mut third = Client::open(&edge, &bearer(&token("alice")));
    assert_eq!(third.closed(), 4409);
    let mut talker = edge.user("bob");
    for _ in 0..40 {
        // The end may come before the last is written.
        let _ = talker
            .stream
            .write_all(&frame(FIN | TEXT, br#"{"type":"ping"}"#));
    }
    assert_eq!(talker.closed(), 4429);
    first.works();
}

#[test]
fn a_client_that_does_not_read_is_ended_and_the_others_go_on() {
    let flags = [
        "--presence-outbox",
        "16KiB",
        "--presence-message-burst",
        "1000000",
        "--presence-heartbeat",
        "2s",
        "--presence-heartbeat-timeout",
        "3s",
    ];
    let edge = Edge::start(&flags);
    let mut witness = edge.user("witness");
    let mut deaf = edge.user("deaf");
    let users: Vec<String> = (0..200).map(|n| format!("user-{n}")).collect();
    let query = json!({ "type": "query", "users": users }).to_string();
    let query = frame(FIN | TEXT, query.as_bytes());
    let before = edge.metric("online_status_closes_total", "\"1013\"");
    let asks = std::thread::spawn(move || {
        // At the latest when the server has given up on it.
        while deaf.stream.write_all(&query).is_ok() {}
    });
    while edge.metric("online_status_closes_total", "\"1013\"") < before + 1.0 {
        witness.works();
        moment();
    }
    // Whoever is closed and does not hang up is hung up on, which its writes see.
    while !asks.is_finished() {
        witness.works();
        moment();
    }
    asks.join().expect("it ends");
    edge.until_metric("online_status_sessions", "", 1.0);
}

#[test]
fn slow_watchers_get_the_newest_state_and_no_more_than_that() {
    let edge = Edge::start(&["--presence-message-burst", "1000000"]);
    let mut slow = edge.user("slow");
    slow.watch(&["alice"]);
    let mut alice = edge.user("alice");
    for n in 0..2_000 {
        alice.ask(
            &json!({ "type": "status", "text": format!("{n:0>100}") }),
            "ok",
        );
    }
    let (mut last, mut version) = (Value::Null, 0);
    while last["text"] != json!(format!("{:0>100}", 1_999)) {
        last = slow.change();
        let newer = last["version"].as_u64().expect("a version");
        assert!(newer > version);
        version = newer;
    }
    slow.nothing_comes();
}

#[test]
fn changes_for_many_sessions_wait_for_others_in_the_flush_window() {
    let edge = Edge::start(&["--presence-flush", "1s", "--server-cores", "1"]);
    let mut alice = edge.user("alice");
    let mut watchers: Vec<Client> = (0..40).map(|n| edge.user(&format!("w{n}"))).collect();
    for watcher in &mut watchers {
        watcher.watch(&["alice"]);
    }
    for text in ["one", "two", "three"] {
        alice.ask(&json!({ "type": "status", "text": text }), "ok");
    }
    // An answer does not wait, and takes along what does.
    watchers[0].say(&json!({ "type": "ping" }));
    assert_eq!(watchers[0].message()["type"], "pong");
    for watcher in &mut watchers {
        let change = watcher.change();
        assert_eq!(change["text"], "three", "it came with others: {change}");
    }
    for watcher in &mut watchers[..2] {
        watcher.nothing_comes();
    }
}

#[test]
fn who_sends_no_more_is_told_what_it_asked_before() {
    let edge = Edge::start(&[]);
    for _ in 0..20 {
        let stream = TcpStream::connect(edge.address).expect("a connection");
        let whole = stream.try_clone().expect("a descriptor");
        let mut client = Client::over(Box::new(whole), &bearer(&token("alice")));
        assert_eq!(client.message()["type"], "welcome");
        client.say(&json!({ "type": "bye" }));
        stream.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(client.closed(), 1000);
    }
}
