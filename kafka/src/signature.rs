//! Signatures of events: who can write to the topic alone cannot make one. It owns how a signature looks
//! and which keys count; what an event says is `protocol`'s.
//!
//! A signed event has one more member, the last of its JSON: `"mac":"…"`, which is HMAC-SHA-256 (RFC 2104),
//! cut to 128 bits (RFC 4868 §2.1.1), over all bytes before the comma in front of it, in base64url
//! without padding. The format's version stays 1: to who has no keys it is an unknown member.

use std::fmt;

use aws_lc_rs::{constant_time, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::message::BadMessage;

/// What stands before the signature, and behind it.
const BEFORE: &[u8] = br#","mac":""#;
const BEHIND: &[u8] = br#""}"#;
/// Bytes of a signature, and of its text.
const LENGTH: usize = 16;
const TEXT: usize = 22;
/// Bytes that a key has at least (RFC 2104 §3: as many as the hash has).
const LEAST: usize = 32;
/// The most keys: each is tried on what is signed by none of them.
const MOST: usize = 8;

/// The keys of a cluster: the first signs, and each is good.
#[derive(Clone, Default)]
pub struct EventKeys {
    keys: Vec<hmac::Key>,
    accepts_unsigned: bool,
}

impl fmt::Debug for EventKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keys,
            accepts_unsigned,
        } = self;
        write!(
            f,
            "{} keys, accepts_unsigned: {accepts_unsigned}",
            keys.len()
        )
    }
}

impl EventKeys {
    /// The keys in these texts; without one nothing is signed, and every event is taken. With some,
    /// one without a signature is taken only where `accepts_unsigned`.
    ///
    /// # Errors
    /// The rule that a key breaks.
    pub fn new(keys: &[impl AsRef<str>], accepts_unsigned: bool) -> Result<Self, &'static str> {
        if keys.len() > MOST {
            return Err("there are more than 8 keys");
        }
        let key = |text: &str| match text.len() >= LEAST {
            true => Ok(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())),
            false => Err("a key has 32 bytes at least: openssl rand -base64 32 makes one"),
        };
        let keys = keys.iter().map(|text| key(text.as_ref()));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            accepts_unsigned,
        })
    }

    /// The signed form of an event's JSON; `None` where nothing is signed.
    #[must_use]
    pub fn signed(&self, event: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let content = event.strip_suffix(b"}")?;
        let mut signed = Vec::with_capacity(event.len() + BEFORE.len() + TEXT + BEHIND.len());
        signed.extend_from_slice(content);
        signed.extend_from_slice(BEFORE);
        signed.extend_from_slice(text(key, content).as_bytes());
        signed.extend_from_slice(BEHIND);
        Some(signed)
    }

    /// Whether what a message says may be believed, as far as its signature goes.
    pub(crate) fn check(&self, value: &[u8]) -> Result<(), BadMessage> {
        if self.keys.is_empty() {
            return Ok(());
        }
        match split(value) {
            Some((content, mac)) => {
                let made = |key| {
                    constant_time::verify_slices_are_equal(text(key, content).as_bytes(), mac)
                };
                let is_ours = self.keys.iter().any(|key| made(key).is_ok());
                is_ours.then_some(()).ok_or(BadMessage::Signature)
            }
            None if self.accepts_unsigned => Ok(()),
            None => Err(BadMessage::Unsigned),
        }
    }
}

fn text(key: &hmac::Key, content: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&hmac::sign(key, content).as_ref()[..LENGTH])
}

/// What is signed, and the signature's text.
fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = value.strip_suffix(BEHIND)?;
    let (rest, mac) = rest.split_at(rest.len().checked_sub(TEXT)?);
    Some((rest.strip_suffix(BEFORE)?, mac))
}

#[cfg(test)]
mod tests {
    use protocol::Event;

    use super::*;

    const EVENT: &str = r#"{"v":1,"user":"bob","status":"away","since":5,"last_seen":0,"devices":2,"version":8589934602,"vnode":77,"epoch":1,"node":"n1","cause":"status"}"#;
    const OLD: &str = "the key that was in force at first";
    const NEW: &str = "the key that comes in its place, later";
    const OTHER: &str = "a key of another cluster than this one";

    fn keys(keys: &[&str], accepts_unsigned: bool) -> EventKeys {
        EventKeys::new(keys, accepts_unsigned).expect("good keys")
    }

    fn signed(by: &[&str]) -> Vec<u8> {
        keys(by, false).signed(EVENT.as_bytes()).expect("a key")
    }

    #[test]
    fn a_signed_event_reads_as_one_that_is_not_and_is_31_bytes_longer() {
        let value = signed(&[NEW]);
        assert_eq!(value.len(), EVENT.len() + 31);
        let event = Event::decode(&value).expect("version 1");
        assert_eq!(event, Event::decode(EVENT.as_bytes()).expect("version 1"));
        assert!(keys(&[], false).signed(EVENT.as_bytes()).is_none());
        keys(&[], false)
            .check(&value)
            .expect("who has no key takes it");
    }

    #[test]
    fn each_key_is_good_and_the_first_one_signs() {
        for (signs, checks, good) in [
            (&[OLD][..], &[OLD, NEW][..], true),
            (&[OLD, NEW], &[OLD], true),
            (&[NEW, OLD], &[OLD, NEW], true),
            (&[NEW, OLD], &[NEW], true),
            (&[NEW, OLD], &[OLD], false),
            (&[OTHER], &[NEW, OLD], false),
        ] {
            let checked = keys(checks, false).check(&signed(signs));
            assert_eq!(checked.is_ok(), good, "{signs:?} {checks:?}: {checked:?}");
        }
    }

    #[test]
    fn no_byte_of_a_signed_event_can_be_changed_and_none_left_out() {
        let ours = keys(&[NEW], false);
        let value = signed(&[NEW]);
        ours.check(&value).expect("as it was signed");
        for at in 0..value.len() {
            let mut changed = value.clone();
            changed[at] ^= 1;
            assert!(ours.check(&changed).is_err(), "byte {at}");
            let mut shorter = value.clone();
            shorter.remove(at);
            assert!(ours.check(&shorter).is_err(), "without byte {at}");
        }
        for value in [
            &b""[..],
            b"{}",
            b"\"}",
            br#"{"mac":"0123456789012345678901"}"#,
        ] {
            assert!(matches!(ours.check(value), Err(BadMessage::Unsigned)));
        }
    }

    #[test]
    fn unsigned_events_are_taken_only_while_edges_get_their_keys_and_forged_ones_never() {
        let unsigned = EVENT.as_bytes();
        assert!(matches!(
            keys(&[NEW], false).check(unsigned),
            Err(BadMessage::Unsigned)
        ));
        let lenient = keys(&[NEW], true);
        lenient.check(unsigned).expect("for now");
        assert!(matches!(
            lenient.check(&signed(&[OTHER])),
            Err(BadMessage::Signature)
        ));
    }

    #[test]
    fn a_key_is_long_and_is_not_shown() {
        let short = EventKeys::new(&["short"], false).expect_err("5 bytes");
        assert!(short.contains("32 bytes"), "{short}");
        assert!(EventKeys::new(&[NEW; 9], false).is_err());
        assert!(!format!("{:?}", keys(&[NEW], false)).contains("key that"));
    }
}
