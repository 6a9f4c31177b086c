//! Servers that cannot be used, or not any more: too old, a replica, full, silent about themselves.

use std::time::Duration;

use crate::common::{connect, lease, run_one, stored, until, user};
use protocol::Lease;
use redis_store::{
    Done, MapWrite, Op, Renewal, StoreError,
    testing::{Detour, RedisServer},
};
use ring::{Epoch, Map, MapVersion, NodeId, Vnode, VnodeCount};

fn write(number: u64) -> Op {
    Op::Write {
        vnode: Vnode::new(1),
        epoch: Epoch::new(1),
        records: vec![(user(number), stored(1, number, true))],
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_with_a_line_that_says_so() {
    let server = RedisServer::start();
    let name = b"redis_version:";
    let older = Detour::with(server.port(), move |bytes| {
        if let Some(at) = bytes.windows(name.len()).position(|part| part == name) {
            bytes[at + name.len()] = b'6';
        }
    });
    let link = connect(&format!("redis://127.0.0.1:{}", older.port()));
    let error = run_one(&link, write(1)).await.expect_err("it is too old");
    let StoreError::Unavailable(text) = &error else {
        panic!("{error:?}")
    };
    assert!(
        text.contains("version is 6.") && text.contains("Redis 7.0"),
        "{text}"
    );
    assert_eq!(server.cli(&["dbsize"]).trim(), "0");
}

#[tokio::test]
async fn a_demoted_master_is_left_for_where_its_name_leads_by_then() {
    let first = RedisServer::start();
    let port = first.port().to_string();
    let second = RedisServer::start_with(&["--replicaof", "127.0.0.1", &port]);
    let name = Detour::to(first.port());
    let link = connect(&format!("redis://127.0.0.1:{}", name.port()));
    let mut watch = link.watch_map();
    watch.changed().await.expect("subscribed");
    run_one(&link, write(1)).await.expect("written");
    let run = link.run_id().await.expect("a run id");
    watch.borrow_and_update();

    name.lead_to(second.port());
    let _ = second.cli(&["replicaof", "no", "one"]);
    let port = second.port().to_string();
    let _ = first.cli(&["replicaof", "127.0.0.1", &port]);
    // Its connections are there still: only its answers say that it is the master no more.
    let done = until(async || run_one(&link, write(2)).await.ok()).await;
    assert_eq!(done, Done::Written);
    assert_eq!(
        second.cli(&["hexists", "os:{v1}:users", "user-2"]).trim(),
        "1"
    );
    assert!(link.counters().turned_away >= 1);
    assert_ne!(link.run_id().await, Ok(run));
    watch
        .changed()
        .await
        .expect("subscribed where the name leads");
    let mut pipeline: Vec<Op> = (3..50).map(write).collect();
    pipeline.push(Op::Release {
        vnode: Vnode::new(1),
        epoch: Epoch::new(1),
    });
    assert!(link.run(pipeline).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_server_that_only_reads_of_it_show_to_be_a_replica_is_left_too() {
    let first = RedisServer::start();
    let second = RedisServer::start();
    let name = Detour::to(first.port());
    let link = connect(&format!("redis://127.0.0.1:{}", name.port()));
    link.run_id().await.expect("a run id");
    let port = second.port().to_string();
    let _ = first.cli(&["replicaof", "127.0.0.1", &port]);
    let error = link.run_id().await.expect_err("it is a replica");
    assert!(error.to_string().contains("is a replica of"), "{error}");
    // As long as it leads to the replica no connection is taken.
    let error = until(async || link.run_id().await.err()).await;
    assert!(error.to_string().contains("is a replica of"), "{error}");
    name.lead_to(second.port());
    until(async || link.run_id().await.ok()).await;
}

#[tokio::test]
async fn a_master_that_lacks_replicas_is_asked_again_and_not_all_the_time() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    run_one(&link, write(1)).await.expect("written");
    let _ = server.cli(&["config", "set", "min-replicas-to-write", "1"]);
    for _ in 0..200 {
        let error = run_one(&link, write(2)).await.expect_err("refused");
        assert!(error.to_string().contains("NOREPLICAS"), "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let turned_away = link.counters().turned_away;
    assert!((2..40).contains(&turned_away), "{turned_away} times");
    let _ = server.cli(&["config", "set", "min-replicas-to-write", "0"]);
    until(async || run_one(&link, write(3)).await.ok()).await;
}

#[tokio::test]
async fn a_server_that_forbids_to_ask_about_it_is_used_all_the_same() {
    let server = RedisServer::start();
    let _ = server.cli(&["acl", "setuser", "default", "-info", "-hello", "-config"]);
    let link = connect(&server.url());
    crate::common::exercise(&link).await;
    let health = link.health();
    assert!(health.silent.is_some_and(|why| why.contains("NOPERM")));
    assert_eq!(link.take_notices().len(), 1);
    let run = link.run_id().await.expect("what stands for it");
    assert_eq!(link.run_id().await, Ok(run.clone()));
    assert_eq!(link.take_notices(), Vec::<String>::new());
    // Whether it is another process is not known, so that a new connection counts as one.
    let _ = server.cli(&["client", "kill", "type", "normal"]);
    let again = until(async || link.run_id().await.ok().filter(|id| *id != run)).await;
    assert_ne!(again, run);
}

#[tokio::test]
async fn an_eviction_policy_is_said_when_it_changes() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.run_id().await.expect("a run id");
    assert_eq!((link.health().evicting, link.take_notices().len()), (0, 0));
    let _ = server.cli(&["config", "set", "maxmemory-policy", "volatile-lru"]);
    for _ in 0..3 {
        link.run_id().await.expect("a run id");
    }
    let said = link.take_notices();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("volatile-lru") && said[0].contains("noeviction"));
    assert_eq!(link.health().evicting, 1);
    let _ = server.cli(&["config", "set", "maxmemory-policy", "noeviction"]);
    link.run_id().await.expect("a run id");
    assert_eq!((link.health().evicting, link.take_notices().len()), (0, 1));
}

#[tokio::test]
async fn a_full_server_refuses_records_and_keeps_leases_leader_map_and_owners() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let ttl = Duration::from_secs(60);
    let claim = |epoch| Op::Claim {
        vnode: Vnode::new(1),
        epoch: Epoch::new(epoch),
        wait_below: Epoch::default(),
        since_ms: 0,
    };
    run_one(&link, claim(1)).await.expect("claimed");
    run_one(&link, write(1)).await.expect("written");
    link.renew(&lease(), ttl, true).await.expect("a lease");
    let _ = server.cli(&["config", "set", "maxmemory", "1"]);

    let error = run_one(&link, write(2))
        .await
        .expect_err("there is no room");
    assert!(error.to_string().contains("OOM"), "{error}");
    link.run_id().await.expect("a run id");
    assert!(link.health().is_full && link.health().limit == Some(1));
    assert!(link.counters().full >= 1);
    assert!(link.take_notices().iter().any(|said| said.contains("full")));

    assert_eq!(link.renew(&lease(), ttl, false).await, Ok(Renewal::Kept));
    let other = Lease {
        node: "n2".into(),
        ..lease()
    };
    assert_eq!(link.renew(&other, ttl, true).await, Ok(Renewal::Created));
    assert_eq!(link.leases().await.expect("leases").good.len(), 2);
    let node = NodeId::parse("n1").expect("a name");
    link.drain(&node, "ops").await.expect("drained");
    link.incarnation().await.expect("an incarnation");
    let token = link.lead("c", ttl, None).await.expect("an answer");
    let token = token.expect("nobody leads");
    let map = Map::empty(VnodeCount::default()).raised(MapVersion::new(0), Epoch::new(1));
    let written = link.write_map(token, MapVersion::new(0), &map).await;
    assert_eq!(written, Ok(MapWrite::Written));
    let taken = run_one(&link, claim(2)).await.expect("claimed");
    assert!(matches!(taken, Done::Claimed { users, .. } if users.len() == 1));
    let release = Op::Release {
        vnode: Vnode::new(1),
        epoch: Epoch::new(2),
    };
    assert_eq!(run_one(&link, release).await, Ok(Done::Released));
    assert_eq!(link.counters().hints_lost, 0);

    let _ = server.cli(&["config", "set", "maxmemory", "0"]);
    let record = Op::Write {
        vnode: Vnode::new(1),
        epoch: Epoch::new(2),
        records: vec![(user(2), stored(2, 1, true))],
    };
    run_one(&link, record).await.expect("written");
    assert!(!link.health().is_full);
}
