//! Since when changes wait for the bus to confirm them: how many began in which second of the core's
//! clock. It owns no user; each remembers its second.

use std::collections::VecDeque;

/// The oldest second is the first; none has a count of zero.
#[derive(Debug, Default)]
pub(crate) struct Unreported(VecDeque<(u32, u32)>);

impl Unreported {
    /// A change begins to wait at this time of the clock, ms; its second.
    pub(crate) fn begin(&mut self, clock: u64) -> u32 {
        let second = (clock / 1_000) as u32;
        match self.0.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => self.0.push_back((second, 1)),
        }
        second
    }

    /// A change that began in this second waits no more.
    pub(crate) fn end(&mut self, second: u32) {
        let Ok(at) = self.0.binary_search_by_key(&second, |(second, _)| *second) else {
            debug_assert!(false, "it began");
            return;
        };
        self.0[at].1 -= 1;
        if self.0[at].1 == 0 {
            self.0.remove(at);
        }
    }

    /// How long the oldest change has waited, ms.
    pub(crate) fn oldest(&self, clock: u64) -> u64 {
        self.0.front().map_or(0, |(second, _)| {
            clock.saturating_sub(u64::from(*second) * 1_000)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_that_of_the_changes_that_still_wait() {
        let mut unreported = Unreported::default();
        assert_eq!(unreported.oldest(9_000), 0);
        let first = unreported.begin(1_200);
        let second = unreported.begin(1_900);
        let third = unreported.begin(5_000);
        assert_eq!(unreported.oldest(6_000), 5_000);
        unreported.end(first);
        assert_eq!(unreported.oldest(6_000), 5_000, "one of that second waits");
        unreported.end(third);
        unreported.end(second);
        assert_eq!((unreported.oldest(6_000), unreported.0.len()), (0, 0));
    }
}
