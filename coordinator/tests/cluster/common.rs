//! Starts coordinators, plays edges, and asks over HTTP.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use protocol::Lease;
use redis_store::{Link, Options, Renewal, testing::RedisServer};
use ring::Map;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) const SECRET: &str = "a secret of the tests, long enough for HS256";
/// Far longer than anything takes, so that a slow machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Settings with short times, so that a test takes seconds.
const QUICK: [&str; 10] = [
    "--coordinator-poll",
    "100ms",
    "--coordinator-leader-ttl",
    "1s",
    "--cluster-lease-ttl",
    "1500ms",
    "--rebalance-formation",
    "500ms",
    "--cluster-vnodes",
    "64",
];
const LEASE_TTL: Duration = Duration::from_millis(1_500);

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(25));
    }
}

/// A running coordinator; killed with the test.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    pub(crate) log: PathBuf,
    child: Child,
}

impl Coordinator {
    /// Starts one with a secret and short times.
    pub(crate) fn start(redis: &RedisServer, id: &str, flags: &[&str]) -> Self {
        let secret = ["--auth-secret", SECRET];
        Self::start_with(redis, id, &[&secret[..], flags].concat())
    }

    pub(crate) fn start_with(redis: &RedisServer, id: &str, flags: &[&str]) -> Self {
        Self::start_at(&redis.url(), redis.directory(), id, flags)
    }

    /// Whatever is at the URL; the log goes to the directory.
    pub(crate) fn start_at(url: &str, directory: &Path, id: &str, flags: &[&str]) -> Self {
        let log = directory.join(format!("{id}.log"));
        let file = std::fs::File::create(&log).expect("a log file");
        let errors = file.try_clone().expect("a log file");
        let mut child = run(url, id, "127.0.0.1:0", flags)
            .stdout(file)
            .stderr(errors)
            .spawn()
            .expect("the coordinator starts");
        let address = until("the coordinator listens", || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the coordinator ended: {log}");
            let address = log.split("http://").nth(1)?.split('/').next()?;
            address.parse().ok()
        });
        Self {
            address,
            log,
            child,
        }
    }

    /// Starts one whose output nobody reads any more.
    pub(crate) fn start_unheard(redis: &RedisServer, id: &str) -> Self {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = probe.local_addr().expect("an address");
        drop(probe);
        let secret = ["--auth-secret", SECRET];
        let mut child = run(&redis.url(), id, &address.to_string(), &secret)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the coordinator starts");
        drop((child.stdout.take(), child.stderr.take()));
        until("the coordinator listens", || {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the coordinator ended: {ended:?}");
            TcpStream::connect(address).ok()
        });
        Self {
            address,
            log: PathBuf::new(),
            child,
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// The exit code, once it ends by itself.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        until("the coordinator ends", || {
            self.child.try_wait().expect("a child")
        })
        .code()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        ask(self.address, method, path, headers, body)
    }

    /// The answer to a GET, as JSON.
    pub(crate) fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    pub(crate) fn ready(&self) {
        until("the coordinator is ready", || {
            (self.get("/readyz").status == 200).then_some(())
        });
    }

    pub(crate) fn map_version(&self) -> u64 {
        self.json("/nodes")["mapVersion"].as_u64().unwrap_or(0)
    }

    /// The number of vnodes that each node owns.
    pub(crate) fn owned(&self) -> BTreeMap<String, u64> {
        let fleet = self.json("/nodes");
        let nodes = fleet["nodes"].as_array().expect("a list").iter();
        nodes
            .map(|node| {
                let name = node["node"].as_str().expect("a name").to_owned();
                (name, node["vnodes"].as_u64().expect("a number"))
            })
            .collect()
    }

    pub(crate) fn until_owned(&self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<String, u64> = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        let mut last = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while last != expected {
            assert!(
                Instant::now() < deadline,
                "{last:?} is not {expected:?}\n{}",
                self.log()
            );
            sleep(Duration::from_millis(25));
            last = self.owned();
        }
    }

    pub(crate) fn state(&self, node: &str) -> String {
        let fleet = self.json("/nodes");
        let mut nodes = fleet["nodes"].as_array().expect("a list").iter();
        let found = nodes.find(|other| other["node"] == node);
        found.map_or_else(String::new, |node| {
            node["state"].as_str().expect("a word").into()
        })
    }

    pub(crate) fn leads(&self) -> bool {
        self.json("/nodes")["leading"] == true
    }

    /// The sum of a metric over the lines that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.get("/metrics").text();
        let name = format!("online_status_coordinator_{name}");
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(&name).unwrap_or("x");
            rest.starts_with(['{', ' ']) && line.contains(label)
        });
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended already, as a test of that wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, without the settings of whoever runs the tests.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_online-status-coordinator"));
    let ours = |name: &str| {
        name.starts_with("ONLINE_STATUS_") || ["JWT_SECRET", "REDIS_URL"].contains(&name)
    };
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The command that runs one with short times.
fn run(url: &str, id: &str, listen: &str, flags: &[&str]) -> Command {
    let mut command = command();
    command
        .args(["run", "--listen", listen, "--coordinator-id", id])
        .args(["--redis-url", url])
        .args(QUICK)
        .args(flags)
        .env("ONLINE_STATUS_COORDINATOR_SHUTDOWN_DELAY", "0s");
    command
}

