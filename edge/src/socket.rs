//! Sockets without waiting: readiness comes from monoio, bytes move by plain non-blocking calls
//! into buffers of the core. It owns nothing.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    time::Duration,
};

use monoio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};

/// The descriptor of an open stream.
pub(crate) fn descriptor(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}

/// Takes the socket out of this core's runtime, for another's.
pub(crate) fn into_socket(stream: TcpStream) -> OwnedFd {
    // SAFETY: `into_raw_fd` gives the descriptor up, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) }
}

/// Makes a socket part of this core's runtime.
pub(crate) fn from_socket(socket: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(socket.into())
}

/// A listener of its own on a shared port (`SO_REUSEPORT`).
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 65_535)?;
    Ok(socket.into())
}

/// Sets the options of a client's socket.
pub(crate) fn prepare(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    let socket = descriptor(stream);
    sockopt::set_tcp_nodelay(socket, true)?;
    let ms = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, ms)?)
}

/// Reads what is there; `None` when nothing is.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        return match rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((taken, _)) => Ok(Some(taken)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Sends as many bytes as fit; 0 when none does.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        return match rustix::net::send(socket, bytes, flags) {
            Ok(taken) => Ok(taken),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Makes who reads see an end; what is to be sent still goes.
pub(crate) fn stop_reading(socket: BorrowedFd<'_>) {
    // It fails when the connection is gone already, which who reads sees as well.
    let _ = rustix::net::shutdown(socket, Shutdown::Read);
}

/// Ends the sending side of a socket.
pub(crate) fn stop_writing(socket: BorrowedFd<'_>) {
    // As above.
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}
