//! A core's side of the cluster: takes maps, news and events to its presence, and tells the node
//! how far it is. It owns what it reported last.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use presence::Core;
use protocol::Event;
use ring::MapVersion;

use crate::{
    clock,
    cluster::{News, Place, WorkerLinks},
    links::{Conn, LinkEvent},
};

pub(crate) struct NodeSide {
    place: Arc<Place>,
    events: RefCell<rtrb::Consumer<Event<'static>>>,
    followed: Cell<MapVersion>,
    /// What was reported last: map and moving vnodes.
    reported: Cell<(MapVersion, usize)>,
    /// The node knows that this core stands still.
    reported_stall: Cell<bool>,
    /// The links to other nodes that stand, by number.
    conns: RefCell<BTreeMap<u32, Arc<Conn>>>,
    /// What came over links and was not taken yet.
    link_events: RefCell<VecDeque<LinkEvent>>,
}

impl NodeSide {
    pub(crate) fn new(links: WorkerLinks) -> Self {
        Self {
            place: links.place,
            events: RefCell::new(links.events),
            followed: Cell::default(),
            reported: Cell::default(),
            reported_stall: Cell::default(),
            conns: RefCell::default(),
            link_events: RefCell::default(),
        }
    }

    pub(crate) fn follows_a_map(&self) -> bool {
        self.followed.get() > MapVersion::default()
    }

    /// Brings what the node told this core to its presence.
    pub(crate) fn take_news(&self, core: &RefCell<Core>) {
        let place = &self.place;
        let mut core = core.borrow_mut();
        for news in place.news_for(core.id()) {
            core.at(clock::now());
            match news {
                News::Follow { map, before } => {
                    core.follow(&map, before.as_deref(), &place.node, place.boot);
                    self.followed.set(map.version());
                }
                News::Resume => {
                    core.resume();
                    self.reported_stall.set(false);
                }
                News::Resync => core.resync(),
                News::Gap => core.bus_gap(),
            }
        }
    }

    /// Takes events of the bus, at most so many; `true` when more wait.
    pub(crate) fn take_events(&self, core: &RefCell<Core>, most: usize) -> bool {
        let mut events = self.events.borrow_mut();
        let mut core = core.borrow_mut();
        core.at(clock::now());
        for _ in 0..most {
            match events.pop() {
                Ok(event) => core.bus_event(&event),
                Err(rtrb::PopError::Empty) => return false,
            }
        }
        true
    }

    /// Takes what came over links, at most so much; `true` when more waits.
    pub(crate) fn take_link_events(&self, core: &RefCell<Core>, most: usize) -> bool {
        let Some(links) = &self.place.links else {
            return false;
        };
        let mut link_events = self.link_events.borrow_mut();
        let mut core = core.borrow_mut();
        if link_events.is_empty() {
            *link_events = links.events_for(core.id());
        }
        core.at(clock::now());
        for _ in 0..most {
            let Some(next) = link_events.pop_front() else {
                return false;
            };
            match next {
                LinkEvent::OwnerLinked(conn) => {
                    core.owner_linked(conn.number);
                    self.conns.borrow_mut().insert(conn.number, conn);
                }
                LinkEvent::WatcherLinked(conn) => {
                    core.watcher_linked(conn.number);
                    self.conns.borrow_mut().insert(conn.number, conn);
                }
                LinkEvent::Unlinked(link) => {
                    core.unlinked(link);
                    self.conns.borrow_mut().remove(&link);
                }
                LinkEvent::Owner(link, message) => core.owner_says(link, message),
                LinkEvent::Watcher(link, message) => core.watcher_says(link, message),
                LinkEvent::HasBus(has) => core.hear_by_links(has),
            }
        }
        true
    }

    /// Moves what the core has for other nodes to its links, as far as these have room.
    pub(crate) fn pump_links(&self, core: &RefCell<Core>) {
        if self.place.links.is_none() {
            return;
        }
        let mut core = core.borrow_mut();
        let waiting: Vec<u32> = core.waiting_links().collect();
        let conns = self.conns.borrow();
        for link in waiting {
            let Some(conn) = conns.get(&link) else {
                continue;
            };
            conn.fill(|out| match conn.to_owner {
                true => core
                    .next_for_owner(link)
                    .map(|message| message.encode(out))
                    .is_some(),
                false => core
                    .next_for_watcher(link)
                    .map(|message| message.encode(out))
                    .is_some(),
            });
        }
    }

    /// Notes whether the core has to hear of a user, by hash.
    pub(crate) fn register_interest(&self, user: u64, is_wanted: bool) {
        self.place.interest.change(user, is_wanted);
    }

    /// With each tick: a core that stood still waits for the node.
    pub(crate) fn watch_for_stalls(&self, core: &RefCell<Core>) {
        if core.borrow().is_held() && !self.reported_stall.replace(true) {
            self.place.stood_still();
        }
    }

    /// Tells the node how far this core is, when that has changed.
    pub(crate) fn note_progress(&self, core: &RefCell<Core>) {
        let place = &self.place;
        let mut core = core.borrow_mut();
        while let Some((_, epoch)) = core.next_fence() {
            place.met(epoch);
        }
        let moving = core.vnodes_loading() + core.vnodes_leaving();
        let now = (self.followed.get(), moving);
        if self.reported.replace(now) != now {
            place.note(core.id(), now.0, core.vnodes_owned(), moving);
        }
    }
}
