//! What the cores of a process share: the configuration, the keys, the admission of connections
//! and the switch that starts a shutdown. Nothing here is touched by a session once it stands.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use ring::{CoreId, Epoch, MapVersion, Vnode, VnodeCount};
use token::Verifier;

use crate::{cluster::Place, config::Config, http::Response, metrics::Metrics, tls};

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) verifier: ArcSwap<Verifier>,
    /// The secret is the public one of development.
    pub(crate) development: bool,
    pub(crate) tls: Option<tls::Acceptor>,
    pub(crate) metrics: Arc<Metrics>,
    draining: AtomicBool,
    /// Cores whose presence is not ready yet.
    pub(crate) starting: AtomicUsize,
    pub(crate) vnodes: VnodeCount,
    /// The core of each vnode.
    pub(crate) cores: Vec<CoreId>,
    /// Of all vnodes, when all are this edge's.
    pub(crate) epoch: Epoch,
    /// In a cluster.
    pub(crate) place: Option<Arc<Place>>,
    /// What clients are told to connect to.
    pub(crate) public_url: String,
    pub(crate) max_connections: usize,
    connections: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, u64>>,
}

/// Where a user's clients connect.
pub(crate) struct Route {
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) epoch: Epoch,
    pub(crate) map: MapVersion,
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Edge,
    Address,
}

impl Full {
    /// What the client is told.
    pub(crate) fn response(self) -> Response {
        match self {
            Self::Edge => Response::problem(503, "the edge has as many connections as it takes")
                .with("retry-after", "5"),
            Self::Address => {
                let what = "your address has as many connections as it may";
                Response::problem(429, what).with("retry-after", "5")
            }
        }
    }
}

/// A connection's place among those admitted.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address {
            let mut by_address = self
                .shared
                .by_address
                .lock()
                .expect("nobody panics with this lock");
            if let Some(count) = by_address.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&address);
                }
            }
        }
    }
}

pub(crate) struct SharedParts {
    pub(crate) config: Config,
    pub(crate) verifier: Verifier,
    pub(crate) development: bool,
    pub(crate) tls: Option<tls::Acceptor>,
    pub(crate) cores: Vec<CoreId>,
    pub(crate) core_count: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) vnodes: VnodeCount,
    pub(crate) epoch: Epoch,
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) public_url: String,
    pub(crate) max_connections: usize,
}

impl Shared {
    pub(crate) fn new(parts: SharedParts) -> Self {
        Self {
            config: parts.config,
            verifier: ArcSwap::from_pointee(parts.verifier),
            development: parts.development,
            tls: parts.tls,
            metrics: parts.metrics,
            draining: AtomicBool::new(false),
            starting: AtomicUsize::new(parts.core_count),
            vnodes: parts.vnodes,
            cores: parts.cores,
            epoch: parts.epoch,
            place: parts.place,
            public_url: parts.public_url,
            max_connections: parts.max_connections,
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
        }
    }

    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admission, Full> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut admission = Admission {
            shared: Arc::clone(self),
            address: None,
        };
        if before >= self.max_connections {
            return Err(Full::Edge);
        }
        let most = self.config.server.max_per_address;
        if most > 0 {
            let mut by_address = self
                .by_address
                .lock()
                .expect("nobody panics with this lock");
            let count = by_address.entry(address).or_default();
            if *count >= most {
                return Err(Full::Address);
            }
            *count += 1;
            admission.address = Some(address);
        }
        Ok(admission)
    }

    /// Starts to close the sessions that are still here.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the edge is on its way out: load balancers send nobody new.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_draining() || self.place.as_ref().is_some_and(|place| place.is_leaving())
    }

    /// Whether pages of that origin may connect; all may when none is listed.
    pub(crate) fn allows_origin(&self, origin: &str) -> bool {
        let allowed = &self.config.server.origins.0;
        let same = |allowed: &String| allowed.eq_ignore_ascii_case(origin);
        allowed.is_empty() || allowed.iter().any(same)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.starting.load(Ordering::Relaxed) == 0 && !self.is_leaving()
    }

    /// Where the user's clients connect: node, address, epoch and version of the map; `None` while
    /// no node owns its vnode.
    pub(crate) fn route(&self, user: &str) -> Option<Route> {
        let vnode = self.vnodes.vnode(user);
        let Some(place) = &self.place else {
            return Some(Route {
                node: self.config.node.id.clone(),
                address: self.public_url.clone(),
                epoch: self.epoch,
                map: MapVersion::new(1),
            });
        };
        let map = place.map.load();
        let map = map.as_ref()?;
        let (node, epoch) = map.owner(vnode)?;
        Some(Route {
            node: node.id.to_string(),
            address: node.address.clone(),
            epoch,
            map: map.version(),
        })
    }

    pub(crate) fn core_of(&self, vnode: Vnode) -> CoreId {
        self.cores[vnode.index()]
    }
}
