//! Who may connect: how many connections there may be at a time, how many of them without a
//! session, how many of one client, which a proxy may tell only later, and how much memory the
//! process may have. It owns the counts for all cores; nothing here is touched by a session while it
//! stands.

mod addresses;
pub(crate) mod memory;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use self::addresses::{Addresses, Place};
use crate::{clock, http::Response};

/// Connections beyond the limits that are listened to before they are told so. More are told at
/// once, which a client may miss that is still speaking.
const MAX_HEARD_OUT: usize = 32;

/// The limits of connections, by the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// The most connections without a session.
    pub(crate) unauthenticated: usize,
    /// Of those, in a TLS handshake.
    pub(crate) handshakes: usize,
    /// Of one IPv4 address, or one /64 of IPv6; 0 = no limit.
    pub(crate) per_address: u64,
    /// Of one /24 of IPv4, or one /48 of IPv6; 0 = no limit.
    pub(crate) per_prefix: u64,
    /// New ones a second of one client in the long run; 0 = no limit.
    pub(crate) rate: u64,
    /// New ones of one client at once, where there is a rate.
    pub(crate) burst: u64,
    /// Bytes of memory from which on nobody new is let in.
    pub(crate) memory: u64,
}

/// The gate that counts connections and refuses those above a limit.
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    connections: AtomicUsize,
    unauthenticated: AtomicUsize,
    handshakes: AtomicUsize,
    refused: AtomicUsize,
    /// The process's memory when it was looked at last, bytes.
    memory: AtomicU64,
    /// The most that it had since it reached its limit, bytes; 0 = it is below.
    most_memory: AtomicU64,
    /// Connections that there may be though the limit of memory is reached.
    room: AtomicUsize,
    addresses: Addresses,
}

/// The limit that a connection would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Memory,
    Edge,
    Unauthenticated,
    Address,
    Prefix,
    Rate,
}

impl Full {
    /// The limit's word in a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Edge => "connections",
            Self::Unauthenticated => "unauthenticated",
            Self::Address => "address",
            Self::Prefix => "prefix",
            Self::Rate => "rate",
        }
    }

    /// The answer to the client that is refused.
    pub(crate) fn response(self) -> Response {
        let (status, what, seconds) = match self {
            Self::Memory => (503, "the edge has as much memory as it may", "5"),
            Self::Edge => (503, "the edge has as many connections as it takes", "5"),
            Self::Unauthenticated => (503, "too many connections show no token", "1"),
            Self::Address => (429, "your address has as many connections as it may", "5"),
            Self::Prefix => (429, "your network has as many connections as it may", "5"),
            Self::Rate => (429, "your address connects too often", "1"),
        };
        Response::problem(status, what).with("retry-after", seconds)
    }
}

/// A connection's place among those admitted.
pub(crate) struct Admission {
    gate: Arc<Gate>,
    place: Option<Place>,
    has_session: bool,
}

/// A connection that is not admitted.
pub(crate) struct Refused {
    gate: Arc<Gate>,
    pub(crate) full: Full,
    /// There are so many that it has to be told at once.
    pub(crate) at_once: bool,
}

/// Stands for a TLS handshake that is under way.
pub(crate) struct Handshake(Arc<Gate>);

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            addresses: Addresses::new(&limits),
            limits,
            connections: AtomicUsize::new(0),
            unauthenticated: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            memory: AtomicU64::new(0),
            most_memory: AtomicU64::new(0),
            room: AtomicUsize::new(0),
        })
    }

    /// Looks at the process's memory; one thread does, again and again.
    pub(crate) fn look_at_memory(&self) {
        // Where the kernel does not tell, the limit is never reached.
        self.has_memory(memory::resident().unwrap_or_default());
    }

    /// Notes that the process has so many bytes. What sessions leave behind the allocator may keep for
    /// the next ones: so with nine tenths of the connections that the limit was reached with there is
    /// room again, unless they need clearly more than those did.
    fn has_memory(&self, bytes: u64) {
        let most = self.most_memory.load(Ordering::Relaxed);
        if bytes < self.limits.memory {
            self.most_memory.store(0, Ordering::Relaxed);
        } else if bytes > most + most / 64 {
            let connections = self.connections.load(Ordering::Relaxed);
            self.room.store(connections / 10 * 9, Ordering::Relaxed);
            self.most_memory.store(bytes, Ordering::Relaxed);
        }
        self.memory.store(bytes, Ordering::Relaxed);
    }

    /// The process's memory when it was looked at last, bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// A place for a new connection; `address` is its client's, once that is known.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admission, Refused> {
        let limits = self.limits;
        let connections = self.connections.fetch_add(1, Ordering::Relaxed);
        let unauthenticated = self.unauthenticated.fetch_add(1, Ordering::Relaxed);
        let mut admission = Admission {
            gate: Arc::clone(self),
            place: None,
            has_session: false,
        };
        if self.memory() >= limits.memory && connections >= self.room.load(Ordering::Relaxed) {
            return Err(self.refuse(Full::Memory));
        }
        if connections >= limits.connections {
            return Err(self.refuse(Full::Edge));
        }
        if unauthenticated >= limits.unauthenticated {
            return Err(self.refuse(Full::Unauthenticated));
        }
        if let Some(address) = address {
            admission.count(address)?;
        }
        Ok(admission)
    }

    /// A place for a TLS handshake; `None` when as many are under way as may.
    pub(crate) fn handshake(self: &Arc<Self>) -> Option<Handshake> {
        let under_way = self.handshakes.fetch_add(1, Ordering::Relaxed);
        let handshake = Handshake(Arc::clone(self));
        (under_way < self.limits.handshakes).then_some(handshake)
    }

    fn refuse(self: &Arc<Self>, full: Full) -> Refused {
        Refused {
            gate: Arc::clone(self),
            full,
            at_once: self.refused.fetch_add(1, Ordering::Relaxed) >= MAX_HEARD_OUT,
        }
    }
}

