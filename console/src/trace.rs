//! The command `trace`: has a user followed through the cluster, and shows its steps in the order of their
//! times, as a table, as JSON, or to a collector of OpenTelemetry.

use std::{collections::HashSet, fmt::Write, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};
use protocol::{
    TraceStep,
    policy::TRACE_MINUTES,
    trace::{CHANGED, DELIVERED, RECEIVED},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ask::{self, Server},
    otlp::Collector,
    top::{TopError, print},
};

/// Between two looks. Nodes bring their steps every half second, so that one look later none is missing
/// between two that were seen.
const LOOK: Duration = Duration::from_secs(1);

/// Who is traced, as a coordinator answers.
#[derive(Debug, Deserialize)]
struct Everyone {
    traced: Vec<Traced>,
}

/// A user that is traced.
#[derive(Debug, Deserialize, Serialize)]
struct Traced {
    user: String,
    /// Until when, ms since 1970.
    until: u64,
    /// The administrator who asked for it.
    by: String,
}

/// A trace that has just begun.
#[derive(Debug, Deserialize)]
struct Started {
    /// Until when, ms since 1970.
    until: u64,
}

/// What a coordinator answers about a user.
#[derive(Debug, Deserialize)]
struct Told {
    /// Until when the user is followed, ms since 1970; `None` = it is not.
    until: Option<u64>,
    steps: Vec<TraceStep>,
}

/// The command, with its flags; [`run_trace`] does what it says.
#[must_use]
pub fn trace_command() -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let trace = Command::new("trace")
        .about("Shows a user's way through the cluster, step by step, or who is traced")
        .arg(
            Arg::new("user")
                .long("user")
                .help("The user; without one, the users that are traced are shown"),
        )
        .arg(
            Arg::new("start")
                .long("start")
                .value_name("MINUTES")
                .num_args(0..=1)
                .default_missing_value("5")
                .requires("user")
                .help("Has the user traced for so long, 1 to 60 [without a number: 5]"),
        )
        .arg(
            flag("stop", "Ends the trace; its steps can be seen for an hour")
                .requires("user")
                .conflicts_with_all(["start", "follow"]),
        )
        .arg(flag("follow", "Shows steps as they come, until the trace ends").requires("user"))
        .arg(flag("json", "Prints a line of JSON for each step"))
        .arg(
            Arg::new("otlp")
                .long("otlp")
                .value_name("URL")
                .requires("user")
                .conflicts_with_all(["json", "follow", "stop", "start"])
                .help(
                    "Sends the steps as spans to a collector of OpenTelemetry, by OTLP over HTTP in \
                     JSON, like http://127.0.0.1:4318; one that does not end in /traces gets /v1/traces",
                ),
        );
    ask::with_flags(trace)
}

