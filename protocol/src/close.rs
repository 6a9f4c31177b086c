//! The close codes of the client protocol: RFC 6455 §7.4.1, the IANA registry, and our own in
//! the private range 4000–4999. What a client does at each is in `docs/protocol.md`.

/// A WebSocket close code that the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The client said goodbye (`bye`, or a close frame).
    pub const NORMAL: Self = Self(1000);
    /// The server shuts down or restarts.
    pub const GOING_AWAY: Self = Self(1001);
    /// The client broke the framing rules of RFC 6455.
    pub const PROTOCOL: Self = Self(1002);
    /// A frame of a kind that this subprotocol does not carry.
    pub const UNSUPPORTED: Self = Self(1003);
    /// A text frame does not hold UTF-8 (RFC 6455 §8.1).
    pub const INVALID_DATA: Self = Self(1007);
    /// A rule without a code of its own.
    pub const POLICY: Self = Self(1008);
    /// A message is longer than the configured limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The user's vnode moved; the address came in a `move`.
    pub const MOVED: Self = Self(1012);
    /// The server, or this session's outbox, is full.
    pub const OVERLOADED: Self = Self(1013);
    /// The token is malformed, not trusted, or expired.
    pub const BAD_TOKEN: Self = Self(4401);
    /// The session asks for what it may not have, such as an `alive` out of bounds.
    pub const NOT_ALLOWED: Self = Self(4403);
    /// No token in time, or nothing heard for the heartbeat timeout.
    pub const TIMEOUT: Self = Self(4408);
    /// The user has as many sessions as it may have.
    pub const TOO_MANY_SESSIONS: Self = Self(4409);
    /// Another node owns the user; the reason is its address.
    pub const WRONG_NODE: Self = Self(4421);
    /// The client sent more messages a second than it may.
    pub const RATE_LIMIT: Self = Self(4429);

    /// The code in a close frame of a client; any number is taken.
    #[must_use]
    pub const fn from_wire(code: u16) -> Self {
        Self(code)
    }

    /// The code as the number in a close frame.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl std::fmt::Display for CloseCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
