//! TLS over a socket, first by lines in turns, then both ways at once.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::Connection;
use serde::{Serialize, de::DeserializeOwned};
use socket2::{SockRef, TcpKeepalive};

/// The longest line before the other end is known, bytes.
const MAX_LINE: usize = 4_096;

/// How long nothing may be confirmed by the other end once it is at work.
const GONE: Duration = Duration::from_secs(20);

/// Which end had no more.
pub(super) enum End {
    Local,
    Distant,
}

pub(super) struct Wire {
    tls: Connection,
    socket: TcpStream,
    /// How long a line may take.
    patience: Duration,
}

impl Wire {
    /// Each line may take `patience`.
    pub(super) fn new(
        mut tls: Connection,
        socket: TcpStream,
        patience: Duration,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(patience))?;
        // A machine that is gone without a word ends the connection as well.
        let options = SockRef::from(&socket);
        options.set_tcp_user_timeout(Some(GONE))?;
        options.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(GONE / 4)
                .with_interval(GONE / 4),
        )?;
        // What waits to be sent is bounded by what is read for it.
        tls.set_buffer_limit(None);
        Ok(Self {
            tls,
            socket,
            patience,
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    fn process(&mut self) -> io::Result<()> {
        match self.tls.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => {
                // The other end is told why, if it still listens.
                let _ = self.flush();
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Sends `what` as one line of JSON, and waits until the socket has taken it.
    pub(super) fn tell(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.tls.writer().write_all(&line)?;
        self.flush()
    }

    /// Waits for a line.
    pub(super) fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let (mut line, end) = (Vec::new(), Instant::now() + self.patience);
        loop {
            let mut byte = [0];
            match self.tls.reader().read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte[0] == b'\n' => return Ok(serde_json::from_slice(&line)?),
                Ok(_) if line.len() < MAX_LINE => line.push(byte[0]),
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.flush()?;
                    // In all, however slowly it comes.
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    self.socket.set_read_timeout(Some(left))?;
                    if self.tls.read_tls(&mut self.socket)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.process()?;
                    self.flush()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Passes bytes on, both ways, until one end has no more.
    pub(super) fn relay(
        mut self,
        mut from: impl Read + AsFd,
        mut to: impl Write,
    ) -> io::Result<End> {
        self.socket.set_nonblocking(true)?;
        let mut bytes = vec![0; 64 << 10];
        loop {
            loop {
                match self.tls.reader().read(&mut bytes) {
                    Ok(0) => return Ok(End::Distant),
                    Ok(count) => to.write_all(&bytes[..count])?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            to.flush()?;
            let full = self.tls.wants_write();
            let socket = match full {
                true => PollFlags::IN | PollFlags::OUT,
                false => PollFlags::IN,
            };
            let mut waits = vec![PollFd::new(&self.socket, socket)];
            if !full {
                waits.push(PollFd::new(&from, PollFlags::IN));
            }
            match poll(&mut waits, None) {
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled?,
            };
            let ready = |at: usize| waits.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (network, local) = (ready(0), ready(1));
            if network {
                let (tls, socket) = (&mut self.tls, &mut self.socket);
                match tls.read_tls(socket) {
                    // The reader tells of the end.
                    Ok(_) => self.process()?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            if local {
                match from.read(&mut bytes)? {
                    0 => break,
                    count => self.tls.writer().write_all(&bytes[..count])?,
                }
            }
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        // All that was said has to arrive.
        self.socket.set_nonblocking(false)?;
        self.tls.send_close_notify();
        self.flush()?;
        self.socket.shutdown(Shutdown::Write)?;
        Ok(End::Local)
    }
}
