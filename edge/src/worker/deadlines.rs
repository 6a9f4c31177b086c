//! Sockets that have to get somewhere in time. It owns the deadlines; what is late the one that
//! waits for the socket decides.

use std::{cell::Cell, rc::Rc, time::Duration};

use monoio::net::TcpStream;

use super::Worker;
use crate::{clock, socket};

/// A socket that has to get somewhere by a deadline.
pub(super) struct Deadline {
    at: u64,
    stream: Rc<TcpStream>,
    expired: Rc<Cell<bool>>,
}

/// Stands for a deadline; it is lifted when this is dropped.
pub(crate) struct DeadlineGuard {
    worker: Rc<Worker>,
    key: usize,
    expired: Rc<Cell<bool>>,
}

impl DeadlineGuard {
    pub(crate) fn expired(&self) -> bool {
        self.expired.get()
    }
}

impl Drop for DeadlineGuard {
    fn drop(&mut self) {
        self.worker.deadlines.borrow_mut().remove(self.key);
    }
}

impl Worker {
    /// Sets a deadline for a socket: reading from it ends then.
    pub(crate) fn deadline(
        self: &Rc<Self>,
        stream: &Rc<TcpStream>,
        patience: Duration,
    ) -> DeadlineGuard {
        let at = clock::mono_us() / 1_000 + patience.as_millis() as u64;
        let expired = Rc::new(Cell::new(false));
        let deadline = Deadline {
            at,
            stream: Rc::clone(stream),
            expired: Rc::clone(&expired),
        };
        let key = self.deadlines.borrow_mut().insert(deadline);
        DeadlineGuard {
            worker: Rc::clone(self),
            key,
            expired,
        }
    }

    /// Ends the reading from sockets whose deadline has come.
    pub(super) fn end_late(&self, ms: u64) {
        for (_, deadline) in &*self.deadlines.borrow() {
            if deadline.at <= ms && !deadline.expired.replace(true) {
                socket::stop_reading(socket::descriptor(&deadline.stream));
            }
        }
    }
}
