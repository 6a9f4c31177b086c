//! The client's behaviour without a socket, clock or random source: inputs with the time they came
//! at go in, outputs are pulled out. It owns what is wanted and what the server knows of it.
//!
//! Contract: call [`Machine::handle`] with times that do not go back, then do what
//! [`Machine::output`] returns until there is no more, and call `handle` with [`Input::Tick`] no
//! later than [`Machine::deadline`].

mod effort;
mod link;
mod profile;
mod queries;
mod session;
mod tokens;
mod watches;

use std::{collections::VecDeque, sync::Arc};

use crate::types::{Activity, Mode, Problem, QueryError, Reason, Record, Session, SetError, State};
use effort::Effort;
use link::Link;
use profile::Profile;
use queries::Queries;
use tokens::Tokens;
use watches::Watches;

/// How often the clocks are compared, to notice that the machine slept. ms.
const CLOCK_CHECK: u64 = 10_000;
/// A timer that is late by so much, or a clock that jumped so far, means sleep. ms.
const JUMP: u64 = 5_000;

/// The time of an input, by both clocks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    /// Of a clock that nobody sets; it may stand still while the machine sleeps. ms.
    pub(crate) steady: u64,
    /// The wall clock, ms since 1970.
    pub(crate) wall: u64,
}

/// How the client finds the server: by asking for the route, or at a fixed address.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The URLs of coordinators or edges, which are asked in turn for the user's address.
    Routes(Vec<String>),
    /// The whole WebSocket URL of one server.
    Address(String),
}

/// What the application decided when it built the client.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    /// How often the client speaks at least, ms.
    pub(crate) heartbeat: u64,
    /// Reports `away` when nobody was active for so long. ms.
    pub(crate) auto_away: Option<u64>,
    /// Bounds of the delay before a new attempt: of the first one, and of any. ms.
    pub(crate) min_delay: u64,
    pub(crate) max_delay: u64,
    /// How long changes wait for others to share a message. ms.
    pub(crate) batch: u64,
}

/// Names a call of the application that waits for its answer.
pub(crate) type Ticket = u64;

/// The number of a connection, used once in a client's life.
pub(crate) type LinkId = u64;

/// Why the application gave no token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoToken {
    /// The token function failed; it is asked again later.
    Failed(String),
    /// The application must not connect; the text says why.
    NotAllowed(String),
}

/// Why a route was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoRoute {
    /// The HTTP status, if there was an answer.
    pub(crate) status: Option<u16>,
    pub(crate) message: String,
    /// When to ask again at the earliest, ms.
    pub(crate) retry_after: Option<u64>,
}

/// How a connection ended, or did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Unreachable(String),
    /// The server refused the upgrade with an HTTP status.
    Refused {
        status: u16,
        message: String,
        retry_after: Option<u64>,
    },
    /// The connection was closed; 1006 stands for a missing close code.
    Closed {
        code: u16,
        message: String,
    },
}

/// An input of the machine: what the application, the network or the clock brings.
#[derive(Debug)]
pub(crate) enum Input {
    Connect,
    /// The application disconnects: token, watches and versions are forgotten.
    Disconnect,
    Watch(Arc<str>),
    Unwatch(Arc<str>),
    Mode(Mode, Ticket),
    Text(String, Ticket),
    Query(Vec<String>, Ticket),
    /// The application waits no longer for the answer to a question.
    Cancel(Ticket),
    /// The application's own report, or that the idle time says it.
    Activity(Option<Activity>),
    /// The person used the device.
    Active,
    /// The machine slept, or the network is another.
    Wake,
    Token {
        request: u64,
        result: Result<String, NoToken>,
    },
    Route {
        request: u64,
        result: Result<String, NoRoute>,
    },
    Opened(LinkId),
    /// A WebSocket ping of the server came.
    Heard(LinkId),
    Message(LinkId, String),
    Ended(LinkId, End),
    /// The time of the machine's next deadline may have come.
    Tick,
}

/// An output of the machine: what its driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Ask the application's function, and answer with [`Input::Token`].
    FetchToken {
        request: u64,
    },
    /// Ask for the route by GET, and answer with [`Input::Route`].
    FetchRoute {
        request: u64,
        url: String,
    },
    /// Open a connection, and answer with [`Input::Opened`] or [`Input::Ended`].
    Open {
        link: LinkId,
        address: String,
    },
    Send {
        link: LinkId,
        text: String,
    },
    /// The closing handshake; what comes after does not matter any more.
    Close {
        link: LinkId,
        code: u16,
    },
    /// Drop the connection, so that the server takes it for broken.
    Abort {
        link: LinkId,
    },
    State(State),
    /// Give the application a newer record of a watched user.
    Change(Record),
    Problem(Problem),
    /// Tell the application the outcome of setting a mode or text.
    Set {
        ticket: Ticket,
        result: Result<(), SetError>,
    },
    /// Give the application the answer to a question.
    Result {
        ticket: Ticket,
        result: Result<Vec<Record>, QueryError>,
    },
}

