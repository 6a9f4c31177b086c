//! Messages as they cross the wire: the client protocol's subprotocol `online-status.v1.json`.
//! Members that are missing in an older server's messages are optional here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Activity, Mode, Record};

/// The subprotocol that is offered in `Sec-WebSocket-Protocol`.
pub(crate) const SUBPROTOCOL: &str = "online-status.v1.json";

/// A message that a client sends.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ClientMessage<'a> {
    Auth {
        token: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<Activity>,
        #[serde(skip_serializing_if = "Option::is_none")]
        alive: Option<u32>,
        id: u64,
    },
    Watch {
        users: &'a [&'a str],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        known: BTreeMap<&'a str, u64>,
        id: u64,
    },
    Unwatch {
        users: &'a [&'a str],
        id: u64,
    },
    Query {
        users: &'a [&'a str],
        id: u64,
    },
    Status {
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<Activity>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<Mode>,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        id: u64,
    },
    Ping {
        id: u64,
    },
    Bye {},
}

/// A message that a server sends.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum ServerMessage {
    Welcome(Welcome),
    Snapshot {
        id: Option<u64>,
        users: Vec<Record>,
    },
    Presence {
        users: Vec<Record>,
    },
    Result {
        id: Option<u64>,
        users: Vec<Record>,
    },
    Ok {
        id: Option<u64>,
    },
    Pong {
        id: Option<u64>,
    },
    Error {
        id: Option<u64>,
        code: String,
        #[serde(default)]
        message: String,
    },
    Move {
        address: String,
    },
    Expiring {
        /// The seconds until the token ends.
        r#in: u64,
    },
    /// A message of a type that this release does not know.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Welcome {
    pub(crate) id: Option<u64>,
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) session: String,
    #[serde(default)]
    pub(crate) node: String,
    /// The seconds between the server's pings.
    #[serde(default)]
    pub(crate) heartbeat: Option<u32>,
    /// The time at which the token ends, ms since 1970.
    #[serde(default)]
    pub(crate) expires: Option<u64>,
    #[serde(default)]
    pub(crate) mode: Option<Mode>,
    #[serde(default)]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) limits: Limits,
}

/// The limits that the session has to keep.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// The most bytes of a message.
    pub(crate) message: usize,
    /// The most users that a message may name.
    pub(crate) users: usize,
    /// The most users that the session may watch.
    pub(crate) watches: usize,
    /// Messages that the server takes of a session in a second.
    pub(crate) messages: u32,
}

/// What is taken for granted of a server that does not tell.
impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 * 1_024,
            users: 1_000,
            watches: usize::MAX,
            messages: 100,
        }
    }
}

/// The body of the answer to `GET /route`.
#[derive(Debug, Deserialize)]
pub(crate) struct Route {
    pub(crate) address: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        behaviour::schema::{Checker, definitions},
        types::Status,
    };

    /// A message with every member that the schema has for it, or for the object in it.
    #[track_caller]
    fn whole(message: &Value, object: &Value, definition: &str) -> ServerMessage {
        Checker::new("serverMessage").check(message);
        let definitions = definitions();
        let members = |object: &Value| -> BTreeSet<String> {
            object
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect()
        };
        assert_eq!(
            members(object),
            members(&definitions[definition]["properties"])
        );
        serde_json::from_value(message.clone()).expect("it is read")
    }

    #[test]
    fn every_member_that_the_schema_has_for_a_welcome_is_read() {
        let limits = json!({ "message": 2, "users": 3, "watches": 4, "messages": 5 });
        let message = json!({
            "type": "welcome", "id": 1, "user": "alice", "session": "s1", "node": "n1",
            "heartbeat": 25, "alive": 150, "expires": 1_800_000_000_000_u64, "mode": "busy",
            "text": "lunch", "limits": limits,
        });
        let ServerMessage::Welcome(welcome) = whole(&message, &message, "welcome") else {
            panic!("a welcome");
        };
        let Limits {
            message,
            users,
            watches,
            messages,
        } = welcome.limits;
        assert_eq!((message, users, watches, messages), (2, 3, 4, 5));
        assert_eq!((welcome.id, welcome.heartbeat), (Some(1), Some(25)));
        assert_eq!((&*welcome.session, &*welcome.node), ("s1", "n1"));
        assert_eq!(welcome.expires, Some(1_800_000_000_000));
        assert_eq!(welcome.mode, Some(Mode::Busy));
        assert_eq!(welcome.text.as_deref(), Some("lunch"));
    }

    #[test]
    fn every_member_that_the_schema_has_for_a_record_is_read() {
        let record = json!({
            "user": "alice", "status": "away", "text": "lunch", "since": 1, "last_seen": 2,
            "devices": 3, "version": 4, "mode": "auto",
        });
        let message = json!({ "type": "presence", "users": [record] });
        let ServerMessage::Presence { users } = whole(&message, &record, "record") else {
            panic!("changes");
        };
        let expected = Record {
            user: "alice".into(),
            status: Status::Away,
            text: "lunch".into(),
            since: Some(1),
            last_seen: Some(2),
            devices: 3,
            version: 4,
            mode: Some(Mode::Auto),
        };
        assert_eq!(users, [expected]);
    }
}
