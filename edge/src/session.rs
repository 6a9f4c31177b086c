//! A session's beginning on the core that owns its user, and its renewals. It owns what a client is
//! told that is in the wrong place; what the session then reads and is sent is the worker's.

use std::{os::fd::OwnedFd, rc::Rc, time::Duration};

use presence::{Hello, Opening, Refused, SessionId};
use protocol::{CloseCode, Encoding, ErrorCode, MessageId, ServerMessage, policy::Issued};
use token::Claims;

use crate::{
    admission::Admission,
    clock,
    link::Link,
    socket,
    tls::TlsSession,
    websocket::Reader,
    worker::{Conn, Worker},
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
                // Without a runtime's place for it, the socket closes.
                let Ok(stream) = socket::from_socket(socket) else {
                    return;
                };
                let mut link = Link::new(worker, Rc::new(stream));
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
        let conn = Conn::new(id, issued, admission, socket, tls, encoding);
        worker.register(conn.begun(reader, &inbox));
        if is_revoked {
            worker.revoke(&mut worker.core.borrow_mut(), id);
        }
        worker.schedule_pump();
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

/// A token that came in a session, what else its message says, and that one's id.
pub(crate) type Renewal = (String, Result<Opening, String>, Option<MessageId>);

/// A token that comes in a session renews it, unless it has to wait for newer keys.
pub(crate) fn renew(
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
pub(crate) fn answer_renewal(
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
