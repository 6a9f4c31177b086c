//! online-status-edge: starts what the command line asks for, and ends it.

#[macro_use(print, println, eprintln)]
extern crate settings;

mod admin;
mod admission;
mod allocator;
mod bus;
mod cli;
mod clock;
mod cluster;
mod config;
mod connection;
mod decrees;
mod forwarded;
#[cfg(test)]
mod hostile;
mod http;
mod link;
mod links;
mod load;
mod mesh;
mod metrics;
mod node_side;
mod opening;
mod pages;
mod poll_ring;
mod proxy_protocol;
mod running;
mod send_ring;
mod session;
mod shared;
mod socket;
mod start;
mod store;
mod surveys;
mod tls;
mod trace;
mod upgrade;
mod websocket;
mod worker;

use std::process::ExitCode;

use program::log::{Format, LogSettings};
use settings::ConfigAction;
use token::TokenError;
use tracing::warn;

use crate::{
    cli::{Action, Invocation},
    config::{Config, DEVELOPMENT_SECRET, SettingsError, Sources, TABLE},
    start::{Mode, StartError},
};

fn main() -> ExitCode {
    // A core that broke in the middle of an input must not go on, and its users are better off
    // with another process than with a node that is missing a part.
    program::log::on_panic(|| std::process::abort());
    let has_small_pages = keep_pages_small();
    let invocation = cli::parse();
    let file = invocation.file.as_deref();
    let sources = Sources::of_process(file, invocation.flags.clone());
    let ended = act(&invocation, &sources, has_small_pages).unwrap_or_else(|failure| {
        program::log::failed(&TABLE.explain(&sources, &failure.to_string()));
        match failure {
            Failure::Settings(_) => ExitCode::from(2),
            Failure::Start(_) | Failure::Store(_) => ExitCode::FAILURE,
        }
    });
    program::log::flush();
    ended
}

/// Keeps transparent huge pages from this process, also on hosts that give them unasked: an idle
/// session is a kilobyte, and a huge page stays whole for the last one in it. The allocator is built
/// not to ask for them (`no_thp`); it makes its first arena before this runs.
fn keep_pages_small() -> std::io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

/// Begins the log, and says in it what came up before.
fn start_log(
    config: &Config,
    sources: &Sources,
    has_small_pages: std::io::Result<()>,
) -> Result<(), StartError> {
    program::log::start(&config.log)?;
    if let Some(line) = TABLE.service_links(sources) {
        warn!(event = "variables_left_aside", "{line}");
    }
    for line in TABLE.disagreeing(sources) {
        warn!(event = "variables_disagree", "{line}");
    }
    if let Err(error) = has_small_pages {
        warn!(
            event = "huge_pages_stay",
            "transparent huge pages stay on, the edge takes more memory: {error}"
        );
    }
    Ok(())
}

/// The reason for which the process ends with an error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the configuration is wrong\n{0}")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Store(String),
}

