//! What sysctl.d sets at boot, read as systemd-sysctl(8) does, or where that is missing `sysctl --system`.

use crate::{
    host::Host,
    item::{Item, Mend},
    plan::SYSCTL_FILE,
};

/// Where the files are, the first winning of two with one name.
const FOLDERS: [&str; 5] = [
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
];
const SYSTEMD: [&str; 2] = [
    "/usr/lib/systemd/systemd-sysctl",
    "/lib/systemd/systemd-sysctl",
];
/// What `sysctl --system` reads last. systemd does where a link in sysctl.d leads to it, as in Debian 12.
const LAST: &str = "/etc/sysctl.conf";
pub(crate) const SOURCE: &str = "sysctl.d(5)";

/// The files of everybody but `apply`, and what they set.
pub(crate) struct Boot {
    lines: Vec<Line>,
    /// The keys in the file of `apply`.
    own: Vec<String>,
}

/// A line of a file.
struct Line {
    /// A path below /proc/sys, which may be a pattern.
    key: String,
    /// `None`: neither a pattern nor an earlier line sets it.
    value: Option<String>,
    file: String,
    /// It comes after the file of `apply`.
    is_later: bool,
}

impl Boot {
    pub(crate) fn read(host: &Host) -> Self {
        let (_, own) = SYSCTL_FILE.rsplit_once('/').expect("it is a path");
        let files = host.drop_ins(&FOLDERS.map(str::to_owned));
        let mut files: Vec<(String, bool)> = files
            .into_iter()
            .filter(|(name, _)| name != own)
            .map(|(name, path)| (path, name.as_str() > own))
            .collect();
        if !SYSTEMD.iter().any(|program| host.exists(program)) {
            files.push((LAST.into(), true));
        }
        let lines = files.into_iter().flat_map(|(file, is_later)| {
            let text = host.read(&file).unwrap_or_default();
            let lines = text.lines().filter_map(assignment);
            let line = |(key, value)| Line {
                key,
                value,
                file: file.clone(),
                is_later,
            };
            lines.map(line).collect::<Vec<_>>()
        });
        let own = host.read(SYSCTL_FILE).unwrap_or_default();
        let own = own.lines().filter_map(assignment);
        Self {
            lines: lines.collect(),
            own: own.map(|(key, _)| key).collect(),
        }
    }

    /// The line that counts for a kernel parameter: the last one with its name, or else the last pattern
    /// that matches.
    fn line(&self, name: &str) -> Option<&Line> {
        let key = name.replace('.', "/");
        let mut lines = self.lines.iter().rev();
        let named = lines.clone().find(|line| line.key == key);
        named.or_else(|| {
            lines.find(|line| line.value.is_some() && matches(line.key.as_bytes(), key.as_bytes()))
        })
    }

    /// Whether a file wins over that of `apply`, which names its parameters: over a name no pattern does.
    fn wins(name: &str, line: &Line) -> bool {
        line.is_later && line.key == name.replace('.', "/")
    }

    /// Whether the line of `apply` for it counts for nothing.
    pub(crate) fn is_overruled(&self, name: &str) -> bool {
        self.line(name).is_some_and(|line| Self::wins(name, line))
    }

    /// What a reboot brings, for a kernel parameter that was looked at: where a file wins over that of
    /// `apply`, or sets less than the host has now.
    pub(crate) fn item(&self, now: &Item, is_enough: impl Fn(&str) -> bool) -> Option<Item> {
        let Mend::Sysctl { name, value } = &now.mend else {
            return None;
        };
        let line = self.line(name)?;
        let wins = Self::wins(name, line);
        let passed = line.value.as_deref().is_some_and(is_enough);
        let is_kept = self.own.contains(&name.replace('.', "/"));
        if !wins && (is_kept || passed || !now.passed || line.value.is_none()) {
            return None;
        }
        let file = &line.file;
        let has = line.value.as_deref().unwrap_or("the kernel's own");
        let why = if wins {
            "at boot this file wins over 90-online-status.conf"
        } else {
            "at boot this file sets it, whatever it is now"
        };
        Some(Item {
            group: now.group,
            condition: format!("{name} after a reboot"),
            required: now.required.clone(),
            current: Some(format!("{has} ({file})")),
            severity: now.severity,
            passed,
            why,
            source: SOURCE,
            mend: Mend::Advice(format!("{name} = {value} in {file}, where it is {has}")),
        })
    }
}

