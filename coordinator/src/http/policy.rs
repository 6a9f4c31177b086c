//! `/revocations`, `/blocks` and `/groups`: what administrators decree of tokens and of who may watch
//! whom. It is written to the store, from where every node takes it within a second.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use protocol::policy::{self, Entry, MAX_ENTRIES, Subject};
use redis_store::Decreed;

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
    Ok(answer::json(&policy::revocations(&app.keys.policy())))
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
    let named = |name| match answer::parameters(query.as_deref(), &[name]).as_slice() {
        [value] => Some(value.clone()),
        _ => None,
    };
    let (user, jti, everyone) = (named("user"), named("jti"), named("everyone"));
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

pub(super) async fn blocks(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let user = answer::user_of(query.as_deref())?;
    Ok(answer::json(&policy::blocks(&app.keys.policy(), &user)))
}

pub(super) async fn set_blocks(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let body = answer::whole(body).await?;
    app.write_blocks(&by, query.as_deref(), &body).await
}

pub(super) async fn empty_blocks(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let nobody = br#"{"users":[]}"#;
    app.write_blocks(&by, query.as_deref(), nobody).await
}

pub(super) async fn group(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let name = answer::group_of(query.as_deref())?;
    Ok(answer::json(&policy::group(&app.keys.policy(), &name)))
}

pub(super) async fn set_group(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let body = answer::whole(body).await?;
    app.write_group(&by, query.as_deref(), &body).await
}

pub(super) async fn empty_group(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let nobody = br#"{"users":[]}"#;
    app.write_group(&by, query.as_deref(), nobody).await
}

impl App {
    async fn write_group(
        &self,
        by: &str,
        query: Option<&str>,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let name = answer::group_of(query)?;
        let entry = policy::group_list(body, by, clock::wall_ms())?;
        let subject = Subject::Group(name.as_str().into());
        self.decree(by, &subject, entry.as_ref()).await?;
        let users = entry.map(|entry| entry.members).unwrap_or_default();
        Ok(answer::json(
            &serde_json::json!({ "group": name, "users": users }),
        ))
    }

    async fn write_blocks(
        &self,
        by: &str,
        query: Option<&str>,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let user = answer::user_of(query)?;
        let entry = policy::block_list(body, by, clock::wall_ms())?;
        let subject = Subject::Blocks(user.as_str().into());
        self.decree(by, &subject, entry.as_ref()).await?;
        let users = entry.map(|entry| entry.blocked).unwrap_or_default();
        Ok(answer::json(
            &serde_json::json!({ "user": user, "users": users }),
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
            Decreed::Done => println!("{}", policy::audit(by, subject, entry)),
            Decreed::Nothing => {}
            Decreed::Full => {
                let what = format!("there are {MAX_ENTRIES} entries, and no more may be");
                return Err(Refusal::new(StatusCode::INSUFFICIENT_STORAGE, what));
            }
        }
        Ok(done)
    }
}
