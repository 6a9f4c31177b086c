//! The command line. It owns the shape of the commands; every setting is a flag of those that use
//! it, made from the table of settings.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Command;
use settings::Table;

use crate::config::TABLE;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Run,
    ConfigCheck,
    ConfigDefault,
    ConfigDoc,
}

/// The command line, read.
pub(crate) struct Invocation {
    pub(crate) action: Action,
    pub(crate) file: Option<PathBuf>,
    /// By [`settings::Setting::flag`].
    pub(crate) flags: BTreeMap<String, String>,
}

fn with_settings(command: Command) -> Command {
    TABLE.with_flags(command, &[("coordinator.listen", "listen")])
}

fn command() -> Command {
    let check = Command::new("check").about("Shows the settings in effect, or all that is wrong");
    let default = Command::new("default").about("Prints a file with every setting at its default");
    let doc = Command::new("doc").about("Prints the reference page in Markdown");
    Command::new("online-status-coordinator")
        .about("Hands out which edge owns which users, and moves them when edges come and go")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(
            Command::new("run").about("Runs a coordinator; any number may run, one of them leads"),
        ))
        .subcommand(
            Command::new("config")
                .about("Checks and explains the configuration")
                .subcommand_required(true)
                .subcommand(with_settings(check))
                .subcommand(default)
                .subcommand(doc),
        )
}

/// Reads the process's command line; prints help or mistakes and exits (2) by itself.
pub(crate) fn parse() -> Invocation {
    let matches = command().get_matches();
    let (name, arguments) = matches.subcommand().expect("a subcommand is required");
    let (action, arguments) = match name {
        "run" => (Action::Run, arguments),
        _ => match arguments.subcommand().expect("a subcommand is required") {
            ("check", arguments) => (Action::ConfigCheck, arguments),
            ("default", arguments) => (Action::ConfigDefault, arguments),
            (_, arguments) => (Action::ConfigDoc, arguments),
        },
    };
    Invocation {
        action,
        file: Table::given_file(arguments),
        flags: TABLE.given_flags(arguments),
    }
}
