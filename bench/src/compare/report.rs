//! What a comparison comes to: of each shape and figure the values of each server, and the ratios to ours
//! in the same round.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{
    Shape,
    peers::{Kind, PEERS},
};
use crate::{
    diff::Figure,
    fleet::Cost,
    machine::{Machine, calendar, now_ms},
    page::Page,
    report::Report,
};

/// One load of one server in one round.
pub(super) struct Cell {
    pub(super) shape: &'static str,
    pub(super) peer: &'static str,
    pub(super) round: u32,
    /// Why there is none, otherwise.
    pub(super) result: Result<Report, String>,
}

/// A figure that is compared; less is better in all.
struct Measure {
    name: &'static str,
    of: fn(&Report) -> Option<f64>,
}

fn cost(report: &Report, figure: fn(&Cost) -> Option<f64>) -> Option<f64> {
    report.server.as_ref().and_then(figure)
}

const OF_CONNECT: [Measure; 3] = [
    Measure {
        name: "CPU, µs a connect",
        of: |report| cost(report, |cost| cost.cpu_us_per_connect),
    },
    Measure {
        name: "memory, B a session",
        of: |report| cost(report, |cost| Some(cost.bytes_per_session as f64)),
    },
    Measure {
        name: "until open, p99 ms",
        of: |report| Some(report.handshake?.p99 as f64 / 1e3),
    },
];

const OF_OTHERS: [Measure; 3] = [
    Measure {
        name: "CPU, µs a delivery",
        of: |report| cost(report, |cost| cost.cpu_us_per_delivery),
    },
    Measure {
        name: "p50, ms",
        of: |report| Some(report.delivery?.p50 as f64 / 1e3),
    },
    Measure {
        name: "p99, ms",
        of: |report| Some(report.delivery?.p99 as f64 / 1e3),
    },
];

fn measures(shape: &str) -> &'static [Measure] {
    match shape {
        "connect" => &OF_CONNECT,
        _ => &OF_OTHERS,
    }
}

pub(super) struct Comparison {
    machine: Machine,
    started: u64,
    rounds: u32,
    missing: Vec<(&'static str, String)>,
    cells: Vec<Cell>,
    pub(super) interrupted: bool,
}

/// A server's figure and its ratio to ours.
struct Entry {
    peer: &'static str,
    figure: Figure,
    /// Of each round that both have; `None` = ours, or no such round.
    ratio: Option<Figure>,
}

impl Entry {
    /// Whether ours is behind in the median.
    fn is_lost(&self) -> bool {
        self.ratio.is_some_and(|ratio| ratio.median < 1.0)
    }

    fn ratio(&self) -> String {
        let Some(ratio) = self.ratio else {
            return "–".into();
        };
        let Figure {
            min, median, max, ..
        } = ratio;
        format!("{median:.2} [{min:.2} to {max:.2}]")
    }

    fn figure(&self) -> String {
        match self.figure.median {
            value if value >= 100.0 => format!("{value:.0}"),
            value => format!("{value:.2}"),
        }
    }
}

impl Comparison {
    pub(super) fn new(machine: Machine, rounds: u32) -> Self {
        Self {
            machine,
            started: now_ms(),
            rounds,
            missing: Vec::new(),
            cells: Vec::new(),
            interrupted: false,
        }
    }

    pub(super) fn is_missing(&mut self, peer: &'static str, reason: String) {
        self.missing.push((peer, reason));
    }

    pub(super) fn add(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    fn ours() -> &'static str {
        PEERS
            .iter()
            .find(|peer| peer.kind == Kind::Ours)
            .map_or("", |peer| peer.name)
    }

    /// Whether our edge did all that it was asked for.
    pub(super) fn passed(&self) -> bool {
        let mut ours = self.cells.iter().filter(|cell| cell.peer == Self::ours());
        let good = |cell: &Cell| (cell.result.as_ref()).is_ok_and(|run| run.failures.is_empty());
        !self.interrupted && ours.all(good)
    }

    /// The value of a round, if that run was what it should be.
    fn value(&self, shape: &str, peer: &str, round: u32, measure: &Measure) -> Option<f64> {
        let mut cells = self.cells.iter();
        let cell = cells.find(|c| c.shape == shape && c.peer == peer && c.round == round)?;
        let report = cell.result.as_ref().ok()?;
        (measure.of)(report).filter(|_| report.failures.is_empty())
    }

