//! Who gets what, and in which steps.

use coordinator::control::{
    Control, Moved, Note, Now, Observation, Options, Problem, Reading, State, Stored,
};
use proptest::prelude::*;
use ring::{MapVersion, Vnode};

use crate::fleet::{Fleet, START, START_DAY, STEP, id, options, owners};

#[test]
fn the_first_map_waits_for_the_nodes_and_begins_at_the_day() {
    let mut fleet = Fleet::new(options(64));
    fleet.start("a");
    fleet.run(1_500);
    fleet.start("b");
    fleet.run(1_500);
    assert!(fleet.written.is_empty(), "b has just come");
    fleet.run(1_500);
    assert_eq!((fleet.owned("a"), fleet.owned("b")), (32, 32));
    let map = fleet.map();
    assert!(
        map.count()
            .all()
            .all(|vnode| map.epoch(vnode).get() == START_DAY)
    );
    assert_eq!(fleet.written.len(), 1);
}

#[test]
fn nodes_that_keep_coming_do_not_put_off_the_first_map_for_ever() {
    let mut fleet = Fleet::new(options(64));
    for n in 0..60 {
        fleet.start(&format!("n{n}"));
        fleet.run(1_000);
    }
    assert!(!fleet.written.is_empty());
}

#[test]
fn a_fourth_node_gets_a_quarter_in_steps_and_nothing_moves_between_the_others() {
    let mut fleet = Fleet::settled(options(4_096), &["a", "b", "c"]);
    let before = fleet.owners();
    let maps = fleet.written.len();
    fleet.start("d");
    fleet.settle();
    let after = fleet.owners();
    assert_eq!(fleet.owned("d"), 1_024);
    let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
    assert_eq!(moved.len(), 1_024);
    assert!(moved.iter().all(|(_, to)| to.as_deref() == Some("d")));
    for pair in fleet.written[maps - 1..].windows(2) {
        let (from, to) = (owners(&pair[0]), owners(&pair[1]));
        let moving = from.iter().zip(&to).filter(|(a, b)| a != b).count();
        assert!(
            moving <= fleet.options.max_in_motion,
            "{moving} vnodes in one step"
        );
    }
    assert_eq!(
        fleet.written.len() - maps,
        1_024 / fleet.options.max_in_motion
    );
}

/// The events of the next steps, until one of them is as it is wanted.
fn notes_until(fleet: &mut Fleet, wanted: impl Fn(&Note) -> bool) -> Vec<Note> {
    let mut notes = Vec::new();
    while !notes.iter().any(&wanted) {
        assert!(notes.len() < 1_000, "never: {notes:?}");
        notes.extend(fleet.step().notes);
    }
    notes
}

#[test]
fn a_node_that_is_told_to_end_leaves_and_one_that_is_not_is_gone() {
    let mut fleet = Fleet::settled(options(64), &["a", "b", "c"]);
    fleet.lease("a").draining = true;
    let notes = notes_until(&mut fleet, |note| *note == Note::Leaving(id("a")));
    assert!(!notes.contains(&Note::Left(id("a"))));
    fleet.settle();
    fleet.stop("a");
    let notes = notes_until(&mut fleet, |note| *note == Note::Left(id("a")));
    assert!(!notes.contains(&Note::Dead(id("a"))), "{notes:?}");
    assert_eq!(fleet.state("a"), State::Left);
    fleet.crash("b");
    let notes = notes_until(&mut fleet, |note| *note == Note::Dead(id("b")));
    assert!(!notes.contains(&Note::Left(id("b"))), "{notes:?}");
    assert_eq!(fleet.state("b"), State::Dead);
    fleet.start("a");
    fleet.step();
    assert!(!fleet.state("a").is_gone(), "its next life is here");
}

