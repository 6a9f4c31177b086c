//! What is required of a host for so many sessions, and why: limits, memory, quotas and power. Kernel
//! parameters are in `parameters.rs`, network cards in `cards.rs`.

use crate::{
    cards,
    host::Host,
    item::{Group, Item, Mend, Severity},
    parameters,
    plan::read_value,
};

/// Descriptors of an edge with so many sessions: the rest is for files, rings and the bridges.
pub(crate) fn descriptors(sessions: u64) -> u64 {
    sessions + sessions / 10 + 1_000
}

/// The units of the package, and where a distribution puts them.
const UNITS: [&str; 2] = ["online-status-edge@.service", "online-status-edge.service"];
const UNIT_FOLDERS: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// The drop-in that `apply` makes for a unit.
pub(crate) const DROP_IN: &str = "50-online-status-tuning.conf";

/// Looks at everything that `sessions` sessions need.
pub(crate) fn check(host: &Host, sessions: u64) -> Vec<Item> {
    let mut items = vec![ring(host)];
    items.extend(open_files(host, sessions));
    items.extend(parameters::check(host, sessions));
    items.extend(cards::check(host));
    items.push(huge_pages(host));
    items.extend(nodes(host));
    items.extend(quotas(host));
    items.extend(governors(host));
    items.extend(idle_states(host));
    items
}

fn ring(host: &Host) -> Item {
    let made = host.make_ring();
    let advice = match made.as_ref().err().and_then(std::io::Error::raw_os_error) {
        // EPERM is Docker's answer, ENOSYS podman's.
        Some(1 | 38) if host.read("/proc/sys/kernel/io_uring_disabled").as_deref() == Some("0") => {
            "the seccomp profile of this container or service refuses it: allow io_uring_setup, io_uring_enter \
             and io_uring_register (docker/seccomp-io_uring.json does)"
        }
        Some(38) => "Linux 6.1 or newer is needed, built with io_uring",
        Some(1) => "sysctl -w kernel.io_uring_disabled=0",
        _ => {
            "the kernel says why it makes no ring: free memory, or a higher limit of locked memory"
        }
    };
    Item {
        group: Group::Limits,
        condition: "io_uring".into(),
        required: "a ring can be made".into(),
        current: Some(
            made.as_ref()
                .map_or_else(ToString::to_string, |()| "made one".into()),
        ),
        severity: Severity::Fatal,
        passed: made.is_ok(),
        why: "the edge is built on io_uring",
        source: "io_uring_setup(2)",
        mend: Mend::Advice(advice.into()),
    }
}

/// Of each unit of the edge that is installed, else of this process.
fn open_files(host: &Host, sessions: u64) -> Vec<Item> {
    let required = descriptors(sessions);
    let item = |condition: String, current: u64, mend| Item {
        group: Group::Limits,
        condition,
        required: format!(">= {required}"),
        current: Some(if current == u64::MAX {
            "unlimited".into()
        } else {
            current.to_string()
        }),
        severity: Severity::Fatal,
        passed: current >= required,
        why: "a session is a descriptor",
        source: "systemd.exec(5), LimitNOFILE=",
        mend,
    };
    let units: Vec<Item> = UNITS
        .iter()
        .filter_map(|unit| {
            let current = unit_limit(host, unit)?;
            let line = format!("LimitNOFILE={required}");
            Some(item(
                format!("{unit} LimitNOFILE"),
                current,
                Mend::Unit { line },
            ))
        })
        .collect();
    if !units.is_empty() {
        return units;
    }
    let advice = format!("LimitNOFILE={required} in the unit, or ulimit -Hn {required}");
    vec![item(
        "open files of a process".into(),
        host.open_files(),
        Mend::Advice(advice),
    )]
}

/// The last `LimitNOFILE=` of a unit and its drop-ins, when it is installed.
fn unit_limit(host: &Host, unit: &str) -> Option<u64> {
    let mut files: Vec<String> = UNIT_FOLDERS
        .iter()
        .map(|folder| format!("{folder}/{unit}"))
        .collect();
    files.retain(|file| host.exists(file));
    files.truncate(1);
    files.first()?;
    for folder in UNIT_FOLDERS.iter().rev() {
        let folder = format!("{folder}/{unit}.d");
        files.extend(
            host.list(&folder)
                .iter()
                .map(|name| format!("{folder}/{name}")),
        );
    }
    let mut limit = 524_288;
    for text in files.iter().filter_map(|file| host.read(file)) {
        for value in text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("LimitNOFILE="))
        {
            // `soft:hard` or both at once.
            let hard = value.rsplit(':').next().unwrap_or_default();
            limit = if hard == "infinity" {
                u64::MAX
            } else {
                hard.parse().unwrap_or(limit)
            };
        }
    }
    Some(limit)
}

/// The folders of the drop-ins of the units that are installed.
pub(crate) fn drop_ins(host: &Host) -> Vec<String> {
    let installed = |unit: &&&str| unit_limit(host, unit).is_some();
    let path = |unit: &&str| format!("/etc/systemd/system/{unit}.d/{DROP_IN}");
    UNITS.iter().filter(installed).map(path).collect()
}

