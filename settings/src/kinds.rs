//! The kinds of values a setting can have: how each is read from text, shown, and described.
//! It owns syntax only; what a setting means stands in the table.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// How a value is written in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literal {
    /// As a number or a boolean of TOML.
    Bare,
    /// As a string.
    Text,
    /// As an array of strings; in the environment and flags, with commas between them.
    List,
}

impl Literal {
    /// The value in `text`, as the file has it.
    pub(crate) fn write(self, text: &str) -> String {
        let string = |text: &str| toml::Value::from(text).to_string();
        match self {
            Self::Bare => text.to_owned(),
            Self::Text => string(text),
            Self::List => {
                let parts = text.split(',').map(str::trim);
                let parts: Vec<_> = parts.filter(|part| !part.is_empty()).map(string).collect();
                format!("[{}]", parts.join(", "))
            }
        }
    }
}

/// A kind of value. Environment and flags give every value as text; the file may, too.
pub trait Kind: Sized {
    /// What is allowed, for errors and the reference.
    const ALLOWED: &'static str;

    /// Whether values are hidden in errors and in `config check`.
    const IS_SECRET: bool = false;

    /// How `config default` and `config check` write values.
    const LITERAL: Literal = Literal::Text;

    /// The value in `text`.
    ///
    /// # Errors
    /// What is wrong with the text, as a clause for an error message.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text that gives this value again; secrets are hidden.
    fn show(&self) -> String;
}

impl Kind for bool {
    const ALLOWED: &'static str = "true or false";
    const LITERAL: Literal = Literal::Bare;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "it is neither true nor false".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Kind for u64 {
    const ALLOWED: &'static str = "a whole number";
    const LITERAL: Literal = Literal::Bare;

    fn parse(text: &str) -> Result<Self, String> {
        text.replace('_', "")
            .parse()
            .map_err(|_| "it is not a whole number".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Kind for String {
    const ALLOWED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// A text that is never shown, such as a password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret with this text; empty = not set.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether a secret is set, that is, not empty.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_set() { "(set)" } else { "(not set)" })
    }
}

impl Kind for Secret {
    const ALLOWED: &'static str = "a text, never shown";
    const IS_SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        if self.is_set() {
            "(set)".into()
        } else {
            String::new()
        }
    }
}

impl Kind for PathBuf {
    const ALLOWED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// An optional path: an empty text is none.
impl Kind for Option<PathBuf> {
    const ALLOWED: &'static str = PathBuf::ALLOWED;

    fn parse(text: &str) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, Kind::show)
    }
}

impl Kind for SocketAddr {
    const ALLOWED: &'static str = "an address and port like 127.0.0.1:8080 or [::]:8080";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| why_no_address(text))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// What to change in a text that is no address with a port.
fn why_no_address(text: &str) -> String {
    if text.parse::<Ipv4Addr>().is_ok() {
        return format!("it has no port, as {text}:8080 has");
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    // The last group of an address may be meant as a port, and mostly is.
    if host.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() {
        return format!("an IPv6 address stands in brackets, as [{host}]:{port}");
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return format!("an IPv6 address stands in brackets and has a port, as [{address}]:8080");
    }
    if host == text {
        return "it is not an address with a port".into();
    }
    if port.parse::<u16>().is_err() {
        return format!("its port {port:?} is none: allowed are 0 to 65535");
    }
    if host.is_empty() || host == "*" {
        return format!("it has no address; all of this host are 0.0.0.0:{port}, or [::]:{port}");
    }
    format!("{host:?} is no IP address, and names are not looked up")
}

fn no_unit(unit: &str, of: &str) -> String {
    match unit {
        "" => format!("it has no unit of {of}"),
        unit => format!("{unit:?} is no unit of {of}"),
    }
}

const DURATIONS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl Kind for Duration {
    const ALLOWED: &'static str = "a number with ms, s, m, h or d, like 25s";

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let Some((_, ms)) = DURATIONS.iter().find(|(name, _)| *name == unit) else {
            return Err(no_unit(unit, "time"));
        };
        let number: u64 = digits
            .trim()
            .parse()
            .map_err(|_| "it is not a whole number with a unit")?;
        let ms = number.checked_mul(*ms).ok_or("it is too long")?;
        Ok(Self::from_millis(ms))
    }

    fn show(&self) -> String {
        let ms = self.as_millis() as u64;
        let (unit, factor) = DURATIONS
            .iter()
            .rev()
            .find(|(_, factor)| ms != 0 && ms.is_multiple_of(*factor))
            .unwrap_or(&("s", 1_000));
        format!("{}{unit}", ms / factor)
    }
}

impl Kind for Option<Duration> {
    const ALLOWED: &'static str = Duration::ALLOWED;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        Duration::parse(text).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, Kind::show)
    }
}

/// A number of bytes, written like `16KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

const SIZES: [(&str, usize); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl Kind for Bytes {
    const ALLOWED: &'static str = "a number with B, KiB, MiB or GiB, like 16KiB";

    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        let Some((_, factor)) = SIZES.iter().find(|(name, _)| *name == unit) else {
            return Err(no_unit(unit, "size"));
        };
        let number: usize = digits
            .trim()
            .parse()
            .map_err(|_| "it is not a whole number with a unit")?;
        number
            .checked_mul(*factor)
            .map(Self)
            .ok_or_else(|| "it is too large".into())
    }

    fn show(&self) -> String {
        let (unit, factor) = SIZES
            .iter()
            .rev()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&SIZES[0]);
        format!("{}{unit}", self.0 / factor)
    }
}

/// A list of texts, written with commas between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl Kind for List {
    const ALLOWED: &'static str = "texts separated by commas";
    const LITERAL: Literal = Literal::List;

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        Ok(Self(parts.map(str::to_owned).collect()))
    }

    fn show(&self) -> String {
        self.0.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit_and_come_back_as_given() {
        for text in ["25s", "500ms", "10m", "30d", "0s", "36h"] {
            assert_eq!(Duration::parse(text).expect(text).show(), text);
        }
        for text in ["64KiB", "1GiB", "0B", "1500B"] {
            assert_eq!(Bytes::parse(text).expect(text).show(), text);
        }
        for text in [
            "25",
            "s",
            "-1s",
            "1.5s",
            "5 weeks",
            "99999999999999999999d",
            "",
        ] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
        for text in ["64", "KiB", "64kb"] {
            assert!(Bytes::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_told_what_it_lacks() {
        for (text, what) in [
            ("127.0.0.1", "it has no port, as 127.0.0.1:8080 has"),
            (":8080", "0.0.0.0:8080"),
            ("*:8080", "0.0.0.0:8080"),
            ("::1:8080", "as [::1]:8080"),
            (":::8080", "as [::]:8080"),
            ("::1", "as [::1]:8080"),
            ("[::1]", "as [::1]:8080"),
            ("localhost:8080", "\"localhost\" is no IP address"),
            ("127.0.0.1:80800", "its port \"80800\" is none"),
            ("8080", "it is not an address with a port"),
            ("", "it is not an address with a port"),
        ] {
            let error = SocketAddr::parse(text).expect_err(text);
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
