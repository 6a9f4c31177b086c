//! What happened in each second of the measured part. A worker keeps the second that it is in; the
//! parent puts the workers' seconds together as rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::processor_us,
    link::{Counts, Second},
};

/// The second that a worker is in, until it is over.
#[derive(Debug, Default)]
pub(crate) struct Present {
    second: Second,
    /// What had been counted when the second began.
    before: Totals,
}

/// Counts that only grow.
#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    cut: u64,
    moved: u64,
    refused: u64,
    changes: u64,
    wrong: u64,
    processor: u64,
}

impl Totals {
    fn of(counts: &Counts) -> Self {
        Self {
            cut: counts.broken + counts.silent,
            moved: counts.moved,
            refused: counts.refused,
            changes: counts.changes,
            wrong: counts.wrong(),
            processor: processor_us(),
        }
    }
}

impl Present {
    /// The measured part begins: what was counted before is of no second.
    pub(crate) fn begin(&mut self, counts: &Counts) {
        self.before = Totals::of(counts);
    }

    /// The second that `since_go` µs are in begins, unless it is the present one; those that are
    /// over are handed to `over`.
    pub(crate) fn pass<E>(
        &mut self,
        since_go: u64,
        counts: &Counts,
        mut over: impl FnMut(&Second) -> Result<(), E>,
    ) -> Result<(), E> {
        while u64::from(self.second.second) < since_go / 1_000_000 {
            let totals = Totals::of(counts);
            let before = std::mem::replace(&mut self.before, totals);
            let second = &mut self.second;
            second.sessions = counts.ready;
            second.cut = totals.cut - before.cut;
            second.moved = totals.moved - before.moved;
            second.refused = totals.refused - before.refused;
            second.changes = totals.changes - before.changes;
            second.wrong = totals.wrong - before.wrong;
            second.processor = totals.processor - before.processor;
            over(second)?;
            second.second += 1;
            second.late = 0;
            second.times.0.reset();
        }
        Ok(())
    }

    /// A change was made so much after its time, µs.
    pub(crate) fn late(&mut self, by: u64) {
        self.second.late = self.second.late.max(by);
    }

    /// Notes a delivery that took `took` µs.
    pub(crate) fn delivered(&mut self, took: u64) {
        self.second.times.record(took);
    }
}

/// A second of the run. Times in µs.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Row {
    pub(crate) second: u32,
    pub(crate) changes: u64,
    pub(crate) deliveries: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
    /// In the end of the second.
    pub(crate) sessions: u64,
    pub(crate) cut: u64,
    pub(crate) moved: u64,
    pub(crate) refused: u64,
    /// Missed, duplicated, reordered, flaps, strays and errors, when they were found.
    pub(crate) wrong: u64,
    /// By how much the bench made its latest change too late.
    pub(crate) late: u64,
    /// Processor time of the bench's workers, and of the busiest.
    pub(crate) processor: u64,
    pub(crate) busiest: u64,
}

/// A second, as far as the workers told of it.
#[derive(Debug, Default)]
struct Partial {
    told: u32,
    sum: Second,
    busiest: u64,
}

/// The rows of a run, and the seconds that not every worker told of yet.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    pub(crate) rows: Vec<Row>,
    partial: BTreeMap<u32, Partial>,
}

impl Timeline {
    /// Adds the same second of one of `workers` workers.
    pub(crate) fn take(&mut self, other: &Second, workers: u32) {
        let Partial { told, sum, busiest } = self.partial.entry(other.second).or_default();
        *told += 1;
        *busiest = other.processor.max(*busiest);
        sum.second = other.second;
        sum.sessions += other.sessions;
        sum.cut += other.cut;
        sum.moved += other.moved;
        sum.refused += other.refused;
        sum.changes += other.changes;
        sum.wrong += other.wrong;
        sum.late = sum.late.max(other.late);
        sum.processor += other.processor;
        sum.times.0 += &other.times.0;
        if *told == workers {
            self.settle(other.second);
        }
    }

    fn settle(&mut self, second: u32) {
        let Some(Partial { sum, busiest, .. }) = self.partial.remove(&second) else {
            return;
        };
        let times = &sum.times.0;
        self.rows.push(Row {
            second,
            changes: sum.changes,
            deliveries: times.len(),
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
            p99_9: times.value_at_quantile(0.999),
            max: times.max(),
            sessions: sum.sessions,
            cut: sum.cut,
            moved: sum.moved,
            refused: sum.refused,
            wrong: sum.wrong,
            late: sum.late,
            processor: sum.processor,
            busiest,
        });
    }

    /// The rows; the last seconds are those of the workers that ended last.
    pub(crate) fn rows(mut self) -> Vec<Row> {
        while let Some((second, _)) = self.partial.first_key_value() {
            self.settle(*second);
        }
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_several_workers_are_put_together_in_order() {
        let mut timeline = Timeline::default();
        let mut counts = Counts::default();
        for worker in 0..2 {
            let mut present = Present::default();
            let mut told = Vec::new();
            let mut pass = |present: &mut Present, at, counts: &Counts| {
                present.pass(at, counts, |second| {
                    told.push(second.clone());
                    Ok::<(), ()>(())
                })
            };
            present.delivered(100);
            counts.ready = 5;
            counts.broken = 1;
            pass(&mut present, 2_100_000, &counts).expect("told");
            present.delivered(200);
            counts.broken = 3;
            pass(&mut present, 3_000_000 + worker, &counts).expect("told");
            counts.broken = 0;
            for second in told {
                timeline.take(&second, 2);
            }
        }
        let rows = timeline.rows();
        let figures: Vec<_> = rows
            .iter()
            .map(|row| (row.second, row.deliveries, row.cut))
            .collect();
        assert_eq!(figures, [(0, 2, 2), (1, 0, 0), (2, 2, 4)]);
        assert_eq!((rows[0].p99, rows[0].sessions), (100, 10));
    }
}
