//! A simulated node: the real presence cores over simulated time, sockets, store, bus and clients,
//! all from one seed. It owns the truth about who is there, and checks every invariant against
//! what watchers, the store and the bus are told; it has no rule of presence of its own.
#![forbid(unsafe_code)]

mod client;
mod node;
pub mod random;
mod truth;
mod world;

pub use world::{Plan, World};
