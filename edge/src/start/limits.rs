//! What the settings allow: the presence core's rules, and the limits of connections and memory.

use std::time::Duration;

use presence::{Settings, WatchBudget};
use ring::CoreId;

use crate::{
    admission::{Limits, memory},
    clock,
    config::Config,
    shared::Shared,
};

/// What a watch takes at most, bytes, when the limit of all is made from that of memory.
const WATCH_BYTES: u64 = 64;

/// The rules of a presence core, by the settings; each core then has its own number.
pub(super) fn settings(shared: &Shared, cores: u16) -> Settings {
    let presence = &shared.config.presence;
    let ms = |duration: Duration| duration.as_millis() as u64;
    let in_memory = shared.place.is_none() && shared.config.store.data.as_os_str().is_empty();
    Settings {
        node: shared.config.node.id.as_str().into(),
        core: CoreId::default(),
        cores,
        vnodes: shared.vnodes,
        seed: random_seed(),
        cluster: shared.place.is_some(),
        starts_empty: in_memory.then_some(shared.epoch),
        grace: ms(presence.grace),
        clean_close_grace: ms(presence.clean_close_grace),
        heartbeat: ms(presence.heartbeat),
        heartbeat_timeout: ms(presence.heartbeat_timeout),
        store_patience: ms(presence.store_patience),
        max_devices: presence.max_devices as u32,
        max_watches: presence.max_watches as u32,
        outbox: presence.outbox.0,
        max_message: shared.config.server.max_message.0,
        message_rate: presence.message_rate as u32,
        message_burst: presence.message_burst as u32,
        change_rate: presence.change_rate as u32,
        change_burst: presence.change_burst as u32,
        flush: ms(presence.flush),
        byte_rate: presence.byte_rate.0 as u32,
        byte_burst: presence.byte_burst.0 as u32,
        newest_wins: presence.over_max_devices == "newest",
        watches: WatchBudget::new(match presence.max_watches_total {
            0 => shared.gate.limits.memory / 4 / WATCH_BYTES,
            most => most,
        }),
    }
}

/// How many connections are let in, where descriptors allow `most`.
pub(super) fn limits(config: &Config, most: usize) -> Limits {
    let connections = match config.server.max_connections {
        0 => most,
        wanted => most.min(wanted as usize),
    };
    let server = &config.server;
    let unauthenticated = match server.max_unauthenticated {
        0 => connections.div_ceil(2),
        wanted => connections.min(wanted as usize),
    };
    Limits {
        connections,
        unauthenticated,
        handshakes: match server.max_handshakes {
            0 => unauthenticated,
            wanted => unauthenticated.min(wanted as usize),
        },
        per_address: server.max_per_address,
        per_prefix: server.max_per_prefix,
        rate: server.connection_rate,
        burst: server.connection_burst,
        memory: memory_limit(config),
    }
}

/// From how much memory on no new connection is let in, bytes.
pub(crate) fn memory_limit(config: &Config) -> u64 {
    match config.server.max_memory.0 {
        // Where the kernel does not tell, there is no limit to keep.
        0 => memory::sensible_limit().unwrap_or(u64::MAX),
        bytes => bytes as u64,
    }
}

/// From the operating system, by way of the standard library's hasher.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(clock::wall_ms())
}
