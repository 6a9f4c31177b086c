//! The fleet in the store: leases of nodes, nodes that an operator drains, and what tells one
//! store from another. It owns who may renew a lease; whether a node is dead, others decide.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use protocol::Lease;
use redis::{Cmd, Value};
use ring::NodeId;

use crate::{
    StoreError,
    call::Call,
    link::{Link, random},
    reply, script,
    server::{self, Server},
};

/// The store's answer to the renewal of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease was there, and goes on.
    Kept,
    /// The lease is new, or had expired.
    Created,
    /// It was another life's of the node, which is over.
    TookOver,
    /// Another life of the node has it: this one gives all up.
    Refused,
}

/// The leases in the store at one reading.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Leases {
    /// Those of nodes that are alive, by name.
    pub good: Vec<Lease>,
    /// Names whose lease cannot be used, and why.
    pub bad: Vec<(String, String)>,
    /// Names without a lease: it has expired, or was ended and the name was not forgotten.
    pub gone: Vec<String>,
}

/// For how long the store keeps who drained which node: coordinators read it when they see that.
const DRAIN_NOTED: Duration = Duration::from_secs(3_600);

/// Where it is kept who asked that.
fn drain_field(name: &str, drains: bool) -> String {
    format!("{}:{name}", if drains { "drain" } else { "undrain" })
}

impl Link {
    /// Makes or renews a node's lease, which then ends after `ttl` (at least 1 ms). `newcomer` is
    /// true until a process has once been granted it: it takes over what a former life left.
    ///
    /// `Created` may come as `Kept` when the answer to a first attempt was lost.
    pub async fn renew(
        &self,
        lease: &Lease,
        ttl: Duration,
        newcomer: bool,
    ) -> Result<Renewal, StoreError> {
        let renew = Call::script(&script::RENEW, vec![self.keys().node(&lease.node)])
            .number(lease.boot)
            .arg(lease.encode())
            .number(ttl.as_millis().max(1))
            .number(u8::from(newcomer));
        let renewal = match reply::text(self.perform_one(renew).await?)?.as_str() {
            "kept" => Renewal::Kept,
            "created" => Renewal::Created,
            "taken" => Renewal::TookOver,
            "refused" => return Ok(Renewal::Refused),
            other => {
                let text = format!("a renewal was answered {other:?}");
                return Err(StoreError::Unexpected(text));
            }
        };
        // Each time, since the set may have been lost, or the name forgotten a moment ago.
        let add = Call::kept("SADD", &self.keys().nodes()).arg(lease.node.as_bytes());
        reply::number::<u64>(self.perform_one(add).await?)?;
        Ok(renewal)
    }

    /// Ends a node's lease and forgets its name, unless another life of it has the lease.
    pub async fn forget(&self, node: &NodeId, boot: u64) -> Result<(), StoreError> {
        let forget = Call::script(&script::FORGET, vec![self.keys().node(node)]).number(boot);
        if reply::number::<u8>(self.perform_one(forget).await?)? == 1 {
            self.forget_name(node).await?;
        }
        Ok(())
    }

    /// Ends a node's lease, unless another life of it has the lease. Its name stays: the node did
    /// not leave.
    pub async fn end_lease(&self, node: &NodeId, boot: u64) -> Result<(), StoreError> {
        let end = Call::script(&script::FORGET, vec![self.keys().node(node)]).number(boot);
        reply::number::<u8>(self.perform_one(end).await?)?;
        Ok(())
    }

