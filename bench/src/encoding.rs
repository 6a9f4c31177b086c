//! The messages of both ends, as the bench needs them, in JSON and in CBOR. It is written from the
//! protocol's document, not from the server's code: what the two understand otherwise shows.

mod cbor;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{plan::Shown, wire};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Json,
    Cbor,
}

/// A message of the server; what the bench does not look at is left out.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Message<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) users: Vec<Record<'a>>,
    #[serde(borrow, default)]
    pub(crate) message: Option<Cow<'a, str>>,
    /// The code of an `error`.
    #[serde(borrow, default)]
    pub(crate) code: Option<Cow<'a, str>>,
    /// The id of the session's question that is answered.
    #[serde(default)]
    pub(crate) id: Option<u64>,
    /// The address of a `move`.
    #[serde(borrow, default)]
    pub(crate) address: Option<Cow<'a, str>>,
    /// The heartbeat of a `welcome`, seconds.
    #[serde(default)]
    pub(crate) heartbeat: Option<u64>,
}

/// One presence record of a server's message.
#[derive(Debug, Deserialize)]
pub(crate) struct Record<'a> {
    #[serde(borrow)]
    pub(crate) user: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    pub(crate) version: u64,
}

impl Record<'_> {
    pub(crate) fn shown(&self) -> Option<Shown> {
        match &*self.status {
            "online" => Some(Shown::Online),
            "away" => Some(Shown::Away),
            "offline" => Some(Shown::Offline),
            _ => None,
        }
    }
}

/// What a session asks to watch.
pub(crate) struct Watch {
    pub(crate) users: Vec<String>,
    /// Versions that it knows.
    pub(crate) known: Vec<(String, u64)>,
    pub(crate) id: u64,
}

/// `status` as it is written.
fn status_word(shown: Shown) -> &'static str {
    match shown {
        Shown::Away => "away",
        Shown::Online | Shown::Offline => "online",
    }
}

impl Encoding {
    pub(crate) fn subprotocol(self) -> &'static str {
        match self {
            Self::Json => "online-status.v1.json",
            Self::Cbor => "online-status.v1.cbor",
        }
    }

    /// Of the frames that have its messages.
    pub(crate) fn opcode(self) -> u8 {
        match self {
            Self::Json => wire::TEXT,
            Self::Cbor => wire::BINARY,
        }
    }

    pub(crate) fn watch(self, watch: &Watch) -> Vec<u8> {
        let Watch { users, known, id } = watch;
        match self {
            Self::Json => {
                let known: serde_json::Map<String, serde_json::Value> = known
                    .iter()
                    .map(|(user, version)| (user.clone(), (*version).into()))
                    .collect();
                json!({ "type": "watch", "users": users, "known": known, "id": id })
                    .to_string()
                    .into_bytes()
            }
            Self::Cbor => cbor::watch(watch),
        }
    }

    pub(crate) fn status(self, shown: Shown) -> Vec<u8> {
        let status = status_word(shown);
        match self {
            Self::Json => json!({ "type": "status", "status": status })
                .to_string()
                .into_bytes(),
            Self::Cbor => cbor::status(status),
        }
    }

    pub(crate) fn bye(self) -> Vec<u8> {
        match self {
            Self::Json => br#"{"type":"bye"}"#.to_vec(),
            Self::Cbor => cbor::bye(),
        }
    }

    /// Reads a message of the server.
    ///
    /// # Errors
    /// What it looks like instead, shortened.
    pub(crate) fn read(self, payload: &[u8]) -> Result<Message<'_>, String> {
        match self {
            Self::Json => serde_json::from_slice(payload).map_err(|_| {
                let text = String::from_utf8_lossy(payload);
                text.chars().take(80).collect()
            }),
            Self::Cbor => cbor::read(payload).map_err(|error| {
                let start = payload.iter().take(20);
                let start: String = start.map(|byte| format!("{byte:02x}")).collect();
                format!("{start}: {error}")
            }),
        }
    }
}
