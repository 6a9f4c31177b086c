//! A simulated edge: real presence cores and membership, and around them what the edge's shell
//! does: it carries out steps, moves outputs, and keeps the sockets. Its network is the world's.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use presence::{
    Core, Found, Hello, How, Membership, Now, PeerMessage, Renewal, SessionId, Settings, Step,
    StoreReply, StoreRequest, Ticket, WatchRule,
};
use protocol::{CloseCode, Encoding, Event, Lease, Load};
use ring::{CoreId, Epoch, Map, MapVersion, NodeId, Vnode, VnodeCount};

use crate::client::frames;

use super::{
    bus::{Kafka, PARTITIONS},
    client::ToClient,
    plan::{GRACE, HEARTBEAT, LATENCY, LEASE, RESPONSE, TIMEOUT},
    redis::{Answer, Command},
    world::{End, World},
};

/// Requests and events of a core that may be under way.
const ROOM: usize = 64;
/// How long ago a user may have left to be adopted all the same: a change that is this old has
/// reached store and bus, whatever became of its writer.
const UNCERTAIN: u64 = LEASE + HEARTBEAT + TIMEOUT + GRACE + 5_000;
/// How long failures of the store are held back.
const FAILED: u64 = 100;
/// How long a process may take to learn that it was fenced, with answers or events that are lost.
const FENCE: u64 = 3_000;
/// How long a client waits for a node that may be behind.
const CATCH_UP: u64 = 1_000;
/// An event that was not confirmed for so long is reported as not delivered.
const MESSAGE_TIMEOUT: u64 = 3_000;

/// What a core is told by the node.
#[derive(Clone)]
pub(crate) enum News {
    Follow(Arc<Map>, Option<Arc<Map>>),
    Resume,
    Resync,
    Gap,
}

/// What comes to a process.
pub(crate) enum In {
    Tick(usize),
    Pump(usize),
    /// A look at what the membership wants; the one of the timer comes again.
    Steps(bool),
    Peer(usize, usize, PeerMessage),
    Event(usize, Event<'static>),
    /// To a request of the store; `None` = it did not come in time.
    Answer(u64, Option<Answer>),
    /// Failures that were held back.
    Failed(usize, StoreReply),
    Hint,
    Produce(usize),
    Consume,
    Report(usize, Ticket, bool),
    Socket(u64, FromClient),
}

/// What comes through a client's socket.
pub(crate) enum FromClient {
    /// The first message, with its token: who, and for the `n`-th time.
    Open {
        client: usize,
        tries: u64,
    },
    Text(String),
    Pong,
    /// The socket takes bytes again.
    Drained,
    End(How),
    /// The client had its time to hang up after a close frame.
    HangUp,
}

/// Which request of the store an answer is for.
#[derive(Debug)]
pub(crate) enum Asked {
    Core(usize, StoreRequest),
    /// And whether the former owner had let go of the vnode.
    List(usize, Vnode, Epoch, bool),
    Renew(u64),
    Map(u64),
    Identity(u64),
    Nothing,
}

/// A client's socket.
pub(crate) struct Conn {
    pub(crate) client: usize,
    pub(crate) core: usize,
    pub(crate) session: Option<SessionId>,
    closing: bool,
    blocked: bool,
    /// When it was last blocked: what it was answered before comes now.
    pub(crate) slow_at: u64,
    /// Bytes that the client has not read.
    pub(crate) unread: usize,
}

/// A core and what the shell has of it.
pub(crate) struct Seat {
    pub(crate) core: Core,
    news: VecDeque<News>,
    pub(crate) followed: Option<Arc<Map>>,
    told: (MapVersion, usize),
    told_stall: bool,
    pump_due: bool,
    asked: usize,
    publishing: usize,
    sessions: BTreeMap<SessionId, u64>,
    /// The highest epoch by which it knows that it lost a vnode.
    pub(crate) lost: BTreeMap<Vnode, Epoch>,
}

/// The reads of one look at the map.
struct Reading {
    round: u64,
    map: Option<Option<Map>>,
    identity: Option<String>,
}

struct Sending {
    core: usize,
    ticket: Ticket,
    event: Event<'static>,
    since: u64,
}

pub(crate) struct Process {
    pub(crate) name: usize,
    pub(crate) id: NodeId,
    pub(crate) boot: u64,
    pub(crate) weight: u32,
    pub(crate) alive: bool,
    /// Its host is gone: nobody says that nobody is there.
    pub(crate) gone_quietly: bool,
    /// It stands still: what comes waits, by sender.
    pub(crate) stalled: bool,
    /// It has just gone on.
    pub(crate) stood_still: bool,
    pub(crate) backlog: BTreeMap<u64, VecDeque<In>>,
    /// It wants to be relieved of its vnodes, and ends then.
    pub(crate) leaving: bool,
    mono: u64,
    pub(crate) wall: i64,
    pub(crate) seats: Vec<Seat>,
    member: Membership,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) redis_cut: bool,
    pub(crate) kafka_cut: bool,
    pub(crate) kafka_back: u64,
    pub(crate) kafka_late: bool,
    /// Since when it can take no part: see `World::gone`.
    pub(crate) gone: Option<u64>,
    /// When it last came back from that.
    pub(crate) back: u64,
    /// Of how many losses of the store it can know, and since when.
    pub(crate) losses: (u64, u64),
    asked: BTreeMap<u64, Asked>,
    reading: Option<Reading>,
    rounds: u64,
    stalled_flag: bool,
    read_wanted: bool,
    reads: u64,
    highest_met: Epoch,
    interest: BTreeMap<u64, u32>,
    out: Vec<VecDeque<Sending>>,
    positions: Option<Vec<usize>>,
}

