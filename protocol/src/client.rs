//! What a client sends, from either encoding to one checked form. Whatever bytes come, the result is
//! a message or an error to answer with, never a panic.

mod cbor;
mod json;
mod members;

use std::borrow::Cow;

use crate::{Activity, ErrorCode, Mode, Opcode};

/// The most users that one message may name; a longer list is answered with `too_many_users`.
pub const MAX_USERS_PER_MESSAGE: usize = 1_000;
/// The longest textual id of a message, in bytes.
pub const MAX_ID: usize = 64;

/// How messages become bytes; the client chooses by the subprotocol that it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `online-status.v1.json`: text frames, a JSON object each.
    Json,
    /// `online-status.v1.cbor`: binary frames, a CBOR map each (RFC 8949).
    Cbor,
}

impl Encoding {
    /// The subprotocol's name in `Sec-WebSocket-Protocol` (RFC 6455 §1.9).
    #[must_use]
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "online-status.v1.json",
            Self::Cbor => "online-status.v1.cbor",
        }
    }

    /// The encoding that a client asked for by the subprotocol's name; `None` for any other name.
    #[must_use]
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        [Self::Json, Self::Cbor]
            .into_iter()
            .find(|encoding| encoding.subprotocol() == name)
    }

    /// The op code of the data frames that carry this encoding.
    #[must_use]
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Json => Opcode::Text,
            Self::Cbor => Opcode::Binary,
        }
    }
}

/// The client's own id of a message, echoed in the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageId {
    /// An integer that an `i64` holds.
    Integer(i64),
    /// A string of at most [`MAX_ID`] bytes.
    Text(Box<str>),
}

/// What a client asks for, checked: names, sizes and members follow the protocol's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Authenticates the session, or refreshes its token in band.
    Auth {
        /// The JWT as the client sent it; the receiver verifies it.
        token: Cow<'a, str>,
        /// What this session reports from its first moment.
        status: Option<Activity>,
        /// Seconds within which the client promises to say something of its own, at least 1.
        alive: Option<u32>,
    },
    /// Watches users: their state now in a snapshot, then each change.
    Watch {
        /// Users to watch, at most [`MAX_USERS_PER_MESSAGE`], each a valid name.
        users: Vec<Cow<'a, str>>,
        /// Versions that the client has of users already; the snapshot leaves those out.
        known: Vec<(Cow<'a, str>, u64)>,
    },
    /// Stops watching users.
    Unwatch {
        /// Users to forget, at most [`MAX_USERS_PER_MESSAGE`], each a valid name.
        users: Vec<Cow<'a, str>>,
    },
    /// Asks for the state of users once, without watching them.
    Query {
        /// Users to look up, at most [`MAX_USERS_PER_MESSAGE`], each a valid name.
        users: Vec<Cow<'a, str>>,
    },
    /// Sets the session's activity, the user's mode or the user's text; at least one is there.
    Status {
        /// The activity that this session reports of its device.
        status: Option<Activity>,
        /// The mode that the person chooses for all devices.
        mode: Option<Mode>,
        /// The user's text, at most [`MAX_TEXT`](crate::MAX_TEXT) bytes without control characters.
        text: Option<Cow<'a, str>>,
    },
    /// Asks for a `pong`, to measure a round trip or to show life.
    Ping,
    /// Says goodbye: the session ends without a grace period.
    Bye,
}

/// One message of a client: its request, and the id to answer under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientMessage<'a> {
    /// The client's own id, to be repeated in the answer; `None` when it sent none.
    pub id: Option<MessageId>,
    /// The request that the message carries.
    pub request: Request<'a>,
}

/// The longest reason that is told of what cannot be read at all, characters.
const MAX_REASON: usize = 200;

/// Why something is no message, as the `error` that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMessage {
    /// To be echoed, when it could be read.
    pub id: Option<MessageId>,
    /// The kind of mistake, for programs.
    pub code: ErrorCode,
    /// What is wrong and what is allowed, for people.
    pub message: String,
}

