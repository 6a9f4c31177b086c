//! What administrators have decreed: tokens that count no more, users who keep others from watching
//! them, who is in which group, whose way through the cluster is followed, and what is asked of all nodes.
//! It owns the entries' form in the store and what they mean together; who may decree, others decide.

mod shown;

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::shown::{
    NOT_TRACED, audit, named, revocations, shown, trace_ended, trace_of, traces,
};
use crate::{
    Survey, WatchRule,
    record::{UserIdError, check_user},
    survey::{About, LIFETIME},
};

/// The most entries of a policy; more are refused.
pub const MAX_ENTRIES: usize = 100_000;
/// The most users of one list: whom a user blocks, or who is in a group.
pub const MAX_LISTED: usize = 1_000;
/// The most users that are followed at a time; more are refused.
pub const MAX_TRACED: usize = 5;
/// The longest time for which a user is followed, and that when none is asked for, minutes.
pub const TRACE_MINUTES: (u64, u64) = (60, 5);
/// The longest name of a token (`jti`, RFC 7519 §4.1.7), in bytes.
pub const MAX_TOKEN_ID: usize = 256;

/// The subject of an entry: whose tokens are revoked, or whose watchers are kept away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Tokens of everyone that were issued before a time.
    Everyone,
    /// Tokens of a user that were issued before a time.
    User(Box<str>),
    /// The token with this name (`jti`).
    Token(Box<str>),
    /// The users who may not watch this one.
    Blocks(Box<str>),
    /// The users who are in the group of this name.
    Group(Box<str>),
    /// That each step of this user is told, until the entry ends.
    Trace(Box<str>),
    /// That every core of every node answers this, until the entry ends.
    Survey(Survey),
}

impl Subject {
    /// The subject's name in the store.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Everyone => "everyone".into(),
            Self::User(user) => format!("user:{user}"),
            Self::Token(id) => format!("token:{id}"),
            Self::Blocks(user) => format!("blocks:{user}"),
            Self::Group(name) => format!("group:{name}"),
            Self::Trace(user) => format!("trace:{user}"),
            Self::Survey(survey) => format!("survey:{}", survey.field()),
        }
    }

    /// The subject of that name; `None` for a name that no release knows.
    #[must_use]
    pub fn of_field(field: &str) -> Option<Self> {
        match field.split_once(':') {
            None if field == "everyone" => Some(Self::Everyone),
            Some(("user", user)) => Some(Self::User(user.into())),
            Some(("token", id)) => Some(Self::Token(id.into())),
            Some(("blocks", user)) => Some(Self::Blocks(user.into())),
            Some(("group", name)) => Some(Self::Group(name.into())),
            Some(("trace", user)) => Some(Self::Trace(user.into())),
            Some(("survey", survey)) => Survey::of_field(survey).map(Self::Survey),
            _ => None,
        }
    }
}

/// A kind of list that administrators keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// The users who may not watch the one that the list is named after.
    Blocks,
    /// The users of the group that the list is named after.
    Group,
}

impl List {
    /// The list of that name, as the subject of an entry.
    #[must_use]
    pub fn of(self, name: &str) -> Subject {
        match self {
            Self::Blocks => Subject::Blocks(name.into()),
            Self::Group => Subject::Group(name.into()),
        }
    }

    /// The member of answers that has the list's name.
    #[must_use]
    pub const fn member(self) -> &'static str {
        match self {
            Self::Blocks => "user",
            Self::Group => "group",
        }
    }

    /// Reads a list from JSON, `{"users":["bob"]}`, as `by` asks for it at `now` (ms since 1970).
    /// `None` = nobody is in it.
    ///
    /// # Errors
    /// When it is not that JSON, a user breaks the rules of [`check_user`], or there are more than
    /// [`MAX_LISTED`].
    pub fn read(self, body: &[u8], by: &str, now: u64) -> Result<Option<Entry>, PolicyError> {
        let users = users(body)?;
        if users.is_empty() {
            return Ok(None);
        }
        let mut entry = Entry {
            by: by.into(),
            at: now,
            ..Entry::default()
        };
        match self {
            Self::Blocks => entry.blocked = users,
            Self::Group => entry.members = users,
        }
        Ok(Some(entry))
    }

    /// The users of an entry of this kind, sorted.
    #[must_use]
    pub fn users(self, entry: &Entry) -> &[Box<str>] {
        match self {
            Self::Blocks => &entry.blocked,
            Self::Group => &entry.members,
        }
    }
}

