//! Vnodes that this core has left, for as long as the store may lose that again: a replica that takes
//! over without the last writes has neither the release nor who had left before it. The successor
//! waits for the release, so there is time to say all of it once more. It owns what is said then.

use protocol::{Cause, Status, Stored};
use ring::{Epoch, Vnode};

use crate::{Core, StoreRequest, ownership::unless_gone, user::Knowledge, vnodes::Stage};

/// Between two looks whether somebody has the vnode since its release, ms of the core's clock.
const LOOK: u64 = 1_000;

/// A vnode that this core has left.
pub(crate) struct Left {
    epoch: Epoch,
    /// The newest epoch under which this core has had it.
    had: Epoch,
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

impl Left {
    pub(crate) fn new(epoch: Epoch, had: Epoch) -> Self {
        Self {
            epoch,
            had,
            look: NEVER,
            users: Vec::new(),
            recall: Recall::No,
        }
    }
}

impl Core {
    /// The store may have lost what it was told of the vnodes that were left.
    pub(crate) fn recall_all(&mut self) {
        for (vnode, left) in &mut self.left {
            left.recall = match left.recall {
                Recall::No => {
                    // It is not released before this is over.
                    self.vnodes.one_more_unsettled(*vnode);
                    self.look_queue.push_back(*vnode);
                    left.look = NEVER;
                    Recall::Looks
                }
                Recall::Looks => Recall::Looks,
                Recall::Claims | Recall::ClaimsTwice => Recall::ClaimsTwice,
            };
        }
    }

    /// The next vnode that was left and is claimed again or looked at.
    pub(crate) fn next_request_for_left(&mut self) -> Option<StoreRequest> {
        if let Some(vnode) = self.look_queue.pop_front() {
            return Some(StoreRequest::Owner { vnode });
        }
        let (vnode, epoch) = self.recall_queue.pop_front()?;
        Some(StoreRequest::Load {
            vnode,
            epoch,
            over: Epoch::default(),
        })
    }

    /// The store could not be asked; whether it was for this.
    pub(crate) fn recall_failed(&mut self, vnode: Vnode, epoch: Epoch) -> bool {
        let asked = self.asks_of_left(vnode, epoch);
        if asked {
            self.recall_queue.push_back((vnode, epoch));
        }
        asked
    }

    pub(crate) fn asks_of_left(&self, vnode: Vnode, epoch: Epoch) -> bool {
        let left = self.left.get(&vnode);
        left.is_some_and(|left| {
            matches!(left.recall, Recall::Claims | Recall::ClaimsTwice) && left.epoch == epoch
        })
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
        if !self.asks_of_left(vnode, epoch) {
            return false;
        }
        let left = self.left.get_mut(&vnode).expect("it was just found");
        if left.recall == Recall::ClaimsTwice {
            left.recall = Recall::Claims;
            self.recall_queue.push_back((vnode, epoch));
            return true;
        }
        left.recall = Recall::No;
        let had = left.had;
        let known = std::mem::take(&mut left.users);
        if self.vnodes.stage(vnode) == Stage::Apart {
            // One more than there are, until all are found.
            let stage = Stage::Leaving {
                epoch,
                unsettled: 1,
            };
            self.vnodes.let_go(vnode, stage);
            self.leaving += 1;
        }
        for (name, stored) in known {
            let slot = self.users.find_or_insert(&name, &self.vnodes);
            let user = &mut self.users[slot];
            // Whoever speaks of it under a newer epoch knows better.
            if user.record.version.epoch() <= epoch {
                user.held = true;
                user.mode = stored.mode;
                user.record = stored.record;
                self.write_before_release(slot);
            }
        }
        for (name, stored) in users {
            let slot = self.users.find_or_insert(name, &self.vnodes);
            let user = &mut self.users[slot];
            let gone = unless_gone(Some(had), stored.clone());
            let here = user.held || user.record.version.epoch() > epoch;
            if here || !stored.connected || gone.connected {
                self.users.doubt(slot);
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
        if self.vnodes.settled(vnode) {
            self.release_queue.push_back((vnode, epoch));
        }
        true
    }

    fn write_before_release(&mut self, slot: u32) {
        let user = &mut self.users[slot];
        user.knowledge = Knowledge::Known;
        if !std::mem::replace(&mut user.unsettled, true) {
            self.vnodes.one_more_unsettled(user.vnode);
        }
        self.store_mark(slot);
    }

    /// The users of a vnode that is about to be released as they are.
    pub(crate) fn remember(&mut self, vnode: Vnode) {
        let Some(left) = self.left.get_mut(&vnode) else {
            return;
        };
        for slot in self.users.of_vnode(vnode) {
            let user = &self.users[slot];
            if user.held && user.knowledge == Knowledge::Known {
                left.users.push((user.name.clone(), Self::stored(user)));
            }
        }
        left.look = self.clock + LOOK;
    }

    /// Which epoch the vnode has, if the store could say it.
    pub(crate) fn looked_at_left(&mut self, vnode: Vnode, there: Option<Epoch>) {
        let Some(left) = self.left.get_mut(&vnode) else {
            return;
        };
        let epoch = left.epoch;
        left.look = self.clock + LOOK;
        match (there, left.recall) {
            (None, _) => {}
            (Some(there), _) if there > epoch => self.fence(vnode, there),
            (Some(there), Recall::Looks) if there == epoch => {
                left.recall = Recall::Claims;
                left.look = NEVER;
                self.recall_queue.push_back((vnode, epoch));
            }
            (Some(_), Recall::Looks) if self.vnodes.stage(vnode) == Stage::Apart => {
                self.left.remove(&vnode);
            }
            (Some(_), Recall::Looks) => {
                // All that is known is written under this epoch anyway.
                left.recall = Recall::No;
                left.look = NEVER;
                if self.vnodes.settled(vnode) {
                    self.release_queue.push_back((vnode, epoch));
                }
            }
            (Some(_), _) => {}
        }
    }

    /// The vnode has an owner of that epoch.
    pub(crate) fn forget_left_below(&mut self, vnode: Vnode, newest: Epoch) {
        if self
            .left
            .get(&vnode)
            .is_some_and(|left| left.epoch < newest)
        {
            self.left.remove(&vnode);
        }
    }

    /// With a tick: who has a successor has nothing to say any more.
    pub(crate) fn look_at_left(&mut self) {
        for (vnode, left) in &mut self.left {
            if left.look <= self.clock {
                left.look = NEVER;
                self.look_queue.push_back(*vnode);
            }
        }
    }
}
