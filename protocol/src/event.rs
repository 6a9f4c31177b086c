//! The event on the topic `user_status_events`: JSON, one a change of a user's record.
//! It owns that format; foreign or newer messages become named errors, never a panic.

use std::borrow::Cow;

use ring::{Epoch, Vnode};
use serde::{Deserialize, Serialize};

use crate::{MAX_TEXT, Record, Status, UserIdError, Version, check_user, words::words};

words! {
    /// Why the owner changed a record; consumers need not act on it.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Cause {
        /// The user's session began.
        Connect => "connect",
        /// The user's session ended cleanly: close code 1000, or `bye`.
        Close => "close",
        /// A session or a grace period timed out.
        Timeout => "timeout",
        /// A new owner of the vnode adopted the record.
        Takeover => "takeover",
        /// The user set a status, mode or text.
        Status => "status",
        /// The owner published its state again after a gap in the store or on the bus.
        Resync => "resync",
    }
}

/// One change of a user's record, as the owner publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// The user whose record changed; also the message's key on the topic.
    pub user: Cow<'a, str>,
    /// The status that others see.
    pub status: Status,
    /// The user's text, at most [`MAX_TEXT`] bytes; empty = none.
    pub text: Cow<'a, str>,
    /// When the status began, ms since 1970; 0 = never.
    pub since: u64,
    /// When the last session ended, ms since 1970; 0 = never.
    pub last_seen: u64,
    /// The number of the user's sessions.
    pub devices: u32,
    /// The record's version; consumers drop what is not newer than what they know.
    pub version: Version,
    /// The user's vnode, which decides the partition.
    pub vnode: Vnode,
    /// The fencing token of the writer for that vnode: an owner that sees a higher one is fenced.
    pub epoch: Epoch,
    /// The name of the node that wrote the event.
    pub node: Cow<'a, str>,
    /// What made the owner change the record.
    pub cause: Cause,
}

/// Why a message of the topic is not an event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or a member is missing or of the wrong type.
    #[error("an event is not what version {FORMAT} of the format asks for: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The format version is none that this release reads.
    #[error("an event has format version {0}; known is {FORMAT}")]
    UnknownFormat(u64),
    /// The user's name breaks the rules of [`check_user`].
    #[error("an event has a bad user: {0}")]
    User(#[from] UserIdError),
    /// The text is longer than [`MAX_TEXT`] bytes; the value is its length.
    #[error("an event has a text of {0} bytes; allowed are {MAX_TEXT}")]
    TextTooLong(usize),
    /// The version is not below 2^53; the value is the version.
    #[error("an event has the version {0}; versions are below 2^53")]
    Version(u64),
    /// The event's epoch (first) is not the epoch in its version (second).
    #[error("an event has the epoch {0}, and a version of epoch {1}")]
    Epoch(u32, u32),
}

const FORMAT: u64 = 1;

/// The event as it lies on the wire.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    v: u64,
    #[serde(borrow)]
    user: Cow<'a, str>,
    status: Status,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    text: Cow<'a, str>,
    since: u64,
    last_seen: u64,
    devices: u32,
    version: u64,
    vnode: u16,
    epoch: u32,
    #[serde(borrow)]
    node: Cow<'a, str>,
    cause: Cause,
}

#[derive(Deserialize)]
struct Format {
    v: u64,
}

impl<'a> Event<'a> {
    /// The event that announces `record` of `user`: `node` wrote it as the owner of `vnode`, under
    /// the epoch of the record's version.
    #[must_use]
    pub fn of(
        user: &'a str,
        record: &'a Record,
        vnode: Vnode,
        node: &'a str,
        cause: Cause,
    ) -> Self {
        Self {
            user: user.into(),
            status: record.status,
            text: (*record.text).into(),
            since: record.since,
            last_seen: record.last_seen,
            devices: record.devices,
            version: record.version,
            vnode,
            epoch: record.version.epoch(),
            node: node.into(),
            cause,
        }
    }
}

