//! `/users`: what an administrator may know of one user, from the map and the store.

use std::sync::Arc;

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use protocol::{Encoding, list_record};
use serde_json::{Value, json};

use super::{
    App,
    answer::{self, Refusal},
};

pub(super) async fn one(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.administrator(&headers).await?;
    let user = answer::user_of(query.as_deref())?;
    let records = app.records(&[&user]).await?;
    let mut record = Vec::new();
    list_record(Encoding::Json, true, &user, &records[0], None, &mut record);
    let record: Value = serde_json::from_slice(&record).expect("a record is JSON");
    let picture = app.picture();
    let map = &picture.map.as_ref().ok_or_else(answer::no_map)?.map;
    let vnode = map.count().vnode(&user);
    let owner = map.owner(vnode).map(|(node, _)| node);
    Ok(answer::json(&json!({
        "user": user,
        "record": record,
        "vnode": vnode.get(),
        "node": owner.map(|node| &*node.id),
        "address": owner.map(|node| &node.address),
        "epoch": map.epoch(vnode).get(),
        "mapVersion": map.version().get(),
    })))
}
