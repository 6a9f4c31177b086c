//! A node as the control knows it: its last lease, whether it is there, and how often it came back.

use std::collections::VecDeque;

use protocol::Lease;
use ring::{Node, NodeId};

use super::{Note, Options, hint::Connection};

/// The most doublings of a penalty.
const MAX_LEVEL: u32 = 20;
/// The weight factor of a node that load has not changed, in percent.
pub(super) const UNCHANGED: u32 = 100;

#[derive(Debug)]
pub(super) struct Member {
    /// The newest lease that was read.
    pub(super) lease: Lease,
    /// Its lease was there at the last reading.
    pub(super) present: bool,
    /// It ended as it should: it wanted to be relieved, or gave its lease back.
    left: bool,
    /// When it was judged: its lease is gone for good.
    pub(super) dead_since: Option<u64>,
    /// The time at which the node's present stay began.
    pub(super) here_since: u64,
    pub(super) last_seen: u64,
    /// When a lease was first read that says other things than the one before; no two renewals
    /// measure the same.
    pub(super) renewed_at: Option<u64>,
    /// When it came back within the window, as many as it takes for a penalty.
    returns: VecDeque<u64>,
    /// The number of penalties in a row.
    level: u32,
    pub(super) penalty_until: u64,
    /// What load has made of its weight, in percent.
    pub(super) factor: u32,
    pub(super) connection: Connection,
    /// When it was last taken for dead by its closed connection, before its lease had ended.
    pub(super) ended_at: Option<u64>,
    /// It is, and has not renewed its lease since.
    ended: bool,
    /// That lease is still there.
    pub(super) lingers: bool,
    /// It lived after all: until then its connection is not believed.
    pub(super) trusted_until: u64,
}

impl Member {
    /// A node that has come for the first time.
    pub(super) fn new(lease: Lease, mono: u64) -> Self {
        Self {
            lease,
            present: true,
            left: false,
            dead_since: None,
            here_since: mono,
            last_seen: mono,
            renewed_at: Some(mono),
            returns: VecDeque::new(),
            level: 0,
            penalty_until: 0,
            factor: UNCHANGED,
            connection: Connection::default(),
            ended_at: None,
            ended: false,
            lingers: false,
            trusted_until: 0,
        }
    }

    /// A node that is known from the map alone.
    pub(super) fn of_map(node: &Node, mono: u64) -> Self {
        let lease = Lease {
            node: node.id.to_string(),
            boot: node.boot,
            address: node.address.clone(),
            weight: node.weight,
            ..Lease::default()
        };
        Self {
            present: false,
            renewed_at: None,
            ..Self::new(lease, mono)
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead_since.is_some()
    }

    pub(super) fn id(&self) -> NodeId {
        self.lease.id()
    }

    /// Whether it was last seen on its way out, or gave its lease back.
    pub(super) fn has_left(&self) -> bool {
        self.left || self.lease.draining
    }

    /// Its lease is not there, and neither is its name, when it gave it back.
    pub(super) fn is_missing(&mut self, gave_back: bool) {
        self.present = false;
        self.left |= gave_back;
    }

    /// Takes the node for dead, though its lease is there: for as long as it is not renewed.
    pub(super) fn end(&mut self, mono: u64) {
        self.present = false;
        self.dead_since = Some(mono);
        self.ended_at = Some(mono);
        self.ended = true;
        self.lingers = true;
        self.connection = Connection::Unseen;
    }

    /// Whether this is the lease that it had when it was taken for dead.
    pub(super) fn is_left(&self, lease: &Lease) -> bool {
        self.lingers && self.lease == *lease
    }

    /// Notes that the node's lease is there.
    pub(super) fn renewed(&mut self, lease: Lease, mono: u64, options: &Options) -> Option<Note> {
        let back = self.is_dead() || self.lease.boot != lease.boot;
        let same = self.lease.boot == lease.boot;
        let lived = std::mem::take(&mut self.ended) && same;
        let left = self.has_left() || lived;
        self.left = false;
        let closed = matches!(self.connection, Connection::Closed { .. });
        if !same || (closed && self.lease != lease) {
            // One that has renewed its lease since lives.
            self.connection = Connection::Unseen;
        }
        self.lingers = false;
        if self.lease != lease {
            self.renewed_at = Some(mono);
        }
        self.lease = lease;
        self.present = true;
        self.dead_since = None;
        self.last_seen = mono;
        if !back {
            let window = options.return_window;
            let last = self.returns.back();
            let calm = last.is_none_or(|last| mono - last >= window);
            if calm && mono >= self.penalty_until {
                self.level = 0;
            }
            return None;
        }
        self.here_since = mono;
        if lived {
            self.trusted_until = mono + options.return_window;
            return Some(Note::Lived(self.id()));
        }
        if left {
            return Some(Note::Returned(self.id()));
        }
        let old = |at: &u64| mono - at >= options.return_window;
        while self.returns.front().is_some_and(old) || self.returns.len() >= options.returns.max(1)
        {
            self.returns.pop_front();
        }
        self.returns.push_back(mono);
        if self.returns.len() < options.returns.max(1) {
            return Some(Note::Returned(self.id()));
        }
        let penalty = options.penalty.saturating_mul(1 << self.level);
        let penalty = penalty.min(options.penalty_limit);
        self.level = (self.level + 1).min(MAX_LEVEL);
        self.penalty_until = mono + penalty;
        Some(Note::Penalised(self.id(), penalty))
    }

    pub(super) fn is_penalised(&self, mono: u64) -> bool {
        mono < self.penalty_until
    }

    /// Its weight, with what load has made of it.
    pub(super) fn weight(&self, load_shift: u32) -> u32 {
        // So that the product is a u32.
        let weight = self.lease.weight.min(1 << 24);
        if load_shift == 0 {
            weight
        } else {
            weight * self.factor
        }
    }

    /// Takes over what another leader has made of its weight.
    pub(super) fn take_factor(&mut self, node: &Node, load_shift: u32) {
        let weight = self.lease.weight.clamp(1, 1 << 24);
        let factor = node.weight / weight;
        let bounds = UNCHANGED.saturating_sub(load_shift)..=UNCHANGED + load_shift;
        if load_shift > 0 && node.weight.is_multiple_of(weight) && bounds.contains(&factor) {
            self.factor = factor;
        }
    }
}
