//! A report as a page: the verdict, what it takes to believe it, latencies, what happened when, what
//! was wrong, and what it was run on.

use serde_json::Value;

use super::{Percentiles, Report, curve};
use crate::{
    machine::calendar,
    page::{Axis, Line, Page, Plot, number},
    plan::Scenario,
    truth::Span,
};

/// Latencies that a page shows, by their names in the report, and what they are.
pub(crate) const LATENCIES: [(&str, &str); 8] = [
    ("delivery", "delivery, undisturbed"),
    ("status", "status change"),
    ("come", "user comes"),
    ("leave", "user leaves"),
    ("disturbed", "disturbed delivery"),
    ("outage", "outage of a session"),
    ("handshake", "handshake"),
    ("route", "route"),
];

/// Why latencies are what a user would have waited.
const OMISSION: &str = "Latency counts from the time at which a change was meant to happen, on a \
    schedule that does not wait for the server. A server that stands still therefore shows in every \
    change that it held up: there is no coordinated omission, and nothing is corrected afterwards.";

/// A scenario as it is written on the command line.
pub(crate) fn name_of(scenario: Scenario) -> String {
    format!("{scenario:?}").to_lowercase()
}

/// By how many times the slowest curve may exceed the fastest before an axis of equal steps hides it.
const FAR_APART: u64 = 20;

/// What a run is called.
fn name(report: &Report) -> String {
    let kind = name_of(report.scenario);
    match &report.label {
        Some(label) => format!("{label}: {kind}"),
        None => kind,
    }
}

/// The word on a run.
pub(crate) fn word(report: &Report) -> &'static str {
    match () {
        () if report.interrupted.is_some() => "INTERRUPTED",
        () if report.failures.is_empty() => "PASSED",
        () => "FAILED",
    }
}

pub(crate) fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1e3)
}

pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// An option's value as it is written on the command line; `None` = it was not given.
pub(crate) fn option(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) if values.is_empty() => None,
        Value::Array(values) => {
            let values: Vec<String> = values.iter().filter_map(option).collect();
            Some(values.join(", "))
        }
        other => Some(other.to_string()),
    }
}

/// The page of a run.
pub(crate) fn page(report: &Report) -> String {
    let sessions = number(u64::from(report.sessions));
    let mut page = Page::new(&format!("{}, {sessions} sessions", name(report)));
    page.verdict(report.failures.is_empty(), word(report), &report.failures);
    summary(&mut page, report);
    trust(&mut page, report);
    latencies(&mut page, report);
    seconds(&mut page, report);
    wrong(&mut page, report);
    servers(&mut page, report);
    surroundings(&mut page, report);
    page.finish()
}

fn summary(page: &mut Page, report: &Report) {
    let counts = &report.counts;
    let mut text = format!(
        "{}. {} sessions that watch {} each, opened at {:.0} a second; {:.1} s measured.",
        calendar(report.started),
        number(u64::from(report.sessions)),
        report.watch,
        report.connected_per_second,
        report.seconds
    );
    if counts.changes > 0 {
        text += &format!(
            " {} changes at {} a second; {} of {} deliveries came.",
            number(counts.changes),
            report.rate,
            number(counts.delivered),
            number(counts.expected)
        );
    }
    page.paragraph(&text);
}

