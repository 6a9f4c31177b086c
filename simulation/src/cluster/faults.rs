//! What goes wrong in a run, by its seed, and how it is healed again.

use super::{
    agenda::Event,
    coordinators::{Coordinator, ToCoordinator},
    plan::Fault,
    process::In,
    world::World,
};

/// How long a process has to hear what it missed, ms.
const MOMENT: u64 = 50;

/// How a lasting fault is undone.
#[derive(Debug, Clone)]
pub(crate) enum Heal {
    StoreBack,
    StoreFast,
    RedisLink(usize),
    CoordinatorLink(usize, u64),
    /// The store that had a replica which got nothing more since then fails.
    Failover(Box<super::redis::Data>),
    /// The replica takes over.
    Promotion(Box<super::redis::Data>),
    BusBack,
    BusLink(usize),
    BusReader(usize),
    BusReports,
    Restart(usize),
    Wake(usize),
    Undrain(String),
    Coordinator(usize),
    Unpause(usize, u64),
    /// A node whose connection was closed and made again knows by now what came of it.
    Link,
    Kill(usize),
    /// Who can connect to whom again.
    Mesh(Vec<(usize, usize)>),
}

impl World {
    /// Lets something go wrong, by chance and the plan.
    pub(crate) fn disturb(&mut self) {
        if self.plan.faults.is_empty() {
            return;
        }
        let which = self.random.below(self.plan.faults.len() as u64) as usize;
        let fault = self.plan.faults[which];
        let alive: Vec<usize> = (0..self.processes.len())
            .filter(|pid| self.processes[*pid].alive && !self.processes[*pid].stalled)
            .collect();
        if alive.is_empty() {
            return;
        }
        let pid = alive[self.random.below(alive.len() as u64) as usize];
        match fault {
            Fault::StoreAway if !self.store.away => {
                self.store.go_away(self.now);
                self.links_break();
                self.fault("the store goes away", 300, 6_000, Heal::StoreBack);
            }
            Fault::StoreSlow if self.store.delay <= 5 => {
                self.store.delay = 20 + self.random.below(900);
                self.store.lossy = [0, 4, 10][self.random.below(3) as usize];
                self.fault("the store gets slow", 500, 6_000, Heal::StoreFast);
            }
            Fault::StoreCut => {
                let n = self.random.below(self.coordinators.len() as u64) as usize;
                if self.random.once_in(4) && !self.coordinators[n].redis_cut {
                    self.coordinators[n].redis_cut = true;
                    let life = self.coordinators[n].life;
                    let what = format!("coordinator {n} does not reach the store");
                    self.fault(&what, 300, 6_000, Heal::CoordinatorLink(n, life));
                } else if !self.processes[pid].redis_cut {
                    self.processes[pid].redis_cut = true;
                    let what = format!("p{pid} does not reach the store");
                    self.fault(&what, 300, 8_000, Heal::RedisLink(pid));
                }
            }
            Fault::StoreOld if !self.failing_over => {
                self.failing_over = true;
                let data = Box::new(self.store.data.clone());
                self.fault("the replica gets no more", 1, 1_000, Heal::Failover(data));
            }
            Fault::StoreWiped if self.random.once_in(3) => {
                let restarted = self.random.once_in(2);
                self.note(|| "the store loses everything".into());
                self.store_is_changed();
                self.store.wipe(restarted);
                if restarted {
                    self.links_break();
                }
                self.instant();
            }
            Fault::BusAway if !self.bus.away => {
                self.bus.away = true;
                self.fault("the bus goes away", 300, 8_000, Heal::BusBack);
            }
            Fault::BusCut if !self.processes[pid].kafka_cut => {
                self.processes[pid].kafka_cut = true;
                let what = format!("p{pid} does not reach the bus");
                self.fault(&what, 300, 8_000, Heal::BusLink(pid));
            }
            Fault::BusLag if !self.processes[pid].kafka_late => {
                self.processes[pid].kafka_late = true;
                let what = format!("p{pid} reads the bus late");
                self.fault(&what, 100, 5_000, Heal::BusReader(pid));
            }
            Fault::BusReports if !self.bus.unreliable => {
                self.bus.unreliable = true;
                self.fault(
                    "reports of the bus are unreliable",
                    500,
                    8_000,
                    Heal::BusReports,
                );
            }
            Fault::BusGap => {
                self.note(|| "the bus deletes its events".into());
                self.bus.delete();
                self.instant();
            }
            Fault::Kill => {
                self.end_process(pid, true, "is killed");
                self.restart_later(pid, 100, 8_000);
            }
            Fault::Vanish => {
                self.processes[pid].gone_quietly = true;
                self.end_process(pid, false, "vanishes");
                self.restart_later(pid, 3_000, 12_000);
            }
            Fault::Stall | Fault::Twin => {
                self.pass_all();
                self.processes[pid].stalled = true;
                let what = format!("p{pid} stands still");
                let most = if self.random.once_in(2) {
                    2_500
                } else {
                    15_000
                };
                self.fault(&what, 200, most, Heal::Wake(pid));
                if fault == Fault::Twin {
                    let delay = 500 + self.random.below(6_000);
                    let name = self.processes[pid].name;
                    let at = self.now + delay;
                    self.active += 1;
                    self.schedule(at, Event::Heal(Heal::Restart(name)));
                }
            }
            Fault::Drain => {
                let node = self.processes[pid].id.to_string();
                if self.store.data.drained.insert(node.clone()) {
                    self.note(|| format!("{node} is drained"));
                    let delay = 500 + self.random.below(12_000);
                    let at = self.now + delay;
                    self.schedule(at, Event::Heal(Heal::Undrain(node)));
                }
            }
            Fault::Leave if alive.len() > 1 && !self.processes[pid].leaving => {
                self.note(|| format!("p{pid} wants to leave"));
                self.processes[pid].leaving = true;
                let name = self.processes[pid].name;
                let at = self.now + 4_000 + self.random.below(10_000);
                self.schedule(at, Event::Rejoin(name));
            }
            Fault::Join if self.names.len() < 6 => {
                self.names.push(None);
                self.start_process(self.names.len() - 1);
            }
            Fault::Coordinators => {
                let n = self.random.below(self.coordinators.len() as u64) as usize;
                let state = &mut self.coordinators[n];
                if !state.alive || state.paused {
                    return;
                }
                if self.random.once_in(2) {
                    state.alive = false;
                    let what = format!("coordinator {n} is killed");
                    self.fault(&what, 200, 8_000, Heal::Coordinator(n));
                } else {
                    state.paused = true;
                    let life = state.life;
                    let what = format!("coordinator {n} stands still");
                    self.fault(&what, 200, 8_000, Heal::Unpause(n, life));
                }
            }
            Fault::Clocks => {
                let most = [100, 2_000][self.random.below(2) as usize];
                let step = self.random.below(2 * most) as i64 - most as i64;
                self.note(|| format!("the wall clock of p{pid} steps to {step} ms off"));
                self.processes[pid].wall = step;
            }
            Fault::Hints => self.mislead(pid),
            Fault::Links if self.plan.links => self.disturb_links(pid),
            _ => {}
        }
    }

