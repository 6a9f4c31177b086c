//! The sessions of a core. It owns what a session costs; it never decides a status.

use protocol::{CloseCode, Encoding};

use crate::{WatchRule, fanout::Queued, slots::Slots, user::NONE, wheel::TimerId};

/// A session of this core. The index is dense and used again after [`crate::Core::closed`]; the
/// generation tells its uses apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// The position in the core's table, below the most sessions it ever had.
    pub index: u32,
    /// The number of the position's use: another one for each session that gets it.
    pub generation: u32,
}

/// A user that a session watches: the user's slot, where the session stands in its list of
/// watchers, and two flags in the slot's top bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    bits: u32,
    pub(crate) position: u32,
}

impl Watch {
    /// A change has not been sent yet.
    pub(crate) const PENDING: u32 = 1 << 31;
    /// The snapshot has not been answered yet; changes wait for it.
    pub(crate) const AWAITING: u32 = 1 << 30;
    /// The change that has not been sent yet is one of the status, which began at the record's `since`.
    pub(crate) const DATED: u32 = 1 << 29;
    const FLAGS: u32 = Self::PENDING | Self::AWAITING | Self::DATED;

    pub(crate) fn new(user: u32, position: u32) -> Self {
        assert!(user & Self::FLAGS == 0, "a core has fewer than 2^29 users");
        Self {
            bits: user,
            position,
        }
    }

    pub(crate) fn user(self) -> u32 {
        self.bits & !Self::FLAGS
    }

    pub(crate) fn has(self, flag: u32) -> bool {
        self.bits & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u32) {
        self.bits |= flag;
    }

    pub(crate) fn clear(&mut self, flag: u32) {
        self.bits &= !flag;
    }
}

/// What a session was told of its user's mode and text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Welcomed {
    /// It waits for its welcome, and is not read from before.
    NotYet,
    /// With what was known without the store; another welcome follows.
    InPart,
    Fully,
}

pub(crate) struct Session {
    pub(crate) generation: u32,
    /// The user's slot; `NONE` once the session has left it.
    pub(crate) user: u32,
    /// The next session of the same user, or `NONE`.
    pub(crate) next: u32,
    /// First of the pieces that wait for a flush.
    pub(crate) pieces: u32,
    pub(crate) timer: TimerId,
    /// Seconds within which the client has promised to say something; 0 = no promise.
    pub(crate) alive: u16,
    /// A ping is out, and nothing has come since.
    pub(crate) pinged: bool,
    pub(crate) away: bool,
    /// It has said itself whether it is away.
    pub(crate) spoke: bool,
    pub(crate) encoding: Encoding,
    /// In which list of what is to be sent the session stands.
    pub(crate) queued: Queued,
    /// Whether the socket takes no bytes at the moment.
    pub(crate) blocked: bool,
    pub(crate) warned: bool,
    pub(crate) welcomed: Welcomed,
    pub(crate) closing: Option<CloseCode>,
    /// The number of users in the questions that wait.
    pub(crate) asked: u16,
    /// The messages that the client may send now, in thousandths (a token bucket).
    pub(crate) tokens: u32,
    /// The bytes that the client may send now (a token bucket).
    pub(crate) byte_tokens: u32,
    /// When both were brought up to date last, by the low bits of the core's clock, ms.
    pub(crate) refilled: u32,
    /// When the last sign of life came: bytes, or after a promise a message; ms of the core's clock.
    pub(crate) heard: u64,
    /// When the next ping is sent, ms of the core's clock.
    pub(crate) ping_due: u64,
    /// When the socket last stopped taking bytes, ms of the core's clock.
    pub(crate) blocked_since: u64,
    /// When the token ends, ms since 1970; 0 = never.
    pub(crate) expires: u64,
    /// When the oldest change that waits was made, monotonic µs.
    pub(crate) pending_since: u64,
    pub(crate) watches: Vec<Watch>,
    /// Answers, as whole frames, that go out before any record.
    pub(crate) replies: Vec<u8>,
    /// The token's rule; `None` = the session may watch anyone.
    pub(crate) rule: Option<Box<WatchRule>>,
}

#[derive(Default)]
pub(crate) struct Sessions {
    pub(crate) slots: Slots<Session>,
    generation: u32,
}

impl Sessions {
    pub(crate) fn insert(&mut self, mut session: Session) -> SessionId {
        self.generation = self.generation.wrapping_add(1);
        session.generation = self.generation;
        let index = self.slots.insert(session);
        SessionId {
            index,
            generation: self.generation,
        }
    }

    /// The index of `id` while the session takes part in anything.
    pub(crate) fn live(&self, id: SessionId) -> Option<u32> {
        let session = self.slots.get(id.index)?;
        (session.generation == id.generation && session.user != NONE).then_some(id.index)
    }

    /// The index of `id` until it is closed.
    pub(crate) fn open(&self, id: SessionId) -> Option<u32> {
        let session = self.slots.get(id.index)?;
        (session.generation == id.generation).then_some(id.index)
    }

    pub(crate) fn id(&self, index: u32) -> SessionId {
        SessionId {
            index,
            generation: self[index].generation,
        }
    }
}

impl std::ops::Index<u32> for Sessions {
    type Output = Session;
    fn index(&self, index: u32) -> &Session {
        &self.slots[index]
    }
}

impl std::ops::IndexMut<u32> for Sessions {
    fn index_mut(&mut self, index: u32) -> &mut Session {
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_no_larger_than_its_documented_cost() {
        assert_eq!(size_of::<Session>(), 144);
    }
}
