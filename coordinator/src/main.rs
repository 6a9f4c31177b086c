//! online-status-coordinator: starts what the command line asks for, and ends it.
#![forbid(unsafe_code)]

#[macro_use(print, println, eprintln)]
extern crate settings;

mod cli;
mod clock;
mod config;
mod fleet;
mod http;
mod leadership;
mod metrics;
mod picture;
mod run;
mod server;
mod stop;

use std::process::ExitCode;

use settings::{ConfigAction, SettingsError, Sources};

use crate::{
    cli::{Action, Invocation},
    config::{Config, TABLE},
};

fn main() -> ExitCode {
    let invocation = cli::parse();
    let done = match invocation.action {
        Action::Config(ConfigAction::Default) => {
            print!("{}", TABLE.default_file());
            Ok(())
        }
        Action::Config(ConfigAction::Doc) => {
            print!("{}", TABLE.reference());
            Ok(())
        }
        Action::Config(ConfigAction::Check) => load(&invocation).map(|config| {
            print!("{}", TABLE.in_effect(&config.show()));
        }),
        Action::Run => load(&invocation).map(|config| match run::run(config) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("error: {error}");
                std::process::exit(1);
            }
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the configuration is wrong\n{error}");
            ExitCode::from(2)
        }
    }
}

fn load(invocation: &Invocation) -> Result<Config, SettingsError> {
    let file = invocation.file.as_deref();
    let config = Config::load(&Sources::of_process(file, invocation.flags.clone()))?;
    config.check_files()?;
    Ok(config)
}
