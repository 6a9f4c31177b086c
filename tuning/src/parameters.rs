//! Kernel parameters: how many of what so many sessions need.

use crate::{
    boot::Boot,
    check::descriptors,
    host::Host,
    item::{Group, Item, Mend, Severity},
};

/// A kernel parameter that must have a value of at least or at most so much.
struct Parameter {
    name: &'static str,
    /// Which of several numbers.
    field: usize,
    bound: Bound,
    group: Group,
    severity: Severity,
    why: &'static str,
    source: &'static str,
}

enum Bound {
    AtLeast(u64),
    AtMost(u64),
}

const IP: &str = "kernel: networking/ip-sysctl";
const NET: &str = "kernel: admin-guide/sysctl/net";
const FS: &str = "kernel: admin-guide/sysctl/fs";

fn parameters(sessions: u64) -> Vec<Parameter> {
    use Bound::{AtLeast, AtMost};
    use Group::{Limits, Memory, Network};
    use Severity::{Fatal, Warn};
    let files = descriptors(sessions);
    let rows = [
        (
            Limits,
            "fs.nr_open",
            0,
            AtLeast(files),
            Fatal,
            FS,
            "the most a process may be allowed to open",
        ),
        (
            Limits,
            "fs.file-max",
            0,
            AtLeast(files * 2),
            Fatal,
            FS,
            "open files of all processes",
        ),
        (
            Network,
            "net.core.somaxconn",
            0,
            AtLeast(16_384),
            Warn,
            NET,
            "connections that wait for accept, when all come back at once",
        ),
        (
            Network,
            "net.ipv4.tcp_max_syn_backlog",
            0,
            AtLeast(16_384),
            Warn,
            IP,
            "the same before their handshake is done",
        ),
        (
            Network,
            "net.core.netdev_max_backlog",
            0,
            AtLeast(4_096),
            Warn,
            NET,
            "packets that wait for a CPU, in a burst",
        ),
        (
            Network,
            "net.ipv4.tcp_syncookies",
            0,
            AtLeast(1),
            Warn,
            IP,
            "a flood of SYNs keeps nobody out",
        ),
        (
            Network,
            "net.ipv4.tcp_retries2",
            0,
            AtMost(10),
            Warn,
            IP,
            "a dead peer is noticed within minutes",
        ),
        (
            Network,
            "net.ipv4.tcp_slow_start_after_idle",
            0,
            AtMost(0),
            Warn,
            IP,
            "idle sessions get changes in one burst",
        ),
        (
            Network,
            "net.ipv4.tcp_max_tw_buckets",
            0,
            AtLeast(sessions),
            Warn,
            IP,
            "all sessions end at once when an edge is replaced",
        ),
        // 2 pages are what an idle socket may hold.
        (
            Network,
            "net.ipv4.tcp_mem",
            1,
            AtLeast(sessions * 2),
            Warn,
            IP,
            "pages that all sockets hold before the kernel takes memory from them (the pressure)",
        ),
        (
            Network,
            "net.netfilter.nf_conntrack_max",
            0,
            AtLeast(sessions * 2),
            Fatal,
            "kernel: networking/nf_conntrack-sysctl",
            "connections that the firewall follows; one more is dropped",
        ),
        (
            Memory,
            "kernel.numa_balancing",
            0,
            AtMost(0),
            Warn,
            "kernel: admin-guide/sysctl/kernel",
            "pinned threads gain nothing from pages that are moved",
        ),
        (
            Memory,
            "vm.swappiness",
            0,
            AtMost(10),
            Warn,
            "kernel: admin-guide/sysctl/vm",
            "an idle session that was paged out is late",
        ),
    ];
    rows.into_iter()
        .map(
            |(group, name, field, bound, severity, source, why)| Parameter {
                name,
                field,
                bound,
                group,
                severity,
                why,
                source,
            },
        )
        .collect()
}

/// Looks at all of them. What a host does not have is not held against it: a firewall that follows no
/// connections, a network namespace without the parameters of all.
pub(crate) fn check(host: &Host, boot: &Boot, sessions: u64) -> Vec<Item> {
    let look = |parameter: &Parameter| {
        let path = format!("/proc/sys/{}", parameter.name.replace('.', "/"));
        let now = item(parameter, &host.read(&path)?);
        let later = boot.item(&now, |value| item(parameter, value).passed);
        Some([Some(now), later].into_iter().flatten())
    };
    let found = parameters(sessions);
    found.iter().filter_map(look).flatten().collect()
}

fn item(parameter: &Parameter, current: &str) -> Item {
    let fields: Vec<&str> = current.split_whitespace().collect();
    let number = |n: usize| fields.get(n).and_then(|value| value.parse::<u64>().ok());
    let value = number(parameter.field);
    // Of several numbers, which one.
    let which = match (fields.len(), parameter.field) {
        (..2, _) => String::new(),
        (_, field) => format!("number {} ", field + 1),
    };
    let (required, wanted, passed) = match parameter.bound {
        Bound::AtLeast(least) => (
            format!("{which}>= {least}"),
            least,
            value.is_some_and(|value| value >= least),
        ),
        Bound::AtMost(most) => (
            format!("{which}<= {most}"),
            most,
            value.is_some_and(|value| value <= most),
        ),
    };
    // Of several numbers the later ones may not be smaller than the one that is raised.
    let mended = (0..fields.len().max(1)).map(|n| {
        let have = number(n).unwrap_or(wanted);
        let stays = n < parameter.field || (n > parameter.field && have >= wanted);
        if stays { have } else { wanted }.to_string()
    });
    Item {
        group: parameter.group,
        condition: parameter.name.into(),
        required,
        current: Some(fields.join(" ")),
        severity: parameter.severity,
        passed,
        why: parameter.why,
        source: parameter.source,
        mend: Mend::Sysctl {
            name: parameter.name.into(),
            value: mended.collect::<Vec<_>>().join(" "),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, current: &str, sessions: u64) -> Item {
        let all = parameters(sessions);
        let parameter = all.iter().find(|parameter| parameter.name == name);
        item(parameter.expect("it is in the table"), current)
    }

    #[test]
    fn a_value_out_of_bounds_is_mended_to_the_bound() {
        let backlog = look("net.core.somaxconn", "4096", 1_000);
        assert!(!backlog.passed);
        assert_eq!(backlog.fix(), "sysctl -w 'net.core.somaxconn = 16384'");
        assert!(look("net.core.somaxconn", "65535", 1_000).passed);
        assert!(!look("vm.swappiness", "60", 1_000).passed);
    }

    #[test]
    fn of_several_numbers_the_later_ones_grow_with_the_one_that_is_raised() {
        let memory = look("net.ipv4.tcp_mem", "100\t200000\t300000", 150_000);
        assert_eq!(memory.required, "number 2 >= 300000");
        assert_eq!(
            memory.fix(),
            "sysctl -w 'net.ipv4.tcp_mem = 100 300000 300000'"
        );
        let wide = look("net.ipv4.tcp_mem", "100\t200000\t900000", 150_000);
        assert_eq!(
            wide.fix(),
            "sysctl -w 'net.ipv4.tcp_mem = 100 300000 900000'"
        );
    }

    #[test]
    fn what_is_no_number_has_not_passed() {
        assert!(!look("fs.nr_open", "many", 1_000).passed);
    }
}
