//! Settings in a TOML file, with the line of each. No error repeats a line of it, which may have a
//! secret.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::{
    Setting, Table,
    near::did_you_mean,
    read::{Given, let_read},
    sources::{File, Place},
};

impl Table {
    pub(crate) fn read_file(&self, file: &File, given: &mut [Given], errors: &mut Vec<String>) {
        let File { name, text } = file;
        let program = self.program;
        let example = format!("`{program} config default` prints one with all settings");
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let what = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        let advice = let_read("it");
                        return errors.push(format!("--config {name}: {error}; {advice}"));
                    }
                    std::io::ErrorKind::InvalidData => "it is no UTF-8 text".to_owned(),
                    std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
                    _ => error.to_string(),
                };
                let line = format!("--config {name}: {what}; allowed is a TOML file: {example}");
                return errors.push(line);
            }
        };
        let place = |span: Range<usize>| Place::File(name.clone(), line_at(text, span.start));
        let table = match DeTable::parse(text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let place = place(error.span().unwrap_or_default());
                let what = error.message();
                return errors.push(format!("{place}: it is no TOML: {what}; {example}"));
            }
        };
        for (section, value) in table {
            let place_of_section = place(section.span());
            let section = section.into_inner();
            let DeValue::Table(keys) = value.into_inner() else {
                let hint = self.section_of(&section);
                errors.push(format!(
                    "{place_of_section}: {section} is in no section{hint}"
                ));
                continue;
            };
            for (key, value) in keys {
                let place = place(key.span());
                let name = format!("{section}.{}", key.into_inner());
                let found = self.settings().position(|setting| setting.name() == name);
                let Some(at) = found else {
                    let hint = match did_you_mean(&name, self.settings().map(Setting::name)) {
                        Some(near) => format!(" (did you mean {near}?)"),
                        None => format!("; {example}"),
                    };
                    errors.push(format!("{place}: there is no setting {name}{hint}"));
                    continue;
                };
                match text_of(&value.into_inner()) {
                    Ok(text) => given[at] = Given { text, place },
                    Err(what) => {
                        let allowed = self
                            .settings()
                            .nth(at)
                            .map_or_else(String::new, Setting::allowed);
                        let line = format!("{name} ({place}): {what}; allowed is {allowed}");
                        errors.push(line);
                    }
                }
            }
        }
    }

    /// Where a key belongs that stands outside of all sections, or has the name of one.
    fn section_of(&self, key: &str) -> String {
        let mut settings = self.settings();
        if settings.any(|setting| setting.section == key) {
            return format!("; a section begins with the line [{key}]");
        }
        let sections = self.settings().filter(|setting| setting.key == key);
        let sections: Vec<_> = sections
            .map(|setting| format!("[{}]", setting.section))
            .collect();
        match sections.as_slice() {
            [] => "; settings stand below the name of their section, like [server]".to_owned(),
            sections => format!("; it stands below {}", sections.join(" or ")),
        }
    }
}

/// The number of the line, counted from 1, that has the byte at `at`.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// A value as the environment would give it.
fn text_of(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "it is too large a number"),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Datetime(time) => Ok(time.to_string()),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| match item.get_ref() {
                DeValue::Array(_) | DeValue::Table(_) => Err("it is a list with more than texts"),
                item => text_of(item),
            });
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join(","))
        }
        DeValue::Table(_) => Err("it is one value, and no section"),
    }
}
