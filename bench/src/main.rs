//! online-status-bench: opens tens of thousands of sessions against a running server, changes
//! presence on an open-loop schedule, times each change from its intended time to every watcher,
//! and checks that each got it once and in order.
#![forbid(unsafe_code)]

mod address;
mod cli;
mod clock;
mod engine;
mod fleet;
mod link;
mod plan;
mod report;
mod route;
mod run;
mod server;
mod timeline;
mod truth;
mod watch;
mod wire;
mod workers;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match cli::parse() {
        cli::Command::Worker => engine::work().map(|()| true),
        cli::Command::Run(options) => run::run(&options),
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
