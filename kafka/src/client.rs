//! What librdkafka tells a client of its own accord: logs, errors and statistics. It owns how
//! these are read, and what a client needs that they show to be stranded; nothing that librdkafka calls
//! calls back into the client.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rdkafka::{
    ClientContext, client::Client, config::RDKafkaLogLevel, error::KafkaError,
    types::RDKafkaErrorCode,
};
use serde::{Deserialize, de::IgnoredAny};

use crate::{admin, health::Base, notes::Notes};

/// A line of librdkafka's log. Left out are hints about properties, since one set of `extra`
/// serves both clients and each has properties that the other does not use, and lines about
/// failed connections, which come as errors, too; but that brokers hang up on who speaks another
/// protocol is no error to librdkafka.
pub(crate) fn on_log(notes: &Notes, level: RDKafkaLogLevel, facility: &str, line: &str) {
    if facility == "FAIL" {
        if hung_up_at_once(line) {
            let why = "do the brokers speak another security.protocol?";
            notes.error(&format!("{line}: {why}"));
        }
    } else if !["CONFWARN", "FATAL"].contains(&facility)
        && (level as i32) <= RDKafkaLogLevel::Warning as i32
    {
        notes.error(&format!("{facility}: {line}"));
    }
}

/// Whether a broker ended a connection that had hardly begun: one with TLS does when it is spoken to
/// without, one that wants a login when it is asked something else.
fn hung_up_at_once(line: &str) -> bool {
    let Some((_, time_and_state)) = line.rsplit_once("(after ") else {
        return false;
    };
    let Some((ms, state)) = time_and_state.split_once("ms in state ") else {
        return false;
    };
    let young = ms.parse().is_ok_and(|ms: u32| ms < 2_000);
    let early = ["APIVERSION_QUERY", "UP"]
        .iter()
        .any(|name| state.starts_with(name));
    line.contains("Disconnected") && young && early
}

/// What is to be done for a client as its statistics say, on the thread that runs it.
#[derive(Debug, Default)]
pub(crate) struct Rescue(AtomicBool);

impl Rescue {
    pub(crate) fn see(&self, statistics: &Statistics) {
        self.0.store(statistics.is_stranded(), Relaxed);
    }

    /// Gives a client that is stranded the brokers of the settings again.
    pub(crate) fn attempt<C: ClientContext>(
        &self,
        client: &Client<C>,
        brokers: &str,
        notes: &Notes,
    ) {
        if self.0.swap(false, Relaxed) {
            notes.change("no broker is known any more: beginning anew with those of kafka.brokers");
            admin::begin_anew(client, brokers);
        }
    }
}