#[test]
fn a_map_says_from_whom_to_whom_its_vnodes_go() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    fleet.start("c");
    let mut moved = Vec::new();
    while fleet.owned("c") < 21 || moved.is_empty() {
        for note in fleet.step().notes {
            if let Note::Map(_, moves) = note {
                moved.extend(moves);
            }
        }
    }
    let to_c = |moved: &Moved| moved.to == Some(id("c")) && moved.from != moved.to;
    assert!(moved.iter().all(to_c), "{moved:?}");
    assert_eq!(moved.iter().map(|moved| moved.vnodes).sum::<usize>(), 21);
    // Another life of the same node is another owner.
    fleet.start("a");
    let notes = notes_until(&mut fleet, |note| matches!(note, Note::Map(..)));
    let of_a = |note: &Note| match note {
        Note::Map(_, moves) => moves.iter().any(|it| it.from == it.to && it.vnodes >= 21),
        _ => false,
    };
    assert!(notes.iter().any(of_a), "{notes:?}");
}

#[test]
fn a_step_follows_when_all_have_done_the_last_one_or_after_its_time() {
    let mut fleet = Fleet::settled(options(1_024), &["a", "b"]);
    fleet.processes.get_mut("b").expect("started").stuck = true;
    fleet.start("c");
    fleet.run(10_000);
    let version = fleet.map().version();
    fleet.run(15_000);
    assert_eq!(
        fleet.map().version(),
        version,
        "b has not done the first step"
    );
    fleet.run(10_000);
    assert!(fleet.map().version() > version, "it had 30 s for it");
    fleet.processes.get_mut("b").expect("started").stuck = false;
    fleet.settle();
    assert!((341..=342).contains(&fleet.owned("c")));
}

#[test]
fn steps_are_as_small_as_the_sessions_that_they_move_want() {
    let limited = Options {
        sessions_per_second: 1_000,
        ..options(1_024)
    };
    let mut fleet = Fleet::settled(limited, &["a", "b"]);
    for name in ["a", "b"] {
        fleet.lease(name).load.sessions = 512 * 100;
    }
    fleet.run(5_000);
    let (maps, started) = (fleet.written.len(), fleet.now);
    fleet.start("c");
    fleet.run(30_000);
    let seconds = (fleet.now - started) / 1_000;
    let moved = fleet.owned("c");
    assert!(
        moved as u64 * 100 <= 1_000 * (seconds + 1),
        "{moved} vnodes of 100 sessions"
    );
    assert!(moved >= 100, "and it goes on: {moved}");
    for pair in fleet.written[maps - 1..].windows(2) {
        let (from, to) = (owners(&pair[0]), owners(&pair[1]));
        assert!(from.iter().zip(&to).filter(|(a, b)| a != b).count() <= 10);
    }
}

#[test]
fn a_crashed_nodes_vnodes_go_at_once_when_its_lease_is_gone_and_no_sooner() {
    let mut fleet = Fleet::settled(options(64), &["a", "b", "c"]);
    let before = fleet.owners();
    fleet.crash("b");
    let ends = fleet.leases["b"].1;
    fleet.leases.get_mut("b").expect("a lease").0.moving = 3;
    while fleet.now + STEP < ends {
        assert!(fleet.step().write.is_none());
    }
    fleet.step();
    assert_eq!(fleet.state("b"), State::Dead);
    assert_eq!(fleet.member("b").lease.moving, 0, "it ended with it");
    assert!(fleet.owners().iter().flatten().all(|owner| owner != "b"));
    let others = |owner: &Option<String>| owner.as_deref() != Some("b");
    let stayed = before
        .iter()
        .zip(fleet.owners())
        .filter(|(from, _)| others(from));
    assert!(stayed.into_iter().all(|(from, to)| *from == to));
    assert_eq!((fleet.owned("a"), fleet.owned("c")), (32, 32));
}