impl Admission {
    /// Counts the connection as one of its client's address, and no longer as one of another.
    pub(crate) fn count(&mut self, address: IpAddr) -> Result<(), Refused> {
        let gate = Arc::clone(&self.gate);
        let place = Place::of(address);
        if gate.addresses.are_unlimited() || self.place == Some(place) {
            return Ok(());
        }
        self.count_for_nobody();
        match gate.addresses.enter(place, clock::mono_us()) {
            Ok(()) => {
                self.place = Some(place);
                Ok(())
            }
            Err(full) => Err(gate.refuse(full)),
        }
    }

    /// Counts it as no client's: it is a proxy's, and rests.
    pub(crate) fn count_for_nobody(&mut self) {
        if let Some(place) = self.place.take() {
            self.gate.addresses.leave(place);
        }
    }

    /// The connection is a session's now.
    pub(crate) fn has_session(&mut self) {
        if !std::mem::replace(&mut self.has_session, true) {
            self.gate.unauthenticated.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.has_session();
        self.gate.connections.fetch_sub(1, Ordering::Relaxed);
        self.count_for_nobody();
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        self.gate.refused.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

    const UNLIMITED: Limits = Limits {
        connections: usize::MAX,
        unauthenticated: usize::MAX,
        handshakes: usize::MAX,
        per_address: 0,
        per_prefix: 0,
        rate: 0,
        burst: 0,
        memory: u64::MAX,
    };

    fn gate(connections: usize, unauthenticated: usize, per_address: u64) -> Arc<Gate> {
        Gate::new(Limits {
            connections,
            unauthenticated,
            per_address,
            ..UNLIMITED
        })
    }

    fn full(gate: &Arc<Gate>, address: IpAddr) -> Option<Full> {
        gate.admit(Some(address)).err().map(|refused| refused.full)
    }

    #[test]
    fn each_limit_is_kept_and_a_place_that_is_given_up_is_free() {
        let gate = gate(3, 2, 2);
        let mut first = gate.admit(Some(HERE)).ok().expect("room");
        let second = gate.admit(Some(HERE)).ok().expect("room");
        assert_eq!(full(&gate, THERE), Some(Full::Unauthenticated));
        first.has_session();
        assert_eq!(full(&gate, HERE), Some(Full::Address));
        let mut third = gate.admit(Some(THERE)).ok().expect("room");
        assert_eq!(full(&gate, THERE), Some(Full::Edge));
        third.has_session();
        drop((first, second, third));
        assert!(gate.addresses.is_empty());
        let counts = [&gate.connections, &gate.unauthenticated, &gate.refused];
        assert!(
            counts
                .iter()
                .all(|count| count.load(Ordering::Relaxed) == 0)
        );
    }

    #[test]
    fn a_connection_counts_for_the_client_it_is_of_at_the_time() {
        let gate = gate(9, 9, 1);
        let mut proxied = gate.admit(None).ok().expect("room");
        assert!(proxied.count(HERE).is_ok() && proxied.count(HERE).is_ok());
        assert_eq!(full(&gate, HERE), Some(Full::Address));
        assert!(proxied.count(THERE).is_ok());
        let direct = gate.admit(Some(HERE)).ok().expect("room again");
        assert!(proxied.count(HERE).is_err());
        // Refused, it is nobody's.
        assert_eq!(full(&gate, THERE), None);
        drop(direct);
        assert!(proxied.count(HERE).is_ok());
        proxied.count_for_nobody();
        assert!(gate.addresses.is_empty());
    }

    #[test]
    fn a_client_of_ipv6_is_its_64_and_one_of_ipv4_its_address_in_either_form() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let gate = gate(9, 9, 1);
        let _six = gate.admit(Some(ip("2001:db8:1:2::1"))).ok().expect("room");
        let _four = gate.admit(Some(ip("::ffff:192.0.2.1"))).ok().expect("room");
        for same in ["2001:db8:1:2:ffff:ffff:ffff:ffff", "192.0.2.1"] {
            assert_eq!(full(&gate, ip(same)), Some(Full::Address), "{same}");
        }
        for other in ["2001:db8:1:3::1", "192.0.2.2", "::ffff:192.0.2.3"] {
            assert_eq!(full(&gate, ip(other)), None, "{other}");
        }
    }

    #[test]
    fn a_network_has_so_many_whatever_their_addresses_and_a_refused_one_counts_for_nothing() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let gate = Gate::new(Limits {
            per_address: 1,
            per_prefix: 2,
            ..UNLIMITED
        });
        for [one, two, third, other] in [
            ["192.0.2.1", "192.0.2.200", "::ffff:192.0.2.3", "192.0.3.1"],
            [
                "2001:db8:1::1",
                "2001:db8:1:2::1",
                "2001:db8:1:3::1",
                "2001:db8:2::1",
            ],
        ] {
            let first = gate.admit(Some(ip(one))).ok().expect("room");
            let _second = gate.admit(Some(ip(two))).ok().expect("room");
            assert_eq!(full(&gate, ip(third)), Some(Full::Prefix), "{third}");
            assert_eq!(full(&gate, ip(other)), None, "{other}");
            drop(first);
            assert_eq!(full(&gate, ip(third)), None, "{third}");
        }
        assert!(gate.addresses.is_empty());
    }

