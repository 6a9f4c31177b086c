//! The bench against a small server of its own, which can be told to misbehave: what it does wrong
//! has to be found and called by its name.

use std::{
    collections::HashMap,
    io::Write,
    net::{TcpListener, TcpStream},
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tungstenite::{
    Message,
    handshake::server::{Request, Response},
    protocol::Role,
};

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// One delivery of the fiftieth change is dropped.
    Missed,
    Duplicated,
    Reordered,
    /// The user is shown as offline in between.
    Flap,
}

#[derive(Default)]
struct User {
    status: &'static str,
    version: u64,
    watchers: Vec<(u64, TcpStream)>,
}

struct Hub {
    fault: Fault,
    changes: u64,
    users: HashMap<String, User>,
}

fn send(mut stream: &TcpStream, message: &Value) {
    let text = message.to_string();
    let mut frame = vec![0x81];
    if text.len() < 126 {
        frame.push(text.len() as u8);
    } else {
        frame.push(126);
        frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
    }
    frame.extend_from_slice(text.as_bytes());
    // A client that has gone is none of ours any more.
    let _ = stream.write_all(&frame);
}

impl Hub {
    fn record(&self, user: &str) -> Value {
        let (status, version) = self
            .users
            .get(user)
            .map_or(("offline", 0), |user| (user.status, user.version));
        json!({ "user": user, "status": status, "version": version, "devices": 1 })
    }

    fn tell(&self, user: &str, skip: usize) {
        let presence = json!({ "type": "presence", "users": [self.record(user)] });
        for (_, watcher) in self.users[user].watchers.iter().skip(skip) {
            send(watcher, &presence);
        }
    }

    fn change(&mut self, user: &str, status: &'static str) {
        self.changes += 1;
        let now = self.changes == 50;
        let entry = self.users.entry(user.into()).or_default();
        if now && self.fault == Fault::Flap {
            entry.version += 1;
            entry.status = "offline";
            self.tell(user, 0);
        }
        let entry = self.users.entry(user.into()).or_default();
        entry.version += 1;
        entry.status = status;
        self.tell(user, usize::from(now && self.fault == Fault::Missed));
        if now && self.fault == Fault::Duplicated {
            self.tell(user, 0);
        }
        if now && self.fault == Fault::Reordered {
            let version = self.users[user].version;
            let entry = self.users.entry(user.into()).or_default();
            entry.version = version - 1;
            self.tell(user, 0);
            self.users.entry(user.into()).or_default().version = version;
        }
    }
}

fn serve(stream: TcpStream, number: u64, hub: &Mutex<Hub>) -> Result<(), tungstenite::Error> {
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
    tungstenite::accept_hdr(stream.try_clone()?, upgrade).expect("an upgrade");
    let mut socket = tungstenite::WebSocket::from_raw_socket(stream, Role::Server, None);
    let lock = || hub.lock().expect("no test thread panics");
    send(
        socket.get_ref(),
        &json!({ "type": "welcome", "user": user }),
    );
    lock().change(&user, "online");
    while let Message::Text(text) = socket.read()? {
        let message: Value = serde_json::from_str(&text).expect("JSON");
        let mut hub = lock();
        match message["type"].as_str().expect("a type") {
            "watch" => {
                let mut records = Vec::new();
                for watched in message["users"].as_array().expect("users") {
                    let watched = watched.as_str().expect("a user");
                    let copy = socket.get_ref().try_clone()?;
                    hub.users
                        .entry(watched.into())
                        .or_default()
                        .watchers
                        .push((number, copy));
                    records.push(hub.record(watched));
                }
                send(
                    socket.get_ref(),
                    &json!({ "type": "snapshot", "users": records }),
                );
            }
            "status" if message["status"] == "away" => hub.change(&user, "away"),
            "status" => hub.change(&user, "online"),
            "bye" => {
                for user in hub.users.values_mut() {
                    user.watchers.retain(|(watcher, _)| *watcher != number);
                }
                hub.change(&user, "offline");
                socket.get_ref().write_all(&[0x88, 2, 0x03, 0xe8])?;
                break;
            }
            other => panic!("the bench sends {other}"),
        }
    }
    Ok(())
}

fn bench(fault: Fault, arguments: &[&str]) -> (Output, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("ws://{}/socket", listener.local_addr().expect("an address"));
    let hub = Arc::new(Mutex::new(Hub {
        fault,
        changes: 0,
        users: HashMap::new(),
    }));
    thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let hub = Arc::clone(&hub);
            // The end of a session is its own business.
            thread::spawn(move || drop(serve(stream.expect("a client"), number, &hub)));
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-bench"));
    command.args([
        "presence",
        "--url",
        &url,
        "--sessions",
        "20",
        "--watch",
        "5",
    ]);
    command
        .args(["--workers", "2", "--drain", "2", "--json", "--quiet"])
        .args(arguments);
    let output = command.output().expect("the bench runs");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output, report)
}

fn count(report: &Value, what: &str) -> u64 {
    report["counts"][what].as_u64().expect("a count")
}

#[test]
fn a_good_server_passes() {
    let (output, report) = bench(Fault::None, &["--rate", "60", "--duration", "3"]);
    assert_eq!(report["failures"], json!([]), "{report}");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(count(&report, "delivered"), count(&report, "expected"));
    assert!(count(&report, "expected") > 300 && report["come"]["count"].as_u64() > Some(0));
}

#[test]
fn every_fault_is_found() {
    let faults = [
        (Fault::Missed, "missed"),
        (Fault::Duplicated, "duplicated"),
        (Fault::Reordered, "reordered"),
        (Fault::Flap, "flaps"),
    ];
    thread::scope(|scope| {
        for (fault, name) in faults {
            scope.spawn(move || {
                let (output, report) =
                    bench(fault, &["--moves", "0", "--rate", "10", "--duration", "6"]);
                assert_eq!(output.status.code(), Some(1), "{report}");
                assert!(count(&report, name) > 0, "{name}: {report}");
            });
        }
    });
}

#[test]
fn no_server_and_wrong_usage_are_told_apart() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-bench"));
        command
            .args(arguments)
            .output()
            .expect("the bench runs")
            .status
            .code()
    };
    assert_eq!(run(&["presence", "--url", "https://x/"]), Some(2));
    assert_eq!(run(&["presence", "--sessions", "0"]), Some(2));
    assert_eq!(run(&["presence", "--assert", "p99"]), Some(2));
}
