//! A master, a replica of it, and Sentinels that watch them, for tests.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{PATIENCE, RedisServer};

/// The name of the master at the Sentinels.
const NAME: &str = "presence";

/// Three Sentinels and their two servers, all of which are stopped when they are dropped.
pub struct RedisSentinels {
    /// The first is the master at the start.
    pub servers: Vec<RedisServer>,
    /// The Sentinels, two of which have to agree on a failover.
    pub sentinels: Vec<RedisServer>,
}

impl RedisSentinels {
    /// Starts a master, its replica and the Sentinels that watch them.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[], "")
    }

    /// Starts them with more arguments for the servers, and more lines for the Sentinels' file; in
    /// both `{port}` is their own.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start_with(arguments: &[&str], lines: &str) -> Self {
        Self::start_all(arguments, lines, None)
    }

    fn start_all(arguments: &[&str], lines: &str, ca: Option<&Path>) -> Self {
        let quick = ["--repl-diskless-sync-delay", "0"];
        let master = RedisServer::start_with(&[&quick[..], arguments].concat());
        let port = master.port().to_string();
        let follow = ["--replicaof", "127.0.0.1", &port];
        let replica = RedisServer::start_with(&[&quick[..], &follow, arguments].concat());
        let settings = format!(
            "{lines}\n\
             sentinel monitor {NAME} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {NAME} 1000\n\
             sentinel failover-timeout {NAME} 6000\n"
        );
        let sentinel = |_| RedisServer::start_as(&[], Some(settings.clone()));
        let all = Self {
            servers: vec![master, replica],
            sentinels: (0..3).map(sentinel).collect(),
        };
        all.settle(ca);
        all
    }

    /// The same with servers that speak TLS only, in which Sentinels are asked with this authority.
    ///
    /// # Panics
    /// When they do not come up.
    #[must_use]
    pub fn start_with_tls(arguments: &[&str], lines: &str, ca: &Path) -> Self {
        Self::start_all(arguments, lines, Some(ca))
    }

    /// Waits until each Sentinel knows the replica and the other Sentinels.
    fn settle(&self, ca: Option<&Path>) {
        let deadline = Instant::now() + PATIENCE;
        let ca = ca.map(|ca| ca.to_str().expect("UTF-8"));
        let tls = ca.map_or_else(Vec::new, |ca| vec!["--tls", "--cacert", ca]);
        let masters = [&tls[..], &["sentinel", "masters"]].concat();
        for sentinel in &self.sentinels {
            loop {
                let seen = sentinel.try_cli(&masters);
                let seen = seen.unwrap_or_else(|error| error);
                let lines: Vec<&str> = seen.lines().collect();
                let knows = |field: &str, value: &str| {
                    lines
                        .windows(2)
                        .any(|pair| pair[0] == field && pair[1] == value)
                };
                // One that asks for a password is not asked: the others agree without it.
                let closed = seen.contains("NOAUTH");
                if closed || (knows("num-slaves", "1") && knows("num-other-sentinels", "2")) {
                    break;
                }
                assert!(Instant::now() < deadline, "the Sentinels see {seen}");
                sleep(Duration::from_millis(50));
            }
        }
    }

    /// The Sentinels as a URL, with what stands before the first host, such as `user:password@`.
    #[must_use]
    pub fn url(&self, scheme: &str, credentials: &str) -> String {
        let hosts: Vec<String> = self
            .sentinels
            .iter()
            .map(|sentinel| format!("127.0.0.1:{}", sentinel.port()))
            .collect();
        format!("{scheme}://{credentials}{}/{NAME}", hosts.join(","))
    }

    /// Has the Sentinels make the replica the master.
    ///
    /// # Panics
    /// When they refuse for long.
    pub fn fail_over(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.sentinels[0].try_cli(&["sentinel", "failover", NAME]);
            match said {
                Ok(said) if said.trim() == "OK" => return,
                said => assert!(Instant::now() < deadline, "{said:?}"),
            }
            sleep(Duration::from_millis(200));
        }
    }
}
