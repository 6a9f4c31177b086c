//! What each client and each network has: connections that stand, and how fast new ones come. It
//! owns these counts for all cores; what is said to who has too many is the gate's.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Full, Limits};

/// Parts of the table of counts, so that cores seldom wait for each other.
const SHARDS: usize = 16;
/// Cells of each of the two rows in which rates are kept: clients share cells, and who shares both of
/// its cells with clients that are too fast is refused with them.
const CELLS: usize = 1 << 16;

/// The party that a connection is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// An IPv4 address, or the /64 that one site of IPv6 has at least (RFC 6177).
    Client(IpAddr),
    /// A /24 of IPv4, or the /48 that a site of IPv6 has at most.
    Network(IpAddr),
}

/// The address and network that a client is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    client: Party,
    network: Party,
}

impl Place {
    pub(super) fn of(address: IpAddr) -> Self {
        let (client, network) = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let bits = u32::from(v4);
                (IpAddr::V4(v4), IpAddr::V4((bits & !0xff).into()))
            }
            IpAddr::V6(v6) => {
                let begin =
                    |bits: u32| IpAddr::V6((u128::from(v6) >> (128 - bits) << (128 - bits)).into());
                (begin(64), begin(48))
            }
        };
        Self {
            client: Party::Client(client),
            network: Party::Network(network),
        }
    }
}

pub(super) struct Addresses {
    per_address: u64,
    per_prefix: u64,
    connections: Box<[Mutex<HashMap<Party, u64>>]>,
    rates: Option<Rates>,
    hasher: RandomState,
}

impl Addresses {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            per_address: limits.per_address,
            per_prefix: limits.per_prefix,
            connections: (0..SHARDS).map(|_| Mutex::default()).collect(),
            rates: (limits.rate > 0).then(|| Rates::new(limits.rate, limits.burst)),
            hasher: RandomState::new(),
        }
    }

    /// Whether nobody has to be counted.
    pub(super) fn are_unlimited(&self) -> bool {
        self.per_address == 0 && self.per_prefix == 0 && self.rates.is_none()
    }

    /// Counts a connection that comes at `now`, monotonic µs.
    pub(super) fn enter(&self, place: Place, now: u64) -> Result<(), Full> {
        if let Some(rates) = &self.rates
            && !rates.allow(self.hasher.hash_one(place.client), now)
        {
            return Err(Full::Rate);
        }
        if !self.add(place.client, self.per_address) {
            return Err(Full::Address);
        }
        if !self.add(place.network, self.per_prefix) {
            self.take(place.client, self.per_address);
            return Err(Full::Prefix);
        }
        Ok(())
    }

    /// Gives back what [`Addresses::enter`] has counted.
    pub(super) fn leave(&self, place: Place) {
        self.take(place.client, self.per_address);
        self.take(place.network, self.per_prefix);
    }

    fn add(&self, party: Party, most: u64) -> bool {
        if most == 0 {
            return true;
        }
        let mut shard = self.shard(party);
        let count = shard.entry(party).or_default();
        let has_room = *count < most;
        *count += u64::from(has_room);
        has_room
    }

    fn take(&self, party: Party, most: u64) {
        if most == 0 {
            return;
        }
        let mut shard = self.shard(party);
        if let Some(count) = shard.get_mut(&party) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&party);
            }
        }
    }

    fn shard(&self, party: Party) -> MutexGuard<'_, HashMap<Party, u64>> {
        let shard = self.hasher.hash_one(party) as usize % SHARDS;
        self.connections[shard]
            .lock()
            .expect("nobody panics with this lock")
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let mut shards = self.connections.iter();
        shards.all(|shard| shard.lock().expect("nobody panics").is_empty())
    }
}

/// How fast connections come, in a table whose size does not depend on how many clients there are.
/// Each cell is the time at which its clients would be back at no connection at all (GCRA); what
/// counts for a client is the earlier of its two cells.
struct Rates {
    /// Time between two connections in the long run, µs.
    interval: u64,
    /// How far a cell may be ahead of the time, µs.
    most_ahead: u64,
    rows: [Box<[AtomicU64]>; 2],
}

impl Rates {
    fn new(rate: u64, burst: u64) -> Self {
        let interval = (1_000_000 / rate).max(1);
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self {
            interval,
            most_ahead: interval * burst.max(1),
            rows: [row(), row()],
        }
    }

    /// Whether a client with that hash may have one more at `now`, µs; then it is counted.
    fn allow(&self, hash: u64, now: u64) -> bool {
        let cells = [
            &self.rows[0][hash as usize % CELLS],
            &self.rows[1][(hash >> 32) as usize % CELLS],
        ];
        loop {
            let values = cells.map(|cell| cell.load(Ordering::Relaxed));
            let earlier = usize::from(values[1] < values[0]);
            let next = values[earlier].max(now) + self.interval;
            if next - now > self.most_ahead {
                return false;
            }
            let (ours, seen) = (cells[earlier], values[earlier]);
            let taken = ours.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                cells[1 - earlier].fetch_max(next, Ordering::Relaxed);
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_allows_its_burst_at_once_and_then_one_an_interval() {
        let rates = Rates::new(10, 3);
        let hash = 0x1234_5678_9abc_def0;
        let at = |now| (0..9).filter(|_| rates.allow(hash, now)).count();
        assert_eq!(at(1_000_000), 3);
        assert_eq!(at(1_050_000), 0);
        assert_eq!(at(1_100_000), 1);
        assert_eq!(at(9_000_000), 3);
    }

    #[test]
    fn who_shares_one_cell_with_a_fast_client_is_not_refused_for_it() {
        let rates = Rates::new(1, 1);
        assert!(rates.allow(7, 0) && !rates.allow(7, 0));
        assert!(rates.allow(7 | 1 << 32, 0));
        assert!(rates.allow(8, 0));
    }

    #[test]
    fn a_burst_is_not_exceeded_by_many_threads() {
        let rates = Rates::new(1, 1_000);
        let allowed = || (0..1_000).filter(|_| rates.allow(42, 0)).count();
        let sum: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(allowed)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("it counts"))
                .sum()
        });
        assert_eq!(sum, 1_000);
    }
}
