//! One core's presence: sessions come, speak and go, time passes, and what has to be sent, stored
//! and published is pulled out again. Everything here is a function of the inputs and their times.
//! It owns all state of its users; it never does I/O and never waits.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use protocol::{
    Activity, BadMessage, ClientMessage, CloseCode, ErrorCode, MessageId, Mode, Policy, Request,
    ServerMessage, frame,
};
use ring::{Epoch, Vnode};

use crate::{
    Counters, How, Now, SessionId, Settings, Transmit,
    fanout::{Fanout, Queued, append_frame},
    links::Links,
    publishing::Backlog,
    recall::Recalls,
    repair::{Returns, Searches, Suspects},
    session::{Sessions, Welcomed},
    time::Time,
    trace::{Trace, What},
    user::Knowledge,
    users::Users,
    vnodes::Vnodes,
    waiting::{MAX_ASKED, Waiting},
    wheel::{self, Wheel},
};

/// The presence of the users of one core.
///
/// # Contract
/// Inputs come in any order, except as said here; none fails, and none is lost by being late.
///
/// - **Before all else** [`Core::at_home_on`] for each vnode of another core, then [`Core::own`] or
///   [`Core::follow`]. A vnode has one home for the life of the process, its epochs grow, and so do the
///   versions of maps: what says otherwise panics.
/// - **Time.** [`Core::at`] or [`Core::tick`] before each batch of inputs, with a time that does not go
///   back; a monotonic time that does is the newest one again. Timers fire in [`Core::tick`] alone. Sockets are
///   read between two ticks. After a pause the core [is held](Core::is_held) until [`Core::resume`].
/// - **Sessions.** After [`Core::connect`] the shell reads from the client while the session is not
///   [busy](Core::is_busy), and calls [`Core::took`] for the bytes, [`Core::heard`] for a sign of life and
///   [`Core::receive`] for a message. [`Core::closed`] is the last call of a session; a call with the id
///   of a session that has ended does nothing.
/// - **Outputs** are pulled after each batch of inputs, as far as there is room:
///   [`Core::store_requests`], [`Core::next_publication`], [`Core::next_fence`],
///   [`Core::next_answer`], [`Core::flush`] until it says that nothing waits, and
///   [`Core::next_message_for`] each other core, whose messages keep their order. What is not pulled
///   waits, bounded by the users.
/// - **Answers.** Each request and each publication is answered exactly once, at any time and in any
///   order: a second answer with the same ticket panics, and so does one to a release that was not asked
///   for. An answer about a vnode that has another epoch by now does nothing.
/// - **Other cores and links.** Messages of a core keep their order and are for a user that is at home
///   here; a link has a number that no other link has: what says otherwise panics.
pub struct Core {
    pub(crate) settings: Settings,
    /// What administrators have decreed.
    pub(crate) policy: Arc<Policy>,
    pub(crate) time: Time,
    pub(crate) users: Users,
    pub(crate) sessions: Sessions,
    pub(crate) vnodes: Vnodes,
    pub(crate) wheel: Wheel,
    pub(crate) fanout: Fanout,
    pub(crate) waiting: Waiting,
    pub(crate) counters: Counters,
    pub(crate) store_queue: VecDeque<u32>,
    pub(crate) recalls: Recalls,
    /// Vnodes lost to a higher epoch, at most one entry a vnode and epoch, until the shell takes
    /// them.
    pub(crate) fences: VecDeque<(Vnode, Epoch)>,
    pub(crate) searches: Searches,
    pub(crate) returns: Returns,
    /// When as many records as may be are kept again of users whom watchers alone know, ms of the core's
    /// clock: see `keeps_one_more`.
    pub(crate) unseen_until: u64,
    /// Users whom a dead former owner had seen leave, each with when that is published unless the user
    /// has come by then, ms of the core's clock: see `adopt_from_a_dead_owner`.
    pub(crate) absent: VecDeque<(u32, u64)>,
    /// By vnode that has got another owner, here or on another node: until when its users may be on
    /// their way there, ms of the core's clock. A vnode that its former owner released to this core is not
    /// among them.
    pub(crate) arrivals: BTreeMap<Vnode, u64>,
    pub(crate) suspects: Suspects,
    pub(crate) backlog: Backlog,
    pub(crate) peers: Box<[VecDeque<u32>]>,
    pub(crate) links: Links,
    pub(crate) trace: Trace,
    /// The number of the message that is being handled: it tells the users that this one marked from
    /// those of earlier ones.
    pub(crate) mark: u32,
    /// State of a xorshift generator that spreads the heartbeats.
    jitter: u64,
    due: Vec<wheel::Owner>,
}

