//! The HTTP interface: which paths there are and what all answers have in common. `openapi.json`
//! describes it; a test holds the two against each other.

mod answer;
mod map;
mod nodes;
pub(crate) mod operator;
mod policy;
mod route;
mod status;
mod survey;
mod trace;
mod users;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use console::History;
use keys::Keys;
use protocol::{Policy, policy::List};
use redis_store::Link;
use ring::VnodeCount;
use tokio::{sync::Semaphore, time::timeout};

use self::answer::Refusal;
use crate::{fleet::Shown, metrics::Metrics, picture::Picture, policy::Looks, stop::Stop};

/// Says for how many seconds an answer may be outdated; absent when it is not.
pub(crate) const STALE: HeaderName = HeaderName::from_static("online-status-stale");

/// Every path, as the metrics' label `path` names it.
const PATHS: [&str; 25] = [
    "/",
    "/blocks",
    "/console.css",
    "/console.js",
    "/groups",
    "/healthz",
    "/history",
    "/map",
    "/metrics",
    "/nodes",
    "/nodes/{id}/drain",
    "/nodes/{id}/undrain",
    "/openapi.json",
    "/readyz",
    "/revocations",
    "/route",
    "/slow",
    "/status",
    "/trace",
    "/uplot.css",
    "/uplot.js",
    "/users",
    "/version",
    "/watchers",
    OTHER,
];
const OTHER: &str = "other";
/// Requests that read from the store at a time.
const READERS: usize = 64;

/// The state that the handlers answer from.
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) shown: Shown,
    pub(crate) link: Link,
    pub(crate) vnodes: VnodeCount,
    pub(crate) keys: Arc<Keys>,
    pub(crate) looks: Looks,
    /// Tokens of the public development secret are accepted, and none is needed.
    pub(crate) development: bool,
    pub(crate) admin_scope: String,
    /// How long a revocation is kept, ms; 0 = for ever.
    pub(crate) longest_life: u64,
    pub(crate) allowed_origins: Vec<String>,
    /// The age from which on a picture is called stale.
    pub(crate) fresh: Duration,
    pub(crate) map_wait: Duration,
    pub(crate) request_timeout: Duration,
    /// The last hour, for the console.
    pub(crate) history: Mutex<History>,
    pub(crate) waiters: Semaphore,
    pub(crate) readers: Semaphore,
    pub(crate) surveys: Semaphore,
    pub(crate) metrics: Arc<Metrics>,
    /// It was told to end, and answers on for a while.
    pub(crate) leaving: Stop,
    /// Ends waiting requests at shutdown.
    pub(crate) stopping: Stop,
}

impl App {
    pub(crate) fn readers() -> Semaphore {
        Semaphore::new(READERS)
    }

    pub(crate) fn surveys() -> Semaphore {
        Semaphore::new(survey::AT_ONCE)
    }

    fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.shown.picture.borrow())
    }

    /// What administrators have decreed so far, whichever coordinator they asked, and for how many
    /// seconds that may be outdated.
    async fn policy(&self) -> (Arc<Policy>, Option<u64>) {
        self.looks.look().await;
        (self.keys.policy(), self.stale(&self.picture()))
    }

    /// For how many seconds the picture may be outdated.
    fn stale(&self, picture: &Picture) -> Option<u64> {
        let age = picture.read_at?.elapsed();
        (age > self.fresh).then(|| age.as_secs().max(1))
    }

    /// Whether it answers as it should, and a line that says so or what is missing.
    pub(crate) fn readiness(&self) -> (bool, String) {
        let picture = self.picture();
        if self.leaving.is_signalled() {
            (false, "shutting down".into())
        } else if !self.keys.are_ready() {
            (false, "no keys for tokens yet".into())
        } else if picture.map.is_none() {
            (false, "no map yet".into())
        } else {
            let text = self.stale(&picture).map_or("ready".into(), |seconds| {
                format!("ready, with a map that was last confirmed {seconds} s ago")
            });
            (true, text)
        }
    }
}

/// The routes of every path, with their limits.
pub(crate) fn router(app: Arc<App>) -> Router {
    let page = |router: Router<Arc<App>>, asset: &'static console::Asset| {
        router.route(asset.path, get(move || async { operator::page(asset) }))
    };
    (console::ASSETS.iter())
        .fold(Router::new(), page)
        .route("/blocks", policy::lists(List::Blocks))
        .route("/groups", policy::lists(List::Group))
        .route("/healthz", get(operator::healthz))
        .route("/history", get(operator::history))
        .route("/map", get(map::map))
        .route("/metrics", get(operator::metrics))
        .route("/nodes", get(nodes::nodes))
        .route("/nodes/{id}/drain", post(nodes::drain))
        .route("/nodes/{id}/undrain", post(nodes::undrain))
        .route("/openapi.json", get(operator::openapi))
        .route("/readyz", get(operator::readyz))
        .route(
            "/revocations",
            get(policy::revocations)
                .post(policy::revoke)
                .delete(policy::take_back),
        )
        .route("/route", get(route::route).options(route::preflight))
        .route("/slow", get(survey::slow))
        .route("/status", get(status::one).post(status::many))
        .route(
            "/trace",
            get(trace::steps).put(trace::follow).delete(trace::end),
        )
        .route("/users", get(users::one))
        .route("/version", get(operator::version))
        .route("/watchers", get(survey::watchers))
        .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has no such method",
            )
        })
        .layer(from_fn_with_state(Arc::clone(&app), common))
        .with_state(app)
}

/// What all requests have in common: their time is limited and they are counted.
async fn common(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let path = matched.map_or(OTHER, |matched| {
        let known = PATHS.iter().find(|path| **path == matched.as_str());
        known.copied().unwrap_or(OTHER)
    });
    let waits = if path == "/map" {
        app.map_wait
    } else {
        Duration::ZERO
    };
    let mut response = if is_probe(&request) {
        let allowed = [(header::ALLOW, "GET,HEAD,OPTIONS")];
        (StatusCode::NO_CONTENT, allowed).into_response()
    } else {
        let answered = timeout(app.request_timeout + waits, next.run(request)).await;
        answered.unwrap_or_else(|_| {
            Refusal::unavailable("the request took too long", 1).into_response()
        })
    };
    let headers = response.headers_mut();
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    app.metrics
        .answered(path, response.status().as_u16(), started.elapsed());
    response
}

/// Whether a load balancer asks for a sign of life by asking what it may ask (RFC 9110 §9.3.7).
fn is_probe(request: &Request) -> bool {
    let probed = ["/", "*", "/healthz", "/readyz", "/metrics", "/version"];
    request.method() == Method::OPTIONS && probed.contains(&request.uri().path())
}
