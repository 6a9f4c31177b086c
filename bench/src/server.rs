//! What a process costs and who listens where, read from /proc. It only reads; a process that is
//! not ours or not here gives nothing.

use std::{
    fs,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use rustix::param::clock_ticks_per_second;

/// One look at a process: its CPU time and memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// CPU time in user and system mode so far, µs.
    pub(crate) cpu_us: u64,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
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
    Some(Sample {
        cpu_us: ticks * 1_000_000 / clock_ticks_per_second(),
        resident: kib_after(&status, "VmRSS:")?,
    })
}

/// The kernel's slabs, bytes: of the whole machine, so both ends of loopback connections.
pub(crate) fn slab() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kib_after(&memory, "Slab:").unwrap_or(0)
}

/// The machine's main memory, bytes.
pub(crate) fn memory() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kib_after(&memory, "MemTotal:").unwrap_or(0)
}

/// Main memory that is left for processes, bytes.
pub(crate) fn available() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kib_after(&memory, "MemAvailable:").unwrap_or(0)
}

/// The name of a process's program, as the kernel has it.
pub(crate) fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// The build ID that the linker left in a process's program, in hex; `None` when it cannot be read or
/// has none.
pub(crate) fn build(pid: u32) -> Option<String> {
    let mut head = [0; 4_096];
    let count = fs::File::open(format!("/proc/{pid}/exe"))
        .and_then(|mut file| file.read(&mut head))
        .ok()?;
    // A note (ELF, System V ABI): length of its name and of its content, its type (3 = build ID), name.
    let name = b"\x03\0\0\0GNU\0";
    let at = head[..count].windows(name.len()).position(|w| w == name)?;
    let length = u32::from_le_bytes(*head.get(at.checked_sub(4)?..)?.first_chunk()?);
    let id = head[at + name.len()..count].get(..length as usize)?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An address as the tables of the kernel have it: words of the host's byte order in hex.
fn kernel_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = (0..ip.len() / 8).map(|word| u32::from_str_radix(&ip[word * 8..][..8], 16));
    let bytes: Vec<u8> = words
        .collect::<Result<Vec<u32>, _>>()
        .ok()?
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match <[u8; 4]>::try_from(&*bytes) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&*bytes).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The listening sockets, by address, as links in `/proc/<pid>/fd` name them.
fn listening() -> Vec<(SocketAddr, PathBuf)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // local address, remote address, state (0A = listening), ..., inode
            let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
                return None;
            };
            let socket = PathBuf::from(format!("socket:[{inode}]"));
            Some((kernel_address(local)?, socket))
        })
        .collect()
}

/// The processes that listen on loopback addresses, as far as they may be looked at.
pub(crate) fn listeners(addresses: &[SocketAddr]) -> Vec<Option<u32>> {
    let listening = listening();
    let socket = |address: &SocketAddr| {
        let at = |ip| {
            let wanted = SocketAddr::new(ip, address.port());
            listening.iter().find(|(at, _)| *at == wanted)
        };
        let any = [IpAddr::from([0; 4]), IpAddr::from([0; 16])];
        let found = at(address.ip()).or_else(|| any.into_iter().find_map(at));
        found.filter(|_| address.ip().is_loopback())
    };
    let sockets: Vec<Option<&PathBuf>> = addresses
        .iter()
        .map(|address| socket(address).map(|(_, socket)| socket))
        .collect();
    let mut pids = vec![None; addresses.len()];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let files = fs::read_dir(entry.path().join("fd"));
        for file in files.into_iter().flatten().flatten() {
            let Ok(to) = fs::read_link(file.path()) else {
                continue;
            };
            for (found, socket) in pids.iter_mut().zip(&sockets) {
                if socket.is_some_and(|socket| *socket == to) {
                    *found = Some(pid);
                }
            }
        }
    }
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        let mine = sample(std::process::id()).expect("our own /proc");
        assert!(mine.resident > 1 << 20 && slab() > 1 << 20);
        assert!(!name(std::process::id()).is_empty());
    }

    #[test]
    fn listeners_are_found_by_their_whole_address() {
        let one = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let one = (one.local_addr().expect("an address"), one);
        let other = SocketAddr::from(([127, 0, 0, 9], one.0.port()));
        let six = std::net::TcpListener::bind("[::]:0").expect("a port");
        let port = six.local_addr().expect("an address").port();
        let mapped = SocketAddr::from(([127, 0, 0, 1], port));
        let me = Some(std::process::id());
        assert_eq!(listeners(&[one.0, other, mapped]), [me, None, me]);
    }
}
