//! Users and their records, byte behind byte in chunks of memory: one that was here once is kept for
//! the whole retention, so each byte counts, and what is kept must not hold pages of what has left.
//! It owns where records lie; what they say is its user's business.

use std::hash::BuildHasher;

use hashbrown::HashTable;

/// Bytes of a chunk. What moves at a time is less.
const CHUNK: usize = 64 << 10;
/// Entries begin at multiples of this, so that 32 bits find 32 GiB of them a core.
const UNIT: usize = 8;
/// An entry's head: its units, the record's length, the user's length (2 bytes, 0 = not used).
const HEAD: usize = 4;

/// Where an entry lies, in units from the first chunk's beginning.
type Place = u32;

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Bytes of entries that are not used any more.
    unused: usize,
}

#[derive(Default)]
pub(super) struct Packed {
    index: HashTable<Place>,
    hasher: foldhash::quality::RandomState,
    chunks: Vec<Chunk>,
    /// Chunks that no memory is held for.
    free: Vec<usize>,
    /// The chunk that new entries go to.
    last: usize,
}

impl Packed {
    pub(super) fn get(&self, user: &str) -> Option<&[u8]> {
        let place = self.find(user.as_bytes())?;
        Some(entry(&self.chunks, place).1)
    }

    /// Keeps `record`, which has 255 bytes at most, for the user, who has 1 to 256.
    pub(super) fn put(&mut self, user: &str, record: &[u8]) {
        let user = user.as_bytes();
        let old = self.find(user);
        if let Some(place) = old
            && self.overwrite(place, user.len(), record)
        {
            return;
        }
        let hash = self.hasher.hash_one(user);
        let place = self.append(user, record);
        if let Some(old) = old {
            let same = self.index.find_mut(hash, |other| *other == old);
            *same.expect("it was found above") = place;
            self.leave(old);
        } else {
            let (chunks, hasher) = (&self.chunks, &self.hasher);
            let rehash = |place: &Place| hasher.hash_one(entry(chunks, *place).0);
            self.index.insert_unique(hash, place, rehash);
        }
    }

    /// The number of parts for [`Packed::retain`].
    pub(super) fn parts(&self) -> usize {
        self.chunks.len()
    }

    /// Forgets the users of a part whose records are not to be kept. Of what moves meanwhile some is
    /// looked at twice or not at all.
    pub(super) fn retain(&mut self, part: usize, keeps: impl Fn(&[u8]) -> bool) {
        let Some(chunk) = self.chunks.get(part) else {
            return;
        };
        let goes = |place: &Place| !keeps(entry(&self.chunks, *place).1);
        let gone: Vec<Place> = places(part, &chunk.bytes).filter(goes).collect();
        // The last of them may have the others move.
        for (n, place) in gone.iter().enumerate() {
            let hash = self.hasher.hash_one(entry(&self.chunks, *place).0);
            let found = self.index.find_entry(hash, |other| other == place);
            found.expect("what is used is found").remove();
            match n + 1 < gone.len() {
                true => self.mark_unused(*place),
                false => self.leave(*place),
            }
        }
        if self.index.len() < self.index.capacity() / 4 {
            let (chunks, hasher) = (&self.chunks, &self.hasher);
            let rehash = |place: &Place| hasher.hash_one(entry(chunks, *place).0);
            self.index.shrink_to(self.index.len() * 2, rehash);
        }
    }

    fn find(&self, user: &[u8]) -> Option<Place> {
        let same = |place: &Place| entry(&self.chunks, *place).0 == user;
        self.index.find(self.hasher.hash_one(user), same).copied()
    }

    /// Puts `record` where the former one is, if it has room there.
    fn overwrite(&mut self, place: Place, user: usize, record: &[u8]) -> bool {
        let bytes = &mut self.chunks[chunk_of(place)].bytes[within(place)..];
        let room = usize::from(bytes[0]) * UNIT;
        let start = HEAD + user;
        let fits = start + record.len() <= room;
        if fits {
            bytes[1] = length_of(record);
            bytes[start..start + record.len()].copy_from_slice(record);
        }
        fits
    }

    fn append(&mut self, user: &[u8], record: &[u8]) -> Place {
        let room = (HEAD + user.len() + record.len()).next_multiple_of(UNIT);
        let full = |chunk: &Chunk| chunk.bytes.len() + room > CHUNK;
        if self.chunks.get(self.last).is_none_or(full) {
            self.last = self.free.pop().unwrap_or(self.chunks.len());
            if self.last == self.chunks.len() {
                self.chunks.push(Chunk::default());
            }
            // The kernel gives pages as they are written.
            self.chunks[self.last].bytes.reserve_exact(CHUNK);
        }
        let bytes = &mut self.chunks[self.last].bytes;
        let place = (self.last * CHUNK + bytes.len()) / UNIT;
        let end = bytes.len() + room;
        let units = u8::try_from(room / UNIT).expect("user and record are short");
        let [low, high] = u16::try_from(user.len())
            .expect("a user is short")
            .to_le_bytes();
        bytes.extend_from_slice(&[units, length_of(record), low, high]);
        bytes.extend_from_slice(user);
        bytes.extend_from_slice(record);
        bytes.resize(end, 0);
        Place::try_from(place).expect("a core's records are below 32 GiB")
    }

