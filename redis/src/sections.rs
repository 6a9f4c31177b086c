//! The settings that all programs of a cluster share: the section `redis`, how they meet, and of
//! the section `cluster` what they must agree in. It owns their meaning and their bounds.

use std::{path::PathBuf, time::Duration};

use ring::{VnodeCount, VnodeCountError};
use settings::{Rules, Secret};

use crate::{Options, options::Target};

settings::sections! {
    pub struct RedisSettings in redis {
        /// Where the cluster meets: `redis://[user[:password]@]host[:port][/database]`, or
        /// `rediss://` for TLS; several nodes of a Redis Cluster separated by commas; with Sentinels
        /// `redis+sentinel://[user[:password]@]host[:port],host[:port]/name[/database]`, or
        /// `rediss+sentinel://`.
        #[env("REDIS_URL")]
        url: Secret = "",
        /// The text that every key in Redis begins with, the same everywhere.
        prefix: String = "os:",
        /// The certificate authorities to trust with `rediss://`, in PEM; empty = the system's.
        ca_file: Option<PathBuf> = "",
        /// How the Sentinels know the program; empty = as the server does, or not at all.
        sentinel_username: String = "",
        /// The password that the Sentinels ask for; empty = the server's, or none.
        sentinel_password: Secret = "",
        /// How long connecting to Redis may take; then the next attempt follows.
        connect_timeout: Duration = "1s" in "10ms"..="1m",
        /// How long an answer of Redis may take; then Redis counts as away.
        response_timeout: Duration = "2s" in "10ms"..="1m",
    }

    pub struct ClusterSettings in cluster {
        /// How many vnodes there are, a power of two, for the cluster's life.
        vnodes: u64 = "4096",
        /// How long an edge counts as alive without renewing its lease; the same everywhere.
        lease_ttl: Duration = "5s" in "1s"..="1m",
    }
}

impl RedisSettings {
    /// The options by which the store is reached.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            url: self.url.expose().to_owned(),
            sentinel_username: self.sentinel_username.clone(),
            sentinel_password: self.sentinel_password.expose().to_owned(),
            prefix: self.prefix.clone(),
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            ca_file: self.ca_file.clone(),
        }
    }

    /// What is wrong with the address and the file, as far as that shows without a connection.
    pub fn check_files(&self, rules: &mut Rules) {
        rules.good(Target::try_from(self.options()));
    }
}

impl ClusterSettings {
    /// How many vnodes the cluster has.
    ///
    /// # Errors
    /// When it is no allowed number of them.
    pub fn count(&self) -> Result<VnodeCount, VnodeCountError> {
        VnodeCount::new(usize::try_from(self.vnodes).unwrap_or(usize::MAX))
    }

    /// The rules that one setting's syntax does not say.
    pub fn check(&self, rules: &mut Rules) {
        if let Err(error) = self.count() {
            rules.rule(false, format!("cluster.vnodes: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use settings::{Kind, Section};

    use super::*;

    #[test]
    fn the_timeouts_of_the_table_have_the_bounds_of_the_options() {
        let timeouts = RedisSettings::SETTINGS
            .iter()
            .filter(|setting| setting.key.ends_with("_timeout"));
        let ms = |text| Duration::parse(text).expect("a duration").as_millis() as u64;
        let bounds =
            timeouts.map(|setting| setting.bounds.map(|(least, most)| ms(least)..=ms(most)));
        assert_eq!(
            bounds.collect::<Vec<_>>(),
            vec![Some(crate::options::TIMEOUT); 2]
        );
    }
}
