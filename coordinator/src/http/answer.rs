//! Requests read and answers formed alike everywhere: parameters, tokens, JSON, problems.

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::policy::List;
use serde_json::{Value, json};
use token::Claims;

use super::{App, STALE};
use crate::clock;

/// The most bytes of a body that are read; more are answered 413.
const MAX_BODY: usize = 512 << 10;

/// An answer that is an error, in the form of RFC 9457.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    detail: String,
    /// Seconds for `retry-after`; `None` = no such header.
    retry: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry: None,
        }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// For now; it may be tried again after so many seconds.
    pub(super) fn unavailable(detail: &str, retry: u64) -> Self {
        Self {
            retry: Some(retry),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let body = format!("{body}\n");
        let mut response = with_type(self.status, "application/problem+json", body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

pub(super) fn json(value: &Value) -> Response {
    with_type(StatusCode::OK, "application/json", format!("{value}\n"))
}

pub(super) fn text(status: StatusCode, text: &str) -> Response {
    with_type(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

pub(super) fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let content_type = HeaderValue::from_static(content_type);
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

/// The refusal before the first map was read.
pub(super) fn no_map() -> Refusal {
    Refusal::unavailable("there is no map yet", 1)
}

/// The refusal while the store cannot be asked.
pub(super) fn no_store() -> Refusal {
    Refusal::unavailable("the store does not answer", 1)
}

/// With the header that says for how long it may be outdated.
pub(super) fn stale(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(STALE, seconds.into());
    }
    response
}

/// The decoded values of the parameters with one of these names.
pub(super) fn parameters(query: Option<&str>, names: &[&str]) -> Result<Vec<String>, Refusal> {
    let values = program::parameters(query.unwrap_or_default(), names);
    let values: Option<Vec<String>> = values.collect();
    values.ok_or_else(|| Refusal::bad_request(format!("{} is not UTF-8", names[0])))
}

/// The one valid user that the request names.
pub(super) fn user_of(query: Option<&str>) -> Result<String, Refusal> {
    one_of(query, &["userId", "user"])
}

/// The name of the one list that the request names; a group's keeps the rules of a user's.
pub(super) fn list_of(list: List, query: Option<&str>) -> Result<String, Refusal> {
    match list {
        List::Blocks => user_of(query),
        List::Group => one_of(query, &["group"]),
    }
}

fn one_of(query: Option<&str>, names: &[&str]) -> Result<String, Refusal> {
    let mut values = parameters(query, names)?;
    match (values.pop(), values.len()) {
        (Some(value), 0) => match protocol::check_user(&value) {
            Ok(()) => Ok(value),
            Err(error) => Err(Refusal::bad_request(error.to_string())),
        },
        _ => Err(Refusal::bad_request(format!(
            "{} must be given once",
            names[0]
        ))),
    }
}

/// The whole body, within [`MAX_BODY`].
pub(super) async fn whole(body: Body) -> Result<Bytes, Refusal> {
    let detail = format!("a body is at most {MAX_BODY} bytes");
    let too_large = || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, detail);
    // As its length says, before any of it has come.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    to_bytes(body, MAX_BODY).await.map_err(|_| too_large())
}

impl App {
    /// Who asks; anyone where the public development secret is in use.
    pub(super) async fn caller(&self, headers: &HeaderMap) -> Result<Option<Claims>, Refusal> {
        let unauthorized = |what: String| Refusal::new(StatusCode::UNAUTHORIZED, what);
        match bearer(headers) {
            None if self.development => Ok(None),
            None => Err(unauthorized("a bearer token is needed".into())),
            Some(_) if !self.keys.are_ready() => Err(Refusal::unavailable(
                "the keys for tokens are not there yet",
                1,
            )),
            Some(token) => {
                let (clock, sleep) = (clock::wall_ms, tokio::time::sleep);
                let patience = self.request_timeout / 2;
                let claims = self.keys.verify_in_time(token, clock, patience, sleep);
                claims.await.map(Some).map_err(|refusal| {
                    self.metrics.bad_token(refusal.error.label());
                    unauthorized(refusal.to_string())
                })
            }
        }
    }

    /// The user of the caller's token; refuses a caller whose token lacks the administrator's scope.
    pub(super) async fn administrator(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let forbidden = |what: String| Err(Refusal::new(StatusCode::FORBIDDEN, what));
        match self.caller(headers).await? {
            Some(claims) if claims.has_scope(&self.admin_scope) => Ok(claims.user.to_string()),
            Some(_) => forbidden(format!("the token needs the scope {}", self.admin_scope)),
            // Nobody proved anything, so at least no other site's page may ask.
            None if is_cross_site(headers) => {
                forbidden("without a token, pages of other origins may not ask this".into())
            }
            None => Ok("(development)".into()),
        }
    }
}

/// The token of the header `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let own = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some() && authority == text(header::HOST)
    };
    headers.contains_key(header::ORIGIN) && !text(header::ORIGIN).is_some_and(own)
}
