//! The application's watches: each has the newest record of each user that changed since it last
//! looked, so that a slow one costs no more memory than its users do.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_core::Stream;

use crate::{
    driver::{Inner, Shared},
    machine::{Input, Now},
    types::{Record, UserError, check_user},
};

/// The application's watches of one client, by user.
#[derive(Default)]
pub(crate) struct Watchers {
    all: HashMap<u64, Watcher>,
    of_user: HashMap<Arc<str>, HashSet<u64>>,
    next: u64,
    ended: bool,
}

#[derive(Default)]
struct Watcher {
    users: HashSet<Arc<str>>,
    /// Users with news, in the order in which they changed first.
    order: VecDeque<Arc<str>>,
    news: HashMap<Arc<str>, Record>,
    waker: Option<Waker>,
}

impl Watchers {
    fn add(&mut self) -> u64 {
        self.next += 1;
        self.all.insert(self.next, Watcher::default());
        self.next
    }

    /// Ends every watch: no more changes come.
    pub(crate) fn end(&mut self, wakers: &mut Vec<Waker>) {
        self.ended = true;
        wakers.extend(
            self.all
                .values_mut()
                .filter_map(|watcher| watcher.waker.take()),
        );
    }

    /// Gives a record to every watch of its user.
    pub(crate) fn change(&mut self, record: &Record, wakers: &mut Vec<Waker>) {
        let Some((user, watchers)) = self.of_user.get_key_value(&*record.user) else {
            return;
        };
        for id in watchers {
            if let Some(watcher) = self.all.get_mut(id) {
                watcher.change(user, record);
                wakers.extend(watcher.waker.take());
            }
        }
    }
}

impl Watcher {
    fn change(&mut self, user: &Arc<str>, record: &Record) {
        if self.news.insert(user.clone(), record.clone()).is_none() {
            self.order.push_back(user.clone());
        }
    }
}

impl Inner {
    fn watch(&mut self, now: Now, id: u64, user: Arc<str>) {
        let Some(watcher) = self.watchers.all.get_mut(&id) else {
            return;
        };
        if !watcher.users.insert(user.clone()) {
            return;
        }
        self.watchers
            .of_user
            .entry(user.clone())
            .or_default()
            .insert(id);
        if let Some(record) = self.machine.record(&user) {
            watcher.change(&user, record);
        }
        self.machine.handle(now, Input::Watch(user));
    }

    fn unwatch(&mut self, now: Now, id: u64, user: &Arc<str>) {
        let Some(watcher) = self.watchers.all.get_mut(&id) else {
            return;
        };
        if !watcher.users.remove(user) {
            return;
        }
        if watcher.news.remove(user).is_some() {
            watcher.order.retain(|other| other != user);
        }
        if let Some(watchers) = self.watchers.of_user.get_mut(user) {
            watchers.remove(&id);
            if watchers.is_empty() {
                self.watchers.of_user.remove(user);
            }
        }
        self.machine.handle(now, Input::Unwatch(user.clone()));
    }
}

/// Users that are watched, and a stream of their changes; dropping it ends that.
///
/// A change is the newest record of a user. Who reads slowly gets the newest record of each user that
/// changed meanwhile, and never one that is older than what came before. The first records are those
/// that the client has, or that the server answers with. The stream ends when the client was closed or
/// has failed.
pub struct Watch {
    shared: Arc<Shared>,
    id: u64,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, users: Vec<Arc<str>>) -> Self {
        let id = shared.with(|inner, now| {
            let id = inner.watchers.add();
            for user in users {
                inner.watch(now, id, user);
            }
            id
        });
        Self { shared, id }
    }

    /// Watches one more user; one that is watched already is not watched twice.
    ///
    /// # Errors
    /// When no user can have that name.
    pub fn add(&mut self, user: &str) -> Result<(), UserError> {
        check_user(user)?;
        self.shared
            .with(|inner, now| inner.watch(now, self.id, user.into()));
        Ok(())
    }

    /// Watches a user no more; changes that wait are dropped.
    pub fn remove(&mut self, user: &str) {
        self.shared
            .with(|inner, now| inner.unwatch(now, self.id, &user.into()));
    }

    /// The newest record of a user whom this watches, whether it was read from the stream or not.
    #[must_use]
    pub fn get(&self, user: &str) -> Option<Record> {
        self.shared.peek(|inner| {
            let watcher = inner.watchers.all.get(&self.id)?;
            watcher.users.get(user)?;
            inner.machine.record(user).cloned()
        })
    }

    /// The next change; `None` when the client was closed or has failed. It may be dropped before it
    /// is done without losing a change.
    pub async fn next(&mut self) -> Option<Record> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Watch {
    type Item = Record;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Record>> {
        self.shared.peek(|inner| {
            let ended = inner.watchers.ended;
            let Some(watcher) = inner.watchers.all.get_mut(&self.id) else {
                return Poll::Ready(None);
            };
            if let Some(user) = watcher.order.pop_front() {
                return Poll::Ready(watcher.news.remove(&user));
            }
            if ended {
                return Poll::Ready(None);
            }
            watcher.waker = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.with(|inner, now| {
            let Some(watcher) = inner.watchers.all.get(&self.id) else {
                return;
            };
            let users: Vec<_> = watcher.users.iter().cloned().collect();
            for user in users {
                inner.unwatch(now, self.id, &user);
            }
            inner.watchers.all.remove(&self.id);
        });
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