fn trust(page: &mut Page, report: &Report) {
    let (own, counts) = (&report.generator, &report.counts);
    page.heading("What it takes to believe this");
    page.paragraph(OMISSION);
    let mut rows = vec![
        vec![
            "CPU of the load generator".into(),
            format!(
                "{:.0} % of a core in {} workers, the busiest {:.0} %",
                own.cpu_percent, own.workers, own.busiest_percent
            ),
            "a worker is one thread: near 100 % its own queue is measured too".into(),
        ],
        vec![
            "load of the machine before".into(),
            format!(
                "{:.2} on {} processors",
                report.machine.load, report.machine.processors
            ),
            "what others run takes time from server and bench alike".into(),
        ],
    ];
    if let Some(late) = own.lateness {
        let share = 100.0 * counts.within_1ms as f64 / counts.changes.max(1) as f64;
        rows.push(vec![
            "changes made too late by the load generator".into(),
            format!(
                "p50 {} ms, p99 {} ms, at most {} ms; {share:.1} % within 1 ms",
                ms(late.p50),
                ms(late.p99),
                ms(late.max)
            ),
            "this is in the latencies below, and is not the server's".into(),
        ]);
    }
    if own.resident > 0 {
        rows.push(vec![
            "memory of the load generator".into(),
            format!("{} in the end", mib(own.resident)),
            "it is the servers' neighbour on one machine".into(),
        ]);
    }
    for clock in &own.clocks {
        rows.push(vec![
            format!("clock of the worker at {}", clock.at),
            format!(
                "{} ms behind, give or take {} ms, before the run",
                clock.offset as f64 / 1e3,
                clock.error as f64 / 1e3
            ),
            "taken into account; what clocks drift apart in the run is in the latencies of a fan-out".into(),
        ]);
    }
    page.table("The load generator", &["", "seen", "why it matters"], &rows);
}

fn latencies(page: &mut Page, report: &Report) {
    page.heading("Latency");
    let named: [Option<Percentiles>; 8] = [
        report.delivery,
        report.status,
        report.come,
        report.leave,
        report.disturbed,
        report.outage,
        report.handshake,
        report.route,
    ];
    let rows: Vec<Vec<String>> = LATENCIES
        .iter()
        .zip(named)
        .filter_map(|((_, name), percentiles)| Some(row(name, &percentiles?)))
        .collect();
    let columns = [&["", "count"], &Percentiles::NAMES[..]].concat();
    page.table("Milliseconds by percentile", &columns, &rows);
    let of = |names: &[&str]| {
        let known = LATENCIES.iter().filter(|(key, _)| names.contains(key));
        let lines = known.filter_map(|(key, name)| Some((*name, report.curves.get(*key)?)));
        lines
            .map(|(name, points)| (name.to_owned(), &points[..]))
            .collect::<Vec<_>>()
    };
    let deliveries = of(&["status", "come", "leave", "disturbed"]);
    page.plot(percentiles("Deliveries by percentile", &deliveries));
    let others = of(&["handshake", "route", "outage"]);
    page.plot(percentiles(
        "Handshakes, routes and outages by percentile",
        &others,
    ));
}

pub(crate) fn row(name: &str, percentiles: &Percentiles) -> Vec<String> {
    let mut row = vec![name.to_owned(), number(percentiles.count)];
    row.extend(percentiles.values().map(ms));
    row
}

/// A plot of curves, each of which ends where its values do.
pub(crate) fn percentiles(title: &str, curves: &[(String, &[curve::Point])]) -> Plot {
    let longest = curves.iter().map(|(_, points)| points.len()).max();
    let longest = longest.unwrap_or(0);
    let lines = curves.iter().map(|(name, points)| Line {
        name: name.clone(),
        values: (0..longest)
            .map(|at| points.get(at).map(|point| point.us as f64 / 1e3))
            .collect(),
    });
    let slowest = curves
        .iter()
        .filter_map(|(_, points)| points.last().map(|point| point.us));
    let far_apart = slowest.clone().max() > slowest.min().map(|us| us.saturating_mul(FAR_APART));
    Plot {
        title: title.into(),
        axis: Axis::Percentile,
        unit: "ms",
        logarithmic: far_apart,
        x: (0..longest as u32).map(curve::place).collect(),
        lines: lines.collect(),
        shaded: Vec::new(),
    }
}

