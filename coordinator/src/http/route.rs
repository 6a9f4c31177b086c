//! `/route`: where a user's clients connect. Browsers ask it from other origins.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    App,
    answer::{self, Refusal},
};
use crate::picture::Picture;

/// The longest wait for another owner than one that is likely dead.
const SUSPECT_WAIT: Duration = Duration::from_secs(1);
/// How long a browser may remember what it was allowed, in seconds.
const PREFLIGHT_AGE: u64 = 86_400;

pub(super) async fn route(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let found = match answer::user_of(query.as_deref()) {
        Ok(user) => {
            app.until_its_owner_is_sure(&user).await;
            find(&app, &user)
        }
        Err(refusal) => Err(refusal),
    };
    app.allow(&headers, found.into_response())
}

fn find(app: &App, user: &str) -> Result<Response, Refusal> {
    let picture = app.picture();
    let stale = app.stale(&picture);
    let published = picture.map.as_ref();
    let map = &published.ok_or_else(answer::no_map)?.map;
    let vnode = map.count().vnode(user);
    let owner = map.owner(vnode);
    let (node, epoch) =
        owner.ok_or_else(|| Refusal::unavailable("no node serves this user now", 1))?;
    let mut body = json!({
        "userId": user,
        "vnode": vnode.get(),
        "node": &*node.id,
        "address": node.address,
        "epoch": epoch.get(),
        "mapVersion": map.version().get(),
    });
    if let Some(seconds) = stale {
        body["stale"] = seconds.into();
    }
    Ok(answer::stale(answer::json(&body), stale))
}

/// The answer to a browser that asks whether it may ask.
pub(super) async fn preflight(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut response = app.allow(&headers, StatusCode::NO_CONTENT.into_response());
    let names = response.headers_mut();
    if names.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        let methods = HeaderValue::from_static("GET, HEAD");
        names.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        names.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE.into());
    }
    response
}

impl App {
    /// Waits while the user's owner is likely dead: its clients come back when the next one is known,
    /// and do not have to try again and again.
    async fn until_its_owner_is_sure(&self, user: &str) {
        let is_suspected = |picture: &Arc<Picture>| {
            let map = picture
                .map
                .as_ref()
                .filter(|_| !picture.suspects.is_empty());
            let owner = map.and_then(|published| {
                let map = &published.map;
                map.owner(map.count().vnode(user))
            });
            owner.is_some_and(|(node, _)| picture.suspects.contains(&node.id))
        };
        if !is_suspected(&self.picture()) {
            return;
        }
        // With too many that wait, the others are told what is known.
        let Ok(_permit) = self.waiters.try_acquire() else {
            return;
        };
        let _gauge = self.metrics.waiter();
        let mut pictures = self.shown.picture.clone();
        // What is known by then is the answer, whatever it is.
        let _ = timeout(
            SUSPECT_WAIT,
            pictures.wait_for(|picture| !is_suspected(picture)),
        )
        .await;
    }

    /// Lets pages of the request's origin read the answer, when they may.
    fn allow(&self, request: &HeaderMap, mut response: Response) -> Response {
        let allowed = &self.allowed_origins;
        let everyone = allowed.iter().any(|origin| origin == "*");
        let headers = response.headers_mut();
        let origin = request.get(header::ORIGIN);
        let listed = |origin: &&HeaderValue| {
            let origin = origin.to_str();
            origin.is_ok_and(|origin| settings::is_origin_of(origin, allowed))
        };
        if everyone {
            let any = HeaderValue::from_static("*");
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
        } else {
            headers.insert(header::VARY, HeaderValue::from_static("origin"));
            if let Some(origin) = origin.filter(listed) {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
        }
        response
    }
}
