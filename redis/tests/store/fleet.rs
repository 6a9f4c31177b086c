//! Leases, the map, the leader, and what tells one store from another.

use std::time::Duration;

use crate::common::{connect, until};
use protocol::Lease;
use redis_store::{Leader, MapWrite, Renewal, StoreError, testing::RedisServer};
use ring::{Epoch, Map, MapError, MapVersion, NodeId, VnodeCount};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);

fn lease(node: &str, boot: u64) -> Lease {
    Lease {
        node: node.into(),
        boot,
        address: format!("ws://{node}/socket"),
        cores: 2,
        weight: 200,
        ..Lease::default()
    }
}

fn id(name: &str) -> NodeId {
    NodeId::parse(name).expect("a good name")
}

fn map(version: u64) -> Map {
    let before = MapVersion::new(version - 1);
    Map::empty(VnodeCount::default()).raised(before, Epoch::new(1))
}

fn version(version: u64) -> MapVersion {
    MapVersion::new(version)
}

#[tokio::test]
async fn a_lease_belongs_to_one_life_of_its_node() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    // These two are one number in Lua and in JavaScript.
    let (old, new) = (u64::MAX - 1, u64::MAX);
    let renew = async |boot, newcomer| link.renew(&lease("n1", boot), LONG, newcomer).await;
    assert_eq!(renew(old, true).await, Ok(Renewal::Created));
    assert_eq!(renew(old, true).await, Ok(Renewal::Kept));
    assert_eq!(renew(old, false).await, Ok(Renewal::Kept));
    assert_eq!(renew(new, false).await, Ok(Renewal::Refused));
    assert_eq!(renew(new, true).await, Ok(Renewal::TookOver));
    assert_eq!(renew(old, false).await, Ok(Renewal::Refused));
    let leases = link.leases().await.expect("the leases");
    assert_eq!(leases.good, [lease("n1", new)]);
    let left: u64 = server
        .cli(&["pttl", "os:node:n1"])
        .trim()
        .parse()
        .expect("a number");
    assert!(left > 500_000, "{left}");
}

#[tokio::test]
async fn a_lease_ends_by_itself_and_may_be_made_again() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.renew(&lease("n1", 1), SHORT, true)
        .await
        .expect("a lease");
    let leases = until(async || {
        let leases = link.leases().await.expect("the leases");
        leases.good.is_empty().then_some(leases)
    })
    .await;
    assert_eq!(leases.gone, ["n1"]);
    let again = link.renew(&lease("n1", 1), LONG, false).await;
    assert_eq!(again, Ok(Renewal::Created));
}

#[tokio::test]
async fn a_name_that_was_forgotten_comes_back_with_the_next_renewal() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.renew(&lease("n1", 1), LONG, true)
        .await
        .expect("a lease");
    link.forget_name("n1").await.expect("forgotten");
    assert!(link.leases().await.expect("the leases").good.is_empty());
    link.renew(&lease("n1", 1), LONG, false)
        .await
        .expect("a lease");
    assert_eq!(link.leases().await.expect("the leases").good.len(), 1);
}

#[tokio::test]
async fn only_its_own_life_ends_a_lease() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.renew(&lease("n1", 2), LONG, true)
        .await
        .expect("a lease");
    link.forget(&id("n1"), 1).await.expect("an answer");
    assert_eq!(link.leases().await.expect("the leases").good.len(), 1);
    link.forget(&id("n1"), 2).await.expect("an answer");
    let leases = link.leases().await.expect("the leases");
    assert!(leases.good.is_empty() && leases.gone.is_empty());
    link.forget(&id("n1"), 2).await.expect("it may be repeated");
}

#[tokio::test]
async fn a_lease_that_was_ended_leaves_the_name() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.renew(&lease("n1", 2), LONG, true)
        .await
        .expect("a lease");
    link.end_lease(&id("n1"), 1).await.expect("an answer");
    assert_eq!(link.leases().await.expect("the leases").good.len(), 1);
    link.end_lease(&id("n1"), 2).await.expect("an answer");
    let leases = link.leases().await.expect("the leases");
    assert_eq!((leases.good.len(), leases.gone), (0, vec!["n1".to_owned()]));
}

