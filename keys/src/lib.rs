//! The keys of tokens, kept current while a program runs: files are read again when it is told to,
//! and a key set on a web server is fetched by a thread of its own. It owns when that is done. No
//! thread that checks tokens waits here, only the task of a token that newer keys may let in; and a
//! fetch that fails changes no key.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod auth;
pub mod authorities;
mod fetch;
mod in_time;
mod rounds;

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use protocol::Policy;
use settings::Secret;
use token::{Claims, KeyError, KeySet, Options, Refused, TokenError, Verifier};
use tracing::{info, warn};

pub use crate::{
    auth::AuthSettings,
    fetch::{FetchError, SourceError},
    rounds::{MAX_WAITING, NoWait},
};
use crate::{
    fetch::Client,
    rounds::{Outcome, Place, Rounds},
};

/// The wait after a first failed fetch; it doubles up to the time between two fetches.
const RETRY: Duration = Duration::from_secs(1);

/// Where a key set is fetched, and when; the first four are settings of the section `auth`.
#[derive(Debug, Clone)]
pub struct Source {
    /// The address of the key set, `http://…` or `https://…`.
    pub jwks_url: String,
    /// For https, a PEM file with the authorities to trust; `None` = the system's.
    pub jwks_ca_file: Option<PathBuf>,
    /// Asked to connect to the server (HTTP CONNECT), `http://…` or `https://…`, maybe with a user
    /// and a password; empty = none.
    pub jwks_proxy: Secret,
    /// Time between two fetches, when nothing asks for one earlier.
    pub jwks_refresh: Duration,
    /// At least that long between two fetches, when tokens that no key verifies ask for one; at most
    /// 1 s after one that brought other keys. Less than a token waits, so that no other token has
    /// one refused that a newer set would let in.
    pub min_gap: Duration,
    /// How long a fetch may take as a whole.
    pub timeout: Duration,
}

impl Source {
    /// At that address, fetched as the settings' defaults say.
    #[must_use]
    pub fn new(jwks_url: impl Into<String>) -> Self {
        Self {
            jwks_url: jwks_url.into(),
            jwks_ca_file: None,
            jwks_proxy: Secret::default(),
            jwks_refresh: Duration::from_secs(300),
            min_gap: Duration::from_secs(4),
            timeout: Duration::from_secs(10),
        }
    }

    /// Whether keys could be fetched from there, as far as that shows without doing it.
    ///
    /// # Errors
    /// The setting and what is wrong with it.
    pub fn check(&self) -> Result<(), SourceError> {
        Client::new(self).map(drop)
    }
}

/// Why [`Keys`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The keys that the options name cannot be used.
    #[error(transparent)]
    Options(#[from] KeyError),
    /// They cannot be fetched, whatever the server does.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The first fetch failed.
    #[error("auth.jwks_url: the keys of tokens cannot be fetched: {0}")]
    Fetch(#[from] FetchError),
    /// The operating system gives no thread to fetch in.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What was fetched so far, and what waited for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetches {
    /// Fetches that brought a key set.
    pub good: u64,
    /// Fetches that failed; the keys in force stayed.
    pub failed: u64,
    /// Keys of the fetched set that are in force.
    pub keys: usize,
    /// Tokens that wait for a fetch now.
    pub waiting: usize,
    /// How the waiting of earlier tokens ended.
    pub waited: Waited,
}

/// How the waiting of tokens for a fetch ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waited {
    /// Tokens that the new keys let in.
    pub let_in: u64,
    /// Tokens that the new keys refused as well.
    pub refused: u64,
    /// Tokens for which no set came in time.
    pub in_vain: u64,
    /// They were refused without waiting, since [`MAX_WAITING`] did already.
    pub too_many: u64,
}

impl Waited {
    /// Each with its name as a metric's label.
    #[must_use]
    pub fn by_result(&self) -> [(&'static str, u64); 4] {
        [
            ("let_in", self.let_in),
            ("refused", self.refused),
            ("in_vain", self.in_vain),
            ("too_many", self.too_many),
        ]
    }
}

/// Why a token is refused, and what kept newer keys from being looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The rule that the token breaks by the keys in force.
    pub error: TokenError,
    /// Why newer keys were not waited for; `None` when the token was tried with them, or they could
    /// not help.
    pub no_wait: Option<NoWait>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.no_wait {
            None => write!(f, "{}", self.error),
            Some(why) => write!(f, "{}; {why}", self.error),
        }
    }
}

