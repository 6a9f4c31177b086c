//! The members of a client's message as either encoding found them, and the rules for them. It
//! owns every rule, and what is said when one is broken.

use std::borrow::Cow;

use super::{BadMessage, ClientMessage, MAX_ID, MAX_USERS_PER_MESSAGE, MessageId, Request};
use crate::{
    Activity, ErrorCode, MAX_TEXT, Mode, check_user,
    names::{Member, MessageType},
};

/// Versions are below it, so that JavaScript reads them exactly.
const MAX_VERSION: u64 = 1 << 53;

/// The known members of a message as they stand there; unknown ones are gone.
#[derive(Default)]
pub(super) struct Members<'a> {
    kind: Option<Value<'a>>,
    id: Option<Value<'a>>,
    rest: Arguments<'a>,
}

#[derive(Default)]
struct Arguments<'a> {
    token: Option<Value<'a>>,
    alive: Option<Value<'a>>,
    users: Option<Value<'a>>,
    known: Option<Value<'a>>,
    status: Option<Value<'a>>,
    mode: Option<Value<'a>>,
    text: Option<Value<'a>>,
}

impl<'a> Members<'a> {
    /// The checked message, when all members keep the protocol's rules; else the error to answer
    /// with.
    pub(super) fn check(self) -> Result<ClientMessage<'a>, BadMessage> {
        let id = self.id.map(Value::into_id).transpose();
        let id = id.map_err(|what| bad_member(Member::Id, what))?;
        match request(self.kind, self.rest) {
            Ok(request) => Ok(ClientMessage { id, request }),
            Err(bad) => Err(BadMessage { id, ..bad }),
        }
    }

    /// Where the value of that member goes, when clients send it.
    pub(super) fn slot(&mut self, member: Member) -> Option<&mut Option<Value<'a>>> {
        match member {
            Member::Type => Some(&mut self.kind),
            Member::Id => Some(&mut self.id),
            Member::Token => Some(&mut self.rest.token),
            Member::Alive => Some(&mut self.rest.alive),
            Member::Users => Some(&mut self.rest.users),
            Member::Known => Some(&mut self.rest.known),
            Member::Status => Some(&mut self.rest.status),
            Member::Mode => Some(&mut self.rest.mode),
            Member::Text => Some(&mut self.rest.text),
            _ => None,
        }
    }
}

