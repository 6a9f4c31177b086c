//! What administrators decree in a cluster, from Redis: read again and again, and put in force. What is
//! known stays while Redis is away.

use std::time::Duration;

use keys::Keys;
use redis_store::{Link, PolicyReader};

use super::Place;
use crate::clock;

/// Time between two looks for changes.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until the node ends.
pub(super) async fn keep(link: Link, place: &Place, keys: &Keys) {
    let mut reader = PolicyReader::default();
    while !place.is_ending() {
        // That Redis does not answer is said when the lease cannot be renewed.
        let changed = reader.read(&link).await.unwrap_or(false);
        for (field, why) in reader.take_bad() {
            eprintln!("redis: the entry {field:?} of the policy is left aside: {why}");
        }
        if !reader.forget(clock::wall_ms()).is_empty() || changed {
            keys.set_policy(reader.policy().clone());
        }
        tokio::time::sleep(LOOK).await;
    }
}
