//! One connection: what was asked on it, when it was heard, how fast it may speak.

use std::{collections::HashMap, sync::Arc};

use super::{LinkId, Now, profile::Change, queries::Part};
use crate::{
    types::Activity,
    wire::{ClientMessage, Limits},
};

/// The kind of message whose answer is awaited.
#[derive(Debug)]
pub(super) enum Asked {
    /// The first `auth` of the connection.
    Auth,
    /// A later `auth`, with a new token for the session.
    Refresh,
    Watch(Vec<Arc<str>>),
    Unwatch,
    Status(Change),
    Query(Part),
    Ping,
}

/// A connection and how far its session is.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    /// The time of the welcome.
    pub(super) since: u64,
    /// The time at which anything came from the server last.
    heard: u64,
    /// The time at which a message was sent last.
    sent: u64,
    /// How often this client speaks at least, ms.
    speaks: u64,
    /// How often the server speaks at least, ms; `None` when it did not say.
    pinged: Option<u64>,
    pub(super) limits: Limits,
    /// What the server was told of the device.
    pub(super) told: Activity,
    /// The ping whose answer is awaited, and until when.
    pub(super) ping: Option<(u64, u64)>,
    /// A pong was late once because the timer was: that says nothing of the connection.
    pub(super) excused: bool,
    pub(super) asked: HashMap<u64, Asked>,
    /// When the token is asked for anew, by the wall clock.
    pub(super) refresh_at: Option<u64>,
    /// Messages that may be sent now, in thousandths, and since when.
    budget: u64,
    budget_at: u64,
}

impl Link {
    pub(super) fn new(id: LinkId, speaks: u64, now: Now) -> Self {
        let limits = Limits::default();
        Self {
            id,
            since: now.steady,
            heard: now.steady,
            sent: now.steady,
            speaks,
            pinged: None,
            limits,
            told: Activity::Online,
            ping: None,
            excused: false,
            asked: HashMap::new(),
            refresh_at: None,
            budget: u64::from(limits.messages) * 1_000,
            budget_at: now.steady,
        }
    }

    /// Notes the welcome. `heartbeat`: seconds between the server's pings.
    pub(super) fn welcomed(&mut self, now: Now, heartbeat: Option<u32>, limits: Limits) {
        self.since = now.steady;
        self.pinged = heartbeat.map(|seconds| u64::from(seconds.max(1)) * 1_000);
        self.limits = limits;
        self.budget = u64::from(limits.messages.max(1)) * 1_000;
        self.budget_at = now.steady;
    }

    /// Notes a sign of life of the server.
    pub(super) fn heard(&mut self, now: Now) {
        self.heard = now.steady;
    }

    /// Counts a message that is sent, for the rate and the promise.
    pub(super) fn sent(&mut self, now: Now) {
        self.sent = now.steady;
        self.refill(now);
        self.budget = self.budget.saturating_sub(1_000);
    }

    fn refill(&mut self, now: Now) {
        let rate = u64::from(self.limits.messages.max(1));
        let passed = now.steady - self.budget_at;
        // Nine tenths of what is allowed: clocks and networks are uneven.
        let more = passed.saturating_mul(rate * 9 / 10 + 1);
        self.budget = (self.budget + more).min(rate * 1_000);
        self.budget_at = now.steady;
    }

    /// Whether one more message may be sent now; otherwise when.
    pub(super) fn may_send(&mut self, now: Now) -> Result<(), u64> {
        self.refill(now);
        if self.budget >= 1_000 {
            return Ok(());
        }
        let rate = u64::from(self.limits.messages.max(1)) * 9 / 10 + 1;
        Err(now.steady + (1_000 - self.budget).div_ceil(rate))
    }

    /// When this client has to speak: it promised to, and wants to hear an answer now and then.
    pub(super) fn speak_at(&self) -> u64 {
        self.sent.min(self.heard) + self.speaks
    }

    /// The time from which on a ping of the server is missing; `None` while none is expected.
    pub(super) fn missing_at(&self) -> Option<u64> {
        self.pinged.map(|every| self.heard + every + every / 4)
    }

    pub(super) fn due(&self) -> u64 {
        match (self.ping, self.missing_at()) {
            (Some((_, until)), _) => until,
            (None, Some(missing)) => missing.min(self.speak_at()),
            (None, None) => self.speak_at(),
        }
    }
}

/// The message as JSON.
pub(super) fn text(message: &ClientMessage<'_>) -> String {
    serde_json::to_string(message).expect("texts and numbers are always JSON")
}
