//! Many standalone edges on this machine for one run: started, measured as the servers of any run are,
//! ended. Each worker has an edge of its own, so that no process holds more sessions than it may open
//! files.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use crate::{
    cli::{Crew, DEVELOPMENT_SECRET, Options},
    compare::Running,
    plan::Scenario,
    run::{self, OTHER_FILES},
};

/// Open files that an edge needs besides its sessions.
const EDGE_FILES: u64 = 400;

/// Starts as many standalone edges as the sessions ask for, holds the sessions, and then runs `presence`.
#[derive(Debug, Args)]
pub(crate) struct Edges {
    /// The edge's program [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    edge: Option<PathBuf>,
    /// Edges, and workers of the bench [default: as many as the limit of open files asks for].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    edges: Option<u32>,
    /// How long the sessions are held before the first change, with heartbeats alone, seconds.
    #[arg(long, default_value_t = 60.0, value_name = "SECONDS")]
    hold: f64,
    /// Open no more sessions when the machine has less memory than this left, MiB.
    #[arg(long, default_value_t = 1_024, value_name = "MIB")]
    keep_free: u64,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum EdgesError {
    #[error(
        "--edge {0}: there is no such program; build it with cargo build --release, or name it"
    )]
    NoEdge(PathBuf),
    #[error(
        "--edges {given}: {sessions} sessions need {needed} with a limit of {files} open files each"
    )]
    TooFew {
        given: u32,
        sessions: u32,
        needed: u32,
        files: u64,
    },
    #[error("{0}")]
    Start(String),
    #[error("--workers: a fleet has as many as --edges; leave it out")]
    Workers,
    #[error("--coordinator: the edges of a fleet are standalone; leave it out")]
    Coordinator,
    #[error("interrupted before all edges ran")]
    Interrupted,
}

/// Whether all checks of the run passed.
pub(crate) fn run(edges: Edges) -> Result<bool, Box<dyn std::error::Error>> {
    let mut options = edges.options;
    let beside = || std::env::current_exe().map(|bench| bench.with_file_name("online-status-edge"));
    let program = edges.edge.map_or_else(beside, Ok)?;
    if !program.is_file() {
        return Err(EdgesError::NoEdge(program).into());
    }
    if options.workers.is_some() {
        return Err(EdgesError::Workers.into());
    }
    if !options.coordinator.is_empty() {
        return Err(EdgesError::Coordinator.into());
    }
    let files = run::files();
    let each = files.saturating_sub(OTHER_FILES.max(EDGE_FILES)).max(1);
    // Users that come and go have sessions of their own.
    let rate = options.rate.unwrap_or(1_000.0);
    let movers = rate * options.moves as f64 / 100.0 * 2.0 + 2.0;
    let needed = (u64::from(options.sessions) + movers.ceil() as u64).div_ceil(each) as u32;
    let count = edges.edges.unwrap_or(needed);
    if count < needed {
        return Err(EdgesError::TooFew {
            given: count,
            sessions: options.sessions,
            needed,
            files,
        }
        .into());
    }
    // A signal does not end this process before its edges.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, stop.clone())?;
    }
    let mut running = Vec::new();
    for _ in 0..count {
        running.push(Running::edge(&program).map_err(EdgesError::Start)?);
        if stop.load(Ordering::Relaxed) {
            return Err(EdgesError::Interrupted.into());
        }
    }
    options.scenario = Scenario::Presence;
    options.url = format!("{count} edges of this run");
    options.secret = DEVELOPMENT_SECRET.into();
    options.servers = running.iter().map(Running::edge_url).collect();
    options.keep_free = edges.keep_free << 20;
    options.hold = edges.hold;
    options.workers = Some(Crew::Here(count));
    run::run(&options)
}
