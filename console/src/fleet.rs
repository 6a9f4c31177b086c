//! The fleet as `GET /nodes` answers it.

use serde::{Deserialize, Serialize};

/// The whole answer. Members that a release does not know are ignored, those that it misses have
/// their default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fleet {
    /// The name of the coordinator that answers.
    pub coordinator: String,
    /// Whether that coordinator is the leader, which makes the maps.
    pub leading: bool,
    /// The name of the one that leads.
    pub leader: Option<String>,
    /// The version of the newest map; `None` = there is no map yet.
    pub map_version: Option<u64>,
    /// The cluster's number of vnodes.
    pub vnodes: u64,
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// What is wrong and does not stop the fleet.
    pub problems: Vec<Problem>,
    /// What has happened lately, the oldest first.
    pub events: Vec<Event>,
    /// For how many seconds all this may be outdated; absent when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<u64>,
}

impl Fleet {
    /// The nodes that are not gone.
    pub fn alive(&self) -> impl Iterator<Item = &Node> {
        let gone = |node: &&Node| matches!(node.state.as_str(), "left" | "dead");
        self.nodes.iter().filter(move |node| !gone(node))
    }
}

/// A node of the fleet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// The node's name.
    pub node: String,
    /// Its state: `joining`, `active`, `draining`, `drained`, `penalised`, `left` or `dead`.
    pub state: String,
    /// The WebSocket URL that clients connect to.
    pub address: String,
    /// The process behind the name; text, since JavaScript does not read 64 bits exactly.
    pub boot: String,
    /// The number of threads that serve sessions.
    pub cores: u16,
    /// The weight of the node in the rebalance.
    pub weight: u32,
    /// The share of all vnodes that its weight stands for, 0 to 1.
    pub share: f64,
    /// How many vnodes it owns.
    pub vnodes: u64,
    /// How many vnodes it is taking or letting go of.
    pub moving: u32,
    /// The version of the map that it follows.
    pub map_version: u64,
    /// Vnodes that it gets before others, as configured.
    pub pins: String,
    /// Whether an operator drains the node.
    pub drained: bool,
    /// Whether it asks for all its vnodes to be moved away.
    pub leaving: bool,
    /// Whether its lease was not there at the last look.
    pub lease_missing: bool,
    /// For how many seconds it has not been.
    pub unseen: u64,
    /// How long ago a renewal of the lease was first seen, ms; `None` = none was.
    pub lease_age: Option<u64>,
    /// The rest of its penalty, s; 0 = none.
    pub penalty: u64,
    /// Its load at the last renewal.
    pub load: Load,
}

/// The load of a node, as it measured it last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Load {
    /// Open connections, with or without a session.
    pub connections: u64,
    /// Open sessions, that is, authenticated connections.
    pub sessions: u64,
    /// Changes of presence records a second.
    pub events_per_second: f64,
    /// Age of the newest event taken from the bus, ms.
    pub lag: u64,
    /// Messages of the bus not read yet.
    pub lag_records: u64,
    /// Share of the node's cores that is busy, 0 to 1.
    pub cpu: f64,
    /// Records sent to watchers a second.
    pub deliveries_per_second: f64,
    /// The time that half of the last seconds' deliveries kept within, ms; 0 = there were none.
    pub delivery_p50: f64,
    /// The time that 99 of 100 kept within, ms.
    pub delivery_p99: f64,
    /// Records written to the store a second.
    pub store_writes_per_second: f64,
    /// Requests that wait for the store.
    pub store_queue: u64,
    /// Changes that wait for the bus.
    pub bus_queue: u64,
    /// Sessions whose socket takes no more for now.
    pub slow: u64,
    /// Bytes that wait for them.
    pub outbox_bytes: u64,
    /// Sessions ended since they read too slowly (1013), of this process.
    pub slow_closed: u64,
    /// Resident memory, bytes.
    pub memory: u64,
    /// From how much on no new connection is let in, bytes; 0 = no limit.
    pub memory_limit: u64,
    /// Each core by its number; empty where the node does not tell.
    pub per_core: Vec<Core>,
}

/// The load of a core.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Core {
    /// Open connections, with or without a session.
    pub connections: u64,
    /// Open sessions, that is, authenticated connections.
    pub sessions: u64,
    /// Changes of presence records a second.
    pub events_per_second: u64,
    /// Records sent to watchers a second.
    pub deliveries_per_second: u64,
    /// What waits for the store, the bus, links and other cores.
    pub queued: u64,
    /// Sessions whose socket takes no more for now.
    pub slow: u64,
    /// Bytes that wait for them.
    pub outbox_bytes: u64,
    /// How busy the core is, 0 to 1; `None` where the kernel does not tell.
    pub cpu: Option<f64>,
}

/// What is wrong and does not stop the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The kind, one of few words.
    pub kind: String,
    /// What it is, for people.
    pub message: String,
}

/// A fault, a rebalance or a takeover of the fleet, as the timeline shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, ms since 1970 (UTC).
    pub at: u64,
    /// `node`, `drain`, `fault`, `recovery`, `move` or `map`.
    pub kind: String,
    /// What, for people.
    pub message: String,
}

impl From<&protocol::Load> for Load {
    fn from(load: &protocol::Load) -> Self {
        Self {
            connections: load.connections,
            sessions: load.sessions,
            events_per_second: load.events_per_second,
            lag: load.lag_ms,
            lag_records: load.lag_records,
            cpu: load.cpu,
            deliveries_per_second: load.deliveries_per_second,
            delivery_p50: load.delivery_p50_us as f64 / 1e3,
            delivery_p99: load.delivery_p99_us as f64 / 1e3,
            store_writes_per_second: load.store_writes_per_second,
            store_queue: load.store_queue,
            bus_queue: load.bus_queue,
            slow: load.slow,
            outbox_bytes: load.outbox_bytes,
            slow_closed: load.slow_closed,
            memory: load.memory,
            memory_limit: load.memory_limit,
            per_core: load.per_core.iter().map(Core::from).collect(),
        }
    }
}

impl From<&protocol::CoreLoad> for Core {
    fn from(core: &protocol::CoreLoad) -> Self {
        Self {
            connections: core.connections,
            sessions: core.sessions,
            events_per_second: core.changes,
            deliveries_per_second: core.deliveries,
            queued: core.queued,
            slow: core.slow,
            outbox_bytes: core.outbox_bytes,
            cpu: core.cpu.map(|thousandths| thousandths as f64 / 1e3),
        }
    }
}
