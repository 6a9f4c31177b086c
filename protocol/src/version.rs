//! The version of a presence record: (epoch, seq) in one integer that JavaScript reads exactly.
//! It owns the bit layout; nothing else may take a version apart.

use ring::Epoch;

/// A record's version, below 2^53: the epoch of the vnode's owner in the high 20 bits, the
/// owner's sequence in the low 33. Grows with every change; clients see an opaque number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    const SEQ_BITS: u32 = 33;

    /// The version of a record that nobody ever wrote.
    pub const NEVER: Self = Self(0);
    /// The highest sequence within an epoch, 2^33 - 1.
    pub const MAX_SEQ: u64 = (1 << Self::SEQ_BITS) - 1;
    /// The highest epoch that a version holds, 2^20 - 1.
    pub const MAX_EPOCH: u32 = (1 << 20) - 1;

    /// The version of `seq` under `epoch`; `None` when either is out of range.
    #[must_use]
    pub fn new(epoch: Epoch, seq: u64) -> Option<Self> {
        let in_range = epoch.get() <= Self::MAX_EPOCH && seq <= Self::MAX_SEQ;
        in_range.then(|| Self(u64::from(epoch.get()) << Self::SEQ_BITS | seq))
    }

    /// The version with this wire value; `None` from 2^53 on.
    #[must_use]
    pub fn from_u64(value: u64) -> Option<Self> {
        (value < 1 << 53).then_some(Self(value))
    }

    /// The number on the wire, below 2^53.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The epoch under which this version was made.
    #[must_use]
    pub fn epoch(self) -> Epoch {
        Epoch::new((self.0 >> Self::SEQ_BITS) as u32)
    }

    /// The next version under the same epoch; itself when that has no more.
    #[must_use]
    pub fn later(self) -> Self {
        Self(self.0 + u64::from(self.seq() < Self::MAX_SEQ))
    }

    /// The sequence within the epoch, at most [`Version::MAX_SEQ`].
    #[must_use]
    pub fn seq(self) -> u64 {
        self.0 & Self::MAX_SEQ
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_and_seq_come_back_at_their_limits_and_nothing_beyond_is_made() {
        let highest = Version::new(Epoch::new(Version::MAX_EPOCH), Version::MAX_SEQ)
            .expect("both are in range");
        assert_eq!(highest.get(), (1 << 53) - 1);
        assert_eq!(highest.epoch(), Epoch::new(Version::MAX_EPOCH));
        assert_eq!(highest.seq(), Version::MAX_SEQ);
        assert_eq!(Version::from_u64(highest.get()), Some(highest));
        assert_eq!(Version::from_u64(1 << 53), None);
        assert_eq!(highest.later(), highest);
        assert_eq!(Version::default().later().get(), 1);
        assert_eq!(Version::new(Epoch::new(Version::MAX_EPOCH + 1), 0), None);
        assert_eq!(Version::new(Epoch::new(0), Version::MAX_SEQ + 1), None);
        assert_eq!(Version::default(), Version::NEVER);
    }

    #[test]
    fn any_version_of_a_later_epoch_is_newer() {
        let last_of_one = Version::new(Epoch::new(1), Version::MAX_SEQ);
        let first_of_two = Version::new(Epoch::new(2), 0);
        assert!(first_of_two > last_of_one);
    }
}
