//! The waiting for the sockets of a core's sessions, on a private io_uring: one request a socket for
//! its whole life (multishot poll), and no task, buffer or re-arming of it. It owns the requests and
//! no socket; what an event leads to is the worker's.

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
};

use io_uring::{IoUring, cqueue, opcode, squeue::Flags, types::Fd};
use monoio::net::UnixStream;
use tracing::error;

/// Requests that go to the kernel in one call.
const ENTRIES: u32 = 256;
/// Events that may wait. One more ends its socket's request, which is made again.
const EVENTS: u32 = 4_096;
/// Set in the name of a request that takes another back, and in no socket's.
const REMOVAL: u64 = 1 << 31;

/// Something has become of a socket. The kernel tells it once, with the change: who does not read all
/// that is there hears of it again only when more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// The name that the socket was given.
    pub(crate) name: u64,
    /// Bytes can be read, or the end can.
    pub(crate) readable: bool,
    /// The other side sends no more, or the connection has failed.
    pub(crate) ending: bool,
    /// Bytes can be sent.
    pub(crate) writable: bool,
    /// The socket is no longer waited for: it has to be armed again.
    pub(crate) disarmed: bool,
}

impl Event {
    fn of(completion: &cqueue::Entry) -> Self {
        // A request that failed tells nothing of the socket: reading from it does.
        let mask = u32::try_from(completion.result()).unwrap_or(u32::from(libc::POLLERR as u16));
        let has = |flags: i16| mask & u32::from(flags as u16) != 0;
        let ending = has(libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL);
        Self {
            name: completion.user_data(),
            readable: ending || has(libc::POLLIN),
            ending,
            writable: has(libc::POLLOUT),
            disarmed: !cqueue::more(completion.flags()),
        }
    }
}

pub(crate) struct PollRing {
    ring: IoUring,
}

impl PollRing {
    pub(crate) fn new() -> io::Result<Self> {
        // Events interrupt nothing: they are written when the core next enters the kernel, which it
        // does to wait.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .setup_cqsize(EVENTS)
            .build(ENTRIES)?;
        Ok(Self { ring })
    }

    /// What becomes readable, to the runtime's own ring, when events wait.
    pub(crate) fn waiter(&self) -> io::Result<UnixStream> {
        // SAFETY: the ring owns the descriptor and outlives the borrow.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let ring: OwnedFd = ring.try_clone_to_owned()?;
        // Only its readiness is asked for, for which any kind of descriptor is as good.
        UnixStream::from_std(StdStream::from(ring))
    }

    /// Waits for a socket from the next [`PollRing::submit`] on; what is so already is an event, too.
    ///
    /// # Panics
    ///
    /// Bit 31 of `name` is set.
    pub(crate) fn arm(&mut self, socket: BorrowedFd<'_>, name: u64) {
        assert!(name & REMOVAL == 0, "{name:#x} is a removal's name");
        let wanted = libc::POLLIN | libc::POLLRDHUP | libc::POLLOUT;
        let poll = opcode::PollAdd::new(Fd(socket.as_raw_fd()), u32::from(wanted as u16))
            .multi(true)
            .build()
            .user_data(name);
        self.push(&poll);
    }

