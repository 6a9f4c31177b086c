//! A connection's way from accept to its session: TLS, HTTP, the upgrade, the token, then once to
//! the core that owns the user. One task reads a connection for all its life; while it waits it
//! holds no buffer.

use std::{cell::RefCell, io, net::SocketAddr, os::fd::OwnedFd, rc::Rc};

use monoio::net::TcpStream;
use presence::{Hello, How, Refused, SessionId};
use protocol::{CloseCode, Encoding, ErrorCode, Request, ServerMessage, frame};
use token::Claims;

use crate::{
    clock,
    http::{self, BadRequest, Response},
    pages,
    shared::{Admission, Full},
    socket,
    tls::{self, TlsSession},
    upgrade::{self, Upgrade},
    websocket::{Inbound, Reader},
    worker::Worker,
};

/// Bytes of requests that may wait for their answers on one connection.
const MAX_PIPELINED: usize = http::MAX_BODY + (64 << 10);

const OTHER_KIND: &str = "this subprotocol has the other kind of frames";
/// How long a client of another node waits for a look at the map, µs, and between two looks at that.
const CATCH_UP: u64 = 500_000;
const CATCH_UP_LOOK: std::time::Duration = std::time::Duration::from_millis(5);

/// What a read of a socket gave.
enum Taken {
    Nothing,
    Bytes,
    End,
}

/// A connection that is not a session yet.
struct Io {
    worker: Rc<Worker>,
    stream: Rc<TcpStream>,
    tls: Option<TlsSession>,
    /// Plaintext that came and was not used yet.
    inbox: Vec<u8>,
}

