//! The host this runs on, as files below a root, and what only the kernel itself can say.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use io_uring::IoUring;
use rustix::process::{Resource, getrlimit};

/// A host: where its files are. Only tests have another root than `/`.
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Whether this is the host of this process, and no tree of files.
    pub(crate) fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where a file of the host is.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file without the white space around it.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.at(path)).ok()?;
        Some(text.trim().to_owned())
    }

    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a folder, numbers in them in order.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at(path)) else {
            return Vec::new();
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut names: Vec<String> = entries.filter_map(Result::ok).filter_map(name).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    /// The files `*.conf` of these folders by name, in order. Of two with one name the first folder's counts.
    pub(crate) fn drop_ins(&self, folders: &[String]) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for folder in folders {
            let names = self.list(folder).into_iter();
            for name in names.filter(|name| name.ends_with(".conf")) {
                let path = format!("{folder}/{name}");
                files.entry(name).or_insert(path);
            }
        }
        files
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// Makes a ring as the edge does, and gives it back. The parameter of the kernel alone does not say
    /// whether a process gets one: a container's seccomp profile may refuse it.
    pub(crate) fn make_ring(&self) -> io::Result<()> {
        IoUring::new(8).map(drop)
    }

    /// The hard limit of open files of this process.
    pub(crate) fn open_files(&self) -> u64 {
        getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
    }

    /// The folders of this process's control group and those above it.
    pub(crate) fn groups(&self) -> impl Iterator<Item = String> {
        let own = self.read("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.unwrap_or("/").trim_end_matches('/').to_owned();
        let above = |path: &String| path.rsplit_once('/').map(|(above, _)| above.to_owned());
        std::iter::successors(Some(own), above).map(|path| format!("/sys/fs/cgroup{path}"))
    }

    /// The CPUs that this process may use; of a tree of files, all it has.
    pub(crate) fn cpus(&self) -> Vec<usize> {
        if self.is_here()
            && let Ok(set) = rustix::thread::sched_getaffinity(None)
        {
            let all = 0..rustix::thread::CpuSet::MAX_CPU;
            return all.filter(|cpu| set.is_set(*cpu)).collect();
        }
        let number = |name: String| name.strip_prefix("cpu")?.parse().ok();
        let names = self.list("/sys/devices/system/cpu").into_iter();
        names.filter_map(number).collect()
    }
}

/// CPUs as the kernel's hexadecimal masks have them, 32 a word.
pub(crate) fn mask(cpus: &[usize]) -> String {
    let words = cpus.iter().max().map_or(0, |most| most / 32) + 1;
    let word = |n: usize| {
        let bits = cpus.iter().filter(|cpu| **cpu / 32 == n);
        bits.fold(0_u32, |word, cpu| word | 1 << (cpu % 32))
    };
    let texts = (0..words).rev().map(|n| format!("{:08x}", word(n)));
    texts.collect::<Vec<_>>().join(",")
}

/// Whether two masks have the same CPUs.
pub(crate) fn same_mask(a: &str, b: &str) -> bool {
    let bare = |text: &str| {
        let digits = text.replace(',', "");
        digits.trim_start_matches('0').to_lowercase()
    };
    bare(a) == bare(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_kernels() {
        assert_eq!(mask(&[0, 1]), "00000003");
        assert_eq!(mask(&[33]), "00000002,00000000");
        assert!(same_mask("3", "00000003") && same_mask("0,00000003", "3"));
        assert!(same_mask("00000002,00000000", "200000000") && !same_mask("1", "2"));
    }
}
