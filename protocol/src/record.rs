//! A user's presence: the words for it, the public record, and what the store keeps of it.
//! It owns the store's encoding and the rules for a user's name; it never decides a status.

use serde::{Deserialize, Serialize};

use crate::{Version, varint, words::words};

words! {
    /// The status of a user that others see.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Status {
        /// The user has no session and no running grace period, or is invisible.
        #[default]
        Offline => "offline",
        /// At least one session reports online.
        Online => "online",
        /// The user has sessions, and none reports online.
        Away => "away",
        /// The user has a session and chose not to be disturbed.
        Busy => "busy",
    }
}

words! {
    /// What the person chose for all devices; it outlives sessions, and no session's report changes it.
    #[derive(Default)]
    pub enum Mode {
        /// The activities of the sessions decide the status.
        #[default]
        Auto => "auto",
        /// Shown as busy while the user has a session.
        Busy => "busy",
        /// Shown as offline to all others.
        Invisible => "invisible",
    }
}

words! {
    /// What one session reports of its own device.
    pub enum Activity {
        /// The device is in use.
        Online => "online",
        /// The device is idle.
        Away => "away",
    }
}

/// The longest name of a user, in bytes.
pub const MAX_USER: usize = 256;
/// The longest text of a user, in bytes.
pub const MAX_TEXT: usize = 128;

/// Why a text is not a user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserIdError {
    /// The name has no bytes.
    #[error("a user must not be empty")]
    Empty,
    /// The name is longer than [`MAX_USER`] bytes; the value is its length.
    #[error("a user is at most {MAX_USER} bytes, not {0}")]
    TooLong(usize),
    /// The name has the control character in the value.
    #[error("a user must not have the control character {0:?}")]
    Control(char),
}

/// Checks that `user` is 1 to [`MAX_USER`] bytes without control characters.
pub fn check_user(user: &str) -> Result<(), UserIdError> {
    if user.is_empty() {
        return Err(UserIdError::Empty);
    }
    if user.len() > MAX_USER {
        return Err(UserIdError::TooLong(user.len()));
    }
    match user.chars().find(|c| c.is_control()) {
        Some(control) => Err(UserIdError::Control(control)),
        None => Ok(()),
    }
}

/// A user's name: the token's `sub`, checked by [`check_user`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// The name in `user`.
    ///
    /// # Errors
    /// When [`check_user`] refuses it.
    pub fn parse(user: &str) -> Result<Self, UserIdError> {
        check_user(user)?;
        Ok(Self(user.into()))
    }
}

impl std::ops::Deref for UserId {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// Lets a map with `UserId` keys be asked with a `&str`.
impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for UserId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for UserId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A user's public state. The default is that of a user never seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The status that others see.
    pub status: Status,
    /// The user's text, at most [`MAX_TEXT`] bytes; empty = none.
    pub text: Box<str>,
    /// When the status began, ms since 1970; 0 = never.
    pub since: u64,
    /// When the last session ended, ms since 1970; 0 = never.
    pub last_seen: u64,
    /// The number of the user's sessions.
    pub devices: u32,
    /// The record's version: the owner of the vnode raises it with every change.
    pub version: Version,
}

impl Record {
    /// Whether a watcher sees a difference to `other`; the version is none.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        (self.status, self.devices, self.since, &self.text)
            != (other.status, other.devices, other.since, &other.text)
            || (self.status == Status::Offline && self.last_seen != other.last_seen)
    }
}

/// What the store keeps of a user: the public record, and what only the owner needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// The public part, which watchers see.
    pub record: Record,
    /// The mode that the person chose for all devices.
    pub mode: Mode,
    /// Whether the user had a session or a running grace period: an invisible user's record
    /// says offline either way, and a new owner has to know.
    pub connected: bool,
}

