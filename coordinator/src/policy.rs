//! The policy as this coordinator knows it: read from the store again and again, and when somebody asks
//! for it, put in force for the tokens that are shown here, and cleared there of what no token can meet
//! any more. It decrees nothing.

use std::{sync::Arc, time::Duration};

use keys::Keys;
use redis_store::{Link, PolicyReader};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::warn;

use crate::{clock, stop::Stop};

/// Time between two looks for changes.
const LOOK: Duration = Duration::from_millis(500);
/// The longest wait for a look that is asked for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests for a look that wait to be seen; more wait for room.
const ASKED: usize = 16;

/// Where a look is asked for.
pub(crate) struct Looks(mpsc::Sender<oneshot::Sender<()>>);

/// The other end of [`Looks`].
pub(crate) struct Asked(mpsc::Receiver<oneshot::Sender<()>>);

pub(crate) fn looks() -> (Looks, Asked) {
    let (sender, receiver) = mpsc::channel(ASKED);
    (Looks(sender), Asked(receiver))
}

impl Looks {
    /// Has the policy read, so that what any coordinator decreed before is in force here. Without the store, it
    /// stays as it was.
    pub(crate) async fn look(&self) {
        let (done, is_done) = oneshot::channel();
        let look = async {
            // Who looks ends with the process.
            let _ = self.0.send(done).await;
            let _ = is_done.await;
        };
        let _ = timeout(PATIENCE, look).await;
    }
}

/// Keeps the policy until `stop`.
pub(crate) async fn keep(link: Link, keys: Arc<Keys>, mut asked: Asked, mut stop: Stop) {
    let mut reader = PolicyReader::default();
    let mut outlived = Vec::new();
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
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
        for done in waiting.drain(..) {
            // Who has waited too long is gone.
            let _ = done.send(());
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
            Some(done) = asked.0.recv() => waiting.push(done),
            () = stop.signalled() => return,
        }
        while let Ok(done) = asked.0.try_recv() {
            waiting.push(done);
        }
    }
}
