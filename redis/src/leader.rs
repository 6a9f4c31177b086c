//! The leader among the coordinators: a key with a TTL, and a token that grows with each leader.
//! It owns how a token is made; what a token is good for, the map's script decides.

use std::time::Duration;

use redis::Value;

use crate::{StoreError, call::Call, link::Link, reply, script};

/// The coordinator that leads, with its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The leading coordinator's id.
    pub id: String,
    /// The leader's fencing token: higher than every former leader's.
    pub token: u64,
}

impl Link {
    /// Leads for the next `ttl`, with the token that `id` is `holding`, or with a new one when it
    /// has none; gives the token, or `None` when it does not lead (now). Then it asks again
    /// without a token.
    ///
    /// Whose map is [`crate::MapWrite::Superseded`] while it leads has a token that came too late:
    /// it resigns and asks for a new one.
    pub async fn lead(
        &self,
        id: &str,
        ttl: Duration,
        holding: Option<u64>,
    ) -> Result<Option<u64>, StoreError> {
        let ttl = ttl.as_millis().max(1);
        let key = self.keys().leader();
        if let Some(token) = holding {
            let prolong = Call::script(&script::LEAD, vec![key])
                .arg(format!("{id} {token}"))
                .number(ttl);
            let led = reply::number::<u8>(self.perform_one(prolong).await?)? == 1;
            return Ok(led.then_some(token));
        }
        if self.leader().await?.is_some() {
            return Ok(None);
        }
        let token = self.new_token().await?;
        let lead = Call::kept("SET", &key)
            .arg(format!("{id} {token}"))
            .arg("NX")
            .arg("PX")
            .number(ttl);
        match self.perform_one(lead).await? {
            Value::Nil => Ok(None),
            Value::Okay => Ok(Some(token)),
            other => Err(reply::unexpected("OK", &other)),
        }
    }

    /// Ends a leadership, if it is still that one.
    pub async fn resign(&self, id: &str, token: u64) -> Result<(), StoreError> {
        let resign =
            Call::script(&script::RESIGN, vec![self.keys().leader()]).arg(format!("{id} {token}"));
        reply::number::<u8>(self.perform_one(resign).await?)?;
        Ok(())
    }

    /// The leader by the store's word; `None` when nobody leads.
    pub async fn leader(&self) -> Result<Option<Leader>, StoreError> {
        let answer = self
            .perform_one(Call::command("GET", &self.keys().leader()))
            .await?;
        let Some(value) = reply::bytes(answer)? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&value);
        let leader = text.rsplit_once(' ').and_then(|(id, token)| {
            Some(Leader {
                id: id.to_owned(),
                token: token.parse().ok()?,
            })
        });
        if let Some(leader) = &leader {
            self.highest_token(leader.token);
        }
        leader.map(Some).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            StoreError::Unexpected(format!("{shown:?} is not a leader and its token"))
        })
    }

    /// A token above all that were given, as far as anybody knows: the counter may have been lost,
    /// with the map or without it, and this link may have met a higher one before that.
    async fn new_token(&self) -> Result<u64, StoreError> {
        let key = self.keys().leader_token();
        let mut token: u64 = reply::number(self.perform_one(Call::kept("INCR", &key)).await?)?;
        let highest = self.map_token().await?.max(self.highest_token(0));
        if token <= highest {
            let raise = Call::kept("INCRBY", &key).number(highest - token + 1);
            token = reply::number(self.perform_one(raise).await?)?;
        }
        self.highest_token(token);
        Ok(token)
    }
}