/// The keys of tokens that are in force, and the thread that keeps a fetched set current.
pub struct Keys {
    options: Options,
    verifier: ArcSwap<Verifier>,
    /// What administrators have decreed.
    policy: ArcSwap<Policy>,
    /// Held while another verifier takes the place of the one there.
    changing: Mutex<()>,
    rounds: Arc<Rounds>,
    good: AtomicU64,
    failed: AtomicU64,
    let_in: AtomicU64,
    refused: AtomicU64,
    in_vain: AtomicU64,
    too_many: AtomicU64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the keys of the options. With a source, a thread begins to fetch, and does for the
    /// life of the process.
    ///
    /// # Errors
    /// When the keys of the options, or the source, can never be used. A server that does not
    /// answer is no error: it is asked again.
    pub fn start(mut options: Options, source: Option<&Source>) -> Result<Arc<Self>, KeysError> {
        options.jwks_url = url_of(source);
        let verifier = Verifier::new(&options)?;
        for what in verifier.left_out_of_file() {
            warn!(event = "key_left_out", "auth.jwks_file: {what}");
        }
        let keys = Arc::new(Self {
            options,
            verifier: ArcSwap::from_pointee(verifier),
            policy: ArcSwap::default(),
            changing: Mutex::default(),
            rounds: Arc::new(Rounds::new(Instant::now())),
            good: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            let_in: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            in_vain: AtomicU64::new(0),
            too_many: AtomicU64::new(0),
        });
        if let Some(source) = source {
            let client = Client::new(source)?;
            let (fetching, source) = (Arc::clone(&keys), source.clone());
            let thread = std::thread::Builder::new().name("token-keys".into());
            thread.spawn(move || fetching.keep(&client, &source))?;
        }
        Ok(keys)
    }

    /// The keys of the options and those of one fetch, for a program that checks one token.
    ///
    /// # Errors
    /// When they cannot be used, or not be fetched.
    pub fn once(mut options: Options, source: Option<&Source>) -> Result<Verifier, KeysError> {
        options.jwks_url = url_of(source);
        let verifier = Verifier::new(&options)?;
        let Some(source) = source else {
            return Ok(verifier);
        };
        let set = Client::new(source)?.fetch(&verifier)?;
        Ok(verifier.serving(Arc::new(set)))
    }

