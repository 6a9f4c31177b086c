//! What is really the case: which sessions a user has, what it chose, and since when it would be
//! right to show it as offline. The clients' side makes it; the code under test has no part in it.

use std::collections::BTreeMap;

use protocol::{Mode, Status};

use super::plan::GRACE;

/// A session whose `welcome` the client has read.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) process: usize,
    pub(crate) away: bool,
    /// Nobody can be expected to know of the session: its process has not taken the vnode yet, or
    /// had lost it already when it began, or could take no part in the cluster for as long as a
    /// grace period lasts.
    pub(crate) forsaken: bool,
}

/// The truth about one user. Times are of the world, ms.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// The user's sessions, by client.
    pub(crate) sessions: BTreeMap<usize, Held>,
    /// When the last session ended, and whether a grace period follows; `None` before the first.
    pub(crate) left: Option<(u64, bool)>,
    /// The time at which a session last ended cleanly, ms.
    closed: u64,
    /// In a takeover sessions are counted, and cannot be told apart: one that says goodbye before
    /// another is back counts for that one. Until then that may show the user as offline.
    counted_until: u64,
    /// By client, when the cluster ended its session: it comes back, whatever the others do.
    pub(crate) cuts: BTreeMap<usize, u64>,
    /// The store lost what the user had set while it was away.
    pub(crate) lost: bool,
    pub(crate) mode_lost: bool,
    pub(crate) mode: Mode,
    /// The process that had the vnode and was told the mode, while the user is there.
    pub(crate) mode_by: Option<usize>,
    /// When it last set its mode or text, or may have lost them.
    pub(crate) set_at: u64,
    /// What a process was told that had not taken the vnode yet.
    pub(crate) early: Option<(usize, Mode)>,
    pub(crate) text: String,
    pub(crate) text_at: u64,
    /// The process that was told, and whether that one had the vnode.
    pub(crate) text_by: usize,
    pub(crate) text_had: bool,
    /// A text that the store did not have when the vnode was taken by force, and the process that was
    /// told it: should that one get the vnode again, and not have seen that it had lost it, it goes by it.
    /// The same where it had not taken the vnode yet, or had lost it unnoticed when it was told.
    pub(crate) kept: Option<(usize, String)>,
    /// A mode that a process was told that had not taken the vnode, and then followed a map in which the
    /// vnode is another's.
    pub(crate) kept_mode: Option<(usize, Mode)>,
    /// The process that was told that the user is invisible after it had lost the vnode.
    pub(crate) hidden_by: Option<usize>,
    /// The store did not know of the user's sessions when a successor took its vnode by force.
    pub(crate) unknown: bool,
    /// The last time at which showing the user as offline was right.
    pub(crate) rightly_offline: u64,
}

impl Truth {
    /// Brings `rightly_offline` up to `now`; `gone`: since when a process takes no part.
    pub(crate) fn pass(&mut self, now: u64, gone: impl Fn(usize) -> Option<u64>) {
        for held in self.sessions.values_mut() {
            if gone(held.process).is_some_and(|since| now >= since + GRACE) {
                held.forsaken = true;
            }
        }
        let nobody = self.sessions.values().all(|held| held.forsaken);
        let ended = |at: u64| now >= at + GRACE;
        let over = self.left.is_none_or(|(at, graced)| !graced || ended(at))
            && self.cuts.values().all(|at| ended(*at));
        let away = nobody && over;
        if away || now <= self.counted_until || self.unknown || self.mode == Mode::Invisible {
            self.rightly_offline = now;
        }
    }

    /// A session ends; `taken`: when and by which process the user's vnode was last taken; `gone`:
    /// since when a process takes no part.
    pub(crate) fn leave(
        &mut self,
        client: usize,
        now: u64,
        graced: bool,
        taken: (u64, usize),
        gone: impl Fn(usize) -> Option<u64>,
    ) {
        let Some(held) = self.sessions.remove(&client) else {
            return;
        };
        if !graced {
            self.closed = now;
            let mut all = self.sessions.values().chain([&held]);
            let elsewhere = all.any(|session| session.process != taken.1);
            if elsewhere || !self.cuts.is_empty() || now < taken.0 + 2 * GRACE {
                self.counted_until = now + 2 * GRACE;
            }
        }
        if self.sessions.is_empty() {
            self.mode_by = None;
        }
        if self.sessions.is_empty() && !(held.forsaken && graced) {
            // The server may see two ends at nearly the same time, or while it stood still, in the
            // other order.
            let still = gone(held.process).is_some_and(|since| self.closed + 50 >= since);
            let graced = graced && now >= self.closed + 200 && !still;
            let (at, by) = taken;
            // A successor that takes a session's vnode waits for its client from then on.
            let left = if held.process == by { now } else { now.min(at) };
            self.left = Some((left, graced));
        }
    }

    /// When the last session ended, if that said goodbye: one that broke right after another's goodbye has
    /// its grace period all the same.
    pub(crate) fn said_goodbye(&self) -> Option<u64> {
        let (left, graced) = self.left?;
        (!graced && self.closed >= left).then_some(left)
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
        let any_online = self.sessions.values().any(|held| !held.away);
        let status = match (self.sessions.is_empty(), self.mode) {
            (true, _) => Status::Offline,
            (_, Mode::Busy) => Status::Busy,
            _ if any_online => Status::Online,
            _ => Status::Away,
        };
        (status, self.sessions.len() as u32)
    }

    /// Whether the process was told that the user is invisible, which has been there since then.
    pub(crate) fn is_hiding_at(&self, process: usize) -> bool {
        let here = |held: &Held| held.process == process && !held.forsaken;
        self.mode == Mode::Invisible
            && self.mode_by == Some(process)
            && self.sessions.values().any(here)
    }

    /// Whether the user is invisible, and has given nothing to see, for `ms` up to `now`.
    pub(crate) fn hidden_for(&self, ms: u64, now: u64) -> bool {
        self.mode == Mode::Invisible && self.set_at + ms < now
    }
}