fn huge_pages(host: &Host) -> Item {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let current = read_value(host, path);
    let always = current.as_deref() == Some("always");
    Item {
        group: Group::Memory,
        condition: "transparent huge pages".into(),
        required: "madvise or never".into(),
        current,
        severity: Severity::Warn,
        passed: !always,
        why: "memory grows by whole huge pages (the edge keeps its own process from them)",
        source: "kernel: admin-guide/mm/transhuge",
        mend: Mend::Value {
            path: path.into(),
            value: "madvise".into(),
        },
    }
}

/// More than one NUMA node: an edge on each, with its memory there.
fn nodes(host: &Host) -> Option<Item> {
    let is_node = |name: &String| {
        name.strip_prefix("node")
            .is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let nodes = host
        .list("/sys/devices/system/node")
        .into_iter()
        .filter(is_node)
        .count();
    (nodes > 1).then(|| Item {
        group: Group::Memory,
        condition: "NUMA nodes".into(),
        required: "1, or an edge on each".into(),
        current: Some(nodes.to_string()),
        severity: Severity::Warn,
        passed: false,
        why: "memory of another node is slower",
        source: "kernel: admin-guide/mm/numa_memory_policy",
        mend: Mend::Advice(
            "an edge for each node, with NUMAPolicy=bind, NUMAMask= and CPUAffinity=numa in a drop-in of its unit"
                .into(),
        ),
    })
}

/// Of the control groups above this process, the first that limits it.
fn quotas(host: &Host) -> Vec<Item> {
    let own = host.read("/proc/self/cgroup").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/")
        .to_owned();
    let above = |file: &str| -> Option<String> {
        let mut path = own.as_str();
        loop {
            let value = host.read(&format!("/sys/fs/cgroup{path}/{file}"));
            if let Some(value) = value.filter(|value| !value.starts_with("max")) {
                return Some(value);
            }
            path = path
                .rsplit_once('/')
                .map(|(above, _)| above)
                .filter(|_| path != "/")?;
        }
    };
    let item = |file: &str, required: &str, why, fix: &str| {
        let current = above(file);
        Item {
            group: Group::Cgroup,
            condition: format!("cgroup {file}"),
            required: required.into(),
            passed: current.is_none(),
            current: Some(current.unwrap_or_else(|| "max".into())),
            severity: Severity::Warn,
            why,
            source: "kernel: admin-guide/cgroup-v2",
            mend: Mend::Advice(fix.into()),
        }
    };
    vec![
        item(
            "cpu.max",
            "no quota",
            "a quota stops all threads for tens of milliseconds, again and again",
            "no CPUQuota= for the unit, no CPU limit for the container; give it CPUs of its own instead",
        ),
        item(
            "memory.high",
            "no limit",
            "the kernel slows the process down before it ends it; socket memory counts",
            "MemoryHigh=infinity, and MemoryMax= above what `online-status-tuning capacity` says",
        ),
        item(
            "pids.max",
            "no limit",
            "threads of the bridges and of rings count",
            "TasksMax=infinity in the unit, --pids-limit=-1 for a container",
        ),
    ]
}

fn value(
    group: Group,
    path: String,
    current: String,
    wanted: &str,
    passed: bool,
    why: &'static str,
    source: &'static str,
) -> Item {
    Item {
        group,
        condition: path.clone(),
        required: wanted.into(),
        current: Some(current),
        severity: Severity::Warn,
        passed,
        why,
        source,
        mend: Mend::Value {
            path,
            value: wanted.into(),
        },
    }
}

fn governors(host: &Host) -> Vec<Item> {
    let path = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
    let look = |cpu: usize| {
        let current = host.read(&path(cpu))?;
        let passed = current == "performance";
        let why = "a session's message finds the clock at its full rate";
        let source = "kernel: admin-guide/pm/cpufreq";
        Some(value(
            Group::Power,
            path(cpu),
            current,
            "performance",
            passed,
            why,
            source,
        ))
    };
    host.cpus().into_iter().filter_map(look).collect()
}

/// Idle states from which a CPU needs longer to wake.
const LONG_WAKE_US: u64 = 10;

fn idle_states(host: &Host) -> Vec<Item> {
    let mut items = Vec::new();
    for cpu in host.cpus() {
        let folder = format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle");
        for state in host.list(&folder) {
            let latency = host
                .number(&format!("{folder}/{state}/latency"))
                .unwrap_or(0);
            let path = format!("{folder}/{state}/disable");
            let Some(current) = host.read(&path).filter(|_| latency > LONG_WAKE_US) else {
                continue;
            };
            let passed = current == "1";
            let why = "waking from it takes longer than the rest of a delivery";
            items.push(value(
                Group::Power,
                path,
                current,
                "1",
                passed,
                why,
                "kernel: admin-guide/pm/cpuidle",
            ));
        }
    }
    items
}
