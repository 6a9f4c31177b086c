//! What is to be changed, and which files keep it over a reboot. It changes nothing itself.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};

use crate::{
    host::Host,
    item::{Group, Item, Mend},
    units,
};

pub(crate) const SYSCTL_FILE: &str = "/etc/sysctl.d/90-online-status.conf";
pub(crate) const BOOT_UNIT: &str = "/etc/systemd/system/online-status-tuning.service";

/// How every file of `apply` begins.
pub(crate) const MADE_BY: &str =
    "# Made by online-status-tuning apply; online-status-tuning undo takes it back.\n";

/// One change, with its way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) what: Kind,
    pub(crate) why: String,
    pub(crate) source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A value in a file of /proc or /sys; `sysctl`: its name there.
    Value {
        path: String,
        before: String,
        after: String,
        sysctl: Option<String>,
    },
    /// A line for the section `[Service]` of the edge's units.
    Unit { line: String },
    /// A program, and the one that takes it back.
    Run {
        words: Vec<String>,
        undo: Vec<String>,
    },
}

impl Change {
    /// The file of /proc or /sys that it writes.
    pub(crate) fn path(&self) -> Option<&str> {
        match &self.what {
            Kind::Value { path, .. } => Some(path),
            Kind::Unit { .. } | Kind::Run { .. } => None,
        }
    }

    /// What it changes: one change of each at most is kept.
    pub(crate) fn subject(&self) -> &str {
        match &self.what {
            Kind::Value { path, .. } => path,
            Kind::Unit { line } => line.split('=').next().unwrap_or(line),
            Kind::Run { undo, .. } => &undo[2],
        }
    }
}

/// The changes that mend what has not passed, in the groups that were chosen.
pub(crate) fn changes(host: &Host, items: &[Item], groups: &[Group]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for item in items
        .iter()
        .filter(|item| !item.passed && groups.contains(&item.group))
    {
        let what = match &item.mend {
            Mend::Advice(_) => continue,
            Mend::Sysctl { name, value } => {
                let path = format!("/proc/sys/{}", name.replace('.', "/"));
                let before = read_value(host, &path).unwrap_or_default();
                Kind::Value {
                    path,
                    before,
                    after: value.clone(),
                    sysctl: Some(name.clone()),
                }
            }
            Mend::Value { path, value } => Kind::Value {
                path: path.clone(),
                before: read_value(host, path).unwrap_or_default(),
                after: value.clone(),
                sysctl: None,
            },
            Mend::Unit { line } => Kind::Unit { line: line.clone() },
            Mend::Run { words, undo } => Kind::Run {
                words: words.clone(),
                undo: undo.clone(),
            },
        };
        let change = Change {
            what,
            why: item.why.into(),
            source: item.source.into(),
        };
        if changes
            .iter()
            .all(|known| known.subject() != change.subject())
        {
            changes.push(change);
        }
    }
    changes
}

/// A value as it is written: numbers with one space between, and of a choice the one in brackets.
pub(crate) fn read_value(host: &Host, path: &str) -> Option<String> {
    let text = host.read(path)?;
    let chosen = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    Some(match chosen {
        Some(chosen) => chosen.to_owned(),
        None => text.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// How the boot unit calls this program.
pub(crate) struct AtBoot {
    pub(crate) program: String,
    pub(crate) sessions: u64,
    pub(crate) groups: Vec<Group>,
    /// It is the boot unit that calls.
    pub(crate) is_now: bool,
}

/// Whether a kernel parameter comes with a module, mostly after sysctl.d was read: the boot unit makes it.
pub(crate) fn is_late(name: &str) -> bool {
    name.starts_with("net.netfilter.")
}

/// The files that keep all these changes over a reboot, with their text.
pub(crate) fn files(host: &Host, changes: &[Change], boot: &AtBoot) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut sysctl = String::new();
    let mut unit = String::new();
    let mut others = false;
    for Change { what, why, source } in changes {
        match what {
            Kind::Value {
                sysctl: Some(name),
                before,
                after,
                ..
            } => {
                writeln!(
                    sysctl,
                    "# {why} ({source}); it was {before}\n{name} = {after}"
                )
                .expect("a String takes all text");
                others |= is_late(name);
            }
            Kind::Unit { line } => {
                writeln!(unit, "# {why} ({source})\n{line}").expect("a String takes all text");
            }
            Kind::Value { .. } | Kind::Run { .. } => others = true,
        }
    }
    let by = MADE_BY;
    if !sysctl.is_empty() {
        files.insert(SYSCTL_FILE.into(), format!("{by}{sysctl}"));
    }
    if !unit.is_empty() {
        for name in units::installed(host) {
            files.insert(units::drop_in(name), format!("{by}[Service]\n{unit}"));
        }
    }
    if others {
        let groups: Vec<String> = boot.groups.iter().map(|group| group.name()).collect();
        let text = format!(
            "{by}[Unit]\nDescription=online-status tuning of this host\nAfter=network.target\n\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\n\
             ExecStart={} apply --yes --sessions {} --only {} --at-boot\n\n\
             [Install]\nWantedBy=multi-user.target\n",
            boot.program,
            boot.sessions,
            groups.join(",")
        );
        files.insert(BOOT_UNIT.into(), text);
    }
    files
}
