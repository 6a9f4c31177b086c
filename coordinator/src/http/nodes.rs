//! `/nodes`: the fleet as this coordinator sees it, and draining.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use console::{Event, Fleet, Node, Problem};
use coordinator::control::MemberView;
use ring::NodeId;
use serde_json::json;
use tracing::info;

use super::{
    App,
    answer::{self, Refusal},
};
use crate::timeline::Happened;

pub(super) async fn nodes(State(app): State<Arc<App>>) -> Response {
    let fleet = app.fleet();
    let body = serde_json::to_value(&fleet).expect("all keys are strings");
    answer::stale(answer::json(&body), fleet.stale)
}

impl App {
    /// The fleet as this coordinator sees it now.
    pub(crate) fn fleet(&self) -> Fleet {
        let picture = self.picture();
        let problem = |problem: &coordinator::control::Problem| Problem {
            kind: problem.kind().to_owned(),
            message: problem.to_string(),
        };
        let event = |event: &Happened| Event {
            at: event.wall_ms,
            kind: event.kind.to_owned(),
            message: event.text.clone(),
        };
        Fleet {
            coordinator: self.id.clone(),
            leading: picture.leading,
            leader: picture.leader.as_ref().map(|leader| leader.id.clone()),
            map_version: (picture.map.as_ref()).map(|published| published.map.version().get()),
            vnodes: self.vnodes.get() as u64,
            nodes: picture.members.iter().map(node).collect(),
            problems: picture.problems.iter().map(problem).collect(),
            events: picture.events.iter().map(event).collect(),
            stale: self.stale(&picture),
        }
    }
}

fn node(member: &MemberView) -> Node {
    let lease = &member.lease;
    Node {
        node: lease.node.clone(),
        state: member.state.as_str().to_owned(),
        address: lease.address.clone(),
        boot: lease.boot.to_string(),
        cores: lease.cores,
        weight: lease.weight,
        share: member.share,
        vnodes: member.vnodes as u64,
        moving: lease.moving,
        map_version: lease.map_version,
        pins: lease.pins.clone(),
        drained: member.drained,
        leaving: lease.draining,
        lease_missing: !member.present,
        unseen: member.unseen / 1_000,
        lease_age: member.lease_age,
        penalty: member.penalty.div_ceil(1_000),
        load: (&lease.load).into(),
    }
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
            true => self.link.drain(&id, &by).await,
            false => self.link.undrain(&id, &by).await,
        };
        done.map_err(|_| answer::no_store())?;
        let what = if drained { "drains" } else { "drains no more" };
        info!(
            event = "administration",
            by = &*by,
            node = &*id,
            "administration: {by:?} {what} the node {id}"
        );
        self.shown.look.notify_one();
        Ok(answer::json(&json!({ "node": &*id, "drained": drained })))
    }
}
