//! The rules of the judgement, one after the other.

use super::*;
use crate::plan::{Scenario, tests::plan};

const S: u64 = 1_000_000;
const GO: u64 = 100 * S;
const DELIVERED: Skipped = Skipped {
    conflated: 0,
    missed: 0,
    came_after_all: 0,
    repeated: false,
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
    let stray = Verdict::Stray { crashed: false };
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
        let skipped = Skipped {
            conflated,
            missed,
            ..DELIVERED
        };
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
            ..DELIVERED
        };
        assert_eq!(stage.skipped(now, 2, Shown::Away), skipped, "{disturbed}");
        assert_eq!(stage.entry.turns, 5);
    }
}

#[test]
fn where_changes_wait_for_others_the_newest_one_stands_for_them_and_none_waits_longer() {
    // The user's changes are 100 ms apart.
    let mut stage = Stage::new(1_000.0, 3);
    stage.plan.flush = S / 2;
    let passed_over = |conflated| Skipped {
        conflated,
        ..DELIVERED
    };
    assert_eq!(stage.skipped(stage.at(4), 1, Shown::Away), passed_over(4));
    let late = stage.at(5) + S / 2 + S + 1;
    assert_eq!(
        stage.skipped(late, 2, Shown::Online),
        passed_over(0),
        "the next one, late"
    );
}

#[test]
fn what_was_taken_for_the_newest_state_may_have_been_an_older_one() {
    let mut stage = Stage::new(10.0, 3);
    stage.watcher.lost(stage.at(0) - S);
    stage.watcher.back(stage.at(2));
    // It looks like the third change, but is the first: the second and the third come late.
    let skipped = Skipped {
        conflated: 2,
        ..DELIVERED
    };
    assert_eq!(stage.skipped(stage.at(2), 1, Shown::Away), skipped);
    let after_all = Skipped {
        came_after_all: 2,
        ..DELIVERED
    };
    let soon = stage.at(2) + 1;
    assert_eq!(stage.skipped(soon, 2, Shown::Online), after_all);
    assert_eq!(stage.skipped(soon, 3, Shown::Away), DELIVERED);
    assert_eq!(stage.entry.turns, 3);
    assert_eq!(stage.skipped(stage.at(3), 4, Shown::Online), DELIVERED);
    // Once a change has come in time there is no doubt any more.
    let stray = Verdict::Stray { crashed: false };
    assert_eq!(stage.see(stage.at(3) + 5 * S, 5, Shown::Away), stray);
}

#[test]
fn what_was_taken_for_a_change_may_have_repeated_the_one_before() {
    let mover = 80;
    let mut stage = Stage::new(10.0, mover);
    assert_eq!(stage.skipped(stage.at(0), 1, Shown::Online), DELIVERED);
    assert_eq!(stage.skipped(stage.at(1), 2, Shown::Offline), DELIVERED);
    // It wants to come, has to go elsewhere, and leaves before it gets there. The new server shows it as
    // offline under a version of its own first, which looks like the goodbye.
    stage.user.lost(stage.at(2));
    let soon = stage.at(3) + 1;
    let skipped = Skipped {
        conflated: 1,
        ..DELIVERED
    };
    assert_eq!(stage.skipped(soon, 3, Shown::Offline), skipped);
    let after_all = Skipped {
        came_after_all: 1,
        repeated: true,
        ..DELIVERED
    };
    assert_eq!(stage.skipped(soon, 4, Shown::Online), after_all);
    assert_eq!(stage.skipped(soon, 5, Shown::Offline), DELIVERED);
    assert_eq!(stage.entry.turns, 4);
}

