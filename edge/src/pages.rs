//! The plain HTTP of an edge: the live page, health, metrics, and presence by request.
//! It owns the paths; presence is asked of the core like a session asks.

use std::rc::Rc;

use protocol::{Record, Status};
use serde_json::{Value, json};
use token::Claims;

use crate::{
    clock,
    forwarded::Client,
    http::{NoBearer, Request, Response},
    metrics::Metrics,
    shared::Shared,
    upgrade::NO_KEYS,
    worker::Worker,
};

const LIVE_PAGE: &str = include_str!("../assets/live.html");
/// The client library, for the live page and whoever tries it from a page of theirs.
const CLIENT: &str = include_str!("../../client-sdk/typescript/built/client.js");
/// The most users that one bulk request may name.
const MAX_BULK: usize = 1_000;
/// How long a token of the live page is good, ms.
const DEMO_TTL: u64 = 86_400_000;

/// What [`health`] serves.
const HEALTH: [&str; 4] = ["/healthz", "/readyz", "/version", "/metrics"];
/// Of its paths, and of the live page.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Nobody frames the live page, or has its forms sent elsewhere.
const LIVE_POLICY: &str = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Whether the request's body is to be read; an answer instead when its sender may not ask that, so
/// that bodies are only kept of those who may.
pub(crate) async fn takes_body(
    worker: &Worker,
    request: &Request,
    began: u64,
) -> Result<bool, Box<Response>> {
    if (request.path.as_str(), request.method.as_str()) != ("/status", "POST") {
        return Ok(false);
    }
    let allowed = match caller(worker, request, began).await {
        Err(response) => Err(response),
        Ok(Some(claims)) if !claims.has_scope(&worker.shared.config.auth.admin_scope) => {
            let scope = &worker.shared.config.auth.admin_scope;
            Err(Response::problem(
                403,
                &format!("the token needs the scope {scope}"),
            ))
        }
        Ok(_) if request.header("content-length").is_none() => {
            Err(Response::problem(411, "a body needs a content-length"))
        }
        Ok(_) => Ok(true),
    };
    allowed.map_err(|response| Box::new(for_browsers(&worker.shared, request, response)))
}

/// The answer to a request that is no upgrade and waited for since `began` (monotonic µs); `body`
/// is that of one that [`takes_body`].
pub(crate) async fn answer(
    worker: &Rc<Worker>,
    request: &Request,
    client: &Client<'_>,
    body: Option<&[u8]>,
    began: u64,
) -> Response {
    let shared = &worker.shared;
    let is_hidden = request.path == "/metrics" && !shared.config.server.public_metrics;
    if let Some(response) = health(shared, request).filter(|_| !is_hidden) {
        // A page whose WebSockets are refused asks whether the node is alive.
        return match request.path.as_str() {
            "/healthz" => for_browsers(shared, request, response),
            _ => response,
        };
    }
    match (request.path.as_str(), request.method.as_str()) {
        ("/", "GET" | "HEAD") => Response::new(200, "text/html; charset=utf-8", LIVE_PAGE)
            .with("content-security-policy", LIVE_POLICY)
            .with("referrer-policy", "no-referrer"),
        ("/client.js", "GET" | "HEAD") => {
            Response::new(200, "text/javascript; charset=utf-8", CLIENT)
        }
        ("/demo/token", "GET") if shared.development => demo_token(shared, request),
        ("/demo/token", _) if shared.development => wrong_method("GET"),
        ("/" | "/client.js", _) => wrong_method(METHODS),
        ("/route" | "/status", _) => {
            let response = presence(worker, request, client, body, began).await;
            for_browsers(shared, request, response)
        }
        _ => Response::problem(404, "there is nothing at this path"),
    }
}

