//! What an administrator asks of a standalone edge: tokens to be revoked, whom a user blocks, who is in a
//! group, whose way is followed, who watches a user, and who is slow. It owns the paths and who may ask;
//! what it means is `protocol`'s.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use protocol::{
    Survey,
    policy::{self, Entry, List, PolicyError, Subject},
    survey::{self, About},
};
use serde_json::Value;
use tracing::info;

use crate::{
    clock,
    decrees::{DecreeError, Decrees},
    http::{NoBearer, Request, Response},
    shared::Shared,
    upgrade::NO_KEYS,
};

const REVOCATIONS: &str = "/revocations";
const BLOCKS: &str = "/blocks";
const GROUPS: &str = "/groups";
const TRACE: &str = "/trace";
const WATCHERS: &str = "/watchers";
const SLOW: &str = "/slow";
/// How long the cores may take for what all of them are asked; they look with each tick.
const ANSWERED: Duration = Duration::from_secs(4);

/// Whether the path is one of those of decrees.
pub(super) fn is_decree(request: &Request) -> bool {
    [REVOCATIONS, BLOCKS, GROUPS, TRACE, WATCHERS, SLOW].contains(&request.path.as_str())
}

/// Who asks, if that one may; asked before a body is read.
pub(super) fn administrator(shared: &Shared, request: &Request) -> Result<String, Response> {
    let keys = &shared.keys;
    match request.bearer() {
        // Nobody proved anything, so at least no page may ask.
        Ok(None) if shared.development && request.header("origin").is_none() => {
            Ok("(development)".into())
        }
        Ok(None) if shared.development => {
            let what = "without a token, pages may not ask this";
            Err(Response::problem(403, what))
        }
        Ok(None) => Err(Response::unauthorized("a bearer token is needed", false)),
        Ok(Some(_)) if !keys.are_ready() => {
            Err(Response::problem(503, NO_KEYS).with("retry-after", "1"))
        }
        Ok(Some(token)) => match keys.verify(token, clock::wall_ms()) {
            Ok(claims) if claims.has_scope(&shared.config.auth.admin_scope) => {
                Ok(claims.user.to_string())
            }
            Ok(_) => {
                let scope = &shared.config.auth.admin_scope;
                let what = format!("the token needs the scope {scope}");
                Err(Response::problem(403, &what))
            }
            Err(refused) => Err(Response::unauthorized(&refused.error.to_string(), true)),
        },
        Err(NoBearer) => {
            let what = "the authorization must be one bearer token";
            Err(Response::unauthorized(what, true))
        }
    }
}

/// The answer to an administrator.
pub(super) fn answer(shared: &Shared, request: &Request, by: &str, body: &[u8]) -> Response {
    let asked = (request.path.as_str(), request.method.as_str());
    if asked == (TRACE, "GET") {
        // Each node of a cluster tells its own steps.
        return match traced(shared, request) {
            Ok(value) => Response::json(&value),
            Err(Refusal(status, what)) => Response::problem(status, &what),
        };
    }
    let Some(decrees) = &shared.decrees else {
        let what = "in a cluster the coordinators decree: ask one of them";
        return Response::problem(409, what);
    };
    let list = match request.path.as_str() {
        BLOCKS => Some((List::Blocks, "userId")),
        GROUPS => Some((List::Group, "group")),
        _ => None,
    };
    let done = match (list, asked) {
        (Some((list, parameter)), (_, method)) => {
            let name = one(request, parameter).and_then(checked);
            match method {
                "GET" => name.map(|name| list.shown(&decrees.policy(), &name)),
                "PUT" => name.and_then(|name| set_list(decrees, list, &name, by, body)),
                "DELETE" => {
                    name.and_then(|name| set_list(decrees, list, &name, by, br#"{"users":[]}"#))
                }
                _ => return wrong_method("GET, PUT, DELETE"),
            }
        }
        (None, (REVOCATIONS, "GET")) => Ok(policy::revocations(&decrees.policy())),
        (None, (REVOCATIONS, "POST")) => revoke(decrees, by, body),
        (None, (REVOCATIONS, "DELETE")) => take_back(decrees, request, by),
        (None, (TRACE, "PUT")) => follow(decrees, request, by, body),
        (None, (TRACE, "DELETE")) => end_trace(decrees, request, by),
        (None, (WATCHERS, "GET")) => one(request, "userId")
            .and_then(checked)
            .map(|user| all_cores(shared, decrees, by, About::Watchers(user.into()))),
        (None, (SLOW, "GET")) => Ok(all_cores(shared, decrees, by, About::Slow)),
        (None, (WATCHERS | SLOW, _)) => return wrong_method("GET"),
        (None, (REVOCATIONS, _)) => return wrong_method("GET, POST, DELETE"),
        (None, _) => return wrong_method("GET, PUT, DELETE"),
    };
    match done {
        Ok(value) => Response::json(&value),
        Err(Refusal(status, what)) => Response::problem(status, &what),
    }
}

fn wrong_method(allowed: &'static str) -> Response {
    Response::problem(405, "this path has no such method").with("allow", allowed)
}

/// A refusal: the HTTP status and the reason.
struct Refusal(u16, String);

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        let status = match error {
            PolicyError::TooManyTraced => 409,
            _ => 400,
        };
        Self(status, error.to_string())
    }
}

