//! A client's connection before it is a session: bytes in and out, through TLS or not. It owns
//! what came and was not used yet, which its user bounds by how much it asks for.

use std::{io, rc::Rc, time::Duration};

use monoio::net::TcpStream;
use protocol::{CloseCode, frame};

use crate::{
    admission::Handshake,
    http::{self, Response},
    shared::Hint,
    socket,
    tls::TlsSession,
    worker::Worker,
};

/// How long a client has to read a goodbye.
const LINGER: Duration = Duration::from_secs(2);
/// The least that is read at a time, so that what TLS needs for itself comes in few reads.
const MIN_READ: usize = 4 << 10;

/// The result of one read of a socket.
enum Taken {
    Nothing,
    Bytes,
    End,
}

pub(crate) struct Link {
    pub(crate) worker: Rc<Worker>,
    pub(crate) stream: Rc<TcpStream>,
    pub(crate) tls: Option<TlsSession>,
    /// While that of TLS is under way.
    handshake: Option<Handshake>,
    /// Plaintext that came and was not used yet.
    pub(crate) inbox: Vec<u8>,
}

impl Link {
    pub(crate) fn new(worker: Rc<Worker>, stream: Rc<TcpStream>) -> Self {
        Self {
            worker,
            stream,
            tls: None,
            handshake: None,
            inbox: Vec::new(),
        }
    }

    /// Goes on by TLS, whose first bytes may be in the inbox already.
    pub(crate) async fn start_tls(
        &mut self,
        mut tls: TlsSession,
        handshake: Handshake,
    ) -> io::Result<()> {
        let mut ciphertext = std::mem::take(&mut self.inbox);
        let mut answers = Vec::new();
        let received = tls.receive(&mut ciphertext, &mut self.inbox);
        tls.urgent(&mut answers);
        if received.is_err() && http::is_beginning(&ciphertext) {
            answers = refuse_plain(&self.worker);
        }
        self.handshake = tls.is_handshaking().then_some(handshake);
        self.tls = Some(tls);
        write_raw(&self.stream, &answers).await?;
        // An end that came already comes once more with the next read.
        received.map(drop).map_err(io::Error::other)
    }

    /// Whether the client has gone and left nothing to be used. What else came is in the inbox.
    pub(crate) async fn is_abandoned(&mut self) -> io::Result<bool> {
        let mut answers = Vec::new();
        let taken = self.read(MIN_READ, &mut answers);
        write_raw(&self.stream, &answers).await?;
        Ok(match taken {
            Ok(Taken::End) => self.inbox.is_empty(),
            Ok(_) => false,
            Err(_) => true,
        })
    }

    /// Waits for more bytes and appends about `most` of them to the inbox; `false` at the end.
    pub(crate) async fn fill(&mut self, most: usize) -> io::Result<bool> {
        loop {
            if !self.has_ended() {
                self.stream.readable(false).await?;
            }
            let mut answers = Vec::new();
            let taken = self.read(most.max(MIN_READ), &mut answers);
            // Handshake messages, or the alert that says what was wrong.
            write_raw(&self.stream, &answers).await?;
            match taken? {
                Taken::Nothing => {}
                Taken::Bytes => return Ok(true),
                Taken::End => return Ok(false),
            }
        }
    }

