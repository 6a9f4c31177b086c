//! One run: a node of some cores, its clients, and what happens to them by the seed. Checked at
//! every step: no version goes back or comes twice (I4), nobody is shown offline who was there
//! (I3), queues are bounded (I5), the vanished are offline in time (I6). Checked at the end, when
//! everything has settled: store, bus and all views agree with the truth (I2), and once everyone
//! has left nothing is left in memory (I5).

use std::collections::BTreeMap;

use presence::{Core, Hello, How, Now, Settings, WatchRule};
use protocol::{Chosen, Encoding, Status};
use ring::{CoreId, Epoch, VnodeCount};

use crate::{
    client::{Client, Frame, View, frames},
    node::{SimBus, SimMesh, SimStore},
    random::Random,
    truth::Truth,
};

const GRACE: u64 = 3_000;
const HEARTBEAT: u64 = 4_000;
const TIMEOUT: u64 = 2_000;
/// How long a change may be under way inside the node: rings, turns, a slow store.
const TRANSIT: u64 = 4_000;
/// Two wheel slots and ticks.
const TIMERS: u64 = 500;

/// The vnodes of every simulation.
pub(crate) fn vnodes() -> VnodeCount {
    VnodeCount::new(64).expect("a power of two")
}

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Makes everything else.
    pub seed: u64,
    /// Users, each with up to three clients.
    pub users: u64,
    /// Steps in which things happen.
    pub steps: u64,
}

impl Plan {
    /// The plan of a seed as the tests run it.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            users: 4 + seed % 21,
            steps: 600,
        }
    }
}

/// A run in progress.
pub struct World {
    plan: Plan,
    random: Random,
    trace: bool,
    /// Of the world, ms; pauses left out.
    now: u64,
    mono_us: u64,
    /// What the wall clock is off by, ms.
    wall: u64,
    epoch: u32,
    cores: Vec<Core>,
    store: SimStore,
    bus: SimBus,
    mesh: SimMesh,
    clients: Vec<Client>,
    truths: BTreeMap<String, Truth>,
    /// The store was away, or answers were not waited for: an equal version may come twice.
    outage: bool,
    steps_done: u64,
}

