//! What servers say, and whether it is right. It owns the judgement of records; what follows for the
//! session is in `sessions.rs`.

use std::cmp::Reverse;

use super::{Engine, WorkError, sessions::Todo};
use crate::{
    encoding::{Message, Watch},
    plan::{Kind, Plan, Shown},
    watch::{Entry, Scene, Verdict},
};

/// The most users that one `watch` message of the bench names.
const WATCH_AT_ONCE: usize = 500;
/// Before a watch that could not be answered is asked for again, µs.
const WATCH_AGAIN: u64 = 500_000;
/// Between two pings of a server that does not say, seconds.
const HEARTBEAT: u64 = 25;

/// The `watch` messages of a session, with the versions that it knows.
pub(super) fn watches(plan: &Plan, entries: &[Entry]) -> Vec<Vec<u8>> {
    let at_once = (1..).zip(entries.chunks(WATCH_AT_ONCE));
    at_once
        .map(|(id, entries)| watch(plan, entries, id))
        .collect()
}

fn watch(plan: &Plan, entries: &[Entry], id: u64) -> Vec<u8> {
    let users = entries.iter().map(|entry| plan.user(entry.user)).collect();
    let known = entries.iter().filter(|entry| entry.version > 0);
    plan.encoding.watch(&Watch {
        users,
        known: known
            .map(|entry| (plan.user(entry.user), entry.version))
            .collect(),
        id,
    })
}

impl Engine {
    pub(super) fn message(
        &mut self,
        connection: usize,
        payload: &[u8],
        now: u64,
    ) -> Result<(), WorkError> {
        let message = match self.plan.encoding.read(payload) {
            Ok(message) => message,
            Err(seen) => {
                let counts = &mut self.results.counts;
                counts.errors += 1;
                counts.cause(&format!("a message that is none: {seen}"));
                return Ok(());
            }
        };
        let number = self.connections[connection].user;
        match &*message.kind {
            "presence" => self.see(number, &message, now, false)?,
            "snapshot" => {
                self.see(number, &message, now, true)?;
                self.answered(number, now)?;
            }
            // What its user chose came from the store after the first.
            "welcome" if self.connections[connection].heartbeat.is_some() => {}
            "welcome" => {
                let heartbeat = message.heartbeat.unwrap_or(HEARTBEAT) * 1_000_000;
                self.welcome(connection, number, heartbeat, now)?;
            }
            "move" => {
                let address = message.address.as_deref().unwrap_or_default();
                let place = self.place(address).map(|place| (place, now));
                self.connections[connection].moving = place;
            }
            // Of all that the bench sends only a status is answered so.
            "ok" => self.change_answered(number, now),
            "error" => self.error(number, &message, now),
            _ => {}
        }
        Ok(())
    }

    fn error(&mut self, number: u32, message: &Message<'_>, now: u64) {
        let counts = &mut self.results.counts;
        match (message.code.as_deref(), message.id) {
            // The protocol has it asked again later.
            (Some("unavailable"), Some(id)) => {
                counts.unavailable += 1;
                let again = Reverse((now + WATCH_AGAIN, number, Todo::Watch(id)));
                self.queue.push(again);
            }
            _ => {
                counts.errors += 1;
                counts.cause(
                    message
                        .message
                        .as_deref()
                        .unwrap_or("an error without a message"),
                );
            }
        }
    }

    /// Sends a `watch` message again, if the session still waits for its answer.
    pub(super) fn watch_again(&mut self, number: u32, id: u64) {
        let user = &self.users[self.at(number)];
        let chunk = (id as usize).checked_sub(1);
        let entries = chunk.and_then(|chunk| user.entries.chunks(WATCH_AT_ONCE).nth(chunk));
        if let (Some(connection), Some(entries)) = (user.connection, entries)
            && user.unanswered > 0
        {
            let message = watch(&self.plan, entries, id);
            self.send_message(connection, &message);
        }
    }

    fn see(
        &mut self,
        number: u32,
        message: &Message<'_>,
        now: u64,
        answer: bool,
    ) -> Result<(), WorkError> {
        self.pass(now)?;
        let go = self.go.filter(|go| *go <= now);
        let Self {
            plan,
            users,
            truths,
            distant,
            results,
            present,
            ..
        } = self;
        let watcher = (number / plan.workers) as usize;
        let (entries, watcher) = (&mut users[watcher].entries, &truths[watcher]);
        for record in &message.users {
            let watched = plan.number(&record.user);
            let found = watched
                .and_then(|user| entries.binary_search_by_key(&user, |entry| entry.user).ok());
            let (Some(shown), Some(found)) = (record.shown(), found) else {
                results.counts.strays += 1;
                results.example("strays", || {
                    let (user, status) = (&record.user, &record.status);
                    let watcher = plan.user(number);
                    format!("{watcher} was shown {user} as {status}, which is not in the plan")
                });
                continue;
            };
            let entry = &mut entries[found];
            let (user, mine) = (entry.user, plan.mine(entry.user));
            let scene = Scene {
                plan,
                go,
                now,
                answer,
                user: if mine {
                    &truths[(user / plan.workers) as usize]
                } else {
                    distant
                },
                watcher,
            };
            let before = *entry;
            let verdict = entry.see(&scene, record.version, shown);
            if let Some(fault) = verdict.fault() {
                results.example(fault, || {
                    let seen = before.describe(&scene, record.version, shown);
                    format!("{} at {seen}", plan.user(number))
                });
            }
            let counts = &mut results.counts;
            match verdict {
                Verdict::Delivered {
                    intended,
                    disturbed,
                    skipped,
                } => {
                    counts.delivered += u64::from(!skipped.repeated);
                    counts.conflated += skipped.conflated;
                    counts.conflated -= skipped.came_after_all;
                    counts.missed += skipped.missed;
                    let times = match (plan.kind(user), shown) {
                        _ if disturbed => &mut results.disturbed,
                        (Kind::Moves, Shown::Offline) => &mut results.leave,
                        (Kind::Moves, _) => &mut results.come,
                        _ => &mut results.status,
                    };
                    times.record(now - intended);
                    present.delivered(now - intended);
                }
                Verdict::Other => counts.other += 1,
                Verdict::Known => {}
                Verdict::Duplicate => counts.duplicated += 1,
                Verdict::Reordered => counts.reordered += 1,
                Verdict::Flap => counts.flaps += 1,
                Verdict::Stray { crashed: false } => counts.strays += 1,
                Verdict::Stray { crashed: true } => counts.rolled_back += 1,
            }
        }
        Ok(())
    }
}
