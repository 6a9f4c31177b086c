//! What was changed, on disk, so that it can be taken back after a crash or a reboot.

use std::{collections::BTreeMap, fs, io, io::Write};

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

    /// Adds a change. Of a thing that was changed before, the value before that stays the way back.
    pub(crate) fn add(&mut self, mut change: Change) {
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
                _ => {
                    // The folder is this program's alone; another one's file in it keeps it.
                    let _ = path.parent().map(fs::remove_dir);
                    Ok(())
                }
            };
        }
        let text = serde_json::to_string_pretty(self).expect("it is text and numbers");
        write_whole(host, RECORD, &text)
    }
}

/// Writes a file so that it is there whole or not at all, with its folders.
pub(crate) fn write_whole(host: &Host, path: &str, text: &str) -> io::Result<()> {
    let path = host.at(path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("online-status-new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)
}
