//! Makes changes, all or none, and takes them back.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
    process::Command,
};

use crate::{
    host::{Host, same_mask},
    plan::{self, AtBoot, BOOT_UNIT, Change, Kind, MADE_BY, read_value},
    record::{Lock, RECORD, Record, may_write, unfinished, write_whole},
    units,
};

/// The link by which the boot unit is enabled.
pub(crate) const ENABLED: &str =
    "/etc/systemd/system/multi-user.target.wants/online-status-tuning.service";
pub(crate) const LINKED: &str = "../online-status-tuning.service";

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(
        "what is there is not online-status-tuning's to overwrite, and nothing was changed:\n{}\n\
         Move it to another name, which keeps its lines, then apply again",
        .0.join("\n")
    )]
    InTheWay(Vec<String>),
    #[error(
        "there is no right to change this host, and nothing was changed:\n{}\n\
         As root it goes, where what is read-only is mounted writable; in a container most of it is the host's: run \
         it there, or choose groups with --only",
        .0.join("\n")
    )]
    Rights(Vec<String>),
    #[error(
        "there is no room to write, and nothing was changed:\n{}\nMake some, then apply again",
        .0.join("\n")
    )]
    Room(Vec<String>),
    #[error("{0}: {1}; nothing was changed, since undo could not take it back")]
    Unsaved(&'static str, io::Error),
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
/// `former` is the record of what was changed before.
pub(crate) fn apply(
    host: &Host,
    former: &Record,
    changes: &[Change],
    boot: &AtBoot,
) -> Result<Vec<String>, ApplyError> {
    let mut record = former.with(changes);
    record.files = files_of(host, former, &record, boot);
    let in_the_way = in_the_way(host, former, &record.files);
    if !in_the_way.is_empty() {
        return Err(ApplyError::InTheWay(in_the_way));
    }
    let values = changes.iter().filter_map(|change| change.path());
    let link = record.files.contains_key(BOOT_UNIT).then_some(ENABLED);
    let files = record.files.keys().map(String::as_str).chain(link);
    match unwritable(host, values, files) {
        Ok(()) => {}
        Err(Unwritable { lines, is_full }) if is_full => return Err(ApplyError::Room(lines)),
        Err(Unwritable { lines, .. }) => return Err(ApplyError::Rights(lines)),
    }
    // A file can be made by now, which is not to say that there is room for what is in it.
    record
        .save(host)
        .map_err(|error| ApplyError::Unsaved(RECORD, error))?;
    let mut making = Making {
        host,
        former,
        record,
        steps: Vec::new(),
        refused: Vec::new(),
    };
    let Err((what, error)) = making.make(changes, boot) else {
        return Ok(making.refused);
    };
    let left = making.go_back();
    if left.is_empty() {
        return Err(ApplyError::Failed { what, error });
    }
    let left = left.join("; ");
    Err(ApplyError::Stuck { what, error, left })
}

/// The files that keep the changes of `record`, and those of before: of a unit that is not installed
/// any more, say. At boot there is nothing new to keep.
fn files_of(
    host: &Host,
    former: &Record,
    record: &Record,
    boot: &AtBoot,
) -> BTreeMap<String, String> {
    let mut files = former.files.clone();
    if boot.is_now {
        return files;
    }
    files.extend(plan::files(host, &record.changes, boot));
    files
}

/// What a file of `apply` has to do with what is there.
enum Found {
    /// It is as it is to be, or somebody has changed it and there is nothing new to write.
    Good,
    /// There is none, or it has what `apply` wrote: that text.
    Ours(Option<String>),
    /// Somebody else's, with the reason why it is that.
    Foreign(String),
}

fn find(host: &Host, former: &Record, path: &str, text: &str) -> Found {
    let file = host.at(path);
    let now = match fs::symlink_metadata(&file) {
        Err(error) if is_none(&error) => return Found::Ours(None),
        Ok(about) if !about.is_file() => return Found::Foreign("it is no plain file".into()),
        _ => fs::read(&file),
    };
    let now = match now {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return Found::Foreign(error.to_string()),
    };
    if now == text {
        return Found::Good;
    }
    if former.written(path).any(|known| *known == now) {
        return Found::Ours(Some(now));
    }
    if former.files.get(path).is_some_and(|known| known == text) {
        return Found::Good;
    }
    Found::Foreign(if !now.starts_with(MADE_BY) {
        "online-status-tuning has not made it".into()
    } else if former.files.contains_key(path) {
        "somebody has changed it since online-status-tuning made it".into()
    } else {
        "a script of --out-script has made it, which takes it back with undo, or the record of that apply is gone"
            .into()
    })
}

/// Those of the files that are somebody else's, with the reason.
pub(crate) fn in_the_way(
    host: &Host,
    former: &Record,
    files: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut found: Vec<String> = files
        .iter()
        .filter_map(|(path, text)| match find(host, former, path, text) {
            Found::Foreign(reason) => Some(format!("  {path}: {reason}")),
            Found::Good | Found::Ours(_) => None,
        })
        .collect();
    if files.contains_key(BOOT_UNIT)
        && fs::symlink_metadata(host.at(ENABLED)).is_ok()
        && !is_enabled(host)
    {
        found.push(format!("  {ENABLED}: it is no link to {BOOT_UNIT}"));
    }
    found
}

/// The files here that an `apply` or a script has made.
pub(crate) fn made(host: &Host) -> Vec<String> {
    let drop_ins = units::installed(host).into_iter().map(units::drop_in);
    let files = drop_ins.chain([plan::SYSCTL_FILE.into(), BOOT_UNIT.into()]);
    let is_made = |path: &String| {
        let text = fs::read_to_string(host.at(path));
        text.is_ok_and(|text| text.starts_with(MADE_BY))
    };
    files.filter(is_made).collect()
}

/// Whether the link of the boot unit is there.
fn is_enabled(host: &Host) -> bool {
    fs::read_link(host.at(ENABLED))
        .is_ok_and(|to| to == Path::new(LINKED) || to == Path::new(BOOT_UNIT))
}

/// What cannot be written.
struct Unwritable {
    /// A line for each value or file, with the reason.
    lines: Vec<String>,
    /// A disk is full, which no right mends.
    is_full: bool,
}

/// Whether the values and files, and the record, can be written. It is asked before anything is.
fn unwritable<'a>(
    host: &Host,
    values: impl Iterator<Item = &'a str>,
    files: impl Iterator<Item = &'a str>,
) -> Result<(), Unwritable> {
    let value = |path: &str| OpenOptions::new().write(true).open(host.at(path)).map(drop);
    let values = values.map(|path| (path, value(path)));
    let files = files.chain([RECORD]);
    let files = files.map(|path| (path, may_write(host, path)));
    let mut found = Unwritable {
        lines: Vec::new(),
        is_full: false,
    };
    for (path, tried) in values.chain(files) {
        if let Err(error) = tried {
            found.lines.push(format!("  {path}: {error}"));
            let kind = error.kind();
            found.is_full |= matches!(
                kind,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
        }
    }
    match found.lines.is_empty() {
        true => Ok(()),
        false => Err(found),
    }
}

type Failed = (String, io::Error);

/// What was done, with what it takes to undo it.
enum Step {
    Value {
        path: String,
        before: String,
    },
    Run {
        undo: Vec<String>,
    },
    File {
        path: String,
        before: Option<String>,
    },
    Link,
}

/// An `apply` under way.
struct Making<'a> {
    host: &'a Host,
    former: &'a Record,
    record: Record,
    steps: Vec<Step>,
    /// What the kernel did not take.
    refused: Vec<String>,
}

