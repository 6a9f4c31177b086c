//! What leaves a core for the store, the bus and the node's other cores, pulled by the shell as
//! these take it, and what comes back. A user waits in each queue at most once and leaves it with
//! its newest state, so that a slow or absent store costs memory by users and not by time.

use protocol::{Cause, Record, Stored, Version};
use ring::{CoreId, Epoch, Vnode};

use crate::{
    Core, SessionId,
    user::{Knowledge, Sync},
    vnodes::{Owner, Stage},
};

/// How long what a watcher knows already is looked for, ms of the core's clock.
const OVERTAKE_PATIENCE: u64 = 30_000;
/// Between two times that the store is asked for it.
const OVERTAKE_EVERY: u64 = 300;
/// Users for whom that is done at a time, and those of them that one session asks for, so that one
/// that makes versions up does not keep others from it; watchers of further ones get what there is.
const MAX_BEHIND: usize = 1_024;
const MAX_BEHIND_OF_SESSION: usize = 64;
/// By how many epochs a watcher may be ahead of what this core has heard of a vnode: it has met a
/// newer owner or two. More was made up, or is another cluster's.
const EPOCHS_AHEAD: u32 = 100;

/// A user of whom a watcher knows something newer than this core.
#[derive(Debug)]
pub(crate) struct Behind {
    user: u32,
    /// Whose watch it is for; `None`: of another core.
    session: Option<SessionId>,
    /// Times of the core's clock, ms.
    until: u64,
    ask_at: u64,
}

/// A user's place in a core, for the time of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u32);

impl Ticket {
    /// The ticket with this number, which [`Ticket::get`] gave.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// What a core wants of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreRequest {
    /// To claim the vnode: to fence all older epochs off and to list its users that are connected
    /// or left a short time ago.
    Load {
        /// Which vnode.
        vnode: Vnode,
        /// The core's epoch.
        epoch: Epoch,
        /// A former owner that has not released the vnode is waited for when its epoch is below
        /// this one.
        over: Epoch,
    },
    /// To note that all of the epoch is written: its successor need not wait.
    Release {
        /// Which vnode.
        vnode: Vnode,
        /// The epoch that ended.
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
    /// The vnode is claimed.
    Loaded {
        /// Which.
        vnode: Vnode,
        /// The core's epoch.
        epoch: Epoch,
        /// The former owner had let go of it, so that the store has all that it did.
        released: bool,
        /// Who is to be adopted.
        users: Vec<(Box<str>, Stored)>,
    },
    /// The vnode could not be loaded.
    LoadFailed(Vnode, Epoch),
    /// The former owner has not released the vnode yet.
    Held(Vnode, Epoch),
    /// The vnode has a newer epoch, the second one.
    LoadFenced(Vnode, Epoch, Epoch),
    /// The vnode is released, or the store knows of a newer epoch.
    Released(Vnode, Epoch),
    /// The vnode could not be released.
    ReleaseFailed(Vnode, Epoch),
    /// The epoch that the store had accepted for the vnode when it read (0 = unknown), and the
    /// record, if there is one.
    Read(Ticket, Epoch, Option<Stored>),
    /// It could not be read.
    ReadFailed(Ticket),
    /// It is kept.
    Written(Ticket),
    /// It could not be written.
    WriteFailed(Ticket),
    /// It was refused: the vnode has this newer epoch.
    WriteFenced(Ticket, Epoch),
}

impl StoreRequest {
    /// The reply that says that the store cannot be asked.
    #[must_use]
    pub fn failed(&self) -> StoreReply {
        match self {
            Self::Load { vnode, epoch, .. } => StoreReply::LoadFailed(*vnode, *epoch),
            Self::Release { vnode, epoch } => StoreReply::ReleaseFailed(*vnode, *epoch),
            Self::Read { ticket, .. } => StoreReply::ReadFailed(*ticket),
            Self::Write { ticket, .. } => StoreReply::WriteFailed(*ticket),
        }
    }
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
    /// The same, and the owner knows that nobody has made what it was told of by `Behind`.
    Last(Box<str>, Record),
}

impl Core {
    pub(crate) fn ask_store(&mut self, slot: u32) {
        let vnode = self.users[slot].vnode;
        self.users[slot].knowledge = Knowledge::Asked;
        // Until the vnode is loaded, the store's record is not an owner's to have.
        if self.vnodes.epoch(vnode).is_none() || self.vnodes.loaded(vnode) {
            self.store_mark(slot);
        }
    }