/// What was decreed of a subject, by whom and when; times in ms since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Tokens that were issued before this count no more; of one token it has no meaning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub before: u64,
    /// When the entry is forgotten, since no token that it is about is good any longer; 0 = never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub until: u64,
    /// The users who may not watch the subject; empty unless it is `Blocks`.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub blocked: Box<[Box<str>]>,
    /// The users of the group, sorted; empty unless the subject is one.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub members: Box<[Box<str>]>,
    /// The administrator: the user of the token that was shown.
    pub by: Box<str>,
    /// When the entry was decreed.
    pub at: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The reason for which a request or a stored value is not an entry.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The value is not the JSON of an entry.
    #[error("it cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The name of a user breaks the rules of [`check_user`].
    #[error("{0}")]
    User(#[from] UserIdError),
    /// The token's name is empty or too long.
    #[error("a token's name (jti) has 1 to {MAX_TOKEN_ID} bytes")]
    TokenId,
    /// The request names no subject, or more than one.
    #[error(
        "one of these is needed: \"user\", \"jti\", or \"everyone\": true, and \"before\" at most with \
         the first and the last"
    )]
    Subject,
    /// The list has more than [`MAX_LISTED`] users.
    #[error("a list has at most {MAX_LISTED} users")]
    TooMany,
    /// The request follows a user for no time, or for too long.
    #[error(
        "the body must be {{\"minutes\":N}}, with N a whole number from 1 to {}, or empty",
        TRACE_MINUTES.0
    )]
    TraceTime,
    /// As many users are followed as may be.
    #[error(
        "{MAX_TRACED} users are traced already, and no more may be: end one with DELETE /trace?userId="
    )]
    TooManyTraced,
}

impl Entry {
    /// As it is kept.
    ///
    /// # Panics
    /// Never: its members are numbers and texts.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are JSON")
    }

    /// The entry in `bytes` of the store.
    ///
    /// # Errors
    /// When they are not the JSON of an entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A revocation as an administrator asks for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    user: Option<Box<str>>,
    jti: Option<Box<str>>,
    #[serde(default)]
    everyone: bool,
    before: Option<u64>,
    expires: Option<u64>,
}

/// Reads a revocation from JSON: `{"user":"alice"}`, `{"everyone":true,"before":ms}` or `{"jti":"…"}`,
/// as `by` asks for it at `now`. Without `before` it is of all tokens so far. It is forgotten `lifetime`
/// ms later, the longest that a token may live, and never with 0; `expires` (ms since 1970) says so of
/// one token.
pub fn revocation(
    body: &[u8],
    by: &str,
    now: u64,
    lifetime: u64,
) -> Result<(Subject, Entry), PolicyError> {
    let asked: Asked = serde_json::from_slice(body)?;
    let subject = match (asked.user, asked.jti, asked.everyone) {
        (Some(user), None, false) => {
            check_user(&user)?;
            Subject::User(user)
        }
        (None, Some(id), false) if (1..=MAX_TOKEN_ID).contains(&id.len()) => Subject::Token(id),
        (None, Some(_), false) => return Err(PolicyError::TokenId),
        (None, None, true) => Subject::Everyone,
        _ => return Err(PolicyError::Subject),
    };
    let is_token = matches!(subject, Subject::Token(_));
    if (is_token && asked.before.is_some()) || (!is_token && asked.expires.is_some()) {
        return Err(PolicyError::Subject);
    }
    // A time to come would shut out tokens that are yet to be issued.
    let before = asked.before.unwrap_or(now).min(now);
    let forgotten = match lifetime {
        0 => 0,
        lifetime => now.saturating_add(lifetime),
    };
    let entry = Entry {
        before: if is_token { 0 } else { before },
        until: asked.expires.unwrap_or(forgotten),
        by: by.into(),
        at: now,
        ..Entry::default()
    };
    Ok((subject, entry))
}

