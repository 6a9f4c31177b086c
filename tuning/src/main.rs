//! online-status-tuning: what a Linux host needs for many sessions, what it can hold, and the changes
//! that get it there, with their way back.
#![forbid(unsafe_code)]

#[macro_use(print, println, eprintln)]
extern crate settings;

mod apply;
mod boot;
mod capacity;
mod cards;
mod check;
mod host;
mod item;
mod layout;
mod parameters;
mod plan;
mod record;
mod script;
mod table;
mod units;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use boot::Boot;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use host::Host;
use item::{Group, Item, Mend, Severity};
use plan::{AtBoot, Change, Kind};
use record::{Lock, RECORD, Record};
use script::Target;
use table::table;

/// Sessions on one host at most: 800 GB of memory, and every number for the kernel is one that it takes.
const MOST: u64 = 100_000_000;
/// Of all hosts: more than there are people.
const MOST_OF_ALL: u64 = 100_000_000_000;

/// What a Linux host needs for many sessions, and what it can hold. It changes nothing without --yes.
#[derive(Parser)]
#[command(
    name = "online-status-tuning",
    version,
    about,
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the host's files are.
    #[arg(long, global = true, hide = true, default_value = "/")]
    root: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Compares this host with what so many sessions need; exit code 1 when something is missing
    /// that they cannot do without.
    Check {
        /// Sessions on this host.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=MOST))]
        sessions: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows the changes that get this host there, each with its reason; with --yes makes them, all or
    /// none, and keeps them over a reboot.
    Apply(Apply),
    /// Takes back what `apply` has changed, also after a reboot.
    Undo,
    /// Says how many sessions this host can hold, by each thing that they take; exit code 1 when they
    /// are fewer than wished for.
    Capacity {
        /// Sessions wished for, of one host or of many.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=MOST_OF_ALL))]
        sessions: u64,
        /// Clients speak TLS with the edge itself.
        #[arg(long)]
        tls: bool,
        /// Addresses of proxies in front of the edge, when all clients come through them.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
        proxies: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says which CPUs should serve sessions, and which the rest, as settings of the edge.
    Layout,
}

#[derive(Args)]
struct Apply {
    /// Sessions on this host.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=MOST))]
    sessions: u64,
    /// Groups of changes.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Group::USUAL)]
    only: Vec<Group>,
    /// Make the changes.
    #[arg(long, conflicts_with = "out_script")]
    yes: bool,
    /// Write them as a shell script with `apply` and `undo`, instead; `-` is the standard output. A file that is no
    /// such script is kept.
    #[arg(long, value_name = "FILE")]
    out_script: Option<PathBuf>,
    /// Leave kernel parameters to sysctl.d, where a later file wins, but for those of modules.
    #[arg(long, hide = true)]
    at_boot: bool,
}

fn main() -> ExitCode {
    let program = Arguments::command().subcommand(settings::documents_command());
    let matches = program.clone().get_matches();
    if let Some(("documents", arguments)) = matches.subcommand() {
        settings::write_documents(&program, arguments);
    }
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let host = Host::new(arguments.root);
    let done = match arguments.command {
        Command::Check { sessions, json } => Ok(check(&host, sessions, json)),
        Command::Apply(apply) => change(&host, &apply).map(|()| true),
        Command::Undo => undo(&host).map(|()| true),
        Command::Capacity {
            sessions,
            tls,
            proxies,
            json,
        } => {
            let rows = capacity::rows(&host, tls, proxies);
            Ok(show_capacity(&rows, sessions, json))
        }
        Command::Layout => {
            print!("{}", layout::advise(&host));
            Ok(true)
        }
    };
    match done {
        Ok(good) => ExitCode::from(u8::from(!good)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing is missing that sessions cannot do without.
fn check(host: &Host, sessions: u64, json: bool) -> bool {
    let items = check::check(host, sessions);
    let fatal = |item: &Item| !item.passed && item.severity == Severity::Fatal;
    let good = !items.iter().any(fatal);
    if json {
        println!(
            "{}",
            serde_json::json!({ "sessions": sessions, "passed": good, "items": items })
        );
        return good;
    }
    let rows = items.iter().map(|item| {
        let severity = format!("{:?}", item.severity).to_lowercase();
        let passed = if item.passed { "yes" } else { "no" };
        let current = item.current.clone().unwrap_or_else(|| "unknown".into());
        let fix = match item.passed {
            true => String::new(),
            false => format!("{}  ({})", item.fix(), item.why),
        };
        vec![
            item.condition.clone(),
            item.required.clone(),
            current,
            severity,
            passed.into(),
            fix,
        ]
    });
    print!(
        "{}",
        table(
            &[
                "CONDITION",
                "REQUIRED",
                "CURRENT",
                "SEVERITY",
                "PASSED",
                "FIX"
            ],
            rows
        )
    );
    good
}

fn change(host: &Host, apply: &Apply) -> Result<(), String> {
    let _lock = apply.yes.then(|| Lock::take(host)).transpose()?;
    let former = match Record::load(host) {
        Err(error) if apply.yes => return Err(error),
        Err(error) => {
            eprintln!("note: {error}");
            Record::default()
        }
        Ok(former) => former,
    };
    if !apply.at_boot {
        capacity::could_hold(host, apply.sessions)?;
    }
    let mut items = check::check(host, apply.sessions);
    if apply.at_boot {
        let boot = Boot::read(host);
        items.retain(|item| match &item.mend {
            Mend::Sysctl { name, .. } => plan::is_late(name) && !boot.is_overruled(name),
            _ => true,
        });
    }
    let changes = plan::changes(host, &items, &apply.only);
    let program =
        std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    let boot = AtBoot {
        program: program.display().to_string(),
        sessions: apply.sessions,
        groups: apply.only.clone(),
        is_now: apply.at_boot,
    };
    if let Some(path) = &apply.out_script {
        return write_script(host, &former, &changes, &boot, path)
            .map_err(|error| format!("{}: {error}", path.display()));
    }
    show(&changes, &items, &apply.only);
    if changes.is_empty() {
        println!("nothing is to be changed");
        return Ok(());
    }
    if !apply.yes {
        let files = plan::files(host, &former.with(&changes).changes, &boot);
        for path in files.keys() {
            println!("to be kept in {path}");
        }
        let in_the_way = apply::in_the_way(host, &former, &files);
        if !in_the_way.is_empty() {
            println!(
                "what is there is not online-status-tuning's to overwrite, and --yes changes nothing:\n{}",
                in_the_way.join("\n")
            );
        }
        println!("nothing was changed: --yes makes these changes, undo takes them back");
        return Ok(());
    }
    let refused =
        apply::apply(host, &former, &changes, &boot).map_err(|error| error.to_string())?;
    refused
        .iter()
        .for_each(|what| println!("left as it was: {what}"));
    println!(
        "{} changes were made; online-status-tuning undo takes them back ({})",
        changes.len() - refused.len(),
        RECORD
    );
    println!("running services keep their limits until they are restarted");
    Ok(())
}

/// Writes the changes as a script, where nothing is lost by that: neither a file, nor the way back of an
/// earlier script.
fn write_script(
    host: &Host,
    former: &Record,
    changes: &[Change],
    boot: &AtBoot,
    path: &Path,
) -> Result<(), String> {
    let target = script::target(path)?;
    if changes.is_empty() && target == Target::Script {
        println!(
            "nothing is to be changed: {} stays as it is",
            path.display()
        );
        return Ok(());
    }
    let mut made = apply::made(host);
    if *former != Record::default() {
        made.push(RECORD.into());
    }
    if !changes.is_empty() && !made.is_empty() {
        return Err(format!(
            "not written, as this host has what an earlier apply or script made, which a new script could not take \
             back: {}. Take that back first (online-status-tuning undo, or undo of that script), or go on with --yes",
            made.join(", ")
        ));
    }
    let files = plan::files(host, changes, boot);
    let in_the_way = apply::in_the_way(host, former, &files);
    if !in_the_way.is_empty() {
        return Err(apply::ApplyError::InTheWay(in_the_way).to_string());
    }
    let link = files.contains_key(plan::BOOT_UNIT);
    let link = link.then_some((apply::ENABLED, apply::LINKED));
    let text = script::script(changes, &files, link, boot.sessions);
    script::write(path, &target, &text).map_err(|error| error.to_string())?;
    let count = changes.len();
    let path = path.display();
    match target {
        Target::Stream => eprintln!("{count} changes; with apply, as root, the script makes them"),
        _ => println!("{path}: {count} changes; sh {path} apply, as root, makes them"),
    }
    Ok(())
}

/// What the units have now for which a line of theirs is another one.
fn limits_of_units(items: &[Item], line: &str) -> String {
    let is_of = |item: &&Item| matches!(&item.mend, Mend::Unit { line: own } if own == line);
    let current = items.iter().filter(|item| !item.passed).filter(is_of);
    let mut current: Vec<&str> = current.filter_map(|item| item.current.as_deref()).collect();
    current.dedup();
    current.join(", ")
}

/// The changes, and what a person has to do.
fn show(changes: &[Change], items: &[Item], groups: &[Group]) {
    let rows = changes.iter().map(|change| {
        let (now, then) = match &change.what {
            Kind::Value { before, after, .. } => (before.clone(), after.clone()),
            Kind::Unit { line } => (limits_of_units(items, line), line.clone()),
            Kind::Run { words, undo } => (undo.join(" "), words.join(" ")),
        };
        let subject = match &change.what {
            Kind::Value {
                sysctl: Some(name), ..
            } => name,
            _ => change.subject(),
        };
        vec![
            subject.to_owned(),
            now,
            then,
            format!("{} ({})", change.why, change.source),
        ]
    });
    if !changes.is_empty() {
        print!("{}", table(&["CHANGE", "NOW", "THEN", "WHY"], rows));
    }
    for item in items.iter().filter(|item| groups.contains(&item.group)) {
        if item.passed && item.source == boot::SOURCE {
            let current = item.current.as_deref().unwrap_or_default();
            println!("{}: {current}, as {}", item.condition, item.why);
        }
        if !item.passed && matches!(item.mend, Mend::Advice(_)) {
            println!(
                "for you to do: {}: {}  ({})",
                item.condition,
                item.fix(),
                item.why
            );
        }
    }
    let skipped: Vec<String> = Group::ALL
        .iter()
        .filter(|group| {
            !groups.contains(group)
                && items
                    .iter()
                    .any(|item| item.group == **group && !item.passed)
        })
        .map(|group| group.name())
        .collect();
    if !skipped.is_empty() {
        println!(
            "not among these, as they were not chosen with --only: {}",
            skipped.join(", ")
        );
    }
}

fn undo(host: &Host) -> Result<(), String> {
    let (done, kept) = apply::undo(host)?;
    done.iter().for_each(|what| println!("{what}"));
    kept.iter()
        .for_each(|what| println!("left as it is: {what}"));
    let mut scripts = apply::made(host);
    scripts.retain(|path| !kept.iter().any(|line| line.contains(path)));
    if !scripts.is_empty() {
        println!(
            "left as they are: {}: a script of --out-script has made them, and its own undo takes back what it did",
            scripts.join(", ")
        );
    } else if done.is_empty() && kept.is_empty() {
        println!("nothing was changed by online-status-tuning");
    }
    Ok(())
}

/// Whether the host holds as many as are wished for.
fn show_capacity(rows: &[capacity::Row], wished: u64, json: bool) -> bool {
    let most = rows
        .iter()
        .filter_map(|row| Some((row.sessions?, row.resource.as_str())))
        .min();
    let good = most.is_none_or(|(most, _)| most >= wished);
    if json {
        let most = most.map(
            |(sessions, resource)| serde_json::json!({ "sessions": sessions, "by": resource }),
        );
        println!(
            "{}",
            serde_json::json!({
                "wished": wished, "passed": good, "holds": most, "resources": rows,
                "advice": capacity::advice(rows, wished),
            })
        );
        return good;
    }
    let text = rows.iter().map(|row| {
        let sessions = row
            .sessions
            .map_or("no bound".into(), |sessions| sessions.to_string());
        vec![
            row.resource.clone(),
            row.has.clone(),
            row.takes.clone(),
            sessions,
        ]
    });
    print!(
        "{}",
        table(
            &["RESOURCE", "THIS HOST HAS", "A SESSION TAKES", "SESSIONS"],
            text
        )
    );
    if let Some((most, by)) = most {
        let word = if good {
            "as wished"
        } else {
            "fewer than wished"
        };
        println!("this host holds {most} sessions, {word} ({wished}); the bound is {by}");
        for advice in capacity::advice(rows, wished) {
            println!("{advice}");
        }
    }
    good
}