    /// The next thing to ask the store for; every request has to be answered by
    /// [`Core::store_reply`].
    pub fn next_store_request(&mut self) -> Option<StoreRequest> {
        while let Some((vnode, epoch)) = self.load_queue.pop_front() {
            if let Stage::Claiming { over, until, .. } = self.vnodes.stage(vnode)
                && self.vnodes.epoch(vnode) == Some(epoch)
            {
                let patient = self.clock < until;
                return Some(StoreRequest::Load {
                    vnode,
                    epoch,
                    over: if patient { over } else { Epoch::default() },
                });
            }
        }
        if let Some((vnode, epoch)) = self.release_queue.pop_front() {
            return Some(StoreRequest::Release { vnode, epoch });
        }
        loop {
            let slot = self.store_queue.pop_front()?;
            if let Some(request) = self.request_for(slot) {
                self.users[slot].store.sent();
                return Some(request);
            }
            // Nobody needs it any more, or not before the vnode is loaded, which asks again.
            let user = &mut self.users[slot];
            user.store = Sync::Clean;
            if user.knowledge == Knowledge::Asked && self.vnodes.epoch(user.vnode).is_none() {
                user.knowledge = Knowledge::Nothing;
            }
            self.users.doubt(slot);
        }
    }

    fn request_for(&self, slot: u32) -> Option<StoreRequest> {
        let user = &self.users[slot];
        let (vnode, name) = (user.vnode, &user.name);
        let epoch = match self.vnodes.stage(vnode) {
            Stage::Loaded => self.vnodes.epoch(vnode),
            // Nothing is written while the store lists the users; then all are.
            Stage::Claiming { .. } => None,
            Stage::Leaving { epoch, .. } => user.unsettled.then_some(epoch),
            Stage::Apart => None,
        };
        let ticket = Ticket(slot);
        if let Some(epoch) = epoch
            && user.knowledge == Knowledge::Known
        {
            return Some(StoreRequest::Write {
                ticket,
                vnode,
                epoch,
                user: name.clone(),
                stored: Self::stored(user),
            });
        }
        let owned = self.vnodes.epoch(vnode).is_some();
        let wanted = if owned {
            self.vnodes.loaded(vnode)
        } else {
            user.unsettled || user.wanted() || user.behind != Version::NEVER
        };
        wanted.then(|| StoreRequest::Read {
            ticket,
            vnode,
            user: name.clone(),
        })
    }

    /// Takes the store's answer.
    pub fn store_reply(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Loaded {
                vnode,
                epoch,
                released,
                users,
            } => self.vnode_loaded(vnode, epoch, released, users),
            StoreReply::LoadFailed(vnode, epoch) => {
                self.counters.store_failures += 1;
                self.load_failed(vnode, epoch);
            }
            StoreReply::Held(vnode, epoch) => {
                self.put_off.push(StoreRequest::Load {
                    vnode,
                    epoch,
                    // It is said anew when it is asked again.
                    over: Epoch::default(),
                });
            }
            StoreReply::LoadFenced(vnode, epoch, newest) => {
                self.vnodes.heard_of(vnode, newest);
                if self.vnodes.epoch(vnode) == Some(epoch) {
                    self.fence(vnode, newest);
                }
            }
            StoreReply::Released(vnode, epoch) => self.released(vnode, epoch),
            StoreReply::ReleaseFailed(vnode, epoch) => {
                self.counters.store_failures += 1;
                self.put_off.push(StoreRequest::Release { vnode, epoch });
            }
            StoreReply::Read(Ticket(slot), claimed, stored) => {
                self.take_read(slot, claimed, stored);
            }
            StoreReply::Written(Ticket(slot)) => {
                self.counters.store_writes += 1;
                let again = self.users[slot].store.answered(true);
                let user = &mut self.users[slot];
                // Who asked the store after the event went out and before the store had it.
                user.unpublished |= std::mem::take(&mut user.ahead);
                if again && user.unpublished && !user.overtaken {
                    user.overtaken = true;
                } else {
                    self.offer(slot);
                }
                if !again {
                    self.settled(slot);
                }
                self.requeue(slot, again);
            }
            StoreReply::WriteFenced(Ticket(slot), newest) => {
                let vnode = self.users[slot].vnode;
                self.vnodes.heard_of(vnode, newest);
                // The newer epoch may be this core's own by now: then it is written again.
                let lost = self.vnodes.epoch(vnode).is_none_or(|epoch| epoch < newest);
                let again = self.users[slot].store.answered(lost);
                if lost {
                    self.counters.refused_writes += 1;
                    self.users[slot].unpublished = false;
                    self.users[slot].unsettled = false;
                }
                self.requeue(slot, again);
                self.fence(vnode, newest);
            }
            StoreReply::ReadFailed(Ticket(slot)) | StoreReply::WriteFailed(Ticket(slot)) => {
                self.counters.store_failures += 1;
                let again = self.users[slot].store.answered(false);
                self.go_on_without_store(slot);
                self.offer_without_store(slot);
                self.requeue(slot, again);
            }
        }
    }

