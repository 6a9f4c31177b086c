//! Vnodes that this core has left, for as long as the store may lose that again: a replica that takes
//! over without the last writes has neither the release nor who had left before it. The successor
//! waits for the release, so there is time to say all of it once more. It owns what is said then.

use std::collections::{BTreeMap, VecDeque};

use protocol::{Cause, Status, Stored};
use ring::{Epoch, Vnode};

use crate::{Core, StoreRequest, learning::unless_gone, user::Knowledge, vnodes::Stage};

/// Between two looks whether somebody has the vnode since its release, ms of the core's clock.
const LOOK: u64 = 1_000;

/// A vnode that this core has left.
struct Left {
    epoch: Epoch,
    /// The newest epoch under which this core has had it loaded.
    loaded_under: Epoch,
    /// When to look whether somebody has it, ms of the core's clock; `NEVER` while it is not
    /// released, and while the store is asked.
    look: u64,
    /// Who was there when it was released, as it was.
    users: Vec<(Box<str>, Stored)>,
    recall: Recall,
}

/// How far this core is with what the store may have lost of a vnode that was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recall {
    /// It has lost nothing.
    No,
    /// It is asked which epoch the vnode has. Only a store that has this core's is one that went back:
    /// a higher one is the successor's, and of one that lost everything nobody is shown.
    Looks,
    /// The vnode is claimed again.
    Claims,
    /// The same, and the store has lost something since.
    ClaimsTwice,
}

const NEVER: u64 = u64::MAX;

/// The vnodes that this core has left and whose successor it has not heard of, and what waits to be
/// asked of the store for them.
#[derive(Default)]
pub(crate) struct Recalls {
    left: BTreeMap<Vnode, Left>,
    claims: VecDeque<(Vnode, Epoch)>,
    looks: VecDeque<Vnode>,
}

impl Recalls {
    /// The vnode is left, which this core has had since `loaded_under`.
    pub(crate) fn left(&mut self, vnode: Vnode, epoch: Epoch, loaded_under: Epoch) {
        let left = Left {
            epoch,
            loaded_under,
            look: NEVER,
            users: Vec::new(),
            recall: Recall::No,
        };
        self.left.insert(vnode, left);
    }

    /// The vnode is released, and these users were there.
    pub(crate) fn released(&mut self, vnode: Vnode, users: Vec<(Box<str>, Stored)>, clock: u64) {
        if let Some(left) = self.left.get_mut(&vnode) {
            left.users.extend(users);
            left.look = clock + LOOK;
        }
    }

    /// The vnode is this core's again, or a successor's.
    pub(crate) fn forget(&mut self, vnode: Vnode) {
        self.left.remove(&vnode);
    }

    /// The epoch under which this core had the vnode.
    pub(crate) fn epoch(&self, vnode: Vnode) -> Option<Epoch> {
        self.left.get(&vnode).map(|left| left.epoch)
    }

    /// Whether the vnode is claimed again under this epoch.
    pub(crate) fn claims(&self, vnode: Vnode, epoch: Epoch) -> bool {
        self.left.get(&vnode).is_some_and(|left| {
            matches!(left.recall, Recall::Claims | Recall::ClaimsTwice) && left.epoch == epoch
        })
    }

    /// The store could not be asked; whether it was for this.
    pub(crate) fn claim_failed(&mut self, vnode: Vnode, epoch: Epoch) -> bool {
        let asked = self.claims(vnode, epoch);
        if asked {
            self.claims.push_back((vnode, epoch));
        }
        asked
    }

    /// With a tick: who has a successor has nothing to say any more.
    pub(crate) fn look(&mut self, clock: u64) {
        for (vnode, left) in &mut self.left {
            if left.look <= clock {
                left.look = NEVER;
                self.looks.push_back(*vnode);
            }
        }
    }

    /// Whether a vnode waits to be looked at or claimed again.
    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        !self.looks.is_empty() || !self.claims.is_empty()
    }

    /// The next vnode that is looked at or claimed again.
    pub(crate) fn next_request(&mut self) -> Option<StoreRequest> {
        if let Some(vnode) = self.looks.pop_front() {
            return Some(StoreRequest::Owner { vnode });
        }
        let (vnode, epoch) = self.claims.pop_front()?;
        let wait_below = Epoch::default();
        Some(StoreRequest::Load {
            vnode,
            epoch,
            wait_below,
        })
    }
}

