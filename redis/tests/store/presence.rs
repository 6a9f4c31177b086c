//! Presence in the store: epochs fence, records keep their order, and nothing that is in the way
//! is taken for a record.

use std::time::{Duration, Instant};

use crate::common::{connect, run_one, stored, user};
use protocol::Status;
use redis_store::{Done, Op, testing::RedisServer};
use ring::{Epoch, Vnode};

const VNODE: Vnode = Vnode::new(7);

fn claim(epoch: u32) -> Op {
    Op::Claim {
        vnode: VNODE,
        epoch: Epoch::new(epoch),
        wait_below: Epoch::MAX,
        since_ms: 0,
    }
}

fn forced(epoch: u32) -> Op {
    Op::Claim {
        vnode: VNODE,
        epoch: Epoch::new(epoch),
        wait_below: Epoch::default(),
        since_ms: 0,
    }
}

/// The answer to a claim of a vnode that nobody had let go of.
fn claimed(users: Vec<(Box<str>, protocol::Stored)>) -> Done {
    Done::Claimed {
        released: false,
        users,
    }
}

fn release(epoch: u32) -> Op {
    Op::Release {
        vnode: VNODE,
        epoch: Epoch::new(epoch),
    }
}

fn write(epoch: u32, records: Vec<(Box<str>, protocol::Stored)>) -> Op {
    Op::Write {
        vnode: VNODE,
        epoch: Epoch::new(epoch),
        records,
    }
}

fn read(users: &[&str]) -> Op {
    Op::Read {
        vnode: VNODE,
        users: users.iter().map(|user| Box::from(*user)).collect(),
    }
}

#[tokio::test]
async fn a_vnode_nobody_had_is_taken_and_another_owner_waits_for_its_release() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    assert_eq!(run_one(&link, claim(5)).await, Ok(claimed(vec![])));
    assert_eq!(run_one(&link, claim(5)).await, Ok(claimed(vec![])));
    assert_eq!(run_one(&link, claim(6)).await, Ok(Done::Held));
    assert_eq!(run_one(&link, release(5)).await, Ok(Done::Released));
    let handed_over = Done::Claimed {
        released: true,
        users: vec![],
    };
    assert_eq!(run_one(&link, claim(6)).await, Ok(handed_over));
    assert_eq!(run_one(&link, claim(6)).await, Ok(claimed(vec![])));
    // Who was to own it under 7 may have served without having taken it.
    assert_eq!(run_one(&link, release(6)).await, Ok(Done::Released));
    assert_eq!(run_one(&link, claim(8)).await, Ok(claimed(vec![])));
    let fenced = Ok(Done::Fenced(Epoch::new(8)));
    assert_eq!(run_one(&link, claim(5)).await, fenced);
    assert_eq!(run_one(&link, forced(5)).await, fenced);
    assert_eq!(run_one(&link, release(5)).await, fenced);
    assert_eq!(run_one(&link, write(5, vec![])).await, fenced);
    let trim = Op::Trim {
        vnode: VNODE,
        epoch: Epoch::new(5),
        before_ms: u64::MAX >> 12,
        limit: 10,
    };
    assert_eq!(run_one(&link, trim).await, fenced);
}

#[tokio::test]
async fn epochs_are_compared_as_numbers_and_a_dead_owner_is_not_waited_for() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    assert_eq!(run_one(&link, claim(9)).await, Ok(claimed(vec![])));
    assert_eq!(run_one(&link, claim(10)).await, Ok(Done::Held));
    assert_eq!(run_one(&link, forced(10)).await, Ok(claimed(vec![])));
    let highest = u32::MAX;
    assert_eq!(run_one(&link, forced(highest)).await, Ok(claimed(vec![])));
    assert_eq!(
        run_one(&link, forced(highest - 1)).await,
        Ok(Done::Fenced(Epoch::new(highest)))
    );
}

#[tokio::test]
async fn of_two_former_owners_the_one_that_has_the_vnode_is_waited_for() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let claim_below = |epoch, below| Op::Claim {
        vnode: VNODE,
        epoch: Epoch::new(epoch),
        wait_below: Epoch::new(below),
        since_ms: 0,
    };
    assert_eq!(run_one(&link, claim(5)).await, Ok(claimed(vec![])));
    // The owner under 6 died before it took the vnode.
    assert_eq!(run_one(&link, claim_below(7, 6)).await, Ok(Done::Held));
    assert_eq!(run_one(&link, claim_below(7, 5)).await, Ok(claimed(vec![])));
}

