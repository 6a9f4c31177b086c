//! What is really the case with a user: since when its session was lost, and when it was back. What
//! watchers are shown is judged by it; nothing a server says has a part in it. Times are of the
//! run's clock, µs.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Disturbances of a user that are kept. Of more the oldest are forgotten, which can only make the
/// judgement harder.
const KEPT: usize = 8;
/// Slow answers of one user that are kept. Of more the oldest are forgotten, as above.
const ANSWERS: usize = 4;
/// An answer within this time is as good as at once, µs.
const PROMPT: u64 = 100_000;
/// What a server may be early with the end of a grace period, by the clocks of both ends, µs.
const EARLY: u64 = 250_000;
/// A change that stood for no longer than this may be passed over for the next one, µs.
pub(crate) const CLOSE: u64 = 1_000_000;

/// A time in which something was out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Span {
    pub(crate) from: u64,
    /// The end, µs; `u64::MAX` = it is not over.
    pub(crate) until: u64,
}

/// The disturbances of one user, and whether it is there by the schedule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth {
    /// The present disturbance; its end is known when the user does not mean to come back.
    open: Option<Span>,
    past: VecDeque<Span>,
    /// The present one is none that a server asked for: that may have crashed.
    cut: bool,
    /// The end of the last cut connection, µs.
    cut_until: u64,
    /// The last time without a session that the user did not mean to be without.
    absent: Option<Span>,
    /// Since when the user wants a session in the present disturbance; `None` = since its begin. And for how
    /// long it wanted one in vain before it meant to be away, µs.
    wants_since: Option<u64>,
    waited: u64,
    /// The user's changes that a server took long to answer, and when it did.
    answers: VecDeque<(u64, u64)>,
}

impl Truth {
    /// The session is lost, or could not be had, since `at`.
    pub(crate) fn lost(&mut self, at: u64) {
        let begins = Span {
            from: at,
            until: u64::MAX,
        };
        self.open.get_or_insert(begins);
        if self.absent.is_none_or(|absent| absent.until < u64::MAX) {
            self.absent = Some(begins);
        }
    }

    /// The present loss, or another one in its course, is none that a server asked for.
    pub(crate) fn cut(&mut self) {
        self.cut = self.open.is_some();
    }

    /// There is a session again; what it watches is still to come.
    pub(crate) fn welcomed(&mut self, now: u64) {
        if let Some(absent) = &mut self.absent {
            absent.until = absent.until.min(now);
        }
    }

    /// The disturbance is over; the longest time in it for which the user wanted a session in vain.
    pub(crate) fn back(&mut self, now: u64) -> Option<u64> {
        self.welcomed(now);
        let open = self.open.take()?;
        let wanted = self.wants_since.take().unwrap_or(open.from);
        let until = open.until.min(now);
        if self.past.len() == KEPT {
            self.past.pop_front();
        }
        self.past.push_back(Span { until, ..open });
        if std::mem::take(&mut self.cut) {
            self.cut_until = until;
        }
        let waited = std::mem::take(&mut self.waited);
        Some(waited.max(until.saturating_sub(wanted)))
    }

    /// The user does not mean to come back after a loss, from `now` on: the server knows when the grace is
    /// over.
    pub(crate) fn gone(&mut self, now: u64, grace: u64) {
        if let Some(open) = &mut self.open {
            // The session may have come back in the present loss, and been lost again: at the latest now.
            open.until = now + grace;
            let wanted = self.wants_since.unwrap_or(open.from);
            self.waited = self.waited.max(now.saturating_sub(wanted));
        }
    }

    /// A user that was gone wants a session again.
    pub(crate) fn returns(&mut self, now: u64) {
        match &mut self.open {
            Some(open) if open.until <= now => drop(self.back(now)),
            Some(open) => {
                open.until = u64::MAX;
                self.wants_since = Some(now);
            }
            None => {}
        }
    }

    /// A server has answered the user's `k`th change, which was meant to happen at `intended`.
    pub(crate) fn answered(&mut self, k: u64, intended: u64, now: u64) {
        if now > intended + PROMPT {
            if self.answers.len() == ANSWERS {
                self.answers.pop_front();
            }
            self.answers.push_back((k, now));
        }
    }

    /// When a server answered the user's `k`th change, if it took long.
    pub(crate) fn answer(&self, k: u64) -> Option<u64> {
        let found = self
            .answers
            .iter()
            .rev()
            .find(|(answered, _)| *answered == k);
        found.map(|(_, at)| *at)
    }

    /// Whether any of the time since `from` was disturbed.
    pub(crate) fn disturbed_since(&self, from: u64) -> bool {
        self.open.is_some_and(|open| open.until >= from)
            || self.past.back().is_some_and(|last| last.until >= from)
    }

    /// Whether the server may have crashed and be back since `from` at the latest.
    pub(crate) fn cut_since(&self, from: u64) -> bool {
        self.cut || self.cut_until > from
    }

    /// Whether a server may show the user as offline though it wants to be there: it was without a
    /// session for the grace period, now or until no longer than `slack` ago.
    pub(crate) fn rightly_offline(&self, now: u64, grace: u64, slack: u64) -> bool {
        self.absent.is_some_and(|absent| {
            absent.until.min(now) + EARLY >= absent.from + grace
                && now <= absent.until.saturating_add(slack)
        })
    }

    /// The last disturbance and its end, if it is over.
    pub(crate) fn last(&self) -> Option<(u64, Option<u64>)> {
        let last = self.open.or(self.past.back().copied())?;
        Some((last.from, (last.until < u64::MAX).then_some(last.until)))
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.past.iter().copied().chain(self.open)
    }
}

