//! The invariants of a run, checked against the truth. Nothing here changes anything.

use protocol::Status;

use super::{GRACE, TRANSIT, World, vnodes};
use crate::{
    HEARTBEAT, TIMEOUT,
    client::{Frame, frames},
    kept,
};

/// How late a timer may be, ms: two slots of the wheel and two ticks.
const TIMERS: u64 = 500;

impl World {
    /// Nobody is shown offline who was there all the time a change may have been under way.
    pub(super) fn check_shown(&self, user: &str, status: Status, to: &str) {
        let truth = &self.truths[user];
        assert!(
            status != Status::Offline || truth.rightly_offline + TRANSIT >= self.now,
            "I3: seed {} step {}: {user} is shown offline to {to} at {}, but {truth:?}",
            self.plan.seed,
            self.steps_done,
            self.now
        );
    }

    /// Of a user who is invisible nothing is made that others could tell from what was there.
    pub(super) fn check_hidden(&mut self, user: &str, version: u64, to: &str) {
        let seed = self.plan.seed;
        let seen = self.seen.entry(user.to_owned()).or_default();
        let truth = &self.truths[user];
        assert!(
            version <= *seen || self.outage || !truth.hidden_for(TRANSIT, self.now),
            "hidden: seed {seed}: {to} gets version {version} of {user} after {seen}, but {truth:?}"
        );
        *seen = version.max(*seen);
    }

    /// A session is told what was chosen on whichever device.
    pub(super) fn check_welcomes(&mut self, client: usize, sent: &[u8]) {
        let mut welcomes = frames(sent).into_iter().filter_map(|frame| match frame {
            Frame::Message(message) if message["type"] == "welcome" => Some(message),
            _ => None,
        });
        let Some(message) = welcomes.next_back() else {
            return;
        };
        // One that could not wait for the store is followed by another.
        self.clients[client].uninformed = message["mode"].is_null();
        let truth = &self.truths[&self.clients[client].user];
        let at = self.at(client);
        if self.outage || message["mode"].is_null() || truth.set_at + TRANSIT >= self.now {
            return;
        }
        let told = (message["mode"].as_str(), message["text"].as_str());
        let text = Some(&*truth.text).filter(|text| !text.is_empty());
        assert_eq!(
            told,
            (Some(truth.mode.as_str()), text),
            "{at} is welcomed, {truth:?}"
        );
    }

    pub(super) fn check_bounds(&self) {
        let users = self.plan.users;
        for core in &self.cores {
            let counters = core.counters();
            let most = users + vnodes().get() as u64;
            assert!(
                counters.users <= users,
                "I5: {} of {users} users",
                counters.users
            );
            assert!(
                counters.store_queue <= most && counters.bus_queue <= users,
                "I5: queues"
            );
            assert!(counters.peer_queue <= users * 3, "I5: queues between cores");
        }
        let bound = HEARTBEAT + TIMEOUT + GRACE + TIMERS;
        for (user, truth) in &self.truths {
            if let Some((left, _)) = truth.left
                && truth.sessions.is_empty()
                && self.now > left + bound
                && !self.outage
                && !self.bus.away
                && let Some(last) = self.bus.last.get(user.as_str())
            {
                let shown = last.status;
                let late = self.now - left;
                // The bus may be catching up with an outage of its own.
                assert!(
                    shown == Status::Offline || self.now < left + bound + TRANSIT,
                    "I6: seed {}: {user} is {shown} {late} ms after it left",
                    self.plan.seed
                );
            }
        }
    }

    /// Checks I2: store, bus and watchers agree with the truth.
    pub(super) fn check_agreement(&self) {
        let seed = self.plan.seed;
        for (user, truth) in &self.truths {
            let (status, devices) = truth.settled();
            let stored = self.store.stored(user);
            let record = &stored.record;
            assert_eq!(
                (
                    record.status,
                    record.devices,
                    &*record.text,
                    stored.mode,
                    stored.connected
                ),
                (
                    status,
                    devices,
                    truth.text.as_str(),
                    truth.mode,
                    !truth.sessions.is_empty()
                ),
                "I2: seed {seed}: the store of {user}, {truth:?}"
            );
            if let Some(last) = self.bus.last.get(user.as_str()) {
                assert_eq!(
                    (last.status, last.devices, last.version),
                    (record.status, record.devices, record.version),
                    "I2: seed {seed}: the last event of {user}"
                );
            }
            for (n, client) in self.clients.iter().enumerate() {
                assert!(
                    client.session.is_none() || !client.uninformed,
                    "I2: seed {seed}: client {n} never heard of its user's mode"
                );
                if client.session.is_some() && client.watched.contains(user) {
                    let view = client.views.get(user).unwrap_or_else(|| {
                        panic!("I2: seed {seed}: client {n} never heard of {user}")
                    });
                    let own = client.user == *user;
                    let (status, devices) = if own { truth.own() } else { (status, devices) };
                    let mode = own.then(|| truth.mode.as_str());
                    assert_eq!(
                        view.mode.as_deref(),
                        mode,
                        "I2: seed {seed}: client {n}, {user}"
                    );
                    assert_eq!(
                        (view.status.as_str(), view.devices, view.text.as_str(),),
                        (status.as_str(), devices.into(), &*record.text),
                        "I2: seed {seed}: what client {n} sees of {user}"
                    );
                    // A version alone is nothing to tell.
                    assert!(
                        own || view.version <= record.version.get(),
                        "I2: seed {seed}: {view:?}"
                    );
                }
            }
        }
    }

    pub(super) fn check_nothing_left(&self) {
        for core in &self.cores {
            let left = kept(core);
            assert_eq!(left, [0; 6], "I5: seed {}: left in memory", self.plan.seed);
        }
    }
}
