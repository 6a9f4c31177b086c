//! What an application sees: records, states, and the reasons for them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status of a user that others see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A device of the user is in use.
    Online,
    /// Devices of the user are connected, and none is in use.
    Away,
    /// The user does not want to be disturbed.
    Busy,
    /// No device is connected, or the user is invisible.
    Offline,
}

/// The activity that a device reports of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// The person uses the device.
    Online,
    /// The person does not use the device.
    Away,
}

/// What a person chose. It holds for all devices of the user until it is chosen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The activities of the devices decide: online or away.
    Auto,
    /// Others see `busy` while any session is connected.
    Busy,
    /// The user is shown as offline to everyone else.
    Invisible,
}

/// The public state of one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name of the user.
    pub user: String,
    /// The status of the user for others.
    pub status: Status,
    /// The text that the user set, at most 128 bytes; empty when there is none.
    #[serde(default)]
    pub text: String,
    /// When the status began, in ms since 1970; `None` for a user never seen.
    #[serde(default)]
    pub since: Option<u64>,
    /// When the last device left, in ms since 1970; `None` unless the user is offline.
    #[serde(default)]
    pub last_seen: Option<u64>,
    /// The number of connected devices.
    pub devices: u32,
    /// A number that grows with each change; 0 for a user never seen.
    pub version: u64,
    /// What the user chose; told only to the user's own sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// The session that a server has welcomed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The user that the token names.
    pub user: String,
    /// The session's name on the server, for logs.
    pub session: String,
    /// The name of the node that serves the session, for logs.
    pub node: String,
    /// The user's mode when the session began; `None` from a server that does not tell it.
    pub mode: Option<Mode>,
    /// The user's text when the session began; `None` when the server did not say.
    pub text: Option<String>,
}

/// The state of a client towards its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The application has closed the connection, or not opened one.
    Disconnected,
    /// On the way to a session, or back to one.
    Connecting {
        /// How often it failed since there was a session that lasted.
        failures: u32,
        /// Why the last attempt or session ended; `None` before the first.
        reason: Option<Reason>,
    },
    /// The client has a session.
    Connected(Session),
    /// The client has given up, since trying again would not help; the value says why.
    Failed(Reason),
}

impl State {
    /// Whether the client has a session.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }
}

/// The reason for which a client has no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The application's token function failed; the value is its error.
    #[error("the token function failed: {0}")]
    Token(String),
    /// The application's token function says that this user may not connect.
    #[error("the token function refused: {0}")]
    TokenNotAllowed(String),
    /// The token is of another user than the client: each user needs a client of its own.
    #[error("{0}")]
    WrongUser(String),
    /// The server refused a new token; the value says why.
    #[error("the server refused the token: {0}")]
    TokenRefused(String),
    /// No route told where the user connects; the value says why.
    #[error("the route is unknown: {0}")]
    Route(String),
    /// The server could not be reached; the value says why.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server answered the upgrade with an HTTP status.
    #[error("the server refused the connection with HTTP status {status}: {message}")]
    Refused {
        /// The HTTP status of the answer.
        status: u16,
        /// The server's words.
        message: String,
    },
    /// The server closed the connection.
    #[error("the connection was closed with {code}: {message}")]
    Closed {
        /// The close code; 1006 when the connection broke without one.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// The server did not answer in time; the value is what was awaited.
    #[error("the server did not answer {0}")]
    Silent(Waited),
    /// An address that a token must not be sent to.
    #[error("{0} is not encrypted, and the route is: the token is not sent there")]
    Plaintext(String),
}

/// The answer that a client waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// To the connection, its upgrade and its token.
    Welcome,
    /// The answer to a `ping`.
    Pong,
}

impl fmt::Display for Waited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Welcome => "the request for a session",
            Self::Pong => "a ping",
        })
    }
}

/// Something that the server refused, while the session stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The server refused to have a user watched.
    #[error("{user} is not watched: {message}")]
    Watch {
        /// The user who is not watched.
        user: String,
        /// The server's error code, like `not_allowed`.
        code: String,
        /// The server's words.
        message: String,
    },
    /// More users are watched than the server allows a session: some wait.
    #[error(
        "{wanted} users are watched and the server allows {allowed}: the rest waits until others \
         are watched no more"
    )]
    WatchLimit {
        /// The number of users that the application watches.
        wanted: usize,
        /// The number of users that the server allows.
        allowed: usize,
    },
    /// The server refused the device's activity.
    #[error("the activity was not set: {message}")]
    Activity {
        /// The server's error code.
        code: String,
        /// The server's words.
        message: String,
    },
    /// There is no new token yet for a session whose token ends.
    #[error("the session's token is not replaced yet: {0}")]
    Token(Reason),
    /// Three attempts in a row had no token, or no address to connect to; others follow.
    #[error("nothing is connected to yet, and it is tried on: {0}")]
    Attempts(Reason),
    /// The server refused another message.
    #[error("the server answered {code}: {message}")]
    Server {
        /// The server's error code.
        code: String,
        /// The server's words.
        message: String,
    },
    /// A message of the server makes no sense.
    #[error("a message of the server was ignored: {0}")]
    Message(String),
}

/// Why a text cannot be a user's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The name has no bytes.
    #[error("a user's name is empty; allowed are 1 to 256 bytes")]
    Empty,
    /// The name is longer than 256 bytes; the value is its length.
    #[error("a user's name has {0} bytes; allowed are 1 to 256")]
    TooLong(usize),
    /// The name has the control character in the value.
    #[error("a user's name has the control character {0:?}; none is allowed")]
    Control(char),
}

/// The rule for names of users, that servers have too.
pub(crate) fn check_user(user: &str) -> Result<(), UserError> {
    match (user.len(), user.chars().find(|c| c.is_control())) {
        (0, _) => Err(UserError::Empty),
        (257.., _) => Err(UserError::TooLong(user.len())),
        (_, Some(control)) => Err(UserError::Control(control)),
        _ => Ok(()),
    }
}

/// Why a text cannot be what a user shows to others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The text is longer than 128 bytes; the value is its length.
    #[error("the text has {0} bytes; allowed are 128")]
    TooLong(usize),
    /// The text has the control character in the value.
    #[error("the text has the control character {0:?}; none is allowed")]
    Control(char),
}

pub(crate) fn check_text(text: &str) -> Result<(), TextError> {
    match (text.len(), text.chars().find(|c| c.is_control())) {
        (129.., _) => Err(TextError::TooLong(text.len())),
        (_, Some(control)) => Err(TextError::Control(control)),
        _ => Ok(()),
    }
}

/// Why a mode or text was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// The text is none that a user can have.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A later call took its place before a server had answered.
    #[error("a later call took its place")]
    Superseded,
    /// The server refused the message.
    #[error("the server refused it with {code}: {message}")]
    Refused {
        /// The server's error code.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The application closed the client.
    #[error("the client is closed")]
    Closed,
    /// The client has failed, for the reason in the value.
    #[error("the client has failed: {0}")]
    Failed(Reason),
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No user can have one of the names.
    #[error(transparent)]
    User(#[from] UserError),
    /// Too many questions wait for a session; the value is the limit.
    #[error("{0} questions wait already")]
    TooMany(usize),
    /// The server refused the question.
    #[error("the server refused it with {code}: {message}")]
    Refused {
        /// The server's error code.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The application closed the client.
    #[error("the client is closed")]
    Closed,
    /// The client has failed, for the reason in the value.
    #[error("the client has failed: {0}")]
    Failed(Reason),
}