    fn take_read(&mut self, slot: u32, claimed: Epoch, stored: Option<Stored>) {
        let again = self.users[slot].store.answered(true);
        let vnode = self.users[slot].vnode;
        self.vnodes.heard_of(vnode, claimed);
        if self
            .vnodes
            .epoch(vnode)
            .is_some_and(|epoch| epoch < claimed)
        {
            self.fence(vnode, claimed);
        }
        let stored = self.with_what_was_heard(slot, stored);
        match (self.vnodes.owner(vnode), self.users[slot].knowledge) {
            // Without a claim the answer may be out of date by now.
            (Owner::Here(_), Knowledge::Asked) if again || !self.vnodes.loaded(vnode) => {}
            (Owner::Here(_), Knowledge::Asked) => match stored {
                Some(stored) if stored.connected => self.adopt(slot, stored),
                stored => self.learn(slot, stored),
            },
            (Owner::Here(_), Knowledge::Provisional) if self.vnodes.loaded(vnode) => {
                self.learn(slot, stored);
            }
            (Owner::Here(_), _) => {}
            (_, Knowledge::Nothing) => {}
            (_, Knowledge::Provisional | Knowledge::Asked) if self.users[slot].unsettled => {
                self.learn_while_leaving(slot, stored.unwrap_or_default());
            }
            _ => self.see(slot, stored.unwrap_or_default().record, claimed),
        }
        self.requeue(slot, again);
    }

    /// With a tick: what the store could not do at once, and users of whom a watcher knows more.
    pub(crate) fn try_again(&mut self) {
        for request in std::mem::take(&mut self.put_off) {
            match request {
                StoreRequest::Load { vnode, epoch, .. } => {
                    self.load_queue.push_back((vnode, epoch));
                }
                StoreRequest::Release { vnode, epoch } => {
                    self.release_queue.push_back((vnode, epoch));
                }
                StoreRequest::Read { .. } | StoreRequest::Write { .. } => {}
            }
        }
        self.publish_the_absent();
        self.look_at_suspects();
        if self.behind.is_empty() {
            return;
        }
        for mut behind in std::mem::take(&mut self.behind) {
            let slot = behind.user;
            let known = self.users[slot].behind;
            let here = matches!(self.owner_of(slot), Owner::Here(_));
            if here && known != Version::NEVER {
                self.outdo(slot, known);
                self.answer_late(slot);
            }
            let patient = behind.until > self.clock && !(here && self.is_last(slot));
            let user = &mut self.users[slot];
            let waited_for = user.late || user.interest != 0;
            if patient && waited_for && known > user.record.version {
                if behind.ask_at <= self.clock && self.owner_of(slot) == Owner::Elsewhere {
                    behind.ask_at = self.clock + OVERTAKE_EVERY;
                    self.store_mark(slot);
                }
                self.behind.push(behind);
                continue;
            }
            user.behind = Version::NEVER;
            user.waiters -= 1;
            if !patient {
                self.answer_late_anyway(slot);
            }
            self.release(slot);
        }
    }

    /// Users that the former owner of their vnode had seen go, and that nobody has seen since.
    fn publish_the_absent(&mut self) {
        while let Some((slot, _)) = self.absent.pop_front_if(|(_, due)| *due <= self.clock) {
            self.users[slot].waiters -= 1;
            if self.vnodes.loaded(self.users[slot].vnode)
                && self.users[slot].knowledge == Knowledge::Known
            {
                self.users[slot].unpublished = true;
                self.store_mark(slot);
            }
            self.release(slot);
        }
    }

