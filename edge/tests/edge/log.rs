//! What an edge writes to its log: names of events, in JSON where no person reads it.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    common::{Edge, Folder, SECRET},
    decrees::{admin, ask},
};

/// The events of a log of JSON, each with all that has to be there.
fn events(log: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).expect("a log");
    let lines = text.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("JSON: {line}"));
        for member in ["timestamp", "level", "event", "message"] {
            assert!(event[member].is_string(), "{member}: {line}");
        }
        event
    });
    lines.collect()
}

#[test]
fn a_log_that_goes_to_no_terminal_is_an_object_a_line_with_names_of_events() {
    let folder = Folder::new();
    let log = folder.0.join("log");
    let mut edge = Edge::start_logged(&log, &["--auth-secret", SECRET]);
    let alice = "GET /watchers?userId=al%22ice";
    assert_eq!(ask(&edge, &admin(), alice, "").0, 200);
    assert_eq!(ask(&edge, &admin(), "PUT /trace?userId=bob", "").0, 200);
    // A core takes it with its next tick.
    edge.until("bob is traced", |edge| {
        drop(edge.user("bob"));
        edge.metric("online_status_trace_steps_total", "") >= 1.0
    });
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));

    let events = events(&log);
    let of = |name: &str| {
        let found = events.iter().find(|event| event["event"] == name);
        found.unwrap_or_else(|| panic!("{name} of {events:?}"))
    };
    let started = of("started");
    assert_eq!(started["level"], "INFO");
    let clients = format!("ws://{}/socket", edge.address);
    assert_eq!(
        (&started["clients"], &started["development"]),
        (&clients.into(), &false.into())
    );
    // What a caller chose is one line all the same.
    let asked = of("administration");
    let message = asked["message"].as_str().expect("a text");
    assert!(
        asked["by"] == "root" && message.contains(r#""al\"ice""#),
        "{asked}"
    );
    let step = of("trace_step");
    assert_eq!((&step["user"], &step["core"]), (&"bob".into(), &0.into()));
    assert!(
        step["timeUs"].is_u64() && step["step"].is_string(),
        "{step}"
    );
    assert_eq!(events.last().expect("an event")["event"], "stopped");
}

#[test]
fn the_level_leaves_out_what_is_less_severe() {
    let folder = Folder::new();
    let log = folder.0.join("log");
    let flags = ["--auth-secret", SECRET, "--log-level", "error"];
    let mut edge = Edge::start_logged(&log, &flags);
    assert_eq!(ask(&edge, &admin(), "PUT /trace?userId=bob", "").0, 200);
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));
    assert_eq!(events(&log), Vec::<Value>::new());
}

#[test]
fn people_get_lines_of_text_where_they_ask_for_them() {
    let folder = Folder::new();
    let log = folder.0.join("log");
    let flags = ["--auth-secret", SECRET, "--log-format", "text"];
    let mut edge = Edge::start_logged(&log, &flags);
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));
    let text = std::fs::read_to_string(&log).expect("a log");
    let last = text.lines().last().expect("a line");
    assert!(
        last.contains(" INFO done") && last.contains("event=\"stopped\""),
        "{text}"
    );
    assert!(!text.contains('\u{1b}') && !text.contains('{'), "{text}");
}

#[test]
fn with_a_log_of_json_every_line_is_json_that_of_a_failed_start_too() {
    let run = |flags: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
            .args(["standalone", "--auth-secret", SECRET])
            .args(flags)
            .env_remove("JWT_SECRET")
            .stdin(Stdio::null())
            .output()
            .expect("the edge runs")
    };
    let cores = ["--server-cores", "64", "--log-format"];
    let json = run(&[&cores[..], &["json"]].concat());
    assert_eq!(json.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&json.stdout), "");
    let failed: Value = serde_json::from_slice(&json.stderr).expect("one object");
    assert_eq!(
        (&failed["event"], &failed["level"]),
        (&"failed".into(), &"ERROR".into())
    );
    let why = failed["message"].as_str().expect("a text");
    assert!(why.contains("server.cores = 64: more"), "{why}");
    let auto = run(&[&cores[..], &["auto"]].concat());
    let text = String::from_utf8_lossy(&auto.stderr).into_owned();
    assert!(
        text.starts_with("error: online-status-edge: server.cores"),
        "{text}"
    );
}

#[test]
fn an_edge_serves_while_whoever_reads_its_log_stands_still() {
    let mut edge = Edge::start_unread(&[]);
    // More than the pipe and the queue take.
    for _ in 0..1_200 {
        let (status, told) = ask(&edge, &admin(), "PUT /trace?userId=bob", "");
        assert_eq!(status, 200, "{told}");
    }
    assert!(edge.metric("online_status_log_lines_dropped_total", "") > 0.0);
    drop(edge.user("alice"));
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));
}
