//! A worker: one thread, one epoll, its share of the users. It owns their connections and judges
//! what they are sent. It never waits for the server: changes are made when they are due.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, BufRead, Read, Write},
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    clock::now_us,
    link::{News, Order, Results},
    plan::{Kind, Plan, Scenario, Shown},
    watch::{Entry, Skipped, Verdict},
    wire::{self, Message},
};

const TIMER: Token = Token(usize::MAX - 1);
const ORDERS: Token = Token(usize::MAX - 2);
/// Users in one `watch` message.
const WATCH_AT_ONCE: usize = 500;
/// The longest wait before a connection is tried again, µs.
const MAX_BACKOFF: u64 = 5_000_000;
/// How long a watcher is listened to after the last expected delivery, for those too many, µs.
const AFTERGLOW: u64 = 1_000_000;

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    #[error("the plan cannot be read: {0}")]
    Plan(#[from] serde_json::Error),
    #[error("a token cannot be made: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Upgrading,
    Open,
}

struct Connection {
    stream: TcpStream,
    user: u32,
    phase: Phase,
    /// A part of a frame.
    input: Vec<u8>,
    /// What the socket did not take yet.
    output: Vec<u8>,
}

struct User {
    connection: Option<usize>,
    entries: Vec<Entry>,
    /// It ought to have a session.
    wanted: bool,
    /// What it has to report once it is open (again).
    pending: Option<Shown>,
    attempts: u32,
    /// Snapshots that are under way.
    unanswered: usize,
    ready: bool,
    /// When the connection was meant to be opened.
    started: u64,
}

struct Engine {
    plan: Plan,
    poll: Poll,
    timer: OwnedFd,
    orders: Receiver<Order>,
    connections: Slab<Connection>,
    /// By number ÷ workers.
    users: Vec<User>,
    /// Connections to open, by time.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
    results: Results,
    go: Option<u64>,
    /// The next change of all.
    next_change: u64,
    holders: u64,
    told_ready: bool,
    stopped: bool,
    last_progress: u64,
    /// When the last expected thing came.
    complete: Option<u64>,
    mask: u32,
    scratch: Box<[u8]>,
}

/// Reads a plan from standard input and carries it out.
pub(crate) fn work() -> Result<(), Box<dyn std::error::Error>> {
    let mut first = String::new();
    io::stdin().lock().read_line(&mut first)?;
    let plan: Plan = serde_json::from_str(&first).map_err(WorkError::Plan)?;
    Engine::new(plan)?.run()?;
    Ok(())
}

fn tell(news: &News) -> Result<(), WorkError> {
    let mut line = serde_json::to_vec(news)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}

fn listen_for_orders(waker: Waker) -> Receiver<Order> {
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let order = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            if order.is_none_or(|order| sender.send(order).is_err()) || waker.wake().is_err() {
                break;
            }
        }
        // The run was given up: nobody waits for the results.
        std::process::exit(0);
    });
    orders
}

