//! The sockets of a simulated edge: they open sessions, bring what clients say, and take what cores
//! send. A session's socket fills when its client does not read.

use presence::{How, SessionId};
use protocol::{CloseCode, Encoding};

use super::In;
use crate::{
    client::{frames, hello},
    cluster::{client::ToClient, world::World},
};

/// How long a client waits for a node that may be behind.
const CATCH_UP: u64 = 1_000;

/// What comes from a client to its server.
pub(crate) enum FromClient {
    /// The first message, with its token: who, and for the `n`-th time.
    Open {
        client: usize,
        tries: u64,
    },
    Text(String),
    Pong,
    /// The client's socket takes bytes again.
    Drained,
    End(How),
    /// The client had its time to hang up after a close frame.
    HangUp,
}

/// The server's side of a connection.
pub(crate) struct Conn {
    pub(super) client: usize,
    pub(crate) core: usize,
    pub(crate) session: Option<SessionId>,
    closing: bool,
    blocked: bool,
    /// When it was last blocked: what it was answered before comes now.
    slow_at: u64,
    /// The number of bytes that the client has not read.
    unread: usize,
}

impl World {
    pub(super) fn pump_sockets(&mut self, pid: usize, n: usize) {
        let limit = 1 + self.random.below(16) as usize;
        let seat = &mut self.processes[pid].seats[n];
        let more = seat.core.flush(limit);
        let transmits = seat.core.transmits().to_vec();
        let arena = seat.core.arena().to_vec();
        for transmit in transmits {
            let process = &mut self.processes[pid];
            let Some(conn) = process.seats[n].sessions.get(&transmit.session).copied() else {
                continue;
            };
            let state = process
                .conns
                .get_mut(&conn)
                .expect("a session has a socket");
            let bytes = &arena[transmit.range.clone()];
            state.unread += bytes.len();
            if state.blocked {
                state.slow_at = self.now;
            }
            if state.unread > 600 && !state.blocked && transmit.close.is_none() {
                // What the kernel takes is read by those who read.
                state.blocked = true;
                process.seats[n].core.blocked(transmit.session);
            }
            let client = state.client;
            let frames = frames(bytes);
            if transmit.close.is_some() {
                state.closing = true;
                let patience = 1 + self.random.below(500);
                self.later(patience, pid, In::Socket(conn, FromClient::HangUp));
            }
            let slow = self.processes[pid].conns[&conn].slow_at + 100 >= self.now;
            // What goes to a connection that its client has given up is shown to nobody.
            let line = self.clients[client].line.as_ref();
            if line.is_some_and(|line| line.id == conn) {
                self.check_sent(pid, client, &frames, slow);
            }
            self.send_down(client, conn, ToClient::Frames(frames));
        }
        if more {
            self.schedule_pump(pid, n);
        }
    }

    /// Brings what came through a client's socket to its core.
    pub(super) fn socket(&mut self, pid: usize, conn: u64, input: FromClient) {
        if let FromClient::Open { client, tries } = input {
            self.open(pid, conn, client, tries);
            return;
        }
        let Some(state) = self.processes[pid].conns.get_mut(&conn) else {
            return;
        };
        let (n, client) = (state.core, state.client);
        if self.trace {
            let what = match &input {
                FromClient::End(how) => format!("{how:?} end"),
                FromClient::HangUp => "patience's end".to_owned(),
                _ => String::new(),
            };
            if !what.is_empty() {
                println!("{:>8} p{pid} gets the {what} of client {client}", self.now);
            }
        }
        let Some(id) = state.session else {
            if let FromClient::End(_) = input {
                self.processes[pid].conns.remove(&conn);
            }
            return;
        };
        match input {
            FromClient::Text(text) if !state.closing => {
                let message = protocol::decode(Encoding::Json, text.as_bytes());
                let message = message.expect("clients speak well");
                self.heeds(pid, conn, client, &text);
                let core = self.core(pid, n);
                core.heard(id);
                core.receive(id, message);
            }
            FromClient::Pong => {
                let core = self.core(pid, n);
                core.heard(id);
                core.pong(id);
            }
            FromClient::Drained => {
                state.unread = 0;
                if std::mem::take(&mut state.blocked) {
                    state.slow_at = self.now;
                    self.core(pid, n).unblocked(id);
                }
            }
            FromClient::End(how) => self.hang_up(pid, conn, n, id, how),
            FromClient::HangUp => self.hang_up(pid, conn, n, id, How::Broken),
            FromClient::Text(_) | FromClient::Open { .. } => {}
        }
        self.schedule_pump(pid, n);
    }

    fn hang_up(&mut self, pid: usize, conn: u64, n: usize, id: SessionId, how: How) {
        self.core(pid, n).closed(id, how);
        let process = &mut self.processes[pid];
        process.seats[n].sessions.remove(&id);
        process.conns.remove(&conn);
    }

    /// A client shows its token. A node that does not own the user looks at the map first.
    fn open(&mut self, pid: usize, conn: u64, client: usize, tries: u64) {
        let user = self.clients[client].name.clone();
        let opening = self.clients[client].opening;
        let vnode = self.count().vnode(&user);
        let n = self.home(pid, vnode);
        if tries > 0 && !self.processes[pid].conns.contains_key(&conn) {
            return;
        }
        let opened = self.core(pid, n).connect(&hello(&user, opening));
        let process = &mut self.processes[pid];
        let state = Conn {
            client,
            core: n,
            session: opened.ok(),
            closing: false,
            blocked: false,
            slow_at: 0,
            unread: 0,
        };
        process.conns.insert(conn, state);
        if let Ok(id) = opened {
            process.seats[n].sessions.insert(id, conn);
            self.schedule_pump(pid, n);
            return;
        }
        if tries == 0 {
            self.processes[pid].read_wanted = true;
            self.notify(pid);
        }
        if tries * 50 < CATCH_UP {
            let again = FromClient::Open {
                client,
                tries: tries + 1,
            };
            self.later(50, pid, In::Socket(conn, again));
            return;
        }
        self.processes[pid].conns.remove(&conn);
        let process = &self.processes[pid];
        let owner = process.map().and_then(|map| map.owner(vnode));
        let (code, reason) = match owner {
            Some((owner, _)) if owner.id != process.id => {
                (CloseCode::WRONG_NODE, owner.address.clone())
            }
            _ => (CloseCode::OVERLOADED, String::new()),
        };
        let mut bytes = Vec::new();
        protocol::frame::close(&mut bytes, code, &reason);
        self.send_down(client, conn, ToClient::Frames(frames(&bytes)));
    }
}
