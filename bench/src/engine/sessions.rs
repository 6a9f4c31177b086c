//! The life of a user's session: wanted, opened, lost, opened again. It owns what a user wants and
//! keeps the truth of it; which server it goes to is `routes.rs`.

use std::{cmp::Reverse, sync::Arc};

use rustls::ClientConfig;

use super::{
    Engine, WorkError, messages,
    sockets::{Connection, Phase},
    tell,
};
use crate::{
    address::Place,
    clock::now_us,
    link::{Away, News},
    plan::{Kind, Scenario, Shown},
    watch::Entry,
};

/// The longest wait before a connection is tried again, µs.
const MAX_BACKOFF: u64 = 5_000_000;

/// What is to be done for a user at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Todo {
    Connect,
    /// Asks again with the `watch` message of this number.
    Watch(u64),
    /// A ping is due, to see whether the server answers.
    Probe,
}

/// The way in which a connection ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum End<'a> {
    /// By what the socket, or a close code, says.
    Cut(&'a str),
    /// The server said nothing for too long; the value names what was waited for.
    Silent(&'static str),
    /// The server refused the upgrade; the value is the first line of its answer.
    NotUpgraded(&'a str),
    /// The server answered `bye` with a close.
    Bye,
    /// The user was told to go to another server, or to ask for it.
    Moved(Option<Place>),
    /// The server does not own the user; the value is the one that does, when it said so.
    WrongNode(Option<Place>),
    /// Later (1013), maybe because the user is another server's that this one does not know.
    PutOff,
}

pub(super) struct User {
    pub(super) connection: Option<usize>,
    pub(super) entries: Vec<Entry>,
    /// Whether the user should have a session by the schedule.
    pub(super) wanted: bool,
    /// The server may take it for there: a request was sent, and no `bye` was answered since.
    pub(super) there: bool,
    /// It is in the queue, or its route is asked for.
    pub(super) waits: bool,
    /// When `bye` was sent on the present connection.
    bye: Option<u64>,
    /// What it reported last, or has to report once it is open (again).
    stands: Option<Shown>,
    /// The last change, when no server has answered it yet.
    asked: Option<u64>,
    pub(super) attempts: u32,
    pub(super) hops: u32,
    pub(super) last_hop: u64,
    /// The number of snapshots that the session waits for.
    pub(super) unanswered: usize,
    pub(super) ready: bool,
    /// When the connection was meant to be opened.
    pub(super) started: u64,
    /// The server that has the user, as far as the bench knows.
    pub(super) place: Option<Place>,
    /// The time of the coordinator's answer that named `place`, µs.
    pub(super) routed: u64,
    /// Its TLS settings, with its tickets, from its first `wss://` connection on.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl User {
    pub(super) fn new(entries: Vec<Entry>, wanted: bool, place: Option<Place>) -> Self {
        Self {
            connection: None,
            entries,
            wanted,
            there: false,
            waits: wanted,
            bye: None,
            stands: None,
            asked: None,
            attempts: 0,
            hops: 0,
            last_hop: 0,
            unanswered: 0,
            ready: false,
            started: 0,
            place,
            routed: 0,
            tls: None,
        }
    }
}

impl Engine {
    pub(super) fn do_due(&mut self, now: u64) -> Result<(), WorkError> {
        while let Some(Reverse((at, number, todo))) = self.queue.peek().copied()
            && at <= now
        {
            self.queue.pop();
            match todo {
                Todo::Connect => {
                    let user = self.user(number);
                    user.waits = false;
                    if user.wanted && user.connection.is_none() {
                        self.connect(number, at)?;
                    }
                }
                Todo::Watch(id) => self.watch_again(number, id),
                Todo::Probe => {
                    self.probe(number, now)?;
                    let again = Reverse((now + self.plan.probe, number, Todo::Probe));
                    self.queue.push(again);
                }
            }
        }
        Ok(())
    }

    /// Makes the user's `k`th change, which is meant to happen at `at`.
    pub(super) fn change(&mut self, number: u32, k: u64, at: u64) -> Result<(), WorkError> {
        let shown = self.plan.shown(number, Some(k));
        self.user(number).asked = Some(k);
        match (self.plan.kind(number), shown) {
            (Kind::Moves, Shown::Offline) => self.leave(number, at)?,
            (Kind::Moves, _) => {
                let position = self.at(number);
                self.truths[position].returns(at);
                let user = self.user(number);
                user.wanted = true;
                user.started = at;
                if user.connection.is_none() && !user.waits {
                    self.connect(number, at)?;
                }
            }
            _ => {
                self.user(number).stands = Some(shown);
                if self.is_open(number) {
                    self.send_status(number, shown);
                } else {
                    self.results.counts.held_back += 1;
                }
            }
        }
        Ok(())
    }

    /// A server has answered the user's last change.
    pub(super) fn change_answered(&mut self, number: u32, now: u64) {
        let position = self.at(number);
        if let Some(go) = self.go
            && let Some(k) = self.users[position].asked.take()
            && let Some(intended) = self.plan.intended(number, k)
        {
            self.truths[position].answered(k, go + intended, now);
        }
    }

    fn leave(&mut self, number: u32, at: u64) -> Result<(), WorkError> {
        self.user(number).wanted = false;
        if self.is_open(number) {
            self.say_bye(number);
            return Ok(());
        }
        self.results.counts.held_back += 1;
        let User {
            started,
            connection,
            ..
        } = *self.user(number);
        // It has not come yet, or not come back, so this is not the only change held back.
        self.lose(number, started)?;
        match connection {
            None => self.give_up(number, at),
            // It is on its way to a server and says it there, if it does not want to stay by then.
            Some(_) => Ok(()),
        }
    }

    /// A user that wants no session, and has none, does not come back for its goodbye.
    pub(super) fn give_up(&mut self, number: u32, now: u64) -> Result<(), WorkError> {
        if self.user(number).there {
            let position = self.at(number);
            self.truths[position].gone(now, self.plan.grace);
            Ok(())
        } else {
            self.back(number, now)
        }
    }

    fn say_bye(&mut self, number: u32) {
        let user = self.user(number);
        if user.bye.is_none() {
            user.bye = Some(now_us());
            let bye = self.plan.encoding.bye();
            self.send_if_open(number, &bye);
        }
    }

    fn is_open(&mut self, number: u32) -> bool {
        let connection = self.user(number).connection;
        connection.is_some_and(|connection| self.connections[connection].phase == Phase::Open)
    }

    fn send_status(&mut self, number: u32, shown: Shown) {
        let message = self.plan.encoding.status(shown);
        self.send_if_open(number, &message);
    }

    fn send_if_open(&mut self, number: u32, message: &[u8]) {
        if self.is_open(number)
            && let Some(connection) = self.user(number).connection
        {
            self.send_message(connection, message);
        }
    }

    /// The connection of a user could not even be begun.
    pub(super) fn undialed(&mut self, number: u32, cause: &str) -> Result<(), WorkError> {
        self.results.counts.refused += 1;
        self.results.counts.cause(cause);
        let started = self.user(number).started;
        self.lose(number, started)?;
        self.cut(number)?;
        self.forget_place(number);
        self.retry(number)
    }

    /// Handles a close frame by which the server ended a session.
    pub(super) fn closed(
        &mut self,
        connection: usize,
        code: u16,
        reason: &str,
    ) -> Result<(), WorkError> {
        let open = &self.connections[connection];
        let end = match code {
            1000 if self.users[self.at(open.user)].bye.is_some() => End::Bye,
            1012 => End::Moved(open.moving.map(|(place, _)| place)),
            1013 => End::PutOff,
            4421 => End::WrongNode(self.place(reason)),
            _ => return self.ended(connection, End::Cut(&format!("close {code}"))),
        };
        self.ended(connection, end)
    }

    /// A connection is at its end: the truth of it, and what follows.
    pub(super) fn ended(&mut self, connection: usize, end: End<'_>) -> Result<(), WorkError> {
        let now = now_us();
        let Connection {
            user: number,
            phase,
            ..
        } = self.remove(connection);
        let user = self.user(number);
        let (bye, wanted, started) = (user.bye.take(), user.wanted, user.started);
        if let End::Bye = end {
            user.there = false;
            self.back(number, now)?;
            if wanted {
                return self.connect(number, started);
            }
            self.change_answered(number, now);
            return Ok(());
        }
        // After a goodbye that was not answered nobody knows what the server knows.
        let since = if phase == Phase::Open { now } else { started };
        self.lose(number, bye.unwrap_or(since))?;
        if !matches!(end, End::Moved(_) | End::WrongNode(_)) {
            self.cut(number)?;
        }
        let counts = &mut self.results.counts;
        match end {
            End::Bye => {}
            End::Moved(place) => {
                counts.moved += 1;
                return self.go_elsewhere(number, place, now);
            }
            End::WrongNode(place) => {
                counts.wrong_node += 1;
                return self.go_elsewhere(number, place, now);
            }
            End::PutOff => {
                counts.put_off += 1;
                self.forget_place(number);
            }
            End::NotUpgraded(answer) if answer.contains(" 503") => {
                counts.put_off += 1;
                self.forget_place(number);
            }
            End::NotUpgraded(cause) => {
                counts.refused += 1;
                counts.cause(cause);
                self.forget_place(number);
            }
            End::Silent(cause) => {
                counts.silent += 1;
                counts.cause(cause);
                self.forget_place(number);
            }
            End::Cut(cause) if phase == Phase::Open => {
                if wanted {
                    counts.broken += 1;
                    counts.cause(cause);
                }
            }
            End::Cut(cause) => {
                counts.refused += 1;
                counts.cause(cause);
                self.forget_place(number);
            }
        }
        self.retry(number)
    }

    pub(super) fn retry(&mut self, number: u32) -> Result<(), WorkError> {
        if self.user(number).wanted {
            self.again(number);
            return Ok(());
        }
        self.give_up(number, now_us())
    }

    /// Has the user connect again, later each time.
    pub(super) fn again(&mut self, number: u32) {
        let random = u64::from(self.next_mask());
        let user = self.user(number);
        let backoff = (100_000 << user.attempts.min(10)).min(MAX_BACKOFF);
        user.attempts += 1;
        user.waits = true;
        let at = now_us() + random % backoff;
        self.queue.push(Reverse((at, number, Todo::Connect)));
    }

    /// The session is open: says whom it watches, and what it missed to say.
    pub(super) fn welcome(
        &mut self,
        connection: usize,
        number: u32,
        heartbeat: u64,
        now: u64,
    ) -> Result<(), WorkError> {
        self.connections[connection].heartbeat = Some(heartbeat);
        let position = self.at(number);
        self.truths[position].welcomed(now);
        let user = &mut self.users[position];
        let watches = messages::watches(&self.plan, &user.entries);
        user.unanswered = watches.len();
        let took = now.saturating_sub(user.started);
        let (stands, wanted) = (user.stands, user.wanted);
        self.results.handshake.record(took);
        self.results.counts.connects += 1;
        for message in &watches {
            self.send_message(connection, message);
        }
        if let Some(shown) = stands {
            self.send_status(number, shown);
        }
        if wanted && self.plan.kind(number) == Kind::Moves {
            self.change_answered(number, now);
        }
        if !wanted {
            self.say_bye(number);
        } else if watches.is_empty() {
            self.user(number).unanswered = 1;
            self.answered(number, now)?;
        }
        Ok(())
    }

    /// A snapshot came: with the last the session is ready.
    pub(super) fn answered(&mut self, number: u32, now: u64) -> Result<(), WorkError> {
        let moves = self.plan.kind(number) == Kind::Moves;
        let user = self.user(number);
        user.unanswered = user.unanswered.saturating_sub(1);
        if user.unanswered > 0 || user.ready {
            return Ok(());
        }
        user.attempts = 0;
        if !moves {
            user.ready = true;
            self.results.counts.ready += 1;
            if let Some(go) = self.go
                && self.results.counts.ready == self.holders
            {
                self.results.recovered = now.saturating_sub(go);
            }
        }
        self.back(number, now)
    }

    /// A session that was taken for lost is not.
    pub(super) fn goes_on(&mut self, number: u32, now: u64) -> Result<(), WorkError> {
        let waits = self.plan.kind(number) != Kind::Moves && !self.user(number).ready;
        let leaves = self.user(number).bye.is_some();
        if waits || leaves {
            // What ends this ends the disturbance.
            return Ok(());
        }
        self.back(number, now)
    }

    /// Notes that the user has had no session since `at`.
    pub(super) fn lose(&mut self, number: u32, at: u64) -> Result<(), WorkError> {
        self.disturbed |= self.go.is_some();
        let position = self.at(number);
        self.truths[position].lost(at);
        self.tell_others(number, Away::Lost(at))
    }

    /// The user's loss is none that a server asked for.
    pub(super) fn cut(&mut self, number: u32) -> Result<(), WorkError> {
        let position = self.at(number);
        self.truths[position].cut();
        self.tell_others(number, Away::Cut)
    }

    /// The user's disturbance, if there was one, is over.
    fn back(&mut self, number: u32, now: u64) -> Result<(), WorkError> {
        let position = self.at(number);
        if let Some(took) = self.truths[position].back(now) {
            if self.go.is_some() {
                self.results.outage.record(took);
            }
            self.tell_others(number, Away::Back(now))?;
        }
        Ok(())
    }

    /// What is the case with the user that all watch is needed by all workers.
    fn tell_others(&self, number: u32, away: Away) -> Result<(), WorkError> {
        let watched_by_all = self.plan.scenario == Scenario::Fanout && number == self.plan.sessions;
        if watched_by_all && self.plan.workers > 1 {
            tell(&News::Away(away))?;
        }
        Ok(())
    }

    /// Resets every connection and has all connect again at once.
    pub(super) fn break_all(&mut self, at: u64) -> Result<(), WorkError> {
        let open: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for connection in open {
            if let Err(error) = self.connections[connection].reset_on_close() {
                self.results.counts.cause(&error.to_string());
            }
            let number = self.remove(connection).user;
            self.lose(number, at)?;
            self.user(number).waits = true;
            self.queue.push(Reverse((at, number, Todo::Connect)));
        }
        Ok(())
    }
}
