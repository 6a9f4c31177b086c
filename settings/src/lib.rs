//! Settings of a program: one table of them, read from a TOML file, the environment and flags (a
//! flag wins over the environment, that over the file, that over the default). It owns precedence,
//! syntax and the pages made from the table, the documents of a command line among them; what a setting
//! means stands in the program's table. It also has the macros by which programs say things that
//! nobody may be there to hear.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod command_line;
mod content;
mod documents;
mod environment;
mod file;
mod kinds;
mod near;
mod output;
mod pages;
mod read;
mod rules;
mod sources;
mod table;

pub use crate::{
    command_line::ConfigAction,
    documents::{documents_command, write_documents},
    kinds::{Bytes, Kind, List, Literal, Secret},
    read::{SettingsError, file_advice, without_user},
    rules::{Rules, is_origin_of},
    sources::{File, Sources},
    table::{Section, Setting, Table},
};

/// What is in a file that should have certificates or keys in PEM, and what makes one of it.
#[must_use]
pub fn file_content(path: &std::path::Path) -> String {
    let known = content::advice(path, None);
    known.unwrap_or_else(|| "it must be a file of certificates in PEM".into())
}

/// The duration in a text like `25s` or `2m`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    Kind::parse(text)
}
