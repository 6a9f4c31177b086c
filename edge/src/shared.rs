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
use ring::{CoreId, Epoch, Vnode, VnodeCount};
use token::Verifier;

use crate::{config::Config, metrics::Metrics, tls};

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) verifier: ArcSwap<Verifier>,
    /// The secret is the public one of development.
    pub(crate) development: bool,
    pub(crate) tls: Option<tls::Acceptor>,
    pub(crate) metrics: Metrics,
    pub(crate) draining: AtomicBool,
    /// Cores whose presence is not ready yet.
    pub(crate) starting: AtomicUsize,
    pub(crate) vnodes: VnodeCount,
    /// The core of each vnode.
    pub(crate) cores: Vec<CoreId>,
    pub(crate) epoch: Epoch,
    /// What clients are told to connect to.
    pub(crate) public_url: String,
    pub(crate) max_connections: usize,
    connections: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, u64>>,
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Edge,
    Address,
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
    pub(crate) vnodes: VnodeCount,
    pub(crate) epoch: Epoch,
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
            metrics: Metrics::new(parts.core_count),
            draining: AtomicBool::new(false),
            starting: AtomicUsize::new(parts.core_count),
            vnodes: parts.vnodes,
            cores: parts.cores,
            epoch: parts.epoch,
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

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.starting.load(Ordering::Relaxed) == 0 && !self.is_draining()
    }

    pub(crate) fn core_of(&self, vnode: Vnode) -> CoreId {
        self.cores[vnode.index()]
    }
}
