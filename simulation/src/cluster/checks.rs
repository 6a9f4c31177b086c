//! What users are shown, checked against the truth: what stores, topics and clients are given while
//! it runs, and what they have in the end. Who may write is another file's: see `takeovers`, `maps`.

use protocol::{Mode, Record, Status, Version};
use serde_json::Value;

use super::{
    agenda::Event,
    freshness::FRESH,
    plan::{Fault, GRACE, LATENCY, LEASE, POLL, TIMERS},
    world::World,
};
use crate::{HEARTBEAT, TIMEOUT, client::Frame, kept};

/// How long a client and its server may see the same end or beginning apart.
const SHORT: u64 = 100;
/// How long a change may be under way when nothing is wrong: claims that wait for a release, turns.
pub(super) const TRANSIT: u64 = 3_000;
/// What is said of a state that goes to the store.
pub(crate) const GIVEN: &str = "the store is given";
/// From a lease's end to the successor's adoption.
const TAKEOVER: u64 = 2 * POLL + 1_500;

impl World {
    fn rightly_offline(&mut self, user: &str) -> u64 {
        let index = self.user(user);
        self.pass(index);
        self.truths[index].rightly_offline
    }

    /// I3: a state that a core makes and gives away. Whoever is given it first sees it made.
    pub(crate) fn check_made(&mut self, user: &str, record: &Record, pid: usize, what: &str) {
        self.note_change(self.user(user), record);
        let content = (record.status, record.devices, record.text.clone());
        let version = record.version.get();
        let key = (user.to_owned(), version);
        if let Some(before) = self.made.get(&key) {
            assert_eq!(
                *before,
                content,
                "I4: {}: two contents of version {version} of {user}",
                self.place(pid)
            );
            return;
        }
        // Nobody hears of a write that the store refuses: who wakes from a stall may make one.
        let there = self.store.epoch(self.count().vnode(user));
        if what == GIVEN && there > record.version.epoch() {
            return;
        }
        self.check_hidden(user, record, pid, what);
        if record.status == Status::Offline {
            let rightly = self.rightly_offline(user);
            let vnode = self.count().vnode(user);
            let core = self.home(pid, vnode);
            let followed = self.processes[pid].seats[core].followed.as_ref();
            let epoch = followed.map(|map| map.epoch(vnode));
            // What a core wrote last under a former epoch is not made now.
            // Before its claim is accepted an owner goes by the mode that it knows, as the store does.
            let claimed = self.accepted[vnode.index()].epoch >= record.version.epoch();
            let stored = self.store.stored(vnode, user);
            let unread = !claimed && stored.is_some_and(|stored| stored.mode == Mode::Invisible);
            let now_made = epoch == Some(record.version.epoch())
                && !unread
                && !self.is_hidden_by(user, pid, record.version)
                && !self.was_offline(&key)
                && self.knows_the_owner(pid, vnode);
            if now_made && rightly + SHORT < self.now {
                let what = format!(
                    "{} {what} that {user} is offline, {record:?}",
                    self.place(pid)
                );
                self.doubt(user, SHORT, what);
            }
        } else {
            self.check_not_gone(user, record, pid, what);
            self.check_not_again(user, record, pid, what);
        }
        self.made.insert(key, content);
    }

    /// Of a user who is invisible an owner makes nothing that others could tell from what was there.
    fn check_hidden(&self, user: &str, record: &Record, pid: usize, what: &str) {
        let truth = &self.truths[self.user(user)];
        if !self.orderly() || !truth.hidden_for(FRESH, self.now) {
            return;
        }
        let place = self.place(pid);
        let until = record.version.get();
        let before = self
            .made
            .range((user.to_owned(), 0)..(user.to_owned(), until));
        let under = |version: u64| Version::from_u64(version).map(Version::epoch);
        let same = before
            .last()
            .is_some_and(|((_, before), _)| under(*before) == under(until));
        assert!(
            !same && record.status == Status::Offline,
            "hidden: {place} {what} of {user}: {record:?}, {truth:?}"
        );
    }

