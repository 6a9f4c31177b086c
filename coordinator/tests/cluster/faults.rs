//! Coordinators and stores that die, stop and come back.

use std::{thread::sleep, time::Duration};

use redis_store::{
    Link, MapWrite, Options,
    testing::{RedisCluster, RedisServer},
};
use rustix::process::Signal;

use crate::common::{Coordinator, Edge, admin, until};

/// Two coordinators, the leader first.
fn pair(redis: &RedisServer) -> (Coordinator, Coordinator) {
    let one = Coordinator::start(redis, "c1", &[]);
    let two = Coordinator::start(redis, "c2", &[]);
    until("one leads", || (one.leads() || two.leads()).then_some(()));
    if one.leads() { (one, two) } else { (two, one) }
}

#[test]
fn when_the_leader_is_killed_the_other_leads_within_its_ttl_and_goes_on() {
    let redis = RedisServer::start();
    let (leader, follower) = pair(&redis);
    let a = Edge::start(&redis, "a");
    let _b = Edge::start(&redis, "b");
    leader.ready();
    follower.ready();
    leader.until_owned(&[("a", 32), ("b", 32)]);
    // Both answer the same.
    let route = leader.json("/route?userId=alice");
    until("the follower has the map", || {
        (follower.json("/route?userId=alice") == route).then_some(())
    });
    let version = leader.map_version();
    leader.signal(Signal::KILL);
    drop(leader);
    drop(a);
    until("the other leads", || follower.leads().then_some(()));
    follower.until_owned(&[("a", 0), ("b", 64)]);
    assert!(follower.map_version() > version);
    let token = redis.cli(&["get", "os:leader"]);
    assert!(
        token.starts_with("c1 ") || token.starts_with("c2 "),
        "{token}"
    );
}

/// A port at which nobody listens.
const NOBODY: u16 = 1;

/// Its lease would last for a minute.
#[test]
fn a_killed_edge_is_replaced_by_its_closed_connection_unless_that_is_turned_off() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start_for_long(&redis, "a", NOBODY);
    let b = Edge::start_for_long(&redis, "b", NOBODY);
    coordinator.until_owned(&[("a", 32), ("b", 32)]);
    // Until the coordinator has read Redis for a while, closed connections say nothing.
    sleep(Duration::from_millis(1_600));
    drop(b);
    coordinator.until_owned(&[("a", 64), ("b", 0)]);
    assert_eq!(coordinator.state("b"), "dead");
    assert!(
        coordinator
            .log()
            .contains("its connection to the store was closed")
    );
    let ended = coordinator.metric("closed_connections_total", r#"result="ended""#);
    assert_eq!(ended.to_bits(), 1.0_f64.to_bits());
    until("the lease that it left is taken away", || {
        (redis.cli(&["exists", "os:node:b"]).trim() == "0").then_some(())
    });
    // Clients still reach it: it has lost its connection to Redis alone.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let d = Edge::start_for_long(&redis, "d", port);
    coordinator.until_owned(&[("a", 32), ("b", 0), ("d", 32)]);
    drop(d);
    sleep(Duration::from_secs(1));
    assert_eq!(coordinator.owned().get("d"), Some(&32));
    drop(listener);
    coordinator.until_owned(&[("a", 64), ("b", 0), ("d", 0)]);
    drop(coordinator);

    let off = ["--rebalance-closed-for", "0s"];
    let coordinator = Coordinator::start(&redis, "c2", &off);
    let c = Edge::start_for_long(&redis, "c", NOBODY);
    coordinator.until_owned(&[("a", 32), ("c", 32)]);
    sleep(Duration::from_millis(1_600));
    drop(c);
    sleep(Duration::from_secs(1));
    assert_eq!(coordinator.owned().get("c"), Some(&32));
}

#[test]
fn a_leader_that_was_paused_cannot_overwrite_what_its_successor_wrote() {
    let redis = RedisServer::start();
    let (old, new) = pair(&redis);
    let _a = Edge::start(&redis, "a");
    let _b = Edge::start(&redis, "b");
    old.ready();
    new.until_owned(&[("a", 32), ("b", 32)]);
    let leader = redis.cli(&["get", "os:leader"]);
    let token: u64 = leader
        .trim()
        .rsplit(' ')
        .next()
        .and_then(|t| t.parse().ok())
        .expect("a token");
    old.signal(Signal::STOP);
    until("the other leads", || new.leads().then_some(()));
    let _c = Edge::start(&redis, "c");
    until("c has its share", || {
        (new.owned().get("c") == Some(&21)).then_some(())
    });
    let version = new.map_version();
    let map = redis.cli(&["--no-raw", "get", "os:map"]);
    // What it might have been about to write.
    let written = write_as(&redis, token);
    assert!(matches!(written, MapWrite::Superseded { token: newer } if newer > token));
    old.signal(Signal::CONT);
    until("the old leader follows", || {
        (!old.leads() && old.map_version() == version).then_some(())
    });
    sleep(Duration::from_millis(500));
    assert_eq!(redis.cli(&["--no-raw", "get", "os:map"]), map);
    assert!(new.leads());
    assert_eq!(old.owned(), new.owned());
}

