//! What the coordinator counts and how Prometheus reads it. Every metric's name and labels stand
//! here. No user is ever in a name or a label.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use coordinator::control::{Problem, State};
use keys::Fetches;
use redis_store::Link;

use crate::picture::Picture;

/// Upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// A histogram of latencies, with fixed bounds.
#[derive(Debug, Default)]
struct Latency {
    /// The count of each bucket; one more than there are bounds.
    counts: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took.as_micros() as u64, Relaxed);
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

    /// Every metric in the text format 0.0.4 of Prometheus.
    pub(crate) fn render(
        &self,
        id: &str,
        picture: &Picture,
        link: &Link,
        fetches: Fetches,
    ) -> String {
        let (store, health) = (link.counters(), link.health());
        let mut page = Page(String::new());
        page.labelled(
            "build_info",
            "gauge",
            "The release.",
            &["version", "id"],
            [(vec![env!("CARGO_PKG_VERSION").into(), id.into()], 1.0)],
        );
        page.fleet(picture);
        page.labelled(
            "looks_total",
            "counter",
            "Looks at the store.",
            &["result"],
            by_word(&self.looks),
        );
        page.latency("look_seconds", "How long a look takes.", &self.look);
        page.one(
            "leaderships_total",
            "counter",
            "How often this coordinator became the leader.",
            self.leaderships.load(Relaxed),
        );
        page.labelled(
            "map_writes_total",
            "counter",
            "Maps that were to be written.",
            &["result"],
            by_word(&self.maps_written),
        );
        page.labelled(
            "closed_connections_total",
            "counter",
            "Edges whose connection to the store was closed: taken for dead (ended), alive after \
             all (lived), so many at once that their leases decide (together).",
            &["result"],
            by_word(&self.hints),
        );
        for (name, help, value) in [
            (
                "vnodes_moved_total",
                "Vnodes given to another owner, or to its next life.",
                &self.vnodes_moved,
            ),
            (
                "maps_raised_total",
                "Maps written above all epochs, since the store had lost one.",
                &self.raised,
            ),
            (
                "connections_refused_total",
                "Connections beyond the limit.",
                &self.refused,
            ),
            (
                "waiters_refused_total",
                "Requests beyond the limit of those that wait for a map.",
                &self.waiters_refused,
            ),
        ] {
            page.one(name, "counter", help, value.load(Relaxed));
        }
        for (name, help, value) in [
            ("connections", "Open connections.", &self.connections),
            (
                "waiters",
                "Requests that wait for the next map.",
                &self.waiters,
            ),
        ] {
            page.one(name, "gauge", help, value.load(Relaxed));
        }
        let responses = locked(&self.responses).clone();
        page.labelled(
            "http_responses_total",
            "counter",
            "Answers to HTTP requests.",
            &["path", "status"],
            responses.into_iter().map(|((path, status), count)| {
                (vec![path.to_owned(), status.to_string()], count as f64)
            }),
        );
        page.latency(
            "request_seconds",
            "How long an answer takes, but for /map.",
            &self.request,
        );
        page.labelled(
            "bad_tokens_total",
            "counter",
            "Tokens that were refused.",
            &["reason"],
            by_word(&self.bad_tokens),
        );
        page.labelled(
            "jwks_fetches_total",
            "counter",
            "Fetches of the keys of tokens (auth.jwks_url).",
            &["result"],
            [("ok", fetches.good), ("failed", fetches.failed)]
                .map(|(result, count)| (vec![result.to_owned()], count as f64)),
        );
        page.one(
            "jwks_keys",
            "gauge",
            "Keys in force that were fetched.",
            fetches.keys as u64,
        );
        page.labelled(
            "jwks_waits_total",
            "counter",
            "Tokens that waited for keys to be fetched, and how that ended.",
            &["result"],
            (fetches.waited.by_result())
                .map(|(result, count)| (vec![result.to_owned()], count as f64)),
        );
        page.one(
            "jwks_waiting",
            "gauge",
            "Tokens that wait for keys to be fetched.",
            fetches.waiting as u64,
        );
        for (name, help, value) in [
            (
                "store_connects_total",
                "Connections made to the store.",
                store.connects,
            ),
            (
                "store_connect_failures_total",
                "Failed attempts to connect to the store.",
                store.failed_connects,
            ),
            (
                "store_bad_records_total",
                "Records that could not be used and were taken as absent.",
                store.bad_records,
            ),
            (
                "store_hints_lost_total",
                "Announcements of a new map that failed.",
                store.hints_lost,
            ),
            (
                "store_turned_away_total",
                "Connections given up since the server took no writes, as a replica.",
                store.turned_away,
            ),
            (
                "store_full_total",
                "Requests refused by a store whose memory is full.",
                store.full,
            ),
        ] {
            page.one(name, "counter", help, value);
        }
        for (name, help, value) in [
            (
                "store_evicting_servers",
                "Servers of the store whose eviction policy is not noeviction.",
                health.evicting as u64,
            ),
            (
                "store_memory_bytes",
                "Memory of the store that is used; 0 = not told.",
                health.used.unwrap_or(0),
            ),
            (
                "store_memory_limit_bytes",
                "Memory that the store may use; 0 = no limit, or not told.",
                health.limit.unwrap_or(0),
            ),
            (
                "store_masters_down",
                "Masters of a Redis Cluster that do not answer; the log names them.",
                health.masters_down.len() as u64,
            ),
            (
                "store_unusable",
                "Whether the server that was met last is too old, a replica, or still loading.",
                health.unusable.is_some().into(),
            ),
        ] {
            page.one(name, "gauge", help, value);
        }
        page.0
    }
}

