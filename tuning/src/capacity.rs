//! How many sessions this host can hold, by each thing that they take.

use serde::Serialize;

use crate::{
    check::descriptors,
    host::Host,
    item::{Group, Item, Mend, Severity},
    units,
};

/// Memory of the edge a session, bytes: measured (docs/benchmarks.md), with room.
const EDGE_BYTES: u64 = 3_000;
/// The same of the kernel for its socket: measured, one end of the connection.
const KERNEL_BYTES: u64 = 5_000;
/// With TLS, a session's state of it, bytes: measured (docs/performance.md), with room.
const TLS_BYTES: u64 = 7_000;
/// What stays free for bursts and everything else on the host, percent.
const RESERVE: u64 = 25;

/// One thing that sessions take.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) resource: String,
    pub(crate) has: String,
    pub(crate) takes: String,
    /// `None` = no bound.
    pub(crate) sessions: Option<u64>,
    /// Where more comes from.
    #[serde(skip)]
    more: More,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Hosts,
    Apply,
    Shell,
    Proxies,
}

impl Row {
    /// Whether it holds fewer than are wished for.
    fn is_short(&self, wished: u64) -> bool {
        self.sessions.is_some_and(|sessions| sessions < wished)
    }
}

/// What to do about each thing that holds fewer than are wished for.
pub(crate) fn advice(rows: &[Row], wished: u64) -> Vec<String> {
    let memory = rows.iter().find(|row| row.more == More::Hosts);
    let held = memory
        .and_then(|row| row.sessions)
        .map_or(wished, |held| held.min(wished));
    let one = |row: &Row| {
        let what = match row.more {
            More::Hosts => hosts(held, wished),
            More::Apply if held == 0 => return None,
            More::Apply => format!("online-status-tuning apply --sessions {held} raises it"),
            More::Shell => format!("ulimit -Hn {} raises it, as root", descriptors(held)),
            More::Proxies => {
                "more addresses of proxies, or there a wider net.ipv4.ip_local_port_range".into()
            }
        };
        Some(format!("{}: {what}", row.resource))
    };
    let short = rows.iter().filter(|row| row.is_short(wished));
    short.filter_map(one).collect()
}

/// How many hosts hold as many as are wished for, when one holds `held`.
fn hosts(held: u64, wished: u64) -> String {
    match wished.checked_div(held) {
        Some(_) => format!(
            "it holds {held} sessions here; {wished} take {} hosts like this one, or more memory",
            wished.div_ceil(held)
        ),
        None => "it holds none here: a host with more is needed".into(),
    }
}

/// Sessions that so much memory holds.
fn held(bytes: u64, each: u64) -> u64 {
    bytes / 100 * (100 - RESERVE) / each
}

/// Whether the memory that is free holds so many sessions, without TLS.
pub(crate) fn check(host: &Host, sessions: u64) -> Option<Item> {
    let (free, whose) = memory(host)?;
    let each = EDGE_BYTES + KERNEL_BYTES;
    let needed = sessions.saturating_mul(each) / (100 - RESERVE) * 100;
    let holds = held(free, each);
    Some(Item {
        group: Group::Memory,
        condition: "memory".into(),
        required: format!(">= {} MiB", needed >> 20),
        current: Some(format!("{} MiB{whose}", free >> 20)),
        severity: Severity::Fatal,
        passed: holds >= sessions,
        why: "a session takes 8 kB of edge and kernel, and a quarter stays free for bursts",
        source: "docs/capacity.md",
        mend: Mend::Advice(hosts(holds, sessions)),
    })
}

/// Whether this host could hold so many sessions if all its memory were free; else why not.
pub(crate) fn could_hold(host: &Host, sessions: u64) -> Result<(), String> {
    let each = EDGE_BYTES + KERNEL_BYTES;
    let needed = sessions.saturating_mul(each);
    match total(host) {
        Some(total) if needed > total => {
            let holds = held(total, each);
            let advice = match holds {
                0 => String::new(),
                _ => format!(
                    ": choose --sessions {holds} at most; {sessions} take {} hosts like this one",
                    sessions.div_ceil(holds)
                ),
            };
            Err(format!(
                "{sessions} sessions take {} MiB at least, and this host has {} MiB of memory in all{advice}",
                needed >> 20,
                total >> 20
            ))
        }
        _ => Ok(()),
    }
}

