//! One request to the store, and how many of them become pipelines: of a bounded size, on a Redis
//! Cluster of one slot each, and with the text of a script for a server that has forgotten it.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed};

use futures_util::{StreamExt, stream};
use redis::{Cmd, Pipeline, ServerErrorKind, Value, cluster_routing::Slot};
use tokio::time::Instant;

use crate::{
    StoreError,
    link::Link,
    reply,
    script::{self, Script},
};

/// The most requests in one pipeline.
const MAX_CALLS: usize = 1_000;
/// The limits of what is on its way at a time.
struct Width {
    /// The most bytes of a pipeline, there or back, as far as they can be foreseen.
    weight: usize,
    /// The most pipelines that are under way at once.
    pipelines: usize,
}

const ONE_SERVER: Width = Width {
    weight: 512 * 1024,
    pipelines: 4,
};
/// Small and many: each has one slot only, and those of a node that hangs hold up the others.
const CLUSTER: Width = Width {
    weight: 64 * 1024,
    pipelines: 128,
};
/// After so many response timeouts nothing more of a run is sent.
const PATIENCE: u32 = 3;

/// One request: a command or a script with its arguments.
pub(crate) struct Call {
    slot: Slot,
    body: Body,
    weight: usize,
}

enum Body {
    Command(Cmd),
    Script {
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Vec<u8>>,
    },
}

impl Call {
    /// A call of the command `name` on `key`.
    pub(crate) fn command(name: &str, key: &str) -> Self {
        let mut command = redis::cmd(name);
        command.arg(key);
        Self {
            slot: Slot::for_key(key),
            body: Body::Command(command),
            weight: name.len() + key.len(),
        }
    }

    /// The command `name` on `key`, which a full server does too: for what the cluster cannot live
    /// without, and what does not grow with its users.
    pub(crate) fn kept(name: &str, key: &str) -> Self {
        Self::script(&script::KEPT, vec![key.to_owned()]).arg(name)
    }

    /// A run of `script` on `keys`, which share a slot.
    pub(crate) fn script(script: &'static Script, keys: Vec<String>) -> Self {
        Self {
            slot: Slot::for_key(&keys[0]),
            weight: keys.iter().map(String::len).sum(),
            body: Body::Script {
                script,
                keys,
                arguments: Vec::new(),
            },
        }
    }

    /// The same call with one more argument.
    pub(crate) fn arg(mut self, argument: impl Into<Vec<u8>>) -> Self {
        let argument = argument.into();
        self.weight += argument.len() + 16;
        match &mut self.body {
            Body::Command(command) => {
                command.arg(argument);
            }
            Body::Script { arguments, .. } => arguments.push(argument),
        }
        self
    }

    /// The same call with a number as one more argument.
    #[expect(clippy::needless_pass_by_value, reason = "numbers are copied")]
    pub(crate) fn number(self, number: impl ToString) -> Self {
        self.arg(number.to_string())
    }

    /// The same call, of which `bytes` bytes are expected to come back.
    pub(crate) fn expecting(mut self, bytes: usize) -> Self {
        self.weight = self.weight.max(bytes);
        self
    }

    fn add_to(&self, pipeline: &mut Pipeline, with_text: bool) {
        match &self.body {
            Body::Command(command) => {
                pipeline.add_command(command.clone());
            }
            Body::Script {
                script,
                keys,
                arguments,
            } => {
                match with_text {
                    true => pipeline.cmd("EVAL").arg(script.text()),
                    false => pipeline.cmd("EVALSHA").arg(script.sha1()),
                };
                pipeline.arg(keys.len()).arg(keys).arg(arguments);
            }
        }
    }
}

