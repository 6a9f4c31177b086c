//! What administrators decree, in the store: read by what has changed, and kept when it is lost there.

use crate::common::connect;
use protocol::policy::{Entry, List, MAX_TRACED, Subject, revocation};
use redis_store::{Decreed, Link, PolicyReader, testing::RedisServer};

fn user(name: &str) -> Subject {
    Subject::User(name.into())
}

fn entry(until: u64) -> Entry {
    Entry {
        before: 5_000,
        until,
        by: "root".into(),
        at: 5_000,
        ..Entry::default()
    }
}

#[tokio::test]
async fn readers_take_what_changes_and_keep_it_when_the_store_loses_it() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let mut reader = PolicyReader::default();
    assert_eq!(reader.read(&link).await, Ok(false));
    assert_eq!(
        link.decree(&user("nobody"), None).await,
        Ok(Decreed::Nothing)
    );
    let (everyone, all) = revocation(br#"{"everyone":true}"#, "root", 4_000, 0).expect("good");
    let blocks = List::Blocks
        .read(br#"{"users":["eve"]}"#, "root", 1)
        .expect("good");
    let alice = Subject::Blocks("alice".into());
    for (subject, entry) in [
        (&everyone, Some(&all)),
        (&alice, blocks.as_ref()),
        (&user("alice"), Some(&entry(9_000))),
        (&user("bob"), Some(&entry(0))),
    ] {
        assert_eq!(link.decree(subject, entry).await, Ok(Decreed::Done));
    }
    assert_eq!(reader.read(&link).await, Ok(true));
    assert_eq!(reader.read(&link).await, Ok(false));
    assert_eq!(reader.policy().len(), 4);
    assert!(reader.policy().revokes("carol", 3_999, None));
    assert!(reader.policy().blocks("alice", "eve"));

    // A change and one that is taken away, for who has read before and for who has not.
    assert_eq!(link.decree(&everyone, None).await, Ok(Decreed::Done));
    assert_eq!(
        link.decree(&user("carol"), Some(&entry(0))).await,
        Ok(Decreed::Done)
    );
    let mut late = PolicyReader::default();
    for reader in [&mut reader, &mut late] {
        assert_eq!(reader.read(&link).await, Ok(true));
        assert_eq!(reader.policy().len(), 4);
        assert!(!reader.policy().revokes("dave", 3_999, None));
        assert!(reader.policy().revokes("carol", 4_999, None));
    }

    // What is outlived is cleared, but not what has taken its place meanwhile.
    let outlived = reader.forget(9_000);
    assert_eq!(outlived.len(), 1);
    let newer = entry(99_000);
    assert_eq!(
        link.decree(&user("alice"), Some(&newer)).await,
        Ok(Decreed::Done)
    );
    assert_eq!(link.clear(&outlived[0].0, &outlived[0].1).await, Ok(()));
    assert_eq!(reader.read(&link).await, Ok(true));
    assert!(reader.policy().revokes("alice", 4_999, None));

    // A store that has lost all takes nothing from who knows it, and what comes then is taken.
    assert_eq!(server.cli(&["FLUSHALL"]).trim(), "OK");
    assert_eq!(reader.read(&link).await, Ok(true));
    assert!(reader.policy().revokes("bob", 4_999, None));
    assert_eq!(
        link.decree(&user("dave"), Some(&entry(0))).await,
        Ok(Decreed::Done)
    );
    assert_eq!(reader.read(&link).await, Ok(true));
    assert!(reader.policy().revokes("dave", 4_999, None));
    assert!(reader.policy().revokes("bob", 4_999, None));
}

/// A reader of the policy, in which bob is revoked.
async fn reader_of_bobs(link: &Link) -> PolicyReader {
    let mut reader = PolicyReader::default();
    assert_eq!(
        link.decree(&user("bob"), Some(&entry(0))).await,
        Ok(Decreed::Done)
    );
    assert_eq!(reader.read(link).await, Ok(true));
    reader
}

#[tokio::test]
async fn a_foreign_entry_is_named_and_takes_nothing_away() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let mut reader = reader_of_bobs(&link).await;
    let _ = server.cli(&[
        "HSET",
        "os:{policy}:entries",
        "user:bob",
        "no JSON",
        "who:x",
        "{}",
    ]);
    let _ = server.cli(&["ZADD", "os:{policy}:changes", "7", "user:bob", "7", "who:x"]);
    let _ = server.cli(&["HSET", "os:{policy}:state", "version", "7"]);
    assert_eq!(reader.read(&link).await, Ok(true));
    let mut bad = reader.take_bad();
    bad.sort();
    let fields: Vec<&str> = bad.iter().map(|(field, _)| &**field).collect();
    assert_eq!(fields, ["user:bob", "who:x"], "{bad:?}");
    assert!(reader.policy().revokes("bob", 4_999, None));
}

#[tokio::test]
async fn a_foreign_state_is_named_once_and_the_next_decree_mends_it() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let mut reader = reader_of_bobs(&link).await;
    for (at, version) in [
        "abc",
        "18446744073709551615",
        "9223372036854775806",
        "-1",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let _ = server.cli(&["HSET", "os:{policy}:state", "version", version]);
        for _ in 0..3 {
            assert!(reader.read(&link).await.is_ok());
        }
        assert!(reader.take_bad().len() <= 1);
        let next = format!("carol{at}");
        assert_eq!(
            link.decree(&user(&next), Some(&entry(0))).await,
            Ok(Decreed::Done)
        );
        assert_eq!(reader.read(&link).await, Ok(true), "{version}");
        assert!(reader.policy().revokes(&next, 4_999, None), "{version}");
        assert!(reader.policy().revokes("bob", 4_999, None), "{version}");
    }
    let _ = server.cli(&["HSET", "os:{policy}:state", "version", "abc"]);
    assert_eq!(reader.read(&link).await, Ok(false));
    let bad = reader.take_bad();
    assert!(
        bad.len() == 1 && bad[0].0 == "state" && bad[0].1.contains("abc"),
        "{bad:?}"
    );
}

#[tokio::test]
async fn no_more_users_are_followed_than_may_be() {
    let server = RedisServer::start();
    let link = connect(&server.url());
    let trace = |user: String| Subject::Trace(user.into());
    // Others are no traces, whatever their names are and however many there are.
    for n in 0..1_500 {
        let subject = Subject::User(format!("trace:{n}").into());
        let decreed = link.decree(&subject, Some(&entry(0))).await;
        assert_eq!(decreed, Ok(Decreed::Done));
    }
    let decree = async |user: String| link.decree(&trace(user), Some(&entry(9))).await;
    for n in 0..MAX_TRACED {
        assert_eq!(decree(n.to_string()).await, Ok(Decreed::Done));
    }
    assert_eq!(decree("more".into()).await, Ok(Decreed::TooManyTraced));
    assert_eq!(decree("1".into()).await, Ok(Decreed::Done));
    assert_eq!(
        link.decree(&trace("1".into()), None).await,
        Ok(Decreed::Done)
    );
    assert_eq!(decree("more".into()).await, Ok(Decreed::Done));
}
