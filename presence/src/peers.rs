//! What the cores of a node tell each other of the users that one has at home and others watch. A user
//! waits for another core at most once, and goes with its newest state.

use protocol::{Record, Version};
use ring::{CoreId, Epoch};

use crate::{
    Core,
    trace::Heard,
    user::{Knowledge, Role},
    vnodes::Owner,
};

/// What the cores of a node tell each other. Between two cores messages keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// To the owner: this core needs the user's state, now and after each change.
    Interest(Box<str>),
    /// To the owner: this core needs the user's state no longer.
    Uninterest(Box<str>),
    /// To the owner: a watcher has seen this version, of a former owner; the owner makes a newer
    /// one.
    WatcherAhead(Box<str>, Version),
    /// From the owner: the user's newest state.
    State(Box<str>, Record),
    /// From the owner: the user's newest state, and no version up to this one, which `WatcherAhead`
    /// named, is found that is newer.
    Refuted(Box<str>, Record, Version),
}

impl Core {
    pub(crate) fn queue_for(&mut self, slot: u32, core: CoreId) {
        let bit = 1 << core.get();
        let queue = &mut self.peers[usize::from(core.get())];
        self.users[slot].with_cores(|cores| {
            if cores.queued & bit == 0 {
                cores.queued |= bit;
                queue.push_back(slot);
            }
        });
    }

    /// Nobody here watches the user any more.
    pub(crate) fn lose_interest(&mut self, slot: u32) {
        match self.owner_of(slot) {
            Owner::Core(core) if self.users[slot].is_subscribed() => self.queue_for(slot, core),
            Owner::Elsewhere => self.send_interest(slot),
            Owner::Core(_) | Owner::Here(_) => {}
        }
    }

    /// Whether a message waits for the core `core`.
    #[must_use]
    pub fn has_message_for(&self, core: CoreId) -> bool {
        !self.peers[usize::from(core.get())].is_empty()
    }

    /// The next message for another core of this node; `None` when nothing waits.
    pub fn next_message_for(&mut self, core: CoreId) -> Option<PeerMessage> {
        let bit = 1 << core.get();
        loop {
            let slot = self.peers[usize::from(core.get())].pop_front()?;
            let owner = self.owner_of(slot);
            let user = &mut self.users[slot];
            let (unsent, refuted) = user.with_cores(|cores| {
                cores.queued &= !bit;
                let told = (cores.unsent & bit != 0, cores.refuted);
                cores.sent_to(bit);
                told
            });
            if unsent {
                let (name, record) = (user.name.clone(), user.record.clone());
                return Some(match refuted {
                    Version::NEVER => PeerMessage::State(name, record),
                    version => PeerMessage::Refuted(name, record, version),
                });
            }
            let message = match owner {
                Owner::Core(owner) if owner == core => self.message_for_home(slot, core),
                Owner::Core(_) | Owner::Here(_) | Owner::Elsewhere => None,
            };
            self.users.sweep_later(slot);
            if message.is_some() {
                return message;
            }
        }
    }

    /// What a mirror has to tell the core that is the user's home.
    fn message_for_home(&mut self, slot: u32, home: CoreId) -> Option<PeerMessage> {
        let user = &mut self.users[slot];
        let wanted = user.wanted_here();
        if wanted == user.is_subscribed() {
            if !wanted {
                user.knowledge = Knowledge::Nothing;
            }
            let known = self.searches.tell_home(slot, user)?;
            return Some(PeerMessage::WatcherAhead(user.name.clone(), known));
        }
        user.role = Role::Mirrored { subscribed: wanted };
        let name = user.name.clone();
        if wanted {
            if self.searches.home_lacks_version(slot, user) {
                // That is told next.
                self.queue_for(slot, home);
            }
            return Some(PeerMessage::Interest(name));
        }
        // The mirror's copy ages from here on.
        user.knowledge = Knowledge::Nothing;
        user.record = Record::default();
        Some(PeerMessage::Uninterest(name))
    }

    /// Takes a message of another core of this node; those of one core come in the order they were
    /// made.
    ///
    /// # Panics
    /// When `from` is none of the node's other cores, or it is interested in a user that is not at home
    /// here.
    pub fn peer_message(&mut self, from: CoreId, message: PeerMessage) {
        let is_other = from != self.settings.core && from.get() < self.settings.cores;
        assert!(is_other, "core {from} is none of the node's other cores");
        let bit = 1 << from.get();
        match message {
            PeerMessage::Interest(name) => {
                let slot = self.users.find_or_insert(&name, &self.vnodes);
                let vnode = self.users[slot].vnode;
                assert!(
                    self.vnodes.is_home(vnode),
                    "vnode {vnode} is another core's"
                );
                self.users[slot].with_cores(|cores| cores.interested |= bit);
                self.send_interest(slot);
                match self.users[slot].knowledge {
                    Knowledge::Known | Knowledge::Provisional => {
                        self.users[slot].with_cores(|cores| cores.unsent |= bit);
                        self.queue_for(slot, from);
                    }
                    // The answer goes to everyone interested.
                    Knowledge::Nothing => self.ask_store(slot),
                    Knowledge::Asked => {}
                }
            }
            PeerMessage::Uninterest(name) => {
                if let Some(slot) = self.users.find(&name) {
                    self.users[slot].with_cores(|cores| {
                        cores.interested &= !bit;
                        cores.sent_to(bit);
                    });
                    self.send_interest(slot);
                    self.users.sweep_later(slot);
                }
            }
            PeerMessage::WatcherAhead(name, known) => {
                if let Some(slot) = self.users.find(&name) {
                    let waits = self.overtake(slot, known, None);
                    if !waits && self.users[slot].record.version < known {
                        self.refute(slot, bit, known);
                    }
                }
            }
            PeerMessage::State(name, record) => self.see_peers(&name, record),
            PeerMessage::Refuted(name, record, version) => {
                self.see_peers(&name, record);
                if let Some(slot) = self.users.find(&name) {
                    self.stop_looking(slot, version);
                }
            }
        }
    }

    fn see_peers(&mut self, name: &str, record: Record) {
        // What crossed our `Uninterest` is followed by nothing newer.
        if let Some(slot) = self.users.find(name)
            && self.users[slot].is_subscribed()
        {
            self.see(slot, record, Epoch::default(), Heard::Core);
        }
    }

    /// The interested cores of these bits, which look for versions up to `known`, are not to wait for more
    /// than what there is.
    pub(crate) fn refute(&mut self, slot: u32, cores: u64, known: Version) {
        let user = &mut self.users[slot];
        let is_known = user.knowledge.has_record();
        user.with_cores(|entry| {
            entry.refuted = entry.refuted.max(known);
            // What is not known yet is sent when it is.
            entry.unsent |= if is_known { cores } else { 0 };
        });
        if is_known {
            self.queue_for_all(slot, cores);
        }
    }

    fn queue_for_all(&mut self, slot: u32, mut cores: u64) {
        while cores != 0 {
            self.queue_for(slot, CoreId::new(cores.trailing_zeros() as u16));
            cores &= cores - 1;
        }
    }

    /// Sends the owner's newest state to every core that mirrors the user.
    pub(crate) fn tell_peers(&mut self, slot: u32) {
        let interested = self.users[slot].interested();
        if interested != 0 {
            self.users[slot].with_cores(|cores| cores.unsent = cores.interested);
            self.queue_for_all(slot, interested);
        }
    }
}