#[test]
fn the_next_life_of_a_node_gets_the_same_vnodes_under_the_next_epochs_at_once() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let (before, owners) = (fleet.map().clone(), fleet.owners());
    fleet.start("b");
    assert!(fleet.step().write.is_some());
    assert_eq!(fleet.owners(), owners);
    for vnode in before.count().all() {
        let reborn = owners[vnode.index()].as_deref() == Some("b");
        let epoch = before.epoch(vnode).get() + u32::from(reborn);
        assert_eq!(fleet.map().epoch(vnode).get(), epoch);
    }
}

#[test]
fn a_drained_node_is_relieved_in_steps_and_ignored_until_it_is_undrained() {
    let mut fleet = Fleet::settled(options(1_024), &["a", "b"]);
    fleet.lease("b").pins = "0-9".into();
    fleet.settle();
    fleet.drain("b");
    fleet.step();
    assert_eq!(fleet.state("b"), State::Draining);
    assert!(fleet.owned("b") >= 512 - fleet.options.max_in_motion);
    fleet.settle();
    assert_eq!((fleet.owned("a"), fleet.owned("b")), (1_024, 0));
    assert_eq!(
        (fleet.state("b"), fleet.member("b").share),
        (State::Drained, 0.0)
    );
    fleet.drained.clear();
    fleet.settle();
    assert_eq!((fleet.state("b"), fleet.owned("b")), (State::Active, 512));
    fleet.lease("b").draining = true;
    fleet.settle();
    assert_eq!((fleet.state("b"), fleet.owned("b")), (State::Drained, 0));
}

#[test]
fn when_all_drain_they_keep_what_they_have_and_a_dead_ones_share_goes_to_who_stays() {
    let mut fleet = Fleet::settled(options(64), &["a", "b", "c"]);
    let before = fleet.owners();
    for name in ["a", "b", "c"] {
        fleet.drain(name);
    }
    fleet.lease("c").draining = true;
    fleet.settle();
    assert_eq!(fleet.owners(), before);
    fleet.crash("a");
    fleet.settle();
    assert!(fleet.owners().iter().all(Option::is_some));
    assert!((21..=22).contains(&fleet.owned("c")), "c is about to end");
    assert_eq!(fleet.owned("a"), 0);
}

#[test]
fn pins_come_first_and_a_bad_one_is_named_and_stops_nobody() {
    let mut fleet = Fleet::settled(options(64), &["a", "b", "c"]);
    fleet.lease("b").pins = "0-9".into();
    fleet.lease("c").pins = "9-12, 60-70, x, 63".into();
    fleet.settle();
    let owners = fleet.owners();
    assert!(
        (0..10).all(|v| owners[v].as_deref() == Some("b")),
        "b is before c"
    );
    assert!(
        [10, 11, 12, 63]
            .iter()
            .all(|v| owners[*v].as_deref() == Some("c"))
    );
    for name in ["a", "b", "c"] {
        assert!((21..=22).contains(&fleet.owned(name)), "{name}");
    }
    let problems = fleet.control.problems();
    let twice = problems.iter().any(|problem| {
        matches!(problem, Problem::PinnedTwice { vnode, first, second }
            if *vnode == Vnode::new(9) && &**first == "b" && &**second == "c")
    });
    let beyond = problems
        .iter()
        .any(|problem| matches!(problem, Problem::Pin { node, .. } if &**node == "c"));
    assert!(twice && beyond && problems.len() == 2, "{problems:?}");
    fleet.crash("b");
    fleet.settle();
    assert_eq!(fleet.owners()[9].as_deref(), Some("c"));
}

#[test]
fn a_flapping_node_does_not_make_the_map_flap_and_gets_its_share_when_it_stays() {
    let mut fleet = Fleet::settled(options(64), &["a", "b", "c"]);
    for _ in 0..3 {
        fleet.start("c");
        fleet.run(5_000);
    }
    assert_eq!((fleet.state("c"), fleet.owned("c")), (State::Penalised, 0));
    let version = fleet.map().version();
    // Each return doubles what it has to stay: now it needs 30 s and more, and never gets there.
    for _ in 0..20 {
        fleet.start("c");
        fleet.run(20_000);
    }
    assert_eq!(fleet.map().version(), version);
    let penalty = fleet.member("c").penalty;
    assert!(
        penalty > 500_000 && penalty <= fleet.options.penalty_limit,
        "{penalty}"
    );
    fleet.run(penalty + 60_000);
    assert_eq!((fleet.state("c"), fleet.owned("c")), (State::Active, 21));
}

