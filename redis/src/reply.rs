//! What comes back, taken apart. Whatever a server answers, the result is a value or a named
//! error, never a panic.

use redis::{ServerError, Value};

use crate::StoreError;

/// The error in an answer.
pub(crate) fn server_error(value: &Value) -> Option<&ServerError> {
    match value {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

/// The error for an answer of another form than expected.
pub(crate) fn unexpected(what: &str, value: &Value) -> StoreError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) | Value::VerbatimString { .. } => "a text",
        Value::Array(_) | Value::Set(_) => "a list",
        Value::Okay => "OK",
        Value::ServerError(_) => "an error",
        _ => "something else",
    };
    StoreError::Unexpected(format!("Redis answered {kind} where {what} was expected"))
}

/// The bytes of a text; `None` for nothing.
pub(crate) fn bytes(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => {
            Ok(Some(text.into_bytes()))
        }
        Value::Okay => Ok(Some(b"OK".to_vec())),
        Value::Int(number) => Ok(Some(number.to_string().into_bytes())),
        other => Err(unexpected("a text", &other)),
    }
}

/// A text that must be there.
pub(crate) fn text(value: Value) -> Result<String, StoreError> {
    let missing =
        || StoreError::Unexpected("Redis answered nothing where a text was expected".into());
    let bytes = bytes(value)?.ok_or_else(missing)?;
    String::from_utf8(bytes)
        .map_err(|_| StoreError::Unexpected("Redis answered a text that is not UTF-8".into()))
}

/// A number, or a text that is one.
pub(crate) fn number<T: std::str::FromStr>(value: Value) -> Result<T, StoreError> {
    let text = text(value)?;
    let bad = |_| {
        let shown: String = text.chars().take(40).collect();
        StoreError::Unexpected(format!("Redis has {shown:?} where a number was expected"))
    };
    text.parse().map_err(bad)
}

/// The members of a list that must be there.
pub(crate) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        other => Err(unexpected("a list", &other)),
    }
}

/// What a script of ours answers: a word and what belongs to it.
pub(crate) struct Outcome {
    pub(crate) word: String,
    rest: std::vec::IntoIter<Value>,
}

impl Outcome {
    pub(crate) fn of(value: Value) -> Result<Self, StoreError> {
        let mut rest = list(value)?.into_iter();
        let word = text(rest.next().unwrap_or(Value::Nil))?;
        Ok(Self { word, rest })
    }

    /// The next value of the answer.
    pub(crate) fn next(&mut self) -> Value {
        self.rest.next().unwrap_or(Value::Nil)
    }

    /// The error for a word that is none of those expected.
    pub(crate) fn unknown(&self) -> StoreError {
        let shown: String = self.word.chars().take(40).collect();
        StoreError::Unexpected(format!("a script answered {shown:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_answers_are_named_errors() {
        let odd = [
            Value::Nil,
            Value::Int(-1),
            Value::Okay,
            Value::BulkString(vec![0xff]),
            Value::Array(vec![]),
            Value::Array(vec![Value::Array(vec![])]),
            Value::Map(vec![]),
            Value::Boolean(true),
            Value::Double(f64::NAN),
        ];
        for value in odd {
            assert!(Outcome::of(value.clone()).is_err(), "{value:?}");
            assert!(number::<u64>(value.clone()).is_err(), "{value:?}");
            let _ = (bytes(value.clone()), text(value.clone()), list(value));
        }
        assert_eq!(number::<u64>(Value::Int(7)), Ok(7));
        assert_eq!(
            number::<u64>(Value::BulkString(b"18446744073709551615".to_vec())),
            Ok(u64::MAX)
        );
    }
}
