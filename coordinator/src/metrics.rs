//! What the coordinator counts and how Prometheus reads it. Every metric's name and labels stand
//! here. No user is ever in a name or a label.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use coordinator::control::{MemberView, Problem, State};
use keys::Fetches;
use program::{
    metrics::{Histogram, Kind, Number, Page},
    numbers,
};
use redis_store::Link;

use crate::picture::Picture;

/// Upper bounds of the latency buckets, µs.
const BUCKETS: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];

/// A histogram of latencies of requests.
#[derive(Debug)]
struct Latency(Mutex<Histogram>);

impl Default for Latency {
    fn default() -> Self {
        Self(Mutex::new(Histogram::new(&BUCKETS)))
    }
}

impl Latency {
    fn record(&self, took: Duration) {
        locked(&self.0).record(took.as_micros() as u64);
    }
}

/// The counters of the process, which every thread may add to.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    looks: Mutex<BTreeMap<&'static str, u64>>,
    look: Latency,
    leaderships: AtomicU64,
    maps_written: Mutex<BTreeMap<&'static str, u64>>,
    hints: Mutex<BTreeMap<&'static str, u64>>,
    vnodes_moved: AtomicU64,
    raised: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    waiters: AtomicU64,
    waiters_refused: AtomicU64,
    /// Responses, by the route's path and the status.
    responses: Mutex<BTreeMap<(&'static str, u16), u64>>,
    request: Latency,
    /// Refused tokens, by the kind of mistake.
    bad_tokens: Mutex<BTreeMap<&'static str, u64>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count<K: Ord>(counts: &Mutex<BTreeMap<K, u64>>, key: K) {
    *locked(counts).entry(key).or_default() += 1;
}

/// Counts something that is there now, until it is dropped.
pub(crate) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    fn one_more(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Relaxed);
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Metrics {
    pub(crate) fn looked(&self, good: bool, took: Duration) {
        count(&self.looks, if good { "ok" } else { "failed" });
        self.look.record(took);
    }

    pub(crate) fn led(&self) {
        self.leaderships.fetch_add(1, Relaxed);
    }

    pub(crate) fn map_written(&self, result: &'static str) {
        count(&self.maps_written, result);
    }

    pub(crate) fn hinted(&self, result: &'static str) {
        count(&self.hints, result);
    }

    pub(crate) fn moved(&self, vnodes: usize, raised: bool) {
        self.vnodes_moved.fetch_add(vnodes as u64, Relaxed);
        self.raised.fetch_add(raised.into(), Relaxed);
    }

    pub(crate) fn connection(&self) -> Gauge<'_> {
        Gauge::one_more(&self.connections)
    }

    pub(crate) fn connection_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn waiter(&self) -> Gauge<'_> {
        Gauge::one_more(&self.waiters)
    }

    pub(crate) fn waiter_refused(&self) {
        self.waiters_refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, path: &'static str, status: u16, took: Duration) {
        count(&self.responses, (path, status));
        // Of a request that waits for the next map the time says nothing.
        if path != "/map" {
            self.request.record(took);
        }
    }

    pub(crate) fn bad_token(&self, reason: &'static str) {
        count(&self.bad_tokens, reason);
    }

    /// The media type and the text of the page of all metrics, for the request's headers `accept`.
    pub(crate) fn page<'a>(
        &self,
        accept: impl Iterator<Item = &'a str>,
        id: &str,
        picture: &Picture,
        link: &Link,
        fetches: Fetches,
    ) -> (&'static str, String) {
        let mut page = Page::new("online_status_coordinator", accept);
        page.release(env!("CARGO_PKG_VERSION"), "id", id);
        add_fleet(&mut page, picture);
        self.add_own(&mut page);
        add_store_and_keys(&mut page, link, fetches);
        page.finish()
    }

    fn add_own(&self, page: &mut Page) {
        for (name, help, key, counts) in [
            ("looks_total", "Looks at the store.", "result", &self.looks),
            (
                "map_writes_total",
                "Maps that were to be written.",
                "result",
                &self.maps_written,
            ),
            (
                "bad_tokens_total",
                "Tokens that were refused.",
                "reason",
                &self.bad_tokens,
            ),
            (
                "closed_connections_total",
                "Edges whose connection to the store was closed: taken for dead (ended), alive \
                 after all (lived), so many at once that their leases decide (together).",
                "result",
                &self.hints,
            ),
        ] {
            page.by_word(name, Kind::Counter, help, key, locked(counts).clone());
        }
        let responses = locked(&self.responses).clone().into_iter();
        let line = |((path, status), count): ((&str, u16), u64)| {
            let labels = [("path", path.to_owned()), ("status", status.to_string())];
            (labels.into(), count as f64)
        };
        let help = "Answers to HTTP requests.";
        page.labelled(
            "http_responses_total",
            Kind::Counter,
            help,
            responses.map(line),
        );
        page.numbers(&numbers! {
            "leaderships_total" Counter "How often this coordinator became the leader."
                => self.leaderships.load(Relaxed);
            "vnodes_moved_total" Counter "Vnodes given to another owner, or to its next life."
                => self.vnodes_moved.load(Relaxed);
            "maps_raised_total" Counter "Maps written above all epochs, since the store had lost one."
                => self.raised.load(Relaxed);
            "connections_refused_total" Counter "Connections beyond the limit."
                => self.refused.load(Relaxed);
            "waiters_refused_total" Counter "Requests beyond the limit of those that wait for a map."
                => self.waiters_refused.load(Relaxed);
            "log_lines_dropped_total" Counter
                "Lines of the log that found no room, since nobody read it fast enough."
                => program::log::dropped();
            "connections" Gauge "Open connections." => self.connections.load(Relaxed);
            "waiters" Gauge "Requests that wait for the next map." => self.waiters.load(Relaxed);
        });
        let help = "How long a look takes.";
        page.histogram("look_seconds", help, locked(&self.look.0).clone());
        let help = "How long an answer takes, but for /map.";
        page.histogram("request_seconds", help, locked(&self.request.0).clone());
    }
}

