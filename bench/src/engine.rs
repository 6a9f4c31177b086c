//! A worker: one thread, one epoll, its share of the users. This file owns the loop: what is due
//! when, the orders of the parent, and the end. Sockets, routes, the lives of sessions and the
//! judgement of messages are in its modules. It never waits for a server: changes are made when they are due.

mod messages;
mod parent;
mod routes;
mod sessions;
mod sockets;
mod source;
mod transport;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, BufRead},
    sync::mpsc::Receiver,
};

use mio::{Events, Poll, Token, Waker};
use slab::Slab;

use self::{
    sessions::{Todo, User},
    sockets::Connection,
};
use crate::{
    address::{AddressError, Place, Places},
    clock::{self, now_us, processor_us},
    foreign,
    link::{Away, News, Order, Results},
    plan::{Entrance, Kind, Plan, Scenario},
    route::{Router, WIRES},
    server,
    timeline::Present,
    tls::Tls,
    truth::Truth,
    watch::{Entry, Scene},
};

pub(crate) use self::{
    parent::{Alarm, listen_for_orders, tell},
    source::{PER_ADDRESS, open},
    transport::Transport,
};

const TIMER: Token = Token(usize::MAX - 1);
const ORDERS: Token = Token(usize::MAX - 2);
/// First of the tokens of the connections to coordinators.
const ROUTES: usize = usize::MAX - 2 - WIRES;
const LAST_ROUTE: usize = ROUTES + WIRES - 1;
/// How long a watcher is listened to after the last expected delivery, for those too many, µs.
const AFTERGLOW: u64 = 1_000_000;
/// Between two looks at whether the run is over or a connection is silent, µs.
const LOOK: u64 = 250_000;

/// Why a worker ends its run early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    #[error("the plan cannot be read: {0}")]
    Plan(#[from] serde_json::Error),
    #[error("a token cannot be made: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the start was heard of {0} ms late: this machine is too busy to measure anything")]
    Late(u64),
}

/// Refuses a start that is over: deliveries that came since have been judged as if no change were due.
pub(crate) fn in_time(start: u64) -> Result<(), WorkError> {
    match now_us().checked_sub(start) {
        Some(late) if late > 0 => Err(WorkError::Late(late.div_ceil(1_000))),
        _ => Ok(()),
    }
}

struct Engine {
    plan: Plan,
    poll: Poll,
    alarm: Alarm,
    orders: Receiver<Order>,
    connections: Slab<Connection>,
    /// This worker's users, by user number ÷ workers.
    users: Vec<User>,
    /// The disturbances of those users, by user number ÷ workers.
    truths: Vec<Truth>,
    /// Of the one that all watch, when another worker has it.
    distant: Truth,
    places: Places,
    /// The server of a run without coordinators; `None` with them.
    home: Option<Place>,
    /// From the first `wss://` connection on.
    tls: Option<Tls>,
    router: Option<Router>,
    queue: BinaryHeap<Reverse<(u64, u32, Todo)>>,
    results: Results,
    present: Present,
    go: Option<u64>,
    /// Processor time that opening the sessions took, µs.
    processor_before: u64,
    /// The number of the next change to make, counted over all workers.
    next_change: u64,
    holders: u64,
    told_ready: bool,
    stopped: bool,
    /// Whether a session was lost in the measured part.
    disturbed: bool,
    last_progress: u64,
    last_look: u64,
    /// The time at which the last expected delivery came, µs; `None` before.
    complete: Option<u64>,
    mask: u32,
    scratch: Box<[u8]>,
}

/// Reads a plan from standard input and carries it out.
pub(crate) fn work() -> Result<(), Box<dyn std::error::Error>> {
    let mut first = String::new();
    io::stdin().lock().read_line(&mut first)?;
    let plan: Plan = serde_json::from_str(&first).map_err(WorkError::Plan)?;
    clock::follow(plan.clock);
    match &plan.dialogue {
        None => Engine::new(plan)?.run()?,
        Some(_) => foreign::work(plan)?,
    }
    Ok(())
}

