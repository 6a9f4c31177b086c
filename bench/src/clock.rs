//! The one clock of a run. All processes of a machine share CLOCK_MONOTONIC, so a time taken in
//! one of them can be compared with a time taken in another; a worker on another machine is told by how
//! much its clock differs.

use std::sync::atomic::{AtomicI64, Ordering};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Processor time of this process so far, µs.
pub(crate) fn processor_us() -> u64 {
    micros(clock_gettime(ClockId::ProcessCPUTime))
}

fn micros(time: Timespec) -> u64 {
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// What this machine's clock lacks to that of the run, µs.
static LACKS: AtomicI64 = AtomicI64::new(0);

/// Has this process go by the clock of another machine, to which its own lacks so many µs.
pub(crate) fn follow(lacks: i64) {
    LACKS.store(lacks, Ordering::Relaxed);
}

/// Monotonic time of the machine that drives the run, µs.
pub(crate) fn now_us() -> u64 {
    micros(clock_gettime(ClockId::Monotonic)).saturating_add_signed(LACKS.load(Ordering::Relaxed))
}
