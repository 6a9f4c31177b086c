//! `/trace`: whose way through the cluster is followed, and the steps that nodes have brought to the
//! store.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use protocol::policy::{self, PolicyError, Subject};
use redis_store::Decreed;

use super::{
    App,
    answer::{self, Refusal},
};
use crate::clock;

/// Who is followed; of a user that is named, its steps.
pub(super) async fn steps(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let (policy, stale) = app.policy().await;
    let query = query.as_deref();
    if answer::parameters(query, &["userId", "user"])?.is_empty() {
        let shown = answer::json(&policy::traces(&policy));
        return Ok(answer::stale(shown, stale));
    }
    let user = answer::user_of(query)?;
    let steps = app.link.trace(&user).await;
    let steps = steps.map_err(|_| answer::no_store())?;
    Ok(answer::json(&policy::trace_of(&policy, &user, &steps)))
}

pub(super) async fn follow(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let body = answer::whole(body).await?;
    let user = answer::user_of(query.as_deref())?;
    let entry = policy::trace(&body, &by, clock::wall_ms())?;
    let subject = Subject::Trace(user.into());
    app.decree(&by, &subject, Some(&entry)).await?;
    Ok(answer::json(&policy::shown(&subject, &entry)))
}

pub(super) async fn end(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let user = answer::user_of(query.as_deref())?;
    let subject = Subject::Trace(user.as_str().into());
    match app.decree(&by, &subject, None).await? {
        Decreed::Nothing => Err(Refusal::new(StatusCode::NOT_FOUND, policy::NOT_TRACED)),
        _ => Ok(answer::json(&policy::trace_ended(&user))),
    }
}

impl From<PolicyError> for Refusal {
    fn from(error: PolicyError) -> Self {
        let status = match error {
            PolicyError::TooManyTraced => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}
