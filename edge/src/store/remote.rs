//! The handles to a store that works elsewhere than on the cores: requests go to it in batches,
//! answers come back to a mailbox and wake the core. It owns the limit of what waits.

use std::sync::{Arc, Mutex};

use presence::{StoreReply, StoreRequest};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Store;
use crate::mesh::Wakeup;

/// Requests of one core that may wait for the store; more wait in the core, a user at most once.
const ROOM: usize = 4_096;

/// The requests that a core hands over together.
pub(crate) struct Batch {
    pub(crate) core: usize,
    pub(crate) requests: Vec<StoreRequest>,
}

/// A core's handle to a store that lives on another thread.
pub(crate) struct Handle {
    core: usize,
    requests: UnboundedSender<Batch>,
    replies: Arc<Mutex<Vec<StoreReply>>>,
    waiting: usize,
}

struct Mailbox {
    replies: Arc<Mutex<Vec<StoreReply>>>,
    wakeup: Arc<Wakeup>,
}

/// The store's side. What waits in it is bounded by [`ROOM`] for each core.
pub(crate) struct Outlet {
    pub(crate) requests: UnboundedReceiver<Batch>,
    pub(crate) answers: Answers,
}

/// The mailboxes of the cores, into which answers go.
#[derive(Clone)]
pub(crate) struct Answers(Arc<[Mailbox]>);

/// A handle for each core, and the other side of them.
pub(crate) fn remote(wakeups: &[Arc<Wakeup>]) -> (Vec<Handle>, Outlet) {
    let (sender, requests) = unbounded_channel();
    let mailboxes: Arc<[Mailbox]> = wakeups
        .iter()
        .map(|wakeup| Mailbox {
            replies: Arc::default(),
            wakeup: Arc::clone(wakeup),
        })
        .collect();
    let handle = |(core, mailbox): (usize, &Mailbox)| Handle {
        core,
        requests: sender.clone(),
        replies: Arc::clone(&mailbox.replies),
        waiting: 0,
    };
    let handles = mailboxes.iter().enumerate().map(handle).collect();
    let answers = Answers(mailboxes);
    (handles, Outlet { requests, answers })
}

impl Answers {
    /// Gives a core its answers.
    pub(crate) fn give(&self, core: usize, replies: Vec<StoreReply>) {
        let mailbox = &self.0[core];
        mailbox
            .replies
            .lock()
            .expect("nobody panics with this lock")
            .extend(replies);
        mailbox.wakeup.wake();
    }

    /// Gives each core its answers, of which there may be none.
    pub(crate) fn give_all(&self, replies: Vec<Vec<StoreReply>>) {
        for (core, replies) in replies.into_iter().enumerate() {
            if !replies.is_empty() {
                self.give(core, replies);
            }
        }
    }

    /// How many cores there are.
    pub(crate) fn cores(&self) -> usize {
        self.0.len()
    }
}

impl Store for Handle {
    fn room(&self) -> usize {
        ROOM.saturating_sub(self.waiting)
    }

    fn submit(&mut self, requests: Vec<StoreRequest>) {
        self.waiting += requests.len();
        let batch = Batch {
            core: self.core,
            requests,
        };
        if let Err(unsent) = self.requests.send(batch) {
            // The store has ended before the core: it will not answer.
            let failed = unsent.0.requests.iter().map(StoreRequest::failed);
            let mut replies = self.replies.lock().expect("nobody panics with this lock");
            replies.extend(failed);
        }
    }

    fn poll(&mut self, replies: &mut Vec<StoreReply>) {
        let mut waiting = self.replies.lock().expect("nobody panics with this lock");
        self.waiting -= waiting.len();
        replies.append(&mut waiting);
    }

    fn waiting(&self) -> usize {
        self.waiting
    }

    fn tick(&mut self, _now: u64) {}
}
