//! A user whose steps are told, on a standalone edge.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::{
    common::{Edge, Folder},
    decrees::{admin, answered, ask},
};

/// What happened to the first version that was made, in order.
fn way(steps: &Value) -> Vec<&str> {
    let steps = steps.as_array().expect("a list");
    let changed = steps.iter().find(|step| step["event"] == "changed");
    let version = changed.map_or(&Value::Null, |step| &step["version"]);
    let of_it = steps.iter().filter(|step| &step["version"] == version);
    let events = of_it.filter_map(|step| step["event"].as_str());
    events.filter(|event| *event != "status_taken").collect()
}

#[test]
fn an_administrator_follows_a_user_and_sees_each_step_once_in_order() {
    let folder = Folder::new();
    let edge = Edge::start(&["--data", folder.0.to_str().expect("UTF-8")]);
    let mut bob = edge.user("bob");
    bob.watch(&["alice"]);
    let admin = admin();
    let trace = |line: &str, body: &str| ask(&edge, &admin, line, body);
    let steps = || trace("GET /trace?userId=alice", "").1["steps"].clone();

    // Before it is started nothing is told.
    let mut alice = edge.user("alice");
    assert_eq!(bob.change()["status"], "online");
    assert_eq!(steps(), json!([]));
    assert_eq!(edge.metric("online_status_trace_steps_total", ""), 0.0);

    let (status, started) = trace("PUT /trace?userId=alice", "{\"minutes\":2}");
    assert_eq!(status, 200, "{started}");
    assert_eq!(
        (&started["user"], &started["by"]),
        (&"alice".into(), &"root".into())
    );
    assert_eq!(trace("GET /trace", "").1["traced"][0]["user"], "alice");
    // A core takes it with its next tick.
    let mut told = Value::Null;
    for n in 0..100 {
        let status = ["away", "online"][n % 2];
        alice.ask(&json!({ "type": "status", "status": status }), "ok");
        assert_eq!(bob.change()["status"], status);
        std::thread::sleep(Duration::from_millis(150));
        told = steps();
        if way(&told).contains(&"published") && way(&told).contains(&"delivered") {
            break;
        }
    }
    // The store and the watchers are told side by side.
    let events = way(&told);
    for order in [
        ["changed", "store_sent", "stored"],
        ["changed", "bus_sent", "published"],
    ] {
        let places = order.map(|event| events.iter().position(|it| *it == event));
        assert!(places.is_sorted() && places[0] == Some(0), "{events:?}");
    }
    let once: BTreeSet<_> = events.iter().collect();
    assert_eq!(events.len(), once.len(), "{events:?}");
    let all = told.as_array().expect("a list");
    let delivered = all.iter().find(|step| step["event"] == "delivered");
    assert_eq!(delivered.expect("it was")["watchers"], 1);
    assert!(edge.metric("online_status_trace_steps_total", "") >= 4.0);

    // Another user's steps are nobody's business.
    assert_eq!(trace("GET /trace?userId=bob", "").1["steps"], json!([]));
    let ended = trace("DELETE /trace?userId=alice", "");
    assert_eq!(ended, (200, json!({ "user": "alice", "until": null })));
    assert_eq!(trace("DELETE /trace?userId=alice", "").0, 404);
    let ended = trace("GET /trace?userId=alice", "").1;
    assert_eq!(ended["until"], Value::Null);
    assert!(
        ended["steps"]
            .as_array()
            .is_some_and(|steps| !steps.is_empty())
    );

    for (line, body, expected) in [
        ("PUT /trace?userId=alice", "{\"minutes\":61}", 400),
        ("PUT /trace?userId=alice", "[]", 400),
        ("PUT /trace", "", 400),
        ("POST /trace?userId=alice", "", 405),
        ("GET /trace?userId=a&userId=b", "", 400),
    ] {
        assert_eq!(trace(line, body).0, expected, "{line} {body}");
    }
    for n in 0..5 {
        assert_eq!(trace(&format!("PUT /trace?userId=t{n}"), "").0, 200);
    }
    let (status, refused) = trace("PUT /trace?userId=t5", "");
    assert_eq!(status, 409, "{refused}");
    let token = crate::common::token("alice");
    assert_eq!(ask(&edge, &token, "GET /trace?userId=alice", "").0, 403);
    // A trace ends with the process: nothing of it is kept.
    let kept = std::fs::read_to_string(folder.0.join("policy.json")).unwrap_or_default();
    assert!(!kept.contains("trace:"), "{kept}");
}

#[test]
fn an_administrator_sees_who_watches_a_user() {
    let edge = Edge::start(&["--presence-max-devices", "60"]);
    let watchers = || answered(&edge, "GET /watchers?userId=alice");
    assert_eq!(watchers()["total"], 0);
    let mut bob = edge.user("bob");
    bob.watch(&["alice"]);
    let mut carol: Vec<_> = (0..54).map(|_| edge.user("carol")).collect();
    carol.iter_mut().for_each(|it| _ = it.watch(&["alice"]));
    let told = watchers();
    // Each core names some.
    let named = told["sessions"].as_array().expect("a list");
    assert_eq!((named.len(), &told["notNamed"]), (50, &json!(5)), "{told}");
    assert_eq!(told["total"], 55, "{told}");
    let first = &named[0];
    assert_eq!(
        (&first["user"], &first["node"]),
        (&json!("bob"), &json!("standalone"))
    );
    drop(carol);
    bob.ask(&json!({ "type": "unwatch", "users": ["alice"] }), "ok");
    let mut left = Value::Null;
    for _ in 0..100 {
        left = watchers();
        if left["total"] == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((&left["total"], &left["sessions"]), (&json!(0), &json!([])));

    let token = crate::common::token("alice");
    for (token, line, expected) in [
        (&token, "GET /watchers?userId=alice", 403),
        (&token, "GET /slow", 403),
        (&admin(), "GET /watchers", 400),
        (&admin(), "POST /slow", 405),
    ] {
        assert_eq!(ask(&edge, token, line, "").0, expected, "{line}");
    }
}
