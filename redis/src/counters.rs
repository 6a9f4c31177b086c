//! What a link has met so far: counts, and records in the store that cannot be used. It owns how
//! many of those wait to be reported.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ring::Vnode;

/// Bad records that wait to be reported.
const BAD_RECORDS: usize = 16;

/// How often something happened since the link was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections made.
    pub connects: u64,
    /// Attempts to connect that failed.
    pub failed_connects: u64,
    /// Runs of scripts that the server did not know and was told again.
    pub scripts_forgotten: u64,
    /// Records not written, since a newer one of the user was there.
    pub stale_records: u64,
    /// Records read that cannot be used, and were taken as absent.
    pub bad_records: u64,
    /// Announcements of a new map that failed; readers notice it later.
    pub hints_lost: u64,
    /// Connections given up since the server takes no writes: a replica by now, or one that loads.
    pub turned_away: u64,
    /// Requests refused since a server's memory is full.
    pub full: u64,
}

/// A record in the store that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Where it is.
    pub vnode: Vnode,
    /// Whose it is.
    pub user: Box<str>,
    /// What is wrong with it.
    pub reason: String,
}

/// The counts as they grow, and the bad records that nobody has asked for yet.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connects: AtomicU64,
    pub(crate) failed_connects: AtomicU64,
    pub(crate) scripts_forgotten: AtomicU64,
    pub(crate) stale_records: AtomicU64,
    bad_records: AtomicU64,
    pub(crate) hints_lost: AtomicU64,
    pub(crate) turned_away: AtomicU64,
    pub(crate) full: AtomicU64,
    bad: Mutex<VecDeque<BadRecord>>,
}

impl Counts {
    pub(crate) fn so_far(&self) -> Counters {
        Counters {
            connects: self.connects.load(Relaxed),
            failed_connects: self.failed_connects.load(Relaxed),
            scripts_forgotten: self.scripts_forgotten.load(Relaxed),
            stale_records: self.stale_records.load(Relaxed),
            bad_records: self.bad_records.load(Relaxed),
            hints_lost: self.hints_lost.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
            full: self.full.load(Relaxed),
        }
    }

    pub(crate) fn report_bad(&self, record: BadRecord) {
        self.bad_records.fetch_add(1, Relaxed);
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.len() < BAD_RECORDS {
            bad.push_back(record);
        }
    }

    pub(crate) fn take_bad(&self) -> Vec<BadRecord> {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.drain(..).collect()
    }
}
