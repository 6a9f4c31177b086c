//! The next map: who may own vnodes, with which weight and pins, and in which steps they move.

use protocol::Lease;
use ring::{Map, Node, NodeId, Vnode, VnodeSet};

use super::{Control, Problem, member::Member};

/// What a living node is to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// The node gets its share of vnodes.
    Sharing,
    /// The node is new and gets its share soon.
    Joining,
    /// Came back too often and gets its share later.
    Penalised,
    /// An operator drains the node.
    Drained,
    /// It wants to be relieved itself, since it is about to end.
    Leaving,
}

/// The members of a plan, as the map and as the rebalance want them; the same index in both.
struct Plan {
    nodes: Vec<Node>,
    owners: Vec<Option<usize>>,
    target: Vec<Option<usize>>,
}

impl Control {
    /// The role of a node in the next map; `None` for a dead one.
    pub(super) fn role(&self, id: &NodeId, member: &Member, mono: u64) -> Option<Role> {
        if member.is_dead() {
            None
        } else if member.lease.draining {
            Some(Role::Leaving)
        } else if self.drained.contains(&**id) {
            Some(Role::Drained)
        } else if member.is_penalised(mono) && !self.serves(id, member) {
            Some(Role::Penalised)
        } else if !self.is_in_map(id) && mono - member.here_since < self.options.formation {
            Some(Role::Joining)
        } else {
            Some(Role::Sharing)
        }
    }

    /// Whether this life of a node has vnodes already: nobody else could take them when it came.
    fn serves(&self, id: &NodeId, member: &Member) -> bool {
        let mut nodes = self.map.iter().flat_map(Map::nodes);
        nodes.any(|node| node.id == *id && node.boot == member.lease.boot)
    }

    fn is_in_map(&self, id: &NodeId) -> bool {
        let mut nodes = self.map.iter().flat_map(Map::nodes);
        nodes.any(|node| node.id == *id)
    }

    /// The first map's owners; `None` when nobody can own anything.
    pub(super) fn plan_first(&self, mono: u64, problems: &mut Vec<Problem>) -> Option<Map> {
        let empty = Map::empty(self.options.vnodes);
        let plan = self.plan(&empty, mono, problems);
        let anyone = plan.target.iter().any(Option::is_some);
        anyone.then(|| empty.apply(plan.nodes, &plan.target))
    }

    /// The map that should follow `map`, if any should.
    pub(super) fn next_map(
        &self,
        map: &Map,
        mono: u64,
        problems: &mut Vec<Problem>,
    ) -> Option<Map> {
        let Plan {
            nodes,
            mut owners,
            target,
        } = self.plan(map, mono, problems);
        let lives = |node: &Node| nodes.iter().any(|n| n.id == node.id && n.boot == node.boot);
        let somebody_is_gone = !map.nodes().iter().all(lives);
        let ready = self.step_is_done(map, mono);
        let budget = if ready { self.budget(map) } else { 0 };
        let moves = ring::next_moves(&owners, &target, budget);
        if moves.is_empty() && !somebody_is_gone && !(ready && nodes != map.nodes()) {
            return None;
        }
        for vnode in moves {
            owners[vnode.index()] = target[vnode.index()];
        }
        Some(map.apply(nodes, &owners))
    }

    /// Who should own what, from the owners in `map` now.
    fn plan(&self, map: &Map, mono: u64, problems: &mut Vec<Problem>) -> Plan {
        let mut living: Vec<(Role, &Member, Node)> = Vec::new();
        for (id, member) in &self.members {
            if let Some(role) = self.role(id, member, mono) {
                let lease = &member.lease;
                let node = Node {
                    id: id.clone(),
                    boot: lease.boot,
                    address: lease.address.clone(),
                    weight: member.weight(self.options.load_shift),
                };
                living.push((role, member, node));
            }
        }
        // When nobody else can have vnodes, who otherwise should not yet must.
        let taking = [Role::Sharing, Role::Joining, Role::Penalised]
            .into_iter()
            .find(|most| {
                living
                    .iter()
                    .any(|(role, _, node)| role <= most && node.weight > 0)
            });
        let takes = |role: Role| taking.is_some_and(|most| role <= most) || role == Role::Sharing;
        // A node that is relieved stays in the map for as long as this life of it is there: it
        // may still own something, or have to let go of it.
        let stays = |node: &Node| {
            let same = |other: &Node| other.id == node.id && other.boot == node.boot;
            taking.is_none() || map.nodes().iter().any(same)
        };
        living.retain(|(role, _, node)| takes(*role) || (*role >= Role::Drained && stays(node)));
        let mut pinned = vec![None; map.count().get()];
        let mut members = Vec::new();
        for (role, member, node) in &mut living {
            let mut pins = VnodeSet::default();
            if takes(*role) {
                pins = self.pins(&member.lease, &mut pinned, problems);
            } else {
                node.weight = 0;
            }
            members.push(ring::Member {
                weight: node.weight,
                pins,
            });
        }
        let roles: Vec<Role> = living.iter().map(|(role, _, _)| *role).collect();
        let nodes: Vec<Node> = living.into_iter().map(|(_, _, node)| node).collect();
        let owners = map.owners_among(&nodes);
        let mut target =
            ring::assign(&owners, &members).expect("each vnode is pinned once, and exists");
        if taking.is_none() {
            keep(&mut target, &owners, &roles);
        }
        Plan {
            nodes,
            owners,
            target,
        }
    }

