//! The command `top`: asks for the fleet once, or again and again for the screen.

use std::{
    io::{ErrorKind, IsTerminal, Write},
    time::Duration,
};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser};

use crate::{ask, columns, screen};

/// The reason for which `top` or `trace` ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The address is none that can be asked.
    #[error(
        "--url {0:?}: it must be the address of a coordinator, like http://127.0.0.1:8090, without a user"
    )]
    Url(String),
    /// The interval is none.
    #[error("--interval {0:?}: {1}; it must be 200ms to 1h")]
    Interval(String, String),
    /// The file of authorities cannot be used.
    #[error("--ca {0}: {1}")]
    Ca(String, String),
    /// The system trusts nobody.
    #[error("this system has no certificate authorities: install them, or name one with --ca FILE")]
    NoAuthorities,
    /// The file with the token cannot be used.
    #[error("--token-file {0}: {1}")]
    TokenFile(String, String),
    /// No server answers at the address in time, or TLS to it fails.
    #[error(
        "{0}: {1}; is a coordinator there? Another one is named with --url http://HOST:PORT, an authority for https with --ca FILE"
    )]
    Unreachable(String, String),
    /// The token is refused, or one is needed.
    #[error(
        "{0}: {1}; give an administrator's token with --token-file FILE (for tests: online-status-edge token --user ops --scope presence:admin > FILE)"
    )]
    Token(String, String),
    /// What answers at the address is no coordinator.
    #[error("{0}: this is no coordinator: {1}; name one with --url http://HOST:PORT")]
    Foreign(String, String),
    /// The server cannot answer now.
    #[error("{0}: the answer has the status {1}: {2}")]
    Status(String, u16, String),
    /// The user is followed by nobody, and there is nothing of it.
    #[error("the user is not traced, and no steps are there; start with --start, for 5 minutes")]
    NotTraced,
    /// The time to follow a user for is none.
    #[error("--start {0:?}: it must be 1 to 60, the minutes for which the user is traced")]
    Minutes(String),
    /// The address of a collector is none that can be asked.
    #[error(
        "--otlp {0:?}: it must be the address of a collector, like http://127.0.0.1:4318, without a user"
    )]
    Otlp(String),
    /// The collector does not take the spans.
    #[error("{0}: {1}; is a collector of OTLP over HTTP there? Its port is 4318 mostly")]
    Collector(String, String),
    /// Standard output takes no more.
    #[error("standard output: {0}")]
    Output(std::io::Error),
    /// There is no screen to draw on.
    #[error("this is no terminal: add --once for a table, or --once --json for programs")]
    NoTerminal,
    /// The terminal cannot be used.
    #[error("the terminal: {0}; --once needs none")]
    Terminal(#[from] std::io::Error),
}

/// The command, with its flags; [`run`] does what it says.
#[must_use]
pub fn command() -> Command {
    let keys = PossibleValuesParser::new(columns::COLUMNS.iter().map(|column| column.key));
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let top =
        Command::new("top").about("Shows the nodes and cores of the fleet, live in the terminal");
    ask::with_flags(top)
        .arg(
            Arg::new("sort")
                .long("sort")
                .value_name("COLUMN")
                .default_value("node")
                .value_parser(keys)
                .help("The column to sort by; figures from the highest down"),
        )
        .arg(flag("reverse", "Sorts the other way round"))
        .arg(flag("cores", "Shows a line for each core, too"))
        .arg(
            Arg::new("interval")
                .long("interval")
                .default_value("1s")
                .help("Time between two looks, 200ms to 1h"),
        )
        .arg(flag("once", "Prints one table and ends"))
        .arg(flag("json", "Prints JSON, in the form of GET /nodes").requires("once"))
}

/// Does what the arguments, those of [`command`], ask for.
///
/// # Errors
/// What is wrong, and what to type instead.
///
/// # Panics
/// When the arguments are another command's.
pub fn run(arguments: &ArgMatches) -> Result<(), TopError> {
    let text = |name| arguments.get_one::<String>(name).expect("it has a default");
    let given = text("interval");
    let wrong = |what: String| TopError::Interval(given.clone(), what);
    let interval = settings::parse_duration(given).map_err(wrong)?;
    if !(Duration::from_millis(200)..=Duration::from_secs(3_600)).contains(&interval) {
        return Err(wrong("it is too short or too long".into()));
    }
    let server = ask::server_of(arguments)?;
    let view = screen::View {
        column: columns::named(text("sort")).expect("it is one of them"),
        reversed: arguments.get_flag("reverse"),
        with_cores: arguments.get_flag("cores"),
        interval,
    };
    if !arguments.get_flag("once") {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(TopError::NoTerminal);
        }
        return screen::show(server, view);
    }
    let mut fleet = server.fleet()?;
    columns::sort(&mut fleet, view.column, view.reversed);
    if arguments.get_flag("json") {
        let json = serde_json::to_string_pretty(&fleet).expect("all keys are strings");
        print(&format!("{json}\n"))
    } else {
        print(&columns::text(&fleet, view.with_cores))
    }
}

/// Writes to standard output, all of it; a reader that went away, like `head`, wants no more.
pub(crate) fn print(text: &str) -> Result<(), TopError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(TopError::Output(error)),
        _ => Ok(()),
    }
}
