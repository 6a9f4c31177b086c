//! A token's three parts (RFC 7515 §7.1) and what its head says, before anything of it is proven.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::TokenError;

/// A token's decoded head, and its other parts as they came.
pub(crate) struct Parts<'a> {
    pub(crate) head: Head,
    /// What is signed: the head, a dot and the payload.
    pub(crate) signed: &'a str,
    payload: &'a str,
    pub(crate) signature: &'a str,
}

/// The members of a head that count here; a member given twice is an error (RFC 7515 §4).
#[derive(Deserialize)]
pub(crate) struct Head {
    #[serde(default)]
    pub(crate) alg: Option<String>,
    #[serde(default)]
    pub(crate) kid: Option<String>,
    #[serde(default)]
    pub(crate) typ: Option<String>,
    /// Whether there is any `crit`, whatever is in it.
    #[serde(default, deserialize_with = "is_there")]
    pub(crate) crit: bool,
    #[serde(default)]
    pub(crate) b64: Option<bool>,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|IgnoredAny| true)
}

impl<'a> Parts<'a> {
    pub(crate) fn of(token: &'a str) -> Result<Self, TokenError> {
        let dots = token.bytes().filter(|byte| *byte == b'.').count();
        if dots == 4 {
            return Err(TokenError::Encrypted);
        }
        let parts = token.rsplit_once('.').filter(|_| dots == 2);
        let (signed, signature) = parts.ok_or(TokenError::Malformed)?;
        let (head, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        Ok(Self {
            head: serde_json::from_slice(&decoded(head)?).map_err(|_| TokenError::Malformed)?,
            signed,
            payload,
            signature,
        })
    }

    /// The claims in the payload, before anything vouches for them.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        serde_json::from_slice(&decoded(self.payload)?).map_err(|_| TokenError::Malformed)
    }
}

pub(crate) fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    bytes.map_err(|_| TokenError::Malformed)
}
