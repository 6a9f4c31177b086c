//! The answers of nodes to what administrators ask of all, in the store: each node leaves its own, and the
//! coordinator that asked reads them. They last as long as the question does.

use protocol::{
    Survey,
    survey::{Found, LIFETIME, MAX_NAMED},
};

use crate::{
    StoreError,
    call::Call,
    link::{Link, random},
    reply,
};

/// The expected size of a named session, bytes.
const NAMED: usize = 128;

impl Link {
    /// A name for a question that no other one has.
    #[must_use]
    pub fn survey_name() -> u64 {
        random()
    }

    /// Leaves the answer of a node.
    pub async fn answer_survey(
        &self,
        survey: &Survey,
        node: &str,
        found: &Found,
    ) -> Result<(), StoreError> {
        let key = self.keys().survey(&survey.id);
        let answer = [
            Call::command("HSET", &key).arg(node).arg(found.encode()),
            Call::command("PEXPIRE", &key).number(LIFETIME),
        ];
        let answers = self.perform(&answer).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// The answers of these nodes so far, in their order; `None` for one that has not answered.
    pub async fn survey_answers(
        &self,
        survey: &Survey,
        nodes: &[String],
    ) -> Result<Vec<Option<Found>>, StoreError> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let read = Call::command("HMGET", &self.keys().survey(&survey.id));
        let read = nodes
            .iter()
            .fold(read, |read, node| read.arg(node.as_str()));
        let read = read.expecting(nodes.len() * MAX_NAMED * NAMED);
        let values = reply::list(self.perform_one(read).await?)?.into_iter();
        values
            .map(|value| Ok(reply::bytes(value)?.and_then(|bytes| Found::decode(&bytes))))
            .collect()
    }
}
