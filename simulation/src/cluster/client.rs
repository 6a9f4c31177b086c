//! A simulated client of the cluster: it asks for a route, connects, says how it is and whom it
//! watches, follows `move` and 4421, and comes back with what it knows when it is cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use presence::{How, Opening};
use protocol::Activity;
use serde_json::{Value, json};

use super::{
    agenda::Event,
    plan::{GRACE, LATENCY},
    process::{FromClient, In},
    world::World,
};
use crate::{
    HEARTBEAT, TIMEOUT,
    client::{Frame, View},
};

/// How long a client waits for a sign of life beyond the server's pings.
const PATIENCE: u64 = 3_000;
/// How long a client waits for its welcome, ms.
const WELCOME: u64 = 1_500;

/// What comes to a client through its socket.
pub(crate) enum ToClient {
    Frames(Vec<Frame>),
    /// The connection is gone, or nobody took it.
    End,
}

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) id: u64,
    pub(crate) process: usize,
    pub(crate) welcomed: bool,
    heard: u64,
}

#[derive(Default)]
pub(crate) struct Client {
    /// The name of the client's user.
    pub(crate) name: String,
    pub(crate) line: Option<Line>,
    /// Whether the client wants to be connected.
    pub(crate) wanted: bool,
    /// What it says with its token, or after the welcome.
    status: &'static str,
    pub(crate) opening: Opening,
    /// When it last asked for a user, twice at most, but for the questions that a change has answered.
    asked: BTreeMap<String, VecDeque<u64>>,
    /// When it last read the answer to such a question: what it read before was on its way already.
    answered: u64,
    /// Users that it watches, in all its connections.
    pub(crate) watched: BTreeSet<String>,
    pub(crate) views: BTreeMap<String, View>,
    pub(crate) slow: bool,
    /// The time from which on it reads what comes, ms.
    pub(super) reads_since: u64,
    /// Since when it watches whom in its connection, as far as it has asked.
    watching: BTreeMap<String, u64>,
    inbox: Vec<Frame>,
    /// The node that it was told to go to.
    hint: Option<usize>,
    failures: u32,
    dials: u64,
    /// When it last dialled, or was gone without a word: for its server a session may be there.
    pub(crate) unsure: u64,
}

impl Client {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            status: "online",
            ..Self::default()
        }
    }

    /// Whether it has watched the user all the time since `at`, and read what came.
    pub(crate) fn has_watched_since(&self, user: &str, at: u64) -> bool {
        let since = self.watching.get(user);
        self.line.is_some()
            && !self.slow
            && self.reads_since <= at
            && since.is_some_and(|since| *since <= at)
    }
}

