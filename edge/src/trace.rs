//! The steps of users whom an administrator follows: said in the log, kept for the admin address, and
//! brought to the store of a cluster. It owns how many there may be; what is a step, the presence core
//! says. Nothing here is touched while nobody is followed.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use presence::{Core, Heard, TracedStep, What};
use protocol::{Cause, TraceStep, policy::MAX_TRACED, trace};
use tracing::info;

use crate::clock;

/// Steps of a user that are kept for the admin address; of more the oldest go.
const KEPT: usize = 256;
/// Users of whom steps are kept, those followed before too.
const USERS: usize = 2 * MAX_TRACED;
/// Steps a second of all followed users, and at once; more are dropped and counted.
const RATE: (u64, u64) = (200, 400);
/// Steps that wait for the store; with more the oldest are dropped and counted.
const WAITING: usize = 1_024;
/// Steps that the store is brought at once.
const AT_ONCE: usize = 256;

/// The steps of this node.
#[derive(Debug)]
pub(crate) struct Traces {
    node: String,
    has_store: bool,
    kept: Mutex<Kept>,
    taken: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    /// By user, the one followed last at the end.
    users: VecDeque<(Box<str>, VecDeque<TraceStep>)>,
    unsent: VecDeque<(Box<str>, String)>,
    seq: u64,
    /// The steps that may be taken now, in thousandths, as of `refilled` (monotonic ms).
    allowance: u64,
    refilled: u64,
}

impl Kept {
    /// Whether one more step may be taken at `ms`.
    fn may(&mut self, ms: u64) -> bool {
        let passed = ms.saturating_sub(std::mem::replace(&mut self.refilled, ms));
        let grown = passed.saturating_mul(RATE.0);
        self.allowance = self.allowance.saturating_add(grown).min(RATE.1 * 1_000);
        let may = self.allowance >= 1_000;
        self.allowance -= if may { 1_000 } else { 0 };
        may
    }

    fn of(&mut self, user: &str) -> &mut VecDeque<TraceStep> {
        let at = self.users.iter().position(|(name, _)| **name == *user);
        let at = at.unwrap_or_else(|| {
            if self.users.len() >= USERS {
                self.users.pop_front();
            }
            self.users.push_back((user.into(), VecDeque::new()));
            self.users.len() - 1
        });
        &mut self.users[at].1
    }
}

impl Traces {
    /// `has_store`: a store takes the steps of all nodes.
    pub(crate) fn new(node: &str, has_store: bool) -> Self {
        Self {
            node: node.to_owned(),
            has_store,
            kept: Mutex::new(Kept {
                allowance: RATE.1 * 1_000,
                ..Kept::default()
            }),
            taken: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a core has noted since the last call.
    pub(crate) fn take(&self, core: &mut Core) {
        let (steps, dropped) = core.take_steps();
        let mono = clock::mono_us();
        let wall = clock::wall_us();
        let mut kept = self.kept();
        let mut lost = dropped;
        for step in steps {
            let version = step.version.get();
            if is_repeated(
                kept.of(&step.user),
                event(step.what),
                version,
                core.id().get(),
            ) {
                continue;
            }
            // What is dropped is a gap.
            kept.seq += 1;
            if !kept.may(mono / 1_000) {
                lost += 1;
                continue;
            }
            let time_us = wall.saturating_sub(mono.saturating_sub(step.at));
            let told = self.told(core, &step, time_us, kept.seq);
            log(&told);
            if self.has_store {
                let waiting = (step.user.clone(), told.encode());
                lost += push(&mut kept.unsent, waiting, WAITING);
            }
            push(kept.of(&step.user), told, KEPT);
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        self.dropped.fetch_add(lost, Ordering::Relaxed);
    }

    fn told(&self, core: &Core, step: &TracedStep, time_us: u64, seq: u64) -> TraceStep {
        let mut told = TraceStep {
            event: Cow::Borrowed(event(step.what)),
            time_us,
            user: Cow::Owned(step.user.to_string()),
            node: Cow::Owned(self.node.clone()),
            core: core.id().get(),
            seq,
            vnode: step.vnode.get(),
            epoch: step.epoch.get(),
            version: step.version.get(),
            status: step.status,
            cause: None,
            session: None,
            code: None,
            from: None,
            watchers: None,
        };
        match step.what {
            What::Opened(id) | What::Said(id) => told.session = Some(core.session_name(id)),
            What::Closed(id, code) => {
                told.session = Some(core.session_name(id));
                told.code = code.map(protocol::CloseCode::get);
            }
            What::Changed(cause) => told.cause = Some(cause),
            What::Received(from) => told.from = Some(Cow::Borrowed(source(from))),
            What::Delivered(watchers) => told.watchers = Some(watchers),
            _ => {}
        }
        told
    }

    /// Steps of one user for the store.
    pub(crate) fn next_unsent(&self) -> Option<(Box<str>, Vec<String>)> {
        let mut kept = self.kept();
        let (user, line) = kept.unsent.pop_front()?;
        let mut lines = vec![line];
        while lines.len() < AT_ONCE
            && let Some((_, line)) = kept.unsent.pop_front_if(|(of, _)| *of == user)
        {
            lines.push(line);
        }
        Some((user, lines))
    }

    /// The store has not taken these.
    pub(crate) fn put_back(&self, user: &str, lines: Vec<String>) {
        let mut kept = self.kept();
        for line in lines.into_iter().rev() {
            kept.unsent.push_front((user.into(), line));
        }
        let over = kept.unsent.len().saturating_sub(WAITING);
        kept.unsent.drain(..over);
        self.dropped.fetch_add(over as u64, Ordering::Relaxed);
    }

    /// The steps of the user that are kept here, the oldest first.
    pub(crate) fn steps_of(&self, user: &str) -> Vec<TraceStep> {
        let kept = self.kept();
        let found = kept.users.iter().find(|(name, _)| **name == *user);
        let mut steps: Vec<TraceStep> =
            found.map_or_else(Vec::new, |(_, steps)| steps.iter().cloned().collect());
        TraceStep::sort(&mut steps);
        steps
    }

    /// Steps that were taken, and those that were dropped, since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.taken), read(&self.dropped))
    }
}

/// Whether a step after `steps` would only say that the bus does not take the same version at one more try.
fn is_repeated(steps: &VecDeque<TraceStep>, event: &str, version: u64, core: u16) -> bool {
    let is_of_bus = |event: &str| [trace::BUS_SENT, trace::BUS_FAILED].contains(&event);
    let last = || steps.iter().rev().find(|step| is_of_bus(&step.event));
    is_of_bus(event)
        && last().is_some_and(|last| {
            last.event == trace::BUS_FAILED && (last.version, last.core) == (version, core)
        })
}

/// Writes a step to the log, in members of the names that it has as JSON.
fn log(step: &TraceStep) {
    info!(
        event = "trace_step",
        step = &*step.event,
        timeUs = step.time_us,
        user = &*step.user,
        node = &*step.node,
        core = step.core,
        seq = step.seq,
        vnode = step.vnode,
        epoch = step.epoch,
        version = step.version,
        status = step.status.as_str(),
        cause = step.cause.map(Cause::as_str),
        session = step.session,
        code = step.code,
        from = step.from.as_deref(),
        watchers = step.watchers,
        "{} of {:?}",
        step.event,
        step.user
    );
}

/// Appends to a queue; how many of the oldest had to go.
fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) -> u64 {
    let over = queue.len() >= most;
    if over {
        queue.pop_front();
    }
    queue.push_back(value);
    u64::from(over)
}

fn event(what: What) -> &'static str {
    match what {
        What::Opened(_) => trace::SESSION_OPENED,
        What::Closed(..) => trace::SESSION_CLOSED,
        What::Said(_) => trace::STATUS_TAKEN,
        What::Changed(Cause::Takeover) => trace::TAKEN_OVER,
        What::Changed(_) => trace::CHANGED,
        What::Storing => trace::STORE_SENT,
        What::Stored => trace::STORED,
        What::Fenced => trace::STORE_FENCED,
        What::NotStored => trace::STORE_FAILED,
        What::Publishing => trace::BUS_SENT,
        What::Published => trace::PUBLISHED,
        What::NotPublished => trace::BUS_FAILED,
        What::Linked => trace::LINK_SENT,
        What::Received(_) => trace::RECEIVED,
        What::Delivered(_) => trace::DELIVERED,
    }
}

