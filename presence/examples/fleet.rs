//! A fleet of simulated edges: a real core each, with a real map, around a store and links whose delays are given. It
//! prints what a change costs and how long it takes until its watchers have it, and what the death of an edge costs.
//! Processors take no time here: the times are what the ways take, and what the code waits for.
//! `cargo run --release -p online-status-presence --example fleet -- 100` (edges; then regions, and ms there and back
//! between two of them; `homes` behind it: the cluster is in the first region, and half of who watches is not)

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use online_status_presence::{
    Core, Hello, Now, Opening, SessionId, Settings, StoreReply, StoreRequest, Ticket, WatchBudget,
    WatchRule,
};
use protocol::{Encoding, FromOwner, Stored, ToOwner, decode};
use ring::{CoreId, Epoch, Map, Member, Node, NodeId, Vnode, VnodeCount, assign};

/// One way within a region, µs: half of what a data centre's network and a server's turn take.
const NEAR: u64 = 250;
/// One way between a client and the next region, µs.
const CLIENT: u64 = 10_000;
/// From an edge's death to the map without it, µs: `rebalance.closed_for` and half of `coordinator.poll`, rounded up.
const NOTICED: u64 = 600_000;
/// How long clients wait before they come back, at most, µs: the clients' `minReconnectDelay`.
const BACKOFF: u64 = 500_000;
const USERS_PER_EDGE: usize = 20;
const WATCHES: usize = 20;
/// Between two changes of an edge's users, µs.
const PACE: u64 = 500_000;
const SECOND: u64 = 1_000_000;

type Failure = Box<dyn std::error::Error>;

enum Event {
    Tick(usize),
    Turn(usize),
    Store(usize, StoreRequest),
    Reply(usize, StoreReply),
    Reported(usize, Ticket),
    /// To the edge, over a link, from who watches or from who owns.
    Asked(usize, u32, ToOwner),
    Told(usize, u32, FromOwner),
    Connect(usize),
    Watch(usize),
    Change(usize),
    Says(usize, SessionId, String),
    Follow(usize, usize),
}

struct Edge {
    core: Core,
    id: NodeId,
    region: usize,
    alive: bool,
    turn_due: bool,
    follows: usize,
    users: BTreeMap<SessionId, usize>,
}

struct User {
    name: String,
    region: usize,
    at: Option<(usize, SessionId)>,
}

/// What was counted since it was last looked at.
#[derive(Default)]
struct Counts {
    changes: u64,
    told: u64,
    asked: u64,
    requests: u64,
    claims: u64,
    delays: Vec<u64>,
    shown_offline: u64,
    back_at: u64,
}

struct World {
    now: u64,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    /// What happens, by its place in the queue; places are used again.
    what: Vec<Option<Event>>,
    free: Vec<usize>,
    random: u64,
    /// One way between two regions, µs.
    far: u64,
    regions: usize,
    edges: Vec<Edge>,
    users: Vec<User>,
    maps: Vec<Map>,
    count: VnodeCount,
    epochs: Vec<(Epoch, bool)>,
    records: Vec<BTreeMap<Box<str>, Stored>>,
    counts: Counts,
}

