//! Servers of another kind: what they do wrong is found, and what is wrong in how they are spoken to is
//! said.

use std::{
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;
use tungstenite::{Message, WebSocket};

use crate::{at_once, count, passed};

type Listeners = Arc<Mutex<Vec<TcpStream>>>;

/// What a server does with the tenth message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Missed,
    Duplicated,
    Reordered,
    Complaint,
}

fn write(to: &TcpStream, message: &str) {
    let socket = to.try_clone().expect("a socket");
    let mut socket = WebSocket::from_raw_socket(socket, tungstenite::protocol::Role::Server, None);
    // Whoever left the run is not told.
    let _ = socket.send(Message::text(message));
}

/// A server that sends each message to everyone who said hello, in one thread a connection.
fn serve(fault: Fault) -> String {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address");
    let all = Listeners::default();
    let said = Arc::new(Mutex::new(Vec::<String>::new()));
    thread::spawn(move || {
        for socket in server.incoming().flatten() {
            let (all, said) = (all.clone(), said.clone());
            thread::spawn(move || {
                let copy = socket.try_clone().expect("a socket");
                let Ok(mut socket) = tungstenite::accept(socket) else {
                    return;
                };
                while let Ok(message) = socket.read() {
                    let Message::Text(text) = message else {
                        continue;
                    };
                    if text.as_str() == "hello" {
                        all.lock()
                            .expect("the list")
                            .push(copy.try_clone().expect("a socket"));
                        socket.send(Message::text("well, hello")).expect("told");
                        continue;
                    }
                    let mut said = said.lock().expect("the list");
                    said.push(text.to_string());
                    let now = said.len();
                    let tell = |text: &str| {
                        let all = all.lock().expect("the list");
                        all.iter().for_each(|to| write(to, text));
                    };
                    match fault {
                        Fault::Missed if now == 10 => {}
                        Fault::Reordered if now == 10 => {}
                        Fault::Reordered if now == 11 => {
                            tell(&text);
                            tell(&said[9]);
                        }
                        Fault::Duplicated if now == 10 => {
                            tell(&text);
                            tell(&text);
                        }
                        Fault::Complaint if now == 10 => tell(&format!("problem: {text}")),
                        _ => tell(&text),
                    }
                }
            });
        }
    });
    format!("ws://{address}/")
}

fn bench(url: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-bench"));
    command.args(["fanout", "--url", url, "--sessions", "8", "--duration", "1"]);
    command.args(["--open", "send hello", "--open", "await well"]);
    command.args([
        "--message",
        "${marker} of ${user}${pad}",
        "--fault",
        "problem",
        "--pad",
        "200",
    ]);
    command.args(["--drain", "1", "--json", "--quiet"]);
    let output = command.args(arguments).output().expect("the bench runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    })
}

#[test]
fn a_server_of_another_kind_is_judged_by_the_markers_that_come_back() {
    let cases = [
        (Fault::None, "delivered", 160),
        (Fault::Missed, "missed", 8),
        (Fault::Duplicated, "duplicated", 8),
        // What was passed over at first, and came late.
        (Fault::Reordered, "reordered", 8),
        // The publisher hears it as well.
        (Fault::Complaint, "errors", 9),
    ];
    at_once(cases, |(fault, name, expected)| {
        let report = bench(&serve(fault), &["--rate", "20", "--workers", "2"]);
        assert_eq!(count(&report, "expected"), 160, "{fault:?}: {report}");
        assert_eq!(count(&report, name), expected, "{fault:?}: {report}");
        assert_eq!(passed(&report), fault == Fault::None, "{fault:?}: {report}");
    });
}

#[test]
fn what_a_newer_change_stands_for_is_conflated_where_that_is_said() {
    let report = bench(&serve(Fault::Missed), &["--rate", "20", "--latest"]);
    assert!(passed(&report), "{report}");
    assert_eq!(
        [count(&report, "conflated"), count(&report, "missed")],
        [8, 0]
    );
}

#[test]
fn several_publishers_make_their_changes_in_bursts() {
    let arguments = ["--publishers", "4", "--burst", "20", "--rate", "40"];
    let report = bench(&serve(Fault::None), &arguments);
    assert!(passed(&report), "{report}");
    assert_eq!(count(&report, "delivered"), 8 * 40);
    assert_eq!(report["sessions"], 12);
}
