//! What administrators decree on a standalone edge: put in force at once, and kept in a file of the
//! data folder, where there is one. It owns that file; in a cluster the coordinators decree.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use keys::Keys;
use protocol::{
    Policy, Survey,
    policy::{Entry, MAX_ENTRIES, PolicyError, Subject},
};
use tracing::error;

/// The file's name.
const FILE: &str = "policy.json";

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecreeError {
    #[error(
        "store.data: {0:?}, with revocations, lists of blocked users and groups, cannot be read: {1}"
    )]
    Read(PathBuf, String),
    #[error("there are {MAX_ENTRIES} entries, and no more may be")]
    Full,
    #[error(transparent)]
    Refused(#[from] PolicyError),
    #[error("{0:?} cannot be written: {1}")]
    Write(PathBuf, io::Error),
}

/// Puts decrees in force.
pub(crate) struct Decrees {
    keys: Arc<Keys>,
    file: Option<PathBuf>,
    /// How long a revocation is kept, ms; 0 = for ever.
    pub(crate) lifetime: u64,
    changing: Mutex<()>,
}

impl Decrees {
    /// Puts in force what the data folder has; an empty path stands for none.
    pub(crate) fn open(keys: Arc<Keys>, data: &Path, lifetime: u64) -> Result<Self, DecreeError> {
        let file = (!data.as_os_str().is_empty()).then(|| data.join(FILE));
        if let Some(file) = &file {
            keys.set_policy(read(file)?);
        }
        Ok(Self {
            keys,
            file,
            lifetime,
            changing: Mutex::default(),
        })
    }

    /// Whether what the data folder has can be read.
    pub(crate) fn check(data: &Path) -> Result<(), DecreeError> {
        read(&data.join(FILE)).map(drop)
    }

    /// What is in force.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.keys.policy()
    }

    /// Puts an entry in force, or with `None` takes it back; whether there was anything to do.
    pub(crate) fn decree(
        &self,
        subject: Subject,
        entry: Option<Entry>,
    ) -> Result<bool, DecreeError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut policy = (*self.policy()).clone();
        let is_there = policy.get(&subject).is_some();
        if entry.is_none() && !is_there {
            return Ok(false);
        }
        if !is_there && policy.len() >= MAX_ENTRIES {
            return Err(DecreeError::Full);
        }
        if let (Subject::Trace(user), Some(_)) = (&subject, &entry) {
            policy.may_trace(user)?;
        }
        policy.set(subject, entry);
        self.write(&policy)?;
        self.keys.set_policy(policy);
        Ok(true)
    }

    /// Asks all cores something, or with `None` does not any more; nothing of that is kept.
    pub(crate) fn ask(&self, survey: &Survey, entry: Option<Entry>) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut policy = (*self.policy()).clone();
        policy.set(Subject::Survey(survey.clone()), entry);
        self.keys.set_policy(policy);
    }

    /// Forgets what no token can meet any more at `now`.
    pub(crate) fn forget(&self, now: u64) {
        if self.policy().outlived(now).is_empty() {
            return;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut policy = (*self.policy()).clone();
        for (subject, _) in policy.outlived(now) {
            policy.set(subject, None);
        }
        // What is still in the file then is forgotten again after a restart.
        if let Err(error) = self.write(&policy) {
            error!(event = "policy_not_written", "{error}");
        }
        self.keys.set_policy(policy);
    }

    /// Replaces the file as a whole, so that a crash leaves the old one or the new one.
    fn write(&self, policy: &Policy) -> Result<(), DecreeError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let entries = policy.entries();
        // A trace and what is asked end with the process.
        let lasts = |subject: &Subject| !matches!(subject, Subject::Trace(_) | Subject::Survey(_));
        let entries: BTreeMap<String, &Entry> = entries
            .iter()
            .filter(|(subject, _)| lasts(subject))
            .map(|(subject, entry)| (subject.field(), &**entry))
            .collect();
        let text = serde_json::to_vec(&entries).map_err(io::Error::other);
        let replace = |text: Vec<u8>| {
            let new = file.with_extension("json.new");
            let mut writing = std::fs::File::create(&new)?;
            writing.write_all(&text)?;
            writing.sync_all()?;
            std::fs::rename(&new, file)?;
            std::fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        text.and_then(replace)
            .map_err(|error| DecreeError::Write(file.clone(), error))
    }
}

fn read(file: &Path) -> Result<Policy, DecreeError> {
    let wrong = |why: String| DecreeError::Read(file.to_owned(), why);
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Policy::default()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let entries: BTreeMap<String, Entry> =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let mut policy = Policy::default();
    for (field, entry) in entries {
        let subject = Subject::of_field(&field);
        let subject = subject.ok_or_else(|| wrong(format!("{field:?} is no subject")))?;
        policy.set(subject, Some(entry));
    }
    Ok(policy)
}
