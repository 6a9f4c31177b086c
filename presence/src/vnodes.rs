//! The lifecycle of a vnode on this core: who owns it, how far a take-over or a departure has come,
//! and the versions made under its epoch. It owns the sequence (nothing else may make a version) and
//! what the store is asked about vnodes; what that means for users is the core's.

use std::collections::VecDeque;

use protocol::Version;
use ring::{CoreId, Epoch, Vnode, VnodeCount};

use crate::StoreRequest;

/// How long a living former owner is waited for, ms of the core's clock: it may hear of the map a
/// second later, and has to write what is not written.
const RELEASE_PATIENCE: u64 = 3_000;

/// Who owns a vnode, as this core sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Another core of this node is the vnode's home on it.
    Core(CoreId),
    /// This core, under this epoch.
    Here(Epoch),
    /// Another node, or nobody; this core is the vnode's home on this node.
    Elsewhere,
}

/// How far this core is with a vnode.
///
/// ```text
///               claim                  loaded
/// Elsewhere ────────────▶ Claiming ──────────────▶ Owned
///   ▲   ▲                  │ ▲   ▲                   │
///   │   │ fenced, or left  │ │   │ a newer epoch, or │
///   │   │ and never loaded │ │   │ the store may     │
///   │   └──────────────────┘ │   │ have lost it      │
///   │                        │   └───────────────────┤ fenced: Elsewhere
///   │                        │                       │
///   │                        │ claim                 │ leave (a Claiming one too, if
///   │                        │                       ▼ it was loaded before)
///   │                        ├────────────────── Leaving ──────▶ fenced: Elsewhere
///   │                        │                    ▲  │
///   │                        │  the store lost    │  │ all is written, and
///   │ a successor            │  the release       │  ▼ the store knows it
///   └────────────────────────┴─────────────────── Released
/// ```
///
/// A vnode that is left and was never loaded, and has users who chose something here, stays `Claiming` until
/// it is loaded, and is left then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Another core of this node is the vnode's home, for the life of the process.
    Sibling(CoreId),
    /// The vnode is another node's or nobody's.
    Elsewhere,
    /// The vnode is this core's by the map. The store has not fenced the former owner off yet, nor
    /// listed its users.
    Claiming {
        epoch: Epoch,
        /// The sequence of the last version made under the epoch.
        seq: u64,
        /// The newest epoch under which this core has had the vnode loaded, without a break until
        /// now; `None` = never.
        loaded_under: Option<Epoch>,
        /// A former owner whose epoch is below this one is waited for.
        wait_below: Epoch,
        /// When that wait ends, ms of the core's clock.
        until: u64,
        /// The vnode is another node's by now, and is left once it is loaded.
        leaves: bool,
    },
    /// The vnode is this core's alone, and its users are adopted.
    Owned { epoch: Epoch, seq: u64 },
    /// The vnode is another node's, but what this core did under the epoch is not all written yet.
    Leaving {
        epoch: Epoch,
        seq: u64,
        /// What has to happen before the release: users to be written, and a look at the store.
        unsettled: u32,
    },
    /// The store knows that this core is done with the vnode, and may lose that again: see
    /// `recall.rs`.
    Released { epoch: Epoch, seq: u64 },
}

impl Stage {
    fn is_claiming(self) -> bool {
        matches!(self, Self::Claiming { .. })
    }

    fn is_leaving(self) -> bool {
        matches!(self, Self::Leaving { .. })
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    stage: Stage,
    /// The highest epoch that this core has heard of.
    newest: Epoch,
}

/// The vnodes of one core, and what waits to be asked of the store for them.
pub(crate) struct Vnodes {
    slots: Box<[Slot]>,
    /// Claims to be made. An entry of an epoch that is over, or of a vnode that is loaded, is void.
    claims: VecDeque<(Vnode, Epoch)>,
    releases: VecDeque<(Vnode, Epoch)>,
    /// Claims that wait for a former owner, and releases that failed, until the next tick.
    claims_put_off: Vec<(Vnode, Epoch)>,
    releases_put_off: Vec<(Vnode, Epoch)>,
    /// The number of vnodes that are `Claiming`.
    claiming: usize,
    /// The number of vnodes that are `Leaving`.
    leaving: usize,
}

impl Vnodes {
    pub(crate) fn new(count: VnodeCount) -> Self {
        let nobody = Slot {
            stage: Stage::Elsewhere,
            newest: Epoch::default(),
        };
        Self {
            slots: vec![nobody; count.get()].into(),
            claims: VecDeque::new(),
            releases: VecDeque::new(),
            claims_put_off: Vec::new(),
            releases_put_off: Vec::new(),
            claiming: 0,
            leaving: 0,
        }
    }

