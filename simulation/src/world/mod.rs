//! One run: a node of some cores, its clients, and what happens to them by the seed. Checked at
//! every step: no version goes back or comes twice (I4), nobody is shown offline who was there
//! (I3), queues are bounded (I5), the vanished are offline in time (I6). Checked at the end, when
//! everything has settled: store, bus and all views agree with the truth (I2), and once everyone
//! has left nothing is left in memory (I5).

mod checks;
mod clients;

use std::collections::BTreeMap;

use presence::{Core, How, Now, Settings};
use protocol::Status;
use ring::{CoreId, Epoch, VnodeCount};

use crate::{
    HEARTBEAT, TIMEOUT,
    client::Client,
    node::{SimBus, SimMesh, SimStore},
    random::Random,
    truth::Truth,
};

const GRACE: u64 = 3_000;
/// Seconds within which those who promise it say something: no more than a heartbeat, so that the
/// bounds are the same for all.
const ALIVE: u16 = 4;
/// How long a change may be under way inside the node: rings, turns, a slow store.
const TRANSIT: u64 = 4_000;

/// The number of vnodes of every simulation of one node.
pub(crate) fn vnodes() -> VnodeCount {
    VnodeCount::new(64).expect("a power of two")
}

/// The plan of a run: everything follows from it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The seed of every random choice.
    pub seed: u64,
    /// The number of users, each with up to three clients.
    pub users: u64,
    /// The number of steps in which things happen.
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

/// A run in progress: the cores, the store, the bus and the clients.
pub struct World {
    plan: Plan,
    random: Random,
    trace: bool,
    /// The world's time, ms; pauses are left out.
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
    /// The newest version of each user that anybody else was given.
    seen: BTreeMap<String, u64>,
    /// The store was away, or answers were not waited for: an equal version may come twice.
    outage: bool,
    /// The store is memory of the process: it answers at once, and a killed process loses it.
    in_memory: bool,
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
                    promises: clients.len() % 3 == 0,
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
            seen: BTreeMap::new(),
            outage: false,
            in_memory: plan.seed % 9 == 7,
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
                let (change_rate, change_burst) = crate::pace(self.plan.seed / 5);
                let settings = Settings {
                    starts_empty: self.in_memory.then(|| Epoch::new(self.epoch)),
                    grace: GRACE,
                    change_rate,
                    change_burst,
                    ..crate::settings("sim", core.into(), cores.into(), vnodes(), self.plan.seed)
                };
                let mut core = Core::new(settings, now);
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

    /// Lets something happen to the node, by chance.
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
            2 if self.plan.seed % 4 != 3 && !self.in_memory => {
                self.store.away = true;
                self.outage = true;
                self.note(|| "the store goes away".into());
            }
            3..7 => self.store.away = false,
            7 => self.bus.away = true,
            8..12 => self.bus.away = false,
            12 if !self.in_memory => self.store.delay = self.random.below(300),
            13 => self.store.delay = 0,
            14 if self.in_memory || self.random.once_in(4) => self.restart(),
            _ => {}
        }
    }

    fn truth(&mut self, user: &str) -> &mut Truth {
        self.truths.get_mut(user).expect("all users exist")
    }

    /// Kills the process and starts it again.
    fn restart(&mut self) {
        self.note(|| "the process is killed and starts again".into());
        for client in 0..self.clients.len() {
            self.ended(client, true);
        }
        if self.in_memory {
            self.store = SimStore::default();
            self.bus = SimBus::default();
            self.seen.clear();
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
            let stored = self.store.stored(user);
            truth.mode = stored.mode;
            truth.set_at = self.now;
            truth.text = stored.record.text.into();
            if self.in_memory {
                // Those who were there have the time of grace to come back.
            } else if !stored.connected {
                truth.left = None;
            } else if truth.left.is_none_or(|(_, graced)| !graced) {
                // That it left cleanly was not stored yet.
                truth.left = Some((self.now, true));
            }
            truth.pass(self.now, GRACE);
            let offline = stored.record.status == Status::Offline && !self.in_memory;
            truth.rightly_offline = if offline {
                self.now
            } else {
                truth.rightly_offline
            };
        }
        self.start();
    }

    /// Time passes, in the middle of which everything inside the node moves.
    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.mono_us += ms * 1_000;
        for truth in self.truths.values_mut() {
            truth.pass(self.now, GRACE);
        }
        self.keep_promises();
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
            && let Some(request) = self.cores[n].store_requests(1, |_, _| {}).pop()
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
            let version = publication.record.version.get();
            self.check_hidden(&publication.user, version, "the bus");
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
                let bytes = &arena[transmit.range.clone()];
                self.check_welcomes(client, bytes);
                let state = &mut self.clients[client];
                state.socket.extend_from_slice(bytes);
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

    fn at(&self, client: usize) -> String {
        format!(
            "seed {} step {} client {client} ({})",
            self.plan.seed, self.steps_done, self.clients[client].user
        )
    }
}
