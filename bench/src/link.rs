//! What the processes of a run tell each other: one JSON object a line, over the worker's standard
//! input and output. First comes the plan, then orders; back come progress and the results.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2Serializer},
};
use serde::{Deserialize, Serialize};

/// An instruction of the parent process to a worker, after its plan.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// Begin the measured part at this monotonic time, µs.
    Go(u64),
    /// The one that all watch lost its session, or has it again.
    Away(Away),
    /// Make no change after this monotonic time, µs, and end as if none had been planned.
    End(u64),
    /// Report the results and end.
    Stop,
}

/// A disturbance of the user that all sessions watch, told to the workers that do not have it.
/// Times in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Away {
    Lost(u64),
    /// The bench itself cut the connection.
    Cut,
    Back(u64),
}

/// A report of a worker to the parent process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum News {
    /// The state of the run, about twice a second.
    Progress {
        ready: u64,
        delivered: u64,
        /// The 99th percentile of the delivery latency so far, µs.
        p99: u64,
    },
    /// All sessions of this worker are open and have their snapshots.
    Ready,
    /// A second of the measured part is over.
    Second(Box<Second>),
    /// A disturbance of the user that all sessions watch, for the other workers.
    Away(Away),
    /// The results of the run; nothing follows.
    Done(Box<Results>),
}

/// What one worker, or all together, counted in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    /// Sessions that are open and have their snapshot.
    pub(crate) ready: u64,
    /// Connections that were opened.
    pub(crate) connects: u64,
    /// TLS handshakes from nothing, and those that took a former session up again.
    pub(crate) tls_full: u64,
    pub(crate) tls_resumed: u64,
    /// Connections that could not be opened, or were not upgraded.
    pub(crate) refused: u64,
    /// Open sessions that broke or were closed, and were wanted.
    pub(crate) broken: u64,
    /// Sessions that were told to go to another server (1012).
    pub(crate) moved: u64,
    /// Sessions that were opened at a server that does not own the user (4421).
    pub(crate) wrong_node: u64,
    /// Sessions and upgrades that were put off (1013, HTTP 503).
    pub(crate) put_off: u64,
    /// Connections given up because nothing was heard for too long.
    pub(crate) silent: u64,
    /// Sessions that did not answer a ping in time, and did later.
    pub(crate) stalled: u64,
    /// Questions to a coordinator for a user's route.
    pub(crate) routes: u64,
    /// Of these, asked again after a failed dial or because the route was old.
    pub(crate) rerouted: u64,
    /// Questions that a coordinator answered without a route.
    pub(crate) unrouted: u64,
    /// Connections to a coordinator that failed.
    pub(crate) coordinators_lost: u64,
    /// Changes that were made.
    pub(crate) changes: u64,
    /// Of these, made within 1 ms and 10 ms of their time.
    pub(crate) within_1ms: u64,
    pub(crate) within_10ms: u64,
    /// Changes that each watcher should have seen, summed over the watchers.
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    /// Changes that a user could not report when it meant to, for want of a session.
    pub(crate) held_back: u64,
    /// Not seen because a newer state of the same user came instead, or nobody could see it.
    pub(crate) conflated: u64,
    pub(crate) missed: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) flaps: u64,
    /// Records of a state that the user was not in.
    pub(crate) strays: u64,
    /// The same when the user's server may just have crashed.
    pub(crate) rolled_back: u64,
    /// Watched users whose last state seen is not the one that the schedule ends with.
    pub(crate) wrong_at_end: u64,
    /// Records outside the schedule that are no fault.
    pub(crate) other: u64,
    /// Watches that could not be answered for the time being.
    pub(crate) unavailable: u64,
    /// `error` messages other than `unavailable`.
    pub(crate) errors: u64,
    /// Closed sessions, by close code.
    pub(crate) closes: BTreeMap<u16, u64>,
    /// Occurrences of each cause of a failure or a reconnect.
    pub(crate) causes: BTreeMap<String, u64>,
}

/// Different causes that are kept apart; what servers say is without end.
const MAX_CAUSES: usize = 50;

impl Counts {
    /// Counts one occurrence of a cause.
    pub(crate) fn cause(&mut self, cause: &str) {
        let cause = match self.causes.len() {
            ..MAX_CAUSES => cause,
            _ if self.causes.contains_key(cause) => cause,
            _ => "other causes",
        };
        *self.causes.entry(cause.to_owned()).or_default() += 1;
    }

    /// What was found wrong so far.
    pub(crate) fn wrong(&self) -> u64 {
        self.missed + self.duplicated + self.reordered + self.flaps + self.strays + self.errors
    }

    /// Adds the counts of another worker.
    pub(crate) fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.ready, other.ready),
            (&mut self.connects, other.connects),
            (&mut self.tls_full, other.tls_full),
            (&mut self.tls_resumed, other.tls_resumed),
            (&mut self.refused, other.refused),
            (&mut self.broken, other.broken),
            (&mut self.moved, other.moved),
            (&mut self.wrong_node, other.wrong_node),
            (&mut self.put_off, other.put_off),
            (&mut self.silent, other.silent),
            (&mut self.stalled, other.stalled),
            (&mut self.routes, other.routes),
            (&mut self.rerouted, other.rerouted),
            (&mut self.unrouted, other.unrouted),
            (&mut self.coordinators_lost, other.coordinators_lost),
            (&mut self.held_back, other.held_back),
            (&mut self.strays, other.strays),
            (&mut self.rolled_back, other.rolled_back),
            (&mut self.wrong_at_end, other.wrong_at_end),
            (&mut self.unavailable, other.unavailable),
            (&mut self.changes, other.changes),
            (&mut self.within_1ms, other.within_1ms),
            (&mut self.within_10ms, other.within_10ms),
            (&mut self.expected, other.expected),
            (&mut self.delivered, other.delivered),
            (&mut self.conflated, other.conflated),
            (&mut self.missed, other.missed),
            (&mut self.duplicated, other.duplicated),
            (&mut self.reordered, other.reordered),
            (&mut self.flaps, other.flaps),
            (&mut self.other, other.other),
            (&mut self.errors, other.errors),
        ];
        for (mine, others) in pairs {
            *mine += others;
        }
        for (code, count) in &other.closes {
            *self.closes.entry(*code).or_default() += count;
        }
        for (cause, count) in &other.causes {
            *self.causes.entry(cause.clone()).or_default() += count;
        }
    }
}

