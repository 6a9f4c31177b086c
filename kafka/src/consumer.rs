//! Reading: every event of every partition, from the end, without a group. It owns the positions
//! and knows when events may have been missed; it checks each message before it shows an event.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use protocol::Event;
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    message::BorrowedMessage,
    types::RDKafkaErrorCode,
};

use crate::{
    admin::{self, Question, TopicId},
    client::{self, Rescue},
    error::{OpenError, open_error},
    health::{ConsumerHealth, Running, now_ms},
    message::{BadMessage, check},
    options::Options,
    rights::Right,
    topic::{self, Found, Missing, Range},
};

/// Takes what the consumer reads; called on the consumer's thread, which it must not block for
/// long: meanwhile at most [`Options::fetch_kbytes`] are read ahead, then fetching pauses.
pub trait Sink: Send {
    /// Whether events of the user `key` matter to anyone here. Asked before anything else is
    /// looked at; the key may be any bytes.
    fn wants(&self, key: &[u8]) -> bool;

    /// An event of a wanted user. A vnode's events come in the order of the topic; the same one
    /// may come twice, and an old one after a newer one: the version decides.
    fn event(&mut self, event: Event<'_>);

    /// Events may have been missed: everything watched has to be read again from the store, from
    /// now on. Also called once when the first partitions are assigned.
    fn gap(&mut self);

    /// A message is not an event and is passed over; nothing else tells about it but a counter.
    fn bad(&mut self, partition: i32, offset: i64, error: &BadMessage);

    /// The calls before this one made up a batch; nothing else may come for a while.
    fn idle(&mut self);
}

/// The reader of every partition of the topic, on a thread of its own. One for each process.
#[derive(Debug)]
pub struct Consumer {
    health: Arc<ConsumerHealth>,
    stop: mpsc::Sender<()>,
    /// Says that the sink is called no more.
    done: Mutex<mpsc::Receiver<()>>,
}

type Client = BaseConsumer<Callbacks>;

/// How long the thread waits for a message before it looks at everything else.
const TURN: Duration = Duration::from_millis(100);
/// Between two attempts at what needs a broker.
const RETRY: Duration = Duration::from_secs(1);
/// The most messages that are taken at once.
const BATCH: usize = 1024;
/// A stop may find the thread waiting for a broker's answer, or creating the topic.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

impl Consumer {
    /// Starts a consumer, whether or not a broker can be reached; it goes on trying.
    pub fn start(options: Options, sink: Box<dyn Sink>) -> Result<Self, OpenError> {
        options.check()?;
        let health = Arc::new(ConsumerHealth::new(&options));
        let client = make(&options, &health)?;
        let (stop, stopped) = mpsc::channel();
        let (tell_done, done) = mpsc::channel();
        let mut reader = Reader {
            options,
            health: Arc::clone(&health),
            sink,
            client: Arc::new(client),
            identity: Identity::unknown(),
            positions: Vec::new(),
            looking: Looking::first(),
        };
        thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || {
                let health = Arc::clone(&reader.health);
                let _running = Running(&health.base);
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    reader.turn();
                }
                let _ = tell_done.send(());
                // `reader` ends librdkafka's threads, which may take as long as a name lookup.
            })?;
        Ok(Self {
            health,
            stop,
            done: Mutex::new(done),
        })
    }

    /// How it is doing; goes on to be readable after the end.
    #[must_use]
    pub fn health(&self) -> &Arc<ConsumerHealth> {
        &self.health
    }

    /// Ends reading: afterwards the sink is called no more. Returns within 10 s; a second call
    /// does nothing.
    pub fn stop(&self) {
        if self.stop.send(()).is_ok() {
            let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            if done.recv_timeout(STOP_PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                self.health
                    .base
                    .notes
                    .error("the consumer did not stop in time");
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn make(options: &Options, health: &Arc<ConsumerHealth>) -> Result<Client, OpenError> {
    let callbacks = Callbacks {
        topic: options.topic.clone(),
        health: Arc::clone(health),
        rescue: Rescue::default(),
        ends: Mutex::new(Vec::new()),
        fresh: AtomicBool::new(false),
    };
    BaseConsumer::from_config_and_context(&options.consumer(), callbacks)
        .map_err(|error| open_error(&error, &health.base.notes))
}

/// The state of the consumer's thread.
struct Reader {
    options: Options,
    health: Arc<ConsumerHealth>,
    sink: Box<dyn Sink>,
    client: Arc<Client>,
    identity: Identity,
    /// The offset to read next, of each partition; empty = none is assigned.
    positions: Vec<i64>,
    looking: Looking,
}

/// When the thread looks at the topic's partitions next.
struct Looking {
    last: Instant,
    wait: Duration,
    missing: Missing,
    /// librdkafka gave a position up: all are compared with the topic and assigned again.
    reset: bool,
    /// It is another topic of the same name: all of it is read.
    another: bool,
}

/// Which topic of the name is read. Its positions would mean something else in one that was made
/// anew, and librdkafka goes on with them all the same.
struct Identity {
    id: Option<TopicId>,
    asked: Instant,
    question: Option<Question<Arc<Client>>>,
}

impl Identity {
    fn unknown() -> Self {
        Self {
            id: None,
            asked: Instant::now(),
            question: None,
        }
    }
}

/// Between two questions whether it is still the same topic.
const IDENTITY: Duration = Duration::from_secs(2);

impl Looking {
    fn first() -> Self {
        Self {
            last: Instant::now(),
            wait: Duration::ZERO,
            missing: Missing::new(),
            reset: false,
            another: false,
        }
    }
}

impl Reader {
    fn turn(&mut self) {
        if self.looking.last.elapsed() >= self.looking.wait {
            self.looking.wait = RETRY;
            match self.look() {
                Ok(()) => self.looking.wait = self.options.metadata_interval,
                Err(why) => {
                    if let Some(why) = why {
                        self.health.base.notes.error(&why);
                    }
                }
            }
            self.looking.last = Instant::now();
        }
        self.read_batch();
        let rescue = &self.client.context().rescue;
        rescue.attempt(
            self.client.client(),
            &self.options.brokers,
            &self.health.base.notes,
        );
        self.measure_lag();
        self.compare_identity();
    }

    fn look_soon(&mut self) {
        self.looking.wait = self.looking.wait.min(RETRY);
    }

    /// Compares what is assigned with the topic. An error is a reason to look again soon.
    fn look(&mut self) -> Result<(), Option<String>> {
        let count = match topic::look_up(
            self.client.client(),
            &self.options.topic,
            &self.health.base.notes,
        ) {
            Found::Partitions(count) => count,
            Found::Missing => {
                self.forget()?;
                self.looking
                    .missing
                    .wait(&self.options, &self.health.base.notes);
                return Err(None);
            }
            Found::Unknown(why) => return Err(why),
        };
        self.looking.missing.resolved();
        self.health.base.connected.store(true, Relaxed);
        if (count as usize) < self.positions.len() {
            self.looking.another = true;
        }
        if self.positions.is_empty() {
            // Before its positions: those are this one's, or a later one's.
            self.identity = Identity::unknown();
            let question = admin::ask_topic_id(&self.client, &self.options.topic, topic::PATIENCE);
            let id = question.ok().and_then(|q| q.topic_id(topic::PATIENCE));
            self.identity.id = id.and_then(Result::ok);
        }
        let ranges = topic::ranges(&self.client, &self.options.topic, count)
            .map_err(|error| Some(format!("the ends of the partitions: {error}")))?;
        let next = match self.looking.another {
            true => ranges.iter().map(|range| range.begin).collect(),
            false => next_positions(&self.positions, &ranges),
        };
        if self.looking.another || next != self.positions || self.looking.reset {
            self.assign(next)?;
        }
        Ok(())
    }

    /// Reads nothing until the topic is there again.
    fn forget(&mut self) -> Result<(), String> {
        if !self.positions.is_empty() {
            self.client.unassign().map_err(|error| error.to_string())?;
            self.positions.clear();
            self.health.base.partitions.store(0, Relaxed);
        }
        Ok(())
    }

    /// Reads on from `positions`, and tells the gap, since only a gap leads here.
    fn assign(&mut self, positions: Vec<i64>) -> Result<(), String> {
        let topic = &self.options.topic;
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, position) in (0..).zip(&positions) {
            list.add_partition_offset(topic, partition, Offset::Offset(*position))
                .map_err(|error| error.to_string())?;
        }
        self.client
            .assign(&list)
            .map_err(|error| error.to_string())?;
        let (before, now) = (self.positions.len(), positions.len());
        let health = &self.health;
        health.base.notes.change(&if before == now {
            format!("events of {topic} may have been missed; reading on")
        } else {
            let set = self.options.partitions;
            let differs = match now as i32 == set {
                true => String::new(),
                false => format!("; kafka.partitions = {set} is for a topic that is created"),
            };
            format!("reading {now} partitions of {topic}, {before} before{differs}")
        });
        health.base.partitions.store(now as i32, Relaxed);
        health.gaps.fetch_add(1, Relaxed);
        self.positions = positions;
        (self.looking.reset, self.looking.another) = (false, false);
        self.sink.gap();
        self.sink.idle();
        Ok(())
    }

    /// Notices when the topic was deleted and made again.
    fn compare_identity(&mut self) {
        let identity = &mut self.identity;
        let Some(question) = &identity.question else {
            if !self.positions.is_empty() && identity.asked.elapsed() >= IDENTITY {
                identity.asked = Instant::now();
                let topic = &self.options.topic;
                identity.question = admin::ask_topic_id(&self.client, topic, topic::PATIENCE).ok();
            }
            return;
        };
        let Some(answer) = question.topic_id(Duration::ZERO) else {
            return;
        };
        identity.question = None;
        match (answer, identity.id) {
            (Ok(id), Some(known)) if id != known => {
                let topic = &self.options.topic;
                let text = format!("the topic {topic} was deleted and made again");
                self.health.base.notes.change(&text);
                identity.id = Some(id);
                self.looking.another = true;
                self.looking.wait = Duration::ZERO;
            }
            (Ok(id), None) => identity.id = Some(id),
            (Err(refusal), _) if refusal.code == RDKafkaErrorCode::UnknownTopicOrPartition => {
                self.look_soon();
            }
            // It is asked again.
            _ => {}
        }
    }

    /// Reads what is there, at most a batch; waits a turn for the first message.
    fn read_batch(&mut self) {
        let mut wait = TURN;
        let mut last = None;
        for _ in 0..BATCH {
            match self.client.poll(wait) {
                Some(Ok(message)) => {
                    wait = Duration::ZERO;
                    last = message.timestamp().to_millis();
                    let (partition, offset) = (message.partition(), message.offset());
                    if let Some(position) = self.positions.get_mut(partition as usize) {
                        *position = offset + 1;
                    }
                    take(&message, &self.options, &self.health, &mut *self.sink);
                }
                Some(Err(error)) => {
                    self.on_error(&error);
                    break;
                }
                None => break,
            }
        }
        if let Some(timestamp) = last {
            let age = now_ms().saturating_sub(timestamp.max(0) as u64);
            self.health.age_ms.store(age, Relaxed);
            self.sink.idle();
        }
    }

    fn on_error(&mut self, error: &KafkaError) {
        match error {
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                self.looking.reset = true;
                self.looking.wait = Duration::ZERO;
            }
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => self.look_soon(),
            KafkaError::MessageConsumptionFatal(_) => match make(&self.options, &self.health) {
                Ok(client) => {
                    self.client = Arc::new(client);
                    self.identity.question = None;
                    self.looking.reset = true;
                    self.look_soon();
                }
                Err(error) => self.health.base.notes.error(&error.to_string()),
            },
            KafkaError::MessageConsumption(code @ RDKafkaErrorCode::TopicAuthorizationFailed) => {
                let notes = &self.health.base.notes;
                notes.error(&format!("{code}: {}", notes.rights.missing(Right::Read)));
            }
            // Said by the client's own error callback; librdkafka goes on trying.
            _ => {}
        }
    }

    /// Counts the messages that are not read yet, when there is news of the partitions' ends.
    fn measure_lag(&self) {
        let callbacks = self.client.context();
        if callbacks.fresh.swap(false, Relaxed) {
            let ends = callbacks
                .ends
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let behind = |(partition, end): &(i32, i64)| {
                let position = self.positions.get(*partition as usize);
                position.map_or(0, |position| (end - position).max(0) as u64)
            };
            self.health
                .lag
                .store(ends.iter().map(behind).sum(), Relaxed);
        }
    }
}

/// Where to read on, given where the partitions begin and end: from the end when nothing was
/// read before, and where the position is not in the partition any more; a partition that is new
/// from its first message.
fn next_positions(positions: &[i64], ranges: &[Range]) -> Vec<i64> {
    let next = |(partition, range): (usize, &Range)| match positions.get(partition) {
        Some(position) if (range.begin..=range.end).contains(position) => *position,
        None if !positions.is_empty() => range.begin,
        _ => range.end,
    };
    ranges.iter().enumerate().map(next).collect()
}

/// Checks a message and shows its event when it is wanted.
fn take(
    message: &BorrowedMessage<'_>,
    options: &Options,
    health: &ConsumerHealth,
    sink: &mut dyn Sink,
) {
    health.consumed.fetch_add(1, Relaxed);
    let wanted = match message.key() {
        Some(key) if !sink.wants(key) => return,
        Some(key) => {
            health.wanted.fetch_add(1, Relaxed);
            check(key, message.payload(), options)
        }
        None => Err(BadMessage::NoKey),
    };
    match wanted {
        Ok(event) => sink.event(event),
        Err(error) => {
            health.bad.fetch_add(1, Relaxed);
            sink.bad(message.partition(), message.offset(), &error);
        }
    }
}

/// The callbacks of librdkafka; they run on the consumer's thread.
struct Callbacks {
    topic: String,
    health: Arc<ConsumerHealth>,
    rescue: Rescue,
    /// Where partitions end, as of the last statistics.
    ends: Mutex<Vec<(i32, i64)>>,
    fresh: AtomicBool,
}

impl ConsumerContext for Callbacks {}

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
            let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.clear();
            ends.extend(statistics.ends(&self.topic));
            self.fresh.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(begin: i64, end: i64) -> Range {
        Range { begin, end }
    }

    #[test]
    fn reading_begins_at_the_end_and_goes_on_where_it_was() {
        let ranges = [range(0, 5), range(3, 9)];
        assert_eq!(next_positions(&[], &ranges), [5, 9]);
        assert_eq!(next_positions(&[2, 9], &ranges), [2, 9]);
    }

    #[test]
    fn a_new_partition_is_read_from_its_first_message() {
        assert_eq!(next_positions(&[2], &[range(0, 5), range(1, 7)]), [2, 1]);
    }

    #[test]
    fn a_position_outside_the_partition_becomes_its_end() {
        assert_eq!(
            next_positions(&[2, 10], &[range(3, 9), range(0, 4)]),
            [9, 4]
        );
    }
}
