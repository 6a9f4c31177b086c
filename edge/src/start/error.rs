//! Why an edge does not start, in words that say what to do.

use std::net::SocketAddr;

use keys::KeysError;
use program::{ListenError, TooFewFiles};

use crate::{cluster::ClusterError, decrees::DecreeError, store, tls::TlsError};

/// The reason for which the edge does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(
        "auth.secret (JWT_SECRET) is not set, so tokens of the public development secret are \
         accepted, and {0} = {1} is not a loopback address; set JWT_SECRET (at least 32 \
         bytes, as `openssl rand -base64 32` makes them), or listen on 127.0.0.1"
    )]
    DevelopmentSecret(&'static str, SocketAddr),
    #[error(
        "auth.secret (JWT_SECRET) is not set, so tokens of the public development secret would be \
         accepted, and this edge is a service; set JWT_SECRET (at least 32 bytes, as `openssl rand \
         -base64 32` makes them), or start it by hand"
    )]
    DevelopmentService,
    #[error(transparent)]
    Auth(#[from] KeysError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Store(#[from] store::OpenError),
    #[error(transparent)]
    Decree(#[from] DecreeError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Files(#[from] TooFewFiles),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(
        "server.cores = {0}: more than the {1} CPUs that this process may use; set at most so many, \
         0 for all of them, or server.pin = false"
    )]
    Cores(usize, usize),
    #[error("the kernel does not give an io_uring to this process: {}", in_words(.0))]
    Uring(std::io::Error),
    #[error("{0} cores did not finish the shutdown in time")]
    Drain(usize),
    #[error("the process cannot be set up: {0}")]
    System(#[from] std::io::Error),
}

/// Why there is no ring, and what to do. Each error of io_uring_setup(2) has a cause of its own.
pub(super) fn in_words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match (error.kind(), setting.trim()) {
        (ErrorKind::OutOfMemory, _) => format!(
            "{error}: io_uring takes up to 1 MiB a core, which newer kernels count against the user's limit of \
             locked memory; raise it (`ulimit -l unlimited`, or LimitMEMLOCK=infinity in a unit of systemd), or \
             take fewer cores (server.cores)"
        ),
        (ErrorKind::PermissionDenied, disabled @ ("1" | "2")) => format!(
            "{error}: it is off on this host, since kernel.io_uring_disabled = {disabled}; as root: sysctl -w \
             kernel.io_uring_disabled=0, and a file in /etc/sysctl.d keeps that"
        ),
        _ => format!(
            "{error}. Linux 6.1 or newer is needed; in a container its seccomp profile has to allow \
             io_uring_setup, io_uring_enter and io_uring_register"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn why_there_is_no_ring_is_said_by_what_the_kernel_answers() {
        let said = |errno: Errno| StartError::Uring(errno.into()).to_string();
        let memory = said(Errno::NOMEM);
        assert!(
            memory.contains("LimitMEMLOCK") && !memory.contains("seccomp"),
            "{memory}"
        );
        for errno in [Errno::NOSYS, Errno::INVAL] {
            let other = said(errno);
            assert!(
                other.contains("seccomp") && !other.contains("MEMLOCK"),
                "{other}"
            );
        }
        // On a host that has it, what forbids it is the container's profile.
        let off = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        if off.is_ok_and(|off| off.trim() == "0") {
            assert!(said(Errno::PERM).contains("seccomp"));
        }
    }
}
