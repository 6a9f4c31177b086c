//! Which users' events matter to this node: a counting filter (after Fan, Cao, Almeida and Broder,
//! "Summary Cache", 2000) that the cores fill and the bus's thread asks, without a lock. It may say
//! yes for a user that nobody needs, never no for one that somebody does.

use std::sync::atomic::{AtomicU8, Ordering};

/// Counters of a byte each; a power of two.
const COUNTERS: usize = 1 << 22;

pub(crate) struct Interest(Box<[AtomicU8]>);

impl Interest {
    pub(crate) fn new() -> Self {
        let counters = std::iter::repeat_with(|| AtomicU8::new(0));
        Self(counters.take(COUNTERS).collect())
    }

    fn counter(&self, hash: u64) -> &AtomicU8 {
        // The high bits are the vnode, so the low ones.
        &self.0[hash as usize % COUNTERS]
    }

    /// One more, or one less, wants the user with this [`ring::hash`].
    pub(crate) fn change(&self, hash: u64, wanted: bool) {
        let step = |count: u8| match (count, wanted) {
            // So many users share it that it can only say yes from now on.
            (u8::MAX, _) => None,
            (_, true) => Some(count + 1),
            (_, false) => Some(count.saturating_sub(1)),
        };
        // Full is as good as counted.
        let _ = self
            .counter(hash)
            .fetch_update(Ordering::Release, Ordering::Relaxed, step);
    }

    pub(crate) fn has(&self, hash: u64) -> bool {
        self.counter(hash).load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_wanted_as_long_as_somebody_wants_it_and_a_full_counter_stays() {
        let interest = Interest::new();
        assert!(!interest.has(7));
        interest.change(7, true);
        interest.change(7, true);
        interest.change(7, false);
        assert!(interest.has(7) && interest.has(7 + COUNTERS as u64) && !interest.has(8));
        interest.change(7, false);
        assert!(!interest.has(7));
        for _ in 0..300 {
            interest.change(9, true);
        }
        for _ in 0..300 {
            interest.change(9, false);
        }
        assert!(interest.has(9));
    }
}
