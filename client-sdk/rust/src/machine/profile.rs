//! What this client says of its own user: activity of the device, mode and text of the person.

use std::cmp::Reverse;

use super::{
    Now, Output, Ticket,
    link::{Asked, Link},
};
use crate::types::{Activity, Mode, Reason, SetError};

/// Calls that may wait for one value; older ones are told that they were overtaken.
const MAX_WAITING: usize = 64;

/// A value, and the application's calls that wait for it: the last one's value is what counts.
#[derive(Debug, Clone)]
pub(super) struct Set<T> {
    pub(super) value: T,
    tickets: Vec<Ticket>,
}

impl<T> Set<T> {
    fn newest(&self) -> Ticket {
        self.tickets.iter().copied().max().unwrap_or(0)
    }
}

/// What is to be set, or was sent and not answered.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) status: Option<Activity>,
    pub(super) mode: Option<Set<Mode>>,
    pub(super) text: Option<Set<String>>,
}

impl Change {
    fn is_empty(&self) -> bool {
        self.status.is_none() && self.mode.is_none() && self.text.is_none()
    }

    /// Whether the message sets nothing but the activity.
    pub(super) fn is_activity(&self) -> bool {
        self.mode.is_none() && self.text.is_none()
    }

    fn tickets(&self) -> Vec<Ticket> {
        let mode = self.mode.iter().flat_map(|set| &set.tickets);
        let text = self.text.iter().flat_map(|set| &set.tickets);
        let mut all: Vec<Ticket> = mode.chain(text).copied().collect();
        all.sort_unstable();
        all
    }

    /// The outputs that tell the application the outcome of what it set.
    pub(super) fn done(&self, result: &Result<(), SetError>) -> impl Iterator<Item = Output> {
        self.tickets().into_iter().map(move |ticket| Output::Set {
            ticket,
            result: result.clone(),
        })
    }
}

/// What the application set for its own user, and what the server knows of that.
#[derive(Debug)]
pub(super) struct Profile {
    /// Not sent yet: at most one value of each, since only the newest matters.
    wanted: Change,
    /// The calls that set the values that count: what an older one wanted is not sent again.
    newest_mode: Ticket,
    newest_text: Ticket,
    /// What the application reported; `None` when it leaves that to the idle time.
    reported: Option<Activity>,
    /// When somebody last used the device. It holds across connections.
    active: Now,
    retry_at: Option<u64>,
}

impl Profile {
    pub(super) fn new(now: Now) -> Self {
        Self {
            wanted: Change::default(),
            newest_mode: 0,
            newest_text: 0,
            reported: None,
            active: now,
            retry_at: None,
        }
    }

    /// Replaces a mode that was not sent yet; the output tells who set that one.
    pub(super) fn set_mode(&mut self, value: Mode, ticket: Ticket) -> Option<Output> {
        self.newest_mode = ticket;
        replace(&mut self.wanted.mode, value, ticket)
    }

    /// Replaces a text that was not sent yet; the output tells who set that one.
    pub(super) fn set_text(&mut self, value: String, ticket: Ticket) -> Option<Output> {
        self.newest_text = ticket;
        replace(&mut self.wanted.text, value, ticket)
    }

    pub(super) fn set_activity(&mut self, activity: Option<Activity>, now: Now) {
        self.reported = activity;
        self.active(now);
    }

    pub(super) fn active(&mut self, now: Now) {
        self.active = now;
    }

    /// How long nobody used the device, by the clock that saw more time: the steady one may have
    /// stood while the machine slept, and the wall clock may have been set back.
    fn idle(&self, now: Now) -> u64 {
        let steady = now.steady.saturating_sub(self.active.steady);
        steady.max(now.wall.saturating_sub(self.active.wall))
    }

    /// What a session is to be told of the device.
    pub(super) fn activity(&self, now: Now, auto_away: Option<u64>) -> Activity {
        let idle = auto_away.is_some_and(|limit| self.idle(now) >= limit);
        let by_time = if idle {
            Activity::Away
        } else {
            Activity::Online
        };
        self.reported.unwrap_or(by_time)
    }

