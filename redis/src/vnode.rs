//! Presence in the store: records of users, behind the epoch of their vnode. It owns which
//! operation becomes which script, and that one on a vnode waits for those before it.

use std::collections::HashMap;

use protocol::Stored;
use redis::Value;
use ring::{Epoch, Vnode};

use crate::{
    StoreError,
    call::Call,
    link::{BadRecord, Link},
    reply::{self, Outcome},
    script,
};

/// Users in one script or command.
const PAGE: usize = 256;
/// About what a record and its user take on the way.
const RECORD: usize = 128;
/// The most users that one trim forgets.
const MAX_TRIM: u32 = 1_000;

/// What to do with a vnode.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// To take it: from then on, nothing of an older epoch is accepted. Gives its users that are
    /// connected or were last seen at `since_ms` or later; the vnode must not be written to before
    /// that answer is there, or users may be missing in it.
    Claim {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
        /// A former owner whose epoch is below this one is waited for until it has released the
        /// vnode.
        over: Epoch,
        /// Ms since 1970.
        since_ms: u64,
    },
    /// To keep records. One that is older (by version) than what is there is left out. An epoch
    /// that is there and lower, or none (a store that was wiped), becomes this one.
    Write {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
        /// Users and their records.
        records: Vec<(Box<str>, Stored)>,
    },
    /// To let go of it: all is written, the next owner need not wait.
    Release {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// To read records, as anybody may.
    Read {
        /// Which.
        vnode: Vnode,
        /// Whose.
        users: Vec<Box<str>>,
    },
    /// To forget users that are not connected and were last seen before a time.
    Trim {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
        /// Ms since 1970.
        before_ms: u64,
        /// The most users, at most 1,000; when as many were trimmed, there may be more.
        limit: u32,
    },
}

impl Op {
    fn vnode(&self) -> Vnode {
        match self {
            Self::Claim { vnode, .. }
            | Self::Write { vnode, .. }
            | Self::Release { vnode, .. }
            | Self::Read { vnode, .. }
            | Self::Trim { vnode, .. } => *vnode,
        }
    }

