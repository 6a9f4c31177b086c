//! The store in a directory (redb): records outlive a restart and a `kill -9`. One thread owns the
//! database and commits each batch before it answers; cores hand it requests and poll the answers.

use std::{
    fs, io,
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use presence::{StoreReply, StoreRequest};
use protocol::{Status, Stored};
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, TableDefinition,
};
use ring::{Epoch, Vnode};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{error, info, warn};

use super::{
    Failing,
    remote::{Answers, Batch, Handle, Outlet, remote},
};
use crate::mesh::Wakeup;

/// The table of records, by vnode and user.
const USERS: TableDefinition<'_, (u16, &str), &[u8]> = TableDefinition::new("users");
/// `boot` to a number that grows with each opening, which is the epoch of its vnodes.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// The most requests in one commit.
const BATCH: usize = 4_096;
const DAY: u64 = 86_400_000;

/// The reason for which the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("store.data = {0}: {1}; it must be a directory that this process may write to")]
    Directory(String, io::Error),
    #[error(
        "store.data = {0}: another process has its database open; end that, or give another directory"
    )]
    Taken(String),
    #[error(
        "store.data = {0}: its file presence.redb cannot be used: {1}; when it is moved away all begins anew"
    )]
    Database(String, redb::Error),
}

impl OpenError {
    fn directory(directory: &Path, error: io::Error) -> Self {
        Self::Directory(directory.display().to_string(), error)
    }

    fn of(directory: &Path, error: redb::Error) -> Self {
        let shown = directory.display().to_string();
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::Taken(shown),
            redb::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Self::Directory(shown, error)
            }
            error => Self::Database(shown, error),
        }
    }
}

/// The store in a database in a directory.
pub(crate) struct Durable;

impl Durable {
    /// Opens the database in `directory` and gives a handle to each core, which is woken when
    /// there are answers; and the epoch of this opening.
    pub(crate) fn open(
        directory: &Path,
        retention: u64,
        wakeups: &[Arc<Wakeup>],
        failing: Arc<Failing>,
    ) -> Result<(Vec<Handle>, Epoch), OpenError> {
        let wrong = |error| OpenError::of(directory, error);
        fs::create_dir_all(directory).map_err(|error| OpenError::directory(directory, error))?;
        let file = file_in(directory);
        let open = move || Database::create(&file);
        let database = open().map_err(|error| wrong(error.into()))?;
        let boot = count_boot(&database, crate::clock::wall_ms() / DAY).map_err(wrong)?;
        let (handles, outlet) = remote(wakeups);
        let mut keeper = Keeper {
            database: Some(database),
            open: Box::new(open),
            retention,
            trimmed: 0,
            unwritten: false,
            unread: false,
            failing,
        };
        let Outlet {
            mut requests,
            answers,
        } = outlet;
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || keeper.run(&mut requests, &answers))
            .map_err(|error| OpenError::directory(directory, error))?;
        Ok((handles, Epoch::new(boot as u32)))
    }

    /// Looks whether the database in `directory` could be opened, or made, and changes nothing; whether another
    /// process has it open now.
    pub(crate) fn check(directory: &Path) -> Result<bool, OpenError> {
        let denied = |error| OpenError::directory(directory, error);
        may_write_in(directory).map_err(denied)?;
        let file = file_in(directory);
        match fs::File::options().read(true).write(true).open(&file) {
            Ok(found) if found.metadata().map_err(denied)?.len() > 0 => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(denied(error)),
            // It will be made.
            _ => return Ok(false),
        }
        match ReadOnlyDatabase::open(&file) {
            Err(DatabaseError::DatabaseAlreadyOpen) => Ok(true),
            // A start mends what a process that was killed has left.
            Ok(_) | Err(DatabaseError::RepairAborted) => Ok(false),
            Err(error) => Err(OpenError::of(directory, error.into())),
        }
    }
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join("presence.redb")
}

