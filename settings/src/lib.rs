//! Settings of a program: one table of them, read from a TOML file, the environment and flags (a
//! flag wins over the environment, that over the file, that over the default). It owns precedence,
//! syntax and the pages made from the table; what a setting means stands in the program's table. It
//! also has the macros by which a program says things that nobody may be there to hear.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod command_line;
mod kinds;
mod output;
mod pages;
mod read;
mod rules;
mod table;

pub use crate::{
    command_line::ConfigAction,
    kinds::{Bytes, Kind, List, Secret},
    read::{SettingsError, Sources},
    rules::{Rules, is_origin_of},
    table::{Section, Setting, Table},
};

/// A duration like `25s`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    Kind::parse(text)
}
