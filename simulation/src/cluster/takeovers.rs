//! Vnodes change hands in the store: that only one writes a vnode (I1), and what a takeover by force
//! may lose of what the users had set (I2). It owns who has taken which vnode.

use ring::{Epoch, Vnode};

use super::{checks::TRANSIT, plan::RESPONSE, process::Process, redis::Command, world::World};

/// How long the store may lack what was set before, or when it was last away: a write that got lost is
/// given up after a while and made again.
const WRITTEN: u64 = RESPONSE + 200;
/// How long a process that has seen that the store is another one may not have acted on it.
const ACTED: u64 = 500;

/// What the store has accepted of one vnode. Processes are named by their number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accepted {
    /// The newest epoch under which the vnode was claimed or written since the store last lost something.
    pub(crate) epoch: Epoch,
    /// The process that did so under that epoch.
    pub(crate) by: usize,
    /// The process that claimed the vnode last, whether the store still knows or not.
    pub(crate) taken_by: usize,
    /// When `by` took the vnode, or claimed it once more because the store had lost that, ms.
    pub(crate) at: u64,
    /// When `by` took the vnode, ms: from then on it waits for the users.
    pub(crate) since: u64,
    /// The highest epoch there ever was, whatever the store has lost since.
    pub(crate) highest: Epoch,
    /// The process that released the vnode last knew by then of all that the store has lost.
    pub(crate) sound: bool,
    /// `taken_by` has released the vnode or was fenced since, whether the store still knows or not.
    pub(crate) let_go: bool,
}

impl Accepted {
    /// Of a vnode that nobody has claimed.
    pub(crate) const NOTHING: Self = Self {
        epoch: Epoch::new(0),
        by: usize::MAX,
        taken_by: usize::MAX,
        at: 0,
        since: 0,
        highest: Epoch::new(0),
        sound: true,
        let_go: false,
    };
}

impl World {
    /// I1 and what a takeover by force forgives, when the store is about to do something.
    pub(crate) fn before_store(&mut self, pid: usize, command: &Command) {
        match command {
            Command::Claim {
                vnode,
                epoch,
                wait_below,
            } => {
                let data = &self.store.data.vnodes[vnode.index()];
                let current = data.epoch;
                let released = current.is_some() && data.released == current;
                let held = current.is_some_and(|current| current < *wait_below) && !released;
                if current.is_some_and(|current| current >= *epoch) || held {
                    return;
                }
                self.takes(pid, *vnode, *epoch, released);
            }
            Command::Write {
                vnode,
                epoch,
                user,
                stored,
            } => {
                let data = &self.store.data.vnodes[vnode.index()];
                if data.epoch.is_some_and(|current| current > *epoch) {
                    return;
                }
                let accepted = &mut self.accepted[vnode.index()];
                assert!(
                    *epoch >= accepted.epoch,
                    "I1: epoch {epoch} of vnode {vnode} is written after {}",
                    accepted.epoch
                );
                if *epoch > accepted.epoch {
                    accepted.epoch = *epoch;
                    if accepted.by != pid {
                        accepted.at = self.now;
                        accepted.since = self.now;
                    }
                    accepted.by = pid;
                    accepted.highest = accepted.highest.max(*epoch);
                }
                let (by, taken_by) = (accepted.by, accepted.taken_by);
                assert_eq!(
                    by,
                    pid,
                    "I1: {}: vnode {vnode} is written by p{pid} and p{by} under epoch {epoch}",
                    self.moment()
                );
                let user = self.user(user);
                let truth = &mut self.truths[user];
                if truth.mode_lost {
                    // Its owner may know it, who did not see that another one had the vnode.
                    truth.mode = stored.mode;
                }
                if truth
                    .kept_mode
                    .take_if(|kept| *kept == (pid, stored.mode))
                    .is_some()
                {
                    truth.mode = stored.mode;
                }
                let same =
                    |(by, text): &mut (usize, String)| *by == pid && **text == *stored.record.text;
                // A store that lost everything also takes the write of who lost the vnode.
                if taken_by == pid
                    && let Some((_, text)) = truth.kept.take_if(same)
                {
                    truth.text = text;
                }
            }
            Command::Release { vnode, .. } => {
                let (losses, at) = self.processes[pid].losses;
                let sound = losses == self.losses && self.now >= at + ACTED;
                let accepted = &mut self.accepted[vnode.index()];
                accepted.sound = sound;
                accepted.let_go |= accepted.taken_by == pid;
            }
            Command::Identity if self.processes[pid].losses.0 != self.losses => {
                self.processes[pid].losses = (self.losses, self.now);
            }
            _ => {}
        }
    }

