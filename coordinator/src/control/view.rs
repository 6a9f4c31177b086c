//! The fleet for people: its members, what is wrong, and what has happened.

use std::fmt;

use protocol::Lease;
use ring::{Map, MapVersion, NodeId, Vnode, VnodeSetError};

use super::{Control, Now, plan::Role};

/// The state of a node, for display and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The node is new and gets vnodes soon.
    Joining,
    /// It has its share, or is on the way to it.
    Active,
    /// The node is being relieved of its vnodes.
    Draining,
    /// The node has been relieved of all its vnodes.
    Drained,
    /// It came back too often and has to stay for a while first.
    Penalised,
    /// The node ended as it was told to, and is gone.
    Left,
    /// The node's lease has ended without that.
    Dead,
}

impl State {
    /// Every state, each of which has a gauge of its own in the metrics.
    pub const ALL: [Self; 7] = [
        Self::Joining,
        Self::Active,
        Self::Draining,
        Self::Drained,
        Self::Penalised,
        Self::Left,
        Self::Dead,
    ];

    /// The state's word in answers and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Penalised => "penalised",
            Self::Left => "left",
            Self::Dead => "dead",
        }
    }

    /// Whether the node is gone: what it had under way, and how busy it was, ended with it.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Left | Self::Dead)
    }
}

/// A node as operators see it.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Its newest lease; of a node that only the map knows, what that says.
    pub lease: Lease,
    /// The state of the node.
    pub state: State,
    /// Whether its lease was there at the last reading.
    pub present: bool,
    /// How long its lease has not been seen, ms.
    pub unseen: u64,
    /// How long ago its newest renewal was first read, ms; `None` = it has never had a lease here.
    pub lease_age: Option<u64>,
    /// How many vnodes it owns in the newest map.
    pub vnodes: usize,
    /// The share of all vnodes that its weight in that map stands for, 0 to 1.
    pub share: f64,
    /// Whether an operator drains the node.
    pub drained: bool,
    /// The rest of the node's penalty, ms; 0 = none.
    pub penalty: u64,
}

/// What is wrong and does not stop the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A vnode that two nodes want before others; the first by name gets it.
    PinnedTwice {
        /// The lowest vnode that both pin.
        vnode: Vnode,
        /// The node that gets it.
        first: NodeId,
        /// The node that does not.
        second: NodeId,
    },
    /// A node's pins are ignored.
    Pin {
        /// The node whose pins they are.
        node: NodeId,
        /// The mistake in the pins.
        error: VnodeSetError,
    },
    /// A lease is ignored.
    Lease {
        /// The node that the lease names.
        node: String,
        /// The mistake in the lease.
        what: String,
    },
    /// A node whose changes do not reach the others.
    NotPublishing {
        /// The node that reports the trouble.
        node: NodeId,
        /// The reason in the node's own words, from its lease.
        why: String,
    },
    /// So many nodes beyond [`super::MAX_MEMBERS`], which are ignored.
    TooMany(usize),
    /// The map in the store has another number of vnodes; nothing is decided.
    Vnodes {
        /// The map's number of vnodes.
        map: usize,
        /// The configured number of vnodes.
        configured: usize,
    },
    /// The map in the store is damaged and gets replaced.
    Corrupt(MapVersion),
}

impl Problem {
    /// Every kind of problem, as a metric's label.
    pub const KINDS: [&str; 7] = [
        "pinned_twice",
        "pin",
        "lease",
        "too_many",
        "vnodes",
        "corrupt",
        "not_publishing",
    ];

    /// A lease that is ignored; its name may be anything.
    pub(super) fn lease((node, what): (String, String)) -> Self {
        let shorten = |text: String, most| text.chars().take(most).collect();
        Self::Lease {
            node: shorten(node, 64),
            what: shorten(what, 200),
        }
    }

    /// The kind of the problem, one of [`Problem::KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        let at = match self {
            Self::PinnedTwice { .. } => 0,
            Self::Pin { .. } => 1,
            Self::Lease { .. } => 2,
            Self::TooMany(_) => 3,
            Self::Vnodes { .. } => 4,
            Self::Corrupt(_) => 5,
            Self::NotPublishing { .. } => 6,
        };
        Self::KINDS[at]
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PinnedTwice {
                vnode,
                first,
                second,
            } => write!(
                f,
                "vnode {vnode} is pinned to {first} and to {second} (ASSIGNED_VNODES): {first} gets it"
            ),
            Self::Pin { node, error } => {
                write!(f, "a pin of {node} (ASSIGNED_VNODES) is ignored: {error}")
            }
            Self::NotPublishing { node, why } => write!(
                f,
                "{node} is not publishing: {why}; its changes reach neither the topic nor watchers on nodes without a link to it"
            ),
            Self::Lease { node, what } => write!(f, "the lease of {node:?} is ignored: {what}"),
            Self::TooMany(count) => write!(
                f,
                "{count} nodes are ignored: at most {} are followed",
                super::MAX_MEMBERS
            ),
            Self::Vnodes { map, configured } => write!(
                f,
                "the map in the store has {map} vnodes and cluster.vnodes is {configured}: nothing is decided"
            ),
            Self::Corrupt(version) => write!(
                f,
                "the map in the store is damaged; a new one follows version {version}"
            ),
        }
    }
}

/// Vnodes that go from one node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Their former owner; `None` = nobody.
    pub from: Option<NodeId>,
    /// Their owner from now on, the same node in its next life too; `None` = nobody.
    pub to: Option<NodeId>,
    /// How many there are, at least 1.
    pub vnodes: usize,
}

