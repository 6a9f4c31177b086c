//! Calls that the contract of a core or a membership forbids: each panics and names the rule, or does
//! nothing where the contract says so.

use online_status_presence::{
    Core, How, Membership, Now, PeerMessage, Publication, Renewal, StoreReply, StoreRequest,
};
use ring::{CoreId, Epoch, Map, MapVersion, Vnode, VnodeCount};

use crate::support::{at, hello, id, node, settings, vnodes};

const USER: &str = "alice";

/// The first of two cores.
fn core() -> Core {
    Core::new(settings("a", 2), Now::default())
}

/// A core that owns all vnodes under epoch 5.
fn owner() -> Core {
    let mut core = core();
    for vnode in vnodes().all() {
        core.own(vnode, Epoch::new(5), 0);
    }
    core
}

/// The same with its vnodes loaded, and a session of the user whose record is about to be written.
fn serving() -> Core {
    let mut core = owner();
    while let Some(request) = core.store_requests(1, |_, _| {}).pop() {
        if let StoreRequest::Load { vnode, epoch, .. } = request {
            core.store_reply(StoreReply::Loaded {
                vnode,
                epoch,
                released: true,
                users: Vec::new(),
            });
        }
    }
    core.connect(&hello(USER)).expect("its vnode is here");
    let Some(StoreRequest::Read { ticket, .. }) = core.store_requests(1, |_, _| {}).pop() else {
        panic!("the user is read");
    };
    core.store_reply(StoreReply::Read(ticket, Epoch::new(5), None));
    core
}

fn here() -> Vnode {
    vnodes().vnode(USER)
}

fn map(version: u64) -> Map {
    let map = Map::empty(vnodes()).apply(vec![node("a", 1)], &[Some(0), Some(0)]);
    map.raised(MapVersion::new(version - 1), Epoch::default())
}

#[test]
#[should_panic(expected = "core 0 is none of the node's other cores")]
fn a_core_is_not_another_one() {
    core().at_home_on(here(), CoreId::new(0));
}

#[test]
#[should_panic(expected = "core 2 is none of the node's other cores")]
fn a_home_is_a_core_of_the_node() {
    core().at_home_on(here(), CoreId::new(2));
}

#[test]
#[should_panic(expected = "has another home")]
fn a_vnode_that_is_owned_here_is_at_home_here() {
    owner().at_home_on(here(), CoreId::new(1));
}

#[test]
#[should_panic(expected = "is known already")]
fn a_home_is_told_before_its_users_are_known() {
    let mut core = core();
    core.ask(1, &[USER]);
    core.at_home_on(here(), CoreId::new(1));
}

#[test]
#[should_panic(expected = "is another core's")]
fn a_vnode_of_another_core_is_not_taken() {
    let mut core = core();
    core.at_home_on(here(), CoreId::new(1));
    core.own(here(), Epoch::new(1), 0);
}

#[test]
#[should_panic(expected = "has had epoch 5")]
fn a_vnode_is_not_taken_twice_under_one_epoch() {
    owner().own(here(), Epoch::new(5), 0);
}

#[test]
#[should_panic(expected = "map 7 is not newer")]
fn an_older_map_is_not_followed() {
    core().follow(&map(7), Some(&map(7)), &id("a"), 1);
}

#[test]
#[should_panic(expected = "a cluster has one count")]
fn a_map_of_another_number_of_vnodes_is_not_followed() {
    let other = Map::empty(VnodeCount::new(8).expect("a power of two"));
    core().follow(&other, None, &id("a"), 1);
}

#[test]
#[should_panic(expected = "link 3 stands already")]
fn a_link_has_a_number_of_its_own_in_both_directions() {
    let mut core = core();
    core.owner_linked(3);
    core.watcher_linked(3);
}

#[test]
#[should_panic(expected = "core 2 is none of the node's other cores")]
fn a_message_comes_from_a_core_of_the_node() {
    core().peer_message(CoreId::new(2), PeerMessage::Interest(USER.into()));
}

#[test]
#[should_panic(expected = "is another core's")]
fn interest_is_told_to_the_home_of_the_user() {
    let mut core = core();
    core.at_home_on(here(), CoreId::new(1));
    core.peer_message(CoreId::new(1), PeerMessage::Interest(USER.into()));
}

#[test]
#[should_panic(expected = "a request is answered once")]
fn a_write_is_not_answered_twice() {
    let mut core = serving();
    let Some(StoreRequest::Write { ticket, .. }) = core.store_requests(1, |_, _| {}).pop() else {
        panic!("the user is written");
    };
    core.store_reply(StoreReply::Written(ticket));
    core.store_reply(StoreReply::Written(ticket));
}

#[test]
#[should_panic(expected = "a request is answered once")]
fn a_publication_is_not_reported_twice() {
    let mut core = serving();
    let Some(StoreRequest::Write { ticket, .. }) = core.store_requests(1, |_, _| {}).pop() else {
        panic!("the user is written");
    };
    core.store_reply(StoreReply::Written(ticket));
    let Some(Publication { ticket, .. }) = core.next_publication() else {
        panic!("the change is published");
    };
    core.bus_reply(ticket, true);
    core.bus_reply(ticket, true);
}

#[test]
#[should_panic(expected = "was not left under epoch 5")]
fn a_vnode_that_was_not_left_is_not_released() {
    owner().store_reply(StoreReply::ReleaseFailed(here(), Epoch::new(5)));
}

#[test]
fn the_last_call_of_a_session_may_come_twice_and_others_after_it() {
    let mut core = owner();
    let session = core.connect(&hello(USER)).expect("its vnode is here");
    core.closed(session, How::Broken);
    let other = core.connect(&hello(USER)).expect("its vnode is here");
    assert_eq!(other.index, session.index, "the place is used again");
    core.closed(session, How::Broken);
    core.heard(session);
    core.pong(session);
    assert!(!core.is_busy(session));
    assert_eq!(core.counters().sessions, 1);
}

#[test]
fn a_monotonic_time_that_goes_back_holds_nobody_and_ends_nothing() {
    let mut core = owner();
    core.tick(at(500));
    core.at(at(100));
    core.tick(at(100));
    core.tick(at(1_200));
    assert!(!core.is_held(), "700 ms have passed since 500");
}

#[test]
#[should_panic(expected = "a renewal is answered once")]
fn a_renewal_is_not_answered_twice() {
    let mut member = Membership::new(3_000);
    member.steps(10);
    member.renewed(10, 11, Renewal::Held);
    member.renewed(10, 11, Renewal::Held);
}

#[test]
#[should_panic(expected = "a renewal is sent before its answer comes")]
fn a_lease_does_not_last_longer_by_a_renewal_of_the_future() {
    let mut member = Membership::new(3_000);
    member.steps(10);
    member.renewed(12, 11, Renewal::Held);
}

#[test]
#[should_panic(expected = "a reading of the map is answered once")]
fn a_map_that_was_not_asked_for_is_not_read() {
    Membership::new(3_000).map_read(10, None);
}
