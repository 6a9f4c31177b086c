//! The store of a cluster: what the cores ask goes to Redis in pipelines, some of which may be
//! under way at once, since a user is in one of them at most. It owns the batching; what Redis is
//! told is the business of `redis_store`.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use presence::{StoreReply, StoreRequest, Ticket};
use protocol::Stored;
use redis_store::{Done, Link, Op, StoreError};
use ring::{Epoch, Vnode};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_local,
    time::{sleep, timeout},
};
use tracing::warn;

use super::remote::{Answers, Batch, Outlet};
use crate::{clock, cluster::StoreStats};

/// Batches under way at once.
const UNDER_WAY: usize = 4;
/// How long a batch counts as one of those: what takes longer waits for a server that the rest need
/// not wait for. What waits in all is bounded by the handles.
const PLACE: Duration = Duration::from_millis(50);
/// Requests in a batch.
const BATCH: usize = 8_192;
/// How long failures are held back, so that they are not repeated as fast as they come. Nothing else
/// waits for it.
const FAILED: Duration = Duration::from_millis(100);
/// Between two looks for users that may be forgotten.
const TRIM: Duration = Duration::from_secs(1);
/// In how many of those every vnode has its turn.
const TRIM_ROUND: usize = 3_600;
/// Users that one look forgets in a vnode at most.
const TRIM_USERS: u32 = 1_000;

/// The bridge between the cores' handles and Redis.
pub(crate) struct Redis {
    pub(crate) link: Link,
    /// Users that were last seen within so many ms are adopted by a new owner.
    pub(crate) uncertain_ms: u64,
    pub(crate) retention_ms: u64,
    pub(crate) stats: Arc<StoreStats>,
}

/// Cores and the tickets of their requests.
type Who = Vec<(usize, Ticket)>;

/// Users and what is to be kept of them.
type Records = Vec<(Box<str>, Stored)>;

/// The asker who gets an operation's answer.
enum Asker {
    Load(usize, Vnode, Epoch),
    Release(usize, Vnode, Epoch),
    Owner(usize, Vnode),
    Read(Who),
    Write(Who),
}

impl Redis {
    /// Answers what the cores ask until they end.
    pub(crate) async fn serve(self, outlet: Outlet) {
        let Outlet {
            mut requests,
            answers,
        } = outlet;
        let bridge = Rc::new(self);
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let owned = Rc::default();
        spawn_local(Rc::clone(&bridge).trim(Rc::clone(&owned)));
        while let Some(first) = requests.recv().await {
            // While all are under way, more comes together.
            let Ok(place) = Arc::clone(&under_way).acquire_owned().await else {
                return;
            };
            let mut batch = vec![first];
            let mut size = batch[0].requests.len();
            while size < BATCH
                && let Ok(next) = requests.try_recv()
            {
                size += next.requests.len();
                batch.push(next);
            }
            let (bridge, answers) = (Rc::clone(&bridge), answers.clone());
            let owned = Rc::clone(&owned);
            spawn_local(async move {
                bridge.execute(batch, place, &answers, &owned).await;
            });
        }
    }

    /// Each request is answered as soon as Redis has: on a Redis Cluster none waits for a master that
    /// was not asked.
    async fn execute(
        &self,
        batch: Vec<Batch>,
        place: OwnedSemaphorePermit,
        answers: &Answers,
        owned: &Owned,
    ) {
        let (askers, ops) = self.operations(batch);
        let mut askers: Vec<Option<Asker>> = askers.into_iter().map(Some).collect();
        let started = clock::mono_us();
        let mut failed = None;
        let take = |done: redis_store::Answers| {
            let mut replies: Vec<Vec<StoreReply>> = vec![Vec::new(); answers.cores()];
            let mut failures = replies.clone();
            for (at, result) in done {
                let replies = match &result {
                    Ok(_) => &mut replies,
                    Err(error) => {
                        failed = Some(error.to_string());
                        &mut failures
                    }
                };
                let asker = askers[at].take().expect("each operation is answered once");
                answer(asker, result, replies, owned);
            }
            answers.give_all(replies);
            if failures.iter().any(|failures| !failures.is_empty()) {
                let answers = answers.clone();
                spawn_local(async move {
                    sleep(FAILED).await;
                    answers.give_all(failures);
                });
            }
        };
        {
            let mut run = std::pin::pin!(self.link.run_each(ops, take));
            if timeout(PLACE, &mut run).await.is_err() {
                drop(place);
                run.await;
            }
        }
        let took = clock::mono_us().saturating_sub(started);
        self.stats
            .flush
            .lock()
            .expect("nobody panics with this lock")
            .record(took);
        if failed.is_some() {
            self.stats.failures.fetch_add(1, Ordering::Relaxed);
        }
        // What failed is asked again, so that this ends with the trouble.
        self.stats.failing.store(failed.map(Arc::new));
        for bad in self.link.take_bad_records() {
            let redis_store::BadRecord {
                vnode,
                user,
                reason,
            } = bad;
            warn!(
                event = "record_left_aside",
                user = &*user,
                vnode = vnode.get(),
                "redis: the record of {user:?} in vnode {vnode} is left aside: {reason}"
            );
        }
    }

