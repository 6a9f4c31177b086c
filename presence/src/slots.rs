//! A table of entries by dense index, in chunks: it grows and shrinks by a chunk, never by its
//! double. It owns where entries lie; what they are is its user's business.

use std::ops::{Index, IndexMut};

/// Entries of a chunk: a word of marks says which are taken.
const CHUNK: usize = u64::BITS as usize;

struct Chunk<T> {
    entries: Box<[Option<T>; CHUNK]>,
    /// Which entries are taken, by bit.
    taken: u64,
}

/// Entries under indexes that are used again, the lowest first, so that what stays after a storm
/// comes together and whole chunks become free.
pub(crate) struct Slots<T> {
    /// `None`: nothing is in it and no memory is held for it.
    chunks: Vec<Option<Chunk<T>>>,
    /// Chunks that are not full, by bit.
    roomy: Vec<u64>,
    /// A chunk that is kept though it is empty: a table that sways around the end of a chunk does
    /// not pay for it each time.
    spare: Option<u32>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            roomy: Vec::new(),
            spare: None,
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts `entry` under the lowest free index.
    ///
    /// # Panics
    /// Beyond 2^32 entries, which no machine holds.
    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        let at = self.lowest_with_room();
        let chunk = self.chunks[at].get_or_insert_with(|| Chunk {
            entries: Box::new([const { None }; CHUNK]),
            taken: 0,
        });
        let within = chunk.taken.trailing_ones() as usize;
        chunk.entries[within] = Some(entry);
        chunk.taken |= 1 << within;
        if chunk.taken == u64::MAX {
            self.roomy[at / CHUNK] &= !(1 << (at % CHUNK));
        }
        if self.spare == Some(at as u32) {
            self.spare = None;
        }
        self.len += 1;
        u32::try_from(at * CHUNK + within).expect("memory ends before 2^32 entries")
    }

    fn lowest_with_room(&mut self) -> usize {
        let found = self.roomy.iter().position(|word| *word != 0);
        if let Some(word) = found {
            return word * CHUNK + self.roomy[word].trailing_zeros() as usize;
        }
        let at = self.chunks.len();
        self.chunks.push(None);
        if self.roomy.len() * CHUNK <= at {
            self.roomy.push(0);
        }
        self.roomy[at / CHUNK] |= 1 << (at % CHUNK);
        at
    }

    /// Takes the entry out; its index is free.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn remove(&mut self, index: u32) -> T {
        let (at, within) = place(index);
        let chunk = self.chunks[at].as_mut();
        let chunk = chunk.expect("an entry is removed once");
        let entry = chunk.entries[within].take();
        let entry = entry.expect("an entry is removed once");
        chunk.taken &= !(1 << within);
        self.roomy[at / CHUNK] |= 1 << (at % CHUNK);
        self.len -= 1;
        if chunk.taken == 0 {
            self.emptied(at);
        }
        entry
    }

    /// Of two empty chunks the higher is given back: the lower is used first.
    fn emptied(&mut self, at: usize) {
        let other = self.spare.map_or(at, |spare| spare as usize);
        self.spare = Some(other.min(at) as u32);
        if other != at {
            self.chunks[other.max(at)] = None;
        }
        self.cut_end();
    }

    /// Gives back the chunk that is kept though it is empty: the allocator may hold pages for it alone.
    pub(crate) fn give_back(&mut self) {
        if let Some(spare) = self.spare.take() {
            self.chunks[spare as usize] = None;
            self.cut_end();
        }
    }

    fn cut_end(&mut self) {
        while matches!(self.chunks.last(), Some(None)) {
            self.chunks.pop();
            let last = self.chunks.len();
            self.roomy[last / CHUNK] &= !(1 << (last % CHUNK));
            self.roomy.truncate(self.chunks.len().div_ceil(CHUNK));
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (at, within) = place(index);
        self.chunks.get(at)?.as_ref()?.entries[within].as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (at, within) = place(index);
        self.chunks.get_mut(at)?.as_mut()?.entries[within].as_mut()
    }

    /// The indexes of all entries, in their order.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            let taken = chunk.as_ref().map_or(0, |chunk| chunk.taken);
            let within = (0..CHUNK).filter(move |bit| taken & 1 << bit != 0);
            within.map(move |bit| (at * CHUNK + bit) as u32)
        })
    }

    /// Chunks that memory is held for.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.chunks.iter().flatten().count()
    }
}

/// The chunk of an index, and where in it.
fn place(index: u32) -> (usize, usize) {
    (index as usize / CHUNK, index as usize % CHUNK)
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        self.get(index)
            .expect("an index is used until its entry is removed")
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index)
            .expect("an index is used until its entry is removed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn entries_lie_under_the_lowest_free_index_and_empty_chunks_are_given_back(
            steps in prop::collection::vec((any::<u16>(), 0_u8..100), 1..3_000),
            keenness in 30_u8..70,
        ) {
            let mut slots = Slots::default();
            let mut model = BTreeMap::new();
            for (value, chance) in steps {
                if chance < keenness || model.is_empty() {
                    let lowest = (0..).find(|index| !model.contains_key(index));
                    prop_assert_eq!(Some(slots.insert(value)), lowest);
                    model.extend(lowest.map(|index| (index, value)));
                } else {
                    let at = usize::from(value) % model.len();
                    let index = *model.keys().nth(at).expect("below its length");
                    prop_assert_eq!(Some(slots.remove(index)), model.remove(&index));
                    prop_assert!(slots.get(index).is_none());
                }
                prop_assert_eq!(slots.len(), model.len());
                let used = model.keys().map(|index| index / 64);
                let used = used.collect::<std::collections::BTreeSet<u32>>().len();
                prop_assert!((used..=used + 1).contains(&slots.held()));
                if chance == 99 {
                    slots.give_back();
                    prop_assert_eq!(slots.held(), used);
                }
            }
            prop_assert!(slots.indexes().eq(model.keys().copied()));
            prop_assert!(model.iter().all(|(index, value)| slots[*index] == *value));
        }
    }

    #[test]
    fn a_table_that_everyone_left_holds_one_chunk_until_that_is_wanted_back() {
        let mut slots = Slots::default();
        let indexes: Vec<u32> = (0..10_000).map(|n| slots.insert(n)).collect();
        assert_eq!(slots.held(), 157);
        for index in indexes {
            slots.remove(index);
        }
        assert_eq!(
            (slots.held(), slots.chunks.len(), slots.roomy.len()),
            (1, 1, 1)
        );
        slots.give_back();
        let held = (slots.held(), slots.chunks.len(), slots.roomy.len());
        assert_eq!(held, (0, 0, 0));
        assert_eq!(slots.insert(7), 0);
    }
}
