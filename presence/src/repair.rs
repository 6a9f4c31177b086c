//! Users of whom a watcher knows something newer than this core: it saw a change that did not get into
//! the store, or not here yet. Until the core has caught up the watcher is sent nothing older.

use std::collections::{BTreeSet, VecDeque};

use protocol::{Cause, Status, Version};
use ring::{Epoch, Vnode};

use crate::{
    Core, SessionId, Settings,
    user::{Knowledge, User},
    vnodes::Owner,
};

/// How long what a watcher knows already is looked for, ms of the core's clock.
const SEARCH_PATIENCE: u64 = 30_000;
/// Between two times that the store is asked for it.
const SEARCH_EVERY: u64 = 300;
/// How long it is still looked for once the owner, asked over its link, has told an older version: what
/// the owner had sent before it was asked may be on its way.
const DENIAL_PATIENCE: u64 = 1_000;
/// Users of whom it is told in one turn that they did not come back.
const MISSED_IN_A_TURN: usize = 4_096;
/// Users for whom that is done at a time, and those of them that one session asks for when half of the
/// places are taken, so that one that makes versions up does not keep others from it; watchers of
/// further ones get what there is.
const MAX_SEARCHES: usize = 1_024;
const MAX_SEARCHES_OF_SESSION: usize = 64;
/// Epochs before the process's own, which are days where the store is memory, of which a version is
/// believed to be of a process that was here before. An older one was made up, or is another server's.
const FORMER_EPOCHS: u32 = 400;
/// How often a record is kept of a user of whom watchers alone know, ms of the core's clock, and how many
/// are at once.
const UNSEEN_EVERY: u64 = 1_000;
const UNSEEN_AT_ONCE: u64 = 1_000;
/// By how many epochs a watcher may be ahead of what this core has heard of a vnode: it has met a
/// newer owner or two. More was made up, or is another cluster's.
const EPOCHS_AHEAD: u32 = 100;

/// The search for a version of a user that a watcher has and that is newer than what is known here.
#[derive(Debug, Clone, Copy)]
struct Search {
    user: u32,
    /// The newest version that a watcher has.
    known: Version,
    /// The core of this node that is the user's home was told of `known`.
    home_knows: bool,
    /// The session whose watch it is for; `None` = another core asked.
    session: Option<SessionId>,
    /// When to give up, and when to ask the store next, ms of the core's clock.
    until: u64,
    ask_at: u64,
    /// When the owner told an older version over its link; `None` = it has not, or its link ended since.
    denied: Option<u64>,
}

/// The searches under way, at most one a user, whose [`User::searched`] says that there is one. Each
/// holds its user like a question does.
#[derive(Default)]
pub(crate) struct Searches(Vec<Search>);

impl Searches {
    fn find(&mut self, slot: u32, user: &User) -> Option<&mut Search> {
        let mut searches = self.0.iter_mut().filter(|_| user.searched);
        searches.find(|search| search.user == slot)
    }

    /// The version that is looked for; `NEVER` = none.
    pub(crate) fn known(&mut self, slot: u32, user: &User) -> Version {
        let search = self.find(slot, user);
        search.map_or(Version::NEVER, |search| search.known)
    }

    /// Whether the user's home core has to be told of a version.
    pub(crate) fn home_lacks_version(&mut self, slot: u32, user: &User) -> bool {
        let search = self.find(slot, user);
        search.is_some_and(|search| !search.home_knows)
    }

    /// The version that the user's home core has to be told of, which it knows from then on.
    pub(crate) fn tell_home(&mut self, slot: u32, user: &User) -> Option<Version> {
        let search = self.find(slot, user)?;
        let knew = std::mem::replace(&mut search.home_knows, true);
        (!knew).then_some(search.known)
    }
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

/// Users of whom only watchers know that they were there before a start with an empty store.
pub(crate) struct Returns {
    /// Until when such a user may come back, ms of the core's clock; 0 = that is over.
    until: u64,
    /// Those who did not, whose watchers are still to be told.
    missed: Vec<u32>,
}

impl Returns {
    pub(crate) fn new(settings: &Settings) -> Self {
        let until = settings.starts_empty.map_or(0, |_| settings.grace);
        Self {
            until,
            missed: Vec::new(),
        }
    }
}

impl Core {
    /// A vnode has another owner: whoever it knows to be there it publishes, at once or when the user
    /// comes. Of whom it has said nothing by the end of the grace period, what this core shows may be
    /// what a former owner did not get into the store.
    pub(crate) fn suspect(&mut self, vnode: Vnode) {
        self.awaits_arrivals(vnode);
        self.look_after_the_grace_period(vnode);
    }