/// Lines over time, by their names.
fn over_time(
    report: &Report,
    title: &str,
    unit: &'static str,
    lines: Vec<(&str, Vec<f64>)>,
) -> Plot {
    let seconds = |span: &Span| [span.from, span.until].map(|us| us as f64 / 1e6);
    Plot {
        title: title.into(),
        axis: Axis::Time,
        unit,
        logarithmic: false,
        x: report
            .timeline
            .iter()
            .map(|row| f64::from(row.second))
            .collect(),
        lines: lines
            .into_iter()
            .map(|(name, values)| Line {
                name: name.into(),
                values: values.into_iter().map(Some).collect(),
            })
            .collect(),
        shaded: report.outages.iter().map(seconds).collect(),
    }
}

fn seconds(page: &mut Page, report: &Report) {
    let rows = &report.timeline;
    if rows.len() < 2 {
        return;
    }
    page.heading("Second by second");
    if !report.outages.is_empty() {
        page.paragraph("Outages that were declared are shaded.");
    }
    let of = |value: fn(&crate::timeline::Row) -> u64| -> Vec<f64> {
        rows.iter().map(|row| value(row) as f64).collect()
    };
    let scaled = |values: Vec<f64>, by: f64| values.into_iter().map(|v| v * by).collect();
    let ms = |value| scaled(of(value), 1e-3);
    let rates = vec![
        ("deliveries", of(|row| row.deliveries)),
        ("changes", of(|row| row.changes)),
    ];
    page.plot(over_time(report, "Deliveries and changes", "/s", rates));
    let latency = vec![
        ("p50", ms(|row| row.p50)),
        ("p99", ms(|row| row.p99)),
        ("p99.9", ms(|row| row.p99_9)),
        ("max", ms(|row| row.max)),
        ("bench late, max", ms(|row| row.late)),
    ];
    let mut latency = over_time(
        report,
        "Latency of the deliveries of a second",
        "ms",
        latency,
    );
    latency.logarithmic = true;
    page.plot(latency);
    let sessions = vec![("sessions", of(|row| row.sessions))];
    page.plot(over_time(report, "Open sessions", "", sessions));
    let errors = vec![
        ("cut", of(|row| row.cut)),
        ("moved", of(|row| row.moved)),
        ("refused", of(|row| row.refused)),
        ("wrong", of(|row| row.wrong)),
    ];
    let title = "Sessions lost and refused, deliveries found wrong";
    page.plot(over_time(report, title, "/s", errors));
    let percent = |value| scaled(of(value), 1e-4);
    let own = vec![
        ("all workers", percent(|row| row.processor)),
        ("the busiest", percent(|row| row.busiest)),
    ];
    page.plot(over_time(report, "CPU of the load generator", "%", own));
    if let Some(server) = &report.server {
        let cpu = server.timeline.iter().map(|look| Some(look.cpu_percent));
        page.plot(Plot {
            x: server.timeline.iter().map(|look| look.second).collect(),
            lines: vec![Line {
                name: "servers".into(),
                values: cpu.collect(),
            }],
            ..over_time(report, "CPU of the servers", "%", Vec::new())
        });
    }
}

/// What the counts are, those first that fail a run.
pub(crate) fn counts(report: &Report) -> Vec<(&'static str, u64, &'static str)> {
    let counts = &report.counts;
    vec![
        ("missed", counts.missed, "never shown"),
        ("duplicated", counts.duplicated, "shown again"),
        ("reordered", counts.reordered, "shown after newer ones"),
        ("flaps", counts.flaps, "offline though there"),
        ("strays", counts.strays, "a state that never was"),
        ("wrong in the end", counts.wrong_at_end, "last state seen"),
        ("errors", counts.errors, "error messages"),
        ("conflated", counts.conflated, "a newer state came instead"),
        ("rolled back", counts.rolled_back, "by a crashed server"),
        ("held back", counts.held_back, "changes without a session"),
        ("unavailable", counts.unavailable, "watches put off"),
        ("broken", counts.broken, "open sessions cut"),
        ("refused", counts.refused, "connections not opened"),
        ("silent", counts.silent, "connections given up"),
        ("stalled", counts.stalled, "pings answered late"),
        ("moved", counts.moved, "told to go elsewhere"),
        ("wrong node", counts.wrong_node, "redirected at once"),
        ("put off", counts.put_off, "told to come later"),
        ("TLS from nothing", counts.tls_full, "handshakes"),
        ("TLS resumed", counts.tls_resumed, "handshakes"),
        ("unrouted", counts.unrouted, "no route to be had"),
    ]
}

