//! What an application calls.

use std::{
    future::Future,
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::{broadcast, oneshot, watch};

use crate::{
    driver::{Shared, TokenFunction},
    machine::{Input, NoToken, Settings, Target, Ticket},
    token::IntoToken,
    transport::{Dialer, certificates, tls},
    types::{
        Activity, Mode, Problem, QueryError, Reason, Record, Session, SetError, State, UserError,
        check_text, check_user,
    },
    watch::Watch,
};

const HEARTBEAT: Duration = Duration::from_secs(60);
/// Two and a half of them are promised: within the bounds of a server that has the defaults
/// (`presence.alive_min` 10 s, `presence.alive_max` 10 min).
const HEARTBEATS: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(240);
const MIN_DELAY: Duration = Duration::from_millis(500);
const MAX_DELAY: Duration = Duration::from_secs(20);
/// How long changes wait for others to share a message, ms.
const BATCH: u64 = 5;

/// A mistake in a client's settings, found by [`Builder::connect`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Neither a route nor an address is set.
    #[error("neither `route` nor `address` is set: the client does not know where to connect")]
    NoTarget,
    /// The builder was given a route and an address.
    #[error("both `route` and `address` are set; one of them says where to connect")]
    TwoTargets,
    /// A route is no URL of http or https; the value is the text.
    #[error("`route` is {0:?}; it has to be like https://presence.example, without a query")]
    Route(String),
    /// The address is no URL of ws or wss; the value is the text.
    #[error("`address` is {0:?}; it has to be like wss://presence.example/socket")]
    Address(String),
    /// No function that gives tokens is set.
    #[error("`token` is not set: it has to return the user's JWT")]
    NoToken,
    /// A heartbeat that costs too much, or shows too little.
    #[error("`heartbeat` is {0:?}; it has to be from 5 s to 4 min")]
    Heartbeat(Duration),
    /// The shortest delay is zero or above the longest; the values are both.
    #[error("`reconnect_delay` is from {0:?} to {1:?}; it has to be from more than 0 to no less")]
    Delay(Duration, Duration),
    /// A certificate authority is no PEM; the value says why.
    #[error("`certificate_authority` is no PEM certificate: {0}")]
    Authority(String),
    /// There is nothing to check a server's certificate with.
    #[error("TLS cannot be used: {0}")]
    Tls(String),
}

/// Settings of a client; [`Client::builder`] begins it.
#[must_use]
pub struct Builder {
    routes: Vec<String>,
    address: Option<String>,
    token: Option<TokenFunction>,
    heartbeat: Duration,
    auto_away: Option<Duration>,
    delay: (Duration, Duration),
    authorities: Vec<Vec<u8>>,
}

impl Builder {
    /// Where to ask for the user's address: the URL of a coordinator, of a load balancer before them,
    /// or of an edge. The client asks `GET {url}/route?userId=…`. Several are asked in turn.
    pub fn route(mut self, url: impl Into<String>) -> Self {
        self.routes.push(url.into());
        self
    }

    /// A whole WebSocket URL to connect to, without asking. The server may send the client elsewhere.
    pub fn address(mut self, url: impl Into<String>) -> Self {
        self.address = Some(url.into());
        self
    }

