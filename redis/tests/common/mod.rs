//! What the tests share.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::time::{Duration, Instant};

use protocol::{Chosen, Record, Status, Stored, Version};
use redis_store::{Done, Link, Op, Options, StoreError};
use ring::Epoch;

pub(crate) fn connect(url: &str) -> Link {
    Link::open(options(url)).expect("good options")
}

/// Patient, since test machines are busy.
pub(crate) fn options(url: &str) -> Options {
    Options {
        connect_timeout: Duration::from_secs(10),
        response_timeout: Duration::from_secs(10),
        ..Options::new(url)
    }
}

pub(crate) async fn run_one(link: &Link, op: Op) -> Result<Done, StoreError> {
    let mut done = link.run(vec![op]).await;
    assert_eq!(done.len(), 1);
    done.remove(0)
}

pub(crate) fn user(number: u64) -> Box<str> {
    format!("user-{number}").into()
}

pub(crate) fn stored(epoch: u32, seq: u64, connected: bool) -> Stored {
    let status = if connected {
        Status::Online
    } else {
        Status::Offline
    };
    Stored {
        record: Record {
            status,
            text: "".into(),
            since: 1_000,
            last_seen: 2_000,
            devices: u32::from(connected),
            version: Version::new(Epoch::new(epoch), seq).expect("in range"),
        },
        chosen: Chosen::None,
        connected,
    }
}

/// Tries until there is something, for at most 20 seconds.
pub(crate) async fn until<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not happen within 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