/// An answer over HTTP.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(have, _)| have.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

pub(crate) fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        request += &format!("content-length: {}\r\n", body.len());
    }
    request += "\r\n";
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it is read");
    // A server that has answered already may not read it all.
    let _ = stream.write_all(body);
    read_answer(&mut stream)
}

/// Reads until the server closes the connection.
pub(crate) fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.expect("a status"),
        head,
        body: bytes.split_off(end + 4),
    }
}

/// A token for `user` with these claims, good for an hour.
pub(crate) fn token(user: &str, scope: Option<&str>) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_millis() as u64;
    let good = now..now + 3_600_000;
    format!("Bearer {}", token::sign(SECRET, user, good, scope))
}

pub(crate) fn admin() -> String {
    token("ops", Some("presence:admin"))
}

/// Plays an edge: renews its lease, follows the map and reports it. Like a process that is
/// killed, it leaves its lease when it is dropped.
pub(crate) struct Edge {
    /// The newest map that the edge follows.
    map: Arc<Mutex<Option<Map>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Edge {
    pub(crate) fn start(redis: &RedisServer, name: &str) -> Self {
        Self::start_with(redis, name, |_| {})
    }

    pub(crate) fn start_with(
        redis: &RedisServer,
        name: &str,
        change: impl FnOnce(&mut Lease),
    ) -> Self {
        Self::start_at(redis.url(), name, change)
    }

    /// With a lease that lasts longer than a test, and clients that come to `port` of this host.
    pub(crate) fn start_for_long(redis: &RedisServer, name: &str, port: u16) -> Self {
        Self::live(redis.url(), name, Duration::from_secs(60), |lease| {
            lease.address = format!("ws://127.0.0.1:{port}/socket");
        })
    }

    pub(crate) fn start_at(url: String, name: &str, change: impl FnOnce(&mut Lease)) -> Self {
        Self::live(url, name, LEASE_TTL, change)
    }

    fn live(url: String, name: &str, ttl: Duration, change: impl FnOnce(&mut Lease)) -> Self {
        static BOOTS: AtomicU64 = AtomicU64::new(1);
        let mut lease = Lease {
            node: name.into(),
            boot: BOOTS.fetch_add(1, Ordering::Relaxed),
            address: format!("ws://{name}.example/socket"),
            cores: 1,
            weight: 100,
            ..Lease::default()
        };
        change(&mut lease);
        let map = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let options = Options::new(url);
        let thread = {
            let (map, stop) = (Arc::clone(&map), Arc::clone(&stop));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime
                    .expect("a runtime")
                    .block_on(live(options, lease, ttl, &map, &stop));
            })
        };
        Self {
            map,
            stop,
            thread: Some(thread),
        }
    }

    /// The newest map that the edge follows.
    pub(crate) fn map(&self) -> Option<Map> {
        self.map.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "the edge panicked"
            );
        }
    }
}

async fn live(
    options: Options,
    mut lease: Lease,
    ttl: Duration,
    map: &Mutex<Option<Map>>,
    stop: &AtomicBool,
) {
    let link = Link::open(options).expect("good options");
    let _subscription = link.watch_map_as(&lease.id(), lease.boot);
    let mut newcomer = true;
    while !stop.load(Ordering::Relaxed) {
        // While the store is away, an edge goes on with what it has.
        if let Ok(Some(newer)) = link.map().await {
            let mut map = map.lock().expect("nobody panics with it");
            if map
                .as_ref()
                .is_none_or(|map| map.version() < newer.version())
            {
                lease.map_version = newer.version().get();
                lease.highest_epoch = lease.highest_epoch.max(newer.highest_epoch().get());
                *map = Some(newer);
            }
        }
        // No two renewals measure the same.
        lease.load.lag_ms += 1;
        match link.renew(&lease, ttl, newcomer).await {
            Ok(Renewal::Refused) => panic!("another life has the lease"),
            Ok(_) => newcomer = false,
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
