//! What the edge counts and how Prometheus reads it. Every metric's name and labels stand here.
//! Cores count plain numbers of their own and publish a copy now and then; nothing is shared on a
//! session's path.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use presence::Counters;
use program::{
    metrics::{Histogram, Kind, Number, Page},
    numbers,
};

use crate::{cluster::Place, shared::Shared};

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];

/// Upper bounds of the buckets of a delivery's whole way, in microseconds. A status begins at a whole
/// millisecond: what is told within the same one counts as up to 1 ms.
const WHOLE_WAY: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// A histogram of the whole ways of deliveries.
#[derive(Debug, Clone)]
pub(crate) struct WholeWay(pub(crate) Histogram);

impl Default for WholeWay {
    fn default() -> Self {
        Self(Histogram::new(&WHOLE_WAY))
    }
}

/// A histogram of latencies of requests.
#[derive(Debug, Clone)]
pub(crate) struct Latency(pub(crate) Histogram);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(&BUCKETS))
    }
}

impl Latency {
    pub(crate) fn record(&mut self, us: u64) {
        self.0.record(us);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.add(&other.0);
    }

    /// As [`Histogram::quantile_since`].
    pub(crate) fn quantile_since(&self, before: &Self, share: f64) -> u64 {
        self.0.quantile_since(&before.0, share)
    }
}

/// Deliveries of one batch, most of which tell of the same change: a run of them is counted at once.
#[derive(Debug)]
pub(crate) struct Run {
    now: u64,
    /// When what the run tells of began, µs; 0 = it is not counted.
    began: u64,
    times: u64,
}

impl Run {
    /// An empty one of a batch that is sent at `now`, µs.
    pub(crate) fn new(now: u64) -> Self {
        let (began, times) = (0, 0);
        Self { now, began, times }
    }

    /// A delivery of what began then.
    #[inline]
    pub(crate) fn add(&mut self, began: u64, histogram: &mut Histogram) {
        if began != self.began {
            self.end(histogram);
            (self.began, self.times) = (began, 0);
        }
        self.times += 1;
    }

    pub(crate) fn end(&self, histogram: &mut Histogram) {
        if self.began != 0 {
            histogram.record_many(self.now.saturating_sub(self.began), self.times);
        }
    }
}

/// What a core counts around its presence.
#[derive(Debug, Clone, Default)]
pub(crate) struct CoreStats {
    /// How often the core has published: while it grows, the core goes on.
    pub(crate) published: u64,
    pub(crate) presence: Counters,
    /// Connections of any kind, now.
    pub(crate) connections: u64,
    /// Open connections without a session.
    pub(crate) unauthenticated: u64,
    pub(crate) accepted: u64,
    pub(crate) accept_errors: u64,
    /// Connections whose client had gone before its session began.
    pub(crate) abandoned: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) outbox_bytes: u64,
    /// Sessions for which bytes wait, now.
    pub(crate) slow: u64,
    pub(crate) vnodes_loading: u64,
    /// Connections that were not admitted, by the limit that was reached.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Responses, by HTTP status.
    pub(crate) responses: BTreeMap<u16, u64>,
    /// Sessions and connections that the edge ended, by close code.
    pub(crate) closes: BTreeMap<u16, u64>,
    /// Sessions ended since their token was revoked.
    pub(crate) revoked: u64,
    /// By kind of mistake.
    pub(crate) bad_tokens: BTreeMap<&'static str, u64>,
    /// The time from accept to the session.
    pub(crate) handshake: Latency,
    /// From a change to its bytes' way to the socket.
    pub(crate) delivery: Latency,
    /// From the begin of a status at its owner, by that node's wall clock, to the socket.
    pub(crate) end_to_end: WholeWay,
}

/// The counts that each core published last.
pub(crate) struct Metrics(Vec<Mutex<CoreStats>>);

impl Metrics {
    pub(crate) fn new(cores: usize) -> Self {
        Self((0..cores).map(|_| Mutex::default()).collect())
    }

