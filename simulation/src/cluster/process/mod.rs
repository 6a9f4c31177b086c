//! A simulated edge: real presence cores and membership, and around them what the edge's shell
//! does. This file owns what a process is and whose turn it is; its parts talk to the store, the bus
//! and the clients. Its network is the world's.

mod events;
mod life;
mod membership;
mod requests;
mod sockets;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use presence::{Core, Membership, Now, PeerMessage, SessionId, StoreReply, Ticket};
use protocol::Event;
use ring::{CoreId, Epoch, Map, MapVersion, NodeId, Vnode};

pub(crate) use self::sockets::FromClient;
use self::{events::Sending, membership::Reading, requests::Asked, sockets::Conn};
use super::{mesh::Say, plan::RESPONSE, redis::Answer, world::World};

/// Requests and events of a core that may be under way.
const ROOM: usize = 64;
/// How long failures of the store are held back.
const FAILED: u64 = 100;
/// How long a process may take to learn that it was fenced, with answers or events that are lost.
const FENCE: u64 = 3_000;

/// What a core is told by the node.
#[derive(Clone)]
enum News {
    Follow(Arc<Map>, Option<Arc<Map>>),
    Resume,
    Resync,
    Gap,
}

/// What reaches a process.
pub(crate) enum In {
    Tick(usize),
    Pump(usize),
    /// A look at what the membership wants; the one of the timer comes again.
    Steps(bool),
    Peer(usize, usize, PeerMessage),
    Event(usize, Event<'static>),
    /// To a request of the store; `None` = it did not come in time.
    Answer(u64, Option<Answer>),
    /// Failures of the store that the bridge held back for a while.
    Failed(usize, StoreReply),
    Hint,
    Produce(usize),
    Consume,
    Report(usize, Ticket, bool),
    Socket(u64, FromClient),
    DialLinks,
    Link(u32, Say),
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
    lost: BTreeMap<Vnode, Epoch>,
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
    /// The process has just gone on after a stall.
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
    /// Since when it last took no part, and until when.
    pub(crate) was_gone: Option<(u64, u64)>,
    /// The time at which it last went on after a stall, ms.
    pub(crate) back: u64,
    /// It may have missed events of the bus, and has not read a map since.
    pub(crate) missed: bool,
    /// Of how many losses of the store it can know, and since when.
    pub(crate) losses: (u64, u64),
    asked: BTreeMap<u64, Asked>,
    reading: Option<Reading>,
    rounds: u64,
    stalled_flag: bool,
    read_wanted: bool,
    highest_met: Epoch,
    interest: BTreeMap<u64, u32>,
    out: Vec<VecDeque<Sending>>,
    /// How far it has read the bus; `None`: from the end on, with its next turn.
    positions: Option<Vec<usize>>,
    /// With links: it reads the bus.
    listens: bool,
}

impl Seat {
    /// The map that the core follows, and how many vnodes are on their way.
    fn progress(&self) -> (MapVersion, usize) {
        let map = self.followed.as_ref();
        let moving = self.core.vnodes_loading() + self.core.vnodes_leaving();
        (
            map.map_or(MapVersion::default(), |map| map.version()),
            moving,
        )
    }
}

impl Process {
    /// The map that all cores follow, and how many vnodes are on their way.
    pub(crate) fn progress(&self) -> (MapVersion, usize) {
        let seats = self.seats.iter().map(Seat::progress);
        let (maps, moving): (Vec<_>, Vec<_>) = seats.unzip();
        (
            maps.into_iter().min().unwrap_or_default(),
            moving.iter().sum(),
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
    fn lane(input: &In) -> u64 {
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
            In::DialLinks => 260,
            In::Link(link, _) => 3_000_000 + u64::from(*link),
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

    /// Brings an input to a process.
    pub(crate) fn process(&mut self, pid: usize, input: In) {
        if let In::Link(link, what) = &input
            && self.is_lost(*link, what)
        {
            return;
        }
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
                self.schedule_pump(pid, n);
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
                self.schedule_pump(pid, to);
            }
            In::Event(n, event) => {
                self.hears_of(pid, n, event.vnode, event.epoch);
                self.core(pid, n).bus_event(&event);
                self.schedule_pump(pid, n);
            }
            In::Answer(ticket, answer) => self.answered(pid, ticket, answer),
            In::Failed(n, reply) => {
                self.processes[pid].seats[n].asked -= 1;
                self.core(pid, n).store_reply(reply);
                self.schedule_pump(pid, n);
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
                self.schedule_pump(pid, n);
            }
            In::Socket(conn, input) => self.socket(pid, conn, input),
            In::DialLinks => self.dial_links(pid),
            In::Link(link, what) => self.hears_link(pid, link, what),
        }
    }

    /// The core, at the time of its process.
    pub(super) fn core(&mut self, pid: usize, n: usize) -> &mut Core {
        let now = self.time_of(pid);
        let core = &mut self.processes[pid].seats[n].core;
        core.at(now);
        core
    }

    pub(super) fn schedule_pump(&mut self, pid: usize, n: usize) {
        if !std::mem::replace(&mut self.processes[pid].seats[n].pump_due, true) {
            let delay = self.random.below(3);
            self.later(delay, pid, In::Pump(n));
        }
    }

    fn notify(&mut self, pid: usize) {
        let delay = self.random.below(3);
        self.later(delay, pid, In::Steps(false));
    }

    /// The core is shown that a vnode has a newer epoch than the one it has, if it has one.
    fn loses(&mut self, pid: usize, n: usize, vnode: Vnode, newest: Epoch) {
        let lost = self.processes[pid].seats[n].lost.entry(vnode).or_default();
        *lost = newest.max(*lost);
    }

    pub(super) fn hears_of(&mut self, pid: usize, n: usize, vnode: Vnode, epoch: Epoch) {
        let seat = &self.processes[pid].seats[n];
        let newest = seat.followed.as_ref().map(|map| map.epoch(vnode));
        if newest.is_none_or(|newest| epoch > newest) {
            self.loses(pid, n, vnode, epoch);
        }
    }

    /// Moves the outputs of one core to where they go.
    fn pump(&mut self, pid: usize, n: usize) {
        self.take_news(pid, n);
        self.core(pid, n);
        self.pump_store(pid, n);
        self.pump_bus(pid, n);
        self.pump_peers(pid, n);
        self.pump_links(pid, n);
        self.pump_sockets(pid, n);
        let core = &mut self.processes[pid].seats[n].core;
        let fences: Vec<_> = std::iter::from_fn(|| core.next_fence()).collect();
        let mut met = Epoch::default();
        for (vnode, epoch) in fences {
            met = met.max(epoch);
            self.truth_is_fenced(pid, vnode);
            self.note(|| format!("p{pid} core {n} is fenced: vnode {vnode}, {epoch}"));
        }
        let process = &mut self.processes[pid];
        let seat = &mut process.seats[n];
        let progress = seat.progress();
        let news = std::mem::replace(&mut seat.told, progress) != progress;
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

    /// Whether a process can know by now who has a vnode: what it had under way while it took no
    /// part has been answered; when it does not reach the store the owner reaches the bus, and what that
    /// one said there was not deleted; and where something is wrong it has a while to learn that it was
    /// fenced.
    pub(crate) fn knows_the_owner(&self, pid: usize, vnode: Vnode) -> bool {
        let since = |at: u64| self.now >= at + RESPONSE + 2 * FAILED;
        let process = &self.processes[pid];
        let owner = self.processes.get(self.accepted[vnode.index()].by);
        let accepted = &self.accepted[vnode.index()];
        let published = owner.is_none_or(|owner| !owner.kafka_cut && since(owner.kafka_back));
        let tells = match self.plan.links {
            true => {
                let read = !self.bus.away && !process.kafka_cut && !process.kafka_late;
                let linked = |pid| !self.mesh.is_cut(pid) && since(self.mesh.back(pid));
                [pid, accepted.by].into_iter().all(linked)
                    && (self.know_each_other(pid, accepted.by) || (published && read))
            }
            false => published,
        };
        let deaf = accepted.by != pid && self.store.away && process.missed;
        let learns = accepted.by != pid && self.now < accepted.at + FENCE && self.active > 0;
        process.gone.is_none()
            && since(process.back)
            && (tells || !process.redis_cut)
            && !deaf
            && !learns
    }
}
