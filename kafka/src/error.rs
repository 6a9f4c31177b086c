//! Why a producer or consumer cannot be opened. It never shows a secret.

use rdkafka::error::KafkaError;

use crate::{notes::Notes, options::RESERVED};

/// Why a producer or consumer cannot be opened. None of these goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The list of brokers is empty.
    #[error(
        "kafka.brokers (KAFKA_BROKERS) is not set: a cluster's events travel on Kafka; set host:port, \
         several separated by commas. A standalone edge needs none: it is started by \
         `online-status-edge standalone`"
    )]
    NoBrokers,
    /// One of the brokers is no address.
    #[error(
        "kafka.brokers (KAFKA_BROKERS) has {0:?}: allowed is host:port, several separated by commas"
    )]
    Broker(String),
    /// The topic's name breaks Kafka's rules.
    #[error("kafka.topic = {0:?}: allowed are 1 to 249 of A-Z a-z 0-9 . _ -")]
    Topic(String),
    /// A setting's number is outside its range.
    #[error("kafka.{name} = {value}: allowed is {rule}")]
    Range {
        /// The setting, without its section.
        name: &'static str,
        /// The values that are allowed, in words, such as a range with its unit.
        rule: &'static str,
        /// The value that was given.
        value: String,
    },
    /// A setting needs a feature that this build of librdkafka does not have.
    #[error(
        "kafka.{setting} = {value}: this build has no TLS for Kafka; build with the feature \
         kafka-tls, which is on unless it is turned off"
    )]
    NotBuilt {
        /// The setting, without its section.
        setting: &'static str,
        /// The value that was given.
        value: String,
    },
    /// A setting is missing that another one needs.
    #[error("kafka.{name} is not set: {needed_by} needs it")]
    Missing {
        /// The setting that is missing.
        name: &'static str,
        /// The setting that needs it.
        needed_by: &'static str,
    },
    /// Settings that nothing would come of, so that another one was forgotten.
    #[error("{settings} are used with {needed} only")]
    Unused {
        /// The settings that are set.
        settings: &'static str,
        /// The setting that has to be set as well.
        needed: &'static str,
    },
    /// A property is given that must keep its value for the bus's guarantees.
    #[error("kafka.properties has {0}, which is not free to choose: {1}")]
    Reserved(&'static str, &'static str),
    /// A property is given that librdkafka does not take.
    #[error("kafka.properties: {name}: {reason}")]
    Property {
        /// The property's name.
        name: String,
        /// The words of librdkafka.
        reason: String,
    },
    /// A setting, the file that it names, and why that cannot be read.
    #[error("{setting} = {file:?}: {reason}")]
    File {
        /// The setting, with its section.
        setting: &'static str,
        /// The file's path.
        file: std::path::PathBuf,
        /// The words of the operating system.
        reason: String,
    },
    /// The client could not be made; what librdkafka says, and the setting if it is about one.
    #[error("{0}")]
    Client(String),
    /// The operating system gives no thread.
    #[error("the Kafka client's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What librdkafka says, without secrets, and with the setting that it is about.
pub(crate) fn open_error(error: &KafkaError, notes: &Notes) -> OpenError {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => OpenError::Property {
            name: name.clone(),
            reason: notes.without_secrets(reason),
        },
        error => {
            let text = error.to_string();
            let named = RESERVED
                .iter()
                .find(|(name, why)| why.starts_with("kafka.") && text.contains(name));
            let setting = named.map_or(String::new(), |(_, setting)| format!("{setting}: "));
            OpenError::Client(setting + &notes.without_secrets(&text))
        }
    }
}
