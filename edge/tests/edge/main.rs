//! The real binary, as its clients and operators meet it. Each test starts its own edge.

mod claims;
mod cluster;
mod common;
mod conformance;
mod decrees;
mod first_error;
mod http;
mod keys;
mod lifecycle;
mod limits;
mod links;
mod log;
mod memory;
mod opening;
mod presence;
mod proxies;
mod refusals;
mod restarts;
mod service;
mod slow;
mod stuck;
mod tls;
mod tokens;
mod trace;