impl World {
    /// A world before its first step; `trace` prints what happens.
    #[must_use]
    pub fn new(plan: Plan, trace: bool) -> Self {
        let mut random = Random::new(plan.seed);
        let user = |n: u64| format!("u{n}");
        let mut clients = Vec::new();
        for n in 0..plan.users {
            for _ in 0..=random.below(3) {
                clients.push(Client {
                    user: user(n),
                    ..Client::default()
                });
            }
        }
        let mut world = Self {
            plan,
            random,
            trace,
            now: 10_000,
            mono_us: 1_000_000,
            wall: 1_790_000_000_000,
            epoch: 0,
            cores: Vec::new(),
            store: SimStore::default(),
            bus: SimBus::default(),
            mesh: SimMesh::default(),
            clients,
            truths: (0..plan.users)
                .map(|n| (user(n), Truth::default()))
                .collect(),
            outage: false,
            steps_done: 0,
        };
        world.start();
        world
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now, what());
        }
    }

    fn time(&self) -> Now {
        Now {
            mono_us: self.mono_us,
            wall_ms: self.wall + self.now,
        }
    }

    /// Starts (again) with no memory but the store.
    fn start(&mut self) {
        let cores = 1 + (self.plan.seed % 3) as u16;
        self.epoch += 1;
        let now = self.time();
        self.cores = (0..cores)
            .map(|core| {
                let mut core = Core::new(
                    Settings {
                        node: "sim".into(),
                        core: CoreId::new(core),
                        cores,
                        vnodes: vnodes(),
                        seed: self.plan.seed,
                        cluster: false,
                        grace: GRACE,
                        clean_close_grace: 0,
                        heartbeat: HEARTBEAT,
                        heartbeat_timeout: TIMEOUT,
                        store_patience: 1_000,
                        max_devices: 100,
                        max_watches: 1_000,
                        outbox: 1 << 20,
                        message_rate: 1_000,
                        message_burst: 1_000,
                    },
                    now,
                );
                let id = core.id().get();
                for vnode in vnodes().all() {
                    let owner = vnode.get() % cores;
                    if owner == id {
                        core.own(vnode, Epoch::new(self.epoch), 0);
                    } else {
                        core.at_home_on(vnode, CoreId::new(owner));
                    }
                }
                core
            })
            .collect();
        self.store.reset(self.cores.len());
        self.bus.reset(self.cores.len());
        self.mesh = SimMesh::new(self.cores.len());
    }

    /// Runs everything; panics where an invariant is broken.
    pub fn run(mut self) {
        for step in 0..self.plan.steps {
            self.steps_done = step;
            for _ in 0..self.random.below(4) {
                self.act();
            }
            self.disturb();
            let time = 10 + self.random.below(90);
            self.pass(time);
        }
        self.note(|| "everything heals".into());
        self.store.away = false;
        self.store.delay = 0;
        self.bus.away = false;
        for client in 0..self.clients.len() {
            self.clients[client].slow = false;
            self.read(client);
        }
        for _ in 0..(HEARTBEAT + TIMEOUT + GRACE + TRANSIT) / 50 {
            self.pass(50);
        }
        self.check_agreement();
        for client in 0..self.clients.len() {
            self.end(client, How::Clean, "leaves for good");
        }
        for _ in 0..(GRACE + TRANSIT) / 50 {
            self.pass(50);
        }
        self.check_agreement();
        self.check_nothing_left();
    }

    /// One client does something.
    fn act(&mut self) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        if self.clients[client].vanished {
            return;
        }
        if self.clients[client].session.is_none() {
            self.connect(client);
            return;
        }
        match self.random.below(20) {
            0..4 => self.watch(client),
            4 => self.unwatch(client),
            5..10 => self.set_status(client),
            10 => self.end(client, How::Clean, "closes"),
            11..14 => self.end(client, How::Broken, "loses its connection"),
            14 => {
                self.note(|| format!("client {client} vanishes"));
                self.clients[client].vanished = true;
                let user = self.clients[client].user.clone();
                let now = self.now;
                self.truth(&user).leave(client, now, true);
            }
            15 => {
                self.note(|| format!("client {client} stops reading"));
                self.clients[client].slow = true;
            }
            16..19 => {
                self.clients[client].slow = false;
                self.read(client);
            }
            _ => self.query(client),
        }
    }

    /// Something happens to the node.
    fn disturb(&mut self) {
        match self.random.below(250) {
            0 => {
                let hours = self.random.below(48) * 3_600_000;
                self.wall = 1_790_000_000_000 + hours;
                self.note(|| "the wall clock steps".into());
            }
            1 => {
                self.note(|| "the process stands still for a minute".into());
                // It counts as one second against anyone's timeout.
                self.mono_us += 59_000_000;
                self.pass(1_000);
            }
            // A quarter of the worlds has a store that is never away: there nothing at all is forgiven.
            2 if self.plan.seed % 4 != 3 => {
                self.store.away = true;
                self.outage = true;
                self.note(|| "the store goes away".into());
            }
            3..7 => self.store.away = false,
            7 => self.bus.away = true,
            8..12 => self.bus.away = false,
            12 => self.store.delay = self.random.below(300),
            13 => self.store.delay = 0,
            14 if self.random.once_in(4) => self.restart(),
            _ => {}
        }
    }

    fn truth(&mut self, user: &str) -> &mut Truth {
        self.truths.get_mut(user).expect("all users exist")
    }

    /// The process is killed and starts again.
    fn restart(&mut self) {
        self.note(|| "the process is killed and starts again".into());
        for client in 0..self.clients.len() {
            let state = &mut self.clients[client];
            state.session = None;
            state.vanished = false;
            state.blocked = false;
            state.slow = false;
            state.socket.clear();
            state.watched.clear();
            let user = state.user.clone();
            let now = self.now;
            self.truth(&user).leave(client, now, true);
        }
        // What was not stored yet is lost: then the store's is the truth. Where the store was away
        // the bus may be ahead of it: two faults in a row are more than is promised.
        if self.outage {
            self.bus.last.retain(|user, last| {
                let stored = self.store.users.get(user);
                stored.is_some_and(|stored| stored.record.version >= last.version)
            });
        }
        for (user, truth) in &mut self.truths {
            let stored = self
                .store
                .users
                .get(user.as_str())
                .cloned()
                .unwrap_or_default();
            truth.chosen = stored.chosen;
            truth.text = stored.record.text.into();
            if !stored.connected {
                truth.left = None;
            } else if truth.left.is_none_or(|(_, graced)| !graced) {
                // That it left cleanly was not stored yet.
                truth.left = Some((self.now, true));
            }
            truth.pass(self.now, GRACE);
            truth.rightly_offline = if stored.record.status == Status::Offline {
                self.now
            } else {
                truth.rightly_offline
            };
        }
        self.start();
    }

    fn connect(&mut self, client: usize) {
        let user = self.clients[client].user.clone();
        let core = usize::from(vnodes().vnode(&user).get()) % self.cores.len();
        let hello = Hello {
            user: &user,
            encoding: Encoding::Json,
            expires: 0,
            rule: WatchRule::Anyone,
            id: None,
        };
        let now = self.time();
        self.cores[core].at(now);
        let id = self.cores[core]
            .connect(&hello)
            .expect("the owner takes it");
        self.note(|| format!("client {client} connects as {user}"));
        let state = &mut self.clients[client];
        state.session = Some(id);
        state.core = core;
        let now = self.now;
        let truth = self.truth(&user);
        truth.pass(now, GRACE);
        truth.sessions.insert(client, false);
        // A session that returns in grace starts as the last one was, so it says how it is.
        self.say(client, r#"{"type":"status","status":"online"}"#);
        let truth = self.truth(&user);
        truth.chosen = Chosen::None;
        if self.random.once_in(2) {
            self.watch(client);
        }
    }

    fn say(&mut self, client: usize, text: &str) {
        let now = self.time();
        let state = &self.clients[client];
        let id = state.session.expect("it is connected");
        let core = &mut self.cores[state.core];
        core.at(now);
        core.heard(id);
        let message = protocol::decode(Encoding::Json, text.as_bytes()).expect("a good message");
        core.receive(id, message);
        if self.trace {
            println!("{:>8} client {client} says {text}", self.now);
        }
    }

    fn some_users(&mut self) -> Vec<String> {
        let count = 1 + self.random.below(5);
        (0..count)
            .map(|_| format!("u{}", self.random.below(self.plan.users)))
            .collect()
    }

    fn watch(&mut self, client: usize) {
        let users = self.some_users();
        let state = &mut self.clients[client];
        let known: BTreeMap<&String, u64> = users
            .iter()
            .filter_map(|user| Some((user, state.views.get(user)?.version)))
            .collect();
        let text = serde_json::json!({ "type": "watch", "users": users, "known": known, "id": 1 });
        state.watched.extend(users.iter().cloned());
        self.say(client, &text.to_string());
    }

    fn unwatch(&mut self, client: usize) {
        let users = self.some_users();
        for user in &users {
            self.clients[client].watched.remove(user);
        }
        let text = serde_json::json!({ "type": "unwatch", "users": users });
        self.say(client, &text.to_string());
    }

    fn query(&mut self, client: usize) {
        let text = serde_json::json!({ "type": "query", "users": self.some_users(), "id": 2 });
        self.say(client, &text.to_string());
    }

    fn set_status(&mut self, client: usize) {
        let user = self.clients[client].user.clone();
        let (text, chosen) = match self.random.below(7) {
            0 => (
                r#"{"type":"status","status":"busy"}"#.to_owned(),
                Chosen::Busy,
            ),
            1 => (
                r#"{"type":"status","status":"invisible"}"#.to_owned(),
                Chosen::Invisible,
            ),
            2..4 => {
                self.truth(&user).sessions.insert(client, true);
                (
                    r#"{"type":"status","status":"away"}"#.to_owned(),
                    Chosen::None,
                )
            }
            4..6 => {
                self.truth(&user).sessions.insert(client, false);
                (
                    r#"{"type":"status","status":"online"}"#.to_owned(),
                    Chosen::None,
                )
            }
            _ => {
                let text = format!("t{}", self.random.below(1_000));
                self.truth(&user).text = text.clone();
                let chosen = self.truth(&user).chosen;
                (
                    serde_json::json!({ "type": "status", "text": text }).to_string(),
                    chosen,
                )
            }
        };
        let now = self.now;
        let truth = self.truth(&user);
        truth.pass(now, GRACE);
        truth.chosen = chosen;
        truth.pass(now, GRACE);
        self.say(client, &text);
    }

    /// The client's connection ends from its side.
    fn end(&mut self, client: usize, how: How, what: &str) {
        let Some(id) = self.clients[client].session.take() else {
            return;
        };
        self.note(|| format!("client {client} {what}"));
        let now = self.time();
        let core = &mut self.cores[self.clients[client].core];
        core.at(now);
        core.closed(id, how);
        self.ended(client, how != How::Clean);
    }

    fn ended(&mut self, client: usize, graced: bool) {
        let state = &mut self.clients[client];
        state.session = None;
        state.socket.clear();
        state.watched.clear();
        state.blocked = false;
        state.slow = false;
        state.vanished = false;
        let user = state.user.clone();
        let now = self.now;
        self.truth(&user).leave(client, now, graced);
    }

    /// Time passes, in the middle of which everything inside the node moves.
    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.mono_us += ms * 1_000;
        for truth in self.truths.values_mut() {
            truth.pass(self.now, GRACE);
        }
        // What has come is read before anyone is judged.
        for client in 0..self.clients.len() {
            self.read(client);
        }
        let now = self.time();
        for core in &mut self.cores {
            core.tick(now);
        }
        for _ in 0..3 {
            for core in 0..self.cores.len() {
                self.pump(core);
            }
        }
        // Who waited too long for a slow store gets its answer in parts.
        self.outage |= self.cores.iter().any(|core| core.counters().impatient > 0);
        self.check_bounds();
    }

    fn pump(&mut self, n: usize) {
        let now = self.now;
        while let Some((from, message)) = self.mesh.receive(n, now) {
            self.cores[n].peer_message(CoreId::new(from as u16), message);
        }
        for reply in self.store.replies(n, now) {
            self.cores[n].store_reply(reply);
        }
        while self.store.room(n) > 0
            && let Some(request) = self.cores[n].next_store_request()
        {
            self.store.take(n, now, request);
        }
        for (ticket, delivered) in self.bus.reports(n, now) {
            self.cores[n].bus_reply(ticket, delivered);
        }
        while self.bus.room(n)
            && let Some(publication) = self.cores[n].next_publication()
        {
            self.check_shown(&publication.user, publication.record.status, "the bus");
            self.bus.take(n, now, &mut self.random, publication);
        }
        for to in (0..self.cores.len()).filter(|to| *to != n) {
            while self.mesh.room(n, to)
                && let Some(message) = self.cores[n].next_message_for(CoreId::new(to as u16))
            {
                let at = now + self.random.below(80);
                self.note(|| format!("core {n} tells core {to}: {message:?}"));
                self.mesh.send(n, to, at, message);
            }
        }
        let limit = 1 + self.random.below(8) as usize;
        for _ in 0..4 {
            let more = self.cores[n].flush(limit);
            let transmits = self.cores[n].transmits().to_vec();
            let arena = self.cores[n].arena().to_vec();
            for transmit in transmits {
                let mine = |c: &Client| c.core == n && c.session == Some(transmit.session);
                let Some(client) = self.clients.iter().position(mine) else {
                    continue;
                };
                let state = &mut self.clients[client];
                state
                    .socket
                    .extend_from_slice(&arena[transmit.range.clone()]);
                if let Some(code) = transmit.close {
                    // The server closes it: what is in the socket is read by those who read.
                    if !state.vanished {
                        self.read_all(client);
                    }
                    self.note(|| format!("client {client} is closed with {code}"));
                    self.cores[n].closed(transmit.session, How::Broken);
                    self.ended(client, true);
                } else if (state.slow || state.vanished) && !state.blocked {
                    state.blocked = true;
                    self.cores[n].blocked(transmit.session);
                }
            }
            if !more {
                break;
            }
        }
    }

    /// A client that reads takes what its socket has.
    fn read(&mut self, client: usize) {
        let state = &self.clients[client];
        if state.slow || state.vanished || state.session.is_none() {
            return;
        }
        self.read_all(client);
        let now = self.time();
        let state = &mut self.clients[client];
        if let Some(id) = state.session
            && std::mem::take(&mut state.blocked)
        {
            state.lags_until = self.now + TRANSIT;
            self.cores[state.core].at(now);
            self.cores[state.core].unblocked(id);
        }
    }

    fn read_all(&mut self, client: usize) {
        let bytes = std::mem::take(&mut self.clients[client].socket);
        for frame in frames(&bytes) {
            match frame {
                Frame::Ping => {
                    let state = &self.clients[client];
                    if let Some(id) = state.session {
                        self.cores[state.core].heard(id);
                    }
                }
                Frame::Close { .. } => {}
                Frame::Message(message) => {
                    if self.trace {
                        println!("{:>8} client {client} reads {message}", self.now);
                    }
                    let kind = message["type"].as_str().unwrap_or_default().to_owned();
                    assert!(
                        kind != "error" || self.outage,
                        "{} gets {message}",
                        self.at(client)
                    );
                    if ["presence", "snapshot"].contains(&kind.as_str()) {
                        let users = message["users"].as_array().expect("a list");
                        for record in users {
                            self.see(client, record, kind == "snapshot");
                        }
                    }
                }
            }
        }
    }

    fn see(&mut self, client: usize, record: &serde_json::Value, snapshot: bool) {
        let user = record["user"].as_str().expect("a user").to_owned();
        let view = View {
            version: record["version"].as_u64().expect("a version"),
            status: record["status"].as_str().expect("a status").into(),
            text: record["text"].as_str().unwrap_or_default().into(),
            devices: record["devices"].as_u64().expect("devices"),
        };
        let at = self.at(client);
        let status = Status::parse(&view.status).expect("a status");
        if self.now > self.clients[client].lags_until && !self.clients[client].blocked {
            self.check_shown(&user, status, &at);
        }
        let before = self.clients[client]
            .views
            .insert(user.clone(), view.clone());
        if let Some(before) = before {
            // A question may cross a change.
            let again = snapshot && view == before;
            assert!(
                view.version > before.version || again,
                "I4: {at} saw {before:?} and then {view:?} of {user}"
            );
        }
    }

    /// Nobody is shown offline who was there all the time a change may have been under way.
    fn check_shown(&self, user: &str, status: Status, to: &str) {
        let truth = &self.truths[user];
        assert!(
            status != Status::Offline || truth.rightly_offline + TRANSIT >= self.now,
            "I3: seed {} step {}: {user} is shown offline to {to} at {}, but {truth:?}",
            self.plan.seed,
            self.steps_done,
            self.now
        );
    }

    fn at(&self, client: usize) -> String {
        format!(
            "seed {} step {} client {client} ({})",
            self.plan.seed, self.steps_done, self.clients[client].user
        )
    }

    fn check_bounds(&self) {
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

    /// I2: everyone agrees with the truth.
    fn check_agreement(&self) {
        let seed = self.plan.seed;
        for (user, truth) in &self.truths {
            let (status, devices) = truth.settled();
            let stored = self
                .store
                .users
                .get(user.as_str())
                .cloned()
                .unwrap_or_default();
            let record = &stored.record;
            assert_eq!(
                (
                    record.status,
                    record.devices,
                    &*record.text,
                    stored.chosen,
                    stored.connected
                ),
                (
                    status,
                    devices,
                    truth.text.as_str(),
                    truth.chosen,
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
                if client.session.is_some() && client.watched.contains(user) {
                    let view = client.views.get(user).unwrap_or_else(|| {
                        panic!("I2: seed {seed}: client {n} never heard of {user}")
                    });
                    assert_eq!(
                        (view.status.as_str(), view.devices, view.text.as_str(),),
                        (status.as_str(), devices.into(), &*record.text),
                        "I2: seed {seed}: what client {n} sees of {user}"
                    );
                    // A version alone is nothing to tell.
                    assert!(
                        view.version <= record.version.get(),
                        "I2: seed {seed}: {view:?}"
                    );
                }
            }
        }
    }

    fn check_nothing_left(&self) {
        for core in &self.cores {
            let counters = core.counters();
            let left = [
                counters.sessions,
                counters.users,
                counters.watches,
                counters.store_queue,
                counters.bus_queue,
                counters.peer_queue,
            ];
            assert_eq!(left, [0; 6], "I5: seed {}: left in memory", self.plan.seed);
        }
    }
}
