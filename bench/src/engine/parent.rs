//! What a worker has from outside besides its sockets: orders and answers of its parent, and a timer.

use std::{
    io::{self, BufRead, Write},
    os::fd::{AsRawFd, OwnedFd},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use mio::{Interest, Poll, Token, Waker, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::WorkError;
use crate::link::{News, Order};

/// Tells the parent something.
pub(crate) fn tell(news: &News) -> Result<(), WorkError> {
    let mut line = serde_json::to_vec(news)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()?;
    Ok(())
}

/// Reads the parent's orders; the waker tells of each.
pub(crate) fn listen_for_orders(waker: Waker) -> Receiver<Order> {
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let order = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            if order.is_none_or(|order| sender.send(order).is_err()) || waker.wake().is_err() {
                break;
            }
        }
        // The run was given up: nobody waits for the results.
        std::process::exit(0);
    });
    orders
}

/// Wakes the loop to the microsecond, which epoll's own time-out does not.
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    pub(crate) fn new(poll: &Poll, token: Token) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let source = &mut SourceFd(&timer.as_raw_fd());
        (poll.registry()).register(source, token, Interest::READABLE)?;
        Ok(Self(timer))
    }

    /// Has it ring at `next`; both are monotonic times, µs.
    pub(crate) fn set(&self, now: u64, next: u64) -> io::Result<()> {
        let wait = Duration::from_micros(next.saturating_sub(now).max(1));
        let wait = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: wait,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    pub(crate) fn rang(&self) {
        let mut expired = [0; 8];
        // Spurious wake-ups have nothing to read.
        let _ = rustix::io::read(&self.0, &mut expired);
    }
}
