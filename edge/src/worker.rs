//! One core: a pinned thread that owns a `presence::Core`, the sockets of its sessions and their
//! timers. Inputs come from the connections' tasks; one pump moves what follows from them to the
//! sockets, the store, the bus and the other cores. Nothing here waits for another thread.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::poll_fn,
    ops::Range,
    os::fd::BorrowedFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Poll, Waker},
    time::Duration,
};

use monoio::net::TcpStream;
use presence::{Answer, Core, How, PeerMessage, SessionId};
use protocol::CloseCode;
use ring::CoreId;
use token::{Claims, TokenError};

use crate::{
    bus::Bus, clock, cluster::WorkerLinks, mesh::Mesh, metrics::CoreStats, node_side::NodeSide,
    send_ring::SendRing, session::Handoff, shared::Shared, socket, store::Store, tls::TlsSession,
};

/// Between two ticks.
const TICK: Duration = Duration::from_millis(100);
/// Sessions that are sent to in one turn, so that sockets are read in between.
const TURN: usize = 1_024;
/// Messages of other cores taken in one turn.
const MAIL_TURN: usize = 4_096;
/// How long a client has to answer a close frame, ms.
const CLOSE_PATIENCE: u64 = 2_000;
/// Bytes read from a socket at a time.
const SCRATCH: usize = 64 << 10;

/// What one core sends another.
pub(crate) enum Mail {
    Connection(Box<Handoff>),
    Peer(PeerMessage),
}

/// A session's socket.
pub(crate) struct Conn {
    pub(crate) id: SessionId,
    pub(crate) stream: Rc<TcpStream>,
    pub(crate) tls: Option<Rc<RefCell<TlsSession>>>,
    /// What the socket did not take; then the session is blocked and a task writes it.
    outbox: Vec<u8>,
    /// The close frame is among what was sent.
    pub(crate) closing: bool,
    /// The reading task, while it must not read more because nothing can be answered.
    paused: Option<Waker>,
}

impl Conn {
    /// The connection is gone: the reading task is to see that, and nothing has to wait.
    fn lost(&mut self) {
        self.outbox = Vec::new();
        socket::stop_reading(&self.stream);
        if let Some(reader) = self.paused.take() {
            reader.wake();
        }
    }
}

/// A socket that has to get somewhere by a deadline.
struct Deadline {
    at: u64,
    stream: Rc<TcpStream>,
    expired: Rc<Cell<bool>>,
}

/// Stands for a deadline; it is lifted when this is dropped.
pub(crate) struct DeadlineGuard {
    worker: Rc<Worker>,
    key: usize,
    expired: Rc<Cell<bool>>,
}

impl DeadlineGuard {
    pub(crate) fn expired(&self) -> bool {
        self.expired.get()
    }
}

impl Drop for DeadlineGuard {
    fn drop(&mut self) {
        self.worker.deadlines.borrow_mut().remove(self.key);
    }
}

