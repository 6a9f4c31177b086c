//! The real binary, as its clients and operators meet it. Each test starts its own edge.

mod cluster;
mod common;
mod conformance;
mod http;
mod keys;
mod lifecycle;
mod limits;
mod memory;
mod presence;
mod proxies;
mod slow;
mod tls;
mod tokens;
