//! What a core is told at its start, and the time that comes with every input.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use ring::{CoreId, Epoch, VnodeCount};

/// The time of an input, read by the shell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, in microseconds; it never goes back.
    pub mono_us: u64,
    /// The wall clock, in milliseconds since 1970 (UTC); it may step.
    pub wall_ms: u64,
}

/// The limits and durations of a core; durations in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name, told to clients in `welcome`.
    pub node: Box<str>,
    /// The index of this core on its node.
    pub core: CoreId,
    /// The node's number of cores, 1 to 64.
    pub cores: u16,
    /// The cluster's number of vnodes.
    pub vnodes: VnodeCount,
    /// Seeds the user table's hash and the heartbeats' jitter. Users choose their names, so it
    /// must be unpredictable in production.
    pub seed: u64,
    /// Whether there are other nodes: then the interest in users is kept for the shell, and after a
    /// pause of a second or more the core holds its timers until [`crate::Core::resume`].
    pub cluster: bool,
    /// The epoch of this process's versions when its store began empty with it; `None` = the store
    /// is older. For `grace` after such a start, who was there before is known to watchers alone, who
    /// are told nothing of a user that may still come back.
    pub starts_empty: Option<Epoch>,
    /// How long a user stays as it was after its last session broke.
    pub grace: u64,
    /// Grace after a clean close; 0 = offline at once.
    pub clean_close_grace: u64,
    /// Time between two pings to a session.
    pub heartbeat: u64,
    /// A session is dead when nothing came for `heartbeat + heartbeat_timeout`.
    pub heartbeat_timeout: u64,
    /// How long a user waits for the store before it is shown without what the store knows, and a
    /// question before it is answered with an error.
    pub store_patience: u64,
    /// Sessions a user may have; with one more, that or the oldest ends with 4409.
    pub max_devices: u32,
    /// Whether the oldest session of a user with too many ends, and not the new one.
    pub newest_wins: bool,
    /// Users a session may watch; a `watch` beyond is an `error`.
    pub max_watches: u32,
    /// Watches that the sessions of all cores of the node may have.
    pub watches: WatchBudget,
    /// Bytes of answers that may wait for one slow session; beyond, it is closed with 1013.
    pub outbox: usize,
    /// Bytes of a client's message, for its client to know; the shell reads no longer ones.
    pub max_message: usize,
    /// Messages a second that a session may send in the long run; beyond, 4429.
    pub message_rate: u32,
    /// Messages that a session may send at once.
    pub message_burst: u32,
    /// Changes of a user a second that its watchers are told in the long run, at most 1,000; of more they
    /// are told the newest, a little later. 0 = all are told at once.
    pub change_rate: u32,
    /// Changes of a user that its watchers may be told at once, at least 1.
    pub change_burst: u32,
    /// How long changes for more than a few sessions wait for others, so that a session gets them in one
    /// frame; 0 = none waits. Answers never wait.
    pub flush: u64,
    /// Bytes a second that a session may send in the long run; beyond, 4429.
    pub byte_rate: u32,
    /// Bytes that a session may send at once.
    pub byte_burst: u32,
}

/// How many watches there may be, for all cores that have a clone of it. A core takes for a whole
/// message at a time.
#[derive(Debug, Clone)]
pub struct WatchBudget(Arc<AtomicI64>);

impl WatchBudget {
    /// A budget of `most` watches.
    #[must_use]
    pub fn new(most: u64) -> Self {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        Self(Arc::new(AtomicI64::new(most)))
    }

    /// Takes `count` watches, if so many are left.
    pub(crate) fn take(&self, count: usize) -> bool {
        let count = count as i64;
        let has = self.0.fetch_sub(count, Ordering::Relaxed) >= count;
        if !has {
            self.0.fetch_add(count, Ordering::Relaxed);
        }
        has
    }

    pub(crate) fn give_back(&self, count: usize) {
        self.0.fetch_add(count as i64, Ordering::Relaxed);
    }
}
