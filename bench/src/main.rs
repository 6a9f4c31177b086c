//! online-status-bench: opens tens of thousands of sessions against a running server, changes
//! presence on an open-loop schedule, times each change from its intended time to every watcher,
//! and checks that each got it once and in order.
#![deny(unsafe_code)]

mod address;
mod cli;
mod clock;
mod compare;
mod dialogue;
mod diff;
mod edges;
mod encoding;
mod engine;
mod fleet;
mod foreign;
mod link;
mod machine;
mod output;
mod page;
mod plan;
mod preflight;
mod remote;
mod report;
mod route;
mod run;
mod scenario;
mod server;
mod timeline;
mod tls;
mod truth;
mod watch;
mod wire;
mod workers;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

const WORKER: &str = "worker: give --listen ADDRESS:PORT, --certificate and --key to work for other \
     machines; without it a worker is started by the bench itself";

fn main() -> ExitCode {
    let result = match cli::parse() {
        Err(error) => Err(error.into()),
        Ok(command) => carry_out(command),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("online-status-bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all checks passed.
fn carry_out(command: cli::Command) -> Result<bool, Box<dyn std::error::Error>> {
    match command {
        cli::Command::Worker(options) => match options.listen {
            None if io::stdin().is_terminal() => Err(WORKER.into()),
            None => engine::work().map(|()| true),
            Some(at) => remote::serve(&options, at).map(|()| true),
        },
        cli::Command::Fleet(options) => edges::run(*options),
        cli::Command::Show(file) => {
            println!("online-status-bench {}", file.words.join(" "));
            Ok(true)
        }
        cli::Command::Run(options, file) => run::run(&options).map_err(|error| {
            let wrong = error.downcast_ref::<run::RunError>();
            match (file, wrong) {
                (Some(file), Some(wrong)) => file.locate(wrong.option(), wrong.to_string()).into(),
                _ => error,
            }
        }),
        cli::Command::Compare(options) => compare::compare(&options),
        cli::Command::Diff { reports, page } => {
            diff::diff(&reports, page.as_deref()).map(|()| true)
        }
    }
}
