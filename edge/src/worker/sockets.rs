//! The sockets of a core's sessions. It owns what they did not take, and which are closing; what is
//! sent the presence core composes, and what comes `reading.rs` gives to it.

use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use presence::{Core, How, SessionId};
use protocol::{CloseCode, Encoding, policy::Issued};

use super::{TICK, Worker};
use crate::{
    admission::Admission, clock, metrics::Run, poll_ring::Event, socket, tls::TlsSession,
    websocket::Reader,
};

/// Sessions that are sent to in one turn, so that sockets are read in between.
const TURN: usize = 1_024;
/// How long a client has to answer a close frame, ms.
const CLOSE_PATIENCE: u64 = 2_000;

/// What a socket has for its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Nothing, until the kernel tells.
    Quiet,
    /// Bytes, perhaps.
    Ready,
    /// The end, behind what bytes there are.
    Ending,
    /// Nothing any more: TLS has ended.
    Ended,
}

/// A session's socket, and how far its client was read.
pub(crate) struct Conn {
    pub(super) id: SessionId,
    /// The members of its token by which a revocation finds it.
    pub(super) issued: Issued,
    /// Its place among those admitted, as long as it lasts.
    _admission: Admission,
    pub(super) tls: Option<TlsSession>,
    /// What has come of a message; between two of them the core's reader serves, which is like any.
    pub(super) reader: Option<Box<Reader>>,
    backlog: Option<Box<Backlog>>,
    pub(super) socket: OwnedFd,
    pub(super) encoding: Encoding,
    pub(super) input: Input,
    /// The close frame is among what was sent.
    pub(super) closing: bool,
    /// The client has sent one first.
    pub(super) left: bool,
    /// It is to be read on when its client can be answered again.
    pub(super) waits: bool,
}

/// What few sessions have, and none for long.
#[derive(Default)]
struct Backlog {
    /// What the socket did not take; the session is blocked until it does.
    outbox: Vec<u8>,
    /// What came while the client could not be answered.
    unread: Vec<u8>,
    /// A new token waits for newer keys.
    renewing: bool,
}

impl Conn {
    pub(crate) fn new(
        id: SessionId,
        issued: Issued,
        admission: Admission,
        socket: OwnedFd,
        tls: Option<TlsSession>,
        encoding: Encoding,
    ) -> Box<Self> {
        let has_ended = tls.as_ref().is_some_and(TlsSession::has_ended);
        Box::new(Self {
            id,
            issued,
            _admission: admission,
            tls,
            reader: None,
            backlog: None,
            socket,
            encoding,
            input: match has_ended {
                true => Input::Ended,
                false => Input::Quiet,
            },
            closing: false,
            left: false,
            waits: false,
        })
    }

    /// The connection's start: the reader in the middle of a message, and what came behind the token.
    pub(crate) fn begun(mut self: Box<Self>, reader: Reader, inbox: &[u8]) -> Box<Self> {
        self.reader = (!reader.is_between_messages()).then(|| Box::new(reader));
        self.keep_unread(inbox);
        self
    }

    pub(super) fn outbox(&self) -> &[u8] {
        self.backlog.as_ref().map_or(&[], |backlog| &backlog.outbox)
    }

    /// Says the last that TLS has to say: why it ends, or its goodbye.
    fn say_goodbye(&mut self) {
        let mut last = Vec::new();
        if let Some(tls) = &mut self.tls {
            tls.close(&mut last);
        }
        if !last.is_empty() && self.outbox().is_empty() {
            // Nobody needs it where the socket takes no more.
            let _ = socket::send(self.socket.as_fd(), &last);
        }
    }

    /// Keeps what came and cannot be answered yet.
    pub(super) fn keep_unread(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.backlog().unread.extend_from_slice(bytes);
        }
    }

    /// What was kept, for now to be read.
    pub(super) fn take_unread(&mut self) -> Vec<u8> {
        let mut unread = Vec::new();
        if let Some(backlog) = &mut self.backlog {
            unread = std::mem::take(&mut backlog.unread);
            self.tidy();
        }
        unread
    }

    pub(super) fn set_renewing(&mut self, renewing: bool) {
        self.backlog().renewing = renewing;
        self.tidy();
    }

    /// Whether nothing may be read: its answer has no place, or `busy` with what was asked. Its
    /// client's further questions wait in the kernel.
    pub(super) fn is_held(&self, busy: bool) -> bool {
        let waits = !self.outbox().is_empty();
        let renews = self
            .backlog
            .as_ref()
            .is_some_and(|backlog| backlog.renewing);
        // What comes behind the close is read and dropped, so that it does not reset the connection
        // before the client has the close; as long as that waits, there is no need to.
        waits || (busy || renews) && !self.closing
    }

    /// The connection is gone: its reader is to see that, and nothing has to be sent.
    fn lost(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.outbox = Vec::new();
            self.tidy();
        }
        socket::stop_reading(self.socket.as_fd());
    }

    fn backlog(&mut self) -> &mut Backlog {
        self.backlog.get_or_insert_default()
    }

    fn tidy(&mut self) {
        let idle = |backlog: &Backlog| {
            backlog.outbox.is_empty() && backlog.unread.is_empty() && !backlog.renewing
        };
        if self.backlog.as_deref().is_some_and(idle) {
            self.backlog = None;
        }
    }
}

