//! The store of a cluster: everything that is said to Redis. Presence records behind their epochs,
//! leases of nodes, the map, the leader among the coordinators. It owns the scripts, the
//! connections and what a failing server means; it decides nothing about users, nodes or maps.
//!
//! `README.md` beside it documents the keys. All of it works on one server (Redis 7.0, Valkey) and
//! on a Redis Cluster: a request touches one key, or keys of one vnode, which share a slot.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod call;
mod cluster;
mod connection;
mod counters;
mod error;
mod fleet;
mod health;
mod inspect;
mod leader;
mod link;
mod listing;
mod map;
mod op;
mod options;
mod policy;
mod reply;
mod script;
mod sections;
mod sentinel;
mod server;
mod survey;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod vnode;
mod watch;

pub use crate::{
    counters::{BadRecord, Counters},
    error::StoreError,
    fleet::{Leases, Renewal},
    health::Health,
    inspect::inspect,
    leader::Leader,
    link::Link,
    map::MapWrite,
    op::{Done, Op},
    options::{Options, OptionsError},
    policy::{Decreed, PolicyReader},
    sections::{ClusterSettings, RedisSettings},
    vnode::Answers,
};