    /// What returns a token, which is a JWT, each time that one is needed: before the first session,
    /// before the token ends, and after a server refused one. It returns a [`String`] or a result; an
    /// error is tried again later, except [`TokenError::not_allowed`](crate::TokenError::not_allowed).
    /// A call that takes longer than 30 s counts as failed.
    pub fn token<F, R>(mut self, token: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future + Send + 'static,
        R::Output: IntoToken,
    {
        self.token = Some(Box::new(move || {
            let asked = token();
            Box::pin(async move { asked.await.into_token().map_err(NoToken::from) })
        }));
        self
    }

    /// How often the client sends a message at least (a ping, when there is nothing else to say), 5 s
    /// to 4 min; 60 s unless it is set. It promises the server one in two and a half times that, so
    /// that the server need not take a proxy's pongs for life. A server whose `presence.alive_min` and
    /// `alive_max` do not allow that refuses the session with 4403, and says so in the reason.
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Reports `away` when [`Client::active`] was not called for so long, also across connections.
    /// Off unless it is set.
    pub fn auto_away(mut self, idle: Duration) -> Self {
        self.auto_away = Some(idle);
        self
    }

    /// The delay before a new attempt is anything from nothing to a bound, which is `min` for the
    /// first one, doubles with each, and is never above `max`, nor above 5 s for the first ten.
    /// 500 ms and 20 s unless it is set.
    pub fn reconnect_delay(mut self, min: Duration, max: Duration) -> Self {
        self.delay = (min, max);
        self
    }

    /// A certificate authority in PEM to trust instead of the system's. It may be called again.
    pub fn certificate_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Starts the client as tasks of the current tokio runtime. It connects by itself and stays so
    /// until it is closed.
    ///
    /// # Errors
    /// When a setting is missing or cannot be.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect(self) -> Result<Client, ConfigError> {
        let settings = self.settings()?;
        let mut authorities = Vec::new();
        for pem in &self.authorities {
            authorities.extend(certificates(pem).map_err(ConfigError::Authority)?);
        }
        let tls = tls(&authorities);
        if let (true, Err(error)) = (settings.target.is_secure(), &tls) {
            return Err(ConfigError::Tls(error.clone()));
        }
        let token = self.token.ok_or(ConfigError::NoToken)?;
        let shared = Shared::start(settings, Dialer { tls }, token);
        Ok(Client(Arc::new(Handle(shared))))
    }

    fn settings(&self) -> Result<Settings, ConfigError> {
        let target = match (&self.routes[..], &self.address) {
            ([], None) => return Err(ConfigError::NoTarget),
            ([_, ..], Some(_)) => return Err(ConfigError::TwoTargets),
            ([], Some(address)) => {
                if !is_url(address, &["ws", "wss"]) {
                    return Err(ConfigError::Address(address.clone()));
                }
                Target::Address(address.clone())
            }
            (routes, None) => {
                if let Some(bad) = routes.iter().find(|url| !is_base(url)) {
                    return Err(ConfigError::Route(bad.clone()));
                }
                let base = |url: &String| {
                    let url = url.trim_end_matches('/');
                    url.strip_suffix("/route").unwrap_or(url).to_owned()
                };
                Target::Routes(routes.iter().map(base).collect())
            }
        };
        if !HEARTBEATS.contains(&self.heartbeat) {
            return Err(ConfigError::Heartbeat(self.heartbeat));
        }
        let (min, max) = self.delay;
        if min.is_zero() || max < min {
            return Err(ConfigError::Delay(min, max));
        }
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
        Ok(Settings {
            target,
            heartbeat: ms(self.heartbeat),
            auto_away: self.auto_away.map(ms),
            min_delay: ms(min).max(1),
            max_delay: ms(max),
            batch: BATCH,
        })
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut settings = f.debug_struct("Builder");
        settings
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

fn is_url(url: &str, schemes: &[&str]) -> bool {
    let Ok(uri) = url.parse::<hyper::Uri>() else {
        return false;
    };
    uri.host().is_some_and(|host| !host.is_empty())
        && uri
            .scheme_str()
            .is_some_and(|scheme| schemes.contains(&scheme))
}

fn is_base(url: &str) -> bool {
    is_url(url, &["http", "https"]) && !url.contains(['?', '#'])
}

/// What becomes of a mode or text. It need not be awaited.
pub struct Setting(Result<oneshot::Receiver<Result<(), SetError>>, Option<SetError>>);

impl Future for Setting {
    type Output = Result<(), SetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(receiver) => Pin::new(receiver)
                .poll(cx)
                .map(|result| result.unwrap_or(Err(SetError::Closed))),
            // A second poll is after the end.
            Err(error) => Poll::Ready(Err(error.take().unwrap_or(SetError::Closed))),
        }
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").finish_non_exhaustive()
    }
}

/// Nobody waits for a question whose future was dropped.
struct Asked<'a>(&'a Shared, Ticket);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.with(|inner, now| {
            if inner.queries.remove(&self.1).is_some() {
                inner.machine.handle(now, Input::Cancel(self.1));
            }
        });
    }
}

/// The owner of a client among its handles: the client ends when the last one is dropped.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.input(Input::Disconnect);
    }
}

/// A user's connection to the service: it stays connected, tells what watched users do, and what its
/// own user does. Clones are the same client; when the last one is dropped it is closed.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

