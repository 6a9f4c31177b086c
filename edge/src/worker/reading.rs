//! The reading side of a core's sessions: what their clients send, from the socket to the presence
//! core. It holds no buffer for a session that waits.

use std::{os::fd::AsFd, rc::Rc};

use monoio::net::UnixStream;
use presence::{How, SessionId};
use protocol::{CloseCode, Request};
use tracing::error;

use super::{
    Worker,
    sockets::{Input, find},
};
use crate::{
    clock, opening,
    session::{self, Renewal},
    socket,
    websocket::{Inbound, OTHER_KIND},
};

/// Events of sockets that are looked at in one turn.
const TURN: usize = 1_024;

/// How the reading of a session goes on.
enum Next {
    /// With what has come meanwhile.
    Read,
    /// When the kernel, or what holds it, tells.
    Wait,
    /// Not: the connection is over.
    End,
}

impl Worker {
    /// Serves the sockets of the sessions as they get something; `waiter` is the poll ring's.
    pub(crate) async fn read_task(self: Rc<Self>, waiter: UnixStream) {
        let mut events = Vec::with_capacity(TURN);
        loop {
            if let Err(error) = waiter.readable(false).await {
                // No session would ever be read again.
                error!(
                    event = "ring_failed",
                    "the poll ring cannot be waited for: {error}"
                );
                program::log::flush();
                std::process::abort();
            }
            self.poll_ring.borrow_mut().take(TURN, &mut events);
            for event in events.drain(..) {
                self.came(event);
            }
            self.schedule_pump();
        }
    }

    /// Reads a session as far as it has come and can be answered.
    pub(super) fn serve(self: &Rc<Self>, id: SessionId) {
        loop {
            match self.read_once(id) {
                Next::Read => {}
                Next::Wait => return,
                Next::End => return self.end(id),
            }
        }
    }

    fn read_once(self: &Rc<Self>, id: SessionId) -> Next {
        let mut conns = self.conns.borrow_mut();
        let Some(conn) = find(&mut conns, id) else {
            return Next::Wait;
        };
        // What comes before the welcome is answered after it.
        if conn.is_held(self.core.borrow().is_busy(id)) {
            conn.waits = true;
            return Next::Wait;
        }
        let mut unread = conn.take_unread();
        if !unread.is_empty() {
            drop(conns);
            self.hear(id, &mut unread);
            return Next::Read;
        }
        match conn.input {
            Input::Quiet => return Next::Wait,
            Input::Ended => return Next::End,
            Input::Ready | Input::Ending => {}
        }
        let mut scratch = self.scratch.borrow_mut();
        let taken = match socket::receive(conn.socket.as_fd(), &mut scratch) {
            Ok(None) => {
                conn.input = Input::Quiet;
                return Next::Wait;
            }
            Ok(Some(0)) | Err(_) => return Next::End,
            Ok(Some(taken)) => taken,
        };
        let is_all = taken < scratch.len();
        if is_all && conn.input == Input::Ready {
            // Of what comes from now on the kernel tells.
            conn.input = Input::Quiet;
        }
        if !is_all {
            // The others are read first.
            conn.waits = true;
            self.resume(conn);
        }
        self.stats.borrow_mut().received_bytes += taken as u64;
        self.core.borrow_mut().took(id, taken);
        if let Some(tls) = &mut conn.tls {
            let mut plaintext = Vec::new();
            // What TLS itself has to say goes out with the next answer.
            let received = tls.receive(&mut scratch[..taken], &mut plaintext);
            if !matches!(received, Ok(false)) {
                conn.input = Input::Ended;
            }
            drop((conns, scratch));
            self.hear(id, &mut plaintext);
        } else {
            drop(conns);
            self.hear(id, &mut scratch[..taken]);
        }
        if is_all { Next::Read } else { Next::Wait }
    }

    /// Gives bytes of the client to the presence core, message by message, until the session is
    /// busy; the rest is kept.
    fn hear(self: &Rc<Self>, id: SessionId, bytes: &mut [u8]) {
        let (mut reader, encoding) = {
            let mut conns = self.conns.borrow_mut();
            let Some(conn) = find(&mut conns, id).filter(|conn| !conn.closing) else {
                return;
            };
            let reader = conn.reader.take().unwrap_or_else(|| self.lend_reader());
            (reader, conn.encoding)
        };
        let mut core = self.core.borrow_mut();
        core.at(clock::now());
        core.heard(id);
        let (mut waits, mut left) = (None, false);
        let used = reader.read(bytes, |inbound| {
            match inbound {
                Inbound::Message(kind, payload) if kind == encoding => {
                    match protocol::decode(encoding, payload) {
                        Ok(message) => match message.request {
                            Request::Auth {
                                token,
                                status,
                                alive,
                            } => {
                                let presence = &self.shared.config.presence;
                                let opening = opening::opening(presence, status, alive);
                                waits = session::renew(
                                    self, &mut core, id, &token, opening, message.id,
                                );
                            }
                            _ => core.receive(id, message),
                        },
                        Err(bad) => core.reject(id, &bad),
                    }
                }
                Inbound::Message(..) => {
                    core.close(id, How::Broken, CloseCode::UNSUPPORTED, OTHER_KIND);
                }
                Inbound::Ping(payload) => core.ping(id, payload),
                Inbound::Pong => core.pong(id),
                Inbound::Close(code) => {
                    left = true;
                    let how = if code == Some(CloseCode::NORMAL) {
                        How::Clean
                    } else {
                        How::Broken
                    };
                    core.close(id, how, code.unwrap_or(CloseCode::NORMAL), "");
                }
                Inbound::Error(code, reason) => core.close(id, How::Broken, code, reason),
            }
            waits.is_none() && !core.is_busy(id)
        });
        drop(core);
        let mut conns = self.conns.borrow_mut();
        let conn = find(&mut conns, id).expect("only its reader ends it");
        if reader.is_between_messages() {
            self.give_back(reader);
        } else {
            conn.reader = Some(reader);
        }
        conn.left |= left;
        conn.keep_unread(&bytes[used..]);
        if let Some(renewal) = waits {
            conn.set_renewing(true);
            monoio::spawn(Rc::clone(self).settle(id, renewal));
        }
        self.schedule_pump();
    }

    /// Settles whether a new token renews the session; nothing of its client is read meanwhile.
    async fn settle(self: Rc<Self>, id: SessionId, renewal: Box<Renewal>) {
        let (token, opening, reply_to) = *renewal;
        let config = &self.shared.config;
        // A client that is not read must not be taken for one that is gone.
        let patience = (config.server.auth_timeout).min(config.presence.heartbeat_timeout);
        let verdict = self.check_token(&token, patience).await;
        let verdict = verdict.map_err(|refusal| refusal.to_string());
        let still_there = {
            let mut conns = self.conns.borrow_mut();
            find(&mut conns, id).is_some_and(|conn| {
                conn.set_renewing(false);
                self.resume(conn);
                !conn.closing
            })
        };
        if still_there {
            let mut core = self.core.borrow_mut();
            core.at(clock::now());
            core.heard(id);
            session::answer_renewal(&self, &mut core, id, verdict, opening, reply_to.as_ref());
        }
        self.schedule_pump();
    }
}
