//! Reading: the text of each setting from where it is given, and every mistake by its name.

use std::{collections::BTreeMap, path::Path};

use crate::{Setting, Table};

/// Where settings come from.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// A TOML file.
    pub file: Option<&'a Path>,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// Flags that were given, by [`Setting::flag`].
    pub flags: BTreeMap<String, String>,
}

/// All that is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

struct Given {
    text: String,
    source: String,
}

impl Table {
    /// The text of each setting in the table's order, each good for its kind.
    pub fn read(&self, sources: &Sources<'_>) -> Result<Vec<String>, SettingsError> {
        let mut errors = Vec::new();
        let defaults = self.settings().map(|setting| Given {
            text: setting.default.to_owned(),
            source: "default".into(),
        });
        let mut given: Vec<Given> = defaults.collect();
        if let Some(path) = sources.file {
            self.read_file(path, &mut given, &mut errors);
        }
        self.read_environment(&sources.environment, &mut given, &mut errors);
        for (setting, given) in self.settings().zip(&mut given) {
            if let Some(text) = sources.flags.get(&setting.flag()) {
                *given = Given {
                    text: text.clone(),
                    source: format!("--{}", setting.flag()),
                };
            }
        }
        for (setting, Given { text, source }) in self.settings().zip(&given) {
            if let Err(what) = (setting.check)(text) {
                let name = setting.name();
                let allowed = setting.allowed;
                errors.push(format!(
                    "{name} = {text:?} ({source}): {what}; allowed is {allowed}"
                ));
            }
        }
        if errors.is_empty() {
            Ok(given.into_iter().map(|given| given.text).collect())
        } else {
            Err(SettingsError(errors))
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.settings().position(|setting| setting.name() == name)
    }

    /// Whether the variable `name` is another program's.
    fn is_foreign(&self, name: &str) -> bool {
        let in_section = |setting: &Setting| {
            let rest = name.strip_prefix("ONLINE_STATUS_").unwrap_or_default();
            rest.strip_prefix(&setting.section.to_uppercase())
                .is_some_and(|rest| rest.starts_with('_'))
        };
        self.others.iter().any(|other| name.starts_with(other))
            || (self.foreign_sections && !self.settings().any(in_section))
    }

    fn read_file(&self, path: &Path, given: &mut [Given], errors: &mut Vec<String>) {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return errors.push(format!("{shown}: {error}")),
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return errors.push(format!("{shown}: {error}")),
        };
        for (section, value) in table {
            let toml::Value::Table(keys) = value else {
                let line = format!("{shown}: {section} must be a section like [{section}]");
                errors.push(line);
                continue;
            };
            for (key, value) in keys {
                let name = format!("{section}.{key}");
                let Some(at) = self.find(&name) else {
                    let hint = did_you_mean(&name, self.settings().map(Setting::name));
                    errors.push(format!("{shown}: there is no setting {name}{hint}"));
                    continue;
                };
                let text = match value {
                    toml::Value::String(text) => text,
                    toml::Value::Array(items) => {
                        let texts = items.iter().map(|item| item.as_str().unwrap_or_default());
                        texts.collect::<Vec<_>>().join(",")
                    }
                    other => other.to_string(),
                };
                given[at] = Given {
                    text,
                    source: shown.to_string(),
                };
            }
        }
    }

    fn read_environment(
        &self,
        environment: &BTreeMap<String, String>,
        given: &mut [Given],
        errors: &mut Vec<String>,
    ) {
        for (setting, given) in self.settings().zip(given) {
            let long = setting.env();
            let names = setting.short_env.into_iter().chain([long.as_str()]);
            for name in names {
                if let Some(text) = environment.get(name) {
                    *given = Given {
                        text: text.clone(),
                        source: name.to_owned(),
                    };
                }
            }
        }
        for name in environment
            .keys()
            .filter(|name| name.starts_with("ONLINE_STATUS_"))
        {
            let known = |setting: &Setting| {
                setting.env() == *name || setting.short_env == Some(name.as_str())
            };
            if !self.is_foreign(name) && !self.settings().any(known) {
                let hint = did_you_mean(name, self.settings().map(Setting::env));
                errors.push(format!("there is no setting for the variable {name}{hint}"));
            }
        }
    }
}

/// " (did you mean …?)" for the nearest of `names`, if any is near.
fn did_you_mean(wrong: &str, names: impl Iterator<Item = String>) -> String {
    let near = names.map(|name| (distance(wrong, &name), name)).min();
    match near {
        Some((distance, name)) if distance <= 1 + wrong.len() / 4 => {
            format!(" (did you mean {name}?)")
        }
        _ => String::new(),
    }
}

/// The edit distance (Levenshtein, 1965).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::sections! {
        pub(crate) struct Node in node {
            /// The name.
            #[env("NODE_ID")]
            id: String = "n1",
            /// How many.
            most: u64 = "1",
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
        let sources = Sources {
            file: Some(&file),
            ..Sources::default()
        };
        let again = Config::from_checked(&table.read(&sources).expect("good"));
        std::fs::remove_file(&file).expect("it was written");
        assert_eq!((again.node.most, again.show()), (7, shown));
    }

    #[test]
    fn rules_name_the_setting_its_value_and_what_is_allowed() {
        let mut rules = crate::Rules::default();
        rules.number("node.most", 11, 1..=10);
        rules.duration(
            "node.wait",
            std::time::Duration::from_secs(90),
            100..=60_000,
        );
        rules.bytes("node.size", 5, 1..=5);
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
                "node.wait = 90000ms: allowed are 100ms to 60000ms",
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