/// A histogram of times in µs, up to ten minutes.
#[derive(Debug, Clone)]
pub(crate) struct Times(pub(crate) Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 600_000_000, 3).expect("good bounds"))
    }
}

impl Times {
    pub(crate) fn record(&mut self, us: u64) {
        self.0.saturating_record(us);
    }
}

impl Serialize for Times {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2Serializer::new()
            .serialize(&self.0, &mut bytes)
            .map_err(|error| serde::ser::Error::custom(format!("{error:?}")))?;
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        let times = Deserializer::new().deserialize(&mut &*bytes);
        times
            .map(Self)
            .map_err(|error| D::Error::custom(format!("{error:?}")))
    }
}

/// What a worker saw in one second of the measured part.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Second {
    /// The second of the measured part, counted from 0.
    pub(crate) second: u32,
    /// Sessions that were open at its end.
    pub(crate) sessions: u64,
    /// Connections that were cut, and sessions that were sent elsewhere.
    pub(crate) cut: u64,
    pub(crate) moved: u64,
    /// Connections that were refused.
    pub(crate) refused: u64,
    /// Changes that were made.
    pub(crate) changes: u64,
    /// What was found wrong.
    pub(crate) wrong: u64,
    /// By how much the latest of these changes was late, µs.
    pub(crate) late: u64,
    /// Processor time of the worker, µs.
    pub(crate) processor: u64,
    /// All that was delivered in it, disturbed or not.
    pub(crate) times: Times,
}

/// The measurements of one worker, or of all together.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) counts: Counts,
    /// From a change's intended time until the bench made it.
    pub(crate) lateness: Times,
    /// Resident memory of the workers in the end, bytes.
    #[serde(default)]
    pub(crate) resident: u64,
    /// Processor time in the measured part, of all workers and of the busiest, µs.
    pub(crate) processor: u64,
    pub(crate) busiest: u64,
    /// From a status change's intended time to its delivery.
    pub(crate) status: Times,
    /// The same for a user that comes, its connection and token included.
    pub(crate) come: Times,
    /// The latency of deliveries that show a user as gone.
    pub(crate) leave: Times,
    /// The same for any of them when a session of the user or of the watcher was lost meanwhile.
    pub(crate) disturbed: Times,
    /// The length of each user's disturbances.
    pub(crate) outage: Times,
    /// The time from the intended connection to `welcome`.
    pub(crate) handshake: Times,
    /// From the question for a route to its answer.
    pub(crate) route: Times,
    /// From the start of a storm until this worker's last session was back, µs.
    pub(crate) recovered: u64,
    /// Connections that are open in the end, by server.
    pub(crate) places: BTreeMap<SocketAddr, u64>,
    /// The first of what was wrong, by its name.
    pub(crate) examples: BTreeMap<String, Vec<String>>,
}

/// The most examples that are kept of each kind of fault.
const MAX_EXAMPLES: usize = 5;

impl Results {
    /// Keeps what was wrong as an example, while there are few.
    pub(crate) fn example(&mut self, kind: &str, example: impl FnOnce() -> String) {
        if !self.examples.contains_key(kind) {
            self.examples.insert(kind.into(), Vec::new());
        }
        if let Some(examples) = self.examples.get_mut(kind)
            && examples.len() < MAX_EXAMPLES
        {
            examples.push(example());
        }
    }

    /// Adds the measurements of another worker.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        let pairs = [
            (&mut self.lateness, &other.lateness),
            (&mut self.status, &other.status),
            (&mut self.come, &other.come),
            (&mut self.leave, &other.leave),
            (&mut self.disturbed, &other.disturbed),
            (&mut self.outage, &other.outage),
            (&mut self.handshake, &other.handshake),
            (&mut self.route, &other.route),
        ];
        for (mine, others) in pairs {
            mine.0 += &others.0;
        }
        self.resident += other.resident;
        self.processor += other.processor;
        self.busiest = self.busiest.max(other.busiest);
        self.recovered = self.recovered.max(other.recovered);
        for (place, open) in &other.places {
            *self.places.entry(*place).or_default() += open;
        }
        for (kind, examples) in &other.examples {
            for example in examples {
                self.example(kind, || example.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_survive_the_way_to_the_parent() {
        let mut results = Results::default();
        results.counts.delivered = 3;
        results.status.record(1_500);
        let line = serde_json::to_string(&News::Done(Box::new(results.clone()))).expect("JSON");
        let News::Done(back) = serde_json::from_str(&line).expect("news") else {
            panic!("another kind of news");
        };
        assert_eq!(
            (back.counts, back.status.0),
            (results.counts, results.status.0)
        );
    }
}
