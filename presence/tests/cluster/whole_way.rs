//! When a status began that a send tells of, so that the shell can say how long its way was.

use std::borrow::Cow;

use online_status_presence::{Core, SessionId, Settings};
use protocol::{Cause, Event, Status};
use ring::Epoch;

use crate::support::{answer, at, hello, say, settings, version, vnodes};

/// What a shell does after each batch of inputs; of each send to `watcher` that has changes, when the
/// oldest status in it began.
fn run(core: &mut Core, watcher: SessionId) -> Vec<u64> {
    answer(core, 1);
    while core.flush(64) {}
    let sends = core.transmits().iter();
    let sends = sends.filter(|send| send.session == watcher && send.since != 0);
    sends.map(|send| send.cause).collect()
}

/// A core that owns the vnode of `bob`, and `alice`'s only if that is said.
fn core(owns_both: bool) -> Core {
    let settings = Settings {
        cluster: false,
        ..settings("n1", 1)
    };
    let mut core = Core::new(settings, at(1_000));
    let own = vnodes().vnode("bob");
    for vnode in vnodes().all().filter(|vnode| owns_both || *vnode == own) {
        core.own(vnode, Epoch::new(1), 0);
    }
    core
}

#[test]
fn of_a_user_elsewhere_it_is_the_owners_time_and_only_when_a_status_begins() {
    let alice = (0..)
        .map(|n| format!("alice{n}"))
        .find(|name| vnodes().vnode(name) != vnodes().vnode("bob"))
        .expect("one of two vnodes");
    let mut core = core(false);
    let bob = core.connect(&hello("bob")).expect("let in");
    run(&mut core, bob);
    let watch = format!(r#"{{"type":"watch","users":["{alice}"]}}"#);
    say(&mut core, bob, &watch);
    run(&mut core, bob);
    let mut hears = |seq, status, since, devices| {
        core.tick(at(2_000 + seq));
        core.bus_event(&Event {
            user: Cow::Borrowed(&alice),
            status,
            text: Cow::Borrowed(""),
            since,
            last_seen: 0,
            devices,
            version: version(1, seq),
            vnode: vnodes().vnode(&alice),
            epoch: Epoch::new(1),
            node: Cow::Borrowed("n2"),
            cause: Cause::Connect,
        });
        run(&mut core, bob)
    };
    assert_eq!(hears(1, Status::Online, 1_990, 1), [1_990]);
    assert_eq!(hears(2, Status::Online, 1_990, 2), [0], "a device more");
    assert_eq!(hears(3, Status::Away, 2_001, 2), [2_001]);
    assert_eq!(
        hears(4, Status::Offline, 1_000, 0),
        [0],
        "the grace is no delay"
    );
    assert_eq!(hears(4, Status::Offline, 1_000, 0), [0; 0], "nothing new");
}

#[test]
fn of_a_user_of_this_core_it_is_the_time_of_the_input_and_a_snapshot_has_none() {
    let mut core = core(true);
    let bob = core.connect(&hello("bob")).expect("let in");
    run(&mut core, bob);
    say(&mut core, bob, r#"{"type":"watch","users":["alice"]}"#);
    assert_eq!(run(&mut core, bob), [0; 0]);
    core.tick(at(5_000));
    let alice = core.connect(&hello("alice")).expect("let in");
    assert_eq!(run(&mut core, bob), [5_000]);
    core.tick(at(6_000));
    say(&mut core, alice, r#"{"type":"status","text":"lunch"}"#);
    assert_eq!(run(&mut core, bob), [0]);
    say(&mut core, alice, r#"{"type":"status","status":"away"}"#);
    assert_eq!(run(&mut core, bob), [6_000]);
    core.tick(at(7_000));
    let late = core.connect(&hello("late")).expect("let in");
    run(&mut core, late);
    say(&mut core, late, r#"{"type":"watch","users":["alice"]}"#);
    assert_eq!(run(&mut core, late), [0; 0]);
}

#[test]
fn a_change_that_waits_for_a_slow_socket_keeps_its_time_until_another_comes() {
    let mut core = core(true);
    let bob = core.connect(&hello("bob")).expect("let in");
    run(&mut core, bob);
    say(&mut core, bob, r#"{"type":"watch","users":["alice"]}"#);
    run(&mut core, bob);
    core.blocked(bob);
    core.tick(at(5_000));
    let alice = core.connect(&hello("alice")).expect("let in");
    assert_eq!(run(&mut core, bob), [0; 0]);
    core.tick(at(9_000));
    core.unblocked(bob);
    assert_eq!(run(&mut core, bob), [5_000]);
    core.blocked(bob);
    say(&mut core, alice, r#"{"type":"status","status":"away"}"#);
    core.tick(at(9_500));
    say(&mut core, alice, r#"{"type":"status","text":"lunch"}"#);
    core.unblocked(bob);
    assert_eq!(run(&mut core, bob), [0]);
}
