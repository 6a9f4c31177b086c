//! Scenario files: a load as a TOML document. Its keys are the options of the command that it names,
//! read by the rules of the command line, so that both take the same values and say the same.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{
    Command,
    error::{ContextKind, ContextValue},
};
use toml::de::{DeTable, DeValue};

/// The key that names the command.
const COMMAND: &str = "command";

/// What is wrong with a scenario file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Syntax { path: PathBuf, error: String },
    #[error("{}:{line}: {what}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        what: String,
    },
    #[error("{}: {what}", path.display())]
    Whole { path: PathBuf, what: String },
}

/// A scenario file, read.
#[derive(Debug)]
pub(crate) struct ScenarioFile {
    pub(crate) path: PathBuf,
    /// Words of a command line, the command first.
    pub(crate) words: Vec<String>,
    /// Where each key stands.
    lines: BTreeMap<String, usize>,
}

impl ScenarioFile {
    /// Reads a file; `program` says which commands and options there are, and `more` are words of the
    /// command line, whose options stand for those of the file.
    pub(crate) fn read(
        path: &Path,
        program: &Command,
        more: &[String],
    ) -> Result<Self, ScenarioError> {
        let text = fs::read_to_string(path).map_err(|error| ScenarioError::Unreadable {
            path: path.into(),
            error,
        })?;
        Self::parse(path, &text, program, more)
    }

    fn parse(
        path: &Path,
        text: &str,
        program: &Command,
        more: &[String],
    ) -> Result<Self, ScenarioError> {
        let table = DeTable::parse(text).map_err(|error| ScenarioError::Syntax {
            path: path.into(),
            error: error.to_string().trim_end().to_owned(),
        })?;
        let line_at = |at: usize| text[..at].matches('\n').count() + 1;
        let wrong = |at: usize, what: String| ScenarioError::Line {
            path: path.into(),
            line: line_at(at),
            what,
        };
        let commands: Vec<&str> = (program.get_subcommands())
            .filter(|command| !command.is_hide_set() && takes_sessions(command))
            .map(Command::get_name)
            .collect();
        let allowed = commands.join(", ");
        let Some((key, value)) = table.get_ref().get_key_value(COMMAND) else {
            return Err(ScenarioError::Whole {
                path: path.into(),
                what: format!("it has no key {COMMAND}, which is one of {allowed}"),
            });
        };
        let at = key.span().start;
        let name = match value.get_ref() {
            DeValue::String(name) if commands.contains(&&**name) => name.to_string(),
            DeValue::String(name) => {
                let what = format!("{COMMAND} = {name:?}: it must be one of {allowed}");
                return Err(wrong(at, what));
            }
            _ => return Err(wrong(at, format!("{COMMAND}: it must be one of {allowed}"))),
        };
        let mut words = vec![name.clone()];
        let mut lines = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let at = key.span().start;
            let key = key.get_ref();
            if key == COMMAND {
                continue;
            }
            // Members of a list may have lines of their own.
            let parts = match value.get_ref() {
                DeValue::Array(parts) => {
                    parts.iter().map(|part| (part.span().start, part)).collect()
                }
                _ => vec![(at, value)],
            };
            let mut own = Vec::new();
            for (at, part) in parts {
                let words = words_of(key, part.get_ref()).map_err(|what| wrong(at, what))?;
                check(program, &name, key, &words).map_err(|what| wrong(at, what))?;
                own.extend(words);
            }
            lines.insert(key.to_string(), line_at(at));
            let option = format!("--{key}");
            let replaced = |word: &String| {
                word.strip_prefix(&option)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            };
            if !more.iter().any(replaced) {
                words.extend(own);
            }
        }
        words.extend_from_slice(more);
        Ok(Self {
            path: path.into(),
            words,
            lines,
        })
    }

    /// An error, with the line of the option that it is about.
    pub(crate) fn locate(&self, option: Option<&str>, what: String) -> ScenarioError {
        let path = self.path.clone();
        match option.and_then(|option| self.lines.get(option)) {
            Some(line) => ScenarioError::Line {
                path,
                line: *line,
                what,
            },
            None => ScenarioError::Whole { path, what },
        }
    }
}

/// Whether a command makes a load.
fn takes_sessions(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|argument| argument.get_long() == Some("url"))
}

