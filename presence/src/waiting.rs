//! Questions (snapshots, queries) that wait until every user they name is known here.
//! It owns the questions; a session has few of them at a time, so their number is bounded.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;
use protocol::{ErrorCode, ListKind, MessageId, Record, Version, begin_list, end_list};
use slab::Slab;

use crate::{
    Core, SessionId,
    fanout::{append_frame, append_record},
    session::Watch,
    user::Watcher,
};

/// Users in one session's waiting questions, from which on another question is an `error`: what is
/// answered at once is bounded by them and one more question.
pub(crate) const MAX_ASKED: u16 = 256;
/// How long a welcome waits for what the user chose, ms: its session is not read from meanwhile.
const WELCOME_PATIENCE: u64 = 1_000;
/// A user that the asker claims to know nothing of.
const UNKNOWN: u64 = u64::MAX;

/// The asker of a question, and what its answer needs.
#[derive(Debug, Clone)]
pub(crate) enum Asker {
    /// A session that now watches the users; with each the version it knows.
    Watch {
        session: SessionId,
        id: Option<MessageId>,
        known: Box<[u64]>,
    },
    /// A session's `query`.
    Query {
        session: SessionId,
        id: Option<MessageId>,
    },
    /// A session that is to be welcomed with what its user chose.
    Welcome {
        session: SessionId,
        id: Option<MessageId>,
    },
    /// The shell's own question, with its ticket.
    Shell(u64),
}

/// The answer to [`Core::ask`], pulled by [`Core::next_answer`].
#[derive(Debug)]
pub struct Answer {
    /// The ticket that the question came with.
    pub ticket: u64,
    /// A record for each user asked, in order; `None` when some could not be read in time.
    pub records: Option<Vec<(Box<str>, Record)>>,
}

struct Question {
    asker: Asker,
    /// The users asked for, in the asker's order, repetitions included.
    users: Box<[u32]>,
    /// How many of `users` are not known yet.
    missing: u32,
    deadline: u64,
}

#[derive(Default)]
pub(crate) struct Waiting {
    questions: Slab<Question>,
    by_user: HashMap<u32, Vec<u32>, FixedState>,
    answers: Vec<Answer>,
    /// By session and user watched: users whose state was not known in time for the snapshot, with
    /// the version that the client has.
    pub(crate) late: BTreeMap<(u32, u32), u64>,
}

/// The versions that the client says it knows, in the order of `users`.
pub(crate) fn known_versions<'a>(
    users: &[impl AsRef<str>],
    known: &'a [(impl AsRef<str> + 'a, u64)],
) -> Box<[u64]> {
    if known.is_empty() {
        return vec![UNKNOWN; users.len()].into();
    }
    let known: HashMap<&str, u64> = known.iter().map(|(user, v)| (user.as_ref(), *v)).collect();
    users
        .iter()
        .map(|user| known.get(user.as_ref()).copied().unwrap_or(UNKNOWN))
        .collect()
}

impl Core {
    /// Asks for the records of `users`; [`Core::next_answer`] gives them, with `ticket`.
    pub fn ask(&mut self, ticket: u64, users: &[&str]) {
        let users = users
            .iter()
            .map(|user| self.users.find_or_insert(user, &self.vnodes))
            .collect();
        self.question(Asker::Shell(ticket), users);
    }

    /// The answer to a former [`Core::ask`], if there is one.
    pub fn next_answer(&mut self) -> Option<Answer> {
        self.waiting.answers.pop()
    }

    /// Answers now when all `users` are known, else once they are.
    pub(crate) fn question(&mut self, asker: Asker, users: Box<[u32]>) {
        let mut missing = 0;
        let patience = match asker {
            Asker::Welcome { .. } => self.settings.store_patience.min(WELCOME_PATIENCE),
            _ => self.settings.store_patience,
        };
        let deadline = self.time.clock + patience;
        let entry = self.waiting.questions.vacant_key() as u32;
        for slot in &users {
            self.users[*slot].waiters += 1;
            self.send_interest(*slot);
            if !self.users[*slot].knowledge.has_record() {
                missing += 1;
                self.waiting.by_user.entry(*slot).or_default().push(entry);
                self.seek(*slot);
            }
        }
        let question = Question {
            asker,
            users,
            missing,
            deadline,
        };
        if missing == 0 {
            self.answer(question);
            return;
        }
        if let Asker::Watch { session, .. } | Asker::Query { session, .. } = question.asker {
            self.sessions[session.index].asked += question.users.len() as u16;
        }
        self.waiting.questions.insert(question);
    }

