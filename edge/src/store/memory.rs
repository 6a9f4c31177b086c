//! The store in memory: each core keeps the records of its own users, nothing is shared, and every
//! request is answered at once. It forgets everything when the process ends.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use presence::{StoreReply, StoreRequest};
use protocol::{Status, Stored};
use ring::Epoch;

use super::Store;

/// Requests a core may hand over at a time.
const ROOM: usize = 1_024;
/// Between two looks for users that may be forgotten, ms.
const SWEEP: u64 = 60_000;

/// A user's name and record in one piece, the record as other stores keep it: a user who was here
/// once is kept for the whole retention, so each byte counts.
struct Kept(Box<[u8]>);

impl Kept {
    /// The number of bytes that hold a name's length.
    const LENGTH: usize = size_of::<u16>();

    fn new(user: &str, stored: &Stored) -> Self {
        let length = u16::try_from(user.len()).expect("a user has 256 bytes at most");
        let mut bytes = Vec::with_capacity(Self::LENGTH + user.len() + 64);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(user.as_bytes());
        stored.encode(&mut bytes);
        Self(bytes.into())
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.0.split_at(Self::LENGTH);
        let length = u16::from_le_bytes([length[0], length[1]]);
        rest.split_at(length.into())
    }

    fn user(&self) -> &[u8] {
        self.parts().0
    }

    fn stored(&self) -> Stored {
        Stored::decode(self.parts().1).expect("what was encoded here is whole")
    }
}

pub(crate) struct Memory {
    users: HashTable<Kept>,
    hasher: foldhash::quality::RandomState,
    replies: Vec<StoreReply>,
    retention: u64,
    next_sweep: u64,
}

impl Memory {
    /// An empty store that forgets offline users after `retention` ms.
    pub(crate) fn new(retention: u64) -> Self {
        Self {
            users: HashTable::new(),
            hasher: foldhash::quality::RandomState::default(),
            replies: Vec::new(),
            retention,
            next_sweep: 0,
        }
    }

    fn read(&self, user: &str) -> Option<Stored> {
        let hash = self.hasher.hash_one(user.as_bytes());
        let same = |kept: &Kept| kept.user() == user.as_bytes();
        self.users.find(hash, same).map(Kept::stored)
    }

    fn write(&mut self, user: &str, stored: &Stored) {
        let hasher = &self.hasher;
        let entry = self.users.entry(
            hasher.hash_one(user.as_bytes()),
            |kept| kept.user() == user.as_bytes(),
            |kept| hasher.hash_one(kept.user()),
        );
        entry.insert(Kept::new(user, stored));
    }
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

    fn tick(&mut self, now: u64) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP;
        let oldest = now.saturating_sub(self.retention);
        self.users.retain(|kept| {
            let Stored {
                record, connected, ..
            } = kept.stored();
            connected || record.status != Status::Offline || record.last_seen >= oldest
        });
        if self.users.len() < self.users.capacity() / 4 {
            let hasher = &self.hasher;
            let room = self.users.len() * 2;
            let rehash = |kept: &Kept| hasher.hash_one(kept.user());
            self.users.shrink_to(room, rehash);
        }
    }
}
