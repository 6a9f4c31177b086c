//! The watch index: who watches whom, both ways, with O(1) removal.
//! It owns the links between sessions and users; what they are told is the fan-out's business.

use std::sync::Arc;

use protocol::{ErrorCode, MessageId, Policy, ServerMessage};

use crate::{
    Core,
    session::Watch,
    user::{Knowledge, NONE, Watcher},
    vnodes::Owner,
    waiting::{Asker, MAX_ASKED, known_versions},
};

impl Core {
    /// Registers the interest first and reads the state then, so that nothing falls in between.
    pub(crate) fn watch(
        &mut self,
        session: u32,
        names: &[impl AsRef<str>],
        known: &[(impl AsRef<str>, u64)],
        id: Option<MessageId>,
    ) {
        let Some(names) = self.allowed(session, names, id.as_ref()) else {
            return;
        };
        self.mark_watches(session);
        let mut users = Vec::with_capacity(names.len());
        let mut added = 0;
        for name in &names {
            let slot = self.users.find_or_insert(name, &self.vnodes);
            users.push(slot);
            let user = &mut self.users[slot];
            if user.mark != self.mark {
                user.mark = self.mark;
                user.mark_watch = NONE;
                added += 1;
            }
        }
        let watches = self.sessions[session].watches.len();
        if watches + added > self.settings.max_watches as usize {
            let message = format!(
                "a session watches at most {} users; it watches {watches} and {added} more were asked for",
                self.settings.max_watches
            );
            self.refuse_watches(session, id.as_ref(), &users, &message);
            return;
        }
        if !self.settings.watches.take(added) {
            let message = "the server has as many watches as it may";
            self.refuse_watches(session, id.as_ref(), &users, message);
            return;
        }
        self.sessions[session].watches.reserve_exact(added);
        for slot in &users {
            let user = &mut self.users[*slot];
            if user.mark_watch == NONE {
                user.mark_watch = self.sessions[session].watches.len() as u32;
                let watch = Watch::new(*slot, user.watchers.len() as u32);
                user.watchers.push(Watcher {
                    session,
                    watch: user.mark_watch,
                });
                self.sessions[session].watches.push(watch);
                self.counters.watches += 1;
            }
            self.sessions[session].watches[user.mark_watch as usize].set(Watch::AWAITING);
        }
        let session = self.sessions.id(session);
        let known = known_versions(&names, known);
        self.question(Asker::Watch { session, id, known }, users.into());
    }

    /// Nothing of a message is done, of whose `users` the new ones are marked.
    fn refuse_watches(
        &mut self,
        session: u32,
        id: Option<&MessageId>,
        users: &[u32],
        message: &str,
    ) {
        for slot in users {
            self.users[*slot].mark = 0;
            self.users.sweep_later(*slot);
        }
        self.counters.watch_limit += 1;
        self.reply_error(session, id, ErrorCode::WatchLimit, message);
    }

    pub(crate) fn query(&mut self, session: u32, names: &[impl AsRef<str>], id: Option<MessageId>) {
        let Some(names) = self.allowed(session, names, id.as_ref()) else {
            return;
        };
        let users = names
            .iter()
            .map(|name| self.users.find_or_insert(name, &self.vnodes))
            .collect();
        let session = self.sessions.id(session);
        self.question(Asker::Query { session, id }, users);
    }

