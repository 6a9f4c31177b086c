//! What systemd gives the edge's services: the settings of their units, read as systemd reads them.

use crate::host::Host;

/// The units of the package.
const UNITS: [&str; 2] = ["online-status-edge@.service", "online-status-edge.service"];
/// Where unit files and their drop-ins are, the first winning: systemd.unit(5).
const FOLDERS: [&str; 7] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Drop-ins of more than one unit, the one with the longest name first.
const SHARED: [&str; 3] = ["online-status-.service.d", "online-.service.d", "service.d"];
/// The drop-in that `apply` makes for a unit.
pub(crate) const DROP_IN: &str = "50-online-status-tuning.conf";
/// systemd's own `DefaultLimitNOFILE=`, the hard one.
const DEFAULT_OPEN_FILES: u64 = 524_288;

/// An assignment in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: String,
    pub(crate) file: String,
}

/// The units of the edge that are installed, and not masked.
pub(crate) fn installed(host: &Host) -> Vec<&'static str> {
    let is_one = |unit: &&str| main_file(host, unit).is_some();
    UNITS.into_iter().filter(is_one).collect()
}

/// Where the drop-in of `apply` for a unit is.
pub(crate) fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/{DROP_IN}")
}

/// The file of a unit. One that is empty, as /dev/null is, masks it.
fn main_file(host: &Host, unit: &str) -> Option<String> {
    let paths = FOLDERS.iter().map(|folder| format!("{folder}/{unit}"));
    let found = paths.into_iter().find(|path| host.exists(path))?;
    host.read(&found)
        .is_some_and(|text| !text.is_empty())
        .then_some(found)
}

/// All assignments of a key in a section of these files, in order.
fn assignments(host: &Host, files: &[String], section: &str, key: &str) -> Vec<Setting> {
    let mut found = Vec::new();
    for file in files {
        let text = host.read(file).unwrap_or_default();
        let mut inside = false;
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[') {
                inside = name.strip_suffix(']') == Some(section);
            } else if let Some((name, value)) = line.split_once('=')
                && inside
                && name.trim() == key
            {
                let (value, file) = (value.trim().to_owned(), file.clone());
                found.push(Setting { value, file });
            }
        }
    }
    found
}

/// The last assignment of a key of the section `[Service]`, when it is one that `is_valid` takes. An
/// empty one takes back those before it.
fn last(host: &Host, unit: &str, key: &str, is_valid: fn(&str) -> bool) -> Option<Setting> {
    let own = format!("{unit}.d");
    let names = [own.as_str()].into_iter().chain(SHARED);
    let folders: Vec<String> = names
        .flat_map(|name| FOLDERS.map(|folder| format!("{folder}/{name}")))
        .collect();
    let mut files: Vec<String> = main_file(host, unit).into_iter().collect();
    files.extend(host.drop_ins(&folders).into_values());
    let all = assignments(host, &files, "Service", key);
    last_valid(all, is_valid)
}

fn last_valid(all: Vec<Setting>, is_valid: fn(&str) -> bool) -> Option<Setting> {
    all.into_iter().fold(None, |known, setting| {
        if setting.value.is_empty() {
            None
        } else if is_valid(&setting.value) {
            Some(setting)
        } else {
            known
        }
    })
}

/// The hard limit of open files that a unit's service gets, and the file that says so; `None`: systemd's
/// default.
pub(crate) fn open_files(host: &Host, unit: &str) -> (u64, Option<String>) {
    let is_valid = |value: &str| limit(value).is_some();
    let setting = last(host, unit, "LimitNOFILE", is_valid).or_else(|| {
        let folders = ["etc", "run", "usr/lib"].map(|top| format!("/{top}/systemd/system.conf.d"));
        let mut files = vec!["/etc/systemd/system.conf".to_owned()];
        files.extend(host.drop_ins(&folders).into_values());
        let all = assignments(host, &files, "Manager", "DefaultLimitNOFILE");
        last_valid(all, is_valid)
    });
    match setting {
        Some(setting) => (
            limit(&setting.value).unwrap_or(DEFAULT_OPEN_FILES),
            Some(setting.file),
        ),
        None => (DEFAULT_OPEN_FILES, None),
    }
}

/// Whether a drop-in comes after that of `apply`, and so wins over it.
pub(crate) fn is_later(file: &str) -> bool {
    match file.rsplit_once('/') {
        Some((folder, name)) => folder.ends_with(".d") && name > DROP_IN,
        None => false,
    }
}

/// The hard one of `soft:hard`, or both at once.
fn limit(value: &str) -> Option<u64> {
    match value.rsplit(':').next()? {
        "infinity" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// What a unit's `key` says, when it is a bound: not `infinity`.
pub(crate) fn bound(host: &Host, unit: &str, key: &str) -> Option<Setting> {
    last(host, unit, key, |_| true).filter(|setting| setting.value != "infinity")
}

/// Bytes of a value as `MemoryMax=` has it, of so much memory.
pub(crate) fn bytes(value: &str, memory: u64) -> Option<u64> {
    if let Some(percent) = value.strip_suffix('%') {
        return Some((memory / 100).saturating_mul(percent.trim().parse().ok()?));
    }
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let power = match value[digits.len()..].trim() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_sizes_are_read_as_systemd_writes_them() {
        assert_eq!(limit("1024:524288"), Some(524_288));
        assert_eq!(limit("infinity"), Some(u64::MAX));
        assert_eq!(limit("many"), None);
        assert_eq!(bytes("2G", 0), Some(2 << 30));
        assert_eq!(bytes("4096", 0), Some(4_096));
        assert_eq!(bytes("50%", 1_000), Some(500));
        assert_eq!(bytes("99999999999T", 0), None);
        assert_eq!(bytes("2 pounds", 0), None);
    }

    #[test]
    fn the_last_assignment_that_is_valid_counts() {
        let setting = |value: &str| Setting {
            value: value.into(),
            file: String::new(),
        };
        let last = |values: &[&str]| {
            let all = values.iter().map(|value| setting(value)).collect();
            last_valid(all, |value| limit(value).is_some()).map(|setting| setting.value)
        };
        assert_eq!(last(&["1", "2", "many"]).as_deref(), Some("2"));
        assert_eq!(last(&["1", ""]), None);
    }

    #[test]
    fn a_drop_in_is_later_by_its_name_alone() {
        assert!(is_later("/usr/lib/systemd/system/service.d/60-limit.conf"));
        assert!(!is_later("/etc/systemd/system/service.d/40-limit.conf"));
        assert!(!is_later(
            "/usr/lib/systemd/system/online-status-edge.service"
        ));
    }
}
