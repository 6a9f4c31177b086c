//! Compares reports of runs. Runs with one label are rounds of one side; a figure of a side is the
//! median of its rounds, with the lowest and the highest. What makes a comparison doubtful comes first.

mod html;
mod text;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    output,
    report::{Percentiles, Report, html as page},
};

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiffError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: this is no report of the bench ({error}); make one with --json", path.display())]
    NoReport {
        path: PathBuf,
        error: serde_json::Error,
    },
}

/// The rounds of one side.
pub(crate) struct Side {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Report>,
}

/// A figure of a side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) rounds: usize,
}

/// A figure of all sides; `None` = a side does not have it.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) figures: Vec<Option<Figure>>,
}

/// Figures that belong together.
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) rows: Vec<Row>,
}

/// A comparison of all sides with the first.
pub(crate) struct Comparison {
    pub(crate) sides: Vec<Side>,
    /// What a reader has to know before.
    pub(crate) doubts: Vec<String>,
    /// In what the sides are not alike: a name and the value of each.
    pub(crate) unlike: Vec<(String, Vec<String>)>,
    pub(crate) tables: Vec<Table>,
}

/// Compares the reports in files and prints the comparison; writes it as a page as well.
pub(crate) fn diff(paths: &[PathBuf], to: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(path) = to {
        output::check_file("report", path)?;
    }
    let reports: Result<Vec<_>, _> = paths.iter().map(|path| read(path)).collect();
    let comparison = Comparison::of(reports?);
    if let Some(path) = to {
        output::write_file("report", path, &html::page(&comparison))?;
    }
    print!("{comparison}");
    Ok(())
}

/// A report and the name of its side.
fn read(path: &Path) -> Result<(String, Report), DiffError> {
    let text = fs::read_to_string(path).map_err(|error| DiffError::Unreadable {
        path: path.into(),
        error,
    })?;
    let report: Report = serde_json::from_str(&text).map_err(|error| DiffError::NoReport {
        path: path.into(),
        error,
    })?;
    let name = match &report.label {
        Some(label) => label.clone(),
        None => path.display().to_string(),
    };
    Ok((name, report))
}

impl Figure {
    /// Of the values of a side's rounds.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[half - 1], values[half]),
            _ => values[half],
        };
        Some(Self {
            min,
            median,
            max,
            rounds: values.len(),
        })
    }

    /// How many times the other's it is; `None` for an other of 0.
    pub(crate) fn ratio(&self, other: &Self) -> Option<f64> {
        (other.median != 0.0).then(|| self.median / other.median)
    }

    /// Whether the rounds of the two say that they differ: each of one is above all of the other.
    /// `None` = there are too few to say so.
    pub(crate) fn differs(&self, other: &Self) -> Option<bool> {
        let enough = self.rounds > 1 && other.rounds > 1;
        enough.then_some(self.min > other.max || self.max < other.min)
    }
}

impl Comparison {
    fn of(reports: Vec<(String, Report)>) -> Self {
        let mut sides: Vec<Side> = Vec::new();
        for (name, report) in reports {
            match sides.iter_mut().find(|side| side.name == name) {
                Some(side) => side.rounds.push(report),
                None => sides.push(Side {
                    name,
                    rounds: vec![report],
                }),
            }
        }
        Self {
            doubts: doubts(&sides),
            unlike: unlike(&sides),
            tables: tables(&sides),
            sides,
        }
    }

    /// What is said of a figure beside the first side's.
    pub(crate) fn against(figure: Option<Figure>, first: Option<Figure>) -> String {
        let (Some(figure), Some(first)) = (figure, first) else {
            return String::new();
        };
        let ratio = figure.ratio(&first);
        let ratio = ratio.map_or_else(String::new, |ratio| format!("×{ratio:.2}"));
        match figure.differs(&first) {
            Some(false) if figure.median != first.median => format!("{ratio} (within the rounds)"),
            _ => ratio,
        }
    }
}

fn doubts(sides: &[Side]) -> Vec<String> {
    let mut doubts = Vec::new();
    if sides.iter().any(|side| side.rounds.len() < 2) {
        doubts.push(
            "A side with one run says nothing of how much runs differ by themselves: make several \
             with one --label, in turns."
                .into(),
        );
    }
    for side in sides {
        for (round, report) in (1..).zip(&side.rounds) {
            let name = match side.rounds.len() {
                1 => side.name.clone(),
                _ => format!("{}, run {round}", side.name),
            };
            for failure in &report.failures {
                doubts.push(format!("{name} failed: {failure}"));
            }
            let busiest = report.generator.busiest_percent;
            if busiest > 80.0 {
                doubts.push(format!(
                    "{name}: the busiest worker of the bench took {busiest:.0} % of a core; its own \
                     queue is in the latencies"
                ));
            }
            let few = report.delivery.filter(|delivery| delivery.count < 10_000);
            if let Some(few) = few {
                doubts.push(format!(
                    "{name}: {} deliveries are too few for p99.9 and beyond",
                    few.count
                ));
            }
        }
    }
    doubts
}

/// Facts of a run that ought to be alike on all sides.
fn facts(report: &Report) -> Vec<(String, String)> {
    let mut facts = vec![("scenario".into(), page::name_of(report.scenario))];
    facts.extend(page::surrounding(report));
    let options = report.options.iter();
    facts.extend(options.map(|(name, value)| {
        let value = page::option(value).unwrap_or_else(|| "–".into());
        (format!("--{name}"), value)
    }));
    if let Some(server) = &report.server {
        let builds: BTreeSet<&str> = server
            .each
            .iter()
            .filter_map(|server| server.build.as_deref())
            .collect();
        let builds: Vec<&str> = builds.into_iter().collect();
        facts.push(("servers".into(), server.each.len().to_string()));
        facts.push(("server's build".into(), builds.join(", ")));
    }
    facts
}

