//! The links between simulated edges: connections in one direction each, which keep their order, break,
//! and are made anew. It owns what is under way on them and who may connect; what is said is the
//! cores'. They draw from a random stream of their own.

use std::collections::BTreeMap;

use protocol::{FromOwner, ToOwner};

use super::{faults::Heal, process::In, world::World};
use crate::random::Random;

/// How long a node that stands still has its links, ms: nothing comes from it.
const SILENCE: u64 = 2_000;

/// What reaches a process over a link.
pub(crate) enum Say {
    OwnerLinked,
    WatcherLinked,
    Unlinked,
    Owner(FromOwner),
    Watcher(ToOwner),
}

struct Wire {
    /// The process that watches, which connected.
    from: usize,
    to: usize,
    /// What arrives later than this is lost.
    ends: Option<u64>,
    /// The watching process has not noticed an end.
    open: bool,
}

/// All links that there ever were, and who does not reach whom.
pub(crate) struct Mesh {
    pub(super) random: Random,
    wires: BTreeMap<u32, Wire>,
    /// From one process to another; with how many faults.
    cuts: BTreeMap<(usize, usize), u32>,
    /// By process: when a fault of its links was last over.
    back: BTreeMap<usize, u64>,
}

impl Mesh {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed ^ 0x006d_6573),
            wires: BTreeMap::new(),
            cuts: BTreeMap::new(),
            back: BTreeMap::new(),
        }
    }

    /// Whether a fault keeps the process from hearing or being heard.
    pub(super) fn is_cut(&self, pid: usize) -> bool {
        self.cuts.keys().any(|(a, b)| *a == pid || *b == pid)
    }

    pub(super) fn back(&self, pid: usize) -> u64 {
        self.back.get(&pid).copied().unwrap_or(0)
    }

    fn lane(link: u32) -> u64 {
        3_000_000 + u64::from(link)
    }
}

impl World {
    /// A process looks whom it has to connect to.
    pub(super) fn dial_links(&mut self, pid: usize) {
        let again = 50 + self.mesh.random.below(200);
        self.later(again, pid, In::DialLinks);
        self.drop_silent(pid);
        let process = &self.processes[pid];
        let Some(map) = process.map() else {
            return;
        };
        let boots = map.nodes().iter().map(|node| node.boot);
        let others: Vec<u64> = boots.filter(|boot| *boot != process.boot).collect();
        for to in 0..self.processes.len() {
            let other = &self.processes[to];
            // Who connects says where it is reached: it may be in no map that this process can read.
            let watches = |wire: &Wire| wire.from == to && wire.to == pid && wire.ends.is_none();
            let known = others.contains(&other.boot) || self.mesh.wires.values().any(watches);
            if !other.alive || other.stalled || !known {
                continue;
            }
            let is_there = |wire: &Wire| wire.from == pid && wire.to == to && wire.open;
            if self.mesh.wires.values().any(is_there) || self.mesh.cuts.contains_key(&(pid, to)) {
                continue;
            }
            let link = self.mesh.wires.len() as u32 + 1;
            let wire = Wire {
                from: pid,
                to,
                ends: None,
                open: true,
            };
            self.mesh.wires.insert(link, wire);
            self.note(|| format!("p{pid} links to p{to}: {link}"));
            self.send_over(to, link, Say::WatcherLinked, 20);
            self.send_over(pid, link, Say::OwnerLinked, 40);
        }
    }

    /// Whether one of the two has the other in the map that it knows, and so connects to it.
    pub(super) fn know_each_other(&self, one: usize, other: usize) -> bool {
        let knows = |one: usize, other: usize| {
            let (one, other) = (self.processes.get(one), self.processes.get(other));
            one.zip(other).is_some_and(|(one, other)| {
                let has = |node: &ring::Node| node.boot == other.boot;
                one.map().is_some_and(|map| map.nodes().iter().any(has))
            })
        };
        knows(one, other) || knows(other, one)
    }

    fn send_over(&mut self, pid: usize, link: u32, what: Say, delay: u64) {
        let delay = self.mesh.random.below(delay.max(1));
        let at = self.in_order(pid, Mesh::lane(link), delay);
        self.at(at, pid, In::Link(link, what));
    }

    /// Who stands still is heard of no more.
    fn drop_silent(&mut self, pid: usize) {
        let silent = |other: usize| {
            let other = &self.processes[other];
            other.stalled && other.gone.is_some_and(|since| self.now > since + SILENCE)
        };
        let wires = self.mesh.wires.iter();
        let silent: Vec<u32> = wires
            .filter(|(_, wire)| wire.ends.is_none())
            .filter(|(_, wire)| {
                wire.from == pid && silent(wire.to) || wire.to == pid && silent(wire.from)
            })
            .map(|(link, _)| *link)
            .collect();
        for link in silent {
            self.break_link(link, 50, 50);
        }
    }

    /// Both ends notice after so many ms at most.
    fn break_link(&mut self, link: u32, watcher: u64, owner: u64) {
        let lasts = self.mesh.random.below(10);
        let wire = self.mesh.wires.get_mut(&link).expect("it was listed");
        if wire.ends.is_some() {
            return;
        }
        wire.ends = Some(self.now + lasts);
        let (from, to) = (wire.from, wire.to);
        self.note(|| format!("link {link} of p{from} to p{to} breaks"));
        self.send_over(from, link, Say::Unlinked, watcher);
        self.send_over(to, link, Say::Unlinked, owner);
    }

    fn links_of(&self, which: impl Fn(usize, usize) -> bool) -> Vec<u32> {
        let wires = self.mesh.wires.iter();
        let wires = wires.filter(|(_, wire)| wire.ends.is_none() && which(wire.from, wire.to));
        wires.map(|(link, _)| *link).collect()
    }

