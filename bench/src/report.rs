//! What a run comes to: figures and failed checks. How people are shown them is `text.rs` and
//! `html.rs`.

pub(crate) mod curve;
pub(crate) mod html;
mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cli::{Limit, Options},
    fleet::Cost,
    link::{Counts, Results, Times},
    machine::{self, Machine},
    plan::{Plan, Scenario},
    timeline::Row,
    truth::Span,
};

/// Share of changes that must be made within 10 ms of their time for the latencies to count.
const PUNCTUAL: f64 = 0.95;

/// Percentiles of one latency, µs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) p99_99: u64,
    pub(crate) max: u64,
}

impl Percentiles {
    fn of(Times(times): &Times) -> Option<Self> {
        let at = |quantile| times.value_at_quantile(quantile);
        (!times.is_empty()).then(|| Self {
            count: times.len(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: times.max(),
        })
    }

    /// Their names, and all of them.
    pub(crate) const NAMES: [&str; 7] = ["p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"];

    pub(crate) fn values(&self) -> [u64; 7] {
        [
            self.p50,
            self.p90,
            self.p95,
            self.p99,
            self.p99_9,
            self.p99_99,
            self.max,
        ]
    }
}

/// The clock of a worker on another machine, as it was before the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// The worker, HOST:PORT.
    pub(crate) at: String,
    /// What its monotonic clock lacked to that of the machine that drove the run, µs; taken into account.
    pub(crate) offset: i64,
    /// By how much that may be wrong, µs.
    pub(crate) error: u64,
}

/// The bench itself, in the measured part: what it would have to be for the figures to count.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Generator {
    /// Its processes with one thread each.
    pub(crate) workers: u32,
    /// Processor time of all workers, and of the busiest, of one core, percent.
    pub(crate) cpu_percent: f64,
    pub(crate) busiest_percent: f64,
    /// Resident memory of the workers in the end, bytes.
    pub(crate) resident: u64,
    /// Of each worker on another machine.
    pub(crate) clocks: Vec<Clock>,
    /// From a change's intended time until it was made.
    pub(crate) lateness: Option<Percentiles>,
}

/// The report of a run, as `--json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    /// What whoever ran it calls it.
    #[serde(default)]
    pub(crate) label: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub(crate) started: u64,
    pub(crate) host: String,
    #[serde(default)]
    pub(crate) machine: Machine,
    /// Options by their names.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) generator: Generator,
    /// When a signal ended the measured part early, s from its start; 0 = before it.
    #[serde(default)]
    pub(crate) interrupted: Option<f64>,
    pub(crate) sessions: u32,
    pub(crate) watch: u32,
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    /// The declared outages, in µs of the measured part.
    pub(crate) outages: Vec<Span>,
    /// The rate at which sessions were opened, a second.
    pub(crate) connected_per_second: f64,
    pub(crate) handshake: Option<Percentiles>,
    /// From a question to a coordinator until its answer.
    pub(crate) route: Option<Percentiles>,
    /// Changes from the intended time to the delivery, with nothing lost in between.
    pub(crate) delivery: Option<Percentiles>,
    pub(crate) status: Option<Percentiles>,
    pub(crate) come: Option<Percentiles>,
    pub(crate) leave: Option<Percentiles>,
    /// The same when the user's or the watcher's session was lost in between, or in a declared outage.
    pub(crate) disturbed: Option<Percentiles>,
    /// How long users were without a session that had all to see.
    pub(crate) outage: Option<Percentiles>,
    /// Until the last session was back after a storm, s.
    pub(crate) recovered: Option<f64>,
    pub(crate) counts: Counts,
    /// The cost of all servers together; `None` when no process was found.
    pub(crate) server: Option<Cost>,
    pub(crate) timeline: Vec<Row>,
    /// The first of what was wrong, by the name of its count.
    pub(crate) examples: BTreeMap<String, Vec<String>>,
    /// Latencies by what share of all took no longer.
    #[serde(default)]
    pub(crate) curves: BTreeMap<String, Vec<curve::Point>>,
    /// What was wrong, one text each; empty = the run passed.
    pub(crate) failures: Vec<String>,
}

/// How long the parts of a run took, s.
#[derive(Debug, Clone)]
pub(crate) struct Spans {
    pub(crate) ramp: f64,
    pub(crate) measured: f64,
    /// When a signal ended the measured part, after its start.
    pub(crate) interrupted: Option<f64>,
    /// Of each worker on another machine.
    pub(crate) clocks: Vec<Clock>,
    /// The workers that were lost, with the reason.
    pub(crate) lost: Vec<String>,
    /// Sessions that were open when there was no more memory for others.
    pub(crate) no_memory: Option<u64>,
}

