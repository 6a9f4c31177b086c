//! Who leads: asks for the leadership, renews it three times within its TTL, and gives it back. It
//! owns when this replica believes to lead; that a late belief does no harm, the token sees to.

use std::{sync::Arc, time::Duration};

use program::{Trouble, Turn};
use redis_store::Link;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{metrics::Metrics, stop::Stop};

/// A term of leadership: its token and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lead {
    /// The fencing token of what the leader writes.
    pub(crate) token: u64,
    /// The end of the term, unless it is renewed.
    pub(crate) until: Instant,
}

/// What the other parts see of the leadership.
#[derive(Clone)]
pub(crate) struct Leadership {
    lead: watch::Receiver<Option<Lead>>,
    superseded: Arc<Notify>,
}

impl Leadership {
    /// The fencing token; `None` while this replica does not lead.
    pub(crate) fn token(&self) -> Option<u64> {
        let lead = *self.lead.borrow();
        lead.filter(|lead| Instant::now() < lead.until)
            .map(|lead| lead.token)
    }

    /// A newer leader has written: this one's token is worth nothing.
    pub(crate) fn is_superseded(&self) {
        self.superseded.notify_one();
    }

    /// Returns when the leadership is another one than when it was called.
    pub(crate) async fn changed(&mut self) {
        let token = |lead: &Option<Lead>| lead.map(|lead| lead.token);
        let before = token(&self.lead.borrow_and_update());
        let other = self
            .lead
            .wait_for(|lead| token(lead) != before)
            .await
            .is_ok();
        if !other {
            std::future::pending::<()>().await;
        }
    }
}

/// The parameters of [`Candidate::run`].
pub(crate) struct Candidate {
    pub(crate) link: Link,
    pub(crate) id: String,
    pub(crate) ttl: Duration,
    pub(crate) metrics: Arc<Metrics>,
    lead: watch::Sender<Option<Lead>>,
    superseded: Arc<Notify>,
}

impl Candidate {
    pub(crate) fn new(
        link: Link,
        id: String,
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> (Self, Leadership) {
        let (sender, receiver) = watch::channel(None);
        let superseded = Arc::new(Notify::new());
        let leadership = Leadership {
            lead: receiver,
            superseded: Arc::clone(&superseded),
        };
        let candidate = Self {
            link,
            id,
            ttl,
            metrics,
            lead: sender,
            superseded,
        };
        (candidate, leadership)
    }

    /// Leads whenever nobody else does, until `stop`; then gives the leadership back.
    pub(crate) async fn run(self, mut stop: Stop) {
        let mut lead: Option<Lead> = None;
        let mut unanswered = Trouble::default();
        loop {
            let asked = Instant::now();
            let holding = lead.map(|lead| lead.token);
            let answer = self.link.lead(&self.id, self.ttl, holding).await;
            let error = answer.as_ref().err().map(ToString::to_string);
            if let Some(Turn::Begins(error)) = unanswered.turn(error) {
                warn!(
                    event = "leadership_unanswered",
                    "the leadership can be neither had nor kept: {error}"
                );
            }
            let next = match answer {
                // The TTL began at the store after we asked, so this ends first.
                Ok(token) => token.map(|token| Lead {
                    token,
                    until: asked + self.ttl,
                }),
                // Nobody else leads before the TTL ends, wherever the store is.
                Err(_) => lead.filter(|lead| Instant::now() < lead.until),
            };
            self.show(lead, next);
            lead = next;
            tokio::select! {
                () = sleep(self.ttl / 3) => {}
                () = self.superseded.notified() => {
                    if let Some(late) = lead.take() {
                        self.show(Some(late), None);
                        self.resign(late).await;
                    }
                }
                () = stop.signalled() => break,
            }
        }
        self.show(lead, None);
        if let Some(lead) = lead {
            self.resign(lead).await;
        }
    }

    async fn resign(&self, lead: Lead) {
        if let Err(error) = self.link.resign(&self.id, lead.token).await {
            warn!(
                event = "leadership_left",
                "the leadership could not be given back, it ends by itself: {error}"
            );
        }
    }

    fn show(&self, before: Option<Lead>, now: Option<Lead>) {
        let tokens = (before.map(|lead| lead.token), now.map(|lead| lead.token));
        if tokens.0 != tokens.1 {
            match tokens.1 {
                Some(token) => {
                    self.metrics.led();
                    info!(
                        event = "leadership_taken",
                        token, "this coordinator leads, with fencing token {token}"
                    );
                }
                None => info!(
                    event = "leadership_lost",
                    "this coordinator does not lead any more"
                ),
            }
        }
        self.lead.send_replace(now);
    }
}