/// Whether files can be made in a directory, or else in that above it where it would be made.
fn may_write_in(directory: &Path) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let is_there = |path: &&Path| !fs::metadata(path).is_err_and(|error| is_missing(&error));
    let there = directory.ancestors().find(is_there).unwrap_or(&directory);
    // A file without a name is gone with its descriptor.
    let mut options = fs::File::options();
    let made = options
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(there);
    match made {
        Ok(_) => Ok(()),
        // A file system without such files.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let named = there.join(".online-status-check");
            fs::File::create_new(&named)?;
            fs::remove_file(&named)
        }
        Err(error) => Err(error),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Counts this opening, from `today` on (days since 1970): so the versions of a database that was
/// lost, and those of an edge without one, are older than the new one's.
fn count_boot(database: &Database, today: u64) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let boot = {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let former = numbers.get("boot")?.map_or(0, |boot| boot.value());
        let boot = today.max(former + 1);
        numbers.insert("boot", boot)?;
        transaction.open_table(USERS)?;
        boot
    };
    transaction.commit()?;
    Ok(boot)
}

struct Keeper {
    /// The database; `None` while it cannot be opened again.
    database: Option<Database>,
    open: Box<dyn Fn() -> Result<Database, DatabaseError> + Send>,
    retention: u64,
    /// The vnode whose users are looked at next for those that may be forgotten.
    trimmed: u16,
    /// Whether the last of the writes, and of the reads, failed.
    unwritten: bool,
    unread: bool,
    failing: Arc<Failing>,
}

impl Keeper {
    fn run(&mut self, requests: &mut UnboundedReceiver<Batch>, answers: &Answers) {
        while let Some(first) = requests.blocking_recv() {
            let mut batches = vec![first];
            let mut size = batches[0].requests.len();
            while size < BATCH
                && let Ok(next) = requests.try_recv()
            {
                size += next.requests.len();
                batches.push(next);
            }
            let works = self.works();
            let done = self.execute(&batches);
            if self.works() {
                self.failing.store(None);
            }
            for (core, replies) in done {
                answers.give(core, replies);
            }
            match (works, self.works()) {
                (true, false) => {
                    warn!(
                        event = "store_retried",
                        "store: it is tried again until it works"
                    );
                }
                (false, true) => info!(event = "store_works_again", "store: it works again"),
                _ => {}
            }
            if !self.works() {
                // A full or broken disk: it is asked again, but not as fast as it fails.
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        }
    }

    fn works(&self) -> bool {
        !self.unwritten && !self.unread
    }

    /// Writes what is to be written, in one commit, then answers all.
    fn execute(&mut self, batches: &[Batch]) -> Vec<(usize, Vec<StoreReply>)> {
        let all = batches.iter().flat_map(|batch| &batch.requests);
        let mut writes = all.filter(|request| matches!(request, StoreRequest::Write { .. }));
        let mut written = true;
        if writes.clone().next().is_some() {
            let done = self.attempt(|keeper, database| keeper.write(database, &mut writes));
            written = done.is_some();
            self.unwritten = !written;
        }
        let answers = batches.iter().map(|Batch { core, requests }| {
            let answers = self.attempt(|keeper, database| keeper.read(database, requests, written));
            self.unread = answers.is_none();
            let failed = || requests.iter().map(StoreRequest::failed).collect();
            (*core, answers.unwrap_or_else(failed))
        });
        answers.collect()
    }

    /// Does something with the database. One that fails is opened again, without which it would
    /// fail for ever.
    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &Database) -> Result<T, redb::Error>,
    ) -> Option<T> {
        let database = match self.database.take() {
            Some(database) => Ok(database),
            None => (self.open)().map_err(redb::Error::from),
        };
        let done = database.and_then(|database| {
            let done = work(self, &database)?;
            self.database = Some(database);
            Ok(done)
        });
        if let Err(error) = &done {
            if self.works() {
                error!(event = "store_failed", "store: {error}");
            }
            self.failing.store(Some(Arc::new(error.to_string())));
        }
        done.ok()
    }

    fn write<'a>(
        &mut self,
        database: &Database,
        writes: &mut impl Iterator<Item = &'a StoreRequest>,
    ) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut users = transaction.open_table(USERS)?;
            let mut bytes = Vec::new();
            for request in writes {
                if let StoreRequest::Write {
                    vnode,
                    user,
                    stored,
                    ..
                } = request
                {
                    bytes.clear();
                    stored.encode(&mut bytes);
                    users.insert((vnode.get(), &**user), bytes.as_slice())?;
                }
            }
            // One vnode a commit, so that it takes no time that anyone would notice.
            let next = self.trimmed.checked_add(1);
            let end = next.map_or(Bound::Unbounded, |next| Bound::Excluded((next, "")));
            let of = (Bound::Included((self.trimmed, "")), end);
            let oldest = crate::clock::wall_ms().saturating_sub(self.retention);
            users.retain_in(of, |_, bytes| {
                Stored::decode(bytes).map_or(true, |stored| is_kept(&stored, oldest))
            })?;
        }
        transaction.commit()?;
        self.trimmed = self.trimmed.wrapping_add(1);
        Ok(())
    }

    fn read(
        &self,
        database: &Database,
        requests: &[StoreRequest],
        written: bool,
    ) -> Result<Vec<StoreReply>, redb::Error> {
        let transaction = database.begin_read()?;
        let users = transaction.open_table(USERS)?;
        let answer = |request: &StoreRequest| -> Result<StoreReply, redb::Error> {
            Ok(match request {
                StoreRequest::Load { vnode, epoch, .. } => StoreReply::Loaded {
                    vnode: *vnode,
                    epoch: *epoch,
                    // A former life of this node is over: it has the file to itself.
                    released: true,
                    users: connected(&users, *vnode)?,
                },
                StoreRequest::Read {
                    ticket,
                    vnode,
                    user,
                } => {
                    let bytes = users.get((vnode.get(), &**user))?;
                    let stored = bytes.and_then(|bytes| self.decode(user, bytes.value()));
                    StoreReply::Read(*ticket, Epoch::default(), stored)
                }
                StoreRequest::Release { vnode, epoch } => StoreReply::Released(*vnode, *epoch),
                StoreRequest::Owner { .. } => request.failed(),
                StoreRequest::Write { ticket, .. } if written => StoreReply::Written(*ticket),
                StoreRequest::Write { .. } => request.failed(),
            })
        };
        requests.iter().map(answer).collect()
    }

    /// A record that is too old or not understood is as good as none.
    fn decode(&self, user: &str, bytes: &[u8]) -> Option<Stored> {
        match Stored::decode(bytes) {
            Ok(stored) => {
                let oldest = crate::clock::wall_ms().saturating_sub(self.retention);
                is_kept(&stored, oldest).then_some(stored)
            }
            Err(error) => {
                left_aside(user, &error);
                None
            }
        }
    }
}

