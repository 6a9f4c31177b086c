//! The one clock of a run. All processes of a machine share CLOCK_MONOTONIC, so a time taken in
//! one of them can be compared with a time taken in another.

use rustix::time::{ClockId, clock_gettime};

/// Monotonic time, µs.
pub(crate) fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}
