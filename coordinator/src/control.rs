//! What the coordinator decides: from leases and the map in the store to the next map. Pure: a
//! value that observes and answers; no I/O, clock, random source, environment or log of its own.
//!
//! Every replica observes all the time, so that a new leader has the history it needs; only the
//! leader's decisions are written. What was written counts when it is read back.

mod hint;
mod load;
mod lost;
mod member;
mod plan;
mod roster;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use protocol::{Lease, Version};
use ring::{Epoch, Map, MapVersion, NodeId, Vnode, VnodeCount};

use self::member::Member;
pub use self::view::{MemberView, Moved, Note, Problem, State};

/// Nodes that are followed; further ones, by name, are ignored and named as a problem.
pub const MAX_MEMBERS: usize = 1_024;
/// The longest address of a node, in bytes.
pub const MAX_ADDRESS: usize = 2_048;
/// The highest epoch that a lease is believed to have met, with room above it for what follows.
const MAX_EPOCH: u32 = Version::MAX_EPOCH - (1 << 16);

/// How the fleet is led; durations in milliseconds.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's number of vnodes.
    pub vnodes: VnodeCount,
    /// How long a lease lasts without renewal: that of the nodes.
    pub lease_ttl: u64,
    /// How long the nodes must have been the same before the first map is made, and how long a
    /// node must have been there before it gets its first vnodes.
    pub formation: u64,
    /// Vnodes that one planned step moves away from or to a node, at most.
    pub max_in_motion: usize,
    /// Sessions a second that planned steps tell to move away from or to a node; 0 = no limit.
    /// One vnode is always allowed.
    pub sessions_per_second: u64,
    /// A planned step that not every node reports as done ends after this.
    pub step_timeout: u64,
    /// A node that came back so often within `return_window`, without having left as it should, is
    /// penalised; at least 1.
    pub returns: usize,
    /// The time within which `returns` are counted, ms.
    pub return_window: u64,
    /// How long a penalised node has to stay before it gets vnodes; doubles with each return.
    pub penalty: u64,
    /// The longest penalty, ms.
    pub penalty_limit: u64,
    /// By how many percent load may change a node's weight, up to 50; 0 = not at all.
    pub load_shift: u32,
    /// Time between two changes of weights by load, ms.
    pub load_interval: u64,
    /// For how long a node's connection to the store must have been closed, and not made again,
    /// before the node is taken for dead, ms; 0 = only when its lease has ended.
    pub closed_for: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            vnodes: VnodeCount::default(),
            lease_ttl: 5_000,
            formation: 2_000,
            max_in_motion: 64,
            sessions_per_second: 5_000,
            step_timeout: 30_000,
            returns: 3,
            return_window: 300_000,
            penalty: 30_000,
            penalty_limit: 600_000,
            load_shift: 0,
            load_interval: 60_000,
            closed_for: 300,
        }
    }
}

/// The time of an observation, read by the shell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub mono_ms: u64,
    /// The wall clock, ms since 1970 (UTC); it may step.
    pub wall_ms: u64,
}

/// The map in the store, as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stored {
    /// The store has no map.
    #[default]
    Nothing,
    /// The store has this map.
    Map(Map),
    /// Something that is no map any more; a new one may follow this version.
    Corrupt(MapVersion),
}

/// What one look at the store has shown. The leases must have been read before the map.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Another number when the connection, the server or its content is another one.
    pub source: u64,
    /// The leases in the store, in any order.
    pub leases: Vec<Lease>,
    /// Names whose lease is there and cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
    /// Names of nodes that are known to the store and have no lease.
    pub gone: Vec<String>,
    /// Processes, by node and boot, whose connection to the store is open, of those in
    /// [`Control::processes`]; `None` when the store does not tell. Read before the leases.
    pub alive: Option<BTreeSet<(NodeId, u64)>>,
    /// The names of the nodes that an operator drains.
    pub drained: BTreeSet<String>,
    /// The map that the store has.
    pub map: Stored,
}

/// All that one look at the store gives to decide on.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Whether this replica leads and may write.
    pub leading: bool,
    /// The content that was read; `None` when the store did not answer.
    pub reading: Option<Reading>,
}

/// A map that the leader has to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The version that the map in the store must still have; 0 = none.
    pub after: MapVersion,
    /// The map to write.
    pub map: Map,
}

