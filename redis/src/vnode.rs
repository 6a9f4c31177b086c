//! Presence in the store: records of users, behind the epoch of their vnode. It owns which
//! operation becomes which script, and that one on a vnode waits for those before it.

use std::{collections::HashMap, sync::atomic::Ordering::Relaxed};

use futures_util::{StreamExt, stream::FuturesUnordered};
use protocol::Stored;
use redis::Value;
use ring::{Epoch, Vnode};
use tokio::time::Instant;

use crate::{
    StoreError,
    call::Call,
    counters::BadRecord,
    link::Link,
    op::{Done, Op, by_slot, waves},
    reply::{self, Outcome},
    script,
};

/// Users in one script or command.
pub(crate) const PAGE: usize = 256;
/// About what a record and its user take on the way.
pub(crate) const RECORD: usize = 128;
/// The most users that one trim forgets.
const MAX_TRIM: u32 = 1_000;

/// Operations' numbers, and what became of them.
pub type Answers = Vec<(usize, Result<Done, StoreError>)>;

impl Link {
    /// Does what is asked and gives one answer each, in the same order; see [`Link::run_each`].
    pub async fn run(&self, ops: Vec<Op>) -> Vec<Result<Done, StoreError>> {
        let mut done: Vec<Option<Result<Done, StoreError>>> = vec![None; ops.len()];
        let take = |answers: Answers| {
            for (at, result) in answers {
                done[at] = Some(result);
            }
        };
        self.run_each(ops, take).await;
        all_of(done)
    }

    /// Does what is asked and gives `take` each answer as soon as it is there, with the number of its
    /// operation. What concerns one vnode is done in the order given, and not at all after something
    /// on it has failed. On one server all answers come together; on a Redis Cluster an operation
    /// waits for nothing that is asked of another slot, be it that its master does not answer.
    pub async fn run_each(&self, ops: Vec<Op>, mut take: impl FnMut(Answers)) {
        let deadline = self.deadline();
        let parts = match self.connection().await {
            Ok(connection) if connection.is_cluster() => by_slot(self.keys(), ops),
            Ok(_) => vec![ops.into_iter().enumerate().collect()],
            Err(error) => {
                let failed = (0..ops.len()).map(|at| (at, Err(error.clone())));
                return take(failed.collect());
            }
        };
        let run = |part: Vec<(usize, Op)>| async move {
            let (places, ops): (Vec<_>, Vec<_>) = part.into_iter().unzip();
            let results = self.run_in_waves(&ops, deadline).await;
            places.into_iter().zip(results).collect()
        };
        // All slots at a time: those of a master that does not answer leave no room for others.
        let mut running: FuturesUnordered<_> = parts.into_iter().map(run).collect();
        while let Some(answers) = running.next().await {
            take(answers);
        }
    }

    async fn run_in_waves(&self, ops: &[Op], deadline: Instant) -> Vec<Result<Done, StoreError>> {
        let mut done: Vec<Option<Result<Done, StoreError>>> = vec![None; ops.len()];
        let mut failed: HashMap<Vnode, StoreError> = HashMap::new();
        for wave in waves(ops) {
            let mut calls = Vec::new();
            let mut asked = Vec::new();
            for at in wave {
                if let Some(error) = failed.get(&ops[at].vnode()) {
                    done[at] = Some(Err(error.clone()));
                    continue;
                }
                let before = calls.len();
                add_calls(self, &ops[at], &mut calls);
                asked.push((at, calls.len() - before));
            }
            let mut answers = self.perform_until(deadline, &calls).await.into_iter();
            drop(calls);
            let mut claimed = Vec::new();
            for (at, count) in asked {
                let mut part = answers.by_ref().take(count);
                let result = self.conclude(&ops[at], &mut part);
                // What is left of the answers belongs to this operation.
                part.for_each(drop);
                if let Ok(Done::Claimed { released, .. }) = result {
                    claimed.push((at, released));
                }
                done[at] = Some(result);
            }
            for (at, result) in self.list(ops, claimed, deadline).await {
                done[at] = Some(result);
            }
            for (op, result) in ops.iter().zip(&done) {
                if let Some(Err(error)) = result {
                    failed.entry(op.vnode()).or_insert_with(|| error.clone());
                }
            }
        }
        all_of(done)
    }

