//! What is made from the table for people: a file with all defaults, the reference page, and the
//! settings in effect.

use std::fmt::Write;

use crate::{Setting, Table};

impl Table {
    /// A file with every setting at its default, each explained.
    #[must_use]
    pub fn default_file(&self) -> String {
        let program = self.program;
        let mut out = format!("# Every setting of {program} with its default.\n");
        let mut section = "";
        for setting in self.settings() {
            if setting.section != section {
                section = setting.section;
                write!(out, "\n[{section}]\n").expect("a String takes all text");
            }
            let Setting {
                key,
                default,
                doc,
                literal,
                ..
            } = setting;
            let (value, allowed) = (literal.write(default), setting.allowed());
            write!(out, "#{doc}\n# Allowed: {allowed}.\n# {key} = {value}\n")
                .expect("a String takes all text");
        }
        out
    }

    /// The reference page of every setting, in Markdown, as `config doc` prints it.
    #[must_use]
    pub fn reference(&self) -> String {
        let Self {
            program, subject, ..
        } = self;
        let mut out = format!(
            "# Configuration of {subject}\n\n\
             Made by `{program} config doc`. A flag wins over the environment, the environment\n\
             over the file (`--config FILE`, TOML), the file over the default. What is unknown or wrong\n\
             is an error at the start that names the setting, where it came from and what is allowed.\n",
        );
        let mut section = "";
        for setting in self.settings() {
            if setting.section != section {
                section = setting.section;
                write!(
                    out,
                    "\n## {section}\n\n| setting | default | meaning | allowed | environment | flag |\n\
                     |---|---|---|---|---|---|\n"
                )
                .expect("a String takes all text");
            }
            let default = match setting.default {
                "" => "(empty)".to_owned(),
                text => format!("`{text}`"),
            };
            let short = setting
                .short_env
                .map(|name| format!("`{name}`, "))
                .unwrap_or_default();
            writeln!(
                out,
                "| `{}` | {default} | {} | {} | {short}`{}` | `--{}` |",
                setting.key,
                setting.doc.trim(),
                setting.allowed(),
                setting.env(),
                setting.flag()
            )
            .expect("a String takes all text");
        }
        out
    }

    /// A file with the values `shown`, one for each setting in the table's order.
    #[must_use]
    pub fn in_effect(&self, shown: &[String]) -> String {
        let mut out = String::new();
        let mut section = "";
        for (setting, text) in self.settings().zip(shown) {
            if setting.section != section {
                section = setting.section;
                writeln!(out, "[{section}]").expect("a String takes all text");
            }
            let value = setting.literal.write(text);
            writeln!(out, "{} = {value}", setting.key).expect("a String takes all text");
        }
        out
    }
}
