//! The sockets of a core's sessions. It owns what they did not take, and which are closing; what is
//! sent the presence core composes, and what comes the sessions' tasks read.

use std::{
    cell::RefCell,
    future::poll_fn,
    ops::Range,
    os::fd::BorrowedFd,
    rc::Rc,
    task::{Poll, Waker},
};

use monoio::net::TcpStream;
use presence::{Core, How, SessionId};
use protocol::{CloseCode, policy::Issued};

use super::{TICK, Worker};
use crate::{clock, socket, tls::TlsSession};

/// Sessions that are sent to in one turn, so that sockets are read in between.
const TURN: usize = 1_024;
/// How long a client has to answer a close frame, ms.
const CLOSE_PATIENCE: u64 = 2_000;

/// A session's socket.
pub(super) struct Conn {
    pub(super) id: SessionId,
    /// The members of its token by which a revocation finds it.
    pub(super) issued: Issued,
    stream: Rc<TcpStream>,
    tls: Option<Rc<RefCell<TlsSession>>>,
    /// What the socket did not take; then the session is blocked and a task writes it.
    pub(super) outbox: Vec<u8>,
    /// The close frame is among what was sent.
    closing: bool,
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

impl Worker {
    /// Registers a session's socket.
    pub(crate) fn register(
        &self,
        id: SessionId,
        issued: Issued,
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
            issued,
            stream,
            tls,
            outbox: Vec::new(),
            closing: false,
            paused: None,
        });
    }

    /// Notes that the session has another token.
    pub(crate) fn reissued(&self, id: SessionId, issued: Issued) {
        if let Some(Some(conn)) = self.conns.borrow_mut().get_mut(id.index as usize) {
            conn.issued = issued;
        }
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

    /// Ends the connections whose clients were told and do not hang up in time.
    pub(super) fn end_closed(&self, ms: u64) {
        while let Some((_, id)) = self.closing.borrow_mut().pop_front_if(|(at, _)| *at <= ms) {
            // The reading task sees an end now.
            if let Some(Some(conn)) = self.conns.borrow().get(id.index as usize)
                && conn.id == id
            {
                socket::stop_reading(&conn.stream);
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

    pub(super) fn pump_sockets(self: &Rc<Self>) -> bool {
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
