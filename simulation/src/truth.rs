//! What is really the case: which sessions a user has, what it chose, and since when it would be
//! right to show it as offline. Clients' actions make it; the server has no part in it.

use std::collections::BTreeMap;

use protocol::{Mode, Status};

/// The truth about one user. Times are of the world's clock, ms, pauses left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// Open sessions, by client: whether it is away.
    pub(crate) sessions: BTreeMap<usize, bool>,
    /// When the last session ended, and whether a grace period follows.
    pub(crate) left: Option<(u64, bool)>,
    pub(crate) mode: Mode,
    /// When it last set its mode or text, or may have lost them.
    pub(crate) set_at: u64,
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
        if gone || self.mode == Mode::Invisible {
            self.rightly_offline = now;
        }
    }

    pub(crate) fn leave(&mut self, client: usize, now: u64, graced: bool) {
        if self.sessions.remove(&client).is_some() && self.sessions.is_empty() {
            self.left = Some((now, graced));
        }
    }

    /// What all others have to see once everything has settled and all grace is over.
    pub(crate) fn settled(&self) -> (Status, u32) {
        match self.mode {
            Mode::Invisible => (Status::Offline, 0),
            Mode::Auto | Mode::Busy => self.own(),
        }
    }

    /// What the user's own sessions have to see then.
    pub(crate) fn own(&self) -> (Status, u32) {
        let any_online = self.sessions.values().any(|away| !away);
        let status = match (self.sessions.is_empty(), self.mode) {
            (true, _) => Status::Offline,
            (_, Mode::Busy) => Status::Busy,
            _ if any_online => Status::Online,
            _ => Status::Away,
        };
        (status, self.sessions.len() as u32)
    }

    /// Whether the user is invisible, and has given nothing to see, for `ms` up to `now`.
    pub(crate) fn hidden_for(&self, ms: u64, now: u64) -> bool {
        self.mode == Mode::Invisible && self.set_at + ms < now
    }
}
