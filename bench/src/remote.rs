//! Workers on other machines. Both ends speak TLS and say who they are in a line each; then what a
//! worker process and its parent tell each other passes as it is. It owns that connection, and knows
//! nothing of what passes.

mod serve;
mod wire;

pub(crate) use self::serve::{Serve, serve};

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    time::Duration,
};

use rustls::Connection;
use serde::{Deserialize, Serialize};

use self::wire::Wire;
use crate::{
    clock::now_us,
    machine::Machine,
    report::Clock,
    tls::{self, Tls, TlsError, Trust},
};

/// How long the other end may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions for the other machine's clock; the one that was answered fastest counts.
const PINGS: u32 = 16;

/// The environment variable of the token; edges know all that begin with ONLINE_STATUS_ and refuse others.
pub(crate) const TOKEN: &str = "BENCH_WORKER_TOKEN";

/// Why there is no worker on another machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error(
        "--workers {at}: {error}; start one there: online-status-bench worker --listen ADDRESS:PORT \
         --certificate FILE --key FILE, with the token in {TOKEN}"
    )]
    Absent { at: String, error: io::Error },
    #[error(
        "--workers {at}: {error}; name the authority of its certificate with --worker-ca FILE, and the \
         worker as its certificate does"
    )]
    Certificate { at: String, error: io::Error },
    #[error("--workers {at}: {what}")]
    Refused { at: String, what: String },
    #[error(
        "--workers {at}: it may open {files} files, and {needed} sessions are its share: name more \
         workers, ask for fewer --sessions, or raise the limit there (ulimit -Hn)"
    )]
    Files { at: String, files: u64, needed: u64 },
    #[error("--worker-token or {TOKEN} has to be the token that the workers were started with")]
    NoToken,
    #[error("--workers {at}: {}", error.to_string().replace("--ca", "--worker-ca"))]
    Tls { at: String, error: TlsError },
    #[error("{}", .0.to_string().replace("--ca", "--worker-ca"))]
    Trust(TlsError),
}

/// What the driver of a run says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    /// Version and build of the bench.
    bench: String,
    token: String,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It works, and may open so many files.
    Welcome { files: u64 },
    /// It does not; why, and what to do.
    Refused(String),
}

/// A worker on another machine that waits for its plan.
pub(crate) struct Remote {
    pub(crate) at: String,
    wire: Wire,
    /// What its monotonic clock lacks to ours, µs, and by how much that may be wrong.
    pub(crate) clock: i64,
    clock_error: u64,
    files: u64,
}

impl Remote {
    pub(crate) fn connect(at: &str, token: &str, trust: &Trust) -> Result<Self, RemoteError> {
        let absent = |error| RemoteError::Absent {
            at: at.into(),
            error,
        };
        let refused = |what: String| RemoteError::Refused {
            at: at.into(),
            what,
        };
        let mut addresses = at.to_socket_addrs().map_err(absent)?;
        let address: SocketAddr = addresses
            .next()
            .ok_or_else(|| absent(io::ErrorKind::AddrNotAvailable.into()))?;
        let tls = Tls::new(trust).and_then(|tls| tls::begin(tls.of_user(), at));
        let tls = tls.map_err(|error| RemoteError::Tls {
            at: at.into(),
            error,
        })?;
        let socket = TcpStream::connect_timeout(&address, PATIENCE).map_err(absent)?;
        let mut wire = Wire::new(Connection::Client(tls), socket, PATIENCE).map_err(absent)?;
        let hello = Hello {
            bench: Machine::here().bench,
            token: token.into(),
        };
        let answer = wire.tell(&hello).and_then(|()| wire.hear());
        let answer =
            answer.map_err(
                |error| match error.get_ref().and_then(|e| e.downcast_ref()) {
                    Some(rustls::Error::InvalidCertificate(_)) => RemoteError::Certificate {
                        at: at.into(),
                        error,
                    },
                    Some(_) => refused(format!("{error}; is it a bench worker?")),
                    None if error.kind() == io::ErrorKind::UnexpectedEof => refused(
                        "it closed the connection without a word: its own output says why".into(),
                    ),
                    None => absent(error),
                },
            )?;
        let files = match answer {
            Answer::Welcome { files } => files,
            Answer::Refused(what) => return Err(refused(what)),
        };
        let mut best: Option<(u64, i64)> = None;
        for _ in 0..PINGS {
            let asked = now_us();
            let there: u64 = wire.tell(&()).and_then(|()| wire.hear()).map_err(absent)?;
            let took = now_us() - asked;
            let lacks = (asked + took / 2) as i64 - there as i64;
            if best.is_none_or(|(fastest, _)| took < fastest) {
                best = Some((took, lacks));
            }
        }
        let (took, clock) = best.unwrap_or_default();
        Ok(Self {
            at: at.into(),
            wire,
            clock,
            clock_error: took / 2,
            files,
        })
    }

    /// What is known of its clock.
    pub(crate) fn clock(&self) -> Clock {
        Clock {
            at: self.at.clone(),
            offset: self.clock,
            error: self.clock_error,
        }
    }

    /// Whether it may open so many sessions.
    pub(crate) fn bears(&self, needed: u64) -> Result<(), RemoteError> {
        match needed <= self.files {
            true => Ok(()),
            false => Err(RemoteError::Files {
                at: self.at.clone(),
                files: self.files,
                needed,
            }),
        }
    }

    /// From now on its lines come out of the socket that is returned, and go in there.
    pub(crate) fn attach(self) -> io::Result<UnixStream> {
        let (mine, theirs) = UnixStream::pair()?;
        let out = theirs.try_clone()?;
        std::thread::spawn(move || {
            // Its end shows at the other end of the pair.
            let _ = self.wire.relay(theirs, out);
        });
        Ok(mine)
    }
}
