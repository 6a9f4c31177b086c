//! Who may connect: how many connections there may be at a time, how many of them without a
//! session, and how many of one address, which a proxy may tell only later. It owns the counts; nothing here is touched by a session
//! while it stands.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::http::Response;

/// Connections beyond the limits that are listened to before they are told so. More are told at
/// once, which a client may miss that is still speaking.
const MAX_HEARD_OUT: usize = 32;

/// The limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// Of those, without a session.
    pub(crate) unauthenticated: usize,
    /// Of one IPv4 address, or one /64 of IPv6; 0 = no limit.
    pub(crate) per_address: u64,
}

/// Lets connections in.
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    connections: AtomicUsize,
    unauthenticated: AtomicUsize,
    refused: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, u64>>,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Edge,
    Unauthenticated,
    Address,
}

impl Full {
    /// For a metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Edge => "connections",
            Self::Unauthenticated => "unauthenticated",
            Self::Address => "address",
        }
    }

    /// What the client is told.
    pub(crate) fn response(self) -> Response {
        let (status, what, seconds) = match self {
            Self::Edge => (503, "the edge has as many connections as it takes", "5"),
            Self::Unauthenticated => (503, "too many connections show no token", "1"),
            Self::Address => (429, "your address has as many connections as it may", "5"),
        };
        Response::problem(status, what).with("retry-after", seconds)
    }
}

/// A connection's place among those admitted.
pub(crate) struct Admission {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
    has_session: bool,
}

/// A connection that is not admitted.
pub(crate) struct Refused {
    gate: Arc<Gate>,
    pub(crate) full: Full,
    /// There are so many that it has to be told at once.
    pub(crate) at_once: bool,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            connections: AtomicUsize::new(0),
            unauthenticated: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            by_address: Mutex::default(),
        })
    }

    /// A place for a new connection; `address` is its client's, once that is known.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Admission, Refused> {
        let limits = self.limits;
        let connections = self.connections.fetch_add(1, Ordering::Relaxed);
        let unauthenticated = self.unauthenticated.fetch_add(1, Ordering::Relaxed);
        let mut admission = Admission {
            gate: Arc::clone(self),
            address: None,
            has_session: false,
        };
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

    fn refuse(self: &Arc<Self>, full: Full) -> Refused {
        Refused {
            gate: Arc::clone(self),
            full,
            at_once: self.refused.fetch_add(1, Ordering::Relaxed) >= MAX_HEARD_OUT,
        }
    }

    /// Gives back what `address` was counted with.
    fn leaves(&self, address: IpAddr) {
        let mut by_address = self.addresses();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.by_address
            .lock()
            .expect("nobody panics with this lock")
    }
}

/// What is counted as one client: an IPv4 address, or the /64 that one site of IPv6 has at least
/// (RFC 6177).
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Admission {
    /// Counts the connection as one of its client's address, and no longer as one of another.
    pub(crate) fn count(&mut self, address: IpAddr) -> Result<(), Refused> {
        let gate = Arc::clone(&self.gate);
        let address = counted(address);
        if gate.limits.per_address == 0 || self.address == Some(address) {
            return Ok(());
        }
        self.count_for_nobody();
        {
            let mut by_address = gate.addresses();
            let count = by_address.entry(address).or_default();
            if *count < gate.limits.per_address {
                *count += 1;
                self.address = Some(address);
                return Ok(());
            }
        }
        Err(gate.refuse(Full::Address))
    }

    /// Counts it as no client's: it is a proxy's, and rests.
    pub(crate) fn count_for_nobody(&mut self) {
        if let Some(address) = self.address.take() {
            self.gate.leaves(address);
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

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

    fn gate(connections: usize, unauthenticated: usize, per_address: u64) -> Arc<Gate> {
        Gate::new(Limits {
            connections,
            unauthenticated,
            per_address,
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
        assert!(gate.addresses().is_empty());
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
        assert!(gate.addresses().is_empty());
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
