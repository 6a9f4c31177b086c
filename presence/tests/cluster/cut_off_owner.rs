//! A node takes the vnode of one that does not reach the store, but the bus and its clients: what
//! that one told on the bus is newer than what the store has.

use crate::support::{GRACE, at, hello, id, node, settings, version, vnodes};
use online_status_presence::{Core, How, Now, PeerMessage, StoreReply, StoreRequest};
use protocol::{Cause, Event, FromOwner, Mode, Record, Status, Stored, ToOwner, Version};
use ring::{CoreId, Epoch, Map, MapVersion};

const USER: &str = "alice";

fn offline(version: Version) -> Stored {
    Stored {
        record: Record {
            status: Status::Offline,
            version,
            ..Record::default()
        },
        ..Stored::default()
    }
}

struct Taker {
    core: Core,
    now: u64,
    /// What the store has of the user.
    stored: Stored,
    claimed: Epoch,
    /// The vnode was let go of before it was claimed.
    released: bool,
    published: Vec<(Status, Cause)>,
}

impl Taker {
    /// A core of node b that watches the user when `watches`, of whom the bus then says that it is
    /// online. The store has it offline, and lists it among those who left just now when `recent`.
    /// Then node a's vnodes go to `heir`.
    fn new(watches: bool, recent: bool, heir: &str) -> Self {
        Self::of(watches, recent, heir, false)
    }

    fn of(watches: bool, recent: bool, heir: &str, released: bool) -> Self {
        let nodes = ["a", "b", "c"].map(|name| node(name, 1));
        let map = Map::empty(vnodes()).apply(nodes.to_vec(), &[Some(0), Some(0)]);
        let first = map.raised(MapVersion::new(1), Epoch::new(0));
        let own = id("b");
        let mut node = Self {
            core: Core::new(settings("b", 2), Now::default()),
            now: 0,
            stored: offline(version(2, 7)),
            claimed: Epoch::new(2),
            released,
            published: Vec::new(),
        };
        node.core.follow(&first, None, &own, 1);
        if watches {
            let watched = PeerMessage::Interest(USER.into());
            node.core.peer_message(CoreId::new(1), watched);
        }
        node.run(100, recent);
        let vnode = vnodes().vnode(USER);
        let record = Record {
            status: Status::Online,
            since: 50,
            devices: 1,
            version: version(2, 8),
            ..Record::default()
        };
        let event = Event::of(USER, &record, vnode, "a", Cause::Connect);
        node.core.bus_event(&event);
        // Node a is gone for the coordinator.
        let heir = usize::from(heir == "c");
        let second = first.apply(nodes[1..].to_vec(), &[Some(heir), Some(heir)]);
        node.claimed = Epoch::new(3);
        node.core.follow(&second, Some(&first), &own, 1);
        node.run(200, recent);
        node
    }

    fn run(&mut self, ms: u64, recent: bool) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 100;
            self.core.tick(at(self.now));
            while let Some(request) = self.core.store_requests(1, |_, _| {}).pop() {
                let reply = match request {
                    StoreRequest::Load { vnode, epoch, .. } => {
                        let listed = recent && vnodes().vnode(USER) == vnode;
                        let listed = listed.then(|| (USER.into(), self.stored.clone()));
                        StoreReply::Loaded {
                            vnode,
                            epoch,
                            released: self.released,
                            users: listed.into_iter().collect(),
                        }
                    }
                    StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
                    owner @ StoreRequest::Owner { .. } => owner.failed(),
                    StoreRequest::Read { ticket, .. } => {
                        StoreReply::Read(ticket, self.claimed, Some(self.stored.clone()))
                    }
                    StoreRequest::Write { ticket, stored, .. } => {
                        self.stored = stored;
                        StoreReply::Written(ticket)
                    }
                };
                self.core.store_reply(reply);
            }
            while let Some(event) = self.core.next_publication() {
                self.published.push((event.record.status, event.cause));
                self.core.bus_reply(event.ticket, true);
            }
        }
    }
}

impl Taker {
    /// What the node's other core is told now.
    fn told(&mut self, core: CoreId) -> Vec<Record> {
        let mut told = Vec::new();
        while let Some(message) = self.core.next_message_for(core) {
            if let PeerMessage::State(_, record) | PeerMessage::Refuted(_, record, _) = message {
                told.push(record);
            }
        }
        told
    }

    fn is_told_nothing_newer_for(&mut self, ms: u64) {
        self.run(ms, false);
        let told = self.told(CoreId::new(1));
        let newer = told.iter().find(|record| record.version > version(2, 9));
        assert_eq!(newer, None);
    }
}

#[test]
fn a_user_that_the_bus_showed_online_has_the_grace_period_to_come_to_the_new_owner() {
    for recent in [false, true] {
        let mut node = Taker::new(true, recent, "b");
        assert_eq!(node.published, [(Status::Online, Cause::Takeover)]);
        assert!(node.stored.connected);
        node.run(GRACE + 1_000, recent);
        let last = node.published.last().map(|(status, _)| *status);
        assert_eq!((node.published.len(), last), (2, Some(Status::Offline)));
    }
}

