//! online-status-tuning: what a Linux host needs for many sessions. It looks and says; it changes
//! nothing itself.
#![forbid(unsafe_code)]

mod conditions;

use std::{fs, process::ExitCode};

use clap::{Parser, Subcommand};
use conditions::{Finding, Host, Severity};
use rustix::process::{Resource, getrlimit};

/// What a Linux host needs for many sessions; looks and says, and changes nothing itself.
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
}

#[derive(Subcommand)]
enum Command {
    /// Compares this host with what so many sessions need; exit code 1 when something is missing
    /// that they cannot do without.
    Check {
        /// Sessions on this host.
        #[arg(long, default_value_t = 100_000)]
        sessions: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints a file for /etc/sysctl.d with what this host lacks.
    Sysctl {
        /// Sessions on this host.
        #[arg(long, default_value_t = 100_000)]
        sessions: u64,
    },
}

/// The host that this process runs on.
struct ThisHost;

impl Host for ThisHost {
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    }

    fn open_files(&self) -> u64 {
        getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
    }
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check { sessions, json } => {
            let findings = conditions::check(&ThisHost, sessions);
            if json {
                println!(
                    "{}",
                    serde_json::json!({ "sessions": sessions, "findings": findings })
                );
            } else {
                print!("{}", table(&findings));
            }
            let fatal = |finding: &Finding| !finding.passed && finding.severity == Severity::Fatal;
            ExitCode::from(u8::from(findings.iter().any(fatal)))
        }
        Command::Sysctl { sessions } => {
            println!("# For {sessions} sessions. Load it with: sysctl --system");
            for finding in conditions::check(&ThisHost, sessions) {
                if let Some(line) = finding.sysctl.filter(|_| !finding.passed) {
                    println!("{line}");
                }
            }
            ExitCode::SUCCESS
        }
    }
}

fn table(findings: &[Finding]) -> String {
    let head = [
        "CONDITION",
        "REQUIRED",
        "CURRENT",
        "SEVERITY",
        "PASSED",
        "FIX",
    ]
    .map(str::to_owned);
    let rows = findings.iter().map(|finding| {
        let fix = if finding.passed {
            String::new()
        } else {
            finding.fix.clone()
        };
        let severity = format!("{:?}", finding.severity).to_lowercase();
        let passed = if finding.passed { "yes" } else { "no" };
        let current = finding.current.clone().unwrap_or_else(|| "unknown".into());
        [
            finding.condition.into(),
            finding.required.clone(),
            current,
            severity,
            passed.into(),
            fix,
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    let line = |row: &[String; 6]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}  "));
        format!("{}{}", cells.collect::<String>(), row[5])
            .trim_end()
            .to_owned()
            + "\n"
    };
    rows.iter().map(line).collect()
}
