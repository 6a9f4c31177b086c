//! TLS by rustls, without I/O: ciphertext and plaintext go through buffers that the caller owns.
//! It owns a connection's keys and nothing else; it never touches a socket.

use std::{
    io::{Read, Write},
    path::Path,
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, ServerConnection,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// Bytes that rustls may hold for a connection at a time.
const BUFFER_LIMIT: usize = 16 << 10;

/// The reason for which TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0} = {1:?}: {2}")]
    File(&'static str, String, String),
    #[error(
        "tls.certificate = {0:?} and tls.key = {1:?} do not fit together: {2}; give the key that the \
         first certificate of the file was made for"
    )]
    Pair(String, String, rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

/// The certificate that new connections get; it can be replaced.
pub(crate) struct Acceptor(ArcSwap<ServerConfig>);

impl Acceptor {
    pub(crate) fn new(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from(load(certificate, key)?)))
    }

    /// Takes new files for new connections; on an error the old ones stay.
    pub(crate) fn reload(&self, certificate: &Path, key: &Path) -> Result<(), TlsError> {
        self.0.store(load(certificate, key)?);
        Ok(())
    }

    /// A new connection.
    pub(crate) fn accept(&self) -> Result<TlsSession, rustls::Error> {
        let mut connection = ServerConnection::new(self.0.load_full())?;
        connection.set_buffer_limit(Some(BUFFER_LIMIT));
        Ok(TlsSession(Box::new(connection)))
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let shown = |path: &Path| path.display().to_string();
    let wrong = |setting, path, what| TlsError::File(setting, shown(path), what);
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| wrong("tls.certificate", certificate, error.to_string()))?;
    if chain.is_empty() {
        let what =
            "there is no certificate in it; it must be PEM, the server's own first".to_owned();
        return Err(wrong("tls.certificate", certificate, what));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        let what = match error {
            pem::Error::NoItemsFound => "there is no private key in it; it must be PEM".to_owned(),
            error => error.to_string(),
        };
        wrong("tls.key", key, what)
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?;
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| TlsError::Pair(shown(certificate), shown(key), error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets let a fleet of reconnecting clients skip the signature; no state is kept for them.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Library)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The TLS session of one connection.
pub(crate) struct TlsSession(Box<ServerConnection>);

impl TlsSession {
    /// Takes what the client sent and appends the plaintext in it. `true` when the client has
    /// closed its direction. After an error, [`TlsSession::pending`] still has the alert to send.
    pub(crate) fn receive(
        &mut self,
        mut ciphertext: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let mut closed = false;
        while !ciphertext.is_empty() {
            // rustls takes what its buffers have room for, at most.
            let taken = self.0.read_tls(&mut ciphertext).map_err(|error| {
                rustls::Error::General(format!("the TLS buffers are full: {error}"))
            })?;
            let state = self.0.process_new_packets()?;
            let start = plaintext.len();
            plaintext.resize(start + state.plaintext_bytes_to_read(), 0);
            if plaintext.len() > start {
                self.0
                    .reader()
                    .read_exact(&mut plaintext[start..])
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
            }
            closed |= state.peer_has_closed();
            if closed || taken == 0 {
                break;
            }
        }
        Ok(closed)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Encrypts `plaintext` and appends the ciphertext, after anything that was pending.
    pub(crate) fn send(&mut self, mut plaintext: &[u8], out: &mut Vec<u8>) {
        self.pending(out);
        while !plaintext.is_empty() {
            let taken = self
                .0
                .writer()
                .write(plaintext)
                .expect("rustls buffers in memory");
            plaintext = &plaintext[taken..];
            let before = out.len();
            self.pending(out);
            if taken == 0 && out.len() == before {
                // Only before the handshake is done, which is before anything is sent.
                break;
            }
        }
    }

    /// Appends what TLS itself has to say: handshake, alerts, tickets.
    pub(crate) fn pending(&mut self, out: &mut Vec<u8>) {
        while self.0.wants_write() {
            if self.0.write_tls(out).expect("a Vec takes all bytes") == 0 {
                break;
            }
        }
    }

    /// Appends the goodbye of TLS (RFC 8446 §6.1).
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        self.0.send_close_notify();
        self.pending(out);
    }
}
