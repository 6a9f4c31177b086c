//! What a clustered edge has besides a standalone one: its place in the cluster, shared by the
//! cores, the thread that talks to Redis, and the threads of Kafka. It owns nothing of a session.

mod bus_reader;
mod fleet;
mod interest;
mod place;
mod policy;

use std::{net::TcpListener, sync::Arc, time::Duration};

use keys::Keys;
use presence::Now;
use protocol::Event;
use ring::{CoreId, NodeId, VnodeCount, VnodeSet};

use self::bus_reader::BusReader;
pub(crate) use self::{
    fleet::Described,
    place::{News, Place, StoreStats, WorkerLinks},
};
use crate::{
    bus::{self, Bus},
    clock,
    config::Config,
    links,
    mesh::Wakeup,
    metrics::Metrics,
    store::{self, Store},
    surveys::Surveys,
    trace::Traces,
};

/// Events that may wait for one core; with more, reading from the topic pauses.
const EVENTS: usize = 8_192;
/// How long the producer may take for its last events at the end.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// How long a batch of writes may be under way, ms: part of the time in which a node may die with
/// half of its work done.
const FLUSH: u64 = 5_000;

/// Why an edge cannot be part of a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("node.id (NODE_ID), by default the host's name: {0}")]
    Node(#[from] ring::NodeIdError),
    #[error(transparent)]
    Redis(#[from] redis_store::OptionsError),
    #[error(transparent)]
    Kafka(#[from] kafka_bus::OpenError),
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Listen(#[from] program::ListenError),
}

/// A cluster's parts, started.
pub(crate) struct Cluster {
    pub(crate) place: Arc<Place>,
    pub(crate) stores: Vec<Box<dyn Store + Send>>,
    pub(crate) buses: Vec<Box<dyn Bus + Send>>,
    /// By core: what comes in from the bus.
    pub(crate) events: Vec<rtrb::Consumer<Event<'static>>>,
    pub(crate) end: End,
}

/// The handles by which a clustered edge's parts are ended.
pub(crate) struct End {
    place: Arc<Place>,
    producer: Arc<kafka_bus::Producer>,
    reader: Arc<BusReader>,
    redis: std::thread::JoinHandle<()>,
}

impl End {
    /// After the cores: the last events are sent, the lease is given back.
    pub(crate) fn run(self) {
        if let Some(links) = &self.place.links {
            links.end();
        }
        self.reader.stop();
        self.producer.stop(LAST_EVENTS);
        self.place.end();
        // It has panicked when it cannot be joined, and said so.
        let _ = self.redis.join();
    }
}

/// The node's name: the setting, or the host's name.
pub(crate) fn node_id(config: &Config) -> Result<NodeId, ClusterError> {
    let name = match config.node.id.as_str() {
        "" => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        name => name.to_owned(),
    };
    Ok(NodeId::parse(&name)?)
}

/// Starts what talks to Redis and Kafka. `homes`: the core of each vnode on this node.
pub(crate) fn start(
    config: &Config,
    node: NodeId,
    address: &str,
    homes: &[CoreId],
    wakeups: &[Arc<Wakeup>],
    (metrics, traces, surveys): (&Arc<Metrics>, &Arc<Traces>, &Arc<Surveys>),
    keys: &Arc<Keys>,
) -> Result<Cluster, ClusterError> {
    let link = redis_store::Link::open(config.redis.options())?;
    let vnodes = VnodeCount::new(homes.len()).expect("one home a vnode");
    let kafka = config.kafka_options()?;
    let (links, listener) = links_of(config)?.unzip();
    let place = Arc::new(Place::new(
        node,
        wakeups,
        homes.into(),
        link.clone(),
        Arc::clone(metrics),
        links.as_ref(),
    ));

    let (producers, consumers): (Vec<_>, Vec<_>) = wakeups
        .iter()
        .map(|_| rtrb::RingBuffer::new(EVENTS))
        .unzip();
    let reports = bus::Mailboxes::new(wakeups);
    let producer = kafka_bus::Producer::start(kafka.clone(), Arc::clone(&reports) as _)?;
    let producer = Arc::new(producer);
    let buses = (0..wakeups.len()).map(|core| {
        let handle = bus::Kafka::new(
            core,
            &place.node,
            Arc::clone(&producer),
            Arc::clone(&reports),
        );
        Box::new(handle) as Box<dyn Bus + Send>
    });
    let buses = buses.collect();
    let sink = bus::Inlet::new(Arc::clone(&place), vnodes, producers);
    place.set_producer(Arc::clone(producer.health()));
    let reader = Arc::new(BusReader::new(kafka, sink, Arc::clone(&place)));
    match (&place.links, listener) {
        (Some(links), Some(listener)) => links.start(listener, Arc::clone(&place))?,
        _ => reader.start()?,
    }

    let (handles, outlet) = store::remote(wakeups);
    let stores = handles
        .into_iter()
        .map(|handle| Box::new(handle) as Box<dyn Store + Send>)
        .collect();
    let presence = &config.presence;
    let silence = presence.heartbeat.max(presence.alive_max) + presence.heartbeat_timeout;
    let uncertain = config.cluster.lease_ttl + silence + presence.grace;
    let bridge = store::Redis {
        link: link.clone(),
        uncertain_ms: uncertain.as_millis() as u64 + FLUSH,
        retention_ms: config.store.retention.as_millis() as u64,
        stats: Arc::clone(&place.store_stats),
    };
    let described = Described {
        address: address.to_owned(),
        link: links.map_or_else(String::new, |links| links.address),
        cores: wakeups.len() as u16,
        weight: match config.share.weight {
            0 => 100 * wakeups.len() as u32,
            weight => weight as u32,
        },
        pins: VnodeSet::parse(&config.share.assigned_vnodes, vnodes)
            .map(|set| set.to_string())
            .unwrap_or_default(),
        ttl: config.cluster.lease_ttl,
        memory_limit: crate::start::memory_limit(config),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (keeper, keys, hears) = (Arc::clone(&place), Arc::clone(keys), Arc::clone(&reader));
    let (traces, surveys) = (Arc::clone(traces), Arc::clone(surveys));
    let redis = std::thread::Builder::new()
        .name("redis".into())
        .spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                tokio::task::spawn_local(bridge.serve(outlet));
                let (reading, known, place) =
                    (link.clone(), Arc::clone(&keys), Arc::clone(&keeper));
                tokio::task::spawn_local(async move {
                    policy::keep(reading, &place, &known, (&traces, &surveys)).await;
                });
                let (reading, place) = (link.clone(), Arc::clone(&keeper));
                tokio::task::spawn_local(async move {
                    bus_reader::keep(reading, &place, &hears).await;
                });
                fleet::until_ready(&keeper, &keys).await;
                fleet::keep(link, &keeper, &described).await;
            });
        })?;
    Ok(Cluster {
        end: End {
            place: Arc::clone(&place),
            producer,
            reader,
            redis,
        },
        place,
        stores,
        buses,
        events: consumers,
    })
}

/// Where links are taken, with the socket; `None` = there is no key, and so are no links.
fn links_of(config: &Config) -> Result<Option<(links::Options, TcpListener)>, ClusterError> {
    let share = &config.share;
    if !share.link_key.is_set() {
        return Ok(None);
    }
    let listener = program::listen("cluster.link_listen", share.link_listen, |address| {
        TcpListener::bind(address)
    })?;
    let options = links::Options {
        address: match share.link_address.as_str() {
            "" => listener.local_addr()?.to_string(),
            address => address.to_owned(),
        },
        key: links::ClusterKey::new(share.link_key.expose()),
    };
    Ok(Some((options, listener)))
}

/// A random number of this process, below 2^53 so that every reader of JSON sees it exactly.
fn random_boot() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    let Now { mono_us, wall_ms } = clock::now();
    RandomState::new().hash_one((mono_us, wall_ms)) >> 11 | 1
}