    /// The result of an operation from the answers to its calls.
    fn conclude(
        &self,
        op: &Op,
        answers: &mut dyn Iterator<Item = Result<Value, StoreError>>,
    ) -> Result<Done, StoreError> {
        if let Op::Read { vnode, users } = op {
            let accepted = match answers.next() {
                None => Epoch::default(),
                Some(answer) => accepted(answer?)?,
            };
            let mut records = Vec::with_capacity(users.len());
            for (page, answer) in users.chunks(PAGE).zip(answers) {
                let values = exactly(reply::list(answer?)?, page.len())?;
                for (user, value) in page.iter().zip(values) {
                    records.push(self.record(*vnode, user, value)?);
                }
            }
            return Ok(Done::Records(accepted, records));
        }
        let mut result = match op {
            Op::Claim { .. } => Done::Claimed {
                released: false,
                users: Vec::new(),
            },
            Op::Release { .. } => Done::Released,
            Op::Trim { .. } => Done::Trimmed(0),
            Op::Write { .. } | Op::Read { .. } => Done::Written,
        };
        for answer in answers {
            let mut outcome = Outcome::of(answer?)?;
            match (outcome.word.as_str(), op) {
                ("fenced", _) => return Ok(Done::Fenced(epoch(outcome.next())?)),
                ("held", Op::Claim { .. }) => result = Done::Held,
                ("released", Op::Release { .. }) => {}
                ("claimed", Op::Claim { .. }) => {
                    let let_go: u8 = reply::number(outcome.next())?;
                    result = Done::Claimed {
                        released: let_go == 1,
                        users: Vec::new(),
                    };
                }
                ("written", Op::Write { records, .. }) => {
                    let stale: u64 = reply::number(outcome.next())?;
                    self.counts().stale_records.fetch_add(stale, Relaxed);
                    if stale < records.len() as u64 {
                        self.has_room();
                    }
                }
                ("trimmed", Op::Trim { .. }) => {
                    result = Done::Trimmed(reply::number(outcome.next())?);
                }
                _ => return Err(outcome.unknown()),
            }
        }
        Ok(result)
    }

    /// The record in a value; one that cannot be used is reported and none.
    pub(crate) fn record(
        &self,
        vnode: Vnode,
        user: &str,
        value: Value,
    ) -> Result<Option<Stored>, StoreError> {
        let Some(bytes) = reply::bytes(value)? else {
            return Ok(None);
        };
        match Stored::decode(&bytes) {
            Ok(stored) => Ok(Some(stored)),
            Err(error) => {
                self.report(vnode, user, error.to_string());
                Ok(None)
            }
        }
    }

    pub(crate) fn report(&self, vnode: Vnode, user: &str, reason: String) {
        self.counts().report_bad(BadRecord {
            vnode,
            user: user.into(),
            reason,
        });
    }
}

fn add_calls(link: &Link, op: &Op, calls: &mut Vec<Call>) {
    let keys = link.keys();
    match op {
        Op::Claim {
            vnode,
            epoch,
            wait_below,
            ..
        } => {
            let keys = vec![keys.epoch(*vnode), keys.released(*vnode)];
            let call = Call::script(&script::CLAIM, keys);
            calls.push(call.number(epoch).number(wait_below));
        }
        Op::Write {
            vnode,
            epoch,
            records,
        } => {
            // Without records it still finds out whether the vnode is fenced.
            if records.is_empty() {
                calls.push(write_call(link, *vnode, *epoch, &[]));
            }
            for page in records.chunks(PAGE) {
                calls.push(write_call(link, *vnode, *epoch, page));
            }
        }
        Op::Release { vnode, epoch } => {
            let keys = vec![keys.epoch(*vnode), keys.released(*vnode)];
            calls.push(Call::script(&script::RELEASE, keys).number(epoch));
        }
        Op::Read { vnode, users } => {
            // The epoch first: what it fenced off cannot change the records any more.
            calls.push(Call::command("GET", &keys.epoch(*vnode)));
            for page in users.chunks(PAGE) {
                let call = Call::command("HMGET", &keys.users(*vnode));
                let call = page
                    .iter()
                    .fold(call, |call, user| call.arg(user.as_bytes()));
                calls.push(call.expecting(page.len() * RECORD));
            }
        }
        Op::Trim {
            vnode,
            epoch,
            before_ms,
            limit,
        } => {
            let call = Call::script(&script::TRIM, three_keys(link, *vnode));
            let limit = (*limit).min(MAX_TRIM);
            calls.push(call.number(epoch).number(before_ms).number(limit));
        }
    }
}

fn write_call(link: &Link, vnode: Vnode, epoch: Epoch, page: &[(Box<str>, Stored)]) -> Call {
    let mut call = Call::script(&script::WRITE, three_keys(link, vnode)).number(epoch);
    for (user, stored) in page {
        let mut bytes = Vec::with_capacity(RECORD);
        stored.encode(&mut bytes);
        call = call.arg(user.as_bytes());
        call = match stored.connected {
            true => call.arg("+inf"),
            false => call.number(stored.record.last_seen),
        };
        call = call.arg(bytes);
    }
    call
}

pub(crate) fn three_keys(link: &Link, vnode: Vnode) -> Vec<String> {
    let keys = link.keys();
    vec![keys.epoch(vnode), keys.users(vnode), keys.seen(vnode)]
}

pub(crate) fn epoch(value: Value) -> Result<Epoch, StoreError> {
    reply::number(value).map(Epoch::new)
}

fn all_of(done: Vec<Option<Result<Done, StoreError>>>) -> Vec<Result<Done, StoreError>> {
    let answered = |result: Option<_>| result.expect("each operation is answered");
    done.into_iter().map(answered).collect()
}

/// The epoch that a vnode has; 0 when none had it yet.
fn accepted(value: Value) -> Result<Epoch, StoreError> {
    match reply::bytes(value)? {
        None => Ok(Epoch::default()),
        Some(bytes) => epoch(Value::BulkString(bytes)),
    }
}

pub(crate) fn exactly(values: Vec<Value>, count: usize) -> Result<Vec<Value>, StoreError> {
    if values.len() == count {
        return Ok(values);
    }
    let text = format!("Redis answered {} values to {count}", values.len());
    Err(StoreError::Unexpected(text))
}
