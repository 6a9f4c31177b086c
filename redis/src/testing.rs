//! Redis servers for tests, of this crate and of those that use it. Each has a directory and a
//! port of its own and is gone when it is dropped. It needs `redis-server`, or the program that
//! `ONLINE_STATUS_DEV_REDIS_SERVER` names, and for clusters `redis-cli` in the path, and panics
//! with the reason when a server does not come up.

mod detour;
mod sentinels;

pub use self::{detour::Detour, sentinels::RedisSentinels};

use std::{
    ffi::OsString,
    fs::File,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a server may take to come up, or to go.
const PATIENCE: Duration = Duration::from_secs(20);
/// Below the range from which systems take the ports of outgoing connections, so that none of
/// those takes the port of a server that is stopped for a moment.
const PORTS: std::ops::Range<u32> = 30_000..32_700;

/// A server, which is stopped when it is dropped.
pub struct RedisServer {
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    /// The content of a Sentinel's file; `None` of a server.
    sentinel: Option<String>,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments, such as `--appendonly yes` (each word its own).
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_as(arguments, None)
    }

    fn start_as(arguments: &[&str], sentinel: Option<String>) -> Self {
        let number = next_number();
        let name = format!("online-status-redis-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for the server");
        let mut server = Self {
            port: 0,
            directory,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            sentinel,
            process: None,
        };
        // Another process may take the port between the choice and the start.
        for _ in 0..5 {
            server.port = free_port();
            if server.try_start() {
                return server;
            }
        }
        panic!("{} does not start:\n{}", program().display(), server.log());
    }

    /// The server's URL, `redis://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the server's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The id of the server's process; `None` while it is stopped.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Kills it, as a crash does. Only what it has on disk is there at the next start.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself, and then there is nothing to do.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self) {
        self.stop();
        let deadline = Instant::now() + PATIENCE;
        while !self.try_start() {
            assert!(Instant::now() < deadline, "no restart:\n{}", self.log());
        }
    }

    /// What `redis-cli` with these arguments prints.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> String {
        cli(self.port, arguments)
    }

    /// The same of a server that may refuse, or be away: `Err` is what was said then.
    ///
    /// # Errors
    /// When `redis-cli` fails.
    pub fn try_cli(&self, arguments: &[&str]) -> Result<String, String> {
        try_cli(self.port, arguments)
    }

    fn try_start(&mut self) -> bool {
        let log = File::create(self.directory.join("log")).expect("a log file");
        let mut command = Command::new(program());
        match &self.sentinel {
            Some(settings) => {
                let file = self.directory.join("sentinel.conf");
                let settings = settings.replace("{port}", &self.port.to_string());
                std::fs::write(&file, settings).expect("a file");
                command.arg(file).arg("--sentinel");
            }
            None => {
                command.args(["--save", ""]);
            }
        }
        command.args(["--bind", "127.0.0.1"]);
        // TLS servers name their ports themselves.
        let named = |settings: &String| settings.contains("port 0");
        if !self.arguments.iter().any(|argument| argument == "--port")
            && !self.sentinel.as_ref().is_some_and(named)
        {
            command.args(["--port", &self.port.to_string()]);
        }
        let port = self.port.to_string();
        command
            .args(self.arguments.iter().map(|a| a.replace("{port}", &port)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a log file"))
            .stdout(log);
        let mut process = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program().display()));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if process.try_wait().expect("the server's state").is_some() {
                return false;
            }
            let log = self.log();
            let up = log.contains("Ready to accept connections") || log.contains("Sentinel ID is");
            if up && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.process = Some(process);
                return true;
            }
            if Instant::now() > deadline {
                let _ = process.kill();
                let _ = process.wait();
                return false;
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A Redis Cluster of three masters.
pub struct RedisCluster {
    /// Its servers: the masters, then a replica for each if there are some.
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with more arguments for each server.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_of(3, arguments)
    }

    /// Starts it with a replica for each master.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_with_replicas(arguments: &[&str]) -> Self {
        let cluster = Self::start_of(6, arguments);
        let replicates = |server: &RedisServer| {
            let info = server.cli(&["info", "replication"]);
            info.contains("connected_slaves:1") || info.contains("master_link_status:up")
        };
        let deadline = Instant::now() + PATIENCE;
        while !cluster.servers.iter().all(replicates) {
            assert!(Instant::now() < deadline, "the replicas do not follow");
            sleep(Duration::from_millis(50));
        }
        cluster
    }

    fn start_of(servers: usize, arguments: &[&str]) -> Self {
        let start = |_| {
            let bus = free_port().to_string();
            let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let quick = [
                "--cluster-node-timeout",
                "2000",
                "--repl-diskless-sync-delay",
                "0",
            ];
            RedisServer::start_with(&[&cluster[..], &quick, arguments].concat())
        };
        let servers: Vec<RedisServer> = (0..servers).map(start).collect();
        let mut create = vec!["--cluster".to_owned(), "create".to_owned()];
        create.extend(servers.iter().map(|s| format!("127.0.0.1:{}", s.port)));
        let replicas = servers.len() / 3 - 1;
        create.extend(["--cluster-replicas".to_owned(), replicas.to_string()]);
        create.push("--cluster-yes".to_owned());
        let create: Vec<&str> = create.iter().map(String::as_str).collect();
        let _ = cli(servers[0].port, &create);
        let deadline = Instant::now() + PATIENCE;
        for server in &servers {
            while !server
                .cli(&["cluster", "info"])
                .contains("cluster_state:ok")
            {
                assert!(Instant::now() < deadline, "no cluster:\n{}", server.log());
                sleep(Duration::from_millis(50));
            }
        }
        Self { servers }
    }

    /// The replica that follows the master of that number.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn replica_of(&self, master: usize) -> &RedisServer {
        let port = format!("master_port:{}\r\n", self.servers[master].port);
        let follows = |server: &&RedisServer| server.cli(&["info", "replication"]).contains(&port);
        self.servers.iter().find(follows).expect("a replica")
    }

    /// Makes the replica of a master its successor, and waits until it is. It is asked again where the
    /// others did not vote for it within the 5 s that a failover by request has (seen with 7.0.15).
    ///
    /// # Panics
    /// When it does not happen within a minute.
    pub fn fail_over(&self, master: usize) {
        let replica = self.replica_of(master);
        for _ in 0..10 {
            assert_eq!(replica.cli(&["cluster", "failover"]).trim(), "OK");
            for _ in 0..60 {
                if replica.cli(&["role"]).starts_with("master") {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        panic!("the replica does not become the master");
    }

    /// All its nodes, as a URL for [`crate::Options`].
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(RedisServer::url).collect();
        urls.join(",")
    }
}

/// What `redis-cli` with these arguments prints, on that port of 127.0.0.1.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn cli(port: u16, arguments: &[&str]) -> String {
    try_cli(port, arguments).unwrap_or_else(|error| panic!("redis-cli {arguments:?}: {error}"))
}

fn try_cli(port: u16, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("redis-cli in the path");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{text} {error}"))
    }
}

/// The server's program.
fn program() -> OsString {
    std::env::var_os("ONLINE_STATUS_DEV_REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

fn free_port() -> u16 {
    // Tests run in many processes at once, each of which begins elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let port = PORTS.start + begin.wrapping_add(next_number()) % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Relaxed)
}