impl Engine {
    fn new(plan: Plan) -> Result<Self, WorkError> {
        let poll = Poll::new()?;
        let alarm = Alarm::new(&poll, TIMER)?;
        let orders = listen_for_orders(Waker::new(poll.registry(), ORDERS)?);
        let mut places = Places::default();
        let home = plan.server().map(|address| places.add(address.clone()));
        let home = home.transpose()?;
        let router = match &plan.entrance {
            Entrance::Coordinators(all) => Some(Router::new(all.clone(), ROUTES)),
            Entrance::Server(_) | Entrance::Servers(_) => None,
        };
        let mut queue = BinaryHeap::new();
        let mut users = Vec::new();
        let (now, mut holders) = (now_us(), 0);
        for number in (0..plan.users()).filter(|number| plan.mine(*number)) {
            let holds = plan.kind(number) != Kind::Moves;
            if holds {
                holders += 1;
                let at = now + (f64::from(number) * 1e6 / plan.connect_rate) as u64;
                queue.push(Reverse((at, number, Todo::Connect)));
            }
            if plan.probe > 0 {
                // All in turn, whenever they connect.
                let at = now + u64::from(number).wrapping_mul(7_919) % plan.probe;
                queue.push(Reverse((at, number, Todo::Probe)));
            }
            let entries = plan.watched(number).into_iter().map(Entry::new).collect();
            users.push(User::new(entries, holds, home));
        }
        Ok(Self {
            poll,
            alarm,
            orders,
            connections: Slab::new(),
            truths: vec![Truth::default(); users.len()],
            users,
            distant: Truth::default(),
            places,
            home,
            tls: None,
            router,
            queue,
            results: Results::default(),
            present: Present::default(),
            go: None,
            processor_before: 0,
            next_change: 0,
            holders,
            told_ready: false,
            stopped: false,
            disturbed: false,
            last_progress: now,
            last_look: now,
            complete: None,
            mask: plan.seed as u32 | 1,
            scratch: vec![0; 1 << 16].into(),
            plan,
        })
    }

    /// The position of a user of this worker.
    fn at(&self, number: u32) -> usize {
        (number / self.plan.workers) as usize
    }

    fn user(&mut self, number: u32) -> &mut User {
        let at = self.at(number);
        &mut self.users[at]
    }

