//! A WebSocket client of the tests' own, which can also say what no client should.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use serde_json::{Value, json};

use super::{Edge, PATIENCE, upgrade, upgrade_at};

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const FIN: u8 = 0x80;

/// A frame as clients send it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 0, 200, 31];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// A client's connection.
pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    input: VecDeque<u8>,
    /// The head of the answer to the upgrade, in lower case.
    pub(crate) head: String,
}

impl Client {
    pub(crate) fn open(edge: &Edge, headers: &str) -> Self {
        let stream = TcpStream::connect(edge.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::over(Box::new(stream), headers)
    }

    /// The same for who may be refused: `Err` is the head of that answer.
    pub(crate) fn try_open(edge: &Edge, headers: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(edge.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::try_asks(Box::new(stream), &upgrade(headers))
    }

    /// The same with parameters in the target.
    pub(crate) fn open_at(edge: &Edge, query: &str, headers: &str) -> Self {
        let stream = TcpStream::connect(edge.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::asks(Box::new(stream), &upgrade_at(query, headers))
    }

    /// Upgrades an open connection.
    pub(crate) fn over(stream: Box<dyn Stream>, headers: &str) -> Self {
        Self::asks(stream, &upgrade(headers))
    }

    fn asks(stream: Box<dyn Stream>, request: &str) -> Self {
        Self::try_asks(stream, request).unwrap_or_else(|head| panic!("refused: {head}"))
    }

    fn try_asks(mut stream: Box<dyn Stream>, request: &str) -> Result<Self, String> {
        stream.write_all(request.as_bytes()).expect("it is read");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(
                stream.read(&mut byte).expect("an answer"),
                1,
                "closed in the upgrade"
            );
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
        if !head.starts_with("http/1.1 101 ") {
            return Err(head);
        }
        assert!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
        Ok(Self {
            stream,
            input: VecDeque::new(),
            head,
        })
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it is read");
    }

    pub(crate) fn say(&mut self, message: &Value) {
        self.raw(&frame(FIN | TEXT, message.to_string().as_bytes()));
    }

    fn byte(&mut self) -> Option<u8> {
        if self.input.is_empty() {
            let mut more = [0; 65_536];
            let count = loop {
                match self.stream.read(&mut more) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break 0,
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => break 0,
                    read => break read.expect("something comes"),
                }
            };
            self.input.extend(&more[..count]);
        }
        self.input.pop_front()
    }

    /// The next frame: opcode and payload; `None` at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.byte()?;
        let second = self.byte()?;
        assert_eq!(
            (first & 0x70, second & 0x80),
            (0, 0),
            "no reserved bits, no mask"
        );
        let extended = match second {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mut length = if extended == 0 {
            usize::from(second)
        } else {
            0
        };
        for _ in 0..extended {
            length = length << 8 | usize::from(self.byte()?);
        }
        let payload = (0..length)
            .map(|_| self.byte())
            .collect::<Option<Vec<u8>>>()?;
        assert_eq!(first & FIN, FIN, "the server does not fragment");
        Some((first & 0xf, payload))
    }

    /// The next frame that is no ping; pings are answered.
    pub(crate) fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.frame()? {
                (PING, payload) => self.raw(&frame(FIN | PONG, &payload)),
                frame => return Some(frame),
            }
        }
    }

    /// The next message of the edge, which has to be JSON; pings before it are answered.
    pub(crate) fn message(&mut self) -> Value {
        let (opcode, payload) = self.next().expect("a message");
        assert_eq!(opcode, TEXT, "{:?}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// Says something and takes the answer, which has to be of this type.
    pub(crate) fn ask(&mut self, message: &Value, kind: &str) -> Value {
        self.say(message);
        let answer = self.message();
        assert_eq!(answer["type"], kind, "{answer}");
        answer
    }

    /// The code of the close frame that comes next, and that the connection ends with it.
    pub(crate) fn closed(&mut self) -> u16 {
        self.close_frame().0
    }

    /// The same with its reason.
    pub(crate) fn close_frame(&mut self) -> (u16, String) {
        loop {
            match self.next().expect("a close frame") {
                (CLOSE, payload) => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    let reason = std::str::from_utf8(&payload[2..]).expect("a reason in UTF-8");
                    // The answer may find the connection closed.
                    let _ = self.stream.write_all(&frame(FIN | CLOSE, &payload));
                    assert!(self.next().is_none(), "nothing follows a close");
                    return (code, reason.to_owned());
                }
                (_, payload) => {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    assert!(!text.contains("\"error\""), "no close but {text}");
                }
            }
        }
    }

    /// Shows that the session works.
    pub(crate) fn works(&mut self) {
        let pong = self.ask(&json!({ "type": "ping", "id": "alive" }), "pong");
        assert_eq!(pong["id"], "alive");
    }

    /// Watches users; their records.
    pub(crate) fn watch(&mut self, users: &[&str]) -> Vec<Value> {
        let snapshot = self.ask(
            &json!({ "type": "watch", "users": users, "id": 1 }),
            "snapshot",
        );
        assert_eq!(snapshot["id"], 1);
        snapshot["users"].as_array().expect("records").clone()
    }

    /// The only record of the `presence` that comes next.
    pub(crate) fn change(&mut self) -> Value {
        let message = self.message();
        assert_eq!(message["type"], "presence", "{message}");
        let users = message["users"].as_array().expect("records");
        assert_eq!(users.len(), 1, "{message}");
        users[0].clone()
    }

    /// Nothing is under way to this client: what it asks is answered next.
    pub(crate) fn nothing_comes(&mut self) {
        self.works();
    }
}