    #[inline]
    pub(crate) fn stage(&self, vnode: Vnode) -> Stage {
        self.slots[vnode.index()].stage
    }

    /// Every change of a stage comes here, so that the counts are those of the stages.
    fn set(&mut self, vnode: Vnode, stage: Stage) {
        let before = std::mem::replace(&mut self.slots[vnode.index()].stage, stage);
        self.claiming -= usize::from(before.is_claiming());
        self.claiming += usize::from(stage.is_claiming());
        self.leaving -= usize::from(before.is_leaving());
        self.leaving += usize::from(stage.is_leaving());
    }

    #[inline]
    pub(crate) fn owner(&self, vnode: Vnode) -> Owner {
        match self.stage(vnode) {
            Stage::Sibling(core) => Owner::Core(core),
            Stage::Claiming { leaves: true, .. } => Owner::Elsewhere,
            Stage::Claiming { epoch, .. } | Stage::Owned { epoch, .. } => Owner::Here(epoch),
            Stage::Elsewhere | Stage::Leaving { .. } | Stage::Released { .. } => Owner::Elsewhere,
        }
    }

    /// The epoch, when this core owns the vnode.
    #[inline]
    pub(crate) fn epoch(&self, vnode: Vnode) -> Option<Epoch> {
        match self.owner(vnode) {
            Owner::Here(epoch) => Some(epoch),
            Owner::Core(_) | Owner::Elsewhere => None,
        }
    }

    /// Whether this core owns the vnode and its users are adopted.
    #[inline]
    pub(crate) fn is_loaded(&self, vnode: Vnode) -> bool {
        matches!(self.stage(vnode), Stage::Owned { .. })
    }

    /// The newest epoch under which this core, which owns the vnode, has had it loaded.
    pub(crate) fn loaded_under(&self, vnode: Vnode) -> Option<Epoch> {
        match self.stage(vnode) {
            Stage::Owned { epoch, .. } => Some(epoch),
            Stage::Claiming { loaded_under, .. } => loaded_under,
            _ => None,
        }
    }

    /// Whether this core has to do with the vnode's records: it owns the vnode, or is not done with
    /// leaving it.
    #[inline]
    pub(crate) fn is_kept(&self, vnode: Vnode) -> bool {
        self.making_under(vnode).is_some()
    }

    /// The epoch under which this core has left the vnode, with which it is not done.
    pub(crate) fn left_under(&self, vnode: Vnode) -> Option<Epoch> {
        match self.stage(vnode) {
            Stage::Leaving { epoch, .. } => Some(epoch),
            _ => self.leaves_when_loaded(vnode),
        }
    }

    /// Whether this core is the vnode's home on its node.
    pub(crate) fn is_home(&self, vnode: Vnode) -> bool {
        !matches!(self.stage(vnode), Stage::Sibling(_))
    }

    /// The number of vnodes that wait to be claimed and loaded.
    pub(crate) fn claiming(&self) -> usize {
        self.claiming
    }

    /// The number of vnodes that were left and are not released.
    pub(crate) fn leaving(&self) -> usize {
        self.leaving
    }

    /// The number of requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        let put_off = self.claims_put_off.len() + self.releases_put_off.len();
        self.claims.len() + self.releases.len() + put_off
    }

    /// The highest epoch that this core has heard of.
    pub(crate) fn newest(&self, vnode: Vnode) -> Epoch {
        self.slots[vnode.index()].newest
    }

    /// Notes an epoch that the vnode has, or had, somewhere.
    pub(crate) fn heard_of(&mut self, vnode: Vnode, epoch: Epoch) {
        let slot = &mut self.slots[vnode.index()];
        slot.newest = slot.newest.max(epoch);
    }

