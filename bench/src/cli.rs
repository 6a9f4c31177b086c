//! The command line. It owns the options and their defaults; what they mean is `plan.rs`.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::plan::Scenario;

/// The secret of a standalone edge that was given none; it listens on loopback only.
const DEVELOPMENT_SECRET: &str = "online-status-development-secret-change-me";

/// Load and correctness for an online-status server.
#[derive(Debug, Parser)]
#[command(
    name = "online-status-bench",
    version,
    about,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    scenario: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Opens sessions, holds them idle, and reports what one costs the server.
    Connect(Options),
    /// Users come, go and change status on a schedule; every watcher is timed and checked.
    Presence(Options),
    /// One user changes status; all sessions watch it.
    Fanout(Options),
    /// All sessions break at once and come back at once.
    Storm(Options),
    #[command(hide = true)]
    Worker,
}

/// The options of a run, as the command line gives them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Where the sessions connect (ws:// only).
    #[arg(long, default_value = "ws://127.0.0.1:8080/socket")]
    pub(crate) url: String,
    /// Coordinators that say where each user's session belongs (http:// only), instead of --url;
    /// the next one is asked when one fails.
    #[arg(
        long,
        value_name = "URL[,URL…]",
        value_delimiter = ',',
        conflicts_with = "url"
    )]
    pub(crate) coordinator: Vec<String>,
    /// The HS256 secret for tokens.
    #[arg(long, env = "JWT_SECRET", default_value = DEVELOPMENT_SECRET, hide_default_value = true, hide_env_values = true)]
    pub(crate) secret: String,
    /// Sessions that are held open, one a user.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) sessions: u32,
    /// How many users each session watches [default: 20; connect: 0; fanout: 1].
    #[arg(long)]
    pub(crate) watch: Option<u32>,
    /// Presence changes a second [default: presence 1000, fanout 10].
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Share of the changes that are users who come or go, the others are status changes, percent.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=50))]
    pub(crate) moves: u64,
    /// How long changes are made, or idle sessions held, seconds.
    #[arg(long, default_value_t = 20.0)]
    pub(crate) duration: f64,
    /// How long the sessions are held after the last change, seconds.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) hold_after: f64,
    /// How long to wait for the last deliveries, seconds; when sessions were lost, --grace and
    /// --outage-tolerance longer.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) drain: f64,
    /// How long the server keeps a user whose last session broke, seconds.
    #[arg(long, default_value_t = 15.0)]
    pub(crate) grace: f64,
    /// How long after a lost session its user's changes, and what it sees, may be passed over for
    /// newer ones, seconds. The last state must be right all the same.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) outage_tolerance: f64,
    /// A time in which what deliveries travel over is away though no session is lost, seconds from
    /// the start of the measured part and for how long; may be given several times. What is passed
    /// over in it, and --outage-tolerance after it, is conflated and not missed.
    #[arg(long = "outage-at", value_name = "START:LENGTH", value_parser = parse_outage)]
    pub(crate) outages: Vec<Outage>,
    /// Ping each session this often, seconds, and take one that does not answer within a second for
    /// lost until it does; 0 = do not. For runs in which servers are stopped for a while.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) probe: f64,
    /// New sessions a second while the sessions are opened.
    #[arg(long, default_value_t = 3_000.0)]
    pub(crate) connect_rate: f64,
    /// Worker processes [default: as many as the limit of open files asks for].
    #[arg(long)]
    pub(crate) workers: Option<u32>,
    /// A server's process, for CPU and memory; may be given several times [default: those that
    /// listen where users are sent, if they are ours].
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// Chooses who watches whom.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Fail unless this holds, for example p99<50ms, or disturbed:max<10s for the deliveries that a
    /// lost session held up; may be given several times.
    #[arg(long = "assert", value_parser = parse_limit)]
    pub(crate) limits: Vec<Limit>,
    /// Print one JSON object to standard output instead of the summary.
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress on standard error.
    #[arg(long)]
    pub(crate) quiet: bool,
    #[arg(skip)]
    pub(crate) scenario: Scenario,
}

/// A declared outage of what deliveries travel over; both members in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outage {
    /// The beginning, counted from the start of the measured part.
    pub(crate) start: f64,
    pub(crate) length: f64,
}

fn parse_outage(text: &str) -> Result<Outage, String> {
    let wrong = || format!("{text:?} is not like 3:20, for 20 seconds that begin after 3");
    let (start, length) = text.split_once(':').ok_or_else(wrong)?;
    Ok(Outage {
        start: start.parse().map_err(|_| wrong())?,
        length: length.parse().map_err(|_| wrong())?,
    })
}

/// A bound on a percentile of the delivery latency.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    /// Of the deliveries that a lost session held up; else of all others.
    pub(crate) disturbed: bool,
    /// The percentile of the delivery latency, 0 to 100; 100 is the maximum.
    pub(crate) percentile: f64,
    pub(crate) below: Duration,
    pub(crate) text: String,
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let wrong = || format!("{text:?} is not like p99<50ms, max<1s or disturbed:max<10s");
    let (disturbed, bound) = match text.strip_prefix("disturbed:") {
        Some(bound) => (true, bound),
        None => (false, text),
    };
    let (what, below) = bound.split_once('<').ok_or_else(wrong)?;
    let percentile = match what {
        "max" => 100.0,
        what => what
            .strip_prefix('p')
            .and_then(|p| p.parse().ok())
            .ok_or_else(wrong)?,
    };
    let (number, unit) = match () {
        () if below.ends_with("us") => (&below[..below.len() - 2], 1e-6),
        () if below.ends_with("ms") => (&below[..below.len() - 2], 1e-3),
        () if below.ends_with('s') => (&below[..below.len() - 1], 1.0),
        () => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let below = Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())?;
    if !(0.0..=100.0).contains(&percentile) {
        return Err(wrong());
    }
    Ok(Limit {
        disturbed,
        percentile,
        below,
        text: text.into(),
    })
}

/// The command that the arguments ask for.
pub(crate) enum Command {
    /// To be a worker of the process that started this one.
    Worker,
    /// To run a scenario.
    Run(Box<Options>),
}

/// Reads the command line; wrong usage ends the process with 2.
pub(crate) fn parse() -> Command {
    let (scenario, options) = match Arguments::parse().scenario {
        Commands::Worker => return Command::Worker,
        Commands::Connect(options) => (Scenario::Connect, options),
        Commands::Presence(options) => (Scenario::Presence, options),
        Commands::Fanout(options) => (Scenario::Fanout, options),
        Commands::Storm(options) => (Scenario::Storm, options),
    };
    Command::Run(Box::new(Options {
        scenario,
        ..options
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_percentiles_and_times() {
        let limit = parse_limit("p99.9<50ms").expect("a limit");
        assert_eq!(
            (limit.percentile, limit.below),
            (99.9, Duration::from_millis(50))
        );
        assert_eq!(parse_limit("max<1s").expect("a limit").percentile, 100.0);
        assert!(!limit.disturbed && parse_limit("disturbed:p50<1s").expect("a limit").disturbed);
        for wrong in ["p99", "p99<5", "q99<5ms", "p101<5ms", "p99<-5ms"] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_outage_is_a_start_and_a_length() {
        let outage = Outage {
            start: 2.5,
            length: 20.0,
        };
        assert_eq!(parse_outage("2.5:20"), Ok(outage));
        for wrong in ["3", "3:", ":3", "3-4", "3:x"] {
            assert!(parse_outage(wrong).is_err(), "{wrong}");
        }
    }
}
