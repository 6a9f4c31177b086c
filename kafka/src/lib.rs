//! The bus of a cluster: presence events on one Kafka topic. It owns the clients, their threads
//! and their settings; `protocol` owns the event's format and the partition of a vnode.
//!
//! A process has one [`Producer`], which its cores share, and one [`Consumer`], which reads all
//! partitions from their ends. Neither ever blocks a core, and both start, and serve again by
//! themselves, whether or not a broker can be reached. `kafka/README.md` explains every setting.
//!
//! librdkafka's threads inherit the CPU affinity of the thread that starts a client: start both
//! from a thread that is not pinned.
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod admin;
mod built;
mod client;
mod consumer;
mod error;
mod health;
mod hints;
mod message;
mod notes;
mod options;
mod producer;
mod reach;
mod rights;
mod security;
mod signature;
#[cfg(feature = "testing")]
pub mod testing;
mod topic;

pub use crate::{
    consumer::{Consumer, Sink},
    error::OpenError,
    health::{ConsumerHealth, ConsumerStats, LastError, ProducerHealth, ProducerStats},
    message::BadMessage,
    options::{Compression, Options, Said, is_secret},
    producer::{Full, Producer, Report, Reports},
    security::{Mechanism, Oidc, Security, SecurityProtocol},
    signature::EventKeys,
};