    /// Whether it may be under way together with the operation before it on the same vnode. Writes
    /// may: versions decide between their records, in whichever order they arrive.
    fn may_overtake(&self, before: &Self) -> bool {
        matches!(
            (self, before),
            (Self::Write { .. }, Self::Write { .. }) | (Self::Read { .. }, Self::Read { .. })
        )
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// The vnode is taken.
    Claimed {
        /// Its former owner had released it, so that all that it did is there. Not known of a claim
        /// that is made again.
        released: bool,
        /// Its users, those connected first.
        users: Vec<(Box<str>, Stored)>,
    },
    /// The vnode is not taken: its former owner has not released it yet.
    Held,
    /// All records are there, or newer ones.
    Written,
    /// The vnode is released.
    Released,
    /// The epoch that had the vnode when the records were read or before (0 = none had), and for each
    /// user asked the record, when there is one that can be used. So the records are at least what
    /// that epoch's owner took over.
    Records(Epoch, Vec<Option<Stored>>),
    /// So many users are forgotten.
    Trimmed(u32),
    /// Nothing was done, or not all of it: the vnode has this newer epoch.
    Fenced(Epoch),
}

impl Link {
    /// Does what is asked and gives one answer each, in the same order. What concerns one vnode is
    /// done in the order given, and not at all after something on it has failed; different vnodes
    /// do not wait for each other.
    pub async fn run(&self, ops: Vec<Op>) -> Vec<Result<Done, StoreError>> {
        let mut done: Vec<Option<Result<Done, StoreError>>> = vec![None; ops.len()];
        let mut failed: HashMap<Vnode, StoreError> = HashMap::new();
        for wave in waves(&ops) {
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
            let mut answers = self.perform(&calls).await.into_iter();
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
            for (at, result) in self.list(&ops, claimed).await {
                done[at] = Some(result);
            }
            for (op, result) in ops.iter().zip(&done) {
                if let Some(Err(error)) = result {
                    failed.entry(op.vnode()).or_insert_with(|| error.clone());
                }
            }
        }
        done.into_iter()
            .map(|result| result.expect("each operation is in one wave"))
            .collect()
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
                    self.count_stale(stale);
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

    /// The users of claimed vnodes, page by page, all vnodes at a time.
    async fn list(
        &self,
        ops: &[Op],
        claimed: Vec<(usize, bool)>,
    ) -> Vec<(usize, Result<Done, StoreError>)> {
        struct Listing {
            at: usize,
            released: bool,
            /// The rank in `seen` where the next page begins.
            rank: usize,
            users: Vec<(Box<str>, Stored)>,
        }
        let start = |(at, released)| Listing {
            at,
            released,
            rank: 0,
            users: Vec::new(),
        };
        let mut listings: Vec<Listing> = claimed.into_iter().map(start).collect();
        let mut results = Vec::new();
        while !listings.is_empty() {
            let call = |listing: &Listing| page_call(self, &ops[listing.at], listing.rank);
            let calls: Vec<Call> = listings.iter().map(call).collect();
            let answers = self.perform(&calls).await;
            let mut unfinished = Vec::new();
            for (mut listing, answer) in listings.into_iter().zip(answers) {
                let op = &ops[listing.at];
                let page = answer.and_then(|answer| self.page(op, answer, &mut listing.users));
                match page {
                    Ok(Page::More) => {
                        listing.rank += PAGE;
                        unfinished.push(listing);
                    }
                    Ok(Page::Last) => {
                        let Listing {
                            at,
                            released,
                            users,
                            ..
                        } = listing;
                        results.push((at, Ok(Done::Claimed { released, users })));
                    }
                    Ok(Page::Fenced(epoch)) => results.push((listing.at, Ok(Done::Fenced(epoch)))),
                    Err(error) => results.push((listing.at, Err(error))),
                }
            }
            listings = unfinished;
        }
        results
    }

    fn page(
        &self,
        op: &Op,
        answer: Value,
        users: &mut Vec<(Box<str>, Stored)>,
    ) -> Result<Page, StoreError> {
        let vnode = op.vnode();
        let mut outcome = Outcome::of(answer)?;
        match outcome.word.as_str() {
            "fenced" => {
                let there = epoch(outcome.next())?;
                if matches!(op, Op::Claim { epoch, .. } if *epoch < there) {
                    return Ok(Page::Fenced(there));
                }
                let text = format!("the epoch of vnode {vnode} fell to {there} while it was read");
                return Err(StoreError::Unexpected(text));
            }
            "page" => {}
            _ => return Err(outcome.unknown()),
        }
        let more: u8 = reply::number(outcome.next())?;
        let names = reply::list(outcome.next())?;
        let values = exactly(reply::list(outcome.next())?, names.len())?;
        for (name, value) in names.into_iter().zip(values) {
            let user = match reply::text(name) {
                Ok(user) if protocol::check_user(&user).is_ok() => user,
                _ => {
                    let reason = "is not the name of a user".to_owned();
                    self.report(vnode, "", reason);
                    continue;
                }
            };
            if let Some(stored) = self.record(vnode, &user, value)? {
                users.push((user.into(), stored));
            }
        }
        Ok(if more == 1 { Page::More } else { Page::Last })
    }

    /// The record in a value; one that cannot be used is reported and none.
    fn record(&self, vnode: Vnode, user: &str, value: Value) -> Result<Option<Stored>, StoreError> {
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

    fn report(&self, vnode: Vnode, user: &str, reason: String) {
        self.report_bad(BadRecord {
            vnode,
            user: user.into(),
            reason,
        });
    }
}

enum Page {
    More,
    Last,
    Fenced(Epoch),
}

/// The operations' numbers in waves that are done one after the other: in each, no operation waits
/// for another.
fn waves(ops: &[Op]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut last: HashMap<Vnode, (usize, usize)> = HashMap::new();
    for (at, op) in ops.iter().enumerate() {
        let wave = match last.get(&op.vnode()) {
            None => 0,
            Some((wave, before)) if op.may_overtake(&ops[*before]) => *wave,
            Some((wave, _)) => wave + 1,
        };
        last.insert(op.vnode(), (wave, at));
        if wave == waves.len() {
            waves.push(Vec::new());
        }
        waves[wave].push(at);
    }
    waves
}

fn add_calls(link: &Link, op: &Op, calls: &mut Vec<Call>) {
    let keys = link.keys();
    match op {
        Op::Claim {
            vnode, epoch, over, ..
        } => {
            let keys = vec![keys.epoch(*vnode), keys.released(*vnode)];
            let call = Call::script(&script::CLAIM, keys);
            calls.push(call.number(epoch).number(over));
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

fn page_call(link: &Link, op: &Op, rank: usize) -> Call {
    let Op::Claim {
        vnode,
        epoch,
        since_ms,
        ..
    } = op
    else {
        unreachable!("only claimed vnodes are listed")
    };
    Call::script(&script::LIST, three_keys(link, *vnode))
        .number(epoch)
        .number(since_ms)
        .number(rank)
        .number(PAGE)
        .expecting(PAGE * RECORD / 4)
}

fn three_keys(link: &Link, vnode: Vnode) -> Vec<String> {
    let keys = link.keys();
    vec![keys.epoch(vnode), keys.users(vnode), keys.seen(vnode)]
}

fn epoch(value: Value) -> Result<Epoch, StoreError> {
    reply::number(value).map(Epoch::new)
}

/// The epoch that a vnode has; 0 when none had it yet.
fn accepted(value: Value) -> Result<Epoch, StoreError> {
    match reply::bytes(value)? {
        None => Ok(Epoch::default()),
        Some(bytes) => epoch(Value::BulkString(bytes)),
    }
}

fn exactly(values: Vec<Value>, count: usize) -> Result<Vec<Value>, StoreError> {
    if values.len() == count {
        return Ok(values);
    }
    let text = format!("Redis answered {} values to {count}", values.len());
    Err(StoreError::Unexpected(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_waits_for_those_before_it_on_its_vnode_alone() {
        let (vnode, other) = (Vnode::new(1), Vnode::new(2));
        let epoch = Epoch::new(1);
        let write = |vnode| Op::Write {
            vnode,
            epoch,
            records: Vec::new(),
        };
        let read = |vnode| Op::Read {
            vnode,
            users: Vec::new(),
        };
        let ops = [
            write(vnode),
            write(other),
            write(vnode),
            Op::Release { vnode, epoch },
            read(other),
            read(other),
            read(vnode),
        ];
        assert_eq!(waves(&ops), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert!(waves(&[]).is_empty());
    }
}
