//! Every setting of the coordinator, once, and the rules between them; those that it shares with
//! edges stand in `keys` and `redis`. What each means to a part of the program is made here or
//! there, so that no part reads settings of another.

use std::{net::SocketAddr, time::Duration};

use coordinator::control;
use keys::AuthSettings;
use program::log::LogSettings;
use redis_store::{ClusterSettings, RedisSettings};
use ring::NodeId;
use settings::{List, Rules, SettingsError, Sources, Table};

settings::sections! {
    pub(crate) struct Coordinator in coordinator {
        /// Where clients, load balancers, operators and Prometheus ask.
        listen: SocketAddr = "127.0.0.1:8090",
        /// The name of this coordinator among the others, 1 to 64 of `A-Z a-z 0-9 . _ -`; empty = made from the host's name and the process.
        id: String = "",
        /// Origins whose pages may ask `/route`, like `https://example.com` or `https://*.example.com`; `*` = all, empty = none.
        allowed_origins: List = "*",
        /// Between two looks at the store; a fifth of it while a map is new, and a new map is announced.
        poll: Duration = "500ms" in "50ms"..="10s",
        /// How long a leader leads without renewal; it renews three times as often.
        leader_ttl: Duration = "3s" in "500ms"..="1m",
        /// Connections at a time, as far as the limit of open files allows; more are answered 503.
        max_connections: u64 = "10000" in "1"..="1000000",
        /// Requests for `/map` that wait for the next map at a time; more are answered 503.
        max_waiters: u64 = "1000" in "0"..="1000000",
        /// The longest time that a request for `/map` waits for the next map; then 204.
        map_wait: Duration = "25s" in "0s"..="5m",
        /// Time for a request's head, between two requests of a connection too; later, it is closed.
        header_timeout: Duration = "15s" in "100ms"..="10m",
        /// Time for everything else of a request; later, 503.
        request_timeout: Duration = "10s" in "100ms"..="10m",
        /// After the word to stop: how long it answers on, and `/readyz` says 503, so that load balancers notice; 0s = not at all.
        shutdown_delay: Duration = "5s" in "0s"..="10m",
        /// Time for what is under way after that; what is left then is closed at once.
        shutdown_timeout: Duration = "10s" in "0s"..="10m",
    }

    pub(crate) struct Rebalance in rebalance {
        /// How long the edges must have been the same before the first map is made, and how long an edge must have been there before it gets vnodes.
        formation: Duration = "2s" in "0s"..="10m",
        /// Vnodes that one step moves away from or to an edge, at most.
        max_in_motion: u64 = "64" in "1"..="65536",
        /// Sessions a second that are told to move away from or to an edge; 0 = no limit.
        sessions_per_second: u64 = "5000",
        /// A step that not every edge reports as done ends after this.
        step_timeout: Duration = "30s" in "1s"..="1h",
        /// An edge that came back so often within `return_window` is penalised. One that was told to end, and did, does not count as having come back.
        returns: u64 = "3" in "1"..="100",
        /// The time within which `returns` are counted.
        return_window: Duration = "5m" in "0s"..="1d",
        /// How long a penalised edge has to stay before it gets vnodes; doubles with each return.
        penalty: Duration = "30s" in "0s"..="1d",
        /// The longest penalty, however often an edge comes back.
        penalty_limit: Duration = "10m" in "0s"..="1d",
        /// By how many percent load may change an edge's weight; 0 = not at all.
        load_shift: u64 = "0" in "0"..="50",
        /// Time between two changes of weights by load, of 2 percent each.
        load_interval: Duration = "1m" in "1s"..="1d",
        /// An edge whose connection to Redis has been closed, as the kernel does for a process that is killed, and not made again for so long is taken for dead before its lease ends, if its address refuses connections as well; 0s = never, its lease has to end.
        closed_for: Duration = "300ms" in "0s"..="1m",
    }
}

settings::settings! {
    pub(crate) struct Config {
        coordinator: Coordinator,
        redis: RedisSettings,
        cluster: ClusterSettings,
        rebalance: Rebalance,
        auth: AuthSettings,
        log: LogSettings,
    }
}

/// The coordinator's settings, and how its environment tells them from other programs'.
pub(crate) const TABLE: Table = Table {
    program: "online-status-coordinator",
    subject: "the coordinator",
    sections: Config::SECTIONS,
    // An edge has these too; its other sections are foreign altogether.
    others: &[
        "ONLINE_STATUS_CLUSTER_ASSIGNED_VNODES",
        "ONLINE_STATUS_CLUSTER_WEIGHT",
        "ONLINE_STATUS_CLUSTER_LINK_",
        "ONLINE_STATUS_DEV_",
        "ONLINE_STATUS_TEST_",
    ],
    foreign_sections: true,
};

