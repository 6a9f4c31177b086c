//! What the link knows of its servers: versions, memory, and whether keys are safe there. It owns
//! what is said once at each change; who says it, and when it is asked, others decide.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::server::Server;

/// The most notices that wait to be logged; older ones are dropped.
const NOTICES: usize = 16;

/// What the store's servers say of themselves, as of the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The version, of several servers the lowest text; `None` when none tells it.
    pub version: Option<String>,
    /// How many servers may take keys away when their memory is full.
    pub evicting: usize,
    /// The policy of one of those, else of any; `None` when none tells it.
    pub policy: Option<String>,
    /// What the fullest server uses of its memory, bytes; `None` when none tells it.
    pub used: Option<u64>,
    /// How much that server may use, bytes; 0 = as much as there is.
    pub limit: Option<u64>,
    /// Records were refused since a server's memory is full, and none was taken since.
    pub is_full: bool,
    /// The reason for which servers refuse `INFO`; `None` when they answer it.
    pub silent: Option<String>,
    /// Why the server that was met last cannot be used: too old, a replica, still loading.
    pub unusable: Option<String>,
    /// Masters of a Redis Cluster that do not answer, as `host:port`.
    pub masters_down: Vec<String>,
}

/// The health, and what there is to say about it.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) health: Health,
    notices: Vec<String>,
    /// Why connections of nodes cannot be seen, as it was said last.
    unseen: Option<String>,
    /// Masters that do not answer, and how many connections are waiting for each.
    down: BTreeMap<String, usize>,
}

impl Watched {
    /// The health by now.
    pub(crate) fn health(&self) -> Health {
        Health {
            masters_down: self.down.keys().cloned().collect(),
            ..self.health.clone()
        }
    }

    fn master_down(&mut self, address: &str, why: &str) {
        let waiting = self.down.entry(address.to_owned()).or_default();
        *waiting += 1;
        if *waiting == 1 {
            self.say(format!(
                "redis: the master at {address} does not answer ({why}): records of its \
                 slots wait at their owners until it or a replica takes them; the other masters are \
                 asked as before"
            ));
        }
    }

    fn master_not_down(&mut self, address: &str, answers: bool) {
        let Some(waiting) = self.down.get_mut(address) else {
            return;
        };
        *waiting -= 1;
        if *waiting == 0 {
            self.down.remove(address);
            self.say(match answers {
                true => format!("redis: the master at {address} answers again"),
                false => format!("redis: the master at {address} is not asked any more"),
            });
        }
    }

    /// Takes what the servers at `address` have said.
    pub(crate) fn looked(&mut self, address: &str, servers: &[Server]) {
        let before = std::mem::take(&mut self.health);
        let evicts = |server: &&Server| server.evicts().is_some();
        let fullest = servers.iter().max_by_key(|server| {
            let used = server.used.unwrap_or(0);
            match server.limit.unwrap_or(0) {
                0 => (0, used),
                limit => (1 + u128::from(used) * 1_000_000 / u128::from(limit), used),
            }
        });
        self.health = Health {
            version: servers.iter().filter_map(|s| s.version.clone()).min(),
            evicting: servers.iter().filter(evicts).count(),
            policy: (servers.iter().find_map(Server::evicts))
                .or_else(|| servers.iter().find_map(|server| server.policy.as_deref()))
                .map(str::to_owned),
            used: fullest.and_then(|server| server.used),
            limit: fullest.and_then(|server| server.limit),
            is_full: before.is_full,
            ..Health::default()
        };
        let evicting = |health: &Health| health.policy.clone().filter(|_| health.evicting > 0);
        match (evicting(&before), evicting(&self.health)) {
            (before, Some(policy)) if before.as_ref() != Some(&policy) => self.say(format!(
                "redis: {address} takes keys away when its memory is full \
                 (maxmemory-policy is {policy}): leases and records would be lost; set \
                 maxmemory-policy noeviction"
            )),
            (Some(_), None) => self.say(format!(
                "redis: {address} keeps all keys now (maxmemory-policy is noeviction)"
            )),
            _ => {}
        }
    }

    /// The servers do not tell anything of themselves.
    pub(crate) fn refused(&mut self, address: &str, why: String) {
        if self.health.silent.as_ref() != Some(&why) {
            self.say(format!(
                "redis: {address} tells neither its version nor its maxmemory-policy ({why}): see \
                 that it is Redis 7.0 or newer with noeviction; after each new connection all is \
                 written again"
            ));
            self.health = Health {
                silent: Some(why),
                is_full: self.health.is_full,
                ..Health::default()
            };
        }
    }

    /// The server cannot be used, or there is another one.
    pub(crate) fn unusable(&mut self, why: Option<&str>) {
        self.health.unusable = why.map(ToOwned::to_owned);
    }

