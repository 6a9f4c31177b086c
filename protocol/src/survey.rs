//! A question of an administrator that every core of every node answers from its memory: who watches a
//! user, and for which sessions the most waits. It owns the question's name in the policy, the form in
//! which a node answers, and what the answers of all nodes make together; it asks nobody.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::record::check_user;

/// The most sessions that a node names in its answer.
pub const MAX_NAMED: usize = 50;
/// The most sessions that the answer of a whole cluster names.
pub const MAX_SHOWN: usize = 1_000;
/// For how long a question is asked at most, ms: who has taken it away by then has not lived.
pub const LIFETIME: u64 = 30_000;

/// A question, under a name that no other one has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Survey {
    /// The name, 16 hexadecimal digits.
    pub id: Box<str>,
    /// What every core answers.
    pub about: About,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// The sessions that watch this user.
    Watchers(Box<str>),
    /// The sessions whose socket takes no more, those with the most bytes first.
    Slow,
}

impl Survey {
    /// A question under the name that `random` makes.
    #[must_use]
    pub fn new(random: u64, about: About) -> Self {
        Self {
            id: format!("{random:016x}").into(),
            about,
        }
    }

    /// The question as a part of its subject's name in the store.
    pub(crate) fn field(&self) -> String {
        match &self.about {
            About::Watchers(user) => format!("{}:watchers:{user}", self.id),
            About::Slow => format!("{}:slow", self.id),
        }
    }

    /// The question of that name; `None` for one that this release cannot answer.
    pub(crate) fn of_field(field: &str) -> Option<Self> {
        let (id, about) = field.split_once(':')?;
        let is_name = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let about = match about.split_once(':') {
            Some(("watchers", user)) if check_user(user).is_ok() => About::Watchers(user.into()),
            None if about == "slow" => About::Slow,
            _ => return None,
        };
        is_name.then(|| Self {
            id: id.into(),
            about,
        })
    }
}

/// The answer of a core or of a node; as JSON what a node leaves in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// How many sessions there are.
    pub total: u64,
    /// Some of them, at most [`MAX_NAMED`].
    pub sessions: Vec<Named>,
}

/// A session that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    /// The session's user.
    pub user: Box<str>,
    /// The session's name, as its `welcome` has it.
    pub session: Box<str>,
    /// Bytes that wait for its socket; of slow sessions alone, as what follows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// The users whose newest state waits to be sent to it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changes: u64,
    /// For how long its socket has taken nothing more, ms.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub blocked_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Found {
    /// Takes what another core of the node has found.
    pub fn add(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        self.sessions.extend(other.sessions);
        self.sessions
            .sort_by(|one, other| one.rank().cmp(&other.rank()));
        self.sessions.truncate(MAX_NAMED);
    }

    /// The answer as one line of JSON.
    ///
    /// # Panics
    /// Never: its members are numbers and texts.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are JSON")
    }

    /// The answer in `bytes` of the store; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Named {
    /// Its place: those with the most bytes first, then by user.
    fn rank(&self) -> (Reverse<u64>, &str, &str) {
        (Reverse(self.bytes), &self.user, &self.session)
    }
}

/// What administrators are told: the answers by node, and which of `asked` have not answered.
#[must_use]
pub fn shown(about: &About, found: &BTreeMap<String, Found>, asked: &[String]) -> Value {
    let total = found.values().map(|found| found.total);
    let total = total.fold(0, u64::saturating_add);
    let nodes: Vec<Value> = found
        .iter()
        .map(|(node, found)| json!({ "node": node, "total": found.total }))
        .collect();
    let mut sessions: Vec<(&str, &Named)> = found
        .iter()
        .flat_map(|(node, found)| found.sessions.iter().map(|it| (node.as_str(), it)))
        .collect();
    sessions.sort_by(|(_, one), (_, other)| one.rank().cmp(&other.rank()));
    sessions.truncate(MAX_SHOWN);
    let named = sessions.len() as u64;
    let sessions: Vec<Value> = sessions
        .into_iter()
        .map(|(node, session)| {
            let mut value = serde_json::to_value(session).expect("numbers and texts are JSON");
            value["node"] = node.into();
            value
        })
        .collect();
    let silent = asked.iter().filter(|node| !found.contains_key(*node));
    let mut value = json!({
        "total": total,
        "notNamed": total.saturating_sub(named),
        "sessions": sessions,
        "nodes": nodes,
        "silent": silent.collect::<Vec<_>>(),
    });
    if let About::Watchers(user) = about {
        value["user"] = (**user).into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(user: &str, bytes: u64) -> Named {
        Named {
            user: user.into(),
            session: format!("n-{user}").into(),
            bytes,
            ..Named::default()
        }
    }

    #[test]
    fn a_question_keeps_its_name_and_what_is_none_is_none() {
        for about in [
            About::Slow,
            About::Watchers("a:b".into()),
            About::Watchers("slow".into()),
        ] {
            let survey = Survey::new(7, about);
            assert_eq!(Survey::of_field(&survey.field()), Some(survey));
        }
        for none in [
            "",
            "0000000000000007",
            "0000000000000007:",
            "0000000000000007:watchers",
            "0000000000000007:watchers:",
            "0000000000000007:slow:x",
            "7:slow",
            "000000000000000g:slow",
            "0000000000000007:shape",
        ] {
            assert_eq!(Survey::of_field(none), None, "{none}");
        }
    }

    #[test]
    fn a_node_counts_all_and_names_those_with_the_most_bytes() {
        let mut found = Found::default();
        for core in 0..3 {
            let sessions = (0..30).map(|n| named(&format!("u{core}-{n}"), 1 + n + core));
            found.add(Found {
                total: 40,
                sessions: sessions.collect(),
            });
        }
        assert_eq!((found.total, found.sessions.len()), (120, MAX_NAMED));
        assert_eq!(found.sessions[0].bytes, 32);
        assert!(found.sessions.is_sorted_by_key(|it| Reverse(it.bytes)));
        assert_eq!(Found::decode(found.encode().as_bytes()), Some(found));
        assert_eq!(Found::decode(b"[]"), None);
        let one = Found {
            total: 1,
            sessions: vec![named("bob", 0)],
        };
        let line = r#"{"total":1,"sessions":[{"user":"bob","session":"n-bob"}]}"#;
        assert_eq!(one.encode(), line);
        let newer = line.replace(r#""total""#, r#""later":[],"total""#);
        assert_eq!(Found::decode(newer.as_bytes()), Some(one));
    }

    #[test]
    fn a_cluster_is_told_with_who_is_silent_and_how_many_are_not_named() {
        let of = |total, user: &str, bytes| Found {
            total,
            sessions: vec![named(user, bytes)],
        };
        let found = BTreeMap::from([
            ("n1".to_owned(), of(3, "bob", 5)),
            ("n2".to_owned(), of(1, "ann", 9)),
        ]);
        let asked = ["n1", "n2", "n3"].map(String::from);
        let told = shown(&About::Watchers("alice".into()), &found, &asked);
        assert_eq!(
            told,
            json!({
                "user": "alice", "total": 4, "notNamed": 2, "silent": ["n3"],
                "nodes": [{ "node": "n1", "total": 3 }, { "node": "n2", "total": 1 }],
                "sessions": [
                    { "node": "n2", "user": "ann", "session": "n-ann", "bytes": 9 },
                    { "node": "n1", "user": "bob", "session": "n-bob", "bytes": 5 },
                ],
            })
        );
        assert_eq!(shown(&About::Slow, &found, &[]).get("user"), None);
    }
}
