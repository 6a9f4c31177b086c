//! What is said to a server that is not ours: templates for what to send, and what to wait for. They are
//! options of the command line, so that a scenario file a server describes it. Who sends what when is
//! `plan.rs`.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{address::Address, plan::Plan, wire};

/// The placeholders of a template, and what stands for each.
const PLACEHOLDERS: [(&str, Part); 6] = [
    ("marker", Part::Marker),
    ("user", Part::User),
    ("token", Part::Token),
    ("id", Part::Id),
    ("watched", Part::Watched),
    ("pad", Part::Pad),
];

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    /// By which a receiver knows the change.
    Marker,
    /// The name of the user whose connection sends the text.
    User,
    /// An HS256 token of that user.
    Token,
    /// A number that grows with each message of a connection.
    Id,
    /// Whom it watches, as members of a JSON list; one name in an `each`.
    Watched,
    /// So many letters as `--pad` says.
    Pad,
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Template {
    text: String,
    parts: Vec<Part>,
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), &*text);
        while let Some((before, after)) = rest.split_once("${") {
            parts.push(Part::Text(before.into()));
            let unknown = |name: &str| {
                let known = PLACEHOLDERS.map(|(known, _)| format!("${{{known}}}"));
                format!("${{{name}: it must be one of {}", known.join(", "))
            };
            let (name, after) = after.split_once('}').ok_or_else(|| unknown(after))?;
            let part = PLACEHOLDERS.iter().find(|(known, _)| *known == name);
            let (_, part) = part.ok_or_else(|| unknown(&format!("{name}}}")))?;
            parts.push(part.clone());
            rest = after;
        }
        parts.push(Part::Text(rest.into()));
        Ok(Self { text, parts })
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

fn template(text: &str) -> Result<Template, String> {
    Template::try_from(text.to_owned())
}

/// What a message is about: what the placeholders of its template stand for.
pub(crate) struct Subject<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) user: u32,
    pub(crate) watched: &'a [u32],
    /// The change that it makes.
    pub(crate) change: Option<u64>,
    /// The number of the message on its connection.
    pub(crate) id: u64,
}

impl Template {
    /// Whether it has a place for what a receiver knows the change by.
    pub(crate) fn has_marker(&self) -> bool {
        self.parts.contains(&Part::Marker)
    }

    /// # Errors
    /// No token can be made.
    pub(crate) fn fill(
        &self,
        subject: &Subject<'_>,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let Subject { plan, .. } = subject;
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(own) => text += own,
                Part::Marker => {
                    text += &subject.change.map_or_else(String::new, |n| marker(plan, n));
                }
                Part::User => text += &plan.user(subject.user),
                Part::Token => text += &wire::token(&plan.secret, &plan.user(subject.user))?,
                Part::Id => text += &subject.id.to_string(),
                Part::Watched => {
                    let names = subject.watched.iter();
                    let names: Vec<String> =
                        names.map(|n| format!("\"{}\"", plan.user(*n))).collect();
                    text += &names.join(",");
                }
                Part::Pad => {
                    let pad = plan.dialogue.as_ref().map_or(0, |dialogue| dialogue.pad);
                    text.extend(std::iter::repeat_n('x', pad as usize));
                }
            }
        }
        Ok(text)
    }

    /// The same with one watched user by its bare name.
    pub(crate) fn fill_one(
        &self,
        subject: &Subject<'_>,
        watched: u32,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let name = Part::Text(subject.plan.user(watched));
        let named = |part: &Part| match part {
            Part::Watched => name.clone(),
            other => other.clone(),
        };
        let parts = self.parts.iter().map(named).collect();
        let text = String::new();
        Self { text, parts }.fill(subject)
    }
}

/// The change number `n` in a message; `prefix` has the run in it, so that no other run's is taken for it.
fn marker(plan: &Plan, n: u64) -> String {
    format!("{}:{n};", plan.prefix)
}

/// The changes whose markers are in a message.
pub(crate) fn changes<'a>(prefix: &'a [u8], message: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let at = rest
                .windows(prefix.len())
                .position(|window| window == prefix)?;
            rest = &rest[at + prefix.len()..];
            let Some(digits) = rest.strip_prefix(b":") else {
                continue;
            };
            let end = digits.iter().position(|byte| !byte.is_ascii_digit());
            let number = end.and_then(|end| {
                let number = str::from_utf8(&digits[..end]).ok()?.parse().ok()?;
                (digits[end] == b';').then_some(number)
            });
            if number.is_some() {
                return number;
            }
        }
    })
}