/// All deliveries that nothing disturbed.
pub(crate) fn delivery(results: &Results) -> Times {
    let mut all = results.status.clone();
    all.0 += &results.come.0;
    all.0 += &results.leave.0;
    all
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        results: &Results,
        spans: &Spans,
        timeline: Vec<Row>,
        server: Option<Cost>,
        options: &Options,
        machine: Machine,
    ) -> Self {
        let all = delivery(results);
        let storm = plan.scenario == Scenario::Storm;
        // Where opening them ended early, not all are open.
        let opened = match spans.interrupted {
            _ if spans.no_memory.is_some() => results.counts.ready,
            Some(0.0) => results.counts.ready,
            _ => u64::from(plan.holders()),
        };
        let percent = |us: u64| us as f64 / spans.measured.max(0.001) / 1e4;
        let ended = machine::now_ms();
        Self {
            scenario: plan.scenario,
            label: options.label.clone(),
            started: ended - (1e3 * (spans.ramp + spans.measured)) as u64,
            host: machine.short(),
            machine,
            options: options.named(),
            generator: Generator {
                workers: plan.workers,
                cpu_percent: percent(results.processor),
                busiest_percent: percent(results.busiest),
                resident: results.resident,
                clocks: spans.clocks.clone(),
                lateness: Percentiles::of(&results.lateness),
            },
            interrupted: spans.interrupted,
            curves: curve::all(results),
            sessions: plan.holders(),
            watch: plan.watch,
            rate: plan.rate,
            seconds: spans.measured,
            outages: plan.outages.clone(),
            connected_per_second: opened as f64 / spans.ramp,
            handshake: Percentiles::of(&results.handshake),
            route: Percentiles::of(&results.route),
            delivery: Percentiles::of(&all),
            status: Percentiles::of(&results.status),
            come: Percentiles::of(&results.come),
            leave: Percentiles::of(&results.leave),
            disturbed: Percentiles::of(&results.disturbed),
            outage: Percentiles::of(&results.outage),
            recovered: storm.then_some(results.recovered as f64 / 1e6),
            failures: failures(
                plan,
                &results.counts,
                [&all.0, &results.disturbed.0],
                &options.limits,
                spans,
            ),
            counts: results.counts.clone(),
            server,
            timeline,
            examples: results.examples.clone(),
        }
    }
}

fn failures(
    plan: &Plan,
    counts: &Counts,
    [undisturbed, disturbed]: [&Histogram<u64>; 2],
    limits: &[Limit],
    spans: &Spans,
) -> Vec<String> {
    let lost = spans.lost.iter();
    let mut failures: Vec<String> = lost
        .map(|lost| format!("LOST: {lost}; all below is of the other workers"))
        .collect();
    if let Some(open) = spans.no_memory {
        failures.push(format!(
            "MEMORY: less than --keep-free was left with {open} sessions open"
        ));
    }
    if let Some(after) = spans.interrupted {
        failures.push(match after {
            0.0 => "INTERRUPTED: before the measured part".to_owned(),
            after => format!("INTERRUPTED: after {after:.1} s of the measured part"),
        });
    }
    let ready = (
        u64::from(plan.holders()) - counts.ready,
        "sessions are not open in the end",
    );
    let wrong = [
        ready,
        (counts.missed, "deliveries were missed"),
        (counts.duplicated, "deliveries came twice"),
        (counts.reordered, "deliveries came after newer ones"),
        (counts.flaps, "times a user who was there was shown offline"),
        (
            counts.strays,
            "times a user was shown in a state that it was not in",
        ),
        (counts.wrong_at_end, "watched users look wrong in the end"),
        (counts.errors, "error messages came"),
    ];
    for (count, what) in wrong {
        if count > 0 {
            failures.push(format!("{count} {what}"));
        }
    }
    let punctual = counts.within_10ms as f64 / counts.changes.max(1) as f64;
    if counts.changes > 0 && punctual < PUNCTUAL {
        let percent = punctual * 100.0;
        failures.push(format!(
            "INVALID: only {percent:.1} % of the changes were made within 10 ms of their time"
        ));
    }
    for limit in limits {
        let Limit {
            percentile,
            below,
            text,
            ..
        } = limit;
        let latency = if limit.disturbed {
            disturbed
        } else {
            undisturbed
        };
        let at = latency.value_at_percentile(*percentile);
        if latency.is_empty() || u128::from(at) >= below.as_micros() {
            failures.push(format!("{text} does not hold: {:.2} ms", at as f64 / 1e3));
        }
    }
    failures
}
