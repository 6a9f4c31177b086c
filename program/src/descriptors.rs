//! The limit of open files, by which connections are counted.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The limit of this process, in descriptors; 2^20 where there is none.
#[must_use]
pub fn open_files() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

/// Raises the limit as far as it goes, and says how far that is, in descriptors.
pub fn raise_open_files() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not allowed, the limit stays as it is.
    let _ = setrlimit(Resource::Nofile, limit);
    open_files()
}
