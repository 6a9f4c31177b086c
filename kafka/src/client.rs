//! What librdkafka tells a client of its own accord: logs, errors and statistics. It owns how
//! these are read; it never calls back into the client.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rdkafka::{config::RDKafkaLogLevel, error::KafkaError, types::RDKafkaErrorCode};
use serde::Deserialize;

use crate::health::Notes;

/// A line of librdkafka's log. Left out are hints about properties, since one set of `extra`
/// serves both clients and each has properties that the other does not use, and lines about
/// failed connections, which come as errors, too.
pub(crate) fn on_log(notes: &Notes, level: RDKafkaLogLevel, facility: &str, line: &str) {
    let told = ["CONFWARN", "FAIL"].contains(&facility);
    if !told && (level as i32) <= RDKafkaLogLevel::Warning as i32 {
        notes.error(&format!("{facility}: {line}"));
    }
}

/// An error that is no message's and no partition's.
pub(crate) fn on_error(notes: &Notes, connected: &AtomicBool, error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        // The errors before it say why.
        Some(RDKafkaErrorCode::AllBrokersDown) => set_connected(notes, connected, false),
        _ if reason.is_empty() => notes.error(&error.to_string()),
        _ => notes.error(reason),
    }
}

/// Tells when the connection to the brokers comes or goes.
pub(crate) fn set_connected(notes: &Notes, connected: &AtomicBool, now: bool) {
    if connected.swap(now, Relaxed) != now {
        notes.change(if now {
            "connected to the brokers"
        } else {
            "no broker can be reached"
        });
    }
}

/// The part of librdkafka's statistics that is used (STATISTICS.md of librdkafka).
#[derive(Debug, Deserialize)]
pub(crate) struct Statistics {
    brokers: std::collections::HashMap<String, Broker>,
    topics: std::collections::HashMap<String, Topic>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    state: String,
}

#[derive(Debug, Deserialize)]
struct Topic {
    partitions: std::collections::HashMap<i32, Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    hi_offset: i64,
}

impl Statistics {
    pub(crate) fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Whether there is a connection to any broker.
    pub(crate) fn connected(&self) -> bool {
        self.brokers
            .values()
            .any(|broker| ["UP", "UPDATE"].contains(&broker.state.as_str()))
    }

    /// The topic's partitions and the offsets after their last messages.
    pub(crate) fn ends(&self, topic: &str) -> impl Iterator<Item = (i32, i64)> {
        self.topics
            .get(topic)
            .into_iter()
            .flat_map(|topic| &topic.partitions)
            .filter(|(partition, known)| **partition >= 0 && known.hi_offset >= 0)
            .map(|(partition, known)| (*partition, known.hi_offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_tell_connections_and_the_ends_of_known_partitions() {
        let read = |state: &str| {
            let json = format!(
                r#"{{"name":"x","brokers":{{"b":{{"state":"{state}","rtt":{{}}}}}},"topics":{{"t":
                {{"partitions":{{"0":{{"hi_offset":7}},"1":{{"hi_offset":-1001}},"-1":{{"hi_offset":3}}}}}}}}}}"#
            );
            Statistics::decode(json.as_bytes()).expect("good JSON")
        };
        assert!(read("UP").connected());
        assert!(!read("TRY_CONNECT").connected());
        assert_eq!(read("UP").ends("t").collect::<Vec<_>>(), [(0, 7)]);
        assert_eq!(read("UP").ends("other").count(), 0);
    }
}
