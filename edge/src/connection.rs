//! A connection's way from accept to its session: a proxy's header, TLS, HTTP, the upgrade, the token,
//! then once to the core that owns the user. One task serves a connection on each core that it is on.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use monoio::net::TcpStream;
use presence::Opening;
use protocol::{CloseCode, Encoding, MessageId, Request, frame};
use token::Claims;

use crate::{
    admission::{Admission, Refused},
    clock,
    config::Presence,
    forwarded::{Client, Peer},
    http::{self, BadRequest, Response},
    link::Link,
    opening, pages, proxy_protocol,
    session::Handoff,
    shared::Hint,
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
    let shared = &worker.shared;
    socket::prepare(&stream, shared.config.server.tcp_user_timeout)?;
    let trusted = &shared.config.server.trusted_proxies;
    let mut peer = Peer::new(peer.ip(), trusted);
    // A proxy tells later whose the connection is.
    let address = (!peer.is_proxy).then_some(peer.address);
    let mut admission = shared.gate.admit(address);
    let mut link = Link::new(Rc::clone(worker), Rc::new(stream));
    if let Err(refused) = &admission {
        worker.count_refusal(refused.full.label());
        if refused.at_once {
            link.respond_blindly(&refused.full.response());
            return Ok(None);
        }
    }
    if peer.is_proxy && shared.config.server.proxy_protocol {
        if !read_proxy_header(&mut link, &mut peer).await? {
            return Ok(None);
        }
        // That of a second proxy is its clients', as their requests say.
        if peer.is_relayed
            && !peer.is_proxy
            && let Ok(admitted) = &mut admission
            && let Err(refused) = admitted.count(peer.address)
        {
            worker.count_refusal(refused.full.label());
            admission = Err(refused);
        }
    }
    if let Some(tls) = &shared.tls {
        let Some(handshake) = shared.gate.handshake() else {
            worker.count_refusal("handshakes");
            return Ok(None);
        };
        let session = tls.accept().map_err(io::Error::other)?;
        link.start_tls(session, handshake).await?;
    }
    let mut is_first = true;
    loop {
        let began = clock::mono_us();
        let request = read_request(&mut link, &peer, &mut admission, began, is_first);
        is_first = false;
        let (request, body) = match request.await? {
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
                    let claims = match &upgrade.token {
                        None => None,
                        Some(token) => {
                            match worker.check_token(token, worker.time_left(began)).await {
                                Ok(claims) => Some(claims),
                                Err(refusal) => {
                                    let response =
                                        Response::unauthorized(&refusal.to_string(), true);
                                    link.respond_last(&response, head_only).await?;
                                    return Ok(None);
                                }
                            }
                        }
                    };
                    return begin(link, upgrade, claims, admission, accepted).await;
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
        let client = Client::of(
            &request,
            &peer,
            &worker.shared.config.server.trusted_proxies,
        );
        let response = pages::answer(worker, &request, &client, body.as_deref(), began).await;
        // A body that was not read would be taken for the next request.
        let all_read = body.is_some() || request.body_length == 0;
        let may_stay = admission.is_ok() && !worker.shared.is_draining();
        if !request.keep_alive || !all_read || !may_stay {
            link.respond_last(&response, head_only).await?;
            return Ok(None);
        }
        link.respond(&response, true, head_only).await?;
        if peer.is_proxy
            && let Ok(admission) = &mut admission
        {
            // Its next request may be anyone's.
            admission.count_for_nobody();
        }
    }
}

/// Reads the header that a proxy's connection begins with, and what it says of the peer; `false`
/// when there is none, and the connection is over.
async fn read_proxy_header(link: &mut Link, peer: &mut Peer) -> io::Result<bool> {
    let worker = Rc::clone(&link.worker);
    let server = &worker.shared.config.server;
    let _deadline = worker.deadline(&link.stream, server.upgrade_timeout);
    loop {
        match proxy_protocol::parse(&link.inbox) {
            Ok(None) => {}
            Ok(Some((header, length))) => {
                link.inbox.drain(..length);
                *peer = peer.relaying(header, &server.trusted_proxies);
                return Ok(true);
            }
            Err(proxy_protocol::NoHeader) => {
                worker.count_refusal("proxy_header");
                worker.shared.say_once(
                    Hint::NoProxyHeader,
                    &format!(
                        "server.proxy_protocol = true: the proxy at {} does not begin its \
                         connections with a PROXY protocol header, and is answered 400",
                        peer.address
                    ),
                );
                if worker.shared.tls.is_none() {
                    let what = "server.proxy_protocol is on: a trusted proxy's connection begins \
                                with a PROXY protocol header";
                    link.respond_last(&Response::problem(400, what), false)
                        .await?;
                }
                return Ok(false);
            }
        }
        if !link.fill(CAUTIOUS_READ).await? {
            return Ok(false);
        }
    }
}

/// The answer to a request that is not served.
struct Refusal {
    response: Response,
    head_only: bool,
}

/// The next request, with its body where that is wanted; `None` when the client is gone. A connection
/// that asks for nothing in time is counted when the request would be its first.
async fn read_request(
    link: &mut Link,
    peer: &Peer,
    admission: &mut Result<Admission, Refused>,
    began: u64,
    is_first: bool,
) -> io::Result<Result<Option<(http::Request, Option<Vec<u8>>)>, Refusal>> {
    let worker = Rc::clone(&link.worker);
    let server = &worker.shared.config.server;
    let deadline = worker.deadline(&link.stream, server.upgrade_timeout);
    let refuse = |response, head_only| {
        Ok(Err(Refusal {
            response,
            head_only,
        }))
    };
    let late = |begun: bool| {
        if deadline.expired() && (begun || is_first) {
            worker.count_refusal("upgrade_timeout");
        }
        match begun && deadline.expired() {
            true => refuse(
                Response::problem(408, "the request did not come in time"),
                false,
            ),
            // One that asked for nothing (more) is owed nothing.
            false => Ok(Ok(None)),
        }
    };
    let request = match read_head(link, peer).await? {
        Ok(Some(request)) => request,
        Ok(None) => return late(!link.inbox.is_empty()),
        Err(BadRequest(status, what)) => return refuse(Response::problem(status, &what), false),
    };
    let head_only = request.method == "HEAD";
    // A probe is not told that the edge is full: that is no reason to start it anew.
    if !pages::is_probe(&request) {
        if peer.is_proxy
            && let Ok(admitted) = admission
        {
            let client = Client::of(&request, peer, &server.trusted_proxies);
            if let Err(refused) = admitted.count(client.address) {
                worker.count_refusal(refused.full.label());
                *admission = Err(refused);
            }
        }
        if let Err(refused) = admission {
            return refuse(refused.full.response(), head_only);
        }
    }
    match pages::takes_body(&worker, &request, began).await {
        Ok(false) => Ok(Ok(Some((request, None)))),
        Err(response) => refuse(*response, head_only),
        Ok(true) => match read_body(link, &request).await? {
            Some(body) => Ok(Ok(Some((request, Some(body))))),
            None => late(true),
        },
    }
}

/// The next request's head; `None` when the client is gone.
async fn read_head(
    link: &mut Link,
    peer: &Peer,
) -> io::Result<Result<Option<http::Request>, BadRequest>> {
    let worker = Rc::clone(&link.worker);
    let max_head = worker.shared.config.server.max_header.0;
    loop {
        match http::parse(&link.inbox, max_head) {
            Err(_) if proxy_protocol::is_header(&link.inbox) => {
                let what = "a PROXY protocol header comes from an address that it is not taken \
                            from: see server.proxy_protocol and server.trusted_proxies";
                worker.count_refusal("proxy_header");
                worker.shared.say_once(
                    Hint::ProxyHeader,
                    &format!("{}: {what}; it is answered 400", peer.address),
                );
                return Ok(Err(BadRequest::new(400, what)));
            }
            Err(_) if tls::is_hello(&link.inbox) => {
                worker.count_refusal("tls_to_plain");
                worker.shared.say_once(
                    Hint::TlsToPlain,
                    &format!(
                        "{}: a client speaks TLS to server.listen = {}, which is plain HTTP, and is \
                         closed: give tls.certificate and tls.key, or an address with ws:// or http://",
                        peer.address, worker.shared.config.server.listen
                    ),
                );
                return Ok(Ok(None));
            }
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
    claims: Option<Claims>,
    admission: Admission,
    accepted: u64,
) -> io::Result<Option<Handoff>> {
    let worker = Rc::clone(&link.worker);
    worker.count_response(101);
    link.write(&upgrade.response).await?;
    let mut reader = Reader::new(worker.shared.config.server.max_message.0);
    let encoding = upgrade.encoding;
    let (claims, reply_to, opening) = match claims {
        Some(claims) => (claims, None, upgrade.opening),
        None => match first_message(&mut link, &mut reader, encoding).await? {
            Ok(shown) => shown,
            Err((code, reason)) => {
                link.farewell(code, &reason).await?;
                return Ok(None);
            }
        },
    };
    // Under a storm many give up before their turn: they are not shown as online for a grace period.
    if link.is_abandoned().await? {
        worker.stats.borrow_mut().abandoned += 1;
        return Ok(None);
    }
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
        opening,
        admission,
        accepted,
    }))
}