#[tokio::test]
async fn a_release_counts_once_and_for_its_epoch_alone() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let ops = vec![claim(5), release(5), claim(5), claim(6)];
    let done = link.run(ops).await;
    assert_eq!(done[2], Ok(claimed(vec![])));
    assert_eq!(done[3], Ok(Done::Held), "5 took the vnode back");
}

#[tokio::test]
async fn a_batch_of_the_former_owner_does_no_harm_after_a_claim() {
    let server = RedisServer::start();
    let (old, new) = (connect(&server.url()), connect(&server.url()));
    let mine = (user(1), stored(5, 1, true));
    run_one(&old, claim(5)).await.expect("a claim");
    run_one(&old, write(5, vec![mine.clone()]))
        .await
        .expect("a write");
    assert_eq!(
        run_one(&new, forced(6)).await,
        Ok(claimed(vec![mine.clone()]))
    );
    let batch: Vec<_> = (0..600).map(|n| (user(n), stored(5, 9, true))).collect();
    let fenced = Ok(Done::Fenced(Epoch::new(6)));
    assert_eq!(run_one(&old, write(5, batch)).await, fenced);
    let users = Ok(Done::Records(Epoch::new(6), vec![Some(mine.1), None]));
    assert_eq!(run_one(&new, read(&["user-1", "user-2"])).await, users);
}

#[tokio::test]
async fn what_is_claimed_while_batches_are_under_way_is_all_that_was_ever_written() {
    let server = RedisServer::start();
    let (old, new) = (connect(&server.url()), connect(&server.url()));
    run_one(&old, claim(5)).await.expect("a claim");
    let writer = tokio::spawn(async move {
        let deadline = Instant::now() + Duration::from_secs(20);
        for seq in 1.. {
            assert!(Instant::now() < deadline, "nothing fences the writer");
            let batch = (0..1_000)
                .map(|n| (user(n), stored(5, seq, true)))
                .collect();
            match run_one(&old, write(5, batch))
                .await
                .expect("the server is there")
            {
                Done::Written => {}
                other => return (seq, other),
            }
        }
        unreachable!("the deadline comes first")
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let Ok(Done::Claimed { users: found, .. }) = run_one(&new, forced(6)).await else {
        panic!("a forced claim of a newer epoch succeeds")
    };
    let (_, end) = writer.await.expect("the writer");
    assert_eq!(end, Done::Fenced(Epoch::new(6)));
    let users: Vec<&str> = found.iter().map(|(user, _)| &**user).collect();
    let Ok(Done::Records(_, now)) = run_one(&new, read(&users)).await else {
        panic!("records can be read")
    };
    let now: Vec<_> = now
        .into_iter()
        .map(|record| record.expect("it is there"))
        .collect();
    let then: Vec<_> = found.into_iter().map(|(_, stored)| stored).collect();
    assert_eq!(then, now, "nothing was written after the claim");
}

#[tokio::test]
async fn a_claim_lists_users_that_are_connected_or_left_a_short_time_ago() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let at = |last_seen, mut stored: protocol::Stored| {
        stored.record.last_seen = last_seen;
        stored
    };
    let connected: Vec<_> = (0..700).map(|n| (user(n), stored(5, 1, true))).collect();
    let recent: Vec<_> = (700..800)
        .map(|n| (user(n), at(10_000 + n, stored(5, 1, false))))
        .collect();
    let old: Vec<_> = (800..900)
        .map(|n| (user(n), at(9_999, stored(5, 1, false))))
        .collect();
    let all = [connected.clone(), recent.clone(), old].concat();
    run_one(&link, write(5, all)).await.expect("a write");
    let claim = Op::Claim {
        vnode: VNODE,
        epoch: Epoch::new(5),
        wait_below: Epoch::MAX,
        since_ms: 10_000,
    };
    let Ok(Done::Claimed {
        users: mut listed, ..
    }) = run_one(&link, claim).await
    else {
        panic!("the claim of the owner succeeds")
    };
    let mut expected = [connected, recent].concat();
    let by_user = |a: &(Box<str>, _), b: &(Box<str>, _)| a.0.cmp(&b.0);
    listed.sort_by(by_user);
    expected.sort_by(by_user);
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_connected_user_that_leaves_is_no_longer_connected_and_is_trimmed_in_time() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let mut left = stored(5, 2, false);
    left.record.last_seen = 1_000;
    let stays = (user(2), stored(5, 1, true));
    let first = vec![(user(1), stored(5, 1, true)), stays.clone()];
    run_one(&link, write(5, first)).await.expect("a write");
    run_one(&link, write(5, vec![(user(1), left.clone())]))
        .await
        .expect("a write");
    let trim = |before_ms| Op::Trim {
        vnode: VNODE,
        epoch: Epoch::new(5),
        before_ms,
        limit: 10,
    };
    assert_eq!(run_one(&link, trim(1_000)).await, Ok(Done::Trimmed(0)));
    assert_eq!(
        run_one(&link, read(&["user-1"])).await,
        Ok(Done::Records(Epoch::new(5), vec![Some(left)]))
    );
    assert_eq!(run_one(&link, trim(1_001)).await, Ok(Done::Trimmed(1)));
    assert_eq!(
        run_one(&link, read(&["user-1", "user-2"])).await,
        Ok(Done::Records(Epoch::new(5), vec![None, Some(stays.1)]))
    );
    assert_eq!(server.cli(&["zcard", "os:{v7}:seen"]).trim(), "1");
}

#[tokio::test]
async fn a_trim_stops_at_its_limit() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let all = (0..25).map(|n| (user(n), stored(5, 1, false))).collect();
    run_one(&link, write(5, all)).await.expect("a write");
    let trim = || Op::Trim {
        vnode: VNODE,
        epoch: Epoch::new(5),
        before_ms: 1 << 50,
        limit: 10,
    };
    let done = link.run(vec![trim(), trim(), trim(), trim()]).await;
    let counts: Vec<_> = [10, 10, 5, 0].map(|n| Ok(Done::Trimmed(n))).into();
    assert_eq!(done, counts);
}