/// The outcome of one look: what to write, and what to log.
#[derive(Debug, Default)]
pub struct Decision {
    /// What to write, which only a leader gets. Whether it was written shows in the next reading;
    /// if not, it is decided anew.
    pub write: Option<Write>,
    /// Names without a lease that the store may forget; only a leader gets them.
    pub forget: Vec<String>,
    /// Leases, by node and boot, that dead processes left and that can be ended; only a leader gets
    /// them.
    pub end: Vec<(NodeId, u64)>,
    /// Events of this look, for the log.
    pub notes: Vec<Note>,
}

/// The state of the fleet as this replica has observed it.
#[derive(Debug)]
pub struct Control {
    options: Options,
    members: BTreeMap<NodeId, Member>,
    drained: BTreeSet<String>,
    /// The newest map that was ever read.
    map: Option<Map>,
    /// When it was first read, and from when on the next planned step may follow it.
    map_since: u64,
    next_step: u64,
    /// Since when the store has been read without interruption.
    read_since: Option<u64>,
    last_read: u64,
    source: u64,
    /// Another server answers than before, and no map was written to it yet: it may have lost maps
    /// that this replica never read.
    may_have_lost: bool,
    /// When the nodes with a lease last changed, and when there was first one without a map.
    changed: u64,
    forming_since: Option<u64>,
    /// The store did not have the newest map when it was last read.
    was_lost: bool,
    /// Leases were ahead of the map when it was last read, too.
    was_ahead: bool,
    last_shift: u64,
    /// Since when names have been without a lease.
    nameless: BTreeMap<String, u64>,
    /// The last map that was to be written and was not read yet.
    proposed: Option<Map>,
    /// Above the version and all epochs of those that were given up for another: they may have
    /// been there for others to see, before the store lost them.
    abandoned: Option<(MapVersion, Epoch)>,
    problems: Vec<Problem>,
}