/// The words that a key and its value are on the command line.
fn words_of(key: &str, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let word = |text: &str| format!("--{key}={text}");
    match value {
        DeValue::Boolean(true) => Ok(vec![format!("--{key}")]),
        DeValue::Boolean(false) => Ok(Vec::new()),
        DeValue::String(text) => Ok(vec![word(text)]),
        DeValue::Integer(number) => Ok(vec![word(&number.to_string())]),
        DeValue::Float(number) => Ok(vec![word(&number.to_string())]),
        DeValue::Array(_) | DeValue::Datetime(_) | DeValue::Table(_) => Err(format!(
            "{key}: it must be a text, a number, true or false, or a list of these"
        )),
    }
}

/// Reads the words of one key as the command line would.
fn check(program: &Command, name: &str, key: &str, words: &[String]) -> Result<(), String> {
    let known = program.find_subcommand(name).is_some_and(|command| {
        let mut all = command.get_arguments();
        all.any(|argument| argument.get_long() == Some(key))
    });
    let line = [program.get_name(), name].into_iter().map(str::to_owned);
    // Of an unknown key clap knows a similar one.
    let words = match known {
        true => words.to_vec(),
        false => vec![format!("--{key}")],
    };
    let read = program.clone().try_get_matches_from(line.chain(words));
    let Err(error) = read else {
        return Ok(());
    };
    if !known {
        let similar = match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(similar)) => similar.trim_start_matches('-'),
            _ => return Err(format!("unknown key {key}; `{name} --help` lists them")),
        };
        return Err(format!("unknown key {key}; is {similar} meant?"));
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    Err(format!("{key}: {}", first.trim_start_matches("error: ")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Arguments;

    fn parse(text: &str, more: &[&str]) -> Result<Vec<String>, String> {
        let program = Arguments::command();
        let more: Vec<String> = more.iter().map(|word| (*word).into()).collect();
        ScenarioFile::parse(Path::new("load.toml"), text, &program, &more)
            .map(|file| file.words)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_document_is_a_command_line_and_what_is_said_there_comes_first() {
        let text = "# A load.\ncommand = \"presence\"\nsessions = 50\nrate = 2.5\n\
                    outage-at = [\"1:2\", \"5:1\"]\njson = true\nquiet = false\n";
        let words = parse(text, &["--rate", "9"]).expect("a scenario");
        let expected = "presence --json --outage-at=1:2 --outage-at=5:1 --sessions=50 --rate 9";
        let sorted = |words: Vec<String>| {
            let mut words = words;
            words.sort();
            words
        };
        let expected = expected.split(' ').map(str::to_owned).collect();
        assert_eq!(words[0], "presence");
        assert_eq!(sorted(words), sorted(expected));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let six = "command = \"presence\"\n\n\n\n\n\n";
        for (text, parts) in [
            (
                format!("{six}sesions = 5\n"),
                &["load.toml:7: unknown key sesions; is sessions meant?"][..],
            ),
            (
                format!("{six}xyzzy = 5\n"),
                &["load.toml:7: unknown key xyzzy; `presence --help`"],
            ),
            (
                format!("{six}sessions = \"many\"\n"),
                &["load.toml:7: sessions: ", "invalid value 'many'"],
            ),
            (
                format!("{six}moves = 60\n"),
                &["load.toml:7: moves: ", "60", "0..=50"],
            ),
            (
                format!("{six}json = 3\n"),
                &["load.toml:7: json: ", "unexpected value '3'"],
            ),
            (
                format!("{six}rate = {{ a = 1 }}\n"),
                &["load.toml:7: rate: it must be a text, a number"],
            ),
            (
                "command = \"fanout\"\nopen = [\n  'send 40',\n  'await 40{',\n\n\n  'sned 42',\n]\n".into(),
                &["load.toml:7: open: ", "'sned 42'", "send TEXT, each TEXT or await TEXT"],
            ),
            (
                format!("{six}message = '${{marker}} ${{nmae}}'\n"),
                &["load.toml:7: message: ", "${nmae}", "${marker}, ${user}"],
            ),
            (format!("{six}sessions = \n"), &["line 7", "load.toml"]),
            (
                "sessions = 5\ncommand = \"swim\"\n".into(),
                &["load.toml:2: command = \"swim\": it must be one of connect, presence"],
            ),
            (
                "sessions = 5\n".into(),
                &["load.toml: it has no key command, which is one of connect"],
            ),
        ] {
            let said = parse(&text, &[]).expect_err(&text);
            let missing = parts.iter().find(|part| !said.contains(**part));
            assert!(missing.is_none(), "{text}: without {missing:?}: {said}");
        }
    }
}
