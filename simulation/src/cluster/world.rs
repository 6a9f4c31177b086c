//! One run of the cluster: what there is in it, and how it passes from the first event to the last check.
//! Each kind of event has a file of its own.

use std::collections::{BTreeMap, BTreeSet};

use presence::How;
use protocol::{Event as BusEvent, Status};
use ring::{Vnode, VnodeCount};

use super::{
    agenda::{Agenda, Event},
    bus::Kafka,
    client::Client,
    coordinators::Coordinator,
    freshness::Changes,
    mesh::Mesh,
    plan::{GRACE, Plan},
    process::Process,
    redis::Redis,
    takeovers::Accepted,
    truth::Truth,
};
use crate::random::Random;

/// A run in progress: every process, client, store and bus of it.
pub struct World {
    pub(crate) plan: Plan,
    /// The random choices of all but the connections to the store and the links.
    pub(crate) random: Random,
    /// The random choices of the connections to the store.
    pub(crate) links: Random,
    pub(crate) mesh: Mesh,
    /// Whether what happens is printed.
    pub(crate) trace: bool,
    /// The world's time, ms since the run began.
    pub(crate) now: u64,
    /// The wall clocks' time at the world's 0, ms since 1970.
    pub(crate) wall: u64,
    pub(super) agenda: Agenda,
    pub(crate) store: Redis,
    pub(crate) bus: Kafka,
    pub(crate) processes: Vec<Process>,
    /// The newest process of each node's name; `None` while there is none.
    pub(crate) names: Vec<Option<usize>>,
    pub(crate) coordinators: Vec<Coordinator>,
    pub(crate) clients: Vec<Client>,
    pub(crate) truths: Vec<Truth>,
    /// The number of faults that are under way.
    pub(crate) active: usize,
    /// When the last fault ended, ms.
    pub(crate) calm_at: u64,
    /// Until when the store may not have done what everyone asked of it, ms.
    pub(crate) store_trouble: u64,
    /// A replica lags behind, and is to take over.
    pub(crate) failing_over: bool,
    /// When the store last lost something, ms.
    pub(crate) store_changed: u64,
    /// How often the store lost something.
    pub(crate) losses: u64,
    /// Every state that a core ever gave away, by user and version.
    pub(crate) made: BTreeMap<(String, u64), (Status, u32, Box<str>)>,
    pub(crate) accepted: Vec<Accepted>,
    /// Processes whose core has heard that a vnode has a newer epoch, until they claim it again.
    pub(crate) fenced: BTreeSet<(usize, Vnode)>,
    /// The states that users were given, by user.
    pub(crate) changes: Vec<Changes>,
}

impl World {
    /// A world before its first event; `trace` prints what happens.
    #[must_use]
    pub fn new(plan: Plan, trace: bool) -> Self {
        let mut random = Random::new(plan.seed);
        let mut clients = Vec::new();
        for n in 0..plan.users {
            for _ in 0..=random.below(3) {
                clients.push(Client::new(format!("u{n}")));
            }
        }
        let mut world = Self {
            random,
            links: Random::new(plan.seed ^ 0x0011_4c5e),
            mesh: Mesh::new(plan.seed),
            trace,
            now: 10_000,
            wall: 1_790_000_000_000,
            agenda: Agenda::default(),
            store: Redis::new(plan.vnodes),
            bus: Kafka::new(),
            processes: Vec::new(),
            names: Vec::new(),
            coordinators: Vec::new(),
            clients,
            truths: (0..plan.users).map(|_| Truth::default()).collect(),
            active: 0,
            calm_at: 0,
            store_trouble: 0,
            failing_over: false,
            store_changed: 0,
            losses: 0,
            made: BTreeMap::new(),
            accepted: vec![Accepted::NOTHING; plan.vnodes],
            fenced: BTreeSet::new(),
            changes: vec![Changes::new(); plan.users as usize],
            plan,
        };
        world.store.delay = 3;
        for name in 0..world.plan.nodes as usize {
            world.names.push(None);
            world.start_process(name);
        }
        for n in 0..2 {
            world.start_coordinator(n);
        }
        world
    }

