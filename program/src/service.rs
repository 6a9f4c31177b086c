//! What a program tells the service manager that started it (systemd, `Type=notify`): that it is ready,
//! what it waits for, that it lives. Started by anything else, it tells nobody.

use std::{
    env, io,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;

/// How long a start counts as under way while the program is not ready. Then the manager goes on with
/// what comes after it, and its status line says what is missing: a store that is away for hours is
/// no reason to end the program, nor to hold up the boot.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// A signal to end that comes so soon after another one is the same: `timeout` of coreutils sends each twice, to its
/// program and to its group. A later one ends the program at once.
pub const AGAIN: Duration = Duration::from_millis(100);

/// Whether a service manager has started this program and waits for its word.
#[must_use]
pub fn is_service() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// How a program is, as its manager is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it does its work.
    pub is_ready: bool,
    /// Whether all of its parts go on. While one stands still, the watchdog is told nothing.
    pub is_alive: bool,
    /// One line for people.
    pub status: String,
}

/// The manager, as far as there is one.
#[derive(Debug)]
pub struct Service {
    is_there: bool,
    watchdog: Option<Duration>,
    started: Instant,
    /// When the condition is looked at next, and when the watchdog was told last.
    next: Instant,
    fed: Option<Instant>,
    has_started: bool,
    status: String,
    has_failed: bool,
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// The manager that the environment names.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            is_there: is_service(),
            watchdog: sd_notify::watchdog_enabled(),
            started: now,
            next: now,
            fed: None,
            has_started: false,
            status: String::new(),
            has_failed: false,
        }
    }

    /// Tells what has changed since the last call, at most every 100 ms at the start and every second
    /// afterwards; to be called more often than that.
    pub fn update(&mut self, condition: impl FnOnce() -> Condition) {
        let now = Instant::now();
        if !self.is_there || now < self.next {
            return;
        }
        let pause = if self.has_started { 1_000 } else { 100 };
        self.next = now + Duration::from_millis(pause);
        let condition = condition();
        let mut news = Vec::new();
        if !self.has_started && (condition.is_ready || self.started.elapsed() >= START_PATIENCE) {
            self.has_started = true;
            news.push(NotifyState::Ready);
        }
        if self.status != condition.status {
            news.push(NotifyState::Status(&condition.status));
        }
        let is_due = |watchdog: Duration| {
            let fed = self.fed;
            fed.is_none_or(|fed| now.duration_since(fed) >= watchdog / 4)
        };
        if condition.is_alive && self.watchdog.is_some_and(is_due) {
            self.fed = Some(now);
            news.push(NotifyState::Watchdog);
        }
        if !news.is_empty() {
            self.tell(&news);
        }
        self.status = condition.status;
    }

    /// Whether there is a manager that was not told yet that the program is ready: [`Service::update`] is then
    /// to be called every 100 ms.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.is_there && !self.has_started
    }

    /// Does what a reload asks for, and tells when it begins and ends. What went wrong is the status line
    /// until the next reload, or until the condition changes.
    pub fn reload(&mut self, work: impl FnOnce() -> Result<(), String>) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => self.failed(&error),
        }
        let status = work().err().unwrap_or_else(|| self.status.clone());
        self.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Tells that the end has begun.
    pub fn stop(&mut self) {
        self.tell(&[NotifyState::Stopping]);
    }

    fn tell(&mut self, news: &[NotifyState<'_>]) {
        if self.is_there
            && let Err(error) = sd_notify::notify(news)
        {
            self.failed(&error);
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if !self.has_failed {
            self.has_failed = true;
            tracing::warn!(
                event = "service_manager_not_told",
                "the service manager cannot be told how this program is: {error}"
            );
        }
    }
}
