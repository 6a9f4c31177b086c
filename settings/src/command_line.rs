//! Every setting as a flag, where the file is given, and the command that explains them.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::{Setting, Table};

/// What the subcommand `config` has to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigAction {
    /// The settings in effect, or all that is wrong.
    Check,
    /// A file with every setting at its default: [`Table::default_file`].
    Default,
    /// The reference page in Markdown: [`Table::reference`].
    Doc,
}

impl Table {
    /// The command `config`; `aliases` as those of [`Table::with_flags`].
    #[must_use]
    pub fn config_command(&self, aliases: &[(&str, &'static str)]) -> Command {
        let check = Command::new("check");
        let check = check.about("Shows the settings in effect, or all that is wrong");
        let default = Command::new("default");
        let doc = Command::new("doc").about("Prints the reference page in Markdown");
        Command::new("config")
            .about("Checks and explains the configuration")
            .subcommand_required(true)
            .subcommand(self.with_flags(check, aliases))
            .subcommand(default.about("Prints a file with every setting at its default"))
            .subcommand(doc)
    }

    /// What was asked for by such a command, and with which arguments.
    ///
    /// # Panics
    /// When they are another command's.
    #[must_use]
    pub fn given_action(arguments: &ArgMatches) -> (ConfigAction, &ArgMatches) {
        match arguments.subcommand().expect("a subcommand is required") {
            ("check", arguments) => (ConfigAction::Check, arguments),
            ("default", arguments) => (ConfigAction::Default, arguments),
            (_, arguments) => (ConfigAction::Doc, arguments),
        }
    }

    /// `command` with a flag for each setting, and `--config FILE`. `aliases` are (setting's name,
    /// a shorter flag).
    #[must_use]
    pub fn with_flags(&self, command: Command, aliases: &[(&str, &'static str)]) -> Command {
        let file = Arg::new("config")
            .long("config")
            .short('c')
            .value_name("FILE")
            .help("A TOML file with settings")
            .value_parser(clap::value_parser!(PathBuf));
        let flag = |setting: &Setting| {
            let Setting { doc, default, .. } = setting;
            let env = setting.env();
            let mut arg = Arg::new(setting.flag())
                .long(setting.flag())
                .value_name("VALUE")
                .help(format!(
                    "{} [default: {default:?}] [env: {env}]",
                    doc.trim()
                ))
                .action(ArgAction::Set)
                .help_heading(setting.section);
            for (name, alias) in aliases {
                if *name == setting.name() {
                    arg = arg.visible_alias(*alias);
                }
            }
            arg
        };
        command
            .arg(file)
            .args(self.settings().map(flag).collect::<Vec<_>>())
    }

    /// The flags that were given to a command made by [`Table::with_flags`], by [`Setting::flag`].
    #[must_use]
    pub fn given_flags(&self, arguments: &ArgMatches) -> BTreeMap<String, String> {
        let given = |setting: &Setting| {
            let flag = setting.flag();
            let text = arguments
                .try_get_one::<String>(&flag)
                .ok()
                .flatten()?
                .clone();
            Some((flag, text))
        };
        self.settings().filter_map(given).collect()
    }

    /// The file that was given to such a command.
    #[must_use]
    pub fn given_file(arguments: &ArgMatches) -> Option<PathBuf> {
        let file = arguments.try_get_one::<PathBuf>("config").ok().flatten();
        file.cloned()
    }
}