impl Client {
    /// Begins the settings of a client.
    pub fn builder() -> Builder {
        Builder {
            routes: Vec::new(),
            address: None,
            token: None,
            heartbeat: HEARTBEAT,
            auto_away: None,
            delay: (MIN_DELAY, MAX_DELAY),
            authorities: Vec::new(),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Watches users until the result is dropped. Watches of the same user share one with the server,
    /// and those that begin together share a message.
    ///
    /// # Errors
    /// When no user can have one of the names; then nobody is watched.
    pub fn watch<I>(&self, users: I) -> Result<Watch, UserError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut names = Vec::new();
        for user in users {
            check_user(user.as_ref())?;
            names.push(user.as_ref().into());
        }
        Ok(Watch::new(self.shared().clone(), names))
    }

    /// Asks for the records of users once, of each in any order; it waits for a session.
    ///
    /// # Errors
    /// When no user can have one of the names, the server refuses, or the client ends.
    pub async fn query<I>(&self, users: I) -> Result<Vec<Record>, QueryError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut names = Vec::new();
        for user in users {
            check_user(user.as_ref())?;
            names.push(user.as_ref().to_owned());
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = self.shared().with(|inner, now| {
            let ticket = inner.ticket();
            inner.queries.insert(ticket, sender);
            inner.machine.handle(now, Input::Query(names, ticket));
            ticket
        });
        let asked = Asked(self.shared(), ticket);
        let answer = receiver.await.unwrap_or(Err(QueryError::Closed));
        drop(asked);
        answer
    }

    /// Chooses for all devices of the user. It is sent again until a server has answered, whether the
    /// result is awaited or not.
    pub fn set_mode(&self, mode: Mode) -> Setting {
        self.set(|ticket| Input::Mode(mode, ticket))
    }

    /// Sets the user's text for all devices, at most 128 bytes without control characters; an empty
    /// one removes it. It is sent again until a server has answered, whether the result is awaited or
    /// not.
    pub fn set_text(&self, text: &str) -> Setting {
        match check_text(text) {
            Ok(()) => self.set(|ticket| Input::Text(text.to_owned(), ticket)),
            Err(error) => Setting(Err(Some(error.into()))),
        }
    }

    fn set(&self, input: impl FnOnce(Ticket) -> Input) -> Setting {
        let (sender, receiver) = oneshot::channel();
        self.shared().with(|inner, now| {
            let ticket = inner.ticket();
            inner.sets.insert(ticket, sender);
            inner.machine.handle(now, input(ticket));
        });
        Setting(Ok(receiver))
    }

    /// Reports what this device does, whatever its idle time says; `None` leaves it to that again.
    /// Sessions begin with it.
    pub fn set_activity(&self, activity: Option<Activity>) {
        self.shared().input(Input::Activity(activity));
    }

    /// Somebody used the device: the time of [`Builder::auto_away`] begins anew.
    pub fn active(&self) {
        self.shared().input(Input::Active);
    }

    /// The network changed, or the machine woke up: tests the connection at once, or tries again at
    /// once. The client notices a sleep by itself within 10 s.
    pub fn wake(&self) {
        self.shared().input(Input::Wake);
    }

    /// The client's state, as a channel that tells of each change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared().state.subscribe()
    }

    /// What the server refuses from now on while the session stays. Who reads slowly is told how many
    /// were lost.
    #[must_use]
    pub fn problems(&self) -> broadcast::Receiver<Problem> {
        self.shared().problems.subscribe()
    }

    /// Waits for a session.
    ///
    /// # Errors
    /// When the client has failed; `None` when it was closed.
    pub async fn ready(&self) -> Result<Session, Option<Reason>> {
        let mut states = self.state();
        loop {
            match &*states.borrow_and_update() {
                State::Connected(session) => return Ok(session.clone()),
                State::Failed(reason) => return Err(Some(reason.clone())),
                State::Disconnected => return Err(None),
                State::Connecting { .. } => {}
            }
            if states.changed().await.is_err() {
                return Err(None);
            }
        }
    }

    /// Says goodbye and waits until the server has heard it, at most 5 s: the user is offline at once,
    /// unless other devices are connected. All clones are closed, and all watches end.
    pub async fn close(self) {
        self.shared().input(Input::Disconnect);
        self.shared().finished().await;
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared().state.borrow();
        f.debug_struct("Client")
            .field("state", &*state)
            .finish_non_exhaustive()
    }
}
