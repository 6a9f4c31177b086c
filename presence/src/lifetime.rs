//! A session's life: it is welcomed, pinged, warned of its token's end, and ends. It owns when a
//! session's timer fires and why one is closed; what that makes of its user is the user's state's.

use protocol::{
    Activity, CloseCode, Encoding, Limits, MAX_USERS_PER_MESSAGE, MessageId, ServerMessage,
    Welcome, frame,
};

use crate::{
    Core, SessionId, WatchRule,
    fanout::{Queued, append_frame},
    session::{Session, Welcomed},
    trace::What,
    user::{Knowledge, NONE},
    vnodes::Owner,
    waiting::Asker,
    wheel::{self, TimerId},
};

/// How long before a token's end its session is told, ms.
const EXPIRING: u64 = 30_000;

/// The way in which a connection ended, which decides about grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The client closed with code 1000, or said `bye`.
    Clean,
    /// The connection broke, or was closed with another code.
    Broken,
    /// Nothing was heard of the client for the heartbeat and its timeout.
    TimedOut,
}

/// What a client says of its session with its token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opening {
    /// What it reports from its first moment; `None` = as it was within grace, else online.
    pub status: Option<Activity>,
    /// Seconds within which it promises to say something of its own, within the bounds that the
    /// shell has checked. After that pongs are no sign of life. `None` = no promise.
    pub alive: Option<u16>,
}

/// A client with a verified token, for which a session is to be opened.
#[derive(Debug, Clone)]
pub struct Hello<'a> {
    /// The user that the verified token names.
    pub user: &'a str,
    /// The encoding of the client's subprotocol.
    pub encoding: Encoding,
    /// When the token ends, ms since 1970; 0 = never.
    pub expires: u64,
    /// The rule of the token: which users it may watch and query.
    pub rule: WatchRule,
    /// The activity and the promise that the client opens with.
    pub opening: Opening,
    /// The id of the `auth` message; `None` when the token came with the upgrade.
    pub id: Option<&'a MessageId>,
}

/// The reason for which a client gets no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The user has as many sessions as one may have: 4409.
    #[error("the user has too many sessions")]
    TooManySessions,
    /// Another core or node owns the user: 4421 when it is a node.
    #[error("the user belongs elsewhere")]
    NotOwner,
}

impl Core {
    /// Opens a session and welcomes it, once it is known what its user chose: see [`Core::is_busy`].
    pub fn connect(&mut self, hello: &Hello<'_>) -> Result<SessionId, Refused> {
        let vnode = self.settings.vnodes.vnode(hello.user);
        if !matches!(self.vnodes.owner(vnode), Owner::Here(_)) {
            return Err(Refused::NotOwner);
        }
        let slot = self.users.find_or_insert(hello.user, &self.vnodes);
        let has_too_many = self.users[slot].owned().sessions >= self.settings.max_devices;
        if has_too_many && !self.settings.newest_wins {
            return Err(Refused::TooManySessions);
        }
        let burst = self.settings.message_burst.saturating_mul(1_000);
        let first_ping = 1 + self.random() % self.settings.heartbeat.max(1);
        let id = self.sessions.insert(Session {
            generation: 0,
            user: slot,
            next: NONE,
            pieces: NONE,
            timer: TimerId::NONE,
            alive: hello.opening.alive.unwrap_or_default(),
            pinged: false,
            away: hello.opening.status == Some(Activity::Away),
            spoke: hello.opening.status.is_some(),
            encoding: hello.encoding,
            queued: Queued::default(),
            blocked: false,
            warned: false,
            welcomed: Welcomed::NotYet,
            closing: None,
            asked: 0,
            tokens: burst,
            byte_tokens: self.settings.byte_burst,
            refilled: self.time.clock as u32,
            heard: self.time.clock,
            ping_due: self.time.clock + first_ping,
            blocked_since: 0,
            expires: hello.expires,
            pending_since: 0,
            watches: Vec::new(),
            replies: Vec::new(),
            rule: rule(&hello.rule),
        });
        self.counters.sessions += 1;
        self.counters.connects += 1;
        self.note(slot, What::Opened(id));
        self.attach(slot, id.index);
        let asker = Asker::Welcome {
            session: id,
            id: hello.id.cloned(),
        };
        self.question(asker, [slot].into());
        self.arm_session(id.index);
        if has_too_many {
            self.end_oldest(slot);
        }
        Ok(id)
    }

