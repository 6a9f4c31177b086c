//! What a run was made on and with: figures of this machine and of the bench's own build.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::system::uname;
use serde::{Deserialize, Serialize};

use crate::server;

/// The machine and the bench of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    /// Release and build of the kernel.
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    /// The processor's name, and how many of them this process may use.
    pub(crate) processor: String,
    pub(crate) processors: usize,
    /// Main memory, bytes.
    pub(crate) memory: u64,
    /// Processes that wanted to run in the minute before the run, on average.
    pub(crate) load: f64,
    /// Version and build ID of the bench.
    pub(crate) bench: String,
}

impl Machine {
    /// The machine that this process runs on, with its load at this moment.
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let names = uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let processors = read("/proc/cpuinfo");
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = read("/proc/loadavg");
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        let version = env!("CARGO_PKG_VERSION");
        let build = server::build(std::process::id());
        Self {
            kernel: format!("{} {}", text(names.sysname()), text(names.release())),
            architecture: text(names.machine()),
            processor: model.map_or("unknown processor", |(_, name)| name).into(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory: server::memory(),
            load: load.unwrap_or(0.0),
            bench: build.map_or_else(|| version.into(), |id| format!("{version} ({id})")),
        }
    }

    /// The machine in one line of text, for a report on a terminal.
    pub(crate) fn short(&self) -> String {
        let Self {
            kernel,
            processors,
            processor,
            ..
        } = self;
        format!("{kernel}, {processors} × {processor}")
    }
}

/// Milliseconds since 1970 now.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}

/// A time of the calendar, from milliseconds since 1970, UTC.
pub(crate) fn calendar(ms: u64) -> String {
    let seconds = ms / 1_000;
    // Days from the calendar's March, so that a leap day is a year's last.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * march + 2) / 5 + 1, (march + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_kernel_processors_and_memory() {
        let here = Machine::here();
        assert!(here.kernel.starts_with("Linux ") && here.processors > 0);
        assert!(here.memory > 1 << 28 && here.bench.starts_with(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn times_have_their_day_in_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_962_660, "2026-11-29 14:31:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(calendar(seconds * 1_000), text);
        }
    }
}
