//! The connections of a worker: opened, read, written, closed. Knows frames and the upgrade; what
//! the messages in them mean is not its business.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use mio::{Interest, Token};
use rustls::ClientConnection;

use super::{Engine, WorkError, sessions::End, source, transport::Transport};
use crate::{
    address::{Address, Place},
    clock::now_us,
    tls::{self, Tls, TlsError},
    truth::CLOSE,
    wire,
};

/// What to do about a kernel that gives no port.
const NO_PORT: &str = "connect: no port is left at this source address: ask for fewer --sessions, or widen \
     net.ipv4.ip_local_port_range";
/// How long an upgrade and the `welcome` after it may take, µs.
const PATIENCE: u64 = 10_000_000;
/// How long the close (1012) after a `move` may take, µs.
const MOVE_PATIENCE: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The connection is open or opening, and the upgrade request is not sent.
    Dialing,
    /// The request is sent, and its answer has not come.
    Upgrading,
    Open,
}

pub(super) struct Connection {
    stream: Transport,
    pub(super) user: u32,
    pub(super) place: Place,
    pub(super) phase: Phase,
    /// The beginning of a frame whose rest has not come.
    input: Vec<u8>,
    /// Bytes that the socket did not take yet.
    output: Vec<u8>,
    /// The time at which bytes came last, µs.
    heard: u64,
    /// The time of the last ping, µs.
    pinged: u64,
    /// The last ping was not answered within a second.
    stalled: bool,
    /// How long nothing may come, µs; `None` before `welcome`.
    pub(super) heartbeat: Option<u64>,
    /// Where it was told to move, and when.
    pub(super) moving: Option<(Place, u64)>,
}

impl Connection {
    /// Why it has to be given up by now.
    fn stuck(&self, now: u64) -> Option<End<'static>> {
        if let Some((place, told)) = self.moving {
            return (told + MOVE_PATIENCE < now).then_some(End::Moved(Some(place)));
        }
        let (patience, what) = match self.heartbeat {
            None => (PATIENCE, "no welcome in time"),
            Some(heartbeat) => (2 * heartbeat, "nothing was heard for too long"),
        };
        (self.heard + patience < now).then_some(End::Silent(what))
    }

    /// Whether it is a second since a ping that nothing came after.
    fn is_stalled(&self, now: u64) -> bool {
        self.pinged > self.heard && self.pinged + CLOSE < now
    }

    /// Makes the coming close a reset instead of an orderly end.
    pub(super) fn reset_on_close(&mut self) -> io::Result<()> {
        let socket = socket2::SockRef::from(&*self.stream.socket());
        socket.set_linger(Some(std::time::Duration::ZERO))
    }
}