impl Config {
    /// The configuration from file, environment and flags, each value checked.
    ///
    /// # Errors
    /// Every mistake in it, each with its setting and place.
    pub(crate) fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let config = Self::from_checked(&TABLE.read(sources)?);
        config.check()?;
        Ok(config)
    }

    /// The rules that one setting's syntax does not say.
    fn check(&self) -> Result<(), SettingsError> {
        let Self {
            coordinator: own,
            redis: _,
            cluster,
            rebalance,
            auth,
            log: _,
        } = self;
        let mut rules = Rules::default();
        self.check_bounds(&mut rules);
        rules.rule(
            own.id.is_empty() || NodeId::parse(&own.id).is_ok(),
            format!(
                "coordinator.id = {:?}: allowed are 1 to 64 of A-Z a-z 0-9 . _ -",
                own.id
            ),
        );
        let origins = own.allowed_origins.0.iter();
        let origins = origins.filter(|origin| *origin != "*");
        rules.origins("coordinator.allowed_origins", origins);
        cluster.check(&mut rules);
        rules.rule(
            own.poll * 3 <= cluster.lease_ttl,
            "coordinator.poll must be at most a third of cluster.lease_ttl",
        );
        // Edges renew every third of the TTL, and after a lost store not all at once.
        rules.rule(
            rebalance.formation * 3 >= cluster.lease_ttl,
            "rebalance.formation must be at least a third of cluster.lease_ttl",
        );
        rules.rule(
            rebalance.closed_for.is_zero() || rebalance.closed_for >= Duration::from_millis(200),
            "rebalance.closed_for must be 0s, or at least 200ms: an edge that lost its connection \
             comes back within that",
        );
        auth.check(&mut rules);
        rules.finish()
    }

    /// What is wrong with the address of Redis, with the files that the settings name, and with the
    /// keys in them.
    pub(crate) fn check_files(&self) -> Result<(), SettingsError> {
        let mut rules = Rules::default();
        self.redis.check_files(&mut rules);
        self.auth.check_files(&mut rules);
        rules.finish()
    }

    /// The settings that the control decides by.
    pub(crate) fn control(&self) -> control::Options {
        let ms = |duration: Duration| duration.as_millis() as u64;
        let rebalance = &self.rebalance;
        control::Options {
            vnodes: self.cluster.count().expect("it was checked"),
            lease_ttl: ms(self.cluster.lease_ttl),
            formation: ms(rebalance.formation),
            max_in_motion: rebalance.max_in_motion as usize,
            sessions_per_second: rebalance.sessions_per_second,
            step_timeout: ms(rebalance.step_timeout),
            returns: rebalance.returns as usize,
            return_window: ms(rebalance.return_window),
            penalty: ms(rebalance.penalty),
            penalty_limit: ms(rebalance.penalty_limit),
            load_shift: rebalance.load_shift as u32,
            load_interval: ms(rebalance.load_interval),
            closed_for: ms(rebalance.closed_for),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&str, &str)]) -> Result<Config, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            flags: flags.iter().map(owned).collect(),
            ..Sources::default()
        };
        Config::load(&sources).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_good_and_the_reference_page_is_current() {
        load(&[]).expect("defaults");
        assert!(TABLE.default_file().parse::<toml::Table>().is_ok());
        let page = include_str!("../../docs/coordinator-configuration.md");
        assert!(
            page == TABLE.reference(),
            "run: online-status-coordinator config doc > docs/coordinator-configuration.md"
        );
    }

    #[test]
    fn rules_between_settings_are_named() {
        let error = load(&[
            ("cluster-lease-ttl", "1s"),
            ("rebalance-formation", "100ms"),
            (
                "coordinator-allowed-origins",
                "*,https://a.example,example.com",
            ),
        ])
        .expect_err("three broken");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        assert!(lines[0].contains("\"example.com\": it is no origin"));
        assert!(lines[1].contains("a third of cluster.lease_ttl"));
        assert!(lines[2].starts_with("rebalance.formation must be at least a third"));
    }

    #[test]
    fn what_an_edge_refuses_is_refused_here_too() {
        for (flag, value, name) in [
            ("auth-leeway", "1h", "auth.leeway"),
            ("cluster-lease-ttl", "2m", "cluster.lease_ttl"),
            ("redis-connect-timeout", "5ms", "redis.connect_timeout"),
            (
                "coordinator-allowed-origins",
                "https://a.example/page",
                "coordinator.allowed_origins",
            ),
        ] {
            let error = load(&[(flag, value)]).expect_err(value);
            assert!(error.starts_with(name), "{error}");
        }
        let redis = ("redis-url", "redis://redis.example");
        let secret = ("auth-secret", "a secret of 32 bytes and some more");
        for (flag, value, name) in [
            ("redis-url", "", "redis.url (REDIS_URL) is not set"),
            ("redis-url", "redis.example", "redis.url (REDIS_URL)"),
            ("redis-ca-file", "/nothing/there", "redis.ca_file"),
            ("auth-jwks-file", "/nothing/there", "auth.jwks_file"),
            ("auth-jwks-url", "ftp://example.com/", "auth.jwks_url"),
        ] {
            let config = load(&[redis, secret, (flag, value)]).expect("the syntax is good");
            let error = config.check_files().expect_err(value).to_string();
            assert!(error.starts_with(name), "{error}");
        }
        let config = load(&[redis]).expect("defaults");
        config.check_files().expect("it names no file");
    }

    #[test]
    fn the_variables_of_an_edge_are_ignored_and_its_watch_policy_holds_here_too() {
        let environment = [
            ("ONLINE_STATUS_PRESENCE_GRACE", "3s"),
            ("ONLINE_STATUS_SERVER_LISTEN", "0.0.0.0:8080"),
            ("ONLINE_STATUS_PRESENCE_WATCH_POLICY", "claim"),
            ("NODE_ID", "n1"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let sources = Sources {
            environment: environment.map(owned).into(),
            ..Sources::default()
        };
        let config = Config::load(&sources).expect("all good");
        assert!(config.auth.options().by_claim);
        let sources = Sources {
            environment: [owned(("ONLINE_STATUS_REBALANCE_PENALTI", "1s"))].into(),
            ..Sources::default()
        };
        let error = Config::load(&sources).expect_err("a typo").to_string();
        assert!(
            error.ends_with("(did you mean ONLINE_STATUS_REBALANCE_PENALTY?)"),
            "{error}"
        );
    }
}
