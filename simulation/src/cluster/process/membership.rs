//! What a simulated edge does for its membership: the steps that it wants, its lease and its looks
//! at the map. It owns a look that is under way; what follows from it the membership decides.

use std::sync::Arc;

use presence::{Found, Renewal, Step};
use protocol::{Lease, Load};
use ring::Map;

use super::{In, News, requests::Asked};
use crate::cluster::{
    redis::{Answer, Command},
    world::World,
};

/// The reads of one look at the map.
pub(super) struct Reading {
    round: u64,
    map: Option<Option<Map>>,
    identity: Option<String>,
}

impl World {
    /// Carries out the steps that the membership asks for.
    pub(super) fn steps(&mut self, pid: usize) {
        let mono = self.mono(pid);
        let process = &mut self.processes[pid];
        if std::mem::take(&mut process.stalled_flag) {
            process.member.stood_still(mono);
        }
        if std::mem::take(&mut process.read_wanted) {
            process.member.map_changed();
        }
        process.member.met(process.highest_met);
        let (followed, moving) = process.progress();
        process.member.progress(followed, moving);
        for step in process.member.steps(mono) {
            match step {
                Step::Renew { newcomer } => self.renew(pid, newcomer),
                Step::ReadMap => {
                    let process = &mut self.processes[pid];
                    process.rounds += 1;
                    let round = process.rounds;
                    process.reading = Some(Reading {
                        round,
                        map: None,
                        identity: None,
                    });
                    self.ask(pid, Command::Map, Asked::Map(round));
                    self.ask(pid, Command::Identity, Asked::Identity(round));
                }
                step => self.carry_out(pid, step),
            }
        }
        let process = &self.processes[pid];
        if process.leaving && process.seats.iter().all(|s| s.core.vnodes_owned() == 0) {
            let (followed, moving) = process.progress();
            let nothing = |map: &Arc<Map>| map.owned_by(&process.id).next().is_none();
            if moving == 0
                && process
                    .map()
                    .is_some_and(|m| m.version() == followed && nothing(m))
            {
                let forget = Command::Forget {
                    node: process.id.to_string(),
                    boot: process.boot,
                };
                self.ask(pid, forget, Asked::Nothing);
                self.end_process(pid, true, "has left");
            }
        }
    }

    fn renew(&mut self, pid: usize, newcomer: bool) {
        let mono = self.mono(pid);
        let process = &self.processes[pid];
        let (followed, moving) = process.progress();
        let lease = Lease {
            node: process.id.to_string(),
            boot: process.boot,
            address: format!("ws://{}", process.id),
            cores: process.seats.len() as u16,
            weight: process.weight,
            draining: process.leaving,
            map_version: followed.get(),
            highest_epoch: process.member.highest_epoch().get(),
            moving: moving as u32,
            // No two renewals measure the same.
            load: Load {
                lag_ms: mono,
                ..Load::default()
            },
            ..Lease::default()
        };
        self.ask(
            pid,
            Command::Renew {
                lease: Box::new(lease),
                newcomer,
            },
            Asked::Renew(mono),
        );
    }

    fn carry_out(&mut self, pid: usize, step: Step) {
        let process = &mut self.processes[pid];
        let news = match step {
            Step::Follow { map, before } => News::Follow(map, before),
            Step::Resume => News::Resume,
            Step::Resync => News::Resync,
            Step::GiveUp => {
                self.end_process(pid, true, "gives up: another process has its name");
                if self.names[self.processes[pid].name] == Some(pid) {
                    // Whoever runs it starts it again.
                    self.restart_later(pid, 500, 1_000);
                }
                return;
            }
            Step::Renew { .. } | Step::ReadMap => return,
        };
        process.tell(&news);
        for n in 0..self.processes[pid].seats.len() {
            let delay = self.random.below(5);
            self.later(delay, pid, In::Pump(n));
        }
    }

    pub(super) fn lease_renewed(&mut self, pid: usize, sent: u64, renewal: Renewal) {
        let mono = self.mono(pid);
        let step = self.processes[pid].member.renewed(sent, mono, renewal);
        if let Some(step) = step {
            self.carry_out(pid, step);
        }
        self.notify(pid);
    }

    /// One of the two answers of a look at the map; with both the membership knows.
    pub(super) fn map_read(&mut self, pid: usize, round: u64, answer: Option<Answer>) {
        let mono = self.mono(pid);
        let process = &mut self.processes[pid];
        let Some(reading) = process.reading.as_mut().filter(|r| r.round == round) else {
            return;
        };
        match answer {
            Some(Answer::Map(map)) => reading.map = Some(map),
            Some(Answer::Identity(identity)) => reading.identity = Some(identity),
            _ => {
                process.reading = None;
                process.member.map_read(mono, None);
                self.notify(pid);
                return;
            }
        }
        let Some(Reading {
            map: Some(map),
            identity: Some(identity),
            ..
        }) = process
            .reading
            .take_if(|r| r.map.is_some() && r.identity.is_some())
        else {
            return;
        };
        process.missed = false;
        let steps = process.member.map_read(mono, Some(Found { map, identity }));
        for step in steps {
            self.carry_out(pid, step);
        }
        self.notify(pid);
    }
}
