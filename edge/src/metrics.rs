//! What the edge counts and how Prometheus reads it. Every metric's name and labels stand here.
//! Cores count plain numbers of their own and publish a copy now and then; nothing is shared on a
//! session's path.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, atomic::Ordering},
};

use keys::Fetches;
use presence::Counters;

use crate::{admission::Gate, cluster::Place};

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];

/// A histogram of latencies, with fixed bounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency {
    /// The count of each bucket; one more than there are bounds.
    counts: [u64; BUCKETS.len() + 1],
    sum_us: u64,
}

impl Latency {
    pub(crate) fn record(&mut self, us: u64) {
        let bucket = BUCKETS.partition_point(|bound| *bound < us);
        self.counts[bucket] += 1;
        self.sum_us += us;
    }

    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_us += other.sum_us;
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
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) outbox_bytes: u64,
    pub(crate) vnodes_loading: u64,
    /// Connections that were not admitted, by the limit that was reached.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Responses, by HTTP status.
    pub(crate) responses: BTreeMap<u16, u64>,
    /// By close code.
    pub(crate) closes: BTreeMap<u16, u64>,
    /// Sessions ended since their token was revoked.
    pub(crate) revoked: u64,
    /// By kind of mistake.
    pub(crate) bad_tokens: BTreeMap<&'static str, u64>,
    /// The time from accept to the session.
    pub(crate) handshake: Latency,
    /// From a change to its bytes' way to the socket.
    pub(crate) delivery: Latency,
}

/// Sums over the cores.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    pub(crate) changes: u64,
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

    /// The sums over what the cores published last.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for core in &self.0 {
            let stats = core.lock().expect("nobody panics with this lock");
            totals.connections += stats.connections;
            totals.sessions += stats.presence.sessions;
            totals.changes += stats.presence.changes;
        }
        totals
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

    /// Every metric in the text format 0.0.4 of Prometheus.
    pub(crate) fn render(
        &self,
        node: &str,
        draining: bool,
        place: Option<&Place>,
        fetches: Fetches,
        gate: &Gate,
        policy: usize,
    ) -> String {
        let cores: Vec<CoreStats> = self
            .0
            .iter()
            .map(|stats| stats.lock().expect("nobody panics with this lock").clone())
            .collect();
        let mut page = Page(String::new());
        page.head("build_info", "gauge", "The release.");
        page.value(
            "build_info",
            &format!(
                "{{version=\"{}\",node=\"{node}\"}}",
                env!("CARGO_PKG_VERSION")
            ),
            1,
        );
        page.head("draining", "gauge", "Whether the edge is shutting down.");
        page.value("draining", "", u64::from(draining));
        page.memory(gate);
        let help = "Revocations and lists of blocked users in force.";
        page.head("policy_entries", "gauge", help);
        page.value("policy_entries", "", policy as u64);
        for (name, kind, help, read) in PER_CORE {
            page.head(name, kind, help);
            for (core, stats) in cores.iter().enumerate() {
                page.value(name, &format!("{{core=\"{core}\"}}"), read(stats));
            }
        }
        for (name, help, label, read) in BY_LABEL {
            page.head(name, "counter", help);
            let mut sum: BTreeMap<String, u64> = BTreeMap::new();
            for (value, count) in cores.iter().flat_map(read) {
                *sum.entry(value).or_default() += count;
            }
            for (value, count) in sum {
                page.value(name, &format!("{{{label}=\"{value}\"}}"), count);
            }
        }
        page.latency(
            "handshake_seconds",
            "From accept to welcome.",
            cores.iter().map(|c| &c.handshake),
        );
        page.latency(
            "delivery_seconds",
            "From a change to the send of its bytes, on the watcher's core.",
            cores.iter().map(|c| &c.delivery),
        );
        page.keys(fetches);
        if let Some(place) = place {
            let oldest = cores.iter().map(|core| core.presence.oldest_unreported);
            page.cluster(place, oldest.max().unwrap_or(0));
        }
        page.0
    }
}

/// A table of numbers: name, kind, help and value.
macro_rules! numbers {
    ($($name:literal $kind:ident $help:literal => $value:expr;)+) => {
        &[$(($name, stringify!($kind), $help, $value)),+]
    };
}