    fn mark_unused(&mut self, place: Place) {
        let chunk = &mut self.chunks[chunk_of(place)];
        let head = &mut chunk.bytes[within(place)..][..HEAD];
        head[2..].fill(0);
        chunk.unused += usize::from(head[0]) * UNIT;
    }

    /// Notes that an entry is not used any more. Of a chunk of which half is not, the rest moves.
    fn leave(&mut self, place: Place) {
        self.mark_unused(place);
        let at = chunk_of(place);
        let chunk = &mut self.chunks[at];
        if chunk.unused * 2 <= chunk.bytes.len() || at == self.last {
            return;
        }
        let bytes = std::mem::take(chunk).bytes;
        for place in places(at, &bytes) {
            let (user, record) = parts(&bytes[within(place)..]);
            let moved = self.append(user, record);
            let hash = self.hasher.hash_one(user);
            let same = self.index.find_mut(hash, |other| *other == place);
            *same.expect("what is used is found") = moved;
        }
        self.free.push(at);
    }
}

fn chunk_of(place: Place) -> usize {
    place as usize * UNIT / CHUNK
}

fn within(place: Place) -> usize {
    place as usize * UNIT % CHUNK
}

fn length_of(record: &[u8]) -> u8 {
    u8::try_from(record.len()).expect("a record is short")
}

/// The user and the record of an entry.
fn entry(chunks: &[Chunk], place: Place) -> (&[u8], &[u8]) {
    parts(&chunks[chunk_of(place)].bytes[within(place)..])
}

fn parts(entry: &[u8]) -> (&[u8], &[u8]) {
    let record = usize::from(entry[1]);
    let user = usize::from(u16::from_le_bytes([entry[2], entry[3]]));
    let (user, rest) = entry[HEAD..].split_at(user);
    (user, &rest[..record])
}

/// The entries of a chunk that are used.
fn places(chunk: usize, bytes: &[u8]) -> impl Iterator<Item = Place> {
    let mut at = 0;
    let all = std::iter::from_fn(move || {
        let room = usize::from(*bytes.get(at)?) * UNIT;
        let used = bytes[at + 2..at + HEAD] != [0, 0];
        let place = used.then_some(((chunk * CHUNK + at) / UNIT) as Place);
        at += room;
        Some(place)
    });
    all.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds_in_at_most_twice_the_room(
            steps in prop::collection::vec((0_u16..600, 1_usize..170, 0_u8..100), 1..2_000),
            forgetful in 0_u8..3,
        ) {
            let mut packed = Packed::default();
            let mut model = BTreeMap::new();
            for (n, length, chance) in steps {
                if chance < forgetful {
                    for part in 0..packed.parts() {
                        packed.retain(part, |record| record.len().is_multiple_of(2));
                    }
                    model.retain(|_, record: &mut Vec<u8>| record.len().is_multiple_of(2));
                }
                let user = format!("user-{n}{}", "x".repeat(usize::from(n) % 200));
                packed.put(&user, &vec![n as u8; length]);
                model.insert(user, vec![n as u8; length]);
            }
            prop_assert_eq!(packed.index.len(), model.len());
            prop_assert!(model.iter().all(|(user, record)| packed.get(user) == Some(record)));
            prop_assert_eq!(packed.get("nobody"), None);
            let held: usize = packed.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum();
            // An entry keeps the room of its longest record.
            let longest = (HEAD + 205 + 170 + UNIT) * model.len();
            prop_assert!(held <= 2 * longest + 3 * CHUNK, "{held} for {}", model.len());
            let free = packed.free.iter().map(|at| packed.chunks[*at].bytes.capacity());
            prop_assert_eq!(free.sum::<usize>(), 0);
        }
    }

    #[test]
    fn records_that_change_move_little_and_what_all_left_is_given_back() {
        let mut packed = Packed::default();
        for round in 0..20 {
            for n in 0..10_000 {
                packed.put(
                    &format!("user-{n:05}"),
                    &vec![round; 20 + usize::from(round % 4) * 20],
                );
            }
        }
        let held: usize = packed
            .chunks
            .iter()
            .map(|chunk| chunk.bytes.capacity())
            .sum();
        assert!(held < 2 * 10_000 * 96 + CHUNK, "{held}");
        for part in 0..packed.parts() {
            packed.retain(part, |_| false);
        }
        for part in 0..packed.parts() {
            packed.retain(part, |_| false);
        }
        let held: usize = packed
            .chunks
            .iter()
            .map(|chunk| chunk.bytes.capacity())
            .sum();
        assert!(held <= CHUNK, "{held}");
        assert_eq!((packed.index.len(), packed.get("user-00001")), (0, None));
    }
}