/// What clients ask, wherever the page comes from that they run in.
async fn presence(
    worker: &Rc<Worker>,
    request: &Request,
    client: &Client<'_>,
    body: Option<&[u8]>,
    began: u64,
) -> Response {
    match (request.path.as_str(), request.method.as_str(), body) {
        ("/route", "GET" | "HEAD", _) => route(&worker.shared, request, client),
        ("/status", "GET" | "HEAD", _) => one_status(worker, request, began).await,
        ("/status", "POST", Some(body)) => bulk_status(worker, body).await,
        ("/route", "OPTIONS", _) => preflight("GET, HEAD, OPTIONS"),
        ("/status", "OPTIONS", _) => preflight("GET, HEAD, POST, OPTIONS"),
        ("/route", ..) => wrong_method("GET, HEAD, OPTIONS"),
        _ => wrong_method("GET, HEAD, POST, OPTIONS"),
    }
}

/// The answer to a browser that asks before it asks (Fetch, CORS-preflight).
fn preflight(methods: &'static str) -> Response {
    options(methods)
        .with("access-control-allow-methods", methods)
        .with(
            "access-control-allow-headers",
            "authorization, content-type",
        )
        .with("access-control-max-age", "7200")
}

/// What may be asked at a path (RFC 9110 §9.3.7); load balancers take it for a sign of life.
fn options(methods: &'static str) -> Response {
    Response::new(204, "", "").with("allow", methods)
}

/// Lets the pages of the allowed origins read an answer.
fn for_browsers(shared: &Shared, request: &Request, response: Response) -> Response {
    let origins = &shared.config.server.origins.0;
    let response = response.with("access-control-expose-headers", "retry-after");
    if origins.is_empty() {
        return response.with("access-control-allow-origin", "*");
    }
    let response = response.with("vary", "origin");
    match request.header("origin") {
        Some(origin) if shared.allows_origin(origin) => {
            response.with("access-control-allow-origin", origin)
        }
        _ => response,
    }
}

/// Whether a load balancer or an operator wants to know how the edge is.
pub(crate) fn is_probe(request: &Request) -> bool {
    match request.path.as_str() {
        "/" | "*" => request.method == "OPTIONS",
        path => HEALTH.contains(&path),
    }
}

/// What is served on the clients' and on the admin address.
pub(crate) fn health(shared: &Shared, request: &Request) -> Option<Response> {
    let response = match request.path.as_str() {
        "/" | "*" if request.method == "OPTIONS" => return Some(options(METHODS)),
        "/healthz" => Response::text(200, "ok"),
        "/readyz" => {
            let (status, text) = readiness(shared);
            Response::text(status, &text)
        }
        "/version" => Response::json(&json!({ "version": env!("CARGO_PKG_VERSION") })),
        "/metrics" => {
            let (media_type, page) = Metrics::page(shared, request.words("accept"));
            Response::new(200, media_type, page)
        }
        _ => return None,
    };
    match request.method.as_str() {
        "GET" | "HEAD" => Some(response),
        "OPTIONS" => Some(options(METHODS)),
        _ => Some(wrong_method(METHODS)),
    }
}

/// Whether the edge is ready, as an HTTP status and a text, with what is wrong. One that cannot store or publish goes
/// on serving its own watchers, so that it stays ready.
pub(crate) fn readiness(shared: &Shared) -> (u16, String) {
    if shared.is_leaving() {
        (503, "draining".into())
    } else if !shared.keys.are_ready() {
        (503, NO_KEYS.into())
    } else {
        let (status, what) = match shared.is_ready() {
            true => (200, "ready"),
            false => (503, "starting"),
        };
        let what = vec![what.to_owned()];
        (status, [what, shared.troubles()].concat().join("; "))
    }
}

fn wrong_method(allowed: &'static str) -> Response {
    Response::problem(405, "this path has no such method").with("allow", allowed)
}

/// The one valid user that the request names.
fn user_of(request: &Request) -> Result<String, Response> {
    let mut users = request.parameters("userId");
    users.extend(request.parameters("user"));
    match users.as_slice() {
        [Some(user)] => match protocol::check_user(user) {
            Ok(()) => Ok(user.clone()),
            Err(error) => Err(Response::problem(400, &error.to_string())),
        },
        [None] => Err(Response::problem(400, "userId is not UTF-8")),
        _ => Err(Response::problem(400, "userId must be given once")),
    }
}

