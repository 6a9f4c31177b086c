//! The last hour of a fleet in figures, one sample every few seconds; kept in memory and bounded.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use crate::fleet::{Fleet, Node};

/// Samples that are kept: an hour of them.
const KEPT: usize = 720;

/// The fleet's figures at one time. Sums are over the nodes that live; of times the slowest node's
/// counts, and of lags the longest.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sample {
    /// When, ms since 1970 (UTC).
    at: u64,
    sessions: u64,
    changes: f64,
    deliveries: f64,
    /// `None` = nothing was delivered.
    p50: Option<f64>,
    p99: Option<f64>,
    lag: u64,
    store_writes: f64,
    slow: u64,
    moving: u64,
}

/// The samples by column, as plots take them.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Samples {
    at: Vec<u64>,
    sessions: Vec<u64>,
    changes: Vec<f64>,
    deliveries: Vec<f64>,
    p50: Vec<Option<f64>>,
    p99: Vec<Option<f64>>,
    lag: Vec<u64>,
    store_writes: Vec<f64>,
    slow: Vec<u64>,
    moving: Vec<u64>,
}

/// The answer to a question for the history.
#[derive(Debug, Serialize)]
struct Answer {
    /// Seconds between two samples.
    every: u64,
    samples: Samples,
}

/// The samples of the last hour.
#[derive(Debug, Default)]
pub struct History(VecDeque<Sample>);

impl History {
    /// Time between two samples.
    pub const EVERY: Duration = Duration::from_secs(5);

    /// Takes a sample of the fleet at `at`, ms since 1970; the oldest goes when there are too many,
    /// and one that is not later than the last is left out, so that a clock set back makes no loop.
    pub fn take(&mut self, at: u64, fleet: &Fleet) {
        if self.0.back().is_some_and(|last| at <= last.at) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        let alive = || fleet.alive();
        let sum = |read: fn(&Node) -> u64| alive().map(read).sum();
        let rate = |read: fn(&Node) -> f64| (alive().map(read).sum::<f64>() * 10.0).round() / 10.0;
        let most = |read: fn(&Node) -> f64| {
            let most = alive().map(read).fold(0.0, f64::max);
            (most > 0.0).then_some(most)
        };
        self.0.push_back(Sample {
            at,
            sessions: sum(|node| node.load.sessions),
            changes: rate(|node| node.load.events_per_second),
            deliveries: rate(|node| node.load.deliveries_per_second),
            p50: most(|node| node.load.delivery_p50),
            p99: most(|node| node.load.delivery_p99),
            lag: alive().map(|node| node.load.lag_records).max().unwrap_or(0),
            store_writes: rate(|node| node.load.store_writes_per_second),
            slow: sum(|node| node.load.slow),
            moving: sum(|node| u64::from(node.moving)),
        });
    }

    /// The samples later than `after`, ms since 1970, as JSON.
    ///
    /// # Panics
    /// Never: the columns are plain numbers.
    #[must_use]
    pub fn since(&self, after: u64) -> String {
        let mut samples = Samples::default();
        for sample in self.0.iter().filter(|sample| sample.at > after) {
            samples.at.push(sample.at);
            samples.sessions.push(sample.sessions);
            samples.changes.push(sample.changes);
            samples.deliveries.push(sample.deliveries);
            samples.p50.push(sample.p50);
            samples.p99.push(sample.p99);
            samples.lag.push(sample.lag);
            samples.store_writes.push(sample.store_writes);
            samples.slow.push(sample.slow);
            samples.moving.push(sample.moving);
        }
        let every = Self::EVERY.as_secs();
        let mut json = serde_json::to_string(&Answer { every, samples }).expect("plain numbers");
        json.push('\n');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Load;
    use serde_json::{Value, json};

    #[test]
    fn an_hour_is_kept_in_columns_and_only_what_is_later_is_told() {
        let node = |state: &str, sessions, p99| Node {
            state: state.into(),
            load: Load {
                sessions,
                delivery_p99: p99,
                ..Load::default()
            },
            ..Node::default()
        };
        let fleet = Fleet {
            nodes: vec![
                node("active", 5, 1.5),
                node("draining", 7, 9.0),
                node("dead", 100, 50.0),
                node("left", 30, 60.0),
            ],
            ..Fleet::default()
        };
        let mut history = History::default();
        for at in 1..=800 {
            history.take(at, &fleet);
        }
        history.take(790, &fleet);
        assert_eq!(history.0.len(), KEPT);
        let told: Value = serde_json::from_str(&history.since(798)).expect("JSON");
        assert_eq!(told["every"], 5);
        assert_eq!(told["samples"]["at"], json!([799, 800]));
        assert_eq!(told["samples"]["sessions"], json!([12, 12]));
        assert_eq!(told["samples"]["p99"], json!([9.0, 9.0]));
        assert_eq!(told["samples"]["p50"], json!([null, null]));
        let told: Value = serde_json::from_str(&history.since(u64::MAX)).expect("JSON");
        assert_eq!(told["samples"]["at"], json!([]));
    }
}
