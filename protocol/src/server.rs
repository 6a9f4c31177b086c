//! What the server sends, appended to a buffer in either encoding, without a WebSocket header.
//! It owns both layouts; a record's bytes do not depend on where in a list they stand, so that
//! they can be copied from one list to another. Nothing is allocated beyond growing the buffer.

mod object;
mod welcome;

use object::{CBOR_ARRAY, CBOR_BREAK, Object};
pub use welcome::{Limits, Welcome};

use crate::{
    Encoding, MessageId, Mode, Record, Status,
    names::{Member, MessageType},
    words::words,
};

words! {
    /// The kind of mistake for which the server refuses a client's message, for programs.
    pub enum ErrorCode {
        /// Not JSON, not CBOR, no object, or no type.
        BadMessage => "bad_message",
        /// The message's type is not one that clients send.
        UnknownType => "unknown_type",
        /// A member is missing or not what it must be.
        BadMember => "bad_member",
        /// A user's name breaks the rules of [`crate::check_user`].
        BadUser => "bad_user",
        /// The text is longer than [`crate::MAX_TEXT`] bytes.
        TextTooLong => "text_too_long",
        /// The message names more users than [`crate::MAX_USERS_PER_MESSAGE`].
        TooManyUsers => "too_many_users",
        /// The session would watch more users than `limits.watches` of its welcome.
        WatchLimit => "watch_limit",
        /// The token does not permit to see a user.
        NotAllowed => "not_allowed",
        /// The new token belongs to another user than the session.
        WrongUser => "wrong_user",
        /// The server cannot answer at the moment; the client may ask again.
        Unavailable => "unavailable",
        /// The new token was refused; the session keeps the one it had.
        BadToken => "bad_token",
    }
}

/// A message that is not a list of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// The session is accepted.
    Welcome(Welcome<'a>),
    /// A request was carried out that needs no other answer.
    Ok {
        /// The id of the message that it answers.
        id: Option<&'a MessageId>,
    },
    /// The answer to a client's `ping`.
    Pong {
        /// The id of the message that it answers.
        id: Option<&'a MessageId>,
    },
    /// A message was refused; the session stays.
    Error {
        /// The id of the message that it answers, when that could be read.
        id: Option<&'a MessageId>,
        /// The kind of mistake, for programs.
        code: ErrorCode,
        /// What is wrong and what is allowed, for people.
        message: &'a str,
    },
    /// An `error` with the code `not_allowed`, about some of the users that a message named. With an
    /// `id` nothing of that message is done; without, all but these users is, and is answered too.
    NotAllowed {
        /// Of the message, when nothing of it is done.
        id: Option<&'a MessageId>,
        /// The users that may not be seen; at least one.
        users: &'a [&'a str],
    },
    /// The user's vnode moves: the client connects to the address, and this session ends with 1012.
    Move {
        /// The whole WebSocket URL of the new owner.
        address: &'a str,
    },
    /// The session's token ends soon and wants to be refreshed.
    Expiring {
        /// Whole seconds until the token ends.
        seconds: u64,
    },
}

impl ServerMessage<'_> {
    /// Appends the message's bytes to `out`, without a frame header.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        let mut object = Object::begin(encoding, out);
        match *self {
            Self::Welcome(welcome) => welcome.encode(&mut object),
            Self::Ok { id } => {
                object.kind(MessageType::Ok);
                object.id(id);
            }
            Self::Pong { id } => {
                object.kind(MessageType::Pong);
                object.id(id);
            }
            Self::Error { id, code, message } => {
                object.kind(MessageType::Error);
                object.id(id);
                object.text(Member::Code, code.as_str());
                object.text(Member::Message, message);
            }
            Self::NotAllowed { id, users } => {
                object.kind(MessageType::Error);
                object.id(id);
                object.text(Member::Code, ErrorCode::NotAllowed.as_str());
                let first = users.first().copied().unwrap_or_default();
                let message = match users.len() {
                    ..=1 => format!("{first:?} may not be watched with this token"),
                    more => format!(
                        "{first:?} and {} more may not be watched with this token",
                        more - 1
                    ),
                };
                object.text(Member::Message, &message);
                object.texts(Member::Users, users);
            }
            Self::Move { address } => {
                object.kind(MessageType::Move);
                object.text(Member::Address, address);
            }
            Self::Expiring { seconds } => {
                object.kind(MessageType::Expiring);
                object.number(Member::In, seconds);
            }
        }
        object.end();
    }
}

