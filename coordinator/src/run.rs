//! A coordinator from its start to its end. It owns the order in which parts start and stop.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use coordinator::control::Control;
use keys::{Keys, KeysError};
use program::{AGAIN, Condition, ListenError, Service, TooFewFiles};
use redis_store::{Link, OptionsError};
use token::DEVELOPMENT_SECRET;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use crate::{
    config::Config,
    fleet::Fleet,
    http::{self, App},
    leadership::Candidate,
    metrics::Metrics,
    policy,
    server::{self, Limits},
    stop::stop,
};

/// Descriptors that are kept for other purposes than clients' connections.
const RESERVED_DESCRIPTORS: u64 = 64;
/// Time between two looks at how the coordinator is.
const LOOK: Duration = Duration::from_millis(100);
/// How long the end of the leadership may take.
const RESIGNING: Duration = Duration::from_secs(3);

/// Why the coordinator does not start, or ends by itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(
        "auth.secret (JWT_SECRET) is not set, so no token is needed, and coordinator.listen = {0} is \
         not a loopback address; set JWT_SECRET (at least 32 bytes, as `openssl rand -base64 32` makes \
         them), or listen on 127.0.0.1"
    )]
    Development(SocketAddr),
    #[error(
        "auth.secret (JWT_SECRET) is not set, so no token would be needed, and this coordinator is a \
         service; set JWT_SECRET (at least 32 bytes, as `openssl rand -base64 32` makes them), or start \
         it by hand"
    )]
    DevelopmentService,
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Store(#[from] OptionsError),
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the process cannot be set up: {0}")]
    System(#[from] std::io::Error),
    #[error("a part of the coordinator has failed: {0}")]
    Failed(&'static str),
}

/// Looks, without a start, at what one would refuse here; what else there is to know of one.
pub(crate) fn check(config: &Config) -> Result<Vec<String>, RunError> {
    let own = &config.coordinator;
    let mut notes = Vec::new();
    if is_development(config)? {
        notes.push(
            "auth.secret (JWT_SECRET) is not set: a coordinator that is a service does not start, and of \
             another one no token is needed"
                .to_owned(),
        );
    }
    let descriptors = program::connections(RESERVED_DESCRIPTORS)?;
    let wanted = own.max_connections;
    notes.extend(program::few_connections(
        descriptors,
        "coordinator.max_connections",
        wanted,
    ));
    notes.extend(program::may_listen("coordinator.listen", own.listen)?);
    Ok(notes)
}

/// Whether there is no key for tokens, so that none is needed; refused where other hosts reach the coordinator.
fn is_development(config: &Config) -> Result<bool, RunError> {
    let listen = config.coordinator.listen;
    match config.auth.options().has_no_key() {
        true if !listen.ip().is_loopback() => Err(RunError::Development(listen)),
        development => Ok(development),
    }
}

/// Runs the coordinator until a signal ends it.
pub(crate) fn run(config: Config) -> Result<(), RunError> {
    let descriptors = program::connections(RESERVED_DESCRIPTORS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(config, descriptors));
    // What is still under way has had its time.
    runtime.shutdown_background();
    result
}

/// `descriptors`: how many connections the limit of open files allows.
async fn serve(config: Config, descriptors: u64) -> Result<(), RunError> {
    let own = &config.coordinator;
    let mut options = config.auth.options();
    let development = is_development(&config)?;
    if development {
        if program::is_service() {
            return Err(RunError::DevelopmentService);
        }
        options.secret = DEVELOPMENT_SECRET.into();
    }
    let link = Link::open(config.redis.options())?;
    let keys = Keys::start(options, config.auth.source().as_ref())?;
    let id = match own.id.as_str() {
        "" => default_id(),
        id => id.to_owned(),
    };
    let listener = program::listen("coordinator.listen", own.listen, bind)?;
    let address = listener.local_addr()?;
    let signals = Signals::new()?;

    let metrics = Arc::new(Metrics::default());
    let (leaver, leaving) = stop();
    let (looks, asked) = policy::looks();
    let (stopper, stopping) = stop();
    let (candidate, leadership) = Candidate::new(
        link.clone(),
        id.clone(),
        own.leader_ttl,
        Arc::clone(&metrics),
    );
    let options = config.control();
    let (vnodes, step) = (options.vnodes, options.step_timeout);
    let (fleet, shown) = Fleet::new(
        link.clone(),
        Control::new(options),
        leadership,
        Arc::clone(&metrics),
        own.poll,
        config.rebalance.closed_for,
        step,
    );
    let app = Arc::new(App {
        id,
        shown,
        link,
        vnodes,
        keys: Arc::clone(&keys),
        looks,
        development,
        longest_life: config.auth.longest_life(),
        admin_scope: config.auth.admin_scope.clone(),
        allowed_origins: own.allowed_origins.0.clone(),
        fresh: (own.poll * 3).max(Duration::from_millis(1_500)),
        map_wait: own.map_wait,
        request_timeout: own.request_timeout,
        history: Mutex::default(),
        waiters: Semaphore::new(own.max_waiters as usize),
        readers: App::readers(),
        surveys: App::surveys(),
        metrics: Arc::clone(&metrics),
        leaving: leaving.clone(),
        stopping: stopping.clone(),
    });
    let limits = Limits {
        connections: own.max_connections.min(descriptors) as usize,
        header_timeout: own.header_timeout,
        shutdown: own.shutdown_timeout,
    };
    tokio::spawn(http::operator::remember(Arc::clone(&app), stopping.clone()));
    tokio::spawn(policy::keep(
        app.link.clone(),
        keys,
        asked,
        stopping.clone(),
    ));
    let router = http::router(Arc::clone(&app));
    let mut parts = Parts {
        candidate: tokio::spawn(candidate.run(leaving)),
        fleet: tokio::spawn(fleet.run(stopping.clone())),
        server: tokio::spawn(server::serve(listener, router, limits, metrics, stopping)),
    };
    greet(&app, address);
    let wanted = own.max_connections;
    if let Some(line) = program::few_connections(descriptors, "coordinator.max_connections", wanted)
    {
        warn!(event = "connections_limited", "{line}");
    }
    let mut service = Service::new();
    let result = until_told(&app, signals, &mut parts, &mut service).await;
    leaver.stop();
    service.stop();
    let finish = async {
        // A part that has failed answers nothing that is worth a wait.
        if result.is_ok() {
            sleep(own.shutdown_delay).await;
        }
        stopper.stop();
        let ending =
            async { (&mut parts.candidate).await.is_ok() && (&mut parts.fleet).await.is_ok() };
        if timeout(RESIGNING, ending).await.is_err() {
            warn!(
                event = "leadership_left",
                "the leadership was not given back in time, it ends by itself"
            );
        }
        // It ends within its own time.
        let _ = (&mut parts.server).await;
    };
    let again = async {
        sleep(AGAIN).await;
        // It hears those that come from now on.
        match Signals::new() {
            Ok(mut signals) => signals.told_to_stop().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = finish => info!(event = "stopped", "done"),
        () = again => {
            warn!(event = "stopped_at_once", "told twice to stop: ending now");
        }
    }
    result
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1_024)
}

/// The parts that run beside each other.
struct Parts {
    candidate: JoinHandle<()>,
    fleet: JoinHandle<()>,
    server: JoinHandle<()>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, std::io::Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn told_to_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns when a signal wants it to end, or a part has ended, which none does by itself.
async fn until_told(
    app: &App,
    mut signals: Signals,
    parts: &mut Parts,
    service: &mut Service,
) -> Result<(), RunError> {
    loop {
        tokio::select! {
            () = sleep(LOOK) => {
                service.update(|| condition(app));
                continue;
            }
            _ = signals.terminate.recv() => {}
            _ = signals.interrupt.recv() => {}
            _ = signals.hangup.recv() => {
                service.reload(|| reload(app));
                continue;
            }
            _ = &mut parts.candidate => return Err(RunError::Failed("the leadership")),
            _ = &mut parts.fleet => return Err(RunError::Failed("the fleet")),
            _ = &mut parts.server => return Err(RunError::Failed("the server")),
        }
        info!(
            event = "stopping",
            "shutting down: not ready any more, the leadership is given back"
        );
        return Ok(());
    }
}

/// How the coordinator is. Whoever asks shows by it that the runtime goes on.
fn condition(app: &App) -> Condition {
    let (is_ready, status) = app.readiness();
    Condition {
        is_ready,
        is_alive: true,
        status,
    }
}

/// Takes new keys for tokens; on an error the old ones stay.
fn reload(app: &App) -> Result<(), String> {
    match app.keys.reload() {
        Ok(()) => {
            info!(
                event = "keys_loaded",
                "the keys for tokens were loaded again"
            );
            Ok(())
        }
        Err(error) => {
            let error = format!("the old keys for tokens stay: {error}");
            error!(event = "reload_failed", "{error}");
            Err(error)
        }
    }
}

/// Says that the coordinator has started: to people in plain text, and in a log of JSON.
fn greet(app: &App, address: SocketAddr) {
    if program::log::tells_people() {
        println!("online-status-coordinator {}", env!("CARGO_PKG_VERSION"));
        println!("  coordinator {}", app.id);
        println!("  http        http://{address}/  (console; /route /map /nodes /status /metrics)");
        println!("  store       {}", app.link.address());
        if app.development {
            println!("  JWT_SECRET is not set: no token is needed");
        }
    }
    if program::log::is_json() {
        info!(
            event = "started",
            version = env!("CARGO_PKG_VERSION"),
            coordinator = app.id,
            http = format!("http://{address}/"),
            store = app.link.address().to_string(),
            development = app.development,
            "online-status-coordinator has started"
        );
    }
}

/// The default of `coordinator.id`: the host's name and the process's number.
fn default_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let good = |c: &char| c.is_ascii_alphanumeric() || ".-_".contains(*c);
    let host: String = host.trim().chars().filter(good).take(50).collect();
    let host = if host.is_empty() {
        "coordinator"
    } else {
        &host
    };
    format!("{host}-{}", std::process::id())
}
