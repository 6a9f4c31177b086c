//! `/revocations`, `/blocks` and `/groups`: what administrators decree of tokens and of who may watch
//! whom. It is written to the store, from where every node takes it within a second.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{MethodRouter, get},
};
use protocol::policy::{self, Entry, List, MAX_ENTRIES, PolicyError, Subject};
use redis_store::Decreed;
use tracing::info;

use super::{
    App,
    answer::{self, Refusal},
};
use crate::clock;

pub(super) async fn revocations(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let (policy, stale) = app.policy().await;
    let shown = answer::json(&policy::revocations(&policy));
    Ok(answer::stale(shown, stale))
}

pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let body = answer::whole(body).await?;
    let (subject, entry) = policy::revocation(&body, &by, clock::wall_ms(), app.longest_life)?;
    app.decree(&by, &subject, Some(&entry)).await?;
    Ok(answer::json(&policy::shown(&subject, &entry)))
}

pub(super) async fn take_back(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let named = |name| -> Result<Option<String>, Refusal> {
        let mut values = answer::parameters(query.as_deref(), &[name])?;
        let value = values.pop();
        Ok(value.filter(|_| values.is_empty()))
    };
    let (user, jti, everyone) = (named("user")?, named("jti")?, named("everyone")?);
    let subject = policy::named(user.as_deref(), jti.as_deref(), everyone.as_deref())?;
    match app.decree(&by, &subject, None).await? {
        Decreed::Nothing => {
            let what = "there is no such revocation";
            Err(Refusal::new(StatusCode::NOT_FOUND, what))
        }
        _ => Ok(answer::json(
            &serde_json::json!({ "takenBack": subject.field() }),
        )),
    }
}

/// The handlers of the lists of one kind.
pub(super) fn lists(list: List) -> MethodRouter<Arc<App>> {
    let read = move |State(app): State<Arc<App>>, RawQuery(query): RawQuery, headers: HeaderMap| async move {
        app.administrator(&headers).await?;
        let name = answer::list_of(list, query.as_deref())?;
        let (policy, stale) = app.policy().await;
        let shown = answer::json(&list.shown(&policy, &name));
        Ok::<_, Refusal>(answer::stale(shown, stale))
    };
    let write = move |State(app): State<Arc<App>>,
                      RawQuery(query): RawQuery,
                      headers: HeaderMap,
                      body: Body| async move {
        let by = app.administrator(&headers).await?;
        let body = answer::whole(body).await?;
        app.write_list(list, &by, query.as_deref(), &body).await
    };
    let empty = move |State(app): State<Arc<App>>,
                      RawQuery(query): RawQuery,
                      headers: HeaderMap| async move {
        let by = app.administrator(&headers).await?;
        let nobody = br#"{"users":[]}"#;
        app.write_list(list, &by, query.as_deref(), nobody).await
    };
    get(read).put(write).delete(empty)
}

impl App {
    async fn write_list(
        &self,
        list: List,
        by: &str,
        query: Option<&str>,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let name = answer::list_of(list, query)?;
        let entry = list.read(body, by, clock::wall_ms())?;
        self.decree(by, &list.of(&name), entry.as_ref()).await?;
        let users = entry.as_ref().map_or(&[][..], |entry| list.users(entry));
        Ok(answer::json(
            &serde_json::json!({ (list.member()): name, "users": users }),
        ))
    }

    /// Writes what `by` decrees, and notes it in the log.
    pub(super) async fn decree(
        &self,
        by: &str,
        subject: &Subject,
        entry: Option<&Entry>,
    ) -> Result<Decreed, Refusal> {
        let done = self.link.decree(subject, entry).await;
        let done = done.map_err(|_| answer::no_store())?;
        match done {
            Decreed::Done => info!(
                event = "administration",
                by,
                "{}",
                policy::audit(by, subject, entry)
            ),
            Decreed::Nothing => {}
            Decreed::TooManyTraced => return Err(PolicyError::TooManyTraced.into()),
            Decreed::Full => {
                let what = format!("there are {MAX_ENTRIES} entries, and no more may be");
                return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, what));
            }
        }
        Ok(done)
    }
}