/// The session's socket, until the session has ended.
pub(super) fn find(conns: &mut [Option<Box<Conn>>], id: SessionId) -> Option<&mut Conn> {
    let conn = conns.get_mut(id.index as usize)?.as_deref_mut();
    conn.filter(|conn| conn.id == id)
}

/// The session's TLS, if it has any.
fn tls(conns: &mut [Option<Box<Conn>>], id: SessionId) -> Option<&mut TlsSession> {
    find(conns, id)?.tls.as_mut()
}

/// The session under a name in the poll ring.
fn named(name: u64) -> SessionId {
    SessionId {
        index: name as u32,
        generation: (name >> 32) as u32,
    }
}

/// The session's name in the poll ring, which has bit 31 for itself: no core has so many sessions.
fn name(id: SessionId) -> u64 {
    u64::from(id.generation) << 32 | u64::from(id.index)
}

impl Worker {
    /// Begins to serve a session's socket.
    pub(crate) fn register(self: &Rc<Self>, conn: Box<Conn>) {
        let id = conn.id;
        self.poll_ring
            .borrow_mut()
            .arm(conn.socket.as_fd(), name(id));
        {
            let mut conns = self.conns.borrow_mut();
            let index = id.index as usize;
            if conns.len() <= index {
                conns.resize_with(index + 1, || None);
            }
            conns[index] = Some(conn);
        }
        self.serve(id);
    }

    /// Notes that the session has another token.
    pub(crate) fn reissued(&self, id: SessionId, issued: Issued) {
        if let Some(conn) = find(&mut self.conns.borrow_mut(), id) {
            conn.issued = issued;
        }
    }

    /// Ends a session whose connection is over. What its client was still to be told goes out before, since
    /// one that sends no more may read on.
    pub(super) fn end(self: &Rc<Self>, id: SessionId) {
        if self.core.borrow().has_answers(id) {
            self.pump_sockets();
        }
        let mut conn = {
            let mut conns = self.conns.borrow_mut();
            let conn = conns.get_mut(id.index as usize).and_then(Option::take);
            while let Some(None) = conns.last() {
                conns.pop();
            }
            if conns.len() < conns.capacity() / 4 {
                let room = conns.len() * 2;
                conns.shrink_to(room);
            }
            conn
        };
        self.poll_ring.borrow_mut().disarm(name(id));
        if let Some(conn) = &mut conn {
            conn.say_goodbye();
        }
        {
            let mut core = self.core.borrow_mut();
            core.at(clock::now());
            core.closed(id, How::Broken);
        }
        self.stats.borrow_mut().connections -= 1;
        self.schedule_pump();
        drop(conn);
    }

    /// Takes what the kernel tells of a socket.
    pub(super) fn came(self: &Rc<Self>, event: Event) {
        let id = named(event.name);
        {
            let mut conns = self.conns.borrow_mut();
            // It may have ended since.
            let Some(conn) = find(&mut conns, id) else {
                return;
            };
            if event.disarmed {
                self.poll_ring
                    .borrow_mut()
                    .arm(conn.socket.as_fd(), event.name);
            }
            match conn.input {
                Input::Quiet | Input::Ready if event.ending => conn.input = Input::Ending,
                Input::Quiet if event.readable => conn.input = Input::Ready,
                _ => {}
            }
            // One that has failed is sent to as well, so that nothing waits for it.
            if (event.writable || event.ending) && !conn.outbox().is_empty() {
                self.write_outbox(conn);
            }
        }
        if event.readable {
            self.serve(id);
        }
    }