    /// The number of cores.
    pub(crate) fn cores(&self) -> usize {
        self.0.len()
    }

    /// What each core published last.
    pub(crate) fn by_core(&self) -> Vec<CoreStats> {
        let copy =
            |core: &Mutex<CoreStats>| core.lock().expect("nobody panics with this lock").clone();
        self.0.iter().map(copy).collect()
    }

    pub(crate) fn publish(&self, core: usize, stats: &CoreStats) {
        *self.0[core].lock().expect("nobody panics with this lock") = stats.clone();
    }

    /// How often each core has published.
    pub(crate) fn published(&self) -> Vec<u64> {
        let published = |core: &Mutex<CoreStats>| {
            let stats = core.lock().expect("nobody panics with this lock");
            stats.published
        };
        self.0.iter().map(published).collect()
    }

    /// How long the oldest change of any core has waited for the bus to confirm it, ms.
    pub(crate) fn oldest_unreported(&self) -> u64 {
        let waits = |core: &Mutex<CoreStats>| {
            let stats = core.lock().expect("nobody panics with this lock");
            stats.presence.oldest_unreported
        };
        self.0.iter().map(waits).max().unwrap_or(0)
    }

    /// The media type and the text of the page of all metrics, for the request's headers `accept`.
    pub(crate) fn page<'a>(
        shared: &Shared,
        accept: impl Iterator<Item = &'a str>,
    ) -> (&'static str, String) {
        let cores = shared.metrics.by_core();
        let mut page = Page::new("online_status", accept);
        let node = &shared.config.node.id;
        page.release(env!("CARGO_PKG_VERSION"), "node", node);
        add_process(&mut page, shared);
        for (name, kind, help, read) in PER_CORE {
            let of_core = |(core, stats): (usize, _)| (core.to_string(), read(stats));
            let values = cores.iter().enumerate().map(of_core);
            page.by_word(name, *kind, help, "core", values);
        }
        for (name, help, key, read) in BY_LABEL {
            let mut sum: BTreeMap<String, u64> = BTreeMap::new();
            for (value, count) in cores.iter().flat_map(read) {
                *sum.entry(value).or_default() += count;
            }
            page.by_word(name, Kind::Counter, help, key, sum);
        }
        for (name, help, read) in LATENCIES {
            let sum = cores.iter().map(read).cloned().reduce(|mut sum, core| {
                sum.add(&core);
                sum
            });
            page.histogram(name, help, sum.expect("an edge has a core"));
        }
        let (taken, dropped) = shared.traces.counts();
        for (name, help, count) in [
            (
                "trace_steps_total",
                "Steps of traced users that were told.",
                taken,
            ),
            (
                "trace_steps_dropped_total",
                "Steps of traced users that were too many to be told.",
                dropped,
            ),
            (
                "log_lines_dropped_total",
                "Lines of the log that found no room, since nobody read it fast enough.",
                program::log::dropped(),
            ),
        ] {
            page.number(name, Kind::Counter, help, count as f64);
        }
        if let Some(place) = &shared.place {
            add_cluster(&mut page, place, shared.metrics.oldest_unreported());
        }
        page.finish()
    }
}

type OfCore = Number<fn(&CoreStats) -> u64>;

