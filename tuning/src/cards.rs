//! Network cards: as many queues as CPUs, and each queue served by a CPU of its own. With one queue the
//! kernel spreads packets by itself (RPS).

use std::process::Command;

use crate::{
    boot::Boot,
    host::{Host, mask, same_mask},
    item::{Group, Item, Mend, Severity},
};

const SCALING: &str = "kernel: networking/scaling";
/// Flows that are followed for RFS, of the host and so of all queues together.
const FLOWS: u64 = 32_768;

/// Looks at each card that is one: not at loopback, bridges and tunnels.
pub(crate) fn check(host: &Host, boot: &Boot) -> Vec<Item> {
    let cpus = host.cpus();
    let mut items = Vec::new();
    for card in host.list("/sys/class/net") {
        let folder = format!("/sys/class/net/{card}");
        if !host.exists(&format!("{folder}/device")) || cpus.len() < 2 {
            continue;
        }
        let queues = |kind: &str| {
            let names = host.list(&format!("{folder}/queues"));
            let is_one = |name: &String| name.starts_with(kind);
            names.into_iter().filter(is_one).collect::<Vec<_>>()
        };
        let (received, sent) = (queues("rx-"), queues("tx-"));
        items.extend(channels(host, &card, received.len(), cpus.len()));
        items.extend(interrupts(host, &card, &cpus));
        for queue in &received {
            items.extend(steering(
                host,
                boot,
                &format!("{folder}/queues/{queue}"),
                received.len(),
                &cpus,
            ));
        }
        if sent.len() > 1 {
            for (n, queue) in sent.iter().enumerate() {
                let path = format!("{folder}/queues/{queue}/xps_cpus");
                let wanted = mask(&[cpus[n % cpus.len()]]);
                items.extend(masked(
                    host,
                    path,
                    wanted,
                    "XPS: a CPU sends by a queue of its own, without a lock",
                ));
            }
        }
    }
    if !items.is_empty() {
        items.extend(balancer(host));
    }
    items
}

fn item(
    condition: String,
    required: String,
    current: String,
    passed: bool,
    why: &'static str,
    mend: Mend,
) -> Item {
    Item {
        group: Group::Interrupts,
        condition,
        required,
        current: Some(current),
        severity: Severity::Warn,
        passed,
        why,
        source: SCALING,
        mend,
    }
}

fn masked(host: &Host, path: String, wanted: String, why: &'static str) -> Option<Item> {
    let current = host.read(&path)?;
    let passed = same_mask(&current, &wanted);
    let mend = Mend::Value {
        path: path.clone(),
        value: wanted.clone(),
    };
    Some(item(path, wanted, current, passed, why, mend))
}

/// With fewer queues than CPUs, packets of a queue go to all CPUs by flow; else to the one that was
/// interrupted.
fn steering(host: &Host, boot: &Boot, queue: &str, queues: usize, cpus: &[usize]) -> Vec<Item> {
    let few = queues < cpus.len();
    let path = format!("{queue}/rps_cpus");
    let wanted = mask(if few { cpus } else { &[] });
    let why =
        "RPS: with fewer queues than CPUs the kernel spreads packets, with as many it need not";
    let mut items: Vec<Item> = masked(host, path, wanted, why).into_iter().collect();
    if !few {
        return items;
    }
    let path = format!("{queue}/rps_flow_cnt");
    if let Some(current) = host.read(&path) {
        // The kernel rounds up to a power of two.
        let wanted = (FLOWS / queues as u64).next_power_of_two();
        let passed = current
            .parse::<u64>()
            .is_ok_and(|current| current >= wanted);
        let wanted = wanted.to_string();
        let mend = Mend::Value {
            path: path.clone(),
            value: wanted.clone(),
        };
        items.push(item(
            path,
            format!(">= {wanted}"),
            current,
            passed,
            "RFS: packets go where their socket is read",
            mend,
        ));
    }
    let name = "net.core.rps_sock_flow_entries";
    if let Some(current) = host.number("/proc/sys/net/core/rps_sock_flow_entries")
        && queue.ends_with("rx-0")
    {
        let mend = Mend::Sysctl {
            name: name.into(),
            value: FLOWS.to_string(),
        };
        let why = "RFS: packets go where their socket is read";
        let now = item(
            name.into(),
            format!(">= {FLOWS}"),
            current.to_string(),
            current >= FLOWS,
            why,
            mend,
        );
        let is_enough = |value: &str| value.parse::<u64>().is_ok_and(|value| value >= FLOWS);
        let later = boot.item(&now, is_enough);
        items.extend([Some(now), later].into_iter().flatten());
    }
    items
}

