//! What a client says of its session with its token, what it promises, and the limits that it is told.

use serde_json::{Value, json};

use crate::common::{Client, Edge, bearer, moment, response, token, upgrade_at};

/// Sessions are judged within seconds.
const QUICK: &[&str] = &[
    "--presence-heartbeat",
    "1s",
    "--presence-heartbeat-timeout",
    "1s",
    "--presence-alive-min",
    "1s",
    "--presence-grace",
    "1s",
];

/// A client that shows its token in a message with these members.
fn greets(edge: &Edge, user: &str, members: &Value) -> Client {
    let mut client = edge.stranger();
    let mut auth = json!({ "type": "auth", "token": token(user), "id": 1 });
    let more = members.as_object().expect("an object").clone();
    auth.as_object_mut().expect("an object").extend(more);
    client.say(&auth);
    client
}

#[test]
fn a_session_that_begins_as_away_is_never_shown_online() {
    let edge = Edge::start(QUICK);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice", "bob"]);
    let mut alice = greets(&edge, "alice", &json!({ "status": "away" }));
    assert_eq!(alice.message()["type"], "welcome");
    let shown = watcher.change();
    assert_eq!(
        (&shown["user"], &shown["status"]),
        (&json!("alice"), &json!("away"))
    );
    let mut bob = Client::open_at(&edge, "status=away", &bearer(&token("bob")));
    assert_eq!(bob.message()["type"], "welcome");
    assert_eq!(watcher.change()["status"], "away");
    // A second device that is used, and one that comes back within grace and says otherwise.
    let _desk = edge.user("alice");
    assert_eq!(watcher.change()["status"], "online");
    drop(bob);
    edge.until_metric("online_status_sessions", "", 3.0);
    let _bob = Client::open_at(&edge, "status=online", &bearer(&token("bob")));
    assert_eq!(watcher.change()["status"], "online");
}

#[test]
fn who_promises_to_speak_lives_by_messages_and_not_by_pongs() {
    let edge = Edge::start(QUICK);
    let mut pongs = greets(&edge, "alice", &json!({ "alive": 1 }));
    assert_eq!(pongs.message()["alive"], 1);
    let mut speaks = Client::open_at(&edge, "alive=1&status=away", &bearer(&token("bob")));
    assert_eq!(speaks.message()["alive"], 1);
    let mut promises_nothing = edge.user("carol");
    // It answers every ping until it is closed.
    let answers = std::thread::spawn(move || pongs.closed());
    for _ in 0..12 {
        speaks.works();
        promises_nothing.works();
        moment();
    }
    assert_eq!(answers.join().expect("no panic"), 4408);
    speaks.works();
    // A promise holds until another is made.
    let auth = json!({ "type": "auth", "token": token("bob") });
    assert_eq!(speaks.ask(&auth, "welcome")["alive"], 1);
    let auth = json!({ "type": "auth", "token": token("bob"), "alive": 300 });
    assert_eq!(speaks.ask(&auth, "welcome")["alive"], 300);
    // Those that answer nothing at all are found as early as any.
    let mut vanished = greets(&edge, "dave", &json!({ "alive": 600 }));
    assert_eq!(vanished.message()["alive"], 600);
    edge.until_metric("online_status_sessions", "", 0.0);
}

#[test]
fn a_promise_out_of_bounds_is_refused_with_the_settings_that_bound_it() {
    let edge = Edge::start(&["--presence-alive-max", "1m"]);
    for (alive, bounds) in [(9, "10 to 60"), (61, "10 to 60"), (100_000, "10 to 60")] {
        let mut client = greets(&edge, "alice", &json!({ "alive": alive }));
        let (code, reason) = client.close_frame();
        assert_eq!(code, 4403, "{reason}");
        assert!(
            reason.contains(bounds) && reason.contains("presence.alive_max"),
            "{reason}"
        );
    }
    for (query, what) in [
        ("alive=9", "presence.alive_min"),
        ("alive=x", "whole number"),
        ("alive=20&alive=20", "once"),
        ("status=busy", "online or away"),
    ] {
        let request = upgrade_at(query, &bearer(&token("alice")));
        let (head, body) = response(edge.address, &request);
        assert!(head.starts_with("http/1.1 400 "), "{query}: {head}");
        assert!(body.contains(what), "{query}: {body}");
    }
    let mut client = edge.user("alice");
    let auth = json!({ "type": "auth", "token": token("alice"), "alive": 61, "id": 3 });
    let error = client.ask(&auth, "error");
    assert_eq!(
        (&error["code"], &error["id"]),
        (&json!("bad_member"), &json!(3))
    );
    client.works();
}

#[test]
fn a_client_that_keeps_the_limits_of_its_welcome_watches_as_many_as_it_may() {
    let most = ["--server-max-message", "16KiB"];
    let edge = Edge::start(&[&["--presence-max-watches", "900"][..], &most].concat());
    let mut client = Client::open(&edge, &bearer(&token("alice")));
    let limits = client.message()["limits"].clone();
    assert_eq!(
        limits,
        json!({ "message": 16_384, "users": 1_000, "watches": 900, "messages": 100 })
    );
    let most = limits["message"].as_u64().expect("a number") as usize;
    let name = |n: u64| format!("{n:08}-0000-4000-8000-000000000000");
    let (mut users, mut at) = (Vec::new(), 0);
    while at < limits["watches"].as_u64().expect("a number") {
        users.push(name(at));
        at += 1;
        let more = [&users[..], &[name(at)]].concat();
        let next = json!({ "type": "watch", "users": more, "id": 1 });
        if next.to_string().len() > most || at == 900 {
            let names: Vec<&str> = users.iter().map(String::as_str).collect();
            assert_eq!(client.watch(&names).len(), users.len());
            users.clear();
        }
    }
    client.works();
}