impl Event<'_> {
    /// Appends the event's JSON. Does not allocate beyond growing `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let wire = Wire {
            v: FORMAT,
            user: Cow::Borrowed(&self.user),
            status: self.status,
            text: Cow::Borrowed(&self.text),
            since: self.since,
            last_seen: self.last_seen,
            devices: self.devices,
            version: self.version.get(),
            vnode: self.vnode.get(),
            epoch: self.epoch.get(),
            node: Cow::Borrowed(&self.node),
            cause: self.cause,
        };
        serde_json::to_writer(out, &wire).expect("a Vec takes every write, all keys are strings");
    }

    /// The event in a message's value. Unknown members are ignored.
    pub fn decode(value: &[u8]) -> Result<Event<'_>, EventError> {
        let wire = match serde_json::from_slice::<Wire<'_>>(value) {
            Ok(wire) if wire.v == FORMAT => wire,
            Ok(Wire { v, .. }) => return Err(EventError::UnknownFormat(v)),
            // A newer format may lack members of this one; its number says more.
            Err(error) => match serde_json::from_slice::<Format>(value) {
                Ok(Format { v }) if v != FORMAT => return Err(EventError::UnknownFormat(v)),
                _ => return Err(error.into()),
            },
        };
        check_user(&wire.user)?;
        if wire.text.len() > MAX_TEXT {
            return Err(EventError::TextTooLong(wire.text.len()));
        }
        let version = Version::from_u64(wire.version).ok_or(EventError::Version(wire.version))?;
        if version.epoch().get() != wire.epoch {
            let own = version.epoch().get();
            return Err(EventError::Epoch(wire.epoch, own));
        }
        Ok(Event {
            user: wire.user,
            status: wire.status,
            text: wire.text,
            since: wire.since,
            last_seen: wire.last_seen,
            devices: wire.devices,
            version,
            vnode: Vnode::new(wire.vnode),
            epoch: Epoch::new(wire.epoch),
            node: wire.node,
            cause: wire.cause,
        })
    }

    /// The same event with texts of its own, independent of the message's bytes.
    #[must_use]
    pub fn into_owned(self) -> Event<'static> {
        Event {
            user: Cow::Owned(self.user.into_owned()),
            text: Cow::Owned(self.text.into_owned()),
            node: Cow::Owned(self.node.into_owned()),
            status: self.status,
            since: self.since,
            last_seen: self.last_seen,
            devices: self.devices,
            version: self.version,
            vnode: self.vnode,
            epoch: self.epoch,
            cause: self.cause,
        }
    }

    /// The public record that a consumer takes from this event.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            status: self.status,
            text: (*self.text).into(),
            since: self.since,
            last_seen: self.last_seen,
            devices: self.devices,
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"user":"bob","status":"away","text":"lu\"nch","since":5,"last_seen":0,"devices":2,"version":8589934602,"vnode":77,"epoch":1,"node":"n1","cause":"status","later":[]}"#;

    #[test]
    fn an_event_reads_as_documented_and_unknown_members_are_ignored() {
        let event = Event::decode(GOOD.as_bytes()).expect("a good event");
        assert_eq!(event.user, "bob");
        assert_eq!(event.record().status, Status::Away);
        assert_eq!(&*event.record().text, "lu\"nch");
        assert_eq!(event.vnode, Vnode::new(77));
        assert_eq!(event.epoch, event.version.epoch());
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(bytes, GOOD.replace(r#","later":[]"#, "").as_bytes());
    }

    #[test]
    fn the_names_of_a_users_watchers_are_borrowed_from_the_message() {
        let event = Event::decode(GOOD.as_bytes()).expect("a good event");
        assert!(matches!(event.user, Cow::Borrowed(_)));
        assert!(matches!(event.node, Cow::Borrowed(_)));
    }

    #[test]
    fn foreign_messages_are_named_errors() {
        let swap = |from: &str, to: &str| GOOD.replace(from, to);
        let error = |value: &str| {
            Event::decode(value.as_bytes())
                .expect_err("a foreign message")
                .to_string()
        };
        assert!(error(r#"{"v":2,"who":"bob"}"#).contains("format version 2"));
        assert!(error(&swap(r#""v":1"#, r#""v":3"#)).contains("format version 3"));
        assert!(error("hello").contains("not what version 1"));
        assert!(error(&swap(r#""away""#, r#""asleep""#)).contains("asleep"));
        assert!(error(&swap(r#""bob""#, r#""""#)).contains("bad user"));
        assert!(error(&swap("8589934602", "9007199254740992")).contains("below 2^53"));
        assert!(error(&swap(r#""epoch":1"#, r#""epoch":2"#)).contains("a version of epoch 1"));
        assert!(error(&swap("lu", &"x".repeat(200))).contains("204 bytes"));
    }
}
