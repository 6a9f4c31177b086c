//! How two edges show each other that they have the cluster's key: each answers the other's random
//! number by an HMAC (RFC 2104, with SHA-256) over both hellos. From both comes a key for each
//! direction, by which every batch is signed; nothing is encrypted.

use aws_lc_rs::{constant_time, hmac};
use protocol::link::NONCE;

/// Bytes of a batch's signature.
pub(super) const MAC: usize = 16;
/// Bytes of an answer of the handshake.
pub(super) const ANSWER: usize = 32;

/// The key that all edges of a cluster share.
#[derive(Clone)]
pub(crate) struct ClusterKey(hmac::Key);

impl ClusterKey {
    pub(crate) fn new(secret: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    fn tag(&self, what: &str, hellos: &Hellos<'_>) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        // The lengths keep the parts apart.
        for part in [what.as_bytes(), hellos.watcher, hellos.owner] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign()
    }
}

/// What both sides have said, as bytes.
pub(super) struct Hellos<'a> {
    pub(super) watcher: &'a [u8],
    pub(super) owner: &'a [u8],
}

/// Which side of a link speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Watcher,
    Owner,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Watcher => "watcher",
            Self::Owner => "owner",
        }
    }
}

pub(super) fn answer(key: &ClusterKey, of: Side, hellos: &Hellos<'_>) -> [u8; ANSWER] {
    let mut answer = [0; ANSWER];
    answer.copy_from_slice(key.tag(of.word(), hellos).as_ref());
    answer
}

/// Whether the answer of that side is right.
pub(super) fn is_right(key: &ClusterKey, of: Side, hellos: &Hellos<'_>, given: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(&answer(key, of, hellos), given).is_ok()
}

/// Signs or checks the batches of one direction, each with its number.
pub(super) struct Signer {
    key: hmac::Key,
    number: u64,
}

impl Signer {
    pub(super) fn new(key: &ClusterKey, speaks: Side, hellos: &Hellos<'_>) -> Self {
        let what = match speaks {
            Side::Watcher => "batches of the watcher",
            Side::Owner => "batches of the owner",
        };
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.tag(what, hellos).as_ref()),
            number: 0,
        }
    }

    /// The signature of the next batch.
    pub(super) fn next(&mut self, batch: &[u8]) -> [u8; MAC] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.number.to_le_bytes());
        context.update(batch);
        self.number += 1;
        let mut mac = [0; MAC];
        mac.copy_from_slice(&context.sign().as_ref()[..MAC]);
        mac
    }

    /// Whether the next batch is as it was sent.
    pub(super) fn is_right(&mut self, batch: &[u8], mac: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.next(batch), mac).is_ok()
    }
}

pub(super) fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    aws_lc_rs::rand::fill(&mut nonce).expect("the operating system gives random bytes");
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_key_answers_and_no_answer_or_batch_serves_twice() {
        let (ours, theirs) = (
            ClusterKey::new(&"k".repeat(32)),
            ClusterKey::new(&"x".repeat(32)),
        );
        let hellos = Hellos {
            watcher: b"w1",
            owner: b"o1",
        };
        let right = answer(&ours, Side::Owner, &hellos);
        assert!(is_right(&ours, Side::Owner, &hellos, &right));
        assert!(
            !is_right(&ours, Side::Watcher, &hellos, &right),
            "reflected"
        );
        assert!(!is_right(&theirs, Side::Owner, &hellos, &right));
        let later = Hellos {
            watcher: b"w2",
            owner: b"o1",
        };
        assert!(!is_right(&ours, Side::Owner, &later, &right), "replayed");
        let shifted = Hellos {
            watcher: b"w1o",
            owner: b"1",
        };
        assert!(!is_right(&ours, Side::Owner, &shifted, &right));
        let mut sender = Signer::new(&ours, Side::Owner, &hellos);
        let mut receiver = Signer::new(&ours, Side::Owner, &hellos);
        let mac = sender.next(b"batch");
        assert!(receiver.is_right(b"batch", &mac));
        assert!(!receiver.is_right(b"batch", &mac), "a batch twice");
        let mut other = Signer::new(&ours, Side::Watcher, &hellos);
        assert!(!other.is_right(b"batch", &mac), "the other direction's");
    }
}
