//! An address that a setting names, taken as soon as it is free: a process that was killed may keep
//! it for a moment after its end.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

/// How long a start waits for an address that is in use. The kernel needs some 100 ms to take the
/// sockets and rings of a dead process apart, and longer under load.
pub const LISTEN_PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts to bind an address that is in use.
const PAUSE: Duration = Duration::from_millis(20);

/// `EMFILE`: the process has as many open files as it may have.
const TOO_MANY_FILES: i32 = rustix::io::Errno::MFILE.raw_os_error();

/// Why nothing can listen at an address.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = {address}: cannot listen there: {error}; {}", Fix(*.address, .error))]
pub struct ListenError {
    /// The name of the setting that has the address.
    pub setting: &'static str,
    /// The address that could not be bound.
    pub address: SocketAddr,
    /// The kernel's error.
    pub error: io::Error,
}

/// Takes `address` by `bind`, which is called again, for [`LISTEN_PATIENCE`] at most, while another
/// process has it.
///
/// # Errors
/// The kernel's last word.
pub fn listen<T>(
    setting: &'static str,
    address: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, ListenError> {
    let mut since = None;
    loop {
        let error = match bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        let since = *since.get_or_insert_with(|| {
            if error.kind() == ErrorKind::AddrInUse {
                let patience = LISTEN_PATIENCE.as_secs();
                tracing::warn!(
                    event = "address_in_use",
                    "{setting} = {address} is in use, waiting up to {patience} s for it"
                );
            }
            Instant::now()
        });
        if error.kind() != ErrorKind::AddrInUse || since.elapsed() >= LISTEN_PATIENCE {
            return Err(ListenError {
                setting,
                address,
                error,
            });
        }
        thread::sleep(PAUSE);
    }
}

/// Whether `address` can be taken, by taking it for a moment; when another process has it now, a line that says so.
///
/// # Errors
/// The kernel's word on an address that it would not give later either.
pub fn may_listen(
    setting: &'static str,
    address: SocketAddr,
) -> Result<Option<String>, ListenError> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Ok(Some(format!(
            "{setting} = {address} is in use now, and a start waits up to {} s for it",
            LISTEN_PATIENCE.as_secs()
        ))),
        Err(error) => Err(ListenError {
            setting,
            address,
            error,
        }),
    }
}

/// The advice to print for an error of the kernel at an address.
struct Fix<'a>(SocketAddr, &'a io::Error);

impl fmt::Display for Fix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, port) = (self.0.ip(), self.0.port());
        match self.1.kind() {
            ErrorKind::AddrInUse => write!(
                f,
                "end the process that has it (as root: ss -ltnp 'sport = :{port}' names it), or choose another port"
            ),
            ErrorKind::PermissionDenied => write!(
                f,
                "ports below 1024 need a right (CAP_NET_BIND_SERVICE; with systemd, AmbientCapabilities): \
                 give it, or choose another port"
            ),
            ErrorKind::AddrNotAvailable => write!(
                f,
                "this host has no address {ip} (`ip address` lists those it has; 0.0.0.0 and [::] are all of them)"
            ),
            _ if self.1.raw_os_error() == Some(TOO_MANY_FILES) => f.write_str(
                "raise the limit of open files (LimitNOFILE in a unit of systemd, `ulimit -n`)",
            ),
            _ => f.write_str("choose another address"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free() -> SocketAddr {
        let probe = TcpListener::bind("127.0.0.1:0").expect("a port");
        probe.local_addr().expect("an address")
    }

    #[test]
    fn an_address_that_gets_free_is_waited_for() {
        let address = free();
        let holder = TcpListener::bind(address).expect("it is free");
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(holder);
        });
        listen("server.listen", address, |address| {
            TcpListener::bind(address)
        })
        .expect("it gets free");
        ends.join().expect("no panic");
    }

    #[test]
    fn an_address_is_tried_and_let_go() {
        let may = |address| may_listen("server.listen", address);
        let address = free();
        assert_eq!(may(address).expect("it is free"), None);
        let holder = TcpListener::bind(address).expect("it is free still");
        let line = may(address).expect("it gets free one day");
        assert!(line.is_some_and(|line| line.contains("is in use now")));
        drop(holder);
        let foreign = "192.0.2.1:80".parse().expect("an address");
        let error = may(foreign).expect_err("no address of this host");
        assert!(error.to_string().contains("`ip address` lists"), "{error}");
    }

    #[test]
    fn what_time_does_not_mend_is_said_at_once_with_what_to_do() {
        for (kind, fix) in [
            (ErrorKind::PermissionDenied, "CAP_NET_BIND_SERVICE"),
            (ErrorKind::AddrNotAvailable, "`ip address` lists"),
            (ErrorKind::Unsupported, "choose another address"),
        ] {
            let calls = std::cell::Cell::new(0);
            let bind = |_| {
                calls.set(calls.get() + 1);
                Err::<(), _>(kind.into())
            };
            let error = listen("server.listen", free(), bind).expect_err("never");
            let error = error.to_string();
            assert!(
                error.starts_with("server.listen = 127.0.0.1:") && error.contains(fix),
                "{error}"
            );
            assert_eq!(calls.get(), 1);
        }
        let bind = |_| Err::<(), _>(io::Error::from_raw_os_error(TOO_MANY_FILES));
        let error = listen("server.listen", free(), bind).expect_err("never");
        assert!(error.to_string().contains("LimitNOFILE"), "{error}");
    }
}