impl Core {
    /// A core that owns nothing yet.
    ///
    /// # Panics
    /// With more than 64 cores, or a number that this core cannot have among them.
    #[must_use]
    pub fn new(settings: Settings, now: Now) -> Self {
        assert!(
            (1..=64).contains(&settings.cores),
            "a node has 1 to 64 cores"
        );
        let is_one = settings.core.get() < settings.cores;
        assert!(is_one, "core {} of {}", settings.core, settings.cores);
        Self {
            policy: Arc::default(),
            time: Time::new(now, settings.cluster),
            users: Users::new(settings.seed, settings.vnodes, settings.cluster),
            sessions: Sessions::default(),
            vnodes: Vnodes::new(settings.vnodes),
            wheel: Wheel::new(),
            fanout: Fanout::new(settings.flush),
            waiting: Waiting::default(),
            counters: Counters::default(),
            store_queue: VecDeque::new(),
            recalls: Recalls::default(),
            fences: VecDeque::new(),
            searches: Searches::default(),
            returns: Returns::new(&settings),
            unseen_until: 0,
            absent: VecDeque::new(),
            arrivals: BTreeMap::new(),
            suspects: Suspects::default(),
            backlog: Backlog::default(),
            links: Links::new(settings.vnodes),
            peers: (0..settings.cores).map(|_| VecDeque::new()).collect(),
            trace: Trace::default(),
            mark: 0,
            jitter: settings.seed | 1,
            due: Vec::new(),
            settings,
        }
    }

    /// The index of this core on its node.
    #[must_use]
    pub fn id(&self) -> ring::CoreId {
        self.settings.core
    }

    /// Lets time pass: heartbeats, dead sessions, ended tokens and grace periods. To be called
    /// about every 100 ms, with the sockets read in between.
    pub fn tick(&mut self, now: Now) {
        if !self.time.tick(now) {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(self.time.clock, &mut due);
        // A session that ends now may start its user's grace: the one that ended goes first.
        for owner in &due {
            match owner {
                wheel::Owner::Grace(slot) => self.grace_over(*slot),
                wheel::Owner::Pace(slot) => self.pace_over(*slot),
                wheel::Owner::Session(_) => {}
            }
        }
        for owner in due.drain(..) {
            if let wheel::Owner::Session(session) = owner {
                self.check_session(session);
            }
        }
        self.due = due;
        self.waiting_out_of_patience();
        self.try_again();
        self.users.sweep(&self.vnodes);
    }

    /// Gives back the memory that is held for sessions and users to come.
    pub fn give_back(&mut self) {
        self.users.slots.give_back();
        self.sessions.slots.give_back();
        self.wheel.give_back();
        self.due = Vec::new();
        self.store_queue.shrink_to_fit();
        self.backlog.give_back();
        self.peers.iter_mut().for_each(VecDeque::shrink_to_fit);
    }

    /// Whether the process stood still for so long that its vnodes may be another node's by now:
    /// then nobody is judged until [`Core::resume`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.time.is_held()
    }

    /// Lets timers fire again: the node has read its map, or the store does not answer.
    pub fn resume(&mut self) {
        self.time.resume();
    }

    /// Sets the time of the inputs that follow; the clock of timeouts only moves in [`Core::tick`].
    pub fn at(&mut self, now: Now) {
        self.time.at(now);
    }

    /// Whether the client's messages are to be left unread until something was sent to it: the session
    /// waits for its welcome, or has as many answers or questions waiting as it may.
    #[must_use]
    pub fn is_busy(&self, id: SessionId) -> bool {
        self.sessions.live(id).is_some_and(|session| {
            let session = &self.sessions[session];
            session.welcomed == Welcomed::NotYet
                || session.replies.len() > self.settings.outbox
                || session.asked >= MAX_ASKED
        })
    }