    /// The user is known now: questions that waited for nobody else are answered.
    pub(crate) fn answer_waiting(&mut self, slot: u32) {
        let Some(entries) = self.waiting.by_user.remove(&slot) else {
            return;
        };
        for entry in entries {
            let Some(question) = self.waiting.questions.get_mut(entry as usize) else {
                continue;
            };
            question.missing -= 1;
            if question.missing == 0 {
                let question = self.waiting.questions.remove(entry as usize);
                self.settle(&question);
                self.answer(question);
            }
        }
    }

    fn settle(&mut self, question: &Question) {
        if let Asker::Watch { session, .. } | Asker::Query { session, .. } = question.asker
            && let Some(session) = self.sessions.open(session)
        {
            self.sessions[session].asked -= question.users.len() as u16;
        }
    }

    /// Answers what waited too long: queries with an error, snapshots with the users that are
    /// known; the others follow as changes.
    pub(crate) fn waiting_out_of_patience(&mut self) {
        if self.waiting.questions.is_empty() {
            return;
        }
        let late = |(entry, question): (usize, &Question)| {
            (question.deadline <= self.time.clock).then_some(entry)
        };
        let late: Vec<usize> = self.waiting.questions.iter().filter_map(late).collect();
        for entry in late {
            let question = self.waiting.questions.remove(entry);
            for slot in &question.users {
                if let Some(entries) = self.waiting.by_user.get_mut(slot) {
                    entries.retain(|other| *other != entry as u32);
                    if entries.is_empty() {
                        self.waiting.by_user.remove(slot);
                    }
                }
            }
            self.counters.impatient += 1;
            self.settle(&question);
            self.answer(question);
        }
    }

    fn answer(&mut self, question: Question) {
        let Question {
            asker,
            users,
            missing,
            ..
        } = question;
        match asker {
            Asker::Shell(ticket) => {
                let record = |slot: &u32| {
                    let user = &self.users[*slot];
                    (user.name.clone(), user.record.clone())
                };
                let records = (missing == 0).then(|| users.iter().map(record).collect());
                self.waiting.answers.push(Answer { ticket, records });
            }
            Asker::Welcome { session, id } => {
                if let Some(session) = self.sessions.live(session) {
                    self.welcome(session, id.as_ref());
                }
            }
            Asker::Query { session, id } => {
                self.answer_query(session, id.as_ref(), &users, missing);
            }
            Asker::Watch { session, id, known } => {
                self.answer_watch(session, id.as_ref(), &users, &known);
            }
        }
        for slot in &users {
            self.users[*slot].waiters -= 1;
        }
        for slot in users {
            self.release(slot);
        }
    }

    fn answer_query(
        &mut self,
        id: SessionId,
        reply_to: Option<&MessageId>,
        users: &[u32],
        missing: u32,
    ) {
        let Some(session) = self.sessions.live(id) else {
            return;
        };
        if missing > 0 {
            let message = "some users could not be read in time";
            self.reply_error(session, reply_to, ErrorCode::Unavailable, message);
            return;
        }
        self.reply_list(session, ListKind::Result(reply_to), users);
    }

