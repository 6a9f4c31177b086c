//! The members of a client's JSON message. It owns no rules: it says what stands there.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::members::{Members, Value};
use crate::names::Member;

pub(super) fn members(payload: &[u8]) -> Result<Members<'_>, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let members = deserializer.deserialize_map(MessageVisitor);
    let members = members.and_then(|members| deserializer.end().map(|()| members));
    members.map_err(|error| format!("not a JSON object: {error}"))
}

struct MessageVisitor;

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Members::default();
        while let Some(Text(name)) = map.next_key()? {
            match Member::parse(&name).and_then(|member| members.slot(member)) {
                // Of a member that stands there twice, the last counts.
                Some(slot) => *slot = value(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(members)
    }
}

/// The value of a member; `None` for `null`, which counts as a missing member.
fn value(raw: &RawValue) -> Option<Value<'_>> {
    let text = raw.get();
    let value = match text.as_bytes()[0] {
        b'n' => return None,
        b'"' => serde_json::from_str(text).map(|Text(text)| Value::Text(text)),
        b'[' => serde_json::from_str(text).map(|texts: Vec<Text<'_>>| {
            Value::Texts(texts.into_iter().map(|Text(text)| text).collect())
        }),
        b'{' => serde_json::from_str(text).map(|Numbers(numbers)| Value::Numbers(numbers)),
        _ => serde_json::from_str(text).map(Value::Integer),
    };
    Some(value.unwrap_or(Value::Other))
}

/// A text, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object whose values are versions, in the order of the text.
struct Numbers<'a>(Vec<(Cow<'a, str>, u64)>);

impl<'de> Deserialize<'de> for Numbers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NumbersVisitor)
    }
}

struct NumbersVisitor;

impl<'de> Visitor<'de> for NumbersVisitor {
    type Value = Numbers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of versions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Numbers<'de>, A::Error> {
        let mut numbers = Vec::new();
        while let Some((Text(name), number)) = map.next_entry()? {
            numbers.push((name, number));
        }
        Ok(Numbers(numbers))
    }
}