    /// Those of the names that the session may ask for, in their order; the others are named to its
    /// client. `None` when nothing of the message is done.
    fn allowed<'n>(
        &mut self,
        session: u32,
        names: &'n [impl AsRef<str>],
        id: Option<&MessageId>,
    ) -> Option<Vec<&'n str>> {
        let slot = &self.sessions[session];
        if slot.asked >= MAX_ASKED {
            let message = "too many questions wait for an answer";
            self.reply_error(session, id, ErrorCode::Unavailable, message);
            return None;
        }
        let own = &*self.users[slot.user].name;
        let names = names.iter().map(AsRef::as_ref);
        let rule = slot.rule.as_deref();
        let (allowed, refused): (Vec<&str>, Vec<&str>) =
            names.partition(|name| self.policy.lets_see(rule, own, name));
        if refused.is_empty() {
            return Some(allowed);
        }
        self.counters.not_allowed += 1;
        let is_all = allowed.is_empty();
        let id = id.filter(|_| is_all);
        let users = &*refused;
        self.reply(session, &ServerMessage::NotAllowed { id, users });
        (!is_all).then_some(allowed)
    }

    /// Takes what administrators have decreed from now on; the users of `changed` may be watched by
    /// others than before: who watches them and may not any more is told, and watches them no more.
    pub fn follow_policy(&mut self, policy: Arc<Policy>, changed: &[Box<str>]) {
        self.policy = policy;
        for name in changed {
            let Some(slot) = self.users.find(name) else {
                continue;
            };
            let watchers = self.users[slot].watchers.iter().map(|it| it.session);
            let blocked: Vec<u32> = watchers
                .filter(|session| {
                    let watcher = self.sessions[*session].user;
                    let rule = self.sessions[*session].rule.as_deref();
                    !(self.policy).lets_see(rule, &self.users[watcher].name, name)
                })
                .collect();
            for session in blocked {
                self.review_watches(session);
            }
        }
    }

    /// Ends the session's watches that its rule or a user's list does not allow, and names their users
    /// to its client.
    pub(crate) fn review_watches(&mut self, session: u32) {
        let slot = &self.sessions[session];
        let (rule, own) = (slot.rule.as_deref(), &*self.users[slot.user].name);
        let watched = |watch: &Watch| &self.users[watch.user()].name;
        let refused: Vec<(u32, Box<str>)> = (0..)
            .zip(&slot.watches)
            .filter(|(_, watch)| !self.policy.lets_see(rule, own, watched(watch)))
            .map(|(n, watch)| (n, (**watched(watch)).into()))
            .collect();
        if refused.is_empty() {
            return;
        }
        // From the last one on: the place of one that is removed is taken by one that stays.
        for (watch, _) in refused.iter().rev() {
            self.remove_watch(session, *watch);
        }
        self.settings.watches.give_back(refused.len());
        self.fanout.relist(&mut self.sessions, session);
        let users: Vec<&str> = refused.iter().map(|(_, name)| &**name).collect();
        self.reply(
            session,
            &ServerMessage::NotAllowed {
                id: None,
                users: &users,
            },
        );
    }

    pub(crate) fn unwatch(
        &mut self,
        session: u32,
        names: &[impl AsRef<str>],
        id: Option<&MessageId>,
    ) {
        self.mark_watches(session);
        let before = self.sessions[session].watches.len();
        for name in names {
            let Some(slot) = self.users.find(name.as_ref()) else {
                continue;
            };
            let user = &mut self.users[slot];
            if user.mark == self.mark {
                user.mark = 0;
                let watch = user.mark_watch;
                self.remove_watch(session, watch);
            }
        }
        let left = self.sessions[session].watches.len();
        self.settings.watches.give_back(before - left);
        self.sessions[session].watches.shrink_to_fit();
        self.fanout.relist(&mut self.sessions, session);
        self.reply(session, &ServerMessage::Ok { id });
    }

    pub(crate) fn unwatch_all(&mut self, session: u32) {
        let count = self.sessions[session].watches.len();
        while let Some(last) = self.sessions[session].watches.len().checked_sub(1) {
            self.remove_watch(session, last as u32);
        }
        self.sessions[session].watches = Vec::new();
        self.settings.watches.give_back(count);
    }

    fn remove_watch(&mut self, session: u32, watch: u32) {
        let watches = &mut self.sessions[session].watches;
        let removed = watches.swap_remove(watch as usize);
        if let Some(moved) = watches.get(watch as usize) {
            let user = &mut self.users[moved.user()];
            user.watchers[moved.position as usize].watch = watch;
            user.mark_watch = watch;
        }
        if !self.waiting.late.is_empty() {
            self.waiting.late.remove(&(session, removed.user()));
        }
        let user = &mut self.users[removed.user()];
        user.watchers.swap_remove(removed.position as usize);
        if let Some(moved) = user.watchers.get(removed.position as usize) {
            let watch = &mut self.sessions[moved.session].watches[moved.watch as usize];
            watch.position = removed.position;
        }
        if user.watchers.is_empty() {
            user.watchers = Vec::new();
        }
        self.counters.watches -= 1;
        self.release(removed.user());
    }

    /// Marks the users that the session watches, each with its place in the session's list, so
    /// that one message's names are looked up in O(1) each.
    pub(crate) fn mark_watches(&mut self, session: u32) {
        self.mark = self.mark.wrapping_add(1).max(1);
        for (n, watch) in (0..).zip(&self.sessions[session].watches) {
            let user = &mut self.users[watch.user()];
            user.mark = self.mark;
            user.mark_watch = n;
        }
    }

    /// Makes sure that somebody is asked for the user's state.
    pub(crate) fn seek(&mut self, slot: u32) {
        if self.users[slot].knowledge != Knowledge::Nothing {
            return;
        }
        match self.owner_of(slot) {
            Owner::Here(_) | Owner::Elsewhere => self.ask_store(slot),
            Owner::Core(core) => {
                self.users[slot].knowledge = Knowledge::Asked;
                self.queue_for(slot, core);
            }
        }
    }
}
