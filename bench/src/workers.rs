//! The worker processes: started, told what to do, listened to. Owns what passes between them, and
//! nothing of what it means.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    clock::now_us,
    link::{Away, News, Order, Results},
    plan::Plan,
    timeline::Timeline,
};

/// Time between two looks at the servers' processes.
const LOOK: Duration = Duration::from_secs(1);

/// A worker process failed; the run has no results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkersError {
    #[error("a worker cannot be started: {0}")]
    Start(io::Error),
    #[error("the plan cannot be written: {0}")]
    Plan(#[from] serde_json::Error),
    #[error("a worker does not take its orders: {0}")]
    Order(#[from] io::Error),
    #[error("a worker ended early")]
    Ended,
}

/// From now until the end that an interrupted run is given, so that all workers hear of it in time.
const NOTICE: u64 = 250_000;

/// What the thread of a run waits for.
enum Told {
    /// Which worker says what; `None` = nothing more.
    Worker(usize, Option<News>),
    /// SIGINT or SIGTERM.
    Interrupt,
}

/// How far the sessions came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    All,
    /// Not all within their time.
    Some,
    Interrupted,
}

/// The worker processes of a run, and the pipes to them.
pub(crate) struct Workers {
    children: Vec<(Child, ChildStdin)>,
    news: Receiver<Told>,
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

/// Passes a worker's lines on; `None` at their end.
fn listen(worker: usize, stdout: impl io::Read, sender: &Sender<Told>) {
    let news = BufReader::new(stdout).lines().map_while(|line| {
        let line = line.ok()?;
        serde_json::from_str(&line).ok()
    });
    for news in news.map(Some).chain([None]) {
        if sender.send(Told::Worker(worker, news)).is_err() {
            break;
        }
    }
}

/// Passes the first signal on; the second ends the process, and the workers with it.
fn listen_for_signals(sender: Sender<Told>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for (before, signal) in signals.forever().enumerate() {
            if before > 0 || sender.send(Told::Interrupt).is_err() {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(())
}

impl Workers {
    /// Starts the number of workers that the plan names.
    pub(crate) fn start(plan: &Plan) -> Result<Self, WorkersError> {
        let (sender, news) = mpsc::channel();
        let mut workers = Self {
            children: Vec::new(),
            news,
        };
        listen_for_signals(sender.clone()).map_err(WorkersError::Start)?;
        let program = std::env::current_exe().map_err(WorkersError::Start)?;
        for worker in 0..plan.workers {
            let mut child = Command::new(&program)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is for the parent, which has them end with their results.
                .process_group(0)
                .spawn()
                .map_err(WorkersError::Start)?;
            let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(WorkersError::Ended);
            };
            let plan = Plan {
                worker,
                ..plan.clone()
            };
            writeln!(stdin, "{}", serde_json::to_string(&plan)?)?;
            workers.children.push((child, stdin));
            let sender = sender.clone();
            std::thread::spawn(move || listen(worker as usize, stdout, &sender));
        }
        Ok(workers)
    }

    /// Gives every worker an order.
    pub(crate) fn order(&mut self, order: Order) -> Result<(), WorkersError> {
        self.tell_all(order, |_| true)
    }

    fn tell_all(&mut self, order: Order, to: impl Fn(usize) -> bool) -> Result<(), WorkersError> {
        let line = serde_json::to_string(&order)?;
        for (worker, (_, stdin)) in self.children.iter_mut().enumerate() {
            if to(worker) {
                writeln!(stdin, "{line}")?;
            }
        }
        Ok(())
    }

    /// Passes on what one worker says to those that still work.
    fn relay(&mut self, from: usize, away: Away, done: &[bool]) -> Result<(), WorkersError> {
        self.tell_all(Order::Away(away), |worker| worker != from && !done[worker])
    }

    /// Waits until all sessions are open, or `deadline`.
    pub(crate) fn until_ready(
        &mut self,
        bar: &ProgressBar,
        deadline: Instant,
    ) -> Result<Opened, WorkersError> {
        let mut waiting = self.children.len();
        let none_done = vec![false; waiting];
        while waiting > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok(Told::Interrupt) => return Ok(Opened::Interrupted),
                Ok(Told::Worker(_, Some(News::Ready))) => waiting -= 1,
                // Of one worker: the shares are alike.
                Ok(Told::Worker(_, Some(News::Progress { ready, .. }))) => {
                    bar.set_position(ready * self.children.len() as u64);
                }
                Ok(Told::Worker(from, Some(News::Away(away)))) => {
                    self.relay(from, away, &none_done)?;
                }
                Ok(Told::Worker(_, Some(News::Second(_)))) => {}
                Ok(Told::Worker(_, Some(News::Done(_)) | None))
                | Err(RecvTimeoutError::Disconnected) => {
                    return Err(WorkersError::Ended);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Opened::Some),
            }
        }
        Ok(Opened::All)
    }

    /// Waits for the results of all, and calls `look` about once a second meanwhile. An interrupt
    /// has the run end early, at the time that is told, µs.
    pub(crate) fn until_done(
        &mut self,
        bar: &ProgressBar,
        mut look: impl FnMut(),
    ) -> Result<(Results, Timeline, Option<u64>), WorkersError> {
        let (mut total, mut timeline) = (Results::default(), Timeline::default());
        let all = self.children.len();
        let mut done = vec![false; all];
        let mut interrupted = None;
        let mut next_look = Instant::now() + LOOK;
        bar.set_prefix("measuring");
        while done.contains(&false) {
            let left = next_look.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok(Told::Interrupt) => {
                    let at = now_us() + NOTICE;
                    interrupted = Some(at);
                    bar.set_prefix("ending");
                    self.tell_all(Order::End(at), |worker| !done[worker])?;
                }
                Ok(Told::Worker(from, Some(News::Done(results)))) => {
                    total.add(&results);
                    done[from] = true;
                }
                Ok(Told::Worker(
                    _,
                    Some(News::Progress {
                        ready,
                        delivered,
                        p99,
                    }),
                )) => {
                    bar.set_position(ready * all as u64);
                    let p99 = p99 as f64 / 1e3;
                    bar.set_message(format!("{delivered} delivered, p99 {p99:.2} ms"));
                }
                Ok(Told::Worker(_, Some(News::Second(second)))) => {
                    timeline.take(&second, all as u32);
                }
                Ok(Told::Worker(from, Some(News::Away(away)))) => {
                    self.relay(from, away, &done)?;
                }
                Ok(Told::Worker(_, Some(News::Ready))) | Err(RecvTimeoutError::Timeout) => {}
                // A worker that is done closes its output; one that is not has failed.
                Ok(Told::Worker(from, None)) if done[from] => {}
                Ok(Told::Worker(_, None)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(WorkersError::Ended);
                }
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK;
                look();
            }
        }
        Ok((total, timeline, interrupted))
    }
}
