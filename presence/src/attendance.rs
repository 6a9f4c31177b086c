//! The sessions of a user come and go: who is waited for, and when the user is gone. It owns the end of
//! the wait; what others see of it is that of `state.rs`.

use protocol::{Cause, Mode, Status};

use crate::{
    Core,
    lifetime::How,
    user::{Knowledge, NONE, Return},
    wheel,
};

impl Core {
    /// Adds a session to its user.
    pub(crate) fn attach(&mut self, slot: u32, session: u32) {
        let user = self.users[slot].owned_mut();
        let was_connected = user.connected();
        let is_back = user.awaited != Return::No;
        if is_back && !self.sessions[session].spoke {
            // Back within grace: as it was, until the session says otherwise.
            self.sessions[session].away = user.away;
        }
        if !user.in_takeover() {
            self.wheel.stop_waiting(&mut user.awaited);
        }
        user.sessions += 1;
        // It has come here: when it leaves, that is told at once.
        user.withheld = false;
        self.sessions[session].next = std::mem::replace(&mut user.first_session, session);
        self.end_takeover_when_all_are_back(slot);
        match self.users[slot].knowledge {
            Knowledge::Known | Knowledge::Provisional => {
                self.refresh(slot, Cause::Connect);
                if self.may_be_shown_by_a_former_owner(slot) {
                    self.restamp(slot, Cause::Connect);
                } else if !was_connected && self.users[slot].mode == Mode::Invisible {
                    // Nobody sees it, but a new owner has to know.
                    self.store_mark(slot);
                }
            }
            Knowledge::Nothing => self.ask_store(slot),
            Knowledge::Asked => {}
        }
    }

    /// A takeover is over for a user of whom as many sessions have come as there were before.
    pub(crate) fn end_takeover_when_all_are_back(&mut self, slot: u32) {
        let devices = self.users[slot].record.devices.max(1);
        let user = self.users[slot].owned_mut();
        if user.in_takeover() && user.sessions + user.goodbyes >= devices {
            user.goodbyes = 0;
            self.wheel.stop_waiting(&mut user.awaited);
        }
    }

    /// Takes a session out of its user's list; the user's slot.
    pub(crate) fn unlink_session(&mut self, session: u32) -> u32 {
        let slot = self.sessions[session].user;
        self.sessions[session].user = NONE;
        let next = self.sessions[session].next;
        let user = self.users[slot].owned_mut();
        user.sessions -= 1;
        if user.first_session == session {
            user.first_session = next;
        } else {
            let mut at = user.first_session;
            while self.sessions[at].next != session {
                at = self.sessions[at].next;
            }
            self.sessions[at].next = next;
        }
        slot
    }

    /// Takes a session from its user.
    pub(crate) fn detach(&mut self, session: u32, how: How) {
        let slot = self.unlink_session(session);
        let gone = match how {
            How::Clean | How::Broken => self.time.now.wall_ms,
            How::TimedOut => {
                let silence = self.time.clock - self.sessions[session].heard;
                self.time.now.wall_ms.saturating_sub(silence)
            }
        };
        let held = self.time.is_held();
        let clock = self.time.clock_now();
        let user = &mut self.users[slot];
        if user.owned().sessions > 0 {
            self.refresh(slot, Cause::Close);
            return;
        }
        user.owned_mut().away = self.sessions[session].away;
        // An invisible user's record stays as it was when it went invisible.
        if user.record.status != Status::Offline || user.knowledge == Knowledge::Asked {
            user.record.last_seen = gone;
        }
        let asks = match user.knowledge {
            Knowledge::Asked => true,
            // It may be among those that the vnode is listed with.
            Knowledge::Provisional => !self.vnodes.is_loaded(user.vnode),
            Knowledge::Nothing | Knowledge::Known => false,
        };
        let user = user.owned_mut();
        if how == How::Clean && (user.in_takeover() || asks) {
            user.goodbyes += 1;
        }
        self.end_takeover_when_all_are_back(slot);
        let user = self.users[slot].owned_mut();
        let in_takeover = user.in_takeover();
        if in_takeover && how == How::Clean {
            // After a takeover its other devices may still be on their way here: until then it
            // stays as it was.
            return;
        }
        let grace = match how {
            // While held, the user may be another node's: that is found out first.
            How::Clean if held => self.settings.clean_close_grace.max(1),
            How::Clean => self.settings.clean_close_grace,
            How::Broken | How::TimedOut => self.settings.grace,
        };
        self.wheel.stop_waiting(&mut user.awaited);
        if grace > 0 {
            let timer = self.wheel.arm(clock + grace, wheel::Owner::Grace(slot));
            user.awaited = match in_takeover {
                true => Return::Takeover(timer),
                false => Return::Grace(timer),
            };
            return;
        }
        self.went(slot, Cause::Close);
    }

    /// The user is gone: no session, grace over.
    pub(crate) fn went(&mut self, slot: u32, cause: Cause) {
        if self.users[slot].mode == Mode::Invisible {
            self.store_mark(slot);
        }
        self.refresh(slot, cause);
        self.users.sweep_later(slot);
    }

    /// The grace period of a user ended.
    pub(crate) fn grace_over(&mut self, slot: u32) {
        let user = self.users[slot].owned_mut();
        user.awaited = Return::No;
        user.goodbyes = 0;
        if user.sessions > 0 {
            // After a takeover: by now all its devices are back that come back.
            self.refresh(slot, Cause::Connect);
        } else {
            self.went(slot, Cause::Timeout);
        }
    }
}
