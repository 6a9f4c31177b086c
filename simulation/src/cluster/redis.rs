//! The simulated store: what Redis keeps for a cluster and what the scripts of `redis/` do with it,
//! one command at a time. It owns the answers; delays, losses and outages are the network's.

use std::collections::{BTreeMap, BTreeSet};

use presence::Renewal;
use protocol::{Lease, Stored};
use ring::{Epoch, Map, MapVersion, NodeId, Vnode};

use super::plan::{LEADER, LEASE};

/// A request to the store.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Claim {
        vnode: Vnode,
        epoch: Epoch,
        wait_below: Epoch,
    },
    /// The second half of a claim: users that are connected or were last seen since then.
    List {
        vnode: Vnode,
        epoch: Epoch,
        since: u64,
    },
    Release {
        vnode: Vnode,
        epoch: Epoch,
    },
    Read {
        vnode: Vnode,
        user: Box<str>,
    },
    Write {
        vnode: Vnode,
        epoch: Epoch,
        user: Box<str>,
        stored: Stored,
    },
    Renew {
        lease: Box<Lease>,
        newcomer: bool,
    },
    Forget {
        node: String,
        boot: u64,
    },
    EndLease {
        node: String,
        boot: u64,
    },
    ForgetName {
        node: String,
    },
    Map,
    Identity,
    Lead {
        coordinator: usize,
        holding: Option<u64>,
    },
    Resign {
        token: u64,
    },
    Leases,
    WriteMap {
        token: u64,
        after: MapVersion,
        map: Map,
    },
}

/// The store's answer to a request.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// And whether the former owner had let go of the vnode.
    Claimed(bool),
    Held,
    Fenced(Epoch),
    Users(Vec<(Box<str>, Stored)>),
    Done,
    /// The accepted epoch of the vnode, and the user's record.
    Record(Epoch, Option<Stored>),
    Renewal(Renewal),
    Map(Option<Map>),
    Identity(String),
    Led(Option<u64>),
    Leases {
        leases: Vec<Lease>,
        /// Names of nodes whose lease has ended.
        gone: Vec<String>,
        drained: BTreeSet<String>,
        alive: BTreeSet<(NodeId, u64)>,
    },
    /// The store has the map of a newer leader.
    Superseded,
    /// Another map is there than the one it was to follow.
    NotNext,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct VnodeData {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) released: Option<Epoch>,
    /// The vnode's users, each with its record and its score in `seen`.
    pub(crate) users: BTreeMap<Box<str>, (Stored, u64)>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Data {
    run_id: u64,
    incarnation: u64,
    pub(crate) vnodes: Vec<VnodeData>,
    pub(crate) leases: BTreeMap<String, (Lease, u64)>,
    pub(crate) drained: BTreeSet<String>,
    pub(crate) map: Option<(u64, Map)>,
    leader: Option<(usize, u64, u64)>,
    token: u64,
}

#[derive(Default)]
pub(crate) struct Redis {
    pub(crate) data: Data,
    pub(crate) away: bool,
    /// When it last went away, and came back.
    pub(crate) away_since: u64,
    pub(crate) back_at: u64,
    /// Whose connections are open, by node and boot.
    pub(crate) alive: BTreeSet<(NodeId, u64)>,
    /// The longest time that a request or an answer travels, ms.
    pub(crate) delay: u64,
    /// One answer in so many is lost; 0 = none.
    pub(crate) lossy: u64,
    incarnations: u64,
    run_ids: u64,
}

impl Redis {
    pub(crate) fn new(vnodes: usize) -> Self {
        Self {
            data: Data {
                vnodes: vec![VnodeData::default(); vnodes],
                ..Data::default()
            },
            ..Self::default()
        }
    }

    /// Answers nobody from now on.
    pub(crate) fn go_away(&mut self, now: u64) {
        self.away = true;
        self.away_since = now;
    }

    pub(crate) fn come_back(&mut self, now: u64) {
        self.away = false;
        self.back_at = now;
    }

    /// Removes everything; with `restarted` the process is another one, too.
    pub(crate) fn wipe(&mut self, restarted: bool) {
        let run_id = self.data.run_id;
        self.data = Self::new(self.data.vnodes.len()).data;
        self.data.run_id = run_id;
        if restarted {
            self.restart();
        }
    }

    /// Replaces the content with an older copy, after a restart.
    pub(crate) fn restore(&mut self, data: Data) {
        self.data = data;
        self.restart();
    }

    /// Makes the store another process, with the same content.
    pub(crate) fn restart(&mut self) {
        self.run_ids += 1;
        self.data.run_id = self.run_ids;
    }

    pub(crate) fn epoch(&self, vnode: Vnode) -> Epoch {
        self.data.vnodes[vnode.index()].epoch.unwrap_or_default()
    }

    pub(crate) fn stored(&self, vnode: Vnode, user: &str) -> Option<&Stored> {
        let (stored, _) = self.data.vnodes[vnode.index()].users.get(user)?;
        Some(stored)
    }

    pub(crate) fn map(&self) -> Option<&Map> {
        self.data.map.as_ref().map(|(_, map)| map)
    }