impl Link {
    /// When a run that begins now sends nothing more.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.response_timeout() * PATIENCE
    }

    /// Runs the calls and gives one answer each, in their order. Whether one runs does not depend
    /// on how another went, and their order on the server is only likely.
    pub(crate) async fn perform(&self, calls: &[Call]) -> Vec<Result<Value, StoreError>> {
        self.perform_until(self.deadline(), calls).await
    }

    /// The same; what is not sent by `deadline` fails.
    pub(crate) async fn perform_until(
        &self,
        deadline: Instant,
        calls: &[Call],
    ) -> Vec<Result<Value, StoreError>> {
        if calls.is_empty() {
            return Vec::new();
        }
        let is_cluster = match self.connection().await {
            Ok(connection) => connection.is_cluster(),
            Err(error) => return vec![Err(error); calls.len()],
        };
        let width = if is_cluster { &CLUSTER } else { &ONE_SERVER };
        let mut answers: Vec<Option<Result<Value, StoreError>>> = vec![None; calls.len()];
        let mut running = stream::iter(batches(calls, is_cluster, width.weight))
            .map(|batch| async move {
                let answers = if Instant::now() < deadline {
                    self.perform_batch(calls, &batch).await
                } else {
                    vec![Err(self.too_slow()); batch.len()]
                };
                (batch, answers)
            })
            .buffered(width.pipelines);
        while let Some((batch, batch_answers)) = running.next().await {
            for (at, answer) in batch.into_iter().zip(batch_answers) {
                answers[at] = Some(answer);
            }
        }
        let answered = |answer: Option<_>| answer.expect("each call is in one batch");
        answers.into_iter().map(answered).collect()
    }

    /// Runs one call and gives its answer.
    pub(crate) async fn perform_one(&self, call: Call) -> Result<Value, StoreError> {
        let mut answers = self.perform(&[call]).await;
        answers.pop().expect("a call has an answer")
    }

    async fn perform_batch(
        &self,
        calls: &[Call],
        batch: &[usize],
    ) -> Vec<Result<Value, StoreError>> {
        let mut answers = self.send_batch(calls, batch, false).await;
        let forgotten: Vec<usize> = (0..batch.len())
            .filter(|at| answers[*at].as_ref().is_ok_and(is_forgotten))
            .collect();
        if !forgotten.is_empty() {
            let runs = forgotten.len() as u64;
            self.counts().scripts_forgotten.fetch_add(runs, Relaxed);
            let again: Vec<usize> = forgotten.iter().map(|at| batch[*at]).collect();
            let second = self.send_batch(calls, &again, true).await;
            for (at, answer) in forgotten.into_iter().zip(second) {
                answers[at] = answer;
            }
        }
        let checked = |answer| match answer {
            Ok(Value::ServerError(error)) => Err(self.refused(&error)),
            other => other,
        };
        answers.into_iter().map(checked).collect()
    }

    /// With the text of each script where it is first used, on demand.
    async fn send_batch(
        &self,
        calls: &[Call],
        batch: &[usize],
        with_texts: bool,
    ) -> Vec<Result<Value, StoreError>> {
        let mut pipeline = Pipeline::with_capacity(batch.len());
        let mut known: Vec<&str> = Vec::new();
        for at in batch {
            let mut with_text = false;
            if let Body::Script { script, .. } = &calls[*at].body
                && with_texts
                && !known.contains(&script.sha1())
            {
                known.push(script.sha1());
                with_text = true;
            }
            calls[*at].add_to(&mut pipeline, with_text);
        }
        match self.send(&pipeline, Some(calls[batch[0]].slot)).await {
            Ok(values) => values.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); batch.len()],
        }
    }
}

fn is_forgotten(value: &Value) -> bool {
    reply::server_error(value).is_some_and(|e| e.kind() == Some(ServerErrorKind::NoScript))
}

/// The calls' numbers in batches that may each be one pipeline.
fn batches(calls: &[Call], is_cluster: bool, max_weight: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    // By slot: which batch is open, and its weight.
    let mut open: HashMap<Option<Slot>, (usize, usize)> = HashMap::new();
    for (at, call) in calls.iter().enumerate() {
        let slot = is_cluster.then_some(call.slot);
        match open.get_mut(&slot) {
            Some((batch, weight))
                if batches[*batch].len() < MAX_CALLS && *weight + call.weight <= max_weight =>
            {
                batches[*batch].push(at);
                *weight += call.weight;
            }
            _ => {
                open.insert(slot, (batches.len(), call.weight));
                batches.push(vec![at]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_in_number_and_weight_and_on_a_cluster_of_one_slot() {
        let light: Vec<Call> = (0..2_500)
            .map(|n| Call::command("GET", &format!("k{n}")))
            .collect();
        let sizes: Vec<usize> = batches(&light, false, 1 << 20)
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
        let heavy: Vec<Call> = (0..5)
            .map(|_| Call::command("GET", "k").expecting(50))
            .collect();
        let sizes: Vec<usize> = batches(&heavy, false, 100).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1]);
        let two_slots: Vec<Call> = ["a", "b", "a", "b"].map(|k| Call::command("GET", k)).into();
        assert_eq!(batches(&two_slots, true, 100), [[0, 2], [1, 3]]);
        let too_heavy = [Call::command("GET", "k").expecting(200)];
        assert_eq!(batches(&too_heavy, false, 100), [[0]]);
    }
}