    /// Notes that a claim is about to be accepted.
    fn takes(&mut self, pid: usize, vnode: Vnode, epoch: Epoch, released: bool) {
        let accepted = &mut self.accepted[vnode.index()];
        let before = accepted.by;
        let had = accepted.taken_by == pid;
        accepted.taken_by = pid;
        accepted.epoch = accepted.epoch.max(epoch);
        accepted.by = pid;
        accepted.at = self.now;
        accepted.highest = accepted.highest.max(epoch);
        // Until an owner has noticed that the store has lost something it may release what is lost.
        let let_go = std::mem::take(&mut accepted.let_go);
        let goes_on = before == pid && had && !let_go;
        if !goes_on {
            accepted.since = self.now;
        }
        let released = released && accepted.sound;
        self.note(|| format!("p{pid} takes vnode {vnode} under {epoch}, released: {released}"));
        // One that has a successor of its name is taken for dead, by that one too.
        let name = &self.processes[pid].id;
        let lives =
            |process: &Process| process.alive && process.gone.is_none() && process.id != *name;
        let newest = self.names.contains(&Some(before));
        // A store that went back names one that has heard of its successor and has nothing to release.
        self.fenced.remove(&(pid, vnode));
        let waited_for = newest
            && before != pid
            && !self.fenced.contains(&(before, vnode))
            && self.processes.get(before).is_some_and(lives);
        assert!(
            released || !waited_for || !self.calm_for(2 * TRANSIT),
            "I1: {}: vnode {vnode} is taken from a living owner that has not released it",
            self.place(pid)
        );
        let users = self.users_of(vnode);
        for index in &users {
            self.pass(*index);
        }
        // What the store does not have yet is lost with its owner.
        let since = if before == usize::MAX {
            0
        } else {
            self.processes[before].gone.unwrap_or(self.now)
        };
        for index in users {
            let name = format!("u{index}");
            let sessions = &mut self.truths[index].sessions;
            let here = sessions.values().any(|held| held.process == pid);
            for held in sessions.values_mut() {
                held.forsaken &= held.process != pid;
            }
            let truth = &mut self.truths[index];
            let stored = self.store.stored(vnode, &name).cloned().unwrap_or_default();
            // What the new owner was told already it goes by; what others were told that never had
            // the vnode nobody knows.
            let early = truth.early;
            if early.is_some_and(|(by, _)| by == pid || by == usize::MAX) {
                truth.early = None;
            }
            let mode_here = early.filter(|(by, _)| *by == pid);
            match (mode_here, early) {
                (Some((_, mode)), _) => truth.mode = mode,
                (None, Some(_)) => truth.mode = stored.mode,
                (None, None) => {}
            }
            // A claim may arrive when its sender is dead.
            let lives = self.processes[pid].alive;
            let text_here = lives && truth.text_by == pid && !truth.text_had;
            if !text_here && !truth.text_had {
                truth.text = stored.record.text.clone().into();
            }
            if !std::mem::replace(&mut truth.text_had, true) {
                // From now on it can be written.
                truth.text_at = self.now;
            }
            if released || (had && !let_go) {
                continue;
            }
            let safe = |at: u64| at.max(self.store_trouble) + WRITTEN < since && self.store_works();
            let truth = &self.truths[index];
            assert!(
                stored.record.text[..] == truth.text
                    || text_here
                    || !safe(truth.text_at)
                    || truth.lost,
                "I2: {}: the text of {name} is lost: {stored:?}, {truth:?}",
                self.moment()
            );
            let truth = &mut self.truths[index];
            if !text_here {
                let had = std::mem::replace(&mut truth.text, stored.record.text.into());
                if had != truth.text {
                    truth.kept = Some((truth.text_by, had));
                }
            }
            if mode_here.is_none() {
                truth.mode = stored.mode;
                truth.set_at = self.now;
            }
            if !stored.connected && !here {
                truth.unknown = true;
                truth.cuts.clear();
                for held in truth.sessions.values_mut() {
                    held.forsaken = true;
                }
            }
            self.pass(index);
        }
    }

    /// A process follows a map: what it was told for a vnode that it has not got after all, it may
    /// still write before its successor has the vnode.
    pub(crate) fn check_early(&mut self, pid: usize) {
        for index in 0..self.truths.len() {
            let vnode = self.count().vnode(&format!("u{index}"));
            let process = &self.processes[pid];
            let given = process.seats[self.home(pid, vnode)].followed.as_ref();
            let given = given.and_then(|map| map.owner(vnode));
            if given.is_some_and(|(node, _)| node.boot == process.boot) {
                continue;
            }
            let truth = &mut self.truths[index];
            if truth.text_by == pid && !truth.text_had {
                truth.text_by = usize::MAX;
                truth.kept = Some((pid, truth.text.clone()));
            }
            if let Some((by, mode)) = &mut truth.early
                && *by == pid
            {
                *by = usize::MAX;
                truth.kept_mode = Some((pid, *mode));
            }
        }
    }

    pub(super) fn users_of(&self, vnode: Vnode) -> Vec<usize> {
        let users = 0..self.truths.len();
        users
            .filter(|n| self.count().vnode(&format!("u{n}")) == vnode)
            .collect()
    }
}