impl World {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.order += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.what.push(None);
            self.what.len() - 1
        });
        self.what[place] = Some(event);
        self.events
            .push(Reverse((self.now + delay, self.order, place)));
    }

    /// One way between two regions; the store is in region 0. All ways keep their order.
    fn way(&self, one: usize, other: usize) -> u64 {
        if one == other { NEAR } else { self.far }
    }

    fn client_way(&self, user: usize, edge: usize) -> u64 {
        let (here, there) = (self.users[user].region, self.edges[edge].region);
        CLIENT + if here == there { 0 } else { self.far }
    }

    fn wake(&mut self, edge: usize) {
        if !std::mem::replace(&mut self.edges[edge].turn_due, true) {
            self.later(0, Event::Turn(edge));
        }
    }

    fn run(&mut self, until: u64) -> Result<(), Failure> {
        while let Some(&Reverse((at, _, place))) = self.events.peek() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = at;
            self.free.push(place);
            let event = self.what[place].take().ok_or("an event happens once")?;
            self.happen(event)?;
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Failure> {
        let now = time(self.now);
        let edge = match &event {
            Event::Tick(edge)
            | Event::Turn(edge)
            | Event::Reply(edge, _)
            | Event::Reported(edge, _)
            | Event::Asked(edge, ..)
            | Event::Told(edge, ..)
            | Event::Says(edge, ..)
            | Event::Follow(edge, _) => Some(*edge),
            _ => None,
        };
        if edge.is_some_and(|edge| !self.edges[edge].alive) {
            return Ok(());
        }
        if let Some(edge) = edge {
            self.edges[edge].core.at(now);
        }
        match event {
            Event::Tick(edge) => {
                self.edges[edge].core.tick(now);
                self.later(50_000, Event::Tick(edge));
            }
            Event::Turn(edge) => {
                self.edges[edge].turn_due = false;
                return self.turn(edge);
            }
            Event::Store(edge, request) => {
                let reply = self.store(request);
                let back = self.way(0, self.edges[edge].region);
                self.later(back, Event::Reply(edge, reply));
            }
            Event::Reply(edge, reply) => self.edges[edge].core.store_reply(reply),
            Event::Reported(edge, ticket) => self.edges[edge].core.bus_reply(ticket, true),
            Event::Asked(edge, link, message) => self.edges[edge].core.watcher_says(link, message),
            Event::Told(edge, link, message) => self.edges[edge].core.owner_says(link, message),
            Event::Connect(user) => self.connect(user)?,
            Event::Watch(user) => {
                let chosen = (0..WATCHES).map(|_| {
                    let number = self.below(self.users.len() as u64);
                    format!("\"{}\"", self.users[number as usize].name)
                });
                let names = chosen.collect::<Vec<_>>().join(",");
                self.says(
                    user,
                    format!(r#"{{"type":"watch","users":[{names}],"id":1}}"#),
                );
            }
            Event::Change(user) => {
                let text = format!(r#"{{"type":"status","text":"at={}","id":2}}"#, self.now);
                self.counts.changes += 1;
                self.says(user, text);
            }
            Event::Says(edge, session, text) => {
                let message = decode(Encoding::Json, text.as_bytes()).map_err(|bad| bad.message)?;
                self.edges[edge].core.receive(session, message);
            }
            Event::Follow(edge, number) => {
                let it = &mut self.edges[edge];
                let before = it.follows.checked_sub(1).map(|at| &self.maps[at]);
                it.core.follow(&self.maps[number], before, &it.id, 1);
                it.follows = number + 1;
            }
        }
        if let Some(edge) = edge {
            self.wake(edge);
        }
        Ok(())
    }

    /// What an edge's shell does after an input.
    fn turn(&mut self, edge: usize) -> Result<(), Failure> {
        let to_store = self.way(self.edges[edge].region, 0);
        while let Some(request) = self.edges[edge].core.store_requests(1, |_, _| {}).pop() {
            self.counts.requests += 1;
            self.counts.claims += u64::from(matches!(request, StoreRequest::Load { .. }));
            self.later(to_store, Event::Store(edge, request));
        }
        while let Some(publication) = self.edges[edge].core.next_publication() {
            self.later(10 * NEAR, Event::Reported(edge, publication.ticket));
        }
        let links: Vec<u32> = self.edges[edge].core.waiting_links().collect();
        for link in links {
            let (watcher, owner) = ends(link, self.edges.len());
            let other = if watcher == edge { owner } else { watcher };
            let way = self.way(self.edges[edge].region, self.edges[other].region);
            loop {
                let core = &mut self.edges[edge].core;
                let event = if watcher == edge {
                    core.next_for_owner(link)
                        .map(|it| Event::Asked(owner, link, it))
                } else {
                    core.next_for_watcher(link)
                        .map(|it| Event::Told(watcher, link, it))
                };
                match &event {
                    Some(Event::Told(..)) => self.counts.told += 1,
                    Some(_) => self.counts.asked += 1,
                    None => break,
                }
                self.later(way, event.ok_or("it is there")?);
            }
        }
        let mut more = true;
        while more {
            more = self.edges[edge].core.flush(1_024);
            let core = &self.edges[edge].core;
            let sent = core.transmits().iter().filter_map(|it| {
                let user = *self.edges[edge].users.get(&it.session)?;
                Some((
                    user,
                    String::from_utf8_lossy(&core.arena()[it.range.clone()]),
                ))
            });
            for (user, text) in sent {
                if !text.contains(r#""type":"presence""#) {
                    continue;
                }
                let arrives = self.now + self.client_way(user, edge);
                let made = text.split("\"at=").skip(1);
                let made = made.filter_map(|it| it.split('"').next()?.parse::<u64>().ok());
                self.counts.delays.extend(made.map(|made| arrives - made));
                self.counts.shown_offline += text.matches(r#""status":"offline""#).count() as u64;
            }
        }
        Ok(())
    }

    /// As the scripts in redis/scripts do it.
    fn store(&mut self, request: StoreRequest) -> StoreReply {
        let at = |vnode: Vnode| self.epochs[vnode.index()];
        match request {
            StoreRequest::Load {
                vnode,
                epoch,
                wait_below,
            } => {
                let (held, let_go) = at(vnode);
                if held > epoch {
                    return StoreReply::LoadFenced(vnode, epoch, held);
                }
                if held > Epoch::default() && held < epoch && !let_go && held < wait_below {
                    return StoreReply::Held(vnode, epoch);
                }
                self.epochs[vnode.index()] = (epoch, false);
                let users = self.records[vnode.index()].iter();
                StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: let_go && held.get() + 1 == epoch.get(),
                    users: users.map(|(user, it)| (user.clone(), it.clone())).collect(),
                }
            }
            StoreRequest::Release { vnode, epoch } => {
                self.epochs[vnode.index()] = (epoch, true);
                StoreReply::Released(vnode, epoch)
            }
            StoreRequest::Owner { vnode } => StoreReply::Owner(vnode, Some(at(vnode).0)),
            StoreRequest::Read {
                ticket,
                vnode,
                user,
            } => {
                let record = self.records[vnode.index()].get(&user).cloned();
                StoreReply::Read(ticket, at(vnode).0, record)
            }
            StoreRequest::Write {
                ticket,
                vnode,
                epoch,
                user,
                stored,
            } => {
                if at(vnode).0 > epoch {
                    return StoreReply::WriteFenced(ticket, at(vnode).0);
                }
                self.records[vnode.index()].insert(user, stored);
                StoreReply::Written(ticket)
            }
        }
    }

    /// A client comes to the edge that the newest map names; one that does not know yet sends it on.
    fn connect(&mut self, user: usize) -> Result<(), Failure> {
        let name = self.users[user].name.clone();
        let map = self.maps.last().ok_or("a map")?;
        let (owner, _) = map.owner(self.count.vnode(&name)).ok_or("an owner")?;
        let edge = self.edges.iter().position(|edge| edge.id == owner.id);
        let edge = edge.ok_or("the owner")?;
        let hello = Hello {
            user: &name,
            encoding: Encoding::Json,
            expires: 0,
            rule: WatchRule::Anyone,
            opening: Opening::default(),
            id: None,
        };
        self.edges[edge].core.at(time(self.now));
        match self.edges[edge].core.connect(&hello) {
            Ok(session) => {
                self.edges[edge].users.insert(session, user);
                self.users[user].at = Some((edge, session));
                self.counts.back_at = self.now;
                self.wake(edge);
                let way = self.client_way(user, edge);
                self.later(2 * way, Event::Watch(user));
            }
            Err(_) => self.later(100_000, Event::Connect(user)),
        }
        Ok(())
    }

    fn says(&mut self, user: usize, text: String) {
        if let Some((edge, session)) = self.users[user].at {
            let way = self.client_way(user, edge);
            self.later(way, Event::Says(edge, session, text));
        }
    }

    /// A map in which these nodes share the vnodes, and all who live follow it.
    fn share(&mut self, nodes: Vec<Node>) -> Result<(), Failure> {
        let last = self.maps.last().cloned().unwrap_or(Map::empty(self.count));
        let member = |node: &Node| Member {
            weight: node.weight,
            ..Member::default()
        };
        let members: Vec<Member> = nodes.iter().map(member).collect();
        let owners = assign(&last.owners_among(&nodes), &members)?;
        self.maps.push(last.apply(nodes, &owners));
        let number = self.maps.len() - 1;
        for edge in 0..self.edges.len() {
            // It is told, asks, and is answered.
            let way = 3 * self.way(0, self.edges[edge].region);
            self.later(way, Event::Follow(edge, number));
        }
        Ok(())
    }
}

/// A link's number says who watches and who owns.
fn link(watcher: usize, owner: usize, edges: usize) -> u32 {
    (watcher * edges + owner + 1) as u32
}

fn ends(link: u32, edges: usize) -> (usize, usize) {
    let place = link as usize - 1;
    (place / edges, place % edges)
}

fn time(us: u64) -> Now {
    Now {
        mono_us: us,
        wall_ms: 1_800_000_000_000 + us / 1_000,
    }
}

fn core(name: &NodeId, number: usize, vnodes: VnodeCount) -> Core {
    let settings = Settings {
        node: (**name).into(),
        core: CoreId::new(0),
        cores: 1,
        vnodes,
        seed: number as u64,
        cluster: true,
        starts_empty: None,
        grace: 15_000,
        clean_close_grace: 0,
        heartbeat: 3_600_000,
        heartbeat_timeout: 3_600_000,
        store_patience: 2_000,
        max_devices: 10,
        newest_wins: false,
        max_watches: 1_000,
        watches: WatchBudget::new(u64::MAX),
        outbox: 65_536,
        max_message: 16_384,
        message_rate: 20,
        message_burst: 200,
        change_rate: 20,
        change_burst: 40,
        flush: 0,
        byte_rate: 65_536,
        byte_burst: 262_144,
    };
    let mut core = Core::new(settings, time(0));
    core.hear_by_links(false);
    core
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, usual: usize| words.get(at).map_or(Ok(usual), |it| it.parse());
    let (edges, regions, round_trip) = (number(0, 10)?, number(1, 1)?, number(2, 0)?);
    let homes = words.get(3).is_some_and(|it| it == "homes");
    let count = VnodeCount::new(if edges < 500 { 4_096 } else { 16_384 })?;
    let nodes: Vec<Node> = (0..edges)
        .map(|n| {
            let id = NodeId::parse(&format!("edge-{n}"))?;
            let address = format!("wss://{id}.example/socket");
            Ok(Node {
                id,
                boot: 1,
                address,
                weight: 100,
            })
        })
        .collect::<Result<_, Failure>>()?;
    let edge = |(n, node): (usize, &Node)| Edge {
        core: core(&node.id, n, count),
        id: node.id.clone(),
        region: if homes { 0 } else { n % regions },
        alive: true,
        turn_due: false,
        follows: 0,
        users: BTreeMap::new(),
    };
    let user = |n: usize| User {
        name: format!("user-{n}"),
        region: n % regions,
        at: None,
    };
    let mut world = World {
        now: 0,
        order: 0,
        events: BinaryHeap::new(),
        what: Vec::new(),
        free: Vec::new(),
        random: 1,
        far: round_trip as u64 * 500,
        regions,
        edges: nodes.iter().enumerate().map(edge).collect(),
        users: (0..edges * USERS_PER_EDGE).map(user).collect(),
        maps: Vec::new(),
        count,
        epochs: vec![(Epoch::default(), true); count.get()],
        records: vec![BTreeMap::new(); count.get()],
        counts: Counts::default(),
    };
    for watcher in 0..edges {
        for owner in (0..edges).filter(|owner| *owner != watcher) {
            let link = link(watcher, owner, edges);
            world.edges[watcher].core.owner_linked(link);
            world.edges[owner].core.watcher_linked(link);
        }
        world.later(0, Event::Tick(watcher));
    }
    world.share(nodes.clone())?;
    for user in 0..world.users.len() {
        let when = 3 * SECOND + world.below(SECOND);
        world.later(when, Event::Connect(user));
    }
    world.run(8 * SECOND)?;

    // Ten seconds of changes.
    world.counts = Counts::default();
    for round in 0..10 * SECOND / PACE {
        for _ in 0..edges {
            // At home, who changes is where the cluster is.
            let step = if homes { regions as u64 } else { 1 };
            let user = world.below(world.users.len() as u64) / step * step;
            let when = round * PACE + world.below(PACE);
            world.later(when, Event::Change(user as usize));
        }
    }
    world.run(19 * SECOND)?;
    let mut it = std::mem::take(&mut world.counts);
    it.delays.sort_unstable();
    let at = |part: f64| it.delays[((it.delays.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    let each = |sum: u64| sum as f64 / it.changes as f64;
    println!(
        "{edges} edges of {} vnodes, {} region(s), {round_trip} ms between them{}",
        count.get(),
        world.regions,
        if homes { ", the cluster in one" } else { "" }
    );
    println!(
        "  a change: {:.2} deliveries, {:.2} messages on links, {:.2} requests to the store; until a watcher has it p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        each(it.delays.len() as u64),
        each(it.told + it.asked),
        each(it.requests),
        at(0.5),
        at(0.99),
        at(1.0)
    );

    // An edge dies.
    let died = world.now;
    world.edges[0].alive = false;
    let gone: Vec<usize> = world.edges[0].users.values().copied().collect();
    for user in &gone {
        world.users[*user].at = None;
    }
    for other in 1..edges {
        world.edges[other].core.unlinked(link(other, 0, edges));
        world.edges[other].core.unlinked(link(0, other, edges));
    }
    world.run(died + NOTICED)?;
    world.share(nodes[1..].to_vec())?;
    for user in &gone {
        let when = world.below(BACKOFF);
        world.later(when, Event::Connect(*user));
    }
    world.run(died + 30 * SECOND)?;
    let it = &world.counts;
    let back = gone
        .iter()
        .filter(|user| world.users[**user].at.is_some())
        .count();
    println!(
        "  an edge of {} users dies: {} vnodes claimed by {} others, {} messages on links, {} requests to the store; {back} users back, the last {:.2} s later; shown offline: {}",
        gone.len(),
        it.claims,
        edges - 1,
        it.told + it.asked,
        it.requests,
        (it.back_at - died) as f64 / 1e6,
        it.shown_offline
    );
    Ok(())
}
