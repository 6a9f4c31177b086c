//! `/watchers` and `/slow`: what an administrator asks of every core of the fleet. The question goes to the
//! edges with the policy, their answers come back through the store; who does not answer is named.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::Response,
};
use protocol::{
    Survey,
    policy::{self, Subject},
    survey::{self, About, Found},
};
use redis_store::Link;
use tokio::time::{Instant, sleep};

use super::{
    App,
    answer::{self, Refusal},
};
use crate::clock;

/// How long the edges may take; they look for questions twice a second.
const PATIENCE: Duration = Duration::from_secs(4);
/// Time between two looks for answers.
const LOOK: Duration = Duration::from_millis(100);
/// Questions that are asked at a time; the next one waits.
pub(super) const AT_ONCE: usize = 4;

pub(super) async fn watchers(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    let user = answer::user_of(query.as_deref())?;
    app.survey(&by, About::Watchers(user.into())).await
}

pub(super) async fn slow(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let by = app.administrator(&headers).await?;
    app.survey(&by, About::Slow).await
}

impl App {
    async fn survey(&self, by: &str, about: About) -> Result<Response, Refusal> {
        // Who waits here too long runs into the time that a request may take.
        let permit = self.surveys.acquire().await;
        let _permit = permit.expect("nobody closes it");
        let members = &self.picture().members;
        let present = members.iter().filter(|member| member.present);
        let nodes: Vec<String> = present.map(|member| member.lease.node.clone()).collect();
        let survey = Survey::new(Link::survey_name(), about);
        let subject = Subject::Survey(survey.clone());
        let entry = policy::survey(by, clock::wall_ms());
        self.decree(by, &subject, Some(&entry)).await?;
        let found = self.answers(&survey, &nodes).await;
        // What stays is forgotten when its time is over.
        let _ = self.link.clear(&subject, &entry).await;
        Ok(answer::json(&survey::shown(&survey.about, &found?, &nodes)))
    }

    /// The answers that have come when all have, or when the time for it is over.
    async fn answers(
        &self,
        survey: &Survey,
        nodes: &[String],
    ) -> Result<BTreeMap<String, Found>, Refusal> {
        let until = Instant::now() + PATIENCE.min(self.request_timeout / 2);
        loop {
            let found = self.link.survey_answers(survey, nodes).await;
            let found = found.map_err(|_| answer::no_store())?.into_iter();
            let found: BTreeMap<_, _> = (nodes.iter().cloned().zip(found))
                .filter_map(|(node, found)| Some((node, found?)))
                .collect();
            if found.len() == nodes.len() || Instant::now() >= until {
                return Ok(found);
            }
            sleep(LOOK).await;
        }
    }
}