    /// The vnodes that a node gets before others: of those it asks for, the ones that exist and
    /// that no node before it, by name, has asked for.
    fn pins(
        &self,
        lease: &Lease,
        pinned: &mut [Option<NodeId>],
        problems: &mut Vec<Problem>,
    ) -> VnodeSet {
        let id = lease.id();
        let parse = |text: &str| VnodeSet::parse(text, self.options.vnodes);
        let wanted = parse(&lease.pins).unwrap_or_else(|error| {
            problems.push(Problem::Pin {
                node: id.clone(),
                error,
            });
            let good = lease.pins.split(',').filter(|part| parse(part).is_ok());
            parse(&good.collect::<Vec<_>>().join(",")).expect("each part is good")
        });
        let mut second = None;
        let mut good: Vec<Vnode> = wanted.iter().collect();
        good.retain(|vnode| match &pinned[vnode.index()] {
            None => {
                pinned[vnode.index()] = Some(id.clone());
                true
            }
            Some(first) => {
                second.get_or_insert((*vnode, first.clone()));
                false
            }
        });
        if let Some((vnode, first)) = second {
            problems.push(Problem::PinnedTwice {
                vnode,
                first,
                second: id,
            });
        }
        good.into_iter().collect()
    }

    /// Whether every node of the map has done what it says, or had the time for it. While a lease
    /// is missing and its node not judged, nothing is planned; nor while a living node has not had the time
    /// to say that it has met a map that the store may have lost.
    fn step_is_done(&self, map: &Map, mono: u64) -> bool {
        let heard_all = self
            .read_since
            .is_some_and(|since| mono - since >= self.options.lease_ttl);
        if mono < self.next_step || (self.may_have_lost && !heard_all) {
            return false;
        }
        let members = || {
            let member = |node: &Node| self.members.get(&node.id);
            map.nodes()
                .iter()
                .filter_map(member)
                .filter(|m| !m.is_dead())
        };
        if members().any(|member| !member.present) {
            return false;
        }
        let version = map.version().get();
        let done =
            |member: &Member| member.lease.map_version >= version && member.lease.moving == 0;
        members().all(done) || mono - self.map_since >= self.options.step_timeout
    }

    /// How many vnodes a planned step moves away from or to a node.
    fn budget(&self, map: &Map) -> usize {
        let most = self.options.max_in_motion.max(1);
        match (
            self.options.sessions_per_second,
            self.sessions_per_vnode(map),
        ) {
            (0, _) => most,
            (rate, sessions) if sessions > 0.0 => {
                // A second's worth of sessions.
                ((rate as f64 / sessions) as usize).clamp(1, most)
            }
            _ => most,
        }
    }

    /// Sessions a vnode of the node that has the most.
    fn sessions_per_vnode(&self, map: &Map) -> f64 {
        let sessions = map.nodes().iter().filter_map(|node| {
            let owned = map.owned_by(&node.id).count();
            let sessions = self.members.get(&node.id)?.lease.load.sessions;
            (owned > 0).then(|| sessions as f64 / owned as f64)
        });
        sessions.fold(0.0, f64::max)
    }

    /// How long the sessions that `next` moves take at the allowed rate, ms. Those of a node that
    /// is gone do not count: they have lost their connection already.
    pub(super) fn pause_after(&self, map: &Map, next: &Map) -> u64 {
        let rate = self.options.sessions_per_second;
        if rate == 0 {
            return 0;
        }
        let nodes = next.nodes();
        let (before, after) = (map.owners_among(nodes), next.owners_among(nodes));
        let lives = |node: &Node| {
            let same = |other: &Node| other.id == node.id && other.boot == node.boot;
            map.nodes().iter().any(same)
        };
        let lives: Vec<bool> = nodes.iter().map(lives).collect();
        let (mut away, mut to) = (vec![0_u64; nodes.len()], vec![0_u64; nodes.len()]);
        for (from, to_node) in before.iter().zip(&after) {
            if let (Some(from), Some(to_node)) = (from, to_node)
                && from != to_node
                && lives[*from]
            {
                away[*from] += 1;
                to[*to_node] += 1;
            }
        }
        let most = away.into_iter().chain(to).max().unwrap_or_default();
        let ms = most as f64 * self.sessions_per_vnode(map) * 1_000.0 / rate as f64;
        (ms as u64).min(self.options.step_timeout)
    }
}

/// Completes `target` when nobody is left to take anything: all keep what they have, and what has
/// no owner goes to nodes that an operator drains and that are there to stay, the emptiest first.
fn keep(target: &mut [Option<usize>], owners: &[Option<usize>], roles: &[Role]) {
    let mut held = vec![0_usize; roles.len()];
    for (target, owner) in target.iter_mut().zip(owners) {
        *target = target.or(*owner);
        if let Some(owner) = target {
            held[*owner] += 1;
        }
    }
    for target in target.iter_mut().filter(|target| target.is_none()) {
        let staying = (0..roles.len()).filter(|n| roles[*n] == Role::Drained);
        *target = staying.min_by_key(|n| held[*n]);
        if let Some(owner) = target {
            held[*owner] += 1;
        }
    }
}