/// Each interrupt of a queue on one CPU, in turn.
fn interrupts(host: &Host, card: &str, cpus: &[usize]) -> Vec<Item> {
    let numbers = host.list(&format!("/sys/class/net/{card}/device/msi_irqs"));
    let named = host.read("/proc/interrupts").unwrap_or_default();
    // The first of a card mostly is its configuration's, and says so.
    let is_queue = |number: &String| {
        let start = format!("{number}:");
        let line = named
            .lines()
            .find(|line| line.trim_start().starts_with(&start));
        line.is_some_and(|line| !line.trim_end().ends_with("config"))
    };
    let numbers: Vec<String> = numbers.into_iter().filter(is_queue).collect();
    let many = numbers.len() > 1;
    let look = |(n, number): (usize, &String)| {
        let path = format!("/proc/irq/{number}/smp_affinity_list");
        let current = host.read(&path)?;
        let wanted = cpus[n % cpus.len()].to_string();
        let passed = current == wanted;
        let mend = Mend::Value {
            path: path.clone(),
            value: wanted.clone(),
        };
        let why = "interrupts of different queues go to different CPUs";
        Some(item(path, wanted, current, passed, why, mend))
    };
    numbers
        .iter()
        .enumerate()
        .filter(|_| many)
        .filter_map(look)
        .collect()
}

/// As many queues as CPUs, as far as the card has them; ethtool alone knows.
fn channels(host: &Host, card: &str, queues: usize, cpus: usize) -> Option<Item> {
    if queues >= cpus {
        return None;
    }
    let condition = format!("{card} queues");
    let why = "a queue, and so an interrupt, for each CPU (RSS spreads connections over them)";
    let ethtool = |words: &[&str]| {
        let done = Command::new("ethtool").args(words).output().ok()?;
        done.status
            .success()
            .then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let shown = if host.is_here() {
        ethtool(&["-l", card])
    } else {
        host.read(&format!("/ethtool/{card}"))
    };
    let Some(shown) = shown else {
        let advice = format!(
            "ethtool says how many it can have (ethtool -l {card}); the kernel spreads packets otherwise"
        );
        // A card that cannot do better is nothing to be blamed for.
        return Some(item(
            condition,
            format!("{cpus}, if it has them"),
            queues.to_string(),
            true,
            why,
            Mend::Advice(advice),
        ));
    };
    let most = shown
        .lines()
        .find_map(|line| line.strip_prefix("Combined:"))
        .and_then(|text| text.trim().parse::<usize>().ok())
        .unwrap_or(queues);
    let wanted = most.min(cpus);
    let words = |count: usize| {
        ["ethtool", "-L", card, "combined", &count.to_string()]
            .map(str::to_owned)
            .to_vec()
    };
    let mend = Mend::Run {
        words: words(wanted),
        undo: words(queues),
    };
    Some(item(
        condition,
        wanted.to_string(),
        queues.to_string(),
        queues >= wanted,
        why,
        mend,
    ))
}

/// A program that moves interrupts again.
fn balancer(host: &Host) -> Option<Item> {
    let is_it =
        |pid: &String| host.read(&format!("/proc/{pid}/comm")).as_deref() == Some("irqbalance");
    let runs = host
        .list("/proc")
        .iter()
        .filter(|name| name.parse::<u32>().is_ok())
        .any(is_it);
    runs.then(|| {
        let fix = "systemctl disable --now irqbalance (undo: enable --now)";
        let why = "it moves the interrupts of the cards again";
        item(
            "irqbalance".into(),
            "does not run".into(),
            "runs".into(),
            false,
            why,
            Mend::Advice(fix.into()),
        )
    })
}
