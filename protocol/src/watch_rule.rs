//! Whom a token lets its bearer see: the meaning of its `watch` claim.
//! It owns the rule; who reads tokens owns whether they are true.

/// Whom a session may watch and query, by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchRule {
    /// The session may see every user.
    Anyone,
    /// The session may see the users that at least one pattern matches; with none it sees nobody
    /// else.
    Only(Box<[Pattern]>),
}

/// A user's name, or with a final `*` every name that begins so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern in `pattern`; every text is one.
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