const PER_CORE: &[OfCore] = &numbers! {
    "connections" Gauge "Open connections." => |c| c.connections;
    "unauthenticated_connections" Gauge "Open connections without a session."
        => |c| c.unauthenticated;
    "sessions" Gauge "Open sessions." => |c| c.presence.sessions;
    "users" Gauge "Users in memory." => |c| c.presence.users;
    "watchers" Gauge "Watches: one a session and user it watches." => |c| c.presence.watches;
    "ready_sessions" Gauge "Sessions with something to send." => |c| c.presence.ready;
    "store_queue" Gauge "Requests that wait for the store." => |c| c.presence.store_queue;
    "bus_queue" Gauge "Changes that wait for the bus." => |c| c.presence.bus_queue;
    "link_queue" Gauge "Users and vnodes that wait for links." => |c| c.presence.link_queue;
    "unheard_vnodes" Gauge "Vnodes with watched users whom no link covers, read from Redis."
        => |c| c.presence.unheard;
    "unheard_reads_total" Counter "Records of such users asked of Redis."
        => |c| c.presence.unheard_reads;
    "peer_queue" Gauge "Messages that wait for other cores." => |c| c.presence.peer_queue;
    "outbox_bytes" Gauge "Bytes that wait for slow sockets." => |c| c.outbox_bytes;
    "vnodes_loading" Gauge "Vnodes whose users are not loaded yet." => |c| c.vnodes_loading;
    "accepted_total" Counter "Connections accepted." => |c| c.accepted;
    "accept_errors_total" Counter "Connections that could not be accepted." => |c| c.accept_errors;
    "abandoned_connections_total" Counter "Connections whose client had gone before its session began."
        => |c| c.abandoned;
    "connects_total" Counter "Sessions opened." => |c| c.presence.connects;
    "messages_total" Counter "Messages of clients." => |c| c.presence.messages;
    "bad_messages_total" Counter "Messages that were not understood."
        => |c| c.presence.bad_messages;
    "revoked_total" Counter "Sessions ended since their token was revoked." => |c| c.revoked;
    "replaced_total" Counter "Sessions ended since their user opened a newer one."
        => |c| c.presence.replaced;
    "watch_limit_total" Counter "Watches refused, of one session or of all as many as may be."
        => |c| c.presence.watch_limit;
    "not_allowed_total" Counter "Watches and queries that the token did not allow."
        => |c| c.presence.not_allowed;
    "events_total" Counter "Changes of users' public records." => |c| c.presence.changes;
    "deliveries_total" Counter "Records sent to watchers." => |c| c.presence.deliveries;
    "delivery_frames_total" Counter "Frames that carried them." => |c| c.presence.frames;
    "conflations_total" Counter "Changes merged into one that still waited."
        => |c| c.presence.conflations;
    "paced_changes_total" Counter "Changes that watchers were told later, since their user changed too often."
        => |c| c.presence.paced;
    "blocked_total" Counter "Times a client's socket took no more." => |c| c.presence.blocked;
    "stale_total" Counter "States dropped because a newer one was known." => |c| c.presence.stale;
    "impatient_total" Counter "Questions answered without waiting on for the store."
        => |c| c.presence.impatient;
    "not_believed_total" Counter "Versions that clients claimed to know and that were not looked for."
        => |c| c.presence.not_believed;
    "moved_total" Counter "Sessions told to go to another node." => |c| c.presence.moved;
    "fenced_total" Counter "Vnodes lost to a higher epoch." => |c| c.presence.fenced;
    "bus_gaps_total" Counter "Times the bus may have lost events." => |c| c.presence.gaps;
    "refused_writes_total" Counter "Records that the store refused because of a newer epoch."
        => |c| c.presence.refused_writes;
    "store_writes_total" Counter "Records written to the store." => |c| c.presence.store_writes;
    "store_failures_total" Counter "Requests that the store failed."
        => |c| c.presence.store_failures;
    "published_total" Counter "Events delivered to the bus." => |c| c.presence.published;
    "bus_failures_total" Counter "Events that the bus did not take." => |c| c.presence.bus_failures;
    "sent_bytes_total" Counter "Bytes sent to clients." => |c| c.sent_bytes;
    "received_bytes_total" Counter "Bytes received from clients." => |c| c.received_bytes;
};

type ByLabel = (
    &'static str,
    &'static str,
    &'static str,
    fn(&CoreStats) -> Vec<(String, u64)>,
);

