//! The process's clocks.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use coordinator::control::Now;

/// The wall clock, ms since 1970 (UTC).
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

/// The time by both clocks.
pub(crate) fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    Now {
        mono_ms: START.get_or_init(Instant::now).elapsed().as_millis() as u64,
        wall_ms: wall_ms(),
    }
}