    /// Which of these nodes' processes, by name and boot, have their subscription
    /// ([`Link::watch_map_as`]); `None` when the servers do not tell. The kernel of a host closes a
    /// dead process's connections at once, and a server forgets the subscriptions of those.
    ///
    /// # Errors
    /// The store cannot be asked. On a Redis Cluster: one of its masters.
    pub async fn alive(
        &self,
        nodes: &[(NodeId, u64)],
    ) -> Result<Option<BTreeSet<(NodeId, u64)>>, StoreError> {
        let mut alive = BTreeSet::new();
        if nodes.is_empty() {
            return Ok(Some(alive));
        }
        let mut command = redis::cmd("PUBSUB");
        command.arg("NUMSUB");
        for (node, boot) in nodes {
            command.arg(self.keys().alive(node, *boot));
        }
        for answer in self.send_to_all(&command).await? {
            if let Value::ServerError(error) = &answer {
                self.is_unseen(error.code());
                return Ok(None);
            }
            let pairs = match answer {
                Value::Map(pairs) => pairs.into_iter().map(|(_, count)| count).collect(),
                answer => reply::list(answer)?
                    .into_iter()
                    .skip(1)
                    .step_by(2)
                    .collect(),
            };
            let pairs: Vec<Value> = pairs;
            for (node, count) in nodes.iter().zip(pairs) {
                if reply::number::<u64>(count)? > 0 {
                    alive.insert(node.clone());
                }
            }
        }
        Ok(Some(alive))
    }

    /// Forgets the name of a node whose lease is gone for long. Should it still live, its next
    /// renewal brings the name back.
    pub async fn forget_name(&self, name: &str) -> Result<(), StoreError> {
        self.change_set("SREM", &self.keys().nodes(), name).await
    }

