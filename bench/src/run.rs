//! One run from the outside: plans it, starts the workers, gives the orders, looks at the server,
//! and puts the results together.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, ToSocketAddrs},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cli::Options,
    clock::now_us,
    link::{News, Order, Results},
    plan::{Plan, Scenario},
    report::{Cost, Report, Spans},
    server::{self, Sample},
};

/// Open files that a worker needs besides its connections.
const OTHER_FILES: u64 = 100;
/// How long after the planned end of the ramp the sessions may come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between the last session and the start, so that both sides are at rest.
const SETTLE: Duration = Duration::from_millis(1_500);

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("--url {0:?}: expected ws://host:port/path")]
    Url(String),
    #[error("--url: {0} has no address: {1}")]
    Address(String, io::Error),
    #[error("a worker ended early")]
    Worker,
    #[error("--sessions {0} need {1} workers with this machine's limit of {2} open files each")]
    Files(u32, u64, u64),
    #[error("--{0} must be more than 0")]
    Zero(&'static str),
}

struct Workers {
    children: Vec<(Child, ChildStdin)>,
    news: Receiver<Option<News>>,
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // It ended already, or has nothing to lose.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a scenario and prints its report; whether all checks passed.
pub(crate) fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let plan = plan(options)?;
    let pid = options.pid.or_else(|| server::listener(plan.address));
    let look = || pid.and_then(server::sample);
    let bar = bar(options, &plan);

    let before = look();
    let started = Instant::now();
    let mut workers = start(&plan)?;
    let ramp = Duration::from_secs_f64(f64::from(plan.holders()) / plan.connect_rate);
    let ready = workers.until_ready(&bar, started + ramp + PATIENCE)?;
    let ramp = started.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);

    let at_rest = look();
    let begun = Instant::now();
    let order = if ready {
        Order::Go(now_us() + 100_000)
    } else {
        Order::Stop
    };
    workers.order(order)?;
    let results = workers.until_done(&bar)?;
    let measured = begun.elapsed().as_secs_f64();
    let end = look();
    bar.finish_and_clear();
    drop(workers);

    let looks = [before, at_rest, at_rest, end].map(Option::<Sample>::unwrap_or_default);
    let delivered = results.counts.delivered;
    let cost = end.map(|_| Cost::of(looks, plan.holders(), delivered, measured));
    let spans = Spans { ramp, measured };
    let report = Report::new(&plan, &results, spans, cost, &options.limits);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(report.failures.is_empty())
}

fn plan(options: &Options) -> Result<Plan, RunError> {
    let (host, path, address) = target(&options.url)?;
    let scenario = options.scenario;
    let rate = options.rate.unwrap_or(if scenario == Scenario::Fanout {
        10.0
    } else {
        1_000.0
    });
    let positive = [
        ("sessions", f64::from(options.sessions)),
        ("rate", rate),
        ("connect-rate", options.connect_rate),
        ("workers", f64::from(options.workers.unwrap_or(1))),
    ];
    if let Some((name, _)) = positive.iter().find(|(_, value)| *value <= 0.0) {
        return Err(RunError::Zero(name));
    }
    let changing = matches!(scenario, Scenario::Presence | Scenario::Fanout);
    let (move_every, movers) = match scenario {
        Scenario::Presence if options.moves > 0 => {
            let every = 100 / options.moves;
            // So many that each has two seconds between its changes.
            (every, (rate / every as f64 * 2.0).ceil() as u32 + 1)
        }
        _ => (0, 0),
    };
    let watch = options.watch.unwrap_or(match scenario {
        Scenario::Connect => 0,
        Scenario::Fanout => 1,
        Scenario::Presence | Scenario::Storm => 20,
    });
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut plan = Plan {
        scenario,
        address,
        host,
        path,
        secret: options.secret.clone(),
        prefix: format!("bench-{:x}", now.as_millis()),
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
        drain: if scenario == Scenario::Storm {
            options.drain.max(60.0)
        } else {
            options.drain
        },
        connect_rate: options.connect_rate,
        workers: 1,
        worker: 0,
    };
    let files = files();
    let needed = u64::from(plan.users()).div_ceil(files.saturating_sub(OTHER_FILES).max(1));
    plan.workers = options.workers.unwrap_or(needed as u32);
    if u64::from(plan.workers) < needed {
        return Err(RunError::Files(options.sessions, needed, files));
    }
    Ok(plan)
}