#[tokio::test]
async fn an_older_record_never_replaces_a_newer_one() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let newer = (user(1), stored(5, 300, true));
    run_one(&link, write(5, vec![newer.clone()]))
        .await
        .expect("a write");
    let older = (user(1), stored(5, 299, false));
    let beside = (user(2), stored(5, 1, false));
    let batch = vec![older.clone(), beside.clone()];
    assert_eq!(run_one(&link, write(5, batch)).await, Ok(Done::Written));
    let both = Ok(Done::Records(
        Epoch::new(5),
        vec![Some(newer.1), Some(beside.1)],
    ));
    assert_eq!(run_one(&link, read(&["user-1", "user-2"])).await, both);
    assert_eq!(
        server.cli(&["zscore", "os:{v7}:seen", "user-1"]).trim(),
        "inf"
    );
    assert_eq!(link.counters().stale_records, 1);
    // Of two in one batch the newer stays, whichever comes first.
    let batch = vec![
        (user(3), stored(5, 2, true)),
        (user(3), stored(5, 1, false)),
    ];
    run_one(&link, write(5, batch)).await.expect("a write");
    let kept = Ok(Done::Records(Epoch::new(5), vec![Some(stored(5, 2, true))]));
    assert_eq!(run_one(&link, read(&["user-3"])).await, kept);
}

#[tokio::test]
async fn versions_up_to_the_highest_are_compared_exactly() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let highest = |below| {
        stored(
            protocol::Version::MAX_EPOCH,
            protocol::Version::MAX_SEQ - below,
            true,
        )
    };
    for (below, kept) in [(1, 1), (0, 0), (1, 0), (2, 0)] {
        let batch = vec![(user(1), highest(below))];
        run_one(&link, write(protocol::Version::MAX_EPOCH, batch))
            .await
            .expect("a write");
        let highest_epoch = Epoch::new(protocol::Version::MAX_EPOCH);
        let record = Ok(Done::Records(highest_epoch, vec![Some(highest(kept))]));
        assert_eq!(run_one(&link, read(&["user-1"])).await, record);
    }
}