    /// Takes back what waits for a socket, from the next [`PollRing::submit`] on. Events of its name
    /// may still come. Until then the kernel keeps the socket, though its descriptor be closed.
    pub(crate) fn disarm(&mut self, name: u64) {
        let removal = opcode::PollRemove::new(name)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(name | REMOVAL);
        self.push(&removal);
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: a poll request points at no memory, and the kernel holds the socket itself.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit();
        }
    }

    /// Gives the kernel what is to be armed and disarmed. What it has no memory for, or no room for
    /// before events are taken, waits for the next time.
    pub(crate) fn submit(&mut self) {
        let queue = self.ring.submission();
        let idle = queue.is_empty() && !queue.cq_overflow();
        drop(queue);
        if idle {
            return;
        }
        if let Err(error) = self.ring.submit()
            && !matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
            )
        {
            // No session would ever be read again.
            error!(event = "ring_failed", "the poll ring failed: {error}");
            program::log::flush();
            std::process::abort();
        }
    }

    /// Appends up to `most` of the events that wait to `events`.
    pub(crate) fn take(&mut self, most: usize, events: &mut Vec<Event>) {
        let mut again = Vec::new();
        for completion in self.ring.completion().take(most) {
            let name = completion.user_data();
            if name & REMOVAL == 0 {
                events.push(Event::of(&completion));
            } else if completion.result() == -libc::EALREADY {
                // Bytes came in that moment. The request is as it was, and the socket with it.
                again.push(name & !REMOVAL);
            }
        }
        again.into_iter().for_each(|name| self.disarm(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{ErrorKind, Read, Write},
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
        time::Duration,
    };

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        (client, listener.accept().expect("it came").0)
    }

    /// The events that come until one is as wanted.
    fn until(ring: &mut PollRing, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while !events.iter().any(&wanted) {
            ring.submit();
            // The kernel writes events when it is entered.
            std::thread::yield_now();
            ring.take(16, &mut events);
        }
        events
    }

    #[test]
    fn a_socket_is_armed_once_and_tells_of_bytes_room_and_its_end() {
        let (mut client, mut end) = pair();
        end.set_nonblocking(true).expect("a socket");
        let mut ring = PollRing::new().expect("io_uring");
        ring.arm(end.as_fd(), 7);
        let first = until(&mut ring, |event| event.writable);
        assert!(first.iter().all(|event| event.name == 7 && !event.disarmed));
        for _ in 0..3 {
            client.write_all(b"x").expect("it is open");
            let events = until(&mut ring, |event| event.readable);
            assert!(events.iter().all(|event| !event.ending && !event.disarmed));
            assert_eq!(end.read(&mut [0; 8]).expect("it came"), 1);
        }
        while end.write(&[0; 1 << 16]).is_ok() {}
        ring.take(16, &mut Vec::new());
        client.set_nonblocking(true).expect("a socket");
        let mut room = Vec::new();
        while !room.iter().any(|event: &Event| event.writable) {
            let _ = client.read(&mut [0; 1 << 16]);
            ring.take(16, &mut room);
        }
        drop(client);
        until(&mut ring, |event| event.readable && event.ending);
    }

    #[test]
    fn what_is_disarmed_lets_go_of_its_socket() {
        let (mut client, end) = pair();
        let mut ring = PollRing::new().expect("io_uring");
        ring.arm(end.as_fd(), 7);
        until(&mut ring, |event| event.writable);
        ring.disarm(7);
        drop(end);
        until(&mut ring, |event| event.disarmed);
        assert_eq!(client.read(&mut [0; 8]).expect("the end"), 0);
    }

    #[test]
    fn a_flood_of_bytes_keeps_no_socket_that_is_disarmed() {
        let mut ring = PollRing::new().expect("io_uring");
        for name in 0..40 {
            let (mut client, mut end) = pair();
            end.set_nonblocking(true).expect("a socket");
            client
                .set_write_timeout(Some(Duration::from_secs(20)))
                .expect("a timeout");
            let flood = std::thread::spawn(move || {
                loop {
                    if let Err(error) = client.write_all(&[0; 1 << 10]) {
                        return error.kind();
                    }
                }
            });
            ring.arm(end.as_fd(), name);
            for _ in 0..20 {
                until(&mut ring, |event| event.name == name && event.readable);
                while end.read(&mut [0; 1 << 10]).is_ok() {}
            }
            ring.disarm(name);
            drop(end);
            while !flood.is_finished() {
                ring.submit();
                std::thread::yield_now();
                ring.take(16, &mut Vec::new());
            }
            let end = flood.join().expect("a writer");
            assert!(
                matches!(end, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                "{name}: {end}"
            );
        }
    }

    #[test]
    fn more_events_than_fit_lose_none() {
        let mut ring = PollRing {
            ring: IoUring::builder()
                .setup_cqsize(8)
                .build(8)
                .expect("io_uring"),
        };
        let ends: Vec<_> = (0..64).map(|_| pair()).collect();
        for (name, (_, end)) in ends.iter().enumerate() {
            ring.arm(end.as_fd(), name as u64);
        }
        let mut seen = [false; 64];
        while seen != [true; 64] {
            ring.submit();
            let mut events = Vec::new();
            ring.take(4, &mut events);
            for event in events {
                seen[event.name as usize] = true;
                if event.disarmed {
                    ring.arm(ends[event.name as usize].1.as_fd(), event.name);
                }
            }
        }
    }
}
