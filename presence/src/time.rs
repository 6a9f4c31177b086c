//! The time of a core: that of the input, and a clock that leaves pauses out. It owns what counts
//! against anyone's timeout, and whether the core is held after a pause.

use crate::Now;

/// The most the core's clock moves in one tick, ms: a pause of the process counts no longer than
/// this against anyone's timeout, and the sockets are read between ticks.
const MAX_STEP: u64 = 1_000;

pub(crate) struct Time {
    /// The time of the input.
    pub(crate) now: Now,
    /// The core's clock: milliseconds that passed, pauses left out. Only a tick moves it.
    pub(crate) clock: u64,
    /// The monotonic time up to which `clock` has counted, µs.
    ticked: u64,
    /// A pause holds the core's timers: other nodes may own its vnodes by then.
    holds: bool,
    held: bool,
}

impl Time {
    pub(crate) fn new(now: Now, holds: bool) -> Self {
        Self {
            now,
            clock: 0,
            ticked: now.mono_us,
            holds,
            held: false,
        }
    }

    /// Moves the clock; `false` while the timers are held.
    pub(crate) fn tick(&mut self, now: Now) -> bool {
        self.at(now);
        let passed = self.passed();
        // What is left of a millisecond is not lost: the next tick counts from here.
        self.ticked += passed * 1_000;
        if !self.held {
            self.clock += passed.min(MAX_STEP);
        }
        !self.held
    }

    /// Sets the time of the inputs that follow; a monotonic time that goes back is none that passed. What
    /// came during a pause may be read before the first tick after it.
    pub(crate) fn at(&mut self, now: Now) {
        self.now = Now {
            mono_us: now.mono_us.max(self.now.mono_us),
            ..now
        };
        self.held |= self.holds && self.passed() >= MAX_STEP;
    }

    fn passed(&self) -> u64 {
        self.now.mono_us.saturating_sub(self.ticked) / 1_000
    }

    /// The core's clock at the time of this input, which may be between two ticks.
    pub(crate) fn clock_now(&self) -> u64 {
        self.clock + self.passed().min(MAX_STEP)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    pub(crate) fn resume(&mut self) {
        self.held = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monotonic_time_that_goes_back_is_the_newest_one_again_and_a_wall_clock_may_step() {
        let at = |mono_us, wall_ms| Now { mono_us, wall_ms };
        let mut time = Time::new(at(5_000, 50), true);
        time.at(at(9_000, 60));
        time.at(at(1_000, 10));
        assert_eq!(time.now, at(9_000, 10));
        assert_eq!(time.clock_now(), 4);
    }
}
