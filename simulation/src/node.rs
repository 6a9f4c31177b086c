//! The parts around the cores: a store and a bus that can be slow or away, and rings between the
//! cores that delay but keep order. They do what they are told and remember what they were told.

use std::collections::{BTreeMap, VecDeque};

use presence::{PeerMessage, Publication, StoreReply, StoreRequest, Ticket};
use protocol::{Record, Stored};
use ring::Epoch;

use crate::random::Random;

/// How long ago a user may have left to be adopted all the same, ms.
const UNCERTAIN: u64 = 10_000;

/// The simulated store: answers and failures come later.
#[derive(Default)]
pub(crate) struct SimStore {
    pub(crate) users: BTreeMap<Box<str>, Stored>,
    /// The time of each user's last write, ms.
    written: BTreeMap<Box<str>, u64>,
    pub(crate) away: bool,
    pub(crate) delay: u64,
    /// Requests under way, by core: the time of the answer, and the request.
    waiting: Vec<VecDeque<(u64, StoreRequest)>>,
}

impl SimStore {
    pub(crate) fn reset(&mut self, cores: usize) {
        self.waiting = (0..cores).map(|_| VecDeque::new()).collect();
    }

    pub(crate) fn take(&mut self, core: usize, now: u64, request: StoreRequest) {
        self.waiting[core].push_back((now + self.delay, request));
    }

    pub(crate) fn room(&self, core: usize) -> usize {
        64_usize.saturating_sub(self.waiting[core].len())
    }

    /// The stored record of a user.
    pub(crate) fn stored(&self, user: &str) -> Stored {
        self.users.get(user).cloned().unwrap_or_default()
    }

    /// What is answered at `now`. What is in flight takes effect now, or is lost with a crash.
    pub(crate) fn replies(&mut self, core: usize, now: u64) -> Vec<StoreReply> {
        let mut replies = Vec::new();
        while let Some((_, request)) = self.waiting[core].pop_front_if(|(at, _)| *at <= now) {
            replies.push(if self.away {
                request.failed()
            } else {
                self.execute(now, request)
            });
        }
        replies
    }

    fn execute(&mut self, now: u64, request: StoreRequest) -> StoreReply {
        match request {
            StoreRequest::Load { vnode, epoch, .. } => {
                let count = crate::world::vnodes();
                let adopted = self.users.iter().filter(|(user, stored)| {
                    count.vnode(user) == vnode
                        && (stored.connected || self.written[*user] + UNCERTAIN >= now)
                });
                let users = adopted.map(|(user, stored)| (user.clone(), stored.clone()));
                StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: true,
                    users: users.collect(),
                }
            }
            StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
            owner @ StoreRequest::Owner { .. } => owner.failed(),
            StoreRequest::Read { ticket, user, .. } => {
                StoreReply::Read(ticket, Epoch::default(), self.users.get(&user).cloned())
            }
            StoreRequest::Write {
                ticket,
                user,
                stored,
                ..
            } => {
                self.written.insert(user.clone(), now);
                self.users.insert(user, stored);
                StoreReply::Written(ticket)
            }
        }
    }
}

/// The simulated bus: it remembers each user's last event.
#[derive(Default)]
pub(crate) struct SimBus {
    pub(crate) last: BTreeMap<Box<str>, Record>,
    pub(crate) away: bool,
    reports: Vec<VecDeque<(u64, Ticket, bool)>>,
}

impl SimBus {
    pub(crate) fn reset(&mut self, cores: usize) {
        self.reports = (0..cores).map(|_| VecDeque::new()).collect();
    }

    pub(crate) fn take(
        &mut self,
        core: usize,
        now: u64,
        random: &mut Random,
        publication: Publication,
    ) {
        let delivered = !self.away;
        if delivered {
            let last = self.last.entry(publication.user).or_default();
            if publication.record.version > last.version {
                *last = publication.record;
            }
        }
        let at = now + random.below(60);
        self.reports[core].push_back((at, publication.ticket, delivered));
    }

    pub(crate) fn room(&self, core: usize) -> bool {
        self.reports[core].len() < 64
    }

    pub(crate) fn reports(&mut self, core: usize, now: u64) -> Vec<(Ticket, bool)> {
        let mut reports = Vec::new();
        while let Some((_, ticket, delivered)) =
            self.reports[core].pop_front_if(|(at, ..)| *at <= now)
        {
            reports.push((ticket, delivered));
        }
        reports
    }
}

/// The simulated rings between cores: by receiver, then by sender.
#[derive(Default)]
pub(crate) struct SimMesh(Vec<Vec<VecDeque<(u64, PeerMessage)>>>);

impl SimMesh {
    pub(crate) fn new(cores: usize) -> Self {
        let ring = |_| (0..cores).map(|_| VecDeque::new()).collect();
        Self((0..cores).map(ring).collect())
    }

    pub(crate) fn room(&self, from: usize, to: usize) -> bool {
        self.0[to][from].len() < 32
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, at: u64, message: PeerMessage) {
        self.0[to][from].push_back((at, message));
    }

    pub(crate) fn receive(&mut self, to: usize, now: u64) -> Option<(usize, PeerMessage)> {
        let each = self.0[to].iter_mut().enumerate();
        each.filter_map(|(from, ring)| {
            ring.pop_front_if(|(at, _)| *at <= now)
                .map(|(_, message)| (from, message))
        })
        .next()
    }
}
