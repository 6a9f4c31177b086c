//! Which brokers a client reaches, and which of those it needs it does not: what is wrong with the network,
//! in words that name the address.

use std::collections::{HashMap, HashSet};

use crate::{client::Statistics, notes::Notes};

/// Which brokers are reached, as of the last statistics.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Not reached in the last statistics: one that is just connected to is none.
    suspect: Option<String>,
    /// The addresses that the brokers tell now and at which they were reached: what is away there
    /// has gone away.
    met: HashSet<String>,
    last_reported: Option<Reached>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reached {
    Yes,
    Nobody,
    /// The brokers tell this address, `host:port`, and it has led nowhere so far.
    NotAt(String),
    /// The broker at this address, `host:port`, was reached and no longer answers.
    Lost(String),
}

impl Reach {
    /// `seeks`: the client has no partitions yet.
    pub(crate) fn see(&mut self, statistics: &Statistics, seeks: bool, notes: &Notes) {
        let connected = statistics.connected();
        let told: HashMap<&str, bool> = statistics.told().collect();
        self.met.retain(|address| told.contains_key(&**address));
        let reached = told.iter().filter(|(_, is_up)| **is_up);
        self.met
            .extend(reached.map(|(address, _)| (*address).into()));
        // librdkafka lets the first connection go when it knows the brokers' own addresses.
        let away = match connected || self.met.is_empty() {
            true => statistics.away(seeks),
            false => None,
        };
        let settled = self.suspect == away;
        self.suspect.clone_from(&away);
        let now = match away {
            Some(_) if !settled => return,
            Some(address) if self.met.contains(&address) => Reached::Lost(address),
            Some(address) => Reached::NotAt(address),
            None if connected => Reached::Yes,
            None => Reached::Nobody,
        };
        if self.last_reported.as_ref() == Some(&now) {
            return;
        }
        match &now {
            Reached::Yes => notes.change("connected to the brokers"),
            Reached::Nobody => notes.change("no broker can be reached"),
            Reached::NotAt(address) => notes.error(&unreachable(address)),
            Reached::Lost(address) => notes.error(&lost(address)),
        }
        self.last_reported = Some(now);
    }

    /// What is wrong with a broker that is needed; `None` when none is, or none is reached at all.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &self.last_reported {
            Some(Reached::NotAt(address)) => Some(unreachable(address)),
            Some(Reached::Lost(address)) => Some(lost(address)),
            _ => None,
        }
    }
}

fn lost(address: &str) -> String {
    format!(
        "the broker at {address} was reached before and no longer answers: it is down, stands still, or \
         the network to there does"
    )
}

fn unreachable(address: &str) -> String {
    format!(
        "a broker cannot be reached at the address that the brokers tell, {address}, though those of \
         kafka.brokers answer: see the brokers' advertised.listeners, and the network to there"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn a_broker_that_was_reached_is_told_from_one_whose_address_leads_nowhere() {
        let see = |reach: &mut Reach, state: &str| {
            let json = format!(
                r#"{{"brokers":{{"b":{{"source":"configured","state":"UP","nodeid":-1,"nodename":"lb:9092","toppars":{{}}}},
                "b/1":{{"source":"learned","state":"{state}","nodeid":1,"nodename":"b:9092","toppars":{{"t-0":{{}}}}}}}},
                "topics":{{}}}}"#
            );
            let statistics = Statistics::decode(json.as_bytes()).expect("good JSON");
            reach.see(&statistics, false, &Notes::new(&Options::default()));
            reach.trouble().unwrap_or_default()
        };
        let mut reach = Reach::default();
        assert_eq!(see(&mut reach, "TRY_CONNECT"), "");
        let never = see(&mut reach, "TRY_CONNECT");
        assert!(never.contains("b:9092") && never.contains("advertised.listeners"));
        assert_eq!(see(&mut reach, "UP"), "");
        assert_eq!(see(&mut reach, "APIVERSION_QUERY"), "");
        let lost = see(&mut reach, "APIVERSION_QUERY");
        assert!(
            lost.contains("b:9092") && lost.contains("no longer answers"),
            "{lost}"
        );
        assert_eq!(see(&mut reach, "UP"), "");
    }
}