#[tokio::test]
async fn after_a_wiped_or_restored_store_the_owner_writes_on() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    run_one(&link, claim(8)).await.expect("a claim");
    let _ = server.cli(&["flushall"]);
    let record = (user(1), stored(8, 1, true));
    assert_eq!(
        run_one(&link, write(8, vec![record.clone()])).await,
        Ok(Done::Written)
    );
    assert_eq!(server.cli(&["get", "os:{v7}:epoch"]).trim(), "8");
    assert_eq!(run_one(&link, claim(8)).await, Ok(claimed(vec![record])));
    let _ = server.cli(&["set", "os:{v7}:epoch", "3"]);
    assert_eq!(run_one(&link, write(8, vec![])).await, Ok(Done::Written));
    assert_eq!(
        run_one(&link, claim(7)).await,
        Ok(Done::Fenced(Epoch::new(8)))
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_used_is_absent_counted_and_reported() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let good = (user(1), stored(5, 1, true));
    run_one(&link, write(5, vec![good.clone()]))
        .await
        .expect("a write");
    for (name, bytes) in [("next", "\\2\\0"), ("torn", "\\1"), ("empty", "")] {
        let put = format!("return redis.call('hset', 'os:{{v7}}:users', '{name}', \"{bytes}\")");
        let _ = server.cli(&["eval", &put, "0"]);
        let _ = server.cli(&["zadd", "os:{v7}:seen", "inf", name]);
    }
    let _ = server.cli(&["zadd", "os:{v7}:seen", "inf", "without-record"]);
    assert_eq!(
        run_one(&link, claim(5)).await,
        Ok(claimed(vec![good.clone()]))
    );
    assert_eq!(link.counters().bad_records, 3);
    let mut users: Vec<_> = link.take_bad_records();
    users.sort_by(|a, b| a.user.cmp(&b.user));
    let users: Vec<_> = users.iter().map(|bad| (bad.vnode, &*bad.user)).collect();
    assert_eq!(users, [(VNODE, "empty"), (VNODE, "next"), (VNODE, "torn")]);
    assert!(link.take_bad_records().is_empty());
    let both = Ok(Done::Records(Epoch::new(5), vec![None, Some(good.1)]));
    assert_eq!(run_one(&link, read(&["torn", "user-1"])).await, both);
    assert!(link.take_bad_records()[0].reason.contains("cut off"));
    // The owner's next record takes its place.
    let mended = stored(5, 2, true);
    run_one(&link, write(5, vec![("torn".into(), mended.clone())]))
        .await
        .expect("a write");
    let record = Ok(Done::Records(Epoch::new(5), vec![Some(mended)]));
    assert_eq!(run_one(&link, read(&["torn"])).await, record);
}

#[tokio::test]
async fn a_key_of_another_type_or_with_a_foreign_value_is_a_named_error() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let _ = server.cli(&["set", "os:{v7}:users", "x"]);
    let error = run_one(&link, read(&["user-1"]))
        .await
        .expect_err("no hash");
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    let _ = server.cli(&["set", "os:{v7}:epoch", "soon"]);
    for op in [claim(5), release(5), write(5, vec![])] {
        let error = run_one(&link, op).await.expect_err("no epoch");
        assert!(error.to_string().contains("bad epoch"), "{error}");
    }
}

#[tokio::test]
async fn what_follows_a_failed_operation_on_a_vnode_is_not_done() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let other = Op::Claim {
        vnode: Vnode::new(8),
        epoch: Epoch::new(5),
        wait_below: Epoch::MAX,
        since_ms: 0,
    };
    let _ = server.cli(&["set", "os:{v7}:users", "x"]);
    let batch = vec![(user(1), stored(5, 1, true))];
    let done = link.run(vec![write(5, batch), release(5), other]).await;
    assert!(done[0].is_err());
    assert_eq!(
        done[1], done[0],
        "the release would tell the next owner that all is written"
    );
    assert_eq!(done[2], Ok(claimed(vec![])));
    assert_eq!(server.cli(&["exists", "os:{v7}:released"]).trim(), "0");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let mut server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let link = connect(&server.url());
    let record = (user(1), stored(5, 1, true));
    run_one(&link, write(5, vec![record.clone()]))
        .await
        .expect("a write");
    let _ = server.cli(&["script", "flush"]);
    let ops = vec![claim(5), write(5, vec![record.clone()]), release(5)];
    let done: Result<Vec<_>, _> = link.run(ops).await.into_iter().collect();
    let done = done.expect("all is done");
    assert_eq!(done[0], claimed(vec![record.clone()]));
    assert_eq!(done[2], Done::Released);
    assert!(link.counters().scripts_forgotten > 1);
    server.start_again();
    let again = crate::common::until(async || run_one(&link, claim(6)).await.ok()).await;
    let handed_over = Done::Claimed {
        released: true,
        users: vec![record],
    };
    assert_eq!(again, handed_over);
}

#[tokio::test]
async fn the_status_of_a_record_survives_whatever_it_is() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let mut batch = Vec::new();
    for (n, status) in Status::ALL.iter().enumerate() {
        let mut stored = stored(5, 1, n % 2 == 0);
        stored.record.status = *status;
        stored.record.text = "é\u{1F980} x".into();
        batch.push((user(n as u64), stored));
    }
    run_one(&link, write(5, batch.clone()))
        .await
        .expect("a write");
    let users: Vec<&str> = batch.iter().map(|(user, _)| &**user).collect();
    let records = batch
        .iter()
        .map(|(_, stored)| Some(stored.clone()))
        .collect();
    assert_eq!(
        run_one(&link, read(&users)).await,
        Ok(Done::Records(Epoch::new(5), records))
    );
}
