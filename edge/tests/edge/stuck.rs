//! Peers that never get anywhere, and storms of resets: the others notice nothing of them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;

use crate::common::{CLOSE, Client, Edge, FIN, TEXT, bearer, frame, token, upgrade};

#[test]
fn a_token_that_comes_byte_by_byte_has_no_more_time_than_any() {
    let edge = Edge::start(&["--server-auth-timeout", "400ms"]);
    let mut slow = edge.stranger();
    let message = json!({ "type": "auth", "token": token("alice") }).to_string();
    for byte in frame(FIN | TEXT, message.as_bytes()) {
        if slow.stream.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut end = None;
    while let Some((opcode, payload)) = slow.frame() {
        end = Some((opcode, payload));
    }
    // What was written behind the end may have reset it.
    if let Some((opcode, payload)) = end {
        assert_eq!(
            (opcode, &payload[..2]),
            (CLOSE, &4408_u16.to_be_bytes()[..])
        );
    }
    edge.until_metric("online_status_closes_total", "\"4408\"", 1.0);
    edge.until_metric("online_status_unauthenticated_connections", "", 0.0);
}

#[test]
fn a_storm_of_resets_at_every_stage_leaves_nothing_behind() {
    let edge = Edge::start(&["--presence-grace", "200ms"]);
    let mut good = edge.user("good");
    let head = upgrade(&bearer(&token("stormy")));
    let asks = frame(FIN | TEXT, br#"{"type":"watch","users":["good","other"]}"#);
    let all = [head.as_bytes(), &asks].concat();
    for n in 0..300 {
        let mut stream = TcpStream::connect(edge.address).expect("a connection");
        let bytes = &all[..all.len() * (n % 7) / 6];
        // The edge may have been quicker.
        let _ = stream.write_all(bytes);
        if n % 3 == 0 {
            stream
                .set_read_timeout(Some(Duration::from_millis(5)))
                .expect("a timeout");
            let _ = stream.read(&mut [0; 64]);
        }
        let zero = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&stream, zero).expect("an option");
        drop(stream);
        if n % 100 == 0 {
            good.works();
        }
    }
    edge.until_metric("online_status_connections", "", 1.0);
    edge.until_metric("online_status_sessions", "", 1.0);
    edge.until_metric("online_status_watchers", "", 0.0);
    edge.until_metric("online_status_users", "", 1.0);
    good.works();
}

#[test]
fn clients_that_gave_up_before_their_turn_are_never_shown_as_online() {
    let edge = Edge::start(&[]);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["impatient"]);
    edge.until_metric("online_status_connects_total", "", 1.0);
    let auth = json!({ "type": "auth", "token": token("impatient") }).to_string();
    let by_header = upgrade(&bearer(&token("impatient"))).into_bytes();
    let by_message = [upgrade("").as_bytes(), &frame(FIN | TEXT, auth.as_bytes())].concat();
    // An edge that has no time for new connections, to the utmost.
    edge.signal(Signal::STOP);
    for n in 0..40 {
        let mut stream = TcpStream::connect(edge.address).expect("the kernel takes it");
        let bytes = if n % 2 == 0 { &by_header } else { &by_message };
        stream.write_all(bytes).expect("the kernel takes it");
        if n % 4 < 2 {
            let zero = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&stream, zero).expect("an option");
        }
    }
    edge.signal(Signal::CONT);
    edge.until_metric("online_status_connections", "", 1.0);
    edge.until_metric_reaches("online_status_accepted_total", "", 21.0);
    edge.until_metric("online_status_abandoned_connections_total", "", 20.0);
    edge.until_metric("online_status_connects_total", "", 1.0);
    watcher.nothing_comes();
}

#[test]
fn a_frame_that_never_ends_holds_its_own_message_at_most_and_its_session_alone() {
    let edge = Edge::start(&[
        "--presence-heartbeat",
        "1s",
        "--presence-heartbeat-timeout",
        "500ms",
    ]);
    let mut good = edge.user("good");
    let mut crowd: Vec<Client> = (0..20).map(|n| edge.user(&format!("slow-{n}"))).collect();
    for client in &mut crowd {
        let whole = frame(FIN | TEXT, &[b' '; 20_000]);
        client.raw(&whole[..19_000]);
    }
    good.works();
    // Then nothing more comes of any of them, nor of the good one.
    edge.until_metric("online_status_closes_total", "\"4408\"", 21.0);
    edge.until_metric("online_status_sessions", "", 0.0);
    edge.user("late").works();
}

#[test]
fn a_window_that_stays_shut_holds_no_connection_of_the_edge() {
    use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

    let edge = Edge::start(&[]);
    let mut good = edge.user("good");
    // The window never takes one answer whole, and nothing is read of it.
    let shut = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    sockopt::set_socket_recv_buffer_size(&shut, 2_048).expect("an option");
    connect(&shut, &edge.address).expect("a connection");
    let mut shut = TcpStream::from(shut);
    let asks = b"GET /client.js HTTP/1.1\r\nhost: edge\r\n\r\n";
    shut.write_all(asks).expect("a request");
    edge.until_metric("online_status_connections", "", 2.0);
    edge.until_metric("online_status_connections", "", 1.0);
    good.works();
}
