//! The members of a client's CBOR message (RFC 8949): a map with the numbers of
//! [`crate::names`] as keys. It owns no rules: it says what stands there.

use std::borrow::Cow;

use minicbor::{Decoder, data::Type, decode::Error};

use super::members::{Members, Value};
use crate::names::Member;

/// How deep lists and maps that nobody reads may be nested.
const MAX_DEPTH: u32 = 16;

pub(super) fn members(payload: &[u8]) -> Result<Members<'_>, String> {
    let mut decoder = Decoder::new(payload);
    let mut members = Members::default();
    read(&mut decoder, &mut members).map_err(|error| format!("not a CBOR map: {error}"))?;
    match payload.len() - decoder.position() {
        0 => Ok(members),
        left => Err(format!("the CBOR map is followed by {left} more bytes")),
    }
}

fn read<'a>(decoder: &mut Decoder<'a>, members: &mut Members<'a>) -> Result<(), Error> {
    let length = decoder.map()?;
    each(decoder, length, |decoder| {
        let member = if matches!(decoder.datatype()?, Type::U8) {
            let number = decoder.u8()?;
            Member::ALL
                .iter()
                .copied()
                .find(|member| member.number() == number)
        } else {
            skip(decoder, MAX_DEPTH)?;
            None
        };
        match member.and_then(|member| members.slot(member)) {
            Some(slot) => *slot = value(decoder)?,
            None => skip(decoder, MAX_DEPTH)?,
        }
        Ok(())
    })
}

/// Calls `item` for each of `length` items, or until the break of an indefinite length.
fn each<'a>(
    decoder: &mut Decoder<'a>,
    length: Option<u64>,
    mut item: impl FnMut(&mut Decoder<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    match length {
        Some(length) => (0..length).try_for_each(|_| item(decoder)),
        None => {
            while decoder.datatype()? != Type::Break {
                item(decoder)?;
            }
            skip_break(decoder)
        }
    }
}

fn skip_break(decoder: &mut Decoder<'_>) -> Result<(), Error> {
    decoder.set_position(decoder.position() + 1);
    Ok(())
}

/// The next value, read to its end whatever it is; `None` for null.
fn value<'a>(decoder: &mut Decoder<'a>) -> Result<Option<Value<'a>>, Error> {
    let start = decoder.position();
    let value = match decoder.datatype()? {
        Type::Null | Type::Undefined => None,
        Type::String => return Ok(Some(Value::Text(Cow::Borrowed(decoder.str()?)))),
        Type::U8
        | Type::U16
        | Type::U32
        | Type::U64
        | Type::I8
        | Type::I16
        | Type::I32
        | Type::I64 => match decoder.i64() {
            Ok(number) => return Ok(Some(Value::Integer(number))),
            Err(_) => Some(Value::Other),
        },
        Type::Array | Type::ArrayIndef => match texts(decoder) {
            Ok(texts) => return Ok(Some(Value::Texts(texts))),
            Err(_) => Some(Value::Other),
        },
        Type::Map | Type::MapIndef => match numbers(decoder) {
            Ok(numbers) => return Ok(Some(Value::Numbers(numbers))),
            Err(_) => Some(Value::Other),
        },
        _ => Some(Value::Other),
    };
    decoder.set_position(start);
    skip(decoder, MAX_DEPTH)?;
    Ok(value)
}

fn texts<'a>(decoder: &mut Decoder<'a>) -> Result<Vec<Cow<'a, str>>, Error> {
    let length = decoder.array()?;
    let mut texts = Vec::new();
    each(decoder, length, |decoder| {
        texts.push(Cow::Borrowed(decoder.str()?));
        Ok(())
    })?;
    Ok(texts)
}

fn numbers<'a>(decoder: &mut Decoder<'a>) -> Result<Vec<(Cow<'a, str>, u64)>, Error> {
    let length = decoder.map()?;
    let mut numbers = Vec::new();
    each(decoder, length, |decoder| {
        numbers.push((Cow::Borrowed(decoder.str()?), decoder.u64()?));
        Ok(())
    })?;
    Ok(numbers)
}

/// Passes over one value, whose nesting is bounded because this recurses.
fn skip(decoder: &mut Decoder<'_>, depth: u32) -> Result<(), Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::message("nested too deeply"));
    };
    match decoder.datatype()? {
        Type::Array | Type::ArrayIndef => {
            let length = decoder.array()?;
            each(decoder, length, |decoder| skip(decoder, depth))
        }
        Type::Map | Type::MapIndef => {
            let length = decoder.map()?;
            each(decoder, length, |decoder| {
                skip(decoder, depth)?;
                skip(decoder, depth)
            })
        }
        Type::Tag => {
            decoder.tag()?;
            skip(decoder, depth)
        }
        Type::Break => Err(Error::message("a break out of place")),
        _ => decoder.skip(),
    }
}
