//! The users that are watched: how often, what is known of each, and what the server has to be told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    Output,
    link::{Asked, Link, text},
};
use crate::{
    types::{Problem, Record, Status},
    wire::{ClientMessage, Limits},
};

/// How many questions may wait for their answers.
const WINDOW: usize = 16;
/// Users that are watched no more and whose newest record is kept.
const KEPT: usize = 1_000;
/// The longest wait for a server that cannot answer. ms.
const LONGEST_WAIT: f64 = 20_000.0;
/// How long a user whom the server does not know any more is still shown as before: a store that was
/// lost is written again by then. ms.
const DOUBT: u64 = 20_000;
/// What a message has beside its users, bytes.
const OVERHEAD: usize = 80;
/// What a known version adds to its user, bytes.
const VERSION: usize = 18;

/// What the server was told of a user in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It is to be asked, in the order of the number.
    No(u64),
    /// It is to be asked in one of the groups.
    Grouped,
    /// A question is under way, or was answered.
    Yes,
    /// The server refused to have the user watched.
    Refused,
}

#[derive(Debug)]
struct Watched {
    /// The number of the application's watches of the user.
    count: u32,
    told: Told,
    record: Option<Record>,
    /// A server confirmed the record since the application watches the user.
    shown: bool,
    /// Since when the server says that it never saw the user.
    doubt: Option<u64>,
    /// The refusal that the application was told of, so that it is told once.
    refusal: Option<String>,
}

/// Users that the application watches, by reference count, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Watches {
    users: HashMap<Arc<str>, Watched>,
    /// The users to watch on this connection, oldest first.
    queue: BTreeMap<u64, Arc<str>>,
    /// Parts of a question that was refused as a whole: who of them is the reason shows alone.
    groups: VecDeque<VecDeque<Arc<str>>>,
    /// Not watched any more, and the server has to be told.
    leaving: BTreeSet<Arc<str>>,
    /// When users in doubt are asked for again.
    doubts: BTreeSet<(u64, Arc<str>)>,
    /// How many the server watches for this session, or was asked to.
    told: usize,
    /// How many users without room the application was told of.
    over_told: usize,
    /// How many the server allows is being found out from what it refuses, and how many a message
    /// names meanwhile.
    trying: Option<usize>,
    retry_at: Option<u64>,
    /// How often in a row the server could not answer.
    unavailable: u32,
    /// Users that are watched no more, so that they are not shown older when they are again.
    kept: HashMap<Arc<str>, Record>,
    kept_order: VecDeque<Arc<str>>,
    next_place: u64,
}

impl Watches {
    pub(super) fn record(&self, user: &str) -> Option<&Record> {
        let watched = self.users.get(user).filter(|watched| watched.shown)?;
        watched.record.as_ref()
    }

    /// One more of the application's watches has the user.
    pub(super) fn add(&mut self, user: Arc<str>) {
        if let Some(watched) = self.users.get_mut(&user) {
            watched.count += 1;
            self.leaving.remove(&user);
            return;
        }
        let told = self.place(&user);
        let watched = Watched {
            count: 1,
            told,
            record: self.kept.remove(&user),
            shown: false,
            doubt: None,
            refusal: None,
        };
        self.users.insert(user, watched);
    }

    pub(super) fn remove(&mut self, user: &Arc<str>) {
        let Some(watched) = self.users.get_mut(user) else {
            return;
        };
        watched.count = watched.count.saturating_sub(1);
        if watched.count > 0 {
            return;
        }
        if watched.told == Told::Yes {
            self.leaving.insert(user.clone());
        } else {
            self.drop_user(user);
        }
    }

    fn drop_user(&mut self, user: &Arc<str>) {
        let Some(watched) = self.users.remove(user) else {
            return;
        };
        if let Told::No(place) = watched.told {
            self.queue.remove(&place);
            self.over_told = self.over_told.min(self.queue.len());
        }
        let Some(record) = watched.record else { return };
        if self.kept.insert(user.clone(), record).is_none() {
            self.kept_order.push_back(user.clone());
        }
        // The order may name users that are watched again.
        while self.kept.len() > KEPT || self.kept_order.len() > 2 * KEPT {
            let Some(oldest) = self.kept_order.pop_front() else {
                return;
            };
            self.kept.remove(&oldest);
        }
    }

    /// A place at the end of the queue.
    fn place(&mut self, user: &Arc<str>) -> Told {
        self.next_place += 1;
        self.queue.insert(self.next_place, user.clone());
        Told::No(self.next_place)
    }

    pub(super) fn link_lost(&mut self) {
        for user in std::mem::take(&mut self.leaving) {
            self.drop_user(&user);
        }
        self.groups.clear();
        (self.told, self.over_told, self.retry_at, self.trying) = (0, 0, None, None);
    }

    /// Begins with a server that was told nothing yet.
    pub(super) fn link_begins(&mut self) {
        self.link_lost();
        self.queue.clear();
        // In any order: who was first does not matter to a server that takes all, and who is last
        // when it does not is nobody's in particular.
        let mut place = self.next_place;
        for (user, watched) in &mut self.users {
            place += 1;
            watched.told = Told::No(place);
            self.queue.insert(place, user.clone());
        }
        self.next_place = place;
    }

