//! What programs of this workspace do alike: they take the descriptors and addresses that they need,
//! tell a service manager how they are, show a page of metrics, and read a request's query. No name, label or path of theirs
//! stands here: each passes its own.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod descriptors;
mod listen;
pub mod log;
pub mod metrics;
mod query;
mod service;
mod trouble;

pub use crate::{
    descriptors::{TooFewFiles, connections, few_connections, open_files},
    listen::{LISTEN_PATIENCE, ListenError, listen, may_listen},
    query::parameters,
    service::{AGAIN, Condition, START_PATIENCE, Service, is_service},
    trouble::{Trouble, Turn},
};
