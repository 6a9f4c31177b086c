//! A machine's workers for the runs of others: each connection that has the token gets a worker process
//! of its own.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::Args;
use rustls::{
    Connection, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{
    Answer, Hello, PATIENCE, PINGS, TOKEN,
    wire::{End, Wire},
};
use crate::{clock::now_us, machine::Machine, run};

/// Workers and unknown connections at a time.
const MAX_WORKERS: usize = 64;
/// The shortest token, bytes.
const MIN_TOKEN: usize = 16;

/// Works for benches on other machines: they name it in --workers.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen, ADDRESS:PORT.
    #[arg(long, requires_all = ["certificate", "key"])]
    pub(crate) listen: Option<SocketAddr>,
    /// The certificate that drivers know it by, with its chain, PEM.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Whoever has it may have this machine make load; at least 16 bytes.
    #[arg(long, env = TOKEN, hide_env_values = true)]
    token: Option<String>,
}

/// Why a machine cannot work for others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("--{option} {path}: {what}; it must be a file in PEM")]
    File {
        option: &'static str,
        path: String,
        what: String,
    },
    #[error("--certificate and --key: {0}")]
    Tls(#[from] rustls::Error),
    #[error(
        "--token or {TOKEN}: it must be at least {MIN_TOKEN} bytes, for example of openssl rand -hex 16"
    )]
    Token,
    #[error("--listen {0}: {1}")]
    Listen(SocketAddr, io::Error),
}

fn config(certificate: &Path, key: &Path) -> Result<ServerConfig, ServeError> {
    let wrong = |option, path: &Path, what: String| ServeError::File {
        option,
        path: path.display().to_string(),
        what,
    };
    let read = |option, path: &Path| {
        fs::read(path).map_err(|error| wrong(option, path, error.to_string()))
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&read("certificate", certificate)?)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(
            "certificate",
            certificate,
            "it has no certificate".into(),
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&read("key", key)?)
        .map_err(|error| wrong("key", key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?)
}

/// Listens until the process ends.
pub(crate) fn serve(options: &Serve, at: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let token = options.token.clone().unwrap_or_default();
    if token.len() < MIN_TOKEN {
        return Err(ServeError::Token.into());
    }
    let none = PathBuf::new();
    let file = |file: &Option<PathBuf>| file.clone().unwrap_or_else(|| none.clone());
    let config = Arc::new(config(&file(&options.certificate), &file(&options.key))?);
    let listener = TcpListener::bind(at).map_err(|error| ServeError::Listen(at, error))?;
    eprintln!(
        "online-status-bench: working for others at {}",
        listener.local_addr()?
    );
    let (token, busy) = (Arc::new(token), Arc::new(AtomicUsize::new(0)));
    loop {
        let (socket, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of one connection, or for want of files; the others are served on.
                eprintln!("online-status-bench: a connection is not accepted: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if busy.fetch_add(1, Ordering::Relaxed) >= MAX_WORKERS {
            busy.fetch_sub(1, Ordering::Relaxed);
            eprintln!("online-status-bench: {from}: refused, {MAX_WORKERS} are at work");
            continue;
        }
        let (config, token, busy) = (config.clone(), token.clone(), busy.clone());
        std::thread::spawn(move || {
            match work(socket, from, config, &token) {
                Ok(()) => eprintln!("online-status-bench: {from}: done"),
                Err(error) => eprintln!("online-status-bench: {from}: {error}"),
            }
            busy.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Compares without telling by its time where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn work(
    socket: TcpStream,
    from: SocketAddr,
    config: Arc<ServerConfig>,
    token: &str,
) -> io::Result<()> {
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut wire = Wire::new(Connection::Server(tls), socket, PATIENCE)?;
    let hello: Hello = wire.hear()?;
    let mine = Machine::here().bench;
    let refusal = match () {
        () if !is_same(hello.token.as_bytes(), token.as_bytes()) => Some(format!(
            "it does not take this token: give the one that it was started with in --worker-token or {TOKEN}"
        )),
        () if hello.bench != mine => Some(format!(
            "its bench is {mine}, and this one is {}: use the same build on all machines",
            hello.bench
        )),
        () => None,
    };
    if let Some(refusal) = refusal {
        wire.tell(&Answer::Refused(refusal.clone()))?;
        return Err(io::Error::other(refusal));
    }
    let files = run::files().saturating_sub(run::OTHER_FILES);
    wire.tell(&Answer::Welcome { files })?;
    for _ in 0..PINGS {
        let () = wire.hear()?;
        wire.tell(&now_us())?;
    }
    let mut child = Command::new(std::env::current_exe()?)
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    eprintln!("online-status-bench: {from}: at work");
    let relayed = match (child.stdout.take(), child.stdin.take()) {
        (Some(from), Some(to)) => wire.relay(from, to),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    };
    if !matches!(relayed, Ok(End::Local)) {
        // Whoever drove it is gone, or has its results.
        let _ = child.kill();
    }
    let status = child.wait()?;
    match relayed {
        Ok(End::Local) if !status.success() => {
            Err(io::Error::other(format!("the worker ended with {status}")))
        }
        Ok(_) => Ok(()),
        // The driver of a run that is over does not wait to say goodbye.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(error),
    }
}
