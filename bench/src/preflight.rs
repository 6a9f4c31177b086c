//! Looks at the server and at this machine once before a run: what would fail for every session is
//! said at once, with what to do about it, and not counted ten thousand times.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use rustls::StreamOwned;

use crate::{
    address::Address,
    engine::PER_ADDRESS,
    plan::Plan,
    tls::{self, Tls, TlsError},
    wire,
};

/// How long the server may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer to an upgrade, bytes.
const MAX_ANSWER: usize = 64 << 10;

/// Why a run cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("--url {host}: {error}; is the server started, and is it listening there?")]
    NoServer { host: String, error: io::Error },
    #[error(
        "--url {host}: {error}; name the authority of its certificate with --ca FILE, and the server as \
         its certificate does"
    )]
    Certificate { host: String, error: io::Error },
    #[error("--url {host}: no TLS there ({error}); ws:// may be meant")]
    NoTls { host: String, error: io::Error },
    #[error("--url {host}: it answered {answer:?} to the upgrade; {advice}")]
    NotUpgraded {
        host: String,
        answer: String,
        advice: &'static str,
    },
    #[error(
        "--sessions {sessions} from one address need as many ports; this machine has {ports} \
         (net.ipv4.ip_local_port_range): widen that range, or run several benches from several machines"
    )]
    Ports { sessions: u32, ports: u32 },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("a token cannot be made: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

/// Finds out whether a run can begin; with coordinators their answers say so.
pub(crate) fn check(plan: &Plan) -> Result<(), PreflightError> {
    let Some(address) = plan.server() else {
        return Ok(());
    };
    ports(plan, address)?;
    upgrade(plan, address)
}

/// The first and the last port that the kernel gives to connections.
fn port_range(text: &str) -> Option<u32> {
    let mut ends = text.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

fn ports(plan: &Plan, address: &Address) -> Result<(), PreflightError> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let Some(ports) = range.ok().as_deref().and_then(port_range) else {
        return Ok(());
    };
    // On loopback there are source addresses enough.
    let many = address.socket.ip().is_loopback() && address.socket.is_ipv4();
    let sessions = match many {
        true => plan.users().min(PER_ADDRESS),
        false if plan.distant => plan.users().div_ceil(plan.workers),
        false => plan.users(),
    };
    if sessions > ports {
        return Err(PreflightError::Ports { sessions, ports });
    }
    Ok(())
}

/// Opens one session of a user that the run does not have.
fn upgrade(plan: &Plan, address: &Address) -> Result<(), PreflightError> {
    let host = || address.host.clone();
    let absent = |error| PreflightError::NoServer {
        host: host(),
        error,
    };
    let user = plan.user(plan.users());
    let request = match &plan.dialogue {
        None => wire::request(address, &plan.secret, &user, plan.encoding)?,
        Some(dialogue) => dialogue.request(plan, address, plan.users())?,
    };
    let ours = plan.dialogue.is_none();
    let socket = TcpStream::connect_timeout(&address.socket, PATIENCE).map_err(absent)?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(absent)?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(absent)?;
    if !address.tls {
        return answer(socket, &request, address, ours);
    }
    let tls = Tls::new(&plan.trust)?;
    let mut tls = StreamOwned::new(tls::begin(tls.of_user(), &address.host)?, socket);
    while tls.conn.is_handshaking() {
        if let Err(error) = tls.conn.complete_io(&mut tls.sock) {
            let cause = error.get_ref().and_then(|e| e.downcast_ref());
            return Err(match cause {
                Some(rustls::Error::InvalidCertificate(_)) => PreflightError::Certificate {
                    host: host(),
                    error,
                },
                _ => PreflightError::NoTls {
                    host: host(),
                    error,
                },
            });
        }
    }
    answer(tls, &request, address, ours)
}

fn answer(
    mut stream: impl Read + Write,
    request: &[u8],
    address: &Address,
    ours: bool,
) -> Result<(), PreflightError> {
    let host = || address.host.clone();
    let absent = |error| PreflightError::NoServer {
        host: host(),
        error,
    };
    stream.write_all(request).map_err(absent)?;
    let (mut input, mut bytes) = (Vec::new(), [0; 4_096]);
    let answer = loop {
        match wire::upgraded(&input) {
            Ok(None) if input.len() < MAX_ANSWER => {}
            Ok(None) => break "an answer without an end".to_owned(),
            Ok(Some(_)) => return Ok(()),
            Err(first) => break first,
        }
        match stream.read(&mut bytes).map_err(absent)? {
            0 => break String::from_utf8_lossy(&input).into_owned(),
            count => input.extend_from_slice(&bytes[..count]),
        }
    };
    // Every session would meet the same; to be put off for now is part of a run.
    if answer.contains(" 503") {
        return Ok(());
    }
    let advice = match () {
        () if !ours => {
            "name the path in --url, and give --header and --subprotocol as this server wants them"
        }
        () if answer.contains(" 401") => "give the server's secret with --secret or JWT_SECRET",
        () if answer.contains(" 403") => {
            "its list of origins or its limits for an address forbid it"
        }
        () if answer.contains(" 404") => "the path of its sessions is /socket",
        () if address.tls => "is it an online-status server?",
        () => "is it an online-status server, and without TLS?",
    };
    Err(PreflightError::NotUpgraded {
        host: host(),
        answer,
        advice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_has_both_its_ends() {
        assert_eq!(port_range("32768\t60999\n"), Some(28_232));
        assert_eq!(port_range("x"), None);
    }
}
