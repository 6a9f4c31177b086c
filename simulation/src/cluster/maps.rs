//! What the coordinators may write: maps that move only what they must, in steps, and give every
//! node its share (I7). It looks at maps alone, and at which processes live.

use std::collections::BTreeMap;

use ring::{Epoch, Map, NodeId, Vnode};

use super::world::World;

impl World {
    /// I7: a new map moves only what it must, and epochs follow the owners.
    pub(crate) fn check_map(&self, before: Option<&Map>, map: &Map) {
        let Some(before) = before else {
            return;
        };
        let mut counts: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for vnode in map.count().all() {
            if let Some((node, _)) = before.owner(vnode) {
                *counts.entry(&node.id).or_default() += 1;
            }
        }
        let total: u64 = map.nodes().iter().map(|n| u64::from(n.weight)).sum();
        let share = |weight: u32| (map.count().get() as u64 * u64::from(weight), total.max(1));
        let lives = |map: &Map, node: &ring::Node| {
            map.nodes()
                .iter()
                .any(|n| n.id == node.id && n.boot == node.boot)
        };
        let mut away: BTreeMap<&NodeId, usize> = BTreeMap::new();
        let raised = map.epoch(Vnode::new(0)) > before.epoch(Vnode::new(0)).next();
        for vnode in map.count().all() {
            let (from, to) = (before.owner(vnode), map.owner(vnode));
            let owner = |at: Option<(&ring::Node, Epoch)>| at.map(|(n, _)| (n.id.clone(), n.boot));
            let (old, new) = (before.epoch(vnode), map.epoch(vnode));
            if owner(from) == owner(to) {
                assert!(
                    new == old || new > old.next() || raised || raises(before, map),
                    "I7: {}: vnode {vnode} stays and its epoch goes from {old} to {new}",
                    self.moment()
                );
                continue;
            }
            assert!(
                new > old || to.is_none(),
                "I1: {}: vnode {vnode} moves under its old epoch",
                self.moment()
            );
            let (Some((from, _)), Some((to, _))) = (from, to) else {
                continue;
            };
            if !lives(map, from) || from.id == to.id {
                continue;
            }
            let moved = away.entry(&from.id).or_default();
            *moved += 1;
            let weight = map
                .nodes()
                .iter()
                .find(|n| n.id == from.id)
                .map_or(0, |n| n.weight);
            let (vnodes, all) = share(weight);
            let keeps = counts[&from.id] - *moved;
            assert!(
                keeps as u64 >= vnodes / all,
                "I7: {}: vnode {vnode} leaves {}, which keeps {keeps} of its share of {}",
                self.moment(),
                from.id,
                vnodes / all
            );
        }
        // A map after a loss goes back to the newest that its writer has read.
        assert!(
            raises(before, map)
                || away
                    .values()
                    .all(|moved| *moved <= self.options().max_in_motion),
            "I7: {}: too many vnodes move at a time: {away:?}",
            self.moment()
        );
    }

    /// Checks I7: every node has its share.
    pub(crate) fn check_shares(&self) {
        let map = self.store.map().expect("there is a map");
        let living: Vec<_> = self.processes.iter().filter(|p| p.alive).collect();
        let total: u64 = living.iter().map(|p| u64::from(p.weight)).sum();
        for process in living {
            let owned = map.owned_by(&process.id).count() as u64;
            let product = map.count().get() as u64 * u64::from(process.weight);
            assert!(
                owned >= product / total && owned <= product.div_ceil(total),
                "I7: {}: {} has {owned} vnodes, its share is {product}/{total}; {:?}",
                self.moment(),
                process.id,
                map.nodes()
            );
        }
    }
}

/// Whether a map raises all epochs, as one does that is written after a loss.
fn raises(before: &Map, map: &Map) -> bool {
    map.count()
        .all()
        .all(|vnode| map.epoch(vnode) > before.epoch(vnode))
}
