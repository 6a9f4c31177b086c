//! Two small servers with one state, and a coordinator for them, which can be told to misbehave.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tungstenite::{
    Message,
    handshake::server::{Request, Response},
    protocol::Role,
};

/// The number of the report at which the fault begins.
const FAULT_AT: u64 = 30;
/// How long a server that is down stays so.
const OUTAGE: Duration = Duration::from_secs(1);
/// How long servers stand still or tell nothing, and how long they then take what has come before they tell of it.
const FREEZE: Duration = Duration::from_secs(4);
const THAW: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The server drops one delivery.
    Missed,
    Duplicated,
    Reordered,
    /// A user is shown as offline in between.
    Flap,
    /// A user is shown in the other state in between.
    Stray,
    /// A status comes again as another one under the same version.
    Contradiction,
    /// The coordinator sends everyone to the first server.
    StaleRoutes,
    /// The sessions of the first server are told to move to the second, and closed.
    Drained,
    /// As the variant before, without an address to go to.
    Closed,
    /// The same, and what the watchers know comes once more.
    DrainedTwice,
    /// The same, and the new server forgets who watches whom.
    DrainedDeaf,
    /// The connections of the first server are cut, and it is down for a while.
    Crashed,
    /// As the variant before, with no grace period.
    CrashedGraceless,
    /// The same, and a user's last change was not stored.
    CrashedForgetful,
    /// The same, and what the user says when it is back is ignored.
    CrashedStubborn,
    /// The first server puts everyone off for a while (1013).
    Overloaded,
    /// Both servers stand still, and tell the newest state of each user when they go on.
    Frozen,
    /// Both servers serve and tell nothing for the same time, and then the newest state of each user.
    Mute,
}

impl Fault {
    fn crashes(self) -> bool {
        use Fault::{Crashed, CrashedForgetful, CrashedGraceless, CrashedStubborn};
        [Crashed, CrashedForgetful, CrashedGraceless, CrashedStubborn].contains(&self)
    }

    fn drains(self) -> bool {
        use Fault::{Closed, Drained, DrainedDeaf, DrainedTwice};
        [Drained, DrainedTwice, DrainedDeaf, Closed].contains(&self)
    }
}

#[derive(Default)]
struct User {
    status: &'static str,
    version: u64,
    /// The watchers of the user, with their sessions' numbers.
    watchers: Vec<(u64, TcpStream)>,
    sessions: u64,
    /// The number of sessions that the user ever had.
    came: u64,
}

struct Session {
    server: usize,
    stream: TcpStream,
}

struct Hub {
    fault: Fault,
    grace: Duration,
    urls: [String; 2],
    reports: u64,
    /// Whether the fault has begun.
    faulty: bool,
    down_until: Option<Instant>,
    /// The users whose changes are withheld for now.
    untold: Option<HashSet<String>>,
    /// The user that a forgetful server forgot about.
    forgotten: String,
    users: HashMap<String, User>,
    sessions: HashMap<u64, Session>,
}

fn write_frame(mut stream: &TcpStream, opcode: u8, payload: &[u8]) {
    let mut frame = vec![0x80 | opcode];
    if payload.len() < 126 {
        frame.push(payload.len() as u8);
    } else {
        frame.push(126);
        frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    frame.extend_from_slice(payload);
    // A client that has gone is none of ours any more.
    let _ = stream.write_all(&frame);
}

fn send(stream: &TcpStream, message: &Value) {
    write_frame(stream, 1, message.to_string().as_bytes());
}

fn close(stream: &TcpStream, code: u16, reason: &str) {
    write_frame(
        stream,
        8,
        &[&code.to_be_bytes(), reason.as_bytes()].concat(),
    );
}

fn other(status: &str) -> &'static str {
    if status == "away" { "online" } else { "away" }
}

impl Hub {
    fn owner(&self, user: &str) -> usize {
        let number: usize = user
            .rsplit('-')
            .next()
            .and_then(|number| number.parse().ok())
            .expect("users end in a number");
        if self.faulty && self.fault.drains() {
            1
        } else {
            number % 2
        }
    }

    fn record(&self, user: &str) -> Value {
        let (status, version) = self
            .users
            .get(user)
            .filter(|user| user.version > 0)
            .map_or(("offline", 0), |user| (user.status, user.version));
        json!({ "user": user, "status": status, "version": version, "devices": 1 })
    }

    fn tell(&self, record: &Value, skip: usize) {
        let presence = json!({ "type": "presence", "users": [record] });
        let user = record["user"].as_str().expect("a user");
        for (_, watcher) in self.users[user].watchers.iter().skip(skip) {
            send(watcher, &presence);
        }
    }

    fn change(&mut self, user: &str, status: &'static str) {
        let entry = self.users.entry(user.into()).or_default();
        entry.version += 1;
        entry.status = status;
        match &mut self.untold {
            Some(untold) => drop(untold.insert(user.into())),
            None => self.tell(&self.record(user), 0),
        }
    }

