//! Starts real standalone edges on free ports, and ends them with the test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use online_status_client::{Builder, Client};

use crate::view::{PATIENCE, SECRET, token};

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

pub(crate) fn free_port() -> u16 {
    // Below the ports that the kernel gives to clients; apart from other test processes.
    let base = 12_000 + (std::process::id() % 30) as u16 * 100;
    loop {
        let port = base + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % 100;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The program that the workspace's build has left beside this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("target/release/deps");
    let program = folder.join("online-status-edge");
    assert!(
        program.exists(),
        "cargo build --release -p online-status-edge comes first"
    );
    program
}

/// An empty folder, removed with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let name = format!(
            "online-status-client-{}-{}",
            std::process::id(),
            free_port()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder of its own");
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left lies in the system's folder for that.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running standalone edge; killed with the test.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    flags: Vec<String>,
    child: Child,
}

impl Edge {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let child = launch(address, admin, &flags);
        let mut edge = Self {
            address,
            admin,
            flags,
            child,
        };
        edge.until_ready();
        edge
    }

    fn until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.admin).is_err() || TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "the edge is not ready");
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the edge ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the edge with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// Starts the edge again at the same address.
    pub(crate) fn restart(&mut self) {
        self.child = launch(self.address, self.admin, &self.flags);
        self.until_ready();
    }

    pub(crate) fn route(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client of `user` at this edge.
    pub(crate) fn client(&self, user: &str) -> Client {
        self.builder(user).connect().expect("good settings")
    }

    pub(crate) fn builder(&self, user: &str) -> Builder {
        let token = token(user, 3_600);
        Client::builder()
            .route(self.route())
            .token(move || std::future::ready(token.clone()))
    }
}

fn launch(address: SocketAddr, admin: SocketAddr, flags: &[String]) -> Child {
    Command::new(program())
        .args(["standalone", "--listen", &address.to_string()])
        .args(["--server-admin-listen", &admin.to_string()])
        .args(["--auth-secret", SECRET, "--server-pin", "false"])
        .args(flags)
        .env("ONLINE_STATUS_SERVER_CORES", "1")
        .env_remove("JWT_SECRET")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the edge starts")
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended already, as a test of that wants.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
