//! How much memory the process has, and how much it may: from the kernel's files, which it only reads.

use std::path::Path;

/// What the process has in memory, bytes (proc_pid_status(5)).
pub(crate) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kib(&status, "VmRSS:")
}

/// Nine tenths of what the control groups of the process allow (`memory.max` of cgroup v2), or of the
/// machine's memory where they allow more.
pub(crate) fn sensible_limit() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kib(&text, "MemTotal:"));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        limit_of_groups(Path::new("/sys/fs/cgroup"), Path::new(path))
    });
    let least = [machine, group].into_iter().flatten().min()?;
    Some(least / 10 * 9)
}

/// The lowest limit of the group at `path` below `root`, and of those above it.
fn limit_of_groups(root: &Path, path: &Path) -> Option<u64> {
    let limit = |group: &Path| {
        let text = std::fs::read_to_string(root.join(group).join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    path.ancestors().filter_map(limit).min()
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_counts() {
        let root = std::env::temp_dir().join(format!("cgroup-{}", std::process::id()));
        let inner = root.join("a/b/c");
        std::fs::create_dir_all(&inner).expect("a writable folder");
        let write = |group: &str, text: &str| {
            std::fs::write(root.join(group).join("memory.max"), text).expect("a file");
        };
        let limit = || limit_of_groups(&root, Path::new("a/b/c"));
        assert_eq!(limit(), None);
        write("a", "3000\n");
        write("a/b", "max\n");
        assert_eq!(limit(), Some(3_000));
        write("a/b/c", "2000\n");
        assert_eq!(limit(), Some(2_000));
        std::fs::remove_dir_all(&root).expect("it is ours");
    }

    #[test]
    fn this_process_has_memory_and_may_have_some() {
        let has = resident().expect("the kernel tells");
        let may = sensible_limit().expect("the kernel tells");
        assert!(1 << 20 < has && has < may, "{has} of {may}");
    }
}
