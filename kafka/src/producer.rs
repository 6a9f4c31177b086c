//! Publishing: events in from any core, delivery reports out on the producer's own thread. It
//! owns the client that holds the events until they are confirmed, and what happens when that
//! client is at its end. `send` never blocks, and each accepted event is reported exactly once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use protocol::partition;
use rdkafka::{
    ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
    producer::{
        BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig,
    },
    types::RDKafkaErrorCode,
};
use ring::Vnode;

use crate::{
    client::{self, Rescue},
    error::{OpenError, open_error},
    health::{ProducerHealth, Running},
    options::Options,
    rights::Right,
    topic::{self, Found, Missing},
};

/// The delivery report of one accepted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The core as given to [`Producer::send`].
    pub core: u16,
    /// The ticket as given to [`Producer::send`].
    pub ticket: u32,
    /// Whether the brokers confirmed it. If not, it may still be on the topic.
    pub delivered: bool,
}

/// The receiver of delivery reports.
pub trait Reports: Send + Sync {
    /// A batch of reports, not empty; called on the producer's thread, which it must not block
    /// for long. Reports of one vnode come in the order of sending, except for failed ones.
    fn delivered(&self, reports: &[Report]);
}

/// An event was not accepted: the queue is full, the topic is not known yet, or the producer is
/// stopped or being made again. Counted in [`crate::ProducerStats`]; to be tried again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the producer takes no event now")]
pub struct Full;

/// Publishes events. One for each process; its cores share it.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    stop: mpsc::Sender<Duration>,
    /// Says that every accepted event has been reported.
    done: Mutex<mpsc::Receiver<()>>,
}

type Client = BaseProducer<Callbacks>;

struct Shared {
    options: Options,
    health: Arc<ProducerHealth>,
    reports: Arc<dyn Reports>,
    /// `None` while there is no client that takes events.
    client: ArcSwapOption<Client>,
    /// A partition was refused: the topic has changed.
    look_again: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Core and ticket travel through librdkafka in a pointer's place.
const _: () = assert!(usize::BITS >= 48, "core and ticket need 48 bits");

const fn opaque(core: u16, ticket: u32) -> usize {
    (core as usize) << 32 | ticket as usize
}

/// How long the thread waits for reports before it looks at everything else: a stop is heard so late. A
/// little more than whole milliseconds: rdkafka waits for these, and spins until the rest is over.
const TURN: Duration = Duration::from_micros(200_100);
/// Between two attempts to learn the topic's partitions, or to make a client.
const RETRY: Duration = Duration::from_secs(1);
/// After a purge librdkafka reports at once; this is for a machine that is busy.
const PURGE_PATIENCE: Duration = Duration::from_secs(2);

/// A stop may find the thread waiting for a broker's answer, or creating the topic.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

impl Producer {
    /// Starts a producer, whether or not a broker can be reached; it goes on trying.
    pub fn start(options: Options, reports: Arc<dyn Reports>) -> Result<Self, OpenError> {
        options.check()?;
        let health = Arc::new(ProducerHealth::new(&options));
        let shared = Arc::new(Shared {
            options,
            health,
            reports,
            client: ArcSwapOption::empty(),
            look_again: AtomicBool::new(true),
        });
        shared.client.store(Some(Arc::new(shared.make()?)));
        let (stop, stopped) = mpsc::channel();
        let (tell_done, done) = mpsc::channel();
        let producer = Self {
            shared: Arc::clone(&shared),
            stop,
            done: Mutex::new(done),
        };
        thread::Builder::new()
            .name("kafka-producer".into())
            .spawn(move || {
                let _running = Running(&shared.health.base);
                run(&shared, &stopped, &tell_done);
            })?;
        Ok(producer)
    }

    /// Takes an event for the topic, with `user` as its key and `value` as its content, which are
    /// copied, and signed where there is a key. `core` and `ticket` come back in its [`Report`], which may be before this returns.
    /// Any thread may call it; it never blocks.
    ///
    /// # Panics
    /// When `vnode` is not one of the cluster's.
    pub fn send(
        &self,
        core: u16,
        ticket: u32,
        vnode: Vnode,
        user: &str,
        value: &[u8],
    ) -> Result<(), Full> {
        let shared = &*self.shared;
        let health = &*shared.health;
        let partitions = health.base.partitions.load(Relaxed);
        let client = shared.client.load();
        let (1.., Some(client)) = (partitions, &*client) else {
            health.unready.fetch_add(1, Relaxed);
            return Err(Full);
        };
        let vnodes = shared.options.vnodes.get() as u32;
        let signed = shared.options.event_keys.signed(value);
        let record = BaseRecord::with_opaque_to(&shared.options.topic, opaque(core, ticket))
            .partition(partition(vnode, partitions, vnodes))
            .key(user)
            .payload(signed.as_deref().unwrap_or(value));
        // Counted before its report can be.
        health.accepted.fetch_add(1, Relaxed);
        let Err((error, _)) = client.send(record) else {
            return Ok(());
        };
        health.accepted.fetch_sub(1, Relaxed);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => &health.full,
            Some(RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic) => {
                shared.look_again.store(true, Relaxed);
                &health.unready
            }
            _ => {
                health
                    .base
                    .notes
                    .error(&format!("an event is refused: {error}"));
                &health.unready
            }
        }
        .fetch_add(1, Relaxed);
        Err(Full)
    }

