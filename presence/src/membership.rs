//! A node's place in the cluster: when to renew its lease, when to read the map, which map to
//! follow, and when cores that stood still may go on. It owns no vnode and does no I/O: the shell
//! carries out the steps and brings the answers.

use std::sync::Arc;

use ring::{Epoch, Map, MapVersion};

/// How long a core that stood still waits for the store, ms.
const HOLD: u64 = 2_000;
/// The map is read at least so often, ms: a hint may have been lost.
const READ_EVERY: u64 = 1_000;
/// Between two tries when the store does not answer, ms.
const RETRY: u64 = 200;

/// A step that the shell has to carry out.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Renew the lease and answer with [`Membership::renewed`]; `newcomer`: a lease that another
    /// life of this node left behind is taken over.
    Renew {
        /// Whether this process has not had the lease yet.
        newcomer: bool,
    },
    /// Read the map and the store's incarnation, and answer with [`Membership::map_read`].
    ReadMap,
    /// Every core has to follow this map.
    Follow {
        /// The map to follow.
        map: Arc<Map>,
        /// The map that was followed until now; `None` before the first.
        before: Option<Arc<Map>>,
    },
    /// Let every core go on that stood still.
    Resume,
    /// Have every core claim and write everything again: the store may have lost it.
    Resync,
    /// The process has to end: another one has this node's name.
    GiveUp,
}

/// The store's answer to the renewal of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease is this process's.
    Held,
    /// Another process of the same name holds the lease.
    Refused,
    /// The store did not answer, or not in time.
    Failed,
}

/// The content of the store at one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The map; `None` when there is none, or when it is the one that the node has.
    pub map: Option<Map>,
    /// What tells the store's content from that of before a loss: its incarnation and the server's
    /// run id.
    pub identity: String,
}

/// The lease and the map of one node, as its process knows them. All times are of a clock that never goes
/// back, ms. Each [`Step::Renew`] and each [`Step::ReadMap`] is answered exactly once; there is never a second
/// one of a kind before the answer.
#[derive(Debug)]
pub struct Membership {
    /// How long the store keeps a lease that is not renewed, ms.
    ttl: u64,
    /// This process has not had the lease yet.
    newcomer: bool,
    /// When the lease is to be renewed next.
    renew_at: u64,
    /// A renewal is under way.
    renewing: bool,
    /// The lease has to be renewed once more when the answer is there: something came up meanwhile.
    renew_again: bool,
    /// Until when the lease stands, by this process's own account; 0 = it has none.
    lease_until: u64,
    /// When the map is to be read next.
    read_at: u64,
    /// A reading of the map is under way.
    reading: bool,
    /// The map has to be read once more when the answer is there.
    read_again: bool,
    /// The map that the cores follow.
    map: Option<Arc<Map>>,
    /// The highest epoch that this node has met.
    highest: Epoch,
    /// The store's incarnation and run id at the last reading.
    identity: Option<String>,
    /// Set while cores that stood still wait for lease and map.
    held: Option<Hold>,
    /// The map that all cores follow, and how many vnodes they have still to claim or to release.
    progress: (MapVersion, usize),
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    /// When the first core stood still: what was asked before that does not count.
    since: u64,
    /// When the cores go on without an answer.
    until: u64,
    /// The lease was renewed since.
    renewed: bool,
    /// The map was read since.
    read: bool,
}

impl Membership {
    /// A node without lease and map; `ttl`: the lease's, ms.
    #[must_use]
    pub fn new(ttl: u64) -> Self {
        Self {
            ttl,
            newcomer: true,
            renew_at: 0,
            renewing: false,
            renew_again: false,
            lease_until: 0,
            read_at: 0,
            reading: false,
            read_again: false,
            map: None,
            highest: Epoch::default(),
            identity: None,
            held: None,
            progress: (MapVersion::default(), 0),
        }
    }

    /// The map that the cores follow; `None` before the first.
    #[must_use]
    pub fn map(&self) -> Option<&Arc<Map>> {
        self.map.as_ref()
    }