/// The state of a client: inputs and their times go in, outputs are taken out.
pub(crate) struct Machine {
    settings: Settings,
    /// The source of random numbers, each from 0 to below 1.
    random: Box<dyn FnMut() -> f64 + Send>,
    now: Now,
    wanted: bool,
    failure: Option<Reason>,
    effort: Effort,
    session: Option<Link>,
    /// The session that the server welcomed last.
    identity: Option<Session>,
    /// Connections that another one replaced, and when they are dropped.
    retiring: Vec<(LinkId, u64)>,
    /// The address of the last `move` or 4421, until it is used.
    redirect: Option<String>,
    last_address: Option<String>,
    /// The route is asked before the next attempt.
    ask_route: bool,
    /// The index of the route that is asked first.
    route: usize,
    /// Attempts and sessions that failed since one lasted.
    failures: u32,
    /// New attempts without a delay since a session lasted.
    hasty: u32,
    reason: Option<Reason>,
    tokens: Tokens,
    watches: Watches,
    profile: Profile,
    queries: Queries,
    flush_at: Option<u64>,
    clock_check: u64,
    next_id: u64,
    outputs: VecDeque<Output>,
    told: State,
}

impl Target {
    /// Whether everything is encrypted on the way there.
    pub(crate) fn is_secure(&self) -> bool {
        match self {
            Self::Routes(routes) => routes.iter().all(|route| route.starts_with("https:")),
            Self::Address(address) => address.starts_with("wss:"),
        }
    }
}

impl Machine {
    pub(crate) fn new(
        settings: Settings,
        random: Box<dyn FnMut() -> f64 + Send>,
        now: Now,
    ) -> Self {
        Self {
            settings,
            random,
            now,
            wanted: false,
            failure: None,
            effort: Effort::None,
            session: None,
            identity: None,
            retiring: Vec::new(),
            redirect: None,
            last_address: None,
            ask_route: true,
            route: 0,
            failures: 0,
            hasty: 0,
            reason: None,
            tokens: Tokens::default(),
            watches: Watches::default(),
            profile: Profile::new(now),
            queries: Queries::default(),
            flush_at: None,
            clock_check: now.steady + CLOCK_CHECK,
            next_id: 1,
            outputs: VecDeque::new(),
            told: State::Disconnected,
        }
    }

    /// Whether it was disconnected, or gave up, and every connection is gone.
    pub(crate) fn is_over(&self) -> bool {
        (!self.wanted || self.failure.is_some()) && self.retiring.is_empty()
    }

    /// The next thing for the driver to do; `None` when nothing is left.
    pub(crate) fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn state(&self) -> State {
        match (&self.failure, &self.identity) {
            (Some(reason), _) => State::Failed(reason.clone()),
            _ if !self.wanted => State::Disconnected,
            (None, Some(session)) => State::Connected(session.clone()),
            (None, None) => State::Connecting {
                failures: self.failures,
                reason: self.reason.clone(),
            },
        }
    }

