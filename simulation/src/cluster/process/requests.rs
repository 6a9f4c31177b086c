//! What a simulated edge asks the store, for its cores and its membership. It owns which answer is
//! whose, and holds failures back; what an answer means it leaves to those that asked.

use presence::{Renewal, StoreReply, StoreRequest};
use ring::{Epoch, Vnode};

use super::{FAILED, In, Process, ROOM, Seat};
use crate::cluster::{
    checks::GIVEN,
    plan::{GRACE, LEASE, RESPONSE},
    redis::{Answer, Command},
    store::End,
    world::World,
};
use crate::{HEARTBEAT, TIMEOUT};

/// How long ago a user may have left to be adopted all the same: a change that is this old has
/// reached store and bus, whatever became of its writer.
const UNCERTAIN: u64 = LEASE + HEARTBEAT + TIMEOUT + GRACE + 5_000;

/// Which request of the store an answer is for.
#[derive(Debug)]
pub(super) enum Asked {
    Core(usize, StoreRequest),
    /// And whether the former owner had let go of the vnode.
    List(usize, Vnode, Epoch, bool),
    Renew(u64),
    Map(u64),
    Identity(u64),
    Nothing,
}

impl World {
    /// Sends a request to the store; its answer, or that there was none, comes back.
    pub(super) fn ask(&mut self, pid: usize, command: Command, asked: Asked) {
        let ticket = self.next_ticket();
        self.processes[pid].asked.insert(ticket, asked);
        self.send_command(End::Process(pid), ticket, command);
        self.later(RESPONSE, pid, In::Answer(ticket, None));
    }

    pub(super) fn answered(&mut self, pid: usize, ticket: u64, answer: Option<Answer>) {
        let Some(asked) = self.processes[pid].asked.remove(&ticket) else {
            return;
        };
        match asked {
            Asked::Core(n, request) => self.core_answered(pid, n, request, answer),
            Asked::List(n, vnode, epoch, released) => {
                let reply = match answer {
                    Some(Answer::Users(users)) => StoreReply::Loaded {
                        vnode,
                        epoch,
                        released,
                        users,
                    },
                    Some(Answer::Fenced(newest)) if newest > epoch => {
                        StoreReply::LoadFenced(vnode, epoch, newest)
                    }
                    _ => StoreReply::LoadFailed(vnode, epoch),
                };
                self.reply(pid, n, reply);
            }
            Asked::Renew(sent) => {
                let renewal = match answer {
                    Some(Answer::Renewal(renewal)) => renewal,
                    _ => Renewal::Failed,
                };
                self.lease_renewed(pid, sent, renewal);
            }
            Asked::Map(round) | Asked::Identity(round) => self.map_read(pid, round, answer),
            Asked::Nothing => {}
        }
    }

    fn core_answered(
        &mut self,
        pid: usize,
        n: usize,
        request: StoreRequest,
        answer: Option<Answer>,
    ) {
        let reply = match (request, answer) {
            (StoreRequest::Load { vnode, epoch, .. }, Some(Answer::Claimed(released))) => {
                let wall = self.time_of(pid).wall_ms;
                let since = wall.saturating_sub(UNCERTAIN);
                let list = Command::List {
                    vnode,
                    epoch,
                    since,
                };
                self.ask(pid, list, Asked::List(n, vnode, epoch, released));
                return;
            }
            (StoreRequest::Load { vnode, epoch, .. }, Some(Answer::Held)) => {
                StoreReply::Held(vnode, epoch)
            }
            (StoreRequest::Load { vnode, epoch, .. }, Some(Answer::Fenced(newest))) => {
                self.loses(pid, n, vnode, newest);
                StoreReply::LoadFenced(vnode, epoch, newest)
            }
            (StoreRequest::Release { vnode, epoch }, Some(Answer::Done | Answer::Fenced(_))) => {
                StoreReply::Released(vnode, epoch)
            }
            (StoreRequest::Read { ticket, .. }, Some(Answer::Record(epoch, stored))) => {
                StoreReply::Read(ticket, epoch, stored)
            }
            (StoreRequest::Write { ticket, .. }, Some(Answer::Done)) => StoreReply::Written(ticket),
            (StoreRequest::Write { ticket, vnode, .. }, Some(Answer::Fenced(newest))) => {
                self.loses(pid, n, vnode, newest);
                StoreReply::WriteFenced(ticket, newest)
            }
            (request, _) => request.failed(),
        };
        self.reply(pid, n, reply);
    }

    /// Gives a core the store's reply; failures are held back.
    fn reply(&mut self, pid: usize, n: usize, reply: StoreReply) {
        if matches!(
            reply,
            StoreReply::LoadFailed(..)
                | StoreReply::ReleaseFailed(..)
                | StoreReply::ReadFailed(_)
                | StoreReply::WriteFailed(_)
        ) {
            self.later(FAILED, pid, In::Failed(n, reply));
            return;
        }
        self.processes[pid].seats[n].asked -= 1;
        self.core(pid, n).store_reply(reply);
        self.schedule_pump(pid, n);
    }

    pub(super) fn pump_store(&mut self, pid: usize, n: usize) {
        loop {
            let Process {
                seats, interest, ..
            } = &mut self.processes[pid];
            let Seat { core, asked, .. } = &mut seats[n];
            let changed = |user, is_wanted| {
                let count = interest.entry(user).or_default();
                *count = if is_wanted { *count + 1 } else { *count - 1 };
                if *count == 0 {
                    interest.remove(&user);
                }
            };
            let Some(request) = core
                .store_requests(usize::from(*asked < ROOM), changed)
                .pop()
            else {
                return;
            };
            *asked += 1;
            let command = match request.clone() {
                StoreRequest::Load {
                    vnode,
                    epoch,
                    wait_below,
                } => Command::Claim {
                    vnode,
                    epoch,
                    wait_below,
                },
                StoreRequest::Release { vnode, epoch } => Command::Release { vnode, epoch },
                StoreRequest::Owner { vnode } => {
                    // At once: how a seed runs does not hang on a look.
                    let reached = !self.store.away && !self.processes[pid].redis_cut;
                    let epoch = reached.then(|| self.store.epoch(vnode));
                    let owner = StoreReply::Owner(vnode, epoch);
                    self.processes[pid].seats[n].asked -= 1;
                    self.core(pid, n).store_reply(owner);
                    continue;
                }
                StoreRequest::Read { vnode, user, .. } => Command::Read { vnode, user },
                StoreRequest::Write {
                    vnode,
                    epoch,
                    user,
                    stored,
                    ..
                } => {
                    self.check_made(&user, &stored.record, pid, GIVEN);
                    Command::Write {
                        vnode,
                        epoch,
                        user,
                        stored,
                    }
                }
            };
            self.ask(pid, command, Asked::Core(n, request));
        }
    }
}
