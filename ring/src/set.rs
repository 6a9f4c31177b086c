//! A set of vnodes in the syntax of `ASSIGNED_VNODES`: `0-99,200,4000-4095`.

use std::fmt;

use crate::{Vnode, VnodeCount};

/// Why a text is not a set of vnodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VnodeSetError {
    /// A part is neither a number nor a range of numbers.
    #[error("{0:?} is neither a vnode nor a range like 0-99")]
    Part(String),
    /// A number is above the highest vnode; the second value is the highest.
    #[error("vnode {0} does not exist: allowed are 0 to {1}")]
    Range(u64, usize),
    /// The first number of a range is above its last.
    #[error("the range {0:?} ends before it starts")]
    Backwards(String),
}

/// A set of vnodes, kept as ranges: a node's pins.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct VnodeSet {
    /// Sorted, without gaps of zero between two: (first, last).
    ranges: Vec<(u16, u16)>,
}

impl VnodeSet {
    /// The set that `text` names, such as `0-99,200`; empty parts and spaces are allowed.
    ///
    /// # Errors
    /// When a part is no vnode below `count` and no ascending range of them.
    pub fn parse(text: &str, count: VnodeCount) -> Result<Self, VnodeSetError> {
        let mut ranges = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let bound = |text: &str| {
                let number: u64 = text
                    .trim()
                    .parse()
                    .map_err(|_| VnodeSetError::Part(part.to_owned()))?;
                u16::try_from(number)
                    .ok()
                    .filter(|vnode| usize::from(*vnode) < count.get())
                    .ok_or(VnodeSetError::Range(number, count.get() - 1))
            };
            let (first, last) = (bound(first)?, bound(last)?);
            if last < first {
                return Err(VnodeSetError::Backwards(part.to_owned()));
            }
            ranges.push((first, last));
        }
        Ok(Self::merged(ranges))
    }

    fn merged(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(end) if u32::from(first) <= u32::from(end.1) + 1 => end.1 = end.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// Whether the set holds no vnode at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `vnode` belongs to the set. O(log ranges).
    #[must_use]
    pub fn contains(&self, vnode: Vnode) -> bool {
        let after = self
            .ranges
            .partition_point(|(first, _)| *first <= vnode.get());
        after > 0 && self.ranges[after - 1].1 >= vnode.get()
    }

    /// The vnodes of the set in ascending order, each once.
    pub fn iter(&self) -> impl Iterator<Item = Vnode> + '_ {
        self.ranges
            .iter()
            .flat_map(|(first, last)| (*first..=*last).map(Vnode::new))
    }
}

impl FromIterator<Vnode> for VnodeSet {
    fn from_iter<I: IntoIterator<Item = Vnode>>(vnodes: I) -> Self {
        let range = |vnode: Vnode| (vnode.get(), vnode.get());
        Self::merged(vnodes.into_iter().map(range).collect())
    }
}

impl fmt::Display for VnodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for VnodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VnodeSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_mistake_is_named_with_what_is_allowed() {
        let count = VnodeCount::default();
        let error = |text| VnodeSet::parse(text, count).expect_err(text).to_string();
        assert_eq!(
            error("1,x"),
            "\"x\" is neither a vnode nor a range like 0-99"
        );
        assert_eq!(
            error("4096"),
            "vnode 4096 does not exist: allowed are 0 to 4095"
        );
        assert_eq!(
            error("70000-1"),
            "vnode 70000 does not exist: allowed are 0 to 4095"
        );
        assert_eq!(error("9-3"), "the range \"9-3\" ends before it starts");
        assert_eq!(
            error("-3"),
            "\"-3\" is neither a vnode nor a range like 0-99"
        );
    }

    proptest! {
        #[test]
        fn a_set_written_and_read_again_is_the_same(
            vnodes in prop::collection::btree_set(0_u16..512, 0..200)
        ) {
            let count = VnodeCount::new(512).expect("a power of two");
            let text: Vec<String> = vnodes.iter().rev().map(u16::to_string).collect();
            let set = VnodeSet::parse(&text.join(", "), count).expect("all exist");
            prop_assert!(set.iter().map(Vnode::get).eq(vnodes.iter().copied()));
            prop_assert_eq!(&vnodes.iter().rev().copied().map(Vnode::new).collect::<VnodeSet>(), &set);
            prop_assert_eq!(&VnodeSet::parse(&set.to_string(), count).expect("compact"), &set);
            for vnode in count.all() {
                prop_assert_eq!(set.contains(vnode), vnodes.contains(&vnode.get()));
            }
        }
    }
}
