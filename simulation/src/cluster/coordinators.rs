//! Simulated coordinators: the real control, and around it what the coordinator's shell does: it
//! leads, reads, has the control decide, and writes. Each request takes its time, so that a map may
//! be written long after it was decided.

use std::collections::VecDeque;

use coordinator::control::{Control, Now, Observation, Options, Reading, Stored, Write};
use ring::Vnode;

use super::{
    agenda::Event,
    plan::{CLOSED, Fault, LEASE, POLL, RESPONSE},
    redis::{Answer, Command},
    store::End,
    world::World,
};

/// What reaches a coordinator.
pub(crate) enum ToCoordinator {
    Poll,
    Answer(u64, Option<Answer>),
}

/// The answer that a coordinator waits for.
enum Waiting {
    Nothing,
    Lead(u64),
    Identity(u64),
    Leases(u64),
    Map(u64),
    Write(u64),
}

pub(crate) struct Coordinator {
    control: Control,
    pub(crate) alive: bool,
    pub(crate) paused: bool,
    backlog: VecDeque<ToCoordinator>,
    pub(crate) redis_cut: bool,
    /// Which life of it: what was meant for another is dropped.
    pub(crate) life: u64,
    token: Option<u64>,
    source: u64,
    leases: Option<Reading>,
    waiting: Waiting,
    mono: u64,
}

impl Coordinator {
    pub(crate) fn new(options: Options, life: u64, mono: u64) -> Self {
        Self {
            control: Control::new(options),
            alive: true,
            paused: false,
            backlog: VecDeque::new(),
            redis_cut: false,
            life,
            token: None,
            source: 0,
            leases: None,
            waiting: Waiting::Nothing,
            mono,
        }
    }
}

impl World {
    pub(crate) fn options(&self) -> Options {
        Options {
            vnodes: self.count(),
            lease_ttl: LEASE,
            formation: 500,
            max_in_motion: 8,
            sessions_per_second: if self.plan.seed.is_multiple_of(3) {
                40
            } else {
                0
            },
            step_timeout: 4_000,
            returns: 3,
            return_window: 20_000,
            penalty: 1_000,
            penalty_limit: 4_000,
            load_shift: 0,
            load_interval: 60_000,
            // Off where nothing is said of connections, as it is by default.
            closed_for: if self.plan.faults.contains(&Fault::Hints) {
                CLOSED
            } else {
                0
            },
        }
    }

    /// The node that a coordinator, any that answers, has as the vnode's owner.
    pub(crate) fn route(&mut self, vnode: Vnode) -> Option<usize> {
        let n = self.random.below(self.coordinators.len() as u64) as usize;
        let coordinator = &self.coordinators[n];
        if !coordinator.alive || coordinator.paused {
            return None;
        }
        let (node, _) = coordinator.control.map()?.owner(vnode)?;
        node.id.strip_prefix('n')?.parse().ok()
    }

    pub(crate) fn coordinator(&mut self, n: usize, life: u64, input: ToCoordinator) {
        let state = &mut self.coordinators[n];
        if !state.alive || state.life != life {
            return;
        }
        if state.paused {
            state.backlog.push_back(input);
            return;
        }
        match input {
            ToCoordinator::Poll => {
                let at = self.now + POLL;
                self.schedule(at, Event::Coordinator(n, life, ToCoordinator::Poll));
                let state = &self.coordinators[n];
                if matches!(state.waiting, Waiting::Nothing) {
                    let holding = state.token;
                    let ticket = self.consult(
                        n,
                        Command::Lead {
                            coordinator: n,
                            holding,
                        },
                    );
                    self.coordinators[n].waiting = Waiting::Lead(ticket);
                }
            }
            ToCoordinator::Answer(ticket, answer) => self.consulted(n, ticket, answer),
        }
    }

    fn consult(&mut self, n: usize, command: Command) -> u64 {
        let ticket = self.next_ticket();
        self.send_command(End::Coordinator(n), ticket, command);
        let life = self.coordinators[n].life;
        let timeout = ToCoordinator::Answer(ticket, None);
        self.schedule(self.now + RESPONSE, Event::Coordinator(n, life, timeout));
        ticket
    }

    fn consulted(&mut self, n: usize, ticket: u64, answer: Option<Answer>) {
        let state = &mut self.coordinators[n];
        let waiting = match state.waiting {
            Waiting::Lead(at)
            | Waiting::Identity(at)
            | Waiting::Leases(at)
            | Waiting::Map(at)
            | Waiting::Write(at)
                if at == ticket =>
            {
                std::mem::replace(&mut state.waiting, Waiting::Nothing)
            }
            _ => return,
        };
        match (waiting, answer) {
            (Waiting::Lead(_), Some(Answer::Led(token))) => {
                state.token = token;
                let ticket = self.consult(n, Command::Identity);
                self.coordinators[n].waiting = Waiting::Identity(ticket);
            }
            (Waiting::Identity(_), Some(Answer::Identity(identity))) => {
                state.source = ring::hash(&identity);
                let ticket = self.consult(n, Command::Leases);
                self.coordinators[n].waiting = Waiting::Leases(ticket);
            }
            (
                Waiting::Leases(_),
                Some(Answer::Leases {
                    leases,
                    gone,
                    drained,
                    alive,
                }),
            ) => {
                state.leases = Some(Reading {
                    source: state.source,
                    leases,
                    gone,
                    drained,
                    alive: Some(alive),
                    ..Reading::default()
                });
                let ticket = self.consult(n, Command::Map);
                self.coordinators[n].waiting = Waiting::Map(ticket);
            }
            (Waiting::Map(_), Some(Answer::Map(map))) => {
                let mut reading = state.leases.take().expect("they were read before");
                reading.map = map.map_or(Stored::Nothing, Stored::Map);
                self.decide(n, Some(reading));
            }
            (Waiting::Write(_), Some(Answer::Superseded)) => {
                if let Some(token) = state.token.take() {
                    self.consult(n, Command::Resign { token });
                }
            }
            (Waiting::Write(_), _) => {}
            _ => self.decide(n, None),
        }
    }

    fn decide(&mut self, n: usize, reading: Option<Reading>) {
        let wall = self.wall + self.now;
        let state = &mut self.coordinators[n];
        let now = Now {
            mono_ms: state.mono + self.now,
            wall_ms: wall,
        };
        let observation = Observation {
            leading: state.token.is_some(),
            reading,
        };
        let decision = state.control.observe(now, observation);
        for note in &decision.notes {
            self.note(|| format!("coordinator {n}: {note}"));
        }
        for node in decision.forget {
            self.consult(n, Command::ForgetName { node });
        }
        for (node, boot) in decision.end {
            let node = node.to_string();
            self.consult(n, Command::EndLease { node, boot });
        }
        if let Some(Write { after, map }) = decision.write
            && let Some(token) = self.coordinators[n].token
        {
            let ticket = self.consult(n, Command::WriteMap { token, after, map });
            self.coordinators[n].waiting = Waiting::Write(ticket);
        }
    }

    pub(crate) fn unpause(&mut self, n: usize) {
        self.coordinators[n].paused = false;
        let life = self.coordinators[n].life;
        for input in std::mem::take(&mut self.coordinators[n].backlog) {
            self.coordinator(n, life, input);
        }
    }
}