const BY_LABEL: &[ByLabel] = &[
    (
        "closes_total",
        "Sessions ended by this edge.",
        "code",
        |c| labelled(&c.closes),
    ),
    (
        "refused_connections_total",
        "Connections not admitted, by the limit that was reached, or for their proxy's header.",
        "limit",
        |c| labelled(&c.refused),
    ),
    (
        "http_responses_total",
        "Answers to HTTP requests.",
        "status",
        |c| labelled(&c.responses),
    ),
    (
        "bad_tokens_total",
        "Tokens that were refused.",
        "reason",
        |c| labelled(&c.bad_tokens),
    ),
];

fn labelled<T: ToString>(counts: &BTreeMap<T, u64>) -> Vec<(String, u64)> {
    counts
        .iter()
        .map(|(label, count)| (label.to_string(), *count))
        .collect()
}

type Latencies = (&'static str, &'static str, fn(&CoreStats) -> &Histogram);

const LATENCIES: &[Latencies] = &[
    ("handshake_seconds", "From accept to welcome.", |core| {
        &core.handshake.0
    }),
    (
        "delivery_seconds",
        "From a change to the send of its bytes, on the watcher's core.",
        |core| &core.delivery.0,
    ),
    (
        "end_to_end_seconds",
        "From the begin of a status, by its owner's wall clock, to the send on the watcher's core.",
        |core| &core.end_to_end.0,
    ),
];