    fn run(mut self) -> Result<(), WorkError> {
        let mut events = Events::with_capacity(4_096);
        loop {
            let now = now_us();
            self.do_due(now)?;
            self.change_due(now)?;
            self.ask_for_routes(now);
            self.report(now)?;
            if now >= self.last_look + LOOK {
                self.last_look = now;
                self.drop_the_silent(now)?;
                if self.over(now) {
                    return self.finish(now);
                }
            }
            self.arm(now)?;
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    TIMER => self.alarm.rang(),
                    ORDERS => self.obey()?,
                    Token(wire @ ROUTES..=LAST_ROUTE) => self.routed(wire - ROUTES)?,
                    Token(connection) => self.serve(connection, event.is_writable())?,
                }
            }
        }
    }

    fn obey(&mut self) -> Result<(), WorkError> {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop => self.stopped = true,
                Order::End(at) => self.shorten(at),
                Order::Away(Away::Lost(at)) => self.distant.lost(at),
                Order::Away(Away::Cut) => self.distant.cut(),
                Order::Away(Away::Back(at)) => drop(self.distant.back(at)),
                Order::Go(at) => {
                    in_time(at)?;
                    self.go = Some(at);
                    self.processor_before = processor_us();
                    self.present.begin(&self.results.counts);
                    self.results.counts.expected = self.left();
                    if self.plan.scenario == Scenario::Storm {
                        self.break_all(at)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Deliveries that are still to come.
    fn left(&self) -> u64 {
        let entries = self.users.iter().flat_map(|user| &user.entries);
        entries.map(|entry| entry.left(&self.plan)).sum()
    }

    /// Takes what is planned for after `at` out of the plan. All workers do so by the same clock, and
    /// `at` is yet to come, so that they agree on which changes there are.
    fn shorten(&mut self, at: u64) {
        let Some(go) = self.go else {
            self.stopped = true;
            return;
        };
        let before = self.left();
        let length = at.saturating_sub(go);
        self.plan.end_after(length, self.next_change);
        self.results.counts.expected -= before - self.left();
    }

    /// Wakes the loop for what is due next, and a few times a second anyway.
    fn arm(&mut self, now: u64) -> io::Result<()> {
        let mut next = now + LOOK;
        if let Some(Reverse((at, ..))) = self.queue.peek() {
            next = next.min(*at);
        }
        if let Some(at) = self.router.as_ref().and_then(|router| router.due(now)) {
            next = next.min(at);
        }
        if let Some(go) = self.go {
            self.next_change = self.plan.next_mine(self.next_change);
            if self.next_change < self.plan.changes {
                next = next.min(go + self.plan.time(self.next_change));
            }
        }
        self.alarm.set(now, next)
    }

    fn change_due(&mut self, now: u64) -> Result<(), WorkError> {
        let Some(go) = self.go else { return Ok(()) };
        while self.next_change < self.plan.changes && go + self.plan.time(self.next_change) <= now {
            let (number, k) = self.plan.change(self.next_change);
            let at = go + self.plan.time(self.next_change);
            self.next_change += 1;
            if self.plan.mine(number) {
                let late = now_us() - at;
                self.results.lateness.record(late);
                self.present.late(late);
                let counts = &mut self.results.counts;
                counts.changes += 1;
                counts.within_1ms += u64::from(late <= 1_000);
                counts.within_10ms += u64::from(late <= 10_000);
                self.change(number, k, at)?;
            }
        }
        Ok(())
    }

    fn next_mask(&mut self) -> u32 {
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        self.mask
    }

    fn report(&mut self, now: u64) -> Result<(), WorkError> {
        if !self.told_ready && self.results.counts.ready == self.holders {
            self.told_ready = true;
            tell(&News::Ready)?;
        }
        self.pass(now)?;
        if now - self.last_progress >= 500_000 {
            self.last_progress = now;
            let Results { counts, status, .. } = &self.results;
            tell(&News::Progress {
                ready: counts.ready,
                delivered: counts.delivered,
                p99: status.0.value_at_quantile(0.99),
            })?;
        }
        Ok(())
    }

    /// Reports each second of the run that is over.
    fn pass(&mut self, now: u64) -> Result<(), WorkError> {
        let Some(since_go) = self.go.and_then(|go| now.checked_sub(go)) else {
            return Ok(());
        };
        self.present.pass(since_go, &self.results.counts, |second| {
            tell(&News::Second(Box::new(second.clone())))
        })
    }

    fn over(&mut self, now: u64) -> bool {
        let Some(go) = self.go.filter(|_| !self.stopped) else {
            return self.stopped;
        };
        let changes = self
            .plan
            .changes
            .checked_sub(1)
            .map_or(0, |last| self.plan.time(last));
        let hold = (self.plan.hold * 1e6) as u64;
        let end = go + changes.max(hold) + (self.plan.hold_after * 1e6) as u64;
        if now < end {
            return false;
        }
        if self.is_settled() {
            let since = *self.complete.get_or_insert(now);
            let idle = self.plan.scenario == Scenario::Connect;
            return idle || now >= since + AFTERGLOW;
        }
        self.complete = None;
        let mut patience = (self.plan.drain * 1e6) as u64;
        if self.disturbed {
            patience += self.plan.grace + self.plan.tolerance;
        }
        let outages = self.plan.outages.iter();
        let excused = outages.map(|outage| go + outage.until + self.plan.tolerance);
        now >= excused.fold(end + patience, u64::max)
    }

    /// Whether all sessions are open and have seen all there is to see.
    fn is_settled(&self) -> bool {
        let plan = &self.plan;
        let mut entries = self.users.iter().flat_map(|user| &user.entries);
        self.results.counts.ready == self.holders
            && entries.all(|entry| entry.left(plan) == 0 && entry.is_final(plan))
    }

    fn finish(mut self, now: u64) -> Result<(), WorkError> {
        if self.go.is_some() {
            self.judge_the_end(now);
            let spent = processor_us() - self.processor_before;
            self.results.processor = spent;
            self.results.busiest = spent;
        }
        self.results.places = self.places.census();
        self.results.resident = server::sample(std::process::id()).map_or(0, |own| own.resident);
        tell(&News::Done(Box::new(self.results)))
    }

    /// What did not come until now does not come any more, and what was seen last has to be true.
    fn judge_the_end(&mut self, now: u64) {
        let plan = &self.plan;
        let numbers = (plan.worker..).step_by(plan.workers as usize);
        for (number, (user, watcher)) in numbers.zip(self.users.iter().zip(&self.truths)) {
            for entry in &user.entries {
                let mine = plan.mine(entry.user);
                let scene = Scene {
                    plan,
                    go: self.go,
                    now,
                    answer: false,
                    user: if mine {
                        &self.truths[(entry.user / plan.workers) as usize]
                    } else {
                        &self.distant
                    },
                    watcher,
                };
                let skipped = entry.leftover(&scene);
                self.results.counts.missed += skipped.missed;
                self.results.counts.conflated += skipped.conflated;
                let wrong_at_end = !entry.is_final(plan);
                self.results.counts.wrong_at_end += u64::from(wrong_at_end);
                let faults = [
                    (skipped.missed > 0, "missed"),
                    (wrong_at_end, "wrong_at_end"),
                ];
                for (_, fault) in faults.into_iter().filter(|(is, _)| *is) {
                    self.results.example(fault, || {
                        let seen = entry.describe_end(&scene);
                        format!("{} in the end: {seen}", plan.user(number))
                    });
                }
            }
        }
    }
}
