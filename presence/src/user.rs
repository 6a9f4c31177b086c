//! The table of users a core knows: those it owns, and those its sessions watch.
//! It owns names, records and who watches whom; it never decides a status.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use protocol::{Cause, Mode, Record, Status, Version};
use ring::{Vnode, VnodeCount};

use crate::{
    publishing::Publishing, slots::Slots, transfer::Transfer, vnodes::Vnodes, wheel::TimerId,
};

pub(crate) const NONE: u32 = u32::MAX;

/// How much this core knows of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    /// The core knows nothing, and asked nobody.
    Nothing,
    /// The store or the owning core was asked, and has not answered.
    Asked,
    /// The owner works without the store's answer, which did not come in time: nothing may be
    /// written until it does.
    Provisional,
    /// The record is the newest this core can know.
    Known,
}

impl Knowledge {
    /// Whether the record can be shown.
    pub(crate) fn has_record(self) -> bool {
        matches!(self, Self::Known | Self::Provisional)
    }
}

/// A session that watches, and where in its list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watcher {
    pub(crate) session: u32,
    pub(crate) watch: u32,
}

/// What a user's own sessions are shown of it where that is not the public record. The versions are
/// made apart from the public ones: nobody else can tell from those that something has changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    /// The newest version that the user's own sessions may have.
    pub(crate) version: Version,
    /// The status of an invisible user as it is; `Offline` of any other.
    pub(crate) status: Status,
    /// When that status began, ms since 1970.
    pub(crate) since: u64,
    /// How many sessions an invisible user has.
    pub(crate) devices: u32,
}

pub(crate) struct User {
    pub(crate) name: Box<str>,
    pub(crate) record: Record,
    pub(crate) watchers: Vec<Watcher>,
    /// Cores of this node that mirror the user, by bit; the owner's.
    pub(crate) interest: u64,
    /// Of those cores, the ones that lack the newest state, by bit.
    pub(crate) unsent: u64,
    /// Of those cores, the ones to tell that nobody has made the version they look for, by bit.
    pub(crate) refuted: u64,
    /// Cores in whose outgoing queue the user waits, by bit.
    pub(crate) queued: u64,
    /// The user's sessions here, linked through [`crate::session::Session::next`].
    pub(crate) first_session: u32,
    pub(crate) sessions: u32,
    /// The timer of the grace period; while it is armed the user stays as it was.
    pub(crate) grace: TimerId,
    /// The grace period is a takeover's: it runs on when the first session returns.
    pub(crate) adopted: bool,
    /// Sessions that have said goodbye in a takeover: they are not waited for.
    pub(crate) departed: u32,
    /// The number of questions that wait for this user.
    pub(crate) waiters: u32,
    /// Index in this flush's encoded records, or `NONE`.
    pub(crate) encoded: u32,
    /// Marks the users of one message; see `watch.rs`.
    pub(crate) mark: u32,
    pub(crate) mark_watch: u32,
    pub(crate) vnode: Vnode,
    pub(crate) knowledge: Knowledge,
    pub(crate) mode: Mode,
    /// What its own sessions are shown where that is not `record`.
    pub(crate) own: Option<Box<Own>>,
    /// What the last session reported, for the time without one.
    pub(crate) away: bool,
    /// The user changed `mode` or `text` before the store answered: the store's are older.
    pub(crate) mode_set: bool,
    pub(crate) text_set: bool,
    /// The one request to the store that the user may have, a read or a write.
    pub(crate) store: Transfer,
    pub(crate) publishing: Publishing,
    pub(crate) cause: Cause,
    /// Whether the owning core knows of our interest; the mirror's.
    pub(crate) told: bool,
    /// A version that a watcher has and that is newer than what is known; the mirror's.
    pub(crate) behind: Version,
    /// Whether the home core knows of `behind`.
    pub(crate) behind_told: bool,
    /// Whether some session has it in its `late`.
    pub(crate) late: bool,
    /// The user was connected when its vnode was left: for the store it is so until the successor
    /// decides.
    pub(crate) held: bool,
    /// The user's newest state was not stored when its vnode was left.
    pub(crate) unsettled: bool,
    /// The neighbours in the list of the vnode's users, or `NONE`.
    next_in_vnode: u32,
    previous_in_vnode: u32,
    /// Whether the user is in the list of those who may be forgotten.
    doubted: bool,
}

impl User {
    /// Whether the user has a session or a running grace period, or had when its vnode was left.
    pub(crate) fn connected(&self) -> bool {
        self.sessions > 0 || self.grace != TimerId::NONE || self.held
    }

    /// The newest version that the user's own sessions may have.
    pub(crate) fn own_version(&self) -> Version {
        let own = self.own.as_ref().map_or(Version::NEVER, |own| own.version);
        own.max(self.record.version)
    }

    /// The record as the user's own sessions are shown it.
    pub(crate) fn own_record(&self) -> Record {
        let mut record = self.record.clone();
        record.version = self.own_version();
        if let Some(own) = &self.own
            && own.status != Status::Offline
        {
            record.status = own.status;
            record.since = own.since;
            record.devices = own.devices;
        }
        record
    }

    /// Makes the next version of what the user's own sessions are shown newer than `shown`.
    pub(crate) fn raise_own(&mut self, shown: Version) {
        let version = self.own_version().max(shown).later();
        let nothing = || {
            Box::new(Own {
                version,
                status: Status::Offline,
                since: 0,
                devices: 0,
            })
        };
        self.own.get_or_insert_with(nothing).version = version;
    }

    /// Whether somebody here wants to know the user's state.
    pub(crate) fn wanted(&self) -> bool {
        !self.watchers.is_empty() || self.interest != 0 || self.waiters > 0
    }