#[test]
fn a_node_that_ends_as_it_should_may_come_back_as_often_as_it_likes_and_a_crashed_one_may_not() {
    let quick = Options {
        sessions_per_second: 0,
        ..options(64)
    };
    for (crashes, state) in [(false, State::Active), (true, State::Penalised)] {
        for at_once in [false, true] {
            let mut fleet = Fleet::settled(quick.clone(), &["a", "b", "c"]);
            for _ in 0..5 {
                if crashes {
                    fleet.crash("c");
                } else {
                    fleet.lease("c").draining = true;
                    fleet.run(10_000);
                    assert_eq!(fleet.owned("c"), 0);
                    fleet.stop("c");
                }
                if !at_once {
                    fleet.run(10_000);
                }
                fleet.start("c");
                fleet.run(20_000);
            }
            assert_eq!(fleet.state("c"), state, "at once: {at_once}");
        }
        // One that had nothing to be relieved of: its lease and its name are gone at once.
        let mut fleet = Fleet::settled(quick.clone(), &["a", "b", "c"]);
        for _ in 0..5 {
            match crashes {
                true => fleet.crash("c"),
                false => fleet.stop("c"),
            }
            fleet.run(10_000);
            fleet.start("c");
            fleet.run(20_000);
        }
        assert_eq!(fleet.state("c"), state);
    }
}

#[test]
fn a_penalised_node_serves_when_it_is_the_only_one() {
    let mut fleet = Fleet::settled(options(64), &["a"]);
    for _ in 0..5 {
        fleet.start("a");
        fleet.run(2_000);
        assert_eq!(fleet.owned("a"), 64);
    }
    assert!(fleet.member("a").penalty > 0);
    // Nothing is taken from it when others come and its penalty is not over.
    fleet.start("b");
    fleet.run(4_000);
    assert!((32..64).contains(&fleet.owned("a")));
}

#[test]
fn load_shifts_weight_slowly_within_its_bounds_and_not_at_all_by_default() {
    for shift in [0, 10] {
        let shifting = Options {
            load_shift: shift,
            ..options(1_024)
        };
        let mut fleet = Fleet::settled(shifting, &["a", "b"]);
        let even = fleet.map().version();
        fleet.lease("a").load.cpu = 0.9;
        fleet.lease("b").load.cpu = 0.85;
        fleet.run(600_000);
        assert_eq!(fleet.map().version(), even, "within the deadband");
        fleet.lease("b").load.cpu = 0.1;
        fleet.run(150_000);
        let first = fleet.owned("a");
        fleet.run(3_600_000);
        if shift == 0 {
            assert_eq!((first, fleet.map().version()), (512, even));
        } else {
            assert!(
                (480..512).contains(&first),
                "a few percent at first: {first}"
            );
            // 90 to 110.
            assert_eq!(fleet.owned("a"), 461);
            let weights: Vec<u32> = fleet.map().nodes().iter().map(|n| n.weight).collect();
            assert_eq!(weights, [9_000, 11_000]);
        }
    }
}

#[test]
fn a_follower_that_takes_over_has_the_history_it_needs() {
    let mut fleet = Fleet::settled(options(64), &["a", "b", "c"]);
    fleet.crash("b");
    fleet.leading = false;
    fleet.run(4_000);
    std::mem::swap(&mut fleet.control, &mut fleet.standby);
    fleet.leading = true;
    // Without the follower's history this would take another TTL.
    fleet.run(3 * STEP);
    assert_eq!(fleet.owned("b"), 0);
}