    fn look_after_the_grace_period(&mut self, vnode: Vnode) {
        // Not at once again, without a grace period either.
        let due = self.time.clock + self.settings.grace.max(1_000);
        self.suspects.add(vnode, due);
    }

    /// Asks the store for users who are shown as there by the word of a former owner alone.
    pub(crate) fn look_at_suspects(&mut self) {
        while let Some(vnode) = self.suspects.next(self.time.clock) {
            if self.vnodes.owner(vnode) != Owner::Elsewhere {
                continue;
            }
            if let Some(until) = self.arrivals_until(vnode) {
                // It got another owner again since.
                self.suspects.add(vnode, until);
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
                    self.look_after_the_grace_period(vnode);
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
        self.time.clock < self.returns.until
            && self.users[slot].record.version == Version::NEVER
            && self.settings.starts_empty.is_some_and(former)
    }

    /// With a tick: once the time to come back is over, watchers who know a user from before the start
    /// are told that it is not there.
    pub(crate) fn tell_of_the_missed(&mut self) {
        if self.returns.until != 0 && self.time.clock >= self.returns.until {
            self.returns.until = 0;
            let waited_for = |slot: &u32| self.users[*slot].late;
            self.returns.missed = self.users.slots.indexes().filter(waited_for).collect();
        }
        for _ in 0..MISSED_IN_A_TURN {
            // The owner is another core's, which is asked for no more than so many at a time.
            if self.searches.0.len() >= MAX_SEARCHES / 2 {
                return;
            }
            let Some(slot) = self.returns.missed.pop() else {
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
        let mut at = 0;
        while let Some(search) = self.searches.0.get(at) {
            let Search {
                user: slot, known, ..
            } = *search;
            let (until, ask_at) = (search.until, search.ask_at);
            let here = matches!(self.owner_of(slot), Owner::Here(_));
            if here {
                self.outdo(slot, known);
                self.answer_late(slot);
            }
            if !self.is_linked_under(slot, known.epoch()) {
                self.searches.0[at].denied = None;
            }
            let denied = self.searches.0[at].denied;
            let until = until.min(denied.map_or(u64::MAX, |at| at + DENIAL_PATIENCE));
            let patient = until > self.time.clock && !(here && self.has_the_last_word(slot, known));
            let user = &self.users[slot];
            // The bus may show what the watcher knows, so that the end of the wait is told in any case.
            let waited_for = user.late || user.interested() != 0 || (here && self.may_arrive(slot));
            if patient && waited_for && known > user.record.version {
                if ask_at <= self.time.clock && self.owner_of(slot) == Owner::Elsewhere {
                    self.searches.0[at].ask_at = self.time.clock + SEARCH_EVERY;
                    self.store_mark(slot);
                }
                at += 1;
                continue;
            }
            self.searches.0.remove(at);
            self.search_over(slot, (!patient).then_some(known));
        }
    }

    /// Ends the search for a version up to `refuted`: the one that is known is the newest, whatever watchers
    /// claim.
    pub(crate) fn stop_looking(&mut self, slot: u32, refuted: Version) {
        let mut searches = self.searches.0.iter();
        if let Some(at) = searches.position(|search| search.user == slot && search.known <= refuted)
        {
            self.searches.0.swap_remove(at);
            self.search_over(slot, Some(refuted));
        }
    }

    /// The owner, another node's core, has told this version under this epoch. Nobody else makes versions
    /// of that epoch, so that a newer one that a watcher has of it is denied.
    pub(crate) fn owner_has_told(&mut self, slot: u32, epoch: Epoch, version: Version) {
        let now = self.time.clock_now();
        if let Some(search) = self.searches.find(slot, &self.users[slot])
            && search.known > version
            && search.known.epoch() == epoch
        {
            search.denied.get_or_insert(now);
        }
    }

    /// Lets go of a user that is not looked for any more. `in_vain`: the version that was looked for;
    /// watchers get what there is.
    fn search_over(&mut self, slot: u32, in_vain: Option<Version>) {
        let user = &mut self.users[slot];
        user.searched = false;
        user.waiters -= 1;
        if let Some(known) = in_vain {
            self.answer_late_anyway(slot);
            let interested = self.users[slot].interested();
            if interested != 0 {
                self.refute(slot, interested, known);
            }
        }
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
        if matches!(owner, Owner::Here(_)) && self.has_the_last_word(slot, known) {
            self.counters.not_believed += u64::from(self.settings.cluster);
            return false;
        }
        let of_session = |search: &&Search| session.is_some() && search.session == session;
        let has_its_share =
            || self.searches.0.iter().filter(of_session).count() >= MAX_SEARCHES_OF_SESSION;
        let many = match self.searches.0.len() {
            _ if self.users[slot].searched => false,
            MAX_SEARCHES.. => true,
            taken => taken >= MAX_SEARCHES / 2 && has_its_share(),
        };
        if many || !self.may_exist(slot, known) {
            self.counters.not_believed += 1;
            return false;
        }
        let user = &mut self.users[slot];
        if let Some(search) = self.searches.find(slot, user) {
            search.home_knows &= !matches!(owner, Owner::Core(_));
            search.known = search.known.max(known);
            search.denied = None;
        } else {
            user.searched = true;
            user.waiters += 1;
            self.searches.0.push(Search {
                user: slot,
                known,
                home_knows: false,
                session,
                until: self.time.clock + SEARCH_PATIENCE,
                ask_at: self.time.clock + SEARCH_EVERY,
                denied: None,
            });
        }
        match owner {
            Owner::Here(_) => {}
            Owner::Core(core) => self.queue_for(slot, core),
            Owner::Elsewhere => {
                self.store_mark(slot);
                self.ask_owner_again(slot);
            }
        }
        true
    }

    /// The owner makes a version that is newer than `known`, if `known` is one that it or a former
    /// owner can have made; whether it is newer now. Of who may be on its way here it makes none, until
    /// the time for that is over: the watcher keeps what it saw.
    pub(crate) fn outdo(&mut self, slot: u32, known: Version) -> bool {
        let user = &self.users[slot];
        let knows = user.knowledge.has_record() && !self.may_arrive(slot);
        if knows && user.record.version < known && self.vnodes.was_made(user.vnode, known) {
            if !user.never_was() || self.keeps_one_more() {
                self.restamp(slot, Cause::Resync);
            } else {
                self.users[slot].record.version = self.vnodes.next(self.users[slot].vnode);
                self.tell_peers(slot);
            }
        }
        self.users[slot].record.version >= known
    }

    /// Whether a record may be kept of one more user of whom the store has nothing, since a watcher claims
    /// to know it. After a loss of the store that puts right what the topic says; but whoever has a token
    /// may make up names. Counts it.
    fn keeps_one_more(&mut self) -> bool {
        let clock = self.time.clock;
        let next = self.unseen_until.max(clock) + UNSEEN_EVERY;
        let is_allowed = next <= clock + UNSEEN_AT_ONCE * UNSEEN_EVERY;
        if is_allowed {
            self.unseen_until = next;
        }
        is_allowed
    }

    /// Whether nobody can have made the version, which is newer than the one that this core, the owner,
    /// has: there is no other node, or it would be one of this core's own, which has not come so far.
    fn has_the_last_word(&self, slot: u32, version: Version) -> bool {
        let user = &self.users[slot];
        let is_own = || {
            self.vnodes.epoch(user.vnode) == Some(version.epoch())
                && !self.vnodes.was_made(user.vnode, version)
        };
        user.knowledge == Knowledge::Known && (!self.settings.cluster || is_own())
    }

    /// Whether anybody can have made the version, as far as this core has heard.
    pub(crate) fn may_exist(&self, slot: u32, version: Version) -> bool {
        let newest = self.vnodes.newest(self.users[slot].vnode).get();
        newest == 0 || version.epoch().get() <= newest.saturating_add(EPOCHS_AHEAD)
    }
}
