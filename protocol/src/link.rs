//! What two edges tell each other over a link: the one that watches says of whom it wants to hear, the
//! one that owns says how they are. It owns the encoding; who may speak and when is the edge's.

use ring::{Epoch, NodeId, Vnode};

use crate::{MAX_TEXT, MAX_USER, Record, Status, Version, check_user, varint};

/// The version of the format, which both sides of a link have to speak.
pub const LINK_FORMAT: u8 = 2;
/// Bytes of a batch, at most.
pub const MAX_BATCH: usize = 1 << 18;
/// Bytes of one message, at most: tag, epoch, user, record.
pub const MAX_LINK_MESSAGE: usize = 64 + MAX_USER + MAX_TEXT;
/// Bytes of a hello, at most.
pub const MAX_HELLO: usize = 512;
/// Bytes of an address in a hello.
const MAX_ADDRESS: usize = 300;
/// What a hello begins with: who speaks another format names this one by it, whatever follows.
pub const HELLO_HEAD: [u8; 4] = [b'o', b's', b'l', LINK_FORMAT];

/// What a node that watches tells one that owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToOwner {
    /// It wants to hear of the user, now and after each change. It goes by the owner's word of this
    /// epoch.
    Interest(Epoch, Box<str>),
    /// It wants to hear of the user no longer.
    Uninterest(Box<str>),
}

/// What a node that owns tells one that watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromOwner {
    /// The vnode is the node's under this epoch, and the store has accepted that.
    Owns(Vnode, Epoch),
    /// The vnode is the node's no longer: whatever interest it was told of is forgotten.
    Left(Vnode),
    /// The newest record of a user, of whose vnode the node is the owner under this epoch.
    State(Epoch, Box<str>, Record),
}

/// Why bytes of a link are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The named part is cut off or has a value that it cannot have.
    #[error("a message of a link has a bad {0}")]
    Bad(&'static str),
    /// The other side is no edge, or speaks another format.
    #[error("the other side of the link speaks format {0}; this edge speaks {LINK_FORMAT}")]
    Format(u8),
}

use LinkError::Bad;

const OWNS: u8 = 1;
const LEFT: u8 = 2;
const STATE: u8 = 3;
const INTEREST: u8 = 4;
const UNINTEREST: u8 = 5;

impl ToOwner {
    /// The user that it is about.
    #[must_use]
    pub fn user(&self) -> &str {
        match self {
            Self::Interest(_, user) | Self::Uninterest(user) => user,
        }
    }

    /// Appends the message to a batch.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Interest(epoch, user) => {
                out.push(INTEREST);
                varint::write(epoch.get().into(), out);
                text(user, out);
            }
            Self::Uninterest(user) => {
                out.push(UNINTEREST);
                text(user, out);
            }
        }
    }

    /// Takes the first message off a batch; `None` at its end.
    ///
    /// # Errors
    /// When the bytes are no such message.
    pub fn decode(input: &mut &[u8]) -> Result<Option<Self>, LinkError> {
        let Some((&tag, rest)) = input.split_first() else {
            return Ok(None);
        };
        *input = rest;
        Ok(Some(match tag {
            INTEREST => Self::Interest(read_epoch(input)?, read_user(input)?),
            UNINTEREST => Self::Uninterest(read_user(input)?),
            _ => return Err(Bad("tag")),
        }))
    }
}

impl FromOwner {
    /// Appends the message to a batch.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Owns(vnode, epoch) => {
                out.push(OWNS);
                varint::write(vnode.index() as u64, out);
                varint::write(epoch.get().into(), out);
            }
            Self::Left(vnode) => {
                out.push(LEFT);
                varint::write(vnode.index() as u64, out);
            }
            Self::State(epoch, user, record) => {
                out.push(STATE);
                varint::write(epoch.get().into(), out);
                text(user, out);
                out.push(record.status as u8);
                varint::write(record.version.get(), out);
                varint::write(record.since, out);
                varint::write(record.last_seen, out);
                varint::write(record.devices.into(), out);
                text(&record.text, out);
            }
        }
    }

    /// Takes the first message off a batch; `None` at its end.
    ///
    /// # Errors
    /// When the bytes are no such message.
    pub fn decode(input: &mut &[u8]) -> Result<Option<Self>, LinkError> {
        let Some((&tag, rest)) = input.split_first() else {
            return Ok(None);
        };
        *input = rest;
        Ok(Some(match tag {
            OWNS => Self::Owns(read_vnode(input)?, read_epoch(input)?),
            LEFT => Self::Left(read_vnode(input)?),
            STATE => {
                let (epoch, user) = (read_epoch(input)?, read_user(input)?);
                let (&status, rest) = input.split_first().ok_or(Bad("status"))?;
                *input = rest;
                let status = Status::ALL.get(usize::from(status));
                let record = Record {
                    status: *status.ok_or(Bad("status"))?,
                    version: Version::from_u64(number(input, "version")?).ok_or(Bad("version"))?,
                    since: number(input, "since")?,
                    last_seen: number(input, "last_seen")?,
                    devices: u32::try_from(number(input, "devices")?)
                        .map_err(|_| Bad("devices"))?,
                    text: read_text(input, MAX_TEXT)?.into(),
                };
                Self::State(epoch, user, record)
            }
            _ => return Err(Bad("tag")),
        }))
    }
}

