//! One connection to a server of another kind, and what is said on it.

use std::io::{self, Read, Write};

use super::{Foreign, Todo};
use crate::{
    clock::now_us,
    dialogue::{Step, Subject, Template},
    engine::{Transport, WorkError},
    wire,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is no connection.
    Closed,
    /// The upgrade is not answered.
    Dialing,
    /// The steps of the dialogue are being done.
    Opening,
    Open,
}

pub(super) struct Session {
    stream: Option<Transport>,
    pub(super) phase: Phase,
    /// The step that is next, or waited for.
    pub(super) step: usize,
    /// When its connection was due, and when it was begun, µs.
    due: u64,
    begun: u64,
    /// Messages that were sent.
    id: u64,
    /// Whom it watches, in order, and how many changes of each it saw or passed over.
    pub(super) watched: Vec<u32>,
    pub(super) seen: Vec<u32>,
    /// The beginning of a frame whose rest has not come, and of a message.
    pub(super) input: Vec<u8>,
    pub(super) fragments: Vec<u8>,
    /// Bytes that the socket did not take yet.
    output: Vec<u8>,
}

impl Session {
    pub(super) fn new(watched: Vec<u32>) -> Self {
        Self {
            stream: None,
            phase: Phase::Closed,
            step: 0,
            due: 0,
            begun: 0,
            id: 0,
            seen: vec![0; watched.len()],
            watched,
            input: Vec::new(),
            fragments: Vec::new(),
            output: Vec::new(),
        }
    }

    /// A connection was begun that had been due then, and sends this first.
    pub(super) fn dialed(&mut self, stream: Transport, request: Vec<u8>, due: u64) {
        self.stream = Some(stream);
        self.phase = Phase::Dialing;
        (self.step, self.id) = (0, 0);
        self.due = due;
        self.begun = now_us();
        self.output = request;
        self.flush();
    }

    pub(super) fn hang_up(&mut self) {
        self.stream = None;
        self.phase = Phase::Closed;
        self.input = Vec::new();
        self.fragments = Vec::new();
        self.output = Vec::new();
    }

    /// Whether it takes too long to open.
    pub(super) fn is_stuck(&self, now: u64, patience: u64) -> bool {
        let opening = matches!(self.phase, Phase::Dialing | Phase::Opening);
        opening && self.begun + patience < now
    }

    /// What came; `None` = nothing more for now.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            match stream.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Not connected yet.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(None),
                read => return read.map(Some),
            }
        }
    }

    /// Writes what the socket takes; a broken socket shows itself when read.
    pub(super) fn flush(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        while !self.output.is_empty() {
            match stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }
}

impl Foreign {
    /// Does the steps until one has to wait; a message that came may be what was waited for.
    pub(super) fn go_on(&mut self, at: usize, message: Option<&[u8]>) -> Result<(), WorkError> {
        let mut message = message;
        loop {
            let Some(step) = self.dialogue.open.get(self.sessions[at].step).cloned() else {
                self.opened(at);
                return Ok(());
            };
            match step {
                Step::Send(text) => self.say(at, &text, None)?,
                Step::Each(text) => {
                    for place in 0..self.sessions[at].watched.len() {
                        let watched = self.sessions[at].watched[place];
                        self.say_of(at, &text, watched)?;
                    }
                }
                Step::Await(text) => {
                    let text = text.as_bytes();
                    let came = message.take().unwrap_or_default();
                    if !came.windows(text.len()).any(|part| part == text) {
                        return Ok(());
                    }
                }
            }
            self.sessions[at].step += 1;
        }
    }

    fn opened(&mut self, at: usize) {
        let now = now_us();
        let user = self.user(at);
        let session = &mut self.sessions[at];
        session.phase = Phase::Open;
        self.results
            .handshake
            .record(now.saturating_sub(session.due));
        self.results.counts.ready += 1;
        for (rule, repeat) in self.dialogue.repeat.iter().enumerate() {
            let every = (repeat.seconds * 1e6) as u64;
            // Spread, so that not all send at once.
            let first = now + u64::from(user).wrapping_mul(7_919_000) % every.max(1);
            self.queue
                .push(std::cmp::Reverse((first, user, Todo::Repeat(rule))));
        }
    }

    /// Sends a template's text, which makes a change perhaps.
    pub(super) fn say(
        &mut self,
        at: usize,
        text: &Template,
        change: Option<u64>,
    ) -> Result<(), WorkError> {
        let text = text.fill(&self.subject(at, change))?;
        self.send(at, wire::TEXT, text.as_bytes());
        Ok(())
    }

    fn say_of(&mut self, at: usize, text: &Template, watched: u32) -> Result<(), WorkError> {
        let text = text.fill_one(&self.subject(at, None), watched)?;
        self.send(at, wire::TEXT, text.as_bytes());
        Ok(())
    }

    fn subject(&self, at: usize, change: Option<u64>) -> Subject<'_> {
        let session = &self.sessions[at];
        Subject {
            plan: &self.plan,
            user: self.user(at),
            watched: &session.watched,
            change,
            id: session.id + 1,
        }
    }

    pub(super) fn send(&mut self, at: usize, opcode: u8, payload: &[u8]) {
        // xorshift32 (Marsaglia 2003): a mask that a proxy cannot know.
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        let mask = self.mask;
        let session = &mut self.sessions[at];
        session.id += u64::from(opcode == wire::TEXT);
        wire::frame(&mut session.output, opcode, payload, mask);
        session.flush();
    }
}
