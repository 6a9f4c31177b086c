//! What administrators decree: tokens that count no more, and users who may not watch others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Edge, Folder, bearer, moment, now, request, signed, token, upgrade};

/// Ten times what is promised for an edge that is not starved of CPU, which one in a test may be.
pub(crate) const IN_FORCE: Duration = Duration::from_secs(20);

pub(crate) fn admin() -> String {
    signed(
        &json!({ "sub": "root", "exp": now() + 3_600, "iat": now() + 60, "scope": "presence:admin" }),
    )
}

/// An administrator's request on the admin address.
pub(crate) fn ask(edge: &Edge, token: &str, line: &str, body: &str) -> (u16, Value) {
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\n{}content-length: {}\r\n\r\n{body}",
        bearer(token),
        body.len()
    );
    let (status, body) = request(edge.admin, &head);
    (status, serde_json::from_str(&body).unwrap_or_default())
}

/// What all cores of the edge answer; on a busy machine one may be late.
pub(crate) fn answered(edge: &Edge, line: &str) -> Value {
    for _ in 0..10 {
        let (status, told) = ask(edge, &admin(), line, "");
        assert_eq!(status, 200, "{line}: {told}");
        if told["silent"] == json!([]) {
            return told;
        }
    }
    panic!("{line}: the edge stays silent");
}

fn decree(edge: &Edge, line: &str, body: &str) -> Value {
    let (status, value) = ask(edge, &admin(), line, body);
    assert_eq!(status, 200, "{line} {body}: {value}");
    value
}

/// A token of the user that was issued so many seconds ago.
fn issued(user: &str, ago: u64, id: &str) -> String {
    signed(&json!({ "sub": user, "exp": now() + 3_600, "iat": now() - ago, "jti": id }))
}

fn open(edge: &Edge, token: &str) -> Client {
    let mut client = Client::open(edge, &bearer(token));
    assert_eq!(client.message()["type"], "welcome");
    client
}

fn is_refused(edge: &Edge, token: &str) -> bool {
    let status = request(edge.address, &upgrade(&bearer(token))).0;
    assert!([101, 401].contains(&status), "{status}");
    status == 401
}

#[test]
fn revoked_tokens_end_their_sessions_and_let_nobody_in_after_a_restart_either() {
    let folder = Folder::new();
    let flags = ["--data", folder.0.to_str().expect("UTF-8")];
    let edge = Edge::start(&flags);
    let (old, new, named) = (
        issued("alice", 100, "a"),
        issued("alice", 10, "b"),
        issued("bob", 10, "c"),
    );
    let nameless = token("carol");
    let mut sessions = [&old, &new, &named, &nameless].map(|token| open(&edge, token));
    let before = (now() - 50) * 1_000;
    let began = Instant::now();
    let revoke = |body: &Value| decree(&edge, "POST /revocations", &body.to_string());
    let shown = revoke(&json!({ "user": "alice", "before": before }));
    assert_eq!(
        (&shown["by"], &shown["before"]),
        (&json!("root"), &json!(before))
    );
    assert_eq!(
        sessions[0].close_frame(),
        (4401, "the token was revoked".into())
    );
    assert!(began.elapsed() < IN_FORCE, "{:?}", began.elapsed());
    sessions[1..].iter_mut().for_each(Client::works);
    assert!(is_refused(&edge, &old) && !is_refused(&edge, &new));

    revoke(&json!({ "jti": "c" }));
    assert_eq!(sessions[2].closed(), 4401);
    sessions[1].works();
    // In band, a revoked token renews nothing and ends nothing.
    let error = sessions[1].ask(&json!({ "type": "auth", "token": old, "id": 1 }), "error");
    assert_eq!(error["code"], "bad_token", "{error}");
    sessions[1].works();

    // One that does not say when it was issued is older than any.
    revoke(&json!({ "everyone": true, "before": before }));
    assert_eq!(sessions[3].closed(), 4401);
    sessions[1].works();
    edge.until_metric("online_status_revoked_total", "", 3.0);
    edge.until_metric("online_status_policy_entries", "", 3.0);

    let edge = edge.kill_and_start(&flags);
    edge.until_metric("online_status_policy_entries", "", 3.0);
    for token in [&old, &named, &nameless] {
        assert!(is_refused(&edge, token));
    }
    assert!(!is_refused(&edge, &new));
    let listed = decree(&edge, "GET /revocations", "");
    assert_eq!(
        listed["revocations"].as_array().map(Vec::len),
        Some(3),
        "{listed}"
    );
    decree(&edge, "DELETE /revocations?user=alice", "");
    decree(&edge, "DELETE /revocations?everyone=true", "");
    assert!(!is_refused(&edge, &old) && is_refused(&edge, &named));
    assert_eq!(
        ask(&edge, &admin(), "DELETE /revocations?user=alice", "").0,
        404
    );
}

