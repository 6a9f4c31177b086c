//! Which vnodes this core owns, under which epoch, how far a take-over or a departure has come, and
//! the versions it makes. It owns the sequence: nothing else may make a version.

use protocol::Version;
use ring::{CoreId, Epoch, Vnode, VnodeCount};

/// Who owns a vnode, as this core sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Another core of this node is the vnode's home on it.
    Core(CoreId),
    /// This core, under this epoch.
    Here(Epoch),
    /// Another node, or nobody; this core is the vnode's home on this node.
    Elsewhere,
}

/// How far this core is with a vnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The vnode is not this core's.
    Apart,
    /// The store has not fenced the former owner off yet, nor listed its users; until `until` (core
    /// clock, ms) one whose epoch is below `over` is waited for.
    Claiming { over: Epoch, until: u64 },
    /// The vnode is this core's alone, and its users are adopted.
    Loaded,
    /// The vnode is another node's, but what this core did under `epoch` is not all written yet.
    Leaving { epoch: Epoch, unsettled: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    owner: Owner,
    stage: Stage,
    /// The sequence of the last version that was made under the epoch.
    seq: u64,
    /// The highest epoch that this core has heard of.
    newest: Epoch,
    /// The newest epoch under which this core has had the vnode loaded; `None` = never since it was
    /// taken.
    had: Option<Epoch>,
    /// It has a newer owner than what some users were last heard from.
    suspect: bool,
}

pub(crate) struct Vnodes(Box<[Slot]>);

impl Vnodes {
    pub(crate) fn new(count: VnodeCount) -> Self {
        let nobody = Slot {
            owner: Owner::Elsewhere,
            stage: Stage::Apart,
            seq: 0,
            newest: Epoch::new(0),
            had: None,
            suspect: false,
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

    pub(crate) fn stage(&self, vnode: Vnode) -> Stage {
        self.0[vnode.index()].stage
    }

    /// Whether this core owns the vnode and its users are adopted.
    pub(crate) fn loaded(&self, vnode: Vnode) -> bool {
        self.stage(vnode) == Stage::Loaded
    }

    /// The newest epoch under which this core has had the vnode, and did not only want it.
    pub(crate) fn had(&self, vnode: Vnode) -> Option<Epoch> {
        self.0[vnode.index()].had
    }

    /// Whether another core of this node is the vnode's home.
    pub(crate) fn is_home(&self, vnode: Vnode) -> bool {
        !matches!(self.owner(vnode), Owner::Core(_))
    }

    /// The highest epoch that this core has heard of.
    pub(crate) fn newest(&self, vnode: Vnode) -> Epoch {
        self.0[vnode.index()].newest
    }

    /// Notes an epoch that the vnode has, or had, somewhere.
    pub(crate) fn heard_of(&mut self, vnode: Vnode, epoch: Epoch) {
        let slot = &mut self.0[vnode.index()];
        slot.newest = slot.newest.max(epoch);
    }

    /// Marks the vnode, or takes the mark away; whether that changed anything.
    pub(crate) fn suspect(&mut self, vnode: Vnode, suspect: bool) -> bool {
        std::mem::replace(&mut self.0[vnode.index()].suspect, suspect) != suspect
    }

    pub(crate) fn at_home_on(&mut self, vnode: Vnode, core: CoreId) {
        self.0[vnode.index()].owner = Owner::Core(core);
    }

    /// The vnode becomes this core's; versions go on after `seq`.
    pub(crate) fn claim(&mut self, vnode: Vnode, epoch: Epoch, seq: u64, over: Epoch, until: u64) {
        self.heard_of(vnode, epoch);
        let slot = &mut self.0[vnode.index()];
        slot.owner = Owner::Here(epoch);
        slot.stage = Stage::Claiming { over, until };
        slot.seq = seq;
    }

    /// Lengthens the wait for a former owner of a vnode that is being claimed.
    pub(crate) fn wait_until(&mut self, vnode: Vnode, later: u64) {
        if let Stage::Claiming { until, .. } = &mut self.0[vnode.index()].stage {
            *until = later.max(*until);
        }
    }

    /// The vnode has to be claimed again, under the same epoch and with the versions going on.
    pub(crate) fn claim_again(&mut self, vnode: Vnode) {
        self.0[vnode.index()].stage = Stage::Claiming {
            over: Epoch::default(),
            until: 0,
        };
    }

    pub(crate) fn set_loaded(&mut self, vnode: Vnode) {
        let slot = &mut self.0[vnode.index()];
        slot.stage = Stage::Loaded;
        if let Owner::Here(epoch) = slot.owner {
            slot.had = Some(epoch);
        }
    }

    /// The vnode is not this core's any more; its epoch, if it was.
    pub(crate) fn let_go(&mut self, vnode: Vnode, stage: Stage) {
        let slot = &mut self.0[vnode.index()];
        slot.owner = Owner::Elsewhere;
        slot.stage = stage;
        slot.had = None;
    }

    /// One more of a departing vnode's users is to be written.
    pub(crate) fn one_more_unsettled(&mut self, vnode: Vnode) {
        if let Stage::Leaving { unsettled, .. } = &mut self.0[vnode.index()].stage {
            *unsettled += 1;
        }
    }

    /// Whether the vnode is on its way out and not all of its users are written.
    pub(crate) fn is_unsettled(&self, vnode: Vnode) -> bool {
        matches!(self.stage(vnode), Stage::Leaving { unsettled: 1.., .. })
    }

    /// One more of a departing vnode's users is written; `true` when it was the last.
    pub(crate) fn settled(&mut self, vnode: Vnode) -> bool {
        match &mut self.0[vnode.index()].stage {
            Stage::Leaving { unsettled, .. } => {
                *unsettled = unsettled.saturating_sub(1);
                *unsettled == 0
            }
            Stage::Apart | Stage::Claiming { .. } | Stage::Loaded => false,
        }
    }

    /// Makes sure that the next version is newer than `version`, when it is of our epoch.
    pub(crate) fn saw(&mut self, vnode: Vnode, version: Version) {
        let slot = &mut self.0[vnode.index()];
        if slot.owner == Owner::Here(version.epoch()) {
            slot.seq = slot.seq.max(version.seq());
        }
    }

    /// Whether this core owns the vnode, and it or a former owner can have made `version`.
    pub(crate) fn was_made(&self, vnode: Vnode, version: Version) -> bool {
        let slot = &self.0[vnode.index()];
        match slot.owner {
            Owner::Here(epoch) => Version::new(epoch, slot.seq).is_some_and(|at| version <= at),
            Owner::Core(_) | Owner::Elsewhere => false,
        }
    }

    /// The epoch under which this core makes versions of the vnode, which may be on its way out.
    pub(crate) fn making_under(&self, vnode: Vnode) -> Option<Epoch> {
        match self.stage(vnode) {
            Stage::Leaving { epoch, .. } => Some(epoch),
            Stage::Apart | Stage::Claiming { .. } | Stage::Loaded => self.epoch(vnode),
        }
    }

    /// The next version of the vnode, which may be on its way out.
    ///
    /// # Panics
    /// When this core has not the vnode, or made 2^33 versions under one epoch: at a million
    /// changes a second in one vnode that takes two hours, so a node that gets there is broken.
    pub(crate) fn next(&mut self, vnode: Vnode) -> Version {
        let Some(epoch) = self.making_under(vnode) else {
            panic!("only the owner of vnode {vnode} makes its versions");
        };
        let slot = &mut self.0[vnode.index()];
        slot.seq += 1;
        Version::new(epoch, slot.seq).expect("epochs and sequences stay within their bits")
    }
}