/// Reads for how long a user is followed from JSON, `{"minutes":5}` or nothing, as `by` asks for it at
/// `now`.
pub fn trace(body: &[u8], by: &str, now: u64) -> Result<Entry, PolicyError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        minutes: Option<u64>,
    }
    let asked = match body.trim_ascii() {
        [] => None,
        body => {
            let asked = serde_json::from_slice::<Asked>(body);
            asked.map_err(|_| PolicyError::TraceTime)?.minutes
        }
    };
    let minutes = asked.unwrap_or(TRACE_MINUTES.1);
    if !(1..=TRACE_MINUTES.0).contains(&minutes) {
        return Err(PolicyError::TraceTime);
    }
    Ok(Entry {
        until: now + minutes * 60_000,
        by: by.into(),
        at: now,
        ..Entry::default()
    })
}

/// The entry that asks something of all nodes, as `by` does at `now`.
#[must_use]
pub fn survey(by: &str, now: u64) -> Entry {
    Entry {
        until: now + LIFETIME,
        by: by.into(),
        at: now,
        ..Entry::default()
    }
}

/// The users of a list, sorted.
fn users(body: &[u8]) -> Result<Box<[Box<str>]>, PolicyError> {
    #[derive(Deserialize)]
    struct Asked {
        users: Vec<Box<str>>,
    }
    let mut users = serde_json::from_slice::<Asked>(body)?.users;
    users.iter().try_for_each(|user| check_user(user))?;
    users.sort_unstable();
    users.dedup();
    if users.len() > MAX_LISTED {
        return Err(PolicyError::TooMany);
    }
    Ok(users.into())
}

/// Every entry in force: what is revoked, and who keeps whom from watching.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    everyone: Option<Arc<Entry>>,
    users: HashMap<Box<str>, Arc<Entry>>,
    tokens: HashMap<Box<str>, Arc<Entry>>,
    blocks: HashMap<Box<str>, Arc<Entry>>,
    groups: HashMap<Box<str>, Arc<Entry>>,
    traced: HashMap<Box<str>, Arc<Entry>>,
    surveys: HashMap<Survey, Arc<Entry>>,
}

/// The members of a session's token by which a later revocation finds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Issued {
    /// When the token was issued, ms since 1970; 0 = it does not say.
    pub at: u64,
    /// The hash of the token's name; 0 = it has none.
    pub token: u64,
}

impl Issued {
    /// The members of a token issued at `at` (ms since 1970) with the name `id`.
    #[must_use]
    pub fn new(at: u64, id: Option<&str>) -> Self {
        Self {
            at,
            token: id.map_or(0, |id| ring::hash(id).max(1)),
        }
    }
}

/// The changes of a policy since another one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Tokens of everyone issued before this are revoked now; 0 = none are.
    pub before: u64,
    /// Tokens of these users issued before these times, ms since 1970, are revoked now.
    pub users: Vec<(Box<str>, u64)>,
    /// The hashes of the names of tokens that are revoked now.
    pub tokens: Vec<u64>,
    /// Users whom others than before may watch: their block lists have changed, or they are in a group
    /// no more.
    pub watched: Vec<Box<str>>,
}

impl News {
    /// Whether sessions of any user may be concerned.
    #[must_use]
    pub fn are_of_all(&self) -> bool {
        self.before != 0 || !self.tokens.is_empty()
    }

    /// Whether the token of a session is revoked, whosever it is.
    #[must_use]
    pub fn revoke(&self, issued: Issued) -> bool {
        issued.at < self.before || (issued.token != 0 && self.tokens.contains(&issued.token))
    }
}

