//! The command line. It owns the options and their defaults; what they mean is `plan.rs`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::{
    compare::Compare,
    dialogue::Dialogue,
    edges::Edges,
    encoding::Encoding,
    plan::Scenario,
    remote::{self, Serve},
    scenario::{ScenarioError, ScenarioFile},
};

/// The secret of a standalone edge that was given none; it listens on loopback only.
pub(crate) const DEVELOPMENT_SECRET: &str = "online-status-development-secret-change-me";

/// Load and correctness for an online-status server.
#[derive(Debug, Parser)]
#[command(
    name = "online-status-bench",
    version,
    about,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    #[command(flatten)]
    Load(Box<Load>),
    /// Runs the load of a scenario file (TOML): its key `command` names one of the commands above, all
    /// others are options of that.
    Run {
        file: PathBuf,
        /// Read the file, print the command line that it stands for, and end.
        #[arg(long)]
        check: bool,
        /// Options that stand for those of the file.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<String>,
    },
    /// Compares reports that runs printed with --json; those with one --label are rounds of one side.
    Diff {
        #[arg(required = true, num_args = 2.., value_name = "REPORT.json")]
        reports: Vec<PathBuf>,
        /// Write the comparison as a page here (HTML, all in one file).
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    Compare(Compare),
    Worker(Serve),
    /// Starts as many edges as the sessions ask for, on this machine, and runs `presence` against them.
    Fleet(Box<Edges>),
}

#[derive(Debug, Subcommand)]
enum Load {
    /// Opens sessions, holds them idle, and reports what one costs the server.
    Connect(Options),
    /// Users come, go and change status on a schedule; every watcher is timed and checked.
    Presence(Options),
    /// One user changes status; all sessions watch it.
    Fanout(Options),
    /// Each session of a server of another kind sends messages that come back to it.
    Echo(Options),
    /// All sessions break at once and come back at once.
    Storm(Options),
}

impl Load {
    fn options(self) -> Options {
        let (scenario, options) = match self {
            Self::Connect(options) => (Scenario::Connect, options),
            Self::Presence(options) => (Scenario::Presence, options),
            Self::Fanout(options) => (Scenario::Fanout, options),
            Self::Echo(options) => (Scenario::Echo, options),
            Self::Storm(options) => (Scenario::Storm, options),
        };
        Options {
            scenario,
            ..options
        }
    }
}

/// The options of a run, as the command line gives them.
#[derive(Debug, Clone, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Options {
    /// Where the sessions connect, ws:// or wss://.
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
    /// The authorities to trust with wss://, in PEM [default: the system's].
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) ca: Option<PathBuf>,
    /// How messages are written.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) encoding: Encoding,
    /// The HS256 secret for tokens.
    #[arg(long, env = "JWT_SECRET", default_value = DEVELOPMENT_SECRET, hide_default_value = true, hide_env_values = true)]
    #[serde(skip)]
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
    /// How long the server lets changes wait for others (presence.flush), seconds: what it passes over in that
    /// time is conflated and not missed. 0 = it lets none wait.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) flush: f64,
    /// A time in which what deliveries travel over is away though no session is lost, seconds from
    /// the start of the measured part and for how long; may be given several times. What is passed
    /// over in it, and --outage-tolerance after it, is conflated and not missed.
    #[serde(rename = "outage-at")]
    #[arg(long = "outage-at", value_name = "START:LENGTH", value_parser = parse_outage)]
    pub(crate) outages: Vec<Outage>,
    /// Ping each session this often, seconds, and take one that does not answer within a second for
    /// lost until it does; 0 = do not. For runs in which servers are stopped for a while.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) probe: f64,
    /// New sessions a second while the sessions are opened.
    #[arg(long, default_value_t = 3_000.0)]
    pub(crate) connect_rate: f64,
    /// Worker processes [default: as many as the limit of open files asks for], or workers on other
    /// machines (`worker --listen`), HOST:PORT,….
    #[arg(long, value_name = "NUMBER|HOST:PORT,…")]
    pub(crate) workers: Option<Crew>,
    /// The authority of the certificates of workers on other machines, PEM [default: the system's].
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) worker_ca: Option<PathBuf>,
    /// The token of workers on other machines.
    #[arg(long, env = remote::TOKEN, hide_env_values = true)]
    #[serde(skip)]
    pub(crate) worker_token: Option<String>,
    /// A server's process, for CPU and memory; may be given several times [default: those that
    /// listen where users are sent, if they are ours].
    #[arg(long)]
    #[serde(skip)]
    pub(crate) pid: Vec<u32>,
    /// Chooses who watches whom.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Fail unless this holds, for example p99<50ms, or disturbed:max<10s for the deliveries that a
    /// lost session held up; may be given several times.
    #[arg(long = "assert", value_parser = parse_limit)]
    #[serde(rename = "assert")]
    pub(crate) limits: Vec<Limit>,
    /// Print one JSON object to standard output instead of the summary.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) json: bool,
    /// Write a page with plots of the run here (HTML, all in one file).
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) report: Option<PathBuf>,
    /// Write the latencies as files of HdrHistogram's plotter (.hgrm, in ms) into this folder.
    #[arg(long, value_name = "FOLDER")]
    #[serde(skip)]
    pub(crate) hgrm: Option<PathBuf>,
    /// What this run is called in its report and in comparisons, for example the build of the server.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) label: Option<String>,
    /// No progress on standard error.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) dialogue: Dialogue,
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) scenario: Scenario,
    /// Servers that were started for this run, instead of `url`.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) servers: Vec<String>,
    /// Open no more sessions when the machine has less memory than this left, bytes.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) keep_free: u64,
    /// Between the last session and the first change, seconds.
    #[arg(skip)]
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) hold: f64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Options {
    /// Those that shape the load and its judgement, by their names.
    pub(crate) fn named(&self) -> BTreeMap<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(named)) => named.into_iter().collect(),
            _ => BTreeMap::new(),
        }
    }
}

