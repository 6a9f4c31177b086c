//! The way of a program's request to the store and of the answer back, and what the users had set that
//! goes with what the store loses. What the store does with a request is that of `redis.rs`.

use ring::Epoch;

use super::{
    agenda::Event,
    coordinators::ToCoordinator,
    plan::RESPONSE,
    process::In,
    redis::{Answer, Command},
    world::World,
};

/// How long maps may be lost after the store has lost something.
const LOST_MAPS: u64 = 5_000;

/// A program that asks the store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Process(usize),
    Coordinator(usize),
}

impl World {
    /// Sends a request to the store, which travels for a while.
    pub(crate) fn send_command(&mut self, end: End, ticket: u64, command: Command) {
        let at = self.now + self.random.below(self.store.delay + 1);
        let life = self.life(end);
        self.schedule(at, Event::Store(end, life, ticket, command));
    }

    fn life(&self, end: End) -> u64 {
        match end {
            End::Process(_) => 0,
            End::Coordinator(n) => self.coordinators[n].life,
        }
    }

    fn is_cut(&self, end: End) -> bool {
        match end {
            End::Process(pid) => self.processes[pid].redis_cut,
            End::Coordinator(n) => self.coordinators[n].redis_cut,
        }
    }

    /// A request reaches the store, or finds that it is not there.
    pub(super) fn reach_store(&mut self, end: End, life: u64, ticket: u64, command: Command) {
        if self.is_cut(end) {
            return;
        }
        if self.store.away {
            self.answer(end, life, ticket, None);
            return;
        }
        if let End::Process(pid) = end {
            self.before_store(pid, &command);
        }
        let map = match &command {
            Command::WriteMap { map, .. } => Some((self.store.map().cloned(), map.clone())),
            _ => None,
        };
        let noted = self.trace.then(|| command.clone());
        let answer = self.store.execute(self.now, command);
        if let Some(command) = noted {
            self.note_done(end, command, &answer);
        }
        if let (Some((before, map)), Answer::Done) = (map, &answer) {
            self.note(|| {
                let share = |node: &ring::Node| {
                    format!(
                        ", {} {} {}",
                        node.id,
                        node.boot,
                        map.owned_by(&node.id).count()
                    )
                };
                let shares: String = map.nodes().iter().map(share).collect();
                format!("map {} is written{shares}", map.version())
            });
            // Who writes after a loss has read a map that others have lost, or the other way round.
            if self.now >= self.store_changed + LOST_MAPS {
                self.check_map(before.as_ref(), &map);
            }
            for pid in 0..self.processes.len() {
                if !self.processes[pid].redis_cut && self.random.below(8) > 0 {
                    let delay = self.random.below(20);
                    self.later(delay, pid, In::Hint);
                }
            }
        }
        if self.store.lossy == 0 || !self.random.once_in(self.store.lossy) {
            self.answer(end, life, ticket, Some(answer));
        }
    }

    /// What the store has just done, for traces.
    fn note_done(&self, end: End, command: Command, answer: &Answer) {
        match (command, answer) {
            (
                Command::Write {
                    vnode,
                    epoch,
                    user,
                    stored,
                },
                Answer::Done | Answer::Fenced(_),
            ) => {
                self.note(|| {
                    format!(
                        "the store {} {user} {} {} {:?} {:?} connected: {} of vnode {vnode} under {epoch} from {end:?}",
                        if matches!(answer, Answer::Done) { "has" } else { "refuses" },
                        stored.record.status,
                        stored.record.version,
                        stored.record.text,
                        stored.mode,
                        stored.connected
                    )
                });
            }
            (Command::Read { user, .. }, Answer::Record(epoch, record)) => {
                self.note(|| {
                    format!("the store tells {end:?} of {user} under {epoch}: {record:?}")
                });
            }
            (Command::Release { vnode, epoch }, Answer::Done) => {
                self.note(|| format!("vnode {vnode} is released under {epoch} by {end:?}"));
            }
            _ => {}
        }
    }

    fn answer(&mut self, end: End, life: u64, ticket: u64, answer: Option<Answer>) {
        let delay = self.random.below(self.store.delay + 1);
        match end {
            End::Process(pid) => self.later(delay, pid, In::Answer(ticket, answer)),
            End::Coordinator(n) => {
                let answer = ToCoordinator::Answer(ticket, answer);
                self.schedule(self.now + delay, Event::Coordinator(n, life, answer));
            }
        }
    }

    /// What the store has is about to be older, or gone.
    pub(crate) fn store_is_changed(&mut self) {
        for accepted in &mut self.accepted {
            accepted.epoch = Epoch::default();
        }
        self.store_trouble = self.now + 10_000;
        self.store_changed = self.now;
        self.losses += 1;
        self.pass_all();
        self.absent_are_lost();
    }

    /// Nobody has in memory what those who are not there had set, nor what those had who came while
    /// the store did not answer, or have come so lately that it was not read, nor those of a vnode
    /// that has just been taken.
    pub(crate) fn absent_are_lost(&mut self) {
        let away = self.store.away || self.now < self.store.back_at + RESPONSE;
        let unread = if away {
            self.store.away_since
        } else {
            self.now
        };
        for index in 0..self.truths.len() {
            let vnode = self.count().vnode(&format!("u{index}"));
            let accepted = &self.accepted[vnode.index()];
            let owner = accepted.taken_by;
            // Its owner has not read what it took.
            let fresh = self.now < accepted.at + RESPONSE;
            let truth = &mut self.truths[index];
            let absent = fresh || truth.rightly_offline >= unread && !truth.is_hiding_at(owner);
            truth.lost |= absent;
            truth.mode_lost |= absent;
        }
    }

    pub(crate) fn store_works(&self) -> bool {
        self.store_trouble < self.now
    }
}