    /// A session is told what was chosen on whichever device.
    pub(super) fn check_welcome(&self, client: usize, message: &Value) {
        let truth = &self.truths[self.user(&self.clients[client].name)];
        let Some(mode) = message["mode"].as_str() else {
            return;
        };
        let reads_since = self.clients[client].reads_since;
        if self.orderly() && truth.set_at.max(reads_since) + FRESH < self.now {
            let text = message["text"].as_str().unwrap_or_default();
            assert_eq!(
                (mode, text),
                (truth.mode.as_str(), &*truth.text),
                "{}: {} is welcomed, {truth:?}",
                self.moment(),
                self.who(client)
            );
        }
    }

    /// I6: an owner that was told goodbye by a user's last session does not show it again.
    fn check_not_gone(&self, user: &str, record: &Record, pid: usize, what: &str) {
        let truth = &self.truths[self.user(user)];
        let accepted = self.accepted[self.count().vnode(user).index()];
        let clients = || self.clients.iter().filter(|client| client.name == user);
        // Who stood still gets the goodbye late.
        let blind = [Fault::Stall, Fault::Twin];
        let blind = blind.into_iter().any(|fault| self.plan.has(fault));
        if let Some(left) = truth.said_goodbye()
            && truth.sessions.is_empty()
            && clients().all(|client| client.unsure < left)
            && accepted.taken_by == pid
            && !accepted.let_go
            && accepted.at < left
            && !blind
        {
            assert!(
                self.now < left + 1_000,
                "I6: {} {what} that {user} is there, {record:?}, which left at {left}",
                self.place(pid)
            );
        }
    }

    /// I3: where all nodes live, who has gone and was shown so is not shown again by another owner,
    /// whatever the store has lost of it.
    fn check_not_again(&self, user: &str, record: &Record, pid: usize, what: &str) {
        let gentle = [Fault::StoreOld, Fault::Drain, Fault::Join];
        let truth = &self.truths[self.user(user)];
        let Some((left, _)) = truth.left.filter(|_| truth.sessions.is_empty()) else {
            return;
        };
        let mut clients = self.clients.iter().filter(|client| client.name == user);
        let version = record.version.get();
        let mut before = self
            .made
            .range((user.to_owned(), 0)..(user.to_owned(), version));
        let gone = |(status, ..): &(Status, u32, Box<str>)| *status == Status::Offline;
        assert!(
            !self.plan.faults.iter().all(|fault| gentle.contains(fault))
                || self.now < left + 1_000
                || !before.next_back().is_some_and(|(_, made)| gone(made))
                || clients.any(|client| client.unsure >= left),
            "I3: {} {what} that {user} is there, {record:?}, which left at {left} and was gone",
            self.place(pid)
        );
    }

    /// The user does not seem to be offline. Its client may be about to see an end that the server
    /// has seen, so it is looked at again a little later.
    fn doubt(&mut self, user: &str, allowed: u64, what: String) {
        let user = self.user(user);
        let since = self.now - allowed;
        self.schedule(self.now + LATENCY + 10, Event::Doubt(user, since, what));
    }

    pub(crate) fn check_doubt(&mut self, user: usize, since: u64, what: &str) {
        self.pass(user);
        assert!(
            self.truths[user].rightly_offline >= since,
            "I3: {what}, but {:?}",
            self.truths[user]
        );
    }

    /// Whether a process that has lost the vnode made the version, and was told that the user is to be
    /// invisible: it does what the user wants all the same.
    fn is_hidden_by(&self, user: &str, pid: usize, version: Version) -> bool {
        let accepted = self.accepted[self.count().vnode(user).index()].epoch;
        self.truths[self.user(user)].hidden_by == Some(pid) && version.epoch() < accepted
    }

    /// Whether the state before this one, under the same epoch, was offline too: who has lost the
    /// vnode and does not know it yet shows nobody anything new.
    fn was_offline(&self, key: &(String, u64)) -> bool {
        let (user, version) = key;
        let epoch = Version::from_u64(*version).map(Version::epoch);
        let mut before = self.made.range((user.clone(), 0)..key.clone());
        before
            .next_back()
            .is_some_and(|((_, version), (status, ..))| {
                *status == Status::Offline
                    && Version::from_u64(*version).map(Version::epoch) == epoch
            })
    }

