//! `/status`: presence by request, read from the store.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use protocol::{Encoding, Record, list_record};
use redis_store::{Done, Op};
use serde_json::Value;

use super::{
    App,
    answer::{self, Refusal},
};

/// The most users that one bulk request may name.
const MAX_BULK: usize = 1_000;

pub(super) async fn one(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let caller = app.caller(&headers).await?;
    let user = answer::user_of(query.as_deref())?;
    let policy = app.keys.policy();
    let may_see = |it: &token::Claims| policy.lets_see(Some(&it.rule), &it.user, &user);
    if caller.is_some_and(|claims| !may_see(&claims)) {
        let what = "the token does not allow to see this user";
        return Err(Refusal::new(StatusCode::FORBIDDEN, what));
    }
    let records = app.records(&[&user]).await?;
    let mut body = Vec::new();
    list_record(Encoding::Json, true, &user, &records[0], None, &mut body);
    body.push(b'\n');
    Ok(answer::with_type(StatusCode::OK, "application/json", body))
}

pub(super) async fn many(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let body = answer::whole(body).await?;
    let body: Option<Value> = serde_json::from_slice(&body).ok();
    let users = body.as_ref().and_then(|body| body.get("users")?.as_array());
    let users: Option<Vec<&str>> =
        users.and_then(|users| users.iter().map(Value::as_str).collect());
    let wrong = "the body must be JSON like {\"users\":[\"alice\"]}";
    let users = users.ok_or_else(|| Refusal::bad_request(wrong))?;
    if users.len() > MAX_BULK {
        let what = format!("at most {MAX_BULK} users at a time");
        return Err(Refusal::bad_request(what));
    }
    for user in &users {
        let check = protocol::check_user(user);
        check.map_err(|error| Refusal::bad_request(error.to_string()))?;
    }
    let records = app.records(&users).await?;
    let mut body = b"{\"users\":[".to_vec();
    for (n, (user, record)) in users.iter().zip(&records).enumerate() {
        list_record(Encoding::Json, n == 0, user, record, None, &mut body);
    }
    body.extend_from_slice(b"]}\n");
    Ok(answer::with_type(StatusCode::OK, "application/json", body))
}

impl App {
    /// The records of `users`, one for each in their order, read in one batch; a user never seen
    /// is offline.
    pub(super) async fn records(&self, users: &[&str]) -> Result<Vec<Record>, Refusal> {
        // Who waits here too long runs into the time that a request may take.
        let permit = self.readers.acquire().await;
        let _permit = permit.expect("nobody closes it");
        let mut by_vnode: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (at, user) in users.iter().enumerate() {
            by_vnode
                .entry(self.vnodes.vnode(user).get())
                .or_default()
                .push(at);
        }
        let read = |(vnode, places): (&u16, &Vec<usize>)| Op::Read {
            vnode: ring::Vnode::new(*vnode),
            users: places.iter().map(|at| users[*at].into()).collect(),
        };
        let answers = self.link.run(by_vnode.iter().map(read).collect()).await;
        let mut records = vec![Record::default(); users.len()];
        for (places, answer) in by_vnode.values().zip(answers) {
            let Ok(Done::Records(_, found)) = answer else {
                return Err(answer::no_store());
            };
            for (at, stored) in places.iter().zip(found) {
                records[*at] = stored.unwrap_or_default().record;
            }
        }
        Ok(records)
    }
}