    /// Ends the session of the user that was opened first; another one is there, so that its user does
    /// not leave.
    fn end_oldest(&mut self, slot: u32) {
        let mut oldest = self.users[slot].owned().first_session;
        while self.sessions[oldest].next != NONE {
            oldest = self.sessions[oldest].next;
        }
        self.counters.replaced += 1;
        let reason = "a newer session of the user took its place";
        self.close_session(oldest, How::Broken, CloseCode::TOO_MANY_SESSIONS, reason);
    }

    /// The client showed a new token for the same user, in the message `reply_to`: its session lives
    /// as long as that. What the `opening` does not say stays as it is.
    pub fn renewed(
        &mut self,
        id: SessionId,
        expires: u64,
        new_rule: &WatchRule,
        opening: Opening,
        reply_to: Option<&MessageId>,
    ) {
        let Some(session) = self.sessions.live(id) else {
            return;
        };
        let slot = &mut self.sessions[session];
        slot.expires = expires;
        slot.warned = false;
        let former_rule = std::mem::replace(&mut slot.rule, rule(new_rule));
        let is_other = former_rule != slot.rule;
        slot.alive = opening.alive.unwrap_or(slot.alive);
        if opening.status.is_some() {
            self.set_status(session, opening.status, None, None);
        }
        self.welcome(session, reply_to);
        self.arm_session(session);
        if is_other {
            self.review_watches(session);
        }
    }

    /// The user of the session; `None` when it is closed.
    #[must_use]
    pub fn user_of(&self, id: SessionId) -> Option<&str> {
        let session = self.sessions.live(id)?;
        Some(&self.users[self.sessions[session].user].name)
    }

    /// The user's sessions that take part in anything.
    #[must_use]
    pub fn sessions_of(&self, user: &str) -> Vec<SessionId> {
        let mut ids = Vec::new();
        let slot = self.users.find(user);
        let owned = slot.and_then(|slot| self.users[slot].as_owned());
        let mut session = owned.map_or(NONE, |owned| owned.first_session);
        while session != NONE {
            ids.push(self.sessions.id(session));
            session = self.sessions[session].next;
        }
        ids
    }

    /// What the store knows of the user came after its sessions were welcomed without.
    pub(crate) fn welcome_fully(&mut self, slot: u32) {
        let owned = self.users[slot].as_owned();
        let mut session = owned.map_or(NONE, |owned| owned.first_session);
        while session != NONE && self.users[slot].knowledge == Knowledge::Known {
            let next = self.sessions[session].next;
            if self.sessions[session].welcomed == Welcomed::InPart {
                self.welcome(session, None);
            }
            session = next;
        }
    }

    /// The session's name, as its client is told it.
    #[must_use]
    pub fn session_name(&self, id: SessionId) -> String {
        format!(
            "{}-{:x}-{:x}{:04x}",
            self.settings.node,
            self.settings.core.get(),
            id.index,
            id.generation & 0xffff
        )
    }