    /// A user reports a status.
    fn report(&mut self, user: &str, status: &'static str) {
        let before = self.users[user].status;
        if before == status || (self.forgotten == user && self.fault == Fault::CrashedStubborn) {
            return;
        }
        self.reports += 1;
        if self.reports != FAULT_AT {
            return self.change(user, status);
        }
        self.faulty = true;
        match self.fault {
            Fault::Missed => {
                let entry = self.users.entry(user.into()).or_default();
                entry.version += 1;
                entry.status = status;
                self.tell(&self.record(user), 1);
            }
            Fault::Duplicated => {
                self.change(user, status);
                self.tell(&self.record(user), 0);
            }
            Fault::Reordered => {
                let old = self.record(user);
                self.change(user, status);
                self.tell(&old, 0);
            }
            Fault::Flap => {
                self.change(user, "offline");
                self.change(user, status);
            }
            Fault::Stray => {
                self.change(user, status);
                self.change(user, other(status));
                self.change(user, status);
            }
            Fault::Contradiction => {
                self.change(user, status);
                let mut record = self.record(user);
                record["status"] = other(status).into();
                self.tell(&record, 0);
            }
            Fault::Frozen | Fault::Mute => {
                self.change(user, status);
                self.down_until = Some(Instant::now() + FREEZE);
                self.untold = Some(HashSet::new());
            }
            fault => {
                self.change(user, status);
                if matches!(fault, Fault::CrashedForgetful | Fault::CrashedStubborn) {
                    // Its connection is cut as well, whichever server it is at.
                    self.forgotten = user.into();
                    self.users.get_mut(user).expect("it is there").status = before;
                    self.users.get_mut(user).expect("it is there").version += 1;
                    // Everyone is cut off.
                    self.users
                        .values_mut()
                        .for_each(|user| user.watchers.clear());
                }
                self.break_sessions();
            }
        }
    }

    /// The fault, as the sessions meet it.
    fn break_sessions(&mut self) {
        let both = matches!(self.fault, Fault::CrashedForgetful | Fault::CrashedStubborn);
        if self.fault.crashes() || self.fault == Fault::Overloaded {
            self.down_until = Some(Instant::now() + OUTAGE);
        }
        for session in self.sessions.values() {
            if session.server != 0 && !both {
                continue;
            }
            if self.fault.crashes() {
                // It may be gone already.
                let _ = session.stream.shutdown(Shutdown::Both);
            } else if self.fault == Fault::Overloaded {
                close(&session.stream, 1013, "later");
            } else if self.fault.drains() {
                if self.fault != Fault::Closed {
                    let address = json!({ "type": "move", "address": self.urls[1] });
                    send(&session.stream, &address);
                }
                close(&session.stream, 1012, "moved");
            }
        }
    }

    fn comes(&mut self, user: &str) {
        let entry = self.users.entry(user.into()).or_default();
        entry.sessions += 1;
        entry.came += 1;
        if entry.version == 0 || entry.status == "offline" {
            self.change(user, "online");
        }
    }

    /// A session is over; the users that a grace is to be waited for.
    fn goes(&mut self, user: &str, number: u64, goodbye: bool) -> Option<u64> {
        self.sessions.remove(&number);
        for user in self.users.values_mut() {
            user.watchers.retain(|(watcher, _)| *watcher != number);
        }
        let entry = self.users.get_mut(user).expect("it came");
        entry.sessions -= 1;
        let came = entry.came;
        if entry.sessions > 0 {
            return None;
        }
        if goodbye || self.fault == Fault::CrashedGraceless {
            self.change(user, "offline");
            return None;
        }
        Some(came)
    }

    fn watch(&mut self, message: &Value, number: u64, stream: &TcpStream) {
        let mut records = Vec::new();
        for user in message["users"].as_array().expect("users") {
            let user = user.as_str().expect("a user");
            if !(self.faulty && self.fault == Fault::DrainedDeaf) {
                let watchers = &mut self.users.entry(user.into()).or_default().watchers;
                watchers.push((number, stream.try_clone().expect("a socket")));
            }
            let record = self.record(user);
            if message["known"][user] != record["version"] {
                records.push(record);
            }
        }
        send(stream, &json!({ "type": "snapshot", "users": records }));
        if self.faulty && self.fault == Fault::DrainedTwice {
            for user in message["users"].as_array().expect("users") {
                let record = self.record(user.as_str().expect("a user"));
                send(stream, &json!({ "type": "presence", "users": [record] }));
            }
        }
    }
}

fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    hub.lock().expect("no test thread panics")
}

