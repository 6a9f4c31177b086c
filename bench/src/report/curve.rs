//! Latencies by percentile, as HdrHistogram's plotter shows them: the nearer to all, the finer.

use std::{collections::BTreeMap, io};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::link::{Results, Times};

/// Points for each further nine of a percentile.
const PER_NINE: u32 = 20;
/// Ticks for each halving of what is left, in a `.hgrm` file.
const TICKS_PER_HALF: u32 = 5;

/// The share of all that took longer than `us` is one of `of`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) of: f64,
    pub(crate) us: u64,
}

/// The `at`th place on the axis of all curves.
pub(crate) fn place(at: u32) -> f64 {
    10_f64.powf(f64::from(at) / f64::from(PER_NINE))
}

/// What is kept of a run, by its name in the report.
pub(crate) fn histograms(results: &Results) -> Vec<(&'static str, Times)> {
    let all = [
        ("handshake", results.handshake.clone()),
        ("route", results.route.clone()),
        ("delivery", super::delivery(results)),
        ("status", results.status.clone()),
        ("come", results.come.clone()),
        ("leave", results.leave.clone()),
        ("disturbed", results.disturbed.clone()),
        ("outage", results.outage.clone()),
        ("lateness", results.lateness.clone()),
    ];
    let measured = all.into_iter().filter(|(_, times)| !times.0.is_empty());
    measured.collect()
}

/// The curves of all that was measured.
pub(crate) fn all(results: &Results) -> BTreeMap<String, Vec<Point>> {
    let all = histograms(results).into_iter();
    all.map(|(name, Times(times))| (name.into(), curve(&times)))
        .collect()
}

/// As far as there are so many values that a place tells something; the last point is the maximum.
fn curve(times: &Histogram<u64>) -> Vec<Point> {
    let mut points = Vec::new();
    for at in 0.. {
        let of = place(at);
        let beyond = of >= times.len() as f64;
        let us = match beyond {
            true => times.max(),
            false => times.value_at_quantile(1.0 - 1.0 / of),
        };
        points.push(Point { of, us });
        if beyond {
            break;
        }
    }
    points
}

/// Writes a histogram in the form that HdrHistogram's plotter reads, in milliseconds.
pub(crate) fn write_hgrm(times: &Histogram<u64>, out: &mut impl io::Write) -> io::Result<()> {
    let ms = |us: f64| us / 1e3;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut total = 0;
    for step in times.iter_quantiles(TICKS_PER_HALF) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        write!(out, "{value:>12.3} {quantile:>14.12} {total:>10}")?;
        if quantile < 1.0 {
            write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (ms(times.mean()), ms(times.stdev()));
    writeln!(
        out,
        "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]"
    )?;
    let max = ms(times.max() as f64);
    writeln!(
        out,
        "#[Max     = {max:>12.3}, Total count    = {:>12}]",
        times.len()
    )?;
    writeln!(
        out,
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        times.buckets(),
        times.distinct_values() / usize::from(times.buckets()).max(1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Histogram<u64> {
        let mut times = Times::default();
        (1..=1_000).for_each(|us| times.record(us * 1_000));
        times.0
    }

    #[test]
    fn a_curve_ends_with_the_slowest_and_goes_no_further_than_its_values() {
        let points = curve(&thousand());
        assert!(points.is_sorted_by(|a, b| a.of < b.of && a.us <= b.us));
        let near = |of: f64, ms: f64| {
            let point = points.iter().find(|point| (point.of - of).abs() < 1e-6);
            let us = point.expect("a point").us as f64;
            assert!((us / 1e3 - ms).abs() < ms / 500.0, "{of}: {us}");
        };
        near(10.0, 900.0);
        near(100.0, 990.0);
        near(1_000.0, 1_000.0);
        assert_eq!(points.len(), 61);
    }

    #[test]
    fn a_plotter_finds_its_columns_its_last_line_and_its_summary() {
        let mut text = Vec::new();
        write_hgrm(&thousand(), &mut text).expect("a vector takes all");
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        let head: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(
            head,
            ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        );
        let rows: Vec<Vec<f64>> = lines[2..lines.len() - 3]
            .iter()
            .map(|line| {
                let numbers = line.split_whitespace().map(str::parse::<f64>);
                numbers.map(|number| number.expect("a number")).collect()
            })
            .collect();
        let half = rows.iter().find(|row| row[1] == 0.5).expect("the median");
        assert!((half[0] - 500.0).abs() < 1.0 && half[2] == 500.0 && half[3] == 2.0);
        let last = rows.last().expect("rows");
        assert_eq!((last[1], last[2], last.len()), (1.0, 1_000.0, 3));
        assert!(lines[lines.len() - 2].contains("Total count    =         1000]"));
    }
}
