//! HTTP/1.1 as far as an edge needs it: the heads of requests, small bodies, whole responses
//! (RFC 9112). It owns parsing and the form of answers; it does no I/O.

use std::{borrow::Cow, fmt::Write, time::SystemTime};

/// Bytes of a request's target (RFC 9110 §4.1 wants 8,000 at least).
const MAX_TARGET: usize = 8 << 10;
/// The most headers of a request; more are answered 431.
const MAX_HEADERS: usize = 64;
/// Bytes of a body that are read: enough for 1,000 users of 256 bytes, each byte escaped.
pub(crate) const MAX_BODY: usize = 1_600 << 10;

/// A request, with lower-case header names.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    /// The authority of a target in absolute form.
    authority: Option<String>,
    /// Whether the request is HTTP/1.1, not 1.0.
    pub(crate) is_current: bool,
    pub(crate) keep_alive: bool,
    pub(crate) body_length: usize,
}

/// Why bytes are no request, as the status that answers it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRequest(pub(crate) u16, pub(crate) Cow<'static, str>);

impl BadRequest {
    pub(crate) fn new(status: u16, what: impl Into<Cow<'static, str>>) -> Self {
        Self(status, what.into())
    }
}

/// The request whose head stands at the beginning of `bytes`, and the length of that head; `None`
/// when more has to come.
pub(crate) fn parse(bytes: &[u8], max_head: usize) -> Result<Option<(Request, usize)>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) if head <= max_head => head,
        Ok(httparse::Status::Partial) if bytes.len() < max_head => return Ok(None),
        Ok(_) => {
            let too_much = |what: &str| {
                format!("the request's {what}: at most {max_head} bytes (server.max_header)")
            };
            let first_line = &bytes[..max_head.min(bytes.len())];
            return Err(match first_line.trim_ascii_start().contains(&b'\n') {
                true => BadRequest::new(431, too_much("head is too large")),
                false => BadRequest::new(414, too_much("target is too long")),
            });
        }
        Err(httparse::Error::TooManyHeaders) => {
            let what = format!("the request has too many headers: at most {MAX_HEADERS}");
            return Err(BadRequest::new(431, what));
        }
        Err(httparse::Error::Version) => {
            return Err(BadRequest::new(505, "only HTTP/1.1 is spoken here"));
        }
        Err(_) => return Err(BadRequest::new(400, "not an HTTP/1.1 request")),
    };
    if parsed.path.is_some_and(|target| target.len() > MAX_TARGET) {
        let what = format!("the request's target is too long: at most {MAX_TARGET} bytes");
        return Err(BadRequest::new(414, what));
    }
    let (authority, target) = absolute_form(parsed.path.unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_current = parsed.version == Some(1);
    // What is not UTF-8 (RFC 9110 §5.5 has it opaque) stands in no header that is looked at.
    let header = |header: &httparse::Header<'_>| {
        let value = String::from_utf8_lossy(header.value);
        (header.name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: parsed.headers.iter().map(header).collect(),
        authority: authority.map(str::to_owned),
        is_current,
        keep_alive: is_current,
        body_length: 0,
    };
    if request.has_word("connection", "close") {
        request.keep_alive = false;
    }
    // RFC 9112 §3.2.
    let needs_host = is_current || request.header("host").is_some();
    if needs_host && !request.only("host").is_some_and(is_host) {
        return Err(BadRequest::new(
            400,
            "HTTP/1.1 needs one host header, with a host and perhaps a port",
        ));
    }
    if request.header("transfer-encoding").is_some() {
        return Err(BadRequest::new(411, "a body needs a content-length"));
    }
    if request.header("content-length").is_some() {
        let length = request.only("content-length");
        let digits = length.filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()));
        request.body_length = digits
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| BadRequest::new(400, "bad content-length"))?;
        if request.body_length > MAX_BODY {
            return Err(BadRequest::new(
                413,
                format!("the body is too large: at most {MAX_BODY} bytes"),
            ));
        }
    }
    Ok(Some((request, head)))
}