fn unlike(sides: &[Side]) -> Vec<(String, Vec<String>)> {
    let mut names: Vec<String> = Vec::new();
    // Of each side the values of all its rounds, by name.
    let all: Vec<Vec<(String, String)>> = sides
        .iter()
        .map(|side| side.rounds.iter().flat_map(facts).collect())
        .collect();
    for (name, _) in all.iter().flatten() {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let values = |facts: &Vec<(String, String)>, name: &str| {
        let values = facts.iter().filter(|(other, _)| other == name);
        let values: BTreeSet<&str> = values.map(|(_, value)| &**value).collect();
        match values.is_empty() {
            true => "–".to_owned(),
            false => values.into_iter().collect::<Vec<_>>().join(" / "),
        }
    };
    let rows = names.into_iter().map(|name| {
        let row: Vec<String> = all.iter().map(|facts| values(facts, &name)).collect();
        (name, row)
    });
    // Rounds of one side that are not alike show as well.
    rows.filter(|(_, row)| row.iter().any(|v| *v != row[0] || v.contains(" / ")))
        .collect()
}

fn tables(sides: &[Side]) -> Vec<Table> {
    let row = |name: String, value: &dyn Fn(&Report) -> Option<f64>| Row {
        name,
        figures: sides
            .iter()
            .map(|side| Figure::of(side.rounds.iter().filter_map(value).collect()))
            .collect(),
    };
    let of = |value: fn(&Report) -> Option<Percentiles>, name: &str| -> Vec<Row> {
        (0..Percentiles::NAMES.len())
            .map(|at| {
                let name = format!("{name} {}", Percentiles::NAMES[at]);
                row(name, &|report| {
                    Some(value(report)?.values()[at] as f64 / 1e3)
                })
            })
            .collect()
    };
    let latencies = [
        of(|report| report.delivery, "delivery"),
        of(|report| report.disturbed, "disturbed"),
        of(|report| report.outage, "outage"),
        of(|report| report.handshake, "handshake"),
    ];
    let cost = |value: fn(&crate::fleet::Cost) -> Option<f64>| {
        move |report: &Report| value(report.server.as_ref()?)
    };
    let costs = vec![
        row("CPU, % of a core".into(), &cost(|c| Some(c.cpu_percent))),
        row(
            "CPU, µs a delivery".into(),
            &cost(|c| c.cpu_us_per_delivery),
        ),
        row(
            "memory, B a session".into(),
            &cost(|c| Some(c.bytes_per_session as f64)),
        ),
        row(
            "kernel, B a session".into(),
            &cost(|c| Some(c.kernel_bytes_per_session as f64)),
        ),
    ];
    let own = vec![
        row("CPU, % of a core".into(), &|report| {
            Some(report.generator.cpu_percent)
        }),
        row("busiest worker, %".into(), &|report| {
            Some(report.generator.busiest_percent)
        }),
        row("late p99, ms".into(), &|report| {
            Some(report.generator.lateness?.p99 as f64 / 1e3)
        }),
    ];
    let mut correct = vec![
        row("deliveries expected".into(), &|report| {
            Some(report.counts.expected as f64)
        }),
        row("delivered".into(), &|report| {
            Some(report.counts.delivered as f64)
        }),
    ];
    let names = sides.first().and_then(|side| side.rounds.first());
    let names = names.map(page::counts).unwrap_or_default();
    correct.extend(names.iter().enumerate().map(|(at, (name, ..))| {
        row((*name).into(), &|report| {
            Some(page::counts(report)[at].1 as f64)
        })
    }));
    let speed = vec![row("opened, sessions/s".into(), &|report| {
        Some(report.connected_per_second)
    })];
    let tables = [
        ("Latency, ms", latencies.into_iter().flatten().collect()),
        ("Servers", costs),
        ("Correctness", correct),
        ("Sessions", speed),
        ("The load generator", own),
    ];
    let shown = |row: &Row| {
        let figures = row.figures.iter().flatten();
        figures.clone().next().is_some() && figures.map(|figure| figure.max).sum::<f64>() > 0.0
    };
    tables
        .map(|(title, rows): (_, Vec<Row>)| Table {
            title,
            rows: rows.into_iter().filter(shown).collect(),
        })
        .into_iter()
        .filter(|table| !table.rows.is_empty())
        .collect()
}

/// A figure as it is read.
pub(crate) fn shown(figure: Option<Figure>) -> String {
    let Some(figure) = figure else {
        return "–".into();
    };
    let amount = |value: f64| match value {
        whole if whole.fract() == 0.0 => crate::page::number(whole as u64),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    };
    match figure.rounds {
        1 => amount(figure.median),
        _ => format!(
            "{} [{} to {}]",
            amount(figure.median),
            amount(figure.min),
            amount(figure.max)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_that_overlap_are_not_called_different() {
        let of = |values: &[f64]| Figure::of(values.to_vec()).expect("values");
        let (slow, fast, noisy) = (of(&[4.0, 6.0]), of(&[1.0, 3.0, 2.0]), of(&[2.5, 9.0]));
        assert_eq!((slow.median, fast.median), (5.0, 2.0));
        assert_eq!(slow.ratio(&fast), Some(2.5));
        assert_eq!(slow.differs(&fast), Some(true));
        assert_eq!(noisy.differs(&fast), Some(false));
        assert_eq!(of(&[9.0]).differs(&fast), None);
        let text = Comparison::against(Some(noisy), Some(fast));
        assert_eq!(text, "×2.88 (within the rounds)");
        assert_eq!(Comparison::against(Some(slow), None), "");
        assert_eq!(shown(Some(fast)), "2 [1 to 3]");
    }
}
