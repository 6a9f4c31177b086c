//! How many sessions this host can hold, by each thing that they take.

use serde::Serialize;

use crate::{check::descriptors, host::Host};

/// Memory of the edge a session, bytes: measured (docs/benchmarks.md), with room.
const EDGE_BYTES: u64 = 3_000;
/// The same of the kernel for its socket: measured, one end of the connection.
const KERNEL_BYTES: u64 = 5_000;
/// With TLS, a session's state of it, bytes.
const TLS_BYTES: u64 = 12_000;
/// What stays free for bursts and everything else on the host, percent.
const RESERVE: u64 = 25;

/// One thing that sessions take.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) resource: &'static str,
    pub(crate) has: String,
    pub(crate) takes: String,
    /// `None` = no bound.
    pub(crate) sessions: Option<u64>,
}

/// All things that bound the number of sessions; `address`es: of proxies in front, or 0 without.
pub(crate) fn rows(host: &Host, tls: bool, proxies: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    let each = EDGE_BYTES + KERNEL_BYTES + if tls { TLS_BYTES } else { 0 };
    if let Some(free) = memory(host) {
        rows.push(Row {
            resource: "memory",
            has: format!("{} MiB, {RESERVE} % of it kept", free >> 20),
            takes: format!("{each} bytes"),
            sessions: Some(free / 100 * (100 - RESERVE) / each),
        });
    }
    let mut files = vec![("limit of open files of this shell", host.open_files())];
    files.extend(
        host.number("/proc/sys/fs/nr_open")
            .map(|most| ("fs.nr_open", most)),
    );
    files.extend(
        host.number("/proc/sys/fs/file-max")
            .map(|most| ("fs.file-max", most / 2)),
    );
    for (resource, most) in files {
        let spare = descriptors(0);
        rows.push(Row {
            resource,
            has: if most == u64::MAX {
                "unlimited".into()
            } else {
                most.to_string()
            },
            takes: "1.1 descriptors".into(),
            sessions: (most < u64::MAX).then(|| most.saturating_sub(spare) / 11 * 10),
        });
    }
    let pressure = host.read("/proc/sys/net/ipv4/tcp_mem");
    let pressure = pressure.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    if let Some(pages) = pressure {
        rows.push(Row {
            resource: "net.ipv4.tcp_mem, pressure",
            has: format!("{pages} pages"),
            takes: "2 pages".into(),
            sessions: Some(pages / 2),
        });
    }
    if let Some(most) = host.number("/proc/sys/net/netfilter/nf_conntrack_max") {
        rows.push(Row {
            resource: "net.netfilter.nf_conntrack_max",
            has: most.to_string(),
            takes: "2 entries".into(),
            sessions: Some(most / 2),
        });
    }
    rows.push(ports(host, proxies));
    rows
}

/// Clients have a port of their own each; those of a proxy have its ports.
fn ports(host: &Host, proxies: u64) -> Row {
    let range = host
        .read("/proc/sys/net/ipv4/ip_local_port_range")
        .unwrap_or_default();
    let bounds: Vec<u64> = range
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let ports = match bounds.as_slice() {
        [first, last] if last >= first => last - first + 1,
        _ => 28_232,
    };
    Row {
        resource: "ports",
        has: if proxies == 0 {
            "clients connect directly".into()
        } else {
            format!("{proxies} addresses of proxies with {ports} ports (as here)")
        },
        takes: "1 port".into(),
        sessions: (proxies > 0).then_some(proxies * ports),
    }
}

/// What may still be used, bytes: of the host, or of the control group when that is less.
fn memory(host: &Host) -> Option<u64> {
    let info = host.read("/proc/meminfo")?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.split_whitespace().next()?.parse::<u64>().ok()? << 10;
    let own = host.read("/proc/self/cgroup").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/")
        .to_owned();
    let limit = host.number(&format!("/sys/fs/cgroup{own}/memory.max"));
    Some(limit.map_or(free, |limit| limit.min(free)))
}
