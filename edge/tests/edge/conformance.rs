//! RFC 6455, clients that keep to it and clients that do not. After each of the latter another
//! session still works.

use std::io::Write;

use serde_json::json;

use crate::common::{
    BINARY, CLOSE, Client, Edge, FIN, PING, PONG, TEXT, bearer, frame, request, response, token,
    upgrade,
};

const PING_MESSAGE: &[u8] = br#"{"type":"ping","id":5}"#;

#[test]
fn messages_may_come_whole_in_fragments_and_byte_by_byte() {
    let edge = Edge::start(&[]);
    let mut client = edge.user("alice");
    let (a, b) = PING_MESSAGE.split_at(9);
    let fragments = [
        frame(TEXT, a),
        frame(FIN | PING, b"between"),
        frame(0, &[]),
        frame(FIN, b),
    ]
    .concat();
    client.raw(&fragments);
    assert_eq!(client.next(), Some((PONG, b"between".to_vec())));
    assert_eq!(client.message()["id"], 5);
    for byte in frame(FIN | TEXT, PING_MESSAGE) {
        client.raw(&[byte]);
    }
    assert_eq!(client.message()["id"], 5);
    for length in [125, 126, 127, 4_000] {
        let mut text = PING_MESSAGE.to_vec();
        text.resize(length, b' ');
        client.raw(&frame(FIN | TEXT, &text));
        assert_eq!(client.message()["id"], 5);
    }
    let many = frame(FIN | TEXT, PING_MESSAGE).repeat(50);
    client.raw(&many);
    for _ in 0..50 {
        assert_eq!(client.message()["id"], 5);
    }
}

#[test]
fn everything_may_come_in_one_write() {
    let edge = Edge::start(&[]);
    let mut client = Client::open(&edge, "");
    let auth = json!({ "type": "auth", "token": token("alice") }).to_string();
    let watch = json!({ "type": "watch", "users": ["bob"], "id": 1 }).to_string();
    let all = [auth.as_bytes(), watch.as_bytes(), PING_MESSAGE];
    client.raw(&all.map(|text| frame(FIN | TEXT, text)).concat());
    assert_eq!(client.message()["type"], "welcome");
    // Bob may be another core's.
    let mut kinds = [(); 2].map(|()| client.message()["type"].to_string());
    kinds.sort_unstable();
    assert_eq!(kinds, ["\"pong\"", "\"snapshot\""]);
    // With the upgrade itself, byte by byte.
    let mut stream = std::net::TcpStream::connect(edge.address).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let text = upgrade(&bearer(&token("carol")));
    let rest = frame(FIN | TEXT, PING_MESSAGE);
    for byte in text.bytes().chain(rest) {
        stream.write_all(&[byte]).expect("it is read");
    }
    let mut answer = String::new();
    while !answer.contains("\"pong\"") {
        let mut more = [0; 1_024];
        let count = std::io::Read::read(&mut stream, &mut more).expect("an answer");
        assert!(count > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&more[..count]));
    }
}

#[test]
fn control_frames_are_answered() {
    let edge = Edge::start(&[]);
    let mut client = edge.user("alice");
    let longest = [b'x'; 125];
    for payload in [&b""[..], &longest] {
        client.raw(&frame(FIN | PING, payload));
        assert_eq!(client.frame(), Some((PONG, payload.to_vec())));
    }
    client.raw(&frame(FIN | PONG, b"not asked for"));
    client.works();
    client.raw(&frame(FIN | CLOSE, &[0x03, 0xe8, b'o', b'k']));
    assert_eq!(client.closed(), 1000);
    // Without a code, and with one of the applications'.
    for (payload, code) in [(&[][..], 1000), (&[0x0f, 0xa0], 4000)] {
        let mut client = edge.user("alice");
        client.raw(&frame(FIN | CLOSE, payload));
        let (opcode, answer) = client.next().expect("an answer");
        assert_eq!(opcode, CLOSE);
        assert!(
            answer.is_empty() || answer[..2] == u16::to_be_bytes(code),
            "{answer:?}"
        );
        assert_eq!(client.next(), None);
    }
}