fn serve(
    stream: &TcpStream,
    number: u64,
    server: usize,
    hub: &Arc<Mutex<Hub>>,
) -> Result<(), tungstenite::Error> {
    let mut user = String::new();
    #[expect(clippy::result_large_err, reason = "the callback's type is given")]
    let upgrade = |request: &Request, mut response: Response| {
        let token = request.headers()["authorization"].to_str().expect("ASCII");
        let claims = token.split('.').nth(1).expect("a JWT");
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        claims["sub"]
            .as_str()
            .expect("a user")
            .clone_into(&mut user);
        let protocol = "online-status.v1.json".parse().expect("a header");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    if tungstenite::accept_hdr(stream.try_clone()?, upgrade).is_err() {
        return Ok(());
    }
    let mut socket =
        tungstenite::WebSocket::from_raw_socket(stream.try_clone()?, Role::Server, None);
    wait_until_missed(hub, &user);
    {
        let mut hub = lock(hub);
        let owner = hub.owner(&user);
        if owner != server {
            close(stream, 4421, &hub.urls[owner]);
            return Ok(());
        }
        send(stream, &json!({ "type": "welcome", "user": user }));
        let session = Session {
            server,
            stream: stream.try_clone()?,
        };
        hub.sessions.insert(number, session);
        hub.comes(&user);
    }
    let mut goodbye = false;
    while let Ok(message) = socket.read() {
        let text = match message {
            Message::Text(text) => text,
            Message::Ping(_) => continue,
            _ => break,
        };
        stand_still(hub);
        let message: Value = serde_json::from_str(&text).expect("JSON");
        let mut hub = lock(hub);
        match message["type"].as_str().expect("a type") {
            "watch" => hub.watch(&message, number, stream),
            "status" if message["status"] == "away" => hub.report(&user, "away"),
            "status" => hub.report(&user, "online"),
            "bye" => {
                goodbye = true;
                break;
            }
            other => panic!("the bench sends {other}"),
        }
    }
    let waits = lock(hub).goes(&user, number, goodbye);
    if goodbye {
        close(stream, 1000, "");
    }
    if let Some(came) = waits {
        let grace = lock(hub).grace;
        thread::sleep(grace);
        let mut hub = lock(hub);
        if hub.users[&user].came == came {
            hub.change(&user, "offline");
        }
    }
    Ok(())
}

/// Lets the forgotten user in only when somebody has seen what was forgotten.
fn wait_until_missed(hub: &Mutex<Hub>, user: &str) {
    for _ in 0..200 {
        let hub = lock(hub);
        if hub.forgotten != user || !hub.users[user].watchers.is_empty() {
            return;
        }
        drop(hub);
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits while the servers are frozen; who comes first after that, or after they were mute, has all
/// told after the thaw.
fn stand_still(hub: &Arc<Mutex<Hub>>) {
    let (fault, until) = {
        let hub = lock(hub);
        (hub.fault, hub.down_until)
    };
    let Some(until) = until else { return };
    let left = until.saturating_duration_since(Instant::now());
    match fault {
        Fault::Frozen => thread::sleep(left),
        Fault::Mute if left.is_zero() => {}
        _ => return,
    }
    if lock(hub).down_until.take().is_some() {
        let hub = Arc::clone(hub);
        thread::spawn(move || {
            thread::sleep(THAW);
            let mut hub = lock(&hub);
            for user in hub.untold.take().unwrap_or_default() {
                hub.tell(&hub.record(&user), 0);
            }
        });
    }
}

/// Answers `GET /route?userId=`, as often as it is asked on a connection.
fn coordinate(mut stream: &TcpStream, hub: &Mutex<Hub>) {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    for line in lines {
        let Some(user) = line.strip_prefix("GET /route?userId=") else {
            continue;
        };
        let user = user.strip_suffix(" HTTP/1.1").expect("a request");
        let hub = lock(hub);
        let owner = if hub.fault == Fault::StaleRoutes {
            0
        } else {
            hub.owner(user)
        };
        let body = json!({ "userId": user, "vnode": 1, "node": "n", "address": hub.urls[owner] });
        let body = body.to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).is_err() {
            break;
        }
    }
}

/// Has each connection to a new port served on a thread of its own; the port.
fn listen(serve: impl Fn(TcpStream, u64) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.expect("a client"), number));
        }
    });
    port
}

/// Starts two servers and a coordinator; the URL of the first server and that of the coordinator.
pub(crate) fn start(fault: Fault, grace: Duration) -> (String, String) {
    let hub = Arc::new(Mutex::new(Hub {
        fault,
        grace,
        urls: Default::default(),
        reports: 0,
        faulty: false,
        down_until: None,
        untold: None,
        forgotten: String::new(),
        users: HashMap::new(),
        sessions: HashMap::new(),
    }));
    for server in 0..2 {
        let shared = Arc::clone(&hub);
        let port = listen(move |stream, number| {
            let down = lock(&shared)
                .down_until
                .is_some_and(|until| Instant::now() < until);
            // While it is down the connection closes unanswered.
            if !(down && server == 0 && fault.crashes()) {
                // The end of a session is its own business.
                let _ = serve(&stream, number * 2 + server as u64, server, &shared);
            }
        });
        lock(&hub).urls[server] = format!("ws://127.0.0.1:{port}/socket");
    }
    let url = lock(&hub).urls[0].clone();
    let port = listen(move |stream, _| coordinate(&stream, &hub));
    (url, format!("http://127.0.0.1:{port}"))
}
