//! HTTP/1.1 as far as an edge needs it: the heads of requests, small bodies, whole responses
//! (RFC 9112). It owns parsing and the form of answers; it does no I/O.

use std::fmt::Write;

/// Headers that a request may have.
const MAX_HEADERS: usize = 64;
/// Bytes of a body that are read.
pub(crate) const MAX_BODY: usize = 512 << 10;

/// A request, with lower-case header names.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    pub(crate) keep_alive: bool,
    pub(crate) body_length: usize,
}

/// Why bytes are no request, as the status that answers it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRequest(pub(crate) u16, pub(crate) &'static str);

/// The request whose head stands at the beginning of `bytes`, and the length of that head; `None`
/// when more has to come.
pub(crate) fn parse(bytes: &[u8], max_head: usize) -> Result<Option<(Request, usize)>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) if head <= max_head => head,
        Ok(httparse::Status::Partial) if bytes.len() < max_head => return Ok(None),
        Ok(_) => return Err(BadRequest(431, "the request's head is too large")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(BadRequest(431, "the request has too many headers"));
        }
        Err(_) => return Err(BadRequest(400, "not an HTTP/1.1 request")),
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: Vec::with_capacity(parsed.headers.len()),
        keep_alive: parsed.version == Some(1),
        body_length: 0,
    };
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value)
            .map_err(|_| BadRequest(400, "a header is not UTF-8"))?;
        request
            .headers
            .push((header.name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.has_word("connection", "close") {
        request.keep_alive = false;
    }
    let hosts = request.headers.iter().filter(|(name, _)| name == "host");
    // RFC 9112 §3.2.
    if hosts.count() != 1 && parsed.version == Some(1) {
        return Err(BadRequest(400, "HTTP/1.1 needs one host header"));
    }
    if request.header("transfer-encoding").is_some() {
        return Err(BadRequest(411, "a body needs a content-length"));
    }
    let mut lengths = request
        .headers
        .iter()
        .filter(|(name, _)| name == "content-length");
    if let Some((_, length)) = lengths.next() {
        if lengths.next().is_some() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadRequest(400, "bad content-length"));
        }
        request.body_length = length
            .parse()
            .map_err(|_| BadRequest(400, "bad content-length"))?;
        if request.body_length > MAX_BODY {
            return Err(BadRequest(413, "the body is too large"));
        }
    }
    Ok(Some((request, head)))
}

impl Request {
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

    /// The decoded values of a query parameter.
    pub(crate) fn parameters(&self, name: &str) -> Vec<String> {
        form_urlencoded::parse(self.query.as_bytes())
            .filter(|(have, _)| have == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    /// The token of `Authorization: Bearer`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
}

/// An answer.
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

    /// The bytes of the answer; to HEAD, without the body.
    pub(crate) fn encode(&self, keep_alive: bool, head_only: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut header = |name: &str, value: &str| {
            write!(head, "{name}: {value}\r\n").expect("a String takes all text");
        };
        header("content-type", self.content_type);
        header("content-length", &self.body.len().to_string());
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
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
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
        assert_eq!(request.parameters("user"), ["x y", "z"]);
    }

    #[test]
    fn bad_heads_have_their_status() {
        let large = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(900));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(65));
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
            (&large, 431),
            (&many, 431),
        ] {
            let error = parse(text.as_bytes(), 800).expect_err(text);
            assert_eq!(error.0, status, "{text}");
        }
    }
}
