//! A worker whose server is of another kind: it says what the dialogue of its plan says, and knows
//! changes by their markers. One thread, one epoll; sends are made when they are due, whatever the server
//! does. A session that ends in the run stays ended, and is a failure of it.

mod session;

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::{Arc, mpsc::Receiver},
};

use mio::{Events, Interest, Poll, Token, Waker};
use rustls::ClientConfig;

use self::session::{Phase, Session};
use crate::{
    address::Address,
    clock::{now_us, processor_us},
    dialogue::{self, Dialogue},
    engine::{self, Alarm, Transport, WorkError, tell},
    link::{News, Order, Results},
    plan::{Plan, Scenario},
    server,
    timeline::Present,
    tls::{self, Tls},
    wire,
};

const TIMER: Token = Token(usize::MAX - 1);
const ORDERS: Token = Token(usize::MAX - 2);
/// Between two looks at whether the run is over, µs.
const LOOK: u64 = 250_000;
/// How long sessions are listened to after the last expected delivery, for those too many, µs.
const AFTERGLOW: u64 = 1_000_000;
/// Between two attempts to open a session, µs.
const AGAIN: u64 = 500_000;
/// How long a session may take until it is open, µs.
const PATIENCE: u64 = 10_000_000;

/// What is to be done for a session at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Todo {
    Connect,
    /// Send the text of this rule again.
    Repeat(usize),
}

struct Foreign {
    plan: Plan,
    dialogue: Dialogue,
    address: Address,
    tls: Option<Arc<ClientConfig>>,
    poll: Poll,
    alarm: Alarm,
    orders: Receiver<Order>,
    /// By user number ÷ workers.
    sessions: Vec<Session>,
    queue: BinaryHeap<Reverse<(u64, u32, Todo)>>,
    results: Results,
    present: Present,
    go: Option<u64>,
    processor_before: u64,
    /// The number of the next change, counted over all workers.
    next_change: u64,
    /// Deliveries that will not come: newer ones came, or were too many.
    passed_over: u64,
    /// Changes of sessions that had ended by then.
    unsent: u64,
    told_ready: bool,
    stopped: bool,
    last_progress: u64,
    last_look: u64,
    complete: Option<u64>,
    mask: u32,
    scratch: Box<[u8]>,
}

/// Carries out a plan that has a dialogue.
pub(crate) fn work(plan: Plan) -> Result<(), WorkError> {
    let (Some(dialogue), Some(address)) = (plan.dialogue.clone(), plan.server()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    };
    let address = address.clone();
    let tls = match address.tls {
        true => Some(Tls::new(&plan.trust).map_err(io::Error::other)?.of_user()),
        false => None,
    };
    let poll = Poll::new()?;
    let alarm = Alarm::new(&poll, TIMER)?;
    let orders = engine::listen_for_orders(Waker::new(poll.registry(), ORDERS)?);
    let now = now_us();
    let mut queue = BinaryHeap::new();
    let mine = (plan.worker..plan.users()).step_by(plan.workers as usize);
    let sessions = mine.map(|user| {
        let at = now + (f64::from(user) * 1e6 / plan.connect_rate) as u64;
        queue.push(Reverse((at, user, Todo::Connect)));
        Session::new(plan.watched(user))
    });
    let sessions: Vec<Session> = sessions.collect();
    let worker = Foreign {
        poll,
        alarm,
        orders,
        sessions,
        queue,
        results: Results::default(),
        present: Present::default(),
        go: None,
        processor_before: 0,
        next_change: 0,
        passed_over: 0,
        unsent: 0,
        told_ready: false,
        stopped: false,
        last_progress: now,
        last_look: now,
        complete: None,
        mask: plan.seed as u32 | 1,
        scratch: vec![0; 1 << 16].into(),
        dialogue,
        address,
        tls,
        plan,
    };
    worker.run()
}

impl Foreign {
    fn at(&self, user: u32) -> usize {
        (user / self.plan.workers) as usize
    }

    /// The user of the session at a position.
    fn user(&self, at: usize) -> u32 {
        at as u32 * self.plan.workers + self.plan.worker
    }

