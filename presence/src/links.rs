//! What this core tells and hears over links to other nodes: a node that watches tells its interest
//! to the node that owns, and is told each state. It owns who was told what; a record's worth is its
//! version's, as everywhere.
//!
//! A link is one connection in one direction: whoever connected watches. Its messages keep their
//! order, and all end with it. An owner announces each vnode that the store has accepted it for, so that
//! interest goes to whom the store knows, and not to whom a map will make the owner. Whatever was told to a
//! former owner is told anew to the next, who answers with the newest state: nothing has to be remembered
//! between two owners or two links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::{FromOwner, Status, ToOwner};
use ring::{Epoch, Vnode, VnodeCount};

use crate::{
    Core,
    trace::{Heard, What},
    user::{Knowledge, Mirror},
    vnodes::{Owner, Stage},
};

/// Between two readings of watched users whom no link covers, ms of the core's clock.
const READ_EVERY: u64 = 1_500;

/// The link on which a vnode's owner speaks, and the epoch under which it is the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    link: u32,
    epoch: Epoch,
}

/// A link to an owner.
#[derive(Default)]
struct Upstream {
    /// Users of whom the owner has to be told that they are wanted, or no longer.
    users: BTreeSet<u32>,
    /// Users whom it speaks of and nobody here asked for.
    strays: BTreeSet<Box<str>>,
}

/// A link from a node that watches.
#[derive(Default)]
struct Downstream {
    /// Users whose newest state it has to be told; which of them is still due, [`Mirror`] says.
    users: VecDeque<u32>,
    /// Vnodes of which it has to be told whether they are this core's; `true`: they were lost since.
    vnodes: BTreeMap<Vnode, bool>,
}

/// The links of a node, as one of its cores sees them.
pub(crate) struct Links {
    is_on: bool,
    has_bus: bool,
    upstream: BTreeMap<u32, Upstream>,
    downstream: BTreeMap<u32, Downstream>,
    /// Links with something to send.
    waiting: BTreeSet<u32>,
    /// By vnode: who speaks of it.
    targets: Box<[Option<Target>]>,
    /// By vnode of this core's own: the first epoch under which it has had it without a break.
    since: Box<[Epoch]>,
    /// By vnode of this core's own: the epoch under which it speaks to others, 0 = none: what the store
    /// has accepted, or would have, did it answer.
    speaks: Box<[Epoch]>,
    read_at: u64,
    /// Vnodes with watched users whom no link covered at the last look.
    unheard: u64,
}

impl Links {
    pub(crate) fn new(vnodes: VnodeCount) -> Self {
        Self {
            is_on: false,
            has_bus: true,
            upstream: BTreeMap::new(),
            downstream: BTreeMap::new(),
            waiting: BTreeSet::new(),
            targets: vec![None; vnodes.get()].into(),
            since: vec![Epoch::default(); vnodes.get()].into(),
            speaks: vec![Epoch::default(); vnodes.get()].into(),
            read_at: 0,
            unheard: 0,
        }
    }

    pub(crate) fn unheard(&self) -> u64 {
        self.unheard
    }

    /// Users and vnodes that wait for links.
    pub(crate) fn queued(&self) -> usize {
        let up = self.upstream.values();
        let down = self.downstream.values();
        up.map(|link| link.users.len() + link.strays.len())
            .sum::<usize>()
            + down
                .map(|link| link.users.len() + link.vnodes.len())
                .sum::<usize>()
    }

    /// The epoch under which this core speaks of the vnode, if it does.
    fn speaks(&self, vnode: Vnode) -> Option<Epoch> {
        let epoch = self.speaks[vnode.index()];
        (epoch > Epoch::default()).then_some(epoch)
    }

    fn target(&self, vnode: Vnode, link: u32) -> Option<Target> {
        self.targets[vnode.index()].filter(|target| target.link == link)
    }
}

impl Core {
    /// From now on other nodes are heard over links; `has_bus`: events of the bus come as well, since
    /// some node has no links. Without, watched users whom no link covers are read from the store
    /// every 1.5 s.
    pub fn hear_by_links(&mut self, has_bus: bool) {
        self.links.is_on = true;
        self.links.has_bus = has_bus;
        self.links.read_at = 0;
    }

    /// A link to a node stands, on which this node watches.
    ///
    /// # Panics
    /// When a link of that number stands, in either direction.
    pub fn owner_linked(&mut self, link: u32) {
        self.assert_new_link(link);
        self.links.upstream.insert(link, Upstream::default());
    }