impl Process {
    pub(crate) fn new(
        name: usize,
        boot: u64,
        cores: usize,
        weight: u32,
        count: VnodeCount,
        mono: u64,
        now: Now,
    ) -> Self {
        let id = NodeId::parse(&format!("n{name}")).expect("a good name");
        let seat = |n: usize| {
            let mut core = Core::new(
                Settings {
                    node: (*id).into(),
                    core: CoreId::new(n as u16),
                    cores: cores as u16,
                    vnodes: count,
                    seed: boot,
                    cluster: true,
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
            for vnode in count.all() {
                let home = vnode.index() % cores;
                if home != n {
                    core.at_home_on(vnode, CoreId::new(home as u16));
                }
            }
            Seat {
                core,
                news: VecDeque::new(),
                followed: None,
                told: (MapVersion::default(), 0),
                told_stall: false,
                pump_due: false,
                asked: 0,
                publishing: 0,
                sessions: BTreeMap::new(),
                lost: BTreeMap::new(),
            }
        };
        Self {
            name,
            boot,
            weight,
            alive: true,
            gone_quietly: false,
            stalled: false,
            stood_still: false,
            backlog: BTreeMap::new(),
            leaving: false,
            mono,
            wall: 0,
            seats: (0..cores).map(seat).collect(),
            id,
            member: Membership::new(LEASE),
            conns: BTreeMap::new(),
            redis_cut: false,
            kafka_cut: false,
            kafka_back: 0,
            kafka_late: false,
            gone: None,
            back: 0,
            losses: (0, 0),
            asked: BTreeMap::new(),
            reading: None,
            rounds: 0,
            stalled_flag: false,
            read_wanted: false,
            reads: 0,
            highest_met: Epoch::default(),
            interest: BTreeMap::new(),
            out: (0..PARTITIONS).map(|_| VecDeque::new()).collect(),
            positions: None,
        }
    }

    /// The map that all cores follow, and how many vnodes are on their way.
    pub(crate) fn progress(&self) -> (MapVersion, usize) {
        let followed = |seat: &Seat| {
            seat.followed
                .as_ref()
                .map_or(MapVersion::default(), |m| m.version())
        };
        let moving = |seat: &Seat| seat.core.vnodes_loading() + seat.core.vnodes_leaving();
        (
            self.seats.iter().map(followed).min().unwrap_or_default(),
            self.seats.iter().map(moving).sum(),
        )
    }

    pub(crate) fn map(&self) -> Option<&Arc<Map>> {
        self.member.map()
    }

    /// As the edge does it: a map that waits is replaced by a newer one.
    fn tell(&mut self, news: &News) {
        for seat in &mut self.seats {
            match (seat.news.back_mut(), news) {
                (Some(News::Follow(map, _)), News::Follow(newer, _)) => *map = Arc::clone(newer),
                (Some(News::Gap), News::Gap) | (Some(News::Resync), News::Resync) => {}
                (_, news) => seat.news.push_back(news.clone()),
            }
        }
    }

    /// Who sent it: what one sender sends keeps its order.
    pub(crate) fn lane(input: &In) -> u64 {
        match input {
            In::Tick(core) => *core as u64,
            In::Pump(core) => 10 + *core as u64,
            In::Steps(_) => 20,
            In::Peer(to, from, _) => 30 + 10 * *to as u64 + *from as u64,
            In::Event(core, _) => 200 + *core as u64,
            In::Report(..) => 210,
            In::Hint => 220,
            In::Produce(n) => 230 + *n as u64,
            In::Consume => 240,
            In::Answer(ticket, _) => 1_000_000 + ticket % 1_000,
            In::Failed(..) => 250,
            In::Socket(conn, _) => 2_000_000 + conn,
        }
    }
}

impl World {
    pub(crate) fn time_of(&self, pid: usize) -> Now {
        let process = &self.processes[pid];
        Now {
            mono_us: (process.mono + self.now) * 1_000,
            wall_ms: (self.wall + self.now).saturating_add_signed(process.wall),
        }
    }

    fn mono(&self, pid: usize) -> u64 {
        self.processes[pid].mono + self.now
    }

    pub(crate) fn home(&self, pid: usize, vnode: Vnode) -> usize {
        vnode.index() % self.processes[pid].seats.len()
    }

    /// Something comes to a process.
    pub(crate) fn process(&mut self, pid: usize, input: In) {
        let process = &mut self.processes[pid];
        if !process.alive {
            return;
        }
        if process.stalled {
            let lane = Process::lane(&input);
            process.backlog.entry(lane).or_default().push_back(input);
            return;
        }
        match input {
            In::Tick(n) => {
                let now = self.time_of(pid);
                let process = &mut self.processes[pid];
                let seat = &mut process.seats[n];
                seat.core.tick(now);
                if seat.core.is_held() && !seat.told_stall {
                    seat.told_stall = true;
                    process.stalled_flag = true;
                    self.notify(pid);
                }
                self.kick(pid, n);
                let again = 95 + self.random.below(10);
                self.later(again, pid, In::Tick(n));
            }
            In::Pump(n) => {
                self.processes[pid].seats[n].pump_due = false;
                self.pump(pid, n);
            }
            In::Steps(timer) => {
                self.steps(pid);
                if timer {
                    let again = 30 + self.random.below(20);
                    self.later(again, pid, In::Steps(true));
                }
            }
            In::Peer(to, from, message) => {
                self.core(pid, to)
                    .peer_message(CoreId::new(from as u16), message);
                self.kick(pid, to);
            }
            In::Event(n, event) => {
                self.hears_of(pid, n, event.vnode, event.epoch);
                self.core(pid, n).bus_event(&event);
                self.kick(pid, n);
            }
            In::Answer(ticket, answer) => self.answered(pid, ticket, answer),
            In::Failed(n, reply) => {
                self.processes[pid].seats[n].asked -= 1;
                self.core(pid, n).store_reply(reply);
                self.kick(pid, n);
            }
            In::Hint => {
                self.processes[pid].member.map_changed();
                self.notify(pid);
            }
            In::Produce(partition) => self.produce(pid, partition),
            In::Consume => self.consume(pid),
            In::Report(n, ticket, delivered) => {
                self.processes[pid].seats[n].publishing -= 1;
                self.core(pid, n).bus_reply(ticket, delivered);
                self.kick(pid, n);
            }
            In::Socket(conn, input) => self.socket(pid, conn, input),
        }
    }

    /// The core, at the time of its process.
    fn core(&mut self, pid: usize, n: usize) -> &mut Core {
        let now = self.time_of(pid);
        let core = &mut self.processes[pid].seats[n].core;
        core.at(now);
        core
    }

    fn kick(&mut self, pid: usize, n: usize) {
        if !std::mem::replace(&mut self.processes[pid].seats[n].pump_due, true) {
            let delay = self.random.below(3);
            self.later(delay, pid, In::Pump(n));
        }
    }

    fn notify(&mut self, pid: usize) {
        let delay = self.random.below(3);
        self.later(delay, pid, In::Steps(false));
    }

    /// Carries out what the membership wants.
    fn steps(&mut self, pid: usize) {
        let mono = self.mono(pid);
        let process = &mut self.processes[pid];
        if std::mem::take(&mut process.stalled_flag) {
            process.member.stood_still(mono);
        }
        if std::mem::take(&mut process.read_wanted) {
            process.member.map_changed();
        }
        process.member.met(process.highest_met);
        let (followed, moving) = process.progress();
        process.member.progress(followed, moving);
        for step in process.member.steps(mono) {
            match step {
                Step::Renew { newcomer } => self.renew(pid, newcomer),
                Step::ReadMap => {
                    let process = &mut self.processes[pid];
                    process.rounds += 1;
                    let round = process.rounds;
                    process.reading = Some(Reading {
                        round,
                        map: None,
                        identity: None,
                    });
                    self.ask(pid, Command::Map, Asked::Map(round));
                    self.ask(pid, Command::Identity, Asked::Identity(round));
                }
                step => self.carry_out(pid, step),
            }
        }
        let process = &self.processes[pid];
        if process.leaving && process.seats.iter().all(|s| s.core.vnodes_owned() == 0) {
            let (followed, moving) = process.progress();
            let nothing = |map: &Arc<Map>| map.owned_by(&process.id).next().is_none();
            if moving == 0
                && process
                    .map()
                    .is_some_and(|m| m.version() == followed && nothing(m))
            {
                let forget = Command::Forget {
                    node: process.id.to_string(),
                    boot: process.boot,
                };
                self.ask(pid, forget, Asked::Nothing);
                self.end_process(pid, true, "has left");
            }
        }
    }

    fn renew(&mut self, pid: usize, newcomer: bool) {
        let mono = self.mono(pid);
        let process = &self.processes[pid];
        let (followed, moving) = process.progress();
        let lease = Lease {
            node: process.id.to_string(),
            boot: process.boot,
            address: format!("ws://{}", process.id),
            cores: process.seats.len() as u16,
            weight: process.weight,
            pins: String::new(),
            draining: process.leaving,
            map_version: followed.get(),
            highest_epoch: process.member.highest_epoch().get(),
            moving: moving as u32,
            load: Load::default(),
        };
        self.ask(pid, Command::Renew { lease, newcomer }, Asked::Renew(mono));
    }

    fn carry_out(&mut self, pid: usize, step: Step) {
        let process = &mut self.processes[pid];
        let news = match step {
            Step::Follow { map, before } => News::Follow(map, before),
            Step::Resume => News::Resume,
            Step::Resync => News::Resync,
            Step::GiveUp => {
                self.end_process(pid, true, "gives up: another process has its name");
                if self.names[self.processes[pid].name] == Some(pid) {
                    // Whoever runs it starts it again.
                    self.restart_later(pid, 500, 1_000);
                }
                return;
            }
            Step::Renew { .. } | Step::ReadMap => return,
        };
        process.tell(&news);
        for n in 0..self.processes[pid].seats.len() {
            let delay = self.random.below(5);
            self.later(delay, pid, In::Pump(n));
        }
    }

    /// Sends a request to the store; its answer, or that there was none, comes back.
    fn ask(&mut self, pid: usize, command: Command, asked: Asked) {
        let ticket = self.next_ticket();
        self.processes[pid].asked.insert(ticket, asked);
        self.send_command(End::Process(pid), ticket, command);
        self.later(RESPONSE, pid, In::Answer(ticket, None));
    }

    fn answered(&mut self, pid: usize, ticket: u64, answer: Option<Answer>) {
        let Some(asked) = self.processes[pid].asked.remove(&ticket) else {
            return;
        };
        let mono = self.mono(pid);
        match asked {
            Asked::Core(n, request) => self.core_answered(pid, n, request, answer),
            Asked::List(n, vnode, epoch, released) => {
                let reply = match answer {
                    Some(Answer::Users(users)) => StoreReply::Loaded {
                        vnode,
                        epoch,
                        released,
                        users,
                    },
                    Some(Answer::Fenced(newest)) if newest > epoch => {
                        StoreReply::LoadFenced(vnode, epoch, newest)
                    }
                    _ => StoreReply::LoadFailed(vnode, epoch),
                };
                self.reply(pid, n, reply);
            }
            Asked::Renew(sent) => {
                let renewal = match answer {
                    Some(Answer::Renewal(renewal)) => renewal,
                    _ => Renewal::Failed,
                };
                let step = self.processes[pid].member.renewed(sent, mono, renewal);
                if let Some(step) = step {
                    self.carry_out(pid, step);
                }
                self.notify(pid);
            }
            Asked::Map(round) | Asked::Identity(round) => {
                let process = &mut self.processes[pid];
                let Some(reading) = &mut process.reading else {
                    return;
                };
                if reading.round != round {
                    return;
                }
                match answer {
                    Some(Answer::Map(map)) => reading.map = Some(map),
                    Some(Answer::Identity(identity)) => reading.identity = Some(identity),
                    _ => {
                        process.reading = None;
                        process.reads += 1;
                        process.member.map_read(mono, None);
                        self.notify(pid);
                        return;
                    }
                }
                let Some(Reading {
                    map: Some(map),
                    identity: Some(identity),
                    ..
                }) = process
                    .reading
                    .take_if(|r| r.map.is_some() && r.identity.is_some())
                else {
                    return;
                };
                process.reads += 1;
                let steps = process.member.map_read(mono, Some(Found { map, identity }));
                for step in steps {
                    self.carry_out(pid, step);
                }
                self.notify(pid);
            }
            Asked::Nothing => {}
        }
    }

    fn core_answered(
        &mut self,
        pid: usize,
        n: usize,
        request: StoreRequest,
        answer: Option<Answer>,
    ) {
        let reply = match (request, answer) {
            (StoreRequest::Load { vnode, epoch, .. }, Some(Answer::Claimed(released))) => {
                let wall = self.time_of(pid).wall_ms;
                let since = wall.saturating_sub(UNCERTAIN);
                let list = Command::List {
                    vnode,
                    epoch,
                    since,
                };
                self.ask(pid, list, Asked::List(n, vnode, epoch, released));
                return;
            }
            (StoreRequest::Load { vnode, epoch, .. }, Some(Answer::Held)) => {
                StoreReply::Held(vnode, epoch)
            }
            (StoreRequest::Load { vnode, epoch, .. }, Some(Answer::Fenced(newest))) => {
                self.loses(pid, n, vnode, newest);
                StoreReply::LoadFenced(vnode, epoch, newest)
            }
            (StoreRequest::Release { vnode, epoch }, Some(Answer::Done | Answer::Fenced(_))) => {
                StoreReply::Released(vnode, epoch)
            }
            (StoreRequest::Read { ticket, .. }, Some(Answer::Record(epoch, stored))) => {
                StoreReply::Read(ticket, epoch, stored)
            }
            (StoreRequest::Write { ticket, .. }, Some(Answer::Done)) => StoreReply::Written(ticket),
            (StoreRequest::Write { ticket, vnode, .. }, Some(Answer::Fenced(newest))) => {
                self.loses(pid, n, vnode, newest);
                StoreReply::WriteFenced(ticket, newest)
            }
            (request, _) => request.failed(),
        };
        self.reply(pid, n, reply);
    }

    /// Gives a core the store's reply; failures are held back.
    fn reply(&mut self, pid: usize, n: usize, reply: StoreReply) {
        if matches!(
            reply,
            StoreReply::LoadFailed(..)
                | StoreReply::ReleaseFailed(..)
                | StoreReply::ReadFailed(_)
                | StoreReply::WriteFailed(_)
        ) {
            self.later(FAILED, pid, In::Failed(n, reply));
            return;
        }
        self.processes[pid].seats[n].asked -= 1;
        self.core(pid, n).store_reply(reply);
        self.kick(pid, n);
    }

    /// The core is shown that a vnode has a newer epoch than the one it has, if it has one.
    fn loses(&mut self, pid: usize, n: usize, vnode: Vnode, newest: Epoch) {
        let lost = self.processes[pid].seats[n].lost.entry(vnode).or_default();
        *lost = newest.max(*lost);
    }

    fn hears_of(&mut self, pid: usize, n: usize, vnode: Vnode, epoch: Epoch) {
        let seat = &self.processes[pid].seats[n];
        let newest = seat.followed.as_ref().map(|map| map.epoch(vnode));
        if newest.is_none_or(|newest| epoch > newest) {
            self.loses(pid, n, vnode, epoch);
        }
    }

    /// Moves a core's outputs.
    fn pump(&mut self, pid: usize, n: usize) {
        self.take_news(pid, n);
        let seat = &mut self.processes[pid].seats[n];
        let changes = seat.core.take_interest();
        let interest = &mut self.processes[pid].interest;
        for (user, wanted) in changes {
            let count = interest.entry(user).or_default();
            *count = if wanted { *count + 1 } else { *count - 1 };
            if *count == 0 {
                interest.remove(&user);
            }
        }
        self.core(pid, n);
        self.pump_store(pid, n);
        self.pump_bus(pid, n);
        self.pump_peers(pid, n);
        self.pump_sockets(pid, n);
        let process = &mut self.processes[pid];
        let seat = &mut process.seats[n];
        let mut met = Epoch::default();
        while let Some((vnode, epoch)) = seat.core.next_fence() {
            met = met.max(epoch);
            // What it had not written it need not know, should it get the vnode again.
            let accepted = &mut self.accepted[vnode.index()];
            accepted.let_go |= accepted.taken_by == pid;
            let count = VnodeCount::new(self.plan.vnodes).expect("a power of two");
            for (n, truth) in self.truths.iter_mut().enumerate() {
                let user = format!("u{n}");
                if truth.text_by == pid && count.vnode(&user) == vnode {
                    let stored = self.store.stored(vnode, &user);
                    truth.lost |= stored.is_none_or(|stored| *stored.record.text != *truth.text);
                }
            }
            if self.trace {
                println!(
                    "{:>8} p{pid} core {n} is fenced: vnode {vnode}, {epoch}",
                    self.now
                );
            }
        }
        let followed = seat
            .followed
            .as_ref()
            .map_or(MapVersion::default(), |m| m.version());
        let moving = seat.core.vnodes_loading() + seat.core.vnodes_leaving();
        let news = std::mem::replace(&mut seat.told, (followed, moving)) != (followed, moving);
        if met > process.highest_met || news {
            process.highest_met = process.highest_met.max(met);
            self.notify(pid);
        }
        self.check_bounds(pid, n);
    }

    fn take_news(&mut self, pid: usize, n: usize) {
        let now = self.time_of(pid);
        let process = &mut self.processes[pid];
        let seat = &mut process.seats[n];
        let mut follows = false;
        for news in std::mem::take(&mut seat.news) {
            seat.core.at(now);
            match news {
                News::Follow(map, before) => {
                    if self.trace {
                        println!(
                            "{:>8} p{pid} core {n} follows map {}",
                            self.now,
                            map.version()
                        );
                    }
                    let before = before.as_deref();
                    seat.core.follow(&map, before, &process.id, process.boot);
                    seat.followed = Some(map);
                    follows = true;
                }
                News::Resume => {
                    seat.core.resume();
                    seat.told_stall = false;
                }
                News::Resync => seat.core.resync(),
                News::Gap => seat.core.bus_gap(),
            }
        }
        if follows {
            self.check_early(pid);
        }
    }

    fn pump_store(&mut self, pid: usize, n: usize) {
        while self.processes[pid].seats[n].asked < ROOM {
            let Some(request) = self.processes[pid].seats[n].core.next_store_request() else {
                return;
            };
            self.processes[pid].seats[n].asked += 1;
            let command = match request.clone() {
                StoreRequest::Load { vnode, epoch, over } => Command::Claim { vnode, epoch, over },
                StoreRequest::Release { vnode, epoch } => Command::Release { vnode, epoch },
                StoreRequest::Read { vnode, user, .. } => Command::Read { vnode, user },
                StoreRequest::Write {
                    vnode,
                    epoch,
                    user,
                    stored,
                    ..
                } => {
                    self.check_made(&user, &stored.record, pid, "the store is given");
                    Command::Write {
                        vnode,
                        epoch,
                        user,
                        stored,
                    }
                }
            };
            self.ask(pid, command, Asked::Core(n, request));
        }
    }

    fn pump_bus(&mut self, pid: usize, n: usize) {
        while self.processes[pid].seats[n].publishing < ROOM {
            let process = &mut self.processes[pid];
            let seat = &mut process.seats[n];
            let Some(publication) = seat.core.next_publication() else {
                return;
            };
            seat.publishing += 1;
            let partition = Kafka::partition(publication.vnode, self.plan.vnodes);
            let record = publication.record;
            let event = Event {
                user: String::from(publication.user).into(),
                status: record.status,
                text: String::from(record.text.clone()).into(),
                since: record.since,
                last_seen: record.last_seen,
                devices: record.devices,
                version: record.version,
                vnode: publication.vnode,
                epoch: publication.epoch,
                node: process.id.to_string().into(),
                cause: publication.cause,
            };
            let lost = seat.lost.get(&event.vnode).copied();
            // What it claimed itself it has not lost; the answer may be under way.
            let accepted = self.accepted[event.vnode.index()];
            let own = accepted.taken_by == pid && lost == Some(accepted.highest);
            assert!(
                own || lost.is_none_or(|lost| event.epoch >= lost),
                "I1: {} publishes {event:?} and knows of epoch {lost:?}",
                self.place(pid)
            );
            let sending = Sending {
                core: n,
                ticket: publication.ticket,
                event,
                since: self.now,
            };
            self.check_made(&sending.event.user, &record, pid, "the bus is given");
            let queue = &mut self.processes[pid].out[partition];
            queue.push_back(sending);
            if queue.len() == 1 {
                let delay = 1 + self.random.below(10);
                self.later(delay, pid, In::Produce(partition));
            }
        }
    }

    /// The producer's turn for one partition: its first event reaches the log, or is given up.
    fn produce(&mut self, pid: usize, partition: usize) {
        let reachable = !self.bus.away && !self.processes[pid].kafka_cut;
        let process = &mut self.processes[pid];
        let Some(first) = process.out[partition].front() else {
            return;
        };
        let late = self.now - first.since >= MESSAGE_TIMEOUT;
        if reachable || late {
            let Sending {
                core,
                ticket,
                event,
                ..
            } = process.out[partition].pop_front().expect("it is there");
            let unreliable = self.bus.unreliable;
            let kept = reachable || (unreliable && !self.bus.away);
            if kept {
                self.append(partition, event.clone());
                if unreliable && self.random.once_in(6) {
                    self.append(partition, event);
                }
            }
            let delivered = reachable && !(unreliable && self.random.once_in(4));
            let delay = 1 + self.random.below(if unreliable { 1_500 } else { 20 });
            self.later(delay, pid, In::Report(core, ticket, delivered));
        }
        if !self.processes[pid].out[partition].is_empty() {
            let delay = if reachable { self.random.below(5) } else { 100 };
            self.later(delay, pid, In::Produce(partition));
        }
    }

    /// The consumer's turn: what is new goes to the cores that want it.
    fn consume(&mut self, pid: usize) {
        let wait = 2 + self.random.below(20);
        self.later(wait, pid, In::Consume);
        let process = &self.processes[pid];
        if self.bus.away || process.kafka_cut || process.kafka_late {
            return;
        }
        let ends = self.bus.logs.iter().map(|log| log.events.len()).collect();
        let Some(mut positions) = process.positions.clone() else {
            self.processes[pid].positions = Some(ends);
            self.gap(pid);
            return;
        };
        let behind = |(log, at): (&super::bus::Log, &usize)| *at < log.begin;
        if self.bus.logs.iter().zip(&positions).any(behind) {
            for (log, at) in self.bus.logs.iter().zip(&mut positions) {
                if *at < log.begin {
                    *at = log.events.len();
                }
            }
            self.processes[pid].positions = Some(positions);
            self.gap(pid);
            return;
        }
        let first = self.random.below(PARTITIONS as u64) as usize;
        for n in 0..PARTITIONS {
            let partition = (first + n) % PARTITIONS;
            let most = 1 + self.random.below(20) as usize;
            let events = &self.bus.logs[partition].events[positions[partition]..];
            let taken: Vec<_> = events.iter().take(most).cloned().collect();
            positions[partition] += taken.len();
            for event in taken {
                let interest = &self.processes[pid].interest;
                if !interest.contains_key(&ring::hash(&event.user)) {
                    continue;
                }
                let core = self.home(pid, event.vnode);
                let delay = self.random.below(3);
                let at = self.in_order(pid, 200 + core as u64, delay);
                self.at(at, pid, In::Event(core, event));
            }
        }
        self.processes[pid].positions = Some(positions);
    }

    fn gap(&mut self, pid: usize) {
        self.note(|| format!("p{pid} may have missed events"));
        self.processes[pid].tell(&News::Gap);
        for n in 0..self.processes[pid].seats.len() {
            self.kick(pid, n);
        }
    }

    fn pump_peers(&mut self, pid: usize, n: usize) {
        for to in (0..self.processes[pid].seats.len()).filter(|to| *to != n) {
            for _ in 0..32 {
                let core = &mut self.processes[pid].seats[n].core;
                let Some(message) = core.next_message_for(CoreId::new(to as u16)) else {
                    break;
                };
                let delay = self.random.below(20);
                let at = self.in_order(pid, 30 + 10 * to as u64 + n as u64, delay);
                self.at(at, pid, In::Peer(to, n, message));
            }
        }
    }

    fn pump_sockets(&mut self, pid: usize, n: usize) {
        let limit = 1 + self.random.below(16) as usize;
        let seat = &mut self.processes[pid].seats[n];
        let more = seat.core.flush(limit);
        let transmits = seat.core.transmits().to_vec();
        let arena = seat.core.arena().to_vec();
        for transmit in transmits {
            let process = &mut self.processes[pid];
            let Some(conn) = process.seats[n].sessions.get(&transmit.session).copied() else {
                continue;
            };
            let state = process
                .conns
                .get_mut(&conn)
                .expect("a session has a socket");
            let bytes = &arena[transmit.range.clone()];
            state.unread += bytes.len();
            if state.blocked {
                state.slow_at = self.now;
            }
            if state.unread > 600 && !state.blocked && transmit.close.is_none() {
                // What the kernel takes is read by those who read.
                state.blocked = true;
                process.seats[n].core.blocked(transmit.session);
            }
            let client = state.client;
            let frames = frames(bytes);
            if transmit.close.is_some() {
                state.closing = true;
                let patience = 1 + self.random.below(500);
                self.later(patience, pid, In::Socket(conn, FromClient::HangUp));
            }
            let slow = self.processes[pid].conns[&conn].slow_at + 100 >= self.now;
            self.check_sent(pid, client, &frames, slow);
            self.send_down(client, conn, ToClient::Frames(frames));
        }
        if more {
            self.kick(pid, n);
        }
    }

    /// Something comes through a client's socket.
    fn socket(&mut self, pid: usize, conn: u64, input: FromClient) {
        if let FromClient::Open { client, tries } = input {
            self.open(pid, conn, client, tries);
            return;
        }
        let Some(state) = self.processes[pid].conns.get_mut(&conn) else {
            return;
        };
        let (n, client) = (state.core, state.client);
        if self.trace {
            let what = match &input {
                FromClient::End(how) => format!("{how:?} end"),
                FromClient::HangUp => "patience's end".to_owned(),
                _ => String::new(),
            };
            if !what.is_empty() {
                println!("{:>8} p{pid} gets the {what} of client {client}", self.now);
            }
        }
        let Some(id) = state.session else {
            if let FromClient::End(_) = input {
                self.processes[pid].conns.remove(&conn);
            }
            return;
        };
        match input {
            FromClient::Text(text) if !state.closing => {
                let message = protocol::decode(Encoding::Json, text.as_bytes());
                let message = message.expect("clients speak well");
                self.heeds(pid, conn, client, &text);
                let core = self.core(pid, n);
                core.heard(id);
                core.receive(id, message);
            }
            FromClient::Pong => {
                let core = self.core(pid, n);
                core.heard(id);
                core.pong(id);
            }
            FromClient::Drained => {
                state.unread = 0;
                if std::mem::take(&mut state.blocked) {
                    state.slow_at = self.now;
                    self.core(pid, n).unblocked(id);
                }
            }
            FromClient::End(how) => self.hang_up(pid, conn, n, id, how),
            FromClient::HangUp => self.hang_up(pid, conn, n, id, How::Broken),
            FromClient::Text(_) | FromClient::Open { .. } => {}
        }
        self.kick(pid, n);
    }

    fn hang_up(&mut self, pid: usize, conn: u64, n: usize, id: SessionId, how: How) {
        self.core(pid, n).closed(id, how);
        let process = &mut self.processes[pid];
        process.seats[n].sessions.remove(&id);
        process.conns.remove(&conn);
    }

    /// A client shows its token. A node that does not own the user looks at the map first.
    fn open(&mut self, pid: usize, conn: u64, client: usize, tries: u64) {
        let user = self.clients[client].name.clone();
        let vnode = self.count().vnode(&user);
        let n = self.home(pid, vnode);
        if tries > 0 && !self.processes[pid].conns.contains_key(&conn) {
            return;
        }
        let hello = Hello {
            user: &user,
            encoding: Encoding::Json,
            expires: 0,
            rule: WatchRule::Anyone,
            id: None,
        };
        let opened = self.core(pid, n).connect(&hello);
        let process = &mut self.processes[pid];
        let state = Conn {
            client,
            core: n,
            session: opened.ok(),
            closing: false,
            blocked: false,
            slow_at: 0,
            unread: 0,
        };
        process.conns.insert(conn, state);
        if let Ok(id) = opened {
            process.seats[n].sessions.insert(id, conn);
            self.kick(pid, n);
            return;
        }
        if tries == 0 {
            self.processes[pid].read_wanted = true;
            self.notify(pid);
        }
        if tries * 50 < CATCH_UP {
            let again = FromClient::Open {
                client,
                tries: tries + 1,
            };
            self.later(50, pid, In::Socket(conn, again));
            return;
        }
        self.processes[pid].conns.remove(&conn);
        let process = &self.processes[pid];
        let owner = process.map().and_then(|map| map.owner(vnode));
        let (code, reason) = match owner {
            Some((owner, _)) if owner.id != process.id => {
                (CloseCode::WRONG_NODE, owner.address.clone())
            }
            _ => (CloseCode::OVERLOADED, String::new()),
        };
        let mut bytes = Vec::new();
        protocol::frame::close(&mut bytes, code, &reason);
        self.send_down(client, conn, ToClient::Frames(frames(&bytes)));
    }

    /// Ends a process; `told`: its sockets are closed by the kernel, else its host is gone.
    pub(crate) fn end_process(&mut self, pid: usize, told: bool, what: &str) {
        self.note(|| format!("p{pid} {what}"));
        let process = &mut self.processes[pid];
        process.alive = false;
        process.stalled = false;
        process.backlog.clear();
        process.asked.clear();
        process.gone.get_or_insert(self.now);
        let conns = std::mem::take(&mut process.conns);
        let mut out = std::mem::take(&mut process.out);
        let cut = process.kafka_cut || self.bus.away;
        for (conn, state) in conns {
            self.loses_process(state.client, conn);
            if told {
                self.send_down(state.client, conn, ToClient::End);
            }
        }
        // What was on its way to the brokers may arrive.
        for (partition, queue) in out.iter_mut().enumerate() {
            let arrive = self.random.below(queue.len() as u64 + 1) as usize;
            for sending in queue.drain(..arrive) {
                if !cut {
                    self.append(partition, sending.event);
                }
            }
        }
    }

    /// Whether a process can know by now who has a vnode: what it had under way while it took no
    /// part has been answered; when it does not reach the store the owner reaches the bus; and where
    /// something is wrong it has a while to learn that it was fenced.
    pub(crate) fn knows_the_owner(&self, pid: usize, vnode: Vnode) -> bool {
        let since = |at: u64| self.now >= at + RESPONSE + 2 * FAILED;
        let process = &self.processes[pid];
        let owner = self.processes.get(self.accepted[vnode.index()].by);
        let tells = owner.is_none_or(|owner| !owner.kafka_cut && since(owner.kafka_back));
        let accepted = &self.accepted[vnode.index()];
        let learns = accepted.by != pid && self.now < accepted.at + FENCE && self.active > 0;
        process.gone.is_none() && since(process.back) && (tells || !process.redis_cut) && !learns
    }

    /// How long a message takes to or from a client of this connection, at most.
    pub(crate) fn latency(&mut self) -> u64 {
        1 + self.random.below(LATENCY)
    }
}
