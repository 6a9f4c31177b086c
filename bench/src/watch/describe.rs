//! What was wrong in words, for someone who wants to find out why.

use super::{Entry, Scene, Verdict};
use crate::{plan::Shown, truth::Truth};

impl Verdict {
    /// The name of the fault in a verdict; `None` when it is none.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Delivered { skipped, .. } if skipped.missed > 0 => Some("missed"),
            Self::Delivered { .. } | Self::Other | Self::Known => None,
            Self::Duplicate => Some("duplicated"),
            Self::Reordered => Some("reordered"),
            Self::Flap => Some("flaps"),
            Self::Stray { crashed: false } => Some("strays"),
            Self::Stray { crashed: true } => Some("rolled_back"),
        }
    }
}

impl Scene<'_> {
    /// A time as seconds of the measured part.
    fn seconds(&self, at: u64) -> f64 {
        (at as f64 - self.go.unwrap_or(at) as f64) / 1e6
    }

    fn disturbance(&self, truth: &Truth) -> String {
        match truth.last() {
            None => "undisturbed".into(),
            Some((from, None)) => format!("disturbed since {:.3} s", self.seconds(from)),
            Some((from, Some(until))) => {
                let [from, until] = [from, until].map(|at| self.seconds(at));
                format!("disturbed {from:.3} to {until:.3} s")
            }
        }
    }
}

impl Entry {
    /// What a record looked like to someone who wants to find out why it is wrong: it, what was
    /// known before it, and what is the case.
    pub(crate) fn describe(&self, scene: &Scene<'_>, version: u64, shown: Shown) -> String {
        let Scene { plan, now, .. } = *scene;
        let known = match self.shown {
            None => "nothing".into(),
            Some(known) => format!("{known:?} {}", self.version),
        };
        let next = scene.go.zip(plan.intended(self.user, self.turns.into()));
        let next = next.map_or("no change to come".into(), |(go, next)| {
            let answer = match scene.user.answer(self.turns.into()) {
                None => String::new(),
                Some(at) => format!(", answered at {:.3} s", scene.seconds(at)),
            };
            format!("next change at {:.3} s{answer}", scene.seconds(go + next))
        });
        format!(
            "{:.3} s: {} is {shown:?} {version}{}, known was {known}; {} changes seen, {next}; \
             user {}, watcher {}",
            scene.seconds(now),
            plan.user(self.user),
            if scene.answer { " in a snapshot" } else { "" },
            self.turns,
            scene.disturbance(scene.user),
            scene.disturbance(scene.watcher),
        )
    }

    /// The last state seen beside the expected one, in words.
    pub(crate) fn describe_end(&self, scene: &Scene<'_>) -> String {
        let last = scene.plan.changes_of(self.user).checked_sub(1);
        let right = scene.plan.shown(self.user, last);
        format!(
            "{} is {:?} {} and should be {right:?}; {} of {} changes seen; user {}, watcher {}",
            scene.plan.user(self.user),
            self.shown,
            self.version,
            self.turns,
            scene.plan.changes_of(self.user),
            scene.disturbance(scene.user),
            scene.disturbance(scene.watcher),
        )
    }
}
