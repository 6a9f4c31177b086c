//! The store in memory: each core keeps the records of its own users, nothing is shared, and every
//! request is answered at once. It forgets everything when the process ends.

use presence::{StoreReply, StoreRequest};
use protocol::{Status, Stored};
use ring::Epoch;

use super::{Store, packed::Packed};

/// Requests a core may hand over at a time.
const ROOM: usize = 1_024;
/// Between two looks for users that may be forgotten, ms.
const SWEEP: u64 = 60_000;

pub(crate) struct Memory {
    users: Packed,
    replies: Vec<StoreReply>,
    retention: u64,
    /// The part of the users that is looked at next, while a look is under way.
    sweeping: Option<usize>,
    next_sweep: u64,
}

impl Memory {
    /// An empty store that forgets offline users after `retention` ms.
    pub(crate) fn new(retention: u64) -> Self {
        Self {
            users: Packed::default(),
            replies: Vec::new(),
            retention,
            sweeping: None,
            next_sweep: 0,
        }
    }

    fn read(&self, user: &str) -> Option<Stored> {
        self.users.get(user).map(decoded)
    }

    fn write(&mut self, user: &str, stored: &Stored) {
        let mut record = Vec::with_capacity(64);
        stored.encode(&mut record);
        self.users.put(user, &record);
    }
}

fn decoded(record: &[u8]) -> Stored {
    Stored::decode(record).expect("what was encoded here is whole")
}

impl Store for Memory {
    fn room(&self) -> usize {
        ROOM
    }

    fn submit(&mut self, requests: Vec<StoreRequest>) {
        for request in requests {
            let reply = match request {
                // A new process has no predecessor in memory.
                StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                    vnode,
                    epoch,
                    released: true,
                    users: Vec::new(),
                },
                StoreRequest::Release { vnode, epoch } => StoreReply::Released(vnode, epoch),
                StoreRequest::Owner { .. } => request.failed(),
                StoreRequest::Read { ticket, user, .. } => {
                    StoreReply::Read(ticket, Epoch::default(), self.read(&user))
                }
                StoreRequest::Write {
                    ticket,
                    user,
                    stored,
                    ..
                } => {
                    self.write(&user, &stored);
                    StoreReply::Written(ticket)
                }
            };
            self.replies.push(reply);
        }
    }

    fn poll(&mut self, replies: &mut Vec<StoreReply>) {
        replies.append(&mut self.replies);
    }

    fn waiting(&self) -> usize {
        self.replies.len()
    }

    /// Looks at a part of the users at a time, which takes some 50 µs.
    fn tick(&mut self, now: u64) {
        if self.sweeping.is_none() && now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweeping = Some(0);
        }
        let Some(part) = self.sweeping else {
            return;
        };
        let oldest = now.saturating_sub(self.retention);
        self.users.retain(part, |record| {
            let Stored {
                record, connected, ..
            } = decoded(record);
            connected || record.status != Status::Offline || record.last_seen >= oldest
        });
        self.sweeping = (part + 1 < self.users.parts()).then_some(part + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Record;

    #[test]
    fn who_was_not_seen_for_the_retention_is_forgotten_and_nobody_else() {
        let mut store = Memory::new(1_000);
        let offline = |last_seen| Stored {
            record: Record {
                last_seen,
                ..Record::default()
            },
            mode: protocol::Mode::Auto,
            connected: false,
        };
        for n in 0..10_000 {
            store.write(&format!("user-{n}"), &offline(n));
        }
        let mut here = offline(0);
        here.connected = true;
        store.write("here", &here);
        assert!(store.users.parts() > 2);
        for _ in 0..20 {
            store.tick(6_000);
        }
        assert_eq!(store.read("here"), Some(here));
        for n in 0..10_000 {
            let kept = (n >= 5_000).then(|| offline(n));
            assert_eq!(store.read(&format!("user-{n}")), kept);
        }
        store.tick(6_000 + SWEEP - 1);
        assert!(store.read("user-9999").is_some());
        for _ in 0..20 {
            store.tick(60_000 + SWEEP);
        }
        assert!(store.read("user-9999").is_none());
    }
}
