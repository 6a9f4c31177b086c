//! Users of whom a watcher knows something newer than this core: it saw a change that did not get into
//! the store, or not here yet. Until the core has caught up the watcher is sent nothing older.

use std::collections::{BTreeSet, VecDeque};

use protocol::{Cause, Status, Version};
use ring::{Epoch, Vnode};

use crate::{Core, SessionId, user::Knowledge, vnodes::Owner};

/// How long what a watcher knows already is looked for, ms of the core's clock.
const OVERTAKE_PATIENCE: u64 = 30_000;
/// Between two times that the store is asked for it.
const OVERTAKE_EVERY: u64 = 300;
/// Users of whom it is told in one turn that they did not come back.
const MISSED_IN_A_TURN: usize = 4_096;
/// Users for whom that is done at a time, and those of them that one session asks for when half of the
/// places are taken, so that one that makes versions up does not keep others from it; watchers of
/// further ones get what there is.
const MAX_BEHIND: usize = 1_024;
const MAX_BEHIND_OF_SESSION: usize = 64;
/// Epochs before the process's own, which are days where the store is memory, of which a version is
/// believed to be of a process that was here before. An older one was made up, or is another server's.
const FORMER_EPOCHS: u32 = 400;
/// By how many epochs a watcher may be ahead of what this core has heard of a vnode: it has met a
/// newer owner or two. More was made up, or is another cluster's.
const EPOCHS_AHEAD: u32 = 100;

/// A user of whom a watcher knows something newer than this core.
#[derive(Debug)]
pub(crate) struct Behind {
    user: u32,
    /// The session whose watch it is for; `None` = another core asked.
    session: Option<SessionId>,
    /// When to give up, and when to ask the store next, ms of the core's clock.
    until: u64,
    ask_at: u64,
}

/// Vnodes of other nodes that got a new owner, each once, and when to look at whom that one has not
/// spoken of, ms of the core's clock.
#[derive(Default)]
pub(crate) struct Suspects {
    queue: VecDeque<(Vnode, u64)>,
    queued: BTreeSet<Vnode>,
}

impl Suspects {
    fn add(&mut self, vnode: Vnode, due: u64) {
        if self.queued.insert(vnode) {
            self.queue.push_back((vnode, due));
        }
    }

    fn next(&mut self, clock: u64) -> Option<Vnode> {
        let (vnode, _) = self.queue.pop_front_if(|(_, due)| *due <= clock)?;
        self.queued.remove(&vnode);
        Some(vnode)
    }
}

impl Core {
    /// A vnode has another owner: whoever it knows to be there it publishes, at once or when the user
    /// comes. Of whom it has said nothing by the end of the grace period, what this core shows may be
    /// what a former owner did not get into the store.
    pub(crate) fn suspect(&mut self, vnode: Vnode) {
        // Not at once again, without a grace period either.
        let due = self.clock + self.settings.grace.max(1_000);
        self.suspects.add(vnode, due);
    }

    /// Asks the store for users who are shown as there by the word of a former owner alone.
    pub(crate) fn look_at_suspects(&mut self) {
        while let Some(vnode) = self.suspects.next(self.clock) {
            if self.vnodes.owner(vnode) != Owner::Elsewhere {
                continue;
            }
            let newest = self.vnodes.newest(vnode);
            for slot in self.users.of_vnode(vnode) {
                let user = &self.users[slot];
                if user.wanted()
                    && user.knowledge == Knowledge::Known
                    && user.record.status != Status::Offline
                    && user.record.version.epoch() < newest
                {
                    self.store_mark(slot);
                    self.suspect(vnode);
                }
            }
        }
    }

    /// Whether the user may have been there before the start and be on its way back: a watcher that
    /// names a version which a former process can have made keeps what it sees.
    pub(crate) fn may_come_back(&self, slot: u32, known: Version) -> bool {
        let former = |own: Epoch| {
            let own = own.get();
            (own.saturating_sub(FORMER_EPOCHS)..=own).contains(&known.epoch().get())
        };
        self.clock < self.returns_until
            && self.users[slot].record.version == Version::NEVER
            && self.settings.starts_empty.is_some_and(former)
    }

    /// With a tick: once the time to come back is over, watchers who know a user from before the start
    /// are told that it is not there.
    pub(crate) fn tell_of_the_missed(&mut self) {
        if self.returns_until != 0 && self.clock >= self.returns_until {
            self.returns_until = 0;
            let waited_for = |slot: &u32| self.users[*slot].late;
            self.missed = self.users.slots.indexes().filter(waited_for).collect();
        }
        for _ in 0..MISSED_IN_A_TURN {
            // The owner is another core's, which is asked for no more than so many at a time.
            if self.behind.len() >= MAX_BEHIND / 2 {
                return;
            }
            let Some(slot) = self.missed.pop() else {
                return;
            };
            // Its place may be another's by now, who is told nothing new.
            if self.users.slots.get(slot).is_some() {
                self.answer_late(slot);
            }
        }
    }

    /// With a tick: whether what is looked for is there by now, or no use to look for any more.
    pub(crate) fn look_for_what_watchers_know(&mut self) {
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

    /// Ends the search for a newer version: the one that is known is the newest, whatever watchers
    /// claim.
    pub(crate) fn stop_looking(&mut self, slot: u32) {
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
        let has_its_share =
            || self.behind.iter().filter(of_session).count() >= MAX_BEHIND_OF_SESSION;
        let many = match self.behind.len() {
            _ if self.users[slot].behind != Version::NEVER => false,
            MAX_BEHIND.. => true,
            taken => taken >= MAX_BEHIND / 2 && has_its_share(),
        };
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
    pub(crate) fn outdo(&mut self, slot: u32, known: Version) -> bool {
        let user = &self.users[slot];
        let knows = user.knowledge.has_record();
        if knows && user.record.version < known && self.vnodes.was_made(user.vnode, known) {
            self.restamp(slot, Cause::Resync);
        }
        self.users[slot].record.version >= known
    }

    /// Whether nobody can have a newer state of the user: there is no other node.
    pub(crate) fn is_last(&self, slot: u32) -> bool {
        !self.settings.cluster && self.users[slot].knowledge == Knowledge::Known
    }

    /// Whether anybody can have made the version, as far as this core has heard.
    pub(crate) fn may_exist(&self, slot: u32, version: Version) -> bool {
        let newest = self.vnodes.newest(self.users[slot].vnode).get();
        newest == 0 || version.epoch().get() <= newest.saturating_add(EPOCHS_AHEAD)
    }
}