/// An error that is no message's and no partition's.
pub(crate) fn on_error(base: &Base, error: &KafkaError, reason: &str) {
    let notes = &base.notes;
    match error.rdkafka_error_code() {
        // The errors before it say why.
        Some(RDKafkaErrorCode::AllBrokersDown) => base.connected.store(false, Relaxed),
        _ if reason.is_empty() => notes.error(&error.to_string()),
        _ => notes.error(reason),
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
    source: String,
    state: String,
    nodeid: i32,
    nodename: String,
    /// The partitions that it leads, of those that the client uses.
    toppars: std::collections::HashMap<String, IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Topic {
    partitions: std::collections::HashMap<i32, Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    hi_offset: i64,
}

impl Broker {
    fn is_up(&self) -> bool {
        ["UP", "UPDATE"].contains(&self.state.as_str())
    }
}

impl Statistics {
    pub(crate) fn decode(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Whether there is a connection to any broker.
    pub(crate) fn connected(&self) -> bool {
        self.brokers.values().any(Broker::is_up)
    }

    /// Whether the client has no broker left that it could try: those that it had were dropped when the
    /// brokers told of themselves, and librdkafka 2.12.1 does not begin anew then (its issue 5301).
    pub(crate) fn is_stranded(&self) -> bool {
        let mut sources = self.brokers.values().map(|broker| &*broker.source);
        !sources.any(|source| ["configured", "learned"].contains(&source))
    }

    /// The addresses, `host:port`, that the brokers tell, and whether there is a connection to each.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&str, bool)> {
        let brokers = self.brokers.values();
        brokers
            .filter(|broker| broker.nodeid >= 0)
            .map(|broker| (broker.nodename.as_str(), broker.is_up()))
    }

    /// The address of a broker that is needed and not reached: it leads partitions, or there is no
    /// other; or the client `seeks` any, and has tried this one.
    pub(crate) fn away(&self, seeks: bool) -> Option<String> {
        let alone = !self.connected();
        let is_away = |broker: &&Broker| {
            let tried = seeks && broker.state != "INIT";
            let needed = alone || tried || !broker.toppars.is_empty();
            needed && broker.nodeid >= 0 && !broker.is_up()
        };
        let away = self.brokers.values().filter(is_away);
        away.map(|broker| broker.nodename.clone()).min()
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
    fn a_broker_that_hangs_up_at_once_is_told_from_one_that_ends() {
        let line = |why: &str, state: &str| format!("b: {why} (after 5ms in state {state})");
        let hung_up = "Disconnected: connection closed by peer: receive 0 after POLLIN";
        assert!(hung_up_at_once(&line(hung_up, "APIVERSION_QUERY")));
        assert!(hung_up_at_once(&line(
            hung_up,
            "UP, 3 identical error(s) suppressed"
        )));
        assert!(!hung_up_at_once(&line("Connect failed", "CONNECT")));
        assert!(!hung_up_at_once(
            &line(hung_up, "UP").replace("5ms", "86400000ms")
        ));
        assert!(!hung_up_at_once("Disconnected"));
    }

    #[test]
    fn statistics_tell_connections_and_the_ends_of_known_partitions() {
        let read = |state: &str| {
            let json = format!(
                r#"{{"name":"x","brokers":{{"b":{{"source":"configured","state":"{state}","nodeid":-1,"nodename":"lb:9092",
                "rtt":{{}},"toppars":{{}}}},"b/1":{{"source":"learned","state":"DOWN","nodeid":1,"nodename":"b:9092",
                "toppars":{{"t-0":{{"topic":"t","partition":0}}}}}}}},"topics":{{"t":
                {{"partitions":{{"0":{{"hi_offset":7}},"1":{{"hi_offset":-1001}},"-1":{{"hi_offset":3}}}}}}}}}}"#
            );
            Statistics::decode(json.as_bytes()).expect("good JSON")
        };
        assert!(read("UP").connected());
        assert!(!read("TRY_CONNECT").connected());
        assert_eq!(read("UP").away(false), Some("b:9092".into()));
        assert_eq!(read("UP").told().collect::<Vec<_>>(), [("b:9092", false)]);
        assert_eq!(read("UP").ends("t").collect::<Vec<_>>(), [(0, 7)]);
        assert_eq!(read("UP").ends("other").count(), 0);
    }

    #[test]
    fn a_client_without_a_broker_that_it_could_try_is_stranded() {
        let read = |sources: &[&str]| {
            let broker = |source: &&str| {
                format!(
                    r#""{source}":{{"source":"{source}","state":"DOWN","nodeid":-1,"nodename":"","toppars":{{}}}}"#
                )
            };
            let brokers: Vec<String> = sources.iter().map(broker).collect();
            let json = format!(r#"{{"brokers":{{{}}},"topics":{{}}}}"#, brokers.join(","));
            Statistics::decode(json.as_bytes()).expect("good JSON")
        };
        assert!(read(&[]).is_stranded() && read(&["logical", "internal"]).is_stranded());
        assert!(
            !read(&["configured"]).is_stranded() && !read(&["logical", "learned"]).is_stranded()
        );
    }
}