/// The kind of a list of records, with the id of the message that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind<'a> {
    /// Changes of watched users since the last flush.
    Presence,
    /// The answer to `watch`.
    Snapshot(Option<&'a MessageId>),
    /// The answer to `query`.
    Result(Option<&'a MessageId>),
}

/// Begins a message that is a list of records.
pub fn begin_list(encoding: Encoding, kind: ListKind<'_>, out: &mut Vec<u8>) {
    let (kind, id) = match kind {
        ListKind::Presence => (MessageType::Presence, None),
        ListKind::Snapshot(id) => (MessageType::Snapshot, id),
        ListKind::Result(id) => (MessageType::Result, id),
    };
    let mut object = Object::begin(encoding, out);
    object.kind(kind);
    object.id(id);
    object.key(Member::Users);
    match encoding {
        Encoding::Json => out.push(b'['),
        Encoding::Cbor => out.push(CBOR_ARRAY),
    }
}

/// Appends the record of `user`; after the `first`, JSON needs a comma before it. `mode` is for the
/// user's own sessions alone.
pub fn list_record(
    encoding: Encoding,
    first: bool,
    user: &str,
    record: &Record,
    mode: Option<Mode>,
    out: &mut Vec<u8>,
) {
    if !first && encoding == Encoding::Json {
        out.push(b',');
    }
    let mut object = Object::begin(encoding, out);
    object.text(Member::User, user);
    object.text(Member::Status, record.status.as_str());
    if let Some(mode) = mode {
        object.text(Member::Mode, mode.as_str());
    }
    if !record.text.is_empty() {
        object.text(Member::Text, &record.text);
    }
    if record.status == Status::Offline && record.last_seen != 0 {
        object.number(Member::LastSeen, record.last_seen);
    }
    if record.since != 0 {
        object.number(Member::Since, record.since);
    }
    object.number(Member::Devices, record.devices.into());
    object.number(Member::Version, record.version.get());
    object.end();
}

/// Ends the message that [`begin_list`] began.
pub fn end_list(encoding: Encoding, out: &mut Vec<u8>) {
    out.extend_from_slice(match encoding {
        Encoding::Json => b"]}",
        Encoding::Cbor => &[CBOR_BREAK, CBOR_BREAK],
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;
    use minicbor::data::Token;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn to_json(message: ServerMessage<'_>) -> String {
        let mut out = Vec::new();
        message.encode(Encoding::Json, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    /// A CBOR message with its numbers turned into words, as JSON.
    fn cbor_value(bytes: &[u8]) -> Value {
        let mut tokens = minicbor::decode::Tokenizer::new(bytes).map(|t| t.expect("CBOR"));
        let value = cbor_item(&mut tokens, None).expect("one item");
        assert_eq!(tokens.next(), None);
        value
    }

    fn cbor_item<'a>(
        tokens: &mut impl Iterator<Item = Token<'a>>,
        member: Option<&str>,
    ) -> Option<Value> {
        let number = |n: i128| match member {
            Some("type") => MessageType::from_number(n as u64)
                .expect("a type")
                .as_str()
                .into(),
            _ => Value::from(n as i64),
        };
        Some(match tokens.next().expect("an item") {
            Token::Break => return None,
            Token::BeginArray => std::iter::from_fn(|| cbor_item(tokens, None)).collect(),
            Token::BeginMap => {
                let mut object = serde_json::Map::new();
                while let Some(key) = cbor_item(tokens, None) {
                    let number = key.as_u64().expect("a numeric key");
                    let name = Member::ALL
                        .iter()
                        .find(|member| u64::from(member.number()) == number)
                        .expect("a member")
                        .as_str();
                    let value = cbor_item(tokens, Some(name)).expect("a value");
                    object.insert(name.into(), value);
                }
                object.into()
            }
            Token::String(text) => text.into(),
            Token::U8(n) => number(n.into()),
            Token::U16(n) => number(n.into()),
            Token::U32(n) => number(n.into()),
            Token::U64(n) => number(n.into()),
            Token::I8(n) => number(n.into()),
            Token::I16(n) => number(n.into()),
            Token::I32(n) => number(n.into()),
            Token::I64(n) => number(n.into()),
            other => panic!("no message has {other:?}"),
        })
    }

    #[test]
    fn messages_look_as_documented() {
        let welcome = Welcome {
            id: None,
            user: "alice",
            session: "n1-7f3a",
            node: "n1",
            heartbeat: 25,
            alive: 0,
            expires: 1_795_480_000_000,
            mode: Some(Mode::Auto),
            text: "",
            limits: Limits {
                message: 16_384,
                users: 1_000,
                watches: 2_000,
                messages: 100,
            },
        };
        assert_eq!(
            to_json(ServerMessage::Welcome(welcome)),
            r#"{"type":"welcome","user":"alice","session":"n1-7f3a","node":"n1","heartbeat":25,"expires":1795480000000,"mode":"auto","limits":{"message":16384,"users":1000,"watches":2000,"messages":100}}"#
        );
        let welcome = ServerMessage::Welcome(Welcome {
            alive: 120,
            expires: 0,
            mode: None,
            ..welcome
        });
        let json: Value = serde_json::from_str(&to_json(welcome)).expect("JSON");
        assert_eq!((&json["alive"], json.get("mode")), (&json!(120), None));
        let mut out = Vec::new();
        welcome.encode(Encoding::Cbor, &mut out);
        assert_eq!(cbor_value(&out), json);
        let id = MessageId::Integer(-7);
        assert_eq!(
            to_json(ServerMessage::Ok { id: Some(&id) }),
            r#"{"type":"ok","id":-7}"#
        );
        assert_eq!(
            to_json(ServerMessage::Pong { id: None }),
            r#"{"type":"pong"}"#
        );
        assert_eq!(
            to_json(ServerMessage::Move {
                address: "wss://b/socket"
            }),
            r#"{"type":"move","address":"wss://b/socket"}"#
        );
        assert_eq!(
            to_json(ServerMessage::Expiring { seconds: 30 }),
            r#"{"type":"expiring","in":30}"#
        );
        let error = ServerMessage::Error {
            id: None,
            code: ErrorCode::BadUser,
            message: "no",
        };
        assert_eq!(
            to_json(error),
            r#"{"type":"error","code":"bad_user","message":"no"}"#
        );
        let mut out = Vec::new();
        begin_list(Encoding::Json, ListKind::Snapshot(Some(&id)), &mut out);
        list_record(
            Encoding::Json,
            true,
            "x",
            &Record::default(),
            None,
            &mut out,
        );
        let mode = Some(Mode::Invisible);
        list_record(
            Encoding::Json,
            false,
            "y",
            &Record::default(),
            mode,
            &mut out,
        );
        end_list(Encoding::Json, &mut out);
        assert_eq!(
            String::from_utf8(out).expect("JSON is UTF-8"),
            r#"{"type":"snapshot","id":-7,"users":[{"user":"x","status":"offline","devices":0,"version":0},{"user":"y","status":"offline","mode":"invisible","devices":0,"version":0}]}"#
        );
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let statuses = prop::sample::select(Status::ALL);
        let times = || prop_oneof![Just(0), 1_u64..1 << 42];
        (
            statuses,
            any::<String>(),
            times(),
            times(),
            any::<u32>(),
            0_u64..1 << 53,
        )
            .prop_map(
                |(status, text, since, last_seen, devices, version)| Record {
                    status,
                    text: text.into(),
                    since,
                    last_seen,
                    devices,
                    version: Version::from_u64(version).expect("below 2^53"),
                },
            )
    }

    fn any_mode() -> impl Strategy<Value = Option<Mode>> {
        prop::option::of(prop::sample::select(Mode::ALL))
    }

    fn expected(user: &str, record: &Record, mode: Option<Mode>) -> Value {
        let mut value = json!({
            "user": user,
            "status": record.status.as_str(),
            "devices": record.devices,
            "version": record.version.get(),
        });
        if !record.text.is_empty() {
            value["text"] = (*record.text).into();
        }
        if let Some(mode) = mode {
            value["mode"] = mode.as_str().into();
        }
        if record.since != 0 {
            value["since"] = record.since.into();
        }
        if record.status == Status::Offline && record.last_seen != 0 {
            value["last_seen"] = record.last_seen.into();
        }
        value
    }

    proptest! {
        #[test]
        fn lists_say_the_same_in_both_encodings(
            records in prop::collection::vec((any::<String>(), any_record(), any_mode()), 0..5),
            id in any::<i64>(),
        ) {
            let id = MessageId::Integer(id);
            let users: Vec<Value> = records.iter().map(|(u, r, m)| expected(u, r, *m)).collect();
            let MessageId::Integer(number) = &id else { unreachable!() };
            let expected = json!({ "type": "result", "id": number, "users": users });
            for encoding in [Encoding::Json, Encoding::Cbor] {
                let mut out = Vec::new();
                begin_list(encoding, ListKind::Result(Some(&id)), &mut out);
                for (n, (user, record, mode)) in records.iter().enumerate() {
                    list_record(encoding, n == 0, user, record, *mode, &mut out);
                }
                end_list(encoding, &mut out);
                let value = match encoding {
                    Encoding::Json => serde_json::from_slice(&out).expect("JSON"),
                    Encoding::Cbor => cbor_value(&out),
                };
                prop_assert_eq!(value, expected.clone());
            }
        }

        #[test]
        fn any_text_survives(message in any::<String>(), id in any::<String>()) {
            let id = MessageId::Text(id.into());
            let error =
                ServerMessage::Error { id: Some(&id), code: ErrorCode::BadUser, message: &message };
            let MessageId::Text(id) = &id else { unreachable!() };
            let expected =
                json!({ "type": "error", "id": **id, "code": "bad_user", "message": message });
            let value: Value = serde_json::from_str(&to_json(error)).expect("JSON");
            prop_assert_eq!(&value, &expected);
            let mut out = Vec::new();
            error.encode(Encoding::Cbor, &mut out);
            prop_assert_eq!(cbor_value(&out), expected);
        }
    }
}
