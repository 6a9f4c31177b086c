//! The table of the users that a core knows, by name and by vnode. It owns their slots, who may be
//! forgotten, and which users' events are of interest.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use ring::{Vnode, VnodeCount};

use crate::{
    slots::Slots,
    user::{NONE, User},
    vnodes::Vnodes,
};

pub(crate) struct Users {
    pub(crate) slots: Slots<User>,
    index: HashTable<u32>,
    in_sweep: Vec<u32>,
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
            in_sweep: Vec::new(),
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
        let mut user = User::new(name, vnode, vnodes.is_kept(vnode));
        user.next_in_vnode = head;
        let slot = self.slots.insert(user);
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
    pub(crate) fn sweep_later(&mut self, slot: u32) {
        if !self[slot].in_sweep {
            self[slot].in_sweep = true;
            self.in_sweep.push(slot);
        }
    }

    /// Forgets the users that nothing holds. Only here a slot becomes free, so that no one holds a
    /// free one in the middle of an input.
    pub(crate) fn sweep(&mut self, vnodes: &Vnodes) {
        for slot in std::mem::take(&mut self.in_sweep) {
            let user = &mut self[slot];
            user.in_sweep = false;
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
