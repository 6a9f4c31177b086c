//! The start of an edge: standalone, with the embedded store and bus
//! and all vnodes, or as a node of a cluster.

mod backend;
mod check;
mod core_thread;
mod error;
mod greeting;
mod limits;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::AtomicUsize},
};

use keys::Keys;
use presence::Settings;
use ring::{CoreId, Epoch, Member, VnodeCount};
use tracing::info;

use self::{
    backend::{clustered, standalone},
    core_thread::CoreStart,
    greeting::announce,
    limits::{limits, settings},
};
pub(crate) use self::{check::check, error::StartError, limits::memory_limit};
use crate::{
    admin, clock, cluster,
    config::{Config, DEVELOPMENT_SECRET, Secret},
    decrees::Decrees,
    mesh::Mesh,
    metrics::Metrics,
    running,
    shared::{Shared, SharedParts},
    socket,
    surveys::Surveys,
    tls,
    trace::Traces,
    worker::CoreMessage,
};

/// Descriptors that are not connections: rings, listeners, files.
const RESERVED_DESCRIPTORS: u64 = 128;

/// The kind of edge: standalone, or a node of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Standalone,
    Cluster,
}

/// Runs the edge until a signal ends it.
pub(crate) fn run(mut config: Config, mode: Mode) -> Result<(), StartError> {
    clock::mono_us();
    let development = takes_development_secret(&mut config)?;
    let (cpus, cores) = cores(&config)?;
    config.server.cores = cores as u64;
    let connections = program::connections(RESERVED_DESCRIPTORS + 16 * cores as u64)?;
    crate::send_ring::SendRing::new().map_err(StartError::Uring)?;
    let limits = limits(&config, connections as usize);
    let keys = Keys::start(config.auth.options(), config.auth.source().as_ref())?;
    let files = config.tls.files()?;
    let tls = files.clone().map(tls::Acceptor::new).transpose()?;
    let asks = config.tls.admin_client_ca.clone();
    let admin_tls = (files.filter(|_| config.tls.admin || asks.is_some()))
        .map(|files| tls::Acceptor::new(files.asking(asks)))
        .transpose()?;
    let listeners = Listeners::take(&config)?;

    let public_url = match config.server.public_url.as_str() {
        "" => format!(
            "{}://{}/socket",
            scheme("ws", tls.is_some()),
            listeners.listen
        ),
        url => url.to_owned(),
    };
    let vnodes = config.cluster.count().expect("checked with the rest");
    let homes = homes(vnodes, cores);
    let meshes = Mesh::<CoreMessage>::connect(cores);
    let wakeups: Vec<_> = meshes.iter().map(|mesh| Arc::clone(&mesh.wakeup)).collect();
    let node = match mode {
        Mode::Standalone if config.node.id.is_empty() => "standalone".to_owned(),
        Mode::Standalone => config.node.id.clone(),
        Mode::Cluster => cluster::node_id(&config)?.to_string(),
    };
    config.node.id = node;
    let metrics = Arc::new(Metrics::new(cores));
    let traces = Arc::new(Traces::new(&config.node.id, mode == Mode::Cluster));
    let surveys = Arc::new(Surveys::new(cores));
    let backend = match mode {
        Mode::Standalone => standalone(&config, &wakeups)?,
        Mode::Cluster => {
            let seen = (&metrics, &traces, &surveys);
            clustered(&config, &public_url, &homes, &wakeups, seen, &keys)?
        }
    };
    let place = backend.links.first().and_then(Option::as_ref);
    let place = place.map(|links| Arc::clone(&links.place));
    let decrees = match mode {
        Mode::Standalone => {
            let (data, lifetime) = (&config.store.data, config.auth.longest_life());
            Some(Decrees::open(Arc::clone(&keys), data, lifetime)?)
        }
        Mode::Cluster => None,
    };
    let shared = Arc::new(Shared::new(SharedParts {
        decrees,
        traces,
        surveys,
        keys,
        development,
        tls,
        admin_tls,
        cores: homes,
        core_count: cores,
        metrics,
        vnodes,
        epoch: backend.owned.map_or(Epoch::default(), |(epoch, _)| epoch),
        place,
        failing: backend.failing,
        public_url,
        limits,
        config,
    }));
    let running = Arc::new(AtomicUsize::new(cores));
    let settings = settings(&shared, cores as u16);
    let parts = listeners
        .clients
        .into_iter()
        .zip(meshes)
        .zip(backend.stores.into_iter().zip(backend.buses))
        .zip(backend.links)
        .zip(cpus.into_iter().cycle());
    for (n, ((((listener, mesh), (store, bus)), links), cpu)) in parts.enumerate() {
        let id = CoreId::new(n as u16);
        let start = CoreStart {
            shared: Arc::clone(&shared),
            id,
            cpu,
            settings: Settings {
                core: id,
                ..settings.clone()
            },
            owned: backend.owned,
            listener,
            mesh,
            store,
            bus,
            links,
        };
        start.spawn(Arc::clone(&running))?;
    }
    let admin_shared = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("admin".into())
        .spawn(move || admin::run(&listeners.admin, &admin_shared))?;
    announce(
        &shared,
        listeners.listen,
        listeners.admin_address,
        connections,
    );
    let ended = running::until_end(&shared, &running);
    if let Some(end) = backend.end {
        end.run();
    }
    if ended.is_ok() {
        info!(event = "stopped", "done");
    }
    ended
}

