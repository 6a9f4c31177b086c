//! The plain HTTP of an edge: the live page, health, metrics, and presence by request.
//! It owns the paths; presence is asked of the core like a session asks.

use std::rc::Rc;

use protocol::{Record, Status};
use serde_json::{Value, json};
use token::Claims;

use crate::{
    clock,
    http::{Request, Response},
    shared::Shared,
    worker::Worker,
};

const LIVE_PAGE: &str = include_str!("../assets/live.html");
/// Users that one bulk request may name.
const MAX_BULK: usize = 1_000;
/// How long a token of the live page is good, ms.
const DEMO_TTL: u64 = 86_400_000;

/// The answer to a request that is no upgrade.
pub(crate) async fn answer(worker: &Rc<Worker>, request: &Request, body: &[u8]) -> Response {
    let shared = &worker.shared;
    if let Some(response) = health(shared, &request.path) {
        return if is_read(request) {
            response
        } else {
            wrong_method("GET, HEAD")
        };
    }
    match (request.path.as_str(), request.method.as_str()) {
        ("/", "GET" | "HEAD") => Response::new(200, "text/html; charset=utf-8", LIVE_PAGE)
            .with("x-frame-options", "DENY"),
        ("/route", "GET" | "HEAD") => route(shared, request),
        ("/status", "GET" | "HEAD") => one_status(worker, request).await,
        ("/status", "POST") => bulk_status(worker, request, body).await,
        ("/demo/token", "GET") if shared.development => demo_token(shared, request),
        ("/demo/token", _) if shared.development => wrong_method("GET"),
        ("/" | "/route", _) => wrong_method("GET, HEAD"),
        ("/status", _) => wrong_method("GET, HEAD, POST"),
        _ => Response::problem(404, "there is nothing at this path"),
    }
}

/// What is served on the clients' and on the admin address.
pub(crate) fn health(shared: &Shared, path: &str) -> Option<Response> {
    Some(match path {
        "/healthz" => Response::text(200, "ok"),
        "/readyz" if shared.is_ready() => Response::text(200, "ready"),
        "/readyz" if shared.is_leaving() => Response::text(503, "draining"),
        "/readyz" => Response::text(503, "starting"),
        "/version" => Response::json(&json!({ "version": env!("CARGO_PKG_VERSION") })),
        "/metrics" => {
            let page = shared.metrics.render(
                &shared.config.node.id,
                shared.is_leaving(),
                shared.place.as_deref(),
            );
            Response::new(200, "text/plain; version=0.0.4; charset=utf-8", page)
        }
        _ => return None,
    })
}

fn is_read(request: &Request) -> bool {
    ["GET", "HEAD"].contains(&request.method.as_str())
}

fn wrong_method(allowed: &'static str) -> Response {
    Response::problem(405, "this path has no such method").with("allow", allowed)
}

/// The one valid user that the request names.
fn user_of(request: &Request) -> Result<String, Response> {
    let mut users = request.parameters("userId");
    users.extend(request.parameters("user"));
    match users.as_slice() {
        [user] => match protocol::check_user(user) {
            Ok(()) => Ok(user.clone()),
            Err(error) => Err(Response::problem(400, &error.to_string())),
        },
        _ => Err(Response::problem(400, "userId must be given once")),
    }
}

fn route(shared: &Shared, request: &Request) -> Response {
    let user = match user_of(request) {
        Ok(user) => user,
        Err(response) => return response,
    };
    let Some(route) = shared.route(&user) else {
        return Response::problem(503, "no node owns the user's vnode").with("retry-after", "1");
    };
    Response::json(&json!({
        "userId": user,
        "vnode": shared.vnodes.vnode(&user).get(),
        "node": route.node,
        "address": route.address,
        "epoch": route.epoch.get(),
        "mapVersion": route.map.get(),
    }))
}

/// Who asks over HTTP; anyone on an edge with the public secret of development.
fn caller(shared: &Shared, request: &Request) -> Result<Option<Claims>, Response> {
    let unauthorized = |what: &str| Response::problem(401, what).with("www-authenticate", "Bearer");
    match request.bearer() {
        None if shared.development => Ok(None),
        None => Err(unauthorized("a bearer token is needed")),
        Some(token) => match shared.verifier.load().verify(token, clock::wall_ms()) {
            Ok(claims) => Ok(Some(claims)),
            Err(error) => Err(unauthorized(&error.to_string())),
        },
    }
}

async fn one_status(worker: &Rc<Worker>, request: &Request) -> Response {
    let caller = match caller(&worker.shared, request) {
        Ok(caller) => caller,
        Err(response) => return response,
    };
    let user = match user_of(request) {
        Ok(user) => user,
        Err(response) => return response,
    };
    if caller.is_some_and(|claims| !claims.rule.allows(&user)) {
        return Response::problem(403, "the token does not allow to see this user");
    }
    match worker.ask(&[&user]).await.records.as_deref() {
        Some([(user, record)]) => Response::json(&record_json(user, record)),
        _ => unavailable(),
    }
}

async fn bulk_status(worker: &Rc<Worker>, request: &Request, body: &[u8]) -> Response {
    match caller(&worker.shared, request) {
        Err(response) => return response,
        Ok(Some(claims)) if !claims.has_scope(&worker.shared.config.auth.admin_scope) => {
            let scope = &worker.shared.config.auth.admin_scope;
            return Response::problem(403, &format!("the token needs the scope {scope}"));
        }
        Ok(_) => {}
    }
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
            let expires = clock::wall_ms() + DEMO_TTL;
            let token = token::sign(crate::config::DEVELOPMENT_SECRET, &user, expires, None);
            debug_assert!(shared.development);
            Response::json(&json!({ "token": token }))
        }
        Err(response) => response,
    }
}