    pub(crate) fn welcome(&mut self, session: u32, reply_to: Option<&MessageId>) {
        let id = self.sessions.id(session);
        let name = self.session_name(id);
        let slot = &mut self.sessions[session];
        let user = &self.users[slot.user];
        let known = user.knowledge == Knowledge::Known;
        slot.welcomed = match known {
            true => Welcomed::Fully,
            false => Welcomed::InPart,
        };
        let encoding = slot.encoding;
        let welcome = ServerMessage::Welcome(Welcome {
            id: reply_to,
            user: &user.name,
            session: &name,
            node: &self.settings.node,
            heartbeat: (self.settings.heartbeat / 1_000).max(1) as u32,
            alive: slot.alive.into(),
            expires: slot.expires,
            mode: (known || user.owned().chose_mode).then_some(user.mode),
            text: match known || user.owned().chose_text {
                true => &user.record.text,
                false => "",
            },
            limits: Limits {
                message: self.settings.max_message as u64,
                users: MAX_USERS_PER_MESSAGE as u32,
                watches: self.settings.max_watches,
                messages: self.settings.message_rate,
            },
        });
        append_frame(&mut slot.replies, encoding, |out| {
            welcome.encode(encoding, out);
        });
        self.replied(session);
    }

    /// Bytes came from the client, or from what answers pings for it.
    pub fn heard(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live(id) {
            let slot = &mut self.sessions[session];
            slot.pinged = false;
            if slot.alive == 0 {
                slot.heard = self.time.clock;
            }
        }
    }

    /// A message came, which is a sign of life of the application itself, and is counted; `false`
    /// when the session takes no part any more.
    pub fn said(&mut self, id: SessionId) -> bool {
        if let Some(session) = self.sessions.live(id) {
            self.sessions[session].heard = self.time.clock;
        }
        self.spend(id)
    }

    /// How long a session may be silent, ms.
    fn patience(&self, session: u32) -> u64 {
        let promised = match self.sessions[session].alive {
            0 => self.settings.heartbeat,
            seconds => u64::from(seconds) * 1_000,
        };
        promised + self.settings.heartbeat_timeout
    }

    /// The session's socket takes no more bytes: its changes conflate until [`Core::unblocked`].
    pub fn blocked(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live(id) {
            let slot = &mut self.sessions[session];
            slot.blocked = true;
            slot.blocked_since = self.time.clock;
            self.counters.blocked += 1;
        }
    }

    /// Notes that the session's socket takes bytes again; what waited is queued.
    pub fn unblocked(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.live(id) {
            self.sessions[session].blocked = false;
            self.fanout.relist(&mut self.sessions, session);
            if !self.sessions[session].replies.is_empty() {
                self.fanout.queue(&mut self.sessions, session);
            }
        }
    }

    pub(crate) fn check_session(&mut self, session: u32) {
        self.sessions[session].timer = TimerId::NONE;
        let patience = self.patience(session);
        let unread = self.settings.heartbeat + self.settings.heartbeat_timeout;
        let slot = &mut self.sessions[session];
        let silent = self.time.clock - slot.heard >= patience;
        // A client that promised more than pongs still answers pings, or its connection is dead.
        let dead = slot.pinged && self.time.clock >= self.pong_due(session);
        let slot = &mut self.sessions[session];
        let deaf = slot.blocked && (silent || self.time.clock - slot.blocked_since >= unread);
        let silent = silent || dead;
        if silent || deaf {
            let how = if silent { How::TimedOut } else { How::Broken };
            // A blocked session is not read from: what it does not do is to read.
            let (code, reason) = match deaf {
                true => (CloseCode::OVERLOADED, "nothing was read"),
                false if dead || slot.alive == 0 => (CloseCode::TIMEOUT, "nothing was heard"),
                false => (CloseCode::TIMEOUT, "no message came in the promised time"),
            };
            self.close_session(session, how, code, reason);
            return;
        }
        if slot.expires != 0 {
            let left = slot.expires.saturating_sub(self.time.now.wall_ms);
            if left == 0 {
                let reason = "the token expired";
                self.close_session(session, How::Broken, CloseCode::BAD_TOKEN, reason);
                return;
            }
            if left <= EXPIRING && !slot.warned {
                slot.warned = true;
                self.reply(
                    session,
                    &ServerMessage::Expiring {
                        seconds: left.div_ceil(1_000),
                    },
                );
            }
        }
        let slot = &mut self.sessions[session];
        if slot.closing.is_some() {
            return;
        }
        if self.time.clock >= slot.ping_due && !slot.pinged {
            slot.ping_due = self.time.clock + self.settings.heartbeat;
            if !slot.blocked {
                slot.pinged = slot.alive > 0;
                frame::control(&mut slot.replies, frame::Opcode::Ping, &[]);
                self.fanout.queue(&mut self.sessions, session);
            }
        }
        self.arm_session(session);
    }