    pub(crate) fn execute(&mut self, now: u64, command: Command) -> Answer {
        match command {
            Command::Claim {
                vnode,
                epoch,
                wait_below,
            } => {
                let data = &mut self.data.vnodes[vnode.index()];
                match data.epoch {
                    Some(current) if current > epoch => return Answer::Fenced(current),
                    Some(current)
                        if current < epoch
                            && current < wait_below
                            && data.released != Some(current) =>
                    {
                        return Answer::Held;
                    }
                    _ => {}
                }
                let released = data.epoch.is_some_and(|before| before.next() == epoch)
                    && data.released == data.epoch;
                data.epoch = Some(epoch);
                data.released = None;
                Answer::Claimed(released)
            }
            Command::List {
                vnode,
                epoch,
                since,
            } => {
                let data = &self.data.vnodes[vnode.index()];
                if data.epoch != Some(epoch) {
                    return Answer::Fenced(data.epoch.unwrap_or_default());
                }
                let recent = data.users.iter().filter(|(_, (_, score))| *score >= since);
                Answer::Users(
                    recent
                        .map(|(user, (stored, _))| (user.clone(), stored.clone()))
                        .collect(),
                )
            }
            Command::Release { vnode, epoch } => {
                let data = &mut self.data.vnodes[vnode.index()];
                if let Some(current) = data.epoch
                    && current > epoch
                {
                    return Answer::Fenced(current);
                }
                data.epoch = Some(epoch);
                data.released = Some(epoch);
                Answer::Done
            }
            Command::Read { vnode, user } => {
                let stored = self.stored(vnode, &user).cloned();
                Answer::Record(self.epoch(vnode), stored)
            }
            Command::Write {
                vnode,
                epoch,
                user,
                stored,
            } => self.write(vnode, epoch, user, stored),
            Command::Renew { lease, newcomer } => {
                let renewal = match self.data.leases.get(&lease.node) {
                    Some((held, until)) if *until > now && held.boot != lease.boot && !newcomer => {
                        Renewal::Refused
                    }
                    _ => Renewal::Held,
                };
                if renewal == Renewal::Held {
                    self.data
                        .leases
                        .insert(lease.node.clone(), (*lease, now + LEASE));
                }
                Answer::Renewal(renewal)
            }
            Command::Forget { node, boot } => {
                if self
                    .data
                    .leases
                    .get(&node)
                    .is_some_and(|(l, _)| l.boot == boot)
                {
                    self.data.leases.remove(&node);
                }
                Answer::Done
            }
            Command::EndLease { node, boot } => {
                if let Some((lease, until)) = self.data.leases.get_mut(&node)
                    && lease.boot == boot
                {
                    *until = (*until).min(now);
                }
                Answer::Done
            }
            Command::ForgetName { node } => {
                if self
                    .data
                    .leases
                    .get(&node)
                    .is_some_and(|(_, until)| *until <= now)
                {
                    self.data.leases.remove(&node);
                }
                Answer::Done
            }
            Command::Map => Answer::Map(self.map().cloned()),
            Command::Identity => {
                if self.data.incarnation == 0 {
                    self.incarnations += 1;
                    self.data.incarnation = self.incarnations;
                }
                let Data {
                    incarnation,
                    run_id,
                    ..
                } = self.data;
                Answer::Identity(format!("{incarnation} {run_id}"))
            }
            Command::Lead {
                coordinator,
                holding,
            } => self.lead(now, coordinator, holding),
            Command::Resign { token } => {
                if self.data.leader.is_some_and(|(_, held, _)| held == token) {
                    self.data.leader = None;
                }
                Answer::Done
            }
            Command::Leases => {
                let (alive, gone): (Vec<_>, Vec<_>) = self
                    .data
                    .leases
                    .values()
                    .partition(|(_, until)| *until > now);
                Answer::Leases {
                    leases: alive.into_iter().map(|(lease, _)| lease.clone()).collect(),
                    gone: gone
                        .into_iter()
                        .map(|(lease, _)| lease.node.clone())
                        .collect(),
                    drained: self.data.drained.clone(),
                    alive: self.alive.clone(),
                }
            }
            Command::WriteMap { token, after, map } => {
                if let Some((there, current)) = &self.data.map {
                    if *there > token {
                        return Answer::Superseded;
                    }
                    if current.version() != after {
                        return Answer::NotNext;
                    }
                }
                self.data.map = Some((token, map));
                Answer::Done
            }
        }
    }

    fn write(&mut self, vnode: Vnode, epoch: Epoch, user: Box<str>, stored: Stored) -> Answer {
        let data = &mut self.data.vnodes[vnode.index()];
        if let Some(current) = data.epoch
            && current > epoch
        {
            return Answer::Fenced(current);
        }
        data.epoch = Some(epoch);
        let there = data.users.get(&user);
        if there.is_none_or(|(there, _)| there.record.version <= stored.record.version) {
            let score = if stored.connected {
                u64::MAX
            } else {
                stored.record.last_seen
            };
            data.users.insert(user, (stored, score));
        }
        Answer::Done
    }

    fn lead(&mut self, now: u64, coordinator: usize, holding: Option<u64>) -> Answer {
        let leader = self.data.leader.filter(|(_, _, until)| *until > now);
        let led = match (leader, holding) {
            (Some((id, token, _)), Some(holding)) => {
                (id == coordinator && token == holding).then_some(token)
            }
            (None, Some(_)) | (Some(_), None) => None,
            (None, None) => {
                let above = self.data.map.as_ref().map_or(0, |(token, _)| *token);
                self.data.token = self.data.token.max(above) + 1;
                Some(self.data.token)
            }
        };
        if let Some(token) = led {
            self.data.leader = Some((coordinator, token, now + LEADER));
        }
        Answer::Led(led)
    }
}
