//! A simulated edge's producer and consumer. They own what is on its way to the bus and how far the
//! edge has read it; what was published is the bus's.

use presence::Ticket;
use protocol::Event;

use super::{In, News, ROOM};
use crate::cluster::{
    bus::{Kafka, Log, PARTITIONS},
    plan::Fault,
    world::World,
};

/// An event that was not confirmed for so long is reported as not delivered.
const MESSAGE_TIMEOUT: u64 = 3_000;
/// Between two looks whether the bus has to be read, ms.
const LOOK: u64 = 50;

pub(super) struct Sending {
    core: usize,
    ticket: Ticket,
    pub(super) event: Event<'static>,
    since: u64,
}

impl World {
    pub(super) fn pump_bus(&mut self, pid: usize, n: usize) {
        while self.processes[pid].seats[n].publishing < ROOM {
            let process = &mut self.processes[pid];
            let seat = &mut process.seats[n];
            let Some(publication) = seat.core.next_publication() else {
                return;
            };
            seat.publishing += 1;
            let partition = Kafka::partition(publication.vnode, self.plan.vnodes);
            let record = publication.record;
            let (vnode, cause) = (publication.vnode, publication.cause);
            let event = Event::of(&publication.user, &record, vnode, &process.id, cause);
            let event = event.into_owned();
            let lost = seat.lost.get(&event.vnode).copied();
            // What it claimed itself it has not lost; the answer may be under way.
            let accepted = self.accepted[event.vnode.index()];
            let own = accepted.taken_by == pid && lost == Some(accepted.highest);
            assert!(
                own || lost.is_none_or(|lost| event.epoch >= lost),
                "I1: {} publishes {event:?} and knows of epoch {lost:?}",
                self.place(pid)
            );
            let sending = Sending {
                core: n,
                ticket: publication.ticket,
                event,
                since: self.now,
            };
            self.check_made(&sending.event.user, &record, pid, "the bus is given");
            let queue = &mut self.processes[pid].out[partition];
            queue.push_back(sending);
            if queue.len() == 1 {
                let delay = 1 + self.random.below(10);
                self.later(delay, pid, In::Produce(partition));
            }
        }
    }

    /// The producer's turn for one partition: its first event reaches the log, or is given up.
    pub(super) fn produce(&mut self, pid: usize, partition: usize) {
        let reachable = !self.bus.away && !self.processes[pid].kafka_cut;
        let process = &mut self.processes[pid];
        let Some(first) = process.out[partition].front() else {
            return;
        };
        let late = self.now - first.since >= MESSAGE_TIMEOUT;
        if reachable || late {
            let Sending {
                core,
                ticket,
                event,
                ..
            } = process.out[partition].pop_front().expect("it is there");
            let unreliable = self.bus.unreliable;
            let kept = reachable || (unreliable && !self.bus.away);
            if kept {
                self.append(partition, event.clone());
                if unreliable && self.random.once_in(6) {
                    self.append(partition, event);
                }
            }
            let delivered = reachable && !(unreliable && self.random.once_in(4));
            let delay = 1 + self.random.below(if unreliable { 1_500 } else { 20 });
            self.later(delay, pid, In::Report(core, ticket, delivered));
        }
        if !self.processes[pid].out[partition].is_empty() {
            let delay = if reachable { self.random.below(5) } else { 100 };
            self.later(delay, pid, In::Produce(partition));
        }
    }

    /// The consumer's turn: what is new goes to the cores that want it.
    pub(super) fn consume(&mut self, pid: usize) {
        if !self.listens(pid) {
            return;
        }
        let wait = 2 + self.random.below(20);
        self.later(wait, pid, In::Consume);
        let process = &self.processes[pid];
        if self.bus.away || process.kafka_cut || process.kafka_late {
            return;
        }
        let ends = self.bus.logs.iter().map(|log| log.events.len()).collect();
        let Some(mut positions) = process.positions.clone() else {
            self.processes[pid].positions = Some(ends);
            self.gap(pid);
            return;
        };
        let behind = |(log, at): (&Log, &usize)| *at < log.begin;
        if self.bus.logs.iter().zip(&positions).any(behind) {
            for (log, at) in self.bus.logs.iter().zip(&mut positions) {
                if *at < log.begin {
                    *at = log.events.len();
                }
            }
            self.processes[pid].positions = Some(positions);
            self.gap(pid);
            return;
        }
        let first = self.random.below(PARTITIONS as u64) as usize;
        for n in 0..PARTITIONS {
            let partition = (first + n) % PARTITIONS;
            let most = 1 + self.random.below(20) as usize;
            let events = &self.bus.logs[partition].events[positions[partition]..];
            let taken: Vec<_> = events.iter().take(most).cloned().collect();
            positions[partition] += taken.len();
            for event in taken {
                let interest = &self.processes[pid].interest;
                if !interest.contains_key(&ring::hash(&event.user)) {
                    continue;
                }
                let core = self.home(pid, event.vnode);
                let delay = self.random.below(3);
                let at = self.in_order(pid, 200 + core as u64, delay);
                self.at(at, pid, In::Event(core, event));
            }
        }
        self.processes[pid].positions = Some(positions);
    }

    /// As the edge does it: a node with links reads the bus while its lease is not renewed.
    fn listens(&mut self, pid: usize) -> bool {
        if !self.plan.links {
            return true;
        }
        let lapses = self.processes[pid].member.lease_lapses(self.mono(pid));
        let process = &mut self.processes[pid];
        if lapses == std::mem::replace(&mut process.listens, lapses) {
            if !lapses {
                self.later(LOOK, pid, In::Consume);
            }
            return lapses;
        }
        process.positions = None;
        for seat in &mut process.seats {
            seat.core.hear_by_links(lapses);
        }
        // A consumer takes its time until it knows where the topic ends.
        let wait = 50 + self.mesh.random.below(400);
        self.later(wait, pid, In::Consume);
        self.note(|| format!("p{pid} reads the bus: {lapses}"));
        false
    }

    fn gap(&mut self, pid: usize) {
        self.note(|| format!("p{pid} may have missed events"));
        // What links tell again; but there is none to a successor of the same name.
        self.processes[pid].missed |= !self.plan.links || self.plan.has(Fault::Twin);
        self.processes[pid].tell(&News::Gap);
        for n in 0..self.processes[pid].seats.len() {
            self.schedule_pump(pid, n);
        }
    }
}