    fn assert_new_link(&self, link: u32) {
        let links = &self.links;
        let stands = links.upstream.contains_key(&link) || links.downstream.contains_key(&link);
        assert!(!stands, "link {link} stands already");
    }

    /// A link from a node stands, on which that node watches.
    ///
    /// # Panics
    /// When a link of that number stands, in either direction.
    pub fn watcher_linked(&mut self, link: u32) {
        self.assert_new_link(link);
        let mut downstream = Downstream::default();
        let owned = |vnode: &Vnode| self.links.speaks(*vnode).is_some();
        let owned = self.settings.vnodes.all().filter(owned);
        downstream.vnodes.extend(owned.map(|vnode| (vnode, false)));
        self.links.downstream.insert(link, downstream);
        self.links.waiting.insert(link);
    }

    /// A link has ended, in whichever direction; one that is not there is no matter.
    pub fn unlinked(&mut self, link: u32) {
        self.links.waiting.remove(&link);
        if self.links.upstream.remove(&link).is_some() {
            for vnode in self.settings.vnodes.all() {
                if self.links.target(vnode, link).is_some() {
                    self.forget_target(vnode);
                }
            }
        }
        if self.links.downstream.remove(&link).is_some() {
            let slots: Vec<u32> = self.users.slots.indexes().collect();
            for slot in slots {
                if self.users[slot].forget_mirror(link) {
                    self.users.sweep_later(slot);
                }
            }
        }
    }