    /// How it is doing; goes on to be readable after the end.
    #[must_use]
    pub fn health(&self) -> &Arc<ProducerHealth> {
        &self.shared.health
    }

    /// Takes no more events, waits at most `flush` for the confirmation of those that were
    /// accepted, and reports the others as not delivered. Returns at the latest 10 s after
    /// `flush`; a second call does nothing.
    pub fn stop(&self, flush: Duration) {
        // The thread is gone when it was stopped before.
        if self.stop.send(flush).is_ok() {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            if done.recv_timeout(flush + STOP_PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let notes = &self.shared.health.base.notes;
                notes.error("the producer did not stop in time");
            }
        }
    }
}

impl Drop for Producer {
    /// Stops without waiting for delivery reports.
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Runs the producer's thread until it is stopped.
fn run(shared: &Shared, stopped: &mpsc::Receiver<Duration>, done: &mpsc::Sender<()>) {
    let mut looking = Looking {
        last: Instant::now(),
        wait: Duration::ZERO,
        missing: Missing::new(),
        more: None,
    };
    let mut next_make = Instant::now();
    loop {
        if let Ok(flush) = stopped.try_recv() {
            let client = shared.client.swap(None);
            let client = client.map(|client| shared.retire(client, flush));
            let _ = done.send(());
            // Ends librdkafka's threads, which may take as long as a name lookup.
            drop(client);
            return;
        }
        let now = Instant::now();
        let Some(client) = shared.client.load_full() else {
            if now >= next_make {
                next_make = now + RETRY;
                match shared.make() {
                    Ok(client) => shared.client.store(Some(Arc::new(client))),
                    Err(error) => shared.health.base.notes.error(&error.to_string()),
                }
            } else {
                thread::sleep(TURN);
            }
            continue;
        };
        shared.look_when_due(&client, &mut looking);
        client.poll(TURN);
        client.context().flush_batch();
        let (rescue, notes) = (&client.context().rescue, &shared.health.base.notes);
        rescue.attempt(client.client(), &shared.options.brokers, notes);
        if let Some((code, reason)) = client.client().fatal_error() {
            notes.error(&format!("the producer is made again: {code}: {reason}"));
            shared.health.rebuilt.fetch_add(1, Relaxed);
            shared.client.store(None);
            drop(shared.retire(client, Duration::ZERO));
        }
    }
}

/// When the thread looks at the topic's partitions next.
struct Looking {
    last: Instant,
    wait: Duration,
    missing: Missing,
    /// More partitions than are used, and since when they are known.
    more: Option<(i32, Instant)>,
}

impl Looking {
    /// How many partitions to use of `found`, when `used` are: further ones not before all readers,
    /// which look as often, have seen them.
    fn usable(&mut self, used: i32, found: i32, interval: Duration) -> i32 {
        let since = match self.more {
            Some((count, since)) if count == found => since,
            _ => Instant::now(),
        };
        let waits = 0 < used && used < found && since.elapsed() < interval;
        self.more = waits.then_some((found, since));
        if waits { used } else { found }
    }
}

impl Shared {
    fn make(&self) -> Result<Client, OpenError> {
        let callbacks = Callbacks {
            health: Arc::clone(&self.health),
            reports: Arc::clone(&self.reports),
            rescue: Rescue::default(),
            batch: Mutex::new(Batch {
                reports: Vec::with_capacity(BATCH),
                begun: Instant::now(),
                failures: None,
            }),
        };
        BaseProducer::from_config_and_context(&self.options.producer(), callbacks)
            .map_err(|error| open_error(&error, &self.health.base.notes))
    }