    /// Whether the next [`Core::flush`] sends something to the session: an answer, a change or the close.
    #[must_use]
    pub fn has_answers(&self, id: SessionId) -> bool {
        let session = self.sessions.open(id);
        session.is_some_and(|session| self.sessions[session].queued == Queued::Ready)
    }

    /// Takes a client's message and queues its answer. The shell checks `auth`: see
    /// [`Core::renewed`].
    pub fn receive(&mut self, id: SessionId, message: ClientMessage<'_>) {
        let Some(session) = self.sessions.live(id) else {
            return;
        };
        if !self.said(id) {
            return;
        }
        let reply_to = message.id;
        match message.request {
            Request::Auth { .. } => {}
            Request::Watch { users, known } => self.watch(session, &users, &known, reply_to),
            Request::Unwatch { users } => self.unwatch(session, &users, reply_to.as_ref()),
            Request::Query { users } => self.query(session, &users, reply_to),
            Request::Status { status, mode, text } => {
                self.note(self.sessions[session].user, What::Said(id));
                self.set_status(session, status, mode, text.as_deref());
                self.reply(
                    session,
                    &ServerMessage::Ok {
                        id: reply_to.as_ref(),
                    },
                );
            }
            Request::Ping => self.reply(
                session,
                &ServerMessage::Pong {
                    id: reply_to.as_ref(),
                },
            ),
            Request::Bye => self.close_session(session, How::Clean, CloseCode::NORMAL, "bye"),
        }
    }

    /// Answers bytes that are no message with an `error`; the session stays.
    pub fn reject(&mut self, id: SessionId, bad: &BadMessage) {
        let Some(session) = self.sessions.live(id) else {
            return;
        };
        self.counters.bad_messages += 1;
        if self.said(id) {
            self.reply_error(session, bad.id.as_ref(), bad.code, &bad.message);
        }
    }

    /// Takes a client's WebSocket ping (RFC 6455 §5.5.2) and answers it; `payload` is at most 125
    /// bytes.
    pub fn ping(&mut self, id: SessionId, payload: &[u8]) {
        if self.spend(id)
            && let Some(session) = self.sessions.live(id)
        {
            let replies = &mut self.sessions[session].replies;
            frame::control(replies, frame::Opcode::Pong, payload);
            self.replied(session);
        }
    }

    /// Takes a client's WebSocket pong (RFC 6455 §5.5.3), which counts as life without a promise.
    pub fn pong(&mut self, id: SessionId) {
        self.spend(id);
    }

    /// Queues a message that the shell made for the session's client.
    pub fn send_message(&mut self, id: SessionId, message: &ServerMessage<'_>) {
        if let Some(session) = self.sessions.live(id) {
            self.reply(session, message);
        }
    }

    /// Takes a message's worth of the session's allowance; a session without is closed, and `false`
    /// says that it takes no part any more.
    pub(crate) fn spend(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.live(id) else {
            return false;
        };
        self.refill(session);
        let slot = &mut self.sessions[session];
        let Some(rest) = slot.tokens.checked_sub(1_000) else {
            let reason = "too many messages";
            self.close_session(session, How::Broken, CloseCode::RATE_LIMIT, reason);
            return false;
        };
        slot.tokens = rest;
        self.counters.messages += 1;
        true
    }

    /// Notes that `bytes` bytes came from the client, whatever is in them; a session that sends more than
    /// its allowance is closed.
    pub fn took(&mut self, id: SessionId, bytes: usize) {
        let Some(session) = self.sessions.live(id) else {
            return;
        };
        self.refill(session);
        let slot = &mut self.sessions[session];
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        match slot.byte_tokens.checked_sub(bytes) {
            Some(rest) => slot.byte_tokens = rest,
            None => {
                let reason = "too many bytes";
                self.close_session(session, How::Broken, CloseCode::RATE_LIMIT, reason);
            }
        }
    }

    /// Brings the session's allowances of messages and bytes up to date.
    fn refill(&mut self, session: u32) {
        let (settings, slot) = (&self.settings, &mut self.sessions[session]);
        let now = self.time.clock as u32;
        let passed: u64 = now
            .wrapping_sub(std::mem::replace(&mut slot.refilled, now))
            .into();
        let grown = |tokens: u32, more: u64, full: u32| {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            tokens.saturating_add(more).min(full)
        };
        let full = settings.message_burst.saturating_mul(1_000);
        let messages = passed.saturating_mul(settings.message_rate.into());
        slot.tokens = grown(slot.tokens, messages, full);
        let bytes = passed.saturating_mul(settings.byte_rate.into()) / 1_000;
        slot.byte_tokens = grown(slot.byte_tokens, bytes, settings.byte_burst);
    }

