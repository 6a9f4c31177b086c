//! Clients behind proxies: whose word is taken for who they are, in headers and in the PROXY protocol.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::common::{Client, Edge, Folder, SECRET, bearer, request, response, token, upgrade};

/// How a version 2 header begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version 2 header of these bytes of command, family, and the rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// A version 2 header of a client by IPv4.
fn v2_from(address: [u8; 4], entries: &[u8]) -> Vec<u8> {
    v2(
        0x21,
        0x11,
        &[&address[..], &[10, 0, 0, 1, 1, 2, 0, 80], entries].concat(),
    )
}

/// A connection to the edge that begins with these bytes.
fn connection(edge: &Edge, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(edge.address).expect("a connection");
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).expect("a timeout");
    stream.write_all(first).expect("it is read");
    stream
}

/// All that comes on a connection.
fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a request that comes behind these bytes.
fn status_behind(edge: &Edge, first: &[u8], text: &str) -> u16 {
    let stream = connection(edge, &[first, text.as_bytes()].concat());
    let line = answer(stream);
    let status = line
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no answer to {first:?}"));
    status.parse().expect("a status")
}

const READY: &str = "GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The WebSocket of a user behind a proxy that writes this, or the status that refuses it.
fn forwarded(edge: &Edge, user: &str, headers: &str) -> Result<TcpStream, u16> {
    let headers = format!("{}{headers}", bearer(&token(user)));
    let mut stream = connection(edge, upgrade(&headers).as_bytes());
    let (head, _) = crate::common::read_response(&mut stream);
    match head.split(' ').nth(1) {
        Some("101") => Ok(stream),
        status => Err(status
            .and_then(|status| status.parse().ok())
            .expect("a status")),
    }
}

fn route(edge: &Edge, headers: &str) -> String {
    let text = format!("GET /route?userId=a HTTP/1.1\r\nhost: inner:8080\r\n{headers}\r\n");
    let (status, body) = request(edge.address, &text);
    assert_eq!(status, 200, "{body}");
    let route: Value = serde_json::from_str(&body).expect("JSON");
    route["address"].as_str().expect("an address").to_owned()
}

