//! Where the connections of a worker come from. On loopback each has a source address among all of
//! 127.0.0.0/8, so that neither this process nor others beside it run out of ports. The only unsafe
//! code of the bench is here: no library that it has sets this socket option.
#![allow(unsafe_code)]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
};

use mio::net::TcpStream;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::plan::Plan;

/// Sessions from one source address: the kernel looks for a free port ever longer, from half of all
/// on, and that is not the server's. An address is the user's whatever its server is, so that no
/// server, in whatever fault, meets more from one address.
pub(crate) const PER_ADDRESS: u32 = 10_000;

/// The source address of a user, one for every so many users of a worker: `None` = what the kernel
/// takes, for a run that is small enough. Other runs have another second byte, other workers another third.
fn source(plan: &Plan, user: u32) -> Option<Ipv4Addr> {
    if plan.users() <= PER_ADDRESS {
        return None;
    }
    let block = user / plan.workers / PER_ADDRESS;
    let last = 1 + (block % 254) as u8;
    Some(Ipv4Addr::new(127, plan.source, plan.worker as u8, last))
}

/// Begins the connection of a user.
pub(crate) fn open(plan: &Plan, address: SocketAddr, user: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if address.ip().is_loopback()
        && address.is_ipv4()
        && let Some(source) = source(plan, user)
    {
        bind(&socket, source)?;
    }
    match socket.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

fn bind(socket: &Socket, source: Ipv4Addr) -> io::Result<()> {
    bind_address_no_port(socket)?;
    socket.bind(&SocketAddr::from((source, 0)).into())
}

/// Has the kernel choose the port when the socket connects, when it knows the other end: then a port
/// may serve one connection to each server. Without it, binding takes a port for itself, and looks for
/// one among all that any process has bound at that address (ip(7), Linux 4.2).
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads an int from
    // `on`, which is one and outlives the call, and keeps nothing of it.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::TcpListener};

    use super::*;
    use crate::plan::{Scenario, tests::plan};

    #[test]
    fn no_two_workers_share_an_address_and_none_has_more_users_than_its_ports_bear() {
        let mut plan = plan(Scenario::Connect);
        plan.sessions = PER_ADDRESS;
        assert_eq!(source(&plan, 5), None, "one address is enough");
        plan.sessions = 100_000;
        let mut users: BTreeMap<Ipv4Addr, (u32, u32)> = BTreeMap::new();
        for user in 0..plan.users() {
            plan.worker = user % plan.workers;
            let source = source(&plan, user).expect("an address of its own");
            let (worker, count) = users.entry(source).or_insert((plan.worker, 0));
            assert_eq!(*worker, plan.worker, "{source}");
            *count += 1;
        }
        assert!(users.values().all(|(_, count)| *count <= PER_ADDRESS));
    }

    #[test]
    fn binding_takes_no_port_and_connecting_keeps_the_address() {
        let source = Ipv4Addr::new(127, 200, 1, 1);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        bind(&socket, source).expect("a source address");
        let bound = socket.local_addr().expect("an address").as_socket();
        assert_eq!(bound, Some((source, 0).into()));
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = server.local_addr().expect("an address");
        socket.connect(&address.into()).expect("a connection");
        let (_, from) = server.accept().expect("the connection");
        assert_eq!(from.ip(), source);
    }
}
