//! A step of a followed user's way through the cluster, as nodes keep it and operators read it. It owns
//! the names of events, which programs of operators rely on: none changes its meaning.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Cause, Status};

/// One step; as JSON one line of the log, without what has no value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceStep {
    /// What happened: one of the names in [`crate::trace::EVENTS`], or that of a later release.
    pub event: Cow<'static, str>,
    /// When it happened, by the node's clock, µs since 1970.
    pub time_us: u64,
    /// The user whom the step is about.
    pub user: Cow<'static, str>,
    /// The node on which it happened.
    pub node: Cow<'static, str>,
    /// The core of the node.
    pub core: u16,
    /// Grows with each step of the node's process.
    pub seq: u64,
    /// The user's vnode.
    pub vnode: u16,
    /// The newest epoch of the vnode that the core knew.
    pub epoch: u32,
    /// The version of the record that the step is about.
    pub version: u64,
    /// What others see, by the record as the core had it.
    pub status: Status,
    /// What made the owner change the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The session's name, as its client was told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The close code that a client is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Whom a mirror has the record from: `link`, `bus`, `core` or `store`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Cow<'static, str>>,
    /// To how many watchers of the core the record was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watchers: Option<u32>,
}

/// The names of events, in the order in which a change meets them.
pub const EVENTS: [&str; 15] = [
    SESSION_OPENED,
    SESSION_CLOSED,
    STATUS_TAKEN,
    CHANGED,
    TAKEN_OVER,
    STORE_SENT,
    STORED,
    STORE_FENCED,
    STORE_FAILED,
    BUS_SENT,
    PUBLISHED,
    BUS_FAILED,
    LINK_SENT,
    RECEIVED,
    DELIVERED,
];

/// A session of the user was opened.
pub const SESSION_OPENED: &str = "session_opened";
/// A session of the user ended.
pub const SESSION_CLOSED: &str = "session_closed";
/// A session said what its user does or chose.
pub const STATUS_TAKEN: &str = "status_taken";
/// The owner made a new version of the record.
pub const CHANGED: &str = "changed";
/// A new owner adopted the record of the vnode's former one.
pub const TAKEN_OVER: &str = "taken_over";
/// The record is on its way to the store.
pub const STORE_SENT: &str = "store_sent";
/// The store has the record.
pub const STORED: &str = "stored";
/// The store has refused the record because of a newer epoch.
pub const STORE_FENCED: &str = "store_fenced";
/// The store has not taken the record; it is written again.
pub const STORE_FAILED: &str = "store_failed";
/// The event is on its way to the bus.
pub const BUS_SENT: &str = "bus_sent";
/// The bus has the event.
pub const PUBLISHED: &str = "published";
/// The bus has not taken the event; it is sent again.
pub const BUS_FAILED: &str = "bus_failed";
/// The record was given to a link to a node that watches the user.
pub const LINK_SENT: &str = "link_sent";
/// A node or core that watches the user took a newer record.
pub const RECEIVED: &str = "received";
/// The record was sent to watchers of the core.
pub const DELIVERED: &str = "delivered";

impl TraceStep {
    /// The step as one line of JSON.
    ///
    /// # Panics
    /// Never: its members are numbers and texts.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are JSON")
    }

    /// The step in `bytes` of the store; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Sorts steps of several nodes by time; those of one process keep its order.
    pub fn sort(steps: &mut [Self]) {
        steps.sort_by(|one, other| {
            let key = |step: &Self| (step.time_us, step.node.clone(), step.seq);
            key(one).cmp(&key(other))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_without_what_has_no_value_and_comes_back() {
        let step = TraceStep {
            event: RECEIVED.into(),
            time_us: 1_796_011_800_123_456,
            user: "alice".into(),
            node: "edge-2".into(),
            core: 0,
            seq: 7,
            vnode: 12,
            epoch: 3,
            version: 25_769_803_777,
            status: Status::Away,
            cause: None,
            session: None,
            code: None,
            from: Some("link".into()),
            watchers: None,
        };
        let line = step.encode();
        assert_eq!(
            line,
            r#"{"event":"received","timeUs":1796011800123456,"user":"alice","node":"edge-2","core":0,"seq":7,"vnode":12,"epoch":3,"version":25769803777,"status":"away","from":"link"}"#
        );
        assert_eq!(TraceStep::decode(line.as_bytes()), Some(step.clone()));
        assert_eq!(TraceStep::decode(b"{}"), None);
        // A newer release has members more, and steps that this one has no name for.
        let newer = line.replace(r#""core""#, r#""later":[],"core""#);
        assert_eq!(TraceStep::decode(newer.as_bytes()), Some(step.clone()));
        let newer = line.replace("received", "dreamt");
        let newer = TraceStep::decode(newer.as_bytes()).expect("a step");
        assert_eq!(&*newer.event, "dreamt");
        let earlier = TraceStep {
            time_us: step.time_us - 1,
            seq: 9,
            ..step.clone()
        };
        let mut steps = [step.clone(), earlier.clone()];
        TraceStep::sort(&mut steps);
        assert_eq!(steps, [earlier, step]);
    }
}
