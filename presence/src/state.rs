//! The presence state machine: from sessions and choices to the public record (the rules of the
//! architecture's "presence semantics"), and who has to hear of a change.

use protocol::{Cause, Mode, Record, Status, Stored, Version};

use crate::{
    Core,
    fanout::Fanout,
    lifetime::How,
    trace::What,
    user::{Knowledge, NONE, Owned, Return, User, Watcher},
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
    fn reconcile(&mut self, slot: u32) -> bool {
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
    fn end_takeover_when_all_are_back(&mut self, slot: u32) {
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

    /// Takes what the store knows of an owned user and goes on from there.
    pub(crate) fn learn(&mut self, slot: u32, stored: Option<Stored>) {
        let user = &mut self.users[slot];
        let Stored {
            record,
            mode,
            connected,
        } = stored.unwrap_or_default();
        // Sessions or choices that were made without the store are not in it.
        let owned = user.owned();
        let mut lags = owned.chose_mode || connected != owned.connected();
        let chose_text = owned.chose_text;
        if !owned.chose_mode {
            user.mode = mode;
        }
        self.vnodes.saw(user.vnode, record.version);
        let before = user.record.clone();
        if std::mem::replace(&mut user.knowledge, Knowledge::Known) == Knowledge::Provisional {
            // Its watchers already saw versions of ours: only the text is the store's.
            lags = true;
            let new_text = !chose_text && user.record.text != record.text;
            let behind = user.record.version < record.version;
            if new_text {
                user.record.text = record.text;
            }
            if self.reconcile(slot) | new_text | behind | self.is_of_a_former_epoch(slot) {
                self.restamp(slot, Cause::Resync);
            }
        } else {
            let last_seen = user.record.last_seen;
            let own_text = chose_text.then(|| std::mem::take(&mut user.record.text));
            user.record = record;
            if user.mode != Mode::Invisible {
                user.record.last_seen = user.record.last_seen.max(last_seen);
            }
            let changed = own_text.is_some();
            if let Some(text) = own_text {
                user.record.text = text;
            }
            // Watchers may have more than the store: what they are shown must be newer.
            let version = before.version;
            let more = version > user.record.version && before.differs(&user.record);
            user.record.version = user.record.version.max(version);
            let shown = self.may_be_shown_by_a_former_owner(slot);
            if self.reconcile(slot) | changed | more | shown {
                self.restamp(slot, Cause::Connect);
            }
        }
        if lags {
            self.store_mark(slot);
        }
        self.known(slot, &before);
    }

    /// Takes what the store knows of a user that came before it could be asked, and whose vnode is
    /// being left: both together are what the successor has to find.
    pub(crate) fn learn_while_leaving(&mut self, slot: u32, stored: Stored) {
        let user = &mut self.users[slot];
        let before = user.record.clone();
        let owned = user.owned();
        let held = owned.held;
        let there = stored.record.clone();
        if !owned.chose_mode {
            user.mode = stored.mode;
        }
        if !user.owned().chose_text {
            user.record.text = stored.record.text;
        }
        let status = status(held, before.status != Status::Away, user.mode);
        let asked = std::mem::replace(&mut user.knowledge, Knowledge::Known) == Knowledge::Asked;
        if asked {
            let same = status == stored.record.status;
            user.record.since = if same {
                stored.record.since
            } else {
                self.time.now.wall_ms
            };
            user.record.last_seen = user.record.last_seen.max(stored.record.last_seen);
            user.record.devices = stored.record.devices;
        }
        user.record.status = status;
        user.record.devices = match status {
            Status::Offline => 0,
            Status::Online | Status::Away | Status::Busy => user.record.devices.max(1),
        };
        if asked && before.version <= there.version && !there.differs(&user.record) {
            // Nobody can tell it from what was there, as of who is invisible: its sessions are written.
            user.record.version = there.version;
            self.store_mark(slot);
        } else {
            self.restamp(slot, Cause::Resync);
        }
        self.known(slot, &before);
    }

    /// The user's record became known (to an owner or a mirror), or was found to be another than
    /// `before`: who waited for it is answered, and those whose snapshot was answered without it get
    /// it as a change.
    pub(crate) fn known(&mut self, slot: u32, before: &Record) {
        self.tell_peers(slot);
        self.tell_links(slot);
        let record = &self.users[slot].record;
        if before.version < record.version && before.differs(record) {
            // How long it has been so says nothing of how fast it was heard.
            self.tell_watchers(slot, false);
        }
        self.answer_late(slot);
        self.answer_waiting(slot);
        self.welcome_fully(slot);
        self.users.sweep_later(slot);
    }

    /// The store does not answer: an owned user that has a session is shown all the same. While the core
    /// is held, another node may be its owner by now; the store is asked again then.
    pub(crate) fn go_on_without_store(&mut self, slot: u32) {
        let user = &mut self.users[slot];
        if user.knowledge == Knowledge::Asked
            && !self.time.is_held()
            && user.connected()
            && self.vnodes.epoch(user.vnode).is_some()
        {
            user.knowledge = Knowledge::Provisional;
            let before = user.record.clone();
            // Others may have the version with the text of before.
            let new_text = user.owned().chose_text;
            if self.reconcile(slot) | new_text | self.is_of_a_former_epoch(slot) {
                self.restamp(slot, Cause::Connect);
            }
            self.known(slot, &before);
        }
    }

    /// Whether an owned user is shown as there under an epoch before this core's. An owner of an epoch
    /// in between may know nothing of the user, and is fenced on the bus by a version of this one's alone.
    fn is_of_a_former_epoch(&self, slot: u32) -> bool {
        let user = &self.users[slot];
        let shown = user.record.status != Status::Offline;
        shown && self.vnodes.epoch(user.vnode) > Some(user.record.version.epoch())
    }

    /// Whether a former owner may have published an invisible user as there, of which the store knows
    /// nothing: who is invisible makes no change by which that is put right. One new version is enough.
    fn may_be_shown_by_a_former_owner(&self, slot: u32) -> bool {
        let user = &self.users[slot];
        let hides = user.mode == Mode::Invisible && user.connected();
        let is_new = self.vnodes.epoch(user.vnode) > Some(user.record.version.epoch());
        hides && is_new && self.has_arrivals(user.vnode)
    }

    /// What this core keeps in the store of the user.
    pub(crate) fn stored(user: &User) -> Stored {
        Stored {
            record: user.record.clone(),
            mode: user.mode,
            connected: user.connected(),
        }
    }

    /// What a new owner goes by: the store's record, unless it heard on the bus that the user was
    /// there later than that. Then its former owner did not reach the store, and the user may have
    /// a session there still.
    pub(crate) fn with_what_was_heard(&self, slot: u32, stored: Option<Stored>) -> Option<Stored> {
        let user = &self.users[slot];
        let heard = &user.record;
        let known = stored
            .as_ref()
            .map_or(Version::NEVER, |stored| stored.record.version);
        let there = stored.as_ref().is_some_and(|stored| stored.connected);
        let others = self.vnodes.epoch(user.vnode) > Some(heard.version.epoch());
        let seen = heard.version > known && heard.status != Status::Offline;
        if !seen || !others || there || user.connected() {
            return stored;
        }
        let stored = stored.unwrap_or_default();
        Some(Stored {
            record: Record {
                text: stored.record.text,
                ..heard.clone()
            },
            connected: true,
            ..stored
        })
    }

    /// Adopts a user of the vnode's former owner: online users wait in grace, and everyone is
    /// published again under the new epoch, whatever the former owner had half done. Watchers who
    /// see the same already are told nothing.
    pub(crate) fn adopt(&mut self, slot: u32, stored: Stored) {
        let connected = stored.connected;
        let clock = self.time.clock_now();
        let user = &mut self.users[slot];
        user.knowledge = Knowledge::Known;
        let Owned {
            chose_mode,
            chose_text,
            ..
        } = *user.owned();
        if !chose_mode {
            user.mode = stored.mode;
        }
        let text = chose_text.then(|| std::mem::take(&mut user.record.text));
        let before = std::mem::replace(&mut user.record, stored.record);
        if let Some(text) = text {
            user.record.text = text;
        }
        if connected {
            let away = user.record.status == Status::Away;
            let owned = user.owned_mut();
            owned.away = away;
            let mut session = owned.first_session;
            while session != NONE {
                let slot = &mut self.sessions[session];
                // It came before anybody here knew how it was.
                slot.away = if slot.spoke { slot.away } else { away };
                session = slot.next;
            }
            self.wheel.stop_waiting(&mut owned.awaited);
            let deadline = clock + self.settings.grace;
            let timer = self.wheel.arm(deadline, wheel::Owner::Grace(slot));
            owned.awaited = Return::Takeover(timer);
            if user.record.status != Status::Offline {
                user.record.last_seen = self.time.now.wall_ms;
            }
            self.end_takeover_when_all_are_back(slot);
        }
        self.reconcile(slot);
        self.restamp(slot, Cause::Takeover);
        self.known(slot, &before);
    }

    /// The core that owns the user, as this core sees it.
    pub(crate) fn owner_of(&self, slot: u32) -> Owner {
        self.vnodes.owner(self.users[slot].vnode)
    }
}