/// That an edge without a key for tokens is reached by this host alone, where anybody is an administrator.
///
/// # Errors
/// The address that others reach.
fn check_development(config: &Config) -> Result<(), StartError> {
    let server = &config.server;
    let addresses = [
        ("server.listen", server.listen),
        ("server.admin_listen", server.admin_listen),
    ];
    let open = (addresses.into_iter()).find(|(_, address)| !address.ip().is_loopback());
    match open.filter(|_| config.is_development()) {
        Some((setting, address)) => Err(StartError::DevelopmentSecret(setting, address)),
        None => Ok(()),
    }
}

/// Whether the edge takes tokens of the public development secret, which it then has.
fn takes_development_secret(config: &mut Config) -> Result<bool, StartError> {
    check_development(config)?;
    if !config.is_development() {
        return Ok(false);
    }
    // A proxy on this host may bring clients of others to it.
    if program::is_service() {
        return Err(StartError::DevelopmentService);
    }
    config.auth.secret = Secret::new(DEVELOPMENT_SECRET);
    Ok(true)
}

/// The CPUs that the cores are pinned to, and how many cores there are.
fn cores(config: &Config) -> Result<(Vec<usize>, usize), StartError> {
    let cpus = allowed_cpus();
    let cores = match config.server.cores as usize {
        0 => cpus.len().min(64),
        cores if config.server.pin && cores > cpus.len() => {
            return Err(StartError::Cores(cores, cpus.len()));
        }
        cores => cores,
    };
    Ok((cpus, cores))
}

/// The sockets that the edge listens on.
struct Listeners {
    /// One for each core, on a shared port.
    clients: Vec<TcpListener>,
    listen: SocketAddr,
    admin: TcpListener,
    admin_address: SocketAddr,
}

impl Listeners {
    fn take(config: &Config) -> Result<Self, StartError> {
        let server = &config.server;
        // Without a shared port first: another process there would silently take its half.
        let alone = |address| TcpListener::bind(address);
        let listen = program::listen("server.listen", server.listen, alone)?.local_addr()?;
        let clients = (0..server.cores)
            .map(|_| program::listen("server.listen", listen, socket::listen))
            .collect::<Result<_, _>>()?;
        let admin = program::listen("server.admin_listen", server.admin_listen, alone)?;
        Ok(Self {
            clients,
            listen,
            admin_address: admin.local_addr()?,
            admin,
        })
    }
}

/// The core that each vnode is at home on, spread evenly.
fn homes(vnodes: VnodeCount, cores: usize) -> Vec<CoreId> {
    let member = Member {
        weight: 1,
        ..Member::default()
    };
    let homes = ring::assign(&vec![None; vnodes.get()], &vec![member; cores]);
    let homes = homes.expect("nothing is pinned").into_iter();
    homes
        .map(|core| CoreId::new(core.expect("all have weight") as u16))
        .collect()
}

fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let cpus: Vec<usize> = set
        .map(|set| {
            (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect()
        })
        .unwrap_or_default();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// The name of the protocol, by TLS or not.
fn scheme(plain: &str, by_tls: bool) -> String {
    format!("{plain}{}", if by_tls { "s" } else { "" })
}
