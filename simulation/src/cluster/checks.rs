//! The invariants, checked against what stores, topics and clients are given.

use std::collections::BTreeMap;

use protocol::{Record, Status, Version};
use ring::{Epoch, Map, NodeId, Vnode};
use serde_json::Value;

use super::{
    plan::{Fault, GRACE, HEARTBEAT, LATENCY, LEASE, POLL, TIMEOUT, TIMERS},
    process::Process,
    redis::Command,
    world::{Event, World},
};
use crate::client::Frame;

/// How long a client and its server may see the same end or beginning apart.
const SHORT: u64 = 100;
/// How long a change may be under way when nothing is wrong: claims that wait for a release, turns.
const TRANSIT: u64 = 3_000;
/// How long a process that has seen that the store is another one may not have acted on it.
const ACTED: u64 = 500;
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
        if record.status == Status::Offline {
            let rightly = self.rightly_offline(user);
            let vnode = self.count().vnode(user);
            let core = self.home(pid, vnode);
            let followed = self.processes[pid].seats[core].followed.as_ref();
            let epoch = followed.map(|map| map.epoch(vnode));
            // What a core wrote last under a former epoch is not made now.
            let now_made = epoch == Some(record.version.epoch())
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
        }
        self.made.insert(key, content);
    }

    /// I6: an owner that was told goodbye by a user's last session does not show it again.
    fn check_not_gone(&self, user: &str, record: &Record, pid: usize, what: &str) {
        let truth = &self.truths[self.user(user)];
        let accepted = self.accepted[self.count().vnode(user).index()];
        let clients = || self.clients.iter().filter(|client| client.name == user);
        // Who stood still gets the goodbye late; a store that goes back has it there again.
        let blind = [
            Fault::Stall,
            Fault::Twin,
            Fault::StoreOld,
            Fault::StoreWiped,
        ];
        let blind = blind.into_iter().any(|fault| self.plan.has(fault));
        if let Some((left, false)) = truth.left
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

    /// I3: what a client is sent.
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
                if record["status"] == "offline" {
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
        let known = seq == 0 || self.was_offline(&key) || self.made.insert(key, content).is_some();
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

    /// I1 and what a takeover by force forgives, when the store is about to do something.
    pub(crate) fn before_store(&mut self, pid: usize, command: &Command) {
        match command {
            Command::Claim { vnode, epoch, over } => {
                let data = &self.store.data.vnodes[vnode.index()];
                let current = data.epoch;
                let released = current.is_some() && data.released == current;
                let held = current.is_some_and(|current| current < *over) && !released;
                if current.is_some_and(|current| current >= *epoch) || held {
                    return;
                }
                self.takes(pid, *vnode, *epoch, released);
            }
            Command::Write { vnode, epoch, .. } => {
                let data = &self.store.data.vnodes[vnode.index()];
                if data.epoch.is_some_and(|current| current > *epoch) {
                    return;
                }
                let accepted = &mut self.accepted[vnode.index()];
                assert!(
                    *epoch >= accepted.epoch,
                    "I1: epoch {epoch} of vnode {vnode} is written after {}",
                    accepted.epoch
                );
                if *epoch > accepted.epoch {
                    accepted.epoch = *epoch;
                    if accepted.by != pid {
                        accepted.at = self.now;
                    }
                    accepted.by = pid;
                    accepted.highest = accepted.highest.max(*epoch);
                }
                let by = accepted.by;
                assert_eq!(
                    by,
                    pid,
                    "I1: {}: vnode {vnode} is written by p{pid} and p{by} under epoch {epoch}",
                    self.moment()
                );
            }
            Command::Release { vnode, .. } => {
                let (losses, at) = self.processes[pid].losses;
                let sound = losses == self.losses && self.now >= at + ACTED;
                let accepted = &mut self.accepted[vnode.index()];
                accepted.sound = sound;
                accepted.let_go |= accepted.taken_by == pid;
            }
            Command::Identity if self.processes[pid].losses.0 != self.losses => {
                self.processes[pid].losses = (self.losses, self.now);
            }
            _ => {}
        }
    }

    /// A claim is about to be accepted.
    fn takes(&mut self, pid: usize, vnode: Vnode, epoch: Epoch, released: bool) {
        let accepted = &mut self.accepted[vnode.index()];
        let before = accepted.by;
        let had = accepted.taken_by == pid;
        accepted.taken_by = pid;
        accepted.epoch = accepted.epoch.max(epoch);
        accepted.by = pid;
        accepted.at = self.now;
        accepted.highest = accepted.highest.max(epoch);
        // Until an owner has noticed that the store has lost something it may release what is lost.
        let let_go = std::mem::take(&mut accepted.let_go);
        let released = released && accepted.sound;
        self.note(|| format!("p{pid} takes vnode {vnode} under {epoch}, released: {released}"));
        // A successor of the same name takes its predecessor for dead.
        let name = &self.processes[pid].id;
        let lives =
            |process: &Process| process.alive && process.gone.is_none() && process.id != *name;
        let waited_for = self.processes.get(before).is_some_and(lives) && before != pid;
        assert!(
            released || !waited_for || !self.calm_for(2 * TRANSIT),
            "I1: {}: vnode {vnode} is taken from a living owner that has not released it",
            self.place(pid)
        );
        let users = self.users_of(vnode);
        for index in &users {
            self.pass(*index);
        }
        // What the store does not have yet is lost with its owner.
        let since = if before == usize::MAX {
            0
        } else {
            self.processes[before].gone.unwrap_or(self.now)
        };
        for index in users {
            let name = format!("u{index}");
            let sessions = &mut self.truths[index].sessions;
            let here = sessions.values().any(|held| held.process == pid);
            for held in sessions.values_mut() {
                held.forsaken &= held.process != pid;
            }
            let truth = &mut self.truths[index];
            let stored = self.store.stored(vnode, &name).cloned().unwrap_or_default();
            // What the new owner was told already it goes by; what others were told that never had
            // the vnode nobody knows.
            let early = truth.early;
            if early.is_some_and(|(by, _)| by == pid || by == usize::MAX) {
                truth.early = None;
            }
            let chosen_here = early.filter(|(by, _)| *by == pid);
            match (chosen_here, early) {
                (Some((_, chosen)), _) => truth.chosen = chosen,
                (None, Some(_)) => truth.chosen = stored.chosen,
                (None, None) => {}
            }
            // A claim may arrive when its sender is dead.
            let lives = self.processes[pid].alive;
            let text_here = lives && truth.text_by == pid && !truth.text_had;
            if !text_here && !truth.text_had {
                truth.text = stored.record.text.clone().into();
            }
            truth.text_had = true;
            if released || (had && !let_go) {
                continue;
            }
            let safe = |at: u64| at.max(self.store_trouble) + 1_000 < since && self.store_works();
            let truth = &self.truths[index];
            assert!(
                stored.record.text[..] == truth.text
                    || text_here
                    || !safe(truth.text_at)
                    || truth.lost,
                "I2: {}: the text of {name} is lost: {stored:?}, {truth:?}",
                self.moment()
            );
            let truth = &mut self.truths[index];
            if !text_here {
                truth.text = stored.record.text.into();
            }
            if chosen_here.is_none() {
                truth.chosen = stored.chosen;
            }
            if !stored.connected && !here {
                truth.unknown = true;
                truth.cuts.clear();
                for held in truth.sessions.values_mut() {
                    held.forsaken = true;
                }
            }
            self.pass(index);
        }
    }

    /// A process follows a map: what it was told for a vnode that it has not got after all, it
    /// forgets.
    pub(crate) fn check_early(&mut self, pid: usize) {
        for index in 0..self.truths.len() {
            let vnode = self.count().vnode(&format!("u{index}"));
            let process = &self.processes[pid];
            let given = process.seats[self.home(pid, vnode)].followed.as_ref();
            let given = given.and_then(|map| map.owner(vnode));
            if given.is_some_and(|(node, _)| node.boot == process.boot) {
                continue;
            }
            let truth = &mut self.truths[index];
            if truth.text_by == pid && !truth.text_had {
                truth.text_by = usize::MAX;
            }
            if let Some((by, _)) = &mut truth.early
                && *by == pid
            {
                *by = usize::MAX;
            }
        }
    }

    fn users_of(&self, vnode: Vnode) -> Vec<usize> {
        let users = 0..self.truths.len();
        users
            .filter(|n| self.count().vnode(&format!("u{n}")) == vnode)
            .collect()
    }

    /// I7: a new map moves only what it must, and epochs follow the owners.
    pub(crate) fn check_map(&self, before: Option<&Map>, map: &Map) {
        let Some(before) = before else {
            return;
        };
        let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for vnode in map.count().all() {
            if let Some((node, _)) = before.owner(vnode) {
                *counts.entry(&node.id).or_default() += 1;
            }
        }
        let total: u64 = map.nodes().iter().map(|n| u64::from(n.weight)).sum();
        let share = |weight: u32| (map.count().get() as u64 * u64::from(weight), total.max(1));
        let lives = |map: &Map, node: &ring::Node| {
            map.nodes()
                .iter()
                .any(|n| n.id == node.id && n.boot == node.boot)
        };
        let mut away: BTreeMap<&NodeId, usize> = BTreeMap::new();
        let raised = map.epoch(Vnode::new(0)) > before.epoch(Vnode::new(0)).next();
        for vnode in map.count().all() {
            let (from, to) = (before.owner(vnode), map.owner(vnode));
            let owner = |at: Option<(&ring::Node, Epoch)>| at.map(|(n, _)| (n.id.clone(), n.boot));
            let (old, new) = (before.epoch(vnode), map.epoch(vnode));
            if owner(from) == owner(to) {
                assert!(
                    new == old || new > old.next() || raised || self.raises(before, map),
                    "I7: {}: vnode {vnode} stays and its epoch goes from {old} to {new}",
                    self.moment()
                );
                continue;
            }
            assert!(
                new > old || to.is_none(),
                "I1: {}: vnode {vnode} moves under its old epoch",
                self.moment()
            );
            let (Some((from, _)), Some((to, _))) = (from, to) else {
                continue;
            };
            if !lives(map, from) || from.id == to.id {
                continue;
            }
            let moved = away.entry(&from.id).or_default();
            *moved += 1;
            let weight = map
                .nodes()
                .iter()
                .find(|n| n.id == from.id)
                .map_or(0, |n| n.weight);
            let (vnodes, all) = share(weight);
            let keeps = counts[&from.id] - *moved;
            assert!(
                keeps as u64 >= vnodes / all,
                "I7: {}: vnode {vnode} leaves {}, which keeps {keeps} of its share of {}",
                self.moment(),
                from.id,
                vnodes / all
            );
        }
        // A map after a loss goes back to the newest that its writer has read.
        let raised = map
            .count()
            .all()
            .all(|vnode| map.epoch(vnode) > before.epoch(vnode));
        assert!(
            raised
                || away
                    .values()
                    .all(|moved| *moved <= self.options().max_in_motion),
            "I7: {}: too many vnodes move at a time: {away:?}",
            self.moment()
        );
    }

    fn raises(&self, before: &Map, map: &Map) -> bool {
        map.count()
            .all()
            .all(|vnode| map.epoch(vnode) > before.epoch(vnode))
    }

    /// I7: every node has its share.
    pub(crate) fn check_shares(&self) {
        let map = self.store.map().expect("there is a map");
        let living: Vec<_> = self.processes.iter().filter(|p| p.alive).collect();
        let total: u64 = living.iter().map(|p| u64::from(p.weight)).sum();
        for process in living {
            let owned = map.owned_by(&process.id).count() as u64;
            let product = map.count().get() as u64 * u64::from(process.weight);
            assert!(
                owned >= product / total && owned <= product.div_ceil(total),
                "I7: {}: {} has {owned} vnodes, its share is {product}/{total}; {:?}",
                self.moment(),
                process.id,
                map.nodes()
            );
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

    /// I2: everyone agrees with the truth.
    pub(crate) fn check_agreement(&mut self) {
        let moment = self.moment();
        for index in 0..self.truths.len() {
            let user = format!("u{index}");
            let truth = &self.truths[index];
            let (status, devices) = truth.settled();
            let vnode = self.count().vnode(&user);
            let stored = self.store.stored(vnode, &user).cloned().unwrap_or_default();
            let record = &stored.record;
            assert_eq!(
                (record.status, record.devices, stored.connected),
                (status, devices, !truth.sessions.is_empty()),
                "I2: {moment}: the store of {user}: {record:?}, {truth:?}"
            );
            let lost = truth.lost;
            assert!(
                lost || (&*record.text, stored.chosen) == (&*truth.text, truth.chosen),
                "I2: {moment}: the store of {user}: {stored:?}, {truth:?}"
            );
            if let Some(last) = self.bus.last(self.partition_of(&user), &user)
                && !lost
            {
                assert_eq!(
                    (last.status, last.devices, &*last.text),
                    (record.status, record.devices, &*record.text),
                    "I2: {moment}: the last event of {user}"
                );
                // An owner that died within a grace period had not said again who was offline.
                let repeated = record.status == Status::Offline && last.version < record.version;
                assert!(
                    repeated || last.version == record.version,
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
                let text = if lost { &view.text } else { &*record.text };
                assert_eq!(
                    (view.status.as_str(), view.devices, view.text.as_str()),
                    (status.as_str(), devices.into(), text),
                    "I2: {moment}: what client {n} ({}) sees of {user}: {view:?}, {record:?}, {truth:?}",
                    client.name
                );
                assert!(
                    lost || view.version <= record.version.get()
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
                let counters = seat.core.counters();
                let left = [
                    counters.sessions,
                    counters.users,
                    counters.watches,
                    counters.store_queue,
                    counters.bus_queue,
                    counters.peer_queue,
                ];
                assert_eq!(left, [0; 6], "I5: {}: left in memory", self.place(pid));
            }
            let conns = process.conns.len();
            assert_eq!(conns, 0, "I5: {}: sockets are left", self.place(pid));
        }
    }
}