    /// One operation for all writes of a vnode and epoch, and for all reads of a vnode.
    fn operations(&self, batch: Vec<Batch>) -> (Vec<Asker>, Vec<Op>) {
        let mut writes: HashMap<(Vnode, Epoch), (Who, Records)> = HashMap::new();
        let mut reads: HashMap<Vnode, (Who, Vec<Box<str>>)> = HashMap::new();
        let (mut askers, mut ops) = (Vec::new(), Vec::new());
        let since_ms = clock::wall_ms().saturating_sub(self.uncertain_ms);
        for Batch { core, requests } in batch {
            for request in requests {
                match request {
                    StoreRequest::Load {
                        vnode,
                        epoch,
                        wait_below,
                    } => {
                        askers.push(Asker::Load(core, vnode, epoch));
                        ops.push(Op::Claim {
                            vnode,
                            epoch,
                            wait_below,
                            since_ms,
                        });
                    }
                    StoreRequest::Release { vnode, epoch } => {
                        askers.push(Asker::Release(core, vnode, epoch));
                        ops.push(Op::Release { vnode, epoch });
                    }
                    StoreRequest::Owner { vnode } => {
                        askers.push(Asker::Owner(core, vnode));
                        let users = Vec::new();
                        ops.push(Op::Read { vnode, users });
                    }
                    StoreRequest::Read {
                        ticket,
                        vnode,
                        user,
                    } => {
                        let (who, users) = reads.entry(vnode).or_default();
                        who.push((core, ticket));
                        users.push(user);
                    }
                    StoreRequest::Write {
                        ticket,
                        vnode,
                        epoch,
                        user,
                        stored,
                    } => {
                        let (who, records) = writes.entry((vnode, epoch)).or_default();
                        who.push((core, ticket));
                        records.push((user, stored));
                    }
                }
            }
        }
        for ((vnode, epoch), (who, records)) in writes {
            askers.push(Asker::Write(who));
            ops.push(Op::Write {
                vnode,
                epoch,
                records,
            });
        }
        for (vnode, (who, users)) in reads {
            askers.push(Asker::Read(who));
            ops.push(Op::Read { vnode, users });
        }
        (askers, ops)
    }

    /// Forgets users that have not been seen for the retention, a few vnodes at a time.
    async fn trim(self: Rc<Self>, owned: Rc<Owned>) {
        let mut last = None;
        loop {
            sleep(TRIM).await;
            let mut vnodes: Vec<(Vnode, Epoch)> =
                owned.0.borrow().iter().map(|(v, e)| (*v, *e)).collect();
            vnodes.sort_unstable();
            let a_turn = vnodes.len().div_ceil(TRIM_ROUND);
            let from = vnodes.partition_point(|(vnode, _)| Some(*vnode) <= last);
            let turn: Vec<_> = vnodes[from..].iter().take(a_turn).copied().collect();
            last = turn.last().map(|(vnode, _)| *vnode);
            let before_ms = clock::wall_ms().saturating_sub(self.retention_ms);
            let ops = turn.iter().map(|(vnode, epoch)| Op::Trim {
                vnode: *vnode,
                epoch: *epoch,
                before_ms,
                limit: TRIM_USERS,
            });
            for ((vnode, epoch), done) in turn.iter().zip(self.link.run(ops.collect()).await) {
                match done {
                    Ok(Done::Trimmed(users)) => {
                        let users = u64::from(users);
                        self.stats.trimmed.fetch_add(users, Ordering::Relaxed);
                    }
                    // It is another's by now.
                    Ok(Done::Fenced(_)) => owned.lost(*vnode, *epoch),
                    // It has its turn again.
                    _ => {}
                }
            }
        }
    }
}

/// Vnodes that were claimed and not lost since, as far as the bridge saw.
#[derive(Default)]
struct Owned(std::cell::RefCell<HashMap<Vnode, Epoch>>);

impl Owned {
    fn lost(&self, vnode: Vnode, epoch: Epoch) {
        let mut owned = self.0.borrow_mut();
        if owned.get(&vnode).is_some_and(|have| *have <= epoch) {
            owned.remove(&vnode);
        }
    }
}

fn answer(
    asker: Asker,
    result: Result<Done, StoreError>,
    replies: &mut [Vec<StoreReply>],
    owned: &Owned,
) {
    match asker {
        Asker::Load(core, vnode, epoch) => replies[core].push(match result {
            Ok(Done::Claimed { released, users }) => {
                owned.0.borrow_mut().insert(vnode, epoch);
                StoreReply::Loaded {
                    vnode,
                    epoch,
                    released,
                    users,
                }
            }
            Ok(Done::Held) => StoreReply::Held(vnode, epoch),
            Ok(Done::Fenced(newer)) => StoreReply::LoadFenced(vnode, epoch, newer),
            _ => StoreReply::LoadFailed(vnode, epoch),
        }),
        Asker::Release(core, vnode, epoch) => replies[core].push(match result {
            Ok(Done::Released | Done::Fenced(_)) => {
                owned.lost(vnode, epoch);
                StoreReply::Released(vnode, epoch)
            }
            _ => StoreReply::ReleaseFailed(vnode, epoch),
        }),
        Asker::Owner(core, vnode) => replies[core].push(match result {
            Ok(Done::Records(epoch, _)) => StoreReply::Owner(vnode, Some(epoch)),
            _ => StoreReply::Owner(vnode, None),
        }),
        Asker::Write(who) => {
            for (core, ticket) in who {
                replies[core].push(match &result {
                    Ok(Done::Written) => StoreReply::Written(ticket),
                    Ok(Done::Fenced(newer)) => StoreReply::WriteFenced(ticket, *newer),
                    _ => StoreReply::WriteFailed(ticket),
                });
            }
        }
        Asker::Read(who) => match result {
            Ok(Done::Records(epoch, records)) => {
                for ((core, ticket), record) in who.into_iter().zip(records) {
                    replies[core].push(StoreReply::Read(ticket, epoch, record));
                }
            }
            _ => {
                for (core, ticket) in who {
                    replies[core].push(StoreReply::ReadFailed(ticket));
                }
            }
        },
    }
}
