//! What is really the case: which sessions a user has, what it chose, and since when it would be
//! right to show it as offline. Clients' actions make it; the server has no part in it.

use std::collections::BTreeMap;

use protocol::{Chosen, Status};

/// The truth about one user. Times are of the world's clock, ms, pauses left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// Open sessions, by client: whether it is away.
    pub(crate) sessions: BTreeMap<usize, bool>,
    /// When the last session ended, and whether a grace period follows.
    pub(crate) left: Option<(u64, bool)>,
    pub(crate) chosen: Chosen,
    pub(crate) text: String,
    /// The last time at which showing the user as offline was right.
    pub(crate) rightly_offline: u64,
}

impl Truth {
    /// Brings `rightly_offline` up to `now`.
    pub(crate) fn pass(&mut self, now: u64, grace: u64) {
        let gone = self.sessions.is_empty()
            && self
                .left
                .is_none_or(|(at, graced)| !graced || now >= at + grace);
        if gone || self.chosen == Chosen::Invisible {
            self.rightly_offline = now;
        }
    }

    pub(crate) fn leave(&mut self, client: usize, now: u64, graced: bool) {
        if self.sessions.remove(&client).is_some() && self.sessions.is_empty() {
            self.left = Some((now, graced));
        }
    }

    /// What everyone has to see once everything has settled and all grace is over.
    pub(crate) fn settled(&self) -> (Status, u32) {
        let any_online = self.sessions.values().any(|away| !away);
        let status = match (self.sessions.is_empty(), self.chosen) {
            (true, _) | (_, Chosen::Invisible) => Status::Offline,
            (_, Chosen::Busy) => Status::Busy,
            (_, Chosen::None) if any_online => Status::Online,
            (_, Chosen::None) => Status::Away,
        };
        let devices = if status == Status::Offline {
            0
        } else {
            self.sessions.len() as u32
        };
        (status, devices)
    }
}
