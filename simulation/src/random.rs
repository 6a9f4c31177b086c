//! The generator of a run: everything random in it comes from its seed (splitmix64, Steele 2014).

/// A generator of random numbers from one seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator that `seed` determines.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// Whether one of `times` equal chances came up.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