/// What is done after the upgrade, one step after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Step {
    Send(Template),
    /// Sends it once for each watched user.
    Each(Template),
    /// Goes on once a message came that contains this.
    Await(String),
}

impl TryFrom<String> for Step {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(' ') {
            Some(("send", rest)) => Ok(Self::Send(template(rest)?)),
            Some(("each", rest)) => Ok(Self::Each(template(rest)?)),
            Some(("await", rest)) if !rest.is_empty() => Ok(Self::Await(rest.into())),
            _ => Err("it must be send TEXT, each TEXT or await TEXT".into()),
        }
    }
}

impl From<Step> for String {
    fn from(step: Step) -> Self {
        match step {
            Step::Send(template) => format!("send {}", template.text),
            Step::Each(template) => format!("each {}", template.text),
            Step::Await(text) => format!("await {text}"),
        }
    }
}

/// Two sides of a rule, `LEFT => RIGHT`.
fn sides(text: &str, form: &str) -> Result<(String, Template), String> {
    let (left, right) = text
        .split_once(" => ")
        .ok_or_else(|| format!("it must be {form}"))?;
    Ok((left.into(), template(right)?))
}

/// What is sent when a message comes that is this text and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Reply {
    pub(crate) to: String,
    pub(crate) with: Template,
}

impl TryFrom<String> for Reply {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (to, with) = sides(&text, "TEXT => TEXT, for example 2 => 3")?;
        Ok(Self { to, with })
    }
}

impl From<Reply> for String {
    fn from(reply: Reply) -> Self {
        format!("{} => {}", reply.to, reply.with.text)
    }
}

/// What every open session sends again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Repeat {
    pub(crate) seconds: f64,
    pub(crate) text: Template,
}

impl TryFrom<String> for Repeat {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let form = "SECONDS => TEXT with at least 0.1 seconds, for example 30 => ping";
        let (seconds, text) = sides(&text, form)?;
        match seconds.parse() {
            Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(Self { seconds, text }),
            _ => Err(format!("it must be {form}")),
        }
    }
}

impl From<Repeat> for String {
    fn from(repeat: Repeat) -> Self {
        format!("{} => {}", repeat.seconds, repeat.text.text)
    }
}

/// A header of the upgrade, `Name: value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Header(Template);

impl TryFrom<String> for Header {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, _) = text.split_once(": ").unwrap_or_default();
        let token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(token) || text.contains(['\r', '\n']) {
            return Err("it must be Name: value, in one line".into());
        }
        Ok(Self(template(&text)?))
    }
}

impl From<Header> for String {
    fn from(header: Header) -> Self {
        header.0.text
    }
}

macro_rules! read_from_words {
    ($($name:ty),*) => { $(
        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::try_from(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&String::from(self.clone()))
            }
        }
    )* };
}
read_from_words!(Template, Step, Reply, Repeat, Header);

fn is_one(number: &u32) -> bool {
    *number == 1
}

fn is_none(number: &u32) -> bool {
    *number == 0
}

/// What is said to a server of another kind, and how changes are spread over it. Texts may have
/// ${user}, ${token}, ${id} (grows with each message of a connection), ${watched} and ${pad}.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "A server of another kind")]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Dialogue {
    /// A step after the upgrade, several in their order: "send TEXT", "each TEXT" (once for each
    /// watched user, whose name is ${watched} then), "await TEXT" (until a message contains it).
    #[arg(long, value_name = "STEP")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) open: Vec<Step>,
    /// What is sent for a change; it has ${marker}, which has to come back in what receivers get.
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<Template>,
    /// "TEXT => TEXT": answers a message that is the first with the second; several times.
    #[arg(long, value_name = "RULE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) reply: Vec<Reply>,
    /// "SECONDS => TEXT": each session sends it so often; several times.
    #[arg(long, value_name = "RULE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) repeat: Vec<Repeat>,
    /// A message that contains this text is an error; several times.
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fault: Vec<String>,
    /// A header of the upgrade, "Name: value"; several times.
    #[arg(long, value_name = "HEADER")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) header: Vec<Header>,
    /// The subprotocol to ask for.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subprotocol: Option<String>,
    /// The length of ${pad}, bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    #[serde(skip_serializing_if = "is_none")]
    pub(crate) pad: u32,
    /// fanout: how many users make the changes in turns; all sessions watch them all.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    #[serde(skip_serializing_if = "is_one")]
    pub(crate) publishers: u32,
    /// Changes that are made at once; the rate stays what it is.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    #[serde(skip_serializing_if = "is_one")]
    pub(crate) burst: u32,
    /// The server may pass over a change for a newer one of the same user: that is conflated then,
    /// and not missed.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) latest: bool,
}

