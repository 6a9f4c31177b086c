//! Whose way is followed, at more than one coordinator, and the command `trace`.

use std::process::Output;

use redis_store::testing::RedisServer;
use serde_json::{Value, json};

use crate::common::{Coordinator, admin, command};

/// Asks as an administrator; the answer's status and JSON.
fn asked(coordinator: &Coordinator, line: &str, body: &str) -> (u16, Value) {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let admin = admin();
    let auth = [("authorization", admin.as_str())];
    let answer = coordinator.ask(method, path, &auth, body.as_bytes());
    (answer.status, answer.json())
}

#[test]
fn as_many_users_are_traced_as_may_be_whichever_coordinators_are_asked() {
    let redis = RedisServer::start();
    let coordinators = ["c1", "c2"].map(|id| Coordinator::start(&redis, id, &[]));
    // Each asks before it has read what the other one was asked.
    for n in 0..5 {
        let line = format!("PUT /trace?userId=t{n}");
        assert_eq!(asked(&coordinators[n % 2], &line, "").0, 200, "{n}");
    }
    for coordinator in &coordinators {
        let (status, refused) = asked(coordinator, "PUT /trace?userId=t5", "");
        assert_eq!(status, 409, "{refused}");
        // The words of a standalone edge.
        assert_eq!(
            refused["detail"],
            "5 users are traced already, and no more may be: end one with DELETE /trace?userId="
        );
        let traced = asked(coordinator, "GET /trace", "").1;
        let users = traced["traced"].as_array().expect("a list").iter();
        let users: Vec<_> = users.map(|entry| &entry["user"]).collect();
        assert_eq!(users, ["t0", "t1", "t2", "t3", "t4"], "{traced}");
    }
    // One that is traced may be for longer, and with one less there is room.
    assert_eq!(asked(&coordinators[0], "PUT /trace?userId=t4", "").0, 200);
    assert_eq!(
        asked(&coordinators[1], "DELETE /trace?userId=t0", "").0,
        200
    );
    assert_eq!(asked(&coordinators[0], "PUT /trace?userId=t5", "").0, 200);
}

#[test]
fn what_one_coordinator_decreed_the_next_one_tells() {
    let redis = RedisServer::start();
    let [one, other] = ["c1", "c2"].map(|id| Coordinator::start(&redis, id, &[]));
    for n in 0..3 {
        let user = format!("u{n}");
        for path in [
            format!("/blocks?userId={user}"),
            format!("/groups?group={user}"),
        ] {
            let body = r#"{"users":["eve"]}"#;
            assert_eq!(asked(&one, &format!("PUT {path}"), body).0, 200);
            let told = asked(&other, &format!("GET {path}"), "").1;
            assert_eq!(told["users"], json!(["eve"]), "{path}");
        }
        let revoked = json!({ "user": user }).to_string();
        assert_eq!(asked(&one, "POST /revocations", &revoked).0, 200);
        let told = asked(&other, "GET /revocations", "").1;
        assert_eq!(told["revocations"][n]["user"], user, "{told}");
    }
}

#[test]
fn a_trace_is_known_once_it_is_started_and_who_is_not_traced_is_not_followed() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let file = redis.directory().join("admin.token");
    std::fs::write(&file, admin().trim_start_matches("Bearer ")).expect("a token");
    let url = format!("http://{}", coordinator.address);
    let trace = |arguments: &[&str]| -> Output {
        let mut command = command();
        command.args(["trace", "--url", &url, "--user", "alice", "--token-file"]);
        command.arg(&file).args(arguments);
        command.output().expect("the binary runs")
    };
    let said = |output: &Output| {
        let text = [&output.stdout[..], &output.stderr].concat();
        String::from_utf8(text).expect("UTF-8")
    };
    for untraced in [&["--follow"][..], &[], &["--json"], &["--stop"]] {
        let output = trace(untraced);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{untraced:?}: {said}");
        assert!(
            said.contains("the user is not traced") && said.contains("--start"),
            "{said}"
        );
    }
    for _ in 0..3 {
        let output = trace(&["--start", "1"]);
        assert!(output.status.success(), "{}", said(&output));
        let output = trace(&[]);
        let told = said(&output);
        assert!(output.status.success(), "{told}");
        assert!(told.contains("there is no step of it yet"), "{told}");
        assert!(trace(&["--stop"]).status.success());
        assert_eq!(trace(&["--follow"]).status.code(), Some(1));
    }
}