#[tokio::test]
async fn a_process_is_alive_for_as_long_as_it_has_its_subscription() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let all = [(id("n1"), u64::MAX), (id("n1"), 2), (id("n2"), 3)];
    let until_alive = async |expected: &[(NodeId, u64)]| {
        let expected = Ok(Some(expected.iter().cloned().collect()));
        until(async || (link.alive(&all).await == expected).then_some(())).await;
    };
    until_alive(&[]).await;
    let first = link.watch_map_as(&id("n1"), u64::MAX);
    let _second = link.watch_map_as(&id("n2"), 3);
    until_alive(&[all[0].clone(), all[2].clone()]).await;
    drop(first);
    until_alive(&all[2..]).await;
    // A connection that somebody else closed is there again by itself.
    let _ = server.cli(&["client", "kill", "type", "pubsub"]);
    until_alive(&all[2..]).await;
    assert_eq!(link.alive(&[]).await, Ok(Some([].into())));
}

#[tokio::test]
async fn a_server_that_does_not_tell_whose_connection_is_there_is_used_all_the_same() {
    let server = RedisServer::start();
    let rule = ["resetchannels", "&os:map:changed", "-pubsub"];
    let _ = server.cli(&[&["acl", "setuser", "default"], &rule[..]].concat());
    let link = connect(&server.url());
    let mut watch = link.watch_map_as(&id("n1"), 1);
    watch.changed().await.expect("subscribed");
    let notices = link.take_notices().join("\n");
    assert!(
        notices.contains("a crash is noticed when the lease ends"),
        "{notices}"
    );
    assert_eq!(link.alive(&[(id("n1"), 1)]).await, Ok(None));
    assert_eq!(link.alive(&[(id("n1"), 1)]).await, Ok(None));
    assert_eq!(link.take_notices().len(), 1);
    let written = link.write_map(1, version(0), &map(1)).await;
    assert_eq!(written, Ok(MapWrite::Written));
    watch.changed().await.expect("announced");
}

#[tokio::test]
async fn a_lease_that_cannot_be_used_is_named_and_the_others_are_there() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.renew(&lease("n1", 1), LONG, true)
        .await
        .expect("a lease");
    let _ = server.cli(&["sadd", "os:nodes", "list", "text", "other"]);
    let _ = server.cli(&["rpush", "os:node:list", "x"]);
    let _ = server.cli(&["set", "os:node:text", "x"]);
    let _ = server.cli(&["set", "os:node:other", &lease("n9", 1).encode()]);
    let leases = link.leases().await.expect("the leases");
    assert_eq!(leases.good, [lease("n1", 1)]);
    let bad: Vec<&str> = leases.bad.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(bad, ["list", "other", "text"]);
    assert!(leases.bad[1].1.contains("n9"), "{:?}", leases.bad);
    let refused = link.renew(&lease("text", 1), LONG, false).await;
    assert_eq!(refused, Ok(Renewal::Refused));
    let taken = link.renew(&lease("text", 1), LONG, true).await;
    assert_eq!(taken, Ok(Renewal::TookOver));
}

#[tokio::test]
async fn a_map_follows_the_one_that_its_writer_has_read() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    assert_eq!(link.map().await, Ok(None));
    assert_eq!(link.map_version().await, Ok(None));
    let write = async |token, after, new| link.write_map(token, version(after), &map(new)).await;
    assert_eq!(write(1, 0, 7).await, Ok(MapWrite::Written));
    assert_eq!(write(1, 7, 8).await, Ok(MapWrite::Written));
    assert_eq!(write(1, 7, 8).await, Ok(MapWrite::Written), "a repetition");
    let not_next = MapWrite::NotNext {
        version: version(8),
    };
    assert_eq!(write(1, 7, 9).await, Ok(not_next));
    assert_eq!(write(1, 0, 9).await, Ok(not_next));
    assert_eq!(write(1, 8, 20).await, Ok(MapWrite::Written), "a raised map");
    assert_eq!(link.map().await, Ok(Some(map(20))));
    assert_eq!(link.map_version().await, Ok(Some(version(20))));
    let _ = server.cli(&["del", "os:map"]);
    assert_eq!(
        write(1, 20, 21).await,
        Ok(MapWrite::Written),
        "where none is"
    );
}

