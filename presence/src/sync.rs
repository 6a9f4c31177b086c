//! What leaves a core for the store and the bus, pulled by the shell as these take it, and what comes
//! back. A user waits in each queue at most once and leaves it with
//! its newest state, so that a slow or absent store costs memory by users and not by time.

use protocol::{Cause, Mode, Record, Status, Stored, Version};
use ring::{Epoch, Vnode};

use crate::{
    Core,
    learning::unless_gone,
    trace::{Heard, What},
    transfer::Transfer,
    user::Knowledge,
    vnodes::{Owner, Stage},
};

/// The place of a user in its core, which ties an answer to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u32);

impl Ticket {
    /// The ticket with this number, which [`Ticket::get`] gave.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The ticket's number, for a shell that sends it elsewhere.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A request to the store; each has to be answered by a [`StoreReply`].
#[derive(Debug, Clone, PartialEq)]
pub enum StoreRequest {
    /// To claim the vnode: to fence all older epochs off and to list its users that are connected
    /// or left a short time ago.
    Load {
        /// The vnode that it is about.
        vnode: Vnode,
        /// The epoch under which this core owns the vnode.
        epoch: Epoch,
        /// A former owner that has not released the vnode is waited for when its epoch is below
        /// this one.
        wait_below: Epoch,
    },
    /// To note that all of the epoch is written: its successor need not wait.
    Release {
        /// The vnode that it is about.
        vnode: Vnode,
        /// The epoch that ended.
        epoch: Epoch,
    },
    /// The epoch that the vnode has: whether somebody has it since this core has left it.
    Owner {
        /// The vnode that it is about.
        vnode: Vnode,
    },
    /// A user's record.
    Read {
        /// The ticket that comes back with the answer.
        ticket: Ticket,
        /// The vnode of the user.
        vnode: Vnode,
        /// The user whose record it is.
        user: Box<str>,
    },
    /// To keep a user's record, unless the vnode has a newer epoch.
    Write {
        /// The ticket that comes back with the answer.
        ticket: Ticket,
        /// The vnode of the user.
        vnode: Vnode,
        /// The epoch under which this core owns the vnode.
        epoch: Epoch,
        /// The user whose record it is.
        user: Box<str>,
        /// The record to keep, with what only an owner needs.
        stored: Stored,
    },
}

/// The store's answer to a [`StoreRequest`]. What it could not answer comes back as failed and is
/// asked again.
#[derive(Debug, Clone, PartialEq)]
pub enum StoreReply {
    /// The vnode is claimed.
    Loaded {
        /// The vnode that was claimed.
        vnode: Vnode,
        /// The epoch under which this core owns the vnode.
        epoch: Epoch,
        /// Whether the owner right before had released the vnode, so that the store has all that it
        /// did.
        released: bool,
        /// The users to adopt: those connected, and those who left a short time ago.
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
    /// The epoch that the vnode has, 0 = none; `None` when that could not be asked.
    Owner(Vnode, Option<Epoch>),
    /// The epoch that the store had accepted for the vnode when it read (0 = unknown), and the
    /// record, if there is one.
    Read(Ticket, Epoch, Option<Stored>),
    /// The record could not be read.
    ReadFailed(Ticket),
    /// The record is kept.
    Written(Ticket),
    /// The record could not be written.
    WriteFailed(Ticket),
    /// The write was refused: the vnode has this newer epoch.
    WriteFenced(Ticket, Epoch),
}

impl StoreRequest {
    /// The reply that says that the store cannot be asked.
    #[must_use]
    pub fn failed(&self) -> StoreReply {
        match self {
            Self::Load { vnode, epoch, .. } => StoreReply::LoadFailed(*vnode, *epoch),
            Self::Release { vnode, epoch } => StoreReply::ReleaseFailed(*vnode, *epoch),
            Self::Owner { vnode } => StoreReply::Owner(*vnode, None),
            Self::Read { ticket, .. } => StoreReply::ReadFailed(*ticket),
            Self::Write { ticket, .. } => StoreReply::WriteFailed(*ticket),
        }
    }
}

/// A change of an owned user, for the bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// The ticket that comes back with the delivery report.
    pub ticket: Ticket,
    /// The user whose record it is.
    pub user: Box<str>,
    /// The newest public record.
    pub record: Record,
    /// The vnode of the user.
    pub vnode: Vnode,
    /// The epoch under which this core owns the vnode.
    pub epoch: Epoch,
    /// What made the newest change, for people who read the topic.
    pub cause: Cause,
}

impl Core {
    pub(crate) fn ask_store(&mut self, slot: u32) {
        let vnode = self.users[slot].vnode;
        self.users[slot].knowledge = Knowledge::Asked;
        // Until the vnode is loaded, the store's record is not an owner's to have.
        if self.vnodes.epoch(vnode).is_none() || self.vnodes.is_loaded(vnode) {
            self.store_mark(slot);
        }
    }