/// A member's value, as far as members of clients go.
#[derive(Debug, PartialEq)]
pub(super) enum Value<'a> {
    Integer(i64),
    Text(Cow<'a, str>),
    Texts(Vec<Cow<'a, str>>),
    Numbers(Vec<(Cow<'a, str>, u64)>),
    /// A value of a type that no member has: a float, a boolean, an object where none belongs.
    Other,
}

impl<'a> Value<'a> {
    fn into_id(self) -> Result<MessageId, String> {
        match self {
            Self::Integer(id) => Ok(MessageId::Integer(id)),
            Self::Text(id) if id.len() <= MAX_ID => Ok(MessageId::Text(id.into())),
            _ => Err(format!(
                "must be an integer or a text of at most {MAX_ID} bytes"
            )),
        }
    }

    fn into_text(self) -> Result<Cow<'a, str>, String> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err("must be a text".into()),
        }
    }
}

fn bad(code: ErrorCode, message: String) -> BadMessage {
    BadMessage {
        id: None,
        code,
        message,
    }
}

fn bad_member(member: Member, what: impl std::fmt::Display) -> BadMessage {
    bad(ErrorCode::BadMember, format!("{member} {what}"))
}

fn request<'a>(kind: Option<Value<'a>>, rest: Arguments<'a>) -> Result<Request<'a>, BadMessage> {
    let kind = match kind {
        None => return Err(bad(ErrorCode::BadMessage, "type is missing".into())),
        Some(Value::Text(word)) => MessageType::parse(&word)
            .ok_or_else(|| format!("there is no message type {}", shortened(&word))),
        Some(Value::Integer(number)) => u64::try_from(number)
            .ok()
            .and_then(MessageType::from_number)
            .ok_or_else(|| format!("there is no message type {number}")),
        Some(_) => Err("type is neither a name nor a number".into()),
    };
    match kind.map_err(|message| bad(ErrorCode::UnknownType, message))? {
        MessageType::Auth => auth(rest),
        MessageType::Watch => {
            let known = match rest.known {
                None => Vec::new(),
                Some(Value::Numbers(known)) if known.iter().all(|(_, v)| *v < MAX_VERSION) => known,
                Some(_) => {
                    let what = "must be an object of users and versions (integers below 2^53)";
                    return Err(bad_member(Member::Known, what));
                }
            };
            Ok(Request::Watch {
                users: users(rest.users)?,
                known,
            })
        }
        MessageType::Unwatch => Ok(Request::Unwatch {
            users: users(rest.users)?,
        }),
        MessageType::Query => Ok(Request::Query {
            users: users(rest.users)?,
        }),
        MessageType::Status => status(rest.status, rest.mode, rest.text),
        MessageType::Ping => Ok(Request::Ping),
        MessageType::Bye => Ok(Request::Bye),
        server => {
            let message = format!("{server} is a message of the server");
            Err(bad(ErrorCode::UnknownType, message))
        }
    }
}

fn auth(rest: Arguments<'_>) -> Result<Request<'_>, BadMessage> {
    let token = rest
        .token
        .ok_or_else(|| bad_member(Member::Token, "is missing"))?;
    let token = token
        .into_text()
        .map_err(|what| bad_member(Member::Token, what))?;
    let seconds = |value| match value {
        Value::Integer(seconds) => u32::try_from(seconds).ok().filter(|seconds| *seconds > 0),
        _ => None,
    };
    let alive = rest.alive.map(|value| {
        let what = "must be a whole number of seconds, at least 1";
        seconds(value).ok_or_else(|| bad_member(Member::Alive, what))
    });
    Ok(Request::Auth {
        token,
        status: rest.status.map(activity).transpose()?,
        alive: alive.transpose()?,
    })
}

fn users(value: Option<Value<'_>>) -> Result<Vec<Cow<'_, str>>, BadMessage> {
    let users = match value {
        None => return Err(bad_member(Member::Users, "is missing")),
        Some(Value::Texts(users)) => users,
        Some(_) => return Err(bad_member(Member::Users, "must be a list of texts")),
    };
    if users.len() > MAX_USERS_PER_MESSAGE {
        let message = format!(
            "users has {} entries; at most {MAX_USERS_PER_MESSAGE} are allowed",
            users.len()
        );
        return Err(bad(ErrorCode::TooManyUsers, message));
    }
    for user in &users {
        if let Err(error) = check_user(user) {
            let message = format!("{} is no user: {error}", shortened(user));
            return Err(bad(ErrorCode::BadUser, message));
        }
    }
    Ok(users)
}

fn status<'a>(
    status: Option<Value<'a>>,
    mode: Option<Value<'a>>,
    text: Option<Value<'a>>,
) -> Result<Request<'a>, BadMessage> {
    if status.is_none() && mode.is_none() && text.is_none() {
        return Err(bad(
            ErrorCode::BadMember,
            "status, mode and text are all missing".into(),
        ));
    }
    let status = status.map(activity).transpose()?;
    let mode = mode
        .map(|value| {
            let word = value.into_text().ok();
            word.and_then(|word| Mode::parse(&word))
                .ok_or_else(|| bad_member(Member::Mode, "must be auto, busy or invisible"))
        })
        .transpose()?;
    let text = text
        .map(|value| {
            value
                .into_text()
                .map_err(|what| bad_member(Member::Text, what))
        })
        .transpose()?;
    if let Some(text) = &text {
        if text.len() > MAX_TEXT {
            let message = format!(
                "text is {} bytes long; at most {MAX_TEXT} are allowed",
                text.len()
            );
            return Err(bad(ErrorCode::TextTooLong, message));
        }
        if text.chars().any(char::is_control) {
            return Err(bad_member(Member::Text, "must not have control characters"));
        }
    }
    Ok(Request::Status { status, mode, text })
}

/// What a session reports. A choice in its place is the commonest mistake, so it has its own words.
fn activity(value: Value<'_>) -> Result<Activity, BadMessage> {
    let word = value.into_text().unwrap_or_default();
    Activity::parse(&word).ok_or_else(|| match Mode::parse(&word) {
        Some(mode @ (Mode::Busy | Mode::Invisible)) => {
            let what = format!("must be online or away; {mode} is a mode: \"mode\":\"{mode}\"");
            bad_member(Member::Status, what)
        }
        _ => bad_member(Member::Status, "must be online or away"),
    })
}

/// The text as it may be shown in an error.
fn shortened(text: &str) -> String {
    let cut = text.floor_char_boundary(40);
    let dots = if cut < text.len() { "…" } else { "" };
    format!("{:?}{dots}", &text[..cut])
}
