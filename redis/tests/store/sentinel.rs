//! A master that Sentinels watch: found, followed through failovers, and reached with TLS and users.

use crate::common::{connect, run_one, stored, until, user};
use redis_store::{Done, Link, Op, Options, testing::RedisSentinels};
use ring::{Epoch, Vnode};

fn write(number: u64) -> Op {
    Op::Write {
        vnode: Vnode::new(1),
        epoch: Epoch::new(1),
        records: vec![(user(number), stored(1, number, true))],
    }
}

const ACL: &str = "--user store on >secret ~* &* +@all --user default on nopass ~* &* +@all";

#[tokio::test]
async fn the_master_is_found_and_the_next_one_after_each_failover() {
    let mut redis = RedisSentinels::start();
    let link = connect(&redis.url("redis+sentinel", ""));
    crate::common::exercise(&link).await;
    let mut watch = link.watch_map();
    watch.changed().await.expect("subscribed");
    let run = link.run_id().await.expect("a run id");
    watch.borrow_and_update();
    redis.fail_over();
    let other = until(async || link.run_id().await.ok().filter(|id| *id != run)).await;
    until(async || run_one(&link, write(1)).await.ok()).await;
    watch.changed().await.expect("subscribed to the new master");
    let read = Op::Read {
        vnode: Vnode::new(1),
        users: vec![user(1)],
    };
    let stored_there = |done: &Done| matches!(done, Done::Records(_, r) if r[0].is_some());
    assert!(stored_there(
        &run_one(&link, read.clone()).await.expect("read")
    ));

    // The first server is a replica by now; then the second is killed, with a Sentinel.
    until(async || {
        let info = redis.servers[0].cli(&["info", "replication"]);
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    redis.sentinels[2].stop();
    redis.sentinels[2].start_again();
    redis.servers[1].stop();
    until(async || run_one(&link, write(2)).await.ok()).await;
    let third = until(async || link.run_id().await.ok().filter(|id| *id != other)).await;
    assert_eq!(third, run, "the first server never ended");
    assert!(stored_there(&run_one(&link, read).await.expect("read")));
}

#[tokio::test]
async fn servers_and_sentinels_may_know_the_client_by_other_names_or_not_at_all() {
    let servers: Vec<&str> = ACL.split(' ').collect();
    let open = RedisSentinels::start_with(&servers, "");
    // The Sentinels ask for nothing.
    let link = connect(&open.url("redis+sentinel", "store:secret@"));
    crate::common::exercise(&link).await;
    let wrong = connect(&open.url("redis+sentinel", "store:hunter2@"));
    let error = wrong.incarnation().await.expect_err("a wrong password");
    assert!(!error.to_string().contains("hunter2"), "{error}");

    // They know the user as the servers do, or another one.
    let users = "user default off\n\
                 user store on >secret ~* &* +@all\n\
                 user watcher on >other ~* &* +@all\n\
                 sentinel sentinel-user store\nsentinel sentinel-pass secret";
    let closed = RedisSentinels::start_with(&servers, users);
    let same = connect(&closed.url("redis+sentinel", "store:secret@"));
    until(async || run_one(&same, write(1)).await.ok()).await;
    let other = Link::open(Options {
        sentinel_username: "watcher".into(),
        sentinel_password: "other".into(),
        ..crate::common::options(&closed.url("redis+sentinel", "store:secret@"))
    })
    .expect("good options");
    until(async || run_one(&other, write(1)).await.ok()).await;
    let stranger = connect(&closed.url("redis+sentinel", ""));
    let error = stranger.incarnation().await.expect_err("nobody knows it");
    assert!(error.to_string().contains("cannot be used"), "{error}");
}

#[tokio::test]
async fn with_tls_to_the_sentinels_and_the_servers() {
    let files = crate::common::Certificates::new("sentinel");
    let redis = RedisSentinels::start_with_tls(&files.arguments(), &files.lines(), &files.ca);
    let link = Link::open(Options {
        ca_file: Some(files.ca.clone()),
        ..crate::common::options(&redis.url("rediss+sentinel", ""))
    })
    .expect("good options");
    crate::common::exercise(&link).await;
    let mut watch = link.watch_map();
    watch.changed().await.expect("subscribed");
    let distrustful = connect(&redis.url("rediss+sentinel", ""));
    let error = distrustful
        .incarnation()
        .await
        .expect_err("an unknown authority");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}