/// All things that bound the number of sessions; `address`es: of proxies in front, or 0 without.
pub(crate) fn rows(host: &Host, tls: bool, proxies: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    let each = EDGE_BYTES + KERNEL_BYTES + if tls { TLS_BYTES } else { 0 };
    if let Some((free, whose)) = memory(host) {
        rows.push(Row {
            resource: "memory".into(),
            has: format!("{} MiB{whose}, {RESERVE} % of it kept", free >> 20),
            takes: format!("{each} bytes"),
            sessions: Some(held(free, each)),
            more: More::Hosts,
        });
    }
    rows.extend(limits(host));
    for (name, share) in [("nr_open", 1), ("file-max", 2)] {
        let most = host.number(&format!("/proc/sys/fs/{name}"));
        let row = |most| files(format!("fs.{name}"), most, most / share, "", More::Apply);
        rows.extend(most.map(row));
    }
    let pressure = host.read("/proc/sys/net/ipv4/tcp_mem");
    let pressure = pressure.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    if let Some(pages) = pressure {
        rows.push(Row {
            resource: "net.ipv4.tcp_mem, pressure".into(),
            has: format!("{pages} pages"),
            takes: "2 pages".into(),
            sessions: Some(pages / 2),
            more: More::Apply,
        });
    }
    if let Some(most) = host.number("/proc/sys/net/netfilter/nf_conntrack_max") {
        rows.push(Row {
            resource: "net.netfilter.nf_conntrack_max".into(),
            has: most.to_string(),
            takes: "2 entries".into(),
            sessions: Some(most / 2),
            more: More::Apply,
        });
    }
    rows.push(ports(host, proxies));
    rows
}

/// The limit of open files: of each unit of the edge that is installed, else of this shell.
fn limits(host: &Host) -> Vec<Row> {
    let installed = units::installed(host);
    if installed.is_empty() {
        let most = host.open_files();
        let whose = ", as no unit of the edge is installed";
        let resource = "limit of open files of this shell".into();
        return vec![files(resource, most, most, whose, More::Shell)];
    }
    let of_unit = |unit: &str| {
        let (most, file) = units::open_files(host, unit);
        let whose = file.map_or(", systemd's default".into(), |file| format!(", {file}"));
        files(
            format!("LimitNOFILE of {unit}"),
            most,
            most,
            &whose,
            More::Apply,
        )
    };
    installed.into_iter().map(of_unit).collect()
}

/// So many open files, of which sessions may have so many.
fn files(resource: String, has: u64, most: u64, whose: &str, more: More) -> Row {
    let has = match has {
        u64::MAX => "unlimited".into(),
        _ => has.to_string(),
    };
    Row {
        resource,
        has: has + whose,
        takes: "1.1 descriptors".into(),
        sessions: (most < u64::MAX).then(|| most.saturating_sub(descriptors(0)) / 11 * 10),
        more,
    }
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
        resource: "ports".into(),
        has: if proxies == 0 {
            "clients connect directly".into()
        } else {
            format!("{proxies} addresses of proxies with {ports} ports (as here)")
        },
        takes: "1 port".into(),
        sessions: (proxies > 0).then_some(proxies.saturating_mul(ports)),
        more: More::Proxies,
    }
}

/// What may still be used, bytes: of the host, or of what bounds the edge when that is less, and what it is.
fn memory(host: &Host) -> Option<(u64, String)> {
    let free = size(host, "MemAvailable:")?;
    let total = total(host).unwrap_or(free);
    let installed = units::installed(host);
    let of_units = installed.iter().filter_map(|unit| {
        let bound = units::bound(host, unit, "MemoryMax")?;
        let bytes = units::bytes(&bound.value, total)?;
        Some((bytes, format!(", MemoryMax of {unit}")))
    });
    // A shell's own group does not bound a service; what is above all does, as in a container.
    let groups = host
        .groups()
        .filter(|group| installed.is_empty() || group == "/sys/fs/cgroup");
    let of_groups = groups.filter_map(|group| {
        let bytes = host.number(&format!("{group}/memory.max"))?;
        Some((bytes, format!(", {group}/memory.max")))
    });
    let bounds = of_units.chain(of_groups);
    bounds.chain([(free, String::new())]).min()
}

/// All memory of the host, bytes.
fn total(host: &Host) -> Option<u64> {
    size(host, "MemTotal:")
}

fn size(host: &Host, name: &str) -> Option<u64> {
    let info = host.read("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << 10)
}