/// A number of the node's place in the cluster: name, kind, help, value.
type OfNode = (&'static str, &'static str, &'static str, u64);

type PerCore = (
    &'static str,
    &'static str,
    &'static str,
    fn(&CoreStats) -> u64,
);

const PER_CORE: &[PerCore] = numbers! {
    "connections" gauge "Open connections." => |c| c.connections;
    "unauthenticated_connections" gauge "Open connections without a session."
        => |c| c.unauthenticated;
    "sessions" gauge "Open sessions." => |c| c.presence.sessions;
    "users" gauge "Users in memory." => |c| c.presence.users;
    "watchers" gauge "Watches: one a session and user it watches." => |c| c.presence.watches;
    "ready_sessions" gauge "Sessions with something to send." => |c| c.presence.ready;
    "store_queue" gauge "Requests that wait for the store." => |c| c.presence.store_queue;
    "bus_queue" gauge "Changes that wait for the bus." => |c| c.presence.bus_queue;
    "link_queue" gauge "Users and vnodes that wait for links." => |c| c.presence.link_queue;
    "unheard_vnodes" gauge "Vnodes with watched users whom no link covers, read from Redis."
        => |c| c.presence.unheard;
    "unheard_reads_total" counter "Records of such users asked of Redis."
        => |c| c.presence.unheard_reads;
    "peer_queue" gauge "Messages that wait for other cores." => |c| c.presence.peer_queue;
    "outbox_bytes" gauge "Bytes that wait for slow sockets." => |c| c.outbox_bytes;
    "vnodes_loading" gauge "Vnodes whose users are not loaded yet." => |c| c.vnodes_loading;
    "accepted_total" counter "Connections accepted." => |c| c.accepted;
    "accept_errors_total" counter "Connections that could not be accepted." => |c| c.accept_errors;
    "connects_total" counter "Sessions opened." => |c| c.presence.connects;
    "messages_total" counter "Messages of clients." => |c| c.presence.messages;
    "bad_messages_total" counter "Messages that were not understood."
        => |c| c.presence.bad_messages;
    "revoked_total" counter "Sessions ended since their token was revoked." => |c| c.revoked;
    "replaced_total" counter "Sessions ended since their user opened a newer one."
        => |c| c.presence.replaced;
    "watch_limit_total" counter "Watches refused, of one session or of all as many as may be."
        => |c| c.presence.watch_limit;
    "not_allowed_total" counter "Watches and queries that the token did not allow."
        => |c| c.presence.not_allowed;
    "events_total" counter "Changes of users' public records." => |c| c.presence.changes;
    "deliveries_total" counter "Records sent to watchers." => |c| c.presence.deliveries;
    "delivery_frames_total" counter "Frames that carried them." => |c| c.presence.frames;
    "conflations_total" counter "Changes merged into one that still waited."
        => |c| c.presence.conflations;
    "paced_changes_total" counter "Changes that watchers were told later, since their user changed too often."
        => |c| c.presence.paced;
    "blocked_total" counter "Times a client's socket took no more." => |c| c.presence.blocked;
    "stale_total" counter "States dropped because a newer one was known." => |c| c.presence.stale;
    "impatient_total" counter "Questions answered without waiting on for the store."
        => |c| c.presence.impatient;
    "not_believed_total" counter "Versions that clients claimed to know and that were not looked for."
        => |c| c.presence.not_believed;
    "moved_total" counter "Sessions told to go to another node." => |c| c.presence.moved;
    "fenced_total" counter "Vnodes lost to a higher epoch." => |c| c.presence.fenced;
    "bus_gaps_total" counter "Times the bus may have lost events." => |c| c.presence.gaps;
    "refused_writes_total" counter "Records that the store refused because of a newer epoch."
        => |c| c.presence.refused_writes;
    "store_writes_total" counter "Records written to the store." => |c| c.presence.store_writes;
    "store_failures_total" counter "Requests that the store failed."
        => |c| c.presence.store_failures;
    "published_total" counter "Events delivered to the bus." => |c| c.presence.published;
    "bus_failures_total" counter "Events that the bus did not take." => |c| c.presence.bus_failures;
    "sent_bytes_total" counter "Bytes sent to clients." => |c| c.sent_bytes;
    "received_bytes_total" counter "Bytes received from clients." => |c| c.received_bytes;
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

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(
            self.0,
            "# HELP online_status_{name} {help}\n# TYPE online_status_{name} {kind}"
        )
        .expect("a String takes all text");
    }

    fn value(&mut self, name: &str, labels: &str, value: u64) {
        writeln!(self.0, "online_status_{name}{labels} {value}").expect("a String takes all text");
    }

    fn memory(&mut self, gate: &Gate) {
        self.of_node(numbers! {
            "memory_bytes" gauge "Memory of the process that is resident." => gate.memory();
            "memory_limit_bytes" gauge "From how much on no new connection is let in."
                => gate.limits.memory;
        });
    }

    fn keys(&mut self, fetches: Fetches) {
        let help = "Fetches of the keys of tokens (auth.jwks_url).";
        self.head("jwks_fetches_total", "counter", help);
        for (result, count) in [("ok", fetches.good), ("failed", fetches.failed)] {
            self.value(
                "jwks_fetches_total",
                &format!("{{result=\"{result}\"}}"),
                count,
            );
        }
        self.head("jwks_keys", "gauge", "Keys in force that were fetched.");
        self.value("jwks_keys", "", fetches.keys as u64);
        let help = "Tokens that waited for keys to be fetched, and how that ended.";
        self.head("jwks_waits_total", "counter", help);
        for (result, count) in fetches.waited.by_result() {
            let labels = format!("{{result=\"{result}\"}}");
            self.value("jwks_waits_total", &labels, count);
        }
        let help = "Tokens that wait for keys to be fetched.";
        self.head("jwks_waiting", "gauge", help);
        self.value("jwks_waiting", "", fetches.waiting as u64);
    }

    fn cluster(&mut self, place: &Place, oldest_unreported: u64) {
        let map = place.map.load();
        let version = map.as_ref().map_or(0, |map| map.version().get());
        let (followed, moving) = place.progress();
        let (stats, link) = (&place.store_stats, place.link.counters());
        let redis = place.link.health();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let own: &[OfNode] = numbers! {
            "lease_held" gauge "Whether the lease stands." => place.has_lease().into();
            "map_version" gauge "The newest map." => version;
            "map_followed" gauge "The map that all cores follow." => followed.get();
            "vnodes_owned" gauge "Vnodes of this node." => place.owned() as u64;
            "vnodes_moving" gauge "Vnodes on their way." => moving as u64;
            "map_reads_total" counter "Times the map was looked at." => place.reads();
            "unusable_maps_total" counter "Looks that found a map which cannot be used."
                => load(&place.unusable_maps);
            "stalls_total" counter "Times a core stood still." => load(&place.stalls);
            "resyncs_total" counter "Times all was written again." => load(&place.resyncs);
            "redis_connects_total" counter "Connections to Redis." => link.connects;
            "redis_connect_failures_total" counter "Connections to Redis that failed."
                => link.failed_connects;
            "redis_turned_away_total" counter
                "Connections to Redis given up since the server took no writes, as a replica."
                => link.turned_away;
            "redis_full_total" counter "Requests refused by a Redis whose memory is full."
                => link.full;
            "redis_full" gauge "Whether Redis refuses records since its memory is full."
                => redis.is_full.into();
            "redis_unusable" gauge
                "Whether the Redis that was met last is too old, a replica, or still loading."
                => redis.unusable.is_some().into();
            "redis_masters_down" gauge
                "Masters of a Redis Cluster that do not answer; the log names them."
                => redis.masters_down.len() as u64;
            "redis_evicting_servers" gauge "Servers of Redis whose eviction policy is not noeviction."
                => redis.evicting as u64;
            "redis_memory_bytes" gauge "Memory of Redis that is used; 0 = not told."
                => redis.used.unwrap_or(0);
            "redis_memory_limit_bytes" gauge "Memory that Redis may use; 0 = no limit, or not told."
                => redis.limit.unwrap_or(0);
            "redis_batch_failures_total" counter "Batches that Redis did not take as a whole."
                => load(&stats.failures);
            "redis_trimmed_total" counter "Users forgotten." => load(&stats.trimmed);
            "redis_bad_records_total" counter "Records in Redis that are none." => link.bad_records;
            "redis_stale_records_total" counter "Records not written since a newer one was there."
                => link.stale_records;
            "redis_scripts_forgotten_total" counter "Scripts that Redis had to be told again."
                => link.scripts_forgotten;
            "map_hints_lost_total" counter "Hints of maps that were lost." => link.hints_lost;
            "drain_wanted" gauge "Whether the node gives its vnodes away."
                => place.is_leaving().into();
        };
        self.of_node(own);
        let flush = stats
            .flush
            .lock()
            .expect("nobody panics with this lock")
            .clone();
        self.latency(
            "redis_flush_seconds",
            "A batch to Redis and back.",
            std::iter::once(&flush),
        );
        if let Some(links) = &place.links {
            let stats = &links.stats;
            let now = |gauge: &std::sync::atomic::AtomicUsize| gauge.load(Ordering::Relaxed) as u64;
            let links: &[OfNode] = numbers! {
                "link_owners" gauge "Links on which this node hears others." => now(&stats.owners);
                "link_watchers" gauge "Links on which others hear this node." => now(&stats.watchers);
                "link_missing" gauge "Nodes that are not heard over a link and should be."
                    => now(&stats.missing);
                "link_connects_total" counter "Links made." => load(&stats.connects);
                "link_failures_total" counter "Links that broke or could not be made."
                    => load(&stats.failures);
                "link_refused_total" counter "Connections for links without the key, or too many."
                    => load(&stats.refused);
                "link_batches_total" counter "Batches sent over links." => load(&stats.sent_batches);
                "link_sent_bytes_total" counter "Bytes sent over links." => load(&stats.sent_bytes);
                "link_received_bytes_total" counter "Bytes received over links."
                    => load(&stats.received_bytes);
            };
            self.of_node(links);
        }
        let Some(producer) = place.producer() else {
            return;
        };
        let out = producer.stats();
        // Of an edge that hears the others over links, all is as if there were nothing to read.
        let taken = place.consumer().map(|consumer| consumer.stats());
        let taken = taken.unwrap_or_default();
        let bus: &[OfNode] = numbers! {
            "kafka_producer_connected" gauge "Whether the producer has a broker."
                => out.connected.into();
            "kafka_unreachable" gauge
                "Whether a broker that is needed cannot be reached where the others say it is."
                => (out.unreachable || taken.unreachable).into();
            "kafka_partitions" gauge "Partitions of the topic." => out.partitions as u64;
            "kafka_waiting" gauge "Events without a report." => out.waiting();
            "kafka_delivered_total" counter "Events confirmed." => out.delivered;
            "kafka_failed_total" counter "Events not confirmed." => out.failed;
            "kafka_full_total" counter "Events refused by a full queue." => out.full;
            "kafka_unready_total" counter "Events refused without a topic." => out.unready;
            "kafka_rebuilt_total" counter "Times the producer was made anew." => out.rebuilt;
            "kafka_consumer_connected" gauge "Whether the consumer has a broker."
                => taken.connected.into();
            "kafka_consumed_total" counter "Messages read." => taken.consumed;
            "kafka_wanted_total" counter "Messages somebody may want." => taken.wanted;
            "kafka_bad_messages_total" counter "Messages that are no events." => taken.bad;
            "kafka_lag_records" gauge "Messages not read yet." => taken.lag;
        };
        self.of_node(bus);
        let age = "Age of the last message read.";
        self.seconds("kafka_age_seconds", age, taken.age_ms);
        let oldest = "How long the oldest change has waited to be confirmed.";
        self.seconds("kafka_oldest_unreported_seconds", oldest, oldest_unreported);
    }

    fn seconds(&mut self, name: &str, help: &str, ms: u64) {
        self.head(name, "gauge", help);
        let seconds = ms as f64 / 1e3;
        writeln!(self.0, "online_status_{name} {seconds}").expect("a String takes all text");
    }

    fn of_node(&mut self, numbers: &[OfNode]) {
        for (name, kind, help, value) in numbers {
            self.head(name, kind, help);
            self.value(name, "", *value);
        }
    }

    fn latency<'a>(&mut self, name: &str, help: &str, parts: impl Iterator<Item = &'a Latency>) {
        let mut all = Latency::default();
        parts.for_each(|part| all.add(part));
        self.head(name, "histogram", help);
        let mut count = 0;
        for (bound, more) in BUCKETS.iter().zip(all.counts) {
            count += more;
            let bound = *bound as f64 / 1e6;
            self.value(
                &format!("{name}_bucket"),
                &format!("{{le=\"{bound}\"}}"),
                count,
            );
        }
        count += all.counts[BUCKETS.len()];
        self.value(&format!("{name}_bucket"), "{le=\"+Inf\"}", count);
        writeln!(
            self.0,
            "online_status_{name}_sum {}",
            all.sum_us as f64 / 1e6
        )
        .expect("a String takes all text");
        self.value(&format!("{name}_count"), "", count);
    }
}