impl Core {
    /// The store may have lost what it was told of the vnodes that were left.
    pub(crate) fn recall_all(&mut self) {
        let left: Vec<Vnode> = self.recalls.left.keys().copied().collect();
        for vnode in left {
            self.recall(vnode);
        }
    }

    /// The store may have lost what it was told of a vnode that was left.
    pub(crate) fn recall(&mut self, vnode: Vnode) {
        let Some(left) = self.recalls.left.get_mut(&vnode) else {
            return;
        };
        left.recall = match left.recall {
            Recall::No => {
                // It is not released before this is over.
                self.vnodes.one_more_unsettled(vnode);
                self.recalls.looks.push_back(vnode);
                left.look = NEVER;
                Recall::Looks
            }
            Recall::Looks => Recall::Looks,
            Recall::Claims | Recall::ClaimsTwice => Recall::ClaimsTwice,
        };
    }

    /// The store has the vnode under `epoch` again, with these users; whether this was asked for.
    /// Those that this core knows are written as it knows them, all others that are there by the
    /// store's word have left; then the vnode is released again.
    pub(crate) fn recalled(
        &mut self,
        vnode: Vnode,
        epoch: Epoch,
        users: &[(Box<str>, Stored)],
    ) -> bool {
        if !self.recalls.claims(vnode, epoch) {
            return false;
        }
        let left = self.recalls.left.get_mut(&vnode);
        let left = left.expect("it was just found");
        if left.recall == Recall::ClaimsTwice {
            left.recall = Recall::Claims;
            self.recalls.claims.push_back((vnode, epoch));
            return true;
        }
        left.recall = Recall::No;
        let loaded_under = left.loaded_under;
        let known = std::mem::take(&mut left.users);
        if let Stage::Released { .. } = self.vnodes.stage(vnode) {
            // One more than there are, until all are found.
            self.vnodes.leave(vnode, 1);
            for slot in self.users.of_vnode(vnode) {
                self.users[slot].become_owned();
            }
        }
        for (name, stored) in known {
            let slot = self.users.find_or_insert(&name, &self.vnodes);
            let user = &mut self.users[slot];
            // Whoever speaks of it under a newer epoch knows better.
            if user.record.version.epoch() <= epoch {
                user.owned_mut().held = true;
                user.mode = stored.mode;
                user.record = stored.record;
                self.write_before_release(slot);
            }
        }
        for (name, stored) in users {
            let slot = self.users.find_or_insert(name, &self.vnodes);
            let user = &mut self.users[slot];
            let gone = unless_gone(Some(loaded_under), stored.clone());
            let here = user.owned().held || user.record.version.epoch() > epoch;
            if here || !stored.connected || gone.connected {
                self.users.sweep_later(slot);
                continue;
            }
            user.mode = gone.mode;
            let before = user.record.clone();
            if before.status != Status::Offline || before.version <= gone.record.version {
                user.record = gone.record;
                self.restamp(slot, Cause::Resync);
            }
            self.write_before_release(slot);
            self.known(slot, &before);
        }
        self.vnodes.settled(vnode);
        true
    }

    fn write_before_release(&mut self, slot: u32) {
        let user = &mut self.users[slot];
        user.knowledge = Knowledge::Known;
        if !std::mem::replace(&mut user.owned_mut().unwritten, true) {
            self.vnodes.one_more_unsettled(user.vnode);
        }
        self.store_mark(slot);
    }

    /// Which epoch the vnode has, if the store could say it.
    pub(crate) fn looked_at_left(&mut self, vnode: Vnode, there: Option<Epoch>) {
        let Some(left) = self.recalls.left.get_mut(&vnode) else {
            return;
        };
        let epoch = left.epoch;
        left.look = self.time.clock + LOOK;
        match (there, left.recall) {
            (None, _) => {}
            (Some(there), _) if there > epoch => self.fence(vnode, there),
            (Some(there), Recall::Looks) if there == epoch => {
                left.recall = Recall::Claims;
                left.look = NEVER;
                self.recalls.claims.push_back((vnode, epoch));
            }
            (Some(_), Recall::Looks) if self.vnodes.is_kept(vnode) => {
                // All that is known is written under this epoch anyway.
                left.recall = Recall::No;
                left.look = NEVER;
                self.vnodes.settled(vnode);
            }
            (Some(_), Recall::Looks) => {
                self.recalls.forget(vnode);
                self.vnodes.has_successor(vnode);
            }
            (Some(_), _) => {}
        }
    }
}
