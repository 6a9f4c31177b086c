//! The limit of open files, by which connections are counted.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The limit of this process, in descriptors; 2^20 where there is none.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Fewer connections than that are said at the start: nobody means so few, and a limit that was forgotten gives them.
const FEW: u64 = 1_000;

/// Why no connection could be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, and {own} are for the program itself, so that no connection is left; \
     {RAISE}"
)]
pub struct TooFewFiles {
    /// The limit of this process, raised as far as it goes.
    pub limit: u64,
    /// Descriptors that are kept for other purposes than connections.
    pub own: u64,
}

/// What to do about it.
const RAISE: &str = "raise it (LimitNOFILE=1048576 in a unit of systemd, `ulimit -n` in a shell, --ulimit nofile for a container)";

/// How many connections the limit of open files allows beside `own` descriptors, at least 1. The limit is raised
/// as far as it goes first.
///
/// # Errors
/// The limit leaves no descriptor for a connection.
pub fn connections(own: u64) -> Result<u64, TooFewFiles> {
    allowed(raise_open_files(), own)
}

fn allowed(limit: u64, own: u64) -> Result<u64, TooFewFiles> {
    match limit.saturating_sub(own) {
        0 => Err(TooFewFiles { limit, own }),
        connections => Ok(connections),
    }
}

/// A line for the start, when the limit of open files allows fewer than the `wanted` connections (0 = as many as
/// it does), or so few that it was forgotten. `setting` is the one that says how many are wanted.
#[must_use]
pub fn few_connections(allowed: u64, setting: &str, wanted: u64) -> Option<String> {
    let limit = open_files();
    if wanted > allowed {
        Some(format!(
            "{setting} = {wanted}: the limit of open files, {limit}, allows {allowed} at a time; {RAISE}"
        ))
    } else if wanted == 0 && allowed < FEW {
        Some(format!(
            "the limit of open files, {limit}, allows {allowed} connections at a time; {RAISE}"
        ))
    } else {
        None
    }
}

/// Raises the limit as far as it goes, and says how far that is, in descriptors.
fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not allowed, the limit stays as it is.
    let _ = setrlimit(Resource::Nofile, limit);
    open_files()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_needs_itself_is_no_connection() {
        assert_eq!(allowed(1_024, 160).expect("room"), 864);
        assert_eq!(allowed(161, 160).expect("room for one"), 1);
        for limit in [160, 64, 10, 0] {
            let error = allowed(limit, 160).expect_err("no room").to_string();
            let begin = format!("the limit of open files is {limit}, and 160 are for");
            assert!(
                error.starts_with(&begin)
                    && error.contains("LimitNOFILE")
                    && error.contains("ulimit -n"),
                "{error}"
            );
        }
    }

    #[test]
    fn few_connections_are_said_unless_they_are_wanted() {
        let few = |allowed, wanted| few_connections(allowed, "server.max_connections", wanted);
        for (allowed, wanted) in [(1_000, 0), (10, 10), (100_000, 50_000)] {
            assert_eq!(few(allowed, wanted), None);
        }
        let line = few(999, 0).expect("few");
        assert!(line.contains("allows 999 connections"), "{line}");
        let line = few(5_000, 10_000).expect("fewer");
        assert!(
            line.starts_with("server.max_connections = 10000: ") && line.contains("allows 5000"),
            "{line}"
        );
    }
}