    /// Whether nothing holds the entry any more; `owned`: by this core.
    fn idle(&self, owned: bool) -> bool {
        !self.connected()
            && (!owned || self.record.status == Status::Offline)
            && self.watchers.is_empty()
            && self.interest == 0
            && self.queued == 0
            && self.waiters == 0
            && !self.unsettled
            && self.store == Transfer::Idle
            && self.publishing.is_idle()
            && !self.told
            && self.knowledge != Knowledge::Asked
    }
}

pub(crate) struct Users {
    pub(crate) slots: Slots<User>,
    index: HashTable<u32>,
    doubted: Vec<u32>,
    hasher: foldhash::quality::FixedState,
    vnodes: VnodeCount,
    /// The first user of each vnode's list, or `NONE`.
    heads: Box<[u32]>,
    /// Users that came into or left the table of their home core, by hash, since the shell took
    /// them: which events of the bus are of interest.
    interest: Vec<(u64, bool)>,
    keeps_interest: bool,
}

impl Users {
    pub(crate) fn new(seed: u64, vnodes: VnodeCount, keeps_interest: bool) -> Self {
        Self {
            heads: vec![NONE; vnodes.get()].into(),
            interest: Vec::new(),
            keeps_interest,
            slots: Slots::default(),
            index: HashTable::new(),
            doubted: Vec::new(),
            hasher: foldhash::quality::FixedState::with_seed(seed),
            vnodes,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        let same = |slot: &u32| *self.slots[*slot].name == *name;
        self.index.find(self.hasher.hash_one(name), same).copied()
    }

    /// The slot of the user, which is made when there is none.
    pub(crate) fn find_or_insert(&mut self, name: &str, vnodes: &Vnodes) -> u32 {
        if let Some(slot) = self.find(name) {
            return slot;
        }
        let vnode = self.vnodes.vnode(name);
        if self.keeps_interest && vnodes.is_home(vnode) {
            self.interest.push((ring::hash(name), true));
        }
        let head = self.heads[vnode.index()];
        let slot = self.slots.insert(User {
            name: name.into(),
            record: Record::default(),
            watchers: Vec::new(),
            interest: 0,
            unsent: 0,
            refuted: 0,
            queued: 0,
            first_session: NONE,
            sessions: 0,
            grace: TimerId::NONE,
            adopted: false,
            departed: 0,
            waiters: 0,
            encoded: NONE,
            mark: 0,
            mark_watch: NONE,
            vnode,
            knowledge: Knowledge::Nothing,
            mode: Mode::Auto,
            own: None,
            away: false,
            mode_set: false,
            text_set: false,
            store: Transfer::Idle,
            publishing: Publishing::IDLE,
            cause: Cause::Connect,
            told: false,
            behind: Version::NEVER,
            behind_told: false,
            late: false,
            held: false,
            unsettled: false,
            next_in_vnode: head,
            previous_in_vnode: NONE,
            doubted: false,
        });
        if head != NONE {
            self[head].previous_in_vnode = slot;
        }
        self.heads[vnode.index()] = slot;
        let rehash = |slot: &u32| self.hasher.hash_one(&*self.slots[*slot].name);
        self.index
            .insert_unique(self.hasher.hash_one(name), slot, rehash);
        slot
    }

    /// Notes that nothing may hold the user any more: [`Users::sweep`] will look.
    pub(crate) fn doubt(&mut self, slot: u32) {
        if !self[slot].doubted {
            self[slot].doubted = true;
            self.doubted.push(slot);
        }
    }

    /// Forgets the users that nothing holds. Only here a slot becomes free, so that no one holds a
    /// free one in the middle of an input.
    pub(crate) fn sweep(&mut self, vnodes: &Vnodes) {
        for slot in std::mem::take(&mut self.doubted) {
            let user = &mut self[slot];
            user.doubted = false;
            let owned = vnodes.epoch(user.vnode).is_some();
            // While its vnode is claimed again nothing is written, so that it may not be in the store.
            let claiming = owned && !vnodes.is_loaded(user.vnode);
            if !user.idle(owned) || (claiming && user.knowledge.has_record()) {
                continue;
            }
            let hash = self.hasher.hash_one(&*self[slot].name);
            if let Ok(entry) = self.index.find_entry(hash, |other| *other == slot) {
                entry.remove();
            }
            let user = self.slots.remove(slot);
            if self.keeps_interest && vnodes.is_home(user.vnode) {
                self.interest.push((ring::hash(&user.name), false));
            }
            match user.previous_in_vnode {
                NONE => self.heads[user.vnode.index()] = user.next_in_vnode,
                previous => self[previous].next_in_vnode = user.next_in_vnode,
            }
            if user.next_in_vnode != NONE {
                self[user.next_in_vnode].previous_in_vnode = user.previous_in_vnode;
            }
        }
        if self.index.len() < self.index.capacity() / 4 {
            let rehash = |slot: &u32| self.hasher.hash_one(&*self.slots[*slot].name);
            self.index.shrink_to(self.index.len() * 2, rehash);
        }
    }

    /// The slots of all users of a vnode that this core knows.
    pub(crate) fn of_vnode(&self, vnode: Vnode) -> Vec<u32> {
        let mut slots = Vec::new();
        let mut slot = self.heads[vnode.index()];
        while slot != NONE {
            slots.push(slot);
            slot = self[slot].next_in_vnode;
        }
        slots
    }

    pub(crate) fn take_interest(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.interest)
    }
}

impl std::ops::Index<u32> for Users {
    type Output = User;
    fn index(&self, slot: u32) -> &User {
        &self.slots[slot]
    }
}

impl std::ops::IndexMut<u32> for Users {
    fn index_mut(&mut self, slot: u32) -> &mut User {
        &mut self.slots[slot]
    }
}