/// What each side of a link says first, the owner before the watcher. The process that connects watches,
/// the other owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkHello {
    /// The name of the node that says this.
    pub node: NodeId,
    /// The process behind the name, as in its lease.
    pub boot: u64,
    /// The cluster's number of vnodes, by which a user's vnode is found.
    pub vnodes: u32,
    /// The host and port at which the node takes links, for the other side to connect as well.
    pub address: String,
}

impl LinkHello {
    /// Appends the hello: `osl`, the format's version, as varints boot and vnodes, then name and address,
    /// each behind its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&HELLO_HEAD);
        varint::write(self.boot, out);
        varint::write(self.vnodes.into(), out);
        text(&self.node, out);
        text(&self.address, out);
    }

    /// The hello in `bytes`.
    ///
    /// # Errors
    /// When the other side is no edge, speaks another format, or its words are cut off.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, LinkError> {
        let rest = bytes.strip_prefix(b"osl").ok_or(Bad("hello"))?;
        let (&format, rest) = rest.split_first().ok_or(Bad("hello"))?;
        if format != LINK_FORMAT {
            return Err(LinkError::Format(format));
        }
        bytes = rest;
        let hello = Self {
            boot: number(&mut bytes, "boot")?,
            vnodes: u32::try_from(number(&mut bytes, "count of vnodes")?)
                .map_err(|_| Bad("count of vnodes"))?,
            node: NodeId::parse(read_text(&mut bytes, 64)?).map_err(|_| Bad("node"))?,
            address: read_text(&mut bytes, MAX_ADDRESS)?.into(),
        };
        match bytes.is_empty() {
            true => Ok(hello),
            false => Err(Bad("end of a hello")),
        }
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    varint::write(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn number(input: &mut &[u8], what: &'static str) -> Result<u64, LinkError> {
    varint::read(input).ok_or(Bad(what))
}

fn read_epoch(input: &mut &[u8]) -> Result<Epoch, LinkError> {
    let epoch = u32::try_from(number(input, "epoch")?).map_err(|_| Bad("epoch"))?;
    Ok(Epoch::new(epoch))
}

fn read_vnode(input: &mut &[u8]) -> Result<Vnode, LinkError> {
    let vnode = u16::try_from(number(input, "vnode")?).map_err(|_| Bad("vnode"))?;
    Ok(Vnode::new(vnode))
}

fn read_text<'a>(input: &mut &'a [u8], most: usize) -> Result<&'a str, LinkError> {
    let length = usize::try_from(number(input, "length")?).map_err(|_| Bad("length"))?;
    if length > most {
        return Err(Bad("length"));
    }
    let (text, rest) = input.split_at_checked(length).ok_or(Bad("text"))?;
    *input = rest;
    std::str::from_utf8(text).map_err(|_| Bad("text"))
}

