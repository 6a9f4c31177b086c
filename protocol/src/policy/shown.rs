//! What administrators see of the policy, and the lines in the log for what they did.

use serde_json::{Value, json};

use super::{About, Entry, List, Policy, PolicyError, Subject, Survey};

/// An entry as administrators see it.
#[must_use]
pub fn shown(subject: &Subject, entry: &Entry) -> Value {
    let mut value = match subject {
        Subject::Everyone => json!({ "everyone": true, "before": entry.before }),
        Subject::User(user) => json!({ "user": user, "before": entry.before }),
        Subject::Token(id) => json!({ "jti": id }),
        Subject::Blocks(user) => json!({ "user": user, "users": entry.blocked }),
        Subject::Group(name) => json!({ "group": name, "users": entry.members }),
        Subject::Trace(user) => json!({ "user": user }),
        Subject::Survey(survey) => json!({ "survey": survey.id }),
    };
    if entry.until != 0 {
        value["until"] = entry.until.into();
    }
    value["by"] = (*entry.by).into();
    value["at"] = entry.at.into();
    value
}

/// Every revocation of the policy, as administrators see them.
#[must_use]
pub fn revocations(policy: &Policy) -> Value {
    let mut entries = policy.entries();
    let is_revocation = |subject: &Subject| {
        matches!(
            subject,
            Subject::Everyone | Subject::User(_) | Subject::Token(_)
        )
    };
    entries.retain(|(subject, _)| is_revocation(subject));
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    let shown: Vec<Value> = entries
        .iter()
        .map(|(subject, entry)| shown(subject, entry))
        .collect();
    json!({ "revocations": shown })
}

impl List {
    /// The list of that name, as administrators see it; one that nobody has written is empty.
    #[must_use]
    pub fn shown(self, policy: &Policy, name: &str) -> Value {
        let subject = self.of(name);
        match policy.get(&subject) {
            Some(entry) => shown(&subject, &entry),
            None => json!({ (self.member()): name, "users": [] }),
        }
    }
}

/// What administrators are told when the user whose trace they end is not traced, or no more.
pub const NOT_TRACED: &str = "the user is not traced";

/// Who is followed and until when, as administrators see it.
#[must_use]
pub fn traces(policy: &Policy) -> Value {
    let traced = policy.traced.iter();
    let mut traced: Vec<_> = traced
        .map(|(user, entry)| (Subject::Trace(user.clone()), entry))
        .collect();
    traced.sort_by(|(one, _), (other, _)| one.cmp(other));
    let traced = traced.iter().map(|(subject, entry)| shown(subject, entry));
    json!({ "traced": traced.collect::<Vec<_>>() })
}

/// What is said to who has ended the trace of a user.
#[must_use]
pub fn trace_ended(user: &str) -> Value {
    json!({ "user": user, "until": null })
}

/// The steps of a user, as administrators see them, with the time until when it is followed.
#[must_use]
pub fn trace_of(policy: &Policy, user: &str, steps: &[crate::TraceStep]) -> Value {
    let entry = policy.get(&Subject::Trace(user.into()));
    json!({ "user": user, "until": entry.map(|entry| entry.until), "steps": steps })
}

/// The revocation that parameters name, to be taken back: `user`, `jti`, or `everyone=true`.
pub fn named(
    user: Option<&str>,
    jti: Option<&str>,
    everyone: Option<&str>,
) -> Result<Subject, PolicyError> {
    match (user, jti, everyone) {
        (Some(user), None, None) => Ok(Subject::User(user.into())),
        (None, Some(id), None) => Ok(Subject::Token(id.into())),
        (None, None, Some("true")) => Ok(Subject::Everyone),
        _ => Err(PolicyError::Subject),
    }
}

fn asked(Survey { about, .. }: &Survey) -> String {
    match about {
        About::Watchers(user) => format!("asked who watches {user:?}"),
        About::Slow => "asked which sessions are slow".into(),
    }
}

/// The line in the log for what `by` has decreed.
#[must_use]
pub fn audit(by: &str, subject: &Subject, entry: Option<&Entry>) -> String {
    let what = match (subject, entry) {
        (Subject::Everyone, Some(entry)) => {
            format!("revoked everyone's tokens issued before {}", entry.before)
        }
        (Subject::User(user), Some(entry)) => {
            format!(
                "revoked the tokens of {user:?} issued before {}",
                entry.before
            )
        }
        (Subject::Token(id), Some(_)) => format!("revoked the token {id:?}"),
        (Subject::Blocks(user), Some(entry)) => {
            format!(
                "set the list of whom {user:?} blocks: {} users",
                entry.blocked.len()
            )
        }
        (Subject::Group(name), Some(entry)) => {
            let users = entry.members.len();
            format!("set who is in the group {name:?}: {users} users")
        }
        (Subject::Trace(user), Some(entry)) => {
            let minutes = entry.until.saturating_sub(entry.at) / 60_000;
            format!("traces {user:?} for {minutes} min")
        }
        (Subject::Trace(user), None) => format!("ended the trace of {user:?}"),
        (Subject::Survey(survey), _) => asked(survey),
        (Subject::Everyone, None) => "took back the revocation of everyone's tokens".into(),
        (Subject::User(user), None) => format!("took back the revocation of {user:?}'s tokens"),
        (Subject::Token(id), None) => format!("took back the revocation of the token {id:?}"),
        (Subject::Blocks(user), None) => format!("emptied the list of whom {user:?} blocks"),
        (Subject::Group(name), None) => format!("emptied the group {name:?}"),
    };
    format!("administration: {by:?} {what}")
}
