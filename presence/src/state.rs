//! The presence state machine: from sessions and choices to the public record (the rules of the
//! architecture's "presence semantics"), and who has to hear of a change.

use protocol::{Cause, Mode, Status, Version};

use crate::{
    Core,
    fanout::Fanout,
    trace::What,
    user::{NONE, Return, User, Watcher},
    vnodes::Owner,
    wheel::{self, TimerId},
};

/// What others see of a user with these sessions in this mode.
pub(crate) fn status(connected: bool, any_online: bool, mode: Mode) -> Status {
    match mode {
        _ if !connected => Status::Offline,
        Mode::Invisible => Status::Offline,
        Mode::Busy => Status::Busy,
        Mode::Auto if any_online => Status::Online,
        Mode::Auto => Status::Away,
    }
}

impl Core {
    fn any_online(&self, user: &User) -> bool {
        let owned = user.owned();
        let mut session = owned.first_session;
        if session == NONE {
            return !owned.away;
        }
        while session != NONE {
            let slot = &self.sessions[session];
            if !slot.away {
                return true;
            }
            session = slot.next;
        }
        false
    }

    /// Brings the public record of an owned user up to date; a change gets a version and goes to
    /// watchers, store and bus.
    pub(crate) fn refresh(&mut self, slot: u32, cause: Cause) {
        if self.users[slot].knowledge.has_record() && self.reconcile(slot) {
            self.publish(slot, cause);
        }
    }

    /// Makes the record what sessions and mode say; whether that changed what others see.
    pub(crate) fn reconcile(&mut self, slot: u32) -> bool {
        self.reconcile_own(slot);
        let user = &self.users[slot];
        let owned = user.owned();
        let status = status(owned.connected(), self.any_online(user), user.mode);
        let devices = match status {
            Status::Offline => 0,
            // Nobody sees the gap before the last session, or those of before a takeover, return.
            _ if owned.awaited != Return::No => user.record.devices.max(owned.sessions).max(1),
            Status::Online | Status::Away | Status::Busy => owned.sessions,
        };
        let record = &user.record;
        if status == record.status && devices == record.devices {
            return false;
        }
        let now = self.time.now.wall_ms;
        let record = &mut self.users[slot].record;
        if status != record.status {
            // A user that left was last there when its last session was, not when grace ended.
            record.since = if status == Status::Offline {
                record.last_seen
            } else {
                now
            };
        }
        record.status = status;
        record.devices = devices;
        true
    }

    /// Brings up to date what an invisible user's own sessions are shown, and tells them alone.
    fn reconcile_own(&mut self, slot: u32) {
        let user = &self.users[slot];
        if user.mode != Mode::Invisible || !user.connected() {
            if let Some(own) = &mut self.users[slot].owned_mut().own {
                own.status = Status::Offline;
            }
            return;
        }
        let status = status(true, self.any_online(user), Mode::Auto);
        let owned = user.owned();
        let devices = owned.sessions.max(1);
        let before = owned.own.as_ref().map(|own| (own.status, own.devices));
        if before == Some((status, devices)) {
            return;
        }
        let since = match &owned.own {
            Some(own) if own.status == status => own.since,
            // It has gone invisible just now.
            _ if user.record.status == status => user.record.since,
            _ => self.time.now.wall_ms,
        };
        let own = self.users[slot].raise_own(Version::NEVER);
        own.status = status;
        own.since = since;
        own.devices = devices;
        self.tell_own_watchers(slot);
    }

    /// Queues the user's record for those of its own sessions that watch it.
    fn tell_own_watchers(&mut self, slot: u32) {
        let at = self.time.now.mono_us.max(1);
        let mut session = self.users[slot].owned().first_session;
        while session != NONE {
            let mut watches = self.sessions[session].watches.iter();
            if let Some(watch) = watches.position(|watch| watch.user() == slot) {
                let (sessions, counters) = (&mut self.sessions, &mut self.counters);
                self.fanout
                    .change(sessions, counters, session, watch as u32, (at, false));
            }
            session = self.sessions[session].next;
        }
    }

    /// Gives the user's record a new version and tells everyone.
    pub(crate) fn publish(&mut self, slot: u32, cause: Cause) {
        self.restamp(slot, cause);
        let record = &self.users[slot].record;
        let began = record.since == self.time.now.wall_ms;
        self.tell_watchers(slot, began && record.status != Status::Offline);
        self.answer_late(slot);
    }

    /// Gives the user's record a new version, for store, bus and the other cores; this core's
    /// watchers have nothing to hear.
    pub(crate) fn restamp(&mut self, slot: u32, cause: Cause) {
        let user = &mut self.users[slot];
        let own = user.own_version();
        user.record.version = self.vnodes.next(user.vnode);
        if own >= user.record.version {
            user.raise_own(own);
        }
        user.owned_mut().cause = cause;
        user.publishing.changed();
        self.counters.changes += 1;
        self.note(slot, What::Changed(cause));
        self.store_mark(slot);
        self.tell_peers(slot);
    }

    /// Queues the user's record for every watcher of this core; later, when it changes too often.
    /// `dated`: what has changed is the status, which began at the record's `since`.
    pub(crate) fn tell_watchers(&mut self, slot: u32, dated: bool) {
        if self.users[slot].watchers.is_empty() {
            return;
        }
        if self.may_tell_now(slot) {
            let at = self.time.now.mono_us.max(1);
            for Watcher { session, watch } in &self.users[slot].watchers {
                let (sessions, counters) = (&mut self.sessions, &mut self.counters);
                self.fanout
                    .change(sessions, counters, *session, *watch, (at, dated));
            }
            return;
        }
        self.counters.paced += 1;
        for Watcher { session, watch } in &self.users[slot].watchers {
            let (sessions, counters) = (&mut self.sessions, &mut self.counters);
            Fanout::hold(sessions, counters, *session, *watch, dated);
        }
    }

    /// Whether the user's watchers hear of a change now. If not, a timer tells them of the newest
    /// state (the generic cell rate algorithm, ITU-T I.371: it knows one time and no count).
    fn may_tell_now(&mut self, slot: u32) -> bool {
        let Some(each) = 1_000_u64.checked_div(self.settings.change_rate.into()) else {
            return true;
        };
        let user = &mut self.users[slot];
        if user.pace != TimerId::NONE {
            return false;
        }
        let ahead = each * u64::from(self.settings.change_burst.saturating_sub(1));
        let earliest = user.paced_until.saturating_sub(ahead);
        if earliest > self.time.clock {
            user.pace = self.wheel.arm(earliest, wheel::Owner::Pace(slot));
            return false;
        }
        user.paced_until = user.paced_until.max(self.time.clock) + each;
        true
    }

    /// The watchers of a user that changed too often are due to hear how it is.
    pub(crate) fn pace_over(&mut self, slot: u32) {
        self.users[slot].pace = TimerId::NONE;
        self.may_tell_now(slot);
        let at = self.time.now.mono_us.max(1);
        for Watcher { session, watch } in &self.users[slot].watchers {
            self.fanout
                .release(&mut self.sessions, *session, *watch, at);
        }
        self.users.sweep_later(slot);
    }

    pub(crate) fn store_mark(&mut self, slot: u32) {
        if self.users[slot].store.changed() {
            self.store_queue.push_back(slot);
        }
    }

    /// The core that owns the user, as this core sees it.
    pub(crate) fn owner_of(&self, slot: u32) -> Owner {
        self.vnodes.owner(self.users[slot].vnode)
    }
}
