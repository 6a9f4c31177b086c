//! Makes changes, all or none, and takes them back.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
    process::Command,
};

use crate::{
    host::{Host, same_mask},
    plan::{self, AtBoot, BOOT_UNIT, Change, Kind, read_value},
    record::{RECORD, Record, write_whole},
};

/// The link by which the boot unit is enabled.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/online-status-tuning.service";

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("{0}")]
    Record(String),
    #[error(
        "there is no right to change this host, and nothing was changed:\n{}\n\
         As root it goes, where what is read-only is mounted writable; in a container most of it is the host's: run \
         it there, or choose groups with --only",
        .0.join("\n")
    )]
    Rights(Vec<String>),
    #[error("{what}: {error}; what had been changed was taken back")]
    Failed { what: String, error: io::Error },
    #[error(
        "{what}: {error}; and it could not be taken back: {left}. Mend that, then: online-status-tuning undo"
    )]
    Stuck {
        what: String,
        error: io::Error,
        left: String,
    },
}

/// What the kernel answers to a value that it does not take, of this card or in this machine.
fn is_refusal(error: &io::Error) -> bool {
    // EIO, EBUSY, EINVAL, EOPNOTSUPP; or it has taken another one.
    matches!(error.raw_os_error(), Some(5 | 16 | 22 | 95))
        || error.kind() == io::ErrorKind::InvalidData
}

/// Makes `changes`, and the files that keep them; what the kernel did not take, with its reason.
pub(crate) fn apply(
    host: &Host,
    changes: Vec<Change>,
    boot: &AtBoot,
) -> Result<Vec<String>, ApplyError> {
    let former = Record::load(host).map_err(ApplyError::Record)?;
    let mut record = former.clone();
    for change in &changes {
        record.add(change.clone());
    }
    record.files = plan::files(host, &record.changes, boot);
    let values = changes.iter().filter_map(|change| change.path());
    let missing = missing_rights(host, values, record.files.keys());
    if !missing.is_empty() {
        return Err(ApplyError::Rights(missing));
    }
    let mut refused = Vec::new();
    match make(host, changes, &mut record, boot, &mut refused) {
        Ok(()) => Ok(refused),
        Err((what, error)) => {
            let left = go_back(host, &record, &former);
            if left.is_empty() {
                return Err(ApplyError::Failed { what, error });
            }
            let left = left.join("; ");
            Err(ApplyError::Stuck { what, error, left })
        }
    }
}

/// Those of the values and files, and of the record, that cannot be written. It is asked before anything is.
fn missing_rights<'a>(
    host: &Host,
    values: impl Iterator<Item = &'a str>,
    files: impl Iterator<Item = &'a String>,
) -> Vec<String> {
    let mut missing = Vec::new();
    for path in values {
        if let Err(error) = OpenOptions::new().write(true).open(host.at(path)) {
            missing.push(format!("  {path}: {error}"));
        }
    }
    for path in files.map(String::as_str).chain([RECORD]) {
        let probe = format!("{path}.online-status-probe");
        let folder = host.at(path).parent().map(Path::to_owned);
        let is_new = folder.as_ref().is_some_and(|folder| !folder.exists());
        let made = write_whole(host, &probe, "").and_then(|()| fs::remove_file(host.at(&probe)));
        if let Err(error) = made {
            missing.push(format!("  {path}: {error}"));
        }
        if let Some(folder) = folder.filter(|_| is_new) {
            // Made for the probe alone; what another program has put there meanwhile keeps it.
            let _ = fs::remove_dir(folder);
        }
    }
    missing
}

type Failed = (String, io::Error);

fn make(
    host: &Host,
    changes: Vec<Change>,
    record: &mut Record,
    boot: &AtBoot,
    refused: &mut Vec<String>,
) -> Result<(), Failed> {
    let named = |what: &str| {
        let what = what.to_owned();
        move |error| (what, error)
    };
    record.save(host).map_err(named(RECORD))?;
    for Change { what, .. } in changes {
        let (subject, done) = match &what {
            Kind::Value { path, after, .. } => (path.clone(), write_value(host, path, after)),
            Kind::Run { words, .. } => (words.join(" "), run(words)),
            Kind::Unit { .. } => continue,
        };
        match done {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => {
                refused.push(format!(
                    "{subject}: the kernel does not take it here: {error}"
                ));
                if let Kind::Value { path, before, .. } = &what {
                    // It mostly has it still, and refuses that as well.
                    let _ = write_value(host, path, before);
                }
                record.changes.retain(|change| change.what != what);
            }
            Err(error) => return Err((subject, error)),
        }
    }
    // Without what was refused.
    record.files = plan::files(host, &record.changes, boot);
    for (path, text) in &record.files {
        write_whole(host, path, text).map_err(named(path))?;
    }
    if record.files.contains_key(BOOT_UNIT) && !host.exists(ENABLED) {
        let link = host.at(ENABLED);
        if let Some(folder) = link.parent() {
            fs::create_dir_all(folder).map_err(named(ENABLED))?;
        }
        std::os::unix::fs::symlink("../online-status-tuning.service", link)
            .map_err(named(ENABLED))?;
    }
    record.save(host).map_err(named(RECORD))?;
    reload_units(host);
    Ok(())
}

