//! One run from the outside: plans it, has the workers carry it out, looks at the servers, and puts
//! the results together.

use std::{
    hash::{BuildHasher, RandomState},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    address::{Address, AddressError, HTTP, WEBSOCKET},
    cli::{Crew, Options, Outage},
    clock::now_us,
    dialogue::{Dialogue, Template},
    fleet::Fleet,
    link::Order,
    machine::{Machine, now_ms},
    output::Output,
    plan::{Entrance, Plan, Scenario},
    preflight,
    remote::{Remote, RemoteError},
    report::{Report, Spans},
    server,
    tls::{TlsError, Trust},
    truth::Span,
    workers::{Opened, Outcome, Workers},
};

/// Open files that a worker needs besides its connections.
pub(crate) const OTHER_FILES: u64 = 100;
/// How long after the planned end of the ramp the sessions may come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest part of a run, seconds.
const MAX_SPAN: f64 = 7.0 * 86_400.0;
/// Between the last session and the start, so that both sides are at rest.
const SETTLE: Duration = Duration::from_millis(1_500);
/// From the order to begin the measured part to its begin: within that time every worker has to have it.
const LEAD: Duration = Duration::from_secs(1);

/// Why a run has no results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("--{0}: {1}")]
    Address(&'static str, AddressError),
    #[error(
        "--sessions {0} need {1} workers with this machine's limit of {2} open files each: leave \
         --workers out, or raise the limit (ulimit -Hn)"
    )]
    Files(u32, u64, u64),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("--{0} {1}: it must be a number above 0")]
    Zero(&'static str, f64),
    #[error("--{0} {1}: it must be 0 to {MAX_SPAN} seconds")]
    Span(&'static str, f64),
    #[error("--{0}: {1}")]
    Dialogue(&'static str, &'static str),
}

impl RunError {
    /// The option that it is about.
    pub(crate) fn option(&self) -> Option<&'static str> {
        match self {
            Self::Address(option, _)
            | Self::Zero(option, _)
            | Self::Span(option, _)
            | Self::Dialogue(option, _) => Some(option),
            Self::Files(..) => Some("sessions"),
            Self::Tls(_) => Some("ca"),
        }
    }
}

/// Runs a scenario and prints its report; whether all checks passed.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let plan = plan(options)?;
    let output = Output::prepare(options)?;
    preflight::check(&plan)?;
    let remote = distant(options, &plan)?;
    let clocks = remote.iter().map(Remote::clock).collect();
    let machine = Machine::here();
    let mut fleet = Fleet::find(&plan, &options.pid)?;
    let bar = bar(options, &plan);

    let started = Instant::now();
    let mut workers = Workers::start(&plan, remote)?;
    let ramp = Duration::from_secs_f64(f64::from(plan.holders()) / plan.connect_rate);
    let mut opened = workers.until_ready(&bar, started + ramp + PATIENCE, || {
        options.keep_free == 0 || server::available() > options.keep_free
    })?;
    let ramp = started.elapsed().as_secs_f64();
    if opened == Opened::Interrupted {
        fleet.at_rest();
    } else {
        let rested = workers.rest(SETTLE)?;
        fleet.at_rest();
        if opened == Opened::All && rested == Opened::All && options.hold > 0.0 {
            bar.set_prefix("holding");
            opened = workers.rest(Duration::from_secs_f64(options.hold))?;
            fleet.at_rest();
        } else if opened == Opened::All {
            opened = rested;
        }
    }

    let go = now_us() + LEAD.as_micros() as u64;
    if opened == Opened::All {
        workers.order(Order::Go(go))?;
        thread::sleep(LEAD);
        if !options.quiet {
            // For whoever has something to do to the servers in the measured part.
            bar.suspend(|| eprintln!("the measured part begins"));
        }
    } else {
        workers.order(Order::Stop)?;
    }
    let begun = Instant::now();
    let Outcome {
        results,
        timeline,
        ended,
        lost,
    } = workers.until_done(&bar, || fleet.look())?;
    let measured = begun.elapsed().as_secs_f64();
    let open = match opened {
        Opened::All => plan.holders(),
        _ => results.counts.ready as u32,
    };
    let cost = fleet.cost(open, &results, measured);
    bar.finish_and_clear();

    let interrupted = match opened {
        Opened::Interrupted | Opened::Lost => Some(0.0),
        _ => ended.map(|at| at.saturating_sub(go) as f64 / 1e6),
    };
    let spans = Spans {
        ramp,
        measured,
        interrupted,
        clocks,
        lost,
        no_memory: (opened == Opened::Memory).then_some(results.counts.ready),
    };
    let report = Report::new(
        &plan,
        &results,
        &spans,
        timeline.rows(),
        cost,
        options,
        machine,
    );
    output.write(&report, &results)?;
    Ok(report.failures.is_empty())
}

