//! `/nodes`: the fleet as this coordinator sees it, and draining.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use coordinator::control::MemberView;
use ring::NodeId;
use serde_json::{Value, json};

use super::{
    App,
    answer::{self, Refusal},
};

pub(super) async fn nodes(State(app): State<Arc<App>>) -> Response {
    let picture = app.picture();
    let stale = app.stale(&picture);
    let map = picture.map.as_ref().map(|published| &published.map);
    let problems = picture
        .problems
        .iter()
        .map(|problem| json!({ "kind": problem.kind(), "message": problem.to_string() }));
    let events = picture
        .events
        .iter()
        .map(|event| json!({ "at": event.wall_ms, "message": event.text }));
    let mut body = json!({
        "coordinator": app.id,
        "leading": picture.leading,
        "leader": picture.leader.as_ref().map(|leader| &leader.id),
        "mapVersion": map.map(|map| map.version().get()),
        "vnodes": app.vnodes.get(),
        "nodes": picture.members.iter().map(node_json).collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
        "events": events.collect::<Vec<_>>(),
    });
    if let Some(seconds) = stale {
        body["stale"] = seconds.into();
    }
    answer::stale(answer::json(&body), stale)
}

fn node_json(member: &MemberView) -> Value {
    let lease = &member.lease;
    json!({
        "node": lease.node,
        "state": member.state.as_str(),
        "address": lease.address,
        "boot": lease.boot.to_string(),
        "cores": lease.cores,
        "weight": lease.weight,
        "share": member.share,
        "vnodes": member.vnodes,
        "moving": lease.moving,
        "mapVersion": lease.map_version,
        "pins": lease.pins,
        "drained": member.drained,
        "leaving": lease.draining,
        "leaseMissing": !member.present,
        "unseen": member.unseen / 1_000,
        "penalty": member.penalty.div_ceil(1_000),
        "load": {
            "connections": lease.load.connections,
            "sessions": lease.load.sessions,
            "eventsPerSecond": lease.load.events_per_second,
            "lag": lease.load.lag_ms,
            "cpu": lease.load.cpu,
        },
    })
}

pub(super) async fn drain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.set_drained(&id, &headers, true).await
}

pub(super) async fn undrain(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    app.set_drained(&id, &headers, false).await
}

impl App {
    async fn set_drained(
        &self,
        name: &str,
        headers: &HeaderMap,
        drained: bool,
    ) -> Result<Response, Refusal> {
        let by = self.administrator(headers).await?;
        let picture = self.picture();
        let member = picture
            .members
            .iter()
            .any(|member| member.lease.node == name);
        // A name can be taken back when its node is gone for good.
        let known = member || (!drained && picture.drained.iter().any(|other| other == name));
        let id = NodeId::parse(name).ok().filter(|_| known);
        let unknown = || Refusal::new(StatusCode::NOT_FOUND, "there is no such node");
        let id = id.ok_or_else(unknown)?;
        let done = match drained {
            true => self.link.drain(&id).await,
            false => self.link.undrain(&id).await,
        };
        done.map_err(|_| answer::no_store())?;
        let what = if drained { "drains" } else { "drains no more" };
        println!("administration: {by:?} {what} the node {id}");
        self.shown.look.notify_one();
        Ok(answer::json(&json!({ "node": &*id, "drained": drained })))
    }
}
