//! What the fleet makes of connections to the store that are closed.

use coordinator::control::{Control, Note, State};

use crate::fleet::{Fleet, STEP, options};

/// Nodes with leases of a minute, whose connections the store tells of.
fn settled(nodes: &[&str]) -> Fleet {
    let mut options = options(64);
    options.lease_ttl = 60_000;
    let mut fleet = Fleet::settled(options, nodes);
    fleet.tells = true;
    fleet.run(2 * STEP);
    fleet
}

/// What was noted in so many ms.
fn notes(fleet: &mut Fleet, ms: u64) -> Vec<Note> {
    let end = fleet.now + ms;
    let mut notes = Vec::new();
    while fleet.now < end {
        notes.extend(fleet.step().notes);
    }
    notes
}

fn says(notes: &[Note], what: &str) -> usize {
    let said = notes.iter().filter(|note| note.to_string().contains(what));
    said.count()
}

#[test]
fn a_killed_node_is_replaced_long_before_its_lease_ends_under_higher_epochs() {
    let mut fleet = settled(&["a", "b", "c"]);
    let before = fleet.map().clone();
    fleet.crash("b");
    fleet.run(3 * STEP);
    assert_eq!(fleet.owned("b"), 0);
    assert_eq!(fleet.state("b"), State::Dead);
    let after = fleet.map();
    for (vnode, _) in before.owned_by(&crate::fleet::id("b")) {
        assert_eq!(after.epoch(vnode), before.epoch(vnode).next());
    }
    assert!(
        after
            .count()
            .all()
            .all(|vnode| after.owner(vnode).is_some())
    );
    // A coordinator that starts now is not misled by the lease.
    fleet.step();
    assert!(!fleet.leases.contains_key("b"));
    fleet.control = Control::new(fleet.options.clone());
    fleet.run(10_000);
    assert_eq!(fleet.owned("b"), 0);
}

#[test]
fn a_connection_that_is_made_again_and_one_that_was_never_seen_end_nobody() {
    let mut fleet = settled(&["a", "b", "c"]);
    let version = fleet.map().version();
    for _ in 0..10 {
        fleet.unlinked.insert("b".into());
        fleet.step();
        fleet.unlinked.clear();
        fleet.step();
    }
    assert_eq!(fleet.map().version(), version);
    // An edge of before, or one that may not subscribe.
    fleet.tells = false;
    fleet.step();
    fleet.tells = true;
    fleet.unlinked.insert("b".into());
    let noted = notes(&mut fleet, 30_000);
    assert_eq!((fleet.map().version(), says(&noted, "gone")), (version, 0));
}

#[test]
fn a_node_that_lives_after_all_comes_back_unpunished_and_is_believed_from_then_on() {
    let mut fleet = settled(&["a", "b", "c"]);
    fleet.unlinked.insert("b".into());
    let mut noted = notes(&mut fleet, 3 * STEP);
    assert_eq!((says(&noted, "b is gone"), fleet.owned("b")), (1, 0));
    // It renews its lease, of the same boot.
    noted.extend(notes(&mut fleet, 40_000));
    assert_eq!(says(&noted, "b lives"), 1, "{noted:?}");
    assert_eq!(says(&noted, "too often"), 0);
    fleet.run(10_000);
    assert!(fleet.owned("b") >= 21);
    fleet.unlinked.clear();
    fleet.run(2 * STEP);
    fleet.unlinked.insert("b".into());
    let noted = notes(&mut fleet, 10_000);
    assert_eq!(says(&noted, "gone"), 0, "{noted:?}");
}

#[test]
fn a_renewed_lease_shows_that_a_closed_connection_is_none_of_a_dead_process() {
    let mut options = options(64);
    // Each step renews it.
    options.lease_ttl = 1_500;
    options.closed_for = 2_000;
    let mut fleet = Fleet::settled(options, &["a", "b", "c"]);
    fleet.tells = true;
    fleet.run(4 * STEP);
    let version = fleet.map().version();
    fleet.unlinked.insert("b".into());
    fleet.run(20_000);
    assert_eq!(fleet.map().version(), version);
}

#[test]
fn many_that_are_closed_at_once_wait_for_their_leases() {
    let mut fleet = settled(&["a", "b", "c"]);
    let version = fleet.map().version();
    fleet.crash("b");
    fleet.crash("c");
    let noted = notes(&mut fleet, 20_000);
    assert_eq!(fleet.map().version(), version);
    assert_eq!(says(&noted, "at once, 2 just now"), 1);
    fleet.run(60_000);
    assert_eq!(fleet.owned("a"), 64);
    // One after the other, within a lease: the share counts those that were ended lately.
    let mut fleet = settled(&["a", "b", "c"]);
    fleet.crash("b");
    fleet.run(3 * STEP);
    fleet.crash("c");
    fleet.run(20_000);
    assert_eq!((fleet.owned("b"), fleet.owned("c")), (0, 32));
}

#[test]
fn the_only_node_keeps_its_vnodes_and_its_next_life_takes_them() {
    let mut fleet = settled(&["a"]);
    fleet.crash("a");
    fleet.run(10 * STEP);
    assert_eq!(fleet.owned("a"), 64);
    fleet.start("a");
    fleet.run(2 * STEP);
    assert_eq!((fleet.owned("a"), fleet.map().nodes()[0].boot), (64, 2));
}

#[test]
fn a_restart_in_time_is_the_nodes_next_life_and_moves_nothing() {
    let mut fleet = settled(&["a", "b", "c"]);
    let owners = fleet.owners();
    fleet.crash("b");
    fleet.step();
    fleet.start("b");
    fleet.run(10 * STEP);
    assert_eq!(fleet.owners(), owners);
    // One that comes when it was taken for dead gets its share after the others.
    fleet.crash("b");
    fleet.run(3 * STEP);
    assert_eq!(fleet.owned("b"), 0);
    fleet.start("b");
    fleet.settle();
    assert_eq!(fleet.state("b"), State::Active);
    assert!(fleet.owned("b") >= 21);
}

#[test]
fn nothing_is_taken_from_connections_after_an_outage_nor_when_it_is_turned_off() {
    let mut fleet = settled(&["a", "b", "c"]);
    fleet.up = false;
    fleet.run(5_000);
    fleet.up = true;
    fleet.step();
    fleet.unlinked.insert("b".into());
    fleet.step();
    let version = fleet.map().version();
    fleet.run(10_000);
    assert_eq!(fleet.map().version(), version);

    let mut off = options(64);
    off.lease_ttl = 60_000;
    off.closed_for = 0;
    let mut fleet = Fleet::settled(off, &["a", "b", "c"]);
    fleet.tells = true;
    fleet.run(2 * STEP);
    fleet.crash("b");
    fleet.run(30_000);
    assert!(fleet.owned("b") > 0);
}

#[test]
fn a_node_that_leaves_as_it_should_is_not_taken_for_dead() {
    let mut fleet = settled(&["a", "b", "c"]);
    fleet.lease("b").draining = true;
    fleet.run(30_000);
    fleet.stop("b");
    let noted = notes(&mut fleet, 10_000);
    assert_eq!(says(&noted, "connection"), 0, "{noted:?}");
}

#[test]
fn a_node_that_dies_before_the_first_map_is_written_gets_no_vnodes() {
    let mut fleet = Fleet::new(options(64));
    fleet.tells = true;
    fleet.start("a");
    fleet.start("b");
    fleet.step();
    fleet.crash("a");
    fleet.settle();
    assert_eq!((fleet.owned("a"), fleet.owned("b")), (0, 64));
    assert!(!fleet.leases.contains_key("a"));
}
