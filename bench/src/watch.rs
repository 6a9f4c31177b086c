//! What one session saw of one user, and whether that was right.

mod describe;
#[cfg(test)]
mod tests;

use crate::{
    plan::{Plan, Shown},
    truth::{CLOSE, Span, Truth, excused},
};

/// What a session knows of a user that it watches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) user: u32,
    /// How many of the user's changes were seen or passed over.
    turns: u32,
    /// So many times two fewer may be the truth: what was taken for the newest state after a
    /// disturbance may have been an older one that looks the same.
    doubt: u16,
    /// For so many of these two the state was shown before, so that it may have been no change at all.
    repeats: u16,
    /// The newest version that this watcher has seen of the user.
    pub(crate) version: u64,
    /// The state that this watcher was shown last.
    shown: Option<Shown>,
}

/// A change that a record was found to be.
struct Found {
    k: u64,
    intended: u64,
    /// The state was already counted as passed over.
    again: bool,
}

/// The circumstances by which a record is judged.
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a Plan,
    /// The time at which the changes began, µs; `None` before.
    pub(crate) go: Option<u64>,
    /// The time at which the record was read, µs.
    pub(crate) now: u64,
    /// Whether the record came in a snapshot.
    pub(crate) answer: bool,
    /// The disturbances of the user that is shown.
    pub(crate) user: &'a Truth,
    /// Of the user that it is shown to.
    pub(crate) watcher: &'a Truth,
}

/// How a record that was read has to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The record shows a change that was due.
    Delivered {
        /// The time at which it was meant to happen, µs.
        intended: u64,
        /// Whether a session of the two was lost since, or there was a declared outage.
        disturbed: bool,
        skipped: Skipped,
    },
    /// New, and no change of the schedule: sessions that come in the beginning, a repetition under
    /// a new version, a user that is offline after it was without a session for too long.
    Other,
    /// The answer to a question repeats what is known.
    Known,
    /// The record has the version of the one before.
    Duplicate,
    /// The record has a lower version than the one before.
    Reordered,
    /// Offline, and the user was there all the time.
    Flap,
    /// A state that the user was not in.
    Stray {
        /// The user's server may just have crashed: what it had not stored is brought back to what
        /// it had.
        crashed: bool,
    },
}

/// Changes that were not seen before a newer one of the same user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// The protocol lets the newer one stand for these.
    pub(crate) conflated: u64,
    /// The number of states that were passed over though there was time to deliver them.
    pub(crate) missed: u64,
    /// These were taken for conflated before, and were not.
    pub(crate) came_after_all: u64,
    /// What was taken for one more delivery before, was a repetition.
    pub(crate) repeated: bool,
}

impl Scene<'_> {
    /// When a change that is due was meant to happen.
    fn due(&self, user: u32, k: u64) -> Option<u64> {
        let at = self.go? + self.plan.intended(user, k)?;
        (at <= self.now).then_some(at)
    }

    /// The declared outages that have begun by now.
    fn outages(&self) -> impl Iterator<Item = Span> {
        let Self { plan, now, go, .. } = *self;
        let begun = plan.outages.iter().filter_map(move |outage| {
            Some(Span {
                from: go? + outage.from,
                until: go? + outage.until,
            })
        });
        begun.filter(move |outage| outage.from <= now)
    }

    fn disturbed_since(&self, from: u64) -> bool {
        self.user.disturbed_since(from)
            || self.watcher.disturbed_since(from)
            || self
                .outages()
                .any(|outage| outage.until + self.plan.tolerance >= from)
    }

    /// Whether a change of that time may wait for a newer one, which then stands for it.
    fn may_wait(&self, from: u64) -> bool {
        let flush = self.plan.flush;
        self.disturbed_since(from) || flush > 0 && self.now <= from + flush + CLOSE
    }

    /// Whether a user's `k`th change may not have been seen before the next one, or now. What a server has not
    /// answered yet it need not have shown.
    fn excused(&self, user: u32, k: u64) -> bool {
        let Some(from) = self.due(user, k) else {
            return true;
        };
        let until = self.due(user, k + 1).unwrap_or(self.now);
        let from = self.user.answer(k).map_or(from, |answer| answer.max(from));
        let lost = self.user.spans().chain(self.watcher.spans());
        excused(lost.chain(self.outages()), from, until, self.plan.tolerance)
    }
}

impl Entry {
    pub(crate) fn new(user: u32) -> Self {
        Self {
            user,
            turns: 0,
            doubt: 0,
            repeats: 0,
            version: 0,
            shown: None,
        }
    }

