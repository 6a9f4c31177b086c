//! Between the state machine and the world: it keeps the clocks, runs connections and questions as
//! tasks, and hands changes to the application's watches. It decides nothing.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    SinkExt, StreamExt,
    future::{Either, select},
};
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    task::{JoinError, JoinHandle},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    machine::{End, Input, LinkId, Machine, NoToken, Now, Output, Settings, Ticket},
    transport::{Dialer, Stream},
    types::{Problem, QueryError, Record, SetError, State},
    watch::Watchers,
};

/// Problems that wait for the application; older ones are lost to it, and counted.
const PROBLEMS: usize = 64;
/// Messages that wait for their connection. The machine has fewer under way: it waits for answers.
const COMMANDS: usize = 256;

pub(crate) type TokenFunction =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, NoToken>> + Send>> + Send + Sync>;

/// The state that all handles of a client share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
    started: Instant,
    pub(crate) state: watch::Sender<State>,
    pub(crate) problems: broadcast::Sender<Problem>,
    finished: watch::Sender<bool>,
}

pub(crate) struct Inner {
    pub(crate) machine: Machine,
    pub(crate) watchers: Watchers,
    /// Who waits for what became of a mode or text; the machine has few of them at a time.
    pub(crate) sets: HashMap<Ticket, oneshot::Sender<Result<(), SetError>>>,
    /// Who waits for the answer to a question.
    pub(crate) queries: HashMap<Ticket, oneshot::Sender<Result<Vec<Record>, QueryError>>>,
    next_ticket: Ticket,
    /// What the machine wants done, in the order it asked for it.
    todo: VecDeque<Output>,
    wakers: Vec<Waker>,
}

impl Shared {
    /// A client that runs as tasks of the current runtime.
    pub(crate) fn start(settings: Settings, dialer: Dialer, token: TokenFunction) -> Arc<Self> {
        let started = Instant::now();
        let machine = Machine::new(settings, Box::new(random), now(started));
        let shared = Arc::new(Self {
            inner: Mutex::new(Inner {
                machine,
                watchers: Watchers::default(),
                sets: HashMap::new(),
                queries: HashMap::new(),
                next_ticket: 0,
                todo: VecDeque::new(),
                wakers: Vec::new(),
            }),
            changed: Notify::new(),
            started,
            state: watch::Sender::new(State::Disconnected),
            problems: broadcast::Sender::new(PROBLEMS),
            finished: watch::Sender::new(false),
        });
        shared.input(Input::Connect);
        let driver = Driver {
            shared: shared.clone(),
            dialer,
            token: Arc::new(token),
            links: HashMap::new(),
        };
        tokio::spawn(driver.run());
        shared
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by a panic: the machine does not call foreign code.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn input(&self, input: Input) {
        self.with(|inner, now| inner.machine.handle(now, input));
    }

    /// Does something with the machine, and then what it asks for.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Inner, Now) -> T) -> T {
        let mut inner = self.lock();
        let result = act(&mut inner, now(self.started));
        self.hand_out(&mut inner);
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        for waker in wakers {
            waker.wake();
        }
        self.changed.notify_one();
        result
    }

    /// Looks at what the application has to know, which asks nothing of the driver.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.lock())
    }

    /// What concerns the application goes to it, the rest to the driver.
    fn hand_out(&self, inner: &mut Inner) {
        while let Some(output) = inner.machine.output() {
            match output {
                Output::State(state) => {
                    if matches!(state, State::Failed(_) | State::Disconnected) {
                        inner.watchers.end(&mut inner.wakers);
                    }
                    self.state.send_replace(state);
                }
                Output::Change(record) => inner.watchers.change(&record, &mut inner.wakers),
                // Nobody may listen.
                Output::Problem(problem) => _ = self.problems.send(problem),
                // Who asked may not wait.
                Output::Set { ticket, result } => {
                    inner.sets.remove(&ticket).map(|waits| waits.send(result));
                }
                Output::Result { ticket, result } => {
                    inner
                        .queries
                        .remove(&ticket)
                        .map(|waits| waits.send(result));
                }
                other => inner.todo.push_back(other),
            }
        }
    }

    /// When the client has ended and its connections are gone.
    pub(crate) async fn finished(&self) {
        // The sender is here, so that it is not gone.
        let _ = self
            .finished
            .subscribe()
            .wait_for(|finished| *finished)
            .await;
    }
}

impl Inner {
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }
}

fn now(started: Instant) -> Now {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Now {
        steady: started.elapsed().as_millis() as u64,
        wall: wall.as_millis() as u64,
    }
}

fn random() -> f64 {
    // Without a source of randomness every client would wait as long: the middle is as good as any.
    getrandom::u64().map_or(0.5, |bits| (bits >> 11) as f64 / (1_u64 << 53) as f64)
}

enum Command {
    Send(String),
    Close(u16),
}