    /// A process has ended; `told`: the kernel closes what it had.
    pub(super) fn end_links(&mut self, pid: usize, told: bool) {
        for link in self.links_of(|from, to| from == pid || to == pid) {
            let late = if told { 50 } else { SILENCE + 500 };
            self.break_link(link, late, late);
        }
    }

    /// Whether what comes over a link is lost.
    pub(super) fn is_lost(&self, link: u32, what: &Say) -> bool {
        let says = matches!(what, Say::Owner(_) | Say::Watcher(_));
        let wire = &self.mesh.wires[&link];
        says && wire.ends.is_some_and(|ends| self.now > ends)
    }

    pub(super) fn hears_link(&mut self, pid: usize, link: u32, what: Say) {
        let cores = 0..self.processes[pid].seats.len();
        match what {
            Say::OwnerLinked => {
                for n in cores {
                    self.core(pid, n).owner_linked(link);
                    self.schedule_pump(pid, n);
                }
            }
            Say::WatcherLinked => {
                for n in cores {
                    self.core(pid, n).watcher_linked(link);
                    self.schedule_pump(pid, n);
                }
            }
            Say::Unlinked => {
                let wire = self.mesh.wires.get_mut(&link).expect("it was made");
                wire.open &= wire.from != pid;
                for n in cores {
                    self.core(pid, n).unlinked(link);
                    self.schedule_pump(pid, n);
                }
            }
            Say::Owner(message) => {
                let vnode = match &message {
                    FromOwner::Owns(vnode, epoch) => {
                        let n = self.home(pid, *vnode);
                        self.hears_of(pid, n, *vnode, *epoch);
                        *vnode
                    }
                    FromOwner::Left(vnode) => *vnode,
                    FromOwner::State(epoch, user, _) => {
                        let vnode = self.count().vnode(user);
                        let n = self.home(pid, vnode);
                        self.hears_of(pid, n, vnode, *epoch);
                        vnode
                    }
                };
                let n = self.home(pid, vnode);
                self.note(|| format!("p{pid} hears over link {link}: {message:?}"));
                self.core(pid, n).owner_says(link, message);
                self.schedule_pump(pid, n);
            }
            Say::Watcher(message) => {
                let n = self.home(pid, self.count().vnode(message.user()));
                self.note(|| format!("p{pid} is told over link {link}: {message:?}"));
                self.core(pid, n).watcher_says(link, message);
                self.schedule_pump(pid, n);
            }
        }
    }

    /// Moves what a core has for the links of its process.
    pub(super) fn pump_links(&mut self, pid: usize, n: usize) {
        let links: Vec<u32> = self.processes[pid].seats[n].core.waiting_links().collect();
        for link in links {
            let (from, to) = (self.mesh.wires[&link].from, self.mesh.wires[&link].to);
            for _ in 0..32 {
                let core = &mut self.processes[pid].seats[n].core;
                let (other, what) = if from == pid {
                    match core.next_for_owner(link) {
                        Some(message) => (to, Say::Watcher(message)),
                        None => break,
                    }
                } else {
                    match core.next_for_watcher(link) {
                        Some(message) => (from, Say::Owner(message)),
                        None => break,
                    }
                };
                if let Say::Owner(FromOwner::State(_, user, record)) = &what {
                    self.check_made(user, record, pid, "a link is given");
                }
                let delay = if self.mesh.random.once_in(20) {
                    200
                } else {
                    10
                };
                self.send_over(other, link, what, delay);
            }
        }
    }

    /// Lets something go wrong with links.
    pub(super) fn disturb_links(&mut self, pid: usize) {
        let others: Vec<usize> = (0..self.processes.len())
            .filter(|other| *other != pid && self.processes[*other].alive)
            .collect();
        if others.is_empty() {
            return;
        }
        let other = others[self.mesh.random.below(others.len() as u64) as usize];
        match self.mesh.random.below(5) {
            0 => {
                for link in self.links_of(|from, to| from == pid || to == pid) {
                    self.break_link(link, 300, 2_000);
                }
                self.instant();
            }
            1 | 2 => self.cut_links(
                vec![(pid, other)],
                &format!("p{pid} has no link to p{other}"),
            ),
            3 => {
                let all = others
                    .iter()
                    .flat_map(|other| [(pid, *other), (*other, pid)]);
                let all = all.collect();
                self.cut_links(all, &format!("p{pid} has no links"));
            }
            _ => {
                // What is sent is lost for a while, and only then one side notices.
                for link in self.links_of(|from, to| from == pid && to == other) {
                    self.break_link(link, SILENCE + 500, 100);
                }
                let pairs = vec![(pid, other)];
                self.cut_links(
                    pairs,
                    &format!("p{pid} does not notice that it is not heard by p{other}"),
                );
            }
        }
    }

    fn cut_links(&mut self, pairs: Vec<(usize, usize)>, what: &str) {
        for pair in &pairs {
            *self.mesh.cuts.entry(*pair).or_default() += 1;
            for link in self.links_of(|from, to| (from, to) == *pair) {
                self.break_link(link, 300, 2_000);
            }
        }
        self.fault(what, 300, 6_000, Heal::Mesh(pairs));
    }

    pub(super) fn heal_links(&mut self, pairs: &[(usize, usize)]) {
        for pair in pairs {
            if let Some(count) = self.mesh.cuts.get_mut(pair) {
                *count -= 1;
                if *count == 0 {
                    self.mesh.cuts.remove(pair);
                }
            }
            for pid in [pair.0, pair.1] {
                self.mesh.back.insert(pid, self.now);
            }
        }
    }
}