impl From<DecreeError> for Refusal {
    fn from(error: DecreeError) -> Self {
        match error {
            DecreeError::Refused(error) => error.into(),
            error => Self(507, error.to_string()),
        }
    }
}

fn revoke(decrees: &Decrees, by: &str, body: &[u8]) -> Result<Value, Refusal> {
    let (subject, entry) = policy::revocation(body, by, clock::wall_ms(), decrees.lifetime)?;
    let shown = policy::shown(&subject, &entry);
    decree(decrees, by, subject, Some(entry))?;
    Ok(shown)
}

fn take_back(decrees: &Decrees, request: &Request, by: &str) -> Result<Value, Refusal> {
    let [user, jti, everyone] = ["user", "jti", "everyone"].map(|name| one(request, name));
    let subject = policy::named(
        user.as_deref().ok(),
        jti.as_deref().ok(),
        everyone.as_deref().ok(),
    )?;
    match decree(decrees, by, subject, None)? {
        true => Ok(policy::revocations(&decrees.policy())),
        false => Err(Refusal(404, "there is no such revocation".into())),
    }
}

fn set_list(
    decrees: &Decrees,
    list: List,
    name: &str,
    by: &str,
    body: &[u8],
) -> Result<Value, Refusal> {
    let entry = list.read(body, by, clock::wall_ms())?;
    decree(decrees, by, list.of(name), entry)?;
    Ok(list.shown(&decrees.policy(), name))
}

fn traced(shared: &Shared, request: &Request) -> Result<Value, Refusal> {
    let policy = shared.keys.policy();
    if request.parameters("userId").is_empty() {
        return Ok(policy::traces(&policy));
    }
    let user = one(request, "userId").and_then(checked)?;
    let steps = shared.traces.steps_of(&user);
    Ok(policy::trace_of(&policy, &user, &steps))
}

fn follow(decrees: &Decrees, request: &Request, by: &str, body: &[u8]) -> Result<Value, Refusal> {
    let user = one(request, "userId").and_then(checked)?;
    let entry = policy::trace(body, by, clock::wall_ms())?;
    let subject = Subject::Trace(user.as_str().into());
    let shown = policy::shown(&subject, &entry);
    decree(decrees, by, subject, Some(entry))?;
    Ok(shown)
}

fn end_trace(decrees: &Decrees, request: &Request, by: &str) -> Result<Value, Refusal> {
    let user = one(request, "userId").and_then(checked)?;
    match decree(decrees, by, Subject::Trace(user.as_str().into()), None)? {
        true => Ok(policy::trace_ended(&user)),
        false => Err(Refusal(404, policy::NOT_TRACED.into())),
    }
}

/// What all cores answer together; the node is silent when one does not.
fn all_cores(shared: &Shared, decrees: &Decrees, by: &str, about: About) -> Value {
    let survey = Survey::new(RandomState::new().hash_one(by), about);
    let entry = policy::survey(by, clock::wall_ms());
    let subject = Subject::Survey(survey.clone());
    info!(
        event = "administration",
        by,
        "{}",
        policy::audit(by, &subject, Some(&entry))
    );
    decrees.ask(&survey, Some(entry));
    let found = shared.surveys.wait(&survey, ANSWERED);
    decrees.ask(&survey, None);
    let node = shared.config.node.id.clone();
    let found: BTreeMap<_, _> = found
        .map(|found| (node.clone(), found))
        .into_iter()
        .collect();
    survey::shown(&survey.about, &found, &[node])
}

fn decree(
    decrees: &Decrees,
    by: &str,
    subject: Subject,
    entry: Option<Entry>,
) -> Result<bool, DecreeError> {
    let line = policy::audit(by, &subject, entry.as_ref());
    let done = decrees.decree(subject, entry)?;
    if done {
        info!(event = "administration", by, "{line}");
    }
    Ok(done)
}

/// The value of a parameter that is there once.
fn one(request: &Request, name: &str) -> Result<String, Refusal> {
    match request.parameters(name).as_slice() {
        [Some(value)] => Ok(value.clone()),
        _ => Err(Refusal(400, format!("{name} must be given once, in UTF-8"))),
    }
}

/// The name of a user or of a group: the rules are the same.
fn checked(name: String) -> Result<String, Refusal> {
    match protocol::check_user(&name) {
        Ok(()) => Ok(name),
        Err(error) => Err(Refusal(400, error.to_string())),
    }
}
