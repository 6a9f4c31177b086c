//! How this core leaves vnodes: their sessions go, what is not written is written, then they are
//! released. It owns these steps; what is done again when the store has lost them is that of `recall`.

use protocol::{CloseCode, ServerMessage, Stored};
use ring::{Epoch, Vnode};

use crate::{Core, trace::What, transfer::Transfer, user::Knowledge, vnodes::Stage};

impl Core {
    /// Leaves a vnode to another node, which has a higher epoch: its sessions are told to go to
    /// `address` (nowhere, when it is empty), nobody is shown offline, and what is not written yet
    /// is written before the vnode is released.
    pub fn leave(&mut self, vnode: Vnode, newest: Epoch, address: &str) {
        let Some(epoch) = self.vnodes.epoch(vnode) else {
            return;
        };
        // While a vnode is claimed again nothing is written, and no user is marked for it.
        let claiming = matches!(self.vnodes.stage(vnode), Stage::Claiming { .. });
        self.part(vnode, newest, address);
        let (mut unsettled, mut any_chose) = (0, false);
        for slot in self.users.of_vnode(vnode) {
            let user = &mut self.users[slot];
            let owned = user.owned();
            let chose = owned.chose_mode || owned.chose_text;
            let unwritten = match user.knowledge {
                Knowledge::Known => claiming || user.store != Transfer::Idle,
                Knowledge::Provisional => true,
                Knowledge::Asked => owned.held || chose,
                Knowledge::Nothing => false,
            };
            any_chose |= chose;
            user.owned_mut().unwritten = unwritten;
            if unwritten {
                unsettled += 1;
                self.store_mark(slot);
            }
        }
        let Some(loaded_under) = self.vnodes.loaded_under(vnode) else {
            // Nothing was taken over yet: to release it would say that the former owner is done.
            if any_chose {
                self.vnodes.leave_when_loaded(vnode);
            } else {
                self.departed(vnode, false);
            }
            return;
        };
        self.vnodes.leave(vnode, unsettled);
        self.recalls.left(vnode, epoch, loaded_under);
        if claiming {
            // Who had left before the store lost it is known to nobody here, and may be there again.
            self.recall(vnode);
        }
    }

    /// Ends the sessions of a vnode and everything that an owner does by itself.
    pub(crate) fn part(&mut self, vnode: Vnode, newest: Epoch, address: &str) {
        self.vnodes.heard_of(vnode, newest);
        self.ends_to_own(vnode);
        for slot in self.users.of_vnode(vnode) {
            let was_connected = self.users[slot].connected();
            while self.users[slot].owned().sessions > 0 {
                let session = self.users[slot].owned().first_session;
                if !address.is_empty() {
                    self.reply(session, &ServerMessage::Move { address });
                }
                self.end_moved(session);
            }
            let user = self.users[slot].owned_mut();
            self.wheel.stop_waiting(&mut user.awaited);
            user.held = was_connected;
            user.goodbyes = 0;
        }
    }

    /// Ends a session whose user's vnode is another node's: no word about the user.
    fn end_moved(&mut self, session: u32) {
        // A reply that found the outbox full has closed it already, in its own way.
        if self.sessions[session].closing.is_none() {
            let (slot, id) = (self.sessions[session].user, self.sessions.id(session));
            self.silence(session);
            self.note(slot, What::Closed(id, Some(CloseCode::MOVED)));
            self.unlink_session(session);
            self.say_goodbye(session, CloseCode::MOVED, "the user moved");
            self.counters.moved += 1;
        }
    }

    /// The vnode is another node's, and nothing of this core's work for it is left to do; `released`:
    /// unless the store loses that again.
    pub(crate) fn departed(&mut self, vnode: Vnode, released: bool) {
        self.vnodes.depart(vnode, released);
        if !released {
            self.recalls.forget(vnode);
        }
        self.suspect(vnode);
        for slot in self.users.of_vnode(vnode) {
            let user = &mut self.users[slot];
            user.become_mirrored();
            user.publishing.cancelled();
            if user.knowledge == Knowledge::Provisional {
                user.knowledge = Knowledge::Known;
            }
            if user.wanted() {
                // The successor may have been heard before anybody here listened.
                if user.knowledge == Knowledge::Nothing {
                    user.knowledge = Knowledge::Asked;
                }
                self.store_mark(slot);
            } else {
                if user.knowledge == Knowledge::Asked {
                    user.knowledge = Knowledge::Nothing;
                }
                self.users.sweep_later(slot);
            }
            self.send_interest(slot);
        }
    }

    /// The store has the newest state of one of a departing vnode's users.
    pub(crate) fn settled(&mut self, slot: u32) {
        let user = &mut self.users[slot];
        let vnode = user.vnode;
        if let Some(user) = user.as_owned_mut()
            && std::mem::take(&mut user.unwritten)
        {
            self.vnodes.settled(vnode);
        }
    }

    /// The store knows that the vnode is released.
    pub(crate) fn released(&mut self, vnode: Vnode, of: Epoch) {
        if !self.vnodes.is_releasing(vnode, of) {
            return;
        }
        let users = self.users.of_vnode(vnode).into_iter();
        let held = users.filter_map(|slot| {
            let user = &self.users[slot];
            let was_there = user.owned().held && user.knowledge == Knowledge::Known;
            was_there.then(|| (user.name.clone(), Self::stored(user)))
        });
        let held = held.collect();
        self.recalls.released(vnode, held, self.time.clock);
        self.departed(vnode, true);
    }

    /// What was written of a departing vnode may be lost again.
    pub(crate) fn write_all_before_release(&mut self, vnode: Vnode) {
        for slot in self.users.of_vnode(vnode) {
            let user = &mut self.users[slot];
            if user.knowledge == Knowledge::Known && !user.is_unwritten() {
                user.owned_mut().unwritten = true;
                self.vnodes.one_more_unsettled(vnode);
                self.store_mark(slot);
            }
        }
    }

    /// What this core did not get written before it left the vnode that it has again now.
    pub(crate) fn take_unwritten(&mut self, slot: u32) -> Option<Stored> {
        let user = &mut self.users[slot];
        let owned = user.owned_mut();
        let unwritten = std::mem::take(&mut owned.unwritten);
        let connected = std::mem::take(&mut owned.held);
        unwritten.then(|| Stored {
            record: user.record.clone(),
            mode: user.mode,
            connected,
        })
    }
}
