//! Which vnodes this core takes and leaves: claims with the store, adoption, departure, fencing.
//! It owns the order of these steps; who should own what is the map's business.

use protocol::{Cause, Event, Mode, Stored};
use ring::{CoreId, Epoch, Map, NodeId, Vnode};

use crate::{
    Core,
    learning::unless_gone,
    trace::Heard,
    user::{Knowledge, Return},
    vnodes::{Owner, Stage},
    wheel,
};

impl Core {
    /// Notes that another core is the vnode's home on this node, before any user of it is known.
    ///
    /// # Panics
    /// When the vnode has another home, `core` is this one or none of the node's, or a user is known.
    pub fn at_home_on(&mut self, vnode: Vnode, core: CoreId) {
        let is_other = core != self.settings.core && core.get() < self.settings.cores;
        assert!(is_other, "core {core} is none of the node's other cores");
        let is_fresh = self.users.of_vnode(vnode).is_empty();
        assert!(is_fresh, "a user of vnode {vnode} is known already");
        self.vnodes.at_home_on(vnode, core);
    }

    /// Takes a vnode: its users are this core's, versions go on after `seq` under `epoch`. The
    /// former owner's users are adopted when the store has answered. Nobody is waited for.
    ///
    /// # Panics
    /// When another core is the vnode's home, or the epoch is not newer than all that this core has heard
    /// of: versions would be made twice.
    pub fn own(&mut self, vnode: Vnode, epoch: Epoch, seq: u64) {
        let newest = self.vnodes.newest(vnode);
        assert!(
            epoch > newest,
            "vnode {vnode} has had epoch {newest}, not below {epoch}"
        );
        self.take_vnode(vnode, epoch, seq, Epoch::default());
    }

    /// Takes and leaves what a newer map says, for the vnodes that are at home on this core. `node`
    /// and `boot` are this process's; `before` is the map that it followed until now.
    ///
    /// # Panics
    /// When `map` is not newer than `before`, or has another number of vnodes than this core.
    pub fn follow(&mut self, map: &Map, before: Option<&Map>, node: &NodeId, boot: u64) {
        let is_newer = before.is_none_or(|before| before.version() < map.version());
        assert!(is_newer, "map {} is not newer", map.version());
        assert_eq!(map.count(), self.settings.vnodes, "a cluster has one count");
        let alive =
            |id: &NodeId, boot: u64| map.nodes().iter().any(|n| n.id == *id && n.boot == boot);
        let alone = map.nodes().iter().all(|n| n.id == *node && n.boot == boot);
        for vnode in self.settings.vnodes.all() {
            let owner = map.owner(vnode).map(|(owner, _)| owner);
            let mine = owner.is_some_and(|owner| owner.id == *node && owner.boot == boot);
            let epoch = map.epoch(vnode);
            match (self.vnodes.owner(vnode), mine) {
                (Owner::Core(_), _) => {}
                (Owner::Here(at), true) if at >= epoch => {}
                // Fenced by an epoch that this map does not know: a newer one will.
                (Owner::Elsewhere, true) if epoch < self.vnodes.newest(vnode) => {}
                (Owner::Here(_), true) => self.take_vnode(vnode, epoch, 0, Epoch::default()),
                (Owner::Elsewhere, true) => {
                    // A map that this node has not seen may have had another owner in between.
                    let before = before.filter(|before| map.succeeds(before, vnode));
                    // One that is dead may not have had it yet.
                    let dead = before.filter(|before| {
                        let former = before.owner(vnode);
                        !former.is_some_and(|(former, _)| alive(&former.id, former.boot))
                    });
                    let wait_below = match dead {
                        _ if alone => Epoch::default(),
                        Some(before) => before.epoch(vnode),
                        None => Epoch::MAX,
                    };
                    self.take_vnode(vnode, epoch, 0, wait_below);
                }
                (Owner::Here(_), false) => {
                    let address = owner.map_or("", |owner| owner.address.as_str());
                    self.leave(vnode, epoch, address);
                }
                (Owner::Elsewhere, false) => {
                    if epoch > self.vnodes.newest(vnode) {
                        self.suspect(vnode);
                    }
                    self.vnodes.heard_of(vnode, epoch);
                }
            }
        }
    }

    /// The number of this core's vnodes that wait to be claimed and loaded.
    #[must_use]
    pub fn vnodes_loading(&self) -> usize {
        self.vnodes.claiming()
    }

