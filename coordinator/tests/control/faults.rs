//! What faults of nodes and store do to the fleet.

use coordinator::control::{Control, State, Stored};
use proptest::prelude::*;
use ring::{Map, MapVersion};

use crate::fleet::{Fleet, STEP, id, options};

#[test]
fn an_outage_of_any_length_changes_nothing_and_nobody_is_judged_before_a_ttl_after_it() {
    for outage in [1_000, 5_000, 60_000, 3_600_000] {
        let mut fleet = Fleet::settled(options(64), &["a", "b"]);
        let version = fleet.map().version();
        fleet.crash("b");
        fleet.up = false;
        fleet.run(outage);
        fleet.up = true;
        // The store comes back without leases, as after a restart.
        fleet.leases.clear();
        let returned = fleet.now;
        while fleet.now + STEP < returned + STEP + fleet.options.lease_ttl {
            assert!(
                fleet.step().write.is_none(),
                "at {} ms",
                fleet.now - returned
            );
            assert_ne!(fleet.state("b"), State::Dead);
        }
        fleet.run(2 * STEP);
        assert_eq!(fleet.state("b"), State::Dead);
        assert_eq!((fleet.owned("a"), fleet.owned("b")), (64, 0));
        assert!(fleet.map().version() > version);
    }
}

#[test]
fn another_server_or_a_stall_of_the_coordinator_begins_the_ttl_anew() {
    for stall in [false, true] {
        let mut fleet = Fleet::settled(options(64), &["a", "b"]);
        fleet.crash("b");
        if stall {
            fleet.now += 2 * fleet.options.lease_ttl;
            for (name, (_, ends)) in &mut fleet.leases {
                if name == "a" {
                    *ends = fleet.now + 10_000;
                }
            }
        } else {
            fleet.source += 1;
            fleet.leases.remove("b");
        }
        let version = fleet.map().version();
        fleet.run(fleet.options.lease_ttl);
        assert_eq!(fleet.map().version(), version);
        fleet.run(2 * STEP);
        assert_eq!(fleet.owned("b"), 0);
    }
}

#[test]
fn a_flushed_store_gets_a_map_that_is_newer_than_all_and_moves_nothing() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let (before, owners) = (fleet.map().clone(), fleet.owners());
    fleet.flush();
    fleet.settle();
    assert_eq!(fleet.owners(), owners);
    let map = fleet.map();
    assert!(map.version() > before.version());
    for vnode in map.count().all() {
        assert!(map.epoch(vnode) > before.highest_epoch());
    }
}

#[test]
fn a_new_coordinator_and_a_flushed_store_still_make_a_map_above_what_nodes_have_met() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let before = fleet.map().clone();
    fleet.flush();
    fleet.control = Control::new(fleet.options.clone());
    fleet.settle();
    let map = fleet.map();
    assert!(map.version() > before.version());
    for vnode in map.count().all() {
        assert!(map.epoch(vnode) > before.highest_epoch());
    }
}

#[test]
fn a_restored_map_is_raised_above_what_nodes_have_met_by_old_and_new_coordinators() {
    for new in [false, true] {
        let mut fleet = Fleet::settled(options(64), &["a", "b"]);
        let old = fleet.map().clone();
        fleet.start("c");
        fleet.settle();
        let newest = fleet.map().clone();
        fleet.stored = Stored::Map(old);
        if new {
            fleet.control = Control::new(fleet.options.clone());
        }
        fleet.run(2 * fleet.options.lease_ttl);
        let map = fleet.map().clone();
        assert!(map.version() > newest.version());
        for vnode in map.count().all() {
            assert!(map.epoch(vnode) > newest.highest_epoch());
        }
        let version = map.version().get();
        assert!(
            fleet
                .processes
                .values()
                .all(|p| p.lease.map_version <= version)
        );
        fleet.settle();
        assert_eq!(fleet.owned("c"), 21);
    }
}

/// Another leader has given the vnodes of one node to the other, which has died since, and a failover has
/// lost that map before this replica read it.
#[test]
fn epochs_of_a_map_that_was_lost_unread_are_not_given_a_second_time() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let old = fleet.map().clone();
    let b = old.nodes().iter().position(|node| node.id == id("b"));
    let lost = old.apply(old.nodes().to_vec(), &vec![b; 64]);
    fleet.source += 1;
    fleet.crash("b");
    let map = fleet.next_write().map;
    assert!(map.version() > lost.version());
    for (vnode, _) in lost.owned_by(&id("b")) {
        let is_moved = map.epoch(vnode) > old.epoch(vnode);
        assert!(!is_moved || map.epoch(vnode) > lost.epoch(vnode));
        assert!(!is_moved || map.succeeds(&old, vnode));
    }
    assert_eq!(fleet.owned("b"), 0);
    // The new server has that map: the next one needs no room.
    fleet.start("c");
    let next = fleet.next_write().map;
    assert_eq!(next.version().get(), map.version().get() + 1);
}

