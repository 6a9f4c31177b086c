//! What operators and their machines ask: health, metrics, the console.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use serde_json::json;

use super::{App, answer};

const CONSOLE: &str = include_str!("../../assets/console.html");
/// The client library, with which the console watches a user.
const CLIENT: &str = include_str!("../../../client-sdk/typescript/built/client.js");
const OPENAPI: &str = include_str!("../../openapi.json");

pub(super) async fn console() -> Response {
    let mut response = answer::with_type(StatusCode::OK, "text/html; charset=utf-8", CONSOLE);
    // The nodes' addresses are where a user is watched.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline'; \
                  connect-src 'self' ws: wss:; img-src data:; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(policy),
    );
    response
}

pub(super) async fn client() -> Response {
    answer::with_type(StatusCode::OK, "text/javascript; charset=utf-8", CLIENT)
}

pub(super) async fn openapi() -> Response {
    answer::with_type(StatusCode::OK, "application/json", OPENAPI)
}

pub(super) async fn healthz() -> Response {
    answer::text(StatusCode::OK, "ok")
}

pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let (is_ready, text) = app.readiness();
    if !is_ready {
        return answer::text(StatusCode::SERVICE_UNAVAILABLE, &text);
    }
    let stale = app.stale(&app.picture());
    answer::stale(answer::text(StatusCode::OK, &text), stale)
}

pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    let (media_type, page) = app.metrics.page(
        accept.filter_map(|value| value.to_str().ok()),
        &app.id,
        &app.picture(),
        &app.link,
        app.keys.fetches(),
    );
    answer::with_type(StatusCode::OK, media_type, page)
}

pub(super) async fn version() -> Response {
    answer::json(&json!({ "version": env!("CARGO_PKG_VERSION") }))
}
