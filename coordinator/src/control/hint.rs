//! Hints: the kernel of a host closes a dead process's connections long before its lease ends. A
//! node whose own connection to the store was seen open, is closed, and is not made again, is taken
//! for dead. This owns how much is believed of that; what follows is what follows any node's end.

use std::collections::BTreeSet;

use ring::NodeId;

use super::{Control, Note, member::Member};

/// For so long the store must have been read without interruption before a closed connection says
/// anything, ms: whoever lost the store comes back to it within a second.
const SETTLED: u64 = 3_000;
/// The share of the fleet that may be ended early within a lease's TTL; one node always may.
const SHARE: usize = 3;

/// A node's connection to the store, as the readings have shown it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Connection {
    /// It was not seen open, so that nothing follows when it is not.
    #[default]
    Unseen,
    Open,
    /// It was open, and has not been since this time.
    Closed {
        since: u64,
    },
}

impl Control {
    /// The processes with a lease, whose connections are worth looking at.
    #[must_use]
    pub fn processes(&self) -> Vec<(NodeId, u64)> {
        let members = self.members.values().filter(|member| member.present);
        members
            .map(|member| (member.id(), member.lease.boot))
            .collect()
    }

    /// The address of a process whose connection was seen and is not among these.
    #[must_use]
    pub fn addresses_of_missing(
        &self,
        alive: &BTreeSet<(NodeId, u64)>,
    ) -> Vec<((NodeId, u64), String)> {
        let seen = |member: &&Member| member.present && member.connection != Connection::Unseen;
        self.members
            .values()
            .filter(seen)
            .map(|member| {
                (
                    (member.id(), member.lease.boot),
                    member.lease.address.clone(),
                )
            })
            .filter(|(process, _)| !alive.contains(process))
            .collect()
    }

    /// Whether a look has to be taken: the connection of a node, which was open, is not among these.
    #[must_use]
    pub fn misses_one(&self, alive: &BTreeSet<(NodeId, u64)>) -> bool {
        let mut open = self
            .members
            .values()
            .filter(|member| member.connection == Connection::Open);
        open.any(|member| !alive.contains(&(member.id(), member.lease.boot)))
    }

    /// Whether a closed connection may soon be taken for its node's end.
    #[must_use]
    pub fn is_waiting_for_one(&self) -> bool {
        let closed = |member: &Member| matches!(member.connection, Connection::Closed { .. });
        self.members.values().any(closed)
    }

    /// The nodes that own vnodes in the newest map and are likely dead: their connection is closed,
    /// or they were taken for dead by it and no other map has been read yet.
    #[must_use]
    pub fn suspects(&self) -> BTreeSet<NodeId> {
        let closed = |member: &Member| matches!(member.connection, Connection::Closed { .. });
        let nodes = self.map.iter().flat_map(ring::Map::nodes);
        let suspected = |node: &&ring::Node| {
            let member = self.members.get(&node.id);
            member.is_some_and(|member| {
                member.lease.boot == node.boot && (closed(member) || member.lingers)
            })
        };
        nodes
            .filter(suspected)
            .map(|node| node.id.clone())
            .collect()
    }

    /// Ends nodes by what a reading shows of their connections. `None`: it does not show any.
    pub(super) fn take_hints(
        &mut self,
        alive: Option<&BTreeSet<(NodeId, u64)>>,
        mono: u64,
        notes: &mut Vec<Note>,
    ) {
        let settled = self
            .read_since
            .is_some_and(|since| mono - since >= SETTLED.min(self.options.lease_ttl));
        let Some(alive) = alive.filter(|_| self.options.closed_for > 0) else {
            self.forget_connections();
            return;
        };
        for (id, member) in &mut self.members {
            let open = alive.contains(&(id.clone(), member.lease.boot));
            let is_believed = settled && mono >= member.trusted_until;
            member.connection = match member.connection {
                _ if !member.present => Connection::Unseen,
                _ if open => Connection::Open,
                Connection::Open if is_believed => Connection::Closed { since: mono },
                closed @ Connection::Closed { .. } => closed,
                Connection::Open | Connection::Unseen => Connection::Unseen,
            };
        }
        let closed = |member: &&Member| matches!(member.connection, Connection::Closed { .. });
        let count = self.members.values().filter(closed).count();
        if count == 0 {
            return;
        }
        let ttl = self.options.lease_ttl;
        let lately = |member: &&Member| member.ended_at.is_some_and(|at| mono - at < ttl);
        let ended = self.members.values().filter(lately).count();
        let present = self.members.values().filter(|m| m.present).count();
        if count + ended > ((present + ended) / SHARE).max(1) {
            // More likely than so many crashes is one cause that they share.
            notes.push(Note::ClosedTogether(count));
            self.forget_connections();
            return;
        }
        let due = |member: &&Member| match member.connection {
            Connection::Closed { since } => mono - since >= self.options.closed_for,
            Connection::Open | Connection::Unseen => false,
        };
        let due: Vec<NodeId> = self.members.values().filter(due).map(Member::id).collect();
        for id in due {
            let takes = |other: &Member| {
                other.present && !other.lease.draining && other.lease.weight > 0 && !closed(&other)
            };
            if !self.members.values().any(takes) {
                continue;
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.end(mono);
                self.changed = mono;
                notes.push(Note::Ended(id));
            }
        }
    }

    /// Nothing follows from a connection that is closed, until it was seen open.
    pub(super) fn forget_connections(&mut self) {
        for member in self.members.values_mut() {
            member.connection = Connection::Unseen;
        }
    }

    /// The leases of nodes that were ended, and are not in the map any more: still there, as the
    /// dead process left them. They are of no use, and mislead a coordinator that starts now.
    pub(super) fn left_leases(&self) -> Vec<(NodeId, u64)> {
        let in_map = |member: &Member| {
            let mut nodes = self.map.iter().flat_map(ring::Map::nodes);
            nodes.any(|node| node.id == member.id() && node.boot == member.lease.boot)
        };
        let members = self.members.values();
        members
            .filter(|member| member.lingers && !in_map(member))
            .map(|member| (member.id(), member.lease.boot))
            .collect()
    }
}