    /// The leases of all nodes whose names are known, by name.
    pub async fn leases(&self) -> Result<Leases, StoreError> {
        let names = self.members(&self.keys().nodes()).await?;
        let calls: Vec<Call> = names
            .iter()
            .map(|name| Call::command("GET", &self.keys().node(name)).expecting(512))
            .collect();
        let mut leases = Leases::default();
        for (name, answer) in names.into_iter().zip(self.perform(&calls).await) {
            let value = match answer {
                Ok(value) => reply::bytes(value)?,
                // A key of another type. Anything else concerns all of them.
                Err(StoreError::Refused(error)) if error.contains("WRONGTYPE") => {
                    leases.bad.push((name, error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            match value.as_deref().map(Lease::decode) {
                None => leases.gone.push(name),
                Some(Ok(lease)) if lease.node == name => leases.good.push(lease),
                Some(Ok(lease)) => {
                    let error = format!("it is the lease of {:?}", lease.node);
                    leases.bad.push((name, error));
                }
                Some(Err(error)) => leases.bad.push((name, error.to_string())),
            }
        }
        Ok(leases)
    }

    /// The nodes that an operator drains, by name.
    pub async fn drained(&self) -> Result<Vec<String>, StoreError> {
        self.members(&self.keys().drained()).await
    }

    /// Adds a node to those that are drained, as the administrator `by` asks.
    pub async fn drain(&self, node: &NodeId, by: &str) -> Result<(), StoreError> {
        self.note_drain(node, true, by).await?;
        self.change_set("SADD", &self.keys().drained(), node).await
    }

    /// Takes a name from those that are drained, as the administrator `by` asks.
    pub async fn undrain(&self, name: &str, by: &str) -> Result<(), StoreError> {
        self.note_drain(name, false, by).await?;
        self.change_set("SREM", &self.keys().drained(), name).await
    }

    /// Keeps who asked, before it is done, so that whoever sees it done knows.
    async fn note_drain(&self, name: &str, drains: bool, by: &str) -> Result<(), StoreError> {
        let key = self.keys().drained_by();
        let note = Call::kept("HSET", &key)
            .arg(drain_field(name, drains))
            .arg(by);
        let expire = Call::command("PEXPIRE", &key).number(DRAIN_NOTED.as_millis());
        let answers = self.perform(&[note, expire]).await;
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Who asked last, within an hour, that these names be drained (`true`) or no more: as many as there
    /// are names.
    pub async fn drained_by(
        &self,
        names: &[(&String, bool)],
    ) -> Result<Vec<Option<String>>, StoreError> {
        let read = Call::command("HMGET", &self.keys().drained_by());
        let read = (names.iter()).fold(read, |read, (name, drains)| {
            read.arg(drain_field(name, *drains))
        });
        let values = reply::list(self.perform_one(read).await?)?;
        let by = values.into_iter().map(|value| {
            let by = reply::bytes(value)?;
            Ok(by.map(|by| String::from_utf8_lossy(&by).into_owned()))
        });
        by.collect()
    }

    /// A random text that is lost with the store's content: when it is another one, all that was
    /// ever written may be gone.
    pub async fn incarnation(&self) -> Result<String, StoreError> {
        let key = self.keys().incarnation();
        let new = format!("{:016x}{:016x}", random(), random());
        // A write each time: a store that takes none must not seem to be there.
        let make = Call::kept("SET", &key).arg(new).arg("NX");
        reply::bytes(self.perform_one(make).await?)?;
        reply::text(self.perform_one(Call::command("GET", &key)).await?)
    }

    /// The id of the server's process, or those of all masters of a Redis Cluster: when it is
    /// another one (a restart, a failover), what was written last may be gone. Of a server that
    /// does not tell, each connection counts as one to another process.
    ///
    /// What else the servers say of themselves is [`Link::health`] from then on.
    pub async fn run_id(&self) -> Result<String, StoreError> {
        let mut servers = Vec::new();
        for answer in self.send_to_all(&server::info()).await? {
            match &answer {
                Value::ServerError(error) if server::forbids(error) => {
                    self.not_told(error);
                    return Ok(format!("connection {}", self.counters().connects));
                }
                Value::ServerError(error) => return Err(self.refused(error)),
                _ => servers.push(Server::of(&answer)),
            }
        }
        let cluster = self.connection().await?.is_cluster();
        for server in &servers {
            if let Some(why) = server.too_old() {
                return Err(self.unusable(&why));
            }
            // A cluster's client hears of a new master by the next command for the former one.
            if let Some(why) = server.unfit()
                && (!cluster || server.master.is_some())
            {
                return Err(self.is_unfit(&why).await);
            }
        }
        self.looked(&servers);
        let ids = servers.into_iter().map(|server| server.run_id);
        let Some(mut ids) = ids.collect::<Option<Vec<String>>>() else {
            let text = format!("Redis at {} does not tell its run_id", self.address());
            return Err(StoreError::Unexpected(text));
        };
        if cluster {
            // Masters that cannot be reached are silently left out, and would look like others.
            let masters = self.masters().await?;
            if ids.len() != masters {
                let text = format!(
                    "Redis at {}: {} of {masters} masters answer",
                    self.address(),
                    ids.len()
                );
                return Err(StoreError::Unavailable(text));
            }
        }
        ids.sort_unstable();
        Ok(ids.join(","))
    }

    /// The number of masters that have slots.
    async fn masters(&self) -> Result<usize, StoreError> {
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        let mut pipeline = redis::Pipeline::new();
        pipeline.add_command(command);
        let answer = self.send(&pipeline, None).await?.pop().unwrap_or_default();
        if let Value::ServerError(error) = &answer {
            return Err(self.refused(error));
        }
        let mut masters = HashSet::new();
        for range in reply::list(answer)? {
            // First slot, last slot, master (address, port, id), replicas.
            let master = reply::list(range)?.into_iter().nth(2).unwrap_or_default();
            let id = reply::list(master)?.into_iter().nth(2).unwrap_or_default();
            masters.insert(reply::text(id)?);
        }
        Ok(masters.len())
    }

    async fn members(&self, key: &str) -> Result<Vec<String>, StoreError> {
        let answer = self.perform_one(Call::command("SMEMBERS", key)).await?;
        let names = reply::list(answer)?.into_iter().map(reply::text);
        let mut names = names.collect::<Result<Vec<_>, _>>()?;
        names.sort_unstable();
        Ok(names)
    }

    async fn change_set(&self, command: &str, key: &str, name: &str) -> Result<(), StoreError> {
        let call = Call::kept(command, key).arg(name.as_bytes());
        reply::number::<u64>(self.perform_one(call).await?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_its_boot_where_the_scripts_look_for_it() {
        let lease = Lease {
            node: "n1".into(),
            boot: u64::MAX,
            address: r#"ws://h/"boot":5,"#.into(),
            cores: 1,
            weight: 1,
            ..Lease::default()
        };
        let json = lease.encode();
        let found: Vec<_> = json.match_indices(r#""boot":"#).collect();
        assert_eq!(found.len(), 1, "{json}");
        let after = &json[found[0].0 + found[0].1.len()..];
        assert!(after.starts_with("18446744073709551615,"), "{json}");
    }
}