    /// The store cannot have the user's newest state now: the bus may have it all the same.
    pub(crate) fn offer_without_store(&mut self, slot: u32) {
        self.users[slot].ahead |= self.users[slot].unpublished;
        self.offer(slot);
    }

    /// The store has the user's newest state: now the bus may have it.
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

    /// The next change for the bus; every one has to be answered by [`Core::bus_reply`].
    pub fn next_publication(&mut self) -> Option<Publication> {
        loop {
            let slot = self.bus_queue.pop_front()?;
            let user = &mut self.users[slot];
            if self.vnodes.stage(user.vnode) == Stage::Apart || !user.knowledge.has_record() {
                // The successor has said anew what was true; this core may be the next one.
                user.bus = Sync::Clean;
                self.users.doubt(slot);
                continue;
            }
            // Who asks the store now hears of it only with the event after the write.
            user.ahead |= user.store != Sync::Clean;
            user.bus.sent();
            return Some(Publication {
                ticket: Ticket(slot),
                user: user.name.clone(),
                record: user.record.clone(),
                vnode: user.vnode,
                epoch: user.record.version.epoch(),
                cause: user.cause,
            });
        }
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
                let (name, record) = (user.name.clone(), user.record.clone());
                if user.refuted & bit != 0 {
                    user.refuted &= !bit;
                    return Some(PeerMessage::Last(name, record));
                }
                return Some(PeerMessage::State(name, record));
            }
            let wanted = !user.watchers.is_empty() || user.waiters > 0;
            let message = match owner {
                Owner::Core(owner) if owner == core && wanted != user.told => {
                    user.told = wanted;
                    let name = user.name.clone();
                    if wanted {
                        if user.behind != Version::NEVER && !user.behind_told {
                            // That is told next.
                            user.queued |= bit;
                            self.peers[usize::from(core.get())].push_back(slot);
                        }
                        Some(PeerMessage::Interest(name))
                    } else {
                        user.knowledge = Knowledge::Nothing;
                        // The mirror's copy ages from here on.
                        user.record = Record::default();
                        user.behind = Version::NEVER;
                        Some(PeerMessage::Uninterest(name))
                    }
                }
                Owner::Core(owner)
                    if owner == core && user.behind != Version::NEVER && !user.behind_told =>
                {
                    user.behind_told = true;
                    Some(PeerMessage::Behind(user.name.clone(), user.behind))
                }
                Owner::Core(owner) if owner == core && !wanted => {
                    user.knowledge = Knowledge::Nothing;
                    None
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
                let slot = self.users.find_or_insert(&name, &self.vnodes);
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
                    self.users[slot].refuted &= !bit;
                    self.users.doubt(slot);
                }
            }
            PeerMessage::Behind(name, known) => {
                if let Some(slot) = self.users.find(&name) {
                    match self.owner_of(slot) {
                        Owner::Here(_) => {
                            let made = self.outdo(slot, known);
                            if !made && (self.is_last(slot) || !self.may_exist(slot, known)) {
                                self.refute(slot, from);
                            }
                        }
                        Owner::Core(_) | Owner::Elsewhere => {
                            let waits = self.overtake(slot, known, None);
                            if !waits && self.users[slot].record.version < known {
                                self.refute(slot, from);
                            }
                        }
                    }
                }
            }
            PeerMessage::State(name, record) => self.see_peers(&name, record),
            PeerMessage::Last(name, record) => {
                self.see_peers(&name, record);
                if let Some(slot) = self.users.find(&name)
                    && self.users[slot].behind_told
                {
                    self.stop_looking(slot);
                }
            }
        }
    }

    fn see_peers(&mut self, name: &str, record: Record) {
        // What crossed our `Uninterest` is followed by nothing newer.
        if let Some(slot) = self.users.find(name)
            && self.users[slot].told
        {
            self.see(slot, record, Epoch::default());
        }
    }

    /// Whether nobody can have a newer state of the user: there is no other node.
    fn is_last(&self, slot: u32) -> bool {
        !self.settings.cluster && self.users[slot].knowledge == Knowledge::Known
    }

    /// Whether anybody can have made the version, as far as this core has heard.
    fn may_exist(&self, slot: u32, version: Version) -> bool {
        let newest = self.vnodes.newest(self.users[slot].vnode).get();
        newest == 0 || version.epoch().get() <= newest.saturating_add(EPOCHS_AHEAD)
    }

    /// Another core, which asked for a newer version, is not to wait for more than what there is.
    fn refute(&mut self, slot: u32, core: CoreId) {
        let user = &mut self.users[slot];
        user.refuted |= 1 << core.get();
        // What is not known yet is sent when it is.
        if user.knowledge.has_record() {
            user.unsent |= 1 << core.get();
            self.queue_for(slot, core);
        }
    }

    /// What is known of the user is all there is, whatever its watchers claim.
    fn stop_looking(&mut self, slot: u32) {
        let Some(at) = self.behind.iter().position(|behind| behind.user == slot) else {
            return;
        };
        self.behind.swap_remove(at);
        let user = &mut self.users[slot];
        user.behind = Version::NEVER;
        user.waiters -= 1;
        self.answer_late_anyway(slot);
        self.release(slot);
    }

    /// A watcher has the version `known`, which is newer than what is known here: it saw a change
    /// that did not get into the store, or not here yet. The owner makes a newer version; others
    /// wait for it, the home core of another node's vnode asks the store until that has been claimed
    /// by a newer epoch. `false` when it is made, or nobody can have made it, or too many wait.
    pub(crate) fn overtake(
        &mut self,
        slot: u32,
        known: Version,
        session: Option<SessionId>,
    ) -> bool {
        if self.users[slot].record.version >= known || self.outdo(slot, known) {
            return false;
        }
        let owner = self.owner_of(slot);
        if matches!(owner, Owner::Here(_)) && self.is_last(slot) {
            return false;
        }
        let of_session = |behind: &&Behind| session.is_some() && behind.session == session;
        let many = self.users[slot].behind == Version::NEVER
            && (self.behind.len() >= MAX_BEHIND
                || self.behind.iter().filter(of_session).count() >= MAX_BEHIND_OF_SESSION);
        if many || !self.may_exist(slot, known) {
            self.counters.not_believed += 1;
            return false;
        }
        let user = &mut self.users[slot];
        if user.behind == Version::NEVER {
            // Held like a question holds it.
            user.waiters += 1;
            self.behind.push(Behind {
                user: slot,
                session,
                until: self.clock + OVERTAKE_PATIENCE,
                ask_at: self.clock + OVERTAKE_EVERY,
            });
        }
        user.behind = user.behind.max(known);
        match owner {
            Owner::Here(_) => {}
            Owner::Core(core) => {
                user.behind_told = false;
                self.queue_for(slot, core);
            }
            Owner::Elsewhere => self.store_mark(slot),
        }
        true
    }

    /// The owner makes a version that is newer than `known`, if `known` is one that it or a former
    /// owner can have made; whether it is newer now.
    fn outdo(&mut self, slot: u32, known: Version) -> bool {
        let user = &self.users[slot];
        let knows = user.knowledge.has_record();
        if knows && user.record.version < known && self.vnodes.was_made(user.vnode, known) {
            self.restamp(slot, Cause::Resync);
        }
        self.users[slot].record.version >= known
    }

    /// A mirror hears of its user's state: what is not newer than what it knows is dropped.
    /// `claimed`: the epoch that the store had accepted when it read the record; 0 when it is not
    /// the store's.
    pub(crate) fn see(&mut self, slot: u32, mut record: Record, claimed: Epoch) {
        let user = &mut self.users[slot];
        if user.unsettled {
            // This core's own is to be written first; then the store is read.
            return;
        }
        let shown = user.record.version.max(user.behind);
        if record.version < shown && claimed > shown.epoch() {
            // What was shown never got into the store before its owner was fenced: the record is
            // what the newer owner took over.
            record.version = Version::new(claimed, 0).unwrap_or(record.version);
        }
        let first = user.knowledge != Knowledge::Known;
        if !first && record.version <= user.record.version {
            self.counters.stale += 1;
            return;
        }
        user.knowledge = Knowledge::Known;
        let before = user.record.clone();
        if record.version >= before.version {
            user.record = record;
        }
        if first {
            self.known(slot, &before);
            return;
        }
        self.tell_peers(slot);
        if before.differs(&self.users[slot].record) {
            self.tell_watchers(slot);
        }
        self.answer_late(slot);
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
