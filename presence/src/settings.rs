//! What a core is told at its start, and the time that comes with every input.

use ring::{CoreId, VnodeCount};

/// The time of an input, read by the shell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Of a clock that never goes back, in microseconds.
    pub mono_us: u64,
    /// Milliseconds since 1970 (UTC); may step.
    pub wall_ms: u64,
}

/// The limits and durations of a core; durations in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name, as in `welcome`.
    pub node: Box<str>,
    /// Which of the node's cores this is.
    pub core: CoreId,
    /// How many cores the node has, 1 to 64.
    pub cores: u16,
    /// How many vnodes the cluster has.
    pub vnodes: VnodeCount,
    /// Seeds the user table's hash and the heartbeats' jitter. Users choose their names, so it
    /// must be unpredictable in production.
    pub seed: u64,
    /// Whether there are other nodes: then the interest in users is kept for the shell, and after a
    /// pause of a second or more the core holds its timers until [`crate::Core::resume`].
    pub cluster: bool,
    /// How long a user stays as it was after its last session broke.
    pub grace: u64,
    /// The same after a clean close; 0 = offline at once.
    pub clean_close_grace: u64,
    /// Between two pings.
    pub heartbeat: u64,
    /// A session is dead when nothing came for `heartbeat + heartbeat_timeout`.
    pub heartbeat_timeout: u64,
    /// How long a user waits for the store before it is shown without what the store knows, and a
    /// question before it is answered with an error.
    pub store_patience: u64,
    /// Sessions a user may have; one more is refused with 4409.
    pub max_devices: u32,
    /// Users a session may watch; a `watch` beyond is an `error`.
    pub max_watches: u32,
    /// Bytes of answers that may wait for one slow session; beyond, it is closed with 1013.
    pub outbox: usize,
    /// Bytes of a client's message, for its client to know; the shell reads no longer ones.
    pub max_message: usize,
    /// Messages a second that a session may send in the long run; beyond, 4429.
    pub message_rate: u32,
    /// Messages that a session may send at once.
    pub message_burst: u32,
}
