//! What a run comes to: figures and failed checks. How people are shown them is `text.rs`.

mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    cli::Limit,
    fleet::Cost,
    link::{Counts, Results, Times},
    plan::{Plan, Scenario},
    timeline::Row,
    truth::Span,
};

/// Share of changes that must be made within 10 ms of their time for the latencies to count.
const PUNCTUAL: f64 = 0.95;

/// Percentiles of one latency, µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    count: u64,
    p50: u64,
    p90: u64,
    p95: u64,
    p99: u64,
    p99_9: u64,
    p99_99: u64,
    max: u64,
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
}

/// The report of a run, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    host: String,
    sessions: u32,
    watch: u32,
    rate: f64,
    seconds: f64,
    /// The declared outages, in µs of the measured part.
    outages: Vec<Span>,
    /// The rate at which sessions were opened, a second.
    connected_per_second: f64,
    handshake: Option<Percentiles>,
    /// From a question to a coordinator until its answer.
    route: Option<Percentiles>,
    /// Changes from the intended time to the delivery, with nothing lost in between.
    delivery: Option<Percentiles>,
    status: Option<Percentiles>,
    come: Option<Percentiles>,
    leave: Option<Percentiles>,
    /// The same when the user's or the watcher's session was lost in between, or in a declared outage.
    disturbed: Option<Percentiles>,
    /// How long users were without a session that had all to see.
    outage: Option<Percentiles>,
    /// Until the last session was back after a storm, s.
    recovered: Option<f64>,
    counts: Counts,
    /// The cost of all servers together; `None` when no process was found.
    server: Option<Cost>,
    timeline: Vec<Row>,
    /// The first of what was wrong, by the name of its count.
    examples: BTreeMap<String, Vec<String>>,
    /// What was wrong, one text each; empty = the run passed.
    pub(crate) failures: Vec<String>,
}

/// How long the parts of a run took, s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spans {
    pub(crate) ramp: f64,
    pub(crate) measured: f64,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        results: &Results,
        spans: Spans,
        timeline: Vec<Row>,
        server: Option<Cost>,
        limits: &[Limit],
    ) -> Self {
        let mut all = results.status.clone();
        all.0 += &results.come.0;
        all.0 += &results.leave.0;
        let storm = plan.scenario == Scenario::Storm;
        Self {
            scenario: plan.scenario,
            host: crate::server::host(),
            sessions: plan.holders(),
            watch: plan.watch,
            rate: plan.rate,
            seconds: spans.measured,
            outages: plan.outages.clone(),
            connected_per_second: f64::from(plan.holders()) / spans.ramp,
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
                limits,
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
) -> Vec<String> {
    let mut failures = Vec::new();
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
