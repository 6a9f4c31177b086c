//! The one clock of a run. All processes of a machine share CLOCK_MONOTONIC, so a time taken in
//! one of them can be compared with a time taken in another.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Processor time of this process so far, µs.
pub(crate) fn processor_us() -> u64 {
    micros(clock_gettime(ClockId::ProcessCPUTime))
}

fn micros(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// Monotonic time, µs.
pub(crate) fn now_us() -> u64 {
    micros(clock_gettime(ClockId::Monotonic))
}
