//! What one session saw of one user, and whether that was right.

use crate::{
    plan::{Plan, Shown},
    truth::{CLOSE, Truth, excused},
};

/// What a session knows of a user that it watches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) user: u32,
    /// How many of the user's changes were seen or passed over.
    turns: u32,
    /// The newest version seen.
    pub(crate) version: u64,
    /// The last state seen.
    shown: Option<Shown>,
}

/// What a record is judged by.
pub(crate) struct Scene<'a> {
    pub(crate) plan: &'a Plan,
    /// When the changes began, µs.
    pub(crate) go: Option<u64>,
    /// When the record was read, µs.
    pub(crate) now: u64,
    /// In a snapshot.
    pub(crate) answer: bool,
    /// Of the user that is shown.
    pub(crate) user: &'a Truth,
    /// Of the user that it is shown to.
    pub(crate) watcher: &'a Truth,
}

/// How a record that was read has to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A change that was due.
    Delivered {
        /// When it was meant to happen, µs.
        intended: u64,
        /// Whether a session of the two was lost since.
        disturbed: bool,
        skipped: Skipped,
    },
    /// New, and no change of the schedule: sessions that come in the beginning, a repetition under
    /// a new version, a user that is offline after it was without a session for too long.
    Other,
    /// The answer to a question repeats what is known.
    Known,
    /// The same version again.
    Duplicate,
    /// An older version.
    Reordered,
    /// Offline, and the user was there all the time.
    Flap,
    /// A state that the user was not in.
    Stray {
        /// A session of the two had just been lost: what a crashed server did not store is brought
        /// back to what it did store.
        disturbed: bool,
    },
}

/// Changes that were not seen before a newer one of the same user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// The protocol lets the newer one stand for these.
    pub(crate) conflated: u64,
    /// There was time enough to deliver these.
    pub(crate) missed: u64,
}

impl Scene<'_> {
    /// When a change that is due was meant to happen.
    fn due(&self, user: u32, k: u64) -> Option<u64> {
        let at = self.go? + self.plan.intended(user, k)?;
        (at <= self.now).then_some(at)
    }

    fn disturbed_since(&self, from: u64) -> bool {
        self.user.disturbed_since(from) || self.watcher.disturbed_since(from)
    }

    /// Whether a user's `k`th change may not have been seen before the next one, or now.
    fn excused(&self, user: u32, k: u64) -> bool {
        let Some(from) = self.due(user, k) else {
            return true;
        };
        let until = self.due(user, k + 1).unwrap_or(self.now);
        let truths = [self.user, self.watcher];
        excused(truths, from, until, self.plan.tolerance)
    }
}

impl Entry {
    pub(crate) fn new(user: u32) -> Self {
        Self {
            user,
            turns: 0,
            version: 0,
            shown: None,
        }
    }

    /// Judges a record.
    pub(crate) fn see(&mut self, scene: &Scene<'_>, version: u64, shown: Shown) -> Verdict {
        if version < self.version {
            return Verdict::Reordered;
        }
        let before = self.shown.replace(shown);
        if version == self.version {
            return match before {
                Some(before) if before != shown => Verdict::Stray { disturbed: false },
                _ if scene.answer => Verdict::Known,
                _ => Verdict::Duplicate,
            };
        }
        self.version = version;
        if let Some((k, intended)) = self.change(scene, shown) {
            let next = u64::from(self.turns);
            let passed_over = k - next;
            self.turns = k as u32 + 1;
            return Verdict::Delivered {
                intended,
                disturbed: scene.disturbed_since(intended),
                skipped: if passed_over == 0 || scene.excused(self.user, next) {
                    Skipped {
                        conflated: passed_over,
                        missed: 0,
                    }
                } else {
                    Skipped {
                        conflated: 0,
                        missed: passed_over,
                    }
                },
            };
        }
        self.unscheduled(scene, before, shown)
    }

