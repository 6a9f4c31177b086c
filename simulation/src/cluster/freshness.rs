//! In a cluster whose nodes come and go in good order a change reaches who watches in time, and not
//! only in the end.

use std::collections::VecDeque;

use protocol::Record;

use super::{plan::Fault, world::World};
use crate::client::View;

/// How long a change may be under way, ms: its vnode may be claimed meanwhile.
pub(super) const FRESH: u64 = 3_000;

/// When a core made a state of a user, and how it is shown.
type Change = (u64, View);

/// A user's changes of the last [`FRESH`] and the one before them.
pub(crate) type Changes = VecDeque<Change>;

impl World {
    /// Whether all that happens in this run is orderly.
    pub(super) fn orderly(&self) -> bool {
        let orderly = [Fault::Drain, Fault::Leave, Fault::Join, Fault::Coordinators];
        self.plan.faults.iter().all(|fault| orderly.contains(fault))
    }

    pub(crate) fn note_change(&mut self, user: usize, record: &Record) {
        if !self.orderly() {
            return;
        }
        let (now, changes) = (self.now, &mut self.changes[user]);
        let newest = changes.back().map_or(0, |(_, last)| last.version);
        if record.version.get() > newest {
            changes.push_back((now, View::of(record)));
        }
    }

    /// I2: who has watched for a while has seen what has been so for a while.
    pub(crate) fn check_freshness(&mut self) {
        if !self.orderly() {
            return;
        }
        let Some(due) = self.now.checked_sub(FRESH) else {
            return;
        };
        for user in 0..self.changes.len() {
            let changes = &mut self.changes[user];
            while changes.get(1).is_some_and(|(at, _)| *at <= due) {
                changes.pop_front();
            }
            let Some((at, oldest)) = self.changes[user].front().filter(|(at, _)| *at <= due) else {
                continue;
            };
            let name = format!("u{user}");
            for (n, client) in self.clients.iter().enumerate() {
                if client.name == name || !client.has_watched_since(&name, due) {
                    continue;
                }
                let Some(view) = client.views.get(&name) else {
                    panic!(
                        "I2: {}: client {n} was told nothing of {name}",
                        self.moment()
                    );
                };
                let same = |(_, change): &Change| change.shows(view);
                assert!(
                    view.version >= oldest.version || self.changes[user].iter().any(same),
                    "I2: {}: client {n} ({}) has {view:?} of {name} and lacks {oldest:?} for {} ms",
                    self.moment(),
                    client.name,
                    self.now - at
                );
            }
        }
    }
}