    /// The newest record of a watched user; `None` before the first.
    pub(crate) fn record(&self, user: &str) -> Option<&Record> {
        self.watches.record(user)
    }

    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        let slept = self.pass(now);
        match input {
            Input::Connect => self.connect(),
            Input::Disconnect => self.disconnect(),
            Input::Watch(user) => self.watches.add(user),
            Input::Unwatch(user) => self.watches.remove(&user),
            Input::Mode(mode, ticket) => {
                let former = self.profile.set_mode(mode, ticket);
                self.outputs.extend(former);
                self.refuse_if_over();
            }
            Input::Text(text, ticket) => {
                let former = self.profile.set_text(text, ticket);
                self.outputs.extend(former);
                self.refuse_if_over();
            }
            Input::Query(users, ticket) => {
                let answer = self.queries.ask(ticket, users);
                self.outputs.extend(answer);
                self.refuse_if_over();
            }
            Input::Cancel(ticket) => self.queries.cancel(ticket),
            Input::Activity(activity) => self.profile.set_activity(activity, now),
            Input::Active => self.profile.active(now),
            Input::Wake => self.wake(false),
            Input::Token { request, result } => self.token(request, result),
            Input::Route { request, result } => self.routed(request, result),
            Input::Opened(link) => self.opened(link),
            Input::Heard(link) => self.heard(link),
            Input::Message(link, text) => self.message(link, &text),
            Input::Ended(link, end) => self.ended(link, end),
            Input::Tick => {
                if slept {
                    self.wake(true);
                }
                self.tick();
                self.flush();
            }
        }
        self.plan_flush();
        let state = self.state();
        if state != self.told {
            self.told = state.clone();
            self.outputs.push_back(Output::State(state));
        }
    }

    /// Takes the new time. Whether the machine slept: the wall clock went on while the steady one
    /// stood, or the timer that was asked for is far too late.
    fn pass(&mut self, now: Now) -> bool {
        let steady = now.steady.saturating_sub(self.now.steady);
        let wall = now.wall.saturating_sub(self.now.wall);
        let late = now.steady.saturating_sub(self.clock_check);
        self.now = Now {
            steady: self.now.steady.max(now.steady),
            wall: now.wall,
        };
        self.clock_check = self.now.steady + CLOCK_CHECK;
        wall > steady + JUMP || late > JUMP
    }

    /// The latest time at which [`Input::Tick`] is due, on the monotonic clock.
    pub(crate) fn deadline(&self) -> Option<u64> {
        if !self.wanted || self.failure.is_some() {
            return self.retiring.iter().map(|(_, until)| *until).min();
        }
        let mut due = vec![self.clock_check];
        due.extend(self.retiring.iter().map(|(_, until)| *until));
        due.extend(self.effort.due());
        due.extend(self.tokens.due());
        if let Some(link) = &self.session {
            due.push(link.due());
            due.extend(
                link.refresh_at
                    .filter(|_| !self.tokens.is_asked())
                    .map(|at| self.now.steady + at.saturating_sub(self.now.wall)),
            );
            due.extend(self.flush_at);
            due.extend(self.watches.due());
            due.extend(self.profile.due(self.now, self.settings.auto_away));
        }
        due.into_iter().min()
    }

    /// Does everything whose time has come.
    fn tick(&mut self) {
        let steady = self.now.steady;
        while let Some(at) = self.retiring.iter().position(|(_, until)| *until <= steady) {
            let (link, _) = self.retiring.swap_remove(at);
            self.outputs.push_back(Output::Abort { link });
        }
        if !self.wanted || self.failure.is_some() {
            return;
        }
        self.tick_tokens();
        self.tick_effort();
        self.tick_session();
    }

    fn connect(&mut self) {
        if self.wanted && self.failure.is_none() {
            return;
        }
        self.wanted = true;
        self.failure = None;
        self.reason = None;
        (self.failures, self.hasty) = (0, 0);
        self.ask_route = true;
        self.profile.active(self.now);
        // With the next tick: who disconnects before it has opened nothing.
        self.effort = Effort::Wait {
            until: self.now.steady,
        };
    }

    fn disconnect(&mut self) {
        if let Some(mut link) = self.session.take() {
            self.send(&mut link, &crate::wire::ClientMessage::Bye {});
            self.close_link(link);
        }
        self.forget();
        self.tell_waiting(None);
        self.watches = Watches::default();
        self.profile = Profile::new(self.now);
        self.last_address = None;
        self.failure = None;
        self.reason = None;
        self.wanted = false;
    }

    /// Ends in `Failed` for the reason, and closes what is open.
    fn fail(&mut self, reason: Reason) {
        if let Some(link) = self.session.take() {
            self.close_link(link);
        }
        self.forget();
        self.tell_waiting(Some(&reason));
        self.failure = Some(reason);
    }

    fn close_link(&mut self, mut link: Link) {
        self.drop_requests(&mut link);
        self.outputs.push_back(Output::Close {
            link: link.id,
            code: 1000,
        });
        self.retire(link.id);
    }

    /// What a connection did not answer is wanted again, or not done.
    fn drop_requests(&mut self, link: &mut Link) {
        self.watches.link_lost();
        self.profile.link_lost(link, &mut self.outputs);
        self.queries.link_lost(link);
    }

    /// Ends what was under way; what comes of it later is not known any more.
    fn forget(&mut self) {
        self.abandon();
        self.tokens = Tokens::following(&self.tokens);
        self.identity = None;
        self.redirect = None;
        self.flush_at = None;
    }

    /// Whoever waits for a session waits in vain.
    fn tell_waiting(&mut self, reason: Option<&Reason>) {
        let closed = self.profile.closed(reason);
        self.outputs.extend(closed);
        let closed = self.queries.closed(reason);
        self.outputs.extend(closed);
    }

    fn refuse_if_over(&mut self) {
        if !self.wanted || self.failure.is_some() {
            let reason = self.failure.clone();
            self.tell_waiting(reason.as_ref());
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}
