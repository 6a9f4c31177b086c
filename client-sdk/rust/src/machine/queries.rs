//! Questions of the application about users, each asked in as many messages as it needs.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Output, Ticket,
    link::{Asked, Link},
    watches::json_length,
};
use crate::{
    types::{QueryError, Reason, Record},
    wire::Limits,
};

/// The most questions that wait for a session; more are refused.
const MOST: usize = 1_000;
/// What a message has beside its users, bytes.
const OVERHEAD: usize = 64;

/// Users of a question that one message names.
#[derive(Debug, Clone)]
pub(super) struct Part {
    ticket: Ticket,
    pub(super) users: Vec<String>,
}

#[derive(Debug)]
struct Query {
    records: Vec<Record>,
    /// The number of users whose record has not come.
    left: usize,
}

/// Questions of the application that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Queries {
    open: BTreeMap<Ticket, Query>,
    waiting: VecDeque<Part>,
}

impl Queries {
    pub(super) fn ask(&mut self, ticket: Ticket, users: Vec<String>) -> Option<Output> {
        let result = match users.len() {
            0 => Ok(Vec::new()),
            _ if self.open.len() >= MOST => Err(QueryError::TooMany(MOST)),
            left => {
                let records = Vec::with_capacity(left);
                self.open.insert(ticket, Query { records, left });
                self.waiting.push_back(Part { ticket, users });
                return None;
            }
        };
        Some(Output::Result { ticket, result })
    }

    pub(super) fn has_more(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next users to ask for, as many as one message may name.
    pub(super) fn next(&mut self, limits: &Limits) -> Option<Part> {
        let part = self.waiting.front_mut()?;
        let mut left = limits.message.saturating_sub(OVERHEAD);
        let mut count = 0;
        while count < part.users.len().min(limits.users.max(1)) {
            let length = json_length(&part.users[count]) + 1;
            if length > left && count > 0 {
                break;
            }
            left = left.saturating_sub(length);
            count += 1;
        }
        if count == part.users.len() {
            return self.waiting.pop_front();
        }
        let rest = part.users.split_off(count);
        let users = std::mem::replace(&mut part.users, rest);
        let ticket = part.ticket;
        Some(Part { ticket, users })
    }

    pub(super) fn answered(&mut self, part: &Part, records: Vec<Record>) -> Option<Output> {
        let query = self.open.get_mut(&part.ticket)?;
        query.records.extend(records);
        query.left = query.left.saturating_sub(part.users.len());
        if query.left > 0 {
            return None;
        }
        let query = self.open.remove(&part.ticket)?;
        Some(Output::Result {
            ticket: part.ticket,
            result: Ok(query.records),
        })
    }

    pub(super) fn refused(&mut self, part: &Part, error: QueryError) -> Option<Output> {
        self.open.remove(&part.ticket)?;
        self.waiting.retain(|other| other.ticket != part.ticket);
        Some(Output::Result {
            ticket: part.ticket,
            result: Err(error),
        })
    }

    /// Drops a question whose asker waits no longer.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        self.open.remove(&ticket);
        self.waiting.retain(|part| part.ticket != ticket);
    }

    /// Queues again what a lost connection did not answer.
    pub(super) fn link_lost(&mut self, link: &mut Link) {
        let parts = link
            .asked
            .extract_if(|_, asked| matches!(asked, Asked::Query(_)));
        for (_, asked) in parts.collect::<Vec<_>>() {
            if let Asked::Query(part) = asked
                && self.open.contains_key(&part.ticket)
            {
                self.waiting.push_front(part);
            }
        }
    }

    /// Ends every wait: the client was closed, or has failed for `reason`.
    pub(super) fn closed(&mut self, reason: Option<&Reason>) -> Vec<Output> {
        let error = reason.map_or(QueryError::Closed, |reason| {
            QueryError::Failed(reason.clone())
        });
        self.waiting.clear();
        let open = std::mem::take(&mut self.open).into_keys();
        open.map(|ticket| Output::Result {
            ticket,
            result: Err(error.clone()),
        })
        .collect()
    }
}
