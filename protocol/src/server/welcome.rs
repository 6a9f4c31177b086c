//! The server's first message: whose session it is, what is in force for it, and what its client has
//! to keep within. It owns the message's layout.

use super::Object;
use crate::{
    MessageId, Mode,
    names::{Member, MessageType},
};

/// The limits that a client has to keep; the edge's settings decide them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message; more close with 1009.
    pub message: u64,
    /// Users that one message may name; more are refused with `too_many_users`.
    pub users: u32,
    /// Users that a session may watch; more are refused with `watch_limit`.
    pub watches: u32,
    /// Messages a second in the long run; more close with 4429.
    pub messages: u32,
}

/// What a session is told when it stands, and again when its token or its mode is known anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The id of the `auth` that it answers.
    pub id: Option<&'a MessageId>,
    /// The user whose session this is, the token's `sub`.
    pub user: &'a str,
    /// The session's name, unique in the cluster, for logs.
    pub session: &'a str,
    /// The name of the node that serves the session.
    pub node: &'a str,
    /// Seconds between two pings of the server, a little spread.
    pub heartbeat: u32,
    /// Seconds within which the client has promised to say something; 0 = no promise (left out).
    pub alive: u32,
    /// When the token ends, ms since 1970; 0 = never (left out).
    pub expires: u64,
    /// What the person chose; `None` while the store has not said it.
    pub mode: Option<Mode>,
    /// The user's text; empty is left out.
    pub text: &'a str,
    /// The limits that hold for this session.
    pub limits: Limits,
}

impl Welcome<'_> {
    pub(super) fn encode(&self, object: &mut Object<'_>) {
        object.kind(MessageType::Welcome);
        object.id(self.id);
        object.text(Member::User, self.user);
        object.text(Member::Session, self.session);
        object.text(Member::Node, self.node);
        object.number(Member::Heartbeat, self.heartbeat.into());
        if self.alive != 0 {
            object.number(Member::Alive, self.alive.into());
        }
        if self.expires != 0 {
            object.number(Member::Expires, self.expires);
        }
        if let Some(mode) = self.mode {
            object.text(Member::Mode, mode.as_str());
        }
        if !self.text.is_empty() {
            object.text(Member::Text, self.text);
        }
        let mut limits = object.object(Member::Limits);
        limits.number(Member::Message, self.limits.message);
        limits.number(Member::Users, self.limits.users.into());
        limits.number(Member::Watches, self.limits.watches.into());
        limits.number(Member::Messages, self.limits.messages.into());
        limits.end();
    }
}