/// The workers on other machines, ready for their plans.
fn distant(options: &Options, plan: &Plan) -> Result<Vec<Remote>, RemoteError> {
    let Some(Crew::There(all)) = &options.workers else {
        return Ok(Vec::new());
    };
    let token = options
        .worker_token
        .as_deref()
        .ok_or(RemoteError::NoToken)?;
    let trust = Trust::read(options.worker_ca.as_deref()).map_err(RemoteError::Trust)?;
    let share = u64::from(plan.users().div_ceil(plan.workers));
    let connect = |at: &String| {
        let remote = Remote::connect(at, token, &trust)?;
        remote.bears(share)?;
        Ok(remote)
    };
    all.iter().map(connect).collect()
}

/// The entrance that the options ask for.
fn entrance(options: &Options) -> Result<Entrance, RunError> {
    let parse = |option, url: &str, schemes| {
        Address::parse(url, schemes).map_err(|error| RunError::Address(option, error))
    };
    if !options.servers.is_empty() {
        let all = options
            .servers
            .iter()
            .map(|url| parse("url", url, WEBSOCKET));
        return Ok(Entrance::Servers(all.collect::<Result<_, _>>()?));
    }
    if options.coordinator.is_empty() {
        return Ok(Entrance::Server(parse("url", &options.url, WEBSOCKET)?));
    }
    let all = options.coordinator.iter();
    let all = all.map(|url| parse("coordinator", url, HTTP));
    Ok(Entrance::Coordinators(all.collect::<Result<_, _>>()?))
}

/// What is said to a server of another kind; `None` = it is one of ours.
fn dialogue(options: &Options) -> Result<Option<Dialogue>, RunError> {
    let dialogue = &options.dialogue;
    let scenario = options.scenario;
    if *dialogue == Dialogue::default() && scenario != Scenario::Echo {
        return Ok(None);
    }
    let wrong = |option, what| Err(RunError::Dialogue(option, what));
    let changing = !matches!(scenario, Scenario::Connect | Scenario::Storm);
    let marked = (dialogue.message.as_ref()).is_some_and(Template::has_marker);
    let publishers = scenario != Scenario::Fanout && dialogue.publishers != 1;
    match () {
        () if scenario == Scenario::Storm => wrong("open", "storm is for online-status servers"),
        () if changing && !marked => wrong(
            "message",
            "it must be the text that is sent for a change to a server of another kind, with \
             ${marker} in it; leave all options for such servers out to test an online-status server",
        ),
        () if publishers => wrong("publishers", "only fanout has publishers"),
        () if !options.coordinator.is_empty() => wrong(
            "coordinator",
            "a server of another kind has none; name it with --url",
        ),
        () if options.probe > 0.0 => wrong("probe", "it is for online-status servers"),
        () if options.hold_after > 0.0 => wrong("hold-after", "it is for online-status servers"),
        () if !options.outages.is_empty() => wrong("outage-at", "it is for online-status servers"),
        () => Ok(Some(dialogue.clone())),
    }
}