fn source(from: Heard) -> &'static str {
    match from {
        Heard::Bus => "bus",
        Heard::Link => "link",
        Heard::Core => "core",
        Heard::Store => "store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_steps_are_taken_than_may_be_in_a_time() {
        let traces = Traces::new("n1", true);
        let mut kept = traces.kept();
        let taken = (0..RATE.1 + 50).filter(|_| kept.may(1_000)).count();
        assert_eq!(taken as u64, RATE.1, "a burst");
        let a_second = (0..RATE.0 + 50).filter(|_| kept.may(2_000)).count();
        assert_eq!(a_second as u64, RATE.0);
    }

    #[test]
    fn a_bus_that_stays_away_is_told_once_a_version() {
        let step = |event, version| TraceStep {
            event: Cow::Borrowed(event),
            time_us: 0,
            user: Cow::Borrowed("alice"),
            node: Cow::Borrowed("n1"),
            core: 0,
            seq: 0,
            vnode: 0,
            epoch: 0,
            version,
            status: protocol::Status::Online,
            cause: None,
            session: None,
            code: None,
            from: None,
            watchers: None,
        };
        let mut told = VecDeque::new();
        let mut repeated = |event, version| {
            let repeated = is_repeated(&told, event, version, 0);
            if !repeated {
                told.push_back(step(event, version));
            }
            repeated
        };
        assert!(!repeated(trace::BUS_SENT, 1) && !repeated(trace::BUS_FAILED, 1));
        assert!(!repeated(trace::STORED, 1));
        assert!(repeated(trace::BUS_SENT, 1) && !repeated(trace::PUBLISHED, 1));
        assert!(!repeated(trace::BUS_SENT, 2) && !repeated(trace::BUS_FAILED, 2));
        assert!(!repeated(trace::BUS_SENT, 3));
    }

    #[test]
    fn what_the_store_does_not_take_waits_in_order_and_is_bounded() {
        let traces = Traces::new("n1", true);
        let of = |user: &str, n: usize| (Box::from(user), format!("{user}{n}"));
        traces.kept().unsent = [of("a", 1), of("a", 2), of("b", 1)].into();
        let (user, lines) = traces.next_unsent().expect("some");
        assert_eq!((&*user, &lines[..]), ("a", &["a1".into(), "a2".into()][..]));
        traces.put_back(&user, lines);
        assert_eq!(traces.next_unsent().expect("the same").1.len(), 2);
        traces.put_back("a", vec![String::new(); WAITING + 1]);
        assert_eq!(traces.kept().unsent.len(), WAITING);
        assert_eq!(traces.counts(), (0, 2));
        let mut kept = traces.kept();
        for n in 0..USERS + 1 {
            kept.of(&n.to_string());
        }
        assert_eq!((kept.users.len(), &*kept.users[0].0), (USERS, "1"));
    }
}
