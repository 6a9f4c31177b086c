//! The command line. It owns the shape of the commands; every setting is a flag of those that use
//! it, made from the table of settings.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{ArgMatches, Command};
use settings::{ConfigAction, Table};

use crate::config::TABLE;

/// The command that the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Run,
    /// With the arguments of [`console::command`].
    Top(Box<ArgMatches>),
    /// With the arguments of [`console::trace_command`].
    Trace(Box<ArgMatches>),
    Config(ConfigAction),
}

/// The arguments, parsed.
pub(crate) struct Invocation {
    pub(crate) action: Action,
    pub(crate) file: Option<PathBuf>,
    /// The settings that were given as flags, by [`settings::Setting::flag`].
    pub(crate) flags: BTreeMap<String, String>,
}

fn command() -> Command {
    let aliases = [("coordinator.listen", "listen")];
    let run =
        Command::new("run").about("Runs a coordinator; any number may run, one of them leads");
    Command::new("online-status-coordinator")
        .about("Hands out which edge owns which users, and moves them when edges come and go")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(TABLE.with_flags(run, &aliases))
        .subcommand(TABLE.config_command(&aliases))
        .subcommand(console::command())
        .subcommand(console::trace_command())
        .subcommand(settings::documents_command())
}

/// Reads the process's command line; prints help or mistakes and exits (2) by itself.
pub(crate) fn parse() -> Invocation {
    let matches = command().get_matches();
    let (name, arguments) = matches.subcommand().expect("a subcommand is required");
    let (action, arguments) = match name {
        "run" => (Action::Run, arguments),
        "top" => (Action::Top(Box::new(arguments.clone())), arguments),
        "trace" => (Action::Trace(Box::new(arguments.clone())), arguments),
        "documents" => settings::write_documents(&command(), arguments),
        _ => {
            let (action, arguments) = Table::given_action(arguments);
            (Action::Config(action), arguments)
        }
    };
    Invocation {
        action,
        file: Table::given_file(arguments),
        flags: TABLE.given_flags(arguments),
    }
}
