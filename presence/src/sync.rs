//! What leaves a core for the store, the bus and the node's other cores, pulled by the shell as
//! these take it, and what comes back. A user waits in each queue at most once and leaves it with
//! its newest state, so that a slow or absent store costs memory by users and not by time.

use protocol::{Cause, Record, Stored, Version};
use ring::{CoreId, Epoch, Vnode};

use crate::{Core, user::Knowledge, vnodes::Owner};

/// A user's place in a core, for the time of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u32);

/// What a core wants of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreRequest {
    /// To fence all older epochs of the vnode off and to list its users that are connected or
    /// left a short time ago.
    Load {
        /// Which vnode.
        vnode: Vnode,
        /// The core's epoch.
        epoch: Epoch,
    },
    /// A user's record.
    Read {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The user's vnode.
        vnode: Vnode,
        /// Whose.
        user: Box<str>,
    },
    /// To keep a user's record, unless the vnode has a newer epoch.
    Write {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The user's vnode.
        vnode: Vnode,
        /// The core's epoch.
        epoch: Epoch,
        /// Whose.
        user: Box<str>,
        /// What.
        stored: Stored,
    },
}

/// The store's answer to a [`StoreRequest`]. What it could not answer comes back as failed and is
/// asked again.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreReply {
    /// The vnode is fenced; these users are to be adopted.
    Loaded(Vnode, Epoch, Vec<(Box<str>, Stored)>),
    /// The vnode could not be loaded.
    LoadFailed(Vnode, Epoch),
    /// The record, if there is one.
    Read(Ticket, Option<Stored>),
    /// It could not be read.
    ReadFailed(Ticket),
    /// It is kept.
    Written(Ticket),
    /// It could not be written.
    WriteFailed(Ticket),
}

/// A change of an owned user, for the bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// Comes back with the delivery report.
    pub ticket: Ticket,
    /// Whose.
    pub user: Box<str>,
    /// The newest state.
    pub record: Record,
    /// The user's vnode.
    pub vnode: Vnode,
    /// The core's epoch.
    pub epoch: Epoch,
    /// What made the newest change.
    pub cause: Cause,
}

/// What the cores of a node tell each other. Between two cores messages keep their order.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerMessage {
    /// To the owner: tell me this user's state from now on.
    Interest(Box<str>),
    /// To the owner: no more.
    Uninterest(Box<str>),
    /// To the owner: a watcher has this version of a former owner, make a newer one.
    Behind(Box<str>, Version),
    /// From the owner: the newest state.
    State(Box<str>, Record),
}

impl Core {
    /// Takes a vnode: its users are this core's, versions go on after `seq` under `epoch`. The
    /// former owner's users are adopted when the store has answered.
    pub fn own(&mut self, vnode: Vnode, epoch: Epoch, seq: u64) {
        self.vnodes.set(vnode, Owner::Here(epoch), seq);
        self.loading += 1;
        self.load_queue.push_back((vnode, epoch));
    }

    /// Notes that another core or node owns the vnode.
    ///
    /// # Panics
    /// When this core owns it.
    pub fn owned_by(&mut self, vnode: Vnode, owner: Owner) {
        assert!(
            self.vnodes.epoch(vnode).is_none(),
            "an owned vnode is given up first"
        );
        self.vnodes.set(vnode, owner, 0);
    }

    /// How many vnodes of this core wait for the store.
    #[must_use]
    pub fn vnodes_loading(&self) -> usize {
        self.loading
    }

    pub(crate) fn ask_store(&mut self, slot: u32) {
        let vnode = self.users[slot].vnode;
        self.users[slot].knowledge = Knowledge::Asked;
        if self.vnodes.epoch(vnode).is_some() && !self.vnodes.loaded(vnode) {
            self.load_waiters.entry(vnode).or_default().push(slot);
            // Held like a question holds it, until the vnode is loaded.
            self.users[slot].waiters += 1;
        } else {
            self.store_mark(slot);
        }
    }

    /// The next thing to ask the store for; every request has to be answered by
    /// [`Core::store_reply`].
    pub fn next_store_request(&mut self) -> Option<StoreRequest> {
        if let Some((vnode, epoch)) = self.load_queue.pop_front() {
            return Some(StoreRequest::Load { vnode, epoch });
        }
        let slot = self.store_queue.pop_front()?;
        let user = &mut self.users[slot];
        user.store.sent();
        let ticket = Ticket(slot);
        let (vnode, name) = (user.vnode, user.name.clone());
        if user.knowledge == Knowledge::Known
            && let Some(epoch) = self.vnodes.epoch(vnode)
        {
            let stored = Self::stored(&self.users[slot]);
            return Some(StoreRequest::Write {
                ticket,
                vnode,
                epoch,
                user: name,
                stored,
            });
        }
        Some(StoreRequest::Read {
            ticket,
            vnode,
            user: name,
        })
    }

