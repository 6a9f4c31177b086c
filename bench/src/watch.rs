//! What one session saw of one user, and whether that was right.

use crate::plan::{Kind, Plan, Shown};

/// What a session knows of a user that it watches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) user: u32,
    /// The newest version seen.
    pub(crate) version: u64,
    /// How many of the user's changes were seen or passed over.
    pub(crate) turns: u32,
    /// Whether it was seen with a session.
    here: bool,
}

/// How a record that was read has to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A change that was due: when it was meant to happen (µs from the start), and what became of
    /// the one before it, if that was not seen.
    Delivered {
        intended: u64,
        skipped: Option<Skipped>,
    },
    /// New, and no change of the schedule: sessions that come in the beginning, a repetition under
    /// a new version.
    Other,
    /// The answer to a question repeats what is known.
    Known,
    /// The same version again.
    Duplicate,
    /// An older version.
    Reordered,
    /// Offline, and the user was there all the time.
    Flap,
}

/// A change that was not seen before a newer one of the same user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    /// They were close to each other, and the protocol lets the newer one stand for both.
    Conflated,
    /// There was time enough to deliver it.
    Missed,
}

/// Changes that are no further apart than this may be conflated, µs.
const CLOSE: u64 = 1_000_000;

impl Entry {
    pub(crate) fn new(user: u32) -> Self {
        Self {
            user,
            version: 0,
            turns: 0,
            here: false,
        }
    }

    /// Judges a record that was read at `now` (µs from the start, `None` before it); `answer`: in a
    /// snapshot.
    pub(crate) fn see(
        &mut self,
        plan: &Plan,
        version: u64,
        shown: Shown,
        now: Option<u64>,
        answer: bool,
    ) -> Verdict {
        if version < self.version {
            return Verdict::Reordered;
        }
        if version == self.version {
            return if answer {
                Verdict::Known
            } else {
                Verdict::Duplicate
            };
        }
        self.version = version;
        let was_here = std::mem::replace(&mut self.here, shown != Shown::Offline);
        let Some(now) = now else {
            let flap = shown == Shown::Offline && was_here;
            return if flap { Verdict::Flap } else { Verdict::Other };
        };
        let next = u64::from(self.turns);
        // A newer state may come instead of one that it replaces.
        for ahead in 0..2 {
            let due = plan
                .intended(self.user, next + ahead)
                .filter(|intended| *intended <= now);
            if let Some(intended) = due
                && plan.shown(self.user, Some(next + ahead)) == shown
            {
                self.turns += ahead as u32 + 1;
                let skipped = plan.intended(self.user, next).filter(|_| ahead > 0);
                let skipped = skipped.map(|before| match intended - before {
                    ..=CLOSE => Skipped::Conflated,
                    _ => Skipped::Missed,
                });
                return Verdict::Delivered { intended, skipped };
            }
        }
        let stays = plan.kind(self.user) != Kind::Moves;
        if shown == Shown::Offline && was_here && stays {
            Verdict::Flap
        } else {
            Verdict::Other
        }
    }

    /// The user's changes that are still to come.
    pub(crate) fn left(&self, plan: &Plan) -> u64 {
        plan.changes_of(self.user) - u64::from(self.turns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Scenario, tests::plan};

    #[test]
    fn a_watcher_that_gets_everything_misses_nothing() {
        let plan = plan(Scenario::Presence);
        let mut entry = Entry::new(3);
        assert_eq!(
            entry.see(&plan, 1, Shown::Online, None, false),
            Verdict::Other
        );
        let mut k = 0;
        while let Some(intended) = plan.intended(3, k) {
            let shown = plan.shown(3, Some(k));
            let verdict = entry.see(&plan, 2 + k, shown, Some(intended + 5), false);
            assert_eq!(
                verdict,
                Verdict::Delivered {
                    intended,
                    skipped: None
                }
            );
            k += 1;
        }
        assert!(k > 5);
        assert_eq!(entry.left(&plan), 0);
    }

    #[test]
    fn what_is_wrong_is_called_by_its_name() {
        let plan = plan(Scenario::Presence);
        let end = Some(u64::MAX);
        let mut entry = Entry::new(3);
        entry.see(&plan, 10, Shown::Online, None, false);
        assert_eq!(
            entry.see(&plan, 10, Shown::Online, end, false),
            Verdict::Duplicate
        );
        assert_eq!(
            entry.see(&plan, 10, Shown::Online, end, true),
            Verdict::Known
        );
        assert_eq!(
            entry.see(&plan, 9, Shown::Away, end, false),
            Verdict::Reordered
        );
        assert_eq!(
            entry.see(&plan, 11, Shown::Offline, end, false),
            Verdict::Flap
        );
        let passed_over = entry.see(&plan, 12, Shown::Online, end, false);
        let skipped = Some(Skipped::Conflated);
        assert!(matches!(passed_over, Verdict::Delivered { skipped: s, .. } if s == skipped));
        assert_eq!(entry.left(&plan), plan.changes_of(3) - 2);
        let rare = Plan { rate: 10.0, ..plan };
        let passed_over = Entry::new(3).see(&rare, 12, Shown::Online, end, false);
        let skipped = Some(Skipped::Missed);
        assert!(matches!(passed_over, Verdict::Delivered { skipped: s, .. } if s == skipped));
        let plan = rare;
        // A change that is not due yet cannot have been delivered.
        assert_eq!(
            Entry::new(3).see(&plan, 1, Shown::Away, Some(0), false),
            Verdict::Other
        );
    }
}