    /// When the last ping has to be answered.
    fn pong_due(&self, session: u32) -> u64 {
        let sent = self.sessions[session]
            .ping_due
            .saturating_sub(self.settings.heartbeat);
        sent + self.settings.heartbeat_timeout
    }

    fn arm_session(&mut self, session: u32) {
        let patience = self.patience(session);
        let pong_due = self.pong_due(session);
        let slot = &mut self.sessions[session];
        let beat = if slot.pinged { pong_due } else { slot.ping_due };
        let mut next = beat.min(slot.heard + patience);
        if slot.expires != 0 {
            let left = slot.expires.saturating_sub(self.time.now.wall_ms);
            let warn = if slot.warned {
                left
            } else {
                left.saturating_sub(EXPIRING)
            };
            // The wall clock may step, so a far end is looked at again with the next ping.
            next = next.min(self.time.clock + warn);
        }
        self.wheel.cancel(&mut slot.timer);
        slot.timer = self.wheel.arm(next, wheel::Owner::Session(session));
    }

    /// Ends a session: the user's state moves on at once, the close frame goes out with the next
    /// flush. Ignored when it is ending already.
    pub fn close(&mut self, id: SessionId, how: How, code: CloseCode, reason: &str) {
        if let Some(session) = self.sessions.live(id) {
            self.close_session(session, how, code, reason);
        }
    }

    pub(crate) fn close_session(&mut self, session: u32, how: How, code: CloseCode, reason: &str) {
        let (slot, id) = (self.sessions[session].user, self.sessions.id(session));
        self.silence(session);
        self.note(slot, What::Closed(id, Some(code)));
        self.detach(session, how);
        self.say_goodbye(session, code, reason);
    }

    /// The close frame goes out with the next flush, and is the last that does.
    pub(crate) fn say_goodbye(&mut self, session: u32, code: CloseCode, reason: &str) {
        let slot = &mut self.sessions[session];
        if code == CloseCode::OVERLOADED {
            slot.replies = Vec::new();
        }
        frame::close(&mut slot.replies, code, reason);
        slot.closing = Some(code);
        self.counters.closes += 1;
        self.fanout.queue(&mut self.sessions, session);
    }

    /// The connection is gone and its index free: the last call for this session. `how` matters
    /// only when the session had not ended before.
    pub fn closed(&mut self, id: SessionId, how: How) {
        let Some(session) = self.sessions.open(id) else {
            return;
        };
        if self.sessions.live(id).is_some() {
            self.silence(session);
            self.note(self.sessions[session].user, What::Closed(id, None));
            self.detach(session, how);
        }
        self.sessions.slots.remove(session);
        self.counters.sessions -= 1;
    }

    /// Removes the session's watches and questions: it hears of nothing any more.
    pub(crate) fn silence(&mut self, session: u32) {
        let mut timer = std::mem::replace(&mut self.sessions[session].timer, TimerId::NONE);
        self.wheel.cancel(&mut timer);
        self.fanout.drop_pieces(&mut self.sessions, session);
        self.unwatch_all(session);
    }
}

fn rule(rule: &WatchRule) -> Option<Box<WatchRule>> {
    match rule {
        WatchRule::Anyone => None,
        WatchRule::Only(_) => Some(Box::new(rule.clone())),
    }
}
