//! The store of a cluster: everything that is said to Redis. Presence records behind their epochs,
//! leases of nodes, the map, the leader among the coordinators. It owns the scripts, the
//! connections and what a failing server means; it decides nothing about users, nodes or maps.
//!
//! `README.md` beside it documents the keys. All of it works on one server (Redis 7.0, Valkey) and
//! on a Redis Cluster: a request touches one key, or keys of one vnode, which share a slot.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod call;
mod connection;
mod error;
mod fleet;
mod health;
mod inspect;
mod leader;
mod link;
mod map;
mod options;
mod policy;
mod reply;
mod script;
mod sections;
mod sentinel;
mod server;
#[cfg(feature = "testing")]
pub mod testing;
mod vnode;
mod watch;

pub use crate::{
    error::StoreError,
    fleet::{Leases, Renewal},
    health::Health,
    inspect::inspect,
    leader::Leader,
    link::{BadRecord, Counters, Link},
    map::MapWrite,
    options::{Options, OptionsError},
    policy::{Decreed, PolicyReader},
    sections::{ClusterSettings, RedisSettings},
    vnode::{Done, Op},
};