/// Whether a change that stood from `from` to `until` may be passed over: there was no more than
/// [`CLOSE`] at a time that was in none of the disturbances, nor within `tolerance` after one.
pub(crate) fn excused(
    disturbances: impl Iterator<Item = Span>,
    from: u64,
    until: u64,
    tolerance: u64,
) -> bool {
    let mut spans: Vec<Span> = disturbances.collect();
    spans.sort_by_key(|span| span.from);
    let mut quiet_from = from;
    for span in spans {
        if span.from.min(until).saturating_sub(quiet_from) > CLOSE {
            return false;
        }
        quiet_from = quiet_from.max(span.until.saturating_add(tolerance));
    }
    until.saturating_sub(quiet_from) <= CLOSE
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn excused(truths: [&Truth; 2], from: u64, until: u64, tolerance: u64) -> bool {
        let spans = truths.into_iter().flat_map(Truth::spans);
        super::excused(spans, from, until, tolerance)
    }

    fn cut(from: u64, until: u64) -> Truth {
        let mut truth = Truth::default();
        truth.lost(from);
        truth.back(until);
        truth
    }

    #[test]
    fn a_second_of_quiet_is_time_enough_to_see_a_change() {
        let quiet = Truth::default();
        assert!(excused([&quiet, &quiet], 5 * S, 6 * S, 0));
        assert!(!excused([&quiet, &quiet], 5 * S, 6 * S + 1, 0));
        let (user, watcher) = (cut(6 * S, 10 * S), cut(10 * S, 12 * S));
        assert!(excused([&user, &watcher], 5 * S, 13 * S, 0));
        assert!(!excused([&user, &watcher], 5 * S - 1, 13 * S, 0), "before");
        assert!(!excused([&user, &watcher], 5 * S, 13 * S + 1, 0), "after");
        assert!(
            excused([&user, &watcher], 5 * S, 15 * S, 2 * S),
            "tolerance"
        );
        let (user, watcher) = (cut(6 * S, 7 * S), cut(8 * S + 1, 12 * S));
        assert!(
            !excused([&user, &watcher], 5 * S, 13 * S, 0),
            "quiet between"
        );
    }

    #[test]
    fn a_disturbance_that_is_not_over_excuses_what_is_due_in_it() {
        let quiet = Truth::default();
        let mut user = Truth::default();
        user.lost(6 * S);
        assert!(excused([&quiet, &user], 6 * S, 600 * S, 0));
        assert!(user.disturbed_since(500 * S));
        user.gone(7 * S, 15 * S);
        assert!(!excused([&quiet, &user], 6 * S, 600 * S, 0));
        assert!(user.disturbed_since(22 * S) && !user.disturbed_since(23 * S));
    }

    #[test]
    fn offline_is_right_only_after_the_grace_period() {
        let mut truth = Truth::default();
        assert!(!truth.rightly_offline(100 * S, 15 * S, S));
        truth.lost(10 * S);
        assert!(!truth.rightly_offline(24 * S, 15 * S, S));
        assert!(truth.rightly_offline(25 * S, 15 * S, S));
        truth.welcomed(26 * S);
        assert!(truth.rightly_offline(27 * S, 15 * S, S), "it was told late");
        assert!(!truth.rightly_offline(28 * S, 15 * S, S));
        truth.back(26 * S);
        truth.lost(30 * S);
        truth.back(32 * S);
        assert!(!truth.rightly_offline(46 * S, 15 * S, 20 * S));
    }

    #[test]
    fn one_that_went_without_goodbye_is_disturbed_until_its_grace_is_over() {
        let mut truth = Truth::default();
        truth.lost(10 * S);
        truth.gone(11 * S, 15 * S);
        truth.returns(15 * S);
        assert_eq!(
            truth.back(18 * S),
            Some(3 * S),
            "it meant to be away from 11 to 15"
        );
        truth.lost(20 * S);
        truth.gone(24 * S, 15 * S);
        truth.returns(30 * S);
        assert_eq!(truth.back(31 * S), Some(4 * S), "it wanted one until 24");
        truth.lost(20 * S);
        truth.gone(20 * S, 15 * S);
        truth.returns(60 * S);
        assert!(truth.disturbed_since(35 * S) && !truth.disturbed_since(36 * S));
        truth.lost(61 * S);
        assert_eq!(truth.back(65 * S), Some(4 * S));
    }

    #[test]
    fn the_grace_of_one_that_came_in_vain_begins_anew() {
        let mut truth = Truth::default();
        truth.lost(10 * S);
        truth.gone(11 * S, 15 * S);
        truth.returns(20 * S);
        truth.gone(40 * S, 15 * S);
        truth.returns(50 * S);
        assert_eq!(
            truth.back(51 * S),
            Some(20 * S),
            "it wanted one from 20 to 40"
        );
        assert!(truth.disturbed_since(51 * S));
    }

    #[test]
    fn a_loss_that_the_server_asked_for_is_no_crash() {
        let mut truth = Truth::default();
        truth.cut();
        truth.lost(10 * S);
        truth.back(12 * S);
        assert!(!truth.cut_since(0));
        truth.lost(20 * S);
        truth.cut();
        assert!(truth.cut_since(100 * S));
        truth.back(22 * S);
        assert!(truth.cut_since(21 * S) && !truth.cut_since(22 * S));
    }

    #[test]
    fn of_many_disturbances_the_newest_are_kept() {
        let mut truth = Truth::default();
        for at in 0..20 {
            truth.lost(at * S);
            truth.back(at * S + 1);
        }
        assert_eq!(truth.spans().count(), KEPT);
        assert!(truth.disturbed_since(19 * S));
    }
}
