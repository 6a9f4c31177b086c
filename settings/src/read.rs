//! Reading: the text of each setting from where it is given, and every mistake by its name and place.

use std::{fmt::Display, io::ErrorKind, path::Path};

use crate::{
    Setting, Table, content,
    sources::{Place, Sources},
};

/// All mistakes in a configuration, one text each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// The text given for a setting, and the place that gave it.
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) place: Place,
}

impl Table {
    /// The text of each setting in the table's order, each good for its kind.
    pub fn read(&self, sources: &Sources) -> Result<Vec<String>, SettingsError> {
        let (given, mut errors) = self.given(sources);
        for (setting, Given { text, place }) in self.settings().zip(&given) {
            if let Err(what) = (setting.check)(text) {
                let (name, text, allowed) =
                    (setting.name(), setting.shown(text), setting.allowed());
                errors.push(format!(
                    "{name} = {text} ({place}): {what}; allowed is {allowed}"
                ));
            }
        }
        if errors.is_empty() {
            Ok(given.into_iter().map(|given| given.text).collect())
        } else {
            Err(SettingsError(errors))
        }
    }

    /// What is given for each setting in the table's order, and what is wrong with how it is given.
    fn given(&self, sources: &Sources) -> (Vec<Given>, Vec<String>) {
        let mut errors = Vec::new();
        let mut given = self.given_in_file(sources, &mut errors);
        self.read_environment(sources, &mut given, &mut errors);
        for (setting, given) in self.settings().zip(&mut given) {
            let flag = setting.flag();
            if let Some(text) = sources.flags.get(&flag) {
                let text = text.clone();
                let place = Place::Flag(flag);
                *given = Given { text, place };
            }
        }
        (given, errors)
    }

    /// What the file gives, and the default of each other setting.
    fn given_in_file(&self, sources: &Sources, errors: &mut Vec<String>) -> Vec<Given> {
        let defaults = self.settings().map(|setting| Given {
            text: setting.default.to_owned(),
            place: Place::Default,
        });
        let mut given: Vec<Given> = defaults.collect();
        if let Some(file) = &sources.file {
            self.read_file(file, &mut given, errors);
        }
        given
    }

    /// A line for each setting that more than one of file, environment and flags gives, with other values: which counts,
    /// and which do not. Names of one variable are told by [`Table::disagreeing`].
    #[must_use]
    pub fn overridden(&self, sources: &Sources) -> Vec<String> {
        let of_file = self.given_in_file(sources, &mut Vec::new());
        let (given, _) = self.given(sources);
        let all = self.settings().zip(of_file).zip(given);
        all.filter_map(|((setting, in_file), given)| {
            let variable = self.variables_of(setting, sources).pop();
            let others = [in_file].into_iter().chain(variable);
            in_vain(setting, &given, others)
        })
        .collect()
    }

    /// A line for each setting that the environment gives under two names, with other values: which counts, and which
    /// does not.
    #[must_use]
    pub fn disagreeing(&self, sources: &Sources) -> Vec<String> {
        let line = |setting: &Setting| {
            let mut others = self.variables_of(setting, sources);
            in_vain(setting, &others.pop()?, others)
        };
        self.settings().filter_map(line).collect()
    }

    /// What the environment gives for a setting under each of its names; the last one counts.
    fn variables_of(&self, setting: &Setting, sources: &Sources) -> Vec<Given> {
        let given = setting.variables().filter_map(|name| {
            let text = sources.environment.get(&name)?.clone();
            let place = Place::Variable(name);
            Some(Given { text, place })
        });
        given.collect()
    }

    /// The program and `error`, and below each of its lines, for the settings that this names, where
    /// their values come from or how to give one. No secret is shown.
    #[must_use]
    pub fn explain(&self, sources: &Sources, error: &str) -> String {
        let (given, _) = self.given(sources);
        let mut lines = Vec::new();
        for line in error.lines() {
            lines.push(line.to_owned());
            let mut file = None;
            for (setting, given) in self.settings().zip(&given) {
                let name = setting.name();
                let is_said = match &given.place {
                    // Its place, or its variable, stands there already.
                    Place::Default => line.contains(&format!("{name} (")),
                    place => line.contains(&place.to_string()),
                };
                if names(line, &name) {
                    if !is_said {
                        lines.push(format!("  {}", setting.origin(given)));
                    }
                    // A set of keys in JSON is no PEM.
                    if !setting.is_secret && !name.ends_with("jwks_file") {
                        let password = format!("{name}_password");
                        let has_one = self.settings().any(|other| other.name() == password);
                        file = Some((&*given.text, has_one.then_some(password)));
                    }
                }
            }
            if let Some(advice) = access_advice(line).or_else(|| content_advice(line, file)) {
                lines.push(format!("  {advice}"));
            }
        }
        format!("{}: {}", self.program, lines.join("\n"))
    }
}