    pub(super) fn due(&self) -> impl Iterator<Item = u64> {
        self.doubts
            .first()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(self.retry_at)
    }

    pub(super) fn tick(&mut self, now: u64) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
        while self.doubts.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, user)) = self.doubts.pop_first() else {
                return;
            };
            if self
                .users
                .get(&user)
                .is_some_and(|w| w.count > 0 && w.doubt.is_some() && w.told == Told::Yes)
            {
                self.told -= 1;
                let told = self.place(&user);
                if let Some(watched) = self.users.get_mut(&user) {
                    watched.told = told;
                }
            }
        }
    }

    /// Takes changes of watched users.
    pub(super) fn presence(&mut self, records: Vec<Record>, outputs: &mut VecDeque<Output>) {
        for record in records {
            self.take(record, outputs);
        }
    }

    /// The same as an answer to a question about `asked`, of whom all is known now. In it a version
    /// of 0 means that the server does not know the user.
    pub(super) fn snapshot(
        &mut self,
        records: Vec<Record>,
        asked: &[Arc<str>],
        now: u64,
        outputs: &mut VecDeque<Output>,
    ) {
        self.unavailable = 0;
        if !asked.is_empty() {
            self.trying = self.trying.map(|most| most.saturating_mul(2));
        }
        for record in records {
            match self.users.get_mut(&*record.user) {
                Some(watched) if record.version == 0 && watched.record.is_some() => {
                    if let Some(change) = watched.unknown(now) {
                        outputs.push_back(Output::Change(change));
                    } else if let Some(since) = watched.doubt {
                        self.doubts.insert((since + DOUBT, record.user.into()));
                    }
                }
                _ => self.take(record, outputs),
            }
        }
        for user in asked {
            let Some(watched) = self.users.get_mut(user).filter(|w| w.told == Told::Yes) else {
                continue;
            };
            watched.refusal = None;
            if let (false, Some(record)) = (watched.shown, &watched.record) {
                watched.shown = true;
                outputs.push_back(Output::Change(record.clone()));
            }
        }
    }

    /// What is not newer than what is known was overtaken on its way.
    fn take(&mut self, record: Record, outputs: &mut VecDeque<Output>) {
        let Some(watched) = self.users.get_mut(&*record.user) else {
            return;
        };
        if watched
            .record
            .as_ref()
            .is_none_or(|known| known.version < record.version)
        {
            watched.doubt = None;
            watched.shown = true;
            watched.record = Some(record.clone());
            if watched.count > 0 {
                outputs.push_back(Output::Change(record));
            }
        }
    }

    /// The server cannot answer now; how long to wait at most, ms.
    pub(super) fn unavailable(&mut self, users: Vec<Arc<str>>) -> f64 {
        self.regroup(users);
        self.unavailable += 1;
        let wait = 1_000.0 * f64::from(1_u32 << (self.unavailable - 1).min(10));
        wait.min(LONGEST_WAIT)
    }

    pub(super) fn wait_until(&mut self, at: u64) {
        self.retry_at = Some(at);
    }

    /// A message does all or nothing: its halves show who is meant.
    pub(super) fn refused(
        &mut self,
        mut users: Vec<Arc<str>>,
        code: &str,
        message: &str,
        limits: &mut Limits,
        outputs: &mut VecDeque<Output>,
    ) {
        if code == "watch_limit" {
            // A server that does not tell how many it allows: fewer than these.
            let most = limits.watches.min(self.told.saturating_sub(1));
            self.trying = Some((users.len() / 2).max(1));
            self.regroup(users);
            limits.watches = most.max(self.told);
            return;
        }
        if users.len() > 1 {
            let rest = users.split_off(users.len() / 2);
            self.regroup(users);
            return self.regroup(rest);
        }
        for user in users {
            // One that was asked for again, or left, has been told of or will be.
            let Some(watched) = self.users.get_mut(&user).filter(|w| w.told == Told::Yes) else {
                continue;
            };
            watched.told = Told::Refused;
            self.told -= 1;
            if self.leaving.remove(&user) {
                self.drop_user(&user);
            } else if watched.refusal.as_deref() != Some(code) {
                watched.refusal = Some(code.to_owned());
                outputs.push_back(Output::Problem(Problem::Watch {
                    user: user.to_string(),
                    code: code.to_owned(),
                    message: message.to_owned(),
                }));
            }
        }
    }

    fn regroup(&mut self, users: Vec<Arc<str>>) {
        for user in &users {
            let Some(watched) = self.users.get_mut(user).filter(|w| w.told == Told::Yes) else {
                continue;
            };
            watched.told = Told::Grouped;
            self.told -= 1;
            if self.leaving.remove(user) {
                self.drop_user(user);
            }
        }
        self.groups.push_back(users.into());
    }

    /// Whether [`Self::next`] has something to send in this session.
    pub(super) fn has_more(&self, link: &Link, now: u64) -> bool {
        if !self.leaving.is_empty() {
            return true;
        }
        let open = link
            .asked
            .values()
            .filter(|asked| matches!(asked, Asked::Watch(_)))
            .count();
        let window = if self.trying.is_some() { 1 } else { WINDOW };
        let waits = open >= window || self.retry_at.is_some_and(|at| at > now);
        if waits {
            return false;
        }
        let waiting = self.waiting();
        match self.told < link.limits.watches {
            true => waiting > 0,
            false => waiting > self.over_told,
        }
    }

    /// How many users the server was not asked for yet.
    fn waiting(&self) -> usize {
        self.queue.len() + self.groups.iter().map(VecDeque::len).sum::<usize>()
    }

    /// The next message, as long as the server takes it.
    pub(super) fn next(
        &mut self,
        link: &Link,
        id: u64,
        outputs: &mut VecDeque<Output>,
    ) -> Option<(Asked, String)> {
        if !self.leaving.is_empty() {
            return Some(self.next_unwatch(link, id));
        }
        let room = link.limits.watches.saturating_sub(self.told);
        if room == 0 {
            self.over_told = self.waiting();
            let wanted = self
                .users
                .values()
                .filter(|watched| watched.count > 0)
                .count();
            outputs.push_back(Output::Problem(Problem::WatchLimit {
                wanted,
                allowed: link.limits.watches,
            }));
            return None;
        }
        let most = link
            .limits
            .users
            .max(1)
            .min(self.trying.unwrap_or(usize::MAX));
        let users = self.next_users(most.min(room), link.limits.message);
        if users.is_empty() {
            return None;
        }
        self.told += users.len();
        let mut known = BTreeMap::new();
        for user in &users {
            let Some(watched) = self.users.get_mut(user) else {
                continue;
            };
            watched.told = Told::Yes;
            if let Some(record) = &watched.record {
                known.insert(&**user, record.version);
            }
        }
        let text = text(&ClientMessage::Watch {
            users: &names(&users),
            known,
            id,
        });
        Some((Asked::Watch(users), text))
    }

    /// Users for one message of so many bytes.
    fn next_users(&mut self, most: usize, bytes: usize) -> Vec<Arc<str>> {
        let mut left = bytes.saturating_sub(OVERHEAD);
        let mut users = Vec::new();
        if let Some(group) = self.groups.front_mut() {
            while let Some(user) = group.front() {
                let Some(watched) = self.users.get(user).filter(|w| w.told == Told::Grouped) else {
                    group.pop_front();
                    continue;
                };
                if users.len() >= most || !fits(user, watched, &mut left, users.is_empty()) {
                    return users;
                }
                users.extend(group.pop_front());
            }
            self.groups.pop_front();
            return users;
        }
        while users.len() < most
            && let Some(entry) = self.queue.first_entry()
        {
            let watched = &self.users[entry.get()];
            if !fits(entry.get(), watched, &mut left, users.is_empty()) {
                break;
            }
            users.push(entry.remove());
        }
        users
    }

    fn next_unwatch(&mut self, link: &Link, id: u64) -> (Asked, String) {
        let mut left = link.limits.message.saturating_sub(OVERHEAD);
        let mut users = Vec::new();
        while users.len() < link.limits.users.max(1)
            && let Some(user) = self.leaving.first()
        {
            let length = json_length(user) + 1;
            if length > left && !users.is_empty() {
                break;
            }
            left = left.saturating_sub(length);
            users.extend(self.leaving.pop_first());
        }
        for user in &users {
            self.drop_user(user);
        }
        self.told -= users.len();
        let text = text(&ClientMessage::Unwatch {
            users: &names(&users),
            id,
        });
        (Asked::Unwatch, text)
    }
}