    #[test]
    fn a_client_that_connects_too_often_waits_and_others_do_not() {
        let gate = Gate::new(Limits {
            rate: 1,
            burst: 2,
            ..UNLIMITED
        });
        assert_eq!([full(&gate, HERE), full(&gate, HERE)], [None, None]);
        assert_eq!(full(&gate, HERE), Some(Full::Rate));
        assert_eq!(full(&gate, THERE), None);
    }

    #[test]
    fn without_memory_nobody_is_let_in_and_handshakes_have_a_limit_of_their_own() {
        let gate = Gate::new(Limits {
            memory: 1 << 20,
            handshakes: 1,
            ..UNLIMITED
        });
        assert_eq!(full(&gate, HERE), None);
        gate.look_at_memory();
        assert_eq!(full(&gate, HERE), Some(Full::Memory));
        gate.has_memory(0);
        assert_eq!(full(&gate, HERE), None);
        let first = gate.handshake();
        assert!(first.is_some() && gate.handshake().is_none());
        drop(first);
        assert!(gate.handshake().is_some());
    }

    #[test]
    fn memory_that_sessions_left_behind_is_room_for_others_until_these_need_more() {
        let gate = Gate::new(Limits {
            memory: 1_000,
            ..UNLIMITED
        });
        let mut connections: Vec<_> = (0..20).map(|_| gate.admit(None).ok()).collect();
        gate.has_memory(1_000);
        assert_eq!(full(&gate, HERE), Some(Full::Memory));
        connections.truncate(18);
        assert_eq!(full(&gate, HERE), Some(Full::Memory));
        connections.truncate(17);
        // A little more is what a process that does nothing may get, too.
        gate.has_memory(1_010);
        assert_eq!(full(&gate, HERE), None);
        gate.has_memory(1_100);
        assert_eq!(full(&gate, HERE), Some(Full::Memory));
        connections.truncate(8);
        assert_eq!(full(&gate, HERE), None);
    }

    #[test]
    fn only_so_many_are_heard_out_before_they_are_refused() {
        let gate = gate(0, 1, 0);
        let refused: Vec<Refused> = (0..=MAX_HEARD_OUT)
            .map(|_| gate.admit(Some(HERE)).err().expect("full"))
            .collect();
        assert_eq!(refused.iter().filter(|refused| refused.at_once).count(), 1);
        drop(refused);
        assert!(!gate.admit(Some(HERE)).err().expect("full").at_once);
    }
}
