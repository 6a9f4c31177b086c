//! The names of the client protocol's members and message types, in both encodings: the word in
//! JSON, the small integer in CBOR. The one place where these numbers are given; a number, once
//! released, must never change its meaning. `docs/protocol.md` repeats the tables (tested).

use crate::words::words;

words! {
    /// A member of a message or record. Its number is the CBOR key; all that come more than once a
    /// session are below 24, so that a key is one byte.
    pub enum Member {
        /// The message's type, a [`MessageType`].
        Type = 0 => "type",
        /// The client's own id of a message, echoed in the answer.
        Id = 1 => "id",
        /// The name of one user.
        User = 2 => "user",
        /// A list of users, or of records.
        Users = 3 => "users",
        /// The versions that a watcher knows.
        Known = 4 => "known",
        /// A user's status, or a session's activity.
        Status = 5 => "status",
        /// The text that a user shows to others.
        Text = 6 => "text",
        /// When the status began, ms since 1970.
        Since = 7 => "since",
        /// When the user was last seen, ms since 1970.
        LastSeen = 8 => "last_seen",
        /// How many sessions the user of a record has.
        Devices = 9 => "devices",
        /// The version of a record, below 2^53.
        Version = 10 => "version",
        /// A JWT that authenticates the client.
        Token = 11 => "token",
        /// The session's name, for logs.
        Session = 12 => "session",
        /// The name of the node that serves the session.
        Node = 13 => "node",
        /// Seconds between the server's pings.
        Heartbeat = 14 => "heartbeat",
        /// When the token ends, ms since 1970.
        Expires = 15 => "expires",
        /// A whole WebSocket URL.
        Address = 16 => "address",
        /// Seconds until the token ends.
        In = 17 => "in",
        /// An error code's word.
        Code = 18 => "code",
        /// An error's text, for people.
        Message = 19 => "message",
        /// What the person chose for all devices, a [`Mode`](crate::Mode).
        Mode = 20 => "mode",
        /// Seconds within which a client says something of its own.
        Alive = 21 => "alive",
        /// The limits that a client has to keep.
        Limits = 22 => "limits",
        /// Of the limits: users that a session may watch.
        Watches = 23 => "watches",
        /// Of the limits: messages a second in the long run.
        Messages = 24 => "messages",
    }
}

words! {
    /// The type of a message. Its number is what CBOR carries; all are below 24, one byte.
    pub enum MessageType {
        /// Client: authenticates by a token, or refreshes it.
        Auth = 1 => "auth",
        /// Client: starts to watch users.
        Watch = 2 => "watch",
        /// Client: stops watching users.
        Unwatch = 3 => "unwatch",
        /// Client: asks for users' records once.
        Query = 4 => "query",
        /// Client: sets status, mode or text.
        Status = 5 => "status",
        /// Client: asks for a `pong`.
        Ping = 6 => "ping",
        /// Client: says goodbye; the session ends cleanly.
        Bye = 7 => "bye",
        /// Server: confirms the session and names what is in force for it.
        Welcome = 8 => "welcome",
        /// Server: answers `watch` with the records that the client does not know yet.
        Snapshot = 9 => "snapshot",
        /// Server: reports changes of watched users.
        Presence = 10 => "presence",
        /// Server: answers `query` with a record for each user.
        Result = 11 => "result",
        /// Server: confirms a request that needs no other answer.
        Ok = 12 => "ok",
        /// Server: the answer to `ping`.
        Pong = 13 => "pong",
        /// Server: refuses a message; the session stays.
        Error = 14 => "error",
        /// Server: sends the client to another address.
        Move = 15 => "move",
        /// Server: warns that the token ends soon.
        Expiring = 16 => "expiring",
    }
}

impl Member {
    /// The member's key in CBOR.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl MessageType {
    /// The value of the member `type` in CBOR.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The type with that CBOR number, if there is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| u64::from(kind.number()) == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_single_cbor_bytes_where_it_counts_and_all_differ() {
        let members: std::collections::BTreeSet<u8> =
            Member::ALL.iter().map(|m| m.number()).collect();
        let types: std::collections::BTreeSet<u8> =
            MessageType::ALL.iter().map(|t| t.number()).collect();
        assert_eq!(members.len(), Member::ALL.len());
        assert_eq!(types.len(), MessageType::ALL.len());
        assert!(types.last() < Some(&24));
        let long = |member: &&Member| member.number() >= 24;
        let long: Vec<&Member> = Member::ALL.iter().filter(long).collect();
        assert_eq!(long, [&Member::Messages], "only of the limits");
        for kind in MessageType::ALL {
            assert_eq!(MessageType::from_number(kind.number().into()), Some(*kind));
        }
    }

    #[test]
    fn the_document_has_every_row_of_both_tables() {
        let document = include_str!("../../docs/protocol.md");
        let member_rows = Member::ALL.iter().map(|m| (m.number(), m.as_str()));
        let type_rows = MessageType::ALL.iter().map(|t| (t.number(), t.as_str()));
        for (number, word) in member_rows.chain(type_rows) {
            let row = format!("| {number} | `{word}` |");
            assert!(document.contains(&row), "docs/protocol.md lacks {row}");
        }
        for code in crate::ErrorCode::ALL {
            let row = format!("| `{code}` |");
            assert!(document.contains(&row), "docs/protocol.md lacks {row}");
        }
    }
}
