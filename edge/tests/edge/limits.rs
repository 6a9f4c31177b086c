//! More connections than there may be: who is refused, how, and that the others go on.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::common::{
    Client, Edge, FIN, TEXT, bearer, frame, read_response, request, response, token, upgrade,
};

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

#[test]
fn an_address_that_connects_too_often_waits_and_then_connects() {
    let edge = Edge::start(&[
        "--server-connection-rate",
        "2",
        "--server-connection-burst",
        "5",
    ]);
    let wanted = upgrade(&bearer(&token("alice")));
    // The probes of the start may have been connections, too.
    let refused = (0..6)
        .map(|_| response(edge.address, &wanted).0)
        .find(|head| !head.starts_with("http/1.1 101 "));
    let refused = refused.expect("more than the burst");
    assert!(refused.starts_with("http/1.1 429 "), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    edge.until_metric_reaches("online_status_refused_connections_total", "\"rate\"", 1.0);
    at_last(&edge, "alice");
}

#[test]
fn the_newest_session_of_a_user_wins_where_that_is_wanted_and_nobody_sees_a_gap() {
    let edge = Edge::start(&[
        "--presence-max-devices",
        "2",
        "--presence-over-max-devices",
        "newest",
    ]);
    let mut watcher = edge.user("watcher");
    watcher.watch(&["alice"]);
    let mut oldest = edge.user("alice");
    assert_eq!(watcher.change()["devices"], 1);
    let mut second = edge.user("alice");
    assert_eq!(watcher.change()["devices"], 2);
    let mut third = edge.user("alice");
    let (code, reason) = oldest.close_frame();
    assert_eq!((code, reason.contains("newer session")), (4409, true));
    second.works();
    third.works();
    edge.until_metric("online_status_replaced_total", "", 1.0);
    let record = watcher.watch(&["alice"]).remove(0);
    assert_eq!(
        (&record["status"], &record["devices"]),
        (&json!("online"), &json!(2))
    );
}

#[test]
fn all_sessions_together_watch_no_more_than_they_may() {
    let edge = Edge::start(&["--presence-max-watches-total", "10", "--server-cores", "2"]);
    let mut sessions: Vec<Client> = (0..4).map(|n| edge.user(&format!("user-{n}"))).collect();
    let watch = |n: usize, users: &[&str]| json!({ "type": "watch", "users": users.iter().map(|u| format!("{u}-{n}")).collect::<Vec<_>>() });
    for (n, session) in sessions.iter_mut().enumerate().take(3) {
        session.ask(&watch(n, &["a", "b", "c"]), "snapshot");
    }
    let last = &mut sessions[3];
    let error = last.ask(&watch(3, &["a", "b"]), "error");
    assert_eq!(error["code"], "watch_limit", "{error}");
    // Nothing of it was done, and what fits is.
    last.ask(&watch(3, &["a"]), "snapshot");
    edge.until_metric("online_status_watchers", "", 10.0);
    edge.until_metric("online_status_watch_limit_total", "", 1.0);
    let unwatch = json!({ "type": "unwatch", "users": ["a-0", "nobody"] });
    sessions[0].ask(&unwatch, "ok");
    // With its session go its watches.
    drop(sessions.remove(1));
    edge.until_metric("online_status_watchers", "", 6.0);
    sessions[2].ask(&watch(3, &["b", "c", "d", "e"]), "snapshot");
    let error = sessions[2].ask(&watch(3, &["f"]), "error");
    assert_eq!(error["code"], "watch_limit", "{error}");
}

#[test]
fn a_session_that_sends_more_bytes_than_it_may_ends_with_4429_and_others_go_on() {
    let edge = Edge::start(&[
        "--presence-byte-burst",
        "64KiB",
        "--presence-byte-rate",
        "1KiB",
    ]);
    let mut good = edge.user("good");
    let mut greedy = edge.user("greedy");
    // Unknown members are passed over: these are few messages.
    let long = json!({ "type": "ping", "padding": "x".repeat(10_000) }).to_string();
    for _ in 0..5 {
        greedy.say(&serde_json::from_str(&long).expect("JSON"));
        assert_eq!(greedy.message()["type"], "pong");
    }
    for _ in 0..5 {
        // The end may come before the last is written.
        let _ = greedy.stream.write_all(&frame(FIN | TEXT, long.as_bytes()));
    }
    let (code, reason) = greedy.close_frame();
    assert_eq!((code, reason.as_str()), (4429, "too many bytes"));
    good.works();
}

#[test]
fn with_as_much_memory_as_it_may_have_an_edge_lets_nobody_in_and_the_sessions_go_on() {
    let edge = Edge::start(&[
        "--server-max-memory",
        "24MiB",
        "--server-max-message",
        "512KiB",
        "--presence-max-watches-total",
        "10000000",
    ]);
    let mut alice = edge.user("alice");
    // Users that are watched are in memory.
    let mut sessions: Vec<Client> = Vec::new();
    let limit = edge.metric("online_status_memory_limit_bytes", "");
    assert!((limit - f64::from(24 << 20)).abs() < 0.5, "{limit}");
    while edge.metric("online_status_memory_bytes", "") < limit {
        let n = sessions.len();
        assert!(n < 200, "its memory does not grow");
        let token = token(&format!("user-{n}"));
        let Ok(mut session) = Client::try_open(&edge, &bearer(&token)) else {
            break;
        };
        session.message();
        let user = |i: usize| format!("{n}-{i}-{}", "x".repeat(230));
        let users: Vec<String> = (0..1_000).map(user).collect();
        session.ask(&json!({ "type": "watch", "users": users }), "snapshot");
        sessions.push(session);
    }
    let refused = response(edge.address, &upgrade(&bearer(&token("late")))).0;
    assert!(refused.starts_with("http/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 5\r\n"), "{refused}");
    alice.works();
    sessions.iter_mut().for_each(Client::works);
    // To a probe it is alive.
    assert_eq!(edge.get("/healthz").0, 200);
    edge.until_metric_reaches("online_status_refused_connections_total", "\"memory\"", 1.0);
    drop(sessions);
    at_last(&edge, "late");
    alice.works();
}

#[test]
fn without_descriptors_accepting_pauses_without_a_busy_loop_and_goes_on_by_itself() {
    let edge = Edge::start(&["--server-cores", "1"]);
    let mut alice = edge.user("alice");
    // Further sockets wait in the kernel.
    let all = edge.limit_descriptors(edge.open_descriptors());
    let mut waits = TcpStream::connect(edge.address).expect("the kernel accepts");
    waits
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let request = upgrade(&bearer(&token("bob")));
    waits
        .write_all(request.as_bytes())
        .expect("the kernel takes it");
    std::thread::sleep(Duration::from_secs(1));
    alice.works();
    edge.limit_descriptors(all);
    let head = read_response(&mut waits).0;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let errors = edge.metric("online_status_accept_errors_total", "");
    assert!(
        (1.0..60.0).contains(&errors),
        "{errors} attempts in a second"
    );
}

#[test]
fn silent_connections_end_with_the_time_for_the_upgrade_and_are_counted() {
    let edge = Edge::start(&["--server-upgrade-timeout", "300ms"]);
    let mut nothing = silent(&edge);
    // A byte now and then does not buy more time.
    let mut slow = silent(&edge);
    let text = upgrade(&bearer(&token("alice")));
    for byte in text.bytes() {
        if slow.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut answer = Vec::new();
    // What was written behind the end may have reset it.
    let _ = slow.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!(nothing.read(&mut [0; 9]).expect("an end"), 0);
    let late = "\"upgrade_timeout\"";
    edge.until_metric("online_status_refused_connections_total", late, 2.0);
}