/// Authority and rest of a target, which proxies may send with both (RFC 9112 §3.2.2).
fn absolute_form(target: &str) -> (Option<&str>, &str) {
    let Some((scheme, rest)) = target.split_once("://") else {
        return (None, target);
    };
    let scheme = scheme.to_ascii_lowercase();
    if !["http", "https", "ws", "wss"].contains(&scheme.as_str()) {
        return (None, target);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path = if path.starts_with('/') { path } else { "/" };
    (Some(authority), path)
}

/// Whether bytes that came first begin an HTTP request (RFC 9112 §3): a method and a space.
pub(crate) fn is_beginning(bytes: &[u8]) -> bool {
    let method = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    (3..=7).contains(&method) && bytes.get(method) == Some(&b' ')
}

/// Whether a text can stand in a host header (RFC 9110 §7.2, RFC 3986 §3.2.2); it may be empty.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    port.bytes().all(|byte| byte.is_ascii_digit())
        && match address {
            Some(address) => address.bytes().all(|byte| allowed(byte) || byte == b':'),
            None => host.bytes().all(allowed),
        }
}

/// Whether a text is a host, with a port or without.
pub(crate) fn is_authority(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

impl Request {
    /// The value of a header that is there exactly once.
    pub(crate) fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(have, _)| have == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// The host and port that the client asked for, when they are of that form: those of the
    /// target, or else of the header (RFC 9112 §3.2.2).
    pub(crate) fn host(&self) -> Option<&str> {
        let host = self.authority.as_deref().or_else(|| self.only("host"));
        host.filter(|host| is_authority(host))
    }

    /// The header's value; of several, the first.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    /// The comma-separated words of all headers of that name.
    pub(crate) fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.headers.iter().filter(move |(have, _)| have == name);
        values
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|w| !w.is_empty())
    }

    pub(crate) fn has_word(&self, name: &str, word: &str) -> bool {
        self.words(name).any(|have| have.eq_ignore_ascii_case(word))
    }

    /// The decoded values of a query parameter; `None` for one that is not UTF-8.
    pub(crate) fn parameters(&self, name: &str) -> Vec<Option<String>> {
        program::parameters(&self.query, &[name]).collect()
    }

    /// The token of `Authorization: Bearer`; `Err` when there are several, or another scheme.
    pub(crate) fn bearer(&self) -> Result<Option<&str>, NoBearer> {
        if self.header("authorization").is_none() {
            return Ok(None);
        }
        let (scheme, token) = self
            .only("authorization")
            .and_then(|value| value.split_once(' '))
            .ok_or(NoBearer)?;
        match scheme.eq_ignore_ascii_case("bearer") {
            true => Ok(Some(token.trim())),
            false => Err(NoBearer),
        }
    }
}

