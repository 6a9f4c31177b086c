//! What administrators ask of all cores: the answers of this node's cores, put together. It owns which
//! questions still lack a core, and the answers that nobody has taken yet; what a core answers it says
//! itself.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::{Survey, survey::Found};

/// Questions that are kept, answered or not; of more the oldest go.
const KEPT: usize = 64;

/// The questions of this node.
#[derive(Debug)]
pub(crate) struct Surveys {
    cores: usize,
    kept: Mutex<VecDeque<Asked>>,
    answered: Condvar,
}

#[derive(Debug)]
struct Asked {
    survey: Survey,
    found: Found,
    /// Cores that have not answered yet.
    missing: usize,
}

impl Surveys {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores,
            kept: Mutex::default(),
            answered: Condvar::new(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Asked>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the answer of one core.
    pub(crate) fn answer(&self, survey: Survey, found: Found) {
        let mut kept = self.kept();
        let at = kept.iter().position(|it| it.survey == survey);
        let at = at.unwrap_or_else(|| {
            if kept.len() >= KEPT {
                kept.pop_front();
            }
            kept.push_back(Asked {
                survey,
                found: Found::default(),
                missing: self.cores,
            });
            kept.len() - 1
        });
        let asked = &mut kept[at];
        asked.found.add(found);
        asked.missing = asked.missing.saturating_sub(1);
        if asked.missing == 0 {
            self.answered.notify_all();
        }
    }

    /// Takes an answer of the whole node, for the store.
    pub(crate) fn next_answer(&self) -> Option<(Survey, Found)> {
        let mut kept = self.kept();
        let at = kept.iter().position(|it| it.missing == 0)?;
        kept.remove(at).map(|asked| (asked.survey, asked.found))
    }

    /// The answer of the whole node; `None` when a core has not answered in this time.
    pub(crate) fn wait(&self, survey: &Survey, patience: Duration) -> Option<Found> {
        let lacks = |kept: &mut VecDeque<Asked>| {
            let done = |it: &Asked| it.survey == *survey && it.missing == 0;
            !kept.iter().any(done)
        };
        let kept = self.kept();
        let waited = self.answered.wait_timeout_while(kept, patience, lacks);
        let (mut kept, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|it| it.survey == *survey)?;
        let asked = kept.remove(at)?;
        (asked.missing == 0).then_some(asked.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::survey::About;

    fn found(total: u64) -> Found {
        Found {
            total,
            ..Found::default()
        }
    }

    #[test]
    fn a_node_has_answered_when_all_its_cores_have() {
        let surveys = Surveys::new(2);
        let (one, other) = (Survey::new(1, About::Slow), Survey::new(2, About::Slow));
        surveys.answer(one.clone(), found(3));
        surveys.answer(other.clone(), found(1));
        assert_eq!(surveys.next_answer(), None);
        surveys.answer(other.clone(), found(1));
        assert_eq!(surveys.next_answer(), Some((other, found(2))));
        // The core that lacks is waited for in vain, and the question is forgotten.
        assert_eq!(surveys.wait(&one, Duration::ZERO), None);
        assert!(surveys.kept().is_empty());
        surveys.answer(one.clone(), found(1));
        surveys.answer(one.clone(), found(1));
        assert_eq!(surveys.wait(&one, Duration::ZERO), Some(found(2)));
    }

    #[test]
    fn questions_that_are_never_answered_are_bounded() {
        let surveys = Surveys::new(2);
        for n in 0..KEPT as u64 + 3 {
            surveys.answer(Survey::new(n, About::Slow), found(n));
        }
        assert_eq!(surveys.kept().len(), KEPT);
        assert_eq!(surveys.kept()[0].survey, Survey::new(3, About::Slow));
    }
}
