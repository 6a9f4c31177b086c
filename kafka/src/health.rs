//! What a producer and a consumer tell about themselves: counters for metrics, the last error,
//! and a bounded number of lines for people. Reading it never waits for a broker.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    client::Statistics,
    hints::{login, with_setting},
    options::{Options, Said},
    rights::Rights,
};

/// The last error of a client, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// The error in words, without any secret.
    pub text: String,
    /// The time of the error, ms since 1970.
    pub at: u64,
}

/// The numbers of a producer at one moment. Totals count from the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Whether its thread runs: not after a stop, nor when the reports' receiver panicked.
    pub running: bool,
    /// Whether there is a connection to a broker, as of the last two seconds.
    pub connected: bool,
    /// Whether a broker that leads partitions cannot be reached at its advertised address, from the
    /// beginning or any longer.
    pub unreachable: bool,
    /// The topic's partitions; 0 = not known yet, so that nothing is accepted.
    pub partitions: i32,
    /// Events that were accepted for sending.
    pub accepted: u64,
    /// Events that the brokers confirmed.
    pub delivered: u64,
    /// Events that were reported as not delivered.
    pub failed: u64,
    /// Events that were refused since the queue was full.
    pub full: u64,
    /// Events that were refused since the topic was not known or the client was being made.
    pub unready: u64,
    /// How often the client was made again after an error that ends it.
    pub rebuilt: u64,
}

impl ProducerStats {
    /// The number of accepted events without a report.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.accepted
            .saturating_sub(self.delivered)
            .saturating_sub(self.failed)
    }
}

/// The numbers of a consumer at one moment. Totals count from the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Whether its thread runs: not after a stop, nor when the sink panicked.
    pub running: bool,
    /// Whether there is a connection to a broker, as of the last two seconds.
    pub connected: bool,
    /// Whether a broker that leads partitions cannot be reached at its advertised address, from the
    /// beginning or any longer.
    pub unreachable: bool,
    /// The partitions that are read; 0 = none yet.
    pub partitions: i32,
    /// Messages that were read from the topic.
    pub consumed: u64,
    /// Messages whose key somebody on this node wants.
    pub wanted: u64,
    /// Messages that are no events.
    pub bad: u64,
    /// How often events may have been missed, the first assignment included.
    pub gaps: u64,
    /// Messages on the topic that are not read yet, as of the last two seconds.
    pub lag: u64,
    /// How old the message was that was read last, ms: from its timestamp to the reading, as
    /// the two machines' clocks see it.
    pub age_ms: u64,
}

/// The health of a producer.
#[derive(Debug)]
pub struct ProducerHealth {
    pub(crate) notes: Notes,
    pub(crate) running: AtomicBool,
    pub(crate) connected: AtomicBool,
    pub(crate) partitions: AtomicI32,
    pub(crate) accepted: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) unready: AtomicU64,
    pub(crate) reach: Mutex<Reach>,
    pub(crate) rebuilt: AtomicU64,
}

