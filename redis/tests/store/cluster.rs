//! The same on a Redis Cluster of three masters.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::common::{connect, run_one, stored, until, user};
use redis_store::{Done, Link, Op, StoreError, testing::RedisCluster};
use ring::{Epoch, Map, MapVersion, Vnode, VnodeCount};

fn write(vnode: u16, records: Vec<(Box<str>, protocol::Stored)>) -> Op {
    Op::Write {
        vnode: Vnode::new(vnode),
        epoch: Epoch::new(1),
        records,
    }
}

fn claim(vnode: u16, epoch: u32) -> Op {
    Op::Claim {
        vnode: Vnode::new(vnode),
        epoch: Epoch::new(epoch),
        wait_below: Epoch::default(),
        since_ms: 0,
    }
}

async fn all(link: &Link, ops: Vec<Op>) -> Vec<Done> {
    let done: Result<Vec<Done>, StoreError> = link.run(ops).await.into_iter().collect();
    done.expect("all is done")
}

#[tokio::test]
async fn everything_works_on_a_cluster_too() {
    let cluster = RedisCluster::start();
    // One of its nodes is enough to find the others.
    let link = connect(&cluster.servers[1].url());
    crate::common::exercise(&link).await;
    let rule = crate::common::documented_acl_rule("secret");
    for server in &cluster.servers {
        let set: Vec<&str> = ["acl", "setuser"]
            .into_iter()
            .chain(rule.split(' '))
            .collect();
        assert_eq!(server.cli(&set).trim(), "OK");
    }
    let port = cluster.servers[2].port();
    let url = format!("redis://online-status:secret@127.0.0.1:{port}");
    crate::common::exercise(&connect(&url)).await;

    // All at once, over all masters.
    let ops = (0..5_000).map(|n| write(n % 500, vec![(user(n.into()), stored(1, 1, true))]));
    let done = all(&link, ops.collect()).await;
    assert!(done.iter().all(|done| *done == Done::Written));
    let held: Vec<u64> = cluster
        .servers
        .iter()
        .map(|server| server.cli(&["dbsize"]).trim().parse().expect("a number"))
        .collect();
    assert!(held.iter().all(|keys| *keys > 300), "{held:?}");
    for server in &cluster.servers {
        let _ = server.cli(&["script", "flush"]);
    }
    let claims = all(&link, (0..500).map(|vnode| claim(vnode, 2)).collect()).await;
    let mut users = HashSet::new();
    for claimed in claims {
        let Done::Claimed { users: listed, .. } = claimed else {
            panic!("{claimed:?}")
        };
        users.extend(listed.into_iter().map(|(user, _)| user));
    }
    assert_eq!(users.len(), 5_000);
    let late = run_one(&link, write(7, vec![])).await;
    assert_eq!(late, Ok(Done::Fenced(Epoch::new(2))));

    // What is published at one node is heard at the others.
    let mut watches = Vec::new();
    for server in &cluster.servers {
        let mut watch = connect(&server.url()).watch_map();
        watch.changed().await.expect("subscribed");
        watches.push(watch);
    }
    let map = Map::empty(VnodeCount::default());
    let there = link
        .map()
        .await
        .expect("an answer")
        .expect("a map")
        .version();
    let next = map.raised(there, Epoch::new(1));
    link.write_map(100, there, &next).await.expect("written");
    for watch in &mut watches {
        watch.changed().await.expect("a new map");
    }

    let run_id = link.run_id().await.expect("run ids");
    assert_eq!(run_id.split(',').count(), 3);
    assert_eq!(connect(&cluster.url()).run_id().await, Ok(run_id));
}