#[tokio::test]
async fn of_two_writers_the_one_with_the_newer_token_stays() {
    let server = RedisServer::start();
    let (old, new) = (connect(&server.url()), connect(&server.url()));
    // As texts, and as numbers of 53 bits, these compare the other way round or not at all.
    let (lower, higher) = (u64::MAX - 1, u64::MAX);
    let written = Ok(MapWrite::Written);
    assert_eq!(old.write_map(9, version(0), &map(1)).await, written);
    assert_eq!(new.write_map(10, version(1), &map(2)).await, written);
    let superseded = |token| Ok(MapWrite::Superseded { token });
    assert_eq!(old.write_map(9, version(2), &map(3)).await, superseded(10));
    assert_eq!(new.write_map(higher, version(2), &map(3)).await, written);
    let late = old.write_map(lower, version(3), &map(4)).await;
    assert_eq!(late, superseded(higher));
    assert_eq!(new.map().await, Ok(Some(map(3))));
}

#[tokio::test]
async fn of_writers_at_the_same_time_one_succeeds() {
    let server = RedisServer::start();
    let links: Vec<_> = (0..8).map(|_| connect(&server.url())).collect();
    for round in 0..5 {
        let writes = links.iter().enumerate().map(async |(n, link)| {
            let mut map = map(round + 1);
            // Each writer's map is another one.
            for _ in 0..n {
                map = map.raised(version(0), Epoch::new(1));
            }
            link.write_map(1, version(round), &map)
                .await
                .expect("an answer")
        });
        let done = futures_util::future::join_all(writes).await;
        // The versions differ as well, so all but the first find another map.
        let written = done.iter().filter(|d| **d == MapWrite::Written).count();
        assert_eq!(written, 1, "{done:?}");
        let _ = server.cli(&["del", "os:map"]);
        let reset = links[0].write_map(1, version(0), &map(round + 1)).await;
        assert_eq!(reset, Ok(MapWrite::Written));
    }
}

#[tokio::test]
async fn a_corrupt_map_is_named_and_can_be_replaced() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.write_map(3, version(0), &map(5))
        .await
        .expect("written");
    let _ = server.cli(&["setrange", "os:map", "40", "torn"]);
    let error = link.map().await.expect_err("its checksum is wrong");
    let StoreError::CorruptMap {
        version: there,
        error,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((there, error), (version(5), MapError::Checksum));
    let done = link.write_map(3, there, &map(6)).await;
    assert_eq!(done, Ok(MapWrite::Written));
    let _ = server.cli(&["set", "os:map", "x"]);
    let error = link.map().await.expect_err("it is no map");
    let format = StoreError::CorruptMap {
        version: version(0),
        error: MapError::Format,
    };
    assert_eq!(error, format);
    assert_eq!(
        link.write_map(1, version(0), &map(1)).await,
        Ok(MapWrite::Written)
    );
    let _ = server.cli(&["set", "os:map:version", "x"]);
    assert!(matches!(
        link.map_version().await,
        Err(StoreError::Unexpected(_))
    ));
}

#[tokio::test]
async fn one_coordinator_leads_with_a_token_that_only_grows() {
    let server = RedisServer::start();
    let (one, two) = (connect(&server.url()), connect(&server.url()));
    let first = one
        .lead("c1", LONG, None)
        .await
        .expect("an answer")
        .expect("nobody leads");
    assert_eq!(two.lead("c2", LONG, None).await, Ok(None));
    assert_eq!(
        one.lead("c1", LONG, None).await,
        Ok(None),
        "its former life may still lead"
    );
    assert_eq!(one.lead("c1", LONG, Some(first)).await, Ok(Some(first)));
    let leader = Leader {
        id: "c1".into(),
        token: first,
    };
    assert_eq!(two.leader().await, Ok(Some(leader)));
    two.resign("c2", first).await.expect("it changes nothing");
    assert_eq!(one.lead("c1", LONG, Some(first)).await, Ok(Some(first)));
    one.resign("c1", first).await.expect("it ends");
    assert_eq!(two.leader().await, Ok(None));
    let second = two
        .lead("c2", SHORT, None)
        .await
        .expect("an answer")
        .expect("nobody leads");
    assert!(second > first);
    assert_eq!(
        one.lead("c1", LONG, Some(first)).await,
        Ok(None),
        "it is fenced"
    );
    let third = until(async || one.lead("c1", LONG, None).await.expect("an answer")).await;
    assert!(third > second);
    assert_eq!(
        two.lead("c2", LONG, Some(second)).await,
        Ok(None),
        "it had expired"
    );
}

