//! A core's side of the cluster: takes maps, news and events to its presence, and tells the node
//! how far it is. It owns what it told last.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

use presence::Core;
use protocol::Event;
use ring::MapVersion;

use crate::{
    clock,
    cluster::{News, Place, WorkerLinks},
};

pub(crate) struct NodeSide {
    place: Arc<Place>,
    events: RefCell<rtrb::Consumer<Event<'static>>>,
    followed: Cell<MapVersion>,
    /// What was told last: map and moving vnodes.
    told: Cell<(MapVersion, usize)>,
    /// The node knows that this core stands still.
    told_stall: Cell<bool>,
}

impl NodeSide {
    pub(crate) fn new(links: WorkerLinks) -> Self {
        Self {
            place: links.place,
            events: RefCell::new(links.events),
            followed: Cell::default(),
            told: Cell::default(),
            told_stall: Cell::default(),
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
                    self.told_stall.set(false);
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

    pub(crate) fn register_interest(&self, core: &RefCell<Core>) {
        for (user, wanted) in core.borrow_mut().take_interest() {
            self.place.interest.change(user, wanted);
        }
    }

    /// With each tick: a core that stood still waits for the node.
    pub(crate) fn watch_for_stalls(&self, core: &RefCell<Core>) {
        if core.borrow().is_held() && !self.told_stall.replace(true) {
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
        if self.told.replace(now) != now {
            place.note(core.id(), now.0, core.vnodes_owned(), moving);
        }
    }
}