    /// What to ask the store for next, at most `room` requests; every request has to be answered by
    /// [`Core::store_reply`].
    ///
    /// Before that, also without room, `interest` is told of the users that came into this core's table
    /// (`true`) or left it since the last call, by [`ring::hash`], for vnodes that are at home here: events
    /// of others need not be looked at. So no event falls between a read of the store and the filter of events.
    pub fn store_requests(
        &mut self,
        room: usize,
        mut interest: impl FnMut(u64, bool),
    ) -> Vec<StoreRequest> {
        for (user, is_wanted) in self.users.take_interest() {
            interest(user, is_wanted);
        }
        std::iter::from_fn(|| self.next_store_request())
            .take(room)
            .collect()
    }

    fn next_store_request(&mut self) -> Option<StoreRequest> {
        if self.recalls.has_requests() {
            return self.recalls.next_request();
        }
        if self.vnodes.has_requests()
            && let Some(request) = self.vnodes.next_request(self.time.clock)
        {
            return Some(request);
        }
        loop {
            let slot = self.store_queue.pop_front()?;
            if let Some(request) = self.request_for(slot) {
                self.users[slot].store.sent();
                if matches!(request, StoreRequest::Write { .. }) {
                    self.note(slot, What::Storing);
                }
                return Some(request);
            }
            // Nobody needs it any more, or not before the vnode is loaded, which asks again.
            let user = &mut self.users[slot];
            user.store.dropped();
            let asks_again = self.vnodes.leaves_when_loaded(user.vnode).is_some()
                || self.vnodes.epoch(user.vnode).is_some();
            if user.knowledge == Knowledge::Asked && !asks_again {
                user.knowledge = Knowledge::Nothing;
            }
            self.users.sweep_later(slot);
        }
    }

    fn request_for(&self, slot: u32) -> Option<StoreRequest> {
        let user = &self.users[slot];
        let (vnode, name) = (user.vnode, &user.name);
        let epoch = match self.vnodes.stage(vnode) {
            Stage::Owned { epoch, .. } => Some(epoch),
            // Neither is the record an owner's, nor is the vnode this core's to give away.
            Stage::Claiming { leaves: true, .. } => return None,
            // Nothing is written while the store lists the users; then all are.
            Stage::Claiming { .. } => None,
            Stage::Leaving { epoch, .. } => user.is_unwritten().then_some(epoch),
            Stage::Sibling(_) | Stage::Elsewhere | Stage::Released { .. } => None,
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
            self.vnodes.is_loaded(vnode)
        } else {
            user.is_unwritten() || user.wanted() || user.searched
        };
        wanted.then(|| StoreRequest::Read {
            ticket,
            vnode,
            user: name.clone(),
        })
    }