struct Driver {
    shared: Arc<Shared>,
    dialer: Dialer,
    token: Arc<TokenFunction>,
    links: HashMap<LinkId, (mpsc::Sender<Command>, JoinHandle<()>)>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let (todo, deadline, over) = self.next();
            for output in todo {
                self.perform(output);
            }
            self.links.retain(|_, (_, task)| !task.is_finished());
            if over {
                break;
            }
            let changed = self.shared.changed.notified();
            let Some(deadline) = deadline else {
                changed.await;
                continue;
            };
            // Rounded down, a moment is over when its millisecond is.
            let deadline = self.shared.started + Duration::from_millis(deadline);
            if deadline <= Instant::now() {
                self.shared.input(Input::Tick);
                continue;
            }
            if tokio::time::timeout_at(deadline.into(), changed)
                .await
                .is_err()
            {
                self.shared.input(Input::Tick);
            }
        }
        for (_, task) in self.links.values() {
            task.abort();
        }
        self.shared.finished.send_replace(true);
    }

    fn next(&self) -> (VecDeque<Output>, Option<u64>, bool) {
        let mut inner = self.shared.lock();
        let todo = std::mem::take(&mut inner.todo);
        (todo, inner.machine.deadline(), inner.machine.is_over())
    }

    fn perform(&mut self, output: Output) {
        let shared = self.shared.clone();
        match output {
            Output::FetchToken { request } => {
                let token = self.token.clone();
                // A task of its own: a function that panics gives no token, and ends nothing.
                let asked = tokio::spawn(async move { token().await });
                tokio::spawn(async move {
                    let failed = |error: JoinError| NoToken::Failed(error.to_string());
                    let result = asked.await.map_err(failed).flatten();
                    shared.input(Input::Token { request, result });
                });
            }
            Output::FetchRoute { request, url } => {
                let dialer = self.dialer.clone();
                tokio::spawn(async move {
                    let result = dialer.route(&url).await;
                    shared.input(Input::Route { request, result });
                });
            }
            Output::Open { link, address } => {
                let (sender, receiver) = mpsc::channel(COMMANDS);
                let dialer = self.dialer.clone();
                let task = tokio::spawn(async move {
                    let end = match dialer.socket(&address).await {
                        Ok(socket) => {
                            shared.input(Input::Opened(link));
                            run(&shared, link, socket, receiver).await
                        }
                        Err(end) => end,
                    };
                    shared.input(Input::Ended(link, end));
                });
                self.links.insert(link, (sender, task));
            }
            Output::Send { link, text } => self.command(link, Command::Send(text)),
            Output::Close { link, code } => self.command(link, Command::Close(code)),
            Output::Abort { link } => {
                if let Some((_, task)) = self.links.remove(&link) {
                    task.abort();
                }
            }
            // The application's, which has them already.
            Output::State(_)
            | Output::Change(_)
            | Output::Problem(_)
            | Output::Set { .. }
            | Output::Result { .. } => {}
        }
    }

    fn command(&mut self, link: LinkId, command: Command) {
        let Some((commands, task)) = self.links.get(&link) else {
            return;
        };
        // One that does not take what is sent is as good as broken; one that is gone says so itself.
        if let Err(mpsc::error::TrySendError::Full(_)) = commands.try_send(command) {
            task.abort();
            let message = format!("{COMMANDS} messages could not be sent");
            let end = End::Closed {
                code: 1006,
                message,
            };
            self.links.remove(&link);
            self.shared.input(Input::Ended(link, end));
        }
    }
}

/// Moves bytes and messages until the connection ends.
async fn run(
    shared: &Shared,
    link: LinkId,
    mut socket: WebSocketStream<Stream>,
    mut commands: mpsc::Receiver<Command>,
) -> End {
    let broken = |message: String| End::Closed {
        code: 1006,
        message,
    };
    loop {
        // Both may be dropped before they are done without losing anything.
        let event = match select(socket.next(), pin!(commands.recv())).await {
            Either::Left((message, _)) => Either::Left(message),
            Either::Right((command, _)) => Either::Right(command),
        };
        let sent = match event {
            Either::Left(None) => return broken("it ended without a close".into()),
            Either::Left(Some(Err(error))) => return broken(error.to_string()),
            Either::Left(Some(Ok(Message::Text(text)))) => {
                shared.input(Input::Message(link, text.as_str().to_owned()));
                Ok(())
            }
            Either::Left(Some(Ok(Message::Close(frame)))) => {
                // The answer goes out with the next read; nobody waits for it.
                let _ = tokio::time::timeout(Duration::from_secs(1), socket.next()).await;
                return match frame {
                    Some(frame) => End::Closed {
                        code: frame.code.into(),
                        message: frame.reason.as_str().to_owned(),
                    },
                    None => End::Closed {
                        code: 1005,
                        message: String::new(),
                    },
                };
            }
            Either::Left(Some(Ok(_))) => {
                shared.input(Input::Heard(link));
                Ok(())
            }
            // The driver is gone.
            Either::Right(None) => return broken("it was dropped".into()),
            Either::Right(Some(Command::Send(text))) => socket.send(Message::text(text)).await,
            Either::Right(Some(Command::Close(code))) => {
                let frame = CloseFrame {
                    code: CloseCode::from(code),
                    reason: "".into(),
                };
                socket.send(Message::Close(Some(frame))).await
            }
        };
        if let Err(error) = sent {
            return broken(error.to_string());
        }
    }
}