impl Making<'_> {
    fn make(&mut self, changes: &[Change], boot: &AtBoot) -> Result<(), Failed> {
        for change in changes {
            self.change(change)?;
        }
        // Without what was refused.
        self.record.files = files_of(self.host, self.former, &self.record, boot);
        for (path, text) in self.record.files.clone() {
            self.file(&path, &text).map_err(|error| (path, error))?;
        }
        if self.record.files.contains_key(BOOT_UNIT) && !is_enabled(self.host) {
            self.enable().map_err(|error| (ENABLED.into(), error))?;
        }
        let Record { changes, files, .. } = &self.record;
        let is_known = |path: &str| {
            let now = read_value(self.host, path);
            changes.iter().any(|change| match &change.what {
                Kind::Value {
                    path: own, after, ..
                } if own == path => now.as_ref().is_some_and(|now| same(now, after)),
                _ => false,
            })
        };
        let mut earlier = self.former.earlier.clone();
        earlier.retain(|path, _| !files.contains_key(path) && !is_known(path));
        self.record.earlier = earlier;
        self.record
            .save(self.host)
            .map_err(|error| (RECORD.into(), error))?;
        reload_units(self.host);
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), Failed> {
        let (step, done) = match change.what.clone() {
            Kind::Value {
                path,
                before,
                after,
                ..
            } => {
                let done = write_value(self.host, &path, &after);
                (Step::Value { path, before }, done)
            }
            Kind::Run { words, undo } => (Step::Run { undo }, run(&words)),
            Kind::Unit { .. } => return Ok(()),
        };
        let subject = match &step {
            Step::Run { .. } => change.subject(),
            _ => change.path().unwrap_or_default(),
        };
        match done {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => {
                self.refused.push(format!(
                    "{subject}: the kernel does not take it here: {error}"
                ));
                // It mostly has its value still, and refuses that as well.
                let _ = self.take_back(&step);
                self.record.drop_change(self.former, change.subject());
                return Ok(());
            }
            Err(error) => return Err((subject.to_owned(), error)),
        }
        self.steps.push(step);
        Ok(())
    }

    fn file(&mut self, path: &str, text: &str) -> io::Result<()> {
        match find(self.host, self.former, path, text) {
            Found::Good => Ok(()),
            Found::Foreign(reason) => Err(io::Error::other(reason)),
            Found::Ours(before) => {
                write_whole(self.host, path, text)?;
                let path = path.to_owned();
                self.steps.push(Step::File { path, before });
                Ok(())
            }
        }
    }

    fn enable(&mut self) -> io::Result<()> {
        let link = self.host.at(ENABLED);
        if let Some(folder) = link.parent() {
            fs::create_dir_all(folder)?;
        }
        std::os::unix::fs::symlink(LINKED, link)?;
        self.steps.push(Step::Link);
        Ok(())
    }

    fn take_back(&self, step: &Step) -> Result<(), Failed> {
        let (what, done) = match step {
            Step::Value { path, before } => (path.as_str(), write_value(self.host, path, before)),
            Step::Run { undo } => (undo[2].as_str(), run(undo)),
            Step::File { path, before } => (
                path.as_str(),
                match before {
                    Some(text) => write_whole(self.host, path, text),
                    None => remove(self.host, path),
                },
            ),
            Step::Link => (ENABLED, remove(self.host, ENABLED)),
        };
        done.map_err(|error| (what.to_owned(), error))
    }

    /// Back to what was there before; what did not go back. The record says the former then.
    fn go_back(&self) -> Vec<String> {
        let back = self.steps.iter().rev().map(|step| self.take_back(step));
        let mut left: Vec<Failed> = back.filter_map(Result::err).collect();
        if left.is_empty() {
            let saved = self.former.save(self.host);
            left.extend(saved.err().map(|error| (RECORD.into(), error)));
        }
        left.into_iter()
            .map(|(what, error)| format!("{what}: {error}"))
            .collect()
    }
}