    /// Takes the store's answer.
    pub fn store_reply(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Loaded(vnode, epoch, users) => self.vnode_loaded(vnode, epoch, users),
            StoreReply::LoadFailed(vnode, epoch) => {
                self.counters.store_failures += 1;
                self.load_queue.push_back((vnode, epoch));
            }
            StoreReply::Read(Ticket(slot), stored) => {
                let again = self.users[slot].store.answered(true);
                match self.users[slot].knowledge {
                    Knowledge::Asked | Knowledge::Provisional => {
                        if self.vnodes.epoch(self.users[slot].vnode).is_some() {
                            self.learn(slot, stored, Cause::Connect);
                        } else {
                            self.see(slot, stored.unwrap_or_default().record);
                        }
                    }
                    Knowledge::Known | Knowledge::Nothing => {}
                }
                self.requeue(slot, again);
            }
            StoreReply::Written(Ticket(slot)) => {
                self.counters.store_writes += 1;
                let again = self.users[slot].store.answered(true);
                let user = &mut self.users[slot];
                if again && user.unpublished && !user.overtaken {
                    user.overtaken = true;
                } else {
                    self.offer(slot);
                }
                self.requeue(slot, again);
            }
            StoreReply::ReadFailed(Ticket(slot)) | StoreReply::WriteFailed(Ticket(slot)) => {
                self.counters.store_failures += 1;
                let again = self.users[slot].store.answered(false);
                let user = &mut self.users[slot];
                if user.knowledge == Knowledge::Asked && user.connected() {
                    // It is not kept from coming online by an absent store.
                    user.knowledge = Knowledge::Provisional;
                    self.refresh(slot, Cause::Connect);
                    self.known(slot);
                }
                self.offer(slot);
                self.requeue(slot, again);
            }
        }
    }

    /// The store has the user's newest state, or cannot: now the bus may have it.
    fn offer(&mut self, slot: u32) {
        let user = &mut self.users[slot];
        user.overtaken = false;
        if std::mem::take(&mut user.unpublished) && user.bus.mark() {
            self.bus_queue.push_back(slot);
        }
    }

    fn requeue(&mut self, slot: u32, again: bool) {
        if again {
            self.store_queue.push_back(slot);
        } else {
            self.users.doubt(slot);
        }
    }

    fn vnode_loaded(&mut self, vnode: Vnode, epoch: Epoch, users: Vec<(Box<str>, Stored)>) {
        if self.vnodes.epoch(vnode) != Some(epoch) || self.vnodes.loaded(vnode) {
            return;
        }
        self.loading -= 1;
        self.vnodes.set_loaded(vnode);
        for (name, stored) in users {
            let slot = self.users.find_or_insert(&name);
            self.adopt(slot, stored);
        }
        for slot in self.load_waiters.remove(&vnode).unwrap_or_default() {
            self.users[slot].waiters -= 1;
            if self.users[slot].knowledge == Knowledge::Asked {
                self.store_mark(slot);
            }
            self.users.doubt(slot);
        }
    }

    /// The next change for the bus; every one has to be answered by [`Core::bus_reply`].
    pub fn next_publication(&mut self) -> Option<Publication> {
        let slot = self.bus_queue.pop_front()?;
        let user = &mut self.users[slot];
        user.bus.sent();
        let epoch = self.vnodes.epoch(user.vnode).unwrap_or_default();
        Some(Publication {
            ticket: Ticket(slot),
            user: user.name.clone(),
            record: user.record.clone(),
            vnode: user.vnode,
            epoch,
            cause: user.cause,
        })
    }

    /// Takes the delivery report: whether the bus has the event for good.
    pub fn bus_reply(&mut self, ticket: Ticket, delivered: bool) {
        let Ticket(slot) = ticket;
        let again = self.users[slot].bus.answered(delivered);
        if delivered {
            self.counters.published += 1;
        } else {
            self.counters.bus_failures += 1;
        }
        if again {
            self.bus_queue.push_back(slot);
        } else {
            self.users.doubt(slot);
        }
    }

    pub(crate) fn queue_for(&mut self, slot: u32, core: CoreId) {
        let bit = 1 << core.get();
        let user = &mut self.users[slot];
        if user.queued & bit == 0 {
            user.queued |= bit;
            self.peers[usize::from(core.get())].push_back(slot);
        }
    }

    /// Nobody here watches the user any more.
    pub(crate) fn lose_interest(&mut self, slot: u32) {
        if let Owner::Core(core) = self.owner_of(slot)
            && self.users[slot].told
        {
            self.queue_for(slot, core);
        }
    }

    /// Whether something waits for `core`.
    #[must_use]
    pub fn has_message_for(&self, core: CoreId) -> bool {
        !self.peers[usize::from(core.get())].is_empty()
    }

    /// The next message for another core of this node.
    pub fn next_message_for(&mut self, core: CoreId) -> Option<PeerMessage> {
        let bit = 1 << core.get();
        loop {
            let slot = self.peers[usize::from(core.get())].pop_front()?;
            let owner = self.owner_of(slot);
            let user = &mut self.users[slot];
            user.queued &= !bit;
            if user.unsent & bit != 0 {
                user.unsent &= !bit;
                return Some(PeerMessage::State(user.name.clone(), user.record.clone()));
            }
            let wanted = !user.watchers.is_empty() || user.waiters > 0;
            let message = match owner {
                Owner::Core(owner) if owner == core && wanted != user.told => {
                    user.told = wanted;
                    let name = user.name.clone();
                    if wanted {
                        if user.behind != Version::NEVER {
                            // That is told next.
                            user.queued |= bit;
                            self.peers[usize::from(core.get())].push_back(slot);
                        }
                        Some(PeerMessage::Interest(name))
                    } else {
                        user.knowledge = Knowledge::Nothing;
                        // The mirror's copy ages from here on.
                        user.record = Record::default();
                        Some(PeerMessage::Uninterest(name))
                    }
                }
                Owner::Core(owner) if owner == core && user.behind != Version::NEVER => {
                    let behind = std::mem::take(&mut user.behind);
                    Some(PeerMessage::Behind(user.name.clone(), behind))
                }
                Owner::Core(_) | Owner::Here(_) | Owner::Elsewhere => None,
            };
            self.users.doubt(slot);
            if message.is_some() {
                return message;
            }
        }
    }

    /// Takes a message of another core of this node.
    pub fn peer_message(&mut self, from: CoreId, message: PeerMessage) {
        let bit = 1 << from.get();
        match message {
            PeerMessage::Interest(name) => {
                let slot = self.users.find_or_insert(&name);
                self.users[slot].interest |= bit;
                match self.users[slot].knowledge {
                    Knowledge::Known | Knowledge::Provisional => {
                        self.users[slot].unsent |= bit;
                        self.queue_for(slot, from);
                    }
                    // The answer goes to everyone interested.
                    Knowledge::Nothing => self.ask_store(slot),
                    Knowledge::Asked => {}
                }
            }
            PeerMessage::Uninterest(name) => {
                if let Some(slot) = self.users.find(&name) {
                    self.users[slot].interest &= !bit;
                    self.users[slot].unsent &= !bit;
                    self.users.doubt(slot);
                }
            }
            PeerMessage::Behind(name, known) => {
                if let Some(slot) = self.users.find(&name) {
                    let user = &self.users[slot];
                    let known_here = user.knowledge == Knowledge::Known;
                    if known_here
                        && user.record.version < known
                        && self.vnodes.is_former(user.vnode, known)
                    {
                        self.publish(slot, Cause::Resync);
                    }
                }
            }
            PeerMessage::State(name, record) => {
                // What crossed our `Uninterest` is followed by nothing newer.
                if let Some(slot) = self.users.find(&name)
                    && self.users[slot].told
                {
                    self.see(slot, record);
                }
            }
        }
    }

    /// A mirror hears of its user's state: what is not newer than what it knows is dropped.
    pub(crate) fn see(&mut self, slot: u32, record: Record) {
        let user = &mut self.users[slot];
        if user.knowledge == Knowledge::Known && record.version <= user.record.version {
            self.counters.stale += 1;
            return;
        }
        let first = user.knowledge != Knowledge::Known;
        user.knowledge = Knowledge::Known;
        if first || record.version > Version::NEVER {
            user.record = record;
        }
        if first {
            self.known(slot);
        } else {
            self.tell_watchers(slot);
        }
    }

    /// Sends the owner's newest state to every core that mirrors the user.
    pub(crate) fn tell_peers(&mut self, slot: u32) {
        let interest = self.users[slot].interest;
        self.users[slot].unsent = interest;
        let mut left = interest;
        while left != 0 {
            let core = CoreId::new(left.trailing_zeros() as u16);
            left &= left - 1;
            self.queue_for(slot, core);
        }
    }
}