/// Why bytes of the store are not a stored record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// The first byte names an encoding that this release does not know.
    #[error("a stored record has the unknown encoding {0}; known is {ENCODING}")]
    UnknownEncoding(u8),
    /// The bytes end inside the named member.
    #[error("a stored record is cut off in its {0}")]
    CutOff(&'static str),
    /// A member has a value that it cannot have.
    #[error("a stored record has a bad {0}")]
    Bad(&'static str),
    /// Bytes follow the record; the value is how many.
    #[error("a stored record is followed by {0} more bytes")]
    Trailing(usize),
}

const ENCODING: u8 = 1;

impl Stored {
    /// Appends the store's encoding of this record, 8 bytes to about 170:
    /// `1`, flags (bits 0–1 status, 2–3 mode, 4 connected), then as varints version, since,
    /// last_seen, devices and the text's length, then the text.
    ///
    /// The text must not be longer than [`MAX_TEXT`]: [`Stored::decode`] refuses it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags =
            self.record.status as u8 | (self.mode as u8) << 2 | u8::from(self.connected) << 4;
        out.extend_from_slice(&[ENCODING, flags]);
        varint::write(self.record.version.get(), out);
        varint::write(self.record.since, out);
        varint::write(self.record.last_seen, out);
        varint::write(self.record.devices.into(), out);
        varint::write(self.record.text.len() as u64, out);
        out.extend_from_slice(self.record.text.as_bytes());
    }

    /// The record in `bytes`. Accepts exactly what [`Stored::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoredError> {
        use StoredError::{Bad, CutOff, Trailing, UnknownEncoding};
        let (&encoding, rest) = bytes.split_first().ok_or(CutOff("encoding"))?;
        if encoding != ENCODING {
            return Err(UnknownEncoding(encoding));
        }
        let (&flags, mut rest) = rest.split_first().ok_or(CutOff("flags"))?;
        if flags >> 5 != 0 {
            return Err(Bad("flags"));
        }
        let mut number = |member| match varint::read(&mut rest) {
            Some(value) => Ok(value),
            None if rest.is_empty() => Err(CutOff(member)),
            None => Err(Bad(member)),
        };
        let version = number("version")?;
        let since = number("since")?;
        let last_seen = number("last_seen")?;
        let devices = number("devices")?;
        let length = number("text length")?;
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_TEXT)
            .ok_or(Bad("text length"))?;
        let (text, trailing) = rest.split_at_checked(length).ok_or(CutOff("text"))?;
        if !trailing.is_empty() {
            return Err(Trailing(trailing.len()));
        }
        Ok(Self {
            record: Record {
                status: Status::ALL[usize::from(flags & 3)],
                text: std::str::from_utf8(text).map_err(|_| Bad("text"))?.into(),
                since,
                last_seen,
                devices: u32::try_from(devices).map_err(|_| Bad("devices"))?,
                version: Version::from_u64(version).ok_or(Bad("version"))?,
            },
            mode: *Mode::ALL
                .get(usize::from(flags >> 2 & 3))
                .ok_or(Bad("flags"))?,
            connected: flags & 0x10 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_1_to_256_bytes_without_control_characters() {
        assert_eq!(check_user(""), Err(UserIdError::Empty));
        assert_eq!(check_user(&"é".repeat(129)), Err(UserIdError::TooLong(258)));
        assert_eq!(check_user("a\u{85}b"), Err(UserIdError::Control('\u{85}')));
        assert_eq!(check_user(&"é".repeat(128)), Ok(()));
        assert_eq!(&*UserId::parse("zoë 🦀").expect("a good name"), "zoë 🦀");
    }

    #[test]
    fn the_stored_form_is_pinned_because_stores_outlive_releases() {
        let stored = Stored {
            record: Record {
                status: Status::Busy,
                text: "hi".into(),
                since: 300,
                last_seen: 0,
                devices: 2,
                version: Version::from_u64(5).expect("small"),
            },
            mode: Mode::Busy,
            connected: true,
        };
        let mut bytes = Vec::new();
        stored.encode(&mut bytes);
        assert_eq!(bytes, [1, 0b1_01_11, 5, 0xac, 2, 0, 2, 2, b'h', b'i']);
        assert_eq!(Stored::decode(&bytes), Ok(stored));
    }

    #[test]
    fn each_kind_of_corruption_has_its_name() {
        use StoredError::{Bad, CutOff, Trailing, UnknownEncoding};
        let cases: [(&[u8], StoredError); 9] = [
            (&[], CutOff("encoding")),
            (&[2, 0], UnknownEncoding(2)),
            (&[1], CutOff("flags")),
            (&[1, 0x20, 0, 0, 0, 0, 0], Bad("flags")),
            (&[1, 0b1100, 0, 0, 0, 0, 0], Bad("flags")),
            (&[1, 0, 0, 0x80], CutOff("since")),
            (&[1, 0, 0, 0, 0, 0, 129, 1], Bad("text length")),
            (&[1, 0, 0, 0, 0, 0, 2, b'h'], CutOff("text")),
            (&[1, 0, 0, 0, 0, 0, 0, 7, 7], Trailing(2)),
        ];
        for (bytes, error) in cases {
            assert_eq!(Stored::decode(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(
            Stored::decode(&[1, 0, 0, 0, 0, 0, 1, 0xff]),
            Err(Bad("text"))
        );
    }
}
