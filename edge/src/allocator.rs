//! The allocator, and when a core has it give memory back. mimalloc frees a thread's empty pages and
//! returns them to the kernel while the thread allocates: a core that everyone left does not, and
//! would keep what they took. The libraries in C, as that of TLS, allocate by the C library, which
//! returns only what is free at the end of its heap.

/// How long what is held has to stay far below what was, ms: those who come back at once, as all do
/// after a fault of the network, find their memory.
const SETTLED: u64 = 4_000;
/// What is held may have fallen by this much for nothing to be worth giving back, a core.
const FEW: u64 = 256;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    /// Frees the calling thread's empty pages, and gives what the process has free to the kernel. It
    /// is mimalloc's, which is linked as the allocator.
    safe fn mi_collect(force: bool);
    /// Gives what is free in the C library's heap to the kernel: malloc_trim(3), which any thread may
    /// call at any time.
    #[cfg(target_env = "gnu")]
    safe fn malloc_trim(keep: usize) -> i32;
}

/// Gives the kernel what the calling thread has free.
pub(crate) fn give_back() {
    mi_collect(true);
    #[cfg(target_env = "gnu")]
    malloc_trim(0);
}

/// When a core gives memory back, by how many things it holds that each take some.
#[derive(Debug, Default)]
pub(crate) struct Ebb {
    /// The most that was held since memory was given back.
    high: u64,
    /// Since when less than three quarters of it are held, ms.
    low_since: Option<u64>,
}

impl Ebb {
    /// Whether it is time for the core to give memory back: it holds so many things at `now`, monotonic ms.
    pub(crate) fn is_due(&mut self, held: u64, now: u64) -> bool {
        self.high = self.high.max(held);
        if self.high - held < FEW.max(self.high / 4) {
            self.low_since = None;
            return false;
        }
        if now - *self.low_since.get_or_insert(now) < SETTLED {
            return false;
        }
        *self = Self {
            high: held,
            low_since: None,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times at which memory is given back while `held` goes on, a tick each 100 ms.
    fn given_back(held: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut ebb = Ebb::default();
        let at = (0..).step_by(100).zip(held);
        at.filter(|(now, held)| ebb.is_due(*held, *now))
            .map(|(now, _)| now)
            .collect()
    }

    #[test]
    fn memory_is_given_back_once_when_a_crowd_has_left_for_good() {
        let left = [10_000; 100].into_iter().chain([7_000; 300]);
        assert_eq!(given_back(left), [10_000 + SETTLED]);
        let slowly = (0..=10_000).rev().step_by(100).chain([0; 100]);
        let times = given_back(slowly);
        assert!((1..=3).contains(&times.len()), "{times:?}");
        let trickle = [10_000; 100].into_iter().chain((0..300).map(|n| n % 7));
        assert_eq!(given_back(trickle).len(), 1);
    }

    #[test]
    fn a_storm_a_swaying_crowd_and_a_few_do_not_pay() {
        let storm = [10_000; 10].into_iter().chain([0; 30]).chain([10_000; 100]);
        assert!(given_back(storm.cycle().take(1_000)).is_empty());
        let swaying = (0..1_000).map(|n| if n % 50 < 25 { 10_000 } else { 7_600 });
        assert!(given_back(swaying).is_empty());
        let few = [FEW - 1; 10].into_iter().chain([0; 100]);
        assert!(given_back(few.cycle().take(1_000)).is_empty());
    }
}
