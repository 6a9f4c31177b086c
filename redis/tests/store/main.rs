//! The store against real Redis servers: one program for all of it, which builds once and whose
//! tests wait side by side.

mod cluster;
mod common;
mod failover;
mod fleet;
mod link;
mod policy;
mod presence;
mod sentinel;