    /// Sends of the outbox what the socket takes.
    fn write_outbox(&self, conn: &mut Conn) {
        let Ok(taken) = socket::send(conn.socket.as_fd(), conn.outbox()) else {
            conn.lost();
            self.resume(conn);
            return;
        };
        self.stats.borrow_mut().sent_bytes += taken as u64;
        let outbox = &mut conn.backlog().outbox;
        outbox.drain(..taken);
        if !outbox.is_empty() {
            return;
        }
        *outbox = Vec::new();
        conn.tidy();
        if conn.closing {
            socket::stop_writing(conn.socket.as_fd());
        }
        self.core.borrow_mut().unblocked(conn.id);
        self.resume(conn);
    }

    /// Has a session read on that was held.
    pub(super) fn resume(&self, conn: &mut Conn) {
        if std::mem::take(&mut conn.waits) {
            self.resumed.borrow_mut().push(conn.id);
            self.schedule_pump();
        }
    }

    /// Ends the connections whose clients were told and do not hang up in time.
    pub(super) fn end_closed(self: &Rc<Self>, ms: u64) {
        loop {
            let late = self.closing.borrow_mut().pop_front_if(|(at, _)| *at <= ms);
            let Some((_, id)) = late else {
                return;
            };
            let is_there = find(&mut self.conns.borrow_mut(), id).is_some();
            if is_there {
                self.end(id);
            }
        }
    }

    /// Tells a share of the sessions that the edge shuts down.
    pub(super) fn drain_some(&self) {
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
            if let Some(conn) = conns[at].as_deref().filter(|conn| !conn.closing) {
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

    pub(super) fn pump_sockets(self: &Rc<Self>) -> bool {
        let mut core = self.core.borrow_mut();
        let more = core.flush(TURN);
        if core.transmits().is_empty() {
            return more;
        }
        let mut conns = self.conns.borrow_mut();
        let encrypted = encrypt(&core, &mut conns);
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
                        _ if !conn.outbox().is_empty() => 0..0,
                        Some((_, ranges)) => ranges[n].clone(),
                        None => transmit.range.clone(),
                    };
                    (conn.socket.as_fd(), range)
                })
                .collect();
            self.send_ring
                .borrow_mut()
                .send(arena, &sends, &mut results);
        }
        let now = clock::mono_us();
        let (mut last_part, mut whole_way) = (Run::new(now), Run::new(clock::wall_us()));
        let mut stats = self.stats.borrow_mut();
        let mut blocked = Vec::new();
        for (n, transmit) in core.transmits().iter().enumerate() {
            let Some(conn) = find(&mut conns, transmit.session) else {
                continue;
            };
            let bytes = match &encrypted {
                Some((arena, ranges)) => &arena[ranges[n].clone()],
                None => &core.arena()[transmit.range.clone()],
            };
            let taken = usize::try_from(results[n]).unwrap_or(0);
            stats.sent_bytes += taken as u64;
            last_part.add(transmit.since, &mut stats.delivery.0);
            whole_way.add(transmit.cause * 1_000, &mut stats.end_to_end.0);
            let full = results[n] >= 0 || results[n] == -libc::EAGAIN;
            if full && taken < bytes.len() {
                conn.backlog().outbox.extend_from_slice(&bytes[taken..]);
                blocked.push(conn.id);
            } else if !full {
                conn.lost();
            }
            self.resume(conn);
            if let Some(code) = transmit.close {
                if !conn.left {
                    *stats.closes.entry(code.get()).or_default() += 1;
                }
                conn.closing = true;
                self.closing
                    .borrow_mut()
                    .push_back((now / 1_000 + CLOSE_PATIENCE, conn.id));
                if conn.outbox().is_empty() {
                    socket::stop_writing(conn.socket.as_fd());
                }
            }
        }
        last_part.end(&mut stats.delivery.0);
        whole_way.end(&mut stats.end_to_end.0);
        for id in blocked {
            core.blocked(id);
        }
        more
    }
}

/// With any TLS session among the transmits: an arena in which theirs are encrypted, and where
/// each one's bytes lie in it.
fn encrypt(core: &Core, conns: &mut [Option<Box<Conn>>]) -> Option<(Vec<u8>, Vec<Range<usize>>)> {
    let transmits = core.transmits();
    transmits
        .iter()
        .find(|transmit| tls(conns, transmit.session).is_some())?;
    let mut arena = Vec::with_capacity(core.arena().len() * 2);
    let mut ranges = Vec::with_capacity(transmits.len());
    for transmit in transmits {
        let start = arena.len();
        let bytes = &core.arena()[transmit.range.clone()];
        match tls(conns, transmit.session) {
            Some(tls) => {
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
