//! A session on the core that owns its user: what its client sends, from the socket to the presence
//! core. It owns the reading side, and holds no buffer while it waits; what is sent to the client
//! is the worker's.

use std::{cell::RefCell, os::fd::OwnedFd, rc::Rc, time::Duration};

use monoio::net::TcpStream;
use presence::{Hello, How, Opening, Refused, SessionId};
use protocol::{CloseCode, Encoding, ErrorCode, MessageId, Request, ServerMessage, policy::Issued};
use token::Claims;

use crate::{
    admission::Admission,
    clock,
    link::Link,
    opening, socket,
    tls::TlsSession,
    websocket::{Inbound, OTHER_KIND, Reader},
    worker::Worker,
};

/// How long a client of another node waits for a look at the map, µs, and between two looks at that.
const CATCH_UP: u64 = 500_000;
const CATCH_UP_LOOK: Duration = Duration::from_millis(5);

/// A connection on its way to the core that owns its user.
pub(crate) struct Handoff {
    pub(crate) socket: OwnedFd,
    pub(crate) tls: Option<TlsSession>,
    pub(crate) reader: Reader,
    /// The bytes that came behind the token.
    pub(crate) inbox: Vec<u8>,
    pub(crate) encoding: Encoding,
    pub(crate) claims: Claims,
    /// The id of the `auth` message, when the token came in one.
    pub(crate) reply_to: Option<MessageId>,
    pub(crate) opening: Opening,
    pub(crate) admission: Admission,
    /// The time of the accept, monotonic µs.
    pub(crate) accepted: u64,
}