    /// Makes another core the vnode's home.
    ///
    /// # Panics
    /// When this core has had to do with the vnode, or a third one is its home.
    pub(crate) fn at_home_on(&mut self, vnode: Vnode, core: CoreId) {
        let stage = self.stage(vnode);
        let is_new = stage == Stage::Elsewhere || stage == Stage::Sibling(core);
        assert!(is_new, "vnode {vnode} has another home: {stage:?}");
        self.set(vnode, Stage::Sibling(core));
    }

    /// The vnode becomes this core's under another epoch; versions go on after `seq`. A former owner
    /// whose epoch is below `wait_below` is waited for.
    ///
    /// # Panics
    /// When another core is the vnode's home.
    pub(crate) fn claim(
        &mut self,
        vnode: Vnode,
        epoch: Epoch,
        seq: u64,
        wait_below: Epoch,
        clock: u64,
    ) {
        assert!(self.is_home(vnode), "vnode {vnode} is another core's");
        self.heard_of(vnode, epoch);
        let claiming = Stage::Claiming {
            epoch,
            seq,
            loaded_under: self.loaded_under(vnode),
            wait_below,
            until: clock + RELEASE_PATIENCE,
            leaves: false,
        };
        self.set(vnode, claiming);
        self.claims.push_back((vnode, epoch));
    }

    /// A loaded vnode has to be claimed again, under the same epoch and with the versions going on.
    pub(crate) fn claim_again(&mut self, vnode: Vnode) {
        if let Stage::Owned { epoch, seq } = self.stage(vnode) {
            let claiming = Stage::Claiming {
                epoch,
                seq,
                loaded_under: Some(epoch),
                wait_below: Epoch::default(),
                until: 0,
                leaves: false,
            };
            self.set(vnode, claiming);
            self.claims.push_back((vnode, epoch));
        }
    }

    /// The vnode, which is claimed, is left once it is loaded.
    pub(crate) fn leave_when_loaded(&mut self, vnode: Vnode) {
        if let Stage::Claiming { leaves, .. } = &mut self.slots[vnode.index()].stage {
            *leaves = true;
        }
    }

    /// The epoch under which the vnode is claimed in order to be left.
    pub(crate) fn leaves_when_loaded(&self, vnode: Vnode) -> Option<Epoch> {
        match self.stage(vnode) {
            Stage::Claiming {
                epoch,
                leaves: true,
                ..
            } => Some(epoch),
            _ => None,
        }
    }

    /// The claim of the vnode under `epoch` was accepted; `false` when it is not this core's any more.
    pub(crate) fn loaded(&mut self, vnode: Vnode, of: Epoch) -> bool {
        match self.stage(vnode) {
            Stage::Claiming { epoch, seq, .. } if epoch == of => {
                self.set(vnode, Stage::Owned { epoch, seq });
                true
            }
            _ => false,
        }
    }

    /// A former owner has not let go of the vnode: it is claimed again with the next tick.
    pub(crate) fn claim_held(&mut self, vnode: Vnode, epoch: Epoch) {
        self.claims_put_off.push((vnode, epoch));
    }

    /// The store could not be asked for the vnode, which is claimed again at once. The former owner
    /// does not reach it either, or has to tell it all once more: it is waited for anew.
    pub(crate) fn claim_failed(&mut self, vnode: Vnode, epoch: Epoch, clock: u64) {
        self.claims.push_back((vnode, epoch));
        if let Stage::Claiming { until, .. } = &mut self.slots[vnode.index()].stage {
            *until = (*until).max(clock + RELEASE_PATIENCE);
        }
    }

    /// The vnode is left when `unsettled` of its users are written.
    ///
    /// # Panics
    /// When this core has not the vnode, or has never had it loaded: a release would say that the former
    /// owner is done.
    pub(crate) fn leave(&mut self, vnode: Vnode, unsettled: u32) {
        let (Stage::Claiming {
            epoch,
            seq,
            loaded_under: Some(_),
            ..
        }
        | Stage::Owned { epoch, seq }
        | Stage::Released { epoch, seq }) = self.stage(vnode)
        else {
            panic!("only the owner of vnode {vnode} leaves it");
        };
        let leaving = Stage::Leaving {
            epoch,
            seq,
            unsettled,
        };
        self.set(vnode, leaving);
        if unsettled == 0 {
            self.releases.push_back((vnode, epoch));
        }
    }

