//! Starts edges, and a WebSocket client of its own that can also say what no client should.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
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

fn free_port() -> u16 {
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

    /// Starts a node of a cluster, which says what it has to say to `log`, or to nobody.
    pub(crate) fn launch_node(log: Option<&std::path::Path>, flags: &[&str]) -> Self {
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
        let node = ["--auth-secret", SECRET, "--node-id", "n1"];
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

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const FIN: u8 = 0x80;

/// A frame as clients send it.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 0, 200, 31];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// A client's connection.
pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    input: VecDeque<u8>,
    /// The head of the answer to the upgrade, in lower case.
    pub(crate) head: String,
}

impl Client {
    pub(crate) fn open(edge: &Edge, headers: &str) -> Self {
        let stream = TcpStream::connect(edge.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::over(Box::new(stream), headers)
    }

    /// The same with parameters in the target.
    pub(crate) fn open_at(edge: &Edge, query: &str, headers: &str) -> Self {
        let stream = TcpStream::connect(edge.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::asks(Box::new(stream), &upgrade_at(query, headers))
    }

    /// Upgrades an open connection.
    pub(crate) fn over(stream: Box<dyn Stream>, headers: &str) -> Self {
        Self::asks(stream, &upgrade(headers))
    }

    fn asks(mut stream: Box<dyn Stream>, request: &str) -> Self {
        stream.write_all(request.as_bytes()).expect("it is read");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(
                stream.read(&mut byte).expect("an answer"),
                1,
                "closed in the upgrade"
            );
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(
            head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{head}"
        );
        Self {
            stream,
            input: VecDeque::new(),
            head,
        }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it is read");
    }

    pub(crate) fn say(&mut self, message: &Value) {
        self.raw(&frame(FIN | TEXT, message.to_string().as_bytes()));
    }

    fn byte(&mut self) -> Option<u8> {
        if self.input.is_empty() {
            let mut more = [0; 65_536];
            let count = loop {
                match self.stream.read(&mut more) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break 0,
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => break 0,
                    read => break read.expect("something comes"),
                }
            };
            self.input.extend(&more[..count]);
        }
        self.input.pop_front()
    }

    /// The next frame: opcode and payload; `None` at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = self.byte()?;
        let second = self.byte()?;
        assert_eq!(
            (first & 0x70, second & 0x80),
            (0, 0),
            "no reserved bits, no mask"
        );
        let extended = match second {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mut length = if extended == 0 {
            usize::from(second)
        } else {
            0
        };
        for _ in 0..extended {
            length = length << 8 | usize::from(self.byte()?);
        }
        let payload = (0..length)
            .map(|_| self.byte())
            .collect::<Option<Vec<u8>>>()?;
        assert_eq!(first & FIN, FIN, "the server does not fragment");
        Some((first & 0xf, payload))
    }

    /// The next frame that is no ping; pings are answered.
    pub(crate) fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            match self.frame()? {
                (PING, payload) => self.raw(&frame(FIN | PONG, &payload)),
                frame => return Some(frame),
            }
        }
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> Value {
        let (opcode, payload) = self.next().expect("a message");
        assert_eq!(opcode, TEXT, "{:?}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).expect("JSON")
    }

    /// Says something and takes the answer, which has to be of this type.
    pub(crate) fn ask(&mut self, message: &Value, kind: &str) -> Value {
        self.say(message);
        let answer = self.message();
        assert_eq!(answer["type"], kind, "{answer}");
        answer
    }

    /// The code of the close frame that comes next, and that the connection ends with it.
    pub(crate) fn closed(&mut self) -> u16 {
        self.close_frame().0
    }

    /// The same with its reason.
    pub(crate) fn close_frame(&mut self) -> (u16, String) {
        loop {
            match self.next().expect("a close frame") {
                (CLOSE, payload) => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    let reason = std::str::from_utf8(&payload[2..]).expect("a reason in UTF-8");
                    // The answer may find the connection closed.
                    let _ = self.stream.write_all(&frame(FIN | CLOSE, &payload));
                    assert!(self.next().is_none(), "nothing follows a close");
                    return (code, reason.to_owned());
                }
                (_, payload) => {
                    let text = String::from_utf8_lossy(&payload).into_owned();
                    assert!(!text.contains("\"error\""), "no close but {text}");
                }
            }
        }
    }

    /// Shows that the session works.
    pub(crate) fn works(&mut self) {
        let pong = self.ask(&json!({ "type": "ping", "id": "alive" }), "pong");
        assert_eq!(pong["id"], "alive");
    }

    /// Watches users; their records.
    pub(crate) fn watch(&mut self, users: &[&str]) -> Vec<Value> {
        let snapshot = self.ask(
            &json!({ "type": "watch", "users": users, "id": 1 }),
            "snapshot",
        );
        assert_eq!(snapshot["id"], 1);
        snapshot["users"].as_array().expect("records").clone()
    }

    /// The only record of the `presence` that comes next.
    pub(crate) fn change(&mut self) -> Value {
        let message = self.message();
        assert_eq!(message["type"], "presence", "{message}");
        let users = message["users"].as_array().expect("records");
        assert_eq!(users.len(), 1, "{message}");
        users[0].clone()
    }

    /// Nothing is under way to this client: what it asks is answered next.
    pub(crate) fn nothing_comes(&mut self) {
        self.works();
    }
}

/// Waits a moment in which something would have happened.
pub(crate) fn moment() {
    std::thread::sleep(Duration::from_millis(400));
}
