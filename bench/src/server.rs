//! What the server's process costs, read from /proc. It only reads; a process that is not ours or
//! not here gives nothing.

use std::{fs, net::SocketAddr, path::PathBuf};

use rustix::param::clock_ticks_per_second;

/// A look at the server and the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// User and system time so far, µs.
    pub(crate) cpu_us: u64,
    /// Resident memory, bytes.
    pub(crate) resident: u64,
    /// The kernel's slabs, bytes: of the whole machine, so both ends of loopback connections.
    pub(crate) slab: u64,
}

fn kib_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
}

/// Looks at a process; `None` when it cannot be read.
pub(crate) fn sample(pid: u32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    Some(Sample {
        cpu_us: ticks * 1_000_000 / clock_ticks_per_second(),
        resident: kib_after(&status, "VmRSS:")?,
        slab: kib_after(&memory, "Slab:")?,
    })
}

/// The process that listens on a loopback address, if it may be looked at.
pub(crate) fn listener(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // local address, remote address, state (0A = listening), ..., inode
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&format!(":{:04X}", address.port()))
            {
                sockets.push(PathBuf::from(format!("socket:[{inode}]")));
            }
        }
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let files = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten();
            files
                .filter_map(|file| fs::read_link(file.path()).ok())
                .any(|to| sockets.contains(&to))
        })
}

/// What the numbers were taken on.
pub(crate) fn host() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    format!("Linux {}, {processors} × {model}", release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        let mine = sample(std::process::id()).expect("our own /proc");
        assert!(mine.resident > 1 << 20 && mine.slab > 1 << 20);
        let listening = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listening.local_addr().expect("an address");
        assert_eq!(listener(address), Some(std::process::id()));
    }
}