    /// Runs everything; panics where an invariant is broken.
    pub fn run(mut self) {
        self.note(|| format!("{:?}", self.plan));
        self.run_until(self.now + 3_000);
        let end = self.now + self.plan.time;
        let every = 1 + 600 / self.plan.users.max(1);
        let mut next_fault = self.now + 2_000;
        while self.now < end {
            self.act();
            let next = self.now + self.random.below(2 * every + 1);
            self.run_until(next);
            if self.now >= next_fault {
                self.disturb();
                next_fault = self.now + 200 + self.random.below(4_000);
            }
        }
        self.settle();
        self.check_agreement();
        self.check_shares();
        for client in 0..self.clients.len() {
            self.clients[client].wanted = false;
            if self.clients[client].line.is_some() {
                self.hang_up_client(client, How::Clean, "leaves for good");
            }
        }
        self.run_until(self.now + GRACE + 20_000);
        self.check_agreement();
        self.check_nothing_left();
    }

    /// Everything heals, and has the time to settle.
    fn settle(&mut self) {
        self.note(|| "EVERYTHING HEALS".into());
        while self.active > 0 {
            self.run_until(self.now + 100);
        }
        for client in 0..self.clients.len() {
            self.speed_up(client);
        }
        for process in &mut self.processes {
            process.wall = 0;
        }
        self.store.data.drained.clear();
        self.calm_at = self.now;
        self.run_until(self.now + 30_000);
    }

    fn run_until(&mut self, end: u64) {
        let mut look = self.now;
        while let Some((at, event)) = self.agenda.next_until(end) {
            self.now = at.max(self.now);
            self.happen(event);
            if self.now >= look + 500 {
                look = self.now;
                self.check_ghosts();
                self.check_freshness();
            }
        }
        self.now = end;
        if self.store.away || self.store.delay > 5 || self.processes.iter().any(|p| p.redis_cut) {
            self.store_trouble = end;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Process(pid, input) => self.process(pid, input),
            Event::Client(client, conn, what) => self.client(client, conn, what),
            Event::Dial(client, dial) => self.dial(client, dial),
            Event::Watchdog(client, conn) => self.watchdog(client, conn),
            Event::WatchAgain(client, conn) => {
                let watched = self.clients[client].watched.clone();
                self.watch_again(client, conn, &watched);
            }
            Event::Coordinator(n, life, input) => self.coordinator(n, life, input),
            Event::Store(end, life, ticket, command) => {
                self.reach_store(end, life, ticket, command);
            }
            Event::Heal(heal) => self.heal(heal),
            Event::Link(pid, open) => self.link(pid, open),
            Event::Doubt(user, at, what) => self.check_doubt(user, at, &what),
            Event::Rejoin(name) => {
                let pid = self.names[name].expect("it was there before it left");
                if self.processes[pid].alive {
                    self.end_process(pid, true, "does not wait to be relieved any longer");
                    self.instant();
                }
                self.start_process(name);
            }
        }
    }

    pub(crate) fn count(&self) -> VnodeCount {
        VnodeCount::new(self.plan.vnodes).expect("a power of two")
    }

    pub(crate) fn partition_of(&self, user: &str) -> usize {
        Kafka::partition(self.count().vnode(user), self.plan.vnodes)
    }

    pub(crate) fn user(&self, name: &str) -> usize {
        name[1..].parse().expect("users are called u and a number")
    }

    pub(crate) fn append(&mut self, partition: usize, event: BusEvent<'static>) {
        self.note(|| {
            format!(
                "the bus has {} {} {} of {} under {}",
                event.user, event.status, event.version, event.node, event.epoch
            )
        });
        self.bus.logs[partition].events.push(event);
    }

    pub(crate) fn calm_for(&self, ms: u64) -> bool {
        self.active == 0 && self.now >= self.calm_at + ms
    }

    pub(crate) fn moment(&self) -> String {
        format!(
            "seed {} {:?} at {}",
            self.plan.seed, self.plan.faults, self.now
        )
    }

    pub(crate) fn place(&self, pid: usize) -> String {
        format!("{} p{pid} ({})", self.moment(), self.processes[pid].id)
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now, what());
        }
    }
}
