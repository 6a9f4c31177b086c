//! One core: a pinned thread that owns a `presence::Core`, the sockets of its sessions and their
//! timers. Inputs come from the connections' tasks; one pump moves what follows from them to the
//! sockets, the store, the bus and the other cores. Nothing here waits for another thread.

mod deadlines;
mod policy;
mod reading;
mod sockets;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    task::{Poll, Waker},
    time::Duration,
};

use keys::Refusal;
use monoio::net::UnixStream;
use presence::{Answer, Core, PeerMessage, SessionId};
use protocol::{CloseCode, Policy};
use ring::CoreId;
use token::Claims;
use tokio::sync::oneshot;

use self::deadlines::Deadline;
pub(crate) use self::sockets::Conn;
use crate::{
    allocator::{self, Ebb},
    bus::Bus,
    clock,
    cluster::WorkerLinks,
    mesh::Mesh,
    metrics::CoreStats,
    node_side::NodeSide,
    poll_ring::PollRing,
    send_ring::SendRing,
    session::Handoff,
    shared::Shared,
    store::Store,
    websocket::Reader,
};

/// Time between two ticks of the presence core.
const TICK: Duration = Duration::from_millis(100);
/// The same while nothing is here that could come to its time. A core that has no tick for 1 s counts as
/// one that stood still.
const IDLE_TICK: Duration = Duration::from_millis(400);
/// Time between two publications of what the core counts, ms; an idle core publishes with each tick.
const PUBLISH: u64 = 500;
/// The most messages of other cores that one turn takes.
const MESSAGES_PER_TURN: usize = 4_096;
/// The most bytes read from a socket at a time.
const SCRATCH: usize = 64 << 10;

