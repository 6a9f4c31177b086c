//! The process's clocks, read here and nowhere else.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use presence::Now;

/// The wall clock, ms since 1970.
pub(crate) fn wall_ms() -> u64 {
    wall_us() / 1_000
}

/// The wall clock, µs since 1970.
pub(crate) fn wall_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_micros() as u64)
}

/// The monotonic clock, µs since the first call.
pub(crate) fn mono_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// CPU time that the process has used, microseconds.
pub(crate) fn cpu_us() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as u64 * 1_000_000 + used.tv_nsec as u64 / 1_000
}

/// The time by both clocks.
pub(crate) fn now() -> Now {
    Now {
        mono_us: mono_us(),
        wall_ms: wall_ms(),
    }
}
