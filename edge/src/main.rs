//! online-status-edge: starts what the command line asks for, and ends it.

mod admin;
mod auth;
mod bus;
mod cli;
mod clock;
mod config;
mod connection;
mod http;
mod mesh;
mod metrics;
mod pages;
mod send_ring;
mod shared;
mod socket;
mod standalone;
mod store;
mod tls;
mod upgrade;
mod websocket;
mod worker;

use std::process::ExitCode;

use crate::{
    cli::{Action, Invocation},
    config::{Config, ConfigError, DEVELOPMENT_SECRET, SETTINGS, Sources},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A core that broke in the middle of an input must not go on, and its users are better off
    // with another process than with a node that is missing a part.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let invocation = cli::parse();
    let done = match invocation.action {
        Action::ConfigDefault => {
            print!("{}", config::default_file());
            Ok(())
        }
        Action::ConfigDoc => {
            print!("{}", config::reference());
            Ok(())
        }
        Action::ConfigCheck => load(&invocation).map(|config| check(&config)),
        Action::Token => load(&invocation).map(|config| token(&config, &invocation)),
        Action::Standalone => match load(&invocation) {
            Err(error) => Err(error),
            Ok(config) => match standalone::run(config) {
                Ok(()) => Ok(()),
                Err(error) => {
                    eprintln!("error: {error}");
                    return ExitCode::FAILURE;
                }
            },
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the configuration is wrong\n{error}");
            ExitCode::from(2)
        }
    }
}

fn load(invocation: &Invocation) -> Result<Config, ConfigError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(&Sources {
        file: invocation.file.as_deref(),
        environment: environment.collect(),
        flags: invocation.flags.clone(),
    })
}

fn check(config: &Config) {
    let mut section = "";
    for (setting, text) in SETTINGS.iter().zip(config.show()) {
        if setting.section != section {
            section = setting.section;
            println!("[{section}]");
        }
        println!("{} = {text:?}", setting.key);
    }
    println!(
        "\n# A client that vanishes is offline to its watchers within {} ms:",
        config.ghost_bound()
    );
    println!(
        "# presence.heartbeat + presence.heartbeat_timeout + presence.grace, and 400 ms of timers."
    );
    println!(
        "# One that only loses its connection is offline within {} ms.",
        config.presence.grace.as_millis() + 300
    );
}

fn token(config: &Config, invocation: &Invocation) {
    let secret = match config.auth.secret.expose() {
        "" => {
            eprintln!(
                "JWT_SECRET is not set: the token is for an edge with the development secret"
            );
            DEVELOPMENT_SECRET
        }
        secret => secret,
    };
    let expires = clock::wall_ms() + invocation.ttl.as_millis() as u64;
    println!(
        "{}",
        auth::sign(
            secret,
            &invocation.user,
            expires,
            invocation.scope.as_deref()
        )
    );
}
