//! Asks coordinators where users belong: `GET /route?userId=` over a few connections that stay
//! open, with many questions under way on each. It owns these connections and the questions; a
//! question comes back as an answer or, when the coordinator fails, is asked of the next one.

use std::{
    borrow::Cow,
    collections::VecDeque,
    io::{self, Read, Write},
    ops::Range,
};

use mio::{Interest, Registry, Token, net::TcpStream};
use serde::Deserialize;

use crate::{address::Address, link::Counts};

/// The number of connections to a coordinator.
pub(crate) const WIRES: usize = 4;
/// Questions under way on each; the others wait, a user at most once.
const DEPTH: usize = 64;
/// How long an answer may take before the coordinator is taken to have failed, µs.
const PATIENCE: u64 = 3_000_000;
/// After all coordinators failed in turn: how long they are left alone, at first and at most, µs.
const REST: Range<u64> = 100_000..2_000_000;
/// Longest head and body of an answer, bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The end of one question for a route.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) user: u32,
    /// The time at which it was asked, µs.
    pub(crate) asked: u64,
    /// The server's URL, or why there is none.
    pub(crate) outcome: Result<String, Refusal>,
}

/// Why a coordinator gave no route.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("route: HTTP {0}")]
    Status(u16),
    #[error("route: {0}")]
    Body(serde_json::Error),
    #[error("route: the answer is for {0:?}")]
    OtherUser(String),
}

/// What is asked; the name of a user.
#[derive(Debug, Clone, Copy)]
struct Question {
    user: u32,
    asked: u64,
}

struct Wire {
    stream: TcpStream,
    coordinator: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    under_way: VecDeque<Question>,
    /// When the oldest of these was sent, or the last answer came, µs.
    since: u64,
    answered: bool,
}

/// The questions of one worker and the connections that they travel on.
pub(crate) struct Router {
    coordinators: Vec<Address>,
    current: usize,
    wires: [Option<Wire>; WIRES],
    waiting: VecDeque<Question>,
    /// The number of failures since the last answer.
    failed: u32,
    rest_until: u64,
    /// Wires have this token and those after it.
    first: usize,
}

/// `GET /route` of a user, whose name needs no escape.
pub(crate) fn request(coordinator: &Address, user: &str, out: &mut Vec<u8>) {
    let Address { host, path, .. } = coordinator;
    let path = path.trim_end_matches('/');
    let head = format!("GET {path}/route?userId={user} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
}

/// The answer at the start of `bytes`, once it is whole: status, body, and where it ends.
///
/// # Errors
/// It has no length, or is too long.
pub(crate) fn response(bytes: &[u8]) -> io::Result<Option<(u16, &[u8], usize)>> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return match bytes.len() {
            ..=MAX_ANSWER => Ok(None),
            _ => Err(wrong("an answer without an end of its head")),
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|first| first.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .ok_or_else(|| wrong("an answer that is not HTTP/1.1"))?;
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| wrong("an answer without a length"))?;
    if length > MAX_ANSWER {
        return Err(wrong("an answer that is too long"));
    }
    let body = bytes.get(end + 4..end + 4 + length);
    Ok(body.map(|body| (status, body, end + 4 + length)))
}

/// The server's URL in a coordinator's answer.
pub(crate) fn address(status: u16, body: &[u8], user: &str) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    struct Route<'a> {
        #[serde(rename = "userId", borrow)]
        user: Cow<'a, str>,
        #[serde(borrow)]
        address: Cow<'a, str>,
    }
    if status != 200 {
        return Err(Refusal::Status(status));
    }
    let route: Route<'_> = serde_json::from_slice(body).map_err(Refusal::Body)?;
    if route.user != user {
        return Err(Refusal::OtherUser(route.user.into_owned()));
    }
    Ok(route.address.into_owned())
}

impl Router {
    /// Asks the first of `coordinators` for as long as it answers; `first` to `first + WIRES` are
    /// its tokens.
    pub(crate) fn new(coordinators: Vec<Address>, first: usize) -> Self {
        Self {
            coordinators,
            current: 0,
            wires: [const { None }; WIRES],
            waiting: VecDeque::new(),
            failed: 0,
            rest_until: 0,
            first,
        }
    }

    /// Queues a question; [`Router::send`] sends it.
    pub(crate) fn ask(&mut self, user: u32, now: u64) {
        self.waiting.push_back(Question { user, asked: now });
    }

