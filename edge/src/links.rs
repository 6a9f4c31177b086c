//! Links between the edges of a cluster: over them a node tells others of whom its sessions want to
//! hear, and is told how they are. It owns the connections, on a thread of its own, and what waits on
//! them, which is bounded; what is said is the cores'.

mod tls;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::TcpListener,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use protocol::{FromOwner, LinkHello, ToOwner};
use ring::{CoreId, NodeId, VnodeCount};
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

pub(crate) use self::tls::ClusterKey;
use crate::{clock, cluster::Place, mesh::Wakeup};

/// Bytes that may wait on a link; with more, users wait in the cores, each once.
const ROOM: usize = 128 << 10;
/// Messages that may wait for a core; with more, the link is not read.
const INBOX: usize = 16_384;
/// Between two looks at whom to connect to, and between two signs of life on each link: they come together.
const BEAT: Duration = Duration::from_millis(500);
/// Between two tries to reach the same node.
const RETRY: Duration = Duration::from_millis(250);
/// How long a node that is not reached is no trouble yet, ms: links take their time.
const PATIENCE: u64 = 3_000;

/// What a core is told of links.
pub(crate) enum LinkEvent {
    /// This node connected to one that owns.
    OwnerLinked(Arc<Conn>),
    /// One that watches connected to this node.
    WatcherLinked(Arc<Conn>),
    Unlinked(u32),
    Owner(u32, FromOwner),
    Watcher(u32, ToOwner),
    /// Whether events of the bus come as well.
    HasBus(bool),
}

/// A connection to another node, as cores see it.
pub(crate) struct Conn {
    pub(crate) number: u32,
    /// Whether this node connected, and watches.
    pub(crate) to_owner: bool,
    out: Mutex<Vec<u8>>,
    /// A core was kept from putting more.
    is_full: AtomicBool,
    wake: Notify,
}

