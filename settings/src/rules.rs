//! Rules that one setting's syntax does not say: ranges, and what settings must be to each other.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use crate::SettingsError;

/// Collects the rules that are broken, so that all are shown at once.
#[derive(Debug, Default)]
pub struct Rules(Vec<String>);

impl Rules {
    /// Notes `error` unless the rule is `kept`.
    pub fn rule(&mut self, kept: bool, error: impl Into<String>) {
        if !kept {
            self.0.push(error.into());
        }
    }

    /// Notes the error of `result`, if it is one.
    pub fn good<T>(&mut self, result: Result<T, impl Display>) {
        if let Err(error) = result {
            self.rule(false, error.to_string());
        }
    }

    fn range(&mut self, name: &str, value: u64, allowed: &RangeInclusive<u64>, unit: &str) {
        let (least, most) = (allowed.start(), allowed.end());
        self.rule(
            allowed.contains(&value),
            format!("{name} = {value}{unit}: allowed are {least}{unit} to {most}{unit}"),
        );
    }

    /// A number's range.
    pub fn number(&mut self, name: &str, value: u64, allowed: RangeInclusive<u64>) {
        self.range(name, value, &allowed, "");
    }

    /// A duration's range, in ms.
    pub fn duration(&mut self, name: &str, value: Duration, allowed: RangeInclusive<u64>) {
        let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
        self.range(name, ms, &allowed, "ms");
    }

    /// A range of bytes.
    pub fn bytes(&mut self, name: &str, value: usize, allowed: RangeInclusive<u64>) {
        self.range(name, value as u64, &allowed, "B");
    }

    /// One of a few words.
    pub fn word(&mut self, name: &str, value: &str, allowed: &[&str]) {
        let listed = allowed.join(" and ");
        self.rule(
            allowed.contains(&value),
            format!("{name} = {value:?}: allowed are {listed}"),
        );
    }

    /// Origins as browsers send them (RFC 6454 §6.1): a scheme and a host, and a port that is not
    /// the scheme's. Any other would never match.
    pub fn origins<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a String>) {
        for origin in values {
            self.rule(
                is_origin(origin),
                format!(
                    "{name} has {origin:?}: it is no origin like https://example.com or \
                     http://localhost:3000, nor null"
                ),
            );
        }
    }

    /// The length of a secret, when there is one.
    pub fn secret(&mut self, name: &str, value: &crate::Secret, least: usize) {
        let length = value.expose().len();
        self.rule(
            length == 0 || length >= least,
            format!("{name} has {length} bytes: at least {least} are needed"),
        );
    }

    /// `Err` with everything that is broken.
    pub fn finish(self) -> Result<(), SettingsError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(self.0))
        }
    }
}

fn is_origin(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_graphic() && !b"/?#*".contains(&byte);
    text == "null"
        || text.split_once("://").is_some_and(|(scheme, host)| {
            !scheme.is_empty() && !host.is_empty() && host.bytes().all(is_good)
        })
}
