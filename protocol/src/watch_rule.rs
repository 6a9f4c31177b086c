//! Whom a token lets its bearer see: the meaning of its claims `watch` and `watch_groups`.
//! It owns the rule; who reads tokens owns whether they are true, and the policy who is in a group.

/// Whom a session may watch and query, by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchRule {
    /// The session may see every user.
    Anyone,
    /// The session may see the users that at least one pattern matches; with none it sees nobody
    /// else.
    Only(Box<[Pattern]>),
}

/// One or several users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// The user of this name.
    User(Box<str>),
    /// Every user whose name begins so.
    Prefix(Box<str>),
    /// Whoever is in the group of this name.
    Group(Box<str>),
}

impl Pattern {
    /// The pattern in `pattern`: a user's name, or with a final `*` every name that begins so.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        match pattern.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::User(pattern.into()),
        }
    }
}

impl WatchRule {
    /// Whether a session under this rule may see `user`, who is in the groups that `is_in` knows.
    #[must_use]
    pub fn allows(&self, user: &str, is_in: impl Fn(&str) -> bool) -> bool {
        let allows = |pattern: &Pattern| match pattern {
            Pattern::User(name) => **name == *user,
            Pattern::Prefix(prefix) => user.starts_with(&**prefix),
            Pattern::Group(group) => is_in(group),
        };
        match self {
            Self::Anyone => true,
            Self::Only(patterns) => patterns.iter().any(allows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_allows_names_prefixes_and_groups_and_nothing_else() {
        let mut patterns = ["bob", "team-*"].map(Pattern::new).to_vec();
        patterns.push(Pattern::Group("staff".into()));
        let rule = WatchRule::Only(patterns.into());
        for (user, group, allowed) in [
            ("bob", "", true),
            ("bobby", "", false),
            ("team-7", "", true),
            ("te", "", false),
            ("carol", "staff", true),
            ("carol", "guests", false),
            // A name is no group.
            ("staff", "", false),
        ] {
            assert_eq!(
                rule.allows(user, |of| of == group),
                allowed,
                "{user} {group}"
            );
        }
        let nobody = |_: &str| false;
        assert!(WatchRule::Only([Pattern::new("*")].into()).allows("anyone", nobody));
        assert!(!WatchRule::Only([].into()).allows("anyone", nobody));
    }
}
