//! The start of an edge: standalone, with the embedded store and bus
//! and all vnodes, or as a node of a cluster.

use std::{
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keys::{Keys, KeysError};
use presence::{Core, Settings, WatchBudget};
use program::{ListenError, TooFewFiles};
use ring::{CoreId, Epoch, Member, VnodeCount};
use tracing::{error, info, warn};

use crate::{
    admin,
    admission::{Limits, memory},
    bus::{self, Bus},
    clock,
    cluster::{self, ClusterError, WorkerLinks},
    config::{Config, DEVELOPMENT_SECRET, Secret},
    connection,
    decrees::{DecreeError, Decrees},
    mesh::{Mesh, Wakeup},
    metrics::Metrics,
    running,
    shared::{Shared, SharedParts},
    socket, store,
    store::Store,
    surveys::Surveys,
    tls::{self, TlsError},
    trace::Traces,
    worker::{CoreMessage, Worker},
};

/// What a watch takes at most, bytes, when the limit of all is made from that of memory.
const WATCH_BYTES: u64 = 64;
/// Descriptors that are not connections: rings, listeners, files.
const RESERVED_DESCRIPTORS: u64 = 128;

/// The reason for which the edge does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "auth.secret (JWT_SECRET) is not set, so tokens of the public development secret are \
         accepted, and {0} = {1} is not a loopback address; set JWT_SECRET (at least 32 \
         bytes, as `openssl rand -base64 32` makes them), or listen on 127.0.0.1"
    )]
    DevelopmentSecret(&'static str, SocketAddr),
    #[error(
        "auth.secret (JWT_SECRET) is not set, so tokens of the public development secret would be \
         accepted, and this edge is a service; set JWT_SECRET (at least 32 bytes, as `openssl rand \
         -base64 32` makes them), or start it by hand"
    )]
    DevelopmentService,
    #[error(transparent)]
    Auth(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] store::OpenError),
    #[error(transparent)]
    Decree(#[from] DecreeError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "server.cores = {0}: more than the {1} CPUs that this process may use; set at most so many, \
         0 for all of them, or server.pin = false"
    )]
    Cores(usize, usize),
    #[error("the kernel does not give an io_uring to this process: {}", in_words(.0))]
    Uring(std::io::Error),
    #[error("{0} cores did not finish the shutdown in time")]
    Drain(usize),
    #[error("the process cannot be set up: {0}")]
    System(#[from] std::io::Error),
}

/// The kind of edge: standalone, or a node of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Standalone,
    Cluster,
}

/// The stores and buses behind the cores.
struct Backend {
    stores: Vec<Box<dyn Store + Send>>,
    buses: Vec<Box<dyn Bus + Send>>,
    links: Vec<Option<WorkerLinks>>,
    /// The epoch and first sequence of all vnodes, when all are this edge's.
    owned: Option<(Epoch, u64)>,
    end: Option<cluster::End>,
}