    /// One thing more has to happen before a vnode that is being left is released.
    pub(crate) fn one_more_unsettled(&mut self, vnode: Vnode) {
        if let Stage::Leaving { unsettled, .. } = &mut self.slots[vnode.index()].stage {
            *unsettled += 1;
        }
    }

    /// One of those things has happened; after the last the vnode is released.
    pub(crate) fn settled(&mut self, vnode: Vnode) {
        if let Stage::Leaving {
            epoch, unsettled, ..
        } = &mut self.slots[vnode.index()].stage
        {
            *unsettled = unsettled.saturating_sub(1);
            if *unsettled == 0 {
                self.releases.push_back((vnode, *epoch));
            }
        }
    }

    /// The store could not be told of the release.
    ///
    /// # Panics
    /// When this core has the vnode under that epoch: a release would say that it is done.
    pub(crate) fn release_failed(&mut self, vnode: Vnode, epoch: Epoch) {
        let was_left = self.epoch(vnode) != Some(epoch);
        assert!(was_left, "vnode {vnode} was not left under epoch {epoch}");
        self.releases_put_off.push((vnode, epoch));
    }

    /// The store knows of the release of `of`; `false` when that is not what this core is about now.
    pub(crate) fn is_releasing(&self, vnode: Vnode, of: Epoch) -> bool {
        matches!(self.stage(vnode), Stage::Leaving { epoch, unsettled: 0, .. } if epoch == of)
    }

    /// The vnode is another node's, and nothing of this core's work for it is left to do. `released`:
    /// the store may lose that again.
    pub(crate) fn depart(&mut self, vnode: Vnode, released: bool) {
        let stage = match self.stage(vnode) {
            Stage::Leaving { epoch, seq, .. } if released => Stage::Released { epoch, seq },
            _ => Stage::Elsewhere,
        };
        self.set(vnode, stage);
    }

    /// A vnode that was released has a successor.
    pub(crate) fn has_successor(&mut self, vnode: Vnode) {
        if let Stage::Released { .. } = self.stage(vnode) {
            self.set(vnode, Stage::Elsewhere);
        }
    }

    /// Lets what was put off be tried again.
    pub(crate) fn try_again(&mut self) {
        self.claims.extend(self.claims_put_off.drain(..));
        self.releases.extend(self.releases_put_off.drain(..));
    }

