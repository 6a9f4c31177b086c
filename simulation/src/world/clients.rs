//! What the clients of a run do: they connect, speak, read, stop reading and go. Whatever they do the
//! truth is told as well.

use std::collections::BTreeMap;

use presence::{How, Opening};
use protocol::{Activity, Encoding, Mode, Status};

use super::{ALIVE, GRACE, TRANSIT, World, vnodes};
use crate::{
    client::{Frame, View, frames, hello},
    truth::Truth,
};

impl World {
    /// Lets one client do something at random.
    pub(super) fn act(&mut self) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        if self.clients[client].vanished || self.clients[client].frozen {
            return;
        }
        if self.clients[client].session.is_none() {
            self.connect(client);
            return;
        }
        match self.random.below(20) {
            0..4 => self.watch(client),
            4 => self.unwatch(client),
            5..10 => self.set_status(client),
            10 => self.end(client, How::Clean, "closes"),
            11..14 => self.end(client, How::Broken, "loses its connection"),
            14 => {
                let frozen = self.clients[client].promises && self.random.once_in(2);
                self.note(|| format!("client {client} vanishes, answers pings: {frozen}"));
                self.clients[client].vanished = !frozen;
                self.clients[client].frozen = frozen;
                let user = self.clients[client].user.clone();
                let now = self.now;
                self.truth(&user).leave(client, now, true);
            }
            15 => {
                self.note(|| format!("client {client} stops reading"));
                self.clients[client].slow = true;
            }
            16..19 => {
                self.clients[client].slow = false;
                self.read(client);
            }
            _ => self.query(client),
        }
    }

    fn connect(&mut self, client: usize) {
        let user = self.clients[client].user.clone();
        let core = usize::from(vnodes().vnode(&user).get()) % self.cores.len();
        let now = self.time();
        self.cores[core].at(now);
        let away = self.random.once_in(3);
        let opening = Opening {
            status: away.then_some(Activity::Away),
            alive: self.clients[client].promises.then_some(ALIVE),
        };
        let id = self.cores[core]
            .connect(&hello(&user, opening))
            .expect("the owner takes it");
        self.note(|| format!("client {client} connects as {user}"));
        let state = &mut self.clients[client];
        state.session = Some(id);
        state.core = core;
        let now = self.now;
        let truth = self.truth(&user);
        truth.pass(now, GRACE);
        truth.sessions.insert(client, away);
        self.clients[client].said = now;
        if !away {
            // A session that returns in grace starts as the last one was, so it says how it is.
            self.say(client, r#"{"type":"status","status":"online"}"#);
        }
        if self.random.once_in(2) {
            self.watch(client);
        }
    }

    fn say(&mut self, client: usize, text: &str) {
        let now = self.time();
        self.clients[client].said = self.now;
        let state = &self.clients[client];
        let id = state.session.expect("it is connected");
        let core = &mut self.cores[state.core];
        core.at(now);
        core.heard(id);
        let message = protocol::decode(Encoding::Json, text.as_bytes()).expect("a good message");
        core.receive(id, message);
        if self.trace {
            println!("{:>8} client {client} says {text}", self.now);
        }
    }

    /// Makes clients that have promised a message send one.
    pub(super) fn keep_promises(&mut self) {
        for client in 0..self.clients.len() {
            let state = &self.clients[client];
            let silent = state.vanished || state.frozen || state.session.is_none();
            if state.promises && !silent && self.now >= state.said + u64::from(ALIVE) * 500 {
                self.say(client, r#"{"type":"ping"}"#);
            }
        }
    }

    fn some_users(&mut self) -> Vec<String> {
        let count = 1 + self.random.below(5);
        (0..count)
            .map(|_| format!("u{}", self.random.below(self.plan.users)))
            .collect()
    }

    fn watch(&mut self, client: usize) {
        let users = self.some_users();
        let state = &mut self.clients[client];
        let known: BTreeMap<&String, u64> = users
            .iter()
            .filter_map(|user| Some((user, state.views.get(user)?.version)))
            .collect();
        let text = serde_json::json!({ "type": "watch", "users": users, "known": known, "id": 1 });
        let asked = known
            .iter()
            .map(|(user, version)| ((*user).clone(), *version));
        state.asked.extend(asked);
        state.watched.extend(users.iter().cloned());
        self.say(client, &text.to_string());
    }

    fn unwatch(&mut self, client: usize) {
        let users = self.some_users();
        for user in &users {
            self.clients[client].watched.remove(user);
        }
        let text = serde_json::json!({ "type": "unwatch", "users": users });
        self.say(client, &text.to_string());
    }

    fn query(&mut self, client: usize) {
        let text = serde_json::json!({ "type": "query", "users": self.some_users(), "id": 2 });
        self.say(client, &text.to_string());
    }

    fn set_status(&mut self, client: usize) {
        let user = self.clients[client].user.clone();
        let now = self.now;
        let choice = self.random.below(8);
        let number = self.random.below(1_000);
        let truth = self.truth(&user);
        truth.pass(now, GRACE);
        let mut message = serde_json::json!({ "type": "status" });
        let mut choose = |truth: &mut Truth, mode: Mode| {
            (truth.mode, truth.set_at) = (mode, now);
            message["mode"] = mode.as_str().into();
        };
        match choice {
            0 => choose(truth, Mode::Busy),
            1 => choose(truth, Mode::Invisible),
            2 => choose(truth, Mode::Auto),
            _ => {}
        }
        // Devices report whatever the person chose, and may say both at once.
        match choice {
            1 | 3 | 4 => {
                truth.sessions.insert(client, true);
                message["status"] = "away".into();
            }
            5 | 6 => {
                truth.sessions.insert(client, false);
                message["status"] = "online".into();
            }
            7 => {
                truth.text = format!("t{number}");
                truth.set_at = now;
                message["text"] = truth.text.clone().into();
            }
            _ => {}
        }
        truth.pass(now, GRACE);
        self.say(client, &message.to_string());
    }

    /// Ends the client's connection from its side.
    pub(super) fn end(&mut self, client: usize, how: How, what: &str) {
        let Some(id) = self.clients[client].session.take() else {
            return;
        };
        self.note(|| format!("client {client} {what}"));
        let now = self.time();
        let core = &mut self.cores[self.clients[client].core];
        core.at(now);
        core.closed(id, how);
        self.ended(client, how != How::Clean);
    }

    pub(super) fn ended(&mut self, client: usize, graced: bool) {
        let state = &mut self.clients[client];
        state.session = None;
        state.socket.clear();
        state.watched.clear();
        state.asked.clear();
        state.blocked = false;
        state.slow = false;
        state.vanished = false;
        state.frozen = false;
        let user = state.user.clone();
        let now = self.now;
        self.truth(&user).leave(client, now, graced);
    }

    /// A client that reads takes what its socket has.
    pub(super) fn read(&mut self, client: usize) {
        let state = &self.clients[client];
        if state.slow || state.vanished || state.session.is_none() {
            return;
        }
        self.read_all(client);
        let now = self.time();
        let state = &mut self.clients[client];
        if let Some(id) = state.session
            && std::mem::take(&mut state.blocked)
        {
            state.lags_until = self.now + TRANSIT;
            self.cores[state.core].at(now);
            self.cores[state.core].unblocked(id);
        }
    }

    pub(super) fn read_all(&mut self, client: usize) {
        let bytes = std::mem::take(&mut self.clients[client].socket);
        for frame in frames(&bytes) {
            match frame {
                Frame::Ping => {
                    let state = &self.clients[client];
                    if let Some(id) = state.session {
                        self.cores[state.core].heard(id);
                    }
                }
                Frame::Close { .. } => {}
                Frame::Message(message) => {
                    if self.trace {
                        println!("{:>8} client {client} reads {message}", self.now);
                    }
                    let kind = message["type"].as_str().unwrap_or_default().to_owned();
                    assert!(
                        kind != "error" || self.outage,
                        "{} gets {message}",
                        self.at(client)
                    );
                    if ["presence", "snapshot"].contains(&kind.as_str()) {
                        let users = message["users"].as_array().expect("a list");
                        for record in users {
                            self.see(client, record, kind == "snapshot");
                        }
                    }
                }
            }
        }
    }

    fn see(&mut self, client: usize, record: &serde_json::Value, snapshot: bool) {
        let (user, view) = View::read(record);
        let at = self.at(client);
        let status = Status::parse(&view.status).expect("a status");
        if self.clients[client].user == user {
            let known = status != Status::Offline && view.mode.is_some();
            assert!(known, "{at} is shown {view:?} of itself");
        } else if self.in_memory && view.version == 0 {
            // Of somebody that the process does not know: no news to one who knows more, see I4 below.
        } else if self.now > self.clients[client].lags_until && !self.clients[client].blocked {
            self.check_shown(&user, status, &at);
            self.check_hidden(&user, view.version, &at);
        }
        let state = &mut self.clients[client];
        let before = state.views.insert(user.clone(), view.clone());
        let asked = match snapshot {
            true => None,
            false => state.asked.remove(&user),
        };
        if let Some(before) = before {
            // A question may cross a change or the answer to one before it, and may be answered late.
            let late = asked.is_some_and(|known| known < view.version);
            let again = (snapshot || late) && view == before;
            assert!(
                view.version > before.version || again,
                "I4: {at} saw {before:?} and then {view:?} of {user}"
            );
        }
    }
}
