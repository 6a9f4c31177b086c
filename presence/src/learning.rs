//! What the store or a former owner knows of a user, and what this core makes of it: which of both
//! counts where sessions and choices came without it.

use protocol::{Cause, Mode, Record, Status, Stored, Version};
use ring::Epoch;

use crate::{
    Core,
    state::status,
    user::{Knowledge, NONE, Owned, Return, User},
    wheel,
};

impl Core {
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
    pub(crate) fn may_be_shown_by_a_former_owner(&self, slot: u32) -> bool {
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
}

/// What the store has of a user that its owner does not know, who has had the vnode
/// `loaded_under` that epoch: the owner saw the user leave, wrote that, and forgot it. A store that has it as connected
/// went back, as a replica does that takes over without the last writes.
pub(crate) fn unless_gone(loaded_under: Option<Epoch>, stored: Stored) -> Stored {
    let version = stored.record.version;
    if !stored.connected || loaded_under.is_none_or(|epoch| epoch < version.epoch()) {
        return stored;
    }
    let mut record = stored.record;
    if record.status != Status::Offline {
        record.status = Status::Offline;
        record.since = record.last_seen;
    }
    record.devices = 0;
    Stored {
        record,
        connected: false,
        ..stored
    }
}