    /// Records were refused since the memory is full, or taken.
    pub(crate) fn full(&mut self, address: &str, is_full: bool) {
        if std::mem::replace(&mut self.health.is_full, is_full) == is_full {
            return;
        }
        self.say(match (is_full, self.health.limit) {
            (true, Some(limit @ 1..)) => format!(
                "error: Redis at {address} is full (OOM, maxmemory is {limit} bytes): records wait \
                 at their owners until there is room; leases and the map are written all the same"
            ),
            (true, _) => format!(
                "error: Redis at {address} is full (OOM): records wait at their owners until there \
                 is room; leases and the map are written all the same"
            ),
            (false, _) => format!("redis: {address} has room again and takes records"),
        });
    }

    /// The servers do not let a node show that it lives, or do not tell who does.
    pub(crate) fn unseen(&mut self, address: &str, why: String) {
        if self.unseen.as_ref() != Some(&why) {
            self.say(format!(
                "redis: {address} does not tell which edges have a connection ({why}): a crash is \
                 noticed when the lease ends; redis/README.md has the permissions"
            ));
            self.unseen = Some(why);
        }
    }

    /// What there was to say since the last call.
    pub(crate) fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    fn say(&mut self, notice: String) {
        // Nobody takes them: the newest say how it is.
        if self.notices.len() == NOTICES {
            self.notices.remove(0);
        }
        self.notices.push(notice);
    }
}

/// A connection to a master that is gone, until it is there again or nobody waits for it any more.
pub(crate) struct Away {
    watched: Arc<Mutex<Watched>>,
    address: String,
    answers: bool,
}

impl Away {
    pub(crate) fn new(watched: &Arc<Mutex<Watched>>, address: String, why: &str) -> Self {
        let mut noted = watched.lock().unwrap_or_else(PoisonError::into_inner);
        noted.master_down(&address, why);
        Self {
            watched: Arc::clone(watched),
            address,
            answers: false,
        }
    }

    pub(crate) fn answers_again(mut self) {
        self.answers = true;
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.master_not_down(&self.address, self.answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(policy: &str, used: u64, limit: u64) -> Server {
        Server {
            policy: Some(policy.into()),
            used: Some(used),
            limit: Some(limit),
            ..Server::default()
        }
    }

    #[test]
    fn a_policy_that_evicts_is_said_at_each_change_and_no_oftener() {
        let mut watched = Watched::default();
        let mut said = |servers: &[Server]| {
            watched.looked("h:1", servers);
            watched.take_notices().join("\n")
        };
        assert_eq!(said(&[server("noeviction", 1, 0)]), "");
        let lru = [server("noeviction", 1, 0), server("allkeys-lru", 1, 0)];
        assert!(said(&lru).contains("allkeys-lru"));
        assert_eq!(said(&lru), "");
        assert!(said(&[server("volatile-ttl", 1, 0)]).contains("volatile-ttl"));
        assert!(said(&[server("noeviction", 1, 0)]).contains("keeps all keys"));
        assert_eq!(said(&[server("noeviction", 1, 0)]), "");
    }

    #[test]
    fn the_fullest_server_counts_by_its_share() {
        let mut watched = Watched::default();
        let servers = [
            server("noeviction", 90, 100),
            server("noeviction", 500, 1_000),
        ];
        watched.looked("h:1", &servers);
        assert_eq!(watched.health.used, Some(90));
        assert_eq!(watched.health.limit, Some(100));
        watched.looked(
            "h:1",
            &[server("noeviction", 90, 0), server("noeviction", 1, 1_000)],
        );
        assert_eq!(watched.health.limit, Some(1_000));
    }

    #[test]
    fn a_master_that_does_not_answer_is_said_once_however_many_wait_for_it() {
        let mut watched = Watched::default();
        watched.master_down("h:1", "timed out");
        watched.master_down("h:1", "refused");
        watched.master_down("h:2", "refused");
        assert_eq!(watched.health().masters_down, ["h:1", "h:2"]);
        let said = watched.take_notices();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("master at h:1") && said[0].contains("(timed out)"));
        watched.master_not_down("h:1", false);
        assert_eq!(watched.take_notices().len(), 0, "one still waits for it");
        watched.looked("h:1", &[server("noeviction", 1, 0)]);
        watched.master_not_down("h:1", true);
        watched.master_not_down("h:2", false);
        watched.master_not_down("h:3", true);
        let said = watched.take_notices().join("\n");
        assert!(said.contains("h:1 answers again"), "{said}");
        assert!(said.contains("h:2 is not asked any more"), "{said}");
        assert!(watched.health().masters_down.is_empty());
    }

    #[test]
    fn full_and_silent_servers_are_said_once() {
        let mut watched = Watched::default();
        for _ in 0..3 {
            watched.full("h:1", true);
            watched.refused("h:1", "NOPERM".into());
        }
        let said = watched.take_notices();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(watched.health.is_full);
        watched.full("h:1", false);
        watched.looked("h:1", &[Server::default()]);
        assert_eq!(watched.take_notices().len(), 1);
        assert_eq!(watched.health.silent, None);
    }
}
