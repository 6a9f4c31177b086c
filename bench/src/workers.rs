//! The worker processes: started, told what to do, listened to. Owns what passes between them, and
//! nothing of what it means.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    clock::now_us,
    link::{News, Order, Results},
    plan::Plan,
    remote::Remote,
    timeline::Timeline,
};

/// Time between two looks at the servers' processes.
const LOOK: Duration = Duration::from_secs(1);
/// From now until the end that an interrupted run is given, so that all workers hear of it in time.
const NOTICE: u64 = 250_000;
/// A worker that is not heard of for so long is given up: each tells of its state twice a second.
const SILENCE: Duration = Duration::from_secs(20);

/// The workers failed; the run has no results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkersError {
    #[error("a worker cannot be started: {0}")]
    Start(io::Error),
    #[error("the plan or an order cannot be written: {0}")]
    Plan(#[from] serde_json::Error),
    #[error("ended by a second signal, without a report")]
    Twice,
}

/// What the thread of a run waits for.
enum Told {
    /// Which worker says what; `None` = nothing more.
    Worker(usize, Option<News>),
    /// SIGINT or SIGTERM.
    Interrupt,
}

/// What there was to wait for.
enum Event {
    News(usize, News),
    /// The first SIGINT or SIGTERM, which ends the run with a report.
    Interrupt,
    /// A worker that had not told its results.
    Lost,
    Nothing,
}

/// How far the sessions came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    All,
    /// Not all within their time.
    Some,
    Interrupted,
    /// A worker was lost.
    Lost,
    /// There is no more memory for others.
    Memory,
}

/// What the measured part came to.
pub(crate) struct Outcome {
    /// Of the workers that told them.
    pub(crate) results: Results,
    pub(crate) timeline: Timeline,
    /// When a signal, or the loss of a worker, ended the run early, µs.
    pub(crate) ended: Option<u64>,
    /// The workers that were lost, with the reason.
    pub(crate) lost: Vec<String>,
}

/// The worker processes of a run, and the pipes to them.
pub(crate) struct Workers {
    crew: Vec<Member>,
    news: Receiver<Told>,
    interrupted: bool,
    lost: Vec<String>,
}

/// A worker that makes load, and what was heard of it.
struct Member {
    name: String,
    /// The process; `None` = it is on another machine, and ends when it is not listened to.
    child: Option<Child>,
    orders: Box<dyn Write>,
    heard: Instant,
    /// It told its results, or is lost.
    over: bool,
}

