//! Clients that ask faster than they are answered, or do not read what they asked for.

use std::{net::TcpStream, time::Duration};

use serde_json::json;

use crate::{
    common::{CLOSE, Client, Edge, FIN, TEXT, bearer, frame, token},
    decrees::answered,
};

/// A query whose answer has `records` long records.
fn long_query(edge: &Edge, records: usize) -> Vec<u8> {
    let mut wordy = edge.user("wordy");
    wordy.ask(&json!({ "type": "status", "text": "\"".repeat(128) }), "ok");
    let query = json!({ "type": "query", "users": vec!["wordy"; records] });
    frame(FIN | TEXT, query.to_string().as_bytes())
}

/// A client with a socket of its own, for what a [`Client`] cannot do.
fn with_socket(edge: &Edge, user: &str) -> (Client, TcpStream) {
    let stream = TcpStream::connect(edge.address).expect("a connection");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a timeout");
    let socket = stream.try_clone().expect("a handle");
    let mut client = Client::over(Box::new(stream), &bearer(&token(user)));
    client.message();
    (client, socket)
}

#[test]
fn questions_that_follow_each_other_are_all_answered() {
    let edge = Edge::start(&[]);
    let mut client = edge.user("alice");
    // Of users that nobody has asked for yet, on this core and on others.
    let questions = (0..300).map(|n| {
        let kind = if n % 2 == 0 { "watch" } else { "query" };
        let text = json!({ "type": kind, "users": [format!("user-{n}")], "id": n }).to_string();
        frame(FIN | TEXT, text.as_bytes())
    });
    client.raw(&questions.collect::<Vec<_>>().concat());
    let mut answered: Vec<u64> = (0..300)
        .map(|_| {
            let answer = client.message();
            assert!(answer["type"] != "error", "{answer}");
            answer["id"].as_u64().expect("an id")
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..300).collect::<Vec<_>>());
}

#[test]
fn more_than_is_read_at_a_time_is_read_to_its_end() {
    let edge = Edge::start(&["--presence-byte-rate", "64MiB"]);
    let mut client = edge.user("alice");
    let questions = (0..14).map(|n| {
        let text = json!({ "type": "ping", "id": n, "padding": "x".repeat(15_000) }).to_string();
        frame(FIN | TEXT, text.as_bytes())
    });
    client.raw(&questions.collect::<Vec<_>>().concat());
    for n in 0..14 {
        assert_eq!(client.message()["id"], n);
    }
}

#[test]
fn answers_that_are_not_read_yet_are_bounded_and_none_is_lost() {
    let edge = Edge::start(&["--presence-outbox", "64KiB"]);
    let query = long_query(&edge, 1_000);
    let (mut client, mut socket) = with_socket(&edge, "alice");
    let asks = std::thread::spawn(move || {
        for _ in 0..60 {
            std::io::Write::write_all(&mut socket, &query).expect("it is read in the end");
        }
    });
    edge.until_metric_reaches("online_status_blocked_total", "", 1.0);
    // One answer, and what an outbox may have.
    let waits = edge.metric("online_status_outbox_bytes", "");
    assert!(waits < 600_000.0, "{waits} bytes");
    let slow = answered(&edge, "GET /slow");
    assert_eq!(slow["total"], 1, "{slow}");
    let session = &slow["sessions"][0];
    assert_eq!(session["user"], "alice");
    let bytes = session["bytes"].as_f64().expect("a number");
    assert!(bytes > 0.0 && bytes < 1e6, "{slow}");
    for _ in 0..60 {
        let answer = client.message();
        assert_eq!(answer["users"].as_array().map(Vec::len), Some(1_000));
    }
    asks.join().expect("all was asked");
    client.works();
}

#[test]
fn the_close_of_a_deaf_session_comes_behind_what_was_sent_before() {
    let heartbeat = [
        "--presence-heartbeat",
        "1s",
        "--presence-heartbeat-timeout",
        "500ms",
    ];
    let edge = Edge::start(&heartbeat);
    let query = long_query(&edge, 1_000);
    for _ in 0..3 {
        let before = edge.metric("online_status_closes_total", "\"1013\"");
        let (mut client, socket) = with_socket(&edge, "alice");
        socket.set_nonblocking(true).expect("an option");
        while client.stream.write_all(&query).is_ok() {}
        edge.until_metric_reaches("online_status_closes_total", "\"1013\"", before + 1.0);
        socket.set_nonblocking(false).expect("an option");
        let mut last = None;
        // The server waits a short time only: the end may be missing, but nothing in between.
        while let Some((opcode, payload)) = client.frame() {
            if opcode == TEXT {
                serde_json::from_slice::<serde_json::Value>(&payload).expect("a whole message");
            }
            last = Some((opcode, payload));
        }
        let (opcode, payload) = last.expect("something was sent");
        assert!(
            opcode != CLOSE || payload[..2] == 1013_u16.to_be_bytes(),
            "{payload:?}"
        );
    }
}

#[test]
fn a_reset_is_noticed_while_answers_wait() {
    let edge = Edge::start(&["--presence-grace", "500ms"]);
    let query = long_query(&edge, 1_000);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice"]);
    let (mut client, socket) = with_socket(&edge, "alice");
    assert_eq!(watcher.change()["status"], "online");
    socket.set_nonblocking(true).expect("an option");
    while client.stream.write_all(&query).is_ok() {}
    edge.until_metric_reaches("online_status_blocked_total", "", 1.0);
    let zero = Some(Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(&socket, zero).expect("an option");
    drop((client, socket));
    // Far before a heartbeat would tell.
    assert_eq!(watcher.change()["status"], "offline");
}
