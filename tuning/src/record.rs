//! What was changed, on disk, so that it can be taken back after a crash or a reboot.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    host::Host,
    plan::{Change, Kind},
};

pub(crate) const RECORD: &str = "/var/lib/online-status-tuning/changes.json";

/// All changes since the host was as it came, and the files that keep them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) changes: Vec<Change>,
    /// By path, with the text that was written.
    pub(crate) files: BTreeMap<String, String>,
    /// By the path of a value or a file, what an `apply` before had written there. Empty once the one
    /// that is under way has ended: until then the host may have either.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) earlier: BTreeMap<String, Vec<String>>,
}

impl Record {
    /// The record of this host; an empty one where nothing was changed.
    pub(crate) fn load(host: &Host) -> Result<Self, String> {
        let text = match fs::read_to_string(host.at(RECORD)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(format!("{RECORD}: {error}; as root it goes"));
            }
            text => text.map_err(|error| format!("{RECORD}: {error}"))?,
        };
        let damaged = |what: &dyn std::fmt::Display| {
            format!(
                "{RECORD}: {what}; without it nothing can be taken back. It says what was changed: mend it, use the \
                 online-status-tuning that wrote it, or move it away"
            )
        };
        let record: Self = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
        let is_whole = |change: &Change| match &change.what {
            Kind::Run { words, undo } => words.len() > 2 && undo.len() > 2,
            Kind::Value { .. } | Kind::Unit { .. } => true,
        };
        match record.changes.iter().all(is_whole) {
            true => Ok(record),
            false => Err(damaged(&"a program in it has no words")),
        }
    }

    /// This record with more changes, and with what it has itself as the earlier.
    pub(crate) fn with(&self, changes: &[Change]) -> Self {
        let mut record = self.clone();
        changes.iter().for_each(|change| record.add(change.clone()));
        let values = self.changes.iter().filter_map(|change| match &change.what {
            Kind::Value { path, after, .. } => Some((path, after)),
            Kind::Unit { .. } | Kind::Run { .. } => None,
        });
        for (path, text) in values.chain(&self.files) {
            let texts = record.earlier.entry(path.clone()).or_default();
            if !texts.contains(text) {
                texts.push(text.clone());
            }
        }
        record
    }

    /// What `apply` has written, or an interrupted one may have, to a file or a value.
    pub(crate) fn written(&self, path: &str) -> impl Iterator<Item = &String> {
        let values = self
            .changes
            .iter()
            .filter_map(move |change| match &change.what {
                Kind::Value {
                    path: own, after, ..
                } if own == path => Some(after),
                _ => None,
            });
        let earlier = self.earlier.get(path).into_iter().flatten();
        values.chain(self.files.get(path)).chain(earlier)
    }

    /// Takes a change out that was not made: what it had of the same thing before is back.
    pub(crate) fn drop_change(&mut self, former: &Self, subject: &str) {
        self.changes.retain(|change| change.subject() != subject);
        let known = former.changes.iter();
        self.changes
            .extend(known.filter(|change| change.subject() == subject).cloned());
    }

    /// Adds a change. Of a thing that was changed before, the value before that stays the way back.
    fn add(&mut self, mut change: Change) {
        let known = self
            .changes
            .iter()
            .position(|known| known.subject() == change.subject());
        let Some(known) = known else {
            self.changes.push(change);
            return;
        };
        match (&self.changes[known].what, &mut change.what) {
            (Kind::Value { before: first, .. }, Kind::Value { before, .. }) => {
                before.clone_from(first);
            }
            (Kind::Run { undo: first, .. }, Kind::Run { undo, .. }) => undo.clone_from(first),
            _ => {}
        }
        self.changes[known] = change;
    }

    /// Writes it, or takes it away when there is nothing left to take back.
    pub(crate) fn save(&self, host: &Host) -> io::Result<()> {
        let path = host.at(RECORD);
        if self.changes.is_empty() && self.files.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_string_pretty(self).expect("it is text and numbers");
        write_whole(host, RECORD, &text)
    }
}

/// Writes a file so that it is there whole or not at all, with its folders. All may read it, as other
/// files of /etc, whatever the umask is.
pub(crate) fn write_whole(host: &Host, path: &str, text: &str) -> io::Result<()> {
    let new = unfinished(host, path);
    let written = (|| {
        let mut file = create(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, host.at(path))
    })();
    if written.is_err() {
        // It is not the file yet.
        let _ = fs::remove_file(&new);
    }
    written
}

/// Whether a file can be made beside that of this path; nothing of it stays.
pub(crate) fn may_write(host: &Host, path: &str) -> io::Result<()> {
    let new = unfinished(host, path);
    let folder = new.parent().filter(|folder| !folder.exists());
    let made = create(&new).and_then(|_| fs::remove_file(&new));
    if let Some(folder) = folder {
        // Made for this alone; what another program has put there meanwhile keeps it.
        let _ = fs::remove_dir(folder);
    }
    made
}

fn create(path: &Path) -> io::Result<fs::File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create(path)
}

/// Where a file is written before it is whole. systemd reads no name with such an end.
pub(crate) fn unfinished(host: &Host, path: &str) -> PathBuf {
    host.at(&format!("{path}.online-status-new"))
}

/// One `apply` or `undo` at a time: the folder of the record, locked. Where it cannot be made there is
/// no lock, and what needs it says so.
pub(crate) struct Lock(Option<(PathBuf, fs::File)>);

impl Lock {
    pub(crate) fn take(host: &Host) -> Result<Self, String> {
        let path = host.at(RECORD);
        let folder = path.parent().unwrap_or(&path).to_owned();
        let opened = fs::create_dir_all(&folder).and_then(|()| fs::File::open(&folder));
        let Ok(file) = opened else {
            return Ok(Self(None));
        };
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(
                "another online-status-tuning is changing this host (at boot its unit does): wait until it has ended"
                    .into(),
            ),
            _ => Ok(Self(Some((folder, file)))),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((folder, _)) = &self.0 {
            // A record in it keeps it.
            let _ = fs::remove_dir(folder);
        }
    }
}