    /// The number of vnodes that this core has left and not released yet.
    #[must_use]
    pub fn vnodes_leaving(&self) -> usize {
        self.vnodes.leaving()
    }

    /// The number of vnodes that this core owns. O(vnodes).
    #[must_use]
    pub fn vnodes_owned(&self) -> usize {
        let owned = |vnode: &Vnode| self.vnodes.epoch(*vnode).is_some();
        self.settings.vnodes.all().filter(owned).count()
    }

    /// The next vnode that this core lost to a higher epoch since the last call, with that epoch.
    pub fn next_fence(&mut self) -> Option<(Vnode, Epoch)> {
        self.fences.pop_front()
    }

    /// The store may have lost what it had: every vnode is claimed and written again.
    pub fn resync(&mut self) {
        for vnode in self.settings.vnodes.all() {
            self.vnodes.claim_again(vnode);
            if let Stage::Leaving { .. } = self.vnodes.stage(vnode) {
                self.write_all_before_release(vnode);
            }
        }
        self.recall_all();
    }

    /// Whoever has had the vnode under an epoch below `wait_below` is waited for until it has let go of it.
    fn take_vnode(&mut self, vnode: Vnode, epoch: Epoch, seq: u64, wait_below: Epoch) {
        let owned = self.vnodes.epoch(vnode).is_some();
        self.recalls.forget(vnode);
        if self.vnodes.left_under(vnode).is_some() {
            self.comes_back(vnode);
        }
        self.vnodes
            .claim(vnode, epoch, seq, wait_below, self.time.clock);
        if owned {
            return;
        }
        self.begins_to_own(vnode, epoch);
        // What a mirror knew may be older than what the store gives to an owner.
        for slot in self.users.of_vnode(vnode) {
            let user = &mut self.users[slot];
            user.become_owned();
            let owned = user.owned_mut();
            if std::mem::take(&mut owned.superseded) {
                owned.chose_mode = false;
                owned.chose_text = false;
            }
            user.knowledge = match user.knowledge {
                Knowledge::Known if user.wanted() => Knowledge::Asked,
                Knowledge::Known => Knowledge::Nothing,
                knowledge => knowledge,
            };
        }
    }

    /// A vnode that is being left is to be loaded after all: what is not written of it nobody else knows.
    fn comes_back(&mut self, vnode: Vnode) {
        let deadline = self.time.clock + self.settings.grace;
        for slot in self.users.of_vnode(vnode) {
            let user = &mut self.users[slot];
            let asks = matches!(user.knowledge, Knowledge::Provisional | Knowledge::Asked);
            let user = user.owned_mut();
            user.held &= user.unwritten;
            if asks {
                // What the store has of it is still to be read.
                user.unwritten = false;
                if std::mem::take(&mut user.held) {
                    let timer = self.wheel.arm(deadline, wheel::Owner::Grace(slot));
                    user.awaited = Return::Takeover(timer);
                }
            }
        }
    }

    /// The store has accepted the claim of a vnode, which may be another node's by now: then it is left with
    /// what its users chose here.
    pub(crate) fn claimed(
        &mut self,
        vnode: Vnode,
        epoch: Epoch,
        released: bool,
        users: Vec<(Box<str>, Stored)>,
    ) {
        let leaves = self.vnodes.leaves_when_loaded(vnode) == Some(epoch);
        if leaves {
            self.comes_back(vnode);
        }
        self.vnode_loaded(vnode, epoch, released, users);
        if leaves {
            self.leave(vnode, self.vnodes.newest(vnode), "");
        }
    }

