//! Whom a new owner waits for before it takes a vnode.

mod support;

use online_status_presence::{Core, Now, StoreRequest};
use ring::Map;
use support::{id, node, settings, vnodes};

/// Whether node b takes the vnodes by force at once, that it gets after it has seen `seen`.
fn forces(seen: &Map, now: &Map) -> bool {
    let mut core = Core::new(settings("b", 1), Now::default());
    core.follow(seen, None, &id("b"), 1);
    core.follow(now, Some(seen), &id("b"), 1);
    let mut forced = Vec::new();
    while let Some(StoreRequest::Load { force, .. }) = core.next_store_request() {
        forced.push(force);
    }
    assert_eq!(forced.len(), vnodes().get());
    assert!(forced.iter().all(|force| *force == forced[0]));
    forced[0]
}

#[test]
fn a_living_former_owner_is_waited_for_and_a_dead_one_is_not() {
    let nodes = ["a", "b"].map(|name| node(name, 1));
    let first = Map::empty(vnodes()).apply(nodes.to_vec(), &[Some(0), Some(0)]);
    let moved = first.apply(nodes.to_vec(), &[Some(1), Some(1)]);
    assert!(!forces(&first, &moved));
    let dead = first.apply(nodes[1..].to_vec(), &[Some(0), Some(0)]);
    assert!(forces(&first, &dead));
}

#[test]
fn an_owner_in_a_map_that_was_not_seen_is_waited_for() {
    let nodes = ["a", "b", "c"].map(|name| node(name, 1));
    let first = Map::empty(vnodes()).apply(nodes.to_vec(), &[Some(0), Some(0)]);
    let second = first.apply(nodes[1..].to_vec(), &[Some(1), Some(1)]);
    let third = second.apply(nodes[1..].to_vec(), &[Some(0), Some(0)]);
    assert!(!forces(&first, &third), "a is dead, c is not");
}
