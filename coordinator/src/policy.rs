//! The policy as this coordinator knows it: read from the store again and again, put in force for
//! the tokens that are shown here, and cleared there of what no token can meet any more. It decrees
//! nothing.

use std::{sync::Arc, time::Duration};

use keys::Keys;
use redis_store::{Link, PolicyReader};
use tokio::time::sleep;
use tracing::warn;

use crate::{clock, stop::Stop};

/// Time between two looks for changes.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps the policy until `stop`.
pub(crate) async fn keep(link: Link, keys: Arc<Keys>, mut stop: Stop) {
    let mut reader = PolicyReader::default();
    let mut outlived = Vec::new();
    loop {
        // That a store does not answer, who looks at the fleet says; what is known stays.
        let changed = reader.read(&link).await.unwrap_or(false);
        for (field, why) in reader.take_bad() {
            warn!(
                event = "policy_entry_left_aside",
                "redis: the entry {field:?} of the policy is left aside: {why}"
            );
        }
        let forgotten = reader.forget(clock::wall_ms());
        if changed || !forgotten.is_empty() {
            keys.set_policy(reader.policy().clone());
        }
        outlived.extend(forgotten);
        // All coordinators do this: who is second finds nothing to clear.
        while let Some((subject, entry)) = outlived.last() {
            if link.clear(subject, entry).await.is_err() {
                break;
            }
            outlived.pop();
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = stop.signalled() => return,
        }
    }
}
