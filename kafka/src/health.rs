//! What a producer and a consumer tell about themselves: counters for metrics, whether events can pass,
//! and the last error. Reading it never waits for a broker.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{client::Statistics, notes::Notes, options::Options, reach::Reach};

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
    pub(crate) base: Base,
    pub(crate) accepted: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) unready: AtomicU64,
    pub(crate) rebuilt: AtomicU64,
}

/// The health of a consumer.
#[derive(Debug)]
pub struct ConsumerHealth {
    pub(crate) base: Base,
    pub(crate) consumed: AtomicU64,
    pub(crate) wanted: AtomicU64,
    pub(crate) bad: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) lag: AtomicU64,
    pub(crate) age_ms: AtomicU64,
}

/// What producer and consumer have in common.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) notes: Notes,
    running: AtomicBool,
    pub(crate) connected: AtomicBool,
    /// The topic's partitions that are used; 0 = none yet.
    pub(crate) partitions: AtomicI32,
    reach: Mutex<Reach>,
}

impl Base {
    fn new(options: &Options) -> Self {
        Self {
            notes: Notes::new(options),
            running: AtomicBool::new(true),
            connected: AtomicBool::new(false),
            partitions: AtomicI32::new(0),
            reach: Mutex::default(),
        }
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the client says every two seconds, for its owner to read; a text that is none is an error.
    pub(crate) fn see(&self, json: &[u8]) -> Option<Statistics> {
        let statistics = Statistics::decode(json);
        let told =
            statistics.inspect_err(|error| self.notes.error(&format!("statistics: {error}")));
        let statistics = told.ok()?;
        self.connected.store(statistics.connected(), Relaxed);
        let seeks = self.partitions.load(Relaxed) == 0;
        self.reach().see(&statistics, seeks, &self.notes);
        Some(statistics)
    }

    /// Why events do not pass, as far as a client knows by itself; stays the same while nothing changes.
    fn trouble(&self) -> Option<String> {
        if !self.running.load(Relaxed) {
            return Some("its thread has ended".into());
        }
        if let Some(trouble) = self.reach().trouble() {
            return Some(trouble);
        }
        if !self.connected.load(Relaxed) {
            return Some("no broker of kafka.brokers can be reached".into());
        }
        let topic = &self.notes.topic;
        let knows = self.partitions.load(Relaxed) > 0;
        (!knows).then(|| format!("the partitions of the topic {topic} are not known"))
    }
}

impl ProducerHealth {
    /// Why no event can be published, as far as it is known without one that waits.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.base.trouble()
    }

    pub(crate) fn new(options: &Options) -> Self {
        Self {
            base: Base::new(options),
            accepted: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            full: AtomicU64::new(0),
            unready: AtomicU64::new(0),
            rebuilt: AtomicU64::new(0),
        }
    }

    /// The producer's counts and gauges at this moment.
    #[must_use]
    pub fn stats(&self) -> ProducerStats {
        ProducerStats {
            running: self.base.running.load(Relaxed),
            connected: self.base.connected.load(Relaxed),
            unreachable: self.base.reach().trouble().is_some(),
            partitions: self.base.partitions.load(Relaxed),
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
        self.base.notes.last_error()
    }
}

impl ConsumerHealth {
    /// Why events cannot be read now; `None` while they can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.base.trouble()
    }

    pub(crate) fn new(options: &Options) -> Self {
        Self {
            base: Base::new(options),
            consumed: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            age_ms: AtomicU64::new(0),
        }
    }

    /// The consumer's counts and gauges at this moment.
    #[must_use]
    pub fn stats(&self) -> ConsumerStats {
        ConsumerStats {
            running: self.base.running.load(Relaxed),
            connected: self.base.connected.load(Relaxed),
            unreachable: self.base.reach().trouble().is_some(),
            partitions: self.base.partitions.load(Relaxed),
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
        self.base.notes.last_error()
    }
}

/// Held by a thread: says when that ends, even by a panic.
pub(crate) struct Running<'a>(pub(crate) &'a Base);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Self(base) = self;
        base.running.store(false, Relaxed);
        if std::thread::panicking() {
            base.notes.error("a panic ended the thread");
        }
    }
}

/// The time, ms since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}