fn left_aside(user: &str, error: &impl std::fmt::Display) {
    warn!(
        event = "record_left_aside",
        user, "store: the record of {user:?} is left aside: {error}"
    );
}

/// Whether the user is not to be forgotten: it is here, or was after `oldest` (ms since 1970).
fn is_kept(stored: &Stored, oldest: u64) -> bool {
    let record = &stored.record;
    record.status != Status::Offline || stored.connected || record.last_seen >= oldest
}

fn connected(
    users: &impl ReadableTable<(u16, &'static str), &'static [u8]>,
    vnode: Vnode,
) -> Result<Vec<(Box<str>, Stored)>, redb::Error> {
    let mut found = Vec::new();
    for entry in users.range((vnode.get(), "")..)? {
        let (key, value) = entry?;
        let (of, user) = key.value();
        if of != vnode.get() {
            break;
        }
        match Stored::decode(value.value()) {
            Ok(stored) if stored.connected => found.push((user.into(), stored)),
            Ok(_) => {}
            Err(error) => left_aside(user, &error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use presence::Ticket;
    use protocol::Record;
    use redb::{StorageBackend, backends::FileBackend};

    use super::*;

    /// A file on a disk that may be full.
    #[derive(Debug)]
    struct Disk(FileBackend, Arc<AtomicBool>);

    impl Disk {
        fn room(&self) -> io::Result<()> {
            match self.1.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.room()?;
            self.0.set_len(length)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.room()?;
            self.0.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.room()?;
            self.0.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.0.close()
        }
    }

    /// A keeper of a new database, the switch that fills its disk, and what is to be removed.
    fn keeper(name: &str) -> (Keeper, Arc<AtomicBool>, std::path::PathBuf) {
        let name = format!("online-status-{name}-{}.redb", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Of a run that was killed.
        let _ = std::fs::remove_file(&path);
        let full = Arc::new(AtomicBool::new(false));
        let disk = (path.clone(), Arc::clone(&full));
        let open = move || {
            let mut options = std::fs::File::options();
            let options = options.read(true).write(true).create(true);
            let backend = FileBackend::new(options.open(&disk.0)?)?;
            Database::builder().create_with_backend(Disk(backend, Arc::clone(&disk.1)))
        };
        let keeper = Keeper {
            database: None,
            open: Box::new(open),
            retention: 1_000,
            trimmed: 0,
            unwritten: false,
            unread: false,
            failing: Arc::default(),
        };
        (keeper, full, path)
    }

    fn write(user: &str, last_seen: u64) -> StoreRequest {
        let record = Record {
            last_seen,
            ..Record::default()
        };
        StoreRequest::Write {
            ticket: Ticket::new(1),
            vnode: Vnode::new(0),
            epoch: Epoch::new(1),
            user: user.into(),
            stored: Stored {
                record,
                ..Stored::default()
            },
        }
    }

    fn read(user: &str) -> StoreRequest {
        StoreRequest::Read {
            ticket: Ticket::new(2),
            vnode: Vnode::new(0),
            user: user.into(),
        }
    }

    fn execute(keeper: &mut Keeper, requests: Vec<StoreRequest>) -> Vec<StoreReply> {
        let batch = Batch { core: 0, requests };
        keeper.execute(&[batch]).remove(0).1
    }

    #[test]
    fn a_store_whose_disk_was_full_works_again_without_a_restart() {
        let (mut keeper, full, path) = keeper("full");
        let now = crate::clock::wall_ms();
        let replies = execute(&mut keeper, vec![write("alice", now), read("alice")]);
        assert!(matches!(
            &replies[..],
            [StoreReply::Written(_), StoreReply::Read(_, _, Some(_))]
        ));
        full.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let replies = execute(&mut keeper, vec![write("bob", now)]);
            assert!(matches!(&replies[..], [StoreReply::WriteFailed(_)]));
            execute(&mut keeper, vec![read("alice")]);
            assert!(!keeper.works(), "a read shows nothing of that");
        }
        full.store(false, Ordering::Relaxed);
        let requests = vec![write("bob", now), read("alice"), read("bob")];
        let replies = execute(&mut keeper, requests);
        let found = |reply: &StoreReply| matches!(reply, StoreReply::Read(_, _, Some(_)));
        assert!(found(&replies[1]) && found(&replies[2]), "{replies:?}");
        assert!(keeper.works());
        drop(keeper);
        std::fs::remove_file(path).expect("it is there");
    }

    #[test]
    fn users_not_seen_for_the_retention_are_removed() {
        let (mut keeper, _, path) = keeper("retention");
        let now = crate::clock::wall_ms();
        execute(&mut keeper, vec![write("old", 1), write("new", now)]);
        keeper.trimmed = 0;
        // Any write looks at one vnode.
        execute(&mut keeper, vec![write("newer", now)]);
        let database = keeper.database.as_ref().expect("open");
        let transaction = database.begin_read().expect("a transaction");
        let users = transaction.open_table(USERS).expect("a table");
        let names: Vec<String> = users
            .iter()
            .expect("records")
            .map(|entry| entry.expect("a record").0.value().1.to_owned())
            .collect();
        assert_eq!(names, ["new", "newer"]);
        drop((users, transaction, keeper));
        std::fs::remove_file(path).expect("it is there");
    }

    #[test]
    fn each_opening_is_newer_than_the_one_before_and_than_a_lost_database() {
        let (keeper, _, path) = keeper("boot");
        let database = (keeper.open)().expect("it opens");
        let boot = |today| count_boot(&database, today).expect("counted");
        assert_eq!(
            [boot(20_000), boot(20_000), boot(20_000)],
            [20_000, 20_001, 20_002]
        );
        assert_eq!([boot(20_001), boot(20_100)], [20_003, 20_100]);
        drop(database);
        std::fs::remove_file(path).expect("it is there");
    }
}
