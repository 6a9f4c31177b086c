//! The configuration: one table of settings, read from a TOML file, the environment and flags
//! (a flag wins over the environment, that over the file, that over the default) and checked as a
//! whole. It owns precedence and the rules between settings; all errors are shown at once.

mod kafka;
mod table;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use ring::VnodeSet;
use settings::{Kind, Rules, Table};
pub(crate) use settings::{Secret, SettingsError, Sources};
pub(crate) use token::DEVELOPMENT_SECRET;

pub(crate) use self::table::{Config, Presence};
use crate::start::Mode;

/// The edge's settings, and how its environment tells them from other programs'.
pub(crate) const TABLE: Table = Table {
    program: "online-status-edge",
    subject: "the edge",
    sections: Config::SECTIONS,
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
    /// The checked configuration, or every mistake in it.
    pub(crate) fn load(sources: &Sources) -> Result<Self, SettingsError> {
        let config = Self::from_checked(&TABLE.read(sources)?);
        config.check()?;
        Ok(config)
    }

    /// Whether there is no key for tokens, so that only the public one of development is left.
    pub(crate) fn is_development(&self) -> bool {
        self.auth.options().has_no_key()
    }

    /// What is wrong with the files that the settings name, and with the keys in them.
    pub(crate) fn check_files(&self) -> Result<(), SettingsError> {
        let mut rules = Rules::default();
        let data = &self.store.data;
        let there = data.ancestors().find(|path| path.exists());
        rules.rule(
            there.is_none_or(Path::is_dir),
            format!(
                "store.data = {}: it must be a directory, and a file is in its place or above it",
                data.display()
            ),
        );
        self.auth.check_files(&mut rules);
        let tls = &self.tls;
        match tls.files() {
            Ok(None) => {}
            Ok(Some(files)) => {
                let files = files.asking(tls.admin_client_ca.clone());
                rules.good(crate::tls::Acceptor::new(files));
            }
            error => rules.good(error),
        }
        if self.redis.url.is_set() {
            self.redis.check_files(&mut rules);
        }
        match self.kafka_options() {
            Ok(options) if !options.brokers.is_empty() => rules.good(options.check_client()),
            options => rules.good(options),
        }
        rules.finish()
    }

    /// What is wrong for an edge of this kind, though not for the other.
    pub(crate) fn check_mode(&self, mode: Mode) -> Result<(), SettingsError> {
        let mut rules = Rules::default();
        if mode == Mode::Cluster {
            self.redis.check_files(&mut rules);
            match self.kafka_options() {
                Ok(options) => rules.good(options.check()),
                Err(error) => rules.good(Err::<(), _>(error)),
            }
            rules.good(crate::cluster::node_id(self));
            rules.good(self.check_links());
            let links = self.share.link_listen;
            rules.rule(
                !(self.share.link_key.is_set()
                    && self.share.link_address.is_empty()
                    && links.ip().is_unspecified()),
                format!(
                    "cluster.link_address is not set, and cluster.link_listen = {links} is no address \
                     that other edges could connect to; set the one at which they reach this edge, \
                     like edge-1.example:{}",
                    links.port()
                ),
            );
            let listen = self.server.listen;
            rules.rule(
                !(self.server.public_url.is_empty() && listen.ip().is_unspecified()),
                format!(
                    "server.public_url is not set, and server.listen = {listen} is no address that \
                     clients could be sent to; set the one under which they reach this edge, like \
                     ws://edge-1.example:{}/socket",
                    listen.port()
                ),
            );
        }
        rules.finish()
    }

    /// Where an edge listens; the last one in a cluster alone, when there is a key for links.
    pub(crate) fn addresses(&self) -> [(&'static str, SocketAddr); 3] {
        [
            ("server.listen", self.server.listen),
            ("server.admin_listen", self.server.admin_listen),
            ("cluster.link_listen", self.share.link_listen),
        ]
    }

    /// What is wrong with where links are taken, for a node of a cluster.
    pub(crate) fn check_links(&self) -> Result<(), SettingsError> {
        let mut rules = Rules::default();
        if self.share.link_key.is_set() {
            rules.apart(&self.addresses());
        }
        rules.finish()
    }

    /// What is to be said when edges of other hosts, to which clients' addresses point, cannot link to this
    /// one; for a node of a cluster.
    pub(crate) fn links_on_loopback(&self) -> Option<String> {
        let is_local = |host: &str| {
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        };
        let host_of = |url: &str| url.parse::<http::Uri>().ok()?.host().map(str::to_owned);
        let share = &self.share;
        let (setting, links) = match share.link_address.rsplit_once(':') {
            Some((host, _)) => ("cluster.link_address", host.to_owned()),
            None => ("cluster.link_listen", share.link_listen.ip().to_string()),
        };
        let clients = match &*self.server.public_url {
            "" => Some(self.server.listen.ip().to_string()),
            url => host_of(url),
        };
        let clients = clients.filter(|clients| !is_local(clients))?;
        (share.link_key.is_set() && is_local(&links)).then(|| {
            format!(
                "{setting}: other edges are told to link to {links}, and clients are sent to {clients}; edges \
                 of other hosts hear this one's changes from Redis, up to 2 s late, until \
                 cluster.link_listen and cluster.link_address are ones that they reach"
            )
        })
    }

    /// The rules that one setting's syntax does not say.
    fn check(&self) -> Result<(), SettingsError> {
        let (server, presence) = (&self.server, &self.presence);
        let mut rules = Rules::default();
        self.check_bounds(&mut rules);
        rules.apart(&self.addresses()[..2]);
        let id = &self.node.id;
        rules.rule(
            id.is_empty() || ring::NodeId::parse(id).is_ok(),
            format!("node.id = {id:?}: allowed are 1 to 64 of A-Z a-z 0-9 . _ -"),
        );
        rules.origins("server.origins", &server.origins.0);
        rules.rule(
            !server.proxy_protocol || !server.trusted_proxies.is_empty(),
            "server.proxy_protocol = true: server.trusted_proxies is empty, so no proxy's header \
             would be read; name the proxies there",
        );
        let memory = server.max_memory;
        rules.rule(
            memory.0 == 0 || memory.0 >= 16 << 20,
            format!(
                "server.max_memory = {}: allowed are 0B and 16MiB or more",
                memory.show()
            ),
        );
        let word = &presence.over_max_devices;
        rules.word("presence.over_max_devices", word, &["refuse", "newest"]);
        rules.rule(
            presence.byte_burst >= server.max_message,
            format!(
                "presence.byte_burst = {} is less than one message: server.max_message = {}",
                presence.byte_burst.show(),
                server.max_message.show()
            ),
        );
        rules.rule(
            presence.alive_min <= presence.alive_max,
            format!(
                "presence.alive_min = {:?} is longer than presence.alive_max = {:?}",
                presence.alive_min, presence.alive_max
            ),
        );
        self.cluster.check(&mut rules);
        if let Ok(count) = self.cluster.count()
            && let Err(error) = VnodeSet::parse(&self.share.assigned_vnodes, count)
        {
            let what = format!("cluster.assigned_vnodes (ASSIGNED_VNODES): {error}");
            rules.rule(false, what);
        }
        let url = &self.server.public_url;
        rules.rule(
            url.len() <= MAX_URL,
            format!("server.public_url = {url:?}: at most {MAX_URL} bytes, the reason of a close"),
        );
        rules.rule(
            url.is_empty() || url.starts_with("ws://") || url.starts_with("wss://"),
            format!("server.public_url = {url:?}: it must begin with ws:// or wss://"),
        );
        rules.rule(
            !url.contains(|c: char| c.is_whitespace() || c.is_control()),
            format!("server.public_url = {url:?}: a URL has no spaces and no line ends"),
        );
        for (name, text) in [
            ("server.public_url", url),
            ("cluster.link_address", &self.share.link_address),
        ] {
            rules.rule(
                !text.contains("$("),
                format!(
                    "{name} = {text:?}: Kubernetes put nothing in the place of the variable; a container's list \
                     has to have a variable before those that use it"
                ),
            );
        }
        let key = self.share.link_key.expose();
        rules.rule(
            key.is_empty() || key.len() >= 32,
            format!(
                "cluster.link_key has {} bytes: it must have at least 32, as `openssl rand \
                 -base64 32` makes them",
                key.len()
            ),
        );
        rules.rule(
            key.is_empty() || key != self.auth.secret.expose(),
            "cluster.link_key is the same as auth.secret (JWT_SECRET): who may sign tokens is no \
             edge; make another one with `openssl rand -base64 32`",
        );
        let address = &self.share.link_address;
        rules.rule(
            address.is_empty() || is_host_and_port(address),
            format!(
                "cluster.link_address = {address:?}: a host and a port like edge-1.example:8082"
            ),
        );
        rules.rule(
            self.tls.certificate.as_os_str().is_empty() == self.tls.key.as_os_str().is_empty(),
            "tls.certificate and tls.key: both or none must be given",
        );
        let tls = &self.tls;
        let needs_more = !tls.more.0.is_empty() || tls.admin || tls.admin_client_ca.is_some();
        rules.rule(
            !needs_more || !tls.certificate.as_os_str().is_empty(),
            "tls.more, tls.admin and tls.admin_client_ca are of no use without tls.certificate",
        );
        self.auth.check(&mut rules);
        rules.finish()
    }

    /// The bound within which a vanished client is offline for its watchers, ms (invariant I6).
    pub(crate) fn ghost_bound(&self) -> u64 {
        let presence = &self.presence;
        let sum = presence.heartbeat + presence.heartbeat_timeout + presence.grace + presence.flush;
        // Each of the two timers is up to a slot (100 ms) late, and so is the tick.
        sum.as_millis() as u64 + 400
    }

    /// The bound within which a client that has promised to be alive, and whose pings are answered all
    /// the same, is offline when it says nothing any more, ms.
    pub(crate) fn silent_bound(&self) -> u64 {
        let presence = &self.presence;
        let sum = presence.alive_max + presence.heartbeat_timeout + presence.grace + presence.flush;
        sum.as_millis() as u64 + 400
    }

    /// The bound within which the users of a vanished node are offline, ms (invariant I6): until
    /// its lease has ended and the coordinator has seen that, the map has come to the new owners,
    /// they have loaded the users, and grace is over.
    pub(crate) fn node_ghost_bound(&self) -> u64 {
        let sum = self.cluster.lease_ttl + self.presence.grace + self.presence.flush;
        sum.as_millis() as u64 + TAKEOVER + 400
    }
}

impl table::Tls {
    /// The files of the certificates that clients get, if there are any.
    pub(crate) fn files(&self) -> Result<Option<crate::tls::Files>, crate::tls::TlsError> {
        crate::tls::Files::of(&self.certificate, &self.key, &self.more.0)
    }
}

/// Whether it is a host and a port, like `edge-1.example:8082` or `[2001:db8::1]:8082`.
fn is_host_and_port(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    text.len() <= 300
        && parts.is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
        })
}