type Labelled = (Vec<String>, f64);

fn by_word(counts: &Mutex<BTreeMap<&'static str, u64>>) -> Vec<Labelled> {
    locked(counts)
        .iter()
        .map(|(word, count)| (vec![(*word).to_owned()], *count as f64))
        .collect()
}

struct Page(String);

impl Page {
    fn fleet(&mut self, picture: &Picture) {
        let Picture {
            map,
            members,
            problems,
            leading,
            read_at,
            ..
        } = picture;
        self.one(
            "leader",
            "gauge",
            "Whether this coordinator leads.",
            u64::from(*leading),
        );
        let map = map.as_ref().map(|map| &map.map);
        self.one(
            "map_version",
            "gauge",
            "The version of the newest map that was read; 0 = none yet.",
            map.map_or(0, |map| map.version().get()),
        );
        let unowned = |map: &ring::Map| {
            let vnodes = map.count().all();
            vnodes.filter(|vnode| map.owner(*vnode).is_none()).count() as u64
        };
        self.one(
            "vnodes_unowned",
            "gauge",
            "Vnodes that no node owns.",
            map.map_or(0, unowned),
        );
        let age = read_at.map_or(f64::NAN, |read_at| read_at.elapsed().as_secs_f64());
        self.labelled(
            "last_look_seconds",
            "gauge",
            "How long ago the store was last read; NaN = never.",
            &[],
            [(Vec::new(), age)],
        );
        self.labelled(
            "nodes",
            "gauge",
            "Nodes by state.",
            &["state"],
            State::ALL.map(|state| {
                let nodes = members.iter().filter(|member| member.state == state);
                (vec![state.as_str().to_owned()], nodes.count() as f64)
            }),
        );
        let by_node = |value: fn(&coordinator::control::MemberView) -> f64| -> Vec<Labelled> {
            let line = |member: &coordinator::control::MemberView| {
                (vec![member.lease.node.clone()], value(member))
            };
            members.iter().map(line).collect()
        };
        self.labelled(
            "node_vnodes",
            "gauge",
            "Vnodes of a node.",
            &["node"],
            by_node(|member| member.vnodes as f64),
        );
        self.labelled(
            "node_share",
            "gauge",
            "The share of all vnodes that a node's weight stands for.",
            &["node"],
            by_node(|member| member.share),
        );
        self.labelled(
            "node_moving",
            "gauge",
            "Vnodes that a node is taking or letting go of.",
            &["node"],
            by_node(|member| f64::from(member.lease.moving)),
        );
        self.labelled(
            "problems",
            "gauge",
            "What is wrong and does not stop the fleet, such as a bad pin.",
            &["kind"],
            Problem::KINDS.map(|kind| {
                let such = problems.iter().filter(|problem| problem.kind() == kind);
                (vec![kind.to_owned()], such.count() as f64)
            }),
        );
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(
            self.0,
            "# HELP online_status_coordinator_{name} {help}\n# TYPE online_status_coordinator_{name} {kind}"
        )
        .expect("a String takes all text");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.labelled(name, kind, help, &[], [(Vec::new(), value as f64)]);
    }

    /// The values, each with one text a label. The texts need no escape: they are names of nodes,
    /// paths and words of ours.
    fn labelled(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = Labelled>,
    ) {
        self.head(name, kind, help);
        for (texts, value) in values {
            let pairs: Vec<String> = labels
                .iter()
                .zip(texts)
                .map(|(label, text)| format!("{label}=\"{text}\""))
                .collect();
            let braces = match pairs.is_empty() {
                true => String::new(),
                false => format!("{{{}}}", pairs.join(",")),
            };
            writeln!(self.0, "online_status_coordinator_{name}{braces} {value}")
                .expect("a String takes all text");
        }
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        self.head(name, "histogram", help);
        let mut sum = 0;
        let bounds = BUCKETS.iter().map(ToString::to_string);
        for (bound, count) in bounds.chain(["+Inf".into()]).zip(&latency.counts) {
            sum += count.load(Relaxed);
            writeln!(
                self.0,
                "online_status_coordinator_{name}_bucket{{le=\"{bound}\"}} {sum}"
            )
            .expect("a String takes all text");
        }
        let seconds = latency.sum_us.load(Relaxed) as f64 / 1e6;
        writeln!(
            self.0,
            "online_status_coordinator_{name}_sum {seconds}\nonline_status_coordinator_{name}_count {sum}"
        )
        .expect("a String takes all text");
    }
}
