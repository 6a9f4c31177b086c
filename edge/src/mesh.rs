//! The rings between cores: one bounded single-producer ring for each pair, and a wakeup
//! for each core, signalled at most once a batch. It owns delivery; what a message means is the worker's.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use atomic_waker::AtomicWaker;

/// Messages that may wait between two cores; with more, they wait in the sender's own queues.
const CAPACITY: usize = 4_096;

/// What wakes a core's task, shared by all that have something for it.
#[derive(Default)]
pub(crate) struct Wakeup {
    pending: AtomicBool,
    waker: AtomicWaker,
}

impl Wakeup {
    /// Wakes the task, if it has not been woken since it looked last.
    pub(crate) fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Waits until it is woken; a wake between two waits counts.
    pub(crate) async fn woken(&self) {
        poll_fn(|context| {
            self.waker.register(context.waker());
            if self.pending.swap(false, Ordering::AcqRel) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

struct Outgoing<T> {
    ring: rtrb::Producer<T>,
    wakeup: Arc<Wakeup>,
    unannounced: bool,
}

/// A core's ends of its rings.
pub(crate) struct Mesh<T> {
    /// The ring to each core; none to itself.
    outgoing: Vec<Option<Outgoing<T>>>,
    incoming: Vec<Option<rtrb::Consumer<T>>>,
    pub(crate) wakeup: Arc<Wakeup>,
}

impl<T> Mesh<T> {
    /// The ends of each of `cores` cores.
    pub(crate) fn connect(cores: usize) -> Vec<Self> {
        let mut meshes: Vec<Self> = (0..cores)
            .map(|_| Self {
                outgoing: (0..cores).map(|_| None).collect(),
                incoming: (0..cores).map(|_| None).collect(),
                wakeup: Arc::default(),
            })
            .collect();
        for from in 0..cores {
            for to in (0..cores).filter(|to| *to != from) {
                let (producer, consumer) = rtrb::RingBuffer::new(CAPACITY);
                let wakeup = Arc::clone(&meshes[to].wakeup);
                meshes[from].outgoing[to] = Some(Outgoing {
                    ring: producer,
                    wakeup,
                    unannounced: false,
                });
                meshes[to].incoming[from] = Some(consumer);
            }
        }
        meshes
    }

    /// Whether a message to that core fits now.
    pub(crate) fn has_room(&self, to: usize) -> bool {
        self.outgoing[to]
            .as_ref()
            .is_some_and(|outgoing| !outgoing.ring.is_full())
    }

    /// Puts a message into the ring; a full one gives it back.
    pub(crate) fn send(&mut self, to: usize, message: T) -> Result<(), T> {
        let Some(outgoing) = &mut self.outgoing[to] else {
            return Err(message);
        };
        outgoing.unannounced = true;
        outgoing
            .ring
            .push(message)
            .map_err(|rtrb::PushError::Full(message)| message)
    }

    /// Wakes the cores that got something since the last time.
    pub(crate) fn announce(&mut self) {
        for outgoing in self.outgoing.iter_mut().flatten() {
            if std::mem::take(&mut outgoing.unannounced) {
                outgoing.wakeup.wake();
            }
        }
    }

    /// The next message, with the core it is from.
    pub(crate) fn receive(&mut self) -> Option<(usize, T)> {
        let each = self.incoming.iter_mut().enumerate();
        each.filter_map(|(from, ring)| Some((from, ring.as_mut()?.pop().ok()?)))
            .next()
    }
}