/// The longest reason of a close frame (RFC 6455 §5.5), which tells a client its node.
const MAX_URL: usize = 123;
/// How long a take-over may take once a lease has ended, ms: the coordinator looks at leases twice
/// a second; the map and the users of a node's share are read.
const TAKEOVER: u64 = 2_000;

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
            environment: owned(environment),
            flags: owned(flags),
            ..Sources::default()
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
        let sources = Sources {
            environment: [
                ("ONLINE_STATUS_PRESENCE_GRACE".to_owned(), "2s".to_owned()),
                (
                    "ONLINE_STATUS_PRESENCE_HEARTBEAT".to_owned(),
                    "2s".to_owned(),
                ),
            ]
            .into(),
            flags: [("presence-grace".to_owned(), "1s".to_owned())].into(),
            ..Sources::default()
        };
        let config = Config::load(&sources.with_file(Some(&file))).expect("all good");
        assert_eq!(config.presence.grace.as_secs(), 1);
        assert_eq!(config.presence.heartbeat.as_secs(), 2);
        assert_eq!(config.presence.max_watches, 3);
        std::fs::write(&file, "[presence]\ngrase = \"3s\"\n").expect("a writable temp dir");
        let sources = Sources::default().with_file(Some(&file));
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
                 allowed is a number with ms, s, m, h or d, like 25s, from 0s to 1d",
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
    fn what_could_never_match_or_be_reached_is_refused() {
        for (flag, value, name) in [
            ("server-origins", "*", "server.origins"),
            ("server-origins", "example.com", "server.origins"),
            ("server-origins", "https://example.com/", "server.origins"),
            (
                "server-public-url",
                "https://example.com",
                "server.public_url",
            ),
            (
                "server-public-url",
                "wss://a.example/a b",
                "server.public_url",
            ),
            (
                "server-public-url",
                "wss://a.example\n",
                "server.public_url",
            ),
            (
                "server-public-url",
                "wss://$(NODE_ID).example/socket",
                "server.public_url",
            ),
            (
                "cluster-link-address",
                "$(POD_IP):8082",
                "cluster.link_address",
            ),
            ("auth-leeway", "1h", "auth.leeway"),
            (
                "cluster-assigned-vnodes",
                "1-x",
                "cluster.assigned_vnodes (ASSIGNED_VNODES)",
            ),
            (
                "cluster-assigned-vnodes",
                "4096",
                "cluster.assigned_vnodes (ASSIGNED_VNODES)",
            ),
            (
                "cluster-assigned-vnodes",
                "9-3",
                "cluster.assigned_vnodes (ASSIGNED_VNODES)",
            ),
            ("server-tcp-user-timeout", "0s", "server.tcp_user_timeout"),
        ] {
            let error = load(&[], &[(flag, value)]).expect_err(value).to_string();
            assert!(error.starts_with(name), "{error}");
        }
        let origins = "null,https://example.com,http://[::1]:3000";
        load(&[], &[("server-origins", origins)]).expect("origins");
        for (flag, value, name) in [
            ("auth-algorithms", "HS257", "auth.algorithms"),
            ("auth-algorithms", "", "auth.algorithms"),
            ("auth-algorithms", "ES256", "auth.algorithms"),
            ("auth-jwks-file", "/nothing/there", "auth.jwks_file"),
            ("store-data", "/dev/null/data", "store.data"),
            ("kafka-compression", "zip", "kafka.compression"),
        ] {
            let config = load(&[], &[(flag, value)]).expect("the syntax is good");
            let error = config.check_files().expect_err(value).to_string();
            assert!(error.starts_with(name), "{error}");
        }
        let served = [
            ("auth-algorithms", "ES256"),
            ("auth-jwks-url", "ftp://example.com/"),
        ];
        let config = load(&[], &served).expect("the syntax is good");
        let error = config.check_files().expect_err("no web").to_string();
        assert!(error.starts_with("auth.jwks_url"), "{error}");
        let tls = [("tls-certificate", "/nothing"), ("tls-key", "/nothing")];
        let config = load(&[], &tls).expect("the syntax is good");
        let error = config.check_files().expect_err("no file").to_string();
        assert!(error.starts_with("tls.certificate"), "{error}");
    }

    #[test]
    fn the_key_of_links_is_long_and_no_other_secret() {
        let key = "0123456789abcdef0123456789abcdef";
        let refused = |set: &[(&str, &str)]| load(&[("JWT_SECRET", key)], set).err();
        let other = "fedcba9876543210fedcba9876543210";
        assert!(refused(&[]).is_none());
        assert!(refused(&[("cluster-link-key", other)]).is_none());
        let error = refused(&[("cluster-link-key", &key[1..])]).expect("short");
        assert!(
            error
                .to_string()
                .starts_with("cluster.link_key has 31 bytes")
        );
        let error = refused(&[("cluster-link-key", key)]).expect("the same");
        assert_eq!(
            error.to_string(),
            "cluster.link_key is the same as auth.secret (JWT_SECRET): who may sign tokens is no \
             edge; make another one with `openssl rand -base64 32`"
        );
    }

    #[test]
    fn the_defaults_of_the_bus_are_its_own() {
        let set = load(&[], &[]).expect("defaults").kafka_options();
        let set = set.expect("good defaults");
        let own = kafka_bus::Options::default();
        assert_eq!(
            (set.linger, set.message_timeout, set.retention),
            (own.linger, own.message_timeout, own.retention)
        );
        assert_eq!((set.topic, set.partitions), (own.topic, own.partitions));
        assert_eq!(
            (set.compression, set.replication),
            (own.compression, own.replication)
        );
    }

    #[test]
    fn events_wait_longer_for_each_other_where_no_watcher_waits_for_them() {
        let linger = |set: &[(&str, &str)]| {
            let options = load(&[], set).expect("good").kafka_options();
            options.expect("good").linger.as_millis()
        };
        let key = ("cluster-link-key", "0123456789abcdef0123456789abcdef");
        assert_eq!(linger(&[]), 2);
        assert_eq!(linger(&[key]), 50);
        assert_eq!(linger(&[key, ("kafka-linger", "7ms")]), 7);
    }

    #[test]
    fn an_edge_that_tells_others_to_link_to_their_own_hosts_is_named() {
        let key = ("cluster-link-key", "0123456789abcdef0123456789abcdef");
        let url = ("server-public-url", "wss://edge-1.example/socket");
        let told = |set: &[(&str, &str)]| load(&[], set).expect("good").links_on_loopback();
        for address in ["localhost:8082", "127.0.0.2:1", "[::1]:8082"] {
            let line = told(&[key, url, ("cluster-link-address", address)]);
            assert!(line.expect(address).starts_with("cluster.link_address: "));
        }
        let line = told(&[key, url]).expect("the default is loopback");
        assert!(line.contains("link to 127.0.0.1, and clients are sent to edge-1.example"));
        assert_eq!(told(&[url]), None, "it has no links");
        assert_eq!(told(&[key]), None, "all of it is on one host");
        let elsewhere = ("cluster-link-address", "edge-1.example:8082");
        assert_eq!(told(&[key, url, elsewhere]), None);
        let listen = ("cluster-link-listen", "10.0.0.1:8082");
        assert_eq!(told(&[key, url, listen]), None);
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
