//! What administrators have decreed, in the store: written one entry at a time, and read by what has
//! changed since the last time. It owns the keys' layout and how far a reader is; what an entry means is
//! `protocol`'s.

use std::sync::Arc;

use protocol::policy::{Entry, MAX_ENTRIES, MAX_TRACED, Policy, Subject};
use redis::Value;

use crate::{
    StoreError,
    call::Call,
    link::{Link, random},
    reply, script,
};

/// Entries that were taken away and are remembered as such, for readers that are behind.
const MAX_TAKEN_AWAY: usize = 10_000;
/// The most entries that one request reads.
const A_REQUEST: usize = 500;
/// The expected size of an entry, bytes.
const ENTRY: usize = 256;

/// The store's answer to the writing of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decreed {
    /// The entry is in the store, or gone from there.
    Done,
    /// The store had no entry to take away.
    Nothing,
    /// The store has as many entries as it may have.
    Full,
    /// As many users are followed as may be.
    TooManyTraced,
}

/// The policy as far as it was read.
#[derive(Debug, Default)]
pub struct PolicyReader {
    version: u64,
    /// The state in the store was written by somebody else, which has been said.
    has_foreign_state: bool,
    /// Lost with the store's content; empty as long as nothing was decreed.
    id: String,
    policy: Policy,
    /// Fields that are none, and what is wrong with them, since they were taken last.
    bad: Vec<(String, String)>,
}

impl PolicyReader {
    /// The policy as it was read last.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Fields that could not be read, with the reason. What was known of them stays.
    pub fn take_bad(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.bad)
    }

    /// Forgets what no token can meet any more at `now`; what that was.
    pub fn forget(&mut self, now: u64) -> Vec<(Subject, Arc<Entry>)> {
        let outlived = self.policy.outlived(now);
        for (subject, _) in &outlived {
            self.policy.set(subject.clone(), None);
        }
        outlived
    }

    /// Reads what has changed; whether anything has. What a store that has lost its content does not
    /// have any more stays in force here.
    ///
    /// # Errors
    /// When the store cannot be read: then nothing has changed.
    pub async fn read(&mut self, link: &Link) -> Result<bool, StoreError> {
        let state = Call::command("HMGET", &link.keys().policy_state())
            .arg("version")
            .arg("floor")
            .arg("id");
        let mut state = reply::list(link.perform_one(state).await?)?.into_iter();
        let mut number = || match state.next() {
            None | Some(Value::Nil) => Ok(0),
            Some(value) => reply::number::<u64>(value),
        };
        let numbers = number().and_then(|version| Ok((version, number()?)));
        let (version, floor) = match numbers {
            Ok(numbers) => numbers,
            Err(StoreError::Unexpected(why)) => {
                // Named once, and mended by the next decree.
                if !std::mem::replace(&mut self.has_foreign_state, true) {
                    self.bad.push(("state".into(), why));
                }
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        self.has_foreign_state = false;
        let id = reply::bytes(state.next().unwrap_or(Value::Nil))?.unwrap_or_default();
        let id = String::from_utf8_lossy(&id).into_owned();
        let is_other = id != self.id;
        if version == self.version && !is_other {
            return Ok(false);
        }
        let from_start = is_other || version < self.version || self.version < floor;
        let after = match from_start {
            true => "-inf".to_owned(),
            false => format!("({}", self.version),
        };
        let changes = Call::command("ZRANGEBYSCORE", &link.keys().policy_changes())
            .arg(after)
            .arg("+inf");
        let fields = reply::list(link.perform_one(changes).await?)?.into_iter();
        let fields = fields.map(reply::text).collect::<Result<Vec<_>, _>>()?;
        let mut policy = match from_start {
            true => Policy::default(),
            false => self.policy.clone(),
        };
        let requests: Vec<Call> = (fields.chunks(A_REQUEST))
            .map(|fields| {
                let read = Call::command("HMGET", &link.keys().policy());
                let read = fields
                    .iter()
                    .fold(read, |read, field| read.arg(field.as_bytes()));
                read.expecting(fields.len() * ENTRY)
            })
            .collect();
        let mut values = Vec::with_capacity(fields.len());
        for answer in link.perform(&requests).await {
            values.extend(reply::list(answer?)?);
        }
        for (field, value) in fields.into_iter().zip(values) {
            match entry(&field, value) {
                Ok((subject, entry)) => policy.set(subject, entry),
                Err(why) => {
                    if let Some(subject) = Subject::of_field(&field)
                        && let Some(known) = self.policy.get(&subject)
                    {
                        policy.set(subject, Some((*known).clone()));
                    }
                    self.bad.push((field, why));
                }
            }
        }
        if is_other || version < self.version {
            policy.keep_from(&self.policy);
        }
        (self.version, self.id, self.policy) = (version, id, policy);
        Ok(true)
    }
}

/// What a field says, or why it says nothing.
fn entry(field: &str, value: Value) -> Result<(Subject, Option<Entry>), String> {
    let subject = Subject::of_field(field).ok_or("its name is no subject's")?;
    let value = reply::bytes(value).map_err(|error| error.to_string())?;
    let entry = value.map(|bytes| Entry::decode(&bytes)).transpose();
    Ok((subject, entry.map_err(|error| error.to_string())?))
}

impl Link {
    /// Writes an entry, or with `None` takes it away.
    pub async fn decree(
        &self,
        subject: &Subject,
        entry: Option<&Entry>,
    ) -> Result<Decreed, StoreError> {
        let value = entry.map(Entry::encode).unwrap_or_default();
        let write = self.write_policy(subject, value, String::new());
        match reply::number::<i64>(self.perform_one(write).await?)? {
            0 => Ok(Decreed::Nothing),
            -2 => Ok(Decreed::TooManyTraced),
            ..0 => Ok(Decreed::Full),
            1.. => Ok(Decreed::Done),
        }
    }

    /// Takes an entry away, unless another one has taken its place.
    pub async fn clear(&self, subject: &Subject, entry: &Entry) -> Result<(), StoreError> {
        let write = self.write_policy(subject, String::new(), entry.encode());
        reply::number::<i64>(self.perform_one(write).await?).map(drop)
    }

    /// `expected`: what must be there; empty = anything.
    fn write_policy(&self, subject: &Subject, value: String, expected: String) -> Call {
        let keys = self.keys();
        let most = match subject {
            Subject::Trace(_) => MAX_TRACED,
            _ => 0,
        };
        let keys = vec![
            keys.policy(),
            keys.policy_changes(),
            keys.policy_taken_away(),
            keys.policy_state(),
            keys.policy_traced(),
        ];
        Call::script(&script::POLICY, keys)
            .arg(subject.field())
            .arg(value)
            .number(MAX_ENTRIES)
            .number(MAX_TAKEN_AWAY)
            .arg(format!("{:016x}", random()))
            .arg(expected)
            .number(most)
    }
}
