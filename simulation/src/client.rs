//! A simulated client: parses frames, keeps what it was shown, and knows what it asked for.

use std::collections::{BTreeMap, BTreeSet};

use presence::{Hello, Opening, SessionId, WatchRule};
use protocol::{Encoding, Record};
use serde_json::Value;

/// What a watcher last saw of a user.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) status: String,
    pub(crate) text: String,
    pub(crate) devices: u64,
    /// The member `mode`, which a record of the own user has.
    pub(crate) mode: Option<String>,
}

impl View {
    /// What a record in a message shows, and of whom.
    pub(crate) fn read(record: &Value) -> (String, Self) {
        let view = Self {
            version: record["version"].as_u64().expect("a version"),
            status: record["status"].as_str().expect("a status").into(),
            text: record["text"].as_str().unwrap_or_default().into(),
            devices: record["devices"].as_u64().expect("devices"),
            mode: record["mode"].as_str().map(str::to_owned),
        };
        (record["user"].as_str().expect("a user").to_owned(), view)
    }

    /// What a client sees when it is sent `record`.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            version: record.version.get(),
            status: record.status.to_string(),
            text: record.text.to_string(),
            devices: record.devices.into(),
            mode: None,
        }
    }

    /// Whether both show the same, in whichever version.
    pub(crate) fn shows(&self, other: &Self) -> bool {
        (&self.status, &self.text, self.devices) == (&other.status, &other.text, other.devices)
    }
}

/// The opening of a session of `user`.
pub(crate) fn hello(user: &str, opening: Opening) -> Hello<'_> {
    Hello {
        opening,
        user,
        encoding: Encoding::Json,
        expires: 0,
        rule: WatchRule::Anyone,
        id: None,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) user: String,
    pub(crate) core: usize,
    pub(crate) session: Option<SessionId>,
    /// Users that it watches in this session.
    pub(crate) watched: BTreeSet<String>,
    /// What the client last saw of each user; it survives reconnects.
    pub(crate) views: BTreeMap<String, View>,
    /// Users that it asked for and has not been shown in a change since, with the version that it said
    /// it knew; of this session.
    pub(crate) asked: BTreeMap<String, u64>,
    /// It reads nothing; what is sent waits in the socket.
    pub(crate) slow: bool,
    /// What it reads may be as old as it was slow, until then.
    pub(crate) lags_until: u64,
    pub(crate) socket: Vec<u8>,
    /// The server was told that the socket is full.
    pub(crate) blocked: bool,
    /// Its last welcome did not say what its user chose.
    pub(crate) uninformed: bool,
    /// The client neither reads nor sends nor closes any more.
    pub(crate) vanished: bool,
    /// The client has promised a message of its own in time.
    pub(crate) promises: bool,
    /// It says nothing any more; what answers pings for it goes on.
    pub(crate) frozen: bool,
    /// The time of its last message, ms.
    pub(crate) said: u64,
}

/// One frame of the server.
#[derive(Debug)]
pub(crate) enum Frame {
    Message(Value),
    Ping,
    Close { code: u16, reason: String },
}

/// The frames in `bytes`, which hold nothing but whole ones.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, length) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => panic!("no message of a simulation is so long"),
            short => (2, usize::from(short)),
        };
        let payload = &bytes[header..header + length];
        frames.push(match bytes[0] {
            0x81 => Frame::Message(serde_json::from_slice(payload).expect("messages are JSON")),
            0x88 => Frame::Close {
                code: u16::from_be_bytes([payload[0], payload[1]]),
                reason: String::from_utf8_lossy(&payload[2..]).into(),
            },
            0x89 => Frame::Ping,
            other => panic!("a frame begins with {other:#x}"),
        });
        bytes = &bytes[header + length..];
    }
    frames
}
