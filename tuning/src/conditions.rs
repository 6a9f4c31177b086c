//! The conditions: what is required of a host for so many sessions, and why. A function of what
//! the host says; it reads nothing itself.

use serde::Serialize;

/// The source of the values that are checked: a real host, or a test's.
pub(crate) trait Host {
    /// A file of /proc or /sys, without the newline at its end.
    fn read(&self, path: &str) -> Option<String>;
    /// The hard limit of open files of this process.
    fn open_files(&self) -> u64;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The host cannot serve so many sessions without it.
    Fatal,
    /// The host serves them, with less headroom.
    Warn,
}

/// The result of one condition on one host.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) condition: &'static str,
    pub(crate) required: String,
    /// The host's value; `None` = the host does not say.
    pub(crate) current: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) passed: bool,
    pub(crate) fix: String,
    /// The line of a sysctl.d file that mends it.
    pub(crate) sysctl: Option<String>,
}

/// A kernel parameter that must have a value of at least or at most so much.
struct Parameter {
    name: &'static str,
    /// The index of the number that counts, when the file has several.
    field: usize,
    bound: Bound,
    severity: Severity,
    why: &'static str,
}

enum Bound {
    AtLeast(u64),
    AtMost(u64),
}

fn parameters(sessions: u64) -> Vec<Parameter> {
    use Bound::{AtLeast, AtMost};
    use Severity::{Fatal, Warn};
    let parameter = |name, field, bound, severity, why| Parameter {
        name,
        field,
        bound,
        severity,
        why,
    };
    // A session is one descriptor; the rest is for files, rings and the bridges.
    let files = sessions + sessions / 10 + 1_000;
    vec![
        parameter(
            "kernel.io_uring_disabled",
            0,
            AtMost(0),
            Fatal,
            "the edge is built on io_uring",
        ),
        parameter(
            "fs.nr_open",
            0,
            AtLeast(files),
            Fatal,
            "the most a process may be allowed to open",
        ),
        parameter(
            "fs.file-max",
            0,
            AtLeast(files * 2),
            Fatal,
            "open files of all processes",
        ),
        parameter(
            "net.core.somaxconn",
            0,
            AtLeast(16_384),
            Warn,
            "connections that wait for accept, when all come back at once",
        ),
        parameter(
            "net.ipv4.tcp_max_syn_backlog",
            0,
            AtLeast(16_384),
            Warn,
            "the same before their handshake is done",
        ),
        parameter(
            "net.ipv4.tcp_syncookies",
            0,
            AtLeast(1),
            Warn,
            "a flood of SYNs keeps nobody out",
        ),
        parameter(
            "net.ipv4.tcp_retries2",
            0,
            AtMost(10),
            Warn,
            "a dead peer is noticed within minutes",
        ),
        parameter(
            "net.ipv4.tcp_slow_start_after_idle",
            0,
            AtMost(0),
            Warn,
            "idle sessions get changes in one burst",
        ),
        // 2 pages are what an idle socket may hold.
        parameter(
            "net.ipv4.tcp_mem",
            1,
            AtLeast(sessions * 2),
            Warn,
            "pages before the kernel squeezes all sockets",
        ),
        parameter(
            "net.netfilter.nf_conntrack_max",
            0,
            AtLeast(sessions * 2),
            Warn,
            "connections that the firewall follows",
        ),
    ]
}

/// Checks every condition for `sessions` sessions, in the order of the report.
pub(crate) fn check(host: &dyn Host, sessions: u64) -> Vec<Finding> {
    let mut findings = vec![open_files(host, sessions)];
    for parameter in parameters(sessions) {
        let path = format!("/proc/sys/{}", parameter.name.replace('.', "/"));
        let current = host.read(&path);
        if current.is_none() && parameter.name.starts_with("net.netfilter") {
            // Connections are not followed at all: so much the better.
            continue;
        }
        findings.push(finding(&parameter, current));
    }
    findings.push(huge_pages(host));
    findings
}

