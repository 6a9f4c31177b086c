//! The bytes of a connection, encrypted or not. Neither waits: what the socket does not take or have
//! is `WouldBlock`.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use rustls::{ClientConnection, HandshakeKind, StreamOwned};

pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Transport {
    pub(crate) fn new(socket: TcpStream, tls: Option<ClientConnection>) -> Self {
        match tls {
            None => Self::Plain(socket),
            Some(tls) => Self::Tls(Box::new(StreamOwned::new(tls, socket))),
        }
    }

    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.sock,
        }
    }

    /// Whether the TLS session is a former one taken up again; `None` without TLS.
    pub(crate) fn resumed(&self) -> Option<bool> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.conn.handshake_kind() == Some(HandshakeKind::Resumed)),
        }
    }

    /// Whether reading may have made it possible to write: TLS had to agree with the server first.
    pub(crate) fn has_agreed(&self) -> bool {
        matches!(self, Self::Tls(tls) if !tls.conn.is_handshaking())
    }
}

impl Read for Transport {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(tls) => tls.read(bytes),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
