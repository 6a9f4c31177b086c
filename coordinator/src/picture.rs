//! What this replica knows of the fleet, as the HTTP side shows it: made after each look at the
//! store, shared, never changed.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use axum::body::Bytes;
use coordinator::control::{MemberView, Problem};
use redis_store::Leader;
use ring::{Epoch, Map, NodeId, Vnode};
use serde_json::{Value, json};

use crate::timeline::Happened;

/// A map in the forms that are handed out.
pub(crate) struct Published {
    pub(crate) map: Map,
    /// The map in the form of [`Map::encode`].
    pub(crate) binary: Bytes,
    /// JSON without its last brace, so that a member can be added.
    json: String,
}

impl Published {
    pub(crate) fn new(map: Map) -> Self {
        let mut json = map_json(&map).to_string();
        json.pop();
        Self {
            binary: map.encode().into(),
            json,
            map,
        }
    }

    /// The map as JSON; `stale`: for how many seconds it may be outdated.
    pub(crate) fn json(&self, stale: Option<u64>) -> String {
        match stale {
            None => format!("{}}}\n", self.json),
            Some(seconds) => format!("{},\"stale\":{seconds}}}\n", self.json),
        }
    }
}

/// Runs of vnodes that share owner and epoch.
fn map_json(map: &Map) -> Value {
    let nodes = map.nodes().iter().map(|node| {
        json!({
            "node": &*node.id,
            // JavaScript does not read a number of 64 bits exactly.
            "boot": node.boot.to_string(),
            "address": node.address,
            "weight": node.weight,
        })
    });
    let slot = |vnode: Vnode| -> (Option<&str>, Epoch) {
        let owner = map.owner(vnode).map(|(node, _)| &*node.id);
        (owner, map.epoch(vnode))
    };
    let vnodes: Vec<Vnode> = map.count().all().collect();
    let runs = vnodes.chunk_by(|a, b| slot(*a) == slot(*b)).map(|run| {
        let (node, epoch) = slot(run[0]);
        let last = run[run.len() - 1];
        json!({ "first": run[0].get(), "last": last.get(), "node": node, "epoch": epoch.get() })
    });
    json!({
        "version": map.version().get(),
        "vnodes": map.count().get(),
        "nodes": nodes.collect::<Vec<_>>(),
        "runs": runs.collect::<Vec<_>>(),
    })
}

/// The fleet as the last look showed it; never changed once it is made.
pub(crate) struct Picture {
    pub(crate) map: Option<Arc<Published>>,
    pub(crate) members: Vec<MemberView>,
    /// The names of the nodes that an operator drains.
    pub(crate) drained: Vec<String>,
    pub(crate) problems: Vec<Problem>,
    /// Owners that are likely dead: a map without them may follow within a second.
    pub(crate) suspects: BTreeSet<NodeId>,
    pub(crate) leading: bool,
    pub(crate) leader: Option<Leader>,
    /// What has happened, the oldest first; the timeline bounds how much.
    pub(crate) events: Arc<[Happened]>,
    /// When the store last showed all of this; `None`: never.
    pub(crate) read_at: Option<Instant>,
}

impl Picture {
    /// The picture before the first look.
    pub(crate) fn empty() -> Self {
        Self {
            map: None,
            members: Vec::new(),
            drained: Vec::new(),
            problems: Vec::new(),
            suspects: BTreeSet::new(),
            leading: false,
            leader: None,
            events: Arc::default(),
            read_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::{Node, VnodeCount};

    #[test]
    fn a_map_as_json_has_runs_and_a_place_for_its_age() {
        let node = |name: &str| Node {
            id: NodeId::parse(name).expect("a name"),
            boot: u64::MAX,
            address: format!("ws://{name}/socket"),
            weight: 100,
        };
        let count = VnodeCount::new(4).expect("a power of two");
        let owners = [Some(0), Some(0), Some(1), None];
        let map = Map::empty(count).apply(vec![node("a"), node("b")], &owners);
        let published = Published::new(map);
        let json: Value = serde_json::from_str(&published.json(Some(7))).expect("JSON");
        assert_eq!(json["stale"], 7);
        assert_eq!(json["nodes"][0]["boot"], "18446744073709551615");
        assert_eq!(
            json["runs"],
            json!([
                { "first": 0, "last": 1, "node": "a", "epoch": 1 },
                { "first": 2, "last": 2, "node": "b", "epoch": 1 },
                { "first": 3, "last": 3, "node": null, "epoch": 0 },
            ])
        );
        let json: Value = serde_json::from_str(&published.json(None)).expect("JSON");
        assert_eq!((json.get("stale"), &json["version"]), (None, &json!(1)));
    }
}