    /// Learns how many partitions the topic has, when it is time for that.
    fn look_when_due(&self, client: &Client, looking: &mut Looking) {
        let health = &*self.health;
        if self.look_again.swap(false, Relaxed) {
            looking.wait = looking.wait.min(RETRY);
        }
        if looking.last.elapsed() < looking.wait {
            return;
        }
        looking.wait = RETRY;
        // Waiting for a broker that is away would hold reports back.
        if health.base.partitions.load(Relaxed) == 0 || health.base.connected.load(Relaxed) {
            match topic::look_up(client.client(), &self.options.topic, &health.base.notes) {
                Found::Partitions(count) => {
                    looking.wait = self.options.metadata_interval;
                    looking.missing.resolved();
                    health.base.connected.store(true, Relaxed);
                    let used = health.base.partitions.load(Relaxed);
                    let count = looking.usable(used, count, self.options.metadata_interval);
                    if health.base.partitions.swap(count, Relaxed) != count {
                        let topic = &self.options.topic;
                        let notes = &health.base.notes;
                        notes.change(&format!("publishing to {count} partitions of {topic}"));
                    }
                }
                Found::Missing => {
                    health.base.partitions.store(0, Relaxed);
                    let missing = &mut looking.missing;
                    missing.create(client.client(), &self.options, &health.base.notes);
                }
                // Events for the partitions that were known wait in the queue.
                Found::Unknown(Some(why)) => health.base.notes.error(&why),
                Found::Unknown(None) => {}
            }
        }
        looking.last = Instant::now();
    }

    /// Gets a report for every event that `client`, which takes no more, still has.
    fn retire(&self, client: Arc<Client>, flush: Duration) -> Arc<Client> {
        let flush = Instant::now() + flush;
        // A core that loaded the client before it was taken away may be in the middle of `send`.
        let wait = |deadline: Instant, done: &dyn Fn() -> bool| {
            while !done() && Instant::now() < deadline {
                client.poll(Duration::from_millis(5));
                client.context().flush_batch();
            }
        };
        wait(Instant::now() + PURGE_PATIENCE, &|| {
            Arc::strong_count(&client) == 1
        });
        wait(flush, &|| client.in_flight_count() == 0);
        client.purge(PurgeConfig::default().queue().inflight().non_blocking());
        wait(Instant::now() + PURGE_PATIENCE, &|| {
            client.in_flight_count() == 0
        });
        client.context().flush_batch();
        let waiting = self.health.stats().waiting();
        if waiting > 0 {
            let notes = &self.health.base.notes;
            notes.error(&format!("{waiting} events were left without a report"));
        }
        client
    }
}

/// Delivery reports that are handed over together.
struct Batch {
    reports: Vec<Report>,
    begun: Instant,
    /// The last error and how many there were.
    failures: Option<(KafkaError, u32)>,
}

const BATCH: usize = 512;
/// How old the first report of a batch becomes while others come.
const BATCH_AGE: Duration = Duration::from_millis(2);

/// The callbacks of librdkafka; they run on the producer's thread.
struct Callbacks {
    health: Arc<ProducerHealth>,
    reports: Arc<dyn Reports>,
    rescue: Rescue,
    batch: Mutex<Batch>,
}

impl Callbacks {
    fn flush_batch(&self) {
        self.hand_over(&mut self.batch.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn hand_over(&self, batch: &mut Batch) {
        if !batch.reports.is_empty() {
            self.reports.delivered(&batch.reports);
            batch.reports.clear();
        }
        if let Some((error, count)) = batch.failures.take() {
            let notes = &self.health.base.notes;
            let why = match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    format!(": {}", notes.rights.missing(Right::Write))
                }
                _ => String::new(),
            };
            notes.error(&format!("{count} events are not delivered: {error}{why}"));
        }
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let health = &*self.health;
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let delivered = match result {
            Ok(_) => &health.delivered,
            Err((error, _)) => {
                let before = batch.failures.take().map_or(0, |(_, count)| count);
                batch.failures = Some((error.clone(), before + 1));
                &health.failed
            }
        };
        delivered.fetch_add(1, Relaxed);
        if batch.reports.is_empty() {
            batch.begun = Instant::now();
        }
        batch.reports.push(Report {
            core: (opaque >> 32) as u16,
            ticket: opaque as u32,
            delivered: result.is_ok(),
        });
        // `poll` does not say where librdkafka's own batch ends. While nothing else is on its
        // way, nothing else will come soon.
        if batch.reports.len() >= BATCH
            || health.stats().waiting() == 0
            || batch.begun.elapsed() >= BATCH_AGE
        {
            self.hand_over(&mut batch);
        }
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        client::on_log(&self.health.base.notes, level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::on_error(&self.health.base, &error, reason);
    }

    fn stats_raw(&self, json: &[u8]) {
        if let Some(statistics) = self.health.base.see(json) {
            self.rescue.see(&statistics);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_partitions_are_used_when_every_reader_has_had_the_time_to_see_them() {
        let mut looking = Looking {
            last: Instant::now(),
            wait: RETRY,
            missing: Missing::new(),
            more: None,
        };
        let long = Duration::from_secs(3_600);
        assert_eq!(looking.usable(0, 16, long), 16, "the first ones at once");
        assert_eq!(looking.usable(16, 24, long), 16);
        assert_eq!(looking.usable(16, 24, long), 16, "asked again too soon");
        assert_eq!(looking.usable(16, 24, Duration::ZERO), 24);
        assert_eq!(looking.usable(24, 8, long), 8, "another topic");
    }
}