impl Default for Dialogue {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            message: None,
            reply: Vec::new(),
            repeat: Vec::new(),
            fault: Vec::new(),
            header: Vec::new(),
            subprotocol: None,
            pad: 0,
            publishers: 1,
            burst: 1,
            latest: false,
        }
    }
}

impl Dialogue {
    /// The upgrade request of a user.
    ///
    /// # Errors
    /// No token can be made.
    pub(crate) fn request(
        &self,
        plan: &Plan,
        address: &Address,
        user: u32,
    ) -> Result<Vec<u8>, jsonwebtoken::errors::Error> {
        let subject = Subject {
            plan,
            user,
            watched: &[],
            change: None,
            id: 0,
        };
        let mut headers = String::new();
        for Header(header) in &self.header {
            headers += &format!("{}\r\n", header.fill(&subject)?);
        }
        if let Some(name) = &self.subprotocol {
            headers += &format!("Sec-WebSocket-Protocol: {name}\r\n");
        }
        Ok(wire::upgrade(address, &headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Scenario, tests::plan};

    #[test]
    fn a_template_is_filled_with_what_it_is_about() {
        let mut plan = plan(Scenario::Fanout);
        plan.dialogue = Some(Dialogue {
            pad: 3,
            ..Dialogue::default()
        });
        let subject = Subject {
            plan: &plan,
            user: 4,
            watched: &[80, 81],
            change: Some(12),
            id: 7,
        };
        let fill = |text: &str| {
            template(text)
                .expect("a template")
                .fill(&subject)
                .expect("text")
        };
        assert_eq!(
            fill(r#"{"id":${id},"x":"${marker}"}"#),
            r#"{"id":7,"x":"b:12;"}"#
        );
        assert_eq!(
            fill("${user} [${watched}] ${pad}"),
            r#"b-4 ["b-80","b-81"] xxx"#
        );
        let each = template("sub ${watched}").expect("a template");
        assert_eq!(each.fill_one(&subject, 81).expect("text"), "sub b-81");
        let said = template("a ${nmae} b").expect_err("unknown");
        assert!(
            said.contains("${nmae}") && said.contains("${marker}, ${user}"),
            "{said}"
        );
        assert!(template("a ${user").is_err());
    }

    #[test]
    fn markers_are_found_wherever_they_are_and_names_are_none() {
        let found = |text: &str| changes(b"b-1", text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found(r#"{"x":"b-1:0;"} b-1:17;b-1:18;"#), [0, 17, 18]);
        assert_eq!(found("b-1-4 b-1: b-1:x; b-1:5 b-2:6; b-1:7;"), [7]);
        assert!(found("b-1-4 b-1:8").is_empty());
    }

    #[test]
    fn rules_are_read_back_as_they_were_written() {
        for text in ["send 40", "each a ${watched}", "await \"pong\""] {
            assert_eq!(text.parse::<Step>().expect("a step").to_string(), text);
        }
        assert_eq!(
            "2 => 3".parse::<Reply>().expect("a rule").to_string(),
            "2 => 3"
        );
        assert_eq!(
            "2.5 => x".parse::<Repeat>().expect("a rule").to_string(),
            "2.5 => x"
        );
        for wrong in ["sned 40", "await ", "send"] {
            let said = wrong.parse::<Step>().expect_err(wrong);
            assert!(
                said.contains("send TEXT, each TEXT or await TEXT"),
                "{said}"
            );
        }
        for wrong in ["0 => x", "x => y", "3"] {
            assert!(wrong.parse::<Repeat>().is_err(), "{wrong}");
        }
        for wrong in ["Name", "Na me: x", "Name: x\r\nOther: y"] {
            assert!(wrong.parse::<Header>().is_err(), "{wrong}");
        }
    }
}