#[tokio::test]
async fn a_master_that_is_away_takes_only_its_own_vnodes_along() {
    let mut cluster = RedisCluster::start_with(&[
        "--cluster-require-full-coverage",
        "no",
        "--appendonly",
        "yes",
    ]);
    let link = connect(&cluster.url());
    let ops = || {
        (0..60)
            .map(|vnode| write(vnode, vec![(user(1), stored(1, 1, true))]))
            .collect()
    };
    all(&link, ops()).await;
    let run_id = link.run_id().await.expect("run ids");
    cluster.servers[0].stop();
    let failed = until(async || {
        let done = link.run(ops()).await;
        let failed = done.iter().filter(|done| done.is_err()).count();
        (failed > 0).then_some(failed)
    })
    .await;
    assert!(failed < 60, "the other masters are there");
    assert!(link.run_id().await.is_err(), "two of three are no answer");
    cluster.servers[0].start_again();
    until(async || {
        let done = link.run(ops()).await;
        done.iter().all(Result::is_ok).then_some(())
    })
    .await;
    let again = until(async || link.run_id().await.ok()).await;
    assert_ne!(again, run_id);
}

#[tokio::test]
async fn what_is_asked_of_a_master_that_stands_still_holds_up_nothing_else() {
    let cluster = RedisCluster::start_with(&["--cluster-require-full-coverage", "no"]);
    let link = Link::open(redis_store::Options {
        response_timeout: std::time::Duration::from_millis(1_500),
        ..crate::common::options(&cluster.url())
    })
    .expect("good options");
    // Two operations on each vnode, one of which waits for the other, of more vnodes than are asked
    // at a time.
    let ops = || {
        let write = |vnode| write(vnode, vec![(user(1), stored(1, 1, true))]);
        let read = |vnode| Op::Read {
            vnode: Vnode::new(vnode),
            users: vec![user(1)],
        };
        (0..1_200).map(write).chain((0..1_200).map(read)).collect()
    };
    all(&link, ops()).await;
    let signal = |signal: &str| {
        let process = cluster.servers[0].process_id().expect("it runs");
        let mut kill = std::process::Command::new("kill");
        let sent = kill.args([signal, &process.to_string()]).status();
        assert!(sent.expect("kill").success());
    };
    signal("-STOP");
    let mut answers: Vec<(usize, bool)> = Vec::new();
    let take = |more: redis_store::Answers| {
        answers.extend(more.into_iter().map(|(at, done)| (at, done.is_ok())));
    };
    link.run_each(ops(), take).await;
    // It is known by now: whoever asks for its vnodes hears so at once, not after a timeout each.
    let began = std::time::Instant::now();
    for _ in 0..10 {
        let again = link.run(ops()).await;
        assert!(again.iter().any(Result::is_ok) && again.iter().any(Result::is_err));
    }
    let took = began.elapsed();
    assert!(took.as_millis() < 10 * 1_500, "ten runs took {took:?}");
    // Whoever reads the log or the metrics sees which it is.
    let master = format!("127.0.0.1:{}", cluster.servers[0].port());
    assert_eq!(link.health().masters_down, [&*master]);
    let said = link.take_notices();
    let is_said = |line: &&String| line.contains(&format!("{master} does not answer"));
    assert_eq!(said.iter().filter(is_said).count(), 1, "{said:?}");
    signal("-CONT");
    let numbers: HashSet<usize> = answers.iter().map(|(at, _)| *at).collect();
    assert_eq!((answers.len(), numbers.len()), (2_400, 2_400));
    let done = answers.iter().filter(|(_, done)| *done).count();
    assert!((1_000..2_400).contains(&done), "{done} of 2,400 are done");
    let first_failure = answers.iter().position(|(_, done)| !done);
    assert_eq!(first_failure, Some(done), "{done} are done");
    until(async || {
        let done = link.run(ops()).await;
        done.iter().all(Result::is_ok).then_some(())
    })
    .await;
    assert!(link.health().masters_down.is_empty());
    let said = link.take_notices();
    let back = format!("redis: the master at {master} answers again");
    assert_eq!(said, [back]);
}

#[tokio::test]
async fn a_whole_cluster_that_was_away_is_found_again() {
    let mut cluster = RedisCluster::start_with(&["--appendonly", "yes"]);
    let link = Link::open(redis_store::Options {
        response_timeout: std::time::Duration::from_millis(500),
        ..crate::common::options(&cluster.url())
    })
    .expect("good options");
    let mut watch = link.watch_map();
    watch.changed().await.expect("subscribed");
    let op = || claim(1, 1);
    run_one(&link, op()).await.expect("a claim");
    for server in &mut cluster.servers {
        server.stop();
    }
    let error = run_one(&link, op()).await.expect_err("nobody is there");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    watch.borrow_and_update();
    for server in &mut cluster.servers {
        server.start_again();
    }
    until(async || run_one(&link, op()).await.ok()).await;
    watch.changed().await.expect("subscribed again");
}

