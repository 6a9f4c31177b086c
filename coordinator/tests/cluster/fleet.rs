//! What the fleet does, seen over HTTP.

use redis_store::testing::RedisServer;
use ring::Map;
use serde_json::json;

use crate::common::{Coordinator, Edge, admin, until};

#[test]
fn edges_come_and_go_and_are_drained_and_every_user_has_an_address() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let answer = coordinator.get("/route?userId=alice");
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(coordinator.get("/readyz").status, 503);

    let a = Edge::start(&redis, "a");
    let _b = Edge::start(&redis, "b");
    coordinator.ready();
    coordinator.until_owned(&[("a", 32), ("b", 32)]);
    let route = coordinator.json("/route?userId=alice");
    let map = Map::decode(
        &coordinator
            .ask(
                "GET",
                "/map",
                &[("accept", "application/octet-stream")],
                b"",
            )
            .body,
    )
    .expect("a map");
    let vnode = map.count().vnode("alice");
    let (node, epoch) = map.owner(vnode).expect("all are owned");
    assert_eq!(
        route,
        json!({
            "userId": "alice", "vnode": vnode.get(), "node": &*node.id,
            "address": format!("ws://{}.example/socket", node.id),
            "epoch": epoch.get(), "mapVersion": map.version().get(),
        })
    );
    let listed = coordinator.json("/map");
    let runs = listed["runs"].as_array().expect("a list");
    let run = runs
        .iter()
        .find(|run| run["last"].as_u64() >= Some(vnode.get().into()));
    assert_eq!(run.expect("all vnodes")["node"], route["node"]);

    let _c = Edge::start(&redis, "c");
    until("c has its share", || {
        (coordinator.owned().get("c") == Some(&21)).then_some(())
    });
    let auth = admin();
    let auth = [("authorization", auth.as_str())];
    let drained = coordinator.ask("POST", "/nodes/b/drain", &auth, b"");
    assert_eq!(
        (drained.status, drained.json()),
        (200, json!({ "node": "b", "drained": true }))
    );
    coordinator.until_owned(&[("a", 32), ("b", 0), ("c", 32)]);
    assert_eq!(coordinator.state("b"), "drained");
    assert_eq!(
        coordinator
            .ask("POST", "/nodes/b/undrain", &auth, b"")
            .status,
        200
    );
    until("b is back", || {
        (coordinator.owned()["b"] >= 21).then_some(())
    });

    // A crash.
    drop(a);
    until("a is dead", || {
        (coordinator.state("a") == "dead").then_some(())
    });
    coordinator.until_owned(&[("a", 0), ("b", 32), ("c", 32)]);
    assert!(coordinator.log().contains("node a is gone"));
    assert!((coordinator.metric("nodes", "dead") - 1.0).abs() < 0.1);
}

#[test]
fn the_timeline_says_who_drained_what_and_a_rebalance_is_one_entry_at_every_coordinator() {
    let redis = RedisServer::start();
    // A vnode a step.
    let steps = ["--rebalance-max-in-motion", "1"];
    let coordinators = ["c1", "c2"].map(|id| Coordinator::start(&redis, id, &steps));
    let _edges = ["a", "b"].map(|name| Edge::start(&redis, name));
    coordinators.iter().for_each(Coordinator::ready);
    coordinators[0].until_owned(&[("a", 32), ("b", 32)]);
    let auth = admin();
    let auth = [("authorization", auth.as_str())];
    for (action, owned) in [("drain", [64, 0]), ("undrain", [32, 32])] {
        let asked = coordinators[1].ask("POST", &format!("/nodes/b/{action}"), &auth, b"");
        assert_eq!(asked.status, 200);
        for coordinator in &coordinators {
            coordinator.until_owned(&[("a", owned[0]), ("b", owned[1])]);
        }
    }
    for coordinator in &coordinators {
        let events = coordinator.json("/nodes")["events"].clone();
        let events = events.as_array().expect("a list");
        let told: Vec<(&str, &str)> = (events.iter())
            .map(|event| {
                let text = |key: &str| event[key].as_str().expect("a text");
                (text("kind"), text("message"))
            })
            .filter(|(kind, _)| ["drain", "move", "fault"].contains(kind))
            .collect();
        let kinds: Vec<&str> = told.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            ["move", "drain", "move", "drain", "move"],
            "{told:?}"
        );
        assert_eq!(told[1].1, "node b is drained, as \"ops\" asked");
        assert_eq!(told[3].1, "node b is drained no more, as \"ops\" asked");
        for (at, moves) in [(2, "32 b → a"), (4, "32 a → b")] {
            let (_, text) = told[at];
            assert!(
                text.starts_with("maps ")
                    && text.ends_with(&format!(": 32 vnodes have another owner: {moves}")),
                "{told:?}"
            );
        }
        let maps = events.iter().filter(|event| event["kind"] == "map").count();
        assert!(maps > 32, "{maps}: each step is one");
    }
}

