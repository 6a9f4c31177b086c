//! A thing that is looked at: what is required, what the host has, and what would mend it.

use serde::Serialize;

/// What belongs together, and is chosen together by `--only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// What a process may open, and io_uring.
    Limits,
    /// Kernel parameters of TCP and of the firewall's table of connections.
    Network,
    /// Queues of network cards, and which CPUs serve them.
    Interrupts,
    /// Huge pages, NUMA balancing, swap.
    Memory,
    /// Quotas of the control group.
    Cgroup,
    /// Clock and idle states of CPUs: less delay for more power.
    Power,
}

impl Group {
    pub(crate) const ALL: [Self; 6] = [
        Self::Limits,
        Self::Network,
        Self::Interrupts,
        Self::Memory,
        Self::Cgroup,
        Self::Power,
    ];
    /// What `apply` changes unless it is told otherwise: power is money.
    pub(crate) const USUAL: [Self; 5] = [
        Self::Limits,
        Self::Network,
        Self::Interrupts,
        Self::Memory,
        Self::Cgroup,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// So many sessions cannot be served without.
    Fatal,
    /// They can, worse.
    Warn,
}

/// How a thing is mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mend {
    /// A kernel parameter by its name in sysctl(8), kept in a file of sysctl.d.
    Sysctl { name: String, value: String },
    /// A file of /sys or /proc, written again at each boot.
    Value { path: String, value: String },
    /// A line of the section `[Service]` of the edge's units.
    Unit { line: String },
    /// A program that changes a network card, and the same with the former value.
    Run {
        words: Vec<String>,
        undo: Vec<String>,
    },
    /// Something for a person to do.
    Advice(String),
}

/// One thing, looked at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Item {
    pub(crate) group: Group,
    pub(crate) condition: String,
    pub(crate) required: String,
    /// `None` = the host does not say.
    pub(crate) current: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) passed: bool,
    pub(crate) why: &'static str,
    /// Where the value comes from.
    pub(crate) source: &'static str,
    pub(crate) mend: Mend,
}

impl Item {
    /// What to do, in one line.
    pub(crate) fn fix(&self) -> String {
        match &self.mend {
            Mend::Sysctl { name, value } => format!("sysctl -w '{name} = {value}'"),
            Mend::Value { path, value } => format!("echo {value} > {path}"),
            Mend::Unit { line } => format!("{line} in the unit"),
            Mend::Run { words, .. } => words.join(" "),
            Mend::Advice(text) => text.clone(),
        }
    }
}