impl Engine {
    /// Begins the connection of a user to `place`.
    pub(super) fn dial(&mut self, number: u32, place: Place) -> Result<(), WorkError> {
        let address = self.places.address(place).clone();
        let (secret, user) = (&self.plan.secret, self.plan.user(number));
        let request = wire::request(&address, secret, &user, self.plan.encoding)?;
        let tls = match self.begin_tls(number, &address) {
            Ok(tls) => tls,
            Err(error) => return self.undialed(number, &error.to_string()),
        };
        let stream = match source::open(&self.plan, address.socket, number) {
            Ok(socket) => Transport::new(socket, tls),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                return self.undialed(number, NO_PORT);
            }
            Err(error) => return self.undialed(number, &format!("connect: {error}")),
        };
        let connection = self.connections.insert(Connection {
            stream,
            user: number,
            place,
            phase: Phase::Dialing,
            input: Vec::new(),
            output: request,
            heard: now_us(),
            pinged: 0,
            stalled: false,
            heartbeat: None,
            moving: None,
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        let stream = &mut self.connections[connection].stream;
        self.poll
            .registry()
            .register(stream.socket(), Token(connection), interest)?;
        self.places.opened(place);
        self.user(number).connection = Some(connection);
        Ok(())
    }

    /// TLS for a connection of a user, if the server's URL says so.
    fn begin_tls(
        &mut self,
        number: u32,
        address: &Address,
    ) -> Result<Option<ClientConnection>, TlsError> {
        if !address.tls {
            return Ok(None);
        }
        let tls = match &self.tls {
            Some(tls) => tls,
            None => self.tls.insert(Tls::new(&self.plan.trust)?),
        }
        .clone();
        let settings = &mut self.user(number).tls;
        let settings = settings.get_or_insert_with(|| tls.of_user());
        tls::begin(Arc::clone(settings), &address.host).map(Some)
    }

    /// Closes a connection and takes it out of the table.
    pub(super) fn remove(&mut self, connection: usize) -> Connection {
        let closed = self.connections.remove(connection);
        self.places.closed(closed.place);
        let user = self.user(closed.user);
        user.connection = None;
        user.unanswered = 0;
        if std::mem::take(&mut user.ready) {
            self.results.counts.ready -= 1;
        }
        closed
    }

    pub(super) fn serve(&mut self, connection: usize, writable: bool) -> Result<(), WorkError> {
        if let Some(open) = self.connections.get_mut(connection)
            && open.phase == Phase::Dialing
            && let Ok(Some(error)) = open.stream.socket().take_error()
        {
            return self.ended(connection, End::Cut(&error.to_string()));
        }
        if writable {
            self.write_waiting(connection);
        }
        // Edge-triggered: read until there is nothing more.
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(open) = self.connections.get_mut(connection) {
            match open.stream.read(&mut scratch) {
                Ok(0) => self.ended(connection, End::Cut("closed without a close frame"))?,
                Ok(count) => self.take(connection, &scratch[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.ended(connection, End::Cut(&error.to_string()))?,
            }
        }
        self.scratch = scratch;
        if let Some(open) = self.connections.get(connection)
            && open.stream.has_agreed()
        {
            self.write_waiting(connection);
        }
        Ok(())
    }

    /// Writes what waits; with the whole request the server may know of the user.
    fn write_waiting(&mut self, connection: usize) {
        let Some(open) = self.connections.get_mut(connection) else {
            return;
        };
        let output = std::mem::take(&mut open.output);
        if output.is_empty() {
            return;
        }
        self.write(connection, output);
        let open = &mut self.connections[connection];
        if open.phase == Phase::Dialing && open.output.is_empty() {
            open.phase = Phase::Upgrading;
            let number = open.user;
            self.user(number).there = true;
        }
    }

    /// Takes bytes that came; usually they are whole frames.
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
        let now = now_us();
        self.heard(connection, now)?;
        let mut rest = bytes;
        let open = &mut self.connections[connection];
        if open.phase != Phase::Open {
            match wire::upgraded(bytes) {
                Ok(None) => return Ok(0),
                Ok(Some(used)) => rest = &bytes[used..],
                Err(answer) => {
                    self.ended(connection, End::NotUpgraded(&answer))?;
                    return Ok(bytes.len());
                }
            }
            open.phase = Phase::Open;
            match open.stream.resumed() {
                None => {}
                Some(true) => self.results.counts.tls_resumed += 1,
                Some(false) => self.results.counts.tls_full += 1,
            }
        }
        while let Some((opcode, payload, after)) = wire::split(rest) {
            rest = after;
            match opcode {
                wire::TEXT | wire::BINARY if opcode == self.plan.encoding.opcode() => {
                    self.message(connection, payload, now)?;
                }
                wire::TEXT | wire::BINARY => {
                    self.results.counts.errors += 1;
                    let cause = "a message in another encoding than the agreed one";
                    self.results.counts.cause(cause);
                }
                wire::PING => self.send(connection, wire::PONG, payload),
                wire::CLOSE => {
                    let (code, reason) = wire::close(payload);
                    *self.results.counts.closes.entry(code).or_default() += 1;
                    self.send(connection, wire::CLOSE, payload);
                    self.closed(connection, code, reason)?;
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

    /// Notes a sign of life, which ends a stall.
    fn heard(&mut self, connection: usize, now: u64) -> Result<(), WorkError> {
        let open = &mut self.connections[connection];
        let stalled = open.stalled || open.is_stalled(now);
        let heard = std::mem::replace(&mut open.heard, now);
        if stalled {
            open.stalled = false;
            let number = open.user;
            self.results.counts.stalled += 1;
            self.lose(number, heard)?;
            self.cut(number)?;
            self.goes_on(number, now)?;
        }
        Ok(())
    }

    /// Pings a session, and finds out whether it answered the last one.
    pub(super) fn probe(&mut self, number: u32, now: u64) -> Result<(), WorkError> {
        let Some(connection) = self.user(number).connection else {
            return Ok(());
        };
        let open = &mut self.connections[connection];
        if open.is_stalled(now) {
            open.stalled = true;
            let heard = open.heard;
            self.lose(number, heard)?;
            return self.cut(number);
        }
        if open.phase == Phase::Open && open.pinged <= open.heard {
            open.pinged = now;
            self.send(connection, wire::PING, b"");
        }
        Ok(())
    }

    pub(super) fn send_message(&mut self, connection: usize, message: &[u8]) {
        self.send(connection, self.plan.encoding.opcode(), message);
    }

    pub(super) fn send(&mut self, connection: usize, opcode: u8, payload: &[u8]) {
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

    /// Gives the connections up from which nothing has come for too long.
    pub(super) fn drop_the_silent(&mut self, now: u64) -> Result<(), WorkError> {
        let all = self.connections.iter();
        let stuck: Vec<(usize, End<'static>)> = all
            .filter_map(|(connection, open)| Some((connection, open.stuck(now)?)))
            .collect();
        for (connection, end) in stuck {
            self.ended(connection, end)?;
        }
        Ok(())
    }
}
