//! The store in memory: each core keeps the records of its own users, nothing is shared, and every
//! request is answered at once. It forgets everything when the process ends.

use std::collections::HashMap;

use presence::{StoreReply, StoreRequest};
use protocol::{Status, Stored};
use ring::Epoch;

use super::Store;

/// Requests a core may hand over at a time.
const ROOM: usize = 1_024;
/// Between two looks for users that may be forgotten, ms.
const SWEEP: u64 = 60_000;

pub(crate) struct Memory {
    users: HashMap<Box<str>, Stored>,
    replies: Vec<StoreReply>,
    retention: u64,
    next_sweep: u64,
}

impl Memory {
    /// An empty store that forgets offline users after `retention` ms.
    pub(crate) fn new(retention: u64) -> Self {
        Self {
            users: HashMap::new(),
            replies: Vec::new(),
            retention,
            next_sweep: 0,
        }
    }
}

impl Store for Memory {
    fn room(&self) -> usize {
        ROOM
    }

    fn submit(&mut self, requests: Vec<StoreRequest>) {
        for request in requests {
            self.replies.push(match request {
                // A new process has no predecessor in memory.
                StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: true,
                    users: Vec::new(),
                },
                StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
                StoreRequest::Read { ticket, user, .. } => {
                    StoreReply::Read(ticket, Epoch::default(), self.users.get(&user).cloned())
                }
                StoreRequest::Write {
                    ticket,
                    user,
                    stored,
                    ..
                } => {
                    self.users.insert(user, stored);
                    StoreReply::Written(ticket)
                }
            });
        }
    }

    fn poll(&mut self, replies: &mut Vec<StoreReply>) {
        replies.append(&mut self.replies);
    }

    fn waiting(&self) -> usize {
        self.replies.len()
    }

    fn tick(&mut self, now: u64) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let oldest = now.saturating_sub(self.retention);
        self.users.retain(|_, stored| {
            let Stored {
                record, connected, ..
            } = stored;
            *connected || record.status != Status::Offline || record.last_seen >= oldest
        });
    }
}
