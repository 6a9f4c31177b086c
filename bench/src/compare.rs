//! Our edge beside other servers: each is started alone, pinned to one core, and driven by the same load
//! from another, one shape after the other, in rounds that take all in turns. What is compared are
//! ratios within a round. It owns the servers that it starts; what a run measures is the business of the
//! runs, which it starts as whoever uses the bench would.

mod peers;
mod report;
mod server;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
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

pub(crate) use self::server::Running;
use self::{
    peers::{Kind, PEERS, Peer},
    report::{Cell, Comparison},
};
use crate::{machine::Machine, output, report::Report};

/// Each server beside ours on this machine: what it costs, and how late it is.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Where the other servers are, as `bench/peers/build` leaves them.
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    peers: PathBuf,
    /// Our edge's program [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    edge: Option<PathBuf>,
    /// Only these servers beside ours, by their names.
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these shapes of load, by their names.
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',')]
    shapes: Vec<String>,
    /// How often all are measured, in turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each load lasts, seconds.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// The cores of the server and of the load.
    #[arg(long, value_name = "SERVER,LOAD", value_delimiter = ',', num_args = 1, default_values_t = [0, 1])]
    cores: Vec<usize>,
    /// Print one JSON object instead of the tables.
    #[arg(long)]
    json: bool,
    /// Write the comparison as a page here (HTML, all in one file).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// No progress on standard error.
    #[arg(long)]
    quiet: bool,
}

/// Why nothing is compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error("--{option} {name}: it must be one of {known}")]
    Unknown {
        option: &'static str,
        name: String,
        known: String,
    },
    #[error("--cores: it must be two different cores that this process may use, for example 0,1")]
    Cores,
    #[error("--duration {0}: it must be 1 to 3600 seconds")]
    Duration(f64),
    #[error(
        "--edge {0}: there is no such program; build it with cargo build --release, or name it"
    )]
    NoEdge(PathBuf),
}

/// A shape of load, its name, and what makes it.
struct Shape {
    name: &'static str,
    title: &'static str,
    words: &'static [&'static str],
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "connect",
        title: "5,000 sessions are opened, 1,000 a second, and are idle",
        words: &["connect", "--sessions=5000", "--connect-rate=1000"],
    },
    Shape {
        name: "presence",
        title: "2,000 users watch 20 others each, 500 changes a second",
        words: &["presence", "--sessions=2000", "--watch=20", "--rate=500"],
    },
    Shape {
        name: "fanout",
        title: "one user, watched by 2,000, changes 10 times a second",
        words: &["fanout", "--sessions=2000", "--rate=10"],
    },
    Shape {
        name: "burst",
        title: "20 users, watched by 1,000, all change at once, twice a second",
        words: &[
            "fanout",
            "--sessions=1000",
            "--rate=40",
            "--publishers=20",
            "--burst=20",
        ],
    },
    Shape {
        name: "echo",
        title: "500 sessions send 5,000 messages a second that come back to them",
        words: &["echo", "--sessions=500", "--rate=5000"],
    },
];

fn known(option: &'static str, names: &[String], all: &[&str]) -> Result<(), CompareError> {
    match names.iter().find(|name| !all.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(CompareError::Unknown {
            option,
            name: name.clone(),
            known: all.join(", "),
        }),
    }
}

/// Compares, and prints the comparison; whether our edge passed all its runs.
pub(crate) fn compare(options: &Compare) -> Result<bool, Box<dyn std::error::Error>> {
    let chosen = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    known("only", &options.only, &PEERS.map(|peer| peer.name))?;
    known("shapes", &options.shapes, &SHAPES.map(|shape| shape.name))?;
    let [server_core, load_core] = options.cores[..] else {
        return Err(CompareError::Cores.into());
    };
    if server_core == load_core || !server::may_use(&[server_core, load_core]) {
        return Err(CompareError::Cores.into());
    }
    if !(1.0..=3_600.0).contains(&options.duration) {
        return Err(CompareError::Duration(options.duration).into());
    }
    let bench = std::env::current_exe()?;
    let beside = || bench.with_file_name("online-status-edge");
    let edge = options.edge.clone().unwrap_or_else(beside);
    if !edge.is_file() {
        return Err(CompareError::NoEdge(edge).into());
    }
    if let Some(path) = &options.report {
        output::check_file("report", path)?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }

    let mut comparison = Comparison::new(Machine::here(), options.rounds);
    let mut present: Vec<(&Peer, PathBuf)> = Vec::new();
    for peer in PEERS
        .iter()
        .filter(|p| p.kind == Kind::Ours || chosen(&options.only, p.name))
    {
        let program = match peer.kind {
            Kind::Ours => edge.clone(),
            _ => options.peers.join(peer.name),
        };
        match peers::missing(&program) {
            None => present.push((peer, program)),
            Some(reason) => comparison.is_missing(peer.name, reason),
        }
    }
    let shapes = SHAPES
        .iter()
        .filter(|shape| chosen(&options.shapes, shape.name));
    'rounds: for round in 0..options.rounds {
        for shape in shapes.clone() {
            // Another one begins each time, so that none always follows the same.
            let turn = round as usize % present.len();
            for (peer, program) in present[turn..].iter().chain(&present[..turn]) {
                if stop.load(Ordering::Relaxed) {
                    break 'rounds;
                }
                if !options.quiet {
                    eprintln!("round {}: {}, {}", round + 1, shape.name, peer.name);
                }
                let run = || -> Result<Report, String> {
                    let server = Running::start(peer, program, server_core)?;
                    let mut words: Vec<String> = Vec::new();
                    words.extend(shape.words.iter().map(|word| (*word).into()));
                    words.extend(peer.dialogue(shape.name));
                    words.push(format!("--url={}", server.url(peer)));
                    words.push(format!("--duration={}", options.duration));
                    words.push(format!("--pid={}", server.pid()));
                    words.extend(["--json", "--quiet", "--workers=1"].map(String::from));
                    let mut command = Command::new(&bench);
                    command
                        .args(&words)
                        .stdin(Stdio::null())
                        .stdout(Stdio::piped());
                    command.stderr(Stdio::piped());
                    let child = server::pinned(load_core, || command.spawn());
                    let done = child.and_then(std::process::Child::wait_with_output);
                    let done = done.map_err(|error| format!("the bench: {error}"))?;
                    serde_json::from_slice(&done.stdout)
                        .map_err(|_| String::from_utf8_lossy(&done.stderr).trim().to_owned())
                };
                comparison.add(Cell {
                    shape: shape.name,
                    peer: peer.name,
                    round,
                    result: run(),
                });
            }
        }
    }
    comparison.interrupted = stop.load(Ordering::Relaxed);
    if let Some(path) = &options.report {
        output::write_file("report", path, &comparison.page(&SHAPES))?;
    }
    match options.json {
        true => println!(
            "{}",
            serde_json::to_string_pretty(&comparison.json(&SHAPES))?
        ),
        false => print!("{}", comparison.text(&SHAPES)),
    }
    Ok(comparison.passed())
}