    /// Checks I3 on the frames that a client is sent.
    pub(crate) fn check_sent(&mut self, pid: usize, client: usize, frames: &[Frame], slow: bool) {
        for frame in frames {
            let Frame::Message(message) = frame else {
                continue;
            };
            let kind = message["type"].as_str().unwrap_or_default();
            if !["presence", "snapshot", "result"].contains(&kind) {
                continue;
            }
            for record in message["users"].as_array().expect("a list") {
                if record["user"] == *self.clients[client].name {
                    let known = record["status"] != "offline" && record["mode"].is_string();
                    assert!(known, "{}: {record} of itself", self.place(pid));
                } else if record["status"] == "offline" {
                    self.check_shown_offline(pid, client, record, slow);
                }
            }
        }
    }

    fn check_shown_offline(&mut self, pid: usize, client: usize, record: &Value, slow: bool) {
        let user = record["user"].as_str().expect("a user").to_owned();
        let version = record["version"].as_u64().expect("a version");
        let rightly = self.rightly_offline(&user);
        let seq = Version::from_u64(version).map_or(0, Version::seq);
        // A version of a takeover stands for what the store had.
        let text = record["text"].as_str().unwrap_or_default();
        let content = (Status::Offline, 0, text.into());
        let key = (user.clone(), version);
        let hidden = Version::from_u64(version).is_some_and(|it| self.is_hidden_by(&user, pid, it));
        let known = seq == 0
            || hidden
            || self.was_offline(&key)
            || self.made.insert(key, content).is_some();
        // It was right when it was made; news of it may be late.
        // Who reaches neither store nor bus can only show what it knows.
        let late = slow || !self.calm_for(TRANSIT);
        let known = known || !self.knows_the_owner(pid, self.count().vnode(&user));
        let allowed = match known {
            true if late => return,
            true => TRANSIT,
            false => SHORT,
        };
        if rightly + allowed < self.now {
            let what = format!(
                "{} shows {user} as offline to client {client}, {record}",
                self.place(pid)
            );
            self.doubt(&user, allowed, what);
        }
    }

    /// I5: nothing grows beyond what its users need.
    pub(crate) fn check_bounds(&self, pid: usize, n: usize) {
        let users = self.plan.users;
        let counters = self.processes[pid].seats[n].core.counters();
        let most = users + 2 * self.plan.vnodes as u64;
        assert!(
            counters.users <= users,
            "I5: {}: {counters:?}",
            self.place(pid)
        );
        assert!(
            counters.store_queue <= most && counters.bus_queue <= users,
            "I5: {}: {counters:?}",
            self.place(pid)
        );
        assert!(
            counters.peer_queue <= users,
            "I5: {}: {counters:?}",
            self.place(pid)
        );
    }

    /// I6: who is gone is offline for everyone in time.
    pub(crate) fn check_ghosts(&mut self) {
        if self.active > 0 {
            return;
        }
        let silence = HEARTBEAT + TIMEOUT + GRACE + TIMERS + TRANSIT;
        for index in 0..self.truths.len() {
            let truth = &self.truths[index];
            let Some((left, _)) = truth.left.filter(|_| truth.sessions.is_empty()) else {
                continue;
            };
            // Each new owner waits for it anew.
            let vnode = self.count().vnode(&format!("u{index}"));
            let left = left.max(self.accepted[vnode.index()].at);
            let calm = self.calm_at <= left;
            let due = if calm {
                left + silence
            } else {
                left.max(self.calm_at) + LEASE + TAKEOVER + silence
            };
            if self.now <= due {
                continue;
            }
            let name = format!("u{index}");
            let late = self.now - left;
            let partition = self.partition_of(&name);
            if let Some(last) = self.bus.last(partition, &name) {
                assert!(
                    last.status == Status::Offline,
                    "I6: {}: {name} left {late} ms ago and the bus has {last:?}",
                    self.moment()
                );
            }
            for (n, client) in self.clients.iter().enumerate() {
                let reads = client.line.as_ref().is_some_and(|l| l.welcomed) && !client.slow;
                if reads
                    && client.watched.contains(&name)
                    && let Some(view) = client.views.get(&name)
                {
                    assert!(
                        view.status == "offline",
                        "I6: {}: {name} left {late} ms ago and client {n} has {view:?}",
                        self.moment()
                    );
                }
            }
        }
    }

