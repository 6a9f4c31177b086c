//! The log of a running program, on its standard error. Each event has a name that stays what it is
//! from release to release (`docs/logs.md` lists them), a level and a sentence; on a terminal it is a
//! line for people, elsewhere a JSON object a line. No thread of a program waits for whoever reads
//! the log: lines that find no room are dropped, and counted.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use settings::Kind;
use tracing_subscriber::{filter::LevelFilter, fmt};

/// Lines that wait for the reader of the log, at most.
const WAITING: usize = 1_024;
/// How long the end of a program waits until its last lines are read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Lines that were dropped since the start.
static DROPPED: AtomicU64 = AtomicU64::new(0);
static LOG: OnceLock<Log> = OnceLock::new();

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// [`Format::Text`] on a terminal, [`Format::Json`] elsewhere.
    Auto,
    /// A line for people.
    Text,
    /// A JSON object a line (`timestamp`, `level`, `event`, `message`, and fields of the event).
    Json,
}

/// The least severe events that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(LevelFilter);

/// What a setting with a few values is called by.
fn one_of<T: Copy>(values: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = values.iter().find(|(name, _)| *name == text);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| "it is none of these".into())
}

const FORMATS: [(&str, Format); 3] = [
    ("auto", Format::Auto),
    ("text", Format::Text),
    ("json", Format::Json),
];

const LEVELS: [(&str, Level); 3] = [
    ("error", Level(LevelFilter::ERROR)),
    ("warn", Level(LevelFilter::WARN)),
    ("info", Level(LevelFilter::INFO)),
];

impl Kind for Format {
    const ALLOWED: &'static str = "auto, text or json";

    fn parse(text: &str) -> Result<Self, String> {
        one_of(&FORMATS, text)
    }

    fn show(&self) -> String {
        let found = FORMATS.iter().find(|(_, format)| format == self);
        found.map_or_else(String::new, |(name, _)| (*name).into())
    }
}

impl Kind for Level {
    const ALLOWED: &'static str = "error, warn or info";

    fn parse(text: &str) -> Result<Self, String> {
        one_of(&LEVELS, text)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

settings::sections! {
    pub struct LogSettings in log {
        /// The form of the log, which goes to standard error: `text` is for people, `json` is one
        /// object a line, and `auto` is text on a terminal and JSON elsewhere. How the program started
        /// is told in plain text too, or why it did not, unless this is `json`.
        format: Format = "auto",
        /// The least severe events that are written to the log.
        level: Level = "info",
    }
}

/// The log of this process, once it is written.
#[derive(Debug)]
struct Log {
    format: Format,
    is_json: bool,
    lines: SyncSender<Piece>,
}

enum Piece {
    Line(Vec<u8>),
    /// All lines before this one are written.
    Flush(SyncSender<()>),
}

/// Begins to write the log; a second call changes nothing.
///
/// # Errors
/// That the thread which writes cannot be started.
pub fn start(settings: &LogSettings) -> io::Result<()> {
    if LOG.get().is_some() {
        return Ok(());
    }
    let is_terminal = io::stderr().is_terminal();
    let is_json = match settings.format {
        Format::Auto => !is_terminal,
        format => format == Format::Json,
    };
    let (lines, waiting) = sync_channel(WAITING);
    thread::Builder::new()
        .name("log".into())
        .spawn(move || write(&waiting, &mut io::stderr()))?;
    let of = lines.clone();
    let log = fmt()
        .with_max_level(settings.level.0)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(move || Line(of.clone()));
    if is_json {
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .init();
    } else {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        log.with_ansi(is_terminal && !is_plain).init();
    }
    let format = settings.format;
    let _ = LOG.set(Log {
        format,
        is_json,
        lines,
    });
    Ok(())
}

/// Says why the program ends: to people in plain text, or as an event where the log is set to be JSON.
pub fn failed(text: &str) {
    if tells_people() {
        settings::eprintln!("error: {text}");
    } else {
        tracing::error!(event = "failed", "{text}");
    }
}

/// Makes the report of a panic an event in a log of JSON; `then` is what follows.
pub fn on_panic(then: fn()) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_json() {
            tracing::error!(event = "panicked", "{panic}");
            flush();
        } else {
            report(panic);
        }
        then();
    }));
}

/// Waits until what was logged is written, though not for a reader that stands still.
pub fn flush() {
    let Some(log) = LOG.get() else { return };
    let (done, written) = sync_channel(1);
    if log.lines.try_send(Piece::Flush(done)).is_ok() {
        let _ = written.recv_timeout(LAST_LINES);
    }
}

/// Whether the log is written, as JSON.
#[must_use]
pub fn is_json() -> bool {
    LOG.get().is_some_and(|log| log.is_json)
}

/// Whether people are told in plain text how the program started, or why it did not: not where the
/// log is set to be JSON.
#[must_use]
pub fn tells_people() -> bool {
    LOG.get().is_none_or(|log| log.format != Format::Json)
}

/// Lines that were dropped since the start, because the reader of the log is slower than the program.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes what comes, until nothing more can. A closed output is no reason to end.
fn write(waiting: &Receiver<Piece>, output: &mut impl Write) {
    for piece in waiting {
        match piece {
            Piece::Line(line) => _ = output.write_all(&line),
            Piece::Flush(done) => _ = done.send(()),
        }
    }
}

/// Where one event is written to; it comes as a whole, with its line feed.
struct Line(SyncSender<Piece>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.try_send(Piece::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_stands_still_stops_nobody() {
        let before = dropped();
        let (lines, waiting) = sync_channel(2);
        let mut line = Line(lines);
        for _ in 0..5 {
            line.write_all(b"x\n").expect("nothing is waited for");
        }
        assert_eq!(dropped() - before, 3);
        drop(line);
        let mut written = Vec::new();
        write(&waiting, &mut written);
        assert_eq!(written, b"x\nx\n");
    }

    #[test]
    fn settings_say_what_they_allow() {
        for name in ["auto", "text", "json"] {
            assert_eq!(Format::parse(name).expect("a form").show(), name);
        }
        for name in ["error", "warn", "info"] {
            assert_eq!(Level::parse(name).expect("a level").show(), name);
        }
        assert!(Format::parse("JSON").is_err() && Level::parse("debug").is_err());
    }
}