    /// The highest epoch that this node has met.
    #[must_use]
    pub fn highest_epoch(&self) -> Epoch {
        self.highest
    }

    /// Whether the lease stands, by this process's own account.
    #[must_use]
    pub fn has_lease(&self, now: u64) -> bool {
        now < self.lease_until
    }

    /// Whether the lease is in its last third, or over: the store has not renewed it. Another node may be about
    /// to take this one's vnodes, one that this node has not heard of. False before the first lease.
    #[must_use]
    pub fn lease_lapses(&self, now: u64) -> bool {
        self.lease_until > 0 && now + self.ttl / 3 > self.lease_until
    }

    /// The time at which something is due next, or [`Membership::lease_lapses`] turns true; it changes with
    /// every input. No later than a second from now.
    #[must_use]
    pub fn next_due(&self, now: u64) -> u64 {
        let renewal = (!self.renewing).then_some(self.renew_at);
        let reading = (!self.reading).then_some(self.read_at);
        let hold = self.held.map(|hold| hold.until);
        let lapse = self.lease_until.saturating_sub(self.ttl / 3) + 1;
        let lapse = (lapse > now).then_some(lapse);
        let all = [renewal, reading, hold, lapse].into_iter().flatten();
        all.fold(now + READ_EVERY, u64::min)
    }