    /// What to send now in a session that was told `told`.
    pub(super) fn next(
        &mut self,
        told: &mut Activity,
        now: Now,
        auto_away: Option<u64>,
    ) -> Option<Change> {
        if !self.has_more(*told, now, auto_away) {
            return None;
        }
        let activity = self.activity(now, auto_away);
        if activity != *told {
            *told = activity;
            self.wanted.status = Some(activity);
        }
        self.retry_at = None;
        Some(std::mem::take(&mut self.wanted))
    }

    /// Whether [`Self::next`] has something to send.
    pub(super) fn has_more(&self, told: Activity, now: Now, auto_away: Option<u64>) -> bool {
        let waits = self.retry_at.is_some_and(|at| now.steady < at);
        !waits && (!self.wanted.is_empty() || self.activity(now, auto_away) != told)
    }

    /// A change that was not done is wanted again, where nothing newer is.
    fn again(&mut self, change: Change, outputs: &mut impl Extend<Output>) {
        let (mode, text) = (self.newest_mode, self.newest_text);
        self.wanted.status = self.wanted.status.or(change.status);
        outputs.extend(keep(&mut self.wanted.mode, change.mode, mode));
        outputs.extend(keep(&mut self.wanted.text, change.text, text));
    }

    /// The server cannot take what the device does now.
    pub(super) fn retry(&mut self, activity: Activity, at: u64) {
        self.wanted.status = self.wanted.status.or(Some(activity));
        self.retry_at = Some(at);
    }

    pub(super) fn link_lost(&mut self, link: &mut Link, outputs: &mut impl Extend<Output>) {
        let changes = link
            .asked
            .extract_if(|_, asked| matches!(asked, Asked::Status(_)));
        let mut changes: Vec<_> = changes.collect();
        // The newest first: older ones join it.
        changes.sort_unstable_by_key(|(id, _)| Reverse(*id));
        for (_, asked) in changes {
            if let Asked::Status(change) = asked {
                self.again(change, outputs);
            }
        }
        // What the device does is told to each session as it begins.
        self.wanted.status = None;
    }

    /// Ends every wait: the client was closed, or has failed for `reason`.
    pub(super) fn closed(&mut self, reason: Option<&Reason>) -> Vec<Output> {
        let error = reason.map_or(SetError::Closed, |reason| SetError::Failed(reason.clone()));
        std::mem::take(&mut self.wanted).done(&Err(error)).collect()
    }

    pub(super) fn due(&self, now: Now, auto_away: Option<u64>) -> impl Iterator<Item = u64> {
        let idle = self.idle(now);
        let away = auto_away.filter(|limit| self.reported.is_none() && idle < *limit);
        let away = away.map(|limit| now.steady + limit - idle);
        away.into_iter().chain(self.retry_at)
    }
}

fn replace<T>(wanted: &mut Option<Set<T>>, value: T, ticket: Ticket) -> Option<Output> {
    let mut tickets = wanted.take().map(|set| set.tickets).unwrap_or_default();
    tickets.push(ticket);
    let overtaken = (tickets.len() > MAX_WAITING).then(|| tickets.remove(0));
    *wanted = Some(Set { value, tickets });
    overtaken.map(superseded)
}

/// Puts a former value back if it is the newest. Otherwise who waits for it waits for the one that is
/// wanted, or is told that another took its place.
fn keep<T>(wanted: &mut Option<Set<T>>, former: Option<Set<T>>, newest: Ticket) -> Vec<Output> {
    match (wanted.as_mut(), former) {
        (None, Some(former)) if former.newest() == newest => {
            *wanted = Some(former);
            Vec::new()
        }
        (Some(wanted), Some(former)) => {
            wanted.tickets.extend(former.tickets);
            let over = wanted.tickets.len().saturating_sub(MAX_WAITING);
            wanted.tickets.sort_unstable();
            wanted.tickets.drain(..over).map(superseded).collect()
        }
        (None, Some(former)) => former.tickets.into_iter().map(superseded).collect(),
        (_, None) => Vec::new(),
    }
}

fn superseded(ticket: Ticket) -> Output {
    Output::Set {
        ticket,
        result: Err(SetError::Superseded),
    }
}
