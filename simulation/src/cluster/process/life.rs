//! How a process begins and how it ends: what it starts with, and what is left of it on the wires.

use std::collections::{BTreeMap, VecDeque};

use presence::{Core, Membership, Now, Settings};
use ring::{CoreId, Epoch, MapVersion, NodeId, VnodeCount};

use super::{In, Process, Seat};
use crate::cluster::{
    bus::PARTITIONS,
    client::ToClient,
    plan::{Fault, GRACE, LEASE, Plan},
    world::World,
};

impl Process {
    fn new(
        name: usize,
        boot: u64,
        cores: usize,
        weight: u32,
        plan: &Plan,
        mono: u64,
        now: Now,
    ) -> Self {
        let id = NodeId::parse(&format!("n{name}")).expect("a good name");
        let count = VnodeCount::new(plan.vnodes).expect("a power of two");
        let seat = |n: usize| {
            let mut settings = Settings {
                cluster: true,
                grace: GRACE,
                ..crate::settings(&id, n, cores, count, boot)
            };
            if let Some(rate) = plan.change_rate {
                (settings.change_rate, settings.change_burst) = (rate, 1);
            }
            let mut core = Core::new(settings, now);
            for vnode in count.all() {
                let home = vnode.index() % cores;
                if home != n {
                    core.at_home_on(vnode, CoreId::new(home as u16));
                }
            }
            Seat {
                core,
                news: VecDeque::new(),
                followed: None,
                told: (MapVersion::default(), 0),
                told_stall: false,
                pump_due: false,
                asked: 0,
                publishing: 0,
                sessions: BTreeMap::new(),
                lost: BTreeMap::new(),
            }
        };
        Self {
            name,
            boot,
            weight,
            alive: true,
            gone_quietly: false,
            stalled: false,
            stood_still: false,
            backlog: BTreeMap::new(),
            leaving: false,
            mono,
            wall: 0,
            seats: (0..cores).map(seat).collect(),
            id,
            member: Membership::new(LEASE),
            conns: BTreeMap::new(),
            redis_cut: false,
            kafka_cut: false,
            kafka_back: 0,
            kafka_late: false,
            gone: None,
            was_gone: None,
            back: 0,
            missed: false,
            losses: (0, 0),
            asked: BTreeMap::new(),
            reading: None,
            rounds: 0,
            stalled_flag: false,
            read_wanted: false,
            highest_met: Epoch::default(),
            interest: BTreeMap::new(),
            out: (0..PARTITIONS).map(|_| VecDeque::new()).collect(),
            positions: None,
            listens: false,
        }
    }
}

impl World {
    /// Starts a process under the name of a node, which is the newest of that name then.
    pub(crate) fn start_process(&mut self, name: usize) {
        let pid = self.processes.len();
        let boot = 1 + self.random.bits() % (1 << 40);
        let cores = 1 + self.random.below(2) as usize;
        let weight = if self.plan.seed.is_multiple_of(5) {
            100 + 50 * name as u32
        } else {
            100
        };
        let mono = self.random.below(1_000_000);
        let time = presence::Now {
            mono_us: (mono + self.now) * 1_000,
            wall_ms: self.wall + self.now,
        };
        let mut process = Process::new(name, boot, cores, weight, &self.plan, mono, time);
        for seat in process.seats.iter_mut().filter(|_| self.plan.links) {
            seat.core.hear_by_links(false);
        }
        self.note(|| format!("n{name} starts as p{pid} with {cores} cores, boot {boot}"));
        self.processes.push(process);
        if self.plan.has(Fault::Clocks) {
            self.processes[pid].wall = self.random.below(400) as i64 - 200;
        }
        self.names[name] = Some(pid);
        for core in 0..cores {
            self.later(100, pid, In::Tick(core));
        }
        self.later(1, pid, In::Steps(true));
        self.later(2, pid, In::Consume);
        if self.plan.links {
            self.later(2, pid, In::DialLinks);
        }
        self.links_itself(pid);
        self.look_who_is_gone();
    }

    /// Ends a process; `told`: its sockets are closed by the kernel, else its host is gone.
    pub(crate) fn end_process(&mut self, pid: usize, told: bool, what: &str) {
        self.note(|| format!("p{pid} {what}"));
        let process = &mut self.processes[pid];
        process.alive = false;
        process.stalled = false;
        process.backlog.clear();
        process.asked.clear();
        process.gone.get_or_insert(self.now);
        let conns = std::mem::take(&mut process.conns);
        let mut out = std::mem::take(&mut process.out);
        let cut = process.kafka_cut || self.bus.away;
        for (conn, state) in conns {
            self.loses_process(state.client, conn);
            if told {
                self.send_down(state.client, conn, ToClient::End);
            }
        }
        if told {
            self.is_unlinked(pid);
        }
        self.end_links(pid, told);
        // What was on its way to the brokers may arrive.
        for (partition, queue) in out.iter_mut().enumerate() {
            let arrive = self.random.below(queue.len() as u64 + 1) as usize;
            for sending in queue.drain(..arrive) {
                if !cut {
                    self.append(partition, sending.event);
                }
            }
        }
    }
}