/// A message from one core to another.
pub(crate) enum CoreMessage {
    Connection(Box<Handoff>),
    Peer(PeerMessage),
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: CoreId,
    /// The core's side of the cluster; `None` of a standalone edge.
    node: Option<NodeSide>,
    pub(crate) core: RefCell<Core>,
    /// The sockets of the sessions, by index.
    conns: RefCell<Vec<Option<Box<Conn>>>>,
    poll_ring: RefCell<PollRing>,
    /// Sessions that were held and are to be read on.
    resumed: RefCell<Vec<SessionId>>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// The reader that sessions between two messages share.
    reader: Cell<Option<Box<Reader>>>,
    pub(crate) stats: RefCell<CoreStats>,
    mesh: RefCell<Mesh<CoreMessage>>,
    /// Connections for cores whose ring is full.
    undelivered: RefCell<VecDeque<(usize, CoreMessage)>>,
    store: RefCell<Box<dyn Store>>,
    bus: RefCell<Box<dyn Bus>>,
    send_ring: RefCell<SendRing>,
    pump_due: Cell<bool>,
    /// A task waits for the changes that wait for others.
    flush_armed: Cell<bool>,
    pump_waker: RefCell<Option<Waker>>,
    deadlines: RefCell<slab::Slab<Deadline>>,
    /// Sessions that were sent a close frame, oldest first.
    closing: RefCell<VecDeque<(u64, SessionId)>>,
    /// Who waits for the answers to questions, by ticket.
    questions: RefCell<slab::Slab<oneshot::Sender<Answer>>>,
    /// Up to which index of `conns` a shutdown has told the sessions.
    drained_to: Cell<u32>,
    ready: Cell<bool>,
    /// What administrators have decreed, as far as this core follows it.
    policy: RefCell<Arc<Policy>>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        core: Core,
        mesh: Mesh<CoreMessage>,
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
            poll_ring: RefCell::new(PollRing::new()?),
            resumed: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH]),
            reader: Cell::default(),
            stats: RefCell::default(),
            mesh: RefCell::new(mesh),
            undelivered: RefCell::default(),
            store: RefCell::new(store),
            bus: RefCell::new(bus),
            send_ring: RefCell::new(SendRing::new()?),
            pump_due: Cell::new(true),
            flush_armed: Cell::new(false),
            pump_waker: RefCell::default(),
            deadlines: RefCell::default(),
            closing: RefCell::default(),
            questions: RefCell::default(),
            drained_to: Cell::new(0),
            ready: Cell::new(false),
            policy: RefCell::default(),
        }))
    }

    /// What tells that sockets of sessions have something, for [`Worker::read_task`].
    pub(crate) fn waiter(&self) -> std::io::Result<UnixStream> {
        self.poll_ring.borrow().waiter()
    }

    /// A reader that is between two messages: the core's, or a new one.
    pub(crate) fn lend_reader(&self) -> Box<Reader> {
        let new = || Box::new(Reader::new(self.shared.config.server.max_message.0));
        self.reader.take().unwrap_or_else(new)
    }

    /// Takes back a reader that is between two messages again.
    pub(crate) fn give_back(&self, reader: Box<Reader>) {
        self.reader.set(Some(reader));
    }

    /// Asks for the pump to run once the tasks that can run now have run.
    pub(crate) fn schedule_pump(&self) {
        if !self.pump_due.replace(true)
            && let Some(waker) = self.pump_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Moves the core's outputs whenever there may be any.
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

    /// Takes the messages of other cores and the news of the node.
    pub(crate) async fn receive_task(self: Rc<Self>) {
        let wakeup = Arc::clone(&self.mesh.borrow().wakeup);
        loop {
            wakeup.woken().await;
            let mut taken = 0;
            while let Some((from, message)) = { self.mesh.borrow_mut().receive() } {
                match message {
                    CoreMessage::Connection(handoff) => self.adopt(*handoff),
                    CoreMessage::Peer(message) => {
                        let mut core = self.core.borrow_mut();
                        core.at(clock::now());
                        core.peer_message(CoreId::new(from as u16), message);
                    }
                }
                taken += 1;
                if taken % MESSAGES_PER_TURN == 0 {
                    self.schedule_pump();
                    yield_now().await;
                }
            }
            if let Some(node) = &self.node {
                node.take_news(&self.core);
                while node.take_events(&self.core, MESSAGES_PER_TURN) {
                    self.schedule_pump();
                    yield_now().await;
                }
                while node.take_link_events(&self.core, MESSAGES_PER_TURN) {
                    self.schedule_pump();
                    yield_now().await;
                }
            }
            self.schedule_pump();
        }
    }

    /// Lets time pass until the edge ends and the core is drained, or has had the time for that.
    pub(crate) async fn tick_task(self: Rc<Self>) {
        let mut ebb = Ebb::default();
        let (mut idle, mut published) = (false, 0);
        let mut draining_since = None;
        loop {
            monoio::time::sleep(if idle { IDLE_TICK } else { TICK }).await;
            let now = clock::now();
            self.core.borrow_mut().tick(now);
            if let Some(node) = &self.node {
                node.watch_for_stalls(&self.core);
            }
            self.store.borrow_mut().tick(now.wall_ms);
            self.follow_policy();
            let ms = now.mono_us / 1_000;
            self.end_late(ms);
            self.end_closed(ms);
            if self.shared.is_draining() {
                let since = *draining_since.get_or_insert(ms);
                let patience = self.shared.config.server.drain_timeout.as_millis() as u64;
                if self.is_drained() || ms - since > patience {
                    self.publish_stats();
                    return;
                }
                self.drain_some();
            }
            if idle || ms - published >= PUBLISH {
                published = ms;
                self.publish_stats();
                let stats = self.stats.borrow();
                if ebb.is_due(stats.connections + stats.presence.users, ms) {
                    self.core.borrow_mut().give_back();
                    allocator::give_back();
                }
                idle = self.is_idle(&stats);
            }
            self.schedule_pump();
        }
    }

    /// Whether no timer runs here, and nothing is tried again.
    fn is_idle(&self, stats: &CoreStats) -> bool {
        let presence = &stats.presence;
        let core = self.core.borrow();
        stats.connections + presence.users + presence.store_queue + presence.bus_queue == 0
            && core.vnodes_loading() + core.vnodes_leaving() == 0
            && self.deadlines.borrow().is_empty()
            && !self.shared.is_draining()
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
        stats.published += 1;
        stats.presence = core.counters();
        stats.vnodes_loading = core.vnodes_loading() as u64;
        let conns = self.conns.borrow();
        (stats.slow, stats.outbox_bytes) = (0, 0);
        for conn in conns.iter().flatten() {
            let waits = conn.outbox().len() as u64;
            stats.slow += u64::from(waits > 0);
            stats.outbox_bytes += waits;
        }
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
            let message = CoreMessage::Connection(Box::new(handoff));
            self.undelivered
                .borrow_mut()
                .push_back((usize::from(owner.get()), message));
        }
        self.schedule_pump();
    }

    fn adopt(self: &Rc<Self>, handoff: Handoff) {
        monoio::spawn(handoff.run(Rc::clone(self)));
    }

    /// What `token` says, if it is good now; one that newer keys may let in waits for them,
    /// `patience` at most. A bad one is counted.
    pub(crate) async fn check_token(
        &self,
        token: &str,
        patience: Duration,
    ) -> Result<Claims, Refusal> {
        let keys = &self.shared.keys;
        let claims = keys.verify_in_time(token, clock::wall_ms, patience, monoio::time::sleep);
        let claims = claims.await;
        claims.inspect_err(|refusal| self.count_bad_token(refusal.error.label()))
    }

    /// What is left of the time for a request that is waited for since `began` (monotonic µs).
    pub(crate) fn time_left(&self, began: u64) -> Duration {
        let spent = Duration::from_micros(clock::mono_us().saturating_sub(began));
        let all = self.shared.config.server.upgrade_timeout;
        all.saturating_sub(spent)
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

    /// The records of `users`, in order; `None` when they cannot be read.
    pub(crate) async fn ask(&self, users: &[&str]) -> Answer {
        let (asker, answer) = oneshot::channel();
        let ticket = self.questions.borrow_mut().insert(asker) as u64;
        {
            let mut core = self.core.borrow_mut();
            core.at(clock::now());
            core.ask(ticket, users);
        }
        self.schedule_pump();
        answer.await.expect("the core answers each question")
    }

    /// Moves outputs to where they go; `true` when more waits.
    fn pump(self: &Rc<Self>) -> bool {
        let resumed = std::mem::take(&mut *self.resumed.borrow_mut());
        for id in resumed {
            self.serve(id);
        }
        let now = clock::now();
        self.core.borrow_mut().at(now);
        self.pump_store();
        self.pump_bus();
        if let Some(node) = &self.node {
            node.note_progress(&self.core);
        }
        while let Some(answer) = { self.core.borrow_mut().next_answer() } {
            let asker = self.questions.borrow_mut().remove(answer.ticket as usize);
            // Who asked may be gone.
            let _ = asker.send(answer);
        }
        let more = self.pump_sockets();
        self.wake_for_flush();
        self.pump_mesh();
        if let Some(node) = &self.node {
            node.pump_links(&self.core);
        }
        if self.core.borrow().has_steps() {
            self.shared.traces.take(&mut self.core.borrow_mut());
        }
        self.poll_ring.borrow_mut().submit();
        more || !self.resumed.borrow().is_empty()
    }

    /// Has the pump run when the changes that wait for others are due.
    fn wake_for_flush(self: &Rc<Self>) {
        let Some(due) = self.core.borrow().flush_due() else {
            return;
        };
        if self.flush_armed.replace(true) {
            return;
        }
        let worker = Rc::clone(self);
        monoio::spawn(async move {
            let wait = due.saturating_sub(clock::mono_us());
            monoio::time::sleep(Duration::from_micros(wait)).await;
            worker.flush_armed.set(false);
            worker.schedule_pump();
        });
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
            let interest = |user, is_wanted| {
                if let Some(node) = &self.node {
                    node.register_interest(user, is_wanted);
                }
            };
            let requests = core.store_requests(room, interest);
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
            if let Some((to, message)) = undelivered.pop_front()
                && let Err(message) = mesh.send(to, message)
            {
                undelivered.push_back((to, message));
            }
        }
        let mut core = self.core.borrow_mut();
        for to in 0..self.shared.metrics.cores() {
            while mesh.has_room(to)
                && let Some(message) = core.next_message_for(CoreId::new(to as u16))
            {
                // There is room: this is the ring's only producer.
                let _ = mesh.send(to, CoreMessage::Peer(message));
            }
        }
        mesh.announce();
    }
}

/// Lets the other tasks of the core run once.
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