impl Drop for Workers {
    fn drop(&mut self) {
        let children = self.crew.iter_mut().filter_map(|m| m.child.as_mut());
        for child in children {
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

/// Passes two signals on; the third ends the process wherever it is.
fn listen_for_signals(sender: Sender<Told>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for (before, signal) in signals.forever().enumerate() {
            if before > 1 || sender.send(Told::Interrupt).is_err() {
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(())
}

impl Workers {
    /// Starts the number of workers that the plan names, or takes those on other machines.
    pub(crate) fn start(plan: &Plan, remote: Vec<Remote>) -> Result<Self, WorkersError> {
        let (sender, news) = mpsc::channel();
        let mut workers = Self {
            crew: Vec::new(),
            news,
            interrupted: false,
            lost: Vec::new(),
        };
        listen_for_signals(sender.clone()).map_err(WorkersError::Start)?;
        let program = std::env::current_exe().map_err(WorkersError::Start)?;
        for (worker, remote) in (0..).zip(remote) {
            let name = format!("{worker} ({})", remote.at);
            let plan = Plan {
                worker,
                clock: remote.clock,
                ..plan.clone()
            };
            let socket = remote.attach().map_err(WorkersError::Start)?;
            let listened = socket.try_clone().map_err(WorkersError::Start)?;
            workers.add(&plan, name, None, socket, listened, &sender)?;
        }
        for worker in workers.crew.len() as u32..plan.workers {
            let mut child = Command::new(&program)
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C is for the parent, which has them end with their results.
                .process_group(0)
                .spawn()
                .map_err(WorkersError::Start)?;
            let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(WorkersError::Start(io::ErrorKind::BrokenPipe.into()));
            };
            let plan = Plan {
                worker,
                ..plan.clone()
            };
            workers.add(
                &plan,
                worker.to_string(),
                Some(child),
                stdin,
                stdout,
                &sender,
            )?;
        }
        Ok(workers)
    }

    /// Gives a worker its plan, and listens to it.
    fn add(
        &mut self,
        plan: &Plan,
        name: String,
        child: Option<Child>,
        orders: impl Write + 'static,
        news: impl io::Read + Send + 'static,
        sender: &Sender<Told>,
    ) -> Result<(), WorkersError> {
        let mut member = Member {
            name,
            child,
            orders: Box::new(orders),
            heard: Instant::now(),
            over: false,
        };
        member.tell(&serde_json::to_string(plan)?);
        let (worker, sender) = (self.crew.len(), sender.clone());
        std::thread::spawn(move || listen(worker, news, &sender));
        self.crew.push(member);
        Ok(())
    }

    /// Gives every worker an order.
    pub(crate) fn order(&mut self, order: Order) -> Result<(), WorkersError> {
        self.tell_all(order, |_| true)
    }

    fn tell_all(&mut self, order: Order, to: impl Fn(usize) -> bool) -> Result<(), WorkersError> {
        let line = serde_json::to_string(&order)?;
        for (worker, member) in self.crew.iter_mut().enumerate() {
            if !member.over && to(worker) {
                member.tell(&line);
            }
        }
        Ok(())
    }

    /// Gives a worker up.
    fn lose(&mut self, worker: usize, why: &str) {
        let member = &mut self.crew[worker];
        member.over = true;
        self.lost.push(format!("worker {} {why}", member.name));
        if let Some(child) = &mut member.child {
            // One that stands still would be in the way of its servers.
            let _ = child.kill();
        }
    }

    /// Waits for the next that happens. What a worker tells for the others is passed on.
    fn wait(&mut self, at_most: Duration) -> Result<Event, WorkersError> {
        let waiting = self.news.try_recv();
        if waiting.is_err() {
            let silent = |member: &Member| !member.over && member.heard.elapsed() > SILENCE;
            if let Some(silent) = self.crew.iter().position(silent) {
                let seconds = SILENCE.as_secs();
                let why = format!(
                    "was not heard of for {seconds} s: it stands still, or the network to it does"
                );
                self.lose(silent, &why);
                return Ok(Event::Lost);
            }
        }
        let told = match waiting {
            Ok(told) => told,
            Err(_) => match self.news.recv_timeout(at_most) {
                Ok(told) => told,
                Err(_) => return Ok(Event::Nothing),
            },
        };
        match told {
            Told::Interrupt if self.interrupted => Err(WorkersError::Twice),
            Told::Interrupt => {
                self.interrupted = true;
                Ok(Event::Interrupt)
            }
            // One that told its results closes its output, and one that was given up may come to.
            Told::Worker(from, _) if self.crew[from].over => Ok(Event::Nothing),
            Told::Worker(from, None) => {
                self.lose(
                    from,
                    "ended early: its own output says why, or the connection to it was cut",
                );
                Ok(Event::Lost)
            }
            Told::Worker(from, Some(news)) => {
                self.crew[from].heard = Instant::now();
                match news {
                    News::Away(away) => {
                        self.tell_all(Order::Away(away), |worker| worker != from)?;
                        Ok(Event::Nothing)
                    }
                    news => Ok(Event::News(from, news)),
                }
            }
        }
    }

    /// Waits until all sessions are open, `deadline`, or there is not `enough` any more.
    pub(crate) fn until_ready(
        &mut self,
        bar: &ProgressBar,
        deadline: Instant,
        enough: impl Fn() -> bool,
    ) -> Result<Opened, WorkersError> {
        let mut waiting = self.crew.len();
        let mut next_look = Instant::now();
        while waiting > 0 {
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK;
                if !enough() {
                    return Ok(Opened::Memory);
                }
            }
            if Instant::now() >= deadline {
                return Ok(Opened::Some);
            }
            match self.wait(LOOK)? {
                Event::Interrupt => return Ok(Opened::Interrupted),
                Event::Lost => return Ok(Opened::Lost),
                Event::News(_, News::Ready) => waiting -= 1,
                // Of one worker: the shares are alike.
                Event::News(_, News::Progress { ready, .. }) => {
                    bar.set_position(ready * self.crew.len() as u64);
                }
                Event::News(..) | Event::Nothing => {}
            }
        }
        Ok(Opened::All)
    }

    /// Leaves the open sessions alone for so long; what ended that early, if anything did.
    pub(crate) fn rest(&mut self, length: Duration) -> Result<Opened, WorkersError> {
        let end = Instant::now() + length;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Opened::All);
            }
            match self.wait(left.min(LOOK))? {
                Event::Interrupt => return Ok(Opened::Interrupted),
                Event::Lost => return Ok(Opened::Lost),
                Event::News(..) | Event::Nothing => {}
            }
        }
    }

    /// Waits for the results of all, and calls `look` about once a second meanwhile. A signal, and the
    /// loss of a worker, have the run end early.
    pub(crate) fn until_done(
        mut self,
        bar: &ProgressBar,
        mut look: impl FnMut(),
    ) -> Result<Outcome, WorkersError> {
        let (mut results, mut timeline) = (Results::default(), Timeline::default());
        let all = self.crew.len();
        let mut ended = None;
        let mut next_look = Instant::now() + LOOK;
        bar.set_prefix("measuring");
        while self.crew.iter().any(|member| !member.over) {
            let left = next_look.saturating_duration_since(Instant::now());
            match self.wait(left)? {
                Event::Interrupt | Event::Lost if ended.is_none() => {
                    let at = now_us() + NOTICE;
                    ended = Some(at);
                    bar.set_prefix("ending");
                    self.tell_all(Order::End(at), |_| true)?;
                }
                Event::News(from, News::Done(told)) => {
                    results.add(&told);
                    self.crew[from].over = true;
                }
                Event::News(
                    _,
                    News::Progress {
                        ready,
                        delivered,
                        p99,
                    },
                ) => {
                    bar.set_position(ready * all as u64);
                    let p99 = p99 as f64 / 1e3;
                    bar.set_message(format!("{delivered} delivered, p99 {p99:.2} ms"));
                }
                Event::News(_, News::Second(second)) => timeline.take(&second, all as u32),
                Event::News(..) | Event::Interrupt | Event::Lost | Event::Nothing => {}
            }
            if Instant::now() >= next_look {
                next_look = Instant::now() + LOOK;
                look();
            }
        }
        Ok(Outcome {
            results,
            timeline,
            ended,
            lost: std::mem::take(&mut self.lost),
        })
    }
}

impl Member {
    fn tell(&mut self, line: &str) {
        // One that cannot be written to has ended: that it has no more to tell says so.
        let _ = writeln!(self.orders, "{line}").and_then(|()| self.orders.flush());
    }
}
