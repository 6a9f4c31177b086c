//! The store in a directory (redb): records outlive a restart and a `kill -9`. One thread owns the
//! database and commits each batch before it answers; cores hand it requests and poll the answers.

use std::{path::Path, sync::Arc};

use presence::{StoreReply, StoreRequest};
use protocol::{Status, Stored};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use ring::{Epoch, Vnode};

use tokio::sync::mpsc::UnboundedReceiver;

use super::remote::{Answers, Batch, Handle, remote};
use crate::mesh::Bell;

/// Vnode and user to record.
const USERS: TableDefinition<'_, (u16, &str), &[u8]> = TableDefinition::new("users");
/// `boot` to how often the database was opened, which is the epoch of its vnodes.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// Requests in one commit.
const BATCH: usize = 4_096;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("store.data = {0}: {1}")]
    Directory(String, std::io::Error),
    #[error("store.data = {0}: {1}")]
    Database(String, redb::Error),
}

/// The database in a directory.
pub(crate) struct Durable;

impl Durable {
    /// Opens the database in `directory` and gives a handle to each core, whose bell is rung when
    /// there are answers; and the epoch of this opening.
    pub(crate) fn open(
        directory: &Path,
        retention: u64,
        bells: &[Arc<Bell>],
    ) -> Result<(Vec<Handle>, Epoch), OpenError> {
        let shown = directory.display().to_string();
        std::fs::create_dir_all(directory)
            .map_err(|error| OpenError::Directory(shown.clone(), error))?;
        let wrong = |error: redb::Error| OpenError::Database(shown.clone(), error);
        let database = Database::create(directory.join("presence.redb"))
            .map_err(|error| wrong(error.into()))?;
        let boot = count_boot(&database).map_err(wrong)?;
        let (handles, outlet) = remote(bells);
        let keeper = Keeper {
            database,
            retention,
            answers: outlet.answers,
        };
        let mut requests = outlet.requests;
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || keeper.run(&mut requests))
            .map_err(|error| OpenError::Directory(shown.clone(), error))?;
        Ok((handles, Epoch::new(boot as u32)))
    }
}

fn count_boot(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let boot = {
        let mut numbers = transaction.open_table(NUMBERS)?;
        let boot = numbers.get("boot")?.map_or(0, |boot| boot.value()) + 1;
        numbers.insert("boot", boot)?;
        transaction.open_table(USERS)?;
        boot
    };
    transaction.commit()?;
    Ok(boot)
}

struct Keeper {
    database: Database,
    retention: u64,
    answers: Answers,
}

impl Keeper {
    fn run(&self, requests: &mut UnboundedReceiver<Batch>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = vec![first];
            let mut size = batch[0].requests.len();
            while size < BATCH
                && let Ok(next) = requests.try_recv()
            {
                size += next.requests.len();
                batch.push(next);
            }
            match self.execute(&batch) {
                Ok(replies) => {
                    for (core, replies) in replies {
                        self.answers.give(core, replies);
                    }
                }
                Err(error) => {
                    eprintln!("store: {error}");
                    for Batch { core, requests } in batch {
                        let failed = requests.iter().map(StoreRequest::failed).collect();
                        self.answers.give(core, failed);
                    }
                    // A full or broken disk: it is asked again, but not as fast as it fails.
                    std::thread::sleep(std::time::Duration::from_millis(500));
                }
            }
        }
    }

    fn execute(&self, batch: &[Batch]) -> Result<Vec<(usize, Vec<StoreReply>)>, redb::Error> {
        let writes = batch
            .iter()
            .flat_map(|request| &request.requests)
            .any(|request| matches!(request, StoreRequest::Write { .. }));
        if writes {
            let transaction = self.database.begin_write()?;
            {
                let mut users = transaction.open_table(USERS)?;
                let mut bytes = Vec::new();
                for request in batch.iter().flat_map(|request| &request.requests) {
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
            }
            transaction.commit()?;
        }
        let transaction = self.database.begin_read()?;
        let users = transaction.open_table(USERS)?;
        let answer = |request: &StoreRequest| -> Result<StoreReply, redb::Error> {
            Ok(match request {
                StoreRequest::Load { vnode, epoch, .. } => {
                    StoreReply::Loaded(*vnode, *epoch, connected(&users, *vnode)?)
                }
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
                StoreRequest::Write { ticket, .. } => StoreReply::Written(*ticket),
            })
        };
        batch
            .iter()
            .map(|Batch { core, requests }| {
                Ok((
                    *core,
                    requests.iter().map(answer).collect::<Result<_, _>>()?,
                ))
            })
            .collect()
    }

    /// A record that is too old or not understood is as good as none.
    fn decode(&self, user: &str, bytes: &[u8]) -> Option<Stored> {
        match Stored::decode(bytes) {
            Ok(stored) => {
                let now = crate::clock::wall_ms();
                let recent = stored.record.last_seen.saturating_add(self.retention) >= now;
                let kept = stored.record.status != Status::Offline || stored.connected || recent;
                kept.then_some(stored)
            }
            Err(error) => {
                eprintln!("store: the record of {user:?} is left aside: {error}");
                None
            }
        }
    }
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
            Err(error) => eprintln!("store: the record of {user:?} is left aside: {error}"),
        }
    }
    Ok(found)
}