/// Runs the edge until a signal ends it.
pub(crate) fn run(mut config: Config, mode: Mode) -> Result<(), StartError> {
    clock::mono_us();
    let development = takes_development_secret(&mut config)?;
    let cpus = take_cores(&mut config)?;
    let cores = config.server.cores as usize;
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
pub(crate) fn check_development(config: &Config) -> Result<(), StartError> {
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

/// The CPUs that the cores are pinned to, and in `server.cores` how many cores there are.
fn take_cores(config: &mut Config) -> Result<Vec<usize>, StartError> {
    let cpus = allowed_cpus();
    let cores = match config.server.cores as usize {
        0 => cpus.len().min(64),
        cores if config.server.pin && cores > cpus.len() => {
            return Err(StartError::Cores(cores, cpus.len()));
        }
        cores => cores,
    };
    config.server.cores = cores as u64;
    Ok(cpus)
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

/// The name of the protocol, by TLS or not.
fn scheme(plain: &str, by_tls: bool) -> String {
    format!("{plain}{}", if by_tls { "s" } else { "" })
}

fn standalone(config: &Config, wakeups: &[Arc<Wakeup>]) -> Result<Backend, StartError> {
    let retention = config.store.retention.as_millis() as u64;
    let (stores, epoch, seq) = open_store(config, retention, wakeups)?;
    let bus = |_| Box::new(bus::Embedded::default()) as Box<dyn Bus + Send>;
    Ok(Backend {
        stores,
        buses: wakeups.iter().map(bus).collect(),
        links: wakeups.iter().map(|_| None).collect(),
        owned: Some((epoch, seq)),
        end: None,
    })
}

fn clustered(
    config: &Config,
    address: &str,
    homes: &[CoreId],
    wakeups: &[Arc<Wakeup>],
    seen: (&Arc<Metrics>, &Arc<Traces>, &Arc<Surveys>),
    keys: &Arc<Keys>,
) -> Result<Backend, StartError> {
    let node = cluster::node_id(config)?;
    let cluster = cluster::start(config, node, address, homes, wakeups, seen, keys)?;
    let links = cluster.events.into_iter().map(|events| {
        let place = Arc::clone(&cluster.place);
        Some(WorkerLinks { place, events })
    });
    Ok(Backend {
        stores: cluster.stores,
        buses: cluster.buses,
        links: links.collect(),
        owned: None,
        end: Some(cluster.end),
    })
}

type Stores = (Vec<Box<dyn Store + Send>>, Epoch, u64);

fn open_store(
    config: &Config,
    retention: u64,
    wakeups: &[Arc<Wakeup>],
) -> Result<Stores, StartError> {
    if config.store.data.as_os_str().is_empty() {
        let memory = |_| Box::new(store::Memory::new(retention)) as Box<dyn Store + Send>;
        // Nothing of a former process is left but what clients know: versions must be newer.
        // Days count as epochs and 64ths of milliseconds as the sequence of the day.
        const DAY: u64 = 86_400_000;
        let now = clock::wall_ms();
        let epoch = Epoch::new((now / DAY) as u32);
        return Ok((wakeups.iter().map(memory).collect(), epoch, now % DAY * 64));
    }
    let (handles, epoch) = store::Durable::open(&config.store.data, retention, wakeups)?;
    let boxed = |handle| Box::new(handle) as Box<dyn Store + Send>;
    Ok((handles.into_iter().map(boxed).collect(), epoch, 0))
}

fn settings(shared: &Shared, cores: u16) -> Settings {
    let presence = &shared.config.presence;
    let ms = |duration: Duration| duration.as_millis() as u64;
    let in_memory = shared.place.is_none() && shared.config.store.data.as_os_str().is_empty();
    Settings {
        node: shared.config.node.id.as_str().into(),
        core: CoreId::default(),
        cores,
        vnodes: shared.vnodes,
        seed: random_seed(),
        cluster: shared.place.is_some(),
        starts_empty: in_memory.then_some(shared.epoch),
        grace: ms(presence.grace),
        clean_close_grace: ms(presence.clean_close_grace),
        heartbeat: ms(presence.heartbeat),
        heartbeat_timeout: ms(presence.heartbeat_timeout),
        store_patience: ms(presence.store_patience),
        max_devices: presence.max_devices as u32,
        max_watches: presence.max_watches as u32,
        outbox: presence.outbox.0,
        max_message: shared.config.server.max_message.0,
        message_rate: presence.message_rate as u32,
        message_burst: presence.message_burst as u32,
        change_rate: presence.change_rate as u32,
        change_burst: presence.change_burst as u32,
        flush: ms(presence.flush),
        byte_rate: presence.byte_rate.0 as u32,
        byte_burst: presence.byte_burst.0 as u32,
        newest_wins: presence.over_max_devices == "newest",
        watches: WatchBudget::new(match presence.max_watches_total {
            0 => shared.gate.limits.memory / 4 / WATCH_BYTES,
            most => most,
        }),
    }
}

/// How many connections are let in, where descriptors allow `most`.
fn limits(config: &Config, most: usize) -> Limits {
    let connections = match config.server.max_connections {
        0 => most,
        wanted => most.min(wanted as usize),
    };
    let server = &config.server;
    let unauthenticated = match server.max_unauthenticated {
        0 => connections.div_ceil(2),
        wanted => connections.min(wanted as usize),
    };
    Limits {
        connections,
        unauthenticated,
        handshakes: match server.max_handshakes {
            0 => unauthenticated,
            wanted => unauthenticated.min(wanted as usize),
        },
        per_address: server.max_per_address,
        per_prefix: server.max_per_prefix,
        rate: server.connection_rate,
        burst: server.connection_burst,
        memory: memory_limit(config),
    }
}

/// From how much memory on no new connection is let in, bytes.
pub(crate) fn memory_limit(config: &Config) -> u64 {
    match config.server.max_memory.0 {
        // Where the kernel does not tell, there is no limit to keep.
        0 => memory::sensible_limit().unwrap_or(u64::MAX),
        bytes => bytes as u64,
    }
}

/// From the operating system, by way of the standard library's hasher.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(clock::wall_ms())
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

/// What a core's thread begins with.
struct CoreStart {
    shared: Arc<Shared>,
    id: CoreId,
    /// The CPU to pin it to, by `server.pin`.
    cpu: usize,
    settings: Settings,
    owned: Option<(Epoch, u64)>,
    listener: TcpListener,
    mesh: Mesh<CoreMessage>,
    store: Box<dyn Store + Send>,
    bus: Box<dyn Bus + Send>,
    links: Option<WorkerLinks>,
}

/// Why there is no ring, and what to do. Each error of io_uring_setup(2) has a cause of its own.
fn in_words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (error.kind(), setting.trim()) {
        (ErrorKind::OutOfMemory, _) => format!(
            "{error}: io_uring takes up to 1 MiB a core, which newer kernels count against the user's limit of \
             locked memory; raise it (`ulimit -l unlimited`, or LimitMEMLOCK=infinity in a unit of systemd), or \
             take fewer cores (server.cores)"
        ),
        (ErrorKind::PermissionDenied, disabled @ ("1" | "2")) => format!(
            "{error}: it is off on this host, since kernel.io_uring_disabled = {disabled}; as root: sysctl -w \
             kernel.io_uring_disabled=0, and a file in /etc/sysctl.d keeps that"
        ),
        _ => format!(
            "{error}. Linux 6.1 or newer is needed; in a container its seccomp profile has to allow \
             io_uring_setup, io_uring_enter and io_uring_register"
        ),
    }
}

/// Why a core ended. That its rings found no memory is mostly a limit, which the error does not name.
fn in_words_of_core(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::OutOfMemory => in_words(error),
        _ => error.to_string(),
    }
}

impl CoreStart {
    /// Runs the core on a thread of its own until it is drained; then it is no longer counted among
    /// those that are `running`. One that fails ends the process.
    fn spawn(self, running: Arc<AtomicUsize>) -> std::io::Result<()> {
        let (n, cpu) = (self.id.get(), self.cpu);
        let core = move || {
            if self.shared.config.server.pin
                && let Err(error) = monoio::utils::bind_to_cpu_set([cpu])
            {
                warn!(
                    event = "core_not_pinned",
                    core = n,
                    cpu,
                    "core {n} is not pinned to CPU {cpu}: {error}"
                );
            }
            if let Err(error) = self.run() {
                error!(
                    event = "core_failed",
                    core = n,
                    "core {n}: {}",
                    in_words_of_core(&error)
                );
                program::log::flush();
                std::process::exit(1);
            }
            running.fetch_sub(1, Ordering::AcqRel);
        };
        let thread = std::thread::Builder::new().name(format!("core-{n}"));
        thread.spawn(core).map(drop)
    }

    /// Runs the core until it is drained.
    fn run(self) -> std::io::Result<()> {
        let mut ring = io_uring::IoUring::builder();
        // Completions interrupt nothing, and are noticed without a system call: with work that is
        // deferred to the next wait instead, a busy loop would see them late.
        ring.setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .setup_cqsize(4_096);
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(1_024)
            .uring_builder(ring)
            .enable_timer()
            .build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> std::io::Result<()> {
        let Self {
            shared,
            id,
            cpu: _,
            settings,
            owned,
            listener,
            mesh,
            store,
            bus,
            links,
        } = self;
        let mut core = Core::new(settings, clock::now());
        for vnode in shared.vnodes.all() {
            let home = shared.core_of(vnode);
            if home != id {
                core.at_home_on(vnode, home);
            } else if let Some((epoch, seq)) = owned {
                core.own(vnode, epoch, seq);
            }
        }
        let worker = Worker::new(Arc::clone(&shared), core, mesh, store, bus, links)?;
        monoio::spawn(Rc::clone(&worker).pump_task());
        monoio::spawn(Rc::clone(&worker).receive_task());
        monoio::spawn(Rc::clone(&worker).read_task(worker.waiter()?));
        let listener = monoio::net::TcpListener::from_std(listener)?;
        monoio::spawn(accept(Rc::clone(&worker), listener));
        worker.tick_task().await;
        Ok(())
    }
}

async fn accept(worker: Rc<Worker>, listener: monoio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                monoio::spawn(connection::serve(Rc::clone(&worker), stream, peer));
            }
            Err(_) => {
                // Out of descriptors, mostly: the others go on, and it is tried again.
                worker.stats.borrow_mut().accept_errors += 1;
                monoio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Says that the edge has started: to people in plain text, and in a log of JSON.
/// `connections`: how many the limit of open files allows.
fn announce(shared: &Shared, listen: SocketAddr, admin: SocketAddr, connections: u64) {
    let admin = format!("{}://{admin}", scheme("http", shared.admin_tls.is_some()));
    let config = &shared.config;
    let store = match &shared.place {
        Some(place) => format!("Redis at {}", place.link.address()),
        None if config.store.data.as_os_str().is_empty() => {
            "in memory; use --data DIR to keep it".to_owned()
        }
        None => config.store.data.display().to_string(),
    };
    let wanted = config.server.max_connections;
    if let Some(line) = program::few_connections(connections, "server.max_connections", wanted) {
        warn!(event = "connections_limited", "{line}");
    }
    if program::log::tells_people() {
        greet(shared, listen, &admin, &store);
    }
    if program::log::is_json() {
        info!(
            event = "started",
            version = env!("CARGO_PKG_VERSION"),
            node = config.node.id,
            cores = config.server.cores,
            connections = shared.gate.limits.connections,
            open_files = program::open_files(),
            clients = shared.public_url,
            admin,
            store,
            brokers = shared.place.is_some().then_some(&*config.kafka.brokers),
            development = shared.development,
            "online-status-edge has started"
        );
    }
}

fn greet(shared: &Shared, listen: SocketAddr, admin: &str, store: &str) {
    let scheme = scheme("http", shared.tls.is_some());
    let kind = match &shared.place {
        None => "standalone".to_owned(),
        Some(place) => format!("node {}", place.node),
    };
    println!(
        "online-status-edge {} {kind}, {} cores, up to {} connections (limit of open files: {})",
        env!("CARGO_PKG_VERSION"),
        shared.config.server.cores,
        shared.gate.limits.connections,
        program::open_files()
    );
    println!("  clients   {}", shared.public_url);
    println!("  admin     {admin}  (/healthz /readyz /metrics)");
    println!("  store     {store}");
    if shared.place.is_some() {
        println!("  bus       Kafka at {}", shared.config.kafka.brokers);
    }
    println!(
        "  a vanished client is offline within {} ms",
        shared.config.ghost_bound()
    );
    if shared.development {
        println!("  JWT_SECRET is not set: tokens of the public development secret are accepted");
        let now = clock::wall_ms();
        let token = token::sign(DEVELOPMENT_SECRET, "alice", now..now + 86_400_000, None);
        println!("  live page {scheme}://{listen}/  (open it in two tabs)");
        println!("  a token for alice, good for a day:\n{token}");
    } else {
        println!(
            "  live page {scheme}://{listen}/  (make a token: online-status-edge token --user alice)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn why_there_is_no_ring_is_said_by_what_the_kernel_answers() {
        let said = |errno: Errno| StartError::Uring(errno.into()).to_string();
        let memory = said(Errno::NOMEM);
        assert!(
            memory.contains("LimitMEMLOCK") && !memory.contains("seccomp"),
            "{memory}"
        );
        for errno in [Errno::NOSYS, Errno::INVAL] {
            let other = said(errno);
            assert!(
                other.contains("seccomp") && !other.contains("MEMLOCK"),
                "{other}"
            );
        }
        // On a host that has it, what forbids it is the container's profile.
        let off = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        if off.is_ok_and(|off| off.trim() == "0") {
            assert!(said(Errno::PERM).contains("seccomp"));
        }
    }
}
