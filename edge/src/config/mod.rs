//! The configuration: one table of settings, read from a TOML file, the environment and flags
//! (a flag wins over the environment, that over the file, that over the default) and checked as a
//! whole. It owns precedence and the rules between settings; all errors are shown at once.

mod table;

use settings::Table;
pub(crate) use settings::{Secret, SettingsError, Sources};
pub(crate) use token::DEVELOPMENT_SECRET;

pub(crate) use self::table::Config;

/// The settings, and whose they are.
pub(crate) const TABLE: Table = Table {
    program: "online-status-edge",
    subject: "the edge",
    settings: table::SETTINGS,
    // The names of the coordinator, and of the scripts and tests around the edge.
    others: &[
        "ONLINE_STATUS_COORDINATOR_",
        "ONLINE_STATUS_REBALANCE_",
        "ONLINE_STATUS_DEV_",
        "ONLINE_STATUS_TEST_",
    ],
    foreign_sections: false,
};

impl Config {
    /// Reads and checks everything.
    pub(crate) fn load(sources: &Sources<'_>) -> Result<Self, SettingsError> {
        let config = Self::from_checked(&TABLE.read(sources)?);
        let errors = config.broken_rules();
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(SettingsError(errors))
        }
    }

    /// What tokens are checked by.
    pub(crate) fn token_options(&self) -> token::Options {
        let auth = &self.auth;
        token::Options {
            secret: auth.secret.expose().to_owned(),
            algorithms: auth.algorithms.0.clone(),
            public_key: auth.public_key.clone(),
            jwks_file: auth.jwks_file.clone(),
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway: auth.leeway,
            by_claim: self.presence.watch_policy == "claim",
        }
    }

    /// The rules that one setting's syntax does not say.
    fn broken_rules(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut rule = |kept: bool, error: String| {
            if !kept {
                errors.push(error);
            }
        };
        let id = &self.node.id;
        rule(
            ring::NodeId::parse(id).is_ok(),
            format!("node.id = {id:?}: allowed are 1 to 64 of A-Z a-z 0-9 . _ -"),
        );
        let cores = self.server.cores;
        rule(
            cores <= 64,
            format!("server.cores = {cores}: allowed are 0 to 64"),
        );
        let range = |name, value: u64, least: u64, most: u64| {
            let error = format!("{name} = {value}: allowed are {least} to {most}");
            ((least..=most).contains(&value), error)
        };
        let max = u64::from(u32::MAX >> 12);
        for (kept, error) in [
            range("server.drain_rate", self.server.drain_rate, 1, 10_000_000),
            range("presence.max_devices", self.presence.max_devices, 1, 10_000),
            range(
                "presence.max_watches",
                self.presence.max_watches,
                1,
                1_000_000,
            ),
            range("presence.message_rate", self.presence.message_rate, 1, max),
            range(
                "presence.message_burst",
                self.presence.message_burst,
                1,
                max,
            ),
        ] {
            rule(kept, error);
        }
        let duration = |name, value: std::time::Duration, least: u64, most: u64| {
            let ms = value.as_millis() as u64;
            let error = format!("{name} = {ms}ms: allowed are {least}ms to {most}ms");
            ((least..=most).contains(&ms), error)
        };
        const DAY: u64 = 86_400_000;
        for (kept, error) in [
            duration(
                "presence.heartbeat",
                self.presence.heartbeat,
                1_000,
                3_600_000,
            ),
            duration(
                "presence.heartbeat_timeout",
                self.presence.heartbeat_timeout,
                100,
                3_600_000,
            ),
            duration("presence.grace", self.presence.grace, 0, DAY),
            duration(
                "presence.clean_close_grace",
                self.presence.clean_close_grace,
                0,
                DAY,
            ),
            duration(
                "presence.store_patience",
                self.presence.store_patience,
                100,
                60_000,
            ),
            duration(
                "server.upgrade_timeout",
                self.server.upgrade_timeout,
                100,
                600_000,
            ),
            duration(
                "server.auth_timeout",
                self.server.auth_timeout,
                100,
                600_000,
            ),
            duration("store.retention", self.store.retention, 1_000, 3_650 * DAY),
        ] {
            rule(kept, error);
        }
        for (name, bytes, least, most) in [
            ("server.max_header", self.server.max_header.0, 512, 1 << 20),
            (
                "server.max_message",
                self.server.max_message.0,
                1 << 10,
                1 << 24,
            ),
            ("presence.outbox", self.presence.outbox.0, 4 << 10, 1 << 30),
        ] {
            let error = format!("{name} = {bytes}B: allowed are {least}B to {most}B");
            rule((least..=most).contains(&bytes), error);
        }
        let policy = &self.presence.watch_policy;
        rule(
            ["open", "claim"].contains(&policy.as_str()),
            format!("presence.watch_policy = {policy:?}: allowed are open and claim"),
        );
        if let Err(error) = ring::VnodeCount::new(self.cluster.vnodes as usize) {
            rule(false, format!("cluster.vnodes: {error}"));
        }
        rule(
            self.tls.certificate.as_os_str().is_empty() == self.tls.key.as_os_str().is_empty(),
            "tls.certificate and tls.key: both or none must be given".into(),
        );
        let secret = self.auth.secret.expose().len();
        rule(
            secret == 0 || secret >= 32,
            format!("auth.secret (JWT_SECRET) has {secret} bytes: at least 32 are needed"),
        );
        errors
    }

    /// The bound within which a vanished client is offline for its watchers, ms (invariant I6).
    pub(crate) fn ghost_bound(&self) -> u64 {
        let presence = &self.presence;
        let sum = presence.heartbeat + presence.heartbeat_timeout + presence.grace;
        // Each of the two timers is up to a slot (100 ms) late, and so is the tick.
        sum.as_millis() as u64 + 400
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, SettingsError> {
        let owned = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        Config::load(&Sources {
            file: None,
            environment: owned(environment),
            flags: owned(flags),
        })
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let directory = std::env::temp_dir().join(format!("online-status-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a writable temp dir");
        let file = directory.join("edge.toml");
        std::fs::write(
            &file,
            "[presence]\ngrace = \"3s\"\nheartbeat = \"3s\"\nmax_watches = 3\n",
        )
        .expect("a writable temp dir");
        let config = Config::load(&Sources {
            file: Some(&file),
            environment: [
                ("ONLINE_STATUS_PRESENCE_GRACE".to_owned(), "2s".to_owned()),
                (
                    "ONLINE_STATUS_PRESENCE_HEARTBEAT".to_owned(),
                    "2s".to_owned(),
                ),
            ]
            .into(),
            flags: [("presence-grace".to_owned(), "1s".to_owned())].into(),
        })
        .expect("all good");
        assert_eq!(config.presence.grace.as_secs(), 1);
        assert_eq!(config.presence.heartbeat.as_secs(), 2);
        assert_eq!(config.presence.max_watches, 3);
        std::fs::write(&file, "[presence]\ngrase = \"3s\"\n").expect("a writable temp dir");
        let sources = Sources {
            file: Some(&file),
            ..Sources::default()
        };
        let error = Config::load(&sources).expect_err("unknown").to_string();
        assert!(error.ends_with("no setting presence.grase (did you mean presence.grace?)"));
    }

    #[test]
    fn everything_wrong_is_named_at_once_with_what_is_allowed() {
        let error = load(
            &[
                ("ONLINE_STATUS_PRESENCE_GRACE", "15"),
                ("ONLINE_STATUS_PRESENCE_GRASE", "1s"),
            ],
            &[("server-listen", "here")],
        )
        .expect_err("three mistakes")
        .to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(
            lines,
            [
                "there is no setting for the variable ONLINE_STATUS_PRESENCE_GRASE \
                 (did you mean ONLINE_STATUS_PRESENCE_GRACE?)",
                "server.listen = \"here\" (--server-listen): it is not an address with a port; \
                 allowed is an address and port like 127.0.0.1:8080 or [::]:8080",
                "presence.grace = \"15\" (ONLINE_STATUS_PRESENCE_GRACE): it has no unit of time; \
                 allowed is a number with ms, s, m, h or d, like 25s",
            ]
        );
        let short = load(&[("JWT_SECRET", "too short")], &[])
            .expect_err("9 bytes")
            .to_string();
        assert_eq!(
            short,
            "auth.secret (JWT_SECRET) has 9 bytes: at least 32 are needed"
        );
    }

    #[test]
    fn defaults_are_good_and_the_reference_page_is_current() {
        load(&[], &[]).expect("defaults");
        assert!(TABLE.default_file().parse::<toml::Table>().is_ok());
        let page = include_str!("../../../docs/configuration.md");
        assert!(
            page == TABLE.reference(),
            "run: online-status-edge config doc > docs/configuration.md"
        );
    }
}
