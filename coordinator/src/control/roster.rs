//! Who is there: leases that come, come back and go, and what is remembered of them.

use std::collections::BTreeSet;

use protocol::Lease;
use ring::{Map, NodeId};

use super::{Control, MAX_ADDRESS, MAX_EPOCH, MAX_MEMBERS, Note, Problem, member::Member};

/// The highest map version, so that JavaScript reads it exactly.
const MAX_VERSION: u64 = (1 << 53) - 1;

impl Control {
    /// Follows the leases: who came, came back, or is gone.
    /// `lapsed`: the names that are there without a lease that can be used.
    pub(super) fn follow(
        &mut self,
        mut leases: Vec<Lease>,
        lapsed: &BTreeSet<&str>,
        mono: u64,
        notes: &mut Vec<Note>,
    ) {
        let vnodes = self.options.vnodes.get();
        leases.retain(|lease| match wrong_with(lease, vnodes) {
            None => true,
            Some(what) => {
                self.problems
                    .push(Problem::lease((lease.node.clone(), what)));
                false
            }
        });
        for member in self.members.values_mut() {
            let left = leases.iter().position(|lease| member.is_left(lease));
            member.lingers = left.is_some();
            if let Some(at) = left {
                leases.swap_remove(at);
            }
        }
        // One lease a node; of several the one of the newest map, whatever order they come in.
        leases.sort_by(|a, b| {
            (&a.node, b.map_version, b.boot).cmp(&(&b.node, a.map_version, a.boot))
        });
        leases.dedup_by(|second, first| second.node == first.node);
        let judging = self
            .read_since
            .is_some_and(|since| mono - since >= self.options.lease_ttl);
        let present: BTreeSet<NodeId> = leases.iter().map(Lease::id).collect();
        for (id, member) in &mut self.members {
            if present.contains(id) {
                continue;
            }
            if member.present {
                self.changed = mono;
                member.is_missing(!lapsed.contains(&**id));
            }
            if judging && !member.is_dead() {
                member.dead_since = Some(mono);
                let id = id.clone();
                notes.push(match member.has_left() {
                    true => Note::Left(id),
                    false => Note::Dead(id),
                });
            }
        }
        let mut too_many = 0;
        for lease in leases {
            let id = lease.id();
            if !lease.trouble.is_empty() {
                self.problems.push(Problem::NotPublishing {
                    node: id.clone(),
                    why: lease.trouble.chars().take(300).collect(),
                });
            }
            if let Some(member) = self.members.get_mut(&id) {
                if !member.present || member.lease.boot != lease.boot {
                    self.changed = mono;
                }
                let leaves = lease.draining && !member.lease.draining;
                notes.extend(member.renewed(lease, mono, &self.options));
                if leaves {
                    notes.push(Note::Leaving(id));
                }
            } else if self.members.len() < MAX_MEMBERS {
                self.changed = mono;
                self.members.insert(id.clone(), Member::new(lease, mono));
                notes.push(Note::Joined(id));
            } else {
                too_many += 1;
            }
        }
        if too_many > 0 {
            self.problems.push(Problem::TooMany(too_many));
        }
        self.forget(mono);
    }

    /// How long the past of a node that is gone is remembered, ms.
    fn memory(&self) -> u64 {
        self.options.return_window + self.options.penalty_limit
    }

    fn forget(&mut self, mono: u64) {
        let memory = self.memory();
        let in_map = |id: &NodeId| {
            let nodes = self.map.iter().flat_map(Map::nodes);
            nodes.into_iter().any(|node| node.id == *id)
        };
        self.members.retain(|id, member| {
            member.dead_since.is_none_or(|since| mono - since < memory) || in_map(id)
        });
    }

    /// The names that have been without a lease for so long that nobody needs them.
    pub(super) fn forget_names(&mut self, gone: Vec<String>, mono: u64) -> Vec<String> {
        let memory = self.memory();
        let gone: BTreeSet<String> = gone.into_iter().take(4 * MAX_MEMBERS).collect();
        self.nameless.retain(|name, _| gone.contains(name));
        for name in gone {
            self.nameless.entry(name).or_insert(mono);
        }
        let needed =
            |name: &str| NodeId::parse(name).is_ok_and(|id| self.members.contains_key(&id));
        let old = |(name, since): (&String, &u64)| {
            (mono - since >= memory && !needed(name)).then(|| name.clone())
        };
        self.nameless.iter().filter_map(old).collect()
    }
}

/// The reason for which a lease is ignored by a coordinator with that many vnodes; `None` for a good one.
fn wrong_with(lease: &Lease, vnodes: usize) -> Option<String> {
    let said = lease.vnodes as usize;
    if said != 0 && said != vnodes {
        // It would follow no map, and serve none of the users that one gives to it.
        return Some(format!(
            "its cluster.vnodes is {said}, and the coordinators' {vnodes}"
        ));
    }
    let what = if NodeId::parse(&lease.node).is_err() {
        "its name is none"
    } else if lease.address.is_empty() || lease.address.len() > MAX_ADDRESS {
        "its address is empty or longer than 2048 bytes"
    } else if lease.map_version > MAX_VERSION || lease.highest_epoch > MAX_EPOCH {
        "its map version or epoch cannot be"
    } else {
        return None;
    };
    Some(what.to_owned())
}