/// Does what the arguments, those of [`trace_command`], ask for.
///
/// # Errors
/// What is wrong, and what to type instead.
///
/// # Panics
/// When the arguments are another command's.
pub fn run_trace(arguments: &ArgMatches) -> Result<(), TopError> {
    let server = ask::server_of(arguments)?;
    let text = |name| arguments.get_one::<String>(name);
    let is_json = arguments.get_flag("json");
    let Some(user) = text("user") else {
        let Everyone { traced } = server.traces()?;
        return print(&list(&traced, is_json));
    };
    if arguments.get_flag("stop") {
        server.trace::<Value>("DELETE", user, "")?;
        return print(&format!(
            "the trace of {user:?} was ended; its steps can be seen for an hour\n"
        ));
    }
    if let Some(url) = text("otlp") {
        let ca = arguments.get_one::<std::path::PathBuf>("ca");
        let collector = Collector::new(url, ca.map(std::path::PathBuf::as_path))?;
        let told = seen(&server, user)?;
        if told.steps.is_empty() {
            return print(&format!("{user:?} has no step yet; nothing was sent\n"));
        }
        let (spans, traces) = collector.take(user, &told.steps)?;
        return print(&format!(
            "{spans} spans in {traces} traces were sent to {}\n",
            collector.url
        ));
    }
    let follows = arguments.get_flag("follow");
    let started = text("start");
    if let Some(given) = started {
        let minutes = given.parse::<u64>().ok();
        let minutes = minutes.filter(|minutes| (1..=TRACE_MINUTES.0).contains(minutes));
        let minutes = minutes.ok_or_else(|| TopError::Minutes(given.clone()))?;
        let before: Told = server.trace("GET", user, "")?;
        let now: Started = server.trace("PUT", user, &format!(r#"{{"minutes":{minutes}}}"#))?;
        // What another administrator asked for is not cut short without a word.
        let instead = match before.until.filter(|until| *until > now.until) {
            Some(until) => format!(" instead of {}", time_of_day(until / 1_000)),
            None => String::new(),
        };
        let until = time_of_day(now.until / 1_000);
        eprintln!("{user:?} is traced by all edges within a second, until {until} UTC{instead}");
        if !follows {
            return Ok(());
        }
    }
    let mut shown = Shown::new(is_json);
    if follows {
        return follow(&server, user, started.is_some(), &mut shown);
    }
    let told = seen(&server, user)?;
    if told.steps.is_empty() && !is_json {
        print(&format!(
            "{user:?} is traced, and there is no step of it yet; --follow waits for them\n"
        ))?;
    }
    shown.show(told.steps)
}

/// The users that are traced: a line each, or a line of JSON each.
fn list(traced: &[Traced], is_json: bool) -> String {
    if traced.is_empty() && !is_json {
        return "nobody is traced; --user NAME --start traces a user for 5 minutes\n".into();
    }
    let line = |one: &Traced| match is_json {
        true => serde_json::to_string(one).expect("it has nothing but texts and numbers"),
        false => {
            let until = time_of_day(one.until / 1_000);
            format!("{:?} until {until} UTC, for {:?}", one.user, one.by)
        }
    };
    traced.iter().map(|one| line(one) + "\n").collect()
}

/// The time of the day, in UTC, of seconds since 1970.
fn time_of_day(seconds: u64) -> String {
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{hour:02}:{minute:02}:{:02}", seconds % 60)
}

/// The steps of the user; an error when there are none, and none can come.
fn seen(server: &Server, user: &str) -> Result<Told, TopError> {
    let told: Told = server.trace("GET", user, "")?;
    match told.until.is_none() && told.steps.is_empty() {
        true => Err(TopError::NotTraced),
        false => Ok(told),
    }
}

/// Shows steps one look after they were seen first, in order, until the trace ends. `started`: just now, which a
/// coordinator of an older release knows half a second later.
fn follow(server: &Server, user: &str, started: bool, shown: &mut Shown) -> Result<(), TopError> {
    if !started {
        seen(server, user)?;
    }
    let mut known: HashSet<(String, u64, u64)> = HashSet::new();
    let mut held: Vec<TraceStep> = Vec::new();
    // Edges may not have brought the last steps.
    let mut patience = 3;
    loop {
        let told: Told = server.trace("GET", user, "")?;
        let key = |step: &TraceStep| (step.node.to_string(), step.seq, step.time_us);
        let keys = told.steps.iter().map(key).collect();
        let before = std::mem::replace(&mut known, keys);
        shown.show(std::mem::take(&mut held))?;
        held = told.steps;
        held.retain(|step| !before.contains(&key(step)));
        if told.until.is_some() {
            patience = 2;
        } else {
            patience -= 1;
            if patience == 0 {
                shown.show(held)?;
                eprintln!("{user:?} is traced no more");
                return Ok(());
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// What is printed, and when the last step was.
struct Shown {
    is_json: bool,
    last: Option<u64>,
}

impl Shown {
    fn new(is_json: bool) -> Self {
        Self {
            is_json,
            last: None,
        }
    }

    fn show(&mut self, mut steps: Vec<TraceStep>) -> Result<(), TopError> {
        TraceStep::sort(&mut steps);
        let mut lines = Vec::new();
        for step in steps {
            if self.is_json {
                lines.push(step.encode());
                continue;
            }
            if self.last.is_none() {
                lines.push(HEAD.to_owned());
            }
            lines.push(line(&step, self.last));
            self.last = Some(step.time_us);
        }
        let lines: String = lines.into_iter().map(|line| line + "\n").collect();
        print(&lines)
    }
}

const HEAD: &str =
    "TIME (UTC)       AFTER ms  NODE/CORE             EPOCH           VERSION  STATUS   STEP";

/// A step as a line of the table.
fn line(step: &TraceStep, last: Option<u64>) -> String {
    let seconds = time_of_day(step.time_us / 1_000_000);
    let time = format!("{seconds}.{:06}", step.time_us % 1_000_000);
    let after = last.map_or(0, |last| step.time_us.saturating_sub(last)) as f64 / 1_000.0;
    let place = format!("{}/{}", step.node, step.core);
    let mut line = format!(
        "{time}  {after:>8.3}  {place:<20}  {:>5}  {:>16}  {:<7}  {}",
        step.epoch,
        step.version,
        step.status.as_str(),
        step.event
    );
    let mut more = |text: String| {
        // A String takes all.
        let _ = write!(line, " {text}");
    };
    if let Some(cause) = step.cause.filter(|_| step.event == CHANGED) {
        more(format!("by {cause}"));
    }
    if let Some(session) = &step.session {
        more(session.clone());
    }
    if let Some(code) = step.code {
        more(format!("with {code}"));
    }
    if let Some(from) = step.from.as_ref().filter(|_| step.event == RECEIVED) {
        more(format!("from {from}"));
    }
    match step.watchers.filter(|_| step.event == DELIVERED) {
        Some(1) => more("to 1 watcher".into()),
        Some(watchers) => more(format!("to {watchers} watchers")),
        None => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Status;

    #[test]
    fn who_is_traced_is_listed_with_who_asked_for_it() {
        let answer =
            r#"{"traced":[{"user":"alice","until":1796011201000,"by":"ops","at":1796010901000}]}"#;
        let Everyone { traced } = serde_json::from_str(answer).expect("an answer");
        assert_eq!(
            list(&traced, false),
            "\"alice\" until 04:00:01 UTC, for \"ops\"\n"
        );
        let json = "{\"user\":\"alice\",\"until\":1796011201000,\"by\":\"ops\"}\n";
        assert_eq!(list(&traced, true), json);
        assert!(list(&[], false).starts_with("nobody is traced"));
        assert_eq!(list(&[], true), "");
    }

    #[test]
    fn a_line_says_when_where_and_what() {
        let step: TraceStep = serde_json::from_str(
            r#"{"event":"delivered","timeUs":1796011201000250,"user":"alice","node":"edge-2","core":1,
                "seq":3,"vnode":7,"epoch":3,"version":25769803777,"status":"away","watchers":2}"#,
        )
        .expect("a step");
        assert_eq!(step.status, Status::Away);
        assert_eq!(
            line(&step, Some(1_796_011_201_000_000)),
            "04:00:01.000250     0.250  edge-2/1                  3       25769803777  away     delivered to 2 watchers"
        );
    }
}
