//! The store's keys and the topic's partitions. A vnode's keys share the hash tag `{v<N>}`, so
//! that they lie on one slot of a Redis Cluster and one script may touch them all.

use ring::Vnode;

/// The names of all keys in the store, under one configurable prefix (default `os:`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: Box<str>,
}

/// A prefix with a brace would move the hash tag away from the vnode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key prefix {0:?} must not have braces")]
pub struct PrefixError(Box<str>);

impl Default for Keys {
    fn default() -> Self {
        Self {
            prefix: "os:".into(),
        }
    }
}

impl Keys {
    /// Keys that begin with `prefix`, which must not have `{` or `}`.
    pub fn new(prefix: &str) -> Result<Self, PrefixError> {
        if prefix.contains(['{', '}']) {
            return Err(PrefixError(prefix.into()));
        }
        Ok(Self {
            prefix: prefix.into(),
        })
    }

    fn of_vnode(&self, vnode: Vnode, what: &str) -> String {
        format!("{}{{v{}}}:{what}", self.prefix, vnode.get())
    }

    fn of_fleet(&self, what: &str) -> String {
        format!("{}{what}", self.prefix)
    }

    /// Hash: a vnode's users, each with its encoded [`crate::Stored`].
    #[must_use]
    pub fn users(&self, vnode: Vnode) -> String {
        self.of_vnode(vnode, "users")
    }

    /// Sorted set: user → last seen, ms since 1970; `+inf` while the user is connected.
    #[must_use]
    pub fn seen(&self, vnode: Vnode) -> String {
        self.of_vnode(vnode, "seen")
    }

    /// String: the newest epoch that the store accepted for the vnode, its fencing token.
    #[must_use]
    pub fn epoch(&self, vnode: Vnode) -> String {
        self.of_vnode(vnode, "epoch")
    }

    /// String: the epoch whose owner has written everything and let go of the vnode.
    #[must_use]
    pub fn released(&self, vnode: Vnode) -> String {
        self.of_vnode(vnode, "released")
    }

    /// String with a TTL: the [`crate::Lease`] of the node `id`.
    #[must_use]
    pub fn node(&self, id: &str) -> String {
        format!("{}node:{id}", self.prefix)
    }

    /// Set: the ids of all nodes that may have a lease.
    #[must_use]
    pub fn nodes(&self) -> String {
        self.of_fleet("nodes")
    }

    /// String: the current map, as [`ring::Map::encode`] writes it.
    #[must_use]
    pub fn map(&self) -> String {
        self.of_fleet("map")
    }

    /// String: the version of the current map, to poll without its bytes.
    #[must_use]
    pub fn map_version(&self) -> String {
        self.of_fleet("map:version")
    }

    /// Channel: new versions of the map are announced here.
    #[must_use]
    pub fn map_changed(&self) -> String {
        self.of_fleet("map:changed")
    }

    /// Channel: nothing is said here. The process `boot` of the node `id` subscribes to it, so that
    /// the store tells by its subscribers whether that process still has its connection.
    #[must_use]
    pub fn alive(&self, id: &str, boot: u64) -> String {
        format!("{}alive:{id}:{boot}", self.prefix)
    }

    /// String with a TTL: the leading coordinator and its fencing token.
    #[must_use]
    pub fn leader(&self) -> String {
        self.of_fleet("leader")
    }

    /// String: how often there was a new leader; the last one's fencing token.
    #[must_use]
    pub fn leader_token(&self) -> String {
        self.of_fleet("leader:token")
    }

    /// Set: the ids of the nodes that an operator drains.
    #[must_use]
    pub fn drained(&self) -> String {
        self.of_fleet("drained")
    }

    /// Hash with a TTL: `drain:<node>` or `undrain:<node>` → the administrator who asked that last.
    #[must_use]
    pub fn drained_by(&self) -> String {
        self.of_fleet("drained:by")
    }

    /// Hash: field of a [`crate::policy::Subject`] → [`crate::policy::Entry`].
    #[must_use]
    pub fn policy(&self) -> String {
        self.of_fleet("{policy}:entries")
    }

    /// Sorted set: field of the policy → the version that changed it last.
    #[must_use]
    pub fn policy_changes(&self) -> String {
        self.of_fleet("{policy}:changes")
    }

    /// List: fields of the policy that were taken away, newest first.
    #[must_use]
    pub fn policy_taken_away(&self) -> String {
        self.of_fleet("{policy}:taken-away")
    }

    /// Hash: the policy's `version`, `floor`, the version from which on changes are complete, and a random
    /// `id` that is lost with the store's content.
    #[must_use]
    pub fn policy_state(&self) -> String {
        self.of_fleet("{policy}:state")
    }

    /// Set: fields of the policy that are traces, to count them.
    #[must_use]
    pub fn policy_traced(&self) -> String {
        self.of_fleet("{policy}:traced")
    }

    /// List with a TTL: the steps of a followed user, [`crate::TraceStep`] as JSON, oldest first of each
    /// node.
    #[must_use]
    pub fn trace(&self, user: &str) -> String {
        format!("{}trace:{user}", self.prefix)
    }

    /// Hash with a TTL: node → its answer to the [`crate::Survey`] of that name, [`crate::survey::Found`] as
    /// JSON.
    #[must_use]
    pub fn survey(&self, id: &str) -> String {
        format!("{}survey:{id}", self.prefix)
    }

    /// String: a random id that is lost with the store's content.
    #[must_use]
    pub fn incarnation(&self) -> String {
        self.of_fleet("incarnation")
    }
}

/// The topic's partition of a vnode: `vnode × partitions / vnodes`, so that a vnode's events
/// stay in order and neighbours share a partition.
///
/// # Panics
/// When `partitions` is not positive or `vnode` is not below `vnodes`.
#[must_use]
pub fn partition(vnode: Vnode, partitions: i32, vnodes: u32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    assert!(
        u32::from(vnode.get()) < vnodes,
        "the vnode belongs to the cluster"
    );
    let partition = i64::from(vnode.get()) * i64::from(partitions) / i64::from(vnodes);
    i32::try_from(partition).expect("below `partitions`, since the vnode is below `vnodes`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_form_and_the_vnode_as_the_only_hash_tag() {
        let keys = Keys::default();
        assert_eq!(keys.users(Vnode::new(12)), "os:{v12}:users");
        assert_eq!(keys.seen(Vnode::new(0)), "os:{v0}:seen");
        assert_eq!(keys.epoch(Vnode::new(4095)), "os:{v4095}:epoch");
        assert_eq!(keys.node("n1"), "os:node:n1");
        assert_eq!(keys.map_version(), "os:map:version");
        let custom = Keys::new("eu:").expect("a good prefix");
        assert_eq!(custom.leader(), "eu:leader");
        assert!(Keys::new("{eu}:").is_err());
    }

    #[test]
    fn partitions_are_even_ordered_runs_of_vnodes() {
        let all: Vec<i32> = (0..4096)
            .map(|v| partition(Vnode::new(v), 12, 4096))
            .collect();
        assert!(all.is_sorted());
        for p in 0..12 {
            let size = all.iter().filter(|q| **q == p).count();
            assert!((341..=342).contains(&size));
        }
        assert_eq!(
            partition(Vnode::new(u16::MAX), i32::MAX, 65_536),
            2_147_450_879
        );
    }
}