    fn answer_watch(
        &mut self,
        id: SessionId,
        reply_to: Option<&MessageId>,
        users: &[u32],
        known: &[u64],
    ) {
        let Some(session) = self.sessions.live(id) else {
            return;
        };
        self.mark_watches(session);
        let mut news = Vec::with_capacity(users.len());
        for (slot, known) in users.iter().zip(known) {
            let user = &mut self.users[*slot];
            if user.mark != self.mark {
                // Unwatched while it waited, or named twice.
                continue;
            }
            user.mark = 0;
            let watch = user.mark_watch as usize;
            let own = *slot == self.sessions[session].user;
            if !self.users[*slot].knowledge.has_record() || self.catch_up(*slot, *known, session) {
                self.answer_later(session, *slot, *known);
                continue;
            }
            // The snapshot has what waited.
            let entry = &mut self.sessions[session].watches[watch];
            entry.clear(Watch::AWAITING | Watch::PENDING);
            if own || self.users[*slot].record.version.get() != *known {
                news.push(*slot);
            }
        }
        self.reply_list(session, ListKind::Snapshot(reply_to), &news);
    }

    /// The snapshot goes out without the user: its state follows as a change, if it is news.
    fn answer_later(&mut self, session: u32, slot: u32, known: u64) {
        self.waiting.late.insert((session, slot), known);
        self.users[slot].late = true;
    }

    /// The user is known now, or better than before: it is news to those whose snapshot went out
    /// without it. Who knows more than what is known here waits on.
    pub(crate) fn answer_late(&mut self, slot: u32) {
        if self.users[slot].late {
            self.answer_those_who_wait(slot, true);
        }
    }

    /// What a watcher claims to know cannot be found: it gets what there is.
    pub(crate) fn answer_late_anyway(&mut self, slot: u32) {
        if self.users[slot].late {
            self.answer_those_who_wait(slot, false);
        }
    }

    fn answer_those_who_wait(&mut self, slot: u32, in_order: bool) {
        if !self.users[slot].knowledge.has_record() {
            // What is here is of before the vnode was taken: it may be long over.
            return;
        }
        self.users[slot].late = false;
        for n in 0..self.users[slot].watchers.len() {
            let Watcher { session, watch } = self.users[slot].watchers[n];
            let Some(known) = self.waiting.late.get(&(session, slot)).copied() else {
                continue;
            };
            if in_order && self.catch_up(slot, known, session) {
                self.users[slot].late = true;
                continue;
            }
            self.waiting.late.remove(&(session, slot));
            self.sessions[session].watches[watch as usize].clear(Watch::AWAITING);
            let own = slot == self.sessions[session].user;
            if own || self.users[slot].record.version.get() != known {
                let at = self.time.now.mono_us.max(1);
                let (sessions, counters) = (&mut self.sessions, &mut self.counters);
                self.fanout
                    .change(sessions, counters, session, watch, (at, false));
            }
        }
    }

    /// A watcher has the version `known`. `true` when that is newer than what can be known here now:
    /// it must not be sent anything older.
    fn catch_up(&mut self, slot: u32, known: u64, session: u32) -> bool {
        let Some(known) = Version::from_u64(known) else {
            return false;
        };
        let user = &self.users[slot];
        if slot == self.sessions[session].user
            && self.vnodes.epoch(user.vnode) >= Some(known.epoch())
        {
            // Versions for its own sessions are nowhere but with them and the owner, which may have
            // forgotten them and given one away a second time.
            if known >= user.own_version() {
                self.users[slot].raise_own(known);
            }
            return false;
        }
        if self.users[slot].record.version >= known {
            return false;
        }
        if self.may_come_back(slot, known) {
            return true;
        }
        let session = self.sessions.id(session);
        self.overtake(slot, known, Some(session))
    }

    fn reply_list(&mut self, session: u32, kind: ListKind<'_>, list: &[u32]) {
        let slot = &mut self.sessions[session];
        let encoding = slot.encoding;
        append_frame(&mut slot.replies, encoding, |out| {
            begin_list(encoding, kind, out);
            for (n, user) in list.iter().enumerate() {
                let own = *user == slot.user;
                let user = &self.users[*user];
                append_record(encoding, n == 0, user, own, out);
            }
            end_list(encoding, out);
        });
        self.replied(session);
    }

    /// Lets go of a user that nothing here may need any more.
    pub(crate) fn release(&mut self, slot: u32) {
        if self.users[slot].watchers.is_empty() && self.users[slot].waiters == 0 {
            self.lose_interest(slot);
        }
        self.users.sweep_later(slot);
    }
}