    /// Begins a fault that lasts between `least` and `most` ms.
    pub(crate) fn fault(&mut self, what: &str, least: u64, most: u64, heal: Heal) {
        let lasts = least + self.random.below(most);
        self.note(|| format!("FAULT {what} for {lasts} ms"));
        self.active += 1;
        let at = self.now + lasts;
        self.schedule(at, Event::Heal(heal));
        self.look_who_is_gone();
    }

    /// Makes a fault that is over at once.
    pub(crate) fn instant(&mut self) {
        self.calm_at = self.now;
    }

    pub(crate) fn restart_later(&mut self, pid: usize, least: u64, most: u64) {
        let delay = least + self.random.below(most);
        let name = self.processes[pid].name;
        self.active += 1;
        let at = self.now + delay;
        self.schedule(at, Event::Heal(Heal::Restart(name)));
    }

    pub(crate) fn heal(&mut self, heal: Heal) {
        self.note(|| match &heal {
            Heal::Failover(_) => "HEAL: the store fails".into(),
            Heal::Promotion(_) => "HEAL: the replica takes over".into(),
            heal => format!("HEAL {heal:?}"),
        });
        self.pass_all();
        match heal {
            Heal::StoreBack => {
                self.store.come_back(self.now);
                if self.random.once_in(2) {
                    // It was restarted, with all it had.
                    self.store.restart();
                    self.links_break();
                }
            }
            Heal::StoreFast => {
                self.store.delay = 3;
                self.store.lossy = 0;
            }
            Heal::RedisLink(pid) => self.processes[pid].redis_cut = false,
            Heal::CoordinatorLink(n, life) => {
                if self.coordinators[n].life == life {
                    self.coordinators[n].redis_cut = false;
                }
            }
            // In half of the worlds that takes a while, in which nobody reaches it.
            Heal::Failover(data) if self.plan.seed.is_multiple_of(2) && !self.store.away => {
                self.store.go_away(self.now);
                self.links_break();
                // Who comes before a replica has taken over is read from that one.
                self.absent_are_lost();
                self.fault(
                    "no replica has taken over",
                    300,
                    4_000,
                    Heal::Promotion(data),
                );
            }
            Heal::Failover(data) => self.promote(*data),
            Heal::Promotion(data) => {
                self.store.come_back(self.now);
                self.promote(*data);
            }
            Heal::BusBack => self.bus.away = false,
            Heal::BusLink(pid) => {
                self.processes[pid].kafka_cut = false;
                self.processes[pid].kafka_back = self.now;
            }
            Heal::BusReader(pid) => self.processes[pid].kafka_late = false,
            Heal::BusReports => self.bus.unreliable = false,
            Heal::Restart(name) => self.start_process(name),
            Heal::Wake(pid) => self.wake(pid),
            Heal::Undrain(node) => {
                self.store.data.drained.remove(&node);
                return;
            }
            Heal::Coordinator(n) => self.start_coordinator(n),
            Heal::Unpause(n, life) => {
                if self.coordinators[n].life == life {
                    self.unpause(n);
                }
            }
            Heal::Mesh(pairs) => self.heal_links(&pairs),
            Heal::Link => {}
            Heal::Kill(pid) => {
                if self.processes[pid].alive && !self.processes[pid].stalled {
                    self.end_process(pid, true, "is killed");
                    self.restart_later(pid, 100, 8_000);
                } else {
                    self.link_in(0, pid, true);
                }
            }
        }
        self.active -= 1;
        self.calm_at = self.now;
        self.look_who_is_gone();
    }