/// Takes everything back; what it did, and what stays as it is with the reason.
pub(crate) fn undo(host: &Host) -> Result<(Vec<String>, Vec<String>), String> {
    let _lock = Lock::take(host)?;
    let record = Record::load(host)?;
    if record == Record::default() {
        return Ok(Default::default());
    }
    may_undo(host, &record)?;
    let (mut done, mut kept) = (Vec::new(), Vec::new());
    let mut left = Record::default();
    for change in record.changes.iter().rev() {
        let result = match &change.what {
            Kind::Value { path, before, .. } => match read_value(host, path) {
                Some(now) if is_made(&record, path, &now) => write_value(host, path, before)
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
            Kind::Run { undo, .. } if !has_card(host, &undo[2]) => {
                kept.push(format!("{}: this host does not have it any more", undo[2]));
                Ok(())
            }
            Kind::Run { undo, .. } => run(undo).map(|()| done.push(undo.join(" "))),
            Kind::Unit { .. } => Ok(()),
        };
        if let Err(error) = result {
            kept.push(format!("{}: {error}", change.subject()));
            left.changes.insert(0, change.clone());
        }
    }
    for (path, text) in &record.files {
        let is_ours = |now: &String| record.written(path).any(|known| known == now);
        match fs::read_to_string(host.at(path)) {
            Err(error) if is_none(&error) => {}
            Ok(now) if !is_ours(&now) => {
                kept.push(format!("{path}: somebody has changed it since"));
            }
            _ => match remove(host, path) {
                Ok(()) => done.push(format!("{path} is gone")),
                Err(error) => {
                    kept.push(format!("{path}: {error}"));
                    left.files.insert(path.clone(), text.clone());
                }
            },
        }
    }
    // Of an apply that was ended while it wrote them.
    for path in record.files.keys().map(String::as_str).chain([RECORD]) {
        let _ = fs::remove_file(unfinished(host, path));
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

/// Whether a value is what `apply` made it.
fn is_made(record: &Record, path: &str, now: &str) -> bool {
    record.written(path).any(|known| same(known, now))
}

fn has_card(host: &Host, card: &str) -> bool {
    host.exists(&format!("/sys/class/net/{card}"))
}

/// Whether all that is to be taken back can be, before anything is.
fn may_undo(host: &Host, record: &Record) -> Result<(), String> {
    let values = record.changes.iter().filter_map(Change::path);
    let made =
        values.filter(|path| read_value(host, path).is_some_and(|now| is_made(record, path, &now)));
    let files = record.files.keys().map(String::as_str);
    let files = files.filter(|path| host.exists(path));
    unwritable(host, made, files).map_err(|Unwritable { lines, is_full }| {
        let (lacks, advice) = match is_full {
            true => ("room to write", "Make some, then undo again"),
            false => (
                "right to change this host",
                "As root it goes, where what is read-only is mounted writable",
            ),
        };
        let lines = lines.join("\n");
        format!("there is no {lacks}, and nothing was taken back:\n{lines}\n{advice}")
    })
}

/// Whether two texts are the same value.
fn same(a: &str, b: &str) -> bool {
    // Behind a comma of a mask are eight digits, of a list one CPU or some.
    let is_mask = |text: &str| {
        let mut words = text.split(',');
        let is_hex = |word: &str| word.bytes().all(|c| c.is_ascii_hexdigit());
        words
            .next()
            .is_some_and(|word| !word.is_empty() && is_hex(word))
            && words.all(|word| word.len() == 8 && is_hex(word))
    };
    a == b || (is_mask(a) && is_mask(b) && same_mask(a, b))
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

fn is_none(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Removes a file, and its folder when that is a drop-in's and empty.
fn remove(host: &Host, path: &str) -> io::Result<()> {
    let file = host.at(path);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_no_mask() {
        assert!(same("f", "0000000f") && same("00000002,00000000", "200000000"));
        assert!(!same("0,2", "2") && !same("0-3", "03") && !same("always", "never"));
    }
}