/// A session when the limit has room for it again: a connection is counted for a moment after its
/// answer, or its end, was seen.
fn when_free(edge: &Edge, headers: &str) -> TcpStream {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match forwarded(edge, "user", headers) {
            Ok(client) => return client,
            Err(status) => assert_eq!(status, 429),
        }
        assert!(
            std::time::Instant::now() < deadline,
            "still counted: {headers}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn limits_are_of_the_clients_behind_a_trusted_proxy_and_not_of_the_proxy() {
    let flags = [
        "--server-trusted-proxies",
        "127.0.0.1",
        "--server-max-per-address",
        "1",
    ];
    let edge = Edge::start(&flags);
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let first = when_free(&edge, &from("192.0.2.1"));
    let _second = when_free(&edge, &from("192.0.2.2"));
    let _six = when_free(&edge, &from("[2001:db8::1]:99"));
    for same in [
        "192.0.2.1",
        "9.9.9.9, 192.0.2.1",
        "192.0.2.2:1234",
        "::ffff:192.0.2.1, 127.0.0.1",
        "2001:db8::ffff",
    ] {
        assert_eq!(
            forwarded(&edge, "late", &from(same)).err(),
            Some(429),
            "{same}"
        );
        let ask = format!(
            "GET /route?userId=a HTTP/1.1\r\nhost: x\r\n{}\r\n",
            from(same)
        );
        assert_eq!(request(edge.address, &ask).0, 429, "{same}");
        // To a probe it is alive.
        let probe = format!("GET /readyz HTTP/1.1\r\nhost: x\r\n{}\r\n", from(same));
        assert_eq!(request(edge.address, &probe).0, 200, "{same}");
    }
    drop(first);
    let _again = when_free(&edge, &from("192.0.2.1"));
}

#[test]
fn one_connection_of_a_proxy_carries_requests_of_many_clients() {
    let flags = [
        "--server-trusted-proxies",
        "127.0.0.0/8",
        "--server-max-per-address",
        "1",
    ];
    let edge = Edge::start(&flags);
    let _first = forwarded(&edge, "alice", "X-Forwarded-For: 192.0.2.1\r\n").expect("room");
    let ask = |address: &str| {
        format!("GET /route?userId=a HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {address}\r\n\r\n")
    };
    let mut kept = connection(&edge, ask("192.0.2.2").as_bytes());
    let (head, _) = crate::common::read_response(&mut kept);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    // The connection rests, and nobody is counted for it.
    let _second = when_free(&edge, "X-Forwarded-For: 192.0.2.2\r\n");
    for (address, status) in [("192.0.2.3", 200), ("192.0.2.1", 429)] {
        kept.write_all(ask(address).as_bytes()).expect("it is read");
        let (head, _) = crate::common::read_response(&mut kept);
        assert!(
            head.starts_with(&format!("http/1.1 {status} ")),
            "{address}: {head}"
        );
    }
}

#[test]
fn what_anyone_else_says_in_a_header_is_never_believed() {
    let headers = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
                   X-Forwarded-Host: evil.example\r\nForwarded: for=192.0.2.1;proto=https\r\n";
    let limit = ["--server-max-per-address", "2"];
    for trusted in [
        &[][..],
        &["--server-trusted-proxies", "10.0.0.0/8,::1,127.0.0.2"],
    ] {
        let edge = Edge::start(&[&limit[..], trusted].concat());
        let own = format!("ws://{}/socket", edge.address);
        assert_eq!(route(&edge, headers), own);
        let _first = edge.user("alice");
        let _second = edge.user("bob");
        let (head, _) = response(
            edge.address,
            &upgrade(&format!("{}{headers}", bearer(&token("x")))),
        );
        assert!(head.starts_with("http/1.1 429 "), "{head}");
    }
}

#[test]
fn a_route_is_what_the_client_asked_its_proxy_for() {
    let edge = Edge::start(&["--server-trusted-proxies", "127.0.0.1"]);
    for (headers, address) in [
        ("", "ws://inner:8080/socket"),
        ("X-Forwarded-Proto: https\r\n", "wss://inner:8080/socket"),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: chat.example\r\n",
            "wss://chat.example/socket",
        ),
        (
            "X-Forwarded-For: 1.1.1.1, 192.0.2.1\r\nX-Forwarded-Proto: https, http\r\n\
             X-Forwarded-Host: evil.example\r\nX-Forwarded-Host: chat.example:81\r\n",
            "ws://chat.example:81/socket",
        ),
        ("X-Forwarded-Host: a\"b\r\n", "ws://inner:8080/socket"),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: chat.example\r\n\
             X-Forwarded-Port: 8443\r\n",
            "wss://chat.example:8443/socket",
        ),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: chat.example\r\n\
             X-Forwarded-Port: 443\r\n",
            "wss://chat.example/socket",
        ),
    ] {
        assert_eq!(route(&edge, headers), address, "{headers}");
    }
    // One that was told its address tells that.
    let url = "wss://told.example/socket";
    let told = [
        "--server-trusted-proxies",
        "127.0.0.1",
        "--server-public-url",
        url,
    ];
    let told = Edge::start(&told);
    assert_eq!(route(&told, "X-Forwarded-Host: chat.example\r\n"), url);
}

#[test]
fn a_client_by_ipv6_may_be_a_proxy_or_not() {
    let edge = Edge::start_everywhere(&["--server-trusted-proxies", "::1"]);
    let ask = |host: &str| {
        let mut stream = TcpStream::connect((host, edge.address.port())).expect("a connection");
        let text =
            "GET /route?userId=a HTTP/1.1\r\nhost: inner\r\nx-forwarded-proto: https\r\n\r\n";
        stream.write_all(text.as_bytes()).expect("it is read");
        crate::common::read_response(&mut stream).1
    };
    assert!(ask("::1").contains("\"wss://inner/socket\""));
    // It comes as ::ffff:127.0.0.1.
    assert!(ask("127.0.0.1").contains("\"ws://inner/socket\""));
    let mapped = Edge::start_everywhere(&["--server-trusted-proxies", "127.0.0.1"]);
    assert_eq!(
        route(&mapped, "X-Forwarded-Proto: https\r\n"),
        "wss://inner:8080/socket"
    );
}