impl Io {
    /// Waits for more bytes and appends them to the inbox; `false` at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        loop {
            self.stream.readable(false).await?;
            let mut answers = Vec::new();
            let taken = self.read(&mut answers);
            // Handshake messages, or the alert that says what was wrong.
            write_raw(&self.stream, &answers).await?;
            match taken? {
                Taken::Nothing => {}
                Taken::Bytes => return Ok(true),
                Taken::End => return Ok(false),
            }
        }
    }

    /// Reads what is there into the inbox; what TLS answers is appended to `answers`.
    fn read(&mut self, answers: &mut Vec<u8>) -> io::Result<Taken> {
        let mut scratch = self.worker.scratch.borrow_mut();
        let taken = match socket::receive(&self.stream, &mut scratch)? {
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
                let received = tls.receive(&scratch[..taken], &mut self.inbox);
                tls.pending(answers);
                received.map_err(io::Error::other)?
            }
        };
        Ok(match (self.inbox.len() > before, closed) {
            (true, _) => Taken::Bytes,
            (false, true) => Taken::End,
            (false, false) => Taken::Nothing,
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            None => write_raw(&self.stream, bytes).await,
            Some(tls) => {
                let mut encrypted = Vec::with_capacity(bytes.len() + 64);
                tls.send(bytes, &mut encrypted);
                write_raw(&self.stream, &encrypted).await
            }
        }
    }

    async fn respond(
        &mut self,
        response: &Response,
        keep: bool,
        head_only: bool,
    ) -> io::Result<()> {
        *self
            .worker
            .stats
            .borrow_mut()
            .responses
            .entry(response.status)
            .or_default() += 1;
        self.write(&response.encode(keep, head_only)).await
    }

    /// Says goodbye on the level of HTTP or WebSocket and lets the client read it: a socket closed
    /// with unread bytes would be reset.
    async fn linger(&mut self) {
        if let Some(tls) = &mut self.tls {
            let mut goodbye = Vec::new();
            tls.close(&mut goodbye);
            let _ = write_raw(&self.stream, &goodbye).await;
        }
        socket::stop_writing(&self.stream);
        let deadline = self
            .worker
            .deadline(&self.stream, std::time::Duration::from_secs(2));
        while !deadline.expired() && self.stream.readable(false).await.is_ok() {
            let mut scratch = self.worker.scratch.borrow_mut();
            match socket::receive(&self.stream, &mut scratch) {
                Ok(Some(0)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

async fn write_raw(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket::send(stream, bytes)? {
            0 => stream.writable(false).await?,
            taken => bytes = &bytes[taken..],
        }
    }
    Ok(())
}

/// Serves an accepted connection until it ends or is handed over.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let accepted = clock::mono_us();
    {
        let mut stats = worker.stats.borrow_mut();
        stats.accepted += 1;
        stats.connections += 1;
    }
    let handoff = greet(&worker, stream, peer, accepted).await;
    worker.stats.borrow_mut().connections -= 1;
    if let Ok(Some(handoff)) = handoff {
        worker.hand_over(handoff);
    }
    // An error is the client's way to end a connection before it was anything.
}

async fn greet(
    worker: &Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    accepted: u64,
) -> io::Result<Option<Handoff>> {
    socket::prepare(&stream, worker.shared.config.server.tcp_user_timeout)?;
    let tls = worker
        .shared
        .tls
        .as_ref()
        .map(tls::Acceptor::accept)
        .transpose();
    let tls = tls.map_err(io::Error::other)?;
    let stream = Rc::new(stream);
    let mut io = Io {
        worker: Rc::clone(worker),
        stream,
        tls,
        inbox: Vec::new(),
    };
    let admission = worker.shared.admit(peer.ip());
    loop {
        let timeout = worker.shared.config.server.upgrade_timeout;
        let deadline = worker.deadline(&io.stream, timeout);
        let request = read_head(&mut io).await?;
        let (request, body) = match request {
            Ok(Some(request)) => request,
            Ok(None) => {
                if deadline.expired() {
                    drop(deadline);
                    let response = Response::problem(408, "the request did not come in time");
                    io.respond(&response, false, false).await?;
                    io.linger().await;
                }
                return Ok(None);
            }
            Err(BadRequest(status, what)) => {
                drop(deadline);
                io.respond(&Response::problem(status, what), false, false)
                    .await?;
                io.linger().await;
                return Ok(None);
            }
        };
        drop(deadline);
        let refusal = match &admission {
            Ok(_) => None,
            Err(Full::Edge) => Some(
                Response::problem(503, "the edge has as many connections as it takes")
                    .with("retry-after", "5"),
            ),
            Err(Full::Address) => Some(Response::problem(
                429,
                "your address has as many connections as it may",
            )),
        };
        if let Some(response) = refusal {
            io.respond(&response, false, false).await?;
            io.linger().await;
            return Ok(None);
        }
        if request.path == "/socket" {
            match upgrade::check(&worker.shared, &request) {
                Ok(upgrade) => {
                    let admission = admission.expect("checked above");
                    return begin(io, upgrade, admission, accepted).await;
                }
                Err(refused) => {
                    if let Some(reason) = refused.bad_token {
                        let mut stats = worker.stats.borrow_mut();
                        *stats.bad_tokens.entry(reason).or_default() += 1;
                    }
                    io.respond(&refused.response, false, false).await?;
                    io.linger().await;
                    return Ok(None);
                }
            }
        }
        let response = pages::answer(worker, &request, &body).await;
        let keep = request.keep_alive && !worker.shared.is_draining();
        io.respond(&response, keep, request.method == "HEAD")
            .await?;
        if !keep {
            io.linger().await;
            return Ok(None);
        }
    }
}

type Whole = (http::Request, Vec<u8>);

/// The next request with its body; `None` when the client is gone.
async fn read_head(io: &mut Io) -> io::Result<Result<Option<Whole>, BadRequest>> {
    let max_head = io.worker.shared.config.server.max_header.0;
    loop {
        match http::parse(&io.inbox, max_head) {
            Err(bad) => return Ok(Err(bad)),
            Ok(Some((request, head))) if io.inbox.len() >= head + request.body_length => {
                let body = io.inbox[head..head + request.body_length].to_vec();
                io.inbox.drain(..head + request.body_length);
                return Ok(Ok(Some((request, body))));
            }
            Ok(_) if io.inbox.len() > MAX_PIPELINED => {
                return Ok(Err(BadRequest(413, "too many bytes wait")));
            }
            Ok(_) => {}
        }
        if !io.fill().await? {
            return Ok(Ok(None));
        }
    }
}

/// Upgrades the connection and learns whose it is.
async fn begin(
    mut io: Io,
    upgrade: Upgrade,
    admission: Admission,
    accepted: u64,
) -> io::Result<Option<Handoff>> {
    let worker = Rc::clone(&io.worker);
    *worker.stats.borrow_mut().responses.entry(101).or_default() += 1;
    io.write(&upgrade.response).await?;
    let max_message = worker.shared.config.server.max_message.0;
    let mut reader = Reader::new(max_message);
    let encoding = upgrade.encoding;
    let claims = match upgrade.claims {
        Some(claims) => claims,
        None => match first_message(&mut io, &mut reader, encoding).await? {
            Ok(claims) => claims,
            Err((code, reason)) => {
                farewell(&mut io, code, &reason).await?;
                return Ok(None);
            }
        },
    };
    let Io {
        stream, tls, inbox, ..
    } = io;
    let Ok(stream) = Rc::try_unwrap(stream) else {
        unreachable!("deadlines, the only other holders, are over");
    };
    let socket = socket::into_socket(stream);
    Ok(Some(Handoff {
        socket,
        tls,
        reader,
        inbox,
        encoding,
        claims,
        admission,
        accepted,
    }))
}

/// The `auth` message, which has to be the first.
async fn first_message(
    io: &mut Io,
    reader: &mut Reader,
    encoding: Encoding,
) -> io::Result<Result<Claims, (CloseCode, String)>> {
    let worker = Rc::clone(&io.worker);
    let deadline = worker.deadline(&io.stream, worker.shared.config.server.auth_timeout);
    loop {
        let mut pongs = Vec::new();
        let mut verdict = None;
        let used = reader.read(&mut io.inbox, |inbound| {
            verdict = Some(match inbound {
                Inbound::Message(kind, payload) if kind == encoding => {
                    authenticate(&worker, encoding, payload)
                }
                Inbound::Message(..) => Err((CloseCode::UNSUPPORTED, OTHER_KIND.into())),
                Inbound::Ping(payload) => {
                    frame::control(&mut pongs, frame::Opcode::Pong, payload);
                    return true;
                }
                Inbound::Pong => return true,
                Inbound::Close(code) => Err((code.unwrap_or(CloseCode::NORMAL), String::new())),
                Inbound::Error(code, reason) => Err((code, reason.into())),
            });
            false
        });
        io.inbox.drain(..used);
        io.write(&pongs).await?;
        if let Some(verdict) = verdict {
            return Ok(verdict);
        }
        if !io.fill().await? {
            if deadline.expired() {
                return Ok(Err((CloseCode::TIMEOUT, "no token came in time".into())));
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn authenticate(
    worker: &Worker,
    encoding: Encoding,
    payload: &[u8],
) -> Result<Claims, (CloseCode, String)> {
    match protocol::decode(encoding, payload) {
        Ok(message) => match message.request {
            Request::Auth { token } => verify(worker, &token),
            _ => Err((
                CloseCode::BAD_TOKEN,
                "the first message must be auth".into(),
            )),
        },
        Err(bad) => Err((CloseCode::BAD_TOKEN, bad.message)),
    }
}

fn verify(worker: &Worker, token: &str) -> Result<Claims, (CloseCode, String)> {
    worker
        .shared
        .verifier
        .load()
        .verify(token, clock::wall_ms())
        .map_err(|error| {
            *worker
                .stats
                .borrow_mut()
                .bad_tokens
                .entry(error.label())
                .or_default() += 1;
            (CloseCode::BAD_TOKEN, error.to_string())
        })
}

/// Sends a close frame on a connection that is no session.
async fn farewell(io: &mut Io, code: CloseCode, reason: &str) -> io::Result<()> {
    *io.worker
        .stats
        .borrow_mut()
        .closes
        .entry(code.get())
        .or_default() += 1;
    let mut bytes = Vec::new();
    frame::close(&mut bytes, code, reason);
    io.write(&bytes).await?;
    io.linger().await;
    Ok(())
}

/// A connection on its way to the core that owns its user.
pub(crate) struct Handoff {
    socket: OwnedFd,
    tls: Option<TlsSession>,
    reader: Reader,
    /// What came behind the token.
    inbox: Vec<u8>,
    encoding: Encoding,
    pub(crate) claims: Claims,
    admission: Admission,
    /// Monotonic µs.
    accepted: u64,
}

impl Handoff {
    /// Opens the session and serves it to its end, on the owner's core.
    pub(crate) async fn run(self, worker: Rc<Worker>) {
        let Self {
            socket,
            tls,
            reader,
            inbox,
            encoding,
            claims,
            admission,
            accepted,
        } = self;
        // Without a runtime's place for it, the socket closes.
        let Ok(stream) = socket::from_socket(socket) else {
            return;
        };
        let stream = Rc::new(stream);
        let hello = Hello {
            user: &claims.user,
            encoding,
            expires: claims.expires,
            rule: claims.rule.clone(),
        };
        let id = match open(&worker, &hello).await {
            Ok(id) => id,
            Err(refused) => {
                let (code, reason) = match refused {
                    Refused::TooManySessions => (CloseCode::TOO_MANY_SESSIONS, refused.to_string()),
                    Refused::NotOwner => elsewhere(&worker, &claims.user),
                };
                let mut io = Io {
                    worker,
                    stream,
                    tls,
                    inbox: Vec::new(),
                };
                // The client may be gone already.
                let _ = farewell(&mut io, code, &reason).await;
                return;
            }
        };
        {
            let mut stats = worker.stats.borrow_mut();
            stats.connections += 1;
            stats
                .handshake
                .record(clock::mono_us().saturating_sub(accepted));
        }
        drop(claims);
        let tls = tls.map(|tls| Rc::new(RefCell::new(tls)));
        worker.register(id, Rc::clone(&stream), tls.clone());
        worker.kick();
        let mut session = Session {
            id,
            stream,
            tls,
            reader,
            encoding,
            unread: inbox,
            ended: false,
        };
        session.run(&worker).await;
        worker.deregister(id);
        {
            let mut core = worker.core.borrow_mut();
            core.at(clock::now());
            core.closed(id, How::Broken);
        }
        worker.stats.borrow_mut().connections -= 1;
        worker.kick();
        drop(admission);
    }
}

/// Opens a session. A node that does not own the user may be behind: then it looks at the map first.
async fn open(worker: &Worker, hello: &Hello<'_>) -> Result<SessionId, Refused> {
    let connect = || {
        let mut core = worker.core.borrow_mut();
        core.at(clock::now());
        core.connect(hello)
    };
    let opened = connect();
    let (Err(Refused::NotOwner), Some(place)) = (&opened, &worker.shared.place) else {
        return opened;
    };
    let before = place.reads();
    place.want_map();
    let started = clock::mono_us();
    loop {
        monoio::time::sleep(CATCH_UP_LOOK).await;
        let opened = connect();
        let looked = place.reads() >= before + 2;
        let waited = clock::mono_us() - started > CATCH_UP;
        if !matches!(opened, Err(Refused::NotOwner)) || looked || waited {
            return opened;
        }
    }
}

/// What a client is told that is not this node's.
fn elsewhere(worker: &Worker, user: &str) -> (CloseCode, String) {
    let shared = &worker.shared;
    match shared.route(user) {
        Some(route) if route.node != shared.config.node.id => {
            (CloseCode::WRONG_NODE, route.address)
        }
        _ => {
            let reason = "no node owns the user at the moment";
            (CloseCode::OVERLOADED, reason.to_owned())
        }
    }
}

/// The reading side of a session.
struct Session {
    id: SessionId,
    stream: Rc<TcpStream>,
    tls: Option<Rc<RefCell<TlsSession>>>,
    reader: Reader,
    encoding: Encoding,
    /// What came while the session was busy; nothing is read from the socket before it is.
    unread: Vec<u8>,
    /// Nothing follows what is unread.
    ended: bool,
}

impl Session {
    async fn run(&mut self, worker: &Rc<Worker>) {
        loop {
            if !self.unread.is_empty() {
                let mut unread = std::mem::take(&mut self.unread);
                self.take(worker, &mut unread);
            } else if self.ended || self.stream.readable(false).await.is_err() || !self.read(worker)
            {
                return;
            }
            worker.kick();
            worker.unpaused(self.id).await;
        }
    }

    /// Reads what is there; `false` at the end.
    fn read(&mut self, worker: &Rc<Worker>) -> bool {
        let mut scratch = worker.scratch.borrow_mut();
        let taken = match socket::receive(&self.stream, &mut scratch) {
            Ok(None) => return true,
            Ok(Some(0)) | Err(_) => return false,
            Ok(Some(taken)) => taken,
        };
        worker.stats.borrow_mut().received_bytes += taken as u64;
        let Some(tls) = &self.tls else {
            self.take(worker, &mut scratch[..taken]);
            return true;
        };
        let mut plaintext = Vec::new();
        // What TLS itself has to say goes out with the next answer.
        let received = tls.borrow_mut().receive(&scratch[..taken], &mut plaintext);
        drop(scratch);
        self.ended = !matches!(received, Ok(false));
        self.take(worker, &mut plaintext);
        true
    }

    /// Gives bytes of the client to the presence core, message by message, until the session is
    /// busy.
    fn take(&mut self, worker: &Rc<Worker>, bytes: &mut [u8]) {
        if worker.is_closing(self.id) {
            return;
        }
        let mut core = worker.core.borrow_mut();
        core.at(clock::now());
        core.heard(self.id);
        let (id, encoding) = (self.id, self.encoding);
        let used = self.reader.read(bytes, |inbound| {
            match inbound {
                Inbound::Message(kind, payload) if kind == encoding => {
                    match protocol::decode(encoding, payload) {
                        Ok(message) => match message.request {
                            Request::Auth { token } => {
                                renew(worker, &mut core, id, &token, message.id.as_ref());
                            }
                            _ => core.receive(id, message),
                        },
                        Err(bad) => core.reject(id, &bad),
                    }
                }
                Inbound::Message(..) => {
                    core.close(id, How::Broken, CloseCode::UNSUPPORTED, OTHER_KIND);
                }
                Inbound::Ping(payload) => core.ping(id, payload),
                Inbound::Pong => core.pong(id),
                Inbound::Close(code) => {
                    let how = if code == Some(CloseCode::NORMAL) {
                        How::Clean
                    } else {
                        How::Broken
                    };
                    core.close(id, how, code.unwrap_or(CloseCode::NORMAL), "");
                }
                Inbound::Error(code, reason) => core.close(id, How::Broken, code, reason),
            }
            !core.is_busy(id)
        });
        self.unread.extend_from_slice(&bytes[used..]);
    }
}

/// A token that comes in a session renews it.
fn renew(
    worker: &Worker,
    core: &mut presence::Core,
    id: SessionId,
    token: &str,
    reply_to: Option<&protocol::MessageId>,
) {
    // Checking a token costs more than most, so it counts as a message before.
    if !core.spend(id) {
        return;
    }
    let refused = match verify(worker, token) {
        Ok(claims) if core.user_of(id) == Some(&*claims.user) => {
            core.renewed(id, claims.expires, &claims.rule);
            return;
        }
        Ok(_) => (
            ErrorCode::WrongUser,
            "the new token is another user's".to_owned(),
        ),
        Err((_, reason)) => (ErrorCode::BadToken, reason),
    };
    let (code, message) = refused;
    core.send_message(
        id,
        &ServerMessage::Error {
            id: reply_to,
            code,
            message: &message,
        },
    );
}
