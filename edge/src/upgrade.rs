//! The upgrade request (RFC 6455 §4.2): what it must have, and the answer. It decides by the request
//! alone and does no I/O; whose its token is, the connection finds out.

use base64::{Engine, engine::general_purpose::STANDARD};
use presence::Opening;
use protocol::Encoding;
use sha1::{Digest, Sha1};

use crate::{
    http::{NoBearer, Request, Response},
    opening,
    shared::Shared,
};

/// The prefix of a subprotocol that carries a token, since browsers cannot set headers.
const BEARER: &str = "bearer.";

/// Why nobody is let in who might be.
pub(crate) const NO_KEYS: &str = "the keys for tokens are not there yet";

/// An upgrade request that keeps the rules.
pub(crate) struct Upgrade {
    pub(crate) encoding: Encoding,
    /// The token of the request, not verified yet.
    pub(crate) token: Option<String>,
    /// How the session begins, as the query of the target says.
    pub(crate) opening: Opening,
    /// The head of the answer to a good token, or none.
    pub(crate) response: Vec<u8>,
}

/// A refused upgrade, and the answer to it.
pub(crate) struct Refused {
    pub(crate) response: Response,
    /// What was wrong with the token, when that was it.
    pub(crate) bad_token: Option<&'static str>,
}

fn refuse(status: u16, what: &str) -> Refused {
    Refused {
        response: Response::problem(status, what),
        bad_token: None,
    }
}

/// Checks an upgrade request (RFC 6455 §4.2.1).
pub(crate) fn check(shared: &Shared, request: &Request) -> Result<Upgrade, Refused> {
    if request.method != "GET" {
        let mut refused = refuse(405, "an upgrade is a GET");
        refused.response = refused.response.with("allow", "GET");
        return Err(refused);
    }
    if !request.is_current {
        return Err(refuse(400, "an upgrade needs HTTP/1.1"));
    }
    if !request.has_word("upgrade", "websocket") || !request.has_word("connection", "upgrade") {
        let mut refused = refuse(426, "this is the address of a WebSocket");
        refused.response = refused
            .response
            .with("upgrade", "websocket")
            .with("connection", "upgrade");
        return Err(refused);
    }
    if request.only("sec-websocket-version") != Some("13") {
        let mut refused = refuse(426, "only version 13 of WebSocket is spoken here");
        refused.response = refused.response.with("sec-websocket-version", "13");
        return Err(refused);
    }
    let key = request.only("sec-websocket-key").unwrap_or_default();
    if STANDARD.decode(key).map_or(true, |key| key.len() != 16) {
        let what = "one sec-websocket-key is needed, of 16 bytes in base64";
        return Err(refuse(400, what));
    }
    if request.body_length > 0 {
        return Err(refuse(400, "an upgrade request has no body"));
    }
    if request.header("origin").is_some() {
        let Some(origin) = request.only("origin") else {
            return Err(refuse(400, "the request has more than one origin"));
        };
        if !shared.allows_origin(origin) {
            return Err(refuse(403, "this origin is not allowed"));
        }
    }
    if shared.is_draining() {
        let mut refused = refuse(503, "the edge is shutting down");
        refused.response = refused.response.with("retry-after", "1");
        return Err(refused);
    }
    if !shared.keys.are_ready() {
        let mut refused = refuse(503, NO_KEYS);
        refused.response = refused.response.with("retry-after", "1");
        return Err(refused);
    }
    let offered: Vec<&str> = request.words("sec-websocket-protocol").collect();
    let encoding = offered
        .iter()
        .find_map(|name| Encoding::from_subprotocol(name));
    if encoding.is_none() && offered.iter().any(|name| !name.starts_with(BEARER)) {
        let what = "none of the subprotocols is spoken here: online-status.v1.json and \
                    online-status.v1.cbor are";
        return Err(refuse(400, what));
    }
    let token = token_of(request, &offered)?.map(str::to_owned);
    let opening = opening::of_target(&shared.config.presence, request);
    let opening = opening.map_err(|what| refuse(400, &what))?;
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\n",
        accept_key(key)
    );
    if let Some(encoding) = encoding {
        response.push_str("sec-websocket-protocol: ");
        response.push_str(encoding.subprotocol());
        response.push_str("\r\n");
    }
    response.push_str("\r\n");
    let encoding = encoding.unwrap_or(Encoding::Json);
    Ok(Upgrade {
        encoding,
        token,
        opening,
        response: response.into_bytes(),
    })
}

/// The proof that the server speaks WebSocket (RFC 6455 §4.2.2).
fn accept_key(key: &str) -> String {
    let proof = Sha1::new()
        .chain_update(key)
        .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(proof.finalize())
}

/// The request's token: in its authorization or among its subprotocols, and never twice, since
/// which of two would count is a question with two answers.
fn token_of<'a>(request: &'a Request, offered: &[&'a str]) -> Result<Option<&'a str>, Refused> {
    let mut offered = offered.iter().filter_map(|name| name.strip_prefix(BEARER));
    let header = request.bearer().map_err(|NoBearer| {
        let what = "the authorization must be one bearer token";
        unauthorized(what, "malformed")
    })?;
    let token = header.or_else(|| offered.next());
    match offered.next() {
        None => Ok(token),
        Some(_) => Err(refuse(400, "the request has more than one token")),
    }
}

fn unauthorized(what: &str, label: &'static str) -> Refused {
    Refused {
        response: Response::unauthorized(what, true),
        bad_token: Some(label),
    }
}
