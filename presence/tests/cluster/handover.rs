//! Whom a new owner waits for before it takes a vnode.

use crate::support::{id, node, settings, version, vnodes};
use online_status_presence::{Core, Hello, Now, StoreReply, StoreRequest};
use protocol::{Encoding, Status, WatchRule};
use ring::{Epoch, Map};

/// Below which epoch node b waits for an owner of the vnodes that it gets after it has seen `seen`.
fn waits_below(seen: &Map, now: &Map) -> Epoch {
    let mut core = Core::new(settings("b", 1), Now::default());
    core.follow(seen, None, &id("b"), 1);
    core.follow(now, Some(seen), &id("b"), 1);
    let mut epochs = Vec::new();
    while let Some(StoreRequest::Load { over, .. }) = core.next_store_request() {
        epochs.push(over);
    }
    assert_eq!(epochs.len(), vnodes().get());
    assert!(epochs.iter().all(|over| *over == epochs[0]));
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

#[test]
fn what_was_not_written_of_a_vnode_that_came_back_for_a_moment_is_written_after_all() {
    let nodes = ["b", "c"].map(|name| node(name, 1)).to_vec();
    let own = id("b");
    let mut core = Core::new(settings("b", 1), Now::default());
    let first = Map::empty(vnodes()).apply(nodes.clone(), &[Some(0), Some(0)]);
    core.follow(&first, None, &own, 1);
    while let Some(request) = core.next_store_request() {
        if let StoreRequest::Load { vnode, epoch, .. } = request {
            core.store_reply(StoreReply::Loaded {
                vnode,
                epoch,
                released: true,
                users: Vec::new(),
            });
        }
    }
    core.connect(&Hello {
        user: "alice",
        encoding: Encoding::Json,
        expires: 0,
        rule: WatchRule::Anyone,
        id: None,
    })
    .expect("its vnode is here");
    // Nobody knew it.
    let Some(StoreRequest::Read { ticket, .. }) = core.next_store_request() else {
        panic!("the store is asked");
    };
    core.store_reply(StoreReply::Read(ticket, Epoch::new(1), None));
    // It goes, comes back, and goes again before it was claimed.
    let mut map = first;
    for owner in [1, 0, 1] {
        let next = map.apply(nodes.clone(), &[Some(owner), Some(owner)]);
        core.follow(&next, Some(&map), &own, 1);
        map = next;
    }
    let mut written = Vec::new();
    let mut released = Vec::new();
    while let Some(request) = core.next_store_request() {
        match request {
            StoreRequest::Write {
                ticket,
                epoch,
                stored,
                ..
            } => {
                assert!(stored.connected);
                written.push((epoch, stored.record.status, stored.record.version));
                core.store_reply(StoreReply::Written(ticket));
            }
            StoreRequest::Release { vnode, epoch } => released.push((vnode, epoch)),
            other => panic!("{other:?}"),
        }
    }
    let epoch = Epoch::new(1);
    assert_eq!(written, [(epoch, Status::Online, version(1, 1))]);
    for vnode in vnodes().all() {
        assert!(released.iter().any(|(of, _)| *of == vnode));
    }
    assert!(released.iter().all(|(_, of)| *of == epoch));
}
