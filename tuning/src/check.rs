//! What is required of a host for so many sessions, and why: limits, memory, quotas and power. Kernel
//! parameters are in `parameters.rs`, network cards in `cards.rs`.

use crate::{
    boot::Boot,
    capacity, cards,
    host::Host,
    item::{Group, Item, Mend, Severity},
    parameters,
    plan::read_value,
    units,
};

/// Descriptors of an edge with so many sessions: the rest is for files, rings and the bridges.
pub(crate) fn descriptors(sessions: u64) -> u64 {
    sessions + sessions / 10 + 1_000
}

/// Looks at everything that `sessions` sessions need.
pub(crate) fn check(host: &Host, sessions: u64) -> Vec<Item> {
    let boot = Boot::read(host);
    let mut items = vec![ring(host)];
    items.extend(open_files(host, sessions));
    items.extend(parameters::check(host, &boot, sessions));
    items.extend(cards::check(host, &boot));
    items.extend(capacity::check(host, sessions));
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
    let of_unit = |unit: &str| {
        let (current, file) = units::open_files(host, unit);
        let line = format!("LimitNOFILE={required}");
        let mend = match file.filter(|file| units::is_later(file)) {
            // A drop-in of `apply` would not count.
            Some(file) => Mend::Advice(format!(
                "{line} in {file}, which wins over {}",
                units::DROP_IN
            )),
            None => Mend::Unit { line },
        };
        item(format!("{unit} LimitNOFILE"), current, mend)
    };
    let items: Vec<Item> = units::installed(host).into_iter().map(of_unit).collect();
    if !items.is_empty() {
        return items;
    }
    let advice = format!("LimitNOFILE={required} in the unit, or ulimit -Hn {required}");
    vec![item(
        "open files of a process".into(),
        host.open_files(),
        Mend::Advice(advice),
    )]
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

/// What bounds the edge: settings of its units where they are installed, else of the control groups above
/// this process the first that limits it.
fn quotas(host: &Host) -> Vec<Item> {
    let rows = [
        (
            "cpu.max",
            "CPUQuota",
            "a quota stops all threads for tens of milliseconds, again and again",
            "no CPUQuota= for the unit, no CPU limit for the container; give it CPUs of its own instead",
        ),
        (
            "memory.high",
            "MemoryHigh",
            "the kernel slows the process down before it ends it; socket memory counts",
            "MemoryHigh=infinity, and MemoryMax= above what `online-status-tuning capacity` says",
        ),
        (
            "pids.max",
            "TasksMax",
            "threads of the bridges and of rings count",
            "TasksMax=infinity in the unit, --pids-limit=-1 for a container",
        ),
    ];
    let item = |condition, current: Option<String>, none: &str, why, fix: &str| Item {
        group: Group::Cgroup,
        condition,
        required: "no bound".into(),
        passed: current.is_none(),
        current: Some(current.unwrap_or_else(|| none.into())),
        severity: Severity::Warn,
        why,
        source: "kernel: admin-guide/cgroup-v2",
        mend: Mend::Advice(fix.into()),
    };
    let units = units::installed(host);
    let of_units = units.iter().flat_map(|unit| {
        rows.map(|(_, key, why, fix)| {
            let current = units::bound(host, unit, key);
            let current = current.map(|bound| format!("{} ({})", bound.value, bound.file));
            item(format!("{unit} {key}"), current, "none", why, fix)
        })
    });
    let of_groups = rows
        .into_iter()
        .filter(|_| units.is_empty())
        .map(|(file, _, why, fix)| {
            let current = host.groups().find_map(|group| {
                let value = host.read(&format!("{group}/{file}"))?;
                (!value.starts_with("max")).then_some(value)
            });
            item(format!("cgroup {file}"), current, "max", why, fix)
        });
    of_units.chain(of_groups).collect()
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
