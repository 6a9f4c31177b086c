//! The changes as a shell script, for whoever wants to read them, or to make them another way.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::plan::{Change, Kind};

/// How every script begins: `write` overwrites no other file.
const HEAD: &str = "#!/bin/sh\n# Tunes this host for ";

/// What the script does, with the lists of changes in front. It makes all changes or none, as the program
/// does: first it looks whether it can, and what fails half way is taken back. POSIX sh, and what every
/// system has.
const BODY: &str = include_str!("script.sh");

/// A script that makes the changes with `apply`, and takes them back with `undo`. `ROOT` in its
/// environment comes before all paths. `enabled`: the link that enables the boot unit.
pub(crate) fn script(
    changes: &[Change],
    files: &BTreeMap<String, String>,
    enabled: Option<(&str, &str)>,
    sessions: u64,
) -> String {
    let (mut values, mut runs) = (String::new(), String::new());
    let mut tools = Vec::new();
    for Change { what, why, source } in changes {
        let (out, line) = match what {
            Kind::Value {
                path,
                before,
                after,
                sysctl,
            } => {
                let kind = if sysctl.is_some() { "must" } else { "may" };
                let words = [path, before, after].map(|word| quote(word)).join(" ");
                (&mut values, format!("\"$1\" {kind} {words}"))
            }
            Kind::Run { words, undo } => {
                tools.push(words[0].as_str());
                let quoted = |words: &[String]| {
                    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
                    quote(&words.join(" "))
                };
                let line = format!("\"$1\" {} {}", quoted(words), quoted(undo));
                (&mut runs, line)
            }
            Kind::Unit { .. } => continue,
        };
        writeln!(out, "  # {why} ({source})\n  {line}").expect("a String takes all text");
    }
    let (mut paths, mut texts) = (String::new(), String::new());
    for (path, text) in files {
        writeln!(paths, "  \"$1\" {}", quote(path)).expect("a String takes all text");
        writeln!(
            texts,
            "  {})\n    cat <<'END'\n{text}END\n    ;;",
            quote(path)
        )
        .expect("a String takes all text");
    }
    let (link, target) = enabled.unwrap_or_default();
    format!(
        "{HEAD}{sessions} sessions of online-status: \"$0\" apply, as root.\n\
         # \"$0\" undo takes it back. It has the values of this host as they were when it was written.\n\
         set -u\nROOT=${{ROOT:-}}\nLINK={}\nTARGET={}\nTOOLS={}\n\n\
         # Each value: of sysctl.d (must), or of /sys, which a machine may not take (may); path, before, after.\n\
         values() {{\n{values}  :\n}}\n# Each program, and the one that takes it back.\n\
         runs() {{\n{runs}  :\n}}\n# The files that keep it over a reboot.\nfiles() {{\n{paths}  :\n}}\n\
         text() {{\n  case $1 in\n{texts}  esac\n}}\n\n{BODY}",
        quote(link),
        quote(target),
        quote(&tools.join(" ")),
    )
}

/// A word as the shell reads it.
fn quote(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// What is at the path of a script.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Nothing, or nothing in it.
    Free,
    /// A script of this program.
    Script,
    /// A pipe or a terminal: nothing can be lost.
    Stream,
}

/// The path that stands for the standard output.
const STANDARD: &str = "-";

/// Whether a script may be written there; else why not.
pub(crate) fn target(path: &Path) -> Result<Target, String> {
    if path == Path::new(STANDARD) {
        return Ok(Target::Stream);
    }
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::Free),
        about => about.map_err(|error| error.to_string())?,
    };
    if about.is_dir() {
        return Err("it is a folder: name a file in it".into());
    }
    if !about.is_file() {
        return Ok(Target::Stream);
    }
    if about.len() == 0 {
        return Ok(Target::Free);
    }
    let begins = fs::read(path).map_err(|error| error.to_string())?;
    if begins.starts_with(HEAD.as_bytes()) {
        return Ok(Target::Script);
    }
    Err(
        "it is there, and no script of online-status-tuning: move it away, or choose another name"
            .into(),
    )
}

/// Writes a script so that it is there whole or not at all, or into a stream.
pub(crate) fn write(path: &Path, target: &Target, text: &str) -> io::Result<()> {
    if path == Path::new(STANDARD) {
        let mut stream = io::stdout().lock();
        return stream
            .write_all(text.as_bytes())
            .and_then(|()| stream.flush());
    }
    if *target == Target::Stream {
        let mut stream = fs::OpenOptions::new().write(true).open(path)?;
        return stream.write_all(text.as_bytes());
    }
    // A link stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut new = path.clone().into_os_string();
    new.push(".online-status-new");
    let written = (|| {
        let mut file = fs::File::create(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    if written.is_err() {
        // It is not the script yet.
        let _ = fs::remove_file(&new);
    }
    written
}
