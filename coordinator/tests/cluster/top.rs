//! The command `top`: against a running coordinator, one that is not there, and in a terminal.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use protocol::CoreLoad;
use redis_store::testing::RedisServer;
use serde_json::Value;

use crate::common::{Coordinator, Edge, command, until};

fn top(arguments: &[&str]) -> Output {
    let mut command = command();
    command.arg("top").args(arguments);
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is said on the standard error by one that fails with `code`.
fn refused(arguments: &[&str], code: i32) -> String {
    let output = top(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    said
}

#[test]
fn top_shows_nodes_and_cores_once_as_json_and_live_in_a_terminal() {
    let redis = RedisServer::start();
    let coordinator = Coordinator::start(&redis, "c1", &[]);
    let loaded = |name, sessions| {
        Edge::start_with(&redis, name, move |lease| {
            lease.load.sessions = sessions;
            lease.load.deliveries_per_second = 250.4;
            lease.load.delivery_p99_us = 1_250;
            lease.load.per_core = vec![
                CoreLoad {
                    sessions,
                    cpu: Some(421),
                    ..CoreLoad::default()
                },
                CoreLoad::default(),
            ];
        })
    };
    let _edges = (loaded("a", 1_200), loaded("b", 3_400));
    coordinator.until_owned(&[("a", 32), ("b", 32)]);
    let url = format!("http://{}/", coordinator.address);

    let output = top(&["--url", &url, "--once", "--json", "--sort", "sessions"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let fleet: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let b = &fleet["nodes"][0];
    assert_eq!(
        (&b["node"], &b["load"]["sessions"]),
        (&"b".into(), &3_400.into())
    );
    assert_eq!(b["load"]["deliveryP99"], 1.25);
    assert_eq!(b["load"]["perCore"][0]["cpu"], 0.421);
    // The edge of the test renews every 50 ms, and the coordinator looks every 100 ms.
    assert!(
        b["leaseAge"].as_u64().is_some_and(|age| age < 20_000),
        "{b}"
    );

    let output = top(&["--url", &url, "--once", "--cores", "--sort", "node"]);
    let table = text(&output.stdout);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].contains("2 of 2 nodes  4600 sessions"), "{table}");
    let columns: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!(columns[..3], ["NODE", "STATE", "VNODES"], "{table}");
    assert!(
        lines[3].starts_with("a ") && lines[3].contains("1.25"),
        "{table}"
    );
    assert!(
        lines[4].starts_with("  core 0") && lines[4].contains("42%"),
        "{table}"
    );
    assert_eq!(lines.len(), 9, "{table}");

    assert!(refused(&["--url", &url], 1).contains("this is no terminal: add --once"));

    let binary = env!("CARGO_BIN_EXE_online-status-coordinator");
    let line = format!("stty cols 150 rows 20; exec {binary} top --url {url} --interval 200ms");
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm-256color")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux, runs");
    let (mut keys, mut screen) = (
        terminal.stdin.take().expect("it is piped"),
        terminal.stdout.take().expect("it is piped"),
    );
    let mut drawn = String::new();
    let mut until_drawn = |wanted: &str| {
        while !drawn.contains(wanted) {
            let mut bytes = [0; 4_096];
            let taken = screen.read(&mut bytes).expect("the terminal is open");
            assert!(taken > 0, "{wanted} is never drawn: {drawn:?}");
            drawn += &text(&bytes[..taken]);
        }
    };
    until_drawn("VNODES");
    keys.write_all(b"c").expect("the terminal is open");
    until_drawn("core 1");
    keys.write_all(b"q").expect("the terminal is open");
    let ended = until("the terminal is given back", || {
        terminal.try_wait().expect("a child")
    });
    assert!(ended.success(), "{ended}");
}

#[test]
fn top_says_what_to_type_when_it_cannot_ask() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        for answer in [
            "401 Unauthorized\r\ncontent-length: 37\r\n\r\n{\"detail\":\"a bearer token is needed\"}\n",
            "200 OK\r\ncontent-length: 9\r\n\r\n<p>hi</p>",
            "503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a request");
                request.extend(byte);
            }
            let answer = format!("HTTP/1.1 {answer}");
            stream.write_all(answer.as_bytes()).expect("it is read");
        }
    });
    let once = |url: &str| refused(&["--url", url, "--once"], 1);
    let said = once(&url);
    assert!(
        said.contains("a bearer token is needed") && said.contains("--token-file"),
        "{said}"
    );
    assert!(once(&url).contains("this is no coordinator"));
    assert!(once(&url).contains("the answer has the status 503"));
    server.join().expect("no panic");
    let said = once(&url);
    assert!(
        said.contains("is a coordinator there?") && said.contains("--url"),
        "{said}"
    );
    assert!(once("coordinator:8090").contains("it must be the address of a coordinator"));
    for (arguments, wanted) in [
        (["--ca", "/nothing/there"], "--ca /nothing/there"),
        (
            ["--token-file", "/nothing/there"],
            "--token-file /nothing/there",
        ),
        (["--interval", "1ms"], "it must be 200ms to 1h"),
    ] {
        let said = refused(&[&["--once"], &arguments[..]].concat(), 1);
        assert!(said.contains(wanted), "{said}");
    }
    assert!(refused(&["--json"], 2).contains("--once"));
    assert!(refused(&["--once", "--sort", "x"], 2).contains("sessions"));
}
