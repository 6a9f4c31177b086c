//! Whom a new owner waits for before it takes a vnode.

use crate::support::{id, node, settings, vnodes};
use online_status_presence::{Core, Now, StoreRequest};
use ring::{Epoch, Map};

/// Below which epoch node b waits for an owner of the vnodes that it gets after it has seen `seen`.
fn waits_below(seen: &Map, now: &Map) -> Epoch {
    let mut core = Core::new(settings("b", 1), Now::default());
    core.follow(seen, None, &id("b"), 1);
    core.follow(now, Some(seen), &id("b"), 1);
    let mut epochs = Vec::new();
    while let Some(StoreRequest::Load { wait_below, .. }) = core.store_requests(1, |_, _| {}).pop()
    {
        epochs.push(wait_below);
    }
    assert_eq!(epochs.len(), vnodes().get());
    assert!(epochs.iter().all(|below| *below == epochs[0]));
    epochs[0]
}

#[test]
fn a_living_former_owner_is_waited_for_and_a_dead_one_is_not() {
    let nodes = ["a", "b", "c"].map(|name| node(name, 1));
    let first = Map::empty(vnodes()).apply(nodes.to_vec(), &[Some(0), Some(0)]);
    let moved = first.apply(nodes.to_vec(), &[Some(1), Some(1)]);
    assert_eq!(waits_below(&first, &moved), Epoch::MAX);
    let dead = first.apply(nodes[1..].to_vec(), &[Some(0), Some(0)]);
    assert_eq!(waits_below(&first, &dead), Epoch::new(1));
}

#[test]
fn a_node_that_is_alone_waits_for_nobody() {
    let nodes = ["a", "b"].map(|name| node(name, 1));
    let first = Map::empty(vnodes()).apply(nodes.to_vec(), &[Some(0), Some(0)]);
    let second = first.apply(nodes.to_vec(), &[None, None]);
    let third = second.apply(nodes[1..].to_vec(), &[Some(0), Some(0)]);
    assert_eq!(waits_below(&first, &third), Epoch::default());
}

#[test]
fn an_owner_in_a_map_that_was_not_seen_is_waited_for() {
    let nodes = ["a", "b", "c"].map(|name| node(name, 1));
    let first = Map::empty(vnodes()).apply(nodes.to_vec(), &[Some(0), Some(0)]);
    let second = first.apply(nodes[1..].to_vec(), &[Some(1), Some(1)]);
    let third = second.apply(nodes[1..].to_vec(), &[Some(0), Some(0)]);
    assert_eq!(waits_below(&first, &third), Epoch::MAX, "c may be alive");
}