/// Who makes the load.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Crew {
    /// So many processes on this machine.
    Here(u32),
    /// Workers that listen at these places, HOST:PORT.
    There(Vec<String>),
}

impl std::str::FromStr for Crew {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Here(number));
        }
        let all: Vec<String> = text.split(',').map(str::to_owned).collect();
        let port = |at: &String| {
            let port = at
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_some()
        };
        match all.iter().all(port) {
            true => Ok(Self::There(all)),
            false => Err("it must be a number, or HOST:PORT[,HOST:PORT…]".into()),
        }
    }
}

impl Serialize for Crew {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Here(number) => serializer.serialize_u32(*number),
            Self::There(all) => serializer.serialize_str(&all.join(",")),
        }
    }
}

/// A declared outage of what deliveries travel over; both members in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outage {
    /// The beginning, counted from the start of the measured part.
    pub(crate) start: f64,
    pub(crate) length: f64,
}

impl Serialize for Outage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.start, self.length))
    }
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

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
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
    /// To be a worker of the process that started this one, or of other machines.
    Worker(Serve),
    /// To run a load against edges that are started for it.
    Fleet(Box<Edges>),
    /// To compare the reports of earlier runs, as text and, with `page`, as a page at that path.
    Diff {
        reports: Vec<PathBuf>,
        page: Option<PathBuf>,
    },
    /// To compare our edge with other servers.
    Compare(Compare),
    /// To run a scenario, which a file may have described.
    Run(Box<Options>, Option<ScenarioFile>),
    /// To say what a scenario file comes to.
    Show(ScenarioFile),
}

/// Reads the command line; wrong usage ends the process with 2.
pub(crate) fn parse() -> Result<Command, ScenarioError> {
    let program = Arguments::command().subcommand(settings::documents_command());
    let matches = program.clone().get_matches();
    if let Some(("documents", arguments)) = matches.subcommand() {
        settings::write_documents(&program, arguments);
    }
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (file, check, more) = match arguments.command {
        Commands::Load(load) => return Ok(Command::Run(Box::new(load.options()), None)),
        Commands::Worker(options) => return Ok(Command::Worker(options)),
        Commands::Fleet(options) => return Ok(Command::Fleet(options)),
        Commands::Compare(options) => return Ok(Command::Compare(options)),
        Commands::Diff { reports, report } => {
            return Ok(Command::Diff {
                reports,
                page: report,
            });
        }
        Commands::Run {
            file,
            check,
            options,
        } => (file, check, options),
    };
    let file = ScenarioFile::read(&file, &Arguments::command(), &more)?;
    let program = std::iter::once("online-status-bench");
    let words = program.chain(file.words.iter().map(String::as_str));
    let wrong = |error: clap::Error| file.locate(None, error.to_string());
    let matches = Arguments::command()
        .try_get_matches_from(words)
        .map_err(wrong)?;
    let load = Load::from_arg_matches(&matches).map_err(wrong)?;
    Ok(match check {
        true => Command::Show(file),
        false => Command::Run(Box::new(load.options()), Some(file)),
    })
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