impl Conn {
    fn new(number: u32, to_owner: bool) -> Self {
        Self {
            number,
            to_owner,
            out: Mutex::default(),
            is_full: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Lets `next` append messages while there is room; it says whether it did.
    pub(crate) fn fill(&self, mut next: impl FnMut(&mut Vec<u8>) -> bool) {
        let mut out = locked(&self.out);
        let was_empty = out.is_empty();
        loop {
            if out.len() >= ROOM {
                self.is_full.store(true, Ordering::Relaxed);
                break;
            }
            if !next(&mut out) {
                break;
            }
        }
        let has_some = was_empty && !out.is_empty();
        drop(out);
        if has_some {
            self.wake.notify_one();
        }
    }

    /// What waits, for the connection; and whether cores wait for room.
    fn take(&self) -> (Vec<u8>, bool) {
        let mut out = locked(&self.out);
        let full = self.is_full.swap(false, Ordering::Relaxed);
        (std::mem::take(&mut *out), full)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Inbox {
    link_events: Mutex<VecDeque<LinkEvent>>,
    wakeup: Arc<Wakeup>,
}

/// Counts of all links since the start.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) connects: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Before TLS and after it.
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_batches: AtomicU64,
    /// Links on which this node watches, and those on which others do, now.
    pub(crate) owners: AtomicUsize,
    pub(crate) watchers: AtomicUsize,
    /// Nodes that this one should hear over a link and does not, now.
    pub(crate) missing: AtomicUsize,
}

/// Whom this node knows, and how it stands with each.
#[derive(Default)]
struct Peers {
    /// By boot: where a process takes links, by its lease or its own word; empty = it has none.
    known: BTreeMap<u64, String>,
    /// By boot: whom a link stands to, or is tried to.
    busy: BTreeSet<u64>,
    /// By boot: since when a link is missing, on the process's clock, ms, and why.
    missing: BTreeMap<u64, (u64, String)>,
}

/// How this node shows itself to others.
pub(crate) struct Options {
    pub(crate) address: String,
    pub(crate) key: ClusterKey,
}

/// The links of a node.
pub(crate) struct Links {
    key: ClusterKey,
    pub(crate) address: String,
    node: NodeId,
    boot: u64,
    vnodes: VnodeCount,
    homes: Box<[CoreId]>,
    inboxes: Vec<Inbox>,
    numbers: AtomicU32,
    peers: Mutex<Peers>,
    /// Boots whose leases are wanted, for the thread that talks to Redis.
    unknown: AtomicBool,
    /// Whether the bus has to be read may have changed, or there are unknown ones.
    bus_news: Notify,
    ending: AtomicBool,
    /// There may be somebody to connect to, or the end has come.
    news: Notify,
    /// From when on beats are counted.
    begun: Instant,
    pub(crate) stats: Stats,
}

impl Links {
    pub(crate) fn new(
        options: &Options,
        node: &NodeId,
        boot: u64,
        homes: &[CoreId],
        wakeups: &[Arc<Wakeup>],
    ) -> Arc<Self> {
        let inbox = |wakeup: &Arc<Wakeup>| Inbox {
            link_events: Mutex::default(),
            wakeup: Arc::clone(wakeup),
        };
        let links = Self {
            key: options.key.clone(),
            address: options.address.clone(),
            node: node.clone(),
            boot,
            vnodes: VnodeCount::new(homes.len()).expect("one home a vnode"),
            homes: homes.into(),
            inboxes: wakeups.iter().map(inbox).collect(),
            numbers: AtomicU32::new(1),
            peers: Mutex::default(),
            unknown: AtomicBool::new(false),
            bus_news: Notify::new(),
            ending: AtomicBool::new(false),
            news: Notify::new(),
            begun: Instant::now(),
            stats: Stats::default(),
        };
        links.tell_all(|| LinkEvent::HasBus(false));
        Arc::new(links)
    }

    /// Takes links and makes them, on a thread of its own, until [`Links::end`].
    pub(crate) fn start(
        self: &Arc<Self>,
        listener: TcpListener,
        place: Arc<Place>,
    ) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let links = Arc::clone(self);
        std::thread::Builder::new()
            .name("links".into())
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    let listener = tokio::net::TcpListener::from_std(listener);
                    let listener = listener.expect("the runtime takes sockets");
                    tokio::task::spawn_local(wire::accept(Arc::clone(&links), listener));
                    while !links.ending.load(Ordering::Acquire) {
                        links.look(&place);
                        let _ = timeout_at(links.next_beat(), links.news.notified()).await;
                    }
                });
            })?;
        Ok(())
    }

    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.news.notify_one();
    }

    /// Has it looked at once whom to connect to: there is a newer map.
    pub(crate) fn look_soon(&self) {
        self.news.notify_one();
    }

    fn next_beat(&self) -> Instant {
        let beats = self.begun.elapsed().as_millis() / BEAT.as_millis();
        self.begun + BEAT * (beats as u32 + 1)
    }

    /// What a core was told since the last time.
    pub(crate) fn events_for(&self, core: CoreId) -> VecDeque<LinkEvent> {
        std::mem::take(&mut *locked(
            &self.inboxes[usize::from(core.get())].link_events,
        ))
    }

    fn tell_all(&self, link_events: impl Fn() -> LinkEvent) {
        for inbox in &self.inboxes {
            locked(&inbox.link_events).push_back(link_events());
            inbox.wakeup.wake();
        }
    }

    fn ring_all(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.wakeup.wake());
    }

    /// Waits until no core has too much in its inbox.
    async fn has_room(&self) {
        let full = |inbox: &Inbox| locked(&inbox.link_events).len() >= INBOX;
        while self.inboxes.iter().any(full) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Gives each core what a batch has for it.
    fn deliver(&self, batch: Vec<(CoreId, LinkEvent)>) {
        let mut touched = 0_u64;
        for (core, link_events) in batch {
            let n = usize::from(core.get());
            touched |= 1 << n;
            locked(&self.inboxes[n].link_events).push_back(link_events);
        }
        for (n, inbox) in self.inboxes.iter().enumerate() {
            if touched & 1 << n != 0 {
                inbox.wakeup.wake();
            }
        }
    }

    fn hello(&self) -> LinkHello {
        LinkHello {
            node: self.node.clone(),
            boot: self.boot,
            vnodes: self.vnodes.get() as u32,
            address: self.address.clone(),
        }
    }

    /// Whether a lease is wanted since the last time.
    pub(crate) fn take_unknown(&self) -> bool {
        self.unknown.swap(false, Ordering::AcqRel)
    }

    /// Has it looked at once whether the bus has to be read.
    pub(crate) fn look_at_bus(&self) {
        self.bus_news.notify_one();
    }

    /// Waits for what [`Links::look_at_bus`] says, or for an unknown process, no longer than `patience`.
    pub(crate) async fn bus_news(&self, patience: Duration) {
        let _ = timeout(patience, self.bus_news.notified()).await;
    }

    /// Notes where a process takes links, by its lease or its own word; empty = it has none.
    pub(crate) fn knows(&self, boot: u64, address: &str) {
        let before = locked(&self.peers).known.insert(boot, address.to_owned());
        if before.is_none_or(|before| before != address) {
            self.news.notify_one();
        }
    }

    /// Whether a node of the map is heard by the bus alone.
    pub(crate) fn needs_bus(&self, place: &Place) -> bool {
        let Some(map) = place.map.load_full() else {
            return false;
        };
        let peers = locked(&self.peers);
        let silent = |boot: &u64| peers.known.get(boot).is_some_and(String::is_empty);
        map.nodes().iter().any(|node| silent(&node.boot))
    }

    /// Tells the cores whether events of the bus come.
    pub(crate) fn tell_bus(&self, has: bool) {
        self.tell_all(|| LinkEvent::HasBus(has));
    }

    /// Connects to whom it should and does not yet.
    fn look(self: &Arc<Self>, place: &Place) {
        let Some(map) = place.map.load_full() else {
            return;
        };
        let now = clock::mono_us() / 1_000;
        let mut peers = locked(&self.peers);
        let in_map: BTreeSet<u64> = map.nodes().iter().map(|node| node.boot).collect();
        let mut dial = Vec::new();
        for node in map.nodes().iter().filter(|node| node.boot != self.boot) {
            match peers.known.get(&node.boot) {
                None => {
                    self.unknown.store(true, Ordering::Release);
                    self.bus_news.notify_one();
                }
                Some(address) if !address.is_empty() && !peers.busy.contains(&node.boot) => {
                    dial.push((node.boot, address.clone()));
                }
                Some(_) => {}
            }
        }
        // Who connects says where it is reached: it may be in no map that this node can read now.
        for (boot, address) in &peers.known {
            if !in_map.contains(boot)
                && *boot != self.boot
                && !peers.busy.contains(boot)
                && !address.is_empty()
                && peers.missing.contains_key(boot)
            {
                dial.push((*boot, address.clone()));
            }
        }
        for (boot, address) in dial {
            peers.busy.insert(boot);
            let since = |peers: &Peers| peers.missing.get(&boot).map_or(now, |(since, _)| *since);
            let since = since(&peers);
            peers
                .missing
                .entry(boot)
                .or_insert((since, "not tried yet".into()));
            let links = Arc::clone(self);
            tokio::task::spawn_local(async move {
                let why = wire::watch(&links, boot, &address).await;
                links.stats.failures.fetch_add(1, Ordering::Relaxed);
                let now = clock::mono_us() / 1_000;
                {
                    let mut peers = locked(&links.peers);
                    let since = peers.missing.get(&boot).map_or(now, |(since, _)| *since);
                    peers.missing.insert(boot, (since, why));
                }
                tokio::time::sleep(RETRY).await;
                locked(&links.peers).busy.remove(&boot);
                links.news.notify_one();
            });
        }
        // A process that is in no map, and cannot be reached, is no more.
        let gone = |boot: &u64, (since, _): &(u64, String)| {
            !in_map.contains(boot) && now > since + PATIENCE
        };
        let gone: Vec<u64> = peers
            .missing
            .iter()
            .filter(|(boot, missing)| gone(boot, missing))
            .map(|(boot, _)| *boot)
            .collect();
        for boot in gone {
            peers.missing.remove(&boot);
        }
        let Peers {
            known,
            busy,
            missing,
        } = &mut *peers;
        known.retain(|boot, _| {
            in_map.contains(boot) || busy.contains(boot) || missing.contains_key(boot)
        });
        let missing = peers.missing.keys().filter(|boot| in_map.contains(boot));
        self.stats.missing.store(missing.count(), Ordering::Relaxed);
    }

    /// A link to that process stands.
    fn is_linked(&self, boot: u64) {
        locked(&self.peers).missing.remove(&boot);
    }

    /// A process connected, which this node should hear as well.
    fn is_watched_by(&self, hello: &LinkHello) {
        self.knows(hello.boot, &hello.address);
        let now = clock::mono_us() / 1_000;
        let mut peers = locked(&self.peers);
        if !peers.busy.contains(&hello.boot) {
            peers
                .missing
                .entry(hello.boot)
                .or_insert((now, "not tried yet".into()));
            self.news.notify_one();
        }
    }

    /// Which node is not heard over a link, though it should be.
    pub(crate) fn trouble(&self, place: &Place) -> Option<String> {
        let map = place.map.load_full()?;
        let now = clock::mono_us() / 1_000;
        let peers = locked(&self.peers);
        map.nodes().iter().find_map(|node| {
            let (since, why) = peers.missing.get(&node.boot)?;
            let address = peers.known.get(&node.boot)?;
            (now > since + PATIENCE).then(|| {
                format!(
                    "no link to {} at {address} ({why}): what it says of its users is read from \
                     Redis, up to 2 s late",
                    node.id
                )
            })
        })
    }
}
