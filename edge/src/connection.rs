//! A connection's way from accept to its session: TLS, HTTP, the upgrade, the token, then once to
//! the core that owns the user. One task serves a connection on each core that it is on.

use std::{io, net::SocketAddr, rc::Rc};

use monoio::net::TcpStream;
use protocol::{CloseCode, Encoding, MessageId, Request, frame};
use token::Claims;

use crate::{
    admission::{Admission, Refused},
    clock,
    http::{self, BadRequest, Response},
    link::Link,
    pages,
    session::Handoff,
    socket, tls,
    upgrade::{self, Upgrade},
    websocket::{Inbound, OTHER_KIND, Reader},
    worker::Worker,
};

/// Bytes read at a time before there is a session.
const CAUTIOUS_READ: usize = 8 << 10;

/// Serves an accepted connection until it ends or is handed over.
pub(crate) async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let accepted = clock::mono_us();
    {
        let mut stats = worker.stats.borrow_mut();
        stats.accepted += 1;
        stats.connections += 1;
        stats.unauthenticated += 1;
    }
    let handoff = greet(&worker, stream, peer, accepted).await;
    {
        let mut stats = worker.stats.borrow_mut();
        stats.connections -= 1;
        stats.unauthenticated -= 1;
    }
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
    let mut link = Link::new(Rc::clone(worker), Rc::new(stream), tls);
    let admission = worker.shared.gate.admit(peer.ip());
    if let Err(refused) = &admission {
        worker.count_refusal(refused.full.label());
        if refused.at_once {
            link.respond_blindly(&refused.full.response());
            return Ok(None);
        }
    }
    loop {
        let (request, body) = match read_request(&mut link, admission.as_ref().err()).await? {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(None),
            Err(Refusal {
                response,
                head_only,
            }) => {
                link.respond_last(&response, head_only).await?;
                return Ok(None);
            }
        };
        let head_only = request.method == "HEAD";
        if request.path == "/socket" {
            match upgrade::check(&worker.shared, &request) {
                Ok(upgrade) => {
                    let Ok(admission) = admission else {
                        unreachable!("others are refused with their request");
                    };
                    return begin(link, upgrade, admission, accepted).await;
                }
                Err(refused) => {
                    if let Some(reason) = refused.bad_token {
                        worker.count_bad_token(reason);
                    }
                    link.respond_last(&refused.response, head_only).await?;
                    return Ok(None);
                }
            }
        }
        let response = pages::answer(worker, &request, body.as_deref()).await;
        // A body that was not read would be taken for the next request.
        let all_read = body.is_some() || request.body_length == 0;
        let may_stay = admission.is_ok() && !worker.shared.is_draining();
        if !request.keep_alive || !all_read || !may_stay {
            link.respond_last(&response, head_only).await?;
            return Ok(None);
        }
        link.respond(&response, true, head_only).await?;
    }
}

/// A request that is not served.
struct Refusal {
    response: Response,
    head_only: bool,
}

/// The next request, with its body where that is wanted; `None` when the client is gone.
async fn read_request(
    link: &mut Link,
    refused: Option<&Refused>,
) -> io::Result<Result<Option<(http::Request, Option<Vec<u8>>)>, Refusal>> {
    let worker = Rc::clone(&link.worker);
    let timeout = worker.shared.config.server.upgrade_timeout;
    let deadline = worker.deadline(&link.stream, timeout);
    let refuse = |response, head_only| {
        Ok(Err(Refusal {
            response,
            head_only,
        }))
    };
    let late = |began: bool| match began && deadline.expired() {
        true => refuse(
            Response::problem(408, "the request did not come in time"),
            false,
        ),
        // One that asked for nothing (more) is owed nothing.
        false => Ok(Ok(None)),
    };
    let request = match read_head(link).await? {
        Ok(Some(request)) => request,
        Ok(None) => return late(!link.inbox.is_empty()),
        Err(BadRequest(status, what)) => return refuse(Response::problem(status, what), false),
    };
    let head_only = request.method == "HEAD";
    // A probe is not told that the edge is full: that is no reason to start it anew.
    if let Some(refused) = refused
        && !pages::is_health(&request.path)
    {
        return refuse(refused.full.response(), head_only);
    }
    match pages::takes_body(&worker, &request) {
        Ok(false) => Ok(Ok(Some((request, None)))),
        Err(response) => refuse(*response, head_only),
        Ok(true) => match read_body(link, &request).await? {
            Some(body) => Ok(Ok(Some((request, Some(body))))),
            None => late(true),
        },
    }
}

