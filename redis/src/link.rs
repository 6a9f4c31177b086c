//! The link to the store: it keeps one connection, makes a new one when that fails, and says at
//! once that the store is away while it is. It owns the backoff.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use protocol::Keys;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerError, Value, cluster_routing::Slot};
use tokio::{sync::watch, time::Instant};

use crate::{
    Health, Options, OptionsError, StoreError,
    connection::{Connection, Connector, Unusable},
    counters::{BadRecord, Counters, Counts},
    health::Watched,
    options::Target,
    reply,
    server::{self, Server},
};

/// The wait after a first failed attempt to connect, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Servers that turned the link away longer ago than this do not lengthen the next wait.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// The link to the store. Clones share its connection; it connects when it is first used, and
/// again by itself when the connection fails. It is used within a tokio runtime that has I/O and
/// time enabled.
///
/// An operation waits for a connection no longer than the connect timeout (three of them on a Redis
/// Cluster and with Sentinels), and not at all while the last attempt to get one has failed a short time ago (100 ms,
/// doubling to 1 s). Each of its round trips ends within the response timeout, and after three of
/// those a large one sends no more. An operation that failed may have been done all the same, or
/// be done a moment later: all may be repeated.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    connector: Connector,
    state: tokio::sync::Mutex<State>,
    /// When anything last succeeded, ms since `started`.
    last_success: AtomicU64,
    started: Instant,
    counts: Counts,
    highest_token: AtomicU64,
    watched: Arc<Mutex<Watched>>,
    /// Which connection there is: it changes with each new one.
    connected: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Which connection it is; the failure of a former one is no news.
    generation: u64,
    /// Attempts to connect that failed in a row.
    failures: u32,
    /// Connections in a row that were given up for what the server is, and when the last one was.
    turned_away: Option<(u32, Instant)>,
    /// The time before which no connection is attempted, and the error to answer with until then.
    blocked: Option<(Instant, StoreError)>,
}