fn finding(parameter: &Parameter, current: Option<String>) -> Finding {
    let fields: Vec<&str> = current
        .as_deref()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let value = fields
        .get(parameter.field)
        .and_then(|value| value.parse::<u64>().ok());
    let (required, wanted, passed) = match parameter.bound {
        Bound::AtLeast(least) => (
            format!(">= {least}"),
            least,
            value.is_none_or(|value| value >= least),
        ),
        Bound::AtMost(most) => (
            format!("<= {most}"),
            most,
            value.is_none_or(|value| value <= most),
        ),
    };
    // Of several numbers the later ones may not be smaller than the one that is raised.
    let mended = (0..fields.len().max(1)).map(|n| {
        let have = fields
            .get(n)
            .and_then(|value| value.parse::<u64>().ok())
            .unwrap_or(wanted);
        if n < parameter.field || (n > parameter.field && have >= wanted) {
            have
        } else {
            wanted
        }
    });
    let mended = mended
        .map(|value| value.to_string())
        .collect::<Vec<_>>()
        .join(" ");
    let line = format!("{} = {mended}", parameter.name);
    Finding {
        condition: parameter.name,
        required,
        current: current.map(|current| current.split_whitespace().collect::<Vec<_>>().join(" ")),
        severity: parameter.severity,
        passed,
        fix: format!("sysctl -w '{line}'  ({})", parameter.why),
        sysctl: Some(line),
    }
}

fn open_files(host: &dyn Host, sessions: u64) -> Finding {
    let (required, current) = (sessions + 200, host.open_files());
    Finding {
        condition: "open files of a process",
        required: format!(">= {required}"),
        current: Some(if current == u64::MAX {
            "unlimited".into()
        } else {
            current.to_string()
        }),
        severity: Severity::Fatal,
        passed: current >= required,
        fix: format!("LimitNOFILE={required} in the unit, or ulimit -Hn {required}"),
        sysctl: None,
    }
}

fn huge_pages(host: &dyn Host) -> Finding {
    let current = host.read("/sys/kernel/mm/transparent_hugepage/enabled");
    let always = current
        .as_deref()
        .is_some_and(|current| current.contains("[always]"));
    Finding {
        condition: "transparent huge pages",
        required: "madvise or never".into(),
        current,
        severity: Severity::Warn,
        passed: !always,
        fix: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled  (memory grows by whole \
              huge pages)"
            .into(),
        sysctl: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Sample(HashMap<&'static str, &'static str>, u64);

    impl Host for Sample {
        fn read(&self, path: &str) -> Option<String> {
            self.0.get(path).map(|value| (*value).to_owned())
        }

        fn open_files(&self) -> u64 {
            self.1
        }
    }

    fn find<'a>(findings: &'a [Finding], condition: &str) -> &'a Finding {
        findings
            .iter()
            .find(|finding| finding.condition == condition)
            .expect("a finding")
    }

    #[test]
    fn what_is_missing_is_found_with_its_fix() {
        let host = Sample(
            HashMap::from([
                ("/proc/sys/kernel/io_uring_disabled", "2"),
                ("/proc/sys/net/core/somaxconn", "4096"),
                ("/proc/sys/net/ipv4/tcp_mem", "100\t200000\t300000"),
                (
                    "/sys/kernel/mm/transparent_hugepage/enabled",
                    "always [madvise] never",
                ),
            ]),
            1_024,
        );
        let findings = check(&host, 150_000);
        let ring = find(&findings, "kernel.io_uring_disabled");
        assert!(!ring.passed && ring.severity == Severity::Fatal);
        assert_eq!(ring.sysctl.as_deref(), Some("kernel.io_uring_disabled = 0"));
        assert!(!find(&findings, "open files of a process").passed);
        assert!(!find(&findings, "net.core.somaxconn").passed);
        let memory = find(&findings, "net.ipv4.tcp_mem");
        assert!(!memory.passed);
        assert_eq!(
            memory.sysctl.as_deref(),
            Some("net.ipv4.tcp_mem = 100 300000 300000")
        );
        assert!(find(&findings, "transparent huge pages").passed);
        // What the host does not have is not held against it.
        assert!(
            !findings
                .iter()
                .any(|finding| finding.condition.contains("conntrack"))
        );
    }

    #[test]
    fn a_good_host_passes() {
        let host = Sample(
            HashMap::from([("/proc/sys/kernel/io_uring_disabled", "0")]),
            u64::MAX,
        );
        assert!(check(&host, 1_000_000).iter().all(|finding| finding.passed));
    }
}