/// Back from `record`, which was being made, to the `former` one; what did not go back.
fn go_back(host: &Host, record: &Record, former: &Record) -> Vec<String> {
    let mut left = Vec::new();
    for change in record.changes.iter().rev() {
        let known = former
            .changes
            .iter()
            .find(|known| known.subject() == change.subject());
        let done = match (&change.what, known.map(|known| &known.what)) {
            (Kind::Value { path, .. }, Some(Kind::Value { after, .. })) => {
                write_value(host, path, after)
            }
            (Kind::Value { path, before, .. }, _) => write_value(host, path, before),
            (Kind::Run { undo, .. }, None) => run(undo),
            _ => Ok(()),
        };
        left.extend(
            done.err()
                .map(|error| format!("{}: {error}", change.subject())),
        );
    }
    for path in record.files.keys() {
        let done = match former.files.get(path) {
            Some(text) => write_whole(host, path, text),
            None => remove(host, path),
        };
        left.extend(done.err().map(|error| format!("{path}: {error}")));
    }
    if !former.files.contains_key(BOOT_UNIT) {
        left.extend(
            remove(host, ENABLED)
                .err()
                .map(|error| format!("{ENABLED}: {error}")),
        );
    }
    if left.is_empty() {
        left.extend(
            former
                .save(host)
                .err()
                .map(|error| format!("{RECORD}: {error}")),
        );
    }
    left
}

/// Takes everything back; what it did, and what stays as it is with the reason.
pub(crate) fn undo(host: &Host) -> Result<(Vec<String>, Vec<String>), String> {
    let record = Record::load(host)?;
    may_undo(host, &record)?;
    let (mut done, mut kept) = (Vec::new(), Vec::new());
    let mut left = Record::default();
    for change in record.changes.into_iter().rev() {
        let result = match &change.what {
            Kind::Value {
                path,
                before,
                after,
                ..
            } => match read_value(host, path) {
                Some(now) if same(&now, after) => write_value(host, path, before)
                    .map(|()| done.push(format!("{path} = {before}"))),
                // It was never made, or a reboot has taken it back.
                Some(now) if same(&now, before) => Ok(()),
                Some(now) => {
                    kept.push(format!("{path} = {now}: somebody has changed it since"));
                    Ok(())
                }
                None => {
                    kept.push(format!("{path}: this host does not have it any more"));
                    Ok(())
                }
            },
            Kind::Run { undo, .. } => run(undo).map(|()| done.push(undo.join(" "))),
            Kind::Unit { .. } => Ok(()),
        };
        if let Err(error) = result {
            kept.push(format!("{}: {error}", change.subject()));
            left.changes.insert(0, change);
        }
    }
    for (path, text) in record.files {
        match fs::read_to_string(host.at(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(now) if now != text => kept.push(format!("{path}: somebody has changed it since")),
            _ => match remove(host, &path) {
                Ok(()) => done.push(format!("{path} is gone")),
                Err(error) => {
                    kept.push(format!("{path}: {error}"));
                    left.files.insert(path, text);
                }
            },
        }
    }
    if !host.exists(BOOT_UNIT) {
        kept.extend(
            remove(host, ENABLED)
                .err()
                .map(|error| format!("{ENABLED}: {error}")),
        );
    }
    left.save(host)
        .map_err(|error| format!("{RECORD}: {error}"))?;
    reload_units(host);
    if left == Record::default() {
        Ok((done, kept))
    } else {
        Err(format!("not all was taken back:\n  {}", kept.join("\n  ")))
    }
}

/// Whether all that is to be taken back can be, before anything is.
fn may_undo(host: &Host, record: &Record) -> Result<(), String> {
    if *record == Record::default() {
        return Ok(());
    }
    let is_made = |what: &Kind| match what {
        Kind::Value { path, after, .. } => {
            read_value(host, path).is_some_and(|now| same(&now, after))
        }
        _ => false,
    };
    let made = record.changes.iter().filter(|change| is_made(&change.what));
    let values = made.filter_map(Change::path);
    let files = record.files.keys().filter(|path| host.exists(path));
    let missing = missing_rights(host, values, files);
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "there is no right to change this host, and nothing was taken back:\n{}\n\
         As root it goes, where what is read-only is mounted writable",
        missing.join("\n")
    ))
}

/// Whether two texts are the same value.
fn same(a: &str, b: &str) -> bool {
    a == b || (same_mask(a, b) && a.contains(|c: char| c.is_ascii_digit()) && !a.contains(' '))
}

/// Writes a value and looks whether it is there: what the kernel rounds or ignores is not made.
fn write_value(host: &Host, path: &str, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(host.at(path))?;
    file.write_all(format!("{value}\n").as_bytes())?;
    drop(file);
    match read_value(host, path) {
        Some(now) if !same(&now, value) => {
            let what = format!("{value} was written, and it is {now}");
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
        _ => Ok(()),
    }
}

/// Removes a file, and its folder when that is a drop-in's and empty.
fn remove(host: &Host, path: &str) -> io::Result<()> {
    let file = host.at(path);
    let is_none = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    };
    match fs::remove_file(&file) {
        Err(error) if !is_none(&error) => return Err(error),
        _ => {}
    }
    if let Some(folder) = file
        .parent()
        .filter(|folder| folder.to_string_lossy().ends_with(".service.d"))
    {
        // Another drop-in keeps it.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

fn run(words: &[String]) -> io::Result<()> {
    let done = Command::new(&words[0]).args(&words[1..]).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!(
        "{}: {}",
        words.join(" "),
        said.trim()
    )))
}

/// The next start of a unit has its new drop-in.
fn reload_units(host: &Host) {
    if host.is_here()
        && host.exists("/run/systemd/system")
        && let Err(error) = run(&["systemctl".into(), "daemon-reload".into()])
    {
        eprintln!("note: {error}");
    }
}