impl Link {
    /// Checks the options. Nothing is sent before the first operation.
    ///
    /// # Errors
    /// Which option is wrong.
    pub fn open(options: Options) -> Result<Self, OptionsError> {
        let target = Target::try_from(options)?;
        if target.uses_tls() {
            // Fails when the process has a provider already, which is as good.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let watched = Arc::default();
        let connector = Connector::new(&target, &watched).map_err(|error| OptionsError::Url {
            node: 1,
            reason: hide(&target.secrets, error.to_string()),
        })?;
        let shared = Shared {
            target,
            connector,
            state: tokio::sync::Mutex::default(),
            last_success: AtomicU64::new(0),
            started: Instant::now(),
            counts: Counts::default(),
            highest_token: AtomicU64::new(0),
            watched,
            connected: watch::Sender::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The nodes of the URL, as they may be shown.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.target.address
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.counts.so_far()
    }

    /// What the servers said of themselves when [`Link::run_id`] asked last, and which masters of a
    /// Redis Cluster do not answer now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.watched(|watched| watched.health())
    }

    /// What has changed in the health since the last call, for a log: at most the newest 16 lines.
    #[must_use]
    pub fn take_notices(&self) -> Vec<String> {
        let notices = self.watched(Watched::take_notices).into_iter();
        let secrets = &self.shared.target.secrets;
        notices.map(|notice| hide(secrets, notice)).collect()
    }

    fn watched<T>(&self, look: impl FnOnce(&mut Watched) -> T) -> T {
        let watched = self.shared.watched.lock();
        look(&mut watched.unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what the servers have said of themselves.
    pub(crate) fn looked(&self, servers: &[Server]) {
        self.watched(|watched| watched.looked(self.address(), servers));
    }

    /// Notes that the servers do not tell anything of themselves.
    pub(crate) fn not_told(&self, error: &ServerError) {
        let why = format!("{} {}", error.code(), error.details().unwrap_or_default());
        self.watched(|watched| watched.refused(self.address(), why));
    }

    /// Notes that the servers do not let a node show that it lives, or do not tell who does.
    pub(crate) fn is_unseen(&self, why: &str) {
        let why = hide(&self.shared.target.secrets, why.to_owned());
        self.watched(|watched| watched.unseen(self.address(), why));
    }

    /// Notes that the servers have taken records.
    pub(crate) fn has_room(&self) {
        self.watched(|watched| watched.full(self.address(), false));
    }

    /// Notes a leader's token; the highest that was met.
    pub(crate) fn highest_token(&self, token: u64) -> u64 {
        let before = self.shared.highest_token.fetch_max(token, Relaxed);
        before.max(token)
    }

    /// A number that changes with each new connection.
    pub(crate) fn connected(&self) -> watch::Receiver<u64> {
        self.shared.connected.subscribe()
    }

    /// The bad records met since the last call, at most the first 16 of them: for a log, that is
    /// asked now and then.
    #[must_use]
    pub fn take_bad_records(&self) -> Vec<BadRecord> {
        self.shared.counts.take_bad()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.shared.target.keys
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    pub(crate) fn response_timeout(&self) -> Duration {
        self.shared.target.response_timeout
    }

    /// Sends a pipeline whose keys lie on `slot`: a value a command.
    pub(crate) async fn send(
        &self,
        pipeline: &Pipeline,
        slot: Option<Slot>,
    ) -> Result<Vec<Value>, StoreError> {
        let (generation, mut connection) = self.current().await?;
        let answer = connection.send(pipeline, slot).await;
        let answers = self.judge(generation, answer).await?;
        if answers.len() == pipeline.len() {
            return Ok(answers);
        }
        self.give_up(generation).await;
        let text = format!("{} answers to {} commands", answers.len(), pipeline.len());
        Err(StoreError::Unexpected(text))
    }

    /// Sends a command to the server, or to every master that can be reached.
    pub(crate) async fn send_to_all(&self, command: &Cmd) -> Result<Vec<Value>, StoreError> {
        let (generation, mut connection) = self.current().await?;
        let answer = connection.send_to_all(command).await;
        self.judge(generation, answer).await
    }

    /// The error of a server as one of the store.
    pub(crate) fn refused(&self, error: &ServerError) -> StoreError {
        if server::is_full(error) {
            self.shared.counts.full.fetch_add(1, Relaxed);
            self.watched(|watched| watched.full(self.address(), true));
        }
        StoreError::Refused(self.answered(error))
    }

    fn answered(&self, error: &ServerError) -> String {
        let text = format!(
            "Redis at {} answered {} {}",
            self.address(),
            error.code(),
            error.details().unwrap_or_default()
        );
        hide(&self.shared.target.secrets, text)
    }

    /// The connection there is, or a new one.
    pub(crate) async fn connection(&self) -> Result<Connection, StoreError> {
        self.current().await.map(|(_, connection)| connection)
    }

    async fn current(&self) -> Result<(u64, Connection), StoreError> {
        // Held while connecting: all who want a connection wait for the same attempt.
        let mut state = self.shared.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok((state.generation, connection.clone()));
        }
        if let Some((until, error)) = &state.blocked
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        // On the heap, as it is rare, and larger than all that is done with a connection.
        match Box::pin(self.shared.connector.connect()).await {
            Ok(connection) => {
                self.shared.counts.connects.fetch_add(1, Relaxed);
                self.succeeded();
                state.generation += 1;
                state.failures = 0;
                state.blocked = None;
                state.connection = Some(connection.clone());
                self.shared.connected.send_replace(state.generation);
                self.watched(|watched| watched.unusable(None));
                Ok((state.generation, connection))
            }
            Err(unusable) => {
                self.shared.counts.failed_connects.fetch_add(1, Relaxed);
                let error = match unusable {
                    Unusable::Failed(error) => {
                        let advice = self.advice(&error, state.generation > 0);
                        self.unavailable(&error, advice)
                    }
                    Unusable::Server(why) => {
                        self.watched(|watched| watched.unusable(Some(&why)));
                        self.unusable(&why)
                    }
                    Unusable::Closed(said) => self.unusable(&said),
                };
                state.blocked = Some((Instant::now() + backoff(state.failures), error.clone()));
                state.failures = state.failures.saturating_add(1);
                Err(error)
            }
        }
    }

    async fn judge(
        &self,
        generation: u64,
        answer: Result<Vec<Value>, RedisError>,
    ) -> Result<Vec<Value>, StoreError> {
        match answer {
            Ok(values) => {
                let errors = values.iter().filter_map(reply::server_error);
                match errors
                    .into_iter()
                    .find(|error| server::leads_elsewhere(error))
                {
                    // It answers, and may never take a write again.
                    Some(error) => self.turn_away(generation, error).await,
                    None => self.succeeded(),
                }
                Ok(values)
            }
            Err(error) => {
                self.give_up(generation).await;
                Err(self.unavailable(&error, ""))
            }
        }
    }

    /// The server of that connection is not the one to ask, or not now: the next connection goes
    /// where its name, its Sentinels or its Cluster lead by then. A server that still is the only
    /// one is not asked all the time.
    async fn turn_away(&self, generation: u64, error: &ServerError) {
        let mut state = self.shared.state.lock().await;
        if state.generation != generation {
            return;
        }
        match &state.connection {
            // A cluster's client finds its masters by itself, and the others are good.
            Some(connection) if connection.is_cluster() => {
                drop(state);
                return self.give_up(generation).await;
            }
            Some(_) => {}
            None => return,
        }
        self.shared.counts.turned_away.fetch_add(1, Relaxed);
        let now = Instant::now();
        let recent = state
            .turned_away
            .filter(|(_, at)| now.duration_since(*at) < TURNED_AWAY);
        let times = recent.map_or(0, |(times, _)| times);
        let why = StoreError::Unavailable(self.answered(error));
        state.blocked = Some((now + backoff(times), why));
        state.turned_away = Some((times.saturating_add(1), now));
        state.connection = None;
    }

    /// The server has said of itself that it takes no writes: like [`Self::turn_away`].
    pub(crate) async fn is_unfit(&self, why: &str) -> StoreError {
        self.shared.counts.turned_away.fetch_add(1, Relaxed);
        self.shared.state.lock().await.connection = None;
        self.unusable(why)
    }

    fn succeeded(&self) {
        let now = self.shared.started.elapsed().as_millis() as u64;
        self.shared.last_success.fetch_max(now, Relaxed);
    }

    /// The connection of that generation has failed. A cluster's repairs itself when one of its
    /// masters fails, so it is given up only when nothing has succeeded for a while.
    async fn give_up(&self, generation: u64) {
        let mut state = self.shared.state.lock().await;
        if state.generation != generation {
            return;
        }
        if state
            .connection
            .as_ref()
            .is_some_and(Connection::is_cluster)
        {
            let now = self.shared.started.elapsed().as_millis() as u64;
            let quiet = now.saturating_sub(self.shared.last_success.load(Relaxed));
            if u128::from(quiet) < 2 * self.response_timeout().as_millis() {
                return;
            }
        }
        state.connection = None;
    }

    /// What is left of a run is not sent.
    pub(crate) fn too_slow(&self) -> StoreError {
        StoreError::Unavailable(format!("Redis at {} is too slow", self.address()))
    }

    pub(crate) fn unusable(&self, why: &str) -> StoreError {
        StoreError::Unavailable(format!("Redis at {} cannot be used: {why}", self.address()))
    }

    /// What to change in the URL, where the error of a connection's start says so. Whether to speak TLS is
    /// no question once the link `has_worked`.
    fn advice(&self, error: &RedisError, has_worked: bool) -> &'static str {
        let is_login = error.kind() == ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
        let was_closed = error.is_connection_dropped() && !error.is_connection_refusal();
        match self.shared.target.uses_tls() {
            _ if is_login => {
                "; REDIS_URL has to have the user and the password: redis://user:password@host:6379, or \
                 redis://:password@host:6379"
            }
            _ if has_worked => "",
            true if error.is_timeout() => {
                "; where that port does not speak TLS, REDIS_URL has to begin with redis://"
            }
            false if was_closed => {
                "; where that port speaks TLS, REDIS_URL has to begin with rediss://"
            }
            _ => "",
        }
    }

    fn unavailable(&self, error: &RedisError, advice: &str) -> StoreError {
        let text = format!(
            "Redis at {} cannot be used: {error}{advice}",
            self.address()
        );
        StoreError::Unavailable(hide(&self.shared.target.secrets, text))
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// The text without the secrets: a server that does not know AUTH quotes what it was sent.
fn hide(secrets: &[String], text: String) -> String {
    secrets
        .iter()
        .fold(text, |text, secret| text.replace(secret.as_str(), "***"))
}

/// After so many failures: doubling, and spread so that many clients do not come back at once.
pub(crate) fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1 << failures.min(10)).min(longest);
    full.mul_f64(0.5 + random() as f64 / u64::MAX as f64 / 2.0)
}

/// A number that others do not guess and will not draw again.
pub(crate) fn random() -> u64 {
    // Its keys come from the system's random source, and differ at each call.
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_to_a_second_and_no_further() {
        for failures in [0, 1, 2, 3, 4, 10, 11, u32::MAX] {
            let wait = backoff(failures);
            assert!(
                wait >= BACKOFF.0 / 2 && wait <= BACKOFF.1,
                "{failures}: {wait:?}"
            );
        }
        assert!(backoff(20) >= BACKOFF.1 / 2);
        assert_ne!(random(), random());
    }

    #[test]
    fn operations_may_be_spawned() {
        fn may_be_spawned(_: impl Send + 'static) {}
        let link = Link::open(Options::new("redis://127.0.0.1")).expect("good options");
        let clone = link.clone();
        may_be_spawned(async move { clone.run(Vec::new()).await });
        may_be_spawned(async move {
            let _ = (link.map().await, link.leases().await, link.run_id().await);
            link.lead("c", Duration::from_secs(1), None).await
        });
    }

    #[test]
    fn a_secret_in_a_text_is_hidden() {
        let text = "ERR unknown command 'AUTH', with args beginning with: 'hunter2'".to_owned();
        assert!(!hide(&["hunter2".into()], text).contains("hunter2"));
    }
}
