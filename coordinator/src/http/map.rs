//! `/map`: the whole map, at once or when there is a newer one. What waits is bounded in number
//! and time, and shares the bytes that it is sent.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::time::{Instant, timeout_at};

use super::{
    App,
    answer::{self, Refusal},
};
use crate::picture::Published;

pub(super) async fn map(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let mut after = answer::parameters(query.as_deref(), &["after"])?;
    let after = match (
        after.pop().map(|version| version.parse::<u64>()),
        after.len(),
    ) {
        (None, _) => None,
        (Some(Ok(version)), 0) => Some(version),
        _ => {
            let what = "after must be given once, as a map's version";
            return Err(Refusal::bad_request(what));
        }
    };
    let published = match after {
        None => app.picture().map.clone().ok_or_else(answer::no_map)?,
        Some(version) => match app.newer_map(version).await? {
            Some(published) => published,
            None => return Ok(StatusCode::NO_CONTENT.into_response()),
        },
    };
    let stale = app.stale(&app.picture());
    let accepted = headers.get_all(header::ACCEPT).iter();
    let binary = accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/octet-stream"));
    let response = if binary {
        let bytes = published.binary.clone();
        answer::with_type(StatusCode::OK, "application/octet-stream", bytes)
    } else {
        answer::with_type(StatusCode::OK, "application/json", published.json(stale))
    };
    Ok(answer::stale(response, stale))
}

impl App {
    /// The map when it is newer than `version`, or as soon as it is; `None` when it was not for
    /// as long as a request may wait, or the process ends.
    async fn newer_map(&self, version: u64) -> Result<Option<Arc<Published>>, Refusal> {
        let is_newer = |map: &Option<Arc<Published>>| {
            map.as_ref()
                .is_some_and(|map| map.map.version().get() > version)
        };
        let mut maps = self.shown.map.clone();
        if let Some(map) = Some(maps.borrow().clone()).filter(is_newer) {
            return Ok(map);
        }
        let Ok(_permit) = self.waiters.try_acquire() else {
            self.metrics.waiter_refused();
            let what = "too many requests wait for the next map";
            return Err(Refusal::unavailable(what, 5));
        };
        let _waiter = self.metrics.waiter();
        let mut stopping = self.stopping.clone();
        let deadline = Instant::now() + self.map_wait;
        let wait = async {
            tokio::select! {
                newer = maps.wait_for(is_newer) => newer.ok().and_then(|map| map.clone()),
                () = stopping.signalled() => None,
            }
        };
        Ok(timeout_at(deadline, wait).await.unwrap_or_default())
    }
}
