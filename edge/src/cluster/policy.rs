//! What administrators decree in a cluster, from Redis: read again and again, and put in force. What is
//! known stays while Redis is away. With the same looks, the steps of followed users are brought there,
//! and the node's answers to what is asked of all.

use std::time::Duration;

use keys::Keys;
use redis_store::{Link, PolicyReader};
use tracing::warn;

use super::Place;
use crate::{clock, surveys::Surveys, trace::Traces};

/// Time between two looks for changes.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until the node ends.
pub(super) async fn keep(link: Link, place: &Place, keys: &Keys, told: (&Traces, &Surveys)) {
    let (traces, surveys) = told;
    let mut reader = PolicyReader::default();
    while !place.is_ending() {
        // That Redis does not answer is said when the lease cannot be renewed.
        let changed = reader.read(&link).await.unwrap_or(false);
        for (field, why) in reader.take_bad() {
            warn!(
                event = "policy_entry_left_aside",
                "redis: the entry {field:?} of the policy is left aside: {why}"
            );
        }
        if !reader.forget(clock::wall_ms()).is_empty() || changed {
            keys.set_policy(reader.policy().clone());
        }
        bring(&link, traces).await;
        answer(&link, place, surveys).await;
        tokio::time::sleep(LOOK).await;
    }
}

/// Brings what there is; what Redis does not take waits for the next time.
async fn bring(link: &Link, traces: &Traces) {
    while let Some((user, lines)) = traces.next_unsent() {
        if link.add_trace(&user, &lines).await.is_err() {
            traces.put_back(&user, lines);
            return;
        }
    }
}

/// Brings the node's answers; who asked does not wait for one that Redis does not take.
async fn answer(link: &Link, place: &Place, surveys: &Surveys) {
    while let Some((survey, found)) = surveys.next_answer() {
        if link
            .answer_survey(&survey, &place.node, &found)
            .await
            .is_err()
        {
            return;
        }
    }
}