#[test]
fn what_breaks_the_rules_is_closed_with_its_code() {
    let edge = Edge::start(&["--server-max-message", "1KiB"]);
    let mut witness = edge.user("witness");
    let unmasked = [&[FIN | TEXT, PING_MESSAGE.len() as u8], PING_MESSAGE].concat();
    let of_length = |length: u64| {
        [
            &[FIN | TEXT, 0x80 | 127][..],
            &length.to_be_bytes(),
            &[0; 4],
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("no mask", unmasked, 1002),
        ("reserved bit 1", frame(FIN | 0x40 | TEXT, b"x"), 1002),
        ("reserved bit 3", frame(FIN | 0x10 | TEXT, b"x"), 1002),
        ("opcode 3", frame(FIN | 3, b"x"), 1002),
        ("opcode 11", frame(FIN | 11, b"x"), 1002),
        ("a control frame in fragments", frame(PING, b"x"), 1002),
        (
            "a long control frame",
            frame(FIN | PING, &[b'x'; 126]),
            1002,
        ),
        ("a continuation of nothing", frame(FIN, b"x"), 1002),
        (
            "a message in a message",
            [frame(TEXT, b"x"), frame(FIN | TEXT, b"y")].concat(),
            1002,
        ),
        ("a close of one byte", frame(FIN | CLOSE, &[3]), 1002),
        (
            "close 1005",
            frame(FIN | CLOSE, &1005_u16.to_be_bytes()),
            1002,
        ),
        (
            "close 999",
            frame(FIN | CLOSE, &999_u16.to_be_bytes()),
            1002,
        ),
        (
            "close 5000",
            frame(FIN | CLOSE, &5000_u16.to_be_bytes()),
            1002,
        ),
        (
            "a reason in no UTF-8",
            frame(FIN | CLOSE, &[0x03, 0xe8, 0xff]),
            1007,
        ),
        (
            "a text in no UTF-8",
            frame(FIN | TEXT, &[b'"', 0xc3, b'"']),
            1007,
        ),
        (
            "in no UTF-8 over fragments",
            [frame(TEXT, &[b'"', 0xe2]), frame(FIN, &[0x28, 0xa1])].concat(),
            1007,
        ),
        ("too long", frame(FIN | TEXT, &[b' '; 1_025]), 1009),
        (
            "too long in fragments",
            [frame(TEXT, &[b' '; 600]), frame(FIN, &[b' '; 600])].concat(),
            1009,
        ),
        ("too long by far", of_length(u64::MAX >> 1), 1009),
        ("a length of 64 bits", of_length(u64::MAX), 1002),
        (
            "a long control frame of which nothing comes",
            vec![FIN | PING, 0x80 | 126],
            1002,
        ),
        ("no mask, and nothing comes", vec![FIN | TEXT, 100], 1002),
        (
            "no UTF-8, and not all comes",
            [&of_length(1_000)[..], b"\"\xff"].concat(),
            1007,
        ),
        (
            "binary in a text subprotocol",
            frame(FIN | BINARY, b"x"),
            1003,
        ),
    ];
    for (what, bytes, code) in cases {
        let before = edge.metric("online_status_closes_total", &format!("\"{code}\""));
        let mut client = edge.user("alice");
        client.raw(&bytes);
        assert_eq!(client.closed(), code, "{what}");
        edge.until_metric_reaches(
            "online_status_closes_total",
            &format!("\"{code}\""),
            before + 1.0,
        );
        witness.works();
        // The same before there is a session.
        let mut stranger = edge.stranger();
        stranger.raw(&bytes);
        assert_eq!(stranger.closed(), code, "{what}, before the token");
    }
}

#[test]
fn a_close_that_a_client_asks_for_is_no_close_of_the_edge() {
    let edge = Edge::start(&[]);
    for code in [4429_u16, 1013, 3001] {
        for mut client in [edge.user("alice"), edge.stranger()] {
            client.raw(&frame(FIN | 8, &code.to_be_bytes()));
            assert_eq!(client.closed(), code);
        }
    }
    let mut late = edge.user("bob");
    late.raw(&frame(FIN | 3, b"x"));
    assert_eq!(late.closed(), 1002);
    edge.until_metric("online_status_closes_total", "\"1002\"", 1.0);
    let (_, metrics) = edge.get_admin("/metrics");
    for code in ["4429", "1013", "3001"] {
        assert!(!metrics.contains(&format!("closes_total{{code=\"{code}\"")));
    }
}

#[test]
fn bad_upgrades_are_refused_with_a_status() {
    let edge = Edge::start(&["--server-origins", "https://good.example"]);
    let good = upgrade(&bearer(&token("alice")));
    let long = format!("X-Long: {}\r\nUpgrade:", "x".repeat(21_000));
    let cases = [
        (
            "no key",
            good.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            400,
        ),
        (
            "a short key",
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"),
            400,
        ),
        ("version 8", good.replace("Version: 13", "Version: 8"), 426),
        (
            "no upgrade",
            good.replace("Upgrade: websocket\r\n", ""),
            426,
        ),
        ("a POST", good.replace("GET", "POST"), 405),
        ("another path", good.replace("/socket", "/sockets"), 404),
        (
            "a bad origin",
            good.replace("Host", "Origin: https://evil.example\r\nHost"),
            403,
        ),
        (
            "a good origin and another",
            good.replace(
                "Host",
                "Origin: https://good.example\r\nOrigin: https://evil.example\r\nHost",
            ),
            400,
        ),
        ("a long head", good.replace("Upgrade:", &long), 431),
        (
            "another key",
            good.replace(
                "Version: 13",
                "Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            ),
            400,
        ),
        (
            "another version",
            good.replace("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 8"),
            426,
        ),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (
            "a folded header",
            good.replace("Host: x", "Host: x\r\n y"),
            400,
        ),
        (
            "no connection",
            good.replace("Connection: Upgrade", "Connection: keep-alive"),
            426,
        ),
        ("no HTTP", "hello\r\n\r\n".into(), 400),
        ("no host and 1.1", good.replace("Host: x\r\n", ""), 400),
        (
            "an unknown subprotocol",
            good.replace("Host", "Sec-WebSocket-Protocol: v9\r\nHost"),
            400,
        ),
    ];
    for (what, text, status) in cases {
        assert_eq!(request(edge.address, &text).0, status, "{what}");
    }
    for words in [
        good.replace("Connection: Upgrade", "Connection: keep-alive, upgrade"),
        good.replace(
            "Connection: Upgrade",
            "connection: keep-alive\r\nCONNECTION: UPGRADE",
        ),
        good.replace("/socket", "http://x/socket?from=a-proxy"),
        good.replace(
            "Host",
            "Sec-WebSocket-Extensions: permessage-deflate\r\nHost",
        ),
    ] {
        let (head, _) = response(edge.address, &words);
        assert!(head.starts_with("http/1.1 101 "), "{words}: {head}");
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
    }
    let origin = format!(
        "Origin: https://good.example\r\n{}",
        bearer(&token("alice"))
    );
    Client::open(&edge, &origin).message();
}

#[test]
fn subprotocols_are_chosen_and_named() {
    let edge = Edge::start(&[]);
    let offer = |names: &str| format!("Sec-WebSocket-Protocol: {names}\r\n");
    let json = Client::open(&edge, &offer("other, online-status.v1.json"));
    assert!(
        json.head
            .contains("sec-websocket-protocol: online-status.v1.json\r\n")
    );
    let cbor = format!(
        "{}{}",
        offer("online-status.v1.cbor"),
        bearer(&token("alice"))
    );
    let mut cbor = Client::open(&edge, &cbor);
    assert!(
        cbor.head
            .contains("sec-websocket-protocol: online-status.v1.cbor\r\n")
    );
    assert_eq!(cbor.next().expect("a welcome").0, BINARY);
    // {0: 6 (ping), 1: 9}, answered by {0: 13 (pong), 1: 9}.
    cbor.raw(&frame(FIN | BINARY, &[0xa2, 0, 6, 1, 9]));
    let (opcode, pong) = cbor.next().expect("a pong");
    assert_eq!(opcode, BINARY);
    assert!(
        [&[0xa2, 0, 13, 1, 9][..], &[0xbf, 0, 13, 1, 9, 0xff]].contains(&&*pong),
        "{pong:?}"
    );
    cbor.raw(&frame(FIN | TEXT, PING_MESSAGE));
    assert_eq!(cbor.closed(), 1003);
    let none = Client::open(&edge, &bearer(&token("alice")));
    assert!(!none.head.contains("sec-websocket-protocol"));
}

#[test]
fn half_open_connections_are_closed_and_counted() {
    let edge = Edge::start(&["--server-upgrade-timeout", "300ms"]);
    let mut silent = std::net::TcpStream::connect(edge.address).expect("a connection");
    silent.write_all(b"GET /socket HTT").expect("it is read");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut silent, &mut answer).expect("an end");
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    edge.until_metric("online_status_connections", "", 0.0);
    edge.user("alice").works();
}