/// The health of a consumer.
#[derive(Debug)]
pub struct ConsumerHealth {
    pub(crate) notes: Notes,
    pub(crate) running: AtomicBool,
    pub(crate) connected: AtomicBool,
    pub(crate) partitions: AtomicI32,
    pub(crate) consumed: AtomicU64,
    pub(crate) wanted: AtomicU64,
    pub(crate) bad: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) reach: Mutex<Reach>,
    pub(crate) lag: AtomicU64,
    pub(crate) age_ms: AtomicU64,
}

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
    fn trouble(&self) -> Option<String> {
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

fn is_unreachable(reach: &Mutex<Reach>) -> bool {
    let reach = reach.lock().unwrap_or_else(PoisonError::into_inner);
    reach.trouble().is_some()
}

/// Why events do not pass, as far as a client knows by itself; stays the same while nothing changes.
fn trouble(
    running: bool,
    connected: bool,
    partitions: i32,
    reach: &Mutex<Reach>,
    notes: &Notes,
) -> Option<String> {
    if !running {
        return Some("its thread has ended".into());
    }
    let reach = reach.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(trouble) = reach.trouble() {
        return Some(trouble);
    }
    if !connected {
        return Some("no broker of kafka.brokers can be reached".into());
    }
    let topic = &notes.topic;
    (partitions == 0).then(|| format!("the partitions of the topic {topic} are not known"))
}

impl ProducerHealth {
    /// Why no event can be published, as far as it is known without one that waits.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let load = |flag: &AtomicBool| flag.load(Relaxed);
        let partitions = self.partitions.load(Relaxed);
        let (running, connected) = (load(&self.running), load(&self.connected));
        trouble(running, connected, partitions, &self.reach, &self.notes)
    }

    pub(crate) fn new(options: &Options) -> Self {
        Self {
            notes: Notes::new(options),
            running: AtomicBool::new(true),
            connected: AtomicBool::new(false),
            partitions: AtomicI32::new(0),
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            full: AtomicU64::new(0),
            unready: AtomicU64::new(0),
            reach: Mutex::default(),
            rebuilt: AtomicU64::new(0),
        }
    }

    /// The producer's counts and gauges at this moment.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        ProducerStats {
            running: self.running.load(Relaxed),
            connected: self.connected.load(Relaxed),
            unreachable: is_unreachable(&self.reach),
            partitions: self.partitions.load(Relaxed),
            // In this order, so that no more seem to be reported than accepted.
            delivered: self.delivered.load(Relaxed),
            failed: self.failed.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            full: self.full.load(Relaxed),
            unready: self.unready.load(Relaxed),
            rebuilt: self.rebuilt.load(Relaxed),
        }
    }

    /// The last error; `None` before the first.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.notes.last_error()
    }
}

impl ConsumerHealth {
    /// Why events cannot be read now; `None` while they can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let load = |flag: &AtomicBool| flag.load(Relaxed);
        let partitions = self.partitions.load(Relaxed);
        let (running, connected) = (load(&self.running), load(&self.connected));
        trouble(running, connected, partitions, &self.reach, &self.notes)
    }

    pub(crate) fn new(options: &Options) -> Self {
        Self {
            notes: Notes::new(options),
            running: AtomicBool::new(true),
            connected: AtomicBool::new(false),
            partitions: AtomicI32::new(0),
            consumed: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            reach: Mutex::default(),
            lag: AtomicU64::new(0),
            age_ms: AtomicU64::new(0),
        }
    }

    /// The consumer's counts and gauges at this moment.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        ConsumerStats {
            running: self.running.load(Relaxed),
            connected: self.connected.load(Relaxed),
            unreachable: is_unreachable(&self.reach),
            partitions: self.partitions.load(Relaxed),
            consumed: self.consumed.load(Relaxed),
            wanted: self.wanted.load(Relaxed),
            bad: self.bad.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            lag: self.lag.load(Relaxed),
            age_ms: self.age_ms.load(Relaxed),
        }
    }

    /// The last error; `None` before the first.
    #[must_use]
    pub fn last_error(&self) -> Option<LastError> {
        self.notes.last_error()
    }
}

/// Held by a thread: says when that ends, even by a panic.
pub(crate) struct Running<'a> {
    pub(crate) running: &'a AtomicBool,
    pub(crate) notes: &'a Notes,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.running.store(false, Relaxed);
        if std::thread::panicking() {
            self.notes.error("a panic ended the thread");
        }
    }
}

/// Lines for people: at most [`BURST`] at once and one each [`REFILL_MS`] in the long run; what
/// is left out is counted in the next line.
#[derive(Debug)]
pub(crate) struct Notes {
    print: fn(Said, &str),
    secrets: Vec<String>,
    /// The settings that a login is made of.
    login: &'static str,
    pub(crate) rights: Rights,
    topic: String,
    start: Instant,
    last: Mutex<Last>,
    left: AtomicI64,
    refilled_ms: AtomicU64,
    unsaid: AtomicU64,
}

#[derive(Debug, Default)]
struct Last {
    error: Option<LastError>,
    /// What was printed last, the newest at the end.
    lines: VecDeque<String>,
}

const BURST: i64 = 10;
/// Lines that are not said again until something changes.
const REMEMBERED: usize = 4;
const REFILL_MS: u64 = 10_000;

impl Notes {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            print: options.log,
            secrets: options.secrets(),
            login: login(options),
            rights: Rights::new(options),
            topic: options.topic.clone(),
            start: Instant::now(),
            last: Mutex::default(),
            left: AtomicI64::new(BURST),
            refilled_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// Notes an error, for health and log.
    pub(crate) fn error(&self, text: &str) {
        let mut text = with_setting(&self.without_secrets(text), self.login);
        if let Some(missing) = self.rights.in_words(&text) {
            text = format!("{text}: {missing}");
        }
        let mut last = self.last();
        self.print(&mut last, Said::Error, &text);
        last.error = Some(LastError { text, at: now_ms() });
    }

