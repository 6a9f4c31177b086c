//! A node's lease: who it is, what it can take and how far it has come, as JSON in the store.
//! It owns that format; a foreign one is a named error.

use ring::NodeId;
use serde::{Deserialize, Serialize};

/// A node's load as it measured it last; operators see it, the rebalance may shift weight by it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Open connections, with or without a session.
    pub connections: u64,
    /// Open sessions, that is, authenticated connections.
    pub sessions: u64,
    /// Changes of presence records a second.
    pub events_per_second: f64,
    /// Age of the newest event taken from the bus, ms.
    pub lag_ms: u64,
    /// Share of the node's cores that is busy, 0 to 1.
    pub cpu: f64,
    /// Records sent to watchers a second.
    pub deliveries_per_second: f64,
    /// The time from a change to the send of its bytes that half of the deliveries of the last
    /// [`DELIVERY_WINDOW_MS`] kept within, µs; 0 = nothing was sent.
    pub delivery_p50_us: u64,
    /// The same for 99 of 100 deliveries, µs.
    pub delivery_p99_us: u64,
    /// Messages of the bus that the node has not read yet.
    pub lag_records: u64,
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
    /// Sessions that the process has ended since they read too slowly (1013).
    pub slow_closed: u64,
    /// Memory of the process that is resident, bytes.
    pub memory: u64,
    /// From how much memory on the node lets no new connection in, bytes; 0 = no limit.
    pub memory_limit: u64,
    /// Each core, by its number; empty in leases of releases that did not tell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub per_core: Vec<CoreLoad>,
}

/// The time over which the times of deliveries are told, ms.
pub const DELIVERY_WINDOW_MS: u64 = 10_000;

/// The load of one core of a node; rates are whole numbers, since a lease is read often.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoreLoad {
    /// Open connections, with or without a session.
    pub connections: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Changes of presence records a second.
    pub changes: u64,
    /// Records sent to watchers a second.
    pub deliveries: u64,
    /// Requests for the store, changes for the bus, and messages for links and other cores that wait.
    pub queued: u64,
    /// Sessions whose socket takes no more for now.
    pub slow: u64,
    /// Bytes that wait for the sockets of slow sessions.
    pub outbox_bytes: u64,
    /// How busy the core is, in thousandths; `None` where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
}

/// What a node says of itself at each renewal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The node's configured name.
    pub node: String,
    /// The process behind the name: a random number, drawn at its start.
    pub boot: u64,
    /// The whole WebSocket URL that the node's clients connect to.
    pub address: String,
    /// The number of threads that serve sessions, one a core.
    pub cores: u16,
    /// The node's weight in the rebalance: its share is this over the sum of all weights.
    pub weight: u32,
    /// Vnodes that the node gets before others, in the syntax of `ASSIGNED_VNODES`; empty = none.
    #[serde(default)]
    pub pins: String,
    /// The number of vnodes that the node spreads users over; 0 = it does not say.
    #[serde(default)]
    pub vnodes: u32,
    /// Whether the node asks for all its vnodes to be moved away.
    #[serde(default)]
    pub draining: bool,
    /// The version of the map that the node follows; 0 = none.
    #[serde(default)]
    pub map_version: u64,
    /// The highest epoch that the node has met, in a map or in the store.
    #[serde(default)]
    pub highest_epoch: u32,
    /// The number of vnodes in motion: owned and not loaded yet, or left and not released yet.
    #[serde(default)]
    pub moving: u32,
    /// Why the node's changes do not reach other nodes, for operators; empty = they do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trouble: String,
    /// The host and port at which other edges connect to this one; empty = this one has no links, and
    /// is heard by the bus alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// The node's load at this renewal.
    #[serde(default)]
    pub load: Load,
}

/// Why a value in the store is not a lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The value is not the JSON of a lease.
    #[error("not a lease: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The lease's node has an invalid name.
    #[error("a lease has a bad node: {0}")]
    Node(#[from] ring::NodeIdError),
}

impl Lease {
    /// The lease as the JSON that its key holds.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("all keys are strings")
    }

    /// The lease in `value`. Unknown members are ignored.
    pub fn decode(value: &[u8]) -> Result<Self, LeaseError> {
        let lease: Self = serde_json::from_slice(value)?;
        NodeId::parse(&lease.node)?;
        Ok(lease)
    }

    /// The node's name.
    ///
    /// # Panics
    /// When the name is none: [`Lease::decode`] refuses those.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId::parse(&self.node).expect("checked when it was read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_and_a_foreign_value_is_named() {
        let lease = Lease {
            node: "n1".into(),
            boot: u64::MAX,
            address: "ws://h/socket".into(),
            cores: 2,
            weight: 200,
            pins: "0-9".into(),
            vnodes: 4_096,
            draining: true,
            map_version: 7,
            highest_epoch: 3,
            moving: 1,
            trouble: "no broker".into(),
            link: "h:8082".into(),
            load: Load {
                sessions: 5,
                per_core: vec![CoreLoad {
                    slow: 1,
                    ..CoreLoad::default()
                }],
                ..Load::default()
            },
        };
        assert_eq!(Lease::decode(lease.encode().as_bytes()).ok(), Some(lease));
        // Names and meanings that two releases share.
        let first = r#"{"node":"n1","boot":7,"address":"ws://h/socket","cores":2,"weight":200,"pins":"0-9","draining":true,"map_version":7,"highest_epoch":3,"moving":1,"trouble":"x","link":"h:8082","load":{"connections":9,"sessions":5,"events_per_second":1.5,"lag_ms":4,"lag_records":6,"cpu":0.5}}"#;
        let read = Lease::decode(first.as_bytes()).expect("it is read");
        assert_eq!(
            (
                read.boot,
                read.draining,
                read.map_version,
                read.highest_epoch,
                read.moving
            ),
            (7, true, 7, 3, 1)
        );
        assert_eq!(
            (&*read.pins, &*read.trouble, &*read.link),
            ("0-9", "x", "h:8082")
        );
        let Load {
            connections,
            sessions,
            lag_ms,
            lag_records,
            ..
        } = read.load;
        assert_eq!((connections, sessions, lag_ms, lag_records), (9, 5, 4, 6));
        let least =
            r#"{"node":"n1","boot":1,"address":"ws://h/socket","cores":1,"weight":1,"x":2}"#;
        assert!(Lease::decode(least.as_bytes()).is_ok());
        // Members are added; none of these goes, for the release before reads them.
        let written: serde_json::Value = serde_json::from_str(&read.encode()).expect("JSON");
        let first: serde_json::Value = serde_json::from_str(first).expect("JSON");
        for (of_first, of_written) in [(&first, &written), (&first["load"], &written["load"])] {
            for (member, value) in of_first.as_object().expect("members") {
                let is_kept = member == "load" || of_written.get(member) == Some(value);
                assert!(is_kept, "{member}: {of_written}");
            }
        }
        let bad = least.replace("n1", "n 1");
        let error = Lease::decode(bad.as_bytes()).expect_err("a space");
        assert!(error.to_string().contains("bad node"));
        assert!(Lease::decode(b"[]").is_err());
    }
}