    /// When [`Router::send`] has something to do again, µs.
    pub(crate) fn due(&self, now: u64) -> Option<u64> {
        (!self.waiting.is_empty() && self.rest_until > now).then_some(self.rest_until)
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn send(
        &mut self,
        registry: &Registry,
        name: impl Fn(u32) -> String,
        now: u64,
        counts: &mut Counts,
    ) {
        let late = |wire: &Wire| !wire.under_way.is_empty() && wire.since + PATIENCE < now;
        for at in 0..WIRES {
            if self.wires[at].as_ref().is_some_and(late) {
                self.fail(at, "coordinator: no answer", now, counts);
            }
        }
        for at in 0..WIRES {
            if self.waiting.is_empty() || now < self.rest_until {
                return;
            }
            let current = self.current;
            let usable = |wire: &Wire| wire.coordinator == current || !wire.under_way.is_empty();
            if !self.wires[at].as_ref().is_some_and(usable) {
                match self.dial(registry, at, now) {
                    Ok(wire) => self.wires[at] = Some(wire),
                    Err(error) => {
                        let cause = format!("coordinator: {error}");
                        self.failure(&cause, now, counts);
                        continue;
                    }
                }
            }
            let Some(wire) = &mut self.wires[at] else {
                continue;
            };
            if wire.coordinator != current {
                continue;
            }
            if wire.under_way.is_empty() {
                wire.since = now;
            }
            while wire.under_way.len() < DEPTH
                && let Some(question) = self.waiting.pop_front()
            {
                let coordinator = &self.coordinators[wire.coordinator];
                request(coordinator, &name(question.user), &mut wire.output);
                wire.under_way.push_back(question);
            }
            wire.flush();
        }
    }

    fn dial(&self, registry: &Registry, at: usize, now: u64) -> io::Result<Wire> {
        let mut stream = TcpStream::connect(self.coordinators[self.current].socket)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(self.first + at), interest)?;
        // Questions are written in batches as it is; a socket that refuses the option works too.
        let _ = stream.set_nodelay(true);
        Ok(Wire {
            stream,
            coordinator: self.current,
            input: Vec::new(),
            output: Vec::new(),
            under_way: VecDeque::new(),
            since: now,
            answered: false,
        })
    }

    /// Reads the answers that came on one wire.
    pub(crate) fn serve(
        &mut self,
        at: usize,
        name: impl Fn(u32) -> String,
        now: u64,
        counts: &mut Counts,
    ) -> Vec<Answer> {
        let mut answers = Vec::new();
        let Some(wire) = &mut self.wires[at] else {
            return answers;
        };
        let ended = match wire.stream.take_error() {
            Ok(Some(error)) => Err(error),
            _ => {
                wire.flush();
                wire.read(&name, now, &mut answers)
            }
        };
        if !answers.is_empty() {
            self.failed = 0;
            self.rest_until = 0;
        }
        let refused = |answer: &Answer| matches!(answer.outcome, Err(Refusal::Status(503)));
        if answers.iter().any(refused)
            && self.wires[at]
                .as_ref()
                .is_some_and(|w| w.coordinator == self.current)
        {
            // Another one may know of a server.
            self.current = (self.current + 1) % self.coordinators.len();
        }
        if let Err(error) = ended {
            self.fail(at, &format!("coordinator: {error}"), now, counts);
        }
        answers
    }

    /// Gives a wire up; its questions are asked again, first of all.
    fn fail(&mut self, at: usize, cause: &str, now: u64, counts: &mut Counts) {
        let Some(wire) = self.wires[at].take() else {
            return;
        };
        let closed_at_rest = wire.answered && wire.under_way.is_empty();
        for question in wire.under_way.into_iter().rev() {
            self.waiting.push_front(question);
        }
        if !closed_at_rest && wire.coordinator == self.current {
            self.failure(cause, now, counts);
        }
    }

    /// The current coordinator failed: the next one's turn, and after all of them a rest.
    fn failure(&mut self, cause: &str, now: u64, counts: &mut Counts) {
        counts.coordinators_lost += 1;
        counts.cause(cause);
        if now < self.rest_until {
            return;
        }
        self.current = (self.current + 1) % self.coordinators.len();
        self.failed += 1;
        let rounds = self.failed / self.coordinators.len() as u32;
        if rounds > 0 {
            self.rest_until = now + (REST.start << (rounds - 1).min(10)).min(REST.end);
        }
    }
}

impl Wire {
    /// Writes what the socket takes; a broken socket shows itself when read.
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    /// Reads from the socket until it has no more.
    fn read(
        &mut self,
        name: &impl Fn(u32) -> String,
        now: u64,
        answers: &mut Vec<Answer>,
    ) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut used = 0;
            while let Some((status, body, length)) = response(&self.input[used..])? {
                let Some(Question { user, asked }) = self.under_way.pop_front() else {
                    let unasked = "an answer to no question";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, unasked));
                };
                answers.push(Answer {
                    user,
                    asked,
                    outcome: address(status, body, &name(user)),
                });
                used += length;
                self.answered = true;
                self.since = now;
            }
            self.input.drain(..used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_only_once_whole() {
        let one = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\ncontent-length: 4\r\n\r\nbody";
        for whole in 0..one.len() {
            assert!(matches!(response(&one[..whole]), Ok(None)), "{whole}");
        }
        let two = [&one[..], b"HTTP/1.1"].concat();
        let found = response(&two).expect("an answer");
        assert_eq!(found, Some((200, &b"body"[..], one.len())));
        for wrong in [
            &b"HTTP/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            b"SMTP\r\n\r\n",
        ] {
            assert!(response(wrong).is_err());
        }
    }

    #[test]
    fn a_route_is_taken_only_for_the_user_that_was_asked_for() {
        let body = br#"{"userId":"b-1","vnode":7,"node":"n1","address":"ws://h/socket","epoch":1}"#;
        assert_eq!(
            address(200, body, "b-1").ok().as_deref(),
            Some("ws://h/socket")
        );
        assert!(matches!(
            address(200, body, "b-2"),
            Err(Refusal::OtherUser(_))
        ));
        assert!(matches!(
            address(503, b"", "b-1"),
            Err(Refusal::Status(503))
        ));
        assert!(matches!(address(200, b"{}", "b-1"), Err(Refusal::Body(_))));
    }
}
