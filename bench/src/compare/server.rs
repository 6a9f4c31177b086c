//! A server that runs for one load: started on a core of its own, waited for, ended.

use std::{
    fs::File,
    io::{self, Read, Seek},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::peers::{Kind, Peer};
use crate::cli::DEVELOPMENT_SECRET;

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this process may use all of these cores.
pub(super) fn may_use(cores: &[usize]) -> bool {
    let mine = sched_getaffinity(None);
    let mine = mine.unwrap_or_default();
    cores
        .iter()
        .all(|core| *core < CpuSet::MAX_CPU && mine.is_set(*core))
}

/// Starts something on one core: a process inherits the cores of the thread that starts it.
pub(super) fn pinned<T>(core: usize, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    let mut one = CpuSet::new();
    one.set(core);
    sched_setaffinity(None, &one)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    started
}

pub(crate) struct Running {
    child: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Running {
    /// # Errors
    /// Why it does not run, for people.
    pub(super) fn start(peer: &Peer, program: &Path, core: usize) -> Result<Self, String> {
        Self::begin(peer.kind, program, Some(core))
            .map_err(|error| format!("{}: {error}", peer.name))
    }

    /// An edge on whichever core is free.
    ///
    /// # Errors
    /// Why it does not run, for people.
    pub(crate) fn edge(program: &Path) -> Result<Self, String> {
        Self::begin(Kind::Ours, program, None).map_err(|error| format!("an edge: {error}"))
    }

    pub(crate) fn edge_url(&self) -> String {
        format!("ws://{}/socket", self.address)
    }

    fn begin(kind: Kind, program: &Path, core: Option<usize>) -> io::Result<Self> {
        let address = free()?;
        let mut said = tempfile()?;
        let mut command = Command::new(program);
        if kind == Kind::Ours {
            command.arg("standalone").arg(format!("--listen={address}"));
            command.arg(format!("--server-admin-listen={}", free()?));
            command.args(["--server-cores=1", "--server-pin=false"]);
            // Its peers tell each change of one publisher, too.
            command.arg("--presence-change-rate=0");
        } else {
            command.arg(address.to_string());
        }
        command
            .env("JWT_SECRET", DEVELOPMENT_SECRET)
            .env("GOMAXPROCS", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(said.try_clone()?);
        let mut running = Self {
            child: match core {
                Some(core) => pinned(core, || command.spawn())?,
                // Ctrl-C is for the bench, which ends it when the results are there.
                None => command.process_group(0).spawn()?,
            },
            address,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = running.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let mut text = String::new();
                said.rewind()?;
                said.read_to_string(&mut text)?;
                let last = text.lines().last().unwrap_or("it says nothing");
                let what = match ended {
                    Some(status) => format!("ended with {status}: {last}"),
                    None => format!("does not listen after {} s: {last}", PATIENCE.as_secs()),
                };
                return Err(io::Error::other(what));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // So that what it does when it starts is over.
        std::thread::sleep(Duration::from_millis(300));
        Ok(running)
    }

    pub(super) fn url(&self, peer: &Peer) -> String {
        format!("ws://{}{}", self.address, peer.path())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// A file without a name, for what a server says.
fn tempfile() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("online-status-bench-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_on_a_core_stays_there_and_this_thread_does_not() {
        let before = sched_getaffinity(None).expect("cores");
        let core = (0..CpuSet::MAX_CPU)
            .find(|core| before.is_set(*core))
            .expect("a core");
        let output = pinned(core, || {
            Command::new("cat").arg("/proc/self/status").output()
        });
        let output = String::from_utf8(output.expect("cat runs").stdout).expect("text");
        let allowed = output
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        assert_eq!(allowed.map(str::trim), Some(core.to_string().as_str()));
        assert_eq!(sched_getaffinity(None).expect("cores"), before);
        assert!(may_use(&[core]) && !may_use(&[CpuSet::MAX_CPU]));
    }
}