    /// The store has fenced all older epochs off; these users were connected or left just now.
    fn vnode_loaded(
        &mut self,
        vnode: Vnode,
        epoch: Epoch,
        released: bool,
        users: Vec<(Box<str>, Stored)>,
    ) {
        self.vnodes.heard_of(vnode, epoch);
        let loaded_under = self.vnodes.loaded_under(vnode);
        if !self.vnodes.loaded(vnode, epoch) {
            return;
        }
        if released {
            self.arrivals.remove(&vnode);
        } else {
            self.awaits_arrivals(vnode);
        }
        self.announce(vnode, epoch);
        if let Some(loaded_under) = loaded_under {
            self.forget_what_others_wrote_over(vnode, loaded_under, &users);
        }
        // Those it had before are as this core knows them: it claimed the vnode a second time.
        let mut known = self.users.of_vnode(vnode);
        known.retain(|slot| self.users[*slot].knowledge == Knowledge::Known);
        for slot in known {
            if self.users[slot].record.version.epoch() < epoch {
                self.restamp(slot, Cause::Resync);
            } else {
                // Other nodes may have read what the store had before.
                self.users[slot].publishing.changed();
                self.store_mark(slot);
            }
        }
        for (name, stored) in users {
            if self.settings.vnodes.vnode(&name) != vnode {
                // Not ours to write: it was stored under another number of vnodes.
                continue;
            }
            let slot = self.users.find_or_insert(&name, &self.vnodes);
            if self.users[slot].knowledge != Knowledge::Known {
                let unwritten = self.take_unwritten(slot);
                let newer = |own: &Stored| own.record.version > stored.record.version;
                let stored = unwritten.filter(newer).unwrap_or(stored);
                let left = !stored.connected;
                let stored = unless_gone(loaded_under, stored);
                let stored = self.with_what_was_heard(slot, Some(stored));
                let stored = stored.unwrap_or_default();
                match released {
                    true => self.adopt(slot, stored),
                    false => self.adopt_from_a_dead_owner(slot, stored, left),
                }
            }
        }
        for slot in self.users.of_vnode(vnode) {
            if let Some(unwritten) = self.take_unwritten(slot) {
                self.adopt(slot, unwritten);
            }
            let knowledge = self.users[slot].knowledge;
            if matches!(knowledge, Knowledge::Asked | Knowledge::Provisional) {
                self.store_mark(slot);
            }
        }
    }

    /// Of the listed users those are unknown again whom another owner has written since this core, which did
    /// not notice, had the vnode loaded `loaded_under` that epoch.
    fn forget_what_others_wrote_over(
        &mut self,
        vnode: Vnode,
        loaded_under: Epoch,
        users: &[(Box<str>, Stored)],
    ) {
        for (name, stored) in users {
            let version = stored.record.version;
            if version.epoch() > loaded_under
                && let Some(slot) = self.users.find(name)
                && self.users[slot].vnode == vnode
                && self.users[slot].record.version < version
            {
                let user = &mut self.users[slot];
                user.knowledge = Knowledge::Nothing;
                let user = user.owned_mut();
                user.chose_mode = false;
                user.chose_text = false;
            }
        }
    }

    /// A former owner that has not let go of the vnode may not reach the store and have seen the user
    /// come back, and goes on until it hears of its successor: until the user had the time to come
    /// here, nobody is told that it is offline. It keeps the version that the store has, so that what a
    /// watcher was shown by that one is newer. `left`: the store says so, too. Who said goodbye here is
    /// not on its way.
    fn adopt_from_a_dead_owner(&mut self, slot: u32, stored: Stored, left: bool) {
        let user = &self.users[slot];
        let owned = user.owned();
        let chose = owned.chose_mode || owned.chose_text;
        let said_goodbye = owned.goodbyes > 0;
        let fresh = matches!(user.knowledge, Knowledge::Nothing | Knowledge::Asked);
        if left && fresh && !stored.connected && !user.connected() && !chose {
            self.learn(slot, Some(stored));
        } else {
            self.adopt(slot, stored);
        }
        let user = &mut self.users[slot];
        if !user.connected() && !said_goodbye {
            user.publishing.cancelled();
            user.owned_mut().withheld = true;
            user.waiters += 1;
            self.absent
                .push_back((slot, self.time.clock + self.settings.grace));
        }
    }

    /// Users that the former owner of their vnode had seen go, and that nobody has seen since.
    pub(crate) fn publish_the_absent(&mut self) {
        while let Some((slot, _)) = self.absent.pop_front_if(|(_, due)| *due <= self.time.clock) {
            self.users[slot].waiters -= 1;
            if let Some(user) = self.users[slot].as_owned_mut() {
                user.withheld = false;
            }
            let user = &self.users[slot];
            if self.vnodes.is_loaded(user.vnode) && user.knowledge == Knowledge::Known {
                if self.vnodes.epoch(user.vnode) > Some(user.record.version.epoch()) {
                    self.restamp(slot, Cause::Takeover);
                } else {
                    self.users[slot].publishing.changed();
                    self.store_mark(slot);
                }
            }
            self.release(slot);
        }
        let clock = self.time.clock;
        self.arrivals.retain(|_, until| *until > clock);
    }