fn plan(options: &Options) -> Result<Plan, RunError> {
    let scenario = options.scenario;
    let rate = options.rate.unwrap_or(if scenario == Scenario::Fanout {
        10.0
    } else {
        1_000.0
    });
    let here = match &options.workers {
        Some(Crew::Here(number)) => Some(*number),
        _ => None,
    };
    let positive = [
        ("sessions", f64::from(options.sessions)),
        ("rate", rate),
        ("connect-rate", options.connect_rate),
        ("workers", f64::from(here.unwrap_or(1))),
    ];
    let is_good = |value: f64| value > 0.0 && value.is_finite();
    if let Some((name, value)) = positive.into_iter().find(|(_, value)| !is_good(*value)) {
        return Err(RunError::Zero(name, value));
    }
    let spans = [
        ("duration", options.duration),
        ("drain", options.drain),
        ("hold-after", options.hold_after),
        ("grace", options.grace),
        ("outage-tolerance", options.outage_tolerance),
        ("flush", options.flush),
        ("probe", options.probe),
        ("hold", options.hold),
    ];
    let sane = |span: f64| (0.0..=MAX_SPAN).contains(&span);
    let outages = options.outages.iter();
    let outages =
        outages.flat_map(|outage| [outage.start, outage.length].map(|s| ("outage-at", s)));
    if let Some((name, span)) = spans.into_iter().chain(outages).find(|(_, s)| !sane(*s)) {
        return Err(RunError::Span(name, span));
    }
    let dialogue = dialogue(options)?;
    let changing = !matches!(scenario, Scenario::Connect | Scenario::Storm);
    let (move_every, movers) = match scenario {
        Scenario::Presence if options.moves > 0 && dialogue.is_none() => {
            let every = 100 / options.moves;
            // So many that each has two seconds between its changes.
            (every, (rate / every as f64 * 2.0).ceil() as u32 + 1)
        }
        _ => (0, 0),
    };
    let watch = options.watch.unwrap_or(match scenario {
        Scenario::Connect => 0,
        Scenario::Fanout => options.dialogue.publishers,
        Scenario::Echo => 1,
        Scenario::Presence | Scenario::Storm => 20,
    });
    let mut plan = Plan {
        scenario,
        entrance: entrance(options)?,
        dialogue,
        secret: options.secret.clone(),
        encoding: options.encoding,
        trust: Trust::read(options.ca.as_deref())?,
        // Two runs may begin within a millisecond.
        prefix: format!("bench-{:011x}", RandomState::new().hash_one(now_ms()) >> 20),
        seed: options.seed,
        sessions: options.sessions,
        watch,
        movers,
        move_every,
        changes: if changing {
            (rate * options.duration) as u64
        } else {
            0
        },
        rate,
        hold: if scenario == Scenario::Connect {
            options.duration
        } else {
            0.0
        },
        hold_after: options.hold_after,
        drain: if scenario == Scenario::Storm {
            options.drain.max(60.0)
        } else {
            options.drain
        },
        grace: micros(options.grace),
        tolerance: micros(options.outage_tolerance),
        flush: micros(options.flush),
        outages: spans_of(&options.outages),
        probe: micros(options.probe),
        connect_rate: options.connect_rate,
        workers: 1,
        clock: 0,
        distant: false,
        source: 1 + (std::process::id() % 254) as u8,
        worker: 0,
    };
    let files = files();
    let needed = u64::from(plan.users()).div_ceil(files.saturating_sub(OTHER_FILES).max(1));
    plan.workers = match &options.workers {
        Some(Crew::There(all)) => all.len() as u32,
        _ => here.unwrap_or(needed as u32),
    };
    plan.distant = matches!(options.workers, Some(Crew::There(_)));
    if u64::from(plan.workers) < needed && !plan.distant {
        return Err(RunError::Files(options.sessions, needed, files));
    }
    Ok(plan)
}

/// How many files a worker may open; raises the limit as far as it goes.
pub(crate) fn files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(1 << 20);
    let raised = Rlimit {
        current: Some(maximum),
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => limit.current.unwrap_or(maximum),
    }
}

fn spans_of(outages: &[Outage]) -> Vec<Span> {
    let span = |outage: &Outage| Span {
        from: micros(outage.start),
        until: micros(outage.start + outage.length),
    };
    outages.iter().map(span).collect()
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6) as u64
}

fn bar(options: &Options, plan: &Plan) -> ProgressBar {
    let target = if options.quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let bar = ProgressBar::with_draw_target(Some(u64::from(plan.holders())), target);
    let style = ProgressStyle::with_template("{prefix:<9} [{bar:30}] {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix("sessions");
    bar
}
