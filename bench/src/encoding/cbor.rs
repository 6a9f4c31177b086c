//! CBOR messages (RFC 8949): a map with small numbers for its members and for the type.

use std::borrow::Cow;

use minicbor::{Decoder, Encoder, data::Type, decode::Error};

use super::{Message, Record, Watch};

/// Numbers of the members that the bench writes or reads.
mod member {
    pub(super) const TYPE: u8 = 0;
    pub(super) const ID: u8 = 1;
    pub(super) const USER: u8 = 2;
    pub(super) const USERS: u8 = 3;
    pub(super) const KNOWN: u8 = 4;
    pub(super) const STATUS: u8 = 5;
    pub(super) const VERSION: u8 = 10;
    pub(super) const HEARTBEAT: u8 = 14;
    pub(super) const ADDRESS: u8 = 16;
    pub(super) const CODE: u8 = 18;
    pub(super) const MESSAGE: u8 = 19;
}

/// The types by their numbers, from 1.
const TYPES: [&str; 16] = [
    "auth", "watch", "unwatch", "query", "status", "ping", "bye", "welcome", "snapshot",
    "presence", "result", "ok", "pong", "error", "move", "expiring",
];
const WATCH: u8 = 2;
const STATUS: u8 = 5;
const BYE: u8 = 7;

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn written(write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Written) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A vector takes all that is written to it.
    let _ = write(&mut Encoder::new(&mut bytes));
    bytes
}

pub(super) fn watch(watch: &Watch) -> Vec<u8> {
    written(|to| {
        to.map(4)?.u8(member::TYPE)?.u8(WATCH)?;
        to.u8(member::USERS)?.array(watch.users.len() as u64)?;
        for user in &watch.users {
            to.str(user)?;
        }
        to.u8(member::KNOWN)?.map(watch.known.len() as u64)?;
        for (user, version) in &watch.known {
            to.str(user)?.u64(*version)?;
        }
        to.u8(member::ID)?.u64(watch.id)?;
        Ok(())
    })
}

pub(super) fn status(status: &str) -> Vec<u8> {
    written(|to| {
        to.map(2)?.u8(member::TYPE)?.u8(STATUS)?;
        to.u8(member::STATUS)?.str(status)?;
        Ok(())
    })
}

pub(super) fn bye() -> Vec<u8> {
    written(|to| {
        to.map(1)?.u8(member::TYPE)?.u8(BYE)?;
        Ok(())
    })
}

/// Calls `item` for each member of a map with its number.
fn members<'a>(
    from: &mut Decoder<'a>,
    mut item: impl FnMut(&mut Decoder<'a>, u8) -> Result<(), Error>,
) -> Result<(), Error> {
    let length = from.map()?;
    let mut done = 0;
    loop {
        match length {
            Some(length) if done == length => return Ok(()),
            None if from.datatype()? == Type::Break => return from.skip(),
            _ => {}
        }
        let number = from.u8()?;
        item(from, number)?;
        done += 1;
    }
}

fn text<'a>(from: &mut Decoder<'a>) -> Result<Cow<'a, str>, Error> {
    from.str().map(Cow::Borrowed)
}

fn record<'a>(from: &mut Decoder<'a>) -> Result<Record<'a>, Error> {
    let (mut user, mut status, mut version) = (None, None, None);
    members(from, |from, number| {
        match number {
            member::USER => user = Some(text(from)?),
            member::STATUS => status = Some(text(from)?),
            member::VERSION => version = Some(from.u64()?),
            _ => from.skip()?,
        }
        Ok(())
    })?;
    let missing = || Error::message("a record without user, status or version");
    Ok(Record {
        user: user.ok_or_else(missing)?,
        status: status.ok_or_else(missing)?,
        version: version.ok_or_else(missing)?,
    })
}

fn records<'a>(from: &mut Decoder<'a>) -> Result<Vec<Record<'a>>, Error> {
    let length = from.array()?;
    let mut records = Vec::new();
    loop {
        match length {
            Some(length) if records.len() as u64 == length => return Ok(records),
            None if from.datatype()? == Type::Break => {
                from.skip()?;
                return Ok(records);
            }
            _ => records.push(record(from)?),
        }
    }
}

pub(super) fn read(payload: &[u8]) -> Result<Message<'_>, Error> {
    let mut from = Decoder::new(payload);
    let mut message = Message::default();
    members(&mut from, |from, number| {
        match number {
            member::TYPE => {
                let kind = from.u8()?;
                let name = TYPES.get(usize::from(kind).wrapping_sub(1));
                let name = name.ok_or_else(|| Error::message("an unknown type"))?;
                message.kind = Cow::Borrowed(name);
            }
            member::USERS => message.users = records(from)?,
            // The bench's own are numbers; of another's answer it wants nothing.
            member::ID if from.datatype()? == Type::String => from.skip()?,
            member::ID => message.id = Some(from.u64()?),
            member::HEARTBEAT => message.heartbeat = Some(from.u64()?),
            member::ADDRESS => message.address = Some(text(from)?),
            member::CODE => message.code = Some(text(from)?),
            member::MESSAGE => message.message = Some(text(from)?),
            _ => from.skip()?,
        }
        Ok(())
    })?;
    match payload.len() - from.position() {
        0 => Ok(message),
        _ => Err(Error::message("there is more after the message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_bench_says_is_what_the_document_has() {
        let asked = Watch {
            users: vec!["a".into()],
            known: vec![("a".into(), 300)],
            id: 7,
        };
        let bytes = [
            0xa4, 0, 2, 3, 0x81, 0x61, b'a', 4, 0xa1, 0x61, b'a', 0x19, 1, 0x2c, 1, 7,
        ];
        assert_eq!(watch(&asked), bytes);
        assert_eq!(
            status("away"),
            [0xa2, 0, 5, 5, 0x64, b'a', b'w', b'a', b'y']
        );
        assert_eq!(bye(), [0xa1, 0, 7]);
    }

    #[test]
    fn a_message_is_read_whatever_its_lengths_and_no_part_of_one() {
        let known = [
            0xa3, 0, 10, 3, 0x81, 0xa4, 2, 0x61, b'b', 5, 0x64, b'a', b'w', b'a', b'y', 9, 2, 10,
            0x19, 1, 0, 1, 7,
        ];
        let endless = [
            0xbf, 0, 10, 3, 0x9f, 0xbf, 2, 0x61, b'b', 5, 0x64, b'a', b'w', b'a', b'y', 9, 2, 10,
            0x19, 1, 0, 0xff, 0xff, 1, 7, 0xff,
        ];
        for bytes in [&known[..], &endless] {
            let message = read(bytes).expect("a message");
            assert_eq!((&*message.kind, message.id), ("presence", Some(7)));
            let [record] = &message.users[..] else {
                panic!("one record");
            };
            assert_eq!((&*record.user, &*record.status), ("b", "away"));
            assert_eq!(record.version, 256);
            for end in 0..bytes.len() {
                assert!(read(&bytes[..end]).is_err(), "{end}");
            }
            assert!(read(&[bytes, &[0]].concat()).is_err());
        }
        assert!(read(&[0xa1, 0, 99]).is_err() && read(b"{}").is_err());
    }
}
