//! Sends of a batch on a private io_uring of the core: one system call, completions inline. It
//! owns the ring and nothing that is sent; it returns when the kernel has let go of every byte.
//! The edge's unsafe code is here, in `poll_ring.rs`, in `socket.rs` and, to call C, in `allocator.rs`.

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
};

use io_uring::{IoUring, opcode, types::Fd};
use tracing::error;

/// Sends that go to the kernel in one call.
const ENTRIES: u32 = 512;

pub(crate) struct SendRing {
    ring: IoUring,
}

impl SendRing {
    pub(crate) fn new() -> io::Result<Self> {
        // Nobody else submits here, and completions are only wanted when we ask for them.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES)?;
        Ok(Self { ring })
    }

    /// Sends each range of `arena` to its socket without waiting for room in it, and appends to
    /// `results` in the same order how many bytes the socket took, or minus the error's number.
    pub(crate) fn send(
        &mut self,
        arena: &[u8],
        sends: &[(BorrowedFd<'_>, Range<usize>)],
        results: &mut Vec<i32>,
    ) {
        for batch in sends.chunks(ENTRIES as usize) {
            let first = results.len();
            results.resize(first + batch.len(), 0);
            self.send_batch(arena, batch, &mut results[first..]);
        }
    }

    fn send_batch(
        &mut self,
        arena: &[u8],
        batch: &[(BorrowedFd<'_>, Range<usize>)],
        results: &mut [i32],
    ) {
        for (n, (socket, range)) in batch.iter().enumerate() {
            let bytes = &arena[range.clone()];
            let send =
                opcode::Send::new(Fd(socket.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
                    .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                    .build()
                    .user_data(n as u64);
            // SAFETY: the bytes and the descriptor are borrowed until this function returns, and
            // it only returns after the completion of every entry it has pushed.
            let pushed = unsafe { self.ring.submission().push(&send) };
            pushed.expect("a batch is no larger than the ring, which is empty before it");
        }
        let mut missing = batch.len();
        while missing > 0 {
            match self.ring.submit_and_wait(missing) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                // The kernel may still hold the bytes: there is no way to go on.
                Err(error) => {
                    error!(event = "ring_failed", "the send ring failed: {error}");
                    program::log::flush();
                    std::process::abort();
                }
            }
            for completion in self.ring.completion() {
                results[completion.user_data() as usize] = completion.result();
                missing -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    #[test]
    fn each_socket_gets_its_range_and_a_full_one_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let mut ends: Vec<(TcpStream, TcpStream)> = (0..600)
            .map(|_| {
                let client = TcpStream::connect(address).expect("it listens");
                (client, listener.accept().expect("it came").0)
            })
            .collect();
        let arena: Vec<u8> = (0..ends.len())
            .flat_map(|n| (n as u32).to_be_bytes())
            .collect();
        let sends: Vec<_> = ends
            .iter()
            .enumerate()
            .map(|(n, (_, end))| (end.as_fd(), n * 4..n * 4 + 4))
            .collect();
        let mut ring = SendRing::new().expect("io_uring");
        let mut results = Vec::new();
        ring.send(&arena, &sends, &mut results);
        drop(sends);
        assert_eq!(results, vec![4; ends.len()]);
        for (n, (client, _)) in ends.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            client.read_exact(&mut bytes).expect("it was sent");
            assert_eq!(bytes, (n as u32).to_be_bytes());
        }
        let large = vec![0; 8 << 20];
        results.clear();
        for _ in 0..2 {
            ring.send(&large, &[(ends[0].1.as_fd(), 0..large.len())], &mut results);
        }
        assert!(results[0] > 0 && (results[0] as usize) < large.len());
        assert_eq!(results[1], -libc::EAGAIN);
        let (client, end) = ends.remove(1);
        drop(client);
        while results.last() != Some(&-libc::EPIPE) && results.last() != Some(&-libc::ECONNRESET) {
            ring.send(&arena, &[(end.as_fd(), 0..4)], &mut results);
        }
    }
}
