//! One run of the cluster: everything that is under way, in the order of its time.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

use presence::How;
use protocol::{Event as BusEvent, Status};
use ring::{Epoch, Vnode, VnodeCount};

use super::{
    bus::Kafka,
    client::{Client, ToClient},
    coordinators::{Coordinator, ToCoordinator},
    faults::Heal,
    freshness::Changes,
    mesh::Mesh,
    plan::{Fault, GRACE, Plan, RESPONSE},
    process::{In, Process},
    redis::{Answer, Command, Redis},
    truth::Truth,
};
use crate::random::Random;

/// How long maps may be lost after the store has lost something.
const LOST_MAPS: u64 = 5_000;

/// A program that asks the store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Process(usize),
    Coordinator(usize),
}

/// An event of the simulated time.
pub(crate) enum Event {
    Process(usize, In),
    Client(usize, u64, ToClient),
    Dial(usize, u64),
    Watchdog(usize, u64),
    WatchAgain(usize, u64),
    Coordinator(usize, u64, ToCoordinator),
    /// A request of a program reaches the store.
    Store(End, u64, u64, Command),
    Heal(Heal),
    /// A process makes its connection to the store (`true`), or the store notices its end.
    Link(usize, bool),
    /// A user was shown offline at that time, and seemed not to be.
    Doubt(usize, u64, String),
    /// A node that has left joins again.
    Rejoin(usize),
}

struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// Orders events so that the heap gives the earliest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// What the store has accepted of one vnode. Processes are named by their number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// The newest epoch under which the vnode was claimed or written since the store last lost something.
    pub(crate) epoch: Epoch,
    /// The process that did so under that epoch.
    pub(crate) by: usize,
    /// The process that claimed the vnode last, whether the store still knows or not.
    pub(crate) taken_by: usize,
    /// When `by` took the vnode, or claimed it once more because the store had lost that, ms.
    pub(crate) at: u64,
    /// When `by` took the vnode, ms: from then on it waits for the users.
    pub(crate) since: u64,
    /// The highest epoch there ever was, whatever the store has lost since.
    pub(crate) highest: Epoch,
    /// The process that released the vnode last knew by then of all that the store has lost.
    pub(crate) sound: bool,
    /// `taken_by` has released the vnode or was fenced since, whether the store still knows or not.
    pub(crate) let_go: bool,
}

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
    events: BinaryHeap<Entry>,
    order: u64,
    tickets: u64,
    /// By process and lane to it: when the last input that is under way arrives, ms. A lane keeps its order.
    lanes: BTreeMap<(usize, u64), u64>,
    /// The same by a client's connection and whether it is the way to the server.
    wires: BTreeMap<(u64, bool), u64>,
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
        let nobody = Accepted {
            epoch: Epoch::default(),
            by: usize::MAX,
            taken_by: usize::MAX,
            at: 0,
            since: 0,
            highest: Epoch::default(),
            sound: true,
            let_go: false,
        };
        let mut world = Self {
            random,
            links: Random::new(plan.seed ^ 0x0011_4c5e),
            mesh: Mesh::new(plan.seed),
            trace,
            now: 10_000,
            wall: 1_790_000_000_000,
            events: BinaryHeap::new(),
            order: 0,
            tickets: 0,
            lanes: BTreeMap::new(),
            wires: BTreeMap::new(),
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
            accepted: vec![nobody; plan.vnodes],
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
        while self.events.peek().is_some_and(|entry| entry.at <= end) {
            let Entry { at, event, .. } = self.events.pop().expect("it was just seen");
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

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        let order = self.order;
        self.events.push(Entry { at, order, event });
    }

    pub(crate) fn later(&mut self, delay: u64, pid: usize, input: In) {
        self.schedule(self.now + delay, Event::Process(pid, input));
    }

    pub(crate) fn at(&mut self, at: u64, pid: usize, input: In) {
        self.schedule(at, Event::Process(pid, input));
    }

    /// When something that is sent now arrives on a way that keeps its order.
    pub(crate) fn in_order(&mut self, pid: usize, lane: u64, delay: u64) -> u64 {
        let last = self.lanes.entry((pid, lane)).or_default();
        *last = (self.now + delay).max(*last);
        *last
    }

    pub(crate) fn wire(&mut self, conn: u64, to_server: bool, delay: u64) -> u64 {
        let last = self.wires.entry((conn, to_server)).or_default();
        *last = (self.now + delay).max(*last);
        *last
    }

    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
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

    pub(crate) fn start_process(&mut self, name: usize) {
        let pid = self.processes.len();
        let boot = 1 + self.random.bits() % (1 << 40);
        let cores = 1 + self.random.below(2) as usize;
        let weight = if self.plan.seed.is_multiple_of(5) {
            100 + 50 * name as u32
        } else {
            100
        };
        let mono = self.random.below(1_000_000);
        let time = presence::Now {
            mono_us: (mono + self.now) * 1_000,
            wall_ms: self.wall + self.now,
        };
        let mut process = Process::new(name, boot, cores, weight, &self.plan, mono, time);
        for seat in process.seats.iter_mut().filter(|_| self.plan.links) {
            seat.core.hear_by_links(false);
        }
        self.note(|| format!("n{name} starts as p{pid} with {cores} cores, boot {boot}"));
        self.processes.push(process);
        if self.plan.has(Fault::Clocks) {
            self.processes[pid].wall = self.random.below(400) as i64 - 200;
        }
        self.names[name] = Some(pid);
        for core in 0..cores {
            self.later(100, pid, In::Tick(core));
        }
        self.later(1, pid, In::Steps(true));
        self.later(2, pid, In::Consume);
        if self.plan.links {
            self.later(2, pid, In::DialLinks);
        }
        self.links_itself(pid);
        self.look_who_is_gone();
    }

    /// Sends a request to the store, which travels for a while.
    pub(crate) fn send_command(&mut self, end: End, ticket: u64, command: Command) {
        let at = self.now + self.random.below(self.store.delay + 1);
        let life = self.life(end);
        self.schedule(at, Event::Store(end, life, ticket, command));
    }

    fn life(&self, end: End) -> u64 {
        match end {
            End::Process(_) => 0,
            End::Coordinator(n) => self.coordinators[n].life,
        }
    }

    fn is_cut(&self, end: End) -> bool {
        match end {
            End::Process(pid) => self.processes[pid].redis_cut,
            End::Coordinator(n) => self.coordinators[n].redis_cut,
        }
    }

    fn reach_store(&mut self, end: End, life: u64, ticket: u64, command: Command) {
        if self.is_cut(end) {
            return;
        }
        if self.store.away {
            self.answer(end, life, ticket, None);
            return;
        }
        if let End::Process(pid) = end {
            self.before_store(pid, &command);
        }
        let map = match &command {
            Command::WriteMap { map, .. } => Some((self.store.map().cloned(), map.clone())),
            _ => None,
        };
        let noted = self.trace.then(|| command.clone());
        let answer = self.store.execute(self.now, command);
        match (noted, &answer) {
            (
                Some(Command::Write {
                    vnode,
                    epoch,
                    user,
                    stored,
                }),
                Answer::Done | Answer::Fenced(_),
            ) => {
                self.note(|| {
                    format!(
                        "the store {} {user} {} {} {:?} {:?} connected: {} of vnode {vnode} under {epoch} from {end:?}",
                        if matches!(answer, Answer::Done) { "has" } else { "refuses" },
                        stored.record.status,
                        stored.record.version,
                        stored.record.text,
                        stored.mode,
                        stored.connected
                    )
                });
            }
            (Some(Command::Read { user, .. }), Answer::Record(epoch, record)) => {
                self.note(|| {
                    format!("the store tells {end:?} of {user} under {epoch}: {record:?}")
                });
            }
            (Some(Command::Release { vnode, epoch }), Answer::Done) => {
                self.note(|| format!("vnode {vnode} is released under {epoch} by {end:?}"));
            }
            _ => {}
        }
        if let (Some((before, map)), Answer::Done) = (map, &answer) {
            self.note(|| {
                let share = |node: &ring::Node| {
                    format!(
                        ", {} {} {}",
                        node.id,
                        node.boot,
                        map.owned_by(&node.id).count()
                    )
                };
                let shares: String = map.nodes().iter().map(share).collect();
                format!("map {} is written{shares}", map.version())
            });
            // Who writes after a loss has read a map that others have lost, or the other way round.
            if self.now >= self.store_changed + LOST_MAPS {
                self.check_map(before.as_ref(), &map);
            }
            for pid in 0..self.processes.len() {
                if !self.processes[pid].redis_cut && self.random.below(8) > 0 {
                    let delay = self.random.below(20);
                    self.later(delay, pid, In::Hint);
                }
            }
        }
        if self.store.lossy == 0 || !self.random.once_in(self.store.lossy) {
            self.answer(end, life, ticket, Some(answer));
        }
    }

    fn answer(&mut self, end: End, life: u64, ticket: u64, answer: Option<Answer>) {
        let delay = self.random.below(self.store.delay + 1);
        match end {
            End::Process(pid) => self.later(delay, pid, In::Answer(ticket, answer)),
            End::Coordinator(n) => {
                let answer = ToCoordinator::Answer(ticket, answer);
                self.schedule(self.now + delay, Event::Coordinator(n, life, answer));
            }
        }
    }

    /// What the store has is about to be older, or gone.
    pub(crate) fn store_is_changed(&mut self) {
        for accepted in &mut self.accepted {
            accepted.epoch = Epoch::default();
        }
        self.store_trouble = self.now + 10_000;
        self.store_changed = self.now;
        self.losses += 1;
        self.pass_all();
        self.absent_are_lost();
    }

    /// Nobody has in memory what those who are not there had set, nor what those had who came while
    /// the store did not answer, or have come so lately that it was not read, nor those of a vnode
    /// that has just been taken.
    pub(crate) fn absent_are_lost(&mut self) {
        let away = self.store.away || self.now < self.store.back_at + RESPONSE;
        let unread = if away {
            self.store.away_since
        } else {
            self.now
        };
        for index in 0..self.truths.len() {
            let vnode = self.count().vnode(&format!("u{index}"));
            let accepted = &self.accepted[vnode.index()];
            let owner = accepted.taken_by;
            // Its owner has not read what it took.
            let fresh = self.now < accepted.at + RESPONSE;
            let truth = &mut self.truths[index];
            let absent = fresh || truth.rightly_offline >= unread && !truth.is_hiding_at(owner);
            truth.lost |= absent;
            truth.mode_lost |= absent;
        }
    }

    pub(crate) fn store_works(&self) -> bool {
        self.store_trouble < self.now
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

    /// Brings what the truth says of a user up to now.
    pub(crate) fn pass(&mut self, user: usize) {
        let vnode = self.count().vnode(&format!("u{user}"));
        let processes = &self.processes;
        let accepted = self.accepted[vnode.index()];
        // Who does not reach the store hears of a successor from the bus alone, unless that was deleted.
        let away = self.store.away;
        let links = self.plan.links.then_some(&self.mesh);
        let mute = processes
            .get(accepted.by)
            .is_some_and(|owner| links.map_or(owner.kafka_cut, |mesh| mesh.is_cut(accepted.by)));
        self.truths[user].pass(self.now, |pid| {
            let process = &processes[pid];
            let deaf = (mute && process.redis_cut) || (away && process.missed);
            let deaf = deaf && accepted.by != pid;
            process.gone.or(deaf.then_some(accepted.at))
        });
    }

    pub(crate) fn pass_all(&mut self) {
        for user in 0..self.truths.len() {
            self.pass(user);
        }
    }

    /// The truth about a client's user, as of now.
    pub(super) fn truth_of(&mut self, client: usize) -> &mut Truth {
        let user = self.user(&self.clients[client].name);
        self.pass(user);
        &mut self.truths[user]
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

    /// The vnode of a user, for traces.
    #[must_use]
    pub fn vnode_of(&self, user: &str) -> Vnode {
        self.count().vnode(user)
    }
}