/// What a token says, the id of the message that it came in, and what that says of the session.
type Shown = (Claims, Option<MessageId>, Opening);

/// The `auth` message, which has to be the first.
async fn first_message(
    link: &mut Link,
    reader: &mut Reader,
    encoding: Encoding,
) -> io::Result<Result<Shown, (CloseCode, String)>> {
    let worker = Rc::clone(&link.worker);
    let patience = worker.shared.config.server.auth_timeout;
    let began = clock::mono_us();
    let deadline = worker.deadline(&link.stream, patience);
    let shown = loop {
        let mut pongs = Vec::new();
        let (mut verdict, mut left) = (None, None);
        let used = reader.read(&mut link.inbox, |inbound| {
            verdict = Some(match inbound {
                Inbound::Message(kind, payload) if kind == encoding => {
                    shown_token(&worker.shared.config.presence, encoding, payload)
                }
                Inbound::Message(..) => Err((CloseCode::UNSUPPORTED, OTHER_KIND.into())),
                Inbound::Ping(payload) => {
                    frame::control(&mut pongs, frame::Opcode::Pong, payload);
                    return true;
                }
                Inbound::Pong => return true,
                Inbound::Close(code) => {
                    left = Some(code.unwrap_or(CloseCode::NORMAL));
                    return false;
                }
                Inbound::Error(code, reason) => Err((code, reason.into())),
            });
            false
        });
        link.inbox.drain(..used);
        link.write(&pongs).await?;
        if let Some(code) = left {
            link.answer_close(code).await?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match verdict {
            None => {}
            Some(Ok(shown)) => break shown,
            Some(Err(goodbye)) => return Ok(Err(goodbye)),
        }
        if !link.fill(CAUTIOUS_READ).await? {
            if deadline.expired() {
                return Ok(Err((CloseCode::TIMEOUT, "no token came in time".into())));
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    // It came in time; what it waits for now is not the client.
    drop(deadline);
    let (token, id, opening) = shown;
    let spent = Duration::from_micros(clock::mono_us() - began);
    let claims = worker.check_token(&token, patience.saturating_sub(spent));
    Ok(match claims.await {
        Ok(claims) => match opening {
            Ok(opening) => Ok((claims, id, opening)),
            // Another token would not help.
            Err(what) => Err((CloseCode::NOT_ALLOWED, what)),
        },
        Err(refusal) => Err((CloseCode::BAD_TOKEN, refusal.to_string())),
    })
}

/// The token of an `auth` message, the message's id, and what it says of the session.
type Auth = (String, Option<MessageId>, Result<Opening, String>);

fn shown_token(
    presence: &Presence,
    encoding: Encoding,
    payload: &[u8],
) -> Result<Auth, (CloseCode, String)> {
    let refused = |reason: String| Err((CloseCode::BAD_TOKEN, reason));
    match protocol::decode(encoding, payload) {
        Ok(message) => match message.request {
            Request::Auth {
                token,
                status,
                alive,
            } => {
                let opening = opening::opening(presence, status, alive);
                Ok((token.into_owned(), message.id, opening))
            }
            _ => refused("the first message must be auth".into()),
        },
        Err(bad) => refused(bad.message),
    }
}
