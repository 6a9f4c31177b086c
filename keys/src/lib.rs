//! The keys of tokens, kept current while a program runs: files are read again when it is told to,
//! and a key set on a web server is fetched by a thread of its own. It owns when that is done. Who
//! checks a token never waits here, and a fetch that fails changes no key.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

#[macro_use(println, eprintln)]
extern crate settings;

mod auth;
mod fetch;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    thread::Thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use token::{Claims, KeyError, KeySet, Options, TokenError, Verifier};

use crate::fetch::Client;
pub use crate::{
    auth::AuthSettings,
    fetch::{FetchError, SourceError},
};

/// The wait after a first failed fetch; it doubles up to the time between two fetches.
const RETRY: Duration = Duration::from_secs(1);

/// Where a key set is fetched, and when; the first three are settings of the section `auth`.
#[derive(Debug, Clone)]
pub struct Source {
    /// `http://…` or `https://…`.
    pub jwks_url: String,
    /// For https, a PEM file with the authorities to trust; `None` = the system's.
    pub jwks_ca_file: Option<PathBuf>,
    /// Between two fetches.
    pub jwks_refresh: Duration,
    /// At least that long between two fetches, when tokens with unknown keys ask for one.
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
            jwks_refresh: Duration::from_secs(300),
            min_gap: Duration::from_secs(10),
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

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Those of the options cannot be used.
    #[error(transparent)]
    Options(#[from] KeyError),
    /// They cannot be fetched, whatever the server does.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// They were not fetched.
    #[error("auth.jwks_url: the keys of tokens cannot be fetched: {0}")]
    Fetch(#[from] FetchError),
    /// The thread that fetches cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// What was fetched so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetches {
    /// Fetches that gave keys.
    pub good: u64,
    /// Fetches that failed, and changed nothing.
    pub failed: u64,
    /// Keys in force that were fetched.
    pub keys: usize,
}

/// The keys in force.
pub struct Keys {
    options: Options,
    verifier: ArcSwap<Verifier>,
    /// Held while another verifier takes the place of the one there.
    changing: Mutex<()>,
    /// Who fetches; empty when nothing is.
    fetcher: OnceLock<Thread>,
    /// Somebody knows that there is something new.
    told: AtomicBool,
    /// A token named a key that is unknown.
    missed: AtomicBool,
    good: AtomicU64,
    failed: AtomicU64,
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
        let keys = Arc::new(Self {
            options,
            verifier: ArcSwap::from_pointee(verifier),
            changing: Mutex::default(),
            fetcher: OnceLock::new(),
            told: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            good: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        if let Some(source) = source {
            let client = Client::new(source)?;
            let (fetching, source) = (Arc::clone(&keys), source.clone());
            let thread = std::thread::Builder::new().name("token-keys".into());
            let thread = thread.spawn(move || fetching.keep(&client, &source))?;
            keys.fetcher.get_or_init(|| thread.thread().clone());
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

    /// What `token` says, if it is good at `now` (ms since 1970). One that names an unknown key
    /// makes the set be fetched, for those that come after it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let claims = self.verifier.load().verify(token, now);
        if matches!(claims, Err(TokenError::UnknownKey)) && !self.missed.swap(true, AcqRel) {
            self.wake();
        }
        claims
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
        self.told.store(true, Release);
        self.wake();
        Ok(())
    }

    /// What was fetched so far.
    #[must_use]
    pub fn fetches(&self) -> Fetches {
        let verifier = self.verifier.load();
        Fetches {
            good: self.good.load(Relaxed),
            failed: self.failed.load(Relaxed),
            keys: verifier.served().map_or(0, |set| set.len()),
        }
    }

    fn wake(&self) {
        if let Some(fetcher) = self.fetcher.get() {
            fetcher.unpark();
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

    /// Fetches for ever.
    fn keep(&self, client: &Client, source: &Source) {
        let mut trouble: Option<String> = None;
        let mut retry = RETRY;
        loop {
            let started = Instant::now();
            self.told.store(false, Release);
            self.missed.store(false, Release);
            let fetched = client.fetch(&self.verifier.load());
            let pause = match fetched {
                Ok(set) => {
                    self.good.fetch_add(1, Relaxed);
                    self.take(set, trouble.take().is_some());
                    retry = RETRY;
                    source.jwks_refresh
                }
                Err(error) => {
                    self.failed.fetch_add(1, Relaxed);
                    let text = error.to_string();
                    if trouble.as_ref() != Some(&text) {
                        let rest = match self.are_ready() {
                            true => "the old ones stay",
                            false => "there are none yet",
                        };
                        eprintln!(
                            "auth.jwks_url: the keys of tokens cannot be fetched, {rest}: {text}"
                        );
                        trouble = Some(text);
                    }
                    let pause = retry.min(source.jwks_refresh);
                    retry = retry.saturating_mul(2).min(source.jwks_refresh);
                    pause
                }
            };
            self.wait(Instant::now() + pause, started + source.min_gap);
        }
    }

    /// Until `due`, or a token has missed a key and it is not before `gap`, or somebody is told.
    fn wait(&self, due: Instant, gap: Instant) {
        while !self.told.load(Acquire) {
            let due = match self.missed.load(Acquire) {
                true => due.min(gap),
                false => due,
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }

    /// Puts the keys of the set in force. `again`: it failed before.
    fn take(&self, set: KeySet, again: bool) {
        let old = self.verifier.load();
        let is_new = old.served().is_none_or(|old| old.ids() != set.ids());
        if is_new || again {
            let ids = set.ids().join(", ");
            println!(
                "auth.jwks_url: {} keys of tokens were fetched: {ids}",
                set.len()
            );
        }
        if is_new {
            for what in set.unusable() {
                eprintln!("auth.jwks_url: {what}");
            }
        }
        let set = Arc::new(set);
        let taken = self.change(|old| Ok(old.serving(set)));
        taken.expect("nothing is read for it");
    }
}

fn url_of(source: Option<&Source>) -> String {
    source.map_or_else(String::new, |source| source.jwks_url.clone())
}