    /// Takes the store's answer to a request, in any order.
    pub fn store_reply(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Loaded {
                vnode,
                epoch,
                released,
                users,
            } => {
                if !self.recalled(vnode, epoch, &users) {
                    self.claimed(vnode, epoch, released, users);
                }
            }
            StoreReply::LoadFailed(vnode, epoch) => {
                self.counters.store_failures += 1;
                if !self.recalls.claim_failed(vnode, epoch) {
                    self.load_failed(vnode, epoch);
                }
            }
            StoreReply::Held(vnode, epoch) => self.vnodes.claim_held(vnode, epoch),
            // Whatever was claimed: this core may be leaving the vnode by now.
            StoreReply::LoadFenced(vnode, _, newest) => self.fence(vnode, newest),
            StoreReply::Released(vnode, epoch) => self.released(vnode, epoch),
            StoreReply::ReleaseFailed(vnode, epoch) => {
                self.counters.store_failures += 1;
                self.vnodes.release_failed(vnode, epoch);
            }
            StoreReply::Owner(vnode, epoch) => self.looked_at_left(vnode, epoch),
            StoreReply::Read(Ticket(slot), claimed, stored) => {
                self.take_read(slot, claimed, stored);
            }
            StoreReply::Written(Ticket(slot)) => {
                self.counters.store_writes += 1;
                self.note(slot, What::Stored);
                let user = &mut self.users[slot];
                let again = user.store.answered(true);
                let publishing = &mut user.publishing;
                let due = self
                    .backlog
                    .written(slot, publishing, again, self.time.clock);
                if due {
                    self.tell_links(slot);
                }
                if !again {
                    self.settled(slot);
                }
                self.requeue(slot, again);
            }
            StoreReply::WriteFenced(Ticket(slot), newest) => {
                self.note(slot, What::Fenced);
                let vnode = self.users[slot].vnode;
                self.vnodes.heard_of(vnode, newest);
                // It may be this core's own by now, or older than that: then it is written again.
                let mine = self.vnodes.making_under(vnode);
                let lost = mine.is_none_or(|epoch| epoch < newest);
                let again = self.users[slot].store.answered(lost);
                if lost {
                    self.counters.refused_writes += 1;
                    self.users[slot].publishing.cancelled();
                    if let Some(user) = self.users[slot].as_owned_mut() {
                        user.unwritten = false;
                    }
                }
                self.requeue(slot, again);
                self.fence(vnode, newest);
            }
            StoreReply::ReadFailed(Ticket(slot)) | StoreReply::WriteFailed(Ticket(slot)) => {
                self.counters.store_failures += 1;
                if matches!(reply, StoreReply::WriteFailed(_)) {
                    self.note(slot, What::NotStored);
                }
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
        self.hears_of_epoch(vnode, claimed);
        if self
            .vnodes
            .epoch(vnode)
            .is_some_and(|epoch| epoch < claimed)
        {
            self.fence(vnode, claimed);
        }
        let there = stored.as_ref().is_some_and(|stored| stored.connected);
        let stored = self.with_what_was_heard(slot, stored);
        match (self.vnodes.owner(vnode), self.users[slot].knowledge) {
            _ if self.vnodes.leaves_when_loaded(vnode).is_some() => {}
            // Without a claim the answer may be out of date by now.
            (Owner::Here(_), Knowledge::Asked) if again || !self.vnodes.is_loaded(vnode) => {}
            (Owner::Here(_), Knowledge::Asked) => match stored {
                // By the store's word, which may have gone back.
                Some(stored) if there => {
                    let loaded_under = self.vnodes.loaded_under(vnode);
                    self.adopt(slot, unless_gone(loaded_under, stored));
                }
                Some(stored) if stored.connected => self.adopt(slot, stored),
                stored => self.learn(slot, stored),
            },
            (Owner::Here(_), Knowledge::Provisional) if self.vnodes.is_loaded(vnode) => {
                self.learn(slot, stored);
            }
            (Owner::Here(_), _) => {}
            (_, Knowledge::Nothing) => {}
            (_, Knowledge::Provisional | Knowledge::Asked) if self.users[slot].is_unwritten() => {
                self.learn_while_leaving(slot, stored.unwrap_or_default());
            }
            _ => {
                let record = stored.unwrap_or_default().record;
                self.see(slot, record, claimed, Heard::Store);
            }
        }
        self.requeue(slot, again);
    }

    /// With a tick: what the store could not do at once, and users of whom a watcher knows more.
    pub(crate) fn try_again(&mut self) {
        self.vnodes.try_again();
        self.recalls.look(self.time.clock);
        self.publish_the_absent();
        self.look_at_suspects();
        self.look_for_what_watchers_know();
        self.tell_of_the_missed();
        self.read_the_unheard();
    }

    /// The store cannot have the user's newest state now: the bus may have it all the same.
    pub(crate) fn offer_without_store(&mut self, slot: u32) {
        let publishing = &mut self.users[slot].publishing;
        if self.backlog.unavailable(slot, publishing, self.time.clock) {
            self.tell_links(slot);
        }
    }

    fn requeue(&mut self, slot: u32, again: bool) {
        if again {
            self.store_queue.push_back(slot);
        } else {
            self.users.sweep_later(slot);
        }
    }

    /// The next change for the bus; every one has to be answered by [`Core::bus_reply`]. `None` also while
    /// the core [is held](Core::is_held): another node may be the owner by now.
    pub fn next_publication(&mut self) -> Option<Publication> {
        if self.time.is_held() {
            return None;
        }
        loop {
            let slot = self.backlog.pop()?;
            let user = &mut self.users[slot];
            if !self.vnodes.is_kept(user.vnode) || !user.knowledge.has_record() {
                // The successor has said anew what was true; this core may be the next one.
                self.backlog.dropped(&mut user.publishing);
                self.users.sweep_later(slot);
                continue;
            }
            user.publishing.sent(user.store == Transfer::Idle);
            let publication = Publication {
                ticket: Ticket(slot),
                user: user.name.clone(),
                record: user.record.clone(),
                vnode: user.vnode,
                epoch: user.record.version.epoch(),
                cause: user.owned().cause,
            };
            self.note(slot, What::Publishing);
            return Some(publication);
        }
    }

    /// Takes the delivery report: whether the bus has the event for good.
    pub fn bus_reply(&mut self, ticket: Ticket, delivered: bool) {
        let Ticket(slot) = ticket;
        let publishing = &mut self.users[slot].publishing;
        let again = self
            .backlog
            .reported(slot, publishing, delivered, self.time.clock);
        if delivered {
            self.counters.published += 1;
            self.note(slot, What::Published);
        } else {
            self.counters.bus_failures += 1;
            self.note(slot, What::NotPublished);
        }
        if !again {
            self.users.sweep_later(slot);
        }
    }

    /// A mirror hears of its user's state: what is not newer than what it knows is dropped.
    /// `claimed`: the epoch that the store had accepted when it read the record; 0 when it is not
    /// the store's. `from`: who says so.
    pub(crate) fn see(&mut self, slot: u32, mut record: Record, claimed: Epoch, from: Heard) {
        let arrives = record.status == Status::Offline && self.has_arrivals(self.users[slot].vnode);
        let user = &mut self.users[slot];
        if user.is_unwritten() {
            // This core's own is to be written first; then the store is read.
            let is_newer = Some(record.version.epoch()) > self.vnodes.left_under(user.vnode);
            user.owned_mut().superseded |= is_newer;
            return;
        }
        let searched = self.searches.known(slot, user);
        let shown = user.record.version.max(searched);
        if record.version < shown && claimed > shown.epoch() && !arrives {
            // What was shown never got into the store before its owner was fenced: the record is
            // what the newer owner took over. Who may be on its way there is not offline yet.
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
            // Should this core get the user while the store is away it goes by that. One that is not done
            // with leaving it knows what the user chose, and may have to write it once more.
            if user.as_owned().is_none() {
                user.mode = match user.record.status {
                    Status::Busy => Mode::Busy,
                    Status::Online | Status::Away => Mode::Auto,
                    Status::Offline => user.mode,
                };
            }
        }
        self.note(slot, What::Received(from));
        if first {
            self.known(slot, &before);
            return;
        }
        self.tell_peers(slot);
        let record = &self.users[slot].record;
        if before.differs(record) {
            let begins = record.status != Status::Offline && record.status != before.status;
            self.tell_watchers(slot, begins);
        }
        self.answer_late(slot);
    }
}