/// An event of the fleet, for the log and the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A node came for the first time.
    Joined(NodeId),
    /// A node came back, or its next life did.
    Returned(NodeId),
    /// A node came back once too often and has to stay for so many ms before it gets vnodes.
    Penalised(NodeId, u64),
    /// A node wants to be relieved of its vnodes, since it was told to end.
    Leaving(NodeId),
    /// A node that did so, or gave its lease back, is gone.
    Left(NodeId),
    /// A node's lease has ended.
    Dead(NodeId),
    /// A node's connection to the store was closed and not made again: it is taken for dead.
    Ended(NodeId),
    /// A node that was taken for dead by its connection has renewed its lease.
    Lived(NodeId),
    /// So many connections were closed just now that, with those of nodes that ended lately, nothing
    /// is taken from it.
    ClosedTogether(usize),
    /// A newer map was read from the store, with these moves since the one that was known before.
    Map(MapVersion, Vec<Moved>),
    /// A map is about to be written.
    Writing {
        /// The version of the map.
        version: MapVersion,
        /// All its epochs are raised, since the store has lost a newer one.
        raised: bool,
        /// How many vnodes change their owner, or the owner its life.
        moves: usize,
    },
}

impl Note {
    /// The event's name in the log.
    #[must_use]
    pub const fn event(&self) -> &'static str {
        match self {
            Self::Joined(_) => "node_joined",
            Self::Returned(_) => "node_returned",
            Self::Penalised(..) => "node_penalised",
            Self::Leaving(_) => "node_leaving",
            Self::Left(_) => "node_left",
            Self::Dead(_) => "node_dead",
            Self::Ended(_) => "node_ended",
            Self::Lived(_) => "node_lived",
            Self::ClosedTogether(_) => "nodes_closed_together",
            Self::Map(..) => "map_in_force",
            Self::Writing { raised: true, .. } => "epochs_raised",
            Self::Writing { .. } => "vnodes_moved",
        }
    }

    /// The node that it is about, if it is about one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Joined(id)
            | Self::Returned(id)
            | Self::Penalised(id, _)
            | Self::Leaving(id)
            | Self::Left(id)
            | Self::Dead(id)
            | Self::Ended(id)
            | Self::Lived(id) => Some(id),
            Self::ClosedTogether(_) | Self::Map(..) | Self::Writing { .. } => None,
        }
    }

    /// What kind of event it is: `node`, `fault` or `recovery`; `None` for maps, whose moves are told together.
    #[must_use]
    pub const fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Joined(_) | Self::Leaving(_) | Self::Left(_) => Some("node"),
            Self::Returned(_) | Self::Lived(_) => Some("recovery"),
            Self::Penalised(..)
            | Self::Dead(_)
            | Self::Ended(_)
            | Self::ClosedTogether(_)
            | Self::Writing { raised: true, .. } => Some("fault"),
            Self::Writing { .. } | Self::Map(..) => None,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(id) => write!(f, "node {id} is here"),
            Self::Returned(id) => write!(f, "node {id} is back"),
            Self::Penalised(id, ms) => write!(
                f,
                "node {id} is back, too often: it gets vnodes when it has stayed for {} s",
                ms / 1_000
            ),
            Self::Leaving(id) => write!(f, "node {id} was told to end: its vnodes move"),
            Self::Left(id) => write!(f, "node {id} has left"),
            Self::Dead(id) => write!(f, "node {id} is gone: its lease has ended"),
            Self::Ended(id) => write!(
                f,
                "node {id} is gone: its connection to the store was closed and not made again"
            ),
            Self::Lived(id) => write!(
                f,
                "node {id} lives: it had lost its connection to the store and is back"
            ),
            Self::ClosedTogether(count) => write!(
                f,
                "too many nodes lose their connections to the store at once, {count} just now: their \
                 leases decide"
            ),
            Self::Map(version, _) => write!(f, "map {version} is in force"),
            Self::Writing {
                version,
                raised: false,
                moves,
            } => write!(f, "map {version}: {moves} vnodes get another owner"),
            Self::Writing { version, .. } => write!(
                f,
                "map {version}: the store has lost a newer one, so all epochs are raised"
            ),
        }
    }
}

impl Control {
    /// The nodes of the fleet, by name.
    #[must_use]
    pub fn members(&self, now: Now) -> Vec<MemberView> {
        let mono = now.mono_ms;
        let nodes = || self.map.iter().flat_map(Map::nodes);
        let total: f64 = nodes().map(|node| f64::from(node.weight)).sum();
        let view = |(id, member): (&NodeId, &super::Member)| {
            let vnodes = self.map.as_ref().map_or(0, |map| map.owned_by(id).count());
            let in_map = nodes().find(|node| node.id == *id);
            let state = match self.role(id, member, mono) {
                None if member.has_left() => State::Left,
                None => State::Dead,
                Some(Role::Drained | Role::Leaving) if vnodes > 0 => State::Draining,
                Some(Role::Drained | Role::Leaving) => State::Drained,
                Some(Role::Penalised) => State::Penalised,
                Some(Role::Joining | Role::Sharing) if in_map.is_none() => State::Joining,
                Some(Role::Joining | Role::Sharing) => State::Active,
            };
            let weight = in_map.map_or(0.0, |node| f64::from(node.weight));
            let mut lease = member.lease.clone();
            if state.is_gone() {
                lease.moving = 0;
                lease.load = Default::default();
            }
            MemberView {
                lease,
                state,
                present: member.present,
                unseen: mono.saturating_sub(member.last_seen),
                lease_age: member.renewed_at.map(|at| mono.saturating_sub(at)),
                vnodes,
                share: if total > 0.0 { weight / total } else { 0.0 },
                drained: self.drained.contains(&**id),
                penalty: member.penalty_until.saturating_sub(mono),
            }
        };
        self.members.iter().map(view).collect()
    }
}