impl Watched {
    /// The server says that it never saw the user, of whom there is a record. What it has lost is
    /// mostly written again soon, so that it has to say so for a while.
    fn unknown(&mut self, now: u64) -> Option<Record> {
        let record = self.record.as_mut()?;
        if record.status == Status::Offline {
            return None;
        }
        let since = *self.doubt.get_or_insert(now);
        if now < since + DOUBT {
            return None;
        }
        self.doubt = None;
        // The version stays: what comes is newer than it.
        *record = Record {
            status: Status::Offline,
            text: String::new(),
            since: None,
            last_seen: None,
            devices: 0,
            ..record.clone()
        };
        Some(record.clone())
    }
}

fn names(users: &[Arc<str>]) -> Vec<&str> {
    users.iter().map(|user| &**user).collect()
}

/// Whether there is room for the user; the first one always has it.
fn fits(user: &str, watched: &Watched, left: &mut usize, first: bool) -> bool {
    let name = json_length(user) + 1;
    let length = match watched.record {
        Some(_) => 2 * name + VERSION,
        None => name,
    };
    if length > *left && !first {
        return false;
    }
    *left = left.saturating_sub(length);
    true
}

/// Bytes of a text as JSON (RFC 8259 §7).
pub(super) fn json_length(text: &str) -> usize {
    let escaped = text
        .bytes()
        .filter(|byte| matches!(byte, b'"' | b'\\'))
        .count();
    text.len() + escaped + 2
}
