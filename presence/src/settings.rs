//! What a core is told at its start, and the time that comes with every input.

use ring::{CoreId, VnodeCount};

/// The time of an input, read by the shell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Of a clock that never goes back, in microseconds.
    pub mono_us: u64,
    /// Milliseconds since 1970 (UTC); may step.
    pub wall_ms: u64,
}

/// The limits and durations of a core; durations in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's name, as in `welcome`.
    pub node: Box<str>,
    /// Which of the node's cores this is.
    pub core: CoreId,
    /// How many cores the node has, 1 to 64.
    pub cores: u16,
    /// How many vnodes the cluster has.
    pub vnodes: VnodeCount,
    /// Seeds the user table's hash and the heartbeats' jitter. Users choose their names, so it
    /// must be unpredictable in production.
    pub seed: u64,
    /// How long a user stays as it was after its last session broke.
    pub grace: u64,
    /// The same after a clean close; 0 = offline at once.
    pub clean_close_grace: u64,
    /// Between two pings.
    pub heartbeat: u64,
    /// A session is dead when nothing came for `heartbeat + heartbeat_timeout`.
    pub heartbeat_timeout: u64,
    /// How long a user waits for the store before it is shown without what the store knows, and a
    /// question before it is answered with an error.
    pub store_patience: u64,
    /// Sessions a user may have; one more is refused with 4409.
    pub max_devices: u32,
    /// Users a session may watch; a `watch` beyond is an `error`.
    pub max_watches: u32,
    /// Bytes of answers that may wait for one slow session; beyond, it is closed with 1013.
    pub outbox: usize,
    /// Messages a second that a session may send in the long run; beyond, 4429.
    pub message_rate: u32,
    /// Messages that a session may send at once.
    pub message_burst: u32,
}

/// Whom a session may watch and query, by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchRule {
    /// Everyone.
    Anyone,
    /// The users that one of these allows.
    Only(Box<[Pattern]>),
}

/// A user's name, or with a final `*` every name that begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Every text is a pattern.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    fn allows(&self, user: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => user.starts_with(prefix),
            None => *self.0 == *user,
        }
    }
}

impl WatchRule {
    /// Whether a session under this rule may see `user`.
    #[must_use]
    pub fn allows(&self, user: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Only(patterns) => patterns.iter().any(|pattern| pattern.allows(user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_allows_names_and_prefixes_and_nothing_else() {
        let rule = WatchRule::Only(["bob", "team-*"].map(Pattern::new).into());
        for (user, allowed) in [
            ("bob", true),
            ("bobby", false),
            ("team-7", true),
            ("te", false),
        ] {
            assert_eq!(rule.allows(user), allowed, "{user}");
        }
        assert!(WatchRule::Only([Pattern::new("*")].into()).allows("anyone"));
        assert!(!WatchRule::Only([].into()).allows("anyone"));
    }
}