/// The key, as a path below /proc/sys, and the value of a line.
fn assignment(line: &str) -> Option<(String, Option<String>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';']) {
        return None;
    }
    // With a value it says that a failure is none; without, that no value is set.
    let bare = line.strip_prefix('-');
    let (key, value) = match bare.unwrap_or(line).split_once('=') {
        Some((key, value)) => {
            let words: Vec<&str> = value.split_whitespace().collect();
            (key, Some(words.join(" ")))
        }
        None => (bare?, None),
    };
    let key = key.trim();
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    // The separator that comes first is the one.
    let key = match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => key.chars().map(swapped).collect(),
        _ => key.trim_start_matches('/').to_owned(),
    };
    Some((key, value))
}

/// Whether a text matches a pattern as in glob(7), with `*`, `?` and `[…]`, of which none matches a slash.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&first, rest)) = pattern.split_first() else {
        return text.is_empty();
    };
    match (first, text.split_first()) {
        (b'*', None) => matches(rest, text),
        (b'*', Some((&c, after))) => matches(rest, text) || (c != b'/' && matches(pattern, after)),
        (b'[', Some((&c, after))) => {
            // A bracket right behind the first one is one of the characters.
            let Some(end) = rest.iter().skip(1).position(|&c| c == b']') else {
                return false;
            };
            let (set, rest) = (&rest[..=end], &rest[end + 2..]);
            let (negated, set) = match set.split_first() {
                Some((b'!' | b'^', set)) if !set.is_empty() => (true, set),
                _ => (false, set),
            };
            let in_range = set
                .windows(3)
                .any(|w| w[1] == b'-' && (w[0]..=w[2]).contains(&c));
            c != b'/' && (set.contains(&c) || in_range) != negated && matches(rest, after)
        }
        (b'?', Some((&c, after))) => c != b'/' && matches(rest, after),
        (first, Some((&c, after))) => first == c && matches(rest, after),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_systemd_reads_them() {
        let read =
            |line| assignment(line).map(|(key, value)| (key, value.unwrap_or("none".into())));
        let is = |line, key: &str, value: &str| {
            assert_eq!(read(line), Some((key.into(), value.into())), "{line}");
        };
        is("net.core.somaxconn=1", "net/core/somaxconn", "1");
        is(" -net/core/somaxconn = 1\t2 ", "net/core/somaxconn", "1 2");
        is("/net/core/somaxconn = 1", "net/core/somaxconn", "1");
        is(
            "net.ipv4.conf.eth0/1.forwarding = 1",
            "net/ipv4/conf/eth0.1/forwarding",
            "1",
        );
        is(
            "net/ipv4/conf/eth0.1/forwarding = 1",
            "net/ipv4/conf/eth0.1/forwarding",
            "1",
        );
        is("-net.core.*", "net/core/*", "none");
        for line in ["", "# a = 1", "; a = 1", "no assignment"] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn patterns_match_within_a_folder() {
        let is = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(
            is("net/core/*", "net/core/somaxconn") && is("net/*/som?xconn", "net/core/somaxconn")
        );
        assert!(
            is("vm/s[a-w]appiness", "vm/swappiness") && is("vm/[!a]wappiness", "vm/swappiness")
        );
        assert!(!is("net/*", "net/core/somaxconn") && !is("net?core", "net/core"));
        assert!(!is("vm/[!s]wappiness", "vm/swappiness") && !is("vm/[s", "vm/s"));
        assert!(!is("vm[/]swappiness", "vm/swappiness") && !is("vm/[", "vm/s"));
    }
}