impl Policy {
    /// Takes an entry, or that there is none of the subject any more.
    pub fn set(&mut self, subject: Subject, entry: Option<Entry>) {
        let entry = entry.map(Arc::new);
        let (map, name) = match subject {
            Subject::Everyone => {
                self.everyone = entry;
                return;
            }
            Subject::User(user) => (&mut self.users, user),
            Subject::Token(id) => (&mut self.tokens, id),
            Subject::Blocks(user) => (&mut self.blocks, user),
            Subject::Group(name) => (&mut self.groups, name),
            Subject::Trace(user) => (&mut self.traced, user),
            Subject::Survey(survey) => {
                match entry {
                    Some(entry) => self.surveys.insert(survey, entry),
                    None => self.surveys.remove(&survey),
                };
                return;
            }
        };
        match entry {
            Some(entry) => map.insert(name, entry),
            None => map.remove(&name),
        };
    }

    /// Takes what `other` has and this lacks, for a store that has lost what it had.
    pub fn keep_from(&mut self, other: &Self) {
        for (subject, entry) in other.entries() {
            if self.get(&subject).is_none() {
                self.set(subject, Some((*entry).clone()));
            }
        }
    }

    /// The entry of a subject.
    #[must_use]
    pub fn get(&self, subject: &Subject) -> Option<Arc<Entry>> {
        let entry = match subject {
            Subject::Everyone => self.everyone.as_ref(),
            Subject::User(user) => self.users.get(user),
            Subject::Token(id) => self.tokens.get(id),
            Subject::Blocks(user) => self.blocks.get(user),
            Subject::Group(name) => self.groups.get(name),
            Subject::Trace(user) => self.traced.get(user),
            Subject::Survey(survey) => self.surveys.get(survey),
        };
        entry.cloned()
    }

