//! The command line. It owns the shape of the commands; every setting of the configuration is a
//! flag of the commands that use it, made from the table of settings.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Arg, Command};
use settings::{ConfigAction, Table};

use crate::{config::TABLE, start::Mode};

/// The command that the arguments ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Run(Mode),
    Token,
    CheckToken,
    Config(ConfigAction),
}

/// The arguments, parsed.
pub(crate) struct Invocation {
    pub(crate) action: Action,
    pub(crate) file: Option<PathBuf>,
    /// The settings that were given as flags, by [`settings::Setting::flag`].
    pub(crate) flags: BTreeMap<String, String>,
    pub(crate) user: String,
    /// To be checked; without, it comes on the standard input.
    pub(crate) token: Option<String>,
    pub(crate) ttl: Duration,
    pub(crate) scope: Option<String>,
}

fn command() -> Command {
    let aliases = [("server.listen", "listen"), ("store.data", "data")];
    let with_settings = |command| TABLE.with_flags(command, &aliases);
    Command::new("online-status-edge")
        .about("A real-time presence server")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_settings(
            Command::new("standalone").about("Runs one edge that needs no Redis and no Kafka"),
        ))
        .subcommand(with_settings(Command::new("run").about(
            "Runs a node of a cluster, which meets in Redis (REDIS_URL) and Kafka (KAFKA_BROKERS)",
        )))
        .subcommand(with_settings(
            Command::new("token")
                .about("Makes a test token for auth.secret")
                .arg(
                    Arg::new("user")
                        .long("user")
                        .short('u')
                        .required(true)
                        .help("The user"),
                )
                .arg(
                    Arg::new("ttl")
                        .long("ttl")
                        .short('t')
                        .default_value("1h")
                        .help("How long it is good, like 30s, 1h, 7d"),
                )
                .arg(
                    Arg::new("scope")
                        .long("scope")
                        .help("Its scope, like presence:admin"),
                ),
        ))
        .subcommand(with_settings(
            Command::new("check-token")
                .about("Says whose a token is and how long, or why it is refused")
                .arg(
                    Arg::new("token")
                        .value_name("TOKEN")
                        .help("The token; without it, the first line of the standard input"),
                ),
        ))
        .subcommand(TABLE.config_command(&aliases))
        .subcommand(settings::documents_command())
}

/// How long a test token may be good.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_650 * 86_400);

/// Ends the process with a mistake in its arguments (2).
fn refuse(mistake: &str) -> ! {
    let kind = clap::error::ErrorKind::ValueValidation;
    command().error(kind, mistake).exit()
}

/// Reads the process's command line; prints help or mistakes and exits (2) by itself.
pub(crate) fn parse() -> Invocation {
    let matches = command().get_matches();
    let (name, arguments) = matches.subcommand().expect("a subcommand is required");
    let (action, arguments) = match name {
        "standalone" => (Action::Run(Mode::Standalone), arguments),
        "run" => (Action::Run(Mode::Cluster), arguments),
        "token" => (Action::Token, arguments),
        "check-token" => (Action::CheckToken, arguments),
        "documents" => settings::write_documents(&command(), arguments),
        _ => {
            let (action, arguments) = Table::given_action(arguments);
            (Action::Config(action), arguments)
        }
    };
    let text = |name: &str| -> Option<String> {
        arguments
            .try_get_one::<String>(name)
            .ok()
            .flatten()
            .cloned()
    };
    let user = text("user").unwrap_or_default();
    let ttl = text("ttl").unwrap_or_default();
    let ttl = match action {
        Action::Token => {
            if let Err(error) = protocol::check_user(&user) {
                refuse(&format!("--user {user:?}: {error}"));
            }
            match settings::parse_duration(&ttl) {
                Ok(ttl) if TTL.contains(&ttl) => ttl,
                Ok(_) => refuse(&format!("--ttl {ttl:?}: allowed are 1s to 3650d")),
                Err(what) => refuse(&format!("--ttl {ttl:?}: {what}; allowed are 1s to 3650d")),
            }
        }
        _ => Duration::ZERO,
    };
    Invocation {
        action,
        file: Table::given_file(arguments),
        flags: TABLE.given_flags(arguments),
        user,
        token: text("token"),
        ttl,
        scope: text("scope"),
    }
}
