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

use presence::{Settings, WatchBudget};
use ring::{CoreId, VnodeCount};

/// Between two pings of a session, ms.
const HEARTBEAT: u64 = 4_000;
/// How long a ping may be unanswered, ms.
const TIMEOUT: u64 = 2_000;

/// The settings of one core of `cores`, with limits that no client here meets; `seed` also decides how many
/// changes its watchers are told.
fn settings(node: &str, core: usize, cores: usize, vnodes: VnodeCount, seed: u64) -> Settings {
    let (change_rate, change_burst) = pace(seed);
    Settings {
        node: node.into(),
        core: CoreId::new(core as u16),
        cores: cores as u16,
        vnodes,
        seed,
        cluster: false,
        starts_empty: None,
        grace: 0,
        clean_close_grace: 0,
        heartbeat: HEARTBEAT,
        heartbeat_timeout: TIMEOUT,
        store_patience: 1_000,
        max_devices: 100,
        max_watches: 1_000,
        newest_wins: false,
        watches: WatchBudget::new(u64::MAX),
        outbox: 1 << 20,
        max_message: 16_384,
        message_rate: 1_000,
        message_burst: 1_000,
        change_rate,
        change_burst,
        flush: 0,
        byte_rate: 1 << 20,
        byte_burst: 1 << 24,
    }
}

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