impl Engine {
    fn new(plan: Plan) -> Result<Self, WorkError> {
        let poll = Poll::new()?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)
            .map_err(io::Error::from)?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let orders = listen_for_orders(Waker::new(poll.registry(), ORDERS)?);
        let mut queue = BinaryHeap::new();
        let mut users = Vec::new();
        let (now, mut holders) = (now_us(), 0);
        for number in (0..plan.users()).filter(|number| plan.mine(*number)) {
            let holds = plan.kind(number) != Kind::Moves;
            if holds {
                holders += 1;
                let at = now + (f64::from(number) * 1e6 / plan.connect_rate) as u64;
                queue.push(Reverse((at, number)));
            }
            users.push(User {
                connection: None,
                entries: plan.watched(number).into_iter().map(Entry::new).collect(),
                wanted: holds,
                pending: None,
                attempts: 0,
                unanswered: 0,
                ready: false,
                started: 0,
            });
        }
        Ok(Self {
            poll,
            timer,
            orders,
            connections: Slab::new(),
            users,
            queue,
            results: Results::default(),
            go: None,
            next_change: 0,
            holders,
            told_ready: false,
            stopped: false,
            last_progress: now,
            complete: None,
            mask: plan.seed as u32 | 1,
            scratch: vec![0; 1 << 16].into(),
            plan,
        })
    }

    fn user(&mut self, number: u32) -> &mut User {
        &mut self.users[(number / self.plan.workers) as usize]
    }

    fn run(mut self) -> Result<(), WorkError> {
        let mut events = Events::with_capacity(4_096);
        loop {
            let now = now_us();
            self.connect_due(now)?;
            self.change_due(now)?;
            self.report(now)?;
            if self.over(now) {
                return self.finish();
            }
            self.arm(now)?;
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    TIMER => {
                        let mut expired = [0; 8];
                        // Spurious wake-ups have nothing to read.
                        let _ = rustix::io::read(&self.timer, &mut expired);
                    }
                    ORDERS => self.obey(),
                    Token(connection) => self.serve(connection, event.is_writable())?,
                }
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            let Order::Go(at) = order else {
                self.stopped = true;
                continue;
            };
            self.go = Some(at);
            let plan = &self.plan;
            let entries = self.users.iter().flat_map(|user| &user.entries);
            self.results.counts.expected = entries.map(|entry| entry.left(plan)).sum();
            if plan.scenario == Scenario::Storm {
                self.break_all(at);
            }
        }
    }

    /// Wakes the loop for what is due next, and twice a second anyway.
    fn arm(&mut self, now: u64) -> io::Result<()> {
        let mut next = now + 250_000;
        if let Some(Reverse((at, _))) = self.queue.peek() {
            next = next.min(*at);
        }
        if let Some(go) = self.go {
            while self.next_change < self.plan.changes
                && !self.plan.mine(self.plan.change(self.next_change).0)
            {
                self.next_change += 1;
            }
            if self.next_change < self.plan.changes {
                next = next.min(go + self.plan.time(self.next_change));
            }
        }
        let wait = Duration::from_micros(next.saturating_sub(now).max(1));
        let wait = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: wait,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn connect_due(&mut self, now: u64) -> Result<(), WorkError> {
        while let Some(Reverse((at, number))) = self.queue.peek().copied()
            && at <= now
        {
            self.queue.pop();
            self.user(number).started = at;
            self.connect(number)?;
        }
        Ok(())
    }

    fn change_due(&mut self, now: u64) -> Result<(), WorkError> {
        let Some(go) = self.go else { return Ok(()) };
        while self.next_change < self.plan.changes && go + self.plan.time(self.next_change) <= now {
            let (number, k) = self.plan.change(self.next_change);
            let at = go + self.plan.time(self.next_change);
            self.next_change += 1;
            if self.plan.mine(number) {
                let late = now_us() - at;
                let counts = &mut self.results.counts;
                counts.changes += 1;
                counts.within_1ms += u64::from(late <= 1_000);
                counts.within_10ms += u64::from(late <= 10_000);
                self.change(number, k, at)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, number: u32, k: u64, at: u64) -> Result<(), WorkError> {
        let shown = self.plan.shown(number, Some(k));
        match (self.plan.kind(number), shown) {
            (Kind::Moves, Shown::Offline) => {
                self.user(number).wanted = false;
                self.send_if_open(number, br#"{"type":"bye"}"#);
            }
            (Kind::Moves, _) => {
                let user = self.user(number);
                user.wanted = true;
                user.started = at;
                if user.connection.is_none() {
                    self.connect(number)?;
                }
            }
            _ if self.is_open(number) => self.send_status(number, shown),
            _ => self.user(number).pending = Some(shown),
        }
        Ok(())
    }

    fn is_open(&mut self, number: u32) -> bool {
        let connection = self.user(number).connection;
        connection.is_some_and(|connection| self.connections[connection].phase == Phase::Open)
    }

    fn send_status(&mut self, number: u32, shown: Shown) {
        let message: &[u8] = match shown {
            Shown::Away => br#"{"type":"status","status":"away"}"#,
            _ => br#"{"type":"status","status":"online"}"#,
        };
        self.send_if_open(number, message);
    }

    fn send_if_open(&mut self, number: u32, message: &[u8]) {
        if self.is_open(number)
            && let Some(connection) = self.user(number).connection
        {
            self.send(connection, wire::TEXT, message);
        }
    }

    fn connect(&mut self, number: u32) -> Result<(), WorkError> {
        let request = wire::request(&self.plan, &self.plan.user(number))?;
        let stream = match open(self.plan.address, number) {
            Ok(stream) => stream,
            Err(error) => {
                self.refused(number, format!("connect: {error}"));
                return Ok(());
            }
        };
        let connection = self.connections.insert(Connection {
            stream,
            user: number,
            phase: Phase::Upgrading,
            input: Vec::new(),
            output: request,
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let stream = &mut self.connections[connection].stream;
        self.poll
            .registry()
            .register(stream, Token(connection), interest)?;
        self.user(number).connection = Some(connection);
        Ok(())
    }

    fn refused(&mut self, number: u32, cause: String) {
        let counts = &mut self.results.counts;
        counts.refused += 1;
        *counts.causes.entry(cause).or_default() += 1;
        self.again(number);
    }

    /// Has the user connect again, later each time.
    fn again(&mut self, number: u32) {
        let random = u64::from(self.next_mask());
        let user = self.user(number);
        if user.wanted {
            let backoff = (100_000 << user.attempts.min(10)).min(MAX_BACKOFF);
            user.attempts += 1;
            self.queue
                .push(Reverse((now_us() + random % backoff, number)));
        }
    }

    fn serve(&mut self, connection: usize, writable: bool) -> Result<(), WorkError> {
        if writable && let Some(open) = self.connections.get_mut(connection) {
            let output = std::mem::take(&mut open.output);
            if !output.is_empty() {
                self.write(connection, output);
            }
        }
        // Edge-triggered: read until there is nothing more.
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(open) = self.connections.get_mut(connection) {
            match open.stream.read(&mut scratch) {
                Ok(0) => self.lost(connection, "closed without a close frame")?,
                Ok(count) => self.take(connection, &scratch[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lost(connection, &error.to_string())?,
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    /// Bytes came; usually they are whole frames.
    fn take(&mut self, connection: usize, bytes: &[u8]) -> Result<(), WorkError> {
        let open = &mut self.connections[connection];
        let mut input = std::mem::take(&mut open.input);
        if input.is_empty() {
            let used = self.take_frames(connection, bytes)?;
            if let Some(open) = self.connections.get_mut(connection)
                && used < bytes.len()
            {
                open.input = bytes[used..].to_vec();
            }
            return Ok(());
        }
        input.extend_from_slice(bytes);
        let used = self.take_frames(connection, &input)?;
        if let Some(open) = self.connections.get_mut(connection)
            && used < input.len()
        {
            input.drain(..used);
            open.input = input;
        }
        Ok(())
    }

    /// Takes the whole frames at the start of `bytes`; how many bytes that were.
    fn take_frames(&mut self, connection: usize, bytes: &[u8]) -> Result<usize, WorkError> {
        let mut rest = bytes;
        if self.connections[connection].phase == Phase::Upgrading {
            match wire::upgraded(bytes) {
                Ok(None) => return Ok(0),
                Ok(Some(used)) => rest = &bytes[used..],
                Err(answer) => {
                    let number = self.remove(connection);
                    self.refused(number, answer);
                    return Ok(0);
                }
            }
            self.connections[connection].phase = Phase::Open;
        }
        let now = now_us();
        while let Some((opcode, payload, after)) = wire::split(rest) {
            rest = after;
            match opcode {
                wire::TEXT => self.message(connection, payload, now)?,
                wire::PING => self.send(connection, wire::PONG, payload),
                wire::CLOSE => {
                    let code = payload
                        .first_chunk()
                        .map_or(1005, |code| u16::from_be_bytes(*code));
                    *self.results.counts.closes.entry(code).or_default() += 1;
                    self.send(connection, wire::CLOSE, payload);
                    self.lost(connection, &format!("close {code}"))?;
                    return Ok(bytes.len());
                }
                _ => {}
            }
            if !self.connections.contains(connection) {
                return Ok(bytes.len());
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> Result<(), WorkError> {
        let Ok(message) = serde_json::from_slice::<Message<'_>>(payload) else {
            let text = String::from_utf8_lossy(payload);
            let cause = format!(
                "a message that is none: {}",
                text.chars().take(80).collect::<String>()
            );
            *self.results.counts.causes.entry(cause).or_default() += 1;
            self.results.counts.errors += 1;
            return Ok(());
        };
        let number = self.connections[connection].user;
        match &*message.kind {
            "presence" => self.see(number, &message, now, false),
            "snapshot" => {
                self.see(number, &message, now, true);
                self.answered(number, now);
            }
            "welcome" => self.welcome(connection, number, now),
            "error" => {
                self.results.counts.errors += 1;
                let cause = message.message.unwrap_or_default().into_owned();
                *self.results.counts.causes.entry(cause).or_default() += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn welcome(&mut self, connection: usize, number: u32, now: u64) {
        let entries = &self.users[(number / self.plan.workers) as usize].entries;
        let at_once = entries.chunks(WATCH_AT_ONCE);
        let watches: Vec<Vec<u8>> = at_once.map(|entries| watch(&self.plan, entries)).collect();
        let user = self.user(number);
        user.attempts = 0;
        user.unanswered = watches.len();
        let took = now.saturating_sub(user.started);
        let (pending, wanted) = (user.pending.take(), user.wanted);
        self.results.handshake.record(took);
        self.results.counts.connects += 1;
        for message in &watches {
            self.send(connection, wire::TEXT, message);
        }
        if let Some(shown) = pending {
            self.send_status(number, shown);
        }
        if !wanted {
            self.send_if_open(number, br#"{"type":"bye"}"#);
        } else if watches.is_empty() {
            self.user(number).unanswered = 1;
            self.answered(number, now);
        }
    }

    /// A snapshot came: with the last the session is ready.
    fn answered(&mut self, number: u32, now: u64) {
        let moves = self.plan.kind(number) == Kind::Moves;
        let user = self.user(number);
        user.unanswered = user.unanswered.saturating_sub(1);
        if user.unanswered == 0 && !user.ready && !moves {
            user.ready = true;
            self.results.counts.ready += 1;
            if let Some(go) = self.go
                && self.results.counts.ready == self.holders
            {
                self.results.recovered = now - go;
            }
        }
    }

    fn see(&mut self, number: u32, message: &Message<'_>, now: u64, answer: bool) {
        let since_go = self.go.and_then(|go| now.checked_sub(go));
        for record in &message.users {
            let Some(shown) = record.shown() else {
                continue;
            };
            let Some(watched) = self.plan.number(&record.user) else {
                continue;
            };
            let entries = &mut self.users[(number / self.plan.workers) as usize].entries;
            let Ok(at) = entries.binary_search_by_key(&watched, |entry| entry.user) else {
                continue;
            };
            let verdict = entries[at].see(&self.plan, record.version, shown, since_go, answer);
            let counts = &mut self.results.counts;
            match verdict {
                Verdict::Delivered { intended, skipped } => {
                    counts.delivered += 1;
                    counts.conflated += u64::from(skipped == Some(Skipped::Conflated));
                    counts.missed += u64::from(skipped == Some(Skipped::Missed));
                    let took = since_go.unwrap_or(intended) - intended;
                    match (self.plan.kind(watched), shown) {
                        (Kind::Moves, Shown::Offline) => self.results.leave.record(took),
                        (Kind::Moves, _) => self.results.come.record(took),
                        _ => self.results.status.record(took),
                    }
                }
                Verdict::Other => counts.other += 1,
                Verdict::Known => {}
                Verdict::Duplicate => counts.duplicated += 1,
                Verdict::Reordered => counts.reordered += 1,
                Verdict::Flap => counts.flaps += 1,
            }
        }
    }

    fn next_mask(&mut self) -> u32 {
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        self.mask
    }

    fn send(&mut self, connection: usize, opcode: u8, payload: &[u8]) {
        let mask = self.next_mask();
        let mut bytes = std::mem::take(&mut self.connections[connection].output);
        let waits = !bytes.is_empty();
        wire::frame(&mut bytes, opcode, payload, mask);
        if waits {
            self.connections[connection].output = bytes;
        } else {
            self.write(connection, bytes);
        }
    }

    /// Writes what the socket takes and keeps the rest; a broken socket shows itself when read.
    fn write(&mut self, connection: usize, mut bytes: Vec<u8>) {
        let open = &mut self.connections[connection];
        while !bytes.is_empty() {
            match open.stream.write(&bytes) {
                Ok(count) => drop(bytes.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        open.output = bytes;
    }

    fn remove(&mut self, connection: usize) -> u32 {
        let Connection { user: number, .. } = self.connections.remove(connection);
        let user = self.user(number);
        user.connection = None;
        user.unanswered = 0;
        if std::mem::take(&mut user.ready) {
            self.results.counts.ready -= 1;
        }
        number
    }

    /// The connection is gone.
    fn lost(&mut self, connection: usize, cause: &str) -> Result<(), WorkError> {
        let opened = self.connections[connection].phase == Phase::Open;
        let number = self.remove(connection);
        let go = self.go;
        let moves = self.plan.kind(number) == Kind::Moves;
        let user = self.user(number);
        if !user.wanted {
            return Ok(());
        }
        if moves && go.is_some_and(|go| user.started >= go) && cause == "close 1000" {
            // It said `bye` and was meant to come back meanwhile.
            return self.connect(number);
        }
        if opened {
            self.results.counts.broken += 1;
            *self
                .results
                .counts
                .causes
                .entry(cause.to_owned())
                .or_default() += 1;
            self.again(number);
        } else {
            self.refused(number, cause.to_owned());
        }
        Ok(())
    }

    /// Resets every connection and has all connect again at once.
    fn break_all(&mut self, at: u64) {
        let open: Vec<usize> = self
            .connections
            .iter()
            .map(|(connection, _)| connection)
            .collect();
        for connection in open {
            let stream = &self.connections[connection].stream;
            // With no linger the close is a reset.
            let reset = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
            if let Err(error) = reset {
                *self
                    .results
                    .counts
                    .causes
                    .entry(error.to_string())
                    .or_default() += 1;
            }
            let number = self.remove(connection);
            self.queue.push(Reverse((at, number)));
        }
    }

    fn report(&mut self, now: u64) -> Result<(), WorkError> {
        if !self.told_ready && self.results.counts.ready == self.holders {
            self.told_ready = true;
            tell(&News::Ready)?;
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

    fn over(&mut self, now: u64) -> bool {
        let Some(go) = self.go else {
            return self.stopped;
        };
        let changes = self
            .plan
            .changes
            .checked_sub(1)
            .map_or(0, |last| self.plan.time(last));
        let end = go + changes.max((self.plan.hold * 1e6) as u64);
        if now < end {
            return false;
        }
        let counts = &self.results.counts;
        let complete = match self.plan.scenario {
            Scenario::Storm => counts.ready == self.holders,
            _ => counts.delivered + counts.conflated + counts.missed >= counts.expected,
        };
        let idle = self.plan.scenario == Scenario::Connect;
        if complete {
            let since = *self.complete.get_or_insert(now);
            return idle || now >= since + AFTERGLOW;
        }
        now >= end + (self.plan.drain * 1e6) as u64
    }

    fn finish(mut self) -> Result<(), WorkError> {
        let plan = &self.plan;
        let entries = self.users.iter().flat_map(|user| &user.entries);
        self.results.counts.missed += entries.map(|entry| entry.left(plan)).sum::<u64>();
        tell(&News::Done(Box::new(self.results)))
    }
}

fn watch(plan: &Plan, entries: &[Entry]) -> Vec<u8> {
    let users: Vec<String> = entries.iter().map(|entry| plan.user(entry.user)).collect();
    let known: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .filter(|entry| entry.version > 0)
        .map(|entry| (plan.user(entry.user), entry.version.into()))
        .collect();
    serde_json::json!({ "type": "watch", "users": users, "known": known, "id": 1 })
        .to_string()
        .into_bytes()
}

/// Sessions from one source address: the kernel looks for a free port ever longer, from half of all
/// on, and that is not the server's.
const PER_ADDRESS: u32 = 10_000;

/// Begins the connection of a user. On loopback there is an address for every so many.
fn open(address: SocketAddr, user: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let number = user / PER_ADDRESS;
    if address.ip().is_loopback() && address.is_ipv4() && number > 0 {
        let source = SocketAddr::from(([127, 0, 0, 1 + (number % 250) as u8], 0));
        socket.bind(&source.into())?;
    }
    match socket.connect(&SockAddr::from(address)) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
