//! More connections than there may be: who is refused, how, and that the others go on.

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::common::{Client, Edge, bearer, request, response, token, upgrade};

fn silent(edge: &Edge) -> TcpStream {
    let stream = TcpStream::connect(edge.address).expect("a connection");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a timeout");
    stream
}

/// A session as soon as there is room for one.
fn at_last(edge: &Edge, user: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let wanted = upgrade(&bearer(&token(user)));
    while request(edge.address, &wanted).0 != 101 {
        assert!(Instant::now() < deadline, "still no room");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn connections_without_a_token_leave_room_for_sessions() {
    let limits = [
        "--server-max-connections",
        "12",
        "--server-max-unauthenticated",
        "4",
    ];
    let edge = Edge::start(&[&limits[..], &["--server-upgrade-timeout", "60s"]].concat());
    let mut sessions: Vec<Client> = (0..6).map(|n| edge.user(&format!("user-{n}"))).collect();
    let crowd: Vec<TcpStream> = (0..4).map(|_| silent(&edge)).collect();
    edge.until_metric("online_status_unauthenticated_connections", "", 4.0);
    let (head, _) = response(edge.address, &upgrade(&bearer(&token("late"))));
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(head.contains("retry-after: 1\r\n"), "{head}");
    edge.until_metric_reaches(
        "online_status_refused_connections_total",
        "unauthenticated",
        1.0,
    );
    sessions.iter_mut().for_each(Client::works);
    // To a probe it is alive.
    assert_eq!(edge.get("/healthz").0, 200);
    drop(crowd);
    at_last(&edge, "late");
}

#[test]
fn one_address_has_no_more_connections_than_it_may() {
    let edge = Edge::start(&["--server-max-per-address", "2"]);
    let first = edge.user("alice");
    let _second = edge.user("bob");
    let (head, _) = response(edge.address, &upgrade(&bearer(&token("carol"))));
    assert!(head.starts_with("http/1.1 429 "), "{head}");
    drop(first);
    at_last(&edge, "carol");
}

#[test]
fn a_crowd_beyond_the_open_files_is_refused_and_the_sessions_go_on() {
    let edge = Edge::start_under(260, &["--server-upgrade-timeout", "60s"]);
    let mut alice = edge.user("alice");
    let mut crowd: Vec<TcpStream> = (0..300).map(|_| silent(&edge)).collect();
    edge.until_metric_reaches("online_status_refused_connections_total", "", 100.0);
    alice.works();
    // Whoever could not be heard out was told at once, or just hung up on.
    let mut answer = String::new();
    let last = crowd.last_mut().expect("a crowd");
    last.read_to_string(&mut answer).expect("an end");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!((edge.metric("online_status_accept_errors_total", "")).abs() < 0.5);
    drop(crowd);
    at_last(&edge, "bob");
    alice.works();
}