const PROXY: [&str; 4] = [
    "--server-trusted-proxies",
    "127.0.0.1",
    "--server-proxy-protocol",
    "true",
];

#[test]
fn a_proxy_header_says_who_the_client_is_however_it_comes() {
    let edge = Edge::start(&[&PROXY[..], &["--server-max-per-address", "1"]].concat());
    let tcp4 = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n";
    let ws = upgrade(&bearer(&token("alice")));
    // Both versions, and both addresses of one /64, count for the same clients.
    let mut held = Vec::new();
    for first in [
        &tcp4[..],
        b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n",
        &v2_from([192, 0, 2, 2], &[]),
        &v2_from(
            [192, 0, 2, 3],
            &[0x02, 0, 3, b'h', b'o', b'm', 0x20, 0, 5, 1, 0, 0, 0, 0],
        ),
    ] {
        let mut stream = connection(&edge, first);
        std::thread::sleep(Duration::from_millis(30));
        let mut client = Client::over(
            Box::new(stream.try_clone().expect("a descriptor")),
            &bearer(&token("alice")),
        );
        assert_eq!(client.message()["type"], "welcome");
        stream.flush().expect("a socket");
        held.push(client);
    }
    for again in [
        &tcp4[..],
        b"PROXY TCP6 2001:db8::ffff 2001:db8::2 4712 80\r\n",
        &v2_from([192, 0, 2, 2], &[]),
        &v2_from([192, 0, 2, 3], &[]),
    ] {
        assert_eq!(status_behind(&edge, again, &ws), 429);
        assert_eq!(status_behind(&edge, again, READY), 200);
    }
    // Byte by byte.
    let pieces = [
        &v2_from([192, 0, 2, 9], &[0x04, 0, 1, 0])[..],
        READY.as_bytes(),
    ]
    .concat();
    let mut stream = connection(&edge, b"");
    for byte in pieces {
        stream.write_all(&[byte]).expect("it is read");
        stream.flush().expect("it is sent");
    }
    assert!(answer(stream).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_proxys_own_connections_are_served_and_nobodys_word_is_taken_there() {
    let edge = Edge::start(&[&PROXY[..], &["--server-max-per-address", "1"]].concat());
    let spoofed = "GET /route?userId=a HTTP/1.1\r\nhost: inner\r\nx-forwarded-proto: https\r\n\
                   x-forwarded-for: 192.0.2.1\r\nconnection: close\r\n\r\n";
    for own in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n",
        &v2(0x20, 0x00, b""),
        &v2(0x20, 0x11, &[0; 12]),
        &v2(0x20, 0x11, b""),
        &v2(0x21, 0x00, b""),
        &v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        assert_eq!(status_behind(&edge, own, "OPTIONS / HTTP/1.0\r\n\r\n"), 204);
        assert_eq!(status_behind(&edge, own, READY), 200);
        let routed = answer(connection(&edge, &[own, spoofed.as_bytes()].concat()));
        assert!(routed.contains("\"ws://"), "{routed}");
    }
    // A client of the proxy is no proxy, whatever its headers say.
    let first = v2_from([192, 0, 2, 7], &[]);
    let routed = answer(connection(
        &edge,
        &[&first[..], spoofed.as_bytes()].concat(),
    ));
    assert!(routed.contains("\"ws://inner/socket\""), "{routed}");
    // But one that is trusted may be.
    let first = v2_from([127, 0, 0, 1], &[]);
    let routed = answer(connection(
        &edge,
        &[&first[..], spoofed.as_bytes()].concat(),
    ));
    assert!(routed.contains("\"wss://inner/socket\""), "{routed}");
    // The proxy ends TLS, and says so. Another address: the connection before may still count for its own.
    let first = v2_from([192, 0, 2, 8], &[0x20, 0, 5, 1, 0, 0, 0, 0]);
    let routed = answer(connection(
        &edge,
        &[&first[..], spoofed.as_bytes()].concat(),
    ));
    assert!(routed.contains("\"wss://inner/socket\""), "{routed}");
}

#[test]
fn behind_two_proxies_limits_are_of_the_clients_of_the_first() {
    let edge = Edge::start(&[&PROXY[..], &["--server-max-per-address", "1"]].concat());
    let ask = |address: &str| {
        let headers = format!("{}X-Forwarded-For: {address}\r\n", bearer(&token("alice")));
        [
            &v2_from([127, 0, 0, 1], &[])[..],
            upgrade(&headers).as_bytes(),
        ]
        .concat()
    };
    let open = |address: &str| {
        let mut stream = connection(&edge, &ask(address));
        let (head, _) = crate::common::read_response(&mut stream);
        (stream, head)
    };
    let first = open("192.0.2.1");
    let second = open("192.0.2.2");
    for (_, head) in [&first, &second] {
        assert!(head.starts_with("http/1.1 101 "), "{head}");
    }
    let (_, head) = open("192.0.2.1");
    assert!(head.starts_with("http/1.1 429 "), "{head}");
}

#[test]
fn what_is_no_proxy_header_ends_the_connection_and_nothing_waits_for_ever() {
    let timeout = ["--server-upgrade-timeout", "400ms"];
    let edge = Edge::start(&[&PROXY[..], &timeout].concat());
    for bad in [
        READY.as_bytes(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 1 99999\r\n",
        b"PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n",
        &v2(0x21, 0x11, &[192, 0, 2, 1]),
        &v2(0x31, 0x11, &[0; 12]),
        &v2(0x21, 0x31, &[0; 20]),
        &v2(0x21, 0x11, &[0; 5_000]),
    ] {
        let answer = answer(connection(&edge, bad));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
        assert!(answer.contains("server.proxy_protocol"), "{answer}");
    }
    edge.until_metric_reaches(
        "online_status_refused_connections_total",
        "proxy_header",
        7.0,
    );
    // Half a header, or none, and then silence.
    let length_of_more = [SIGNATURE, &[0x21, 0x11, 0, 100, 192, 0, 2, 1]].concat();
    for half in [
        &b""[..],
        b"PROXY TCP4 192",
        &SIGNATURE[..5],
        &length_of_more,
    ] {
        assert_eq!(answer(connection(&edge, half)), "");
    }
    edge.until_metric("online_status_unauthenticated_connections", "", 0.0);
}

#[test]
fn a_proxy_header_of_anyone_else_is_refused_by_the_setting_s_name() {
    let header = v2_from([192, 0, 2, 1], &[]);
    let not_here = [
        "--server-trusted-proxies",
        "127.0.0.2",
        "--server-proxy-protocol",
        "true",
    ];
    let folder = Folder::new();
    for (n, flags) in [
        &[][..],
        &["--server-trusted-proxies", "127.0.0.1"],
        &not_here,
    ]
    .iter()
    .enumerate()
    {
        let log = folder.0.join(n.to_string());
        let edge = Edge::start_logged(&log, &[&["--auth-secret", SECRET], *flags].concat());
        for first in [&b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n"[..], &header] {
            let answer = answer(connection(&edge, &[first, READY.as_bytes()].concat()));
            assert!(answer.starts_with("HTTP/1.1 400 "), "{flags:?}: {answer}");
            assert!(answer.contains("server.proxy_protocol"), "{answer}");
        }
        // Who sends none is served.
        assert_eq!(status_behind(&edge, b"", READY), 200);
        let said = || {
            let log = std::fs::read_to_string(&log).expect("a log");
            let line = "server.proxy_protocol and server.trusted_proxies";
            log.matches(line).count()
        };
        // The log is written by a thread of its own.
        while said() == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(said(), 1);
    }
    let nobody = Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
        .args(["standalone", "--server-proxy-protocol", "true"])
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(
        !nobody.status.success() && error.contains("server.trusted_proxies"),
        "{error}"
    );
}
