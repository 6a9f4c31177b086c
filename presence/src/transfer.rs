//! How far a copy of a user's state, in the store or on the bus, is behind this core's. A user is in
//! a queue at most once, so that a backlog is bounded by the users and not by time.

/// The copy's state.
///
/// | from | `changed` | `sent` | `answered(true)` | `answered(false)` |
/// |---|---|---|---|---|
/// | `Idle` | `Queued` | panics | panics | panics |
/// | `Queued` | `Queued` | `InFlight` | panics | panics |
/// | `InFlight` | `Stale` | panics | `Idle` | `Queued` |
/// | `Stale` | `Stale` | panics | `Queued` | `Queued` |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Nothing is under way.
    Idle,
    /// The user waits in the queue, and leaves it with its newest state.
    Queued,
    /// A request is under way, with the newest state.
    InFlight,
    /// A request is under way, and the user has changed since: it is queued again after the answer.
    Stale,
}

impl Transfer {
    /// Notes a change; `true` when the user has to be queued.
    #[must_use]
    #[inline]
    pub(crate) fn changed(&mut self) -> bool {
        let queue = *self == Self::Idle;
        *self = match self {
            Self::Idle | Self::Queued => Self::Queued,
            Self::InFlight | Self::Stale => Self::Stale,
        };
        queue
    }

    /// Notes that the user left the queue in a request.
    ///
    /// # Panics
    /// When the user was not in the queue.
    #[inline]
    pub(crate) fn sent(&mut self) {
        assert_eq!(*self, Self::Queued, "only what is queued is sent");
        *self = Self::InFlight;
    }

    /// Notes that the user left the queue without a request.
    ///
    /// # Panics
    /// When the user was not in the queue.
    pub(crate) fn dropped(&mut self) {
        assert_eq!(*self, Self::Queued, "only what is queued is dropped");
        *self = Self::Idle;
    }

    /// Notes the answer to the request; `true` when the user has to be queued again.
    ///
    /// # Panics
    /// When no request is under way: the shell answered twice, or with another user's ticket.
    #[must_use]
    #[inline]
    pub(crate) fn answered(&mut self, accepted: bool) -> bool {
        let under_way = matches!(self, Self::InFlight | Self::Stale);
        assert!(under_way, "a request is answered once");
        let queue = !accepted || *self == Self::Stale;
        *self = if queue { Self::Queued } else { Self::Idle };
        queue
    }
}