fn route(shared: &Shared, request: &Request, client: &Client<'_>) -> Response {
    let user = match user_of(request) {
        Ok(user) => user,
        Err(response) => return response,
    };
    let Some(route) = shared.route(&user) else {
        return Response::problem(503, "no node owns the user's vnode").with("retry-after", "1");
    };
    let address = shared.address_for(client).unwrap_or(route.address);
    Response::json(&json!({
        "userId": user,
        "vnode": shared.vnodes.vnode(&user).get(),
        "node": route.node,
        "address": address,
        "epoch": route.epoch.get(),
        "mapVersion": route.map.get(),
    }))
}

/// Who asks over HTTP; anyone on an edge with the public secret of development.
async fn caller(
    worker: &Worker,
    request: &Request,
    began: u64,
) -> Result<Option<Claims>, Response> {
    match request.bearer() {
        Ok(None) if worker.shared.development => Ok(None),
        Ok(None) => Err(Response::unauthorized("a bearer token is needed", false)),
        Ok(Some(_)) if !worker.shared.keys.are_ready() => {
            Err(Response::problem(503, NO_KEYS).with("retry-after", "1"))
        }
        Ok(Some(token)) => match worker.check_token(token, worker.time_left(began)).await {
            Ok(claims) => Ok(Some(claims)),
            Err(refusal) => Err(Response::unauthorized(&refusal.to_string(), true)),
        },
        Err(NoBearer) => {
            worker.count_bad_token("malformed");
            let what = "the authorization must be one bearer token";
            Err(Response::unauthorized(what, true))
        }
    }
}

async fn one_status(worker: &Rc<Worker>, request: &Request, began: u64) -> Response {
    let caller = match caller(worker, request, began).await {
        Ok(caller) => caller,
        Err(response) => return response,
    };
    let user = match user_of(request) {
        Ok(user) => user,
        Err(response) => return response,
    };
    let policy = worker.shared.keys.policy();
    let may_see = |it: &Claims| policy.lets_see(Some(&it.rule), &it.user, &user);
    if caller.is_some_and(|claims| !may_see(&claims)) {
        return Response::problem(403, "the token does not allow to see this user");
    }
    match worker.ask(&[&user]).await.records.as_deref() {
        Some([(user, record)]) => Response::json(&record_json(user, record)),
        _ => unavailable(),
    }
}

async fn bulk_status(worker: &Rc<Worker>, body: &[u8]) -> Response {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    let users = body.as_ref().and_then(|body| body.get("users")?.as_array());
    let users: Option<Vec<&str>> =
        users.and_then(|users| users.iter().map(Value::as_str).collect());
    let Some(users) = users else {
        return Response::problem(400, "the body must be JSON like {\"users\":[\"alice\"]}");
    };
    if users.len() > MAX_BULK {
        return Response::problem(400, &format!("at most {MAX_BULK} users at a time"));
    }
    if let Some(error) = users
        .iter()
        .find_map(|user| protocol::check_user(user).err())
    {
        return Response::problem(400, &error.to_string());
    }
    match worker.ask(&users).await.records {
        Some(records) => {
            let records: Vec<Value> = records
                .iter()
                .map(|(user, record)| record_json(user, record))
                .collect();
            Response::json(&json!({ "users": records }))
        }
        None => unavailable(),
    }
}

fn unavailable() -> Response {
    Response::problem(503, "the store does not answer").with("retry-after", "1")
}

fn record_json(user: &str, record: &Record) -> Value {
    let mut value = json!({
        "user": user,
        "status": record.status.as_str(),
        "devices": record.devices,
        "version": record.version.get(),
    });
    if !record.text.is_empty() {
        value["text"] = (*record.text).into();
    }
    if record.since != 0 {
        value["since"] = record.since.into();
    }
    if record.status == Status::Offline && record.last_seen != 0 {
        value["last_seen"] = record.last_seen.into();
    }
    value
}

fn demo_token(shared: &Shared, request: &Request) -> Response {
    match user_of(request) {
        Ok(user) => {
            let now = clock::wall_ms();
            let good = now..now + DEMO_TTL;
            let token = token::sign(crate::config::DEVELOPMENT_SECRET, &user, good, None);
            debug_assert!(shared.development);
            Response::json(&json!({ "token": token }))
        }
        Err(response) => response,
    }
}
