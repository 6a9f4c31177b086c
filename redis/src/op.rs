//! What may be asked about vnodes, and what may come of it. It owns which operations wait for which;
//! how they are done is that of `vnode`.

use std::collections::HashMap;

use protocol::{Keys, Stored};
use redis::cluster_routing::Slot;
use ring::{Epoch, Vnode};

/// What to do with a vnode.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// To take it: from then on, nothing of an older epoch is accepted. Gives its users that are
    /// connected or were last seen at `since_ms` or later; the vnode must not be written to before
    /// that answer is there, or users may be missing in it.
    Claim {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
        /// A former owner whose epoch is below this one is waited for until it has released the
        /// vnode.
        wait_below: Epoch,
        /// Ms since 1970.
        since_ms: u64,
    },
    /// To keep records. One that is older (by version) than what is there is left out. An epoch
    /// that is there and lower, or none (a store that was wiped), becomes this one.
    Write {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
        /// Users and their records.
        records: Vec<(Box<str>, Stored)>,
    },
    /// To let go of it: all is written, the next owner need not wait.
    Release {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
    },
    /// To read records, as anybody may.
    Read {
        /// Which.
        vnode: Vnode,
        /// Whose.
        users: Vec<Box<str>>,
    },
    /// To forget users that are not connected and were last seen before a time.
    Trim {
        /// Which.
        vnode: Vnode,
        /// The owner's epoch.
        epoch: Epoch,
        /// Ms since 1970.
        before_ms: u64,
        /// The most users, at most 1,000; when as many were trimmed, there may be more.
        limit: u32,
    },
}

impl Op {
    pub(crate) fn vnode(&self) -> Vnode {
        match self {
            Self::Claim { vnode, .. }
            | Self::Write { vnode, .. }
            | Self::Release { vnode, .. }
            | Self::Read { vnode, .. }
            | Self::Trim { vnode, .. } => *vnode,
        }
    }

    /// Whether it may be under way together with the operation before it on the same vnode. Writes
    /// may: versions decide between their records, in whichever order they arrive.
    fn may_overtake(&self, before: &Self) -> bool {
        matches!(
            (self, before),
            (Self::Write { .. }, Self::Write { .. }) | (Self::Read { .. }, Self::Read { .. })
        )
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// The vnode is taken.
    Claimed {
        /// Its former owner had released it, so that all that it did is there. Not known of a claim
        /// that is made again.
        released: bool,
        /// Its users, those connected first.
        users: Vec<(Box<str>, Stored)>,
    },
    /// The vnode is not taken: its former owner has not released it yet.
    Held,
    /// All records are there, or newer ones.
    Written,
    /// The vnode is released.
    Released,
    /// The epoch that had the vnode when the records were read or before (0 = none had), and for each
    /// user asked the record, when there is one that can be used. So the records are at least what
    /// that epoch's owner took over.
    Records(Epoch, Vec<Option<Stored>>),
    /// So many users are forgotten.
    Trimmed(u32),
    /// Nothing was done, or not all of it: the vnode has this newer epoch.
    Fenced(Epoch),
}

/// The operations with their numbers, in parts that share a slot of a Redis Cluster.
pub(crate) fn by_slot(keys: &Keys, ops: Vec<Op>) -> Vec<Vec<(usize, Op)>> {
    let mut parts: HashMap<Slot, Vec<(usize, Op)>> = HashMap::new();
    for (at, op) in ops.into_iter().enumerate() {
        let slot = Slot::for_key(keys.epoch(op.vnode()));
        parts.entry(slot).or_default().push((at, op));
    }
    parts.into_values().collect()
}

/// The operations' numbers in waves that are done one after the other: in each, no operation waits
/// for another.
pub(crate) fn waves(ops: &[Op]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut last: HashMap<Vnode, (usize, usize)> = HashMap::new();
    for (at, op) in ops.iter().enumerate() {
        let wave = match last.get(&op.vnode()) {
            None => 0,
            Some((wave, before)) if op.may_overtake(&ops[*before]) => *wave,
            Some((wave, _)) => wave + 1,
        };
        last.insert(op.vnode(), (wave, at));
        if wave == waves.len() {
            waves.push(Vec::new());
        }
        waves[wave].push(at);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_waits_for_those_before_it_on_its_vnode_alone() {
        let (vnode, other) = (Vnode::new(1), Vnode::new(2));
        let epoch = Epoch::new(1);
        let write = |vnode| Op::Write {
            vnode,
            epoch,
            records: Vec::new(),
        };
        let read = |vnode| Op::Read {
            vnode,
            users: Vec::new(),
        };
        let ops = [
            write(vnode),
            write(other),
            write(vnode),
            Op::Release { vnode, epoch },
            read(other),
            read(other),
            read(vnode),
        ];
        assert_eq!(waves(&ops), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert!(waves(&[]).is_empty());
    }
}