#[tokio::test]
async fn a_new_token_is_above_those_that_a_store_has_lost() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    for expected in 1..=3 {
        let token = link.lead("c1", LONG, None).await.expect("an answer");
        assert_eq!(token, Some(expected));
        link.resign("c1", expected).await.expect("resigned");
    }
    // A replica that lacks the last writes takes over.
    let _ = server.cli(&["set", "os:leader:token", "1"]);
    assert_eq!(link.lead("c1", LONG, None).await, Ok(Some(4)));
}

#[tokio::test]
async fn a_new_token_is_above_the_maps_even_if_the_counter_was_lost() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    link.write_map(41, version(0), &map(1))
        .await
        .expect("written");
    let token = link.lead("c1", LONG, None).await.expect("an answer");
    assert_eq!(token, Some(42));
    assert_eq!(
        link.write_map(42, version(1), &map(2)).await,
        Ok(MapWrite::Written)
    );
    link.resign("c1", 42).await.expect("it ends");
    assert_eq!(link.lead("c1", LONG, None).await, Ok(Some(43)));
    let _ = server.cli(&["set", "os:leader", "nobody"]);
    assert!(matches!(
        link.leader().await,
        Err(StoreError::Unexpected(_))
    ));
}

#[tokio::test]
async fn nodes_are_drained_until_they_are_not() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    assert_eq!(link.drained().await, Ok(vec![]));
    for node in ["n2", "n1", "n2"] {
        link.drain(&id(node), "ops").await.expect("drained");
    }
    assert_eq!(link.drained().await, Ok(vec!["n1".into(), "n2".into()]));
    link.undrain("n1", "dave").await.expect("undrained");
    link.undrain("n1", "dave")
        .await
        .expect("it may be repeated");
    assert_eq!(link.drained().await, Ok(vec!["n2".into()]));
    // Who asked, of each of them.
    let names = ["n1", "n2"].map(str::to_owned);
    let asked = [(&names[0], true), (&names[0], false), (&names[1], false)];
    let by = vec![Some("ops".into()), Some("dave".into()), None];
    assert_eq!(link.drained_by(&asked).await, Ok(by));
}

#[tokio::test]
async fn an_incarnation_ends_with_the_content_and_a_run_with_the_process() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (link, other) = (connect(&server.url()), connect(&server.url()));
    let incarnation = link.incarnation().await.expect("an incarnation");
    let run = link.run_id().await.expect("a run id");
    assert_eq!(other.incarnation().await, Ok(incarnation.clone()));
    assert_eq!(other.run_id().await, Ok(run.clone()));
    server.start_again();
    let run_after = until(async || link.run_id().await.ok()).await;
    assert_ne!(run_after, run);
    assert_eq!(
        link.incarnation().await,
        Ok(incarnation.clone()),
        "it was on disk"
    );
    let _ = server.cli(&["flushall"]);
    assert_ne!(link.incarnation().await, Ok(incarnation));
    assert_eq!(link.run_id().await, Ok(run_after));
}

#[tokio::test]
async fn a_watch_wakes_when_a_map_is_written_and_when_it_is_back_after_a_failure() {
    let mut server = RedisServer::start();
    let link = connect(&server.url());
    let mut watch = link.watch_map();
    watch.changed().await.expect("the subscription is there");
    for round in 0..3 {
        link.write_map(1, version(round), &map(round + 1))
            .await
            .expect("written");
        watch.changed().await.expect("a new map");
    }
    let before = *watch.borrow_and_update();
    server.stop();
    server.start_again();
    watch.changed().await.expect("the subscription is back");
    assert!(*watch.borrow_and_update() > before);
    until(async || link.write_map(1, version(0), &map(1)).await.ok()).await;
    watch.changed().await.expect("a new map");
    drop(watch);
    until(async || {
        server
            .cli(&["pubsub", "channels"])
            .trim()
            .is_empty()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_prefix_is_another_cluster() {
    let server = RedisServer::start();
    let here = connect(&server.url());
    let there = redis_store::Link::open(redis_store::Options {
        prefix: "eu:".into(),
        ..crate::common::options(&server.url())
    })
    .expect("good options");
    here.write_map(1, version(0), &map(1))
        .await
        .expect("written");
    here.renew(&lease("n1", 1), LONG, true)
        .await
        .expect("a lease");
    assert_eq!(there.map().await, Ok(None));
    assert!(there.leases().await.expect("the leases").good.is_empty());
    assert_ne!(here.incarnation().await, there.incarnation().await);
}
