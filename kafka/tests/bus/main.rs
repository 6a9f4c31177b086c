//! The bus against a real Apache Kafka, and against librdkafka's mock of one: one program for all of
//! it, which builds once and whose tests wait side by side.

mod broker;
mod mock;
mod policy;
mod rights;
#[cfg(feature = "tls")]
mod security;
mod support;
