//! The node's place in the cluster, as its cores, its bridges and its pages see it. Cores write
//! their progress and read the map; nobody waits here.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use kafka_bus::{ConsumerHealth, ProducerHealth};
use protocol::Event;
use ring::{CoreId, Epoch, Map, MapVersion, NodeId};
use tokio::sync::Notify;

use super::{interest::Interest, random_boot};
use crate::{
    clock,
    links::{self, Links},
    mesh::Wakeup,
    metrics::{Latency, Metrics},
    store::Failing,
};

/// What the node tells its cores.
pub(crate) enum News {
    /// The core has to follow a newer map.
    Follow {
        map: Arc<Map>,
        before: Option<Arc<Map>>,
    },
    /// The core may go on after a pause.
    Resume,
    /// The core has to claim its vnodes and write their users again.
    Resync,
    /// To read again what it watches on other nodes.
    Gap,
}

struct Inbox {
    news: Mutex<VecDeque<News>>,
    wakeup: Arc<Wakeup>,
}

/// A core's progress with the map, as it noted it last.
#[derive(Default)]
struct Progress {
    followed: AtomicU64,
    owned: AtomicUsize,
    moving: AtomicUsize,
}

/// The counters of the store's bridge.
#[derive(Default)]
pub(crate) struct StoreStats {
    /// The time from a batch's start to its answer.
    pub(crate) flush: Mutex<Latency>,
    pub(crate) failures: AtomicU64,
    pub(crate) trimmed: AtomicU64,
    pub(crate) failing: Arc<Failing>,
}

/// A change that waits so long for the brokers, ms, is late: they confirm within some tens of ms, and
/// within a few seconds when a leader changes.
const OVERDUE: u64 = 5_000;

pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) map: ArcSwapOption<Map>,
    pub(crate) interest: Interest,
    pub(crate) homes: Box<[CoreId]>,
    pub(crate) link: redis_store::Link,
    pub(super) metrics: Arc<Metrics>,
    pub(crate) store_stats: Arc<StoreStats>,
    producer: OnceLock<Arc<ProducerHealth>>,
    /// `None` while the node reads no events: it hears all others over links.
    consumer: ArcSwapOption<ConsumerHealth>,
    /// `None` = the node has no links.
    pub(crate) links: Option<Arc<Links>>,
    inboxes: Vec<Inbox>,
    progress: Vec<Progress>,
    /// Whether a core stood still since the last look.
    stalled: AtomicBool,
    highest_met: AtomicU32,
    /// Whether the map is wanted to be read at once.
    read_wanted: AtomicBool,
    /// The number of times that the map was read.
    reads: AtomicU64,
    lease_until: AtomicU64,
    lease_lapses: AtomicBool,
    /// Why the lease could not be renewed the last time.
    pub(crate) unrenewed: Failing,
    pub(crate) resyncs: AtomicU64,
    pub(crate) stalls: AtomicU64,
    /// Why the map that is there cannot be used.
    pub(crate) map_left_aside: Failing,
    /// Times the map that was there could not be used.
    pub(crate) unusable_maps: AtomicU64,
    /// The node wants to be relieved of its vnodes.
    leaving: AtomicBool,
    ending: AtomicBool,
    pub(crate) notify: Notify,
}

/// What a core's worker has of the cluster.
pub(crate) struct WorkerLinks {
    pub(crate) place: Arc<Place>,
    pub(crate) events: rtrb::Consumer<Event<'static>>,
}

impl Place {
    pub(super) fn new(
        node: NodeId,
        wakeups: &[Arc<Wakeup>],
        homes: Box<[CoreId]>,
        link: redis_store::Link,
        metrics: Arc<Metrics>,
        links: Option<&links::Options>,
    ) -> Self {
        let boot = random_boot();
        let links = links.map(|options| Links::new(options, &node, boot, &homes, wakeups));
        let inbox = |wakeup: &Arc<Wakeup>| Inbox {
            news: Mutex::default(),
            wakeup: Arc::clone(wakeup),
        };
        Self {
            node,
            boot,
            map: ArcSwapOption::empty(),
            interest: Interest::new(),
            homes,
            link,
            metrics,
            store_stats: Arc::default(),
            producer: OnceLock::new(),
            consumer: ArcSwapOption::empty(),
            links,
            inboxes: wakeups.iter().map(inbox).collect(),
            progress: wakeups.iter().map(|_| Progress::default()).collect(),
            stalled: AtomicBool::new(false),
            highest_met: AtomicU32::new(0),
            read_wanted: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            lease_until: AtomicU64::new(0),
            lease_lapses: AtomicBool::new(false),
            unrenewed: Failing::empty(),
            resyncs: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            map_left_aside: Failing::empty(),
            unusable_maps: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            notify: Notify::new(),
        }
    }

    pub(super) fn set_producer(&self, producer: Arc<ProducerHealth>) {
        // It is set once, at the start.
        let _ = self.producer.set(producer);
    }

    pub(super) fn set_consumer(&self, consumer: Option<Arc<ConsumerHealth>>) {
        self.consumer.store(consumer);
    }

    pub(crate) fn producer(&self) -> Option<&Arc<ProducerHealth>> {
        self.producer.get()
    }

    /// How reading of the bus is doing; `None` when this node does not read it.
    pub(crate) fn consumer(&self) -> Option<Arc<ConsumerHealth>> {
        self.consumer.load_full()
    }