/// The next request's head; `None` when the client is gone.
async fn read_head(link: &mut Link) -> io::Result<Result<Option<http::Request>, BadRequest>> {
    let max_head = link.worker.shared.config.server.max_header.0;
    loop {
        match http::parse(&link.inbox, max_head) {
            Err(bad) => return Ok(Err(bad)),
            Ok(Some((request, head))) => {
                link.inbox.drain(..head);
                return Ok(Ok(Some(request)));
            }
            Ok(None) => {}
        }
        if !link.fill(max_head.min(CAUTIOUS_READ)).await? {
            return Ok(Ok(None));
        }
    }
}

/// The request's body, which is at most [`http::MAX_BODY`] long; `None` when the client is gone.
async fn read_body(link: &mut Link, request: &http::Request) -> io::Result<Option<Vec<u8>>> {
    let length = request.body_length;
    if link.inbox.len() < length && request.has_word("expect", "100-continue") {
        link.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    while link.inbox.len() < length {
        if !link.fill(length - link.inbox.len()).await? {
            return Ok(None);
        }
    }
    let behind = link.inbox.split_off(length);
    Ok(Some(std::mem::replace(&mut link.inbox, behind)))
}

/// Upgrades the connection and learns whose it is.
async fn begin(
    mut link: Link,
    upgrade: Upgrade,
    admission: Admission,
    accepted: u64,
) -> io::Result<Option<Handoff>> {
    let worker = Rc::clone(&link.worker);
    worker.count_response(101);
    link.write(&upgrade.response).await?;
    let mut reader = Reader::new(worker.shared.config.server.max_message.0);
    let encoding = upgrade.encoding;
    let (claims, reply_to) = match upgrade.claims {
        Some(claims) => (claims, None),
        None => match first_message(&mut link, &mut reader, encoding).await? {
            Ok(shown) => shown,
            Err((code, reason)) => {
                link.farewell(code, &reason).await?;
                return Ok(None);
            }
        },
    };
    let Link {
        stream, tls, inbox, ..
    } = link;
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
        reply_to,
        admission,
        accepted,
    }))
}

/// What a token says, and the id of the message that it came in.
type Shown = (Claims, Option<MessageId>);

/// The `auth` message, which has to be the first.
async fn first_message(
    link: &mut Link,
    reader: &mut Reader,
    encoding: Encoding,
) -> io::Result<Result<Shown, (CloseCode, String)>> {
    let worker = Rc::clone(&link.worker);
    let deadline = worker.deadline(&link.stream, worker.shared.config.server.auth_timeout);
    loop {
        let mut pongs = Vec::new();
        let mut verdict = None;
        let used = reader.read(&mut link.inbox, |inbound| {
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
        link.inbox.drain(..used);
        link.write(&pongs).await?;
        if let Some(verdict) = verdict {
            return Ok(verdict);
        }
        if !link.fill(CAUTIOUS_READ).await? {
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
) -> Result<Shown, (CloseCode, String)> {
    let refused = |reason: String| Err((CloseCode::BAD_TOKEN, reason));
    match protocol::decode(encoding, payload) {
        Ok(message) => match message.request {
            Request::Auth { token } => match worker.check_token(&token) {
                Ok(claims) => Ok((claims, message.id)),
                Err(error) => refused(error.to_string()),
            },
            _ => refused("the first message must be auth".into()),
        },
        Err(bad) => refused(bad.message),
    }
}