#[test]
fn a_change_has_to_be_seen_once_a_server_has_answered_it() {
    // The watcher is told to move 1.5 seconds after the first change, and has its snapshot after the second.
    for (answer, conflated, missed) in [(S / 2, 1, 0), (S / 2 - 1, 0, 1)] {
        let mut stage = Stage::new(10.0, 3);
        let (began, now) = (stage.at(0), stage.at(1) + S / 2);
        stage.user.answered(0, began, began + answer);
        stage.watcher.lost(began + 3 * S / 2);
        stage.watcher.back(now);
        let skipped = Skipped {
            conflated,
            missed,
            ..DELIVERED
        };
        assert_eq!(stage.skipped(now, 2, Shown::Online), skipped, "{answer}");
    }
}

#[test]
fn a_disturbance_excuses_nothing_that_had_time_before_or_after_it() {
    let mut stage = Stage::new(10.0, 3);
    // The first change stands for ten seconds, and the cut is in the last of them.
    let now = stage.at(1) + S;
    stage.user.lost(stage.at(1) - S / 2);
    let missed = Skipped {
        missed: 1,
        ..DELIVERED
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
    stage.user.gone(stage.at(1), stage.plan.grace);
    // It comes back within its grace, so nobody was told anything, and then leaves again.
    stage.user.returns(stage.at(2));
    stage.user.back(stage.at(2) + 1);
    let skipped = Skipped {
        conflated: 2,
        missed: 0,
        ..DELIVERED
    };
    assert_eq!(stage.skipped(stage.at(3), 2, Shown::Offline), skipped);
    assert_eq!(
        stage.entry.left(&stage.plan),
        stage.plan.changes_of(mover) - 4
    );
}

#[test]
fn offline_is_no_flap_once_the_grace_is_over_and_a_stray_is_excused_by_a_crash() {
    let mut stage = Stage::new(10.0, 3);
    let early = GO - 50 * S;
    stage.see(early, 1, Shown::Online);
    stage.user.lost(early);
    stage.user.cut();
    assert_eq!(stage.see(early + 20 * S, 2, Shown::Offline), Verdict::Other);
    assert_eq!(
        stage.see(early + 21 * S, 3, Shown::Away),
        Verdict::Stray { crashed: true }
    );
    stage.user.back(early + 22 * S);
    stage.see(early + 22 * S, 4, Shown::Online);
    stage.user.lost(early + 22 * S);
    assert_eq!(
        stage.see(early + 24 * S, 5, Shown::Away),
        Verdict::Stray { crashed: false },
        "a move is no crash"
    );
    stage.user.back(early + 25 * S);
    assert_eq!(stage.see(early + 40 * S, 6, Shown::Offline), Verdict::Flap);
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

#[test]
fn a_declared_outage_excuses_what_is_passed_over_in_it_and_shortly_after_and_nothing_else() {
    // The user's changes are 10 s apart; the first one is seen in time, the second is passed over.
    let judge = |from: u64, until: u64| {
        let mut stage = Stage::new(10.0, 3);
        let began = stage.at(1) - GO;
        stage.plan.tolerance = 2 * S;
        stage.plan.outages = vec![Span {
            from: began + from - 20 * S,
            until: began + until - 20 * S,
        }];
        assert_eq!(stage.skipped(stage.at(0), 1, Shown::Away), DELIVERED);
        match stage.see(stage.at(2), 2, Shown::Away) {
            Verdict::Delivered {
                disturbed, skipped, ..
            } => (disturbed, skipped.conflated, skipped.missed),
            other => panic!("{other:?}"),
        }
    };
    // As if the second change happened at 20 s, and the third at 30.
    assert_eq!(judge(20 * S, 28 * S), (true, 1, 0));
    assert_eq!(
        judge(21 * S, 27 * S),
        (false, 1, 0),
        "a second on both sides"
    );
    assert_eq!(judge(21 * S + 1, 28 * S), (true, 0, 1), "it began later");
    assert_eq!(judge(20 * S, 27 * S - 1).2, 1, "it was over before");
    assert_eq!(judge(31 * S, 40 * S), (false, 0, 1), "it was still to come");
}