    /// Checks I2: store, bus and watchers agree with the truth.
    pub(crate) fn check_agreement(&mut self) {
        let moment = self.moment();
        for index in 0..self.truths.len() {
            let user = format!("u{index}");
            let vnode = self.count().vnode(&user);
            let stored = self.store.stored(vnode, &user).cloned().unwrap_or_default();
            let truth = &mut self.truths[index];
            if truth.mode_lost {
                truth.mode = stored.mode;
            }
            let truth = &self.truths[index];
            let (status, devices) = truth.settled();
            let record = &stored.record;
            assert_eq!(
                (record.status, record.devices, stored.connected),
                (status, devices, !truth.sessions.is_empty()),
                "I2: {moment}: the store of {user}: {record:?}, {truth:?}"
            );
            let lost = truth.lost;
            // Whom a new owner publishes again is decided by when they were last there to be seen.
            let unheard = truth.mode == Mode::Invisible
                && [Fault::BusAway, Fault::BusCut]
                    .into_iter()
                    .any(|fault| self.plan.has(fault));
            assert!(
                lost || (&*record.text, stored.mode) == (&*truth.text, truth.mode),
                "I2: {moment}: the store of {user}: {stored:?}, {truth:?}"
            );
            if let Some(last) = self.bus.last(self.partition_of(&user), &user)
                && !lost
            {
                let text = if unheard { &*last.text } else { &*record.text };
                assert_eq!(
                    (last.status, last.devices, &*last.text),
                    (record.status, record.devices, text),
                    "I2: {moment}: the last event of {user}"
                );
                // An owner that died within a grace period had not said again who was offline, and one
                // that did not reach the store may have: nobody can tell the two versions apart.
                let is_gone = record.status == Status::Offline;
                let repeated = is_gone && last.version < record.version;
                let same = is_gone && last.since == record.since;
                assert!(
                    repeated || same || last.version == record.version,
                    "I2: {moment}: the last event of {user}: {last:?}, {record:?}"
                );
            }
            for (n, client) in self.clients.iter().enumerate() {
                if client.line.is_none() || !client.watched.contains(&user) {
                    continue;
                }
                let Some(view) = client.views.get(&user) else {
                    let line = client.line.as_ref().expect("checked above");
                    let process = &self.processes[line.process];
                    let counters: Vec<_> =
                        process.seats.iter().map(|s| s.core.counters()).collect();
                    panic!(
                        "I2: {moment}: client {n} never heard of {user}: {line:?}, {counters:?}"
                    );
                };
                let own = client.name == user;
                let text = if lost || (unheard && !own) {
                    &view.text
                } else {
                    &*record.text
                };
                let (status, devices) = if own { truth.own() } else { (status, devices) };
                let mode = own.then(|| stored.mode.as_str());
                assert_eq!(
                    view.mode.as_deref(),
                    mode,
                    "I2: {moment}: client {n}, {user}"
                );
                assert_eq!(
                    (view.status.as_str(), view.devices, view.text.as_str()),
                    (status.as_str(), devices.into(), text),
                    "I2: {moment}: what client {n} ({}) sees of {user}: {view:?}, {record:?}, {truth:?}",
                    client.name
                );
                assert!(
                    lost || own
                        || record.status == Status::Offline
                        || view.version <= record.version.get()
                        || Version::from_u64(view.version).is_some_and(|v| v.seq() == 0),
                    "I2: {moment}: {view:?} is newer than {record:?}"
                );
            }
        }
    }

    /// I5: when all have left, nothing is kept.
    pub(crate) fn check_nothing_left(&self) {
        for (pid, process) in self.processes.iter().enumerate().filter(|(_, p)| p.alive) {
            for seat in &process.seats {
                let left = kept(&seat.core);
                assert_eq!(left, [0; 6], "I5: {}: left in memory", self.place(pid));
            }
            let conns = process.conns.len();
            assert_eq!(conns, 0, "I5: {}: sockets are left", self.place(pid));
        }
    }
}