/// How many files a worker may open; raises the limit as far as it goes.
fn files() -> u64 {
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

fn target(url: &str) -> Result<(String, String, SocketAddr), RunError> {
    let wrong = || RunError::Url(url.into());
    let rest = url.strip_prefix("ws://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').ok_or_else(wrong)?;
    let with_port = if host.contains(':') {
        host.into()
    } else {
        format!("{host}:80")
    };
    let mut addresses = with_port
        .to_socket_addrs()
        .map_err(|error| RunError::Address(host.into(), error))?;
    Ok((
        host.into(),
        format!("/{path}"),
        addresses.next().ok_or_else(wrong)?,
    ))
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

fn start(plan: &Plan) -> Result<Workers, Box<dyn std::error::Error>> {
    let (sender, news) = mpsc::channel();
    let mut workers = Workers {
        children: Vec::new(),
        news,
    };
    for worker in 0..plan.workers {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(RunError::Worker.into());
        };
        writeln!(
            stdin,
            "{}",
            serde_json::to_string(&Plan {
                worker,
                ..plan.clone()
            })?
        )?;
        workers.children.push((child, stdin));
        let sender = sender.clone();
        std::thread::spawn(move || listen(stdout, &sender));
    }
    Ok(workers)
}

/// Passes a worker's lines on; `None` at their end.
fn listen(stdout: impl io::Read, sender: &Sender<Option<News>>) {
    let news = BufReader::new(stdout).lines().map_while(|line| {
        let line = line.ok()?;
        serde_json::from_str(&line).ok()
    });
    for news in news.map(Some).chain([None]) {
        if sender.send(news).is_err() {
            break;
        }
    }
}

impl Workers {
    fn order(&mut self, order: Order) -> io::Result<()> {
        for (_, stdin) in &mut self.children {
            writeln!(stdin, "{}", serde_json::to_string(&order)?)?;
        }
        Ok(())
    }

    /// Waits until all sessions are open; `false` when they are not by `deadline`.
    fn until_ready(&mut self, bar: &ProgressBar, deadline: Instant) -> Result<bool, RunError> {
        let mut waiting = self.children.len();
        while waiting > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok(Some(News::Ready)) => waiting -= 1,
                // Of one worker: the shares are alike.
                Ok(Some(News::Progress { ready, .. })) => {
                    bar.set_position(ready * self.children.len() as u64);
                }
                Ok(Some(News::Done(_)) | None) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(RunError::Worker);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn until_done(&mut self, bar: &ProgressBar) -> Result<Results, RunError> {
        let mut total = Results::default();
        let mut waiting = self.children.len();
        bar.set_prefix("measuring");
        while waiting > 0 {
            match self.news.recv() {
                Ok(Some(News::Done(results))) => {
                    total.add(&results);
                    waiting -= 1;
                }
                Ok(Some(News::Progress {
                    ready,
                    delivered,
                    p99,
                })) => {
                    bar.set_position(ready * self.children.len() as u64);
                    let p99 = p99 as f64 / 1e3;
                    bar.set_message(format!("{delivered} delivered, p99 {p99:.2} ms"));
                }
                Ok(Some(News::Ready)) => {}
                // A worker that is done closes its output; one that is not has failed.
                Ok(None) if waiting < self.children.len() => {}
                Ok(None) | Err(_) => return Err(RunError::Worker),
            }
        }
        Ok(total)
    }
}