    /// What is due. To be called after every other input, and when [`Membership::next_due`] has come.
    pub fn steps(&mut self, now: u64) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.renewing && now >= self.renew_at {
            self.renewing = true;
            self.renew_again = false;
            let newcomer = self.newcomer;
            steps.push(Step::Renew { newcomer });
        }
        if !self.reading && now >= self.read_at {
            self.reading = true;
            self.read_again = false;
            steps.push(Step::ReadMap);
        }
        if let Some(hold) = self.held
            && ((hold.renewed && hold.read) || now >= hold.until)
        {
            self.held = None;
            steps.push(Step::Resume);
        }
        steps
    }

    /// The answer to a [`Step::Renew`] that was sent at `sent`.
    ///
    /// # Panics
    /// When no renewal is under way, or it was sent later than now.
    pub fn renewed(&mut self, sent: u64, now: u64, renewal: Renewal) -> Option<Step> {
        assert!(sent <= now, "a renewal is sent before its answer comes");
        let asked = std::mem::take(&mut self.renewing);
        assert!(asked, "a renewal is answered once");
        match renewal {
            Renewal::Held => {
                self.newcomer = false;
                self.lease_until = sent + self.ttl;
                self.renew_at = match self.renew_again {
                    true => 0,
                    false => sent + self.ttl / 3,
                };
                if let Some(hold) = &mut self.held {
                    // One that was under way may be of before.
                    hold.renewed |= sent >= hold.since;
                }
                None
            }
            Renewal::Refused => {
                self.renew_at = u64::MAX;
                Some(Step::GiveUp)
            }
            Renewal::Failed => {
                self.renew_at = now + RETRY;
                None
            }
        }
    }

    /// The answer to a [`Step::ReadMap`]; `None` when the store did not give one.
    ///
    /// # Panics
    /// When no reading is under way.
    pub fn map_read(&mut self, now: u64, found: Option<Found>) -> Vec<Step> {
        let asked = std::mem::take(&mut self.reading);
        assert!(asked, "a reading of the map is answered once");
        self.read_at = now + if found.is_some() { READ_EVERY } else { RETRY };
        if self.read_again {
            self.read_at = now;
        }
        let mut steps = Vec::new();
        let Some(Found { map, identity }) = found else {
            return steps;
        };
        // First, so that what is then left is written whole.
        let before = self.identity.replace(identity);
        if before.is_some() && before != self.identity {
            steps.push(Step::Resync);
        }
        if let Some(map) = map
            && self
                .map
                .as_ref()
                .is_none_or(|now| map.version() > now.version())
        {
            self.highest = self.highest.max(map.highest_epoch());
            let map = Arc::new(map);
            let before = self.map.replace(Arc::clone(&map));
            steps.push(Step::Follow { map, before });
        }
        if let Some(hold) = &mut self.held
            && !self.read_again
        {
            hold.read = true;
        }
        steps
    }

    /// Notes a hint that the store may have a newer map: it is read at once.
    pub fn map_changed(&mut self) {
        // An answer that is under way may be of before.
        self.read_again = true;
        self.read_at = 0;
    }

    /// A core stood still: lease and map are looked at before it goes on.
    pub fn stood_still(&mut self, now: u64) {
        if self.held.is_none() {
            self.held = Some(Hold {
                since: now,
                until: now + HOLD,
                renewed: false,
                read: false,
            });
            self.renew_soon();
            self.map_changed();
        }
    }

    /// A core met this epoch, which may be higher than the map's.
    pub fn met(&mut self, epoch: Epoch) {
        if epoch > self.highest {
            self.highest = epoch;
            self.renew_soon();
            self.map_changed();
        }
    }

    /// As soon as none is under way: that one may not say it yet.
    fn renew_soon(&mut self) {
        self.renew_at = 0;
        self.renew_again = true;
    }

    /// How far the cores have come: the map that all of them follow, and how many vnodes are on
    /// their way. The coordinator waits for it, so a change is told at once.
    pub fn progress(&mut self, map: MapVersion, moving: usize) {
        let (map_before, moving_before) = std::mem::replace(&mut self.progress, (map, moving));
        if map != map_before || (moving == 0) != (moving_before == 0) {
            self.renew_soon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::VnodeCount;

    fn found(version: u64) -> Option<Found> {
        let map = Map::empty(VnodeCount::new(2).expect("a power of two"));
        Some(Found {
            map: Some(map.raised(MapVersion::new(version - 1), Epoch::new(version as u32))),
            identity: "a".into(),
        })
    }

    fn member() -> Membership {
        let mut member = Membership::new(3_000);
        assert_eq!(
            member.steps(10),
            [Step::Renew { newcomer: true }, Step::ReadMap]
        );
        assert_eq!(member.renewed(10, 11, Renewal::Held), None);
        assert!(matches!(
            member.map_read(12, found(5))[..],
            [Step::Follow { before: None, .. }]
        ));
        member
    }

    #[test]
    fn a_lease_is_renewed_in_thirds_and_ends_by_the_time_of_sending() {
        let mut member = member();
        assert_eq!(member.steps(1_000), []);
        assert_eq!(member.steps(1_010), [Step::Renew { newcomer: false }]);
        assert!(member.has_lease(3_009) && !member.has_lease(3_010));
        assert_eq!(member.renewed(1_010, 2_000, Renewal::Failed), None);
        assert!(
            member
                .steps(2_300)
                .contains(&Step::Renew { newcomer: false })
        );
        assert_eq!(
            member.renewed(2_300, 2_301, Renewal::Refused),
            Some(Step::GiveUp)
        );
        assert!(
            !member
                .steps(90_000)
                .iter()
                .any(|step| matches!(step, Step::Renew { .. }))
        );
    }

    #[test]
    fn a_lease_that_is_not_renewed_lapses_before_it_ends_and_until_it_is_renewed() {
        let mut member = Membership::new(3_000);
        assert!(!member.lease_lapses(90_000), "it has had none");
        member.steps(10);
        member.renewed(10, 11, Renewal::Held);
        assert!(!member.lease_lapses(2_010) && member.lease_lapses(2_011));
        member.steps(2_000);
        member.renewed(2_000, 2_100, Renewal::Failed);
        assert!(member.has_lease(2_100) && member.lease_lapses(2_100));
        assert!(!member.has_lease(9_000) && member.lease_lapses(9_000));
        member.steps(9_000);
        member.renewed(9_000, 9_001, Renewal::Held);
        assert!(!member.lease_lapses(9_001));
    }

    #[test]
    fn only_newer_maps_are_followed_and_a_lost_store_is_written_again() {
        let mut member = member();
        let read = |member: &mut Membership, found| {
            member.map_changed();
            member.steps(20);
            member.map_read(20, found)
        };
        assert_eq!(read(&mut member, found(5)), []);
        assert_eq!(read(&mut member, found(4)), []);
        let newer = read(&mut member, found(6));
        assert!(matches!(&newer[..], [Step::Follow { before: Some(_), map }]
            if map.version() == MapVersion::new(6)));
        let mut other = found(6).expect("a map");
        other.identity = "b".into();
        assert_eq!(read(&mut member, Some(other)), [Step::Resync]);
    }

    #[test]
    fn a_hint_during_a_read_makes_another_read() {
        let mut member = member();
        member.map_changed();
        assert_eq!(member.steps(20), [Step::ReadMap]);
        member.map_changed();
        assert_eq!(member.map_read(21, found(5)), []);
        assert_eq!(member.steps(21), [Step::ReadMap]);
    }

    #[test]
    fn nothing_is_due_before_the_time_that_is_said() {
        let mut member = Membership::new(3_000);
        assert_eq!(member.next_due(10), 0, "the first lease and map");
        let _ = member.steps(10);
        assert_eq!(member.next_due(10), 10 + READ_EVERY, "it waits for answers");
        member.renewed(10, 12, Renewal::Held);
        assert_eq!(member.next_due(12), 1_010, "the lease's first third");
        member.map_read(15, found(5));
        assert_eq!(member.next_due(15), 1_010);
        assert_eq!(member.steps(1_009), []);
        assert_eq!(member.steps(1_015).len(), 2);
        member.map_read(1_016, None);
        assert_eq!(member.next_due(1_016), 1_016 + RETRY);
        let _ = member.steps(1_900);
        member.map_read(1_900, found(6));
        // The renewal is still not answered: the next to come is that the lease lapses.
        assert_eq!(member.next_due(1_901), 2_011);
        assert!(!member.lease_lapses(2_010) && member.lease_lapses(2_011));
    }

    #[test]
    fn after_a_stall_the_cores_wait_for_lease_and_map_but_not_for_ever() {
        let mut member = member();
        member.stood_still(50);
        assert_eq!(
            member.steps(50),
            [Step::Renew { newcomer: false }, Step::ReadMap]
        );
        member.map_read(51, found(5));
        assert_eq!(member.steps(52), []);
        member.renewed(50, 53, Renewal::Held);
        assert_eq!(member.steps(54), [Step::Resume]);
        member.stood_still(100);
        member.steps(100);
        member.map_read(101, None);
        member.renewed(100, 101, Renewal::Failed);
        assert!(!member.steps(2_099).contains(&Step::Resume));
        assert!(member.steps(2_100).contains(&Step::Resume));
    }

    #[test]
    fn news_of_the_cores_are_told_at_once() {
        let mut member = member();
        member.progress(MapVersion::new(5), 3);
        assert_eq!(member.steps(20), [Step::Renew { newcomer: false }]);
        member.renewed(20, 21, Renewal::Held);
        member.progress(MapVersion::new(5), 2);
        assert_eq!(member.steps(22), []);
        member.met(Epoch::new(99));
        assert_eq!(
            member.steps(23),
            [Step::Renew { newcomer: false }, Step::ReadMap]
        );
        assert_eq!(member.highest_epoch(), Epoch::new(99));
    }

    #[test]
    fn news_during_a_renewal_are_told_right_after_it() {
        let mut member = member();
        member.progress(MapVersion::new(6), 3);
        assert_eq!(member.steps(20), [Step::Renew { newcomer: false }]);
        member.progress(MapVersion::new(6), 0);
        assert_eq!(member.steps(21), []);
        member.renewed(20, 22, Renewal::Held);
        assert_eq!(member.steps(22), [Step::Renew { newcomer: false }]);
        member.renewed(22, 23, Renewal::Held);
        assert_eq!(member.steps(24), []);
    }
}
