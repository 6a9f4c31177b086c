//! After a refusal: the server ends its writing side and reads on for a while, so that a client that is
//! still sending finds the code and then an end, on any system; and it does not read for ever.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    common::{
        BINARY, Client, Edge, FIN, Folder, Stream, TEXT, bearer, frame, now, signed, upgrade,
    },
    tls,
};

/// What is on its way to the server when it refuses: more than sockets hold.
const IN_FLIGHT: usize = 16 << 20;
/// Far more than the time for which a server reads on.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server has to say, as the last thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Close(u16),
    Status(u16),
}

/// How a client gets so far that it is refused.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// It has sent nothing.
    Request,
    /// It has upgraded, and shown no token.
    Stranger,
    /// It has a session.
    Session,
    /// It has sent nothing to the administration address, which has no TLS here.
    Admin,
}

/// What is refused, and what of it is repeated for as long as the server reads.
struct Input {
    name: &'static str,
    stage: Stage,
    first: Vec<u8>,
    then: Vec<u8>,
    refusal: Refusal,
}

fn inputs() -> Vec<Input> {
    use Refusal::{Close, Status};
    use Stage::{Admin, Request, Session, Stranger};
    let ping = frame(FIN | TEXT, br#"{"type":"ping"}"#);
    let bad_auth = json!({ "type": "auth", "token": "none" }).to_string();
    let unmasked = vec![FIN | TEXT, 2, b'{', b'}'];
    let no_text = frame(FIN | TEXT, b"\xff\xfe");
    // Of 2 GiB.
    let endless = vec![
        FIN | TEXT,
        0x80 | 127,
        0,
        0,
        0,
        0,
        0x80,
        0,
        0,
        0,
        1,
        2,
        3,
        4,
    ];
    let body = |token: &str, length: usize| {
        let token = bearer(token);
        format!("POST /status HTTP/1.1\r\nHost: x\r\n{token}Content-Length: {length}\r\n\r\n")
            .into_bytes()
    };
    let no_scope = signed(&json!({ "sub": "alice", "exp": now() + 3_600 }));
    let revoke = |token: &str, length: usize| {
        let token = bearer(token);
        format!("POST /revocations HTTP/1.1\r\nHost: x\r\n{token}Content-Length: {length}\r\n\r\n")
            .into_bytes()
    };
    let input = |name, stage, first: &[u8], then: &[u8], refusal| Input {
        name,
        stage,
        first: first.to_vec(),
        then: then.to_vec(),
        refusal,
    };
    vec![
        input("messages", Session, &ping, &ping, Close(4429)),
        input("no mask", Session, &unmasked, &ping, Close(1002)),
        input("no mask first", Stranger, &unmasked, &ping, Close(1002)),
        input("no UTF-8", Session, &no_text, &ping, Close(1007)),
        input("no UTF-8 first", Stranger, &no_text, &ping, Close(1007)),
        input("too long", Session, &endless, b"xxxx", Close(1009)),
        input("too long first", Stranger, &endless, b"xxxx", Close(1009)),
        input(
            "binary",
            Session,
            &frame(FIN | BINARY, b"x"),
            &ping,
            Close(1003),
        ),
        input(
            "bad auth",
            Stranger,
            &frame(FIN | TEXT, bad_auth.as_bytes()),
            &ping,
            Close(4401),
        ),
        input(
            "bad token",
            Request,
            upgrade(&bearer("none")).as_bytes(),
            &ping,
            Status(401),
        ),
        input(
            "bad body",
            Request,
            &body("none", 1 << 20),
            b"xxxx",
            Status(401),
        ),
        input(
            "no scope",
            Request,
            &body(&no_scope, 1 << 20),
            b"xxxx",
            Status(403),
        ),
        input(
            "long body",
            Request,
            &body(&no_scope, 1 << 30),
            b"xxxx",
            Status(413),
        ),
        input(
            "long head",
            Request,
            b"GET / HTTP/1.1\r\n",
            b"x: yyyy\r\n",
            Status(431),
        ),
        input("long target", Request, b"GET /", b"xxxx", Status(414)),
        input(
            "admin: bad token",
            Admin,
            &revoke("none", 1 << 20),
            b"xxxx",
            Status(401),
        ),
        input(
            "admin: no scope",
            Admin,
            &revoke(&no_scope, 1 << 20),
            b"xxxx",
            Status(403),
        ),
        input(
            "admin: long body",
            Admin,
            &revoke("none", 1 << 30),
            b"xxxx",
            Status(413),
        ),
        input(
            "admin: long head",
            Admin,
            b"GET / HTTP/1.1\r\n",
            b"x: yyyy\r\n",
            Status(431),
        ),
    ]
}

/// The connection's own socket beside what is spoken through it.
type Open = (Box<dyn Stream>, TcpStream);

fn open(edge: &Edge, pair: Option<&tls::Pair>) -> Open {
    match pair {
        Some(pair) => {
            let stream = tls::open(edge, pair);
            let socket = stream.sock.socket();
            (Box::new(stream), socket)
        }
        None => direct(edge.address),
    }
}

fn direct(address: SocketAddr) -> Open {
    let stream = TcpStream::connect(address).expect("a connection");
    let socket = stream.try_clone().expect("a descriptor");
    (Box::new(stream), socket)
}

/// Sends the input and what follows it, reads nothing meanwhile, and then all that was said.
fn refused(edge: &Edge, pair: Option<&tls::Pair>, input: &Input) {
    let (mut stream, socket) = match input.stage {
        Stage::Admin => direct(edge.admin),
        _ => open(edge, pair),
    };
    let (read, write) = (Some(PATIENCE), Some(PATIENCE));
    socket.set_read_timeout(read).expect("a timeout");
    socket.set_write_timeout(write).expect("a timeout");
    let headers = match input.stage {
        Stage::Request | Stage::Admin => None,
        Stage::Stranger => Some(String::new()),
        Stage::Session => Some(bearer(&crate::common::token("alice"))),
    };
    if let Some(headers) = headers {
        let mut client = Client::over(stream, &headers);
        if !headers.is_empty() {
            client.message();
        }
        stream = client.stream;
    }
    stream.write_all(&input.first).expect("it is read");
    let block = input.then.repeat((64 << 10) / input.then.len());
    for _ in 0..IN_FLIGHT / block.len() {
        stream.write_all(&block).expect("the server reads on");
    }
    let mut answer = Vec::new();
    // A reset would be an error.
    stream.read_to_end(&mut answer).expect("an end");
    assert_eq!((&socket).read(&mut [0]).expect("an end, no reset"), 0);
    assert_eq!(last_said(&answer), input.refusal);
    // Its patience is bounded.
    let began = Instant::now();
    let error = loop {
        match stream.write_all(&block) {
            Ok(()) => assert!(began.elapsed() < PATIENCE, "it reads for ever"),
            Err(error) => break error,
        }
        thread::sleep(Duration::from_millis(20));
    };
    let ended = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(ended.contains(&error.kind()), "{error}");
}

/// The status of the answer, or the code of the last frame.
fn last_said(answer: &[u8]) -> Refusal {
    if let Some(status) = answer.strip_prefix(b"HTTP/1.1 ") {
        let status = str::from_utf8(&status[..3]).expect("ASCII");
        return Refusal::Status(status.parse().expect("a status"));
    }
    let mut rest = answer;
    loop {
        let (length, head) = match rest[1] {
            126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
            short => (usize::from(short), 2),
        };
        let (payload, behind) = rest[head..].split_at(length);
        if behind.is_empty() {
            assert_eq!(rest[0], FIN | crate::common::CLOSE);
            return Refusal::Close(u16::from_be_bytes([payload[0], payload[1]]));
        }
        rest = behind;
    }
}

#[test]
fn a_refused_client_that_is_still_sending_reads_the_code_and_an_end_and_no_reset() {
    let folder = Folder::new();
    let pair = tls::certificate();
    let (certificate, key) = tls::in_files(&folder, &pair);
    let plain = Edge::start(&[]);
    let secure = Edge::start(&["--tls-certificate", &certificate, "--tls-key", &key]);
    let inputs = inputs();
    thread::scope(|scope| {
        for (edge, pair) in [(&plain, None), (&secure, Some(&pair))] {
            for input in &inputs {
                let name = format!("{} by {}", input.name, pair.map_or("TCP", |_| "TLS"));
                let client = thread::Builder::new().name(name);
                let run = move || refused(edge, pair, input);
                client.spawn_scoped(scope, run).expect("a thread");
            }
        }
    });
    plain.user("late").works();
}