    fn entries(&self, shape: &str, measure: &Measure) -> Vec<Entry> {
        let of = |peer: &'static str| {
            let values =
                (0..self.rounds).filter_map(|round| self.value(shape, peer, round, measure));
            let ratios = (0..self.rounds).filter_map(|round| {
                let ours = self.value(shape, Self::ours(), round, measure)?;
                let ratio = self.value(shape, peer, round, measure)? / ours;
                (ratio.is_finite() && peer != Self::ours()).then_some(ratio)
            });
            Some(Entry {
                peer,
                figure: Figure::of(values.collect())?,
                ratio: Figure::of(ratios.collect()),
            })
        };
        PEERS.iter().filter_map(|peer| of(peer.name)).collect()
    }

    /// What a reader has to know: runs that failed, servers at their end.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.interrupted {
            doubts.push("It was INTERRUPTED: not all rounds were made.".into());
        }
        for (peer, reason) in &self.missing {
            doubts.push(format!("{peer} is missing: {reason}"));
        }
        for cell in &self.cells {
            let name = format!("{}, {}, round {}", cell.peer, cell.shape, cell.round + 1);
            match &cell.result {
                Err(reason) => doubts.push(format!("{name}: no result: {reason}")),
                Ok(report) => {
                    let failures = report.failures.iter();
                    doubts.extend(failures.map(|f| format!("{name} does not count: {f}")));
                    let cpu = report.server.as_ref().map_or(0.0, |cost| cost.cpu_percent);
                    if cpu > 90.0 {
                        doubts.push(format!("{name}: the server took {cpu:.0} % of its core"));
                    }
                    let own = report.generator.busiest_percent;
                    if own > 80.0 {
                        doubts.push(format!(
                            "{name}: the load generator took {own:.0} % of its core"
                        ));
                    }
                }
            }
        }
        doubts
    }

    /// The rows in which another server takes less than ours, and what it does not do.
    fn lost(&self, shapes: &[Shape]) -> Vec<String> {
        let mut lost = Vec::new();
        for shape in shapes {
            for measure in measures(shape.name) {
                for entry in self
                    .entries(shape.name, measure)
                    .iter()
                    .filter(|e| e.is_lost())
                {
                    let omits = PEERS.iter().find(|peer| peer.name == entry.peer);
                    let sure = entry.ratio.is_some_and(|ratio| ratio.max < 1.0);
                    let how = if sure {
                        "in every round"
                    } else {
                        "in most rounds"
                    };
                    lost.push(format!(
                        "{}, {}: {} takes {} of ours, {how} ({})",
                        shape.name,
                        measure.name,
                        entry.peer,
                        entry.ratio(),
                        omits.map_or("", |peer| peer.omits)
                    ));
                }
            }
        }
        lost
    }

    /// A table of a shape: a heading, and a row for each server.
    fn table(&self, shape: &Shape) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let mut columns = vec!["server"];
        let mut rows: Vec<Vec<String>> = Vec::new();
        let all: Vec<Vec<Entry>> = measures(shape.name)
            .iter()
            .map(|m| self.entries(shape.name, m))
            .collect();
        for measure in measures(shape.name) {
            columns.extend([measure.name, "× ours"]);
        }
        for peer in &PEERS {
            let found = all
                .iter()
                .map(|entries| entries.iter().find(|e| e.peer == peer.name));
            let found: Vec<Option<&Entry>> = found.collect();
            if found.iter().all(Option::is_none) {
                continue;
            }
            let mut row = vec![peer.name.to_owned()];
            for entry in found {
                row.push(entry.map_or_else(|| "–".into(), Entry::figure));
                row.push(entry.map_or_else(|| "–".into(), Entry::ratio));
            }
            rows.push(row);
        }
        (columns, rows)
    }

    pub(super) fn text(&self, shapes: &[Shape]) -> String {
        let mut text = String::new();
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "{}, {} rounds on {}",
            calendar(self.started),
            self.rounds,
            self.machine.short()
        );
        for shape in shapes {
            let (columns, rows) = self.table(shape);
            if rows.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\n{}: {}", shape.name, shape.title);
            for row in
                std::iter::once(columns.iter().map(|c| (*c).to_owned()).collect()).chain(rows)
            {
                let _ = write!(text, "  {:<18}", row[0]);
                for pair in row[1..].chunks(2) {
                    let _ = write!(text, " {:>20} {:>20}", pair[0], pair[1]);
                }
                text.push('\n');
            }
        }
        for (title, items) in [("lost", self.lost(shapes)), ("to know", self.doubts())] {
            for item in items {
                let _ = write!(text, "\n{title}: {item}");
            }
        }
        text.push('\n');
        text
    }

    pub(super) fn json(&self, shapes: &[Shape]) -> Value {
        let figure =
            |f: Figure| json!({"min": f.min, "median": f.median, "max": f.max, "rounds": f.rounds});
        let mut rows = Vec::new();
        for shape in shapes {
            for measure in measures(shape.name) {
                for entry in self.entries(shape.name, measure) {
                    rows.push(json!({
                        "shape": shape.name,
                        "figure": measure.name,
                        "server": entry.peer,
                        "value": figure(entry.figure),
                        "ratio": entry.ratio.map(figure),
                    }));
                }
            }
        }
        let missing = self
            .missing
            .iter()
            .map(|(peer, reason)| json!({"server": peer, "reason": reason}));
        json!({
            "started": self.started,
            "machine": self.machine,
            "rounds": self.rounds,
            "interrupted": self.interrupted,
            "rows": rows,
            "lost": self.lost(shapes),
            "missing": missing.collect::<Vec<_>>(),
            "doubts": self.doubts(),
        })
    }

    pub(super) fn page(&self, shapes: &[Shape]) -> String {
        let mut page = Page::new("online-status beside other servers");
        page.paragraph(&format!(
            "{}, {} rounds on {}, load {:.2} before. Bench {}.",
            calendar(self.started),
            self.rounds,
            self.machine.short(),
            self.machine.load,
            self.machine.bench
        ));
        page.paragraph(
            "Each server runs alone on one core, and the load on another. In each round all are \
             measured one after the other; a ratio is the other's figure by ours of the same round: \
             its median, with the lowest and the highest. Above 1 ours takes less.",
        );
        page.heading("Lost");
        match self.lost(shapes) {
            lost if lost.is_empty() => {
                page.paragraph("No row: no other server takes less than ours.");
            }
            lost => page.list(&lost),
        }
        for shape in shapes {
            let (columns, rows) = self.table(shape);
            if !rows.is_empty() {
                page.heading(shape.title);
                page.table(shape.title, &columns, &rows);
            }
        }
        page.heading("What the others do not do");
        let omits = PEERS.iter().filter(|peer| peer.kind != Kind::Ours);
        let omits: Vec<String> = omits.map(|p| format!("{}: {}", p.name, p.omits)).collect();
        page.list(&omits);
        page.heading("What it takes to believe this");
        match self.doubts() {
            doubts if doubts.is_empty() => {
                page.paragraph("All runs passed, and nothing was at its end.");
            }
            doubts => page.list(&doubts),
        }
        page.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SHAPES, *};

    fn cell(peer: &'static str, round: u32, p99: u64, failures: &[&str]) -> Cell {
        let percentiles = json!({"count": 1, "p50": p99, "p90": p99, "p95": p99, "p99": p99,
            "p99_9": p99, "p99_99": p99, "max": p99});
        let report = json!({
            "scenario": "echo", "host": "", "sessions": 1, "watch": 1, "rate": 1.0, "seconds": 1.0,
            "outages": [], "connected_per_second": 1.0, "counts": {}, "timeline": [], "examples": {},
            "delivery": percentiles, "failures": failures,
        });
        Cell {
            shape: "echo",
            peer,
            round,
            result: serde_json::from_value(report).map_err(|error| error.to_string()),
        }
    }

    #[test]
    fn ratios_are_of_one_round_and_what_is_lost_and_what_failed_is_said() {
        let mut comparison = Comparison::new(Machine::here(), 3);
        for (round, [ours, ws, floor]) in
            (0..).zip([[100, 300, 50], [200, 200, 100], [400, 1_600, 500]])
        {
            comparison.add(cell("online-status", round, ours, &[]));
            comparison.add(cell("ws", round, ws, &[]));
            let failures: &[&str] = if round == 2 {
                &["1 deliveries were missed"]
            } else {
                &[]
            };
            comparison.add(cell("io-uring", round, floor, failures));
        }
        comparison.is_missing("uwebsockets", "no libuv".into());
        let entries = comparison.entries("echo", &OF_OTHERS[2]);
        let ratios: Vec<_> = entries
            .iter()
            .map(|e| (e.peer, e.ratio(), e.is_lost()))
            .collect();
        let expected = [
            ("online-status", "–".to_owned(), false),
            ("ws", "3.00 [1.00 to 4.00]".to_owned(), false),
            ("io-uring", "0.50 [0.50 to 0.50]".to_owned(), true),
        ];
        assert_eq!(ratios, expected);
        for text in [
            comparison.text(&SHAPES),
            comparison.page(&SHAPES),
            comparison.json(&SHAPES).to_string(),
        ] {
            for part in [
                "io-uring takes 0.50",
                "uwebsockets",
                "no libuv",
                "1 deliveries were missed",
            ] {
                assert!(text.contains(part), "without {part}: {text}");
            }
        }
        assert!(comparison.passed());
        comparison.add(cell("online-status", 3, 1, &["INVALID"]));
        assert!(!comparison.passed());
    }
}
