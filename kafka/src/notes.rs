//! What a client says to people: a bounded number of lines, without any secret, and the last error.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::{
    health::{LastError, now_ms},
    hints::{login, with_setting},
    options::{Options, Said},
    rights::Rights,
};

/// Lines for people: at most [`BURST`] at once and one each [`REFILL_MS`] in the long run; what
/// is left out is counted in the next line.
#[derive(Debug)]
pub(crate) struct Notes {
    print: fn(Said, &str),
    secrets: Vec<String>,
    /// The settings that a login is made of.
    login: &'static str,
    pub(crate) rights: Rights,
    pub(crate) topic: String,
    start: Instant,
    last: Mutex<Last>,
    left: AtomicI64,
    refilled_ms: AtomicU64,
    unsaid: AtomicU64,
}

#[derive(Debug, Default)]
struct Last {
    error: Option<LastError>,
    /// What was printed last, the newest at the end.
    lines: VecDeque<String>,
}

const BURST: i64 = 10;
/// Lines that are not said again until something changes.
const REMEMBERED: usize = 4;
const REFILL_MS: u64 = 10_000;

impl Notes {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            print: options.log,
            secrets: options.secrets(),
            login: login(options),
            rights: Rights::new(options),
            topic: options.topic.clone(),
            start: Instant::now(),
            last: Mutex::default(),
            left: AtomicI64::new(BURST),
            refilled_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// Notes an error, for health and log.
    pub(crate) fn error(&self, text: &str) {
        let mut text = with_setting(&self.without_secrets(text), self.login);
        if let Some(missing) = self.rights.in_words(&text) {
            text = format!("{text}: {missing}");
        }
        let mut last = self.last();
        self.print(&mut last, Said::Error, &text);
        last.error = Some(LastError { text, at: now_ms() });
    }

    /// Notes a change of state, for the log.
    pub(crate) fn change(&self, text: &str) {
        let mut last = self.last();
        last.lines.clear();
        self.print(&mut last, Said::Change, &self.without_secrets(text));
    }

    pub(crate) fn without_secrets(&self, text: &str) -> String {
        self.secrets
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn last_error(&self) -> Option<LastError> {
        self.last().error.clone()
    }

    fn print(&self, last: &mut Last, said: Said, text: &str) {
        // Some errors reach a client twice, and most come again and again, by turns.
        if last.lines.iter().any(|line| line == text) {
            return;
        }
        if !self.take(self.start.elapsed().as_millis() as u64) {
            self.unsaid.fetch_add(1, Relaxed);
            return;
        }
        last.lines.push_back(text.to_owned());
        if last.lines.len() > REMEMBERED {
            last.lines.pop_front();
        }
        match self.unsaid.swap(0, Relaxed) {
            0 => (self.print)(said, text),
            unsaid => (self.print)(
                said,
                &format!("{text} ({unsaid} lines before it were left out)"),
            ),
        }
    }

    /// Whether a line may be printed at `now`, ms since the start.
    fn take(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.refilled_ms.load(Relaxed));
        let more = since / REFILL_MS;
        if more > 0 {
            self.refilled_ms.fetch_add(more * REFILL_MS, Relaxed);
            let left = self.left.load(Relaxed).max(0);
            self.left
                .store((left + more.min(BURST as u64) as i64).min(BURST), Relaxed);
        }
        self.left.fetch_sub(1, Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes() -> Notes {
        let mut options = Options {
            log: |_, _| {},
            ..Options::default()
        };
        options.security.password = "hush-hush".into();
        options
            .extra
            .push(("ssl.key.password".into(), "quiet".into()));
        Notes::new(&options)
    }

    #[test]
    fn a_storm_of_lines_is_cut_to_a_burst_and_then_one_each_ten_seconds() {
        let notes = notes();
        assert_eq!((0..1000).filter(|_| notes.take(0)).count(), 10);
        assert_eq!((0..1000).filter(|_| notes.take(9_999)).count(), 0);
        assert_eq!((0..1000).filter(|_| notes.take(10_000)).count(), 1);
        assert_eq!((0..1000).filter(|_| notes.take(35_000)).count(), 2);
        assert_eq!((0..1000).filter(|_| notes.take(86_400_000)).count(), 10);
    }

    #[test]
    fn no_secret_is_in_the_last_error() {
        let notes = notes();
        notes.error("login of alice with hush-hush and quiet failed");
        let error = notes.last_error().expect("there was one");
        assert_eq!(error.text, "login of alice with *** and *** failed");
        assert!(error.at > 1_600_000_000_000);
    }

    #[test]
    fn an_error_that_comes_again_is_printed_once_until_something_changes() {
        static LINES: AtomicU64 = AtomicU64::new(0);
        let notes = Notes::new(&Options {
            log: |_, _| {
                LINES.fetch_add(1, Relaxed);
            },
            ..Options::default()
        });
        for _ in 0..5 {
            notes.error("refused");
            notes.error("made again");
        }
        assert_eq!(LINES.load(Relaxed), 2);
        notes.change("connected");
        notes.error("refused");
        assert_eq!(LINES.load(Relaxed), 4);
        assert_eq!(notes.last_error().expect("one").text, "refused");
    }
}