#[test]
fn a_user_that_left_just_before_the_take_over_is_published_as_offline_after_the_grace_period() {
    let mut node = Taker::new(false, true, "b");
    assert_eq!(node.published, []);
    node.run(GRACE + 1_000, true);
    assert_eq!(node.published, [(Status::Offline, Cause::Takeover)]);
    assert_eq!(node.stored.record.version.epoch(), Epoch::new(3));
    node.run(1_000, true);
    assert_eq!(node.core.counters().users, 0);
}

#[test]
fn a_user_that_left_just_before_its_vnode_was_let_go_of_is_published_as_offline_at_once() {
    let node = Taker::of(false, true, "b", true);
    assert_eq!(node.published, [(Status::Offline, Cause::Takeover)]);
}

#[test]
fn whom_a_new_owner_elsewhere_has_not_spoken_of_is_looked_for_after_the_grace_period() {
    let mut node = Taker::new(true, false, "c");
    let told = |node: &mut Taker| {
        let next = || node.core.next_message_for(CoreId::new(1));
        let states = std::iter::from_fn(next).filter_map(|message| match message {
            PeerMessage::State(_, record) => Some(record),
            _ => None,
        });
        states.last().map(|record| (record.status, record.version))
    };
    assert_eq!(told(&mut node), Some((Status::Online, version(2, 8))));
    node.run(GRACE - 1_000, false);
    assert_eq!(told(&mut node), None);
    node.run(2_000, false);
    assert_eq!(told(&mut node), Some((Status::Offline, version(3, 0))));
}

/// The user came to the former owner while that one did not reach the store: the store has an older
/// state of it, and lists it among those who left just now when `recent`; and a watcher of another core
/// has seen the newer one. The vnode is `heir`'s now.
fn came_meanwhile(recent: bool, heir: &str) -> Taker {
    let mut node = Taker::new(false, recent, heir);
    let watched = PeerMessage::Interest(USER.into());
    node.core.peer_message(CoreId::new(1), watched);
    let seen = PeerMessage::WatcherAhead(USER.into(), version(2, 9));
    node.core.peer_message(CoreId::new(1), seen);
    node
}

#[test]
fn who_came_to_a_cut_off_owner_is_not_told_offline_before_it_had_the_time_to_come_on() {
    for recent in [false, true] {
        let mut node = came_meanwhile(recent, "b");
        node.is_told_nothing_newer_for(GRACE - 1_000);
        let hello = hello(USER);
        node.core.connect(&hello).expect("its vnode is here");
        node.run(200, false);
        let told = node.told(CoreId::new(1));
        let last = told.last().expect("a newer state");
        assert_eq!(last.status, Status::Online);
        assert!(last.version > version(2, 9));
    }
}

#[test]
fn who_came_to_a_cut_off_owner_is_not_told_offline_by_what_another_node_reads_in_the_store() {
    let mut node = came_meanwhile(false, "c");
    node.is_told_nothing_newer_for(GRACE - 1_000);
    node.run(2_000, false);
    let told = node.told(CoreId::new(1));
    let last = told.last().expect("a newer state");
    assert_eq!(
        (last.status, last.version),
        (Status::Offline, version(3, 0))
    );
}

#[test]
fn who_does_not_come_on_from_a_cut_off_owner_is_told_offline_after_the_grace_period() {
    for recent in [false, true] {
        let mut node = came_meanwhile(recent, "b");
        node.run(GRACE + 1_000, false);
        let told = node.told(CoreId::new(1));
        let last = told.last().expect("a newer state");
        assert_eq!(last.status, Status::Offline);
        assert!(last.version > version(2, 9));
    }
}

#[test]
fn who_came_to_the_new_owner_and_leaves_is_told_offline_over_links_at_once() {
    let mut node = Taker::new(false, true, "b");
    let told = |node: &mut Taker| {
        node.run(200, true);
        let mut told = Vec::new();
        while let Some(message) = node.core.next_for_watcher(9) {
            if let FromOwner::State(_, _, record) = message {
                told.push(record.status);
            }
        }
        told
    };
    node.core.watcher_linked(9);
    let asks = ToOwner::Interest(Epoch::new(3), USER.into());
    node.core.watcher_says(9, asks);
    assert_eq!(told(&mut node), [], "it may be on its way here");
    let hello = hello(USER);
    let session = node.core.connect(&hello).expect("its vnode is here");
    assert_eq!(told(&mut node), [Status::Online]);
    node.core.closed(session, How::Clean);
    assert_eq!(told(&mut node), [Status::Offline]);
}

/// A former owner that never reached the store had not heard that the user is invisible. The next one
/// has read it in the store when the user comes, or for a watcher before.
#[test]
fn who_is_invisible_and_comes_to_the_next_owner_is_published_by_that_one() {
    for watched in [false, true] {
        let mut node = Taker::new(false, false, "b");
        node.stored.mode = Mode::Invisible;
        if watched {
            let watched = PeerMessage::Interest(USER.into());
            node.core.peer_message(CoreId::new(1), watched);
            node.run(100, false);
        }
        let hello = hello(USER);
        node.core.connect(&hello).expect("its vnode is here");
        node.run(200, false);
        assert_eq!(node.published, [(Status::Offline, Cause::Connect)]);
    }
}
