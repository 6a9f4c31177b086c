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
mod linger;
mod metrics;
mod picture;
mod policy;
mod probe;
mod run;
mod server;
mod stop;
mod timeline;

use std::process::ExitCode;

use settings::{ConfigAction, SettingsError, Sources};
use tracing::warn;

use crate::{
    cli::Action,
    config::{Config, TABLE},
    run::RunError,
};

fn main() -> ExitCode {
    // A part that broke ends the program by itself.
    program::log::on_panic(|| {});
    let invocation = cli::parse();
    let file = invocation.file.as_deref();
    let sources = Sources::of_process(file, invocation.flags);
    let ended = match act(invocation.action, &sources) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            program::log::failed(&TABLE.explain(&sources, &failure.to_string()));
            match failure {
                Failure::Settings(_) => ExitCode::from(2),
                Failure::Run(_) | Failure::Store(_) | Failure::Top(_) => ExitCode::FAILURE,
            }
        }
    };
    program::log::flush();
    ended
}

/// The reason for which the process ends with an error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the configuration is wrong\n{0}")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{0}")]
    Store(String),
    #[error(transparent)]
    Top(#[from] console::TopError),
}

fn act(action: Action, sources: &Sources) -> Result<(), Failure> {
    match action {
        Action::Config(ConfigAction::Default) => print!("{}", TABLE.default_file()),
        Action::Config(ConfigAction::Doc) => print!("{}", TABLE.reference()),
        Action::Config(ConfigAction::Check) => {
            let lines = TABLE.service_links(sources).into_iter();
            (lines.chain(TABLE.disagreeing(sources))).for_each(|line| eprintln!("{line}"));
            let config = load(sources)?;
            let notes = run::check(&config)?;
            print!("{}", TABLE.in_effect(&config.show()));
            (TABLE.overridden(sources).iter()).for_each(|line| println!("# {line}"));
            notes.iter().for_each(|line| println!("# {line}"));
            let vnodes = config.cluster.count().expect("it was checked");
            let lines =
                redis_store::inspect(config.redis.options(), vnodes).map_err(Failure::Store)?;
            lines.iter().for_each(|line| println!("# {line}"));
        }
        Action::Run => {
            let config = load(sources)?;
            program::log::start(&config.log).map_err(RunError::System)?;
            if let Some(line) = TABLE.service_links(sources) {
                warn!(event = "variables_left_aside", "{line}");
            }
            for line in TABLE.disagreeing(sources) {
                warn!(event = "variables_disagree", "{line}");
            }
            run::run(config)?;
        }
        Action::Top(arguments) => console::run(&arguments)?,
        Action::Trace(arguments) => console::run_trace(&arguments)?,
    }
    Ok(())
}

fn load(sources: &Sources) -> Result<Config, SettingsError> {
    let config = Config::load(sources)?;
    config.check_files()?;
    Ok(config)
}