    /// What `token` says, if it is good at `now` (ms since 1970). One that a newer set may let in
    /// makes that be fetched; [`Self::verify_in_time`] waits for it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, Refused> {
        let claims = self.check(token, now);
        claims.inspect_err(|refused| {
            if refused.may_be_newer {
                self.rounds.miss();
            }
        })
    }

    /// What `token` says, if it is good. One that a newer set may let in waits for the fetch that it
    /// causes, `patience` at most. `clock` tells ms since 1970, and `sleep` is the runtime's.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn verify_in_time<S: Future<Output = ()>>(
        &self,
        token: &str,
        clock: fn() -> u64,
        patience: Duration,
        sleep: fn(Duration) -> S,
    ) -> Result<Claims, Refusal> {
        let refused = match self.check(token, clock()) {
            Ok(claims) => return Ok(claims),
            Err(refused) => refused,
        };
        let error = refused.error;
        if !refused.may_be_newer {
            return Err(Refusal {
                error,
                no_wait: None,
            });
        }
        let now = Instant::now();
        match self.rounds.join(now, now + patience) {
            Ok(place) => self.wait(place, token, clock, sleep(patience), error).await,
            Err(why) => {
                if why == NoWait::Full {
                    self.too_many.fetch_add(1, Relaxed);
                }
                let no_wait = Some(why);
                Err(Refusal { error, no_wait })
            }
        }
    }

    /// What `token` says, by the keys and the policy in force.
    fn check(&self, token: &str, now: u64) -> Result<Claims, Refused> {
        let claims = self.verifier.load().check(token, now)?;
        match self.revokes(&claims) {
            false => Ok(claims),
            true => Err(Refused {
                error: TokenError::Revoked,
                may_be_newer: false,
            }),
        }
    }

    /// Whether a token that was good is revoked by now.
    #[must_use]
    pub fn revokes(&self, claims: &Claims) -> bool {
        let policy = self.policy.load();
        policy.revokes(&claims.user, claims.issued, claims.id.as_deref())
    }

    /// What administrators have decreed, as far as it is known here.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Puts what they have decreed in force for the tokens that come from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Waits at the place until a fetch settles what becomes of the token, or it is `late`.
    async fn wait(
        &self,
        mut place: Place,
        token: &str,
        clock: fn() -> u64,
        late: impl Future<Output = ()>,
        mut error: TokenError,
    ) -> Result<Claims, Refusal> {
        let mut late = pin!(late);
        let no_wait = loop {
            let ended = poll_fn(|context| match place.poll_end(context) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => late.as_mut().poll(context).map(|()| false),
            });
            if !ended.await {
                break Some(NoWait::Late);
            }
            match self.check(token, clock()) {
                Ok(claims) => {
                    self.let_in.fetch_add(1, Relaxed);
                    return Ok(claims);
                }
                Err(refused) => error = refused.error,
            }
            if let Err(why) = place.goes_on(Instant::now()) {
                break why;
            }
        };
        let counter = match no_wait {
            None => &self.refused,
            Some(_) => &self.in_vain,
        };
        counter.fetch_add(1, Relaxed);
        Err(Refusal { error, no_wait })
    }

    /// Whether no key is waited for: with a source, its keys have been there.
    #[must_use]
    pub fn are_ready(&self) -> bool {
        self.options.jwks_url.is_empty() || self.verifier.load().served().is_some()
    }

    /// Reads the files again, and has the set fetched again.
    ///
    /// # Errors
    /// Why the files cannot be used; then the old keys stay.
    pub fn reload(&self) -> Result<(), KeyError> {
        self.change(|old| {
            let new = Verifier::new(&self.options)?;
            Ok(match old.served() {
                Some(set) => new.serving(Arc::clone(set)),
                None => new,
            })
        })?;
        self.rounds.tell();
        Ok(())
    }

    /// Counts of the fetches since the start, and of the tokens that waited for them.
    #[must_use]
    pub fn fetches(&self) -> Fetches {
        let verifier = self.verifier.load();
        Fetches {
            good: self.good.load(Relaxed),
            failed: self.failed.load(Relaxed),
            keys: verifier.served().map_or(0, |set| set.len()),
            waiting: self.rounds.waiting(),
            waited: Waited {
                let_in: self.let_in.load(Relaxed),
                refused: self.refused.load(Relaxed),
                in_vain: self.in_vain.load(Relaxed),
                too_many: self.too_many.load(Relaxed),
            },
        }
    }

    fn change(
        &self,
        make: impl FnOnce(&Verifier) -> Result<Verifier, KeyError>,
    ) -> Result<(), KeyError> {
        let changing = self.changing.lock();
        let _changing = changing.unwrap_or_else(PoisonError::into_inner);
        let new = make(&self.verifier.load())?;
        self.verifier.store(Arc::new(new));
        Ok(())
    }

    /// Fetches the set again and again, until the process ends.
    fn keep(&self, client: &Client, source: &Source) {
        let mut trouble: Option<String> = None;
        let mut named = HashSet::new();
        let mut retry = RETRY;
        loop {
            let started = Instant::now();
            self.rounds.begin();
            let fetched = client.fetch(&self.verifier.load());
            let (outcome, pause) = match fetched {
                Ok(set) => {
                    name(&mut named, self.verifier.load().left_out(&set));
                    self.good.fetch_add(1, Relaxed);
                    retry = RETRY;
                    let outcome = self.take(set, trouble.take().is_some());
                    (outcome, source.jwks_refresh)
                }
                Err(error) => {
                    self.failed.fetch_add(1, Relaxed);
                    let text = error.to_string();
                    if let FetchError::NoUse(left_out) = error {
                        name(&mut named, left_out);
                    }
                    if trouble.as_ref() != Some(&text) {
                        let rest = match self.are_ready() {
                            true => "the old ones stay",
                            false => "there are none yet",
                        };
                        warn!(
                            event = "keys_not_fetched",
                            "auth.jwks_url: the keys of tokens cannot be fetched, {rest}: {text}"
                        );
                        trouble = Some(text);
                    }
                    let pause = retry.min(source.jwks_refresh);
                    retry = retry.saturating_mul(2).min(source.jwks_refresh);
                    (Outcome::Failed, pause)
                }
            };
            self.rounds.end(started, source.min_gap, outcome);
            self.rounds.until_due(Instant::now() + pause);
        }
    }

    /// Puts the keys of the set in force. `again`: it failed before.
    fn take(&self, set: KeySet, again: bool) -> Outcome {
        let old = self.verifier.load();
        let is_new = (old.served()).is_none_or(|old| !set.has_the_keys_of(old));
        if is_new || again {
            let ids = set.ids().join(", ");
            let keys = match set.len() {
                1 => "1 key of tokens was".to_owned(),
                count => format!("{count} keys of tokens were"),
            };
            info!(
                event = "keys_fetched",
                "auth.jwks_url: {keys} fetched: {ids}"
            );
        }
        if !is_new {
            return Outcome::Same;
        }
        let set = Arc::new(set);
        let taken = self.change(|old| Ok(old.serving(set)));
        taken.expect("nothing is read for it");
        Outcome::Changed
    }
}

/// Says of keys that are not used why, of each once for as long as it is in the set.
fn name(named: &mut HashSet<String>, left_out: Vec<String>) {
    for what in left_out.iter().filter(|what| !named.contains(*what)) {
        warn!(event = "key_left_out", "auth.jwks_url: {what}");
    }
    *named = left_out.into_iter().collect();
}

fn url_of(source: Option<&Source>) -> String {
    source.map_or_else(String::new, |source| source.jwks_url.clone())
}