#[tokio::test]
async fn slots_may_move_while_records_are_written() {
    let cluster = RedisCluster::start();
    let link = connect(&cluster.url());
    let ids: Vec<String> = cluster
        .servers
        .iter()
        .map(|server| server.cli(&["cluster", "myid"]).trim().to_owned())
        .collect();
    let keys = |server: usize| -> u64 {
        let keys = cluster.servers[server].cli(&["dbsize"]);
        keys.trim().parse().expect("a number")
    };
    let op = |vnode| write(vnode, vec![(user(1), stored(1, 1, true))]);
    all(&link, (0..1_000).map(op).collect()).await;
    let before = keys(0);
    let stop = AtomicBool::new(false);
    let write_on = async {
        let mut seq = 1;
        while !stop.load(Relaxed) {
            seq += 1;
            let op = |vnode| write(vnode, vec![(user(1), stored(1, seq, true))]);
            let done = link.run((0..1_000).map(op).collect()).await;
            // A slot on its way may be refused for a moment; what was not written is written again.
            assert!(done.iter().all(|d| !matches!(d, Ok(Done::Fenced(_)))));
        }
        seq + 1
    };
    let moved = async {
        let server = &cluster.servers[0];
        let address = format!("127.0.0.1:{}", server.port());
        let ids = (ids[0].clone(), ids[1].clone());
        let port = server.port();
        let reshard = tokio::task::spawn_blocking(move || {
            redis_store::testing::cli(
                port,
                &[
                    "--cluster",
                    "reshard",
                    &address,
                    "--cluster-from",
                    &ids.0,
                    "--cluster-to",
                    &ids.1,
                    "--cluster-slots",
                    "40",
                    "--cluster-yes",
                ],
            )
        });
        let _ = reshard.await.expect("the slots move");
        stop.store(true, Relaxed);
    };
    let (seq, ()) = tokio::join!(write_on, moved);
    assert!(keys(0) < before, "vnodes have moved");
    let last = stored(1, seq, true);
    until(async || {
        let op = |vnode| write(vnode, vec![(user(1), last.clone())]);
        let done = link.run((0..1_000).map(op).collect()).await;
        done.iter().all(Result::is_ok).then_some(())
    })
    .await;
    let read = |vnode| Op::Read {
        vnode: Vnode::new(vnode),
        users: vec![user(1)],
    };
    let done = all(&link, (0..1_000).map(read).collect()).await;
    assert!(
        done.iter().all(
            |done| matches!(done, Done::Records(_, records) if *records == [Some(last.clone())])
        )
    );
    let there = Map::empty(VnodeCount::default());
    let next = there.raised(MapVersion::new(0), Epoch::new(1));
    link.write_map(1, MapVersion::new(0), &next)
        .await
        .expect("written");
}

#[tokio::test]
async fn a_replica_that_becomes_the_master_is_found_by_request_and_after_a_kill() {
    let mut cluster = RedisCluster::start_with_replicas(&[]);
    let link = connect(&cluster.url());
    let ops = |seq| {
        (0..60)
            .map(|vnode| write(vnode, vec![(user(1), stored(1, seq, true))]))
            .collect()
    };
    all(&link, ops(1)).await;
    let run_id = link.run_id().await.expect("run ids");
    cluster.fail_over(0);
    let written = async |link: &Link, seq| {
        let done = link.run(ops(seq)).await;
        done.iter().all(Result::is_ok).then_some(())
    };
    let again = until(async || link.run_id().await.ok().filter(|id| *id != run_id)).await;
    until(async || written(&link, 2).await).await;
    cluster.servers[1].stop();
    until(async || written(&link, 3).await).await;
    let after = until(async || link.run_id().await.ok().filter(|id| *id != again)).await;
    assert_eq!(after.split(',').count(), 3);
}
