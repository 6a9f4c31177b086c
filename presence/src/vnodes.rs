//! Which vnodes this core owns, under which epoch, and the versions it makes.
//! It owns the sequence: nothing else may make a version.

use protocol::Version;
use ring::{CoreId, Epoch, Vnode, VnodeCount};

/// Who owns a vnode, as this core sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Another core of this node.
    Core(CoreId),
    /// This core, under this epoch.
    Here(Epoch),
    /// Another node, or nobody.
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    owner: Owner,
    /// The last sequence made under the epoch.
    seq: u64,
    /// The sequence at the takeover.
    start: u64,
    /// Whether the predecessor's users have been adopted.
    loaded: bool,
}

pub(crate) struct Vnodes(Box<[Slot]>);

impl Vnodes {
    pub(crate) fn new(count: VnodeCount) -> Self {
        let nobody = Slot {
            owner: Owner::Elsewhere,
            seq: 0,
            start: 0,
            loaded: false,
        };
        Self(vec![nobody; count.get()].into())
    }

    pub(crate) fn owner(&self, vnode: Vnode) -> Owner {
        self.0[vnode.index()].owner
    }

    /// The epoch, when this core owns the vnode.
    pub(crate) fn epoch(&self, vnode: Vnode) -> Option<Epoch> {
        match self.owner(vnode) {
            Owner::Here(epoch) => Some(epoch),
            Owner::Core(_) | Owner::Elsewhere => None,
        }
    }

    pub(crate) fn loaded(&self, vnode: Vnode) -> bool {
        self.0[vnode.index()].loaded
    }

    /// Versions go on after `seq`.
    pub(crate) fn set(&mut self, vnode: Vnode, owner: Owner, seq: u64) {
        self.0[vnode.index()] = Slot {
            owner,
            seq,
            start: seq,
            loaded: false,
        };
    }

    pub(crate) fn set_loaded(&mut self, vnode: Vnode) {
        self.0[vnode.index()].loaded = true;
    }

    /// Makes sure that the next version is newer than `version`, when it is of our epoch.
    pub(crate) fn saw(&mut self, vnode: Vnode, version: Version) {
        let slot = &mut self.0[vnode.index()];
        if slot.owner == Owner::Here(version.epoch()) {
            slot.seq = slot.seq.max(version.seq());
        }
    }

    /// Whether `version` may be of a former owner of this core's vnode.
    pub(crate) fn is_former(&self, vnode: Vnode, version: Version) -> bool {
        let slot = &self.0[vnode.index()];
        match slot.owner {
            Owner::Here(epoch) => Version::new(epoch, slot.start).is_some_and(|at| version <= at),
            Owner::Core(_) | Owner::Elsewhere => false,
        }
    }

    /// The next version of the vnode.
    ///
    /// # Panics
    /// When this core does not own the vnode, or made 2^33 versions under one epoch: at a million
    /// changes a second in one vnode that takes two hours, so a node that gets there is broken.
    pub(crate) fn next(&mut self, vnode: Vnode) -> Version {
        let slot = &mut self.0[vnode.index()];
        let Owner::Here(epoch) = slot.owner else {
            panic!("only the owner of vnode {vnode} makes its versions");
        };
        slot.seq += 1;
        Version::new(epoch, slot.seq).expect("epochs and sequences stay within their bits")
    }
}
