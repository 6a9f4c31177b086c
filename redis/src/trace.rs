//! The steps of followed users, in the store: where nodes bring theirs, and coordinators read those of
//! all. What a node could not bring is its own loss: nothing depends on it.

use std::time::Duration;

use protocol::TraceStep;

use crate::{StoreError, call::Call, link::Link, reply};

/// The most steps of a user that are kept; of more the oldest go.
const MAX_STEPS: usize = 2_048;
/// For how long they are kept after the last one.
const KEPT: Duration = Duration::from_secs(3_600);

impl Link {
    /// Brings steps of one user, in their order.
    pub async fn add_trace(&self, user: &str, steps: &[String]) -> Result<(), StoreError> {
        let key = self.keys().trace(user);
        let push = Call::command("RPUSH", &key);
        let push = steps
            .iter()
            .fold(push, |push, step| push.arg(step.as_str()));
        reply::number::<u64>(self.perform_one(push).await?)?;
        let rest = [
            Call::command("LTRIM", &key)
                .arg(format!("-{MAX_STEPS}"))
                .arg("-1"),
            Call::command("PEXPIRE", &key).number(KEPT.as_millis()),
        ];
        let answers = self.perform(&rest).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// The steps of the user that nodes have brought, in the order of their times; those that are none
    /// are left out.
    pub async fn trace(&self, user: &str) -> Result<Vec<TraceStep>, StoreError> {
        let read = Call::command("LRANGE", &self.keys().trace(user))
            .arg("0")
            .arg("-1")
            .expecting(MAX_STEPS * 256);
        let mut steps = Vec::new();
        for value in reply::list(self.perform_one(read).await?)? {
            let bytes = reply::bytes(value)?.unwrap_or_default();
            steps.extend(TraceStep::decode(&bytes));
        }
        TraceStep::sort(&mut steps);
        Ok(steps)
    }
}
