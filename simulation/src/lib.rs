//! Simulations: the real presence cores of one node, and a whole cluster of them, over simulated
//! time, sockets, stores, buses and clients, all from one seed. They own the truth about who is
//! there, and check every invariant against what watchers, the store and the bus are told; they
//! have no rule of presence of their own.
#![forbid(unsafe_code)]

mod client;
pub mod cluster;
mod node;
pub mod random;
mod truth;
mod world;

pub use world::{Plan, World};

/// How many changes of a user a second its watchers are told, and at once, by a random number; a third
/// have no limit. Far fewer than in earnest, so that most changes are held back.
fn pace(random: u64) -> (u32, u32) {
    match random % 3 {
        0 => (0, 1),
        1 => (4, 2),
        _ => (1, 1),
    }
}

/// What a core has in memory and in its queues: nothing, when all have left.
fn kept(core: &presence::Core) -> [u64; 6] {
    let counters = core.counters();
    [
        counters.sessions,
        counters.users,
        counters.watches,
        counters.store_queue,
        counters.bus_queue,
        counters.peer_queue,
    ]
}
