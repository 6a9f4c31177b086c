//! What operators and their machines ask: health, metrics, the console.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use console::{Asset, History};
use serde_json::json;
use tokio::time::sleep;

use super::{
    App,
    answer::{self, Refusal},
};
use crate::{clock, stop::Stop};

/// Between two looks whether there is something to remember.
const FIRST_LOOK: Duration = Duration::from_millis(200);
const OPENAPI: &str = include_str!("../../openapi.json");

/// A file of the console's page. It says nothing of the fleet, so that anyone may have it.
pub(super) fn page(asset: &Asset) -> Response {
    let mut response = answer::with_type(StatusCode::OK, asset.content_type, asset.text);
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, console::POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// The fleet's figures of the last hour, those after a time when one is given.
pub(super) async fn history(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let after = match answer::parameters(query.as_deref(), &["after"])?.as_slice() {
        [] => 0,
        [after] => (after.parse())
            .map_err(|_| Refusal::bad_request("after must be a time, ms since 1970"))?,
        _ => return Err(Refusal::bad_request("after must be given once")),
    };
    let history = app.history.lock().expect("nobody panics with this lock");
    let body = history.since(after);
    Ok(answer::with_type(StatusCode::OK, "application/json", body))
}

/// Takes a sample for the history, again and again, until `stop`.
pub(crate) async fn remember(app: Arc<App>, mut stop: Stop) {
    loop {
        let fleet = app.fleet();
        let has_map = fleet.map_version.is_some();
        if has_map {
            let mut history = app.history.lock().expect("nobody panics with this lock");
            history.take(clock::wall_ms(), &fleet);
        }
        let pause = if has_map { History::EVERY } else { FIRST_LOOK };
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.signalled() => return,
        }
    }
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