    /// Whether a claim or a release may wait.
    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        !self.claims.is_empty() || !self.releases.is_empty()
    }

    /// The next claim or release for the store.
    pub(crate) fn next_request(&mut self, clock: u64) -> Option<StoreRequest> {
        while let Some((vnode, of)) = self.claims.pop_front() {
            if let Stage::Claiming {
                epoch,
                wait_below,
                until,
                ..
            } = self.stage(vnode)
                && epoch == of
            {
                let wait_below = if clock < until {
                    wait_below
                } else {
                    Epoch::default()
                };
                return Some(StoreRequest::Load {
                    vnode,
                    epoch,
                    wait_below,
                });
            }
        }
        while let Some((vnode, epoch)) = self.releases.pop_front() {
            // It is released when what came up meanwhile is written.
            let has_more = matches!(self.stage(vnode), Stage::Leaving { unsettled: 1.., .. });
            if !has_more {
                return Some(StoreRequest::Release { vnode, epoch });
            }
        }
        None
    }

    /// Makes sure that the next version is newer than `version`, when it is of our epoch.
    pub(crate) fn saw(&mut self, vnode: Vnode, version: Version) {
        if let Stage::Claiming { epoch, seq, .. } | Stage::Owned { epoch, seq } =
            &mut self.slots[vnode.index()].stage
            && *epoch == version.epoch()
        {
            *seq = (*seq).max(version.seq());
        }
    }

    /// Whether this core owns the vnode, and it or a former owner can have made `version`.
    pub(crate) fn was_made(&self, vnode: Vnode, version: Version) -> bool {
        match self.stage(vnode) {
            Stage::Claiming { epoch, seq, .. } | Stage::Owned { epoch, seq } => {
                Version::new(epoch, seq).is_some_and(|at| version <= at)
            }
            _ => false,
        }
    }

    /// The epoch under which this core makes versions of the vnode, which may be on its way out.
    #[inline]
    pub(crate) fn making_under(&self, vnode: Vnode) -> Option<Epoch> {
        match self.stage(vnode) {
            Stage::Claiming { epoch, .. }
            | Stage::Owned { epoch, .. }
            | Stage::Leaving { epoch, .. } => Some(epoch),
            Stage::Sibling(_) | Stage::Elsewhere | Stage::Released { .. } => None,
        }
    }

    /// The next version of the vnode, which may be on its way out.
    ///
    /// # Panics
    /// When this core has not the vnode, or made 2^33 versions under one epoch: at a million
    /// changes a second in one vnode that takes two hours, so a node that gets there is broken.
    #[inline]
    pub(crate) fn next(&mut self, vnode: Vnode) -> Version {
        let (Stage::Claiming { epoch, seq, .. }
        | Stage::Owned { epoch, seq }
        | Stage::Leaving { epoch, seq, .. }) = &mut self.slots[vnode.index()].stage
        else {
            panic!("only the owner of vnode {vnode} makes its versions");
        };
        *seq += 1;
        Version::new(*epoch, *seq).expect("epochs and sequences stay within their bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vnode() -> Vnode {
        Vnode::new(0)
    }

    fn vnodes() -> Vnodes {
        Vnodes::new(VnodeCount::new(2).expect("a power of two"))
    }

    #[test]
    #[should_panic(expected = "only the owner of vnode")]
    fn a_vnode_that_was_never_loaded_is_not_left_for_a_release() {
        let mut vnodes = vnodes();
        vnodes.claim(vnode(), Epoch::new(1), 0, Epoch::default(), 0);
        vnodes.leave(vnode(), 0);
    }

    proptest! {
        /// Whatever comes in which order: versions under one epoch grow, the counts are those of the
        /// stages, and a vnode that is claimed has a claim waiting or under way.
        #[test]
        fn a_vnode_keeps_its_promises_in_any_order_of_inputs(
            inputs in prop::collection::vec(0_u8..10, 0..200),
        ) {
            let (mut vnodes, mut epoch, mut clock) = (vnodes(), 0, 0);
            let mut last = Version::NEVER;
            let mut asked: Vec<StoreRequest> = Vec::new();
            for input in inputs {
                clock += 100;
                match (input, vnodes.stage(vnode())) {
                    (0, _) => {
                        epoch += 1;
                        vnodes.claim(vnode(), Epoch::new(epoch), 0, Epoch::MAX, clock);
                    }
                    (1, _) => vnodes.claim_again(vnode()),
                    (2, _) => asked.extend(vnodes.next_request(clock)),
                    (3..=5, _) => match asked.pop() {
                        Some(StoreRequest::Load { vnode, epoch, .. }) => match input {
                            3 => {
                                vnodes.loaded(vnode, epoch);
                            }
                            4 => vnodes.claim_held(vnode, epoch),
                            _ => vnodes.claim_failed(vnode, epoch, clock),
                        },
                        Some(StoreRequest::Release { vnode, epoch }) => match input {
                            3 if vnodes.is_releasing(vnode, epoch) => vnodes.depart(vnode, true),
                            3 => {}
                            _ => vnodes.release_failed(vnode, epoch),
                        },
                        _ => {}
                    },
                    (6, Stage::Owned { .. }) => vnodes.leave(vnode(), 1),
                    (6, _) => vnodes.leave_when_loaded(vnode()),
                    (7, _) => vnodes.settled(vnode()),
                    (8, _) => vnodes.try_again(),
                    (9, _) if vnodes.is_kept(vnode()) => {
                        let version = vnodes.next(vnode());
                        prop_assert!(version > last);
                        last = version;
                    }
                    _ => {}
                }
                let stage = vnodes.stage(vnode());
                prop_assert_eq!(vnodes.claiming(), usize::from(stage.is_claiming()));
                prop_assert_eq!(vnodes.leaving(), usize::from(stage.is_leaving()));
                let under_way = |request: &StoreRequest| matches!(request, StoreRequest::Load { .. });
                let is_asked = asked.iter().any(under_way) || vnodes.waiting() > 0;
                prop_assert!(!stage.is_claiming() || is_asked);
            }
        }
    }
}