    fn promote(&mut self, data: super::redis::Data) {
        self.failing_over = false;
        self.store_is_changed();
        self.store.restore(data);
        self.links_break();
    }

    pub(crate) fn start_coordinator(&mut self, n: usize) {
        let life = self.next_ticket();
        let mono = self.random.below(1_000_000);
        let coordinator = Coordinator::new(self.options(), life, mono);
        if n == self.coordinators.len() {
            self.coordinators.push(coordinator);
        } else {
            self.coordinators[n] = coordinator;
        }
        let at = self.now + self.random.below(300);
        self.schedule(at, Event::Coordinator(n, life, ToCoordinator::Poll));
    }

    /// A process goes on: what waited for it comes at once, in any order of its senders.
    fn wake(&mut self, pid: usize) {
        if !self.processes[pid].alive {
            return;
        }
        self.processes[pid].stalled = false;
        self.processes[pid].stood_still = true;
        self.look_who_is_gone();
        let mut backlog = std::mem::take(&mut self.processes[pid].backlog);
        let mut inputs: Vec<In> = Vec::new();
        while !backlog.is_empty() {
            let lane = self.random.below(backlog.len() as u64) as usize;
            let lane = *backlog.keys().nth(lane).expect("there are so many");
            let queue = backlog.get_mut(&lane).expect("it was just listed");
            inputs.extend(queue.pop_front());
            if queue.is_empty() {
                backlog.remove(&lane);
            }
        }
        for input in inputs {
            self.process(pid, input);
        }
    }

    /// A process that stands still, or reaches neither the store nor, in time, the bus, cannot know
    /// what the others do, nor they what it does.
    pub(crate) fn look_who_is_gone(&mut self) {
        for pid in 0..self.processes.len() {
            let state = &self.processes[pid];
            let deaf = match self.plan.links {
                true => self.mesh.is_cut(pid),
                false => self.bus.away || state.kafka_cut || state.kafka_late,
            };
            let gone =
                !state.alive || state.stalled || ((self.store.away || state.redis_cut) && deaf);
            let now = self.now;
            let state = &mut self.processes[pid];
            if gone {
                // Who takes part again for a moment only has not heard what it missed.
                let before = state.was_gone.filter(|(_, until)| now < until + MOMENT);
                let since = before.map_or(now, |(since, _)| since);
                state.gone.get_or_insert(since);
            } else if let Some(since) = state.gone.take() {
                state.was_gone = Some((since, now));
                if !std::mem::take(&mut state.stood_still) {
                    // Who stood still has to look before it judges; who was cut off had no chance to.
                    state.back = now;
                }
            }
        }
    }
}