fn wrong(page: &mut Page, report: &Report) {
    page.heading("Errors");
    let seen = counts(report)
        .into_iter()
        .filter(|(_, count, _)| *count > 0);
    let rows: Vec<Vec<String>> = seen
        .map(|(name, count, what)| vec![name.into(), number(count), what.into()])
        .collect();
    if rows.is_empty() {
        page.paragraph(
            "Nothing was missed, duplicated, out of order, wrong in the end, cut or refused.",
        );
    }
    page.table("Counts that are not 0", &["", "count", "what it is"], &rows);
    let causes: Vec<Vec<String>> = (report.counts.causes.iter())
        .map(|(cause, count)| vec![cause.clone(), number(*count)])
        .collect();
    page.table("Causes", &["", "count"], &causes);
    let closes: Vec<Vec<String>> = (report.counts.closes.iter())
        .map(|(code, count)| vec![code.to_string(), number(*count)])
        .collect();
    page.table("Close codes", &["", "count"], &closes);
    for (kind, examples) in &report.examples {
        page.paragraph(&format!("{kind}, for example:"));
        page.list(examples);
    }
}

fn servers(page: &mut Page, report: &Report) {
    page.heading("Servers");
    let Some(cost) = &report.server else {
        page.paragraph(
            "Not found on this machine: there is neither memory nor CPU of theirs here.",
        );
        return;
    };
    let mut text = format!(
        "A session took {} B of the servers and {} B of the kernel (on loopback both ends); \
         CPU {:.0} % of a core",
        number(cost.bytes_per_session),
        number(cost.kernel_bytes_per_session),
        cost.cpu_percent
    );
    if let Some(each) = cost.cpu_us_per_delivery {
        text += &format!(", {each:.2} µs a delivery");
    }
    page.paragraph(&(text + "."));
    let rows: Vec<Vec<String>> = (cost.each.iter())
        .map(|server| {
            vec![
                server.name.clone(),
                server.build.clone().unwrap_or_else(|| "unknown".into()),
                server.sessions.map_or_else(|| "–".into(), number),
                format!("{:.0} %", server.cpu_percent),
                mib(server.resident),
                mib(server.grown),
                server.lives.to_string(),
            ]
        })
        .collect();
    let columns = [
        "",
        "build ID",
        "sessions",
        "CPU",
        "memory",
        "for sessions",
        "processes",
    ];
    page.table("Each of them", &columns, &rows);
}

fn surroundings(page: &mut Page, report: &Report) {
    page.heading("Machine and options");
    let rows: Vec<Vec<String>> = surrounding(report)
        .into_iter()
        .map(|(name, value)| vec![name, value])
        .collect();
    page.table("Machine", &["", "value"], &rows);
    let options: Vec<Vec<String>> = (report.options.iter())
        .filter_map(|(name, value)| Some(vec![format!("--{name}"), option(value)?]))
        .collect();
    page.table("Options", &["", "value"], &options);
}

/// What a run was made on.
pub(crate) fn surrounding(report: &Report) -> Vec<(String, String)> {
    let machine = &report.machine;
    let rows = [
        ("kernel", machine.kernel.clone()),
        ("architecture", machine.architecture.clone()),
        ("processor", machine.processor.clone()),
        ("processors", machine.processors.to_string()),
        ("memory", mib(machine.memory)),
        ("bench", machine.bench.clone()),
    ];
    rows.map(|(name, value)| (name.into(), value)).into()
}
