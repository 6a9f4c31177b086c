//! What an administrator asks of this core: who watches a user, and what waits for a slow session. It only
//! reads, and costs nothing while nobody asks.

use crate::{
    Core, SessionId,
    session::{Session, Watch},
};

/// What waits for a session whose socket takes no more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of answers that this core keeps.
    pub bytes: u64,
    /// The users whose newest state is to be sent.
    pub changes: u64,
    /// For how long its socket has taken nothing more, ms.
    pub blocked: u64,
}

impl Core {
    /// The sessions that watch the user, in no order.
    pub fn watchers_of(&self, user: &str) -> impl ExactSizeIterator<Item = SessionId> {
        let slot = self.users.find(user);
        let watchers = slot.map_or(&[][..], |slot| &self.users[slot].watchers);
        watchers.iter().map(|it| self.sessions.id(it.session))
    }

    /// What waits for the session; nothing for one that is gone.
    #[must_use]
    pub fn backlog_of(&self, id: SessionId) -> Backlog {
        let session = self.sessions.live(id);
        session.map_or_else(Backlog::default, |session| {
            let session: &Session = &self.sessions[session];
            let pending = session.watches.iter();
            let since = self.time.clock.saturating_sub(session.blocked_since);
            Backlog {
                bytes: session.replies.len() as u64,
                changes: pending.filter(|watch| watch.has(Watch::PENDING)).count() as u64,
                blocked: if session.blocked { since } else { 0 },
            }
        })
    }
}