#[test]
fn a_write_that_did_not_arrive_is_decided_anew() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let stored = fleet.stored.clone();
    fleet.start("b");
    let first = fleet.step().write.expect("b's next life");
    fleet.stored = stored;
    fleet.written.pop();
    let second = fleet.step().write.expect("again");
    assert_eq!(first, second);
}

#[test]
fn a_write_that_keeps_failing_is_tried_as_it_is() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    let lost = fleet.map().clone();
    fleet.stored = Stored::Nothing;
    let first = fleet.next_write();
    for _ in 0..100 {
        fleet.stored = Stored::Nothing;
        assert_eq!(fleet.step().write.as_ref(), Some(&first));
    }
    assert_eq!(first.map.version().get(), lost.version().get() + 1);
    // Something else is decided meanwhile: it is above the one that may have been seen.
    fleet.stored = Stored::Map(lost.clone());
    fleet.lease("a").highest_epoch += 10;
    fleet.run(4_000);
    assert!(fleet.map().version() > first.map.version());
    for vnode in lost.count().all() {
        assert!(fleet.map().epoch(vnode) > first.map.epoch(vnode));
    }
}

#[test]
fn the_store_may_forget_names_that_have_been_gone_for_long() {
    let mut fleet = Fleet::settled(options(64), &["a", "b"]);
    fleet.crash("b");
    let started = fleet.now;
    let forgotten = loop {
        let forget = fleet.step().forget;
        if !forget.is_empty() {
            break forget;
        }
        assert!(fleet.now - started < 10_000_000);
    };
    assert_eq!(forgotten, ["b"]);
    let memory = fleet.options.return_window + fleet.options.penalty_limit;
    assert!(fleet.now - started >= memory);
    assert!(fleet.control.members(fleet.time()).len() == 1);
    fleet.leading = false;
    assert!(fleet.step().forget.is_empty());
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Start(usize),
    Crash(usize),
    Drain(usize),
    Undrain(usize),
    Weight(usize, u32),
    Pins(usize, &'static str),
    Outage(u64),
    OtherServer,
    Flush,
    Restore,
    Corrupt,
    NewCoordinator,
    Failover,
    Stall,
    Unlink(usize),
    Link,
    Wait(u64),
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn fault() -> impl Strategy<Value = Fault> {
    let node = 0_usize..NAMES.len();
    let pins = prop::sample::select(vec!["", "0-3", "2-5,9", "60-99", "nonsense", "7"]);
    prop_oneof![
        5 => node.clone().prop_map(Fault::Start),
        3 => node.clone().prop_map(Fault::Crash),
        1 => node.clone().prop_map(Fault::Drain),
        1 => node.clone().prop_map(Fault::Undrain),
        1 => (node.clone(), 0_u32..4).prop_map(|(n, weight)| Fault::Weight(n, 50 * weight)),
        1 => (node.clone(), pins).prop_map(|(n, pins)| Fault::Pins(n, pins)),
        1 => (1_u64..30).prop_map(Fault::Outage),
        1 => Just(Fault::OtherServer),
        1 => Just(Fault::Flush),
        1 => Just(Fault::Restore),
        1 => Just(Fault::Corrupt),
        1 => Just(Fault::NewCoordinator),
        2 => Just(Fault::Failover),
        1 => Just(Fault::Stall),
        3 => node.prop_map(Fault::Unlink),
        2 => Just(Fault::Link),
        6 => (1_u64..40).prop_map(Fault::Wait),
    ]
}

fn inflict(fleet: &mut Fleet, fault: Fault) {
    let started = |fleet: &Fleet, n: usize| fleet.processes.contains_key(NAMES[n]);
    match fault {
        Fault::Start(n) => {
            fleet.start(NAMES[n]);
        }
        Fault::Crash(n) => fleet.crash(NAMES[n]),
        Fault::Drain(n) => fleet.drain(NAMES[n]),
        Fault::Undrain(n) => {
            fleet.drained.remove(NAMES[n]);
        }
        Fault::Weight(n, weight) if started(fleet, n) => fleet.lease(NAMES[n]).weight = weight,
        Fault::Pins(n, pins) if started(fleet, n) => fleet.lease(NAMES[n]).pins = pins.into(),
        Fault::Weight(..) | Fault::Pins(..) => {}
        Fault::Outage(steps) => {
            let writes = fleet.written.len();
            fleet.up = false;
            fleet.run(steps * STEP);
            fleet.up = true;
            assert_eq!(fleet.written.len(), writes, "an outage changes nothing");
        }
        Fault::OtherServer => fleet.source += 1,
        Fault::Flush => {
            fleet.flush();
            fleet.source += 1;
        }
        Fault::Restore if !fleet.written.is_empty() => {
            let old = fleet.written[fleet.written.len() / 2].clone();
            fleet.stored = Stored::Map(old);
        }
        Fault::Corrupt if !fleet.written.is_empty() => {
            fleet.stored = Stored::Corrupt(MapVersion::new(3));
        }
        Fault::Restore | Fault::Corrupt => {}
        Fault::NewCoordinator => {
            forget_what_only_its_writer_knew(fleet);
            fleet.control = Control::new(fleet.options.clone());
        }
        Fault::Failover => {
            forget_what_only_its_writer_knew(fleet);
            std::mem::swap(&mut fleet.control, &mut fleet.standby);
        }
        Fault::Stall => fleet.now += 7_000,
        Fault::Unlink(n) => drop(fleet.unlinked.insert(NAMES[n].into())),
        Fault::Link => fleet.unlinked.clear(),
        Fault::Wait(steps) => fleet.run(steps * STEP),
    }
}

/// A map that nobody but its writer has seen before it was lost leaves no trace when that one is
/// gone, too, and needs none.
fn forget_what_only_its_writer_knew(fleet: &mut Fleet) {
    let mut quiet = fleet.now;
    while fleet.now - quiet <= fleet.options.lease_ttl {
        if fleet.step().write.is_some() {
            quiet = fleet.now;
        }
    }
    let met = fleet
        .processes
        .values()
        .map(|process| process.lease.map_version);
    let stored = match &fleet.stored {
        Stored::Map(map) => map.version().get(),
        _ => 0,
    };
    let known = met.max().unwrap_or_default().max(stored);
    fleet.written.retain(|map| map.version().get() <= known);
}

/// Every node that may have vnodes has its weighted share, give or take one, and its pins.
fn assert_even(fleet: &Fleet) -> Result<(), TestCaseError> {
    let map = fleet.map();
    let sharing: Vec<_> = fleet
        .processes
        .iter()
        .filter(|(name, process)| process.alive && !fleet.drained.contains(*name))
        .collect();
    if !sharing.iter().any(|(_, process)| process.lease.weight > 0) {
        return Ok(());
    }
    prop_assert!(map.count().all().all(|vnode| map.owner(vnode).is_some()));
    let mut pinned = vec![None; map.count().get()];
    for (name, process) in &sharing {
        let count = map.count();
        for part in process.lease.pins.split(',') {
            let set = ring::VnodeSet::parse(part, count).unwrap_or_default();
            for vnode in set.iter() {
                pinned[vnode.index()].get_or_insert(name.as_str());
            }
        }
    }
    for (vnode, pin) in map.count().all().zip(&pinned) {
        let owner = map.owner(vnode).map(|(node, _)| &*node.id);
        prop_assert!(pin.is_none() || owner == *pin);
    }
    let pins = |name: &str| pinned.iter().filter(|pin| **pin == Some(name)).count();
    for (a, first) in &sharing {
        for (b, second) in &sharing {
            let (wa, wb) = (first.lease.weight as usize, second.lease.weight as usize);
            let (owned_a, owned_b) = (fleet.owned(a), fleet.owned(b));
            if wa > 0 && wb > 0 && owned_a > pins(a) {
                prop_assert!(
                    (owned_a - 1) * wb <= (owned_b + 1) * wa,
                    "{a} {owned_a} {b} {owned_b}"
                );
            }
            if wa == 0 {
                prop_assert_eq!(owned_a, pins(a));
            }
        }
    }
    for (name, process) in &fleet.processes {
        if !process.alive || fleet.drained.contains(name) {
            prop_assert_eq!(fleet.owned(name), 0);
        }
    }
    Ok(())
}

/// The newest map is one that every living node follows.
fn assert_followed(fleet: &Fleet, map: &Map) -> Result<(), TestCaseError> {
    for process in fleet.processes.values().filter(|process| process.alive) {
        prop_assert_eq!(process.lease.map_version, map.version().get());
        prop_assert!(process.lease.highest_epoch <= map.highest_epoch().get());
    }
    Ok(())
}

/// After these faults, a step after each, the fleet comes to rest.
fn assert_rest(faults: Vec<Fault>, tells: bool) -> Result<(), TestCaseError> {
    let mut fleet = Fleet::new(options(64));
    fleet.tells = tells;
    fleet.start("a");
    for fault in faults {
        inflict(&mut fleet, fault);
        fleet.step();
    }
    fleet.settle();
    if !fleet.written.is_empty() {
        assert_even(&fleet)?;
        let map = fleet.map().clone();
        assert_followed(&fleet, &map)?;
    }
    Ok(())
}

/// A first map was written and lost before it was read back: a node that it has, and that dies
/// then, keeps its lease until another map is there.
#[test]
fn nobody_of_a_map_that_was_lost_unread_loses_its_lease_early() {
    use Fault::{Corrupt, Crash, Link, Start, Wait};
    let faults = vec![
        Wait(4),
        Start(1),
        Start(2),
        Link,
        Link,
        Link,
        Corrupt,
        Wait(4),
        Crash(1),
    ];
    assert_rest(faults, true).expect("the fleet comes to rest");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_happens_the_fleet_comes_to_rest_with_even_shares(
        faults in prop::collection::vec(fault(), 1..40),
        tells in any::<bool>(),
    ) {
        assert_rest(faults, tells)?;
    }
}