    /// Judges a record that the watcher was shown.
    pub(crate) fn see(&mut self, scene: &Scene<'_>, version: u64, shown: Shown) -> Verdict {
        if version < self.version {
            return Verdict::Reordered;
        }
        let before = self.shown.replace(shown);
        if version == self.version {
            return match before {
                Some(before) if before != shown => Verdict::Stray { crashed: false },
                _ if scene.answer => Verdict::Known,
                _ => Verdict::Duplicate,
            };
        }
        self.version = version;
        match self.change(scene, shown) {
            Some(found) => self.delivered(scene, &found),
            None => self.unscheduled(scene, before, shown),
        }
    }

    fn delivered(&mut self, scene: &Scene<'_>, found: &Found) -> Verdict {
        let Found { k, intended, again } = *found;
        let disturbed = scene.disturbed_since(intended);
        let mut skipped = Skipped::default();
        let next = u64::from(self.turns);
        if again {
            self.doubt -= 1;
            skipped.repeated = self.repeats > 0;
            skipped.came_after_all = 2 - u64::from(skipped.repeated);
            self.repeats = self.repeats.saturating_sub(1);
        } else {
            let passed_over = k - next;
            if passed_over == 0 || scene.excused(self.user, next) {
                skipped.conflated = passed_over;
                self.doubt = self.doubt.saturating_add(passed_over.div_ceil(2) as u16);
                self.repeats = self.repeats.saturating_add((passed_over % 2) as u16);
            } else {
                skipped.missed = passed_over;
            }
            if !disturbed && scene.now <= intended + CLOSE {
                // In time, so it is not an older one.
                self.doubt = 0;
                self.repeats = 0;
            }
        }
        self.turns = k as u32 + 1;
        Verdict::Delivered {
            intended,
            disturbed,
            skipped,
        }
    }

    /// The change of the schedule that a new record is: the next one in that state. After a
    /// disturbance, and where the server lets changes wait, it is the newest for which all that must have been seen before is excused: what
    /// one returns to is the newest state, not all that it missed.
    fn change(&self, scene: &Scene<'_>, shown: Shown) -> Option<Found> {
        let next = u64::from(self.turns);
        // A user's states alternate, so a change that is passed over together with the one before
        // it makes no difference to be seen.
        let first = next + u64::from(scene.plan.shown(self.user, Some(next)) != shown);
        if scene.plan.shown(self.user, Some(first)) != shown {
            return None;
        }
        let found = |k, intended, again| Found { k, intended, again };
        let Some(intended) = scene.due(self.user, first) else {
            // Not that one yet, but perhaps one that was not so new after all.
            let k = next.checked_sub(2).filter(|_| self.doubt > 0)?;
            let older = scene.due(self.user, k).filter(|_| first == next);
            return older.map(|intended| found(k, intended, true));
        };
        let mut newest = found(first, intended, false);
        let mut ahead = first + 2;
        while let Some(at) = scene.due(self.user, ahead) {
            let intended = scene.go? + scene.plan.intended(self.user, next)?;
            let mut skipped = (next..ahead).step_by(2);
            if !scene.may_wait(intended) || !skipped.all(|k| scene.excused(self.user, k)) {
                break;
            }
            newest = found(ahead, at, false);
            ahead += 2;
        }
        Some(newest)
    }

    fn unscheduled(&self, scene: &Scene<'_>, before: Option<Shown>, shown: Shown) -> Verdict {
        let Scene { plan, now, .. } = *scene;
        let stands = plan.shown(self.user, u64::from(self.turns).checked_sub(1));
        let slack = CLOSE + plan.tolerance;
        let was_here = before.is_some_and(|before| before != Shown::Offline);
        if shown == stands {
            Verdict::Other
        } else if shown == Shown::Offline {
            if was_here && !scene.user.rightly_offline(now, plan.grace, slack) {
                Verdict::Flap
            } else {
                Verdict::Other
            }
        } else {
            Verdict::Stray {
                crashed: scene.user.cut_since(now.saturating_sub(slack)),
            }
        }
    }

    /// The user's changes that are still to come.
    pub(crate) fn left(&self, plan: &Plan) -> u64 {
        plan.changes_of(self.user) - u64::from(self.turns)
    }

    /// Whether the last state seen is the one that the schedule ends with.
    pub(crate) fn is_final(&self, plan: &Plan) -> bool {
        let last = plan.changes_of(self.user).checked_sub(1);
        self.shown == Some(plan.shown(self.user, last))
    }

    /// What has to be said of the changes that did not come until the end.
    pub(crate) fn leftover(&self, scene: &Scene<'_>) -> Skipped {
        let all = scene.plan.changes_of(self.user);
        let mut skipped = Skipped::default();
        for k in (u64::from(self.turns)..all).step_by(2) {
            // It and the one after it, which makes no difference without it.
            let both = (all - k).min(2);
            let intended = scene.due(self.user, k);
            let disturbed = intended.is_some_and(|at| scene.disturbed_since(at));
            if disturbed && scene.excused(self.user, k) {
                skipped.conflated += both;
            } else {
                skipped.missed += both;
            }
        }
        skipped
    }
}