    pub(crate) fn set_status(
        &mut self,
        session: u32,
        status: Option<Activity>,
        mode: Option<Mode>,
        text: Option<&str>,
    ) {
        let slot = self.sessions[session].user;
        if let Some(status) = status {
            self.sessions[session].away = status == Activity::Away;
            self.sessions[session].spoke = true;
        }
        let user = &mut self.users[slot];
        let known = user.knowledge == Knowledge::Known;
        user.owned_mut().chose_mode |= mode.is_some() && !known;
        let mut publish = false;
        if let Some(text) = text
            && (*user.record.text != *text || !known)
        {
            user.record.text = text.into();
            user.owned_mut().chose_text = !known;
            publish = user.knowledge != Knowledge::Asked;
        }
        if let Some(mode) = mode
            && mode != user.mode
        {
            user.mode = mode;
            if mode == Mode::Invisible {
                // To others it leaves now.
                user.record.last_seen = self.time.now.wall_ms;
            }
            self.store_mark(slot);
        }
        let version = self.users[slot].record.version;
        self.refresh(slot, protocol::Cause::Status);
        if publish && self.users[slot].record.version == version {
            self.publish(slot, protocol::Cause::Status);
        }
    }

    pub(crate) fn reply(&mut self, session: u32, message: &ServerMessage<'_>) {
        let slot = &mut self.sessions[session];
        let encoding = slot.encoding;
        append_frame(&mut slot.replies, encoding, |out| {
            message.encode(encoding, out);
        });
        self.replied(session);
    }

    pub(crate) fn reply_error(
        &mut self,
        session: u32,
        id: Option<&MessageId>,
        code: ErrorCode,
        message: &str,
    ) {
        self.reply(session, &ServerMessage::Error { id, code, message });
    }

    /// Sends what was appended to the session's replies; a session that lets too much pile up is
    /// closed.
    pub(crate) fn replied(&mut self, session: u32) {
        let slot = &self.sessions[session];
        if slot.blocked && slot.replies.len() > self.settings.outbox {
            let reason = "answers are not read";
            self.close_session(session, How::Broken, CloseCode::OVERLOADED, reason);
            return;
        }
        self.fanout.queue(&mut self.sessions, session);
    }

    /// When changes that wait for others are due, monotonic µs: then [`Core::flush`] has to be called again.
    /// `None` = none waits (see [`Settings::flush`]).
    #[must_use]
    pub fn flush_due(&self) -> Option<u64> {
        self.fanout.due()
    }

    /// Composes what is to be sent to at most `limit` sessions; `true` when more is to be sent now. The
    /// results are in [`Core::transmits`] and [`Core::arena`] until the next call.
    pub fn flush(&mut self, limit: usize) -> bool {
        self.users.sweep(&self.vnodes);
        if self.trace.is_on() {
            self.fanout.traced = self.traced_slots();
        }
        let more = self.fanout.flush(
            &mut self.users,
            &mut self.sessions,
            &mut self.counters,
            (limit, self.time.now.mono_us),
        );
        for (slot, watchers) in self.fanout.take_delivered() {
            self.note(slot, What::Delivered(watchers));
        }
        more
    }

    /// The sends that the last [`Core::flush`] composed, at most one a session.
    #[must_use]
    pub fn transmits(&self) -> &[Transmit] {
        &self.fanout.transmits
    }

    /// The bytes of the last [`Core::flush`], into which [`Transmit::range`] points.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.fanout.arena
    }

    /// The core's counters since its start, and its gauges now.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.users = self.users.slots.len() as u64;
        counters.ready = self.fanout.ready() as u64;
        counters.store_queue = (self.store_queue.len() + self.vnodes.waiting()) as u64;
        counters.bus_queue = self.backlog.len() as u64;
        counters.oldest_unreported = self.backlog.oldest(self.time.clock);
        counters.link_queue = self.links.queued() as u64;
        counters.unheard = self.links.unheard();
        counters.peer_queue = self.peers.iter().map(|queue| queue.len() as u64).sum();
        counters
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }
}
