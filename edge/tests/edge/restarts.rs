//! Starts at an address that another process has: one that was killed, whose sockets the kernel takes
//! apart only after its end, and one that lives.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::common::{Edge, SECRET, bearer, token, upgrade};

const SESSIONS: usize = 2_000;
const USERS: usize = 40;

/// Sessions of real users, each welcomed, that say nothing more.
fn sessions(edge: &Edge) -> Vec<TcpStream> {
    let heads: Vec<String> = (0..USERS)
        .map(|n| upgrade(&bearer(&token(&format!("user-{n}")))))
        .collect();
    let open = |n: usize| {
        let mut stream = TcpStream::connect(edge.address).expect("a connection");
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).expect("a timeout");
        stream
            .write_all(heads[n % USERS].as_bytes())
            .expect("it is read");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..SESSIONS).map(open).collect();
    for stream in &mut streams {
        let mut bytes = Vec::new();
        let mut buffer = [0; 1_024];
        while !bytes.windows(9).any(|part| part == b"\"welcome\"") {
            let count = stream.read(&mut buffer).expect("an answer");
            assert!(
                count > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&bytes)
            );
            bytes.extend_from_slice(&buffer[..count]);
        }
    }
    streams
}

#[test]
fn an_edge_of_2000_sessions_that_is_killed_starts_again_at_once_each_time() {
    const TIMES: usize = 50;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum");
    let flags = ["--server-max-connections", "5000"];
    let mut edge = Edge::start(&flags);
    for _ in 0..TIMES {
        let streams = sessions(&edge);
        // Fails when the process ends instead of waiting for its addresses.
        edge = edge.kill_and_start(&flags);
        drop(streams);
    }
    edge.until_ready();
    edge.user("alice");
}

/// Starts an edge in vain and gives what it said, and how long it took.
fn refused(listen: &str, admin: &str) -> (String, Duration) {
    let started = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
        .args([
            "standalone",
            "--listen",
            listen,
            "--server-admin-listen",
            admin,
        ])
        .args(["--auth-secret", SECRET])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    (said, started.elapsed())
}

#[test]
fn a_second_process_at_an_address_is_found_after_some_seconds_of_waiting() {
    let first = Edge::start(&[]);
    let (listen, admin) = (first.address.to_string(), first.admin.to_string());
    for (listen, admin, setting, address) in [
        (listen.as_str(), "127.0.0.1:0", "server.listen", &listen),
        ("127.0.0.1:0", &admin, "server.admin_listen", &admin),
    ] {
        let (said, took) = refused(listen, admin);
        let waits = format!("{setting} = {address} is in use, waiting up to 5 s for it");
        assert_eq!(said.matches(&waits).count(), 1, "{said}");
        let fails =
            format!("error: online-status-edge: {setting} = {address}: cannot listen there");
        assert!(said.contains(&fails), "{said}");
        assert!(said.contains("choose another port"), "{said}");
        assert!(took >= Duration::from_secs(5), "{took:?}");
    }
    assert_eq!(first.get_admin("/readyz").0, 200);
}

#[test]
fn an_address_that_gets_free_while_it_is_waited_for_is_taken() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("an address");
    let mut child = Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
        .args(["standalone", "--listen", &address.to_string()])
        .args([
            "--server-admin-listen",
            "127.0.0.1:0",
            "--auth-secret",
            SECRET,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = String::new();
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe"));
    errors.read_line(&mut said).expect("a line");
    assert!(said.contains("is in use, waiting"), "{said}");
    drop(holder);
    let deadline = Instant::now() + Duration::from_secs(20);
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let answers = || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(request).ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).ok()?;
        Some(answer)
    };
    while answers().is_none_or(|answer| &answer != b"HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "it never serves");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("it runs");
    child.wait().expect("a child");
}
