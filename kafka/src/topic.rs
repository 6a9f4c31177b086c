//! The topic as the brokers see it: how many partitions it has, where they begin and end, and
//! its creation. Each question waits for a broker, at most its deadline.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    client::Client,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaErrorCode,
};

use crate::{
    admin::{self, NewTopic, Refusal},
    notes::Notes,
    options::Options,
    rights::Right,
};

/// How long one question waits for a broker.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// The brokers' answer about the topic.
pub(crate) enum Found {
    /// The topic has this number of partitions.
    Partitions(i32),
    /// The topic does not exist.
    Missing,
    /// No answer, or one that has to be asked for again; why, unless librdkafka tells it.
    Unknown(Option<String>),
}

/// Asks the brokers how many partitions the topic has.
pub(crate) fn look_up<C: ClientContext>(client: &Client<C>, topic: &str, notes: &Notes) -> Found {
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
        Some(error @ RDKafkaErrorCode::TopicAuthorizationFailed) => unknown(&format!(
            "{error}: {}",
            notes.rights.missing(Right::Describe)
        )),
        Some(error) => unknown(&error.to_string()),
    }
}

/// Where a partition begins and ends: the offset of its first message, and that of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

/// The first and the next offset of each of the partitions `0..count`.
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

/// What is done about a topic that does not exist.
pub(crate) struct Missing {
    /// The last thing said about the topic, so that it is said once.
    last_reported: Option<String>,
    next_try: Instant,
    wait: Duration,
}

/// Between two attempts to create a topic, which a broker refuses; doubled each time up to this.
const MOST_PATIENT: Duration = Duration::from_secs(60);

impl Missing {
    pub(crate) fn new() -> Self {
        Self {
            last_reported: None,
            next_try: Instant::now(),
            wait: Duration::from_secs(1),
        }
    }

    /// Notes that the topic exists and its trouble is over.
    pub(crate) fn resolved(&mut self) {
        *self = Self::new();
    }

    /// It is waited for: the producer creates it, or somebody else.
    pub(crate) fn wait(&mut self, options: &Options, notes: &Notes) {
        let Options { topic, .. } = options;
        self.tell(
            notes,
            format!("the topic {topic} does not exist; waiting for it"),
        );
    }

    /// Creates the topic when the options allow it.
    pub(crate) fn create<C: ClientContext>(
        &mut self,
        client: &Client<C>,
        options: &Options,
        notes: &Notes,
    ) {
        let Options { topic, .. } = options;
        if !options.create_topic {
            let line = kafka_topics(options);
            self.tell(
                notes,
                format!(
                    "the topic {topic} does not exist, and kafka.create_topic is false; waiting for \
                     it: {line}"
                ),
            );
            return;
        }
        if Instant::now() < self.next_try {
            return;
        }
        match create(client, options) {
            Created::AsWished => {
                notes.change(&format!("the topic {topic} did not exist and is created"));
            }
            Created::WithLess { with, refused } => {
                let (wished, change) = (kafka_topics(options), kafka_configs(options));
                self.tell(
                    notes,
                    format!(
                        "the topic {topic} is created {with}, since the brokers refuse what was \
                         wished ({refused}). An administrator makes it so by {wished}, or changes the \
                         one that is there by {change}"
                    ),
                );
            }
            Created::Not(refused) => {
                self.next_try = Instant::now() + self.wait;
                self.wait = (2 * self.wait).min(MOST_PATIENT);
                let why = match refused.code {
                    RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                        notes.rights.missing(Right::Create)
                    }
                    _ => format!("an administrator creates it by {}", kafka_topics(options)),
                };
                let refused = refused.description();
                self.tell(
                    notes,
                    format!("the topic {topic} cannot be created: {refused}: {why}"),
                );
            }
        }
    }

    fn tell(&mut self, notes: &Notes, text: String) {
        if self.last_reported.as_ref() != Some(&text) {
            notes.error(&text);
            self.last_reported = Some(text);
        }
    }
}

enum Created {
    AsWished,
    /// What it has, and what the brokers said about the wishes.
    WithLess {
        with: &'static str,
        refused: String,
    },
    Not(Refusal),
}

/// Creates the topic, with less when the brokers refuse a wish; one that exists by now is as good.
fn create<C: ClientContext>(client: &Client<C>, options: &Options) -> Created {
    let least = NewTopic {
        name: &options.topic,
        partitions: options.partitions,
        replication: -1,
        config: Vec::new(),
    };
    let wished = NewTopic {
        replication: options.replication.map_or(-1, i32::from),
        config: wished_config(options),
        ..least.clone()
    };
    let without_config = NewTopic {
        config: Vec::new(),
        ..wished.clone()
    };
    let brokers_own = NewTopic {
        partitions: -1,
        ..least.clone()
    };
    let mut first = None;
    let mut tried = Vec::new();
    for (topic, with) in [
        (wished, "as wished"),
        (without_config, "with the brokers' clean-up and retention"),
        (
            least,
            "with the brokers' replication, clean-up and retention",
        ),
        (
            brokers_own,
            "with the brokers' partitions, replication, clean-up and retention",
        ),
    ] {
        if tried.contains(&topic) {
            continue;
        }
        let result = admin::create_topic(client, &topic, PATIENCE);
        tried.push(topic);
        match (result, first.take()) {
            (Ok(()), None) => return Created::AsWished,
            (Ok(()), Some(refused)) => {
                let refused = Refusal::description(&refused);
                return Created::WithLess { with, refused };
            }
            (Err(refused), before) => {
                if refused.code == RDKafkaErrorCode::TopicAlreadyExists {
                    return Created::AsWished;
                }
                let is_policy = refused.is_about_the_wishes();
                // What was said of the wishes tells most.
                first = before.or(Some(refused));
                if !is_policy {
                    break;
                }
            }
        }
    }
    Created::Not(first.expect("there was an attempt"))
}

impl Refusal {
    /// Whether another topic of that name may be taken.
    fn is_about_the_wishes(&self) -> bool {
        matches!(
            self.code,
            RDKafkaErrorCode::PolicyViolation
                | RDKafkaErrorCode::InvalidConfig
                | RDKafkaErrorCode::InvalidPartitions
                | RDKafkaErrorCode::InvalidReplicationFactor
                | RDKafkaErrorCode::InvalidReplicaAssignment
                | RDKafkaErrorCode::InvalidRequest
        )
    }

    fn description(&self) -> String {
        format!("{}: {:?}", self.code, self.words)
    }
}

fn wished_config(options: &Options) -> Vec<(&'static str, String)> {
    let retention = options.retention.as_millis().to_string();
    vec![
        ("cleanup.policy", "delete".into()),
        ("retention.ms", retention.clone()),
        // Only whole segments are deleted.
        ("segment.ms", retention),
    ]
}

/// The line by which an administrator makes the topic as it is wished for.
fn kafka_topics(options: &Options) -> String {
    let Options {
        brokers,
        topic,
        partitions,
        ..
    } = options;
    let replication = options.replication;
    let replication = replication.map_or(String::new(), |n| format!(" --replication-factor {n}"));
    let mut line = format!(
        "`kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions \
         {partitions}{replication}"
    );
    for (name, value) in wished_config(options) {
        line += &format!(" --config {name}={value}");
    }
    line + "`"
}

/// The topic's configuration as arguments of `kafka-configs.sh`.
fn kafka_configs(options: &Options) -> String {
    let Options { brokers, topic, .. } = options;
    let config = wished_config(options);
    let config: Vec<_> = config
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let config = config.join(",");
    format!(
        "`kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name \
         {topic} --add-config {config}`"
    )
}
