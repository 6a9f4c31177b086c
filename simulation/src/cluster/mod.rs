//! A simulated cluster: real presence cores, membership, maps and control over simulated time,
//! networks, store, bus and clients, all from one seed. It owns the truth about who is there, and
//! checks every invariant against what watchers, store and topic are told.

mod agenda;
mod bus;
mod checks;
mod client;
mod coordinators;
mod faults;
mod freshness;
mod links;
mod maps;
mod mesh;
mod plan;
mod process;
mod redis;
mod store;
mod takeovers;
mod truth;
mod witness;
mod world;

pub use self::{
    plan::{Fault, Plan},
    world::World,
};
