//! A token's three parts (RFC 7515 §7.1) and what its head says, before anything of it is proven.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::TokenError;

const PARTS: TokenError = TokenError::Malformed("it is not three parts with a dot between each");
const BASE64: TokenError =
    TokenError::Malformed("a part of it is not base64url without padding (RFC 7515 §2)");
const HEAD: TokenError = TokenError::Malformed("its head is no JSON object, or has a member twice");
const CLAIMS: TokenError = TokenError::Malformed("its claims are no JSON object");
pub(crate) const SIGNATURE: TokenError =
    TokenError::Malformed("its signature is not base64url in the form of its algorithm");

/// A token's decoded head, and its other parts as they came.
pub(crate) struct Parts<'a> {
    pub(crate) head: Head,
    /// What is signed: the head, a dot and the payload.
    pub(crate) signed: &'a str,
    payload: &'a str,
    pub(crate) signature: &'a str,
}

/// The members of a head that count here; one that is null is one that is missing.
pub(crate) struct Head {
    pub(crate) alg: Option<String>,
    pub(crate) kid: Option<String>,
    pub(crate) typ: Option<String>,
    /// Whether there is any `crit`, whatever is in it.
    pub(crate) crit: bool,
    pub(crate) b64: Option<bool>,
}

/// The same of any type; a member given twice is an error (RFC 7515 §4).
#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    alg: Value,
    #[serde(default)]
    kid: Value,
    #[serde(default)]
    typ: Value,
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    #[serde(default)]
    b64: Value,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|IgnoredAny| true)
}

impl Head {
    fn of(json: &[u8]) -> Result<Self, TokenError> {
        let members: Members = serde_json::from_slice(json).map_err(|_| HEAD)?;
        let text = |value, name: &str, section| match value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(TokenError::Member(name.into(), section)),
        };
        Ok(Self {
            alg: text(members.alg, "alg", "a text (RFC 7515 §4.1.1)")?,
            kid: text(members.kid, "kid", "a text (RFC 7515 §4.1.4)")?,
            typ: text(members.typ, "typ", "a text (RFC 7515 §4.1.9)")?,
            crit: members.crit,
            b64: match members.b64 {
                Value::Null => None,
                Value::Bool(b64) => Some(b64),
                _ => {
                    return Err(TokenError::Member(
                        "b64".into(),
                        "true or false (RFC 7797 §3)",
                    ));
                }
            },
        })
    }
}

impl<'a> Parts<'a> {
    pub(crate) fn of(token: &'a str) -> Result<Self, TokenError> {
        let dots = token.bytes().filter(|byte| *byte == b'.').count();
        if dots == 4 {
            return Err(TokenError::Encrypted);
        }
        let parts = token.rsplit_once('.').filter(|_| dots == 2);
        let (signed, signature) = parts.ok_or(PARTS)?;
        let (head, payload) = signed.split_once('.').ok_or(PARTS)?;
        Ok(Self {
            head: Head::of(&decoded(head)?)?,
            signed,
            payload,
            signature,
        })
    }

    /// The claims in the payload, before anything vouches for them.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        serde_json::from_slice(&decoded(self.payload)?).map_err(|_| CLAIMS)
    }
}

pub(crate) fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    bytes.map_err(|_| BASE64)
}
