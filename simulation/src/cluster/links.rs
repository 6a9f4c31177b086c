//! The connections to the store by which it tells whose process lives, and what may be wrong with
//! them. They draw from a random stream of their own: they take nothing from the other faults.

use super::{agenda::Event, faults::Heal, world::World};

/// How long a node may take to learn that it was taken for dead, ms, when its connection is back.
const LEARNS: u64 = 4_000;

impl World {
    /// A process wants its connection, or the store notices that it has ended.
    pub(crate) fn link(&mut self, pid: usize, open: bool) {
        let process = &self.processes[pid];
        let who = (process.id.clone(), process.boot);
        if !open {
            self.store.alive.remove(&who);
            return;
        }
        if !process.alive {
            return;
        }
        if process.stalled || process.redis_cut || self.store.away {
            let again = 200 + self.links.below(800);
            self.link_in(again, pid, true);
            return;
        }
        self.store.alive.insert(who);
    }

    pub(crate) fn link_in(&mut self, delay: u64, pid: usize, open: bool) {
        self.schedule(self.now + delay, Event::Link(pid, open));
    }

    /// A process was started: it connects.
    pub(crate) fn links_itself(&mut self, pid: usize) {
        let delay = 5 + self.links.below(100);
        self.link_in(delay, pid, true);
    }

    /// The kernel has closed what a process had.
    pub(crate) fn is_unlinked(&mut self, pid: usize) {
        let delay = self.links.below(30);
        self.link_in(delay, pid, false);
    }

    /// The store is away or another process: every node connects again.
    pub(crate) fn links_break(&mut self) {
        self.store.alive.clear();
        for pid in 0..self.processes.len() {
            if self.processes[pid].alive {
                let delay = 50 + self.links.below(1_000);
                self.link_in(delay, pid, true);
            }
        }
    }

    /// What the store tells of a process's connection is wrong, or comes early, late or twice.
    pub(crate) fn mislead(&mut self, pid: usize) {
        match self.links.below(6) {
            0..3 => {
                self.link(pid, false);
                let away = self.links.below(3_000);
                self.link_in(away, pid, true);
                let what =
                    format!("p{pid} has no connection to the store for {away} ms, and lives");
                self.fault(&what, away + LEARNS, 1, Heal::Link);
            }
            3 => {
                self.link(pid, false);
                let again = 50 + self.links.below(250);
                self.link_in(again, pid, true);
                let second = again + 1 + self.links.below(600);
                self.link_in(second, pid, false);
                let away = second + self.links.below(2_000);
                self.link_in(away, pid, true);
                let what = format!("p{pid} loses its connection to the store twice, and lives");
                self.fault(&what, away + LEARNS, 1, Heal::Link);
            }
            4 => {
                self.link(pid, false);
                let delay = self.links.below(1_500);
                let what = format!("p{pid} loses its connection to the store before it is killed");
                self.fault(&what, delay, 1, Heal::Kill(pid));
            }
            _ => {
                // Its host closes it later, perhaps when the node's next process is there.
                let process = &self.processes[pid];
                let who = (process.id.clone(), process.boot);
                self.end_process(pid, true, "is killed, and its connection is closed late");
                self.store.alive.insert(who);
                let late = 100 + self.links.below(5_000);
                self.link_in(late, pid, false);
                self.restart_later(pid, 100, 8_000);
            }
        }
    }
}