/// The message in `payload`, the whole payload of one WebSocket message.
///
/// # Errors
/// When the payload breaks a rule of the protocol: the answer to send, with the id when that was read.
pub fn decode(encoding: Encoding, payload: &[u8]) -> Result<ClientMessage<'_>, BadMessage> {
    let members = match encoding {
        Encoding::Json => json::members(payload),
        Encoding::Cbor => cbor::members(payload),
    };
    let members = members.map_err(|mut message| {
        // A parser may name all of a text that it did not expect.
        if let Some((end, _)) = message.char_indices().nth(MAX_REASON) {
            message.truncate(end);
            message.push('…');
        }
        BadMessage {
            id: None,
            code: ErrorCode::BadMessage,
            message,
        }
    })?;
    members.check()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::{Member, MessageType};

    fn json(text: &str) -> Result<ClientMessage<'_>, BadMessage> {
        decode(Encoding::Json, text.as_bytes())
    }

    #[test]
    fn each_mistake_is_named_and_its_id_comes_back() {
        let cases = [
            ("", ErrorCode::BadMessage, None),
            ("[]", ErrorCode::BadMessage, None),
            ("{}", ErrorCode::BadMessage, None),
            ("nonsense", ErrorCode::BadMessage, None),
            (r#"{"type":"ping"} x"#, ErrorCode::BadMessage, None),
            (r#"{"id":7}"#, ErrorCode::BadMessage, Some(7)),
            (
                r#"{"type":"dance","id":7}"#,
                ErrorCode::UnknownType,
                Some(7),
            ),
            (
                r#"{"type":["ping"],"id":7}"#,
                ErrorCode::UnknownType,
                Some(7),
            ),
            (
                r#"{"type":"welcome","id":7}"#,
                ErrorCode::UnknownType,
                Some(7),
            ),
            (r#"{"type":"ping","id":1.5}"#, ErrorCode::BadMember, None),
            (r#"{"type":"ping","id":{}}"#, ErrorCode::BadMember, None),
            (r#"{"type":"auth","id":7}"#, ErrorCode::BadMember, Some(7)),
            (
                r#"{"type":"auth","token":7,"id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"auth","token":"x","status":"busy","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"auth","token":"x","alive":0,"id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"auth","token":"x","alive":"60","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (r#"{"type":"watch","id":7}"#, ErrorCode::BadMember, Some(7)),
            (
                r#"{"type":"watch","users":"bob","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"watch","users":["bob",1],"id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"watch","users":[""],"id":7}"#,
                ErrorCode::BadUser,
                Some(7),
            ),
            (
                r#"{"type":"query","users":["a\u0000"],"id":7}"#,
                ErrorCode::BadUser,
                Some(7),
            ),
            (
                r#"{"type":"watch","users":[],"known":[],"id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"watch","users":[],"known":{"a":-1},"id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"watch","users":[],"known":{"a":9007199254740992},"id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (r#"{"type":"status","id":7}"#, ErrorCode::BadMember, Some(7)),
            (
                r#"{"type":"status","status":"offline","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"status","mode":"away","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"status","mode":1,"status":"away","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
            (
                r#"{"type":"status","text":"a\nb","id":7}"#,
                ErrorCode::BadMember,
                Some(7),
            ),
        ];
        for (text, code, id) in cases {
            let bad = json(text).expect_err(text);
            assert_eq!(
                (bad.code, bad.id),
                (code, id.map(MessageId::Integer)),
                "{text}"
            );
            assert!(!bad.message.is_empty() && bad.message.len() < 200, "{text}");
        }
        let long = format!(r#"{{"type":"status","text":"{}"}}"#, "é".repeat(65));
        assert_eq!(
            json(&long).expect_err("130 bytes").code,
            ErrorCode::TextTooLong
        );
        let many = format!(
            r#"{{"type":"query","users":[{}"b"]}}"#,
            r#""a","#.repeat(1_000)
        );
        assert_eq!(
            json(&many).expect_err("1001 users").code,
            ErrorCode::TooManyUsers
        );
        let deep = format!(r#"{{"type":"ping","x":{}}}"#, "[".repeat(10_000));
        assert_eq!(
            json(&deep).expect_err("too deep").code,
            ErrorCode::BadMessage
        );
    }

    #[test]
    fn what_cannot_be_read_does_not_come_back_in_full() {
        for text in ["x", "\u{1f}", "é"] {
            let string = format!("\"{}\"", text.repeat(5_000).escape_default());
            let reason = json(&string).expect_err("no object").message;
            assert!(reason.starts_with("not a JSON object") && reason.len() < 1_000);
        }
        let mut text = vec![0x79, 0x13, 0x88];
        text.extend([b'x'; 5_000]);
        let reason = decode(Encoding::Cbor, &text).expect_err("no map").message;
        assert!(!reason.is_empty() && reason.len() < 1_000);
    }

    #[test]
    fn unknown_members_and_members_of_other_types_are_ignored() {
        let text = r#"{"x":{"y":[1,null]},"users":7,"type":"ping","id":"é"}"#;
        let id = Some(MessageId::Text("é".into()));
        assert_eq!(
            json(text),
            Ok(ClientMessage {
                id,
                request: Request::Ping
            })
        );
        let text = r#"{"type":"status","text":"","status":"away","mode":null,"id":null}"#;
        let request = Request::Status {
            status: Some(Activity::Away),
            mode: None,
            text: Some("".into()),
        };
        assert_eq!(json(text), Ok(ClientMessage { id: None, request }));
    }

    #[test]
    fn who_reports_a_choice_as_a_status_is_told_of_mode() {
        for word in ["busy", "invisible"] {
            let text = format!(r#"{{"type":"status","status":"{word}"}}"#);
            let message = json(&text).expect_err("a mode is no status").message;
            assert!(
                message.contains(&format!(r#""mode":"{word}""#)),
                "{message}"
            );
        }
        let nothing = json(r#"{"type":"status"}"#).expect_err("nothing to do");
        assert_eq!(nothing.message, "status, mode and text are all missing");
    }

    fn cbor_of(message: &ClientMessage<'_>) -> Vec<u8> {
        let mut e = minicbor::Encoder::new(Vec::new());
        let key = |member: Member| member.number();
        let texts = |e: &mut minicbor::Encoder<Vec<u8>>, users: &[Cow<'_, str>]| {
            e.u8(key(Member::Users))
                .expect("a Vec")
                .array(users.len() as u64)
                .expect("a Vec");
            for user in users {
                e.str(user).expect("a Vec");
            }
        };
        e.begin_map().expect("a Vec");
        match &message.id {
            None => {}
            Some(MessageId::Integer(id)) => {
                e.u8(key(Member::Id))
                    .expect("a Vec")
                    .i64(*id)
                    .expect("a Vec");
            }
            Some(MessageId::Text(id)) => {
                e.u8(key(Member::Id))
                    .expect("a Vec")
                    .str(id)
                    .expect("a Vec");
            }
        }
        // Unknown members: a key beyond the table, a text key, nested.
        e.u8(99)
            .expect("a Vec")
            .array(1)
            .expect("a Vec")
            .null()
            .expect("a Vec");
        e.str("x").expect("a Vec").bool(true).expect("a Vec");
        let kind = match &message.request {
            Request::Auth {
                token,
                status,
                alive,
            } => {
                if let Some(status) = status {
                    e.u8(key(Member::Status))
                        .expect("a Vec")
                        .str(status.as_str())
                        .expect("a Vec");
                }
                if let Some(alive) = alive {
                    e.u8(key(Member::Alive))
                        .expect("a Vec")
                        .u32(*alive)
                        .expect("a Vec");
                }
                e.u8(key(Member::Token))
                    .expect("a Vec")
                    .str(token)
                    .expect("a Vec");
                MessageType::Auth
            }
            Request::Watch { users, known } => {
                texts(&mut e, users);
                e.u8(key(Member::Known))
                    .expect("a Vec")
                    .map(known.len() as u64)
                    .expect("a Vec");
                for (user, version) in known {
                    e.str(user).expect("a Vec").u64(*version).expect("a Vec");
                }
                MessageType::Watch
            }
            Request::Unwatch { users } => {
                texts(&mut e, users);
                MessageType::Unwatch
            }
            Request::Query { users } => {
                texts(&mut e, users);
                MessageType::Query
            }
            Request::Status { status, mode, text } => {
                if let Some(mode) = mode {
                    e.u8(key(Member::Mode))
                        .expect("a Vec")
                        .str(mode.as_str())
                        .expect("a Vec");
                }
                if let Some(status) = status {
                    e.u8(key(Member::Status))
                        .expect("a Vec")
                        .str(status.as_str())
                        .expect("a Vec");
                }
                if let Some(text) = text {
                    e.u8(key(Member::Text))
                        .expect("a Vec")
                        .str(text)
                        .expect("a Vec");
                }
                MessageType::Status
            }
            Request::Ping => MessageType::Ping,
            Request::Bye => MessageType::Bye,
        };
        e.u8(key(Member::Type))
            .expect("a Vec")
            .u8(kind.number())
            .expect("a Vec");
        e.end().expect("a Vec");
        e.into_writer()
    }

    fn json_of(message: &ClientMessage<'_>) -> Vec<u8> {
        let mut object = serde_json::Map::new();
        match &message.id {
            None => {}
            Some(MessageId::Integer(id)) => drop(object.insert("id".into(), (*id).into())),
            Some(MessageId::Text(id)) => drop(object.insert("id".into(), (**id).into())),
        }
        let kind = match &message.request {
            Request::Auth {
                token,
                status,
                alive,
            } => {
                if let Some(status) = status {
                    object.insert("status".into(), status.as_str().into());
                }
                if let Some(alive) = alive {
                    object.insert("alive".into(), (*alive).into());
                }
                object.insert("token".into(), (**token).into());
                "auth"
            }
            Request::Watch { users, known } => {
                object.insert("users".into(), users.iter().map(|user| &**user).collect());
                let known = known
                    .iter()
                    .map(|(user, version)| (user.to_string(), *version));
                object.insert("known".into(), known.collect());
                "watch"
            }
            Request::Unwatch { users } => {
                object.insert("users".into(), users.iter().map(|user| &**user).collect());
                "unwatch"
            }
            Request::Query { users } => {
                object.insert("users".into(), users.iter().map(|user| &**user).collect());
                "query"
            }
            Request::Status { status, mode, text } => {
                if let Some(mode) = mode {
                    object.insert("mode".into(), mode.as_str().into());
                }
                if let Some(status) = status {
                    object.insert("status".into(), status.as_str().into());
                }
                if let Some(text) = text {
                    object.insert("text".into(), (**text).into());
                }
                "status"
            }
            Request::Ping => "ping",
            Request::Bye => "bye",
        };
        object.insert("type".into(), kind.into());
        serde_json::to_vec(&object).expect("a JSON value")
    }

    fn any_user() -> impl Strategy<Value = Cow<'static, str>> {
        "[a-zé\"\\\\🦀]{1,12}".prop_map(Cow::Owned)
    }

    fn any_message() -> impl Strategy<Value = ClientMessage<'static>> {
        let users = || prop::collection::vec(any_user(), 0..5);
        let known = prop::collection::btree_map(any_user(), 0_u64..1 << 53, 0..4)
            .prop_map(|known| known.into_iter().collect());
        let statuses = prop::sample::select(Activity::ALL);
        let modes = || prop::option::of(prop::sample::select(Mode::ALL));
        let id = prop_oneof![
            Just(None),
            any::<i64>().prop_map(|id| Some(MessageId::Integer(id))),
            "[a-z\"]{0,20}".prop_map(|id| Some(MessageId::Text(id.into()))),
        ];
        let request = prop_oneof![
            (
                any_user(),
                prop::option::of(statuses.clone()),
                prop::option::of(1_u32..)
            )
                .prop_map(|(token, status, alive)| Request::Auth {
                    token,
                    status,
                    alive
                }),
            (users(), known).prop_map(|(users, known)| Request::Watch { users, known }),
            users().prop_map(|users| Request::Unwatch { users }),
            users().prop_map(|users| Request::Query { users }),
            (statuses, modes(), prop::option::of(any_user())).prop_map(|(status, mode, text)| {
                Request::Status {
                    status: Some(status),
                    mode,
                    text,
                }
            }),
            (modes(), any_user()).prop_map(|(mode, text)| Request::Status {
                status: None,
                mode,
                text: Some(text)
            }),
            Just(Request::Ping),
            Just(Request::Bye),
        ];
        (id, request).prop_map(|(id, request)| ClientMessage { id, request })
    }

    proptest! {
        #[test]
        fn a_message_means_the_same_in_both_encodings(message in any_message()) {
            let json = json_of(&message);
            prop_assert_eq!(decode(Encoding::Json, &json), Ok(message.clone()));
            let cbor = cbor_of(&message);
            prop_assert_eq!(decode(Encoding::Cbor, &cbor), Ok(message));
            for cut in 0..cbor.len() {
                prop_assert!(decode(Encoding::Cbor, &cbor[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for encoding in [Encoding::Json, Encoding::Cbor] {
                if let Err(bad) = decode(encoding, &bytes) {
                    prop_assert!(!bad.message.is_empty());
                }
            }
        }
    }
}