#[test]
fn bad_pins_are_named_and_good_ones_win() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start_with(&redis, "a", |lease| lease.pins = "0-3".into());
    let _b = Edge::start_with(&redis, "b", |lease| lease.pins = "3-5,99".into());
    coordinator.ready();
    let map = coordinator.json("/map");
    let runs = map["runs"].as_array().expect("a list").clone();
    let owner = |vnode: u64| {
        let run = runs.iter().find(|run| run["last"].as_u64() >= Some(vnode));
        run.expect("all vnodes")["node"].clone()
    };
    assert!((0..4).all(|vnode| owner(vnode) == "a") && (4..6).all(|vnode| owner(vnode) == "b"));
    let problems = coordinator.json("/nodes")["problems"].to_string();
    assert!(
        problems.contains("vnode 3 is pinned to a and to b"),
        "{problems}"
    );
    assert!(problems.contains("vnode 99 does not exist"), "{problems}");
    assert!((coordinator.metric("problems", "pinned_twice") - 1.0).abs() < 0.1);
    assert!(
        coordinator
            .log()
            .contains("vnode 3 is pinned to a and to b")
    );
}

#[test]
fn who_waits_for_a_newer_map_gets_it_when_it_is_there() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let version = coordinator.map_version();
    let path = format!("/map?after={version}");
    let address = coordinator.address;
    let waiting = std::thread::spawn(move || crate::common::ask(address, "GET", &path, &[], b""));
    until("it waits", || {
        (coordinator.metric("waiters", "") > 0.5).then_some(())
    });
    let _b = Edge::start(&redis, "b");
    let answer = waiting.join().expect("no panic");
    assert_eq!(answer.status, 200);
    assert!(answer.json()["version"].as_u64() > Some(version));
    let at_once = coordinator.json("/map?after=0");
    assert!(at_once["version"].as_u64() > Some(version));
}

#[test]
fn presence_is_read_from_the_store() {
    use protocol::{Record, Status, Stored, Version};
    use redis_store::{Link, Op, Options};
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let vnodes = ring::VnodeCount::new(64).expect("a power of two");
    let lunch = Stored {
        record: Record {
            since: 5,
            last_seen: 7,
            devices: 2,
            text: "lunch".into(),
            version: Version::from_u64(1 << 40).expect("in range"),
            ..Record::default()
        },
        ..Stored::default()
    };
    let stored = |status| {
        let mut stored = lunch.clone();
        stored.record.status = status;
        stored
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let link = Link::open(Options::new(redis.url())).expect("good options");
        for (user, status) in [("bob", Status::Away), ("carol", Status::Offline)] {
            let op = Op::Write {
                vnode: vnodes.vnode(user),
                epoch: ring::Epoch::new(u32::MAX >> 12),
                records: vec![(user.into(), stored(status))],
            };
            assert!(link.run(vec![op]).await.iter().all(Result::is_ok));
        }
    });
    let auth = admin();
    let auth = [("authorization", auth.as_str())];
    let bob = json!({
        "user": "bob", "status": "away", "text": "lunch", "since": 5, "devices": 2,
        "version": 1_u64 << 40,
    });
    let answer = coordinator.ask("GET", "/status?userId=bob", &auth, b"");
    assert_eq!((answer.status, answer.json()), (200, bob.clone()));
    let body = br#"{"users":["carol","nobody","bob","carol"]}"#;
    let answer = coordinator.ask("POST", "/status", &auth, body);
    let carol = json!({
        "user": "carol", "status": "offline", "text": "lunch", "since": 5, "last_seen": 7,
        "devices": 2, "version": 1_u64 << 40,
    });
    let nobody = json!({ "user": "nobody", "status": "offline", "devices": 0, "version": 0 });
    assert_eq!(
        answer.json(),
        json!({ "users": [carol, nobody, bob, carol] })
    );
}
