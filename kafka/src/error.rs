//! Why a producer or consumer cannot be opened. It never shows a secret.

use rdkafka::error::KafkaError;

use crate::health::Notes;

/// Why a producer or consumer cannot be opened. None of these goes away by itself.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No broker to begin with.
    #[error("no Kafka broker is set: host:port, separated by commas")]
    NoBrokers,
    /// A name that no topic can have.
    #[error("{0:?} is not a topic's name: 1 to 249 of A-Z a-z 0-9 . _ - are allowed")]
    Topic(String),
    /// A number outside its range.
    #[error("the Kafka setting {name} must be {rule}, not {value}")]
    Range {
        /// Which setting.
        name: &'static str,
        /// What is allowed.
        rule: &'static str,
        /// What it was.
        value: String,
    },
    /// This binary was built without something.
    #[error("the Kafka setting {setting} needs a build with the feature `{feature}`")]
    NotBuilt {
        /// Which setting.
        setting: &'static str,
        /// The feature of this crate.
        feature: &'static str,
    },
    /// A setting that another one needs.
    #[error("the Kafka setting {0} is missing: {1}")]
    Missing(&'static str, &'static str),
    /// A property that the guarantees rest on.
    #[error("the Kafka property {0} is not free to choose: the bus depends on it")]
    Reserved(String),
    /// A property that librdkafka does not take.
    #[error("the Kafka property {name}: {reason}")]
    Property {
        /// Which property.
        name: String,
        /// What librdkafka says about it.
        reason: String,
    },
    /// The client could not be made.
    #[error("the Kafka client could not be made: {0}")]
    Client(String),
    /// The thread could not be started.
    #[error("the Kafka client's thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What librdkafka says, without secrets.
pub(crate) fn open_error(error: &KafkaError, notes: &Notes) -> OpenError {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => OpenError::Property {
            name: name.clone(),
            reason: notes.without_secrets(reason),
        },
        error => OpenError::Client(notes.without_secrets(&error.to_string())),
    }
}