    /// The vnode has another owner than before, here or elsewhere: for a grace period its users may be on
    /// their way to that one.
    pub(crate) fn awaits_arrivals(&mut self, vnode: Vnode) {
        let until = self.time.clock + self.settings.grace;
        self.arrivals.insert(vnode, until);
    }

    /// Whether users of the vnode may have come to a former owner that could not store it, and be on
    /// their way to the next.
    pub(crate) fn has_arrivals(&self, vnode: Vnode) -> bool {
        self.arrivals_until(vnode).is_some()
    }

    /// Until when they may be, ms of the core's clock; `None` = that is over.
    pub(crate) fn arrivals_until(&self, vnode: Vnode) -> Option<u64> {
        let until = self.arrivals.get(&vnode).copied();
        until.filter(|until| self.time.clock < *until)
    }

    /// Whether the user is not here and may be on its way from a former owner. Who is invisible is
    /// offline wherever it is.
    pub(crate) fn may_arrive(&self, slot: u32) -> bool {
        let user = &self.users[slot];
        let absent = !user.connected() && user.mode != Mode::Invisible;
        absent && self.has_arrivals(user.vnode)
    }

    /// The vnode could not be claimed: those who came meanwhile are not kept from coming online by
    /// an absent store.
    pub(crate) fn load_failed(&mut self, vnode: Vnode, epoch: Epoch) {
        if self.vnodes.making_under(vnode) != Some(epoch) {
            return;
        }
        self.vnodes.claim_failed(vnode, epoch, self.time.clock);
        if self.vnodes.epoch(vnode).is_none() {
            return;
        }
        self.announce(vnode, epoch);
        for slot in self.users.of_vnode(vnode) {
            self.go_on_without_store(slot);
            self.offer_without_store(slot);
        }
    }

    /// A higher epoch than this core's is known to exist: the vnode is another node's, and nothing
    /// of it may be written or published any more.
    pub(crate) fn fence(&mut self, vnode: Vnode, newest: Epoch) {
        self.vnodes.heard_of(vnode, newest);
        if self.recalls.epoch(vnode).is_some_and(|left| left < newest) {
            self.recalls.forget(vnode);
            self.vnodes.has_successor(vnode);
        }
        if self
            .vnodes
            .left_under(vnode)
            .is_some_and(|left| left < newest)
        {
            self.departed(vnode, false);
        }
        if self.vnodes.epoch(vnode).is_some_and(|epoch| epoch < newest) {
            self.counters.fenced += 1;
            self.fences.push_back((vnode, newest));
            self.part(vnode, newest, "");
            self.departed(vnode, false);
        }
    }

    /// Another node speaks as the vnode's owner under this epoch, or the store has accepted it.
    pub(crate) fn hears_of_epoch(&mut self, vnode: Vnode, epoch: Epoch) {
        if epoch > self.vnodes.newest(vnode) {
            self.suspect(vnode);
            self.fence(vnode, epoch);
        }
    }

    /// Takes an event of the bus about a user of a vnode that is at home on this core.
    pub fn bus_event(&mut self, event: &Event<'_>) {
        let vnode = event.vnode;
        self.hears_of_epoch(vnode, event.epoch);
        let mine = self.vnodes.owner(vnode) != Owner::Elsewhere;
        if mine || event.epoch < self.vnodes.newest(vnode) {
            // Our own event comes back, or its writer was fenced: its successor has said anew what
            // was true.
            self.counters.stale += u64::from(!mine);
            return;
        }
        if let Some(slot) = self.users.find(&event.user) {
            self.see(slot, event.record(), Epoch::default(), Heard::Bus);
        }
    }

    /// The bus may have lost events: all users of other nodes that somebody here watches are read
    /// again.
    pub fn bus_gap(&mut self) {
        self.counters.gaps += 1;
        let mirrored: Vec<u32> = self.users.slots.indexes().collect();
        for slot in mirrored {
            let user = &self.users[slot];
            if user.wanted()
                && user.knowledge == Knowledge::Known
                && self.vnodes.owner(user.vnode) == Owner::Elsewhere
            {
                self.store_mark(slot);
            }
        }
    }
}