impl Handoff {
    /// Opens the session on the owner's core, where it is served from then on.
    pub(crate) async fn run(self, worker: Rc<Worker>) {
        let Self {
            socket,
            tls,
            reader,
            inbox,
            encoding,
            claims,
            reply_to,
            opening,
            mut admission,
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
            opening,
            id: reply_to.as_ref(),
        };
        let id = match open(&worker, &hello).await {
            Ok(id) => id,
            Err(refused) => {
                let (code, reason) = match refused {
                    Refused::TooManySessions => (CloseCode::TOO_MANY_SESSIONS, refused.to_string()),
                    Refused::NotOwner => elsewhere(&worker, &claims.user),
                };
                let mut link = Link::new(worker, stream);
                link.tls = tls;
                // The client may be gone already.
                let _ = link.farewell(code, &reason).await;
                return;
            }
        };
        admission.has_session();
        {
            let mut stats = worker.stats.borrow_mut();
            stats.connections += 1;
            stats
                .handshake
                .record(clock::mono_us().saturating_sub(accepted));
        }
        let issued = Issued::new(claims.issued, claims.id.as_deref());
        // It may have been revoked while it was on its way here.
        let is_revoked = worker.shared.keys.revokes(&claims);
        drop((claims, reply_to));
        let tls = tls.map(|tls| Rc::new(RefCell::new(tls)));
        worker.register(id, issued, Rc::clone(&stream), tls.clone());
        if is_revoked {
            worker.revoke(&mut worker.core.borrow_mut(), id);
        }
        worker.kick();
        let session = Session {
            id,
            stream,
            tls,
            reader: (!reader.is_between_messages()).then(|| Box::new(reader)),
            encoding,
            // What is empty keeps no room: an idle session would hold it for its life.
            unread: if inbox.is_empty() { Vec::new() } else { inbox },
            renewal: None,
            ended: false,
        };
        // A task of its own: one lasts as long as the session, and is no larger than that needs.
        monoio::spawn(session.serve(worker, admission));
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
    /// What has come of a message; between two of them the core's reader serves, which is like any.
    reader: Option<Box<Reader>>,
    encoding: Encoding,
    /// What came while the session was busy; nothing is read from the socket before it is.
    unread: Vec<u8>,
    /// A new token that newer keys may let in; what is unread waits until that is settled.
    renewal: Option<Box<Renewal>>,
    /// The client's side has ended: nothing follows what is unread.
    ended: bool,
}

/// A token that came in a session, what else its message says, and that one's id.
type Renewal = (String, Result<Opening, String>, Option<MessageId>);

impl Session {
    /// Serves the client until the connection ends.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments beside their copies as long as it runs"
    )]
    fn serve(mut self, worker: Rc<Worker>, admission: Admission) -> impl Future<Output = ()> {
        async move {
            self.read_all(&worker).await;
            worker.deregister(self.id);
            {
                let mut core = worker.core.borrow_mut();
                core.at(clock::now());
                core.closed(self.id, How::Broken);
            }
            worker.stats.borrow_mut().connections -= 1;
            worker.kick();
            drop(admission);
        }
    }

    async fn read_all(&mut self, worker: &Rc<Worker>) {
        loop {
            // What comes before the welcome is answered after it.
            worker.unpaused(self.id).await;
            if !self.unread.is_empty() {
                let mut unread = std::mem::take(&mut self.unread);
                self.take(worker, &mut unread);
            } else if self.ended || self.stream.readable(false).await.is_err() || !self.read(worker)
            {
                return;
            }
            if let Some(renewal) = self.renewal.take() {
                // Rare, and not to be room in the task of each session.
                Box::pin(self.settle(worker, *renewal)).await;
            }
            worker.kick();
        }
    }

    /// Settles whether a new token renews the session; nothing of its client is read meanwhile.
    async fn settle(&self, worker: &Rc<Worker>, (token, opening, reply_to): Renewal) {
        let config = &worker.shared.config;
        // A client that is not read must not be taken for one that is gone.
        let patience = (config.server.auth_timeout).min(config.presence.heartbeat_timeout);
        let verdict = worker.check_token(&token, patience).await;
        if worker.is_closing(self.id) {
            return;
        }
        let verdict = verdict.map_err(|refusal| refusal.to_string());
        let mut core = worker.core.borrow_mut();
        core.at(clock::now());
        core.heard(self.id);
        answer_renewal(
            worker,
            &mut core,
            self.id,
            verdict,
            opening,
            reply_to.as_ref(),
        );
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
        worker.core.borrow_mut().took(self.id, taken);
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
        let mut waits = None;
        let mut reader = self.reader.take().unwrap_or_else(|| worker.lend_reader());
        let used = reader.read(bytes, |inbound| {
            match inbound {
                Inbound::Message(kind, payload) if kind == encoding => {
                    match protocol::decode(encoding, payload) {
                        Ok(message) => match message.request {
                            Request::Auth {
                                token,
                                status,
                                alive,
                            } => {
                                let presence = &worker.shared.config.presence;
                                let opening = opening::opening(presence, status, alive);
                                waits = renew(worker, &mut core, id, &token, opening, message.id);
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
            waits.is_none() && !core.is_busy(id)
        });
        self.renewal = waits;
        if reader.is_between_messages() {
            worker.give_back(reader);
        } else {
            self.reader = Some(reader);
        }
        self.unread.extend_from_slice(&bytes[used..]);
    }
}

/// A token that comes in a session renews it, unless it has to wait for newer keys.
fn renew(
    worker: &Worker,
    core: &mut presence::Core,
    id: SessionId,
    token: &str,
    opening: Result<Opening, String>,
    reply_to: Option<MessageId>,
) -> Option<Box<Renewal>> {
    // Checking a token costs more than most, so it counts as a message before.
    if !core.said(id) {
        return None;
    }
    let verdict = match worker.shared.keys.verify(token, clock::wall_ms()) {
        Ok(claims) => Ok(claims),
        Err(refused) if refused.may_be_newer => {
            return Some(Box::new((token.to_owned(), opening, reply_to)));
        }
        Err(refused) => {
            worker.count_bad_token(refused.error.label());
            Err(refused.error.to_string())
        }
    };
    answer_renewal(worker, core, id, verdict, opening, reply_to.as_ref());
    None
}

/// Takes what the new token says for the session, or tells its client why not.
fn answer_renewal(
    worker: &Worker,
    core: &mut presence::Core,
    id: SessionId,
    verdict: Result<Claims, String>,
    opening: Result<Opening, String>,
    reply_to: Option<&MessageId>,
) {
    let own = |claims: &Claims| core.user_of(id) == Some(&*claims.user);
    let (code, message) = match (verdict, opening) {
        (Ok(claims), Ok(opening)) if own(&claims) => {
            worker.reissued(id, Issued::new(claims.issued, claims.id.as_deref()));
            core.renewed(id, claims.expires, &claims.rule, opening, reply_to);
            return;
        }
        (Ok(claims), Err(what)) if own(&claims) => (ErrorCode::BadMember, what),
        (Ok(_), _) => (
            ErrorCode::WrongUser,
            "the new token is another user's".to_owned(),
        ),
        (Err(reason), _) => (ErrorCode::BadToken, reason),
    };
    core.send_message(
        id,
        &ServerMessage::Error {
            id: reply_to,
            code,
            message: &message,
        },
    );
}