    /// Notes a change of state, for the log.
    pub(crate) fn change(&self, text: &str) {
        let mut last = self.last();
        last.lines.clear();
        self.print(&mut last, Said::Change, &self.without_secrets(text));
    }

    pub(crate) fn without_secrets(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> Option<LastError> {
        self.last().error.clone()
    }

    fn print(&self, last: &mut Last, said: Said, text: &str) {
        // Some errors reach a client twice, and most come again and again, by turns.
        if last.lines.iter().any(|line| line == text) {
            return;
        }
        if !self.take(self.start.elapsed().as_millis() as u64) {
            self.unsaid.fetch_add(1, Relaxed);
            return;
        }
        last.lines.push_back(text.to_owned());
        if last.lines.len() > REMEMBERED {
            last.lines.pop_front();
        }
        match self.unsaid.swap(0, Relaxed) {
            0 => (self.print)(said, text),
            unsaid => (self.print)(
                said,
                &format!("{text} ({unsaid} lines before it were left out)"),
            ),
        }
    }

    /// Whether a line may be printed at `now`, ms since the start.
    fn take(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.refilled_ms.load(Relaxed));
        let more = since / REFILL_MS;
        if more > 0 {
            self.refilled_ms.fetch_add(more * REFILL_MS, Relaxed);
            let left = self.left.load(Relaxed).max(0);
            self.left
                .store((left + more.min(BURST as u64) as i64).min(BURST), Relaxed);
        }
        self.left.fetch_sub(1, Relaxed) > 0
    }
}

/// The time, ms since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Notes {
        let mut options = Options {
            log: |_, _| {},
            ..Options::default()
        };
        options.security.password = "hush-hush".into();
        options
            .extra
            .push(("ssl.key.password".into(), "quiet".into()));
        Notes::new(&options)
    }

    #[test]
    fn a_broker_that_was_reached_is_told_from_one_whose_address_leads_nowhere() {
        let see = |reach: &mut Reach, state: &str| {
            let json = format!(
                r#"{{"brokers":{{"b":{{"source":"configured","state":"UP","nodeid":-1,"nodename":"lb:9092","toppars":{{}}}},
                "b/1":{{"source":"learned","state":"{state}","nodeid":1,"nodename":"b:9092","toppars":{{"t-0":{{}}}}}}}},
                "topics":{{}}}}"#
            );
            let statistics = Statistics::decode(json.as_bytes()).expect("good JSON");
            reach.see(&statistics, false, &notes());
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

    #[test]
    fn a_storm_of_lines_is_cut_to_a_burst_and_then_one_each_ten_seconds() {
        let notes = notes();
        assert_eq!((0..1000).filter(|_| notes.take(0)).count(), 10);
        assert_eq!((0..1000).filter(|_| notes.take(9_999)).count(), 0);
        assert_eq!((0..1000).filter(|_| notes.take(10_000)).count(), 1);
        assert_eq!((0..1000).filter(|_| notes.take(35_000)).count(), 2);
        assert_eq!((0..1000).filter(|_| notes.take(86_400_000)).count(), 10);
    }

    #[test]
    fn no_secret_is_in_the_last_error() {
        let notes = notes();
        notes.error("login of alice with hush-hush and quiet failed");
        let error = notes.last_error().expect("there was one");
        assert_eq!(error.text, "login of alice with *** and *** failed");
        assert!(error.at > 1_600_000_000_000);
    }

    #[test]
    fn an_error_that_comes_again_is_printed_once_until_something_changes() {
        static LINES: AtomicU64 = AtomicU64::new(0);
        let notes = Notes::new(&Options {
            log: |_, _| {
                LINES.fetch_add(1, Relaxed);
            },
            ..Options::default()
        });
        for _ in 0..5 {
            notes.error("refused");
            notes.error("made again");
        }
        assert_eq!(LINES.load(Relaxed), 2);
        notes.change("connected");
        notes.error("refused");
        assert_eq!(LINES.load(Relaxed), 4);
        assert_eq!(notes.last_error().expect("one").text, "refused");
    }
}