/// The authorization is not one bearer token.
#[derive(Debug)]
pub(crate) struct NoBearer;

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(crate) fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", format!("{text}\n"))
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new(200, "application/json", format!("{value}\n"))
    }

    /// An error as RFC 9457 has it.
    pub(crate) fn problem(status: u16, detail: &str) -> Self {
        let body = serde_json::json!({
            "type": "about:blank",
            "title": reason(status),
            "status": status,
            "detail": detail,
        });
        Self::new(status, "application/problem+json", format!("{body}\n"))
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A refusal for lack of a good token (RFC 6750 §3).
    pub(crate) fn unauthorized(detail: &str, given: bool) -> Self {
        let challenge = match given {
            true => "Bearer error=\"invalid_token\"",
            false => "Bearer",
        };
        Self::problem(401, detail).with("www-authenticate", challenge)
    }

    /// The bytes of the answer; to HEAD, without the body.
    pub(crate) fn encode(&self, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut header = |name: &str, value: &str| {
            write!(head, "{name}: {value}\r\n").expect("a String takes all text");
        };
        header("date", &httpdate::fmt_http_date(SystemTime::now()));
        // RFC 9110 §8.6: none with 204.
        if self.status != 204 {
            header("content-type", self.content_type);
            header("content-length", &self.body.len().to_string());
        }
        header("cache-control", "no-store");
        header("x-content-type-options", "nosniff");
        if !keep_alive {
            header("connection", "close");
        }
        for (name, value) in &self.headers {
            header(name, value);
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

fn reason(status: u16) -> &'static str {
    let status = ::http::StatusCode::from_u16(status).ok();
    let reason = status.and_then(|status| status.canonical_reason());
    reason.unwrap_or("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_byte_by_byte_is_seen_once_it_is_whole() {
        let text = b"GET /a?user=x%20y&user=z HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let head = text.len() - 3;
        for cut in 0..head {
            assert!(parse(&text[..cut], 1_000).expect("so far good").is_none());
        }
        let (request, length) = parse(text, 1_000).expect("good").expect("whole");
        assert_eq!(
            (length, request.body_length, request.keep_alive),
            (head, 3, true)
        );
        assert_eq!(
            request.parameters("user"),
            [Some("x y".into()), Some("z".into())]
        );
    }

    #[test]
    fn a_host_header_has_a_host_and_perhaps_a_port() {
        let status = |version: &str, headers: &str| {
            let text = format!("GET / HTTP/{version}\r\n{headers}\r\n");
            parse(text.as_bytes(), 800).err().map(|bad| bad.0)
        };
        for host in [
            "",
            "h",
            "a.example:8080",
            "my_host:",
            "127.0.0.1:1",
            "[::1]",
            "[fe80::1%25eth0]:80",
            "xn--bcher-kva.example",
            "a%20b",
            "*",
        ] {
            let header = format!("Host: {host}\r\n");
            assert_eq!(status("1.1", &header), None, "{host:?}");
        }
        for host in [
            "a b",
            "a/b",
            "a@b",
            "a?b",
            "a#b",
            "a:b",
            "a:80:90",
            "::1",
            "[::1",
            "a\\b",
            "<a>",
            "a\"b",
            "b\u{fc}cher.example",
            "a:-1",
        ] {
            let header = format!("Host: {host}\r\n");
            assert_eq!(status("1.1", &header), Some(400), "{host:?}");
            assert_eq!(status("1.0", &header), Some(400), "{host:?}");
        }
        let two = "Host: a\r\nHost: a\r\n";
        let found = [
            status("1.1", ""),
            status("1.1", two),
            status("1.0", ""),
            status("1.0", two),
        ];
        assert_eq!(found, [Some(400), Some(400), None, Some(400)]);
    }

    #[test]
    fn targets_may_have_an_authority() {
        for (target, path, query, host) in [
            ("/a?b=c", "/a", "b=c", Some("h")),
            ("http://x/a?b=c", "/a", "b=c", Some("x")),
            ("HTTPS://x:1/a", "/a", "", Some("x:1")),
            ("ws://x/socket", "/socket", "", Some("x")),
            (
                "wss://[::1]:8443/socket?a",
                "/socket",
                "a",
                Some("[::1]:8443"),
            ),
            ("http://x", "/", "", Some("x")),
            ("http://x?a=b", "/", "", Some("x")),
            ("http://me@x/a", "/a", "", None),
            ("ftp://x/a", "ftp://x/a", "", Some("h")),
            ("/a?b=http://x/y", "/a", "b=http://x/y", Some("h")),
            ("*", "*", "", Some("h")),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
            let (request, _) = parse(text.as_bytes(), 800).expect("good").expect("whole");
            assert_eq!((&*request.path, &*request.query), (path, query), "{target}");
            assert_eq!(request.host(), host, "{target}");
        }
    }

    #[test]
    fn bad_heads_have_their_status() {
        let large = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(900));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(65));
        let long = format!("GET /{} HTTP/1.1\r\n", "y".repeat(900));
        for (text, status) in [
            ("nonsense\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                400,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
                413,
            ),
            (
                "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                411,
            ),
            ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
            (&large, 431),
            (&many, 431),
            (&long, 414),
        ] {
            let error = parse(text.as_bytes(), 800).expect_err(text);
            assert_eq!(error.0, status, "{text}");
        }
    }
}