impl Control {
    /// A control that has read nothing yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            members: BTreeMap::new(),
            drained: BTreeSet::new(),
            map: None,
            map_since: 0,
            next_step: 0,
            read_since: None,
            last_read: 0,
            source: 0,
            may_have_lost: false,
            changed: 0,
            forming_since: None,
            was_lost: false,
            was_ahead: false,
            last_shift: 0,
            nameless: BTreeMap::new(),
            proposed: None,
            abandoned: None,
            problems: Vec::new(),
        }
    }

    /// The newest map that was ever read; `None` before the first.
    #[must_use]
    pub fn map(&self) -> Option<&Map> {
        self.map.as_ref()
    }

    /// What is wrong and does not stop the fleet, as of the last reading.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Takes what the store shows and says what to do.
    ///
    /// # Panics
    /// When the monotonic time is before that of the last reading: leases and connections would be taken
    /// for ended.
    pub fn observe(&mut self, now: Now, observation: Observation) -> Decision {
        assert!(
            now.mono_ms >= self.last_read,
            "the time of a look is not before the last one's"
        );
        let mut decision = Decision::default();
        let Some(reading) = observation.reading else {
            self.read_since = None;
            self.forget_connections();
            return decision;
        };
        let mono = now.mono_ms;
        self.problems.clear();
        let stored = match reading.map {
            Stored::Map(map) if map.count() != self.options.vnodes => {
                // Another cluster's map, or a wrong setting: nothing is safe to do.
                self.problems.push(Problem::Vnodes {
                    map: map.count().get(),
                    configured: self.options.vnodes.get(),
                });
                self.read_since = None;
                return decision;
            }
            stored => stored,
        };
        let newest = self.map.as_ref().map(Map::version);
        let lost = match &stored {
            Stored::Map(map) => newest.is_some_and(|newest| map.version() < newest),
            Stored::Nothing => newest.is_some(),
            Stored::Corrupt(_) => true,
        };
        let interrupted =
            reading.source != self.source || mono - self.last_read >= self.options.lease_ttl;
        if interrupted || (lost && !self.was_lost) {
            self.read_since = Some(mono);
            self.forget_connections();
        }
        self.was_lost = lost;
        let is_other = reading.source != self.source;
        self.may_have_lost |= is_other && self.source != 0;
        let read_since = *self.read_since.get_or_insert(mono);
        self.source = reading.source;
        self.last_read = mono;
        self.drained = reading.drained;
        let stored_version = match stored {
            Stored::Map(map) => {
                let version = map.version();
                if !lost && self.map.as_ref() != Some(&map) {
                    self.adopt(map, mono, &mut decision.notes);
                    // It was written there.
                    self.may_have_lost &= is_other;
                }
                version
            }
            Stored::Corrupt(version) => {
                self.problems.push(Problem::Corrupt(version));
                version
            }
            Stored::Nothing => MapVersion::default(),
        };
        let unreadable = reading.unreadable.iter().map(|(name, _)| name);
        let lapsed = unreadable.chain(&reading.gone).map(String::as_str);
        let lapsed = lapsed.collect();
        self.follow(reading.leases, &lapsed, mono, &mut decision.notes);
        self.take_hints(reading.alive.as_ref(), mono, &mut decision.notes);
        self.problems
            .extend(reading.unreadable.into_iter().map(Problem::lease));
        decision.forget = self.forget_names(reading.gone, mono);
        let ahead = self.is_ahead();
        // By then every node has said what it has met: another leader may have written a map that
        // the store lost as well.
        let heard_all = mono - read_since >= self.options.lease_ttl;
        let raise = (lost && heard_all) || (!lost && ahead && self.was_ahead);
        self.was_ahead = ahead;
        if observation.leading {
            self.shift_weights(mono);
        }
        // Always planned, so that all replicas know the same problems.
        let mut problems = std::mem::take(&mut self.problems);
        if self.map.is_none() {
            self.forming_since = self.forming_since(mono);
        }
        let next = match &self.map {
            None => self.first_map(now, stored_version, &mut problems),
            Some(_) if (lost || ahead) && !raise => None,
            Some(map) if raise => Some(self.above_all(map, stored_version, Epoch::default())),
            Some(map) => {
                let next = self.next_map(map, mono, &mut problems);
                next.map(|next| self.above_the_lost(map, next))
            }
        };
        self.problems = problems;
        if !observation.leading {
            decision.forget.clear();
            return decision;
        }
        // A map that was lost, or not read back yet, may have been there for others to see.
        if !lost && self.proposed.is_none() {
            decision.end = self.left_leases();
        }
        if let Some(map) = next.map(|next| self.unlike_abandoned(&next)) {
            decision.notes.push(Note::Writing {
                version: map.version(),
                raised: raise,
                moves: changes(self.map.as_ref(), &map),
            });
            self.proposed = Some(map.clone());
            decision.write = Some(Write {
                after: stored_version,
                map,
            });
        }
        decision
    }

    /// Takes over a map that is newer than the one before.
    fn adopt(&mut self, map: Map, mono: u64, notes: &mut Vec<Note>) {
        let pause = self
            .map
            .as_ref()
            .map_or(0, |former| self.pause_after(former, &map));
        self.next_step = mono + pause;
        self.map_since = mono;
        for node in map.nodes() {
            let member = self
                .members
                .entry(node.id.clone())
                .or_insert_with(|| Member::of_map(node, mono));
            member.take_factor(node, self.options.load_shift);
        }
        let seen = |version| version <= map.version();
        if self
            .proposed
            .as_ref()
            .is_some_and(|proposed| seen(proposed.version()))
        {
            self.proposed = None;
        }
        if self.abandoned.is_some_and(|(version, _)| seen(version)) {
            self.abandoned = None;
        }
        notes.push(Note::Map(map.version(), moves(self.map.as_ref(), &map)));
        self.map = Some(map);
        self.forming_since = None;
    }
}

/// How many vnodes have another owner in `next` than in `map`, or the owner's next life.
fn changes(map: Option<&Map>, next: &Map) -> usize {
    moves(map, next).iter().map(|moved| moved.vnodes).sum()
}

/// From whom to whom they go, by the nodes' names.
fn moves(map: Option<&Map>, next: &Map) -> Vec<Moved> {
    fn owner(map: &Map, vnode: Vnode) -> Option<(&NodeId, u64)> {
        map.owner(vnode).map(|(node, _)| (&node.id, node.boot))
    }
    let mut between: BTreeMap<_, usize> = BTreeMap::new();
    for vnode in next.count().all() {
        let (from, to) = (map.and_then(|map| owner(map, vnode)), owner(next, vnode));
        if from != to {
            let name = |owner: Option<(&NodeId, u64)>| owner.map(|(id, _)| id.clone());
            *between.entry((name(from), name(to))).or_default() += 1;
        }
    }
    let moved = |((from, to), vnodes)| Moved { from, to, vnodes };
    between.into_iter().map(moved).collect()
}