#[test]
fn only_administrators_decree_and_what_they_may_not_ask_is_said() {
    let edge = Edge::start(&[]);
    let body = r#"{"user":"alice"}"#;
    for (token, line, body, status) in [
        (&*token("bob"), "POST /revocations", body, 403),
        ("x.y.z", "POST /revocations", body, 401),
        (&admin(), "POST /revocations", "{}", 400),
        (
            &admin(),
            "POST /revocations",
            r#"{"user":"a","jti":"b"}"#,
            400,
        ),
        (&admin(), "PATCH /revocations", "", 405),
        (&admin(), "DELETE /revocations", "", 400),
        (&admin(), "GET /blocks", "", 400),
        (&admin(), "PUT /blocks?userId=a", "[]", 400),
        (
            &token("bob"),
            "PUT /blocks?userId=a",
            r#"{"users":[]}"#,
            403,
        ),
    ] {
        assert_eq!(ask(&edge, token, line, body).0, status, "{line} {body}");
    }
    let bare = format!(
        "POST /revocations HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(request(edge.admin, &bare).0, 401);
    // Clients' address has none of it.
    assert_eq!(request(edge.address, &bare).0, 404);
    edge.until_metric("online_status_policy_entries", "", 0.0);
}

#[test]
fn a_revocation_is_forgotten_when_no_token_that_it_is_about_can_be_good() {
    let edge = Edge::start(&["--auth-max-lifetime", "2s"]);
    let long = signed(&json!({ "sub": "alice", "exp": now() + 60 }));
    assert!(is_refused(&edge, &long));
    edge.until_metric("online_status_bad_tokens_total", "\"lifetime\"", 1.0);
    let root = signed(
        &json!({ "sub": "root", "exp": now() + 2, "iat": now() + 60, "scope": "presence:admin" }),
    );
    let (status, shown) = ask(&edge, &root, "POST /revocations", r#"{"user":"alice"}"#);
    assert_eq!(status, 200, "{shown}");
    edge.until_metric("online_status_policy_entries", "", 1.0);
    edge.until_metric("online_status_policy_entries", "", 0.0);
}

#[test]
fn who_is_blocked_watches_no_more_and_the_rest_of_a_message_is_in_force() {
    let edge = Edge::start(&[]);
    let mut alice = edge.user("alice");
    let mut eve = edge.user("eve");
    let mut bob = edge.user("bob");
    for watcher in [&mut eve, &mut bob] {
        assert_eq!(watcher.watch(&["alice", "dave"]).len(), 2);
    }
    decree(&edge, "PUT /blocks?userId=alice", r#"{"users":["eve"]}"#);
    let error = eve.message();
    assert_eq!(error["code"], "not_allowed", "{error}");
    assert_eq!(
        (&error["users"], error.get("id")),
        (&json!(["alice"]), None)
    );
    alice.ask(&json!({ "type": "status", "status": "away" }), "ok");
    assert_eq!(bob.change()["status"], "away");
    eve.nothing_comes();
    edge.until_metric("online_status_watchers", "", 3.0);

    // Of several users the others are watched, and asked for.
    for (kind, answer) in [("watch", "snapshot"), ("query", "result")] {
        let asked = json!({ "type": kind, "users": ["alice", "dave", "bob"], "id": 7 });
        let error = eve.ask(&asked, "error");
        assert_eq!(
            (&error["users"], error.get("id")),
            (&json!(["alice"]), None)
        );
        let rest = eve.message();
        assert_eq!((&rest["type"], &rest["id"]), (&json!(answer), &json!(7)));
        let users: Vec<&Value> = (rest["users"].as_array().expect("records").iter())
            .map(|record| &record["user"])
            .collect();
        assert_eq!(users, [&json!("dave"), &json!("bob")]);
    }
    let asked = json!({ "type": "watch", "users": ["alice"], "id": 8 });
    assert_eq!(eve.ask(&asked, "error")["id"], 8);
    let get = |user: &str| {
        let head = bearer(&token(user));
        request(
            edge.address,
            &format!("GET /status?userId=alice HTTP/1.1\r\nhost: x\r\n{head}\r\n"),
        )
        .0
    };
    assert_eq!((get("eve"), get("bob"), get("alice")), (403, 200, 200));
    let shown = decree(&edge, "GET /blocks?userId=alice", "");
    assert_eq!(
        (&shown["users"], &shown["by"]),
        (&json!(["eve"]), &json!("root"))
    );

    decree(&edge, "DELETE /blocks?userId=alice", "");
    moment();
    assert_eq!(eve.watch(&["alice"]).len(), 1);
    assert_eq!(get("eve"), 200);
}

#[test]
fn tokens_name_groups_whose_users_may_be_watched_as_long_as_they_are_in_them() {
    let edge = Edge::start(&["--auth-watch-policy", "claim"]);
    let lead = signed(
        &json!({ "sub": "lead", "exp": now() + 3_600, "watch": ["dave"], "watch_groups": ["staff"] }),
    );
    let mut lead = open(&edge, &lead);
    let watch = |users: &[&str]| json!({ "type": "watch", "users": users, "id": 1 });
    assert_eq!(lead.watch(&["dave"]).len(), 1);
    let error = lead.ask(&watch(&["alice"]), "error");
    assert_eq!(error["users"], json!(["alice"]), "{error}");
    decree(
        &edge,
        "PUT /groups?group=staff",
        r#"{"users":["bob","alice"]}"#,
    );
    moment();
    assert_eq!(lead.watch(&["alice", "bob"]).len(), 2);
    // A user of the group's name is not in it.
    assert_eq!(lead.ask(&watch(&["staff"]), "error")["code"], "not_allowed");
    // Who leaves the group is watched no more; the others are.
    let shown = decree(&edge, "PUT /groups?group=staff", r#"{"users":["bob"]}"#);
    assert_eq!(shown["users"], json!(["bob"]));
    let error = lead.message();
    assert_eq!(
        (&error["code"], &error["users"]),
        (&json!("not_allowed"), &json!(["alice"]))
    );
    edge.until_metric("online_status_watchers", "", 2.0);
    let mut bob = edge.user("bob");
    assert_eq!(lead.change()["status"], "online");
    // Its own list counts besides.
    decree(&edge, "PUT /blocks?userId=bob", r#"{"users":["lead"]}"#);
    assert_eq!(lead.message()["users"], json!(["bob"]));
    bob.works();
    decree(&edge, "DELETE /groups?group=staff", "");
    let shown = decree(&edge, "GET /groups?group=staff", "");
    assert_eq!(shown, json!({ "group": "staff", "users": [] }));
    assert_eq!(
        ask(&edge, &token("bob"), "GET /groups?group=staff", "").0,
        403
    );
    assert_eq!(ask(&edge, &admin(), "GET /groups", "").0, 400);
}
