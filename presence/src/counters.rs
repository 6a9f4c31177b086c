//! What a core counts. Plain numbers: the shell publishes a copy now and then.

/// Counts since the core's start; a gauge is what there is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Open sessions (gauge).
    pub sessions: u64,
    /// Users in memory: with sessions, watched, or waiting for store or bus (gauge).
    pub users: u64,
    /// Watches, one a session and user watched (gauge).
    pub watches: u64,
    /// Sessions with something to send (gauge).
    pub ready: u64,
    /// Requests that wait for the store (gauge).
    pub store_queue: u64,
    /// Users whose change waits for the bus (gauge).
    pub bus_queue: u64,
    /// How long the oldest change has waited for the bus to confirm it, ms (gauge).
    pub oldest_unreported: u64,
    /// Messages that wait for other cores (gauge).
    pub peer_queue: u64,
    /// Users and vnodes that wait for links to other nodes (gauge).
    pub link_queue: u64,
    /// Vnodes with watched users of whom no link tells (gauge).
    pub unheard: u64,
    /// Records that were asked of the store because no link tells of their users.
    pub unheard_reads: u64,
    /// Sessions opened since the core began.
    pub connects: u64,
    /// Sessions that this core ended.
    pub closes: u64,
    /// Sessions that were told to go to another node; `closes` counts them too.
    pub moved: u64,
    /// Vnodes lost to a higher epoch.
    pub fenced: u64,
    /// Gaps: times that the bus may have lost events.
    pub gaps: u64,
    /// Messages of clients that were taken, pings and pongs included.
    pub messages: u64,
    /// Messages of clients that were not understood; `messages` counts them too.
    pub bad_messages: u64,
    /// Sessions ended since their user opened a newer one and had too many.
    pub replaced: u64,
    /// Watches refused, since the session or the node has as many as may be.
    pub watch_limit: u64,
    /// Watches and queries that the token did not allow.
    pub not_allowed: u64,
    /// Changes of owned users' public records.
    pub changes: u64,
    /// Records sent to watchers.
    pub deliveries: u64,
    /// Frames that carried records to watchers.
    pub frames: u64,
    /// Changes that were merged into one that still waited.
    pub conflations: u64,
    /// Changes that watchers were not told at once, since their user changed too often.
    pub paced: u64,
    /// Sessions that became blocked because their socket took no more.
    pub blocked: u64,
    /// States of other cores' and nodes' users that were not newer than known.
    pub stale: u64,
    /// Questions answered without waiting on for the store.
    pub impatient: u64,
    /// Versions that watchers claimed to know and that were not looked for: nobody can have made
    /// them, or too many were looked for.
    pub not_believed: u64,
    /// Records written to the store.
    pub store_writes: u64,
    /// Records that the store refused because of a newer epoch.
    pub refused_writes: u64,
    /// Requests that the store did not answer, or refused for another reason than an epoch.
    pub store_failures: u64,
    /// Events that the bus confirmed.
    pub published: u64,
    /// Events that the bus did not take or did not confirm.
    pub bus_failures: u64,
}