    /// Whether the client has said goodbye to TLS, which no end of the connection need follow.
    fn has_ended(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsSession::has_ended)
    }

    /// Reads what is there into the inbox; what TLS answers is appended to `answers`.
    fn read(&mut self, most: usize, answers: &mut Vec<u8>) -> io::Result<Taken> {
        if self.has_ended() {
            return Ok(Taken::End);
        }
        let mut scratch = self.worker.scratch.borrow_mut();
        let room = most.min(scratch.len());
        let taken = match socket::receive(socket::descriptor(&self.stream), &mut scratch[..room])? {
            None => return Ok(Taken::Nothing),
            Some(0) => return Ok(Taken::End),
            Some(taken) => taken,
        };
        self.worker.stats.borrow_mut().received_bytes += taken as u64;
        let before = self.inbox.len();
        let closed = match &mut self.tls {
            None => {
                self.inbox.extend_from_slice(&scratch[..taken]);
                false
            }
            Some(tls) => {
                let received = tls.receive(&mut scratch[..taken], &mut self.inbox);
                tls.urgent(answers);
                // No record of TLS begins with a letter.
                if received.is_err()
                    && tls.is_handshaking()
                    && http::is_beginning(&scratch[..taken])
                {
                    *answers = refuse_plain(&self.worker);
                }
                if !tls.is_handshaking() {
                    self.handshake = None;
                }
                received.map_err(io::Error::other)?
            }
        };
        Ok(match (self.inbox.len() > before, closed) {
            (true, _) => Taken::Bytes,
            (false, true) => Taken::End,
            (false, false) => Taken::Nothing,
        })
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => write_raw(&self.stream, bytes).await,
            Some(tls) => {
                let mut encrypted = Vec::with_capacity(bytes.len() + 64);
                tls.send(bytes, &mut encrypted);
                write_raw(&self.stream, &encrypted).await
            }
        }
    }

    /// Answers a request; to a HEAD without the body.
    pub(crate) async fn respond(
        &mut self,
        response: &Response,
        keep: bool,
        head_only: bool,
    ) -> io::Result<()> {
        self.worker.count_response(response.status);
        self.write(&response.encode(keep, head_only)).await
    }

    /// Answers a request as the last thing on the connection.
    pub(crate) async fn respond_last(
        &mut self,
        response: &Response,
        head_only: bool,
    ) -> io::Result<()> {
        self.inbox = Vec::new();
        self.respond(response, false, head_only).await?;
        self.linger().await;
        Ok(())
    }

    /// Says without waiting for anything why the connection ends, where that can be said.
    pub(crate) fn respond_blindly(&mut self, response: &Response) {
        self.worker.count_response(response.status);
        if self.worker.shared.tls.is_some() {
            return;
        }
        // With what has come unread, the socket would be reset and the answer lost.
        let _ = self.read(usize::MAX, &mut Vec::new());
        // It fails when the client is gone.
        let _ = socket::send(
            socket::descriptor(&self.stream),
            &response.encode(false, false),
        );
    }

    /// Sends a close frame as the last thing on the connection, and counts it.
    pub(crate) async fn farewell(&mut self, code: CloseCode, reason: &str) -> io::Result<()> {
        self.worker.count_close(code);
        self.close_with(code, reason).await
    }

    /// Sends the client's own close frame back; the code is the client's choice and is not counted.
    pub(crate) async fn answer_close(&mut self, code: CloseCode) -> io::Result<()> {
        self.close_with(code, "").await
    }

    async fn close_with(&mut self, code: CloseCode, reason: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::close(&mut bytes, code, reason);
        self.write(&bytes).await?;
        self.linger().await;
        Ok(())
    }

    /// Lets the client read what was sent: a socket closed with unread bytes would be reset.
    async fn linger(&mut self) {
        if let Some(tls) = &mut self.tls {
            let mut goodbye = Vec::new();
            tls.close(&mut goodbye);
            // It fails when the client is gone, and then nobody needs it.
            let _ = write_raw(&self.stream, &goodbye).await;
        }
        socket::stop_writing(socket::descriptor(&self.stream));
        let deadline = self.worker.deadline(&self.stream, LINGER);
        while !deadline.expired() && self.stream.readable(false).await.is_ok() {
            let mut scratch = self.worker.scratch.borrow_mut();
            match socket::receive(socket::descriptor(&self.stream), &mut scratch) {
                Ok(Some(0)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

async fn write_raw(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket::send(socket::descriptor(stream), bytes)? {
            0 => stream.writable(false).await?,
            taken => bytes = &bytes[taken..],
        }
    }
    Ok(())
}

/// The answer, in plain text, to a request in plain text where TLS is spoken.
fn refuse_plain(worker: &Worker) -> Vec<u8> {
    let what = "plain HTTP was sent to a port that speaks TLS: use https:// or wss://";
    worker.count_refusal("plain_to_tls");
    worker.count_response(400);
    worker.shared.say_once(
        Hint::PlainToTls,
        &format!(
            "server.listen = {}: {what}; it is answered 400",
            worker.shared.config.server.listen
        ),
    );
    Response::problem(400, what).encode(false, false)
}