fn add_process(page: &mut Page, shared: &Shared) {
    page.numbers(&numbers! {
        "draining" Gauge "Whether the edge is shutting down." => shared.is_leaving().into();
        "memory_bytes" Gauge "Memory of the process that is resident." => shared.gate.memory();
        "memory_limit_bytes" Gauge "From how much on no new connection is let in."
            => shared.gate.limits.memory;
        "policy_entries" Gauge "Revocations and lists of blocked users in force."
            => shared.keys.policy().len() as u64;
    });
    page.key_fetches(shared.keys.fetches());
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add_cluster(page: &mut Page, place: &Place, oldest_unreported: u64) {
    let map = place.map.load();
    let version = map.as_ref().map_or(0, |map| map.version().get());
    let (followed, moving) = place.progress();
    let (stats, link) = (&place.store_stats, place.link.counters());
    let redis = place.link.health();
    page.numbers(&numbers! {
        "lease_held" Gauge "Whether the lease stands." => place.has_lease().into();
        "map_version" Gauge "The newest map." => version;
        "map_followed" Gauge "The map that all cores follow." => followed.get();
        "vnodes_owned" Gauge "Vnodes of this node." => place.owned() as u64;
        "vnodes_moving" Gauge "Vnodes on their way." => moving as u64;
        "map_reads_total" Counter "Times the map was looked at." => place.reads();
        "unusable_maps_total" Counter "Looks that found a map which cannot be used."
            => load(&place.unusable_maps);
        "stalls_total" Counter "Times a core stood still." => load(&place.stalls);
        "resyncs_total" Counter "Times all was written again." => load(&place.resyncs);
        "redis_connects_total" Counter "Connections to Redis." => link.connects;
        "redis_connect_failures_total" Counter "Connections to Redis that failed."
            => link.failed_connects;
        "redis_turned_away_total" Counter
            "Connections to Redis given up since the server took no writes, as a replica."
            => link.turned_away;
        "redis_full_total" CounterBesideGauge "Requests refused by a Redis whose memory is full."
            => link.full;
        "redis_full" Gauge "Whether Redis refuses records since its memory is full."
            => redis.is_full.into();
        "redis_unusable" Gauge
            "Whether the Redis that was met last is too old, a replica, or still loading."
            => redis.unusable.is_some().into();
        "redis_masters_down" Gauge
            "Masters of a Redis Cluster that do not answer; the log names them."
            => redis.masters_down.len() as u64;
        "redis_evicting_servers" Gauge "Servers of Redis whose eviction policy is not noeviction."
            => redis.evicting as u64;
        "redis_memory_bytes" Gauge "Memory of Redis that is used; 0 = not told."
            => redis.used.unwrap_or(0);
        "redis_memory_limit_bytes" Gauge "Memory that Redis may use; 0 = no limit, or not told."
            => redis.limit.unwrap_or(0);
        "redis_batch_failures_total" Counter "Batches that Redis did not take as a whole."
            => load(&stats.failures);
        "redis_trimmed_total" Counter "Users forgotten." => load(&stats.trimmed);
        "redis_bad_records_total" Counter "Records in Redis that are none." => link.bad_records;
        "redis_stale_records_total" Counter "Records not written since a newer one was there."
            => link.stale_records;
        "redis_scripts_forgotten_total" Counter "Scripts that Redis had to be told again."
            => link.scripts_forgotten;
        "map_hints_lost_total" Counter "Hints of maps that were lost." => link.hints_lost;
        "drain_wanted" Gauge "Whether the node gives its vnodes away."
            => place.is_leaving().into();
    });
    let flush = stats.flush.lock().expect("nobody panics with this lock");
    let help = "A batch to Redis and back.";
    page.histogram("redis_flush_seconds", help, flush.0.clone());
    drop(flush);
    if let Some(links) = &place.links {
        let stats = &links.stats;
        let now = |gauge: &AtomicUsize| gauge.load(Ordering::Relaxed) as u64;
        page.numbers(&numbers! {
            "link_owners" Gauge "Links on which this node hears others." => now(&stats.owners);
            "link_watchers" Gauge "Links on which others hear this node." => now(&stats.watchers);
            "link_missing" Gauge "Nodes that are not heard over a link and should be."
                => now(&stats.missing);
            "link_connects_total" Counter "Links made." => load(&stats.connects);
            "link_failures_total" Counter "Links that broke or could not be made."
                => load(&stats.failures);
            "link_refused_total" Counter "Connections for links without the key, or too many."
                => load(&stats.refused);
            "link_batches_total" Counter "Batches sent over links." => load(&stats.sent_batches);
            "link_sent_bytes_total" Counter "Bytes sent over links, before TLS." => load(&stats.sent_bytes);
            "link_received_bytes_total" Counter "Bytes received over links, without TLS."
                => load(&stats.received_bytes);
        });
    }
    let Some(producer) = place.producer() else {
        return;
    };
    let out = producer.stats();
    // Of an edge that hears the others over links, all is as if there were nothing to read.
    let taken = place.consumer().map(|consumer| consumer.stats());
    let taken = taken.unwrap_or_default();
    page.numbers(&numbers! {
        "kafka_producer_connected" Gauge "Whether the producer has a broker."
            => out.connected.into();
        "kafka_unreachable" Gauge
            "Whether a broker that is needed cannot be reached where the others say it is."
            => (out.unreachable || taken.unreachable).into();
        "kafka_partitions" Gauge "Partitions of the topic." => out.partitions as u64;
        "kafka_waiting" Gauge "Events without a report." => out.waiting();
        "kafka_delivered_total" Counter "Events confirmed." => out.delivered;
        "kafka_failed_total" Counter "Events not confirmed." => out.failed;
        "kafka_full_total" Counter "Events refused by a full queue." => out.full;
        "kafka_unready_total" Counter "Events refused without a topic." => out.unready;
        "kafka_rebuilt_total" Counter "Times the producer was made anew." => out.rebuilt;
        "kafka_consumer_connected" Gauge "Whether the consumer has a broker."
            => taken.connected.into();
        "kafka_consumed_total" Counter "Messages read." => taken.consumed;
        "kafka_wanted_total" Counter "Messages somebody may want." => taken.wanted;
        "kafka_bad_messages_total" Counter "Messages that are no events." => taken.bad;
        "kafka_lag_records" Gauge "Messages not read yet." => taken.lag;
    });
    for (name, help, ms) in [
        (
            "kafka_age_seconds",
            "Age of the last message read.",
            taken.age_ms,
        ),
        (
            "kafka_oldest_unreported_seconds",
            "How long the oldest change has waited to be confirmed.",
            oldest_unreported,
        ),
    ] {
        page.number(name, Kind::Gauge, help, ms as f64 / 1e3);
    }
}