    fn run(mut self) -> Result<(), WorkError> {
        let mut events = Events::with_capacity(4_096);
        loop {
            let now = now_us();
            self.do_due(now)?;
            self.change_due(now)?;
            self.report(now)?;
            if now >= self.last_look + LOOK {
                self.last_look = now;
                self.drop_the_stuck(now);
                if self.over(now) {
                    return self.finish();
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
                    Token(at) => self.serve(at, event.is_writable())?,
                }
            }
        }
    }

    fn obey(&mut self) -> Result<(), WorkError> {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Stop => self.stopped = true,
                Order::End(at) => match self.go {
                    Some(go) => {
                        let before = self.expected();
                        self.plan.end_after(at.saturating_sub(go), self.next_change);
                        self.results.counts.expected -= before - self.expected();
                    }
                    None => self.stopped = true,
                },
                // No session is disturbed and comes back here.
                Order::Away(_) => {}
                Order::Go(at) => {
                    engine::in_time(at)?;
                    self.go = Some(at);
                    self.processor_before = processor_us();
                    self.present.begin(&self.results.counts);
                    self.results.counts.expected = self.expected();
                }
            }
        }
        Ok(())
    }

    /// All deliveries of the schedule to this worker's sessions.
    fn expected(&self) -> u64 {
        let watched = self.sessions.iter().flat_map(|session| &session.watched);
        watched.map(|user| self.plan.changes_of(*user)).sum()
    }

    fn do_due(&mut self, now: u64) -> Result<(), WorkError> {
        while let Some(Reverse((due, user, todo))) = self.queue.peek().copied()
            && due <= now
        {
            self.queue.pop();
            let at = self.at(user);
            match todo {
                Todo::Connect => self.connect(at, due)?,
                Todo::Repeat(rule) if self.sessions[at].phase == Phase::Open => {
                    let repeat = &self.dialogue.repeat[rule];
                    let (every, text) = ((repeat.seconds * 1e6) as u64, repeat.text.clone());
                    self.say(at, &text, None)?;
                    self.queue.push(Reverse((now + every, user, todo)));
                }
                Todo::Repeat(_) => {}
            }
        }
        Ok(())
    }

    fn connect(&mut self, at: usize, due: u64) -> Result<(), WorkError> {
        let user = self.user(at);
        let request = self.dialogue.request(&self.plan, &self.address, user)?;
        let tls = self.tls.clone();
        let tls = tls.map(|tls| tls::begin(tls, &self.address.host));
        let tls = tls.transpose().map_err(io::Error::other)?;
        let mut stream = match engine::open(&self.plan, self.address.socket, user) {
            Ok(socket) => Transport::new(socket, tls),
            Err(error) => {
                self.refused(at, &format!("connect: {error}"));
                return Ok(());
            }
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        (self.poll.registry()).register(stream.socket(), Token(at), interest)?;
        self.sessions[at].dialed(stream, request, due);
        Ok(())
    }

    /// A session could not be opened, and is tried again.
    fn refused(&mut self, at: usize, cause: &str) {
        self.results.counts.refused += 1;
        self.results.counts.cause(cause);
        self.sessions[at].hang_up();
        if self.go.is_none() {
            let again = Reverse((now_us() + AGAIN, self.user(at), Todo::Connect));
            self.queue.push(again);
        }
    }

    /// The connection of a session is at its end.
    fn ended(&mut self, at: usize, cause: &str) {
        if self.sessions[at].phase == Phase::Open {
            self.results.counts.ready -= 1;
            self.results.counts.broken += 1;
            self.results.counts.cause(cause);
            self.sessions[at].hang_up();
        } else {
            self.refused(at, cause);
        }
    }

    fn drop_the_stuck(&mut self, now: u64) {
        for at in 0..self.sessions.len() {
            if self.sessions[at].is_stuck(now, PATIENCE) {
                let step = self.sessions[at].step;
                let cause = match self.dialogue.open.get(step) {
                    Some(step) if self.sessions[at].phase == Phase::Opening => {
                        format!("no answer in 10 s: {}", String::from(step.clone()))
                    }
                    _ => "no answer to the upgrade in 10 s".into(),
                };
                self.refused(at, &cause);
            }
        }
    }

    fn serve(&mut self, at: usize, writable: bool) -> Result<(), WorkError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        if writable {
            self.sessions[at].flush();
        }
        loop {
            match self.sessions[at].read(&mut scratch) {
                Ok(None) => break,
                Ok(Some(0)) => self.ended(at, "closed without a close frame"),
                Ok(Some(count)) => self.take(at, &scratch[..count])?,
                Err(error) => self.ended(at, &error.to_string()),
            }
        }
        self.sessions[at].flush();
        self.scratch = scratch;
        Ok(())
    }

    /// Takes bytes that came.
    fn take(&mut self, at: usize, bytes: &[u8]) -> Result<(), WorkError> {
        let now = now_us();
        let mut input = std::mem::take(&mut self.sessions[at].input);
        let whole: &[u8] = match input.is_empty() {
            true => bytes,
            false => {
                input.extend_from_slice(bytes);
                &input
            }
        };
        let mut rest = whole;
        if self.sessions[at].phase == Phase::Dialing {
            match wire::upgraded(rest) {
                Ok(None) => {
                    self.sessions[at].input = whole.to_vec();
                    return Ok(());
                }
                Ok(Some(used)) => rest = &rest[used..],
                Err(answer) => {
                    self.ended(at, &format!("not upgraded: {answer}"));
                    return Ok(());
                }
            }
            self.results.counts.connects += 1;
            self.sessions[at].phase = Phase::Opening;
            self.go_on(at, None)?;
        }
        while let Some((opcode, payload, after)) = wire::split(rest) {
            let last = rest[0] & 0x80 != 0;
            rest = after;
            match opcode {
                wire::PING => self.send(at, wire::PONG, payload),
                wire::PONG => {}
                wire::CLOSE => {
                    let (code, reason) = wire::close(payload);
                    *self.results.counts.closes.entry(code).or_default() += 1;
                    self.ended(at, &format!("close {code} {reason}"));
                    return Ok(());
                }
                // RFC 6455 §5.4: a message may come in several frames.
                _ if !last => self.sessions[at].fragments.extend_from_slice(payload),
                _ if self.sessions[at].fragments.is_empty() => self.message(at, payload, now)?,
                _ => {
                    let mut message = std::mem::take(&mut self.sessions[at].fragments);
                    message.extend_from_slice(payload);
                    self.message(at, &message, now)?;
                }
            }
        }
        self.sessions[at].input = rest.to_vec();
        Ok(())
    }

    fn message(&mut self, at: usize, message: &[u8], now: u64) -> Result<(), WorkError> {
        let contains = |text: &String| {
            let text = text.as_bytes();
            message.windows(text.len().max(1)).any(|part| part == text)
        };
        if let Some(text) = self.dialogue.fault.iter().find(|text| contains(text)) {
            self.results.counts.errors += 1;
            self.results.counts.cause(&format!("a message with {text}"));
            let user = self.plan.user(self.user(at));
            let message = String::from_utf8_lossy(message);
            let message: String = message.chars().take(200).collect();
            (self.results).example("errors", || format!("{user} was told {message}"));
        }
        if self.sessions[at].phase == Phase::Opening {
            self.go_on(at, Some(message))?;
        }
        let replies = self.dialogue.reply.iter();
        let rule = replies
            .clone()
            .find(|reply| reply.to.as_bytes() == message.trim_ascii());
        if let Some(text) = rule.map(|rule| rule.with.clone()) {
            return self.say(at, &text, None);
        }
        if let Some(go) = self.go {
            let prefix = std::mem::take(&mut self.plan.prefix);
            for change in dialogue::changes(prefix.as_bytes(), message) {
                self.delivered(at, change, go, now, &prefix);
            }
            self.plan.prefix = prefix;
        }
        Ok(())
    }

    /// A session got the change.
    fn delivered(&mut self, at: usize, change: u64, go: u64, now: u64, prefix: &str) {
        if change >= self.plan.changes {
            return;
        }
        let (user, k) = self.plan.change(change);
        let session = &mut self.sessions[at];
        // A publisher may hear of its own.
        let Ok(place) = session.watched.binary_search(&user) else {
            return;
        };
        let seen = std::mem::replace(&mut session.seen[place], k as u32 + 1);
        let counts = &mut self.results.counts;
        let to = at as u32 * self.plan.workers + self.plan.worker;
        let told = || format!("{prefix}-{to} got change {change} of {prefix}-{user}");
        if k as u32 >= seen {
            let skipped = k - u64::from(seen);
            self.passed_over += skipped;
            match self.dialogue.latest {
                true => counts.conflated += skipped,
                false => counts.missed += skipped,
            }
            counts.delivered += 1;
            let took = now.saturating_sub(go + self.plan.time(change));
            self.results.status.record(took);
            self.present.delivered(took);
            if skipped > 0 && !self.dialogue.latest {
                let example = || format!("{}, and not the {skipped} before it", told());
                self.results.example("missed", example);
            }
            return;
        }
        session.seen[place] = seen;
        let again = k as u32 + 1 == seen;
        let (count, kind) = match again {
            true => (&mut counts.duplicated, "duplicated"),
            false => (&mut counts.reordered, "reordered"),
        };
        *count += 1;
        self.results
            .example(kind, || format!("{} after a later one or again", told()));
    }

    fn change_due(&mut self, now: u64) -> Result<(), WorkError> {
        let Some(go) = self.go else { return Ok(()) };
        while self.next_change < self.plan.changes && go + self.plan.time(self.next_change) <= now {
            let change = self.next_change;
            let (user, _) = self.plan.change(change);
            self.next_change += 1;
            if !self.plan.mine(user) {
                continue;
            }
            let late = now_us() - (go + self.plan.time(change));
            self.results.lateness.record(late);
            self.present.late(late);
            let counts = &mut self.results.counts;
            counts.changes += 1;
            counts.within_1ms += u64::from(late <= 1_000);
            counts.within_10ms += u64::from(late <= 10_000);
            let at = self.at(user);
            match self.dialogue.message.clone() {
                Some(message) if self.sessions[at].phase == Phase::Open => {
                    self.say(at, &message, Some(change))?;
                }
                _ => self.unsent += 1,
            }
        }
        Ok(())
    }

    fn report(&mut self, now: u64) -> Result<(), WorkError> {
        if !self.told_ready && self.results.counts.ready == self.sessions.len() as u64 {
            self.told_ready = true;
            tell(&News::Ready)?;
        }
        if let Some(since_go) = self.go.and_then(|go| now.checked_sub(go)) {
            self.present
                .pass(since_go, &self.results.counts, |second| {
                    tell(&News::Second(Box::new(second.clone())))
                })?;
        }
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

    fn arm(&mut self, now: u64) -> io::Result<()> {
        let mut next = now + LOOK;
        if let Some(Reverse((at, ..))) = self.queue.peek() {
            next = next.min(*at);
        }
        if let Some(go) = self.go {
            self.next_change = self.plan.next_mine(self.next_change);
            if self.next_change < self.plan.changes {
                next = next.min(go + self.plan.time(self.next_change));
            }
        }
        self.alarm.set(now, next)
    }

    fn over(&mut self, now: u64) -> bool {
        let Some(go) = self.go.filter(|_| !self.stopped) else {
            return self.stopped;
        };
        let changes = self.plan.changes.checked_sub(1);
        let last = changes.map_or(0, |last| self.plan.time(last));
        let end = go + last.max((self.plan.hold * 1e6) as u64);
        if now < end {
            return false;
        }
        let counts = &self.results.counts;
        if counts.delivered + self.passed_over >= counts.expected {
            let since = *self.complete.get_or_insert(now);
            return self.plan.scenario == Scenario::Connect || now >= since + AFTERGLOW;
        }
        now >= end + (self.plan.drain * 1e6) as u64
    }

    fn finish(mut self) -> Result<(), WorkError> {
        if self.go.is_some() {
            let spent = processor_us() - self.processor_before;
            self.results.processor = spent;
            self.results.busiest = spent;
            let counts = &mut self.results.counts;
            let known = counts.delivered + self.passed_over;
            counts.missed += counts.expected.saturating_sub(known);
            counts.held_back = self.unsent;
        }
        let open = self.results.counts.ready;
        self.results.places.insert(self.address.socket, open);
        self.results.resident = server::sample(std::process::id()).map_or(0, |own| own.resident);
        tell(&News::Done(Box::new(self.results)))
    }
}