    /// Why this node's changes do not reach the others; the same text while nothing changes.
    pub(crate) fn not_publishing(&self) -> Option<String> {
        self.producer()?.trouble().or_else(|| {
            let overdue = self.metrics.oldest_unreported() >= OVERDUE;
            let text = format!(
                "the brokers have not confirmed changes for {} s",
                OVERDUE / 1_000
            );
            overdue.then_some(text)
        })
    }

    /// What is wrong with the bus or the links, while its node serves its own watchers all the same.
    pub(crate) fn trouble(&self) -> Option<String> {
        let producer = self.producer()?;
        let with_error = |why: String, error: Option<kafka_bus::LastError>| match error {
            Some(error) => format!("{why}; the last error was: {}", error.text),
            None => why,
        };
        if let Some(why) = self.not_publishing() {
            let why = with_error(why, producer.last_error());
            return Some(format!("not publishing: {why}"));
        }
        if let Some(consumer) = self.consumer()
            && let Some(why) = consumer.trouble()
        {
            let why = with_error(why, consumer.last_error());
            return Some(format!("not hearing of other nodes' users: {why}"));
        }
        self.links.as_ref()?.trouble(self)
    }

    /// Tells every core. A map that waits is replaced by a newer one, so that few things wait for a
    /// core that stands still.
    pub(crate) fn tell(&self, news: impl Fn() -> News) {
        for inbox in &self.inboxes {
            let mut waiting = inbox.news.lock().expect("nobody panics with this lock");
            match (waiting.back_mut(), news()) {
                (Some(News::Follow { map, .. }), News::Follow { map: newer, .. }) => *map = newer,
                (Some(News::Gap), News::Gap) | (Some(News::Resync), News::Resync) => {}
                (_, news) => waiting.push_back(news),
            }
            drop(waiting);
            inbox.wakeup.wake();
        }
    }

    /// What a core was told since the last time.
    pub(crate) fn news_for(&self, core: CoreId) -> VecDeque<News> {
        let inbox = &self.inboxes[usize::from(core.get())];
        std::mem::take(&mut *inbox.news.lock().expect("nobody panics with this lock"))
    }

    /// Wakes a core that events wait for.
    pub(crate) fn wake(&self, core: CoreId) {
        self.inboxes[usize::from(core.get())].wakeup.wake();
    }

    /// Notes a core's progress with the map.
    pub(crate) fn note(&self, core: CoreId, followed: MapVersion, owned: usize, moving: usize) {
        let progress = &self.progress[usize::from(core.get())];
        progress.owned.store(owned, Ordering::Relaxed);
        progress.moving.store(moving, Ordering::Relaxed);
        progress.followed.store(followed.get(), Ordering::Release);
        self.notify.notify_one();
    }

    /// The map that all cores follow, and how many vnodes are on their way.
    pub(crate) fn progress(&self) -> (MapVersion, usize) {
        let followed = self
            .progress
            .iter()
            .map(|p| p.followed.load(Ordering::Acquire))
            .min();
        let moving = self
            .progress
            .iter()
            .map(|p| p.moving.load(Ordering::Relaxed))
            .sum();
        (MapVersion::new(followed.unwrap_or(0)), moving)
    }

    /// The number of vnodes that the node owns.
    pub(crate) fn owned(&self) -> usize {
        self.progress
            .iter()
            .map(|p| p.owned.load(Ordering::Relaxed))
            .sum()
    }

    /// Notes that a core stood still.
    pub(crate) fn stood_still(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        self.stalled.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(super) fn take_stalled(&self) -> bool {
        self.stalled.swap(false, Ordering::AcqRel)
    }

    /// Notes an epoch that a core has met.
    pub(crate) fn met(&self, epoch: Epoch) {
        self.highest_met.fetch_max(epoch.get(), Ordering::Relaxed);
        self.notify.notify_one();
    }

    pub(super) fn highest_met(&self) -> Epoch {
        Epoch::new(self.highest_met.load(Ordering::Relaxed))
    }

    /// Asks for the map to be read; it has been when [`Place::reads`] has grown by two, as one
    /// reading may be under way already.
    pub(crate) fn want_map(&self) {
        self.read_wanted.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(super) fn take_read_wanted(&self) -> bool {
        self.read_wanted.swap(false, Ordering::AcqRel)
    }

    pub(super) fn was_read(&self) {
        self.reads.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Acquire)
    }

    pub(super) fn has_lease_until(&self, ms: u64) {
        self.lease_until.store(ms, Ordering::Relaxed);
    }

    /// Whether the lease stands, by this process's own account.
    pub(crate) fn has_lease(&self) -> bool {
        clock::mono_us() / 1_000 < self.lease_until.load(Ordering::Relaxed)
    }

    pub(super) fn set_lease_lapses(&self, lapses: bool) {
        if self.lease_lapses.swap(lapses, Ordering::Relaxed) != lapses
            && let Some(links) = &self.links
        {
            links.look_at_bus();
        }
    }

    /// Whether the lease is not renewed and about to end, or over.
    pub(super) fn lease_lapses(&self) -> bool {
        self.lease_lapses.load(Ordering::Relaxed)
    }

    /// Whether some other node could take this one's vnodes.
    pub(crate) fn has_others(&self) -> bool {
        let others = |map: Arc<Map>| map.nodes().iter().any(|node| node.id != self.node);
        self.map.load_full().is_some_and(others)
    }

    /// Asks the coordinator to give the node's vnodes to others.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Ends the thread that talks to Redis.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}