/// That `given` counts for a setting, and those of the others that say something else do not, if there are some.
fn in_vain(
    setting: &Setting,
    given: &Given,
    others: impl IntoIterator<Item = Given>,
) -> Option<String> {
    let others: Vec<String> = others
        .into_iter()
        .filter(|other| other.place != Place::Default)
        .filter(|other| other.place != given.place && other.text != given.text)
        .map(|other| other.place.to_string())
        .collect();
    let (says, does) = match others.len() {
        0 => return None,
        1 => ("says", "does"),
        _ => ("say", "do"),
    };
    Some(format!(
        "{} comes from {}; {} {says} otherwise and {does} not count",
        setting.name(),
        given.place,
        others.join(" and ")
    ))
}

impl Setting {
    fn origin(&self, Given { text, place }: &Given) -> String {
        let (name, section, key) = (self.name(), self.section, self.key);
        if *place != Place::Default {
            let text = self.shown(text);
            return format!("{name} = {text} comes from {place}");
        }
        let is = match self.default {
            "" => "is not set".to_owned(),
            default => format!("= {default:?} is the default"),
        };
        let (flag, variables) = (self.flag(), self.variables().collect::<Vec<_>>());
        let value = self.literal.write("VALUE");
        let variable = variables.first().map_or("", |name| name);
        format!(
            "{name} {is}: --{flag} VALUE, {variable}=VALUE, or {key} = {value} below [{section}] in the file"
        )
    }

    fn shown(&self, text: &str) -> String {
        let user = text.split_once('@').map(|(user, _)| user);
        // A name like alice@a.example is none.
        let is_address = text.contains("://") || user.is_some_and(|user| user.contains(':'));
        if self.is_secret {
            "(hidden)".to_owned()
        } else if is_address {
            format!("{:?}", without_user(text))
        } else {
            format!("{text:?}")
        }
    }
}

