//! What the cores of a process share: the configuration, the keys, the admission of connections
//! and the switch that starts a shutdown. Nothing here is touched by a session once it stands.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use keys::Keys;
use ring::{CoreId, Epoch, MapVersion, Vnode, VnodeCount};
use tracing::warn;

use crate::{
    admission::{Gate, Limits},
    cluster::Place,
    config::Config,
    decrees::Decrees,
    forwarded::Client,
    metrics::Metrics,
    store::Failing,
    surveys::Surveys,
    tls,
    trace::Traces,
};

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) keys: Arc<Keys>,
    /// The secret is the public one of development.
    pub(crate) development: bool,
    pub(crate) tls: Option<tls::Acceptor>,
    /// TLS of the administration address.
    pub(crate) admin_tls: Option<tls::Acceptor>,
    pub(crate) metrics: Arc<Metrics>,
    draining: AtomicBool,
    /// The number of cores whose presence is not ready yet.
    pub(crate) starting: AtomicUsize,
    pub(crate) vnodes: VnodeCount,
    /// The core of each vnode.
    pub(crate) cores: Vec<CoreId>,
    /// Of all vnodes, when all are this edge's.
    pub(crate) epoch: Epoch,
    /// The node's place in the cluster; `None` of a standalone edge.
    pub(crate) place: Option<Arc<Place>>,
    failing: Arc<Failing>,
    /// What clients are told to connect to.
    pub(crate) public_url: String,
    pub(crate) gate: Arc<Gate>,
    /// What administrators decree here; in a cluster the coordinators do.
    pub(crate) decrees: Option<Decrees>,
    /// The steps of the users whom an administrator follows.
    pub(crate) traces: Arc<Traces>,
    /// What administrators ask of all cores.
    pub(crate) surveys: Arc<Surveys>,
    /// What the log was told already, by [`Hint`].
    hinted: [AtomicBool; 4],
}

/// What an operator is told once, for all that it happens with every connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hint {
    /// A trusted proxy sends no PROXY protocol header, and is to.
    NoProxyHeader,
    /// A client sends a PROXY header and is no trusted proxy.
    ProxyHeader,
    /// A client speaks TLS where the edge does not.
    TlsToPlain,
    /// A client speaks plain HTTP where the edge speaks TLS.
    PlainToTls,
}

impl Hint {
    /// The event's name in the log.
    const fn event(self) -> &'static str {
        match self {
            Self::NoProxyHeader => "proxy_header_missing",
            Self::ProxyHeader => "proxy_header_refused",
            Self::TlsToPlain => "tls_to_plain",
            Self::PlainToTls => "plain_to_tls",
        }
    }
}

/// The place where a user's clients connect.
pub(crate) struct Route {
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) epoch: Epoch,
    pub(crate) map: MapVersion,
}

pub(crate) struct SharedParts {
    pub(crate) config: Config,
    pub(crate) keys: Arc<Keys>,
    pub(crate) development: bool,
    pub(crate) tls: Option<tls::Acceptor>,
    pub(crate) admin_tls: Option<tls::Acceptor>,
    pub(crate) cores: Vec<CoreId>,
    pub(crate) core_count: usize,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) vnodes: VnodeCount,
    pub(crate) epoch: Epoch,
    pub(crate) place: Option<Arc<Place>>,
    pub(crate) failing: Arc<Failing>,
    pub(crate) public_url: String,
    pub(crate) limits: Limits,
    pub(crate) decrees: Option<Decrees>,
    pub(crate) traces: Arc<Traces>,
    pub(crate) surveys: Arc<Surveys>,
}

impl Shared {
    pub(crate) fn new(parts: SharedParts) -> Self {
        Self {
            config: parts.config,
            keys: parts.keys,
            development: parts.development,
            tls: parts.tls,
            admin_tls: parts.admin_tls,
            metrics: parts.metrics,
            draining: AtomicBool::new(false),
            starting: AtomicUsize::new(parts.core_count),
            vnodes: parts.vnodes,
            cores: parts.cores,
            epoch: parts.epoch,
            place: parts.place,
            failing: parts.failing,
            public_url: parts.public_url,
            gate: Gate::new(parts.limits),
            decrees: parts.decrees,
            traces: parts.traces,
            surveys: parts.surveys,
            hinted: Default::default(),
        }
    }

    /// Writes a hint to the log, the first time it is met.
    pub(crate) fn say_once(&self, hint: Hint, what: &str) {
        if !self.hinted[hint as usize].swap(true, Ordering::Relaxed) {
            warn!(event = hint.event(), "{what}");
        }
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
        allowed.is_empty() || settings::is_origin_of(origin, allowed)
    }

    /// Where the client that asks this connects, when the edge is wherever it is asked: the only
    /// one, not told its own address, and listening on every address or asked through a proxy.
    pub(crate) fn address_for(&self, client: &Client<'_>) -> Option<String> {
        let server = &self.config.server;
        let is_anywhere = self.place.is_none()
            && server.public_url.is_empty()
            && (server.listen.ip().is_unspecified() || client.is_proxied);
        let is_secure = client.is_secure.unwrap_or(self.tls.is_some());
        let scheme = if is_secure { "wss" } else { "ws" };
        let host = client.host.filter(|_| is_anywhere)?;
        let port = client.port.map(|port| format!(":{port}"));
        Some(format!(
            "{scheme}://{host}{}/socket",
            port.unwrap_or_default()
        ))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.starting.load(Ordering::Relaxed) == 0 && self.keys.are_ready() && !self.is_leaving()
    }

    /// What is wrong with the map, the store, the bus or the links; one text each. Sessions that are
    /// there are served all the same.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let place = self.place.as_ref();
        let map = place.and_then(|place| place.map_left_aside.load_full());
        let map = map.map(|why| format!("the map in Redis is left aside: {why}"));
        let unrenewed = place.and_then(|place| place.unrenewed.load_full());
        let unstored = unrenewed.or_else(|| self.failing.load_full());
        let unstored = unstored.map(|why| format!("not storing: {why}"));
        let bus = place.and_then(|place| place.trouble());
        map.into_iter().chain(unstored).chain(bus).collect()
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