fn read_user(input: &mut &[u8]) -> Result<Box<str>, LinkError> {
    let user = read_text(input, MAX_USER)?;
    check_user(user).map_err(|_| Bad("user"))?;
    Ok(user.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = Record> {
        let parts = (
            0_usize..4,
            ".{0,30}",
            any::<u64>(),
            any::<u64>(),
            any::<u32>(),
            0_u64..1 << 53,
        );
        parts.prop_map(
            |(status, text, since, last_seen, devices, version)| Record {
                status: Status::ALL[status],
                text: text.into(),
                since,
                last_seen,
                devices,
                version: Version::from_u64(version).expect("below 2^53"),
            },
        )
    }

    fn from_owner() -> impl Strategy<Value = FromOwner> {
        prop_oneof![
            (any::<u16>(), any::<u32>())
                .prop_map(|(v, e)| FromOwner::Owns(Vnode::new(v), Epoch::new(e))),
            any::<u16>().prop_map(|v| FromOwner::Left(Vnode::new(v))),
            (any::<u32>(), "[a-z]{1,40}", record()).prop_map(|(e, user, record)| FromOwner::State(
                Epoch::new(e),
                user.into(),
                record
            )),
        ]
    }

    fn to_owner() -> impl Strategy<Value = ToOwner> {
        prop_oneof![
            (any::<u32>(), "[a-z]{1,40}")
                .prop_map(|(e, user)| ToOwner::Interest(Epoch::new(e), user.into())),
            "[a-z]{1,40}".prop_map(|user| ToOwner::Uninterest(user.into())),
        ]
    }

    proptest! {
        #[test]
        fn a_batch_comes_back_and_a_cut_one_is_refused_or_shorter(
            owner in prop::collection::vec(from_owner(), 0..20),
            watcher in prop::collection::vec(to_owner(), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for message in &owner {
                let before = a.len();
                message.encode(&mut a);
                prop_assert!(a.len() - before <= MAX_LINK_MESSAGE);
            }
            watcher.iter().for_each(|message| message.encode(&mut b));
            let (mut left, mut right) = (a.as_slice(), b.as_slice());
            let all: Result<Vec<_>, _> =
                std::iter::from_fn(|| FromOwner::decode(&mut left).transpose()).collect();
            prop_assert_eq!(all, Ok(owner.clone()));
            let all: Result<Vec<_>, _> =
                std::iter::from_fn(|| ToOwner::decode(&mut right).transpose()).collect();
            prop_assert_eq!(all, Ok(watcher));
            let mut left = &a[..cut.index(a.len() + 1)];
            let some: Vec<_> = std::iter::from_fn(|| FromOwner::decode(&mut left).transpose())
                .map_while(Result::ok)
                .collect();
            prop_assert!(owner.starts_with(&some));
        }
    }

    #[test]
    fn the_form_is_pinned_because_two_releases_link_to_each_other() {
        let (vnode, epoch) = (Vnode::new(77), Epoch::new(300));
        let record = Record {
            status: Status::Busy,
            text: "hi".into(),
            since: 300,
            last_seen: 0,
            devices: 2,
            version: Version::from_u64(5).expect("small"),
        };
        let mut out = Vec::new();
        ToOwner::Interest(epoch, "bob".into()).encode(&mut out);
        ToOwner::Uninterest("bob".into()).encode(&mut out);
        assert_eq!(out, b"\x04\xac\x02\x03bob\x05\x03bob");
        // A message of a newer release ends the link by name.
        assert_eq!(ToOwner::decode(&mut &b"\x06"[..]), Err(Bad("tag")));
        assert_eq!(FromOwner::decode(&mut &b"\x06"[..]), Err(Bad("tag")));
        out.clear();
        FromOwner::Owns(vnode, epoch).encode(&mut out);
        FromOwner::Left(vnode).encode(&mut out);
        FromOwner::State(epoch, "bob".into(), record).encode(&mut out);
        let state = b"\x03\xac\x02\x03bob\x03\x05\xac\x02\0\x02\x02hi";
        assert_eq!(out, [b"\x01\x4d\xac\x02\x02\x4d", &state[..]].concat());
        out.clear();
        LinkHello {
            node: NodeId::parse("n1").expect("a name"),
            boot: 300,
            vnodes: 4_096,
            address: "h:8082".into(),
        }
        .encode(&mut out);
        let rest = b"\xac\x02\x80\x20\x02n1\x06h:8082";
        assert_eq!(out, [&b"osl\x02"[..], rest].concat());
        // What a build of before says in the clear, and reads of a hello before anything else.
        let former = [b"osl\x01", &[7; 32][..], rest].concat();
        assert_eq!(LinkHello::decode(&former), Err(LinkError::Format(1)));
        assert_eq!(out[..4], HELLO_HEAD);
    }

    #[test]
    fn a_hello_comes_back_and_another_format_is_named() {
        let hello = LinkHello {
            node: NodeId::parse("n1").expect("a name"),
            boot: 7,
            vnodes: 4_096,
            address: "h:8082".into(),
        };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        assert_eq!(LinkHello::decode(&bytes), Ok(hello));
        bytes.push(0);
        assert_eq!(LinkHello::decode(&bytes), Err(Bad("end of a hello")));
        bytes[3] = 9;
        assert_eq!(LinkHello::decode(&bytes), Err(LinkError::Format(9)));
        assert_eq!(LinkHello::decode(b"GET / HTTP/1.1"), Err(Bad("hello")));
    }
}