fn act(
    invocation: &Invocation,
    sources: &Sources,
    has_small_pages: std::io::Result<()>,
) -> Result<ExitCode, Failure> {
    if let Action::Config(ConfigAction::Default) = invocation.action {
        print!("{}", TABLE.default_file());
        return Ok(ExitCode::SUCCESS);
    }
    if let Action::Config(ConfigAction::Doc) = invocation.action {
        print!("{}", TABLE.reference());
        return Ok(ExitCode::SUCCESS);
    }
    if !matches!(invocation.action, Action::Run(_)) {
        let lines = TABLE.service_links(sources).into_iter();
        (lines.chain(TABLE.disagreeing(sources))).for_each(|line| eprintln!("{line}"));
    }
    let config = Config::load(sources)?;
    if invocation.action == Action::Token {
        test_token(&config, invocation);
        return Ok(ExitCode::SUCCESS);
    }
    if let Action::Config(_) = invocation.action {
        // What the files would have a running edge log is for whoever checks them.
        let text = LogSettings {
            format: Format::Text,
            ..config.log.clone()
        };
        program::log::start(&text).map_err(StartError::System)?;
    }
    config.check_files()?;
    match invocation.action {
        Action::CheckToken => return Ok(check_token(&config, invocation)),
        Action::Run(mode) => {
            config.check_mode(mode)?;
            start_log(&config, sources, has_small_pages)?;
            start::run(config, mode)?;
        }
        Action::Config(_) | Action::Token => check(&config, sources)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn check(config: &Config, sources: &Sources) -> Result<(), Failure> {
    let has = [config.redis.url.is_set(), !config.kafka.brokers.is_empty()];
    if has[0] {
        config.check_links()?;
    }
    let is_any = has.contains(&true);
    let lacks = is_any.then(|| config.check_mode(Mode::Cluster));
    let (mode, lacks) = match lacks {
        Some(Ok(())) => (Mode::Cluster, Vec::new()),
        Some(Err(lacks)) if !has.contains(&false) => return Err(lacks.into()),
        // The one that is there may be another program's variable.
        Some(Err(SettingsError(lacks))) => (Mode::Standalone, lacks),
        None => (Mode::Standalone, Vec::new()),
    };
    let notes = start::check(config, mode)?;
    print!("{}", TABLE.in_effect(&config.show()));
    (TABLE.overridden(sources).iter()).for_each(|line| println!("# {line}"));
    println!(
        "\n# A client that vanishes is offline to its watchers within {} ms:",
        config.ghost_bound()
    );
    println!(
        "# presence.heartbeat + presence.heartbeat_timeout + presence.grace, and 400 ms of timers."
    );
    println!(
        "# One that has promised to be alive, and only answers pings, within {} ms:\n\
         # presence.alive_max + presence.heartbeat_timeout + presence.grace, and 400 ms of timers.",
        config.silent_bound()
    );
    println!(
        "# One that only loses its connection is offline within {} ms.",
        config.presence.grace.as_millis() + 300
    );
    println!(
        "# In a cluster, the users of a node that vanishes are offline within {} ms: cluster.lease_ttl\n\
         # + take-over + presence.grace; those who come back are not shown offline at all.",
        config.node_ghost_bound()
    );
    notes.iter().for_each(|line| println!("# {line}"));
    for line in lacks {
        println!("# `online-status-edge run` refuses this, `standalone` does not: {line}");
    }
    if config.redis.url.is_set() {
        let vnodes = config.cluster.count().expect("checked with the rest");
        let lines = redis_store::inspect(config.redis.options(), vnodes).map_err(Failure::Store)?;
        lines.iter().for_each(|line| println!("# {line}"));
    }
    Ok(())
}

fn check_token(config: &Config, invocation: &Invocation) -> ExitCode {
    let token = invocation.token.clone().unwrap_or_else(|| {
        let mut line = String::new();
        // Without a standard input there is no token, which is said below.
        let _ = std::io::stdin().read_line(&mut line);
        line
    });
    let mut options = config.auth.options();
    if options.has_no_key() {
        eprintln!("JWT_SECRET is not set: the token is checked by the development secret");
        DEVELOPMENT_SECRET.clone_into(&mut options.secret);
    }
    let verifier = match keys::Keys::once(options, config.auth.source().as_ref()) {
        Ok(verifier) => verifier,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let token = token.trim();
    match verifier.verify(token, clock::wall_ms()) {
        Ok(claims) => {
            println!("user      {}", &*claims.user);
            let left = claims.expires.saturating_sub(clock::wall_ms()) / 1_000;
            println!("expires   {} ms since 1970, in {left} s", claims.expires);
            let admin = &config.auth.admin_scope;
            let has = if claims.has_scope(admin) { "yes" } else { "no" };
            println!("{admin}   {has}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some([head, claims]) = token::unproven(token) {
                eprintln!("  its head is    {head}\n  its claims are {claims}");
            }
            if matches!(error, TokenError::Key | TokenError::UnknownKey) {
                let served = verifier.served().map(|set| verifier.left_out(set));
                for why in [verifier.left_out_of_file(), served.unwrap_or_default()].concat() {
                    eprintln!("  of the key set, {why}");
                }
            }
            ExitCode::FAILURE
        }
    }
}

fn test_token(config: &Config, invocation: &Invocation) {
    let secret = match config.auth.secret.expose() {
        "" => {
            eprintln!(
                "JWT_SECRET is not set: the token is for an edge with the development secret"
            );
            DEVELOPMENT_SECRET
        }
        secret => secret,
    };
    let now = clock::wall_ms();
    let expires = now + invocation.ttl.as_millis() as u64;
    println!(
        "{}",
        token::sign(
            secret,
            &invocation.user,
            now..expires,
            invocation.scope.as_deref()
        )
    );
}