    /// All entries, in the order of their subjects' kinds.
    #[must_use]
    pub fn entries(&self) -> Vec<(Subject, Arc<Entry>)> {
        let everyone = self.everyone.iter().map(|entry| (Subject::Everyone, entry));
        let users = (self.users.iter()).map(|(user, entry)| (Subject::User(user.clone()), entry));
        let tokens = (self.tokens.iter()).map(|(id, entry)| (Subject::Token(id.clone()), entry));
        let blocks =
            (self.blocks.iter()).map(|(user, entry)| (Subject::Blocks(user.clone()), entry));
        let groups =
            (self.groups.iter()).map(|(name, entry)| (Subject::Group(name.clone()), entry));
        let traced =
            (self.traced.iter()).map(|(user, entry)| (Subject::Trace(user.clone()), entry));
        let surveys =
            (self.surveys.iter()).map(|(asked, entry)| (Subject::Survey(asked.clone()), entry));
        let all = everyone
            .chain(users)
            .chain(tokens)
            .chain(blocks)
            .chain(groups)
            .chain(traced)
            .chain(surveys);
        all.map(|(subject, entry)| (subject, Arc::clone(entry)))
            .collect()
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.everyone.is_some())
            + self.users.len()
            + self.tokens.len()
            + self.blocks.len()
            + self.groups.len()
            + self.traced.len()
            + self.surveys.len()
    }

    /// Whether nothing is decreed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries that are to be forgotten at `now`.
    #[must_use]
    pub fn outlived(&self, now: u64) -> Vec<(Subject, Arc<Entry>)> {
        let mut entries = self.entries();
        entries.retain(|(_, entry)| entry.until != 0 && entry.until <= now);
        entries
    }

    /// Whether a token of `user`, issued at `issued` (ms; 0 = it does not say) and of that name, counts
    /// no more.
    #[must_use]
    pub fn revokes(&self, user: &str, issued: u64, id: Option<&str>) -> bool {
        let is_before = |entry: Option<&Arc<Entry>>| entry.is_some_and(|it| issued < it.before);
        is_before(self.everyone.as_ref())
            || is_before(self.users.get(user))
            || id.is_some_and(|id| self.tokens.contains_key(id))
    }

    /// Whether `user` keeps `watcher` from watching it.
    #[must_use]
    pub fn blocks(&self, user: &str, watcher: &str) -> bool {
        has(self.blocked_by(user), watcher)
    }

    /// Whether `watcher`, whose token has this rule (`None` = anyone), may see `user`: itself always.
    #[must_use]
    pub fn lets_see(&self, rule: Option<&WatchRule>, watcher: &str, user: &str) -> bool {
        watcher == user
            || (rule.is_none_or(|rule| rule.allows(user, |group| self.is_in(group, user)))
                && !self.blocks(user, watcher))
    }

    /// Whether `user` is in a group.
    #[must_use]
    pub fn is_in(&self, group: &str, user: &str) -> bool {
        has(self.members(group), user)
    }

    /// The users of a group, sorted.
    #[must_use]
    pub fn members(&self, group: &str) -> &[Box<str>] {
        self.groups.get(group).map_or(&[], |entry| &entry.members)
    }

    /// The users whom `user` keeps from watching it.
    #[must_use]
    pub fn blocked_by(&self, user: &str) -> &[Box<str>] {
        self.blocks.get(user).map_or(&[], |entry| &entry.blocked)
    }

    /// The users who are followed, sorted.
    #[must_use]
    pub fn traced(&self) -> Vec<Box<str>> {
        let mut users: Vec<Box<str>> = self.traced.keys().cloned().collect();
        users.sort_unstable();
        users
    }

    /// Whether the user may be followed, too.
    pub fn may_trace(&self, user: &str) -> Result<(), PolicyError> {
        match self.traced.len() < MAX_TRACED || self.traced.contains_key(user) {
            true => Ok(()),
            false => Err(PolicyError::TooManyTraced),
        }
    }

    /// What is asked of all nodes and was not with `old`.
    #[must_use]
    pub fn surveys_since(&self, old: &Self) -> Vec<Survey> {
        let asked = self.surveys.keys();
        let new = asked.filter(|survey| !old.surveys.contains_key(*survey));
        new.cloned().collect()
    }

    /// What this has that `old` had not.
    #[must_use]
    pub fn news_since(&self, old: &Self) -> News {
        fn changed<'a>(
            new: &'a HashMap<Box<str>, Arc<Entry>>,
            old: &'a HashMap<Box<str>, Arc<Entry>>,
        ) -> impl Iterator<Item = (&'a Box<str>, &'a Arc<Entry>)> {
            let same = |name, entry| old.get(name).is_some_and(|it| Arc::ptr_eq(it, entry));
            new.iter().filter(move |(name, entry)| !same(*name, entry))
        }
        let before = |policy: &Self| policy.everyone.as_ref().map_or(0, |entry| entry.before);
        let tokens = changed(&self.tokens, &old.tokens);
        let mut watched: Vec<Box<str>> = changed(&self.blocks, &old.blocks)
            .map(|(user, _)| user.clone())
            .collect();
        let gone = old
            .blocks
            .keys()
            .filter(|user| !self.blocks.contains_key(*user));
        watched.extend(gone.cloned());
        for (group, entry) in &old.groups {
            let members = self.members(group);
            let left = entry.members.iter().filter(|user| !has(members, user));
            watched.extend(left.cloned());
        }
        News {
            before: if before(self) > before(old) {
                before(self)
            } else {
                0
            },
            users: changed(&self.users, &old.users)
                .map(|(user, entry)| (user.clone(), entry.before))
                .collect(),
            tokens: tokens
                .map(|(id, _)| Issued::new(0, Some(id)).token)
                .collect(),
            watched,
        }
    }
}

/// Whether a sorted list has the user.
fn has(list: &[Box<str>], user: &str) -> bool {
    list.binary_search_by(|one| (**one).cmp(user)).is_ok()
}

#[cfg(test)]
mod tests;