/// Writes a successor of the map with the token.
fn write_as(redis: &RedisServer, token: u64) -> MapWrite {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let link = Link::open(Options::new(redis.url())).expect("good options");
        let map = link.map().await.expect("it answers").expect("a map");
        let next = map.raised(map.version(), map.highest_epoch());
        let written = link.write_map(token, map.version(), &next).await;
        written.expect("it answers")
    })
}

#[test]
fn without_the_store_it_answers_from_its_last_map_and_says_so() {
    let mut redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let a = Edge::start(&redis, "a");
    let b = Edge::start(&redis, "b");
    coordinator.until_owned(&[("a", 32), ("b", 32)]);
    let route = coordinator.get("/route?userId=alice");
    assert_eq!(route.header("online-status-stale"), None);
    let before = until("the edge has the map", || a.map());
    redis.stop();
    let stale = until("it says so", || {
        let answer = coordinator.get("/route?userId=alice");
        answer
            .header("online-status-stale")
            .is_some()
            .then_some(answer)
    });
    let (mut body, whole) = (stale.json(), route.json());
    assert!(body["stale"].as_u64() >= Some(1));
    body.as_object_mut().expect("an object").remove("stale");
    assert_eq!((stale.status, body), (200, whole));
    for path in ["/map", "/nodes"] {
        assert!(
            coordinator.json(path)["stale"].as_u64() >= Some(1),
            "{path}"
        );
    }
    let auth = admin();
    let auth = [("authorization", auth.as_str())];
    for path in [
        "/revocations",
        "/blocks?user=a",
        "/groups?group=a",
        "/trace",
    ] {
        let answer = coordinator.ask("GET", path, &auth, b"");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.header("online-status-stale").is_some(), "{path}");
    }
    let ready = coordinator.get("/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("last confirmed"), "{}", ready.text());
    assert!(coordinator.log().contains("the store cannot be used"));
    // Longer than a lease lasts.
    sleep(Duration::from_secs(2));
    assert_eq!(coordinator.state("a"), "active");

    // It comes back with nothing in it.
    redis.start_again();
    let after = until("a newer map", || {
        a.map().filter(|map| map.version() > before.version())
    });
    let owners = |map: &ring::Map| -> Vec<_> {
        let owner = |vnode| map.owner(vnode).map(|(node, _)| node.clone());
        map.count().all().map(owner).collect()
    };
    assert_eq!(owners(&after), owners(&before), "nobody moves");
    assert!(
        after
            .count()
            .all()
            .all(|v| after.epoch(v) > before.highest_epoch())
    );
    coordinator.until_owned(&[("a", 32), ("b", 32)]);
    until("it is not stale", || {
        let answer = coordinator.get("/route?userId=alice");
        answer.header("online-status-stale").is_none().then_some(())
    });
    assert!(coordinator.log().contains("the store answers again"));
    // The crash of a node is noticed as ever.
    drop(b);
    coordinator.until_owned(&[("a", 64), ("b", 0)]);
}

#[test]
fn it_starts_before_the_store_and_works_on_a_redis_cluster() {
    let mut redis = RedisServer::start();
    redis.stop();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    assert_eq!(coordinator.get("/healthz").status, 200);
    assert_eq!(coordinator.get("/readyz").status, 503);
    until("it complains", || {
        coordinator
            .log()
            .contains("the store cannot be used")
            .then_some(())
    });
    redis.start_again();
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    drop(coordinator);

    let cluster = RedisCluster::start();
    let directory = cluster.servers[0].directory();
    let secret = ["--auth-secret", crate::common::SECRET];
    let coordinator = Coordinator::start_at(&cluster.url(), directory, "c2", &secret);
    let a = Edge::start_at(cluster.url(), "a", |_| {});
    let _b = Edge::start_at(cluster.url(), "b", |_| {});
    coordinator.until_owned(&[("a", 32), ("b", 32)]);
    let auth = crate::common::admin();
    let auth = [("authorization", auth.as_str())];
    let body = br#"{"users":["alice","bob","carol"]}"#;
    assert_eq!(coordinator.ask("POST", "/status", &auth, body).status, 200);
    assert_eq!(
        coordinator.ask("POST", "/nodes/b/drain", &auth, b"").status,
        200
    );
    coordinator.until_owned(&[("a", 64), ("b", 0)]);
    assert_eq!(
        coordinator
            .ask("POST", "/nodes/b/undrain", &auth, b"")
            .status,
        200
    );
    drop(a);
    coordinator.until_owned(&[("a", 0), ("b", 64)]);
}

#[test]
fn a_damaged_map_is_replaced_and_a_foreign_one_is_left_alone() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let _a = Edge::start(&redis, "a");
    coordinator.ready();
    let version = coordinator.map_version();
    let _ = redis.cli(&["setrange", "os:map", "60", "damage"]);
    until("a new map", || {
        (coordinator.map_version() > version).then_some(())
    });
    let route = coordinator.json("/route?userId=alice");
    assert_eq!(route["node"], "a");
    // The magic of another release.
    let version = coordinator.map_version();
    let _ = redis.cli(&["setrange", "os:map", "8", "OSM9"]);
    until("it is named", || {
        coordinator
            .log()
            .contains("not a map of a known format")
            .then_some(())
    });
    assert_eq!(coordinator.map_version(), version);
    assert!(
        redis
            .cli(&["getrange", "os:map", "8", "11"])
            .starts_with("OSM9")
    );
    assert_eq!(coordinator.json("/route?userId=alice")["node"], "a");
}