/// A question to the core that an HTTP request waits for.
#[derive(Default)]
struct Question {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: CoreId,
    /// In a cluster.
    node: Option<NodeSide>,
    pub(crate) core: RefCell<Core>,
    conns: RefCell<Vec<Option<Conn>>>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) stats: RefCell<CoreStats>,
    mesh: RefCell<Mesh<Mail>>,
    /// Connections for cores whose ring is full.
    undelivered: RefCell<VecDeque<(usize, Mail)>>,
    store: RefCell<Box<dyn Store>>,
    bus: RefCell<Box<dyn Bus>>,
    send_ring: RefCell<SendRing>,
    pump_due: Cell<bool>,
    pump_waker: RefCell<Option<Waker>>,
    deadlines: RefCell<slab::Slab<Deadline>>,
    /// Sessions that were sent a close frame, oldest first.
    closing: RefCell<VecDeque<(u64, SessionId)>>,
    questions: RefCell<HashMap<u64, Question>>,
    next_question: Cell<u64>,
    /// Sessions that may still be closed in this second of a shutdown.
    drained_to: Cell<u32>,
    ready: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        core: Core,
        mesh: Mesh<Mail>,
        store: Box<dyn Store>,
        bus: Box<dyn Bus>,
        links: Option<WorkerLinks>,
    ) -> std::io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            shared,
            id: core.id(),
            node: links.map(NodeSide::new),
            core: RefCell::new(core),
            conns: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH]),
            stats: RefCell::default(),
            mesh: RefCell::new(mesh),
            undelivered: RefCell::default(),
            store: RefCell::new(store),
            bus: RefCell::new(bus),
            send_ring: RefCell::new(SendRing::new()?),
            pump_due: Cell::new(true),
            pump_waker: RefCell::default(),
            deadlines: RefCell::default(),
            closing: RefCell::default(),
            questions: RefCell::default(),
            next_question: Cell::new(0),
            drained_to: Cell::new(0),
            ready: Cell::new(false),
        }))
    }

    /// Asks for the pump to run once the tasks that can run now have run.
    pub(crate) fn kick(&self) {
        if !self.pump_due.replace(true)
            && let Some(waker) = self.pump_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Moves outputs whenever there may be any.
    pub(crate) async fn pump_task(self: Rc<Self>) {
        loop {
            poll_fn(|context| {
                if self.pump_due.take() {
                    return Poll::Ready(());
                }
                *self.pump_waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            if self.pump() {
                // More waits: the sockets are read first.
                self.pump_due.set(true);
                yield_now().await;
            }
        }
    }

    /// Takes what other cores send.
    pub(crate) async fn mail_task(self: Rc<Self>) {
        let bell = Arc::clone(&self.mesh.borrow().bell);
        loop {
            bell.rung().await;
            let mut taken = 0;
            while let Some((from, mail)) = { self.mesh.borrow_mut().receive() } {
                match mail {
                    Mail::Connection(handoff) => self.adopt(*handoff),
                    Mail::Peer(message) => {
                        let mut core = self.core.borrow_mut();
                        core.at(clock::now());
                        core.peer_message(CoreId::new(from as u16), message);
                    }
                }
                taken += 1;
                if taken % MAIL_TURN == 0 {
                    self.kick();
                    yield_now().await;
                }
            }
            if let Some(node) = &self.node {
                node.take_news(&self.core);
                while node.take_events(&self.core, MAIL_TURN) {
                    self.kick();
                    yield_now().await;
                }
            }
            self.kick();
        }
    }

    /// Lets time pass.
    pub(crate) async fn tick_task(self: Rc<Self>) {
        let mut ticks = 0_u64;
        loop {
            monoio::time::sleep(TICK).await;
            ticks += 1;
            let now = clock::now();
            self.core.borrow_mut().tick(now);
            if let Some(node) = &self.node {
                node.watch_for_stalls(&self.core);
            }
            self.store.borrow_mut().tick(now.wall_ms);
            let ms = now.mono_us / 1_000;
            for (_, deadline) in &*self.deadlines.borrow() {
                if deadline.at <= ms && !deadline.expired.replace(true) {
                    socket::stop_reading(&deadline.stream);
                }
            }
            while let Some((_, id)) = self.closing.borrow_mut().pop_front_if(|(at, _)| *at <= ms) {
                // It was told and does not hang up: the reading task sees an end now.
                if let Some(Some(conn)) = self.conns.borrow().get(id.index as usize)
                    && conn.id == id
                {
                    socket::stop_reading(&conn.stream);
                }
            }
            if self.shared.is_draining() {
                self.drain_some();
            }
            if ticks.is_multiple_of(5) {
                self.publish_stats();
            }
            self.kick();
        }
    }

    /// Tells a share of the sessions that the edge shuts down.
    fn drain_some(&self) {
        let cores = self.shared.config.server.cores.max(1);
        let a_second = self.shared.config.server.drain_rate.div_ceil(cores);
        let a_tick = a_second.div_ceil(1_000 / TICK.as_millis() as u64);
        let conns = self.conns.borrow();
        let mut core = self.core.borrow_mut();
        let mut closed = 0;
        let mut at = self.drained_to.get() as usize;
        for _ in 0..conns.len() {
            if closed >= a_tick {
                break;
            }
            at = if at + 1 < conns.len() { at + 1 } else { 0 };
            if let Some(conn) = conns[at].as_ref().filter(|conn| !conn.closing) {
                core.close(
                    conn.id,
                    How::Broken,
                    CloseCode::GOING_AWAY,
                    "the server shuts down",
                );
                closed += 1;
            }
        }
        self.drained_to.set(at as u32);
    }

    /// Whether nothing is left to do before the process may end.
    pub(crate) fn is_drained(&self) -> bool {
        let counters = self.core.borrow().counters();
        let queued = counters.store_queue + counters.bus_queue;
        let waiting = self.store.borrow().waiting() + self.bus.borrow().waiting();
        counters.sessions == 0 && queued == 0 && waiting == 0
    }

    pub(crate) fn publish_stats(&self) {
        let core = self.core.borrow();
        let placed = self.node.as_ref().is_none_or(NodeSide::follows_a_map);
        if !self.ready.get() && placed && core.vnodes_loading() == 0 {
            self.ready.set(true);
            self.shared.starting.fetch_sub(1, Ordering::Relaxed);
        }
        let mut stats = self.stats.borrow_mut();
        stats.presence = core.counters();
        stats.vnodes_loading = core.vnodes_loading() as u64;
        let conns = self.conns.borrow();
        stats.outbox_bytes = conns
            .iter()
            .flatten()
            .map(|conn| conn.outbox.len() as u64)
            .sum();
        self.shared
            .metrics
            .publish(usize::from(self.id.get()), &stats);
    }

    /// Gives a connection to the core that owns its user.
    pub(crate) fn hand_over(self: &Rc<Self>, handoff: Handoff) {
        let owner = self
            .shared
            .core_of(self.shared.vnodes.vnode(&handoff.claims.user));
        if owner == self.id {
            self.adopt(handoff);
        } else {
            let mail = Mail::Connection(Box::new(handoff));
            self.undelivered
                .borrow_mut()
                .push_back((usize::from(owner.get()), mail));
        }
        self.kick();
    }

    fn adopt(self: &Rc<Self>, handoff: Handoff) {
        monoio::spawn(handoff.run(Rc::clone(self)));
    }

    /// Registers a session's socket.
    pub(crate) fn register(
        &self,
        id: SessionId,
        stream: Rc<TcpStream>,
        tls: Option<Rc<RefCell<TlsSession>>>,
    ) {
        let mut conns = self.conns.borrow_mut();
        let index = id.index as usize;
        if conns.len() <= index {
            conns.resize_with(index + 1, || None);
        }
        conns[index] = Some(Conn {
            id,
            stream,
            tls,
            outbox: Vec::new(),
            closing: false,
            paused: None,
        });
    }

    pub(crate) fn deregister(&self, id: SessionId) {
        self.conns.borrow_mut()[id.index as usize] = None;
    }

    /// Waits while the session's socket takes no answers or the session is busy with what it
    /// asked, so that its client's further questions wait in the kernel.
    pub(crate) async fn unpaused(&self, id: SessionId) {
        poll_fn(|context| {
            let mut conns = self.conns.borrow_mut();
            let busy = self.core.borrow().is_busy(id);
            match conns[id.index as usize].as_mut() {
                Some(conn) if (busy || !conn.outbox.is_empty()) && !conn.closing => {
                    conn.paused = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    pub(crate) fn is_closing(&self, id: SessionId) -> bool {
        self.conns.borrow()[id.index as usize]
            .as_ref()
            .is_none_or(|conn| conn.closing)
    }

    /// What `token` says, if it is good now; a bad one is counted.
    pub(crate) fn check_token(&self, token: &str) -> Result<Claims, TokenError> {
        let claims = self.shared.keys.verify(token, clock::wall_ms());
        claims.inspect_err(|error| self.count_bad_token(error.label()))
    }

    pub(crate) fn count_bad_token(&self, reason: &'static str) {
        let mut stats = self.stats.borrow_mut();
        *stats.bad_tokens.entry(reason).or_default() += 1;
    }

    pub(crate) fn count_refusal(&self, limit: &'static str) {
        let mut stats = self.stats.borrow_mut();
        *stats.refused.entry(limit).or_default() += 1;
    }

    pub(crate) fn count_response(&self, status: u16) {
        let mut stats = self.stats.borrow_mut();
        *stats.responses.entry(status).or_default() += 1;
    }

    pub(crate) fn count_close(&self, code: CloseCode) {
        let mut stats = self.stats.borrow_mut();
        *stats.closes.entry(code.get()).or_default() += 1;
    }

    /// Sets a deadline for a socket: reading from it ends then.
    pub(crate) fn deadline(
        self: &Rc<Self>,
        stream: &Rc<TcpStream>,
        patience: Duration,
    ) -> DeadlineGuard {
        let at = clock::mono_us() / 1_000 + patience.as_millis() as u64;
        let expired = Rc::new(Cell::new(false));
        let deadline = Deadline {
            at,
            stream: Rc::clone(stream),
            expired: Rc::clone(&expired),
        };
        let key = self.deadlines.borrow_mut().insert(deadline);
        DeadlineGuard {
            worker: Rc::clone(self),
            key,
            expired,
        }
    }

    /// The records of `users`, in order; `None` when they cannot be read.
    pub(crate) async fn ask(&self, users: &[&str]) -> Answer {
        let ticket = self.next_question.get();
        self.next_question.set(ticket + 1);
        self.questions
            .borrow_mut()
            .insert(ticket, Question::default());
        {
            let mut core = self.core.borrow_mut();
            core.at(clock::now());
            core.ask(ticket, users);
        }
        self.kick();
        poll_fn(|context| {
            let mut questions = self.questions.borrow_mut();
            let question = questions.get_mut(&ticket).expect("it was asked above");
            match question.answer.take() {
                Some(answer) => {
                    questions.remove(&ticket);
                    Poll::Ready(answer)
                }
                None => {
                    question.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Moves outputs to where they go; `true` when more waits.
    fn pump(self: &Rc<Self>) -> bool {
        let now = clock::now();
        self.core.borrow_mut().at(now);
        if let Some(node) = &self.node {
            // Before the store is asked, so that no event falls between its answer and the filter.
            node.register_interest(&self.core);
        }
        self.pump_store();
        self.pump_bus();
        if let Some(node) = &self.node {
            node.note_progress(&self.core);
        }
        while let Some(answer) = { self.core.borrow_mut().next_answer() } {
            if let Some(question) = self.questions.borrow_mut().get_mut(&answer.ticket) {
                question.answer = Some(answer);
                if let Some(waker) = question.waker.take() {
                    waker.wake();
                }
            }
        }
        let more = self.pump_sockets();
        self.pump_mesh();
        more
    }

    fn pump_store(&self) {
        let mut core = self.core.borrow_mut();
        let mut store = self.store.borrow_mut();
        let mut replies = Vec::new();
        loop {
            store.poll(&mut replies);
            for reply in replies.drain(..) {
                core.store_reply(reply);
            }
            let room = store.room();
            let requests: Vec<_> = std::iter::from_fn(|| core.next_store_request())
                .take(room)
                .collect();
            if requests.is_empty() {
                return;
            }
            store.submit(requests);
        }
    }

    fn pump_bus(&self) {
        let mut core = self.core.borrow_mut();
        let mut bus = self.bus.borrow_mut();
        let mut reports = Vec::new();
        loop {
            bus.poll(&mut reports);
            for (ticket, delivered) in reports.drain(..) {
                core.bus_reply(ticket, delivered);
            }
            let mut idle = true;
            while bus.room() > 0
                && let Some(publication) = core.next_publication()
            {
                bus.submit(publication);
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn pump_mesh(&self) {
        let mut mesh = self.mesh.borrow_mut();
        let mut undelivered = self.undelivered.borrow_mut();
        for _ in 0..undelivered.len() {
            if let Some((to, mail)) = undelivered.pop_front()
                && let Err(mail) = mesh.send(to, mail)
            {
                undelivered.push_back((to, mail));
            }
        }
        let mut core = self.core.borrow_mut();
        for to in 0..self.shared.metrics.cores() {
            while mesh.has_room(to)
                && let Some(message) = core.next_message_for(CoreId::new(to as u16))
            {
                // There is room: this is the ring's only producer.
                let _ = mesh.send(to, Mail::Peer(message));
            }
        }
        mesh.announce();
    }

    fn pump_sockets(self: &Rc<Self>) -> bool {
        let mut core = self.core.borrow_mut();
        let more = core.flush(TURN);
        if core.transmits().is_empty() {
            return more;
        }
        let mut conns = self.conns.borrow_mut();
        let encrypted = encrypt(&core, &conns);
        let mut results = Vec::with_capacity(core.transmits().len());
        {
            let arena = encrypted.as_ref().map_or(core.arena(), |(arena, _)| arena);
            let sends: Vec<(BorrowedFd<'_>, Range<usize>)> = core
                .transmits()
                .iter()
                .enumerate()
                .map(|(n, transmit)| {
                    let conn = conns[transmit.session.index as usize].as_ref();
                    let conn = conn.expect("a session is registered until it is closed");
                    let range = match &encrypted {
                        // What waits in the outbox comes before it.
                        _ if !conn.outbox.is_empty() => 0..0,
                        Some((_, ranges)) => ranges[n].clone(),
                        None => transmit.range.clone(),
                    };
                    (socket::descriptor(&conn.stream), range)
                })
                .collect();
            self.send_ring
                .borrow_mut()
                .send(arena, &sends, &mut results);
        }
        let now = clock::mono_us();
        let mut stats = self.stats.borrow_mut();
        let mut blocked = Vec::new();
        for (n, transmit) in core.transmits().iter().enumerate() {
            let Some(Some(conn)) = conns.get_mut(transmit.session.index as usize) else {
                continue;
            };
            let bytes = match &encrypted {
                Some((arena, ranges)) => &arena[ranges[n].clone()],
                None => &core.arena()[transmit.range.clone()],
            };
            let taken = usize::try_from(results[n]).unwrap_or(0);
            stats.sent_bytes += taken as u64;
            if transmit.since != 0 {
                stats.delivery.record(now.saturating_sub(transmit.since));
            }
            let full = results[n] >= 0 || results[n] == -libc::EAGAIN;
            if full && taken < bytes.len() {
                let idle = conn.outbox.is_empty();
                conn.outbox.extend_from_slice(&bytes[taken..]);
                if idle {
                    monoio::spawn(Rc::clone(self).write_outbox(conn.id, Rc::clone(&conn.stream)));
                }
                blocked.push(conn.id);
            } else if !full {
                conn.lost();
            }
            if let Some(reader) = conn.paused.take() {
                reader.wake();
            }
            if let Some(code) = transmit.close {
                *stats.closes.entry(code.get()).or_default() += 1;
                conn.closing = true;
                self.closing
                    .borrow_mut()
                    .push_back((now / 1_000 + CLOSE_PATIENCE, conn.id));
                if conn.outbox.is_empty() {
                    socket::stop_writing(&conn.stream);
                }
            }
        }
        for id in blocked {
            core.blocked(id);
        }
        more
    }

    /// Writes a session's outbox as its socket takes it.
    async fn write_outbox(self: Rc<Self>, id: SessionId, stream: Rc<TcpStream>) {
        loop {
            let writable = stream.writable(false).await;
            let mut conns = self.conns.borrow_mut();
            let Some(Some(conn)) = conns.get_mut(id.index as usize) else {
                return;
            };
            if conn.id != id {
                return;
            }
            let sent = writable.and_then(|()| socket::send(&stream, &conn.outbox));
            let Ok(taken) = sent else {
                conn.lost();
                return;
            };
            self.stats.borrow_mut().sent_bytes += taken as u64;
            conn.outbox.drain(..taken);
            if conn.outbox.is_empty() {
                conn.outbox = Vec::new();
                if conn.closing {
                    socket::stop_writing(&stream);
                }
                if let Some(reader) = conn.paused.take() {
                    reader.wake();
                }
                drop(conns);
                self.core.borrow_mut().unblocked(id);
                self.kick();
                return;
            }
        }
    }
}

/// With any TLS session among the transmits: an arena in which theirs are encrypted, and where
/// each one's bytes lie in it.
fn encrypt(core: &Core, conns: &[Option<Conn>]) -> Option<(Vec<u8>, Vec<Range<usize>>)> {
    let tls = |index: u32| conns.get(index as usize)?.as_ref()?.tls.as_ref();
    let transmits = core.transmits();
    transmits
        .iter()
        .find_map(|transmit| tls(transmit.session.index))?;
    let mut arena = Vec::with_capacity(core.arena().len() * 2);
    let mut ranges = Vec::with_capacity(transmits.len());
    for transmit in transmits {
        let start = arena.len();
        let bytes = &core.arena()[transmit.range.clone()];
        match tls(transmit.session.index) {
            Some(tls) => {
                let mut tls = tls.borrow_mut();
                tls.send(bytes, &mut arena);
                if transmit.close.is_some() {
                    tls.close(&mut arena);
                }
            }
            None => arena.extend_from_slice(bytes),
        }
        ranges.push(start..arena.len());
    }
    Some((arena, ranges))
}

/// Lets the other tasks run once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
