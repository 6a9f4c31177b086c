//! Starts edges, and asks them by HTTP.

mod client;

pub(crate) use client::{BINARY, CLOSE, Client, FIN, PING, PONG, Stream, TEXT, frame};

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

pub(crate) const SECRET: &str = "a secret of the tests, long enough for HS256";
/// Far longer than anything takes, so that a slow machine fails no test.
const PATIENCE: Duration = Duration::from_secs(20);

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

pub(crate) fn free_port() -> u16 {
    // Below the ports that the kernel gives to clients; apart from other test processes.
    let base = 20_000 + (std::process::id() % 50) as u16 * 200;
    loop {
        let port = base + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 200;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A folder that is gone with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let name = format!(
            "online-status-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("UTF-8").into()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running edge; killed with the test.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    /// The end of a pipe from which nobody reads the log.
    unread: Option<std::io::PipeReader>,
}

impl Edge {
    /// Starts one with a secret and these flags, and waits until it is ready.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let secret = ["--auth-secret", SECRET];
        Self::start_with(&[&secret[..], flags].concat())
    }

    pub(crate) fn start_with(flags: &[&str]) -> Self {
        Self::start_as(
            &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge")),
            flags,
        )
    }

    /// Starts one that may have so many open files.
    pub(crate) fn start_under(open_files: u32, flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let line = format!("ulimit -n {open_files}; exec \"$0\" \"$@\"");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_online-status-edge")]);
        let secret = ["--auth-secret", SECRET];
        Self::start_as(&mut shell, &[&secret[..], flags].concat())
    }

    /// Starts one that a file that may not grow is an error for, and not its end.
    pub(crate) fn start_on_a_disk(flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let line = "trap '' XFSZ; exec \"$0\" \"$@\"";
        shell.args(["-c", line, env!("CARGO_BIN_EXE_online-status-edge")]);
        let secret = ["--auth-secret", SECRET];
        Self::start_as(&mut shell, &[&secret[..], flags].concat())
    }

    /// Starts one whose output nobody reads any more.
    pub(crate) fn start_unheard(flags: &[&str]) -> Self {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let secret = ["--auth-secret", SECRET];
        let flags = [&secret[..], flags].concat();
        let mut edge = Self::start_on(Ipv4Addr::LOCALHOST.into(), command, &flags);
        drop((edge.child.stdout.take(), edge.child.stderr.take()));
        edge
    }

    /// Starts one whose log goes to a pipe that is full after some lines, and that nobody reads.
    pub(crate) fn start_unread(flags: &[&str]) -> Self {
        let (read, write) = std::io::pipe().expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&write, 4_096).expect("a smaller pipe");
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        command.stdout(Stdio::null()).stderr(write);
        let secret = ["--auth-secret", SECRET];
        let flags = [&secret[..], flags].concat();
        let mut edge = Self::start_on(Ipv4Addr::LOCALHOST.into(), command, &flags);
        edge.unread = Some(read);
        edge
    }

    /// Starts one that says what it has to say to a file.
    pub(crate) fn start_logged(log: &std::path::Path, flags: &[&str]) -> Self {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        let file = std::fs::File::create(log).expect("a writable folder");
        let command = command.stdout(Stdio::null()).stderr(file);
        Self::start_on(Ipv4Addr::LOCALHOST.into(), command, flags)
    }

    /// Starts one as a service manager does that listens at `socket`, with a watchdog of a second.
    pub(crate) fn start_as_service(socket: &std::path::Path, flags: &[&str]) -> Self {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        let command = command
            .env("NOTIFY_SOCKET", socket)
            .env("WATCHDOG_USEC", "1000000");
        let secret = ["--auth-secret", SECRET];
        Self::start_as(command, &[&secret[..], flags].concat())
    }

    /// Starts one that listens on every address, those of IPv6 too.
    pub(crate) fn start_everywhere(flags: &[&str]) -> Self {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        let command = command.stdout(Stdio::null());
        let secret = ["--auth-secret", SECRET];
        let flags = [&secret[..], flags].concat();
        Self::start_on(Ipv6Addr::UNSPECIFIED.into(), command, &flags)
    }

    fn start_as(command: &mut Command, flags: &[&str]) -> Self {
        let command = command.stdout(Stdio::null());
        Self::start_on(Ipv4Addr::LOCALHOST.into(), command, flags)
    }

    fn start_on(listen: IpAddr, command: &mut Command, flags: &[&str]) -> Self {
        let mut edge = Self::launch_on(listen, command, flags);
        edge.until_ready();
        edge
    }

    /// Starts one that may have to wait until it is ready.
    pub(crate) fn launch(flags: &[&str]) -> Self {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        Self::launch_on(
            Ipv4Addr::LOCALHOST.into(),
            command.stdout(Stdio::null()),
            flags,
        )
    }

    /// Starts the node `n1` of a cluster, which says what it has to say to `log`, or to nobody.
    pub(crate) fn launch_node(log: Option<&std::path::Path>, flags: &[&str]) -> Self {
        Self::launch_named("n1", log, flags)
    }

    /// The same with another name.
    pub(crate) fn launch_named(name: &str, log: Option<&std::path::Path>, flags: &[&str]) -> Self {
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        match log {
            Some(log) => {
                let file = std::fs::File::create(log).expect("a writable folder");
                command
                    .stdout(file.try_clone().expect("a file"))
                    .stderr(file);
            }
            None => _ = command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        }
        let node = [
            "--auth-secret",
            SECRET,
            "--node-id",
            name,
            "--log-format",
            "text",
        ];
        let flags = [&node[..], flags].concat();
        let mut edge = Self::launch_as("run", Ipv4Addr::LOCALHOST.into(), command, &flags);
        drop((edge.child.stdout.take(), edge.child.stderr.take()));
        edge
    }

    fn launch_on(listen: IpAddr, command: &mut Command, flags: &[&str]) -> Self {
        Self::launch_as("standalone", listen, command, flags)
    }

    fn launch_as(mode: &str, listen: IpAddr, command: &mut Command, flags: &[&str]) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let listen = SocketAddr::from((listen, address.port()));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        command.args([mode, "--listen", &listen.to_string()]);
        Self::launch_at(address, admin, command, flags)
    }

    /// Kills it and starts another one at its addresses at once.
    pub(crate) fn kill_and_start(mut self, flags: &[&str]) -> Self {
        let (address, admin) = (self.address, self.admin);
        self.signal(Signal::KILL);
        assert_eq!(self.wait(), None);
        let command = &mut Command::new(env!("CARGO_BIN_EXE_online-status-edge"));
        command.args(["standalone", "--listen", &address.to_string()]);
        let secret = ["--auth-secret", SECRET];
        let flags = [&secret[..], flags].concat();
        Self::launch_at(address, admin, command.stdout(Stdio::null()), &flags)
    }

    fn launch_at(
        address: SocketAddr,
        admin: SocketAddr,
        command: &mut Command,
        flags: &[&str],
    ) -> Self {
        let child = command
            .args(["--server-admin-listen", &admin.to_string()])
            .args(flags)
            .env_remove("JWT_SECRET")
            .spawn()
            .expect("the edge starts");
        let mut edge = Self {
            address,
            admin,
            child,
            unread: None,
        };
        edge.until("it answers", |edge| TcpStream::connect(edge.admin).is_ok());
        edge
    }

    pub(crate) fn until_ready(&mut self) {
        self.until("it is ready", |edge| edge.get_admin("/readyz").0 == 200);
    }

    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "never: {what}");
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the edge ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A line of the process's memory as the kernel counts it, in bytes (proc_pid_smaps(5)).
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let rollup = std::fs::read_to_string(path).expect("the edge runs");
        let value = rollup.lines().find_map(|text| text.strip_prefix(line));
        let kib = value.and_then(|value| value.trim_matches([':', ' ', 'k', 'B']).parse().ok());
        kib.map(|kib: u64| kib << 10)
            .expect("a line of smaps_rollup")
    }

    /// How many descriptors the process has open.
    pub(crate) fn open_descriptors(&self) -> u64 {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).expect("the edge runs").count() as u64
    }

    /// Lets the process have so many descriptors from now on; how many it could have before.
    pub(crate) fn limit_descriptors(&self, most: u64) -> u64 {
        use rustix::process::{Resource, getrlimit, prlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(most);
        let pid = Some(Pid::from_child(&self.child));
        let former = prlimit(pid, Resource::Nofile, limit).expect("it runs");
        former.current.expect("a limit")
    }

    /// Lets the process write no file beyond so many bytes from now on; `None` = any file.
    pub(crate) fn limit_files(&self, most: Option<u64>) {
        use rustix::process::{Resource, getrlimit, prlimit};
        let mut limit = getrlimit(Resource::Fsize);
        limit.current = most;
        prlimit(Some(Pid::from_child(&self.child)), Resource::Fsize, limit).expect("it runs");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// The exit code, once it ends by itself.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }

    /// A client of the user, welcomed.
    pub(crate) fn user(&self, user: &str) -> Client {
        let mut client = Client::open(self, &bearer(&token(user)));
        let welcome = client.message();
        assert_eq!(
            (&welcome["type"], &welcome["user"]),
            (&json!("welcome"), &json!(user))
        );
        client
    }

    /// A client without a token yet.
    pub(crate) fn stranger(&self) -> Client {
        Client::open(self, "")
    }

    /// Status and body of a plain request on the clients' address.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"),
        )
    }

    pub(crate) fn get_admin(&self, path: &str) -> (u16, String) {
        request(
            self.admin,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"),
        )
    }

    /// The sum of a metric over the lines that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.get_admin("/metrics").1;
        let lines = page
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label));
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric is what it should be.
    pub(crate) fn until_metric(&self, name: &str, label: &str, value: f64) {
        self.until_metric_is(name, label, |is| (is - value).abs() < 0.5);
    }

    /// Waits until a metric has got so far.
    pub(crate) fn until_metric_reaches(&self, name: &str, label: &str, value: f64) {
        self.until_metric_is(name, label, |is| is >= value);
    }

    pub(crate) fn until_metric_is(&self, name: &str, label: &str, good: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is = self.metric(name, label);
            if good(is) {
                return;
            }
            assert!(Instant::now() < deadline, "{name}{{{label}}} stays {is}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended already, as a test of that wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a raw request and reads the answer to it: status and body.
pub(crate) fn request(address: SocketAddr, request: &str) -> (u16, String) {
    let (head, body) = response(address, request);
    (status_of(&head), body)
}

/// The same: head, in lower case, and body.
pub(crate) fn response(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("it is read");
    read_response(&mut stream)
}

fn status_of(head: &str) -> u16 {
    let status = head
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no HTTP: {head:?}"));
    status.parse().expect("a status")
}

pub(crate) fn read_response(stream: &mut impl Read) -> (String, String) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let mut more = [0; 4_096];
        let count = stream.read(&mut more).expect("an answer");
        assert!(
            count > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&bytes)
        );
        bytes.extend_from_slice(&more[..count]);
    };
    let head = String::from_utf8(bytes[..end].to_vec())
        .expect("ASCII")
        .to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().expect("a length"));
    let mut body = bytes[end..].to_vec();
    while body.len() < length {
        let mut more = vec![0; length - body.len()];
        let count = stream.read(&mut more).expect("a body");
        assert!(count > 0, "closed in the body");
        body.extend_from_slice(&more[..count]);
    }
    // Frames may follow.
    body.truncate(length);
    (head, String::from_utf8(body).expect("UTF-8"))
}

pub(crate) fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A token of the tests' secret with these claims.
pub(crate) fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes()).expect("a secret");
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

pub(crate) fn token(user: &str) -> String {
    signed(&json!({ "sub": user, "exp": now() + 3_600 }))
}

/// The same with parameters in the target.
pub(crate) fn upgrade_at(query: &str, headers: &str) -> String {
    upgrade(headers).replacen("/socket ", &format!("/socket?{query} "), 1)
}

/// The head of an upgrade request with more header lines.
pub(crate) fn upgrade(headers: &str) -> String {
    format!(
        "GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
}

/// Waits a moment in which something would have happened.
pub(crate) fn moment() {
    std::thread::sleep(Duration::from_millis(400));
}