    /// The change of the schedule that a new record is: the next one in that state. After a
    /// disturbance it is the newest for which all that must have been seen before is excused: what
    /// one returns to is the newest state, not all that it missed.
    fn change(&self, scene: &Scene<'_>, shown: Shown) -> Option<(u64, u64)> {
        let next = u64::from(self.turns);
        // A user's states alternate, so a change that is passed over together with the one before
        // it makes no difference to be seen.
        let first = next + u64::from(scene.plan.shown(self.user, Some(next)) != shown);
        if scene.plan.shown(self.user, Some(first)) != shown {
            return None;
        }
        let mut found = (first, scene.due(self.user, first)?);
        let mut ahead = first + 2;
        while let Some(at) = scene.due(self.user, ahead) {
            let intended = scene.go? + scene.plan.intended(self.user, next)?;
            let mut skipped = (next..ahead).step_by(2);
            if !scene.disturbed_since(intended) || !skipped.all(|k| scene.excused(self.user, k)) {
                break;
            }
            found = (ahead, at);
            ahead += 2;
        }
        Some(found)
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
                disturbed: scene.disturbed_since(now.saturating_sub(slack)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Scenario, tests::plan};

    const S: u64 = 1_000_000;
    const GO: u64 = 100 * S;
    const DELIVERED: Skipped = Skipped {
        conflated: 0,
        missed: 0,
    };

    /// A toggling user, its truth and its watcher's.
    struct Stage {
        plan: Plan,
        user: Truth,
        watcher: Truth,
        entry: Entry,
    }

    impl Stage {
        /// With so many changes a second; a user's are then `80 ÷ (0.8 × rate)` seconds apart.
        fn new(rate: f64, number: u32) -> Self {
            Self {
                plan: Plan {
                    rate,
                    ..plan(Scenario::Presence)
                },
                user: Truth::default(),
                watcher: Truth::default(),
                entry: Entry::new(number),
            }
        }

        fn at(&self, k: u64) -> u64 {
            GO + self.plan.intended(self.entry.user, k).expect("a change")
        }

        fn scene(&self, now: u64, answer: bool) -> Scene<'_> {
            Scene {
                plan: &self.plan,
                go: Some(GO),
                now,
                answer,
                user: &self.user,
                watcher: &self.watcher,
            }
        }

        fn see(&mut self, now: u64, version: u64, shown: Shown) -> Verdict {
            let mut entry = self.entry;
            let verdict = entry.see(&self.scene(now, false), version, shown);
            self.entry = entry;
            verdict
        }

        fn skipped(&mut self, now: u64, version: u64, shown: Shown) -> Skipped {
            match self.see(now, version, shown) {
                Verdict::Delivered { skipped, .. } => skipped,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_watcher_that_gets_everything_misses_nothing() {
        let mut stage = Stage::new(100.0, 3);
        let before = Scene {
            go: None,
            ..stage.scene(0, true)
        };
        let mut entry = stage.entry;
        assert_eq!(entry.see(&before, 1, Shown::Online), Verdict::Other);
        stage.entry = entry;
        for k in 0..stage.plan.changes_of(3) {
            let (at, shown) = (stage.at(k), stage.plan.shown(3, Some(k)));
            let verdict = Verdict::Delivered {
                intended: at,
                disturbed: false,
                skipped: DELIVERED,
            };
            assert_eq!(stage.see(at + 5, 2 + k, shown), verdict);
        }
        assert!(stage.plan.changes_of(3) > 5 && stage.entry.left(&stage.plan) == 0);
        assert!(stage.entry.is_final(&stage.plan));
    }

    #[test]
    fn what_is_wrong_is_called_by_its_name() {
        let mut stage = Stage::new(10.0, 3);
        let early = GO - S;
        assert_eq!(stage.see(early, 10, Shown::Online), Verdict::Other);
        assert_eq!(stage.see(early, 10, Shown::Online), Verdict::Duplicate);
        let known = stage
            .entry
            .see(&Stage::new(10.0, 3).scene(early, true), 10, Shown::Online);
        assert_eq!(known, Verdict::Known);
        assert_eq!(stage.see(early, 9, Shown::Away), Verdict::Reordered);
        assert_eq!(stage.see(early, 11, Shown::Offline), Verdict::Flap);
        let stray = Verdict::Stray { disturbed: false };
        assert_eq!(stage.see(early, 12, Shown::Away), stray, "not due yet");
        assert_eq!(
            stage.see(early, 12, Shown::Online),
            stray,
            "another state under the same version"
        );
    }

    #[test]
    fn what_stood_for_a_second_has_to_be_seen() {
        for (rate, conflated, missed) in [(125.0, 1, 0), (50.0, 0, 1)] {
            let mut stage = Stage::new(rate, 3);
            let now = stage.at(1);
            let skipped = Skipped { conflated, missed };
            assert_eq!(stage.skipped(now, 1, Shown::Online), skipped, "{rate}");
            assert_eq!(stage.entry.left(&stage.plan), stage.plan.changes_of(3) - 2);
        }
    }

    #[test]
    fn after_a_disturbance_the_newest_state_stands_for_those_before() {
        for disturbed in ["user", "watcher"] {
            let mut stage = Stage::new(10.0, 3);
            let (cut, now) = (stage.at(1) - S, stage.at(4) + S);
            let truth = match disturbed {
                "user" => &mut stage.user,
                _ => &mut stage.watcher,
            };
            truth.lost(cut);
            truth.back(now);
            assert_eq!(stage.skipped(stage.at(0), 1, Shown::Away), DELIVERED);
            let skipped = Skipped {
                conflated: 3,
                missed: 0,
            };
            assert_eq!(stage.skipped(now, 2, Shown::Away), skipped, "{disturbed}");
            assert_eq!(stage.entry.turns, 5);
        }
    }

    #[test]
    fn a_disturbance_excuses_nothing_that_had_time_before_or_after_it() {
        let mut stage = Stage::new(10.0, 3);
        // The first change stands for ten seconds, and the cut is in the last of them.
        let now = stage.at(1) + S;
        stage.user.lost(stage.at(1) - S / 2);
        let missed = Skipped {
            conflated: 0,
            missed: 1,
        };
        assert_eq!(stage.skipped(now, 1, Shown::Online), missed);
    }

    #[test]
    fn late_is_told_apart_by_whether_a_session_was_lost_since() {
        let mut stage = Stage::new(10.0, 3);
        let now = stage.at(0) + 3 * S;
        stage.user.lost(stage.at(0) - S);
        stage.user.back(stage.at(0) + 2 * S);
        let late = |verdict| match verdict {
            Verdict::Delivered { disturbed, .. } => disturbed,
            other => panic!("{other:?}"),
        };
        let verdict = stage.see(now, 1, Shown::Away);
        assert!(late(verdict));
        let verdict = stage.see(stage.at(1) + 1, 2, Shown::Online);
        assert!(!late(verdict), "the next one has nothing to do with it");
    }

    #[test]
    fn a_goodbye_that_was_cut_off_is_late_and_not_missed() {
        let mover = 80;
        let mut stage = Stage::new(10.0, mover);
        assert_eq!(stage.plan.kind(mover), crate::plan::Kind::Moves);
        assert_eq!(stage.skipped(stage.at(0), 1, Shown::Online), DELIVERED);
        stage.user.lost(stage.at(1) - S);
        stage.user.gone(stage.plan.grace);
        // It comes back within its grace, so nobody was told anything, and then leaves again.
        stage.user.returns(stage.at(2));
        stage.user.back(stage.at(2) + 1);
        let skipped = Skipped {
            conflated: 2,
            missed: 0,
        };
        assert_eq!(stage.skipped(stage.at(3), 2, Shown::Offline), skipped);
        assert_eq!(
            stage.entry.left(&stage.plan),
            stage.plan.changes_of(mover) - 4
        );
    }

    #[test]
    fn offline_is_no_flap_once_the_grace_is_over_and_a_stray_is_excused_by_a_loss() {
        let mut stage = Stage::new(10.0, 3);
        let early = GO - 50 * S;
        stage.see(early, 1, Shown::Online);
        stage.user.lost(early);
        assert_eq!(stage.see(early + 20 * S, 2, Shown::Offline), Verdict::Other);
        assert_eq!(
            stage.see(early + 21 * S, 3, Shown::Away),
            Verdict::Stray { disturbed: true }
        );
        stage.user.back(early + 22 * S);
        assert_eq!(stage.see(early + 40 * S, 4, Shown::Offline), Verdict::Flap);
    }

    #[test]
    fn what_never_came_is_missed_in_the_end_unless_it_could_not_come() {
        let stage = Stage::new(10.0, 3);
        let all = stage.plan.changes_of(3);
        let end = stage.at(all - 1) + 30 * S;
        let skipped = stage.entry.leftover(&stage.scene(end, false));
        assert_eq!((skipped.missed, skipped.conflated), (all, 0));
        assert!(!stage.entry.is_final(&stage.plan));
        let mut cut = Stage::new(10.0, 3);
        cut.watcher.lost(GO - S);
        let skipped = cut.entry.leftover(&cut.scene(end, false));
        assert_eq!((skipped.missed, skipped.conflated), (0, all));
    }
}
