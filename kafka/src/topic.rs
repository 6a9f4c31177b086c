//! The topic as the brokers see it: how many partitions it has, where they begin and end, and
//! its creation. Each question waits for a broker, at most its deadline.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::{Client, DefaultClientContext},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use crate::{health::Notes, options::Options};

/// How long one question waits for a broker.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What the brokers say about the topic.
pub(crate) enum Found {
    /// It has so many partitions.
    Partitions(i32),
    /// It does not exist.
    Missing,
    /// No answer, or one that has to be asked for again; why, unless librdkafka tells it.
    Unknown(Option<String>),
}

/// Asks how many partitions the topic has.
pub(crate) fn look_up<C: ClientContext>(client: &Client<C>, topic: &str) -> Found {
    let metadata = match client.fetch_metadata(Some(topic), PATIENCE) {
        Ok(metadata) => metadata,
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure)) => {
            return Found::Unknown(None);
        }
        Err(error) => return Found::Unknown(Some(error.to_string())),
    };
    let unknown = |why: &str| Found::Unknown(Some(format!("the topic {topic}: {why}")));
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return unknown("the brokers left it out of their answer");
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => match i32::try_from(found.partitions().len()) {
            Ok(count @ 1..) => Found::Partitions(count),
            _ => unknown("it has no partitions"),
        },
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Found::Missing
        }
        Some(error) => unknown(&error.to_string()),
    }
}

/// Where a partition begins and ends: the offset of its first message, and that of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

/// Where the partitions `0..count` begin and end.
pub(crate) fn ranges<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    count: i32,
) -> Result<Vec<Range>, KafkaError> {
    // The protocol's ListOffsets takes -2 and -1 in place of a timestamp for these two: one
    // request to each broker, where asking for watermarks is one for each partition.
    let begins = offsets(consumer, topic, count, Offset::Beginning)?;
    let ends = offsets(consumer, topic, count, Offset::End)?;
    let range = |(begin, end)| Range { begin, end };
    Ok(begins.into_iter().zip(ends).map(range).collect())
}

fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    count: i32,
    place: Offset,
) -> Result<Vec<i64>, KafkaError> {
    let mut question = TopicPartitionList::with_capacity(count as usize);
    for partition in 0..count {
        question.add_partition_offset(topic, partition, place)?;
    }
    let answer = consumer.offsets_for_times(question, PATIENCE)?;
    (0..count)
        .map(|partition| {
            let unknown = KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition);
            let found = answer.find_partition(topic, partition).ok_or(unknown)?;
            found.error()?;
            match found.offset() {
                Offset::Offset(offset) => Ok(offset),
                _ => Err(KafkaError::OffsetFetch(RDKafkaErrorCode::NoOffset)),
            }
        })
        .collect()
}

/// The topic does not exist: creates it when that is allowed. `told` remembers that it was said.
pub(crate) fn missing(options: &Options, notes: &Notes, told: &mut bool) {
    let topic = &options.topic;
    if !options.create_topic {
        if !std::mem::replace(told, true) {
            notes.error(&format!(
                "the topic {topic} does not exist and is not to be created; waiting for it"
            ));
        }
        return;
    }
    match create(options) {
        Ok(()) => notes.change(&format!("the topic {topic} did not exist and is created")),
        Err(error) => notes.error(&format!("the topic {topic} cannot be created: {error}")),
    }
}

/// Creates the topic; one that exists by now is as good.
fn create(options: &Options) -> Result<(), String> {
    let replication = options.replication.map_or(-1, i32::from);
    let retention = options.retention.as_millis().to_string();
    let topic = NewTopic::new(
        &options.topic,
        options.partitions,
        TopicReplication::Fixed(replication),
    )
    .set("cleanup.policy", "delete")
    .set("retention.ms", &retention)
    // Only whole segments are deleted.
    .set("segment.ms", &retention);
    let admin: AdminClient<DefaultClientContext> = options
        .admin()
        .create()
        .map_err(|error| error.to_string())?;
    let limits = AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE));
    let results = wait(admin.create_topics([&topic], &limits), 3 * PATIENCE)
        .ok_or("no answer")?
        .map_err(|error| error.to_string())?;
    match results.first() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, error))) => Err(error.to_string()),
        None => Err("an empty answer".into()),
    }
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future that something else drives; `None` after `patience`.
pub(crate) fn wait<F: Future>(future: F, patience: Duration) -> Option<F::Output> {
    let deadline = Instant::now() + patience;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
