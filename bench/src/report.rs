//! What a run comes to: figures, failed checks, and how they are shown.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    cli::Limit,
    link::{Counts, Results, Times},
    plan::{Plan, Scenario},
    server::Sample,
};

/// Share of changes that must be made within 10 ms of their time for the latencies to count.
const PUNCTUAL: f64 = 0.95;

/// Percentiles of a latency, µs.
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

/// What the server's process was seen to cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    /// Resident memory of the server a session, bytes: all there is, sessions, watches and users.
    bytes_per_session: u64,
    /// Slab memory of the kernel a session, bytes; on loopback for both ends.
    kernel_bytes_per_session: u64,
    /// Processor time in the measured part, a delivery, µs; with no deliveries none.
    cpu_us_per_delivery: Option<f64>,
    /// Processor time in the measured part, of one core, percent.
    cpu_percent: f64,
}

impl Cost {
    /// From looks before the first session, at rest with all, and around the measured part, which
    /// took `seconds`.
    pub(crate) fn of(looks: [Sample; 4], sessions: u32, delivered: u64, seconds: f64) -> Self {
        let [before, at_rest, begin, end] = looks;
        let each = |bytes: u64| bytes / u64::from(sessions.max(1));
        let cpu = end.cpu_us.saturating_sub(begin.cpu_us) as f64;
        Self {
            bytes_per_session: each(at_rest.resident.saturating_sub(before.resident)),
            kernel_bytes_per_session: each(at_rest.slab.saturating_sub(before.slab)),
            cpu_us_per_delivery: (delivered > 0).then(|| cpu / delivered as f64),
            cpu_percent: cpu / seconds / 1e4,
        }
    }
}

/// The whole of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    host: String,
    sessions: u32,
    watch: u32,
    rate: f64,
    seconds: f64,
    /// Sessions a second that were opened.
    connected_per_second: f64,
    handshake: Option<Percentiles>,
    /// All changes, from the intended time to the delivery.
    delivery: Option<Percentiles>,
    status: Option<Percentiles>,
    come: Option<Percentiles>,
    leave: Option<Percentiles>,
    /// Until the last session was back after a storm, s.
    recovered: Option<f64>,
    counts: Counts,
    server: Option<Cost>,
    /// What was wrong; empty = passed.
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
            connected_per_second: f64::from(plan.holders()) / spans.ramp,
            handshake: Percentiles::of(&results.handshake),
            delivery: Percentiles::of(&all),
            status: Percentiles::of(&results.status),
            come: Percentiles::of(&results.come),
            leave: Percentiles::of(&results.leave),
            recovered: storm.then_some(results.recovered as f64 / 1e6),
            failures: failures(plan, &results.counts, &all.0, limits),
            counts: results.counts.clone(),
            server,
        }
    }
}

fn failures(
    plan: &Plan,
    counts: &Counts,
    latency: &Histogram<u64>,
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
    for Limit {
        percentile,
        below,
        text,
    } in limits
    {
        let at = latency.value_at_percentile(*percentile);
        if latency.is_empty() || u128::from(at) >= below.as_micros() {
            failures.push(format!("{text} does not hold: {:.2} ms", at as f64 / 1e3));
        }
    }
    failures
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, .. } = self;
        writeln!(f, "{:?} on {}", self.scenario, self.host)?;
        writeln!(
            f,
            "  sessions     {}, {} watches each, opened at {:.0}/s ({} refused, {} broken)",
            self.sessions, self.watch, self.connected_per_second, counts.refused, counts.broken
        )?;
        if counts.changes > 0 {
            let share = |within: u64| 100.0 * within as f64 / counts.changes as f64;
            writeln!(
                f,
                "  changes      {} in {:.1} s, {:.1} % within 1 ms of their time, {:.1} % within 10 ms",
                counts.changes,
                self.seconds,
                share(counts.within_1ms),
                share(counts.within_10ms)
            )?;
            writeln!(
                f,
                "  deliveries   {} of {}: {} missed, {} duplicated, {} reordered, {} flaps, {} conflated",
                counts.delivered,
                counts.expected,
                counts.missed,
                counts.duplicated,
                counts.reordered,
                counts.flaps,
                counts.conflated
            )?;
        }
        if let Some(recovered) = self.recovered {
            writeln!(
                f,
                "  recovered    after {recovered:.2} s, {} flaps",
                counts.flaps
            )?;
        }
        let rows = [
            ("handshake", self.handshake),
            ("delivery", self.delivery),
            ("· status", self.status),
            ("· come", self.come),
            ("· leave", self.leave),
        ];
        writeln!(
            f,
            "  ms           {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"
        )?;
        for (name, row) in rows {
            let Some(row) = row else { continue };
            let values = [
                row.p50, row.p90, row.p95, row.p99, row.p99_9, row.p99_99, row.max,
            ];
            write!(f, "  {name:<12}")?;
            for value in values {
                write!(f, " {:>8.2}", value as f64 / 1e3)?;
            }
            writeln!(f)?;
        }
        match &self.server {
            None => writeln!(
                f,
                "  server       not found; give its --pid for memory and CPU"
            )?,
            Some(cost) => {
                write!(
                    f,
                    "  server       {} B a session, kernel {} B (both ends), CPU {:.0} % of a core",
                    cost.bytes_per_session, cost.kernel_bytes_per_session, cost.cpu_percent
                )?;
                if let Some(cpu) = cost.cpu_us_per_delivery {
                    write!(f, ", {cpu:.1} µs a delivery")?;
                }
                writeln!(f)?;
            }
        }
        for (code, count) in &counts.closes {
            writeln!(f, "  close {code}   {count}")?;
        }
        for (cause, count) in &counts.causes {
            writeln!(f, "  {count} × {cause}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        if self.failures.is_empty() {
            writeln!(f, "PASSED")?;
        }
        Ok(())
    }
}