    /// The links for which a message waits.
    pub fn waiting_links(&self) -> impl Iterator<Item = u32> + '_ {
        self.links.waiting.iter().copied()
    }

    /// Takes what the owner at the other end of the link says, of a vnode that is at home on this
    /// core.
    pub fn owner_says(&mut self, link: u32, message: FromOwner) {
        if !self.links.upstream.contains_key(&link) {
            return;
        }
        match message {
            FromOwner::Owns(vnode, epoch) => {
                if vnode.index() < self.links.targets.len() && self.vnodes.is_home(vnode) {
                    self.hears_of_owner(link, vnode, epoch);
                }
            }
            FromOwner::Left(vnode) => {
                if vnode.index() < self.links.targets.len()
                    && self.links.target(vnode, link).is_some()
                {
                    self.forget_target(vnode);
                }
            }
            FromOwner::State(epoch, name, record) => {
                let vnode = self.settings.vnodes.vnode(&name);
                if !self.vnodes.is_home(vnode) {
                    return;
                }
                self.hears_of_epoch(vnode, epoch);
                let mine = self.vnodes.owner(vnode) != Owner::Elsewhere;
                if mine || epoch < self.vnodes.newest(vnode) {
                    self.counters.stale += u64::from(!mine);
                    return;
                }
                let is_target = self.links.target(vnode, link).is_some();
                let slot = self.users.find(&name);
                match slot.filter(|slot| is_target && self.users[*slot].interest_sent) {
                    Some(slot) => {
                        let version = record.version;
                        self.see(slot, record, Epoch::default(), Heard::Link);
                        self.owner_has_told(slot, epoch, version);
                    }
                    None => {
                        // It crossed our word, or is of before a takeover that it did not see.
                        let upstream = self.links.upstream.get_mut(&link);
                        upstream.expect("checked above").strays.insert(name);
                        self.links.waiting.insert(link);
                    }
                }
            }
        }
    }

    /// Another node is the vnode's owner: the store has accepted that, or does not answer.
    fn hears_of_owner(&mut self, link: u32, vnode: Vnode, epoch: Epoch) {
        self.hears_of_epoch(vnode, epoch);
        let target = Some(Target { link, epoch });
        let before = self.links.targets[vnode.index()];
        if self.vnodes.owner(vnode) != Owner::Elsewhere
            || epoch < self.vnodes.newest(vnode)
            || before == target
        {
            return;
        }
        let same_link = before.is_some_and(|before| before.link == link);
        self.links.targets[vnode.index()] = target;
        for slot in self.users.of_vnode(vnode) {
            let user = &mut self.users[slot];
            // Its answer is the newest state, whatever interest was sent before.
            user.interest_sent &= same_link && !user.wanted();
            self.users.sweep_later(slot);
            self.send_interest(slot);
        }
    }

    /// Nobody speaks of the vnode's users now.
    pub(crate) fn forget_target(&mut self, vnode: Vnode) {
        if self.links.targets[vnode.index()].take().is_none() {
            return;
        }
        for slot in self.users.of_vnode(vnode) {
            self.users[slot].interest_sent = false;
            self.users.sweep_later(slot);
        }
    }

    /// Sees to it that the owner of the user's vnode knows whether this core wants to hear of it.
    pub(crate) fn send_interest(&mut self, slot: u32) {
        let user = &self.users[slot];
        if user.interest_sent != user.wanted_from_owner()
            && let Some(target) = self.links.targets[user.vnode.index()]
            && let Some(upstream) = self.links.upstream.get_mut(&target.link)
        {
            upstream.users.insert(slot);
            self.links.waiting.insert(target.link);
        }
    }

    /// Has the user's owner, if it is linked, tell the newest state once more.
    pub(crate) fn ask_owner_again(&mut self, slot: u32) {
        self.users[slot].interest_sent = false;
        self.send_interest(slot);
    }

    /// Whether the user's owner speaks over a link, under this epoch.
    pub(crate) fn is_linked_under(&self, slot: u32, epoch: Epoch) -> bool {
        let target = self.links.targets[self.users[slot].vnode.index()];
        target.is_some_and(|target| target.epoch == epoch)
    }

    /// The next message for the owner at the other end of the link; `None` when nothing waits.
    pub fn next_for_owner(&mut self, link: u32) -> Option<ToOwner> {
        loop {
            let upstream = self.links.upstream.get_mut(&link)?;
            if let Some(name) = upstream.strays.pop_first() {
                let slot = self.users.find(&name);
                let is_wanted = slot.is_some_and(|slot| {
                    let user = &self.users[slot];
                    user.interest_sent && self.links.target(user.vnode, link).is_some()
                });
                if is_wanted {
                    continue;
                }
                return Some(ToOwner::Uninterest(name));
            }
            let Some(slot) = upstream.users.pop_first() else {
                self.links.waiting.remove(&link);
                return None;
            };
            let Some(user) = self.users.slots.get(slot) else {
                continue;
            };
            let wanted = user.wanted_from_owner();
            let Some(target) = self.links.target(user.vnode, link) else {
                continue;
            };
            if wanted == user.interest_sent {
                continue;
            }
            let user = &mut self.users[slot];
            user.interest_sent = wanted;
            let name = user.name.clone();
            if wanted {
                return Some(ToOwner::Interest(target.epoch, name));
            }
            if user.as_owned().is_none() {
                // The copy ages from here on.
                user.knowledge = Knowledge::Nothing;
            }
            self.users.sweep_later(slot);
            return Some(ToOwner::Uninterest(name));
        }
    }

    /// Takes what the node at the other end of the link wants to hear of a user whose vnode is at home
    /// on this core.
    pub fn watcher_says(&mut self, link: u32, message: ToOwner) {
        match message {
            ToOwner::Interest(epoch, name) => {
                let vnode = self.settings.vnodes.vnode(&name);
                let since = self.links.since[vnode.index()];
                if !self.links.downstream.contains_key(&link)
                    || self.vnodes.epoch(vnode).is_none()
                    || epoch < since
                {
                    // It is told that the vnode was left, and tells whoever has it.
                    return;
                }
                let slot = self.users.find_or_insert(&name, &self.vnodes);
                self.users[slot].add_mirror(link);
                match self.users[slot].knowledge {
                    Knowledge::Known | Knowledge::Provisional => self.tell_link(slot, link),
                    // The answer goes to everyone interested.
                    Knowledge::Nothing => self.ask_store(slot),
                    Knowledge::Asked => {}
                }
            }
            ToOwner::Uninterest(name) => {
                if let Some(slot) = self.users.find(&name)
                    && self.users[slot].forget_mirror(link)
                {
                    self.users.sweep_later(slot);
                }
            }
        }
    }

    fn tell_link(&mut self, slot: u32, link: u32) {
        let mirrors = self.users[slot].mirrors_mut();
        if let Some(mirror) = mirrors.iter_mut().find(|mirror| mirror.link == link)
            && !mirror.queued
            && let Some(downstream) = self.links.downstream.get_mut(&link)
        {
            mirror.queued = true;
            downstream.users.push_back(slot);
            self.links.waiting.insert(link);
        }
    }

    /// Sends the owner's newest state to every node that watches the user.
    #[inline]
    pub(crate) fn tell_links(&mut self, slot: u32) {
        if self.links.downstream.is_empty() {
            return;
        }
        let links = &mut self.links;
        for Mirror { link, queued } in self.users[slot].mirrors_mut() {
            if !*queued && let Some(downstream) = links.downstream.get_mut(link) {
                *queued = true;
                downstream.users.push_back(slot);
                links.waiting.insert(*link);
            }
        }
    }

    /// The next message for the watching node at the other end of the link; `None` when nothing waits.
    pub fn next_for_watcher(&mut self, link: u32) -> Option<FromOwner> {
        loop {
            let downstream = self.links.downstream.get_mut(&link)?;
            if let Some((vnode, lost)) = downstream.vnodes.pop_first() {
                let owned = self.links.speaks[vnode.index()];
                let owned = (owned > Epoch::default()).then_some(owned);
                if lost {
                    if owned.is_some() {
                        downstream.vnodes.insert(vnode, false);
                    }
                    return Some(FromOwner::Left(vnode));
                }
                match owned {
                    Some(epoch) => return Some(FromOwner::Owns(vnode, epoch)),
                    None => continue,
                }
            }
            let Some(slot) = downstream.users.pop_front() else {
                self.links.waiting.remove(&link);
                return None;
            };
            // Another user may have the place by now, or the same one be wanted no longer.
            let Some(user) = self.users.slots.get_mut(slot) else {
                continue;
            };
            let mut mirrors = user.mirrors_mut().iter_mut();
            let Some(mirror) = mirrors.find(|mirror| mirror.link == link && mirror.queued) else {
                continue;
            };
            mirror.queued = false;
            let Some(epoch) = self.links.speaks(user.vnode) else {
                // It may be another's yet: all are told when the store has accepted this core.
                continue;
            };
            let withheld = user.as_owned().is_some_and(|owned| owned.withheld);
            if user.knowledge.has_record() && !(withheld && user.record.status == Status::Offline) {
                let (name, record) = (user.name.clone(), user.record.clone());
                self.note(slot, What::Linked);
                return Some(FromOwner::State(epoch, name, record));
            }
        }
    }

    /// The store has accepted this core as the vnode's owner under this epoch, or does not answer.
    pub(crate) fn announce(&mut self, vnode: Vnode, epoch: Epoch) {
        if std::mem::replace(&mut self.links.speaks[vnode.index()], epoch) == epoch {
            return;
        }
        for (link, downstream) in &mut self.links.downstream {
            downstream.vnodes.entry(vnode).or_insert(false);
            self.links.waiting.insert(*link);
        }
    }

    /// The vnode becomes this core's, which was not its owner until now.
    pub(crate) fn begins_to_own(&mut self, vnode: Vnode, epoch: Epoch) {
        self.forget_target(vnode);
        self.links.since[vnode.index()] = epoch;
        self.links.speaks[vnode.index()] = Epoch::default();
    }

    /// The vnode is this core's no longer: who watched its users over links asks the next owner.
    pub(crate) fn ends_to_own(&mut self, vnode: Vnode) {
        self.links.speaks[vnode.index()] = Epoch::default();
        for slot in self.users.of_vnode(vnode) {
            if self.users[slot].forget_mirrors() {
                self.users.sweep_later(slot);
            }
        }
        for (link, downstream) in &mut self.links.downstream {
            downstream.vnodes.insert(vnode, true);
            self.links.waiting.insert(*link);
        }
    }

    /// With a tick: the store is asked for watched users of whom no link tells.
    pub(crate) fn read_the_unheard(&mut self) {
        if !self.links.is_on || self.time.clock < self.links.read_at {
            return;
        }
        self.links.read_at = self.time.clock + READ_EVERY;
        self.links.unheard = 0;
        if self.links.has_bus {
            return;
        }
        for vnode in self.settings.vnodes.all() {
            let newest = self.vnodes.newest(vnode);
            let target = self.links.targets[vnode.index()];
            let elsewhere = matches!(
                self.vnodes.stage(vnode),
                Stage::Elsewhere | Stage::Released { .. }
            );
            if !elsewhere || target.is_some_and(|target| target.epoch >= newest) {
                continue;
            }
            let mut read = 0;
            for slot in self.users.of_vnode(vnode) {
                let user = &self.users[slot];
                if user.wanted() && user.knowledge == Knowledge::Known {
                    read += 1;
                    self.store_mark(slot);
                }
            }
            self.counters.unheard_reads += read;
            self.links.unheard += u64::from(read > 0);
        }
    }
}