#[test]
fn a_map_with_another_number_of_vnodes_is_left_alone() {
    let mut fleet = Fleet::settled(options(64), &["a"]);
    fleet.control = Control::new(options(128));
    fleet.start("b");
    for _ in 0..100 {
        assert!(fleet.step().write.is_none());
    }
    assert_eq!(
        fleet.control.problems(),
        [Problem::Vnodes {
            map: 64,
            configured: 128
        }]
    );
}

#[test]
fn leases_that_cannot_be_true_are_ignored_and_named() {
    let mut fleet = Fleet::settled(options(64), &["a"]);
    fleet.start("b").highest_epoch = u32::MAX;
    fleet.start("c").address = String::new();
    fleet.run(20_000);
    assert_eq!(fleet.owned("a"), 64);
    let kinds: Vec<&str> = fleet.control.problems().iter().map(Problem::kind).collect();
    assert_eq!(kinds, ["lease", "lease"]);
}

#[test]
fn a_node_with_another_number_of_vnodes_gets_none_and_is_named() {
    let mut fleet = Fleet::settled(options(64), &["a"]);
    fleet.start("b").vnodes = 32;
    // One that follows no map gets more with each step that waits for it in vain.
    fleet.run(200_000);
    assert_eq!((fleet.owned("a"), fleet.owned("b")), (64, 0));
    let [problem] = fleet.control.problems() else {
        panic!("{:?}", fleet.control.problems());
    };
    let text = problem.to_string();
    assert_eq!(problem.kind(), "lease");
    assert!(
        text.contains("\"b\"") && text.contains("cluster.vnodes is 32, and the coordinators' 64"),
        "{text}"
    );
    fleet.start("b").vnodes = 64;
    fleet.settle();
    assert_eq!((fleet.owned("a"), fleet.owned("b")), (32, 32));
    assert!(fleet.control.problems().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_the_leases_does_not_matter(
        weights in prop::collection::vec(0_u32..4, 1..6),
        pins in prop::collection::vec("[0-9]{1,2}(-[0-9]{1,2})?", 6),
        by in 0_usize..6,
        back in any::<bool>(),
    ) {
        let mut fleet = Fleet::new(options(16));
        for (n, weight) in weights.iter().enumerate() {
            let lease = fleet.start(&format!("n{n}"));
            (lease.weight, lease.pins) = (*weight, pins[n].clone());
        }
        fleet.run(STEP);
        let leases: Vec<_> = fleet.leases.values().map(|(lease, _)| lease.clone()).collect();
        let mut mixed = leases.clone();
        mixed.rotate_left(by % leases.len());
        if back {
            mixed.reverse();
        }
        let first = |leases: &[protocol::Lease]| {
            let mut control = Control::new(options(16));
            (0..10).find_map(|turn| {
                let now = Now { mono_ms: turn * STEP, wall_ms: START };
                let reading = Reading {
                    source: 1,
                    leases: leases.to_vec(),
                    ..Reading::default()
                };
                let observation = Observation { leading: true, reading: Some(reading) };
                control.observe(now, observation).write
            })
        };
        prop_assert_eq!(first(&leases), first(&mixed));
    }
}

#[test]
fn a_corrupt_map_is_replaced_by_a_newer_one() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let before = fleet.owners();
    fleet.stored = Stored::Corrupt(MapVersion::new(1_000));
    let since = fleet.now;
    let map = fleet.next_write().map;
    assert_eq!((map.version().get(), owners(&map)), (1_001, before));
    // Until then every node has said what it has met.
    assert!(fleet.now - since >= fleet.options.lease_ttl);
}

#[test]
#[should_panic(expected = "the time of a look is not before the last one's")]
fn a_look_is_not_before_the_last_one() {
    let mut control = Control::new(options(64));
    for mono_ms in [2_000, 1_999] {
        let now = Now {
            mono_ms,
            wall_ms: 0,
        };
        let observation = Observation {
            leading: true,
            reading: Some(Reading::default()),
        };
        control.observe(now, observation);
    }
}