impl World {
    /// Lets one client do something at random.
    pub(crate) fn act(&mut self) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        let state = &self.clients[client];
        let Some(line) = &state.line else {
            if !state.wanted {
                self.clients[client].wanted = true;
                self.dial_in(client, 0);
            }
            return;
        };
        if !line.welcomed {
            return;
        }
        match self.random.below(20) {
            0..4 => {
                let users = self.some_users();
                self.clients[client].watched.extend(users.iter().cloned());
                self.watch(client, &users);
            }
            4 => {
                let users = self.some_users();
                for user in &users {
                    self.clients[client].watched.remove(user);
                    self.clients[client].watching.remove(user);
                }
                self.say(client, &json!({ "type": "unwatch", "users": users }));
            }
            5..9 => self.set_status(client),
            9 => {
                let text = format!("t{}", self.random.below(1_000));
                self.say(client, &json!({ "type": "status", "text": text }));
            }
            10 => self.hang_up_client(client, How::Clean, "closes"),
            11 => {
                // The server closes; until then it may still be told things.
                self.clients[client].wanted = false;
                self.truth_leaves(client, false);
                self.say(client, &json!({ "type": "bye" }));
            }
            12..14 => {
                self.hang_up_client(client, How::Broken, "loses its connection");
                if self.random.below(4) > 0 {
                    self.clients[client].wanted = true;
                    let delay = self.random.below(2_000);
                    self.dial_in(client, delay);
                }
            }
            14 => {
                self.note(|| format!("{} vanishes", self.who(client)));
                self.clients[client].unsure = self.now + HEARTBEAT + TIMEOUT + GRACE;
                self.truth_leaves(client, true);
                self.drop_line(client);
                self.clients[client].wanted = false;
            }
            15 => self.clients[client].slow = true,
            16..19 => self.speed_up(client),
            _ => {
                let users = self.some_users();
                self.say(client, &json!({ "type": "query", "users": users }));
            }
        }
    }

    pub(super) fn who(&self, client: usize) -> String {
        format!("client {client} ({})", self.clients[client].name)
    }

    fn some_users(&mut self) -> Vec<String> {
        let count = 1 + self.random.below(5);
        (0..count)
            .map(|_| format!("u{}", self.random.below(self.plan.users)))
            .collect()
    }

    fn watch(&mut self, client: usize, users: &[String]) {
        let views = &self.clients[client].views;
        let known: BTreeMap<&String, u64> = users
            .iter()
            .filter_map(|user| Some((user, views.get(user)?.version)))
            .collect();
        let message = json!({ "type": "watch", "users": users, "known": known, "id": 1 });
        let now = self.now;
        let asked = users.iter().map(|user| (user.clone(), now));
        self.clients[client].watching.extend(asked);
        for user in users {
            let asked = self.clients[client].asked.entry(user.clone()).or_default();
            if asked.len() == 2 {
                asked.pop_front();
            }
            asked.push_back(now);
        }
        self.say(client, &message);
    }

    fn set_status(&mut self, client: usize) {
        let mut message = json!({ "type": "status" });
        let (mode, status) = match self.random.below(8) {
            0 => (Some("busy"), None),
            1 => (Some("invisible"), None),
            2 => (Some("auto"), None),
            3 => (Some("invisible"), Some("away")),
            4 | 5 => (None, Some("away")),
            _ => (None, Some("online")),
        };
        if let Some(mode) = mode {
            message["mode"] = mode.into();
        }
        if let Some(status) = status {
            self.clients[client].status = status;
            message["status"] = status.into();
        }
        self.say(client, &message);
    }

    fn say(&mut self, client: usize, message: &Value) {
        let text = message.to_string();
        self.note(|| format!("{} says {text}", self.who(client)));
        self.send_up(client, FromClient::Text(text));
    }

    /// Sends an input through the client's connection.
    fn send_up(&mut self, client: usize, input: FromClient) {
        if let Some(line) = &self.clients[client].line {
            let (id, process) = (line.id, line.process);
            let delay = self.latency();
            let at = self.wire(id, true, delay);
            self.at(at, process, In::Socket(id, input));
        }
    }

    /// How long a message takes to or from a client.
    fn latency(&mut self) -> u64 {
        1 + self.random.below(LATENCY)
    }

    pub(crate) fn send_down(&mut self, client: usize, conn: u64, what: ToClient) {
        let delay = self.latency();
        let at = self.wire(conn, false, delay);
        self.schedule(at, Event::Client(client, conn, what));
    }

    pub(crate) fn hang_up_client(&mut self, client: usize, how: How, what: &str) {
        self.note(|| format!("{} {what}", self.who(client)));
        self.truth_leaves(client, how != How::Clean);
        self.send_up(client, FromClient::End(how));
        self.drop_line(client);
        self.clients[client].wanted = false;
    }

    fn drop_line(&mut self, client: usize) {
        let state = &mut self.clients[client];
        state.line = None;
        state.slow = false;
        state.inbox.clear();
        state.watching.clear();
    }

    pub(crate) fn speed_up(&mut self, client: usize) {
        if std::mem::take(&mut self.clients[client].slow) {
            self.clients[client].reads_since = self.now;
        }
        let frames = std::mem::take(&mut self.clients[client].inbox);
        self.read(client, frames);
        self.send_up(client, FromClient::Drained);
    }

    pub(crate) fn dial_in(&mut self, client: usize, delay: u64) {
        let state = &mut self.clients[client];
        state.dials += 1;
        let dial = state.dials;
        let at = self.now + delay;
        self.schedule(at, Event::Dial(client, dial));
    }

    /// The client asks for a route and connects.
    pub(crate) fn dial(&mut self, client: usize, dial: u64) {
        let state = &self.clients[client];
        if state.dials != dial || !state.wanted || state.line.is_some() {
            return;
        }
        let vnode = self.count().vnode(&state.name);
        let hint = self.clients[client].hint.take();
        let route = hint.or_else(|| self.route(vnode));
        // With no coordinator any node may know.
        let name = route.unwrap_or_else(|| self.random.below(self.names.len() as u64) as usize);
        let Some(process) = self.names[name] else {
            self.fail(client);
            return;
        };
        let id = self.next_ticket();
        let tells = self.random.once_in(2);
        let state = &mut self.clients[client];
        state.opening.status = Activity::parse(state.status).filter(|_| tells);
        self.note(|| {
            format!(
                "{} dials n{name} (p{process}), connection {id}",
                self.who(client)
            )
        });
        let heard = self.now;
        let unsure = &mut self.clients[client].unsure;
        *unsure = self.now.max(*unsure);
        self.clients[client].line = Some(Line {
            id,
            process,
            welcomed: false,
            heard,
        });
        self.send_up(client, FromClient::Open { client, tries: 0 });
        if !self.processes[process].alive && self.processes[process].gone_quietly {
            // Nobody says that nobody is there.
        } else if !self.processes[process].alive {
            self.send_down(client, id, ToClient::End);
        }
        self.schedule(self.now + WELCOME, Event::Watchdog(client, id));
    }

    fn fail(&mut self, client: usize) {
        let state = &mut self.clients[client];
        state.failures += 1;
        let most = 100 << state.failures.min(4);
        if state.wanted {
            let delay = 20 + self.random.below(most);
            self.dial_in(client, delay);
        }
    }

    /// A client looks whether its server still speaks.
    pub(crate) fn watchdog(&mut self, client: usize, conn: u64) {
        let Some(line) = self.clients[client]
            .line
            .as_ref()
            .filter(|line| line.id == conn)
        else {
            return;
        };
        let silent = self.now - line.heard;
        if (line.welcomed && silent >= HEARTBEAT + PATIENCE && !self.clients[client].slow)
            || (!line.welcomed && silent >= WELCOME)
        {
            self.hang_up_client(client, How::Broken, "gives its connection up");
            self.clients[client].wanted = true;
            self.fail(client);
            return;
        }
        self.schedule(self.now + 500, Event::Watchdog(client, conn));
    }

    /// Brings what the client's socket received to the client.
    pub(crate) fn client(&mut self, client: usize, conn: u64, what: ToClient) {
        let now = self.now;
        let Some(line) = self.clients[client]
            .line
            .as_mut()
            .filter(|line| line.id == conn)
        else {
            return;
        };
        line.heard = now;
        match what {
            ToClient::Frames(frames) if self.clients[client].slow => {
                if let Some(code) = close_code(&frames) {
                    // It is cut off, whether it looks or not.
                    self.closed(client, code);
                }
                self.clients[client].inbox.extend(frames);
            }
            ToClient::Frames(frames) => {
                self.read(client, frames);
                if self.clients[client].line.is_some() {
                    self.send_up(client, FromClient::Drained);
                }
            }
            ToClient::End => {
                let frames = std::mem::take(&mut self.clients[client].inbox);
                self.read(client, frames);
                self.cut(client, conn);
            }
        }
    }

    /// Notes that the server has ended the connection.
    fn cut(&mut self, client: usize, conn: u64) {
        if self.clients[client]
            .line
            .as_ref()
            .is_none_or(|line| line.id != conn)
        {
            return;
        }
        self.note(|| format!("{} is cut off", self.who(client)));
        self.truth_is_cut(client);
        self.send_up(client, FromClient::End(How::Broken));
        self.drop_line(client);
        if self.random.below(8) == 0 {
            self.note(|| format!("{} does not come back", self.who(client)));
            self.clients[client].wanted = false;
        }
        self.fail(client);
    }

    fn read(&mut self, client: usize, frames: Vec<Frame>) {
        for frame in frames {
            let Some(conn) = self.clients[client].line.as_ref().map(|line| line.id) else {
                return;
            };
            match frame {
                Frame::Ping => self.send_up(client, FromClient::Pong),
                Frame::Close { code, reason } => {
                    self.note(|| format!("{} is closed with {code} {reason}", self.who(client)));
                    match code {
                        1012 => self.clients[client].failures = 0,
                        4421 => self.clients[client].hint = self.name_at(&reason),
                        _ => {}
                    }
                    self.closed(client, code);
                    self.cut(client, conn);
                }
                Frame::Message(message) => self.message(client, conn, &message),
            }
        }
    }

    fn message(&mut self, client: usize, conn: u64, message: &Value) {
        self.note(|| format!("{} reads {message}", self.who(client)));
        match message["type"].as_str().unwrap_or_default() {
            "welcome" => {
                self.check_welcome(client, message);
                self.welcomed(client, conn);
            }
            "move" => {
                let address = message["address"].as_str().unwrap_or_default();
                self.clients[client].hint = self.name_at(address);
            }
            kind @ ("presence" | "snapshot") => {
                if kind == "snapshot" {
                    self.clients[client].answered = self.now;
                }
                for record in message["users"].as_array().expect("a list") {
                    self.see(client, record, kind == "snapshot");
                }
            }
            "error" if message["id"] == 1 => {
                // It asked too much at a time: what it wants to watch it asks for again.
                let at = self.now + 500;
                self.schedule(at, Event::WatchAgain(client, conn));
            }
            _ => {}
        }
    }

    fn name_at(&self, address: &str) -> Option<usize> {
        let name: usize = address.strip_prefix("ws://n")?.parse().ok()?;
        (name < self.names.len()).then_some(name)
    }

    fn welcomed(&mut self, client: usize, conn: u64) {
        let state = &mut self.clients[client];
        state.failures = 0;
        let line = state.line.as_mut().expect("it reads from it");
        if std::mem::replace(&mut line.welcomed, true) {
            // What its user chose came from the store after the first.
            return;
        }
        let process = line.process;
        let (status, watched) = (state.status, state.watched.clone());
        let told = state.opening.status.is_some();
        if !self.truth_begins(client, process) {
            self.note(|| format!("{} is welcomed without the vnode", self.who(client)));
        }
        if !told {
            // A session that returns in grace starts as the last one was, so it says how it is.
            self.say(client, &json!({ "type": "status", "status": status }));
        }
        self.watch_again(client, conn, &watched);
    }

    pub(crate) fn watch_again(&mut self, client: usize, conn: u64, watched: &BTreeSet<String>) {
        let here = self.clients[client]
            .line
            .as_ref()
            .is_some_and(|line| line.id == conn);
        if here && !watched.is_empty() {
            let users: Vec<String> = watched.iter().cloned().collect();
            self.watch(client, &users);
        }
    }

    /// A record is shown to a client: versions grow.
    fn see(&mut self, client: usize, record: &Value, snapshot: bool) {
        let (user, view) = View::read(record);
        let now = self.now;
        let state = &mut self.clients[client];
        let before = state.views.insert(user.clone(), view.clone());
        let answered = state.answered;
        let asked = (state.asked.get_mut(&user).filter(|_| !snapshot))
            .and_then(|asked| asked.pop_front_if(|at| *at <= answered))
            .is_some_and(|at| now < at + 10_000);
        if let Some(before) = before {
            // A question may cross a change, and may be answered late.
            let again = (snapshot || asked) && view == before;
            assert!(
                view.version > before.version || again,
                "I4: {} client {client} saw {before:?} and then {view:?} of {user}",
                self.moment()
            );
        }
    }
}

fn close_code(frames: &[Frame]) -> Option<u16> {
    frames.iter().find_map(|frame| match frame {
        Frame::Close { code, .. } => Some(*code),
        Frame::Message(_) | Frame::Ping => None,
    })
}