type OfNode = Number<fn(&MemberView) -> f64>;

fn add_fleet(page: &mut Page, picture: &Picture) {
    let members = &picture.members;
    let map = picture.map.as_ref().map(|map| &map.map);
    let unowned = |map: &ring::Map| {
        let vnodes = map.count().all();
        vnodes.filter(|vnode| map.owner(*vnode).is_none()).count() as u64
    };
    page.numbers(&numbers! {
        "leader" Gauge "Whether this coordinator leads." => picture.leading.into();
        "map_version" Gauge "The version of the newest map that was read; 0 = none yet."
            => map.map_or(0, |map| map.version().get());
        "vnodes_unowned" Gauge "Vnodes that no node owns." => map.map_or(0, unowned);
    });
    let age = (picture.read_at).map_or(f64::NAN, |read_at| read_at.elapsed().as_secs_f64());
    let help = "How long ago the store was last read; NaN = never.";
    page.number("last_look_seconds", Kind::Gauge, help, age);
    let nodes = State::ALL.map(|state| {
        let such = members.iter().filter(|member| member.state == state);
        (state.as_str(), such.count() as u64)
    });
    page.by_word("nodes", Kind::Gauge, "Nodes by state.", "state", nodes);
    let of_node: [OfNode; 3] = numbers! {
        "node_vnodes" Gauge "Vnodes of a node." => |member| member.vnodes as f64;
        "node_share" Gauge "The share of all vnodes that a node's weight stands for."
            => |member| member.share;
        "node_moving" Gauge "Vnodes that a node is taking or letting go of."
            => |member| member.lease.moving.into();
    };
    for (name, kind, help, value) in of_node {
        let line = |member: &MemberView| (vec![("node", member.lease.node.clone())], value(member));
        page.labelled(name, kind, help, members.iter().map(line));
    }
    let problems = Problem::KINDS.map(|kind| {
        let such = picture.problems.iter().filter(|it| it.kind() == kind);
        (kind, such.count() as u64)
    });
    let help = "What is wrong and does not stop the fleet, such as a bad pin.";
    page.by_word("problems", Kind::Gauge, help, "kind", problems);
}

fn add_store_and_keys(page: &mut Page, link: &Link, fetches: Fetches) {
    let (store, health) = (link.counters(), link.health());
    page.numbers(&numbers! {
        "store_connects_total" Counter "Connections made to the store." => store.connects;
        "store_connect_failures_total" Counter "Failed attempts to connect to the store."
            => store.failed_connects;
        "store_bad_records_total" Counter "Records that could not be used and were taken as absent."
            => store.bad_records;
        "store_hints_lost_total" Counter "Announcements of a new map that failed."
            => store.hints_lost;
        "store_turned_away_total" Counter "Connections given up since the server took no writes, as a replica."
            => store.turned_away;
        "store_full_total" Counter "Requests refused by a store whose memory is full."
            => store.full;
        "store_evicting_servers" Gauge "Servers of the store whose eviction policy is not noeviction."
            => health.evicting as u64;
        "store_memory_bytes" Gauge "Memory of the store that is used; 0 = not told."
            => health.used.unwrap_or(0);
        "store_memory_limit_bytes" Gauge "Memory that the store may use; 0 = no limit, or not told."
            => health.limit.unwrap_or(0);
        "store_masters_down" Gauge "Masters of a Redis Cluster that do not answer; the log names them."
            => health.masters_down.len() as u64;
        "store_unusable" Gauge
            "Whether the server that was met last is too old, a replica, or still loading."
            => health.unusable.is_some().into();
    });
    page.key_fetches(fetches);
}