/// What may be shown of an address, for what stands before its host may be a password. An address that is wrong may
/// have a password in it with what ends a host elsewhere, so that the last `@` counts.
#[must_use]
pub fn without_user(address: &str) -> String {
    let start = address.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = address.split_at(start);
    let Some(at) = rest.rfind('@') else {
        return address.to_owned();
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let is_in_path = start > 0 && !host.contains('@') && !rest[..at].contains(':');
    match is_in_path {
        true => address.to_owned(),
        false => format!("{scheme}…{}", &rest[at..]),
    }
}

/// What to do about the file that is named in one line of an error like `tls.key = "key.pem": there is no private key in
/// it`: one that cannot be read, or that holds something else. `None` for other errors.
#[must_use]
pub fn file_advice(line: &str) -> Option<String> {
    access_advice(line).or_else(|| content_advice(line, Some(("", None))))
}

/// What to do about the file of an error like `tls.key = "key.pem": No such file or directory (os
/// error 2)`; `None` for other errors.
fn access_advice(line: &str) -> Option<String> {
    let (_, quoted) = line.split_once(" = \"")?;
    let (path, error) = quoted.split_once("\": ")?;
    if !error.contains("(os error ") {
        return None;
    }
    let whole = std::path::absolute(path).ok()?;
    let whole = whole.display();
    Some(match std::fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => format!(
            "there is no {whole}: give the path of a file that is there; a container has only those \
             that are mounted into it"
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => let_read(whole),
        Ok(_) if Path::new(path).is_dir() => {
            format!("{whole} is a directory: give the path of a file")
        }
        _ => return None,
    })
}

/// What to do about a file that this user may not read.
pub(crate) fn let_read(file: impl Display) -> String {
    format!("let the user that runs this program read {file}, and enter each directory above it")
}

/// What is in the file of an error about certificates or keys: the one that is quoted there, as in `tls.key =
/// "key.pem": there is no private key in it`, or else the value of the setting that the line names. That may have
/// another setting for its passphrase.
fn content_advice(line: &str, named: Option<(&str, Option<String>)>) -> Option<String> {
    let words = [
        "certificate",
        "private key",
        "public key",
        "PEM",
        "base64",
        "section end",
    ];
    // What is wrong is said already, and so is what makes another one.
    let is_said = line.contains("do not fit together") || line.contains("openssl ");
    if is_said || !words.iter().any(|word| line.contains(word)) {
        return None;
    }
    let quoted = line
        .split_once(" = \"")
        .and_then(|(_, it)| it.split_once("\": "));
    let (value, password) = named?;
    let path = quoted.map_or(value, |(path, _)| path);
    content::advice(Path::new(path), password.as_deref())
}

/// Whether a line has the name as a word of its own.
fn names(line: &str, name: &str) -> bool {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let (before, behind) = (&line[..at], &line[at + name.len()..]);
        // A point behind it may end a sentence.
        !before.ends_with(|c: char| goes_on(c) || c == '.' || c == '-' || c == '/')
            && !behind.starts_with(goes_on)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_no_user_is_shown() {
        for (given, shown) in [
            ("https://alice:hush@a.example/b", "https://…@a.example/b"),
            ("http://hush@a.example", "http://…@a.example"),
            ("http://alice:hu/s@h@a.example", "http://…@a.example"),
            ("alice:hush@a.example:80", "…@a.example:80"),
            ("hush@a.example:80", "…@a.example:80"),
            ("https://a.example/b@c", "https://a.example/b@c"),
            ("a.example/b", "a.example/b"),
        ] {
            assert_eq!(without_user(given), shown);
        }
    }

    crate::sections! {
        pub(crate) struct Node in node {
            /// The name.
            #[env("NODE_ID")]
            id: String = "n1",
            /// How many.
            most: u64 = "1" in "1"..="10",
            /// Whether.
            is_on: bool = "true",
            /// From where.
            from: crate::List = "a,b",
        }
        pub(crate) struct Auth in auth {
            /// The rule.
            #[env("ONLINE_STATUS_PRESENCE_RULE")]
            rule: String = "open",
        }
    }

    crate::settings! {
        pub(crate) struct Config { node: Node, auth: Auth }
    }

    fn table(foreign_sections: bool) -> Table {
        Table {
            program: "program",
            subject: "the program",
            sections: Config::SECTIONS,
            others: &["ONLINE_STATUS_OTHER_", "ONLINE_STATUS_NODE_THEIRS"],
            foreign_sections,
        }
    }

    fn read(table: &Table, environment: &[(&str, &str)]) -> Result<Config, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            environment: environment.iter().map(owned).collect(),
            ..Sources::default()
        };
        let texts = table.read(&sources).map_err(|error| error.to_string())?;
        Ok(Config::from_checked(&texts))
    }

    #[test]
    fn a_variable_of_another_program_is_ignored_and_a_typo_in_an_own_section_is_not() {
        let others = [
            ("ONLINE_STATUS_OTHER_X", "1"),
            ("ONLINE_STATUS_NODE_THEIRS", "1"),
            ("PATH", "/bin"),
        ];
        for foreign_sections in [false, true] {
            let table = table(foreign_sections);
            assert!(read(&table, &others).is_ok());
            let error = read(&table, &[("ONLINE_STATUS_NODE_MOTS", "1")]).expect_err("a typo");
            assert!(
                error.ends_with("(did you mean ONLINE_STATUS_NODE_MOST?)"),
                "{error}"
            );
        }
        let unknown = [("ONLINE_STATUS_NODES_ID", "1")];
        assert!(read(&table(true), &unknown).is_ok());
        assert!(read(&table(false), &unknown).is_err());
    }

    #[test]
    fn a_short_name_gives_the_value_and_the_long_one_wins() {
        let table = table(false);
        let short = [("NODE_ID", "n7"), ("ONLINE_STATUS_PRESENCE_RULE", "claim")];
        let config = read(&table, &short).expect("good");
        assert_eq!(
            (config.node.id.as_str(), config.auth.rule.as_str()),
            ("n7", "claim")
        );
        let both = [("NODE_ID", "n7"), ("ONLINE_STATUS_NODE_ID", "n8")];
        assert_eq!(read(&table, &both).expect("good").node.id, "n8");
    }

    #[test]
    fn what_another_source_says_in_vain_is_named_without_its_value() {
        let table = table(false);
        let sources = |file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            Sources {
                file: Some(crate::File {
                    name: "f.toml".into(),
                    text: Ok(file.into()),
                }),
                environment: environment.iter().map(owned).collect(),
                flags: flags.iter().map(owned).collect(),
                ..Sources::default()
            }
        };
        let file = "[node]\nmost = 2\n";
        let one = sources(file, &[("NODE_ID", "n7")], &[("node-is-on", "false")]);
        assert_eq!(table.overridden(&one), [""; 0]);
        let same = sources(
            file,
            &[("ONLINE_STATUS_NODE_MOST", "2")],
            &[("node-most", "2")],
        );
        assert_eq!(table.overridden(&same), [""; 0]);
        let variables = [
            ("ONLINE_STATUS_NODE_MOST", "3"),
            ("NODE_ID", "n7"),
            ("ONLINE_STATUS_NODE_ID", "n8"),
        ];
        let more = sources(file, &variables, &[("node-most", "4")]);
        assert_eq!(
            table.overridden(&more),
            [
                "node.most comes from --node-most; f.toml, line 2 and ONLINE_STATUS_NODE_MOST say \
                 otherwise and do not count",
            ]
        );
        let names =
            "node.id comes from ONLINE_STATUS_NODE_ID; NODE_ID says otherwise and does not count";
        assert_eq!(table.disagreeing(&more), [names]);
        assert_eq!(table.disagreeing(&one), [""; 0]);
        let alike = [("NODE_ID", "n7"), ("ONLINE_STATUS_NODE_ID", "n7")];
        assert_eq!(table.disagreeing(&sources(file, &alike, &[])), [""; 0]);
    }

    #[test]
    fn the_settings_in_effect_are_a_file_that_gives_them_again() {
        let directory = std::env::temp_dir();
        let file = directory.join(format!(
            "online-status-settings-{}.toml",
            std::process::id()
        ));
        let table = table(false);
        let config = read(
            &table,
            &[("NODE_ID", "n\"7"), ("ONLINE_STATUS_NODE_MOST", "7")],
        );
        let shown = config.expect("good").show();
        std::fs::write(&file, table.in_effect(&shown)).expect("a writable temp dir");
        let sources = Sources::default().with_file(Some(&file));
        let again = Config::from_checked(&table.read(&sources).expect("good"));
        std::fs::remove_file(&file).expect("it was written");
        assert_eq!((again.node.most, again.show()), (7, shown));
    }

    #[test]
    fn numbers_booleans_and_lists_are_those_of_toml() {
        let texts = ["n\"1\\", "7", "false", "a, b", "open"].map(str::to_owned);
        let table = table(false);
        let file = "[node]\nid = 'n\"1\\'\nmost = 7\nis_on = false\nfrom = [\"a\", \"b\"]\n[auth]\nrule = \"open\"\n";
        assert_eq!(table.in_effect(&texts), file);
        assert!(table.default_file().contains("\n# most = 1\n"));
        let read = |text: &str| {
            let file = crate::File {
                name: "f.toml".into(),
                text: Ok(text.into()),
            };
            let sources = Sources {
                file: Some(file),
                ..Sources::default()
            };
            Config::from_checked(&table.read(&sources).expect("good")).show()
        };
        let texts = ["n\"1\\", "7", "false", "a,b", "open"];
        assert_eq!(read(file), texts);
        let quoted = file
            .replace("= 7", "= \"7\"")
            .replace("= false", "= \"false\"");
        assert_eq!(read(&quoted.replace("[\"a\", \"b\"]", "\"a,b\"")), texts);
    }

    #[test]
    fn rules_name_the_setting_its_value_and_what_is_allowed() {
        let mut rules = crate::Rules::default();
        let most = [("ONLINE_STATUS_NODE_MOST", "11")];
        let config = read(&table(false), &most).expect("a number");
        config.check_bounds(&mut rules);
        let wait = std::time::Duration::from_secs(90);
        rules.within("node.wait", &wait, "100ms", "1m");
        rules.within("node.size", &crate::Bytes(5), "1B", "5B");
        rules.word("auth.rule", "closed", &["open", "claim"]);
        let origins = [
            "null",
            "https://a.example",
            "http://[::1]:3000",
            "https://a.example/",
            "https://ä.example",
            "a.example",
        ];
        rules.origins("node.from", &origins.map(str::to_owned));
        rules.good::<()>(Err("node.file: it is not there"));
        rules.good(Ok::<_, String>(()));
        let error = rules.finish().expect_err("seven broken").to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(
            lines,
            [
                "node.most = 11: allowed are 1 to 10",
                "node.wait = 90s: allowed are 100ms to 1m",
                "auth.rule = \"closed\": allowed are open and claim",
                "node.from has \"https://a.example/\": it is no origin like https://example.com, \
                 https://*.example.com or http://localhost:3000, nor null",
                "node.from has \"https://ä.example\": it is no origin like https://example.com, \
                 https://*.example.com or http://localhost:3000, nor null",
                "node.from has \"a.example\": it is no origin like https://example.com, \
                 https://*.example.com or http://localhost:3000, nor null",
                "node.file: it is not there",
            ]
        );
    }
}
