//! TLS by rustls, without I/O: certificates, and the connections that get them. It owns what new
//! connections are configured by; one's own state is in `session.rs`.

mod session;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tracing::warn;
use webpki::EndEntityCert;

pub(crate) use self::session::TlsSession;

/// Bytes that rustls may hold for a connection of the administration at a time.
const BUFFER_LIMIT: usize = 16 << 10;

/// The reason for which TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0} = {1:?}: {2}")]
    File(&'static str, String, String),
    #[error(
        "{0} and {1} do not fit together: {2}; give the key that the first certificate of the file was \
         made for"
    )]
    Pair(String, String, rustls::Error),
    #[error("tls.more has {0:?}: it is no pair of files like /etc/other.pem:/etc/other.key")]
    NoPair(String),
    #[error("TLS cannot be set up: {0}")]
    Library(rustls::Error),
}

/// The files that certificates and keys are read from.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// Chains and their keys; the first is for clients that name none of the others.
    pairs: Vec<(PathBuf, PathBuf)>,
    /// The authorities of clients that have to show a certificate.
    client_ca: Option<PathBuf>,
}

impl Files {
    /// The files of `tls.certificate`, `tls.key` and `tls.more`; `None` when there are none.
    pub(crate) fn of(
        certificate: &Path,
        key: &Path,
        more: &[String],
    ) -> Result<Option<Self>, TlsError> {
        if certificate.as_os_str().is_empty() {
            return Ok(None);
        }
        let mut pairs = vec![(certificate.to_owned(), key.to_owned())];
        for pair in more {
            let (certificate, key) = pair
                .split_once(':')
                .filter(|(certificate, key)| !certificate.is_empty() && !key.is_empty())
                .ok_or_else(|| TlsError::NoPair(pair.clone()))?;
            pairs.push((certificate.into(), key.into()));
        }
        Ok(Some(Self {
            pairs,
            client_ca: None,
        }))
    }

    /// The same for clients that have to show a certificate of these authorities.
    pub(crate) fn asking(&self, client_ca: Option<PathBuf>) -> Self {
        Self {
            client_ca,
            ..self.clone()
        }
    }
}

/// The certificates that new connections get; they can be replaced.
pub(crate) struct Acceptor {
    files: Files,
    config: ArcSwap<ServerConfig>,
}

impl Acceptor {
    pub(crate) fn new(files: Files) -> Result<Self, TlsError> {
        let config = ArcSwap::from(load(&files)?);
        Ok(Self { files, config })
    }

    /// Reads the files again for new connections; on an error the old certificates stay.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.config.store(load(&self.files)?);
        Ok(())
    }

    /// A new connection.
    pub(crate) fn accept(&self) -> Result<TlsSession, rustls::Error> {
        TlsSession::new(self.config.load_full())
    }

    /// The same with buffers of rustls' own, for the few connections of the administration.
    pub(crate) fn connection(&self) -> Result<ServerConnection, rustls::Error> {
        let mut connection = ServerConnection::new(self.config.load_full())?;
        connection.set_buffer_limit(Some(BUFFER_LIMIT));
        Ok(connection)
    }
}

/// Certificates by the name that a client asks for (SNI).
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chooses = self.0.len() > 1;
        let name = hello.server_name().filter(|_| chooses).map(str::to_owned);
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let schemes = hello.signature_schemes();
        let usable = || (self.0.iter()).filter(|it| it.key.choose_scheme(schemes).is_some());
        let named = name.and_then(|name| usable().find(|it| is_for(it, &name)));
        named.or_else(|| usable().next()).cloned()
    }
}

/// Whether the certificate has that name, or a wildcard for it.
fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let own = certified.cert.first();
    let parsed = own.and_then(|own| EndEntityCert::try_from(own).ok());
    parsed.is_some_and(|parsed| parsed.verify_is_valid_for_subject_name(name).is_ok())
}

fn load(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider());
    let pairs = files.pairs.iter().enumerate();
    let certified = pairs.map(|(at, (certificate, key))| {
        let settings = match at {
            0 => ("tls.certificate", "tls.key"),
            _ => ("tls.more", "tls.more"),
        };
        certified((certificate, key), settings, &provider)
    });
    let certified = certified.collect::<Result<Vec<_>, _>>()?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Library)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let shown = path.display().to_string();
            let wrong = |what| TlsError::File("tls.admin_client_ca", shown.clone(), what);
            let authorities: Result<Vec<CertificateDer<'static>>, _> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let mut roots = RootCertStore::empty();
            for authority in authorities.map_err(|error| wrong(error.to_string()))? {
                roots
                    .add(authority)
                    .map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                let what = "there is no certificate in it; it must be PEM".to_owned();
                return Err(wrong(what));
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build().map_err(|error| wrong(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(certified)));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets let a fleet of reconnecting clients skip the signature; no state is kept for them, and
    // their key is another one every few hours.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Library)?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// What all TLS of the edge is made with.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(hash_length);
    provider
}

/// The order of suites: those with SHA-256 come first. Its hashing is a large part of a handshake's
/// cost, and what SHA-384 costs more buys nothing with AES-128 or ChaCha20 behind it.
fn hash_length(suite: &SupportedCipherSuite) -> usize {
    let hash = match suite {
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
    };
    hash.output_len()
}

/// A chain with its key, and the authority's word that it is not revoked (OCSP, in DER) where a file
/// of the chain's name with `.ocsp` at its end is there. The settings name the two files.
fn certified(
    (certificate, key): (&Path, &Path),
    (of_certificate, of_key): (&'static str, &'static str),
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let shown = |path: &Path| path.display().to_string();
    let wrong = |setting, path, what| TlsError::File(setting, shown(path), what);
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| wrong(of_certificate, certificate, error.to_string()))?;
    if chain.is_empty() {
        let what =
            "there is no certificate in it; it must be PEM, the server's own first".to_owned();
        return Err(wrong(of_certificate, certificate, what));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        let what = match error {
            pem::Error::NoItemsFound => "there is no private key in it; it must be PEM".to_owned(),
            error => error.to_string(),
        };
        wrong(of_key, key, what)
    })?;
    let what = wrong_key(&private);
    let signing = (provider.key_provider.load_private_key(private))
        .map_err(|_| wrong(of_key, key, what.to_owned()))?;
    if let Err(error) = EndEntityCert::try_from(&chain[0]) {
        return Err(wrong(
            of_certificate,
            certificate,
            wrong_certificate(&error),
        ));
    }
    let mut certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|error| {
        let named = |setting, path| format!("{setting} = {:?}", shown(path));
        let (certificate, key) = (named(of_certificate, certificate), named(of_key, key));
        TlsError::Pair(certificate, key, error)
    })?;
    let mut staple = certificate.as_os_str().to_owned();
    staple.push(".ocsp");
    let staple = PathBuf::from(staple);
    say_when_refused(of_certificate, certificate, &certified);
    certified.ocsp = match std::fs::read(&staple) {
        Ok(response) if is_sequence(&response) => Some(response),
        Ok(_) => {
            let what = "it is no OCSP response in DER, as `openssl ocsp -respout` writes it";
            return Err(wrong(of_certificate, &staple, what.to_owned()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(wrong(of_certificate, &staple, error.to_string())),
    };
    Ok(Arc::new(certified))
}

/// What is wrong with a key that cannot be used, and what makes another one.
fn wrong_key(key: &PrivateKeyDer<'_>) -> &'static str {
    use ::aws_lc_rs::rsa::KeyPair;
    let rsa = match key {
        PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
        _ => KeyPair::from_pkcs8(key.secret_der()),
    };
    match rsa.err().map(|error| error.to_string()).as_deref() {
        Some("TooSmall") => {
            "it is an RSA key of fewer than 2048 bits, which clients do not trust; make another key and a \
             certificate for it: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out NEW.key"
        }
        Some("TooLarge") => {
            "it is an RSA key of more than 8192 bits, which is not taken; make another key and a certificate \
             for it: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out NEW.key"
        }
        _ => {
            "it is no key that is taken: RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, or Ed25519; \
             make another key and a certificate for it: openssl genpkey -algorithm EC -pkeyopt \
             ec_paramgen_curve:P-256 -out NEW.key"
        }
    }
}

/// What is wrong with a certificate that cannot be used, and what makes another one.
fn wrong_certificate(error: &webpki::Error) -> String {
    let what = match error {
        webpki::Error::UnsupportedCertVersion => {
            "it is X.509 of version 1, which has no names of hosts, so that clients refuse it"
                .into()
        }
        error => format!("it cannot be used: {error}"),
    };
    format!(
        "{what}; have one of version 3 made, with a subjectAltName, as openssl req -x509 -addext \
         subjectAltName=DNS:edge-1.example does"
    )
}

/// Says it when clients will refuse the chain, since its own certificate has ended or not begun, can never be good, or
/// has no name. It
/// is used all the same: it may be this host's clock that is wrong, or clients of its own kind.
fn say_when_refused(setting: &str, path: &Path, certified: &CertifiedKey) {
    let own = certified.cert.first();
    let Some(own) = own.and_then(|own| EndEntityCert::try_from(own).ok()) else {
        return;
    };
    // Its time is looked at first, and nobody vouches for it here.
    let usage = webpki::KeyUsage::server_auth();
    let judged = own.verify_for_usage(&[], &[], &[], UnixTime::now(), usage, None, None);
    let what = match judged.err() {
        Some(webpki::Error::CertExpired { time, not_after }) => {
            let hours = time.as_secs().saturating_sub(not_after.as_secs()) / 3_600;
            format!("it ended {hours} h ago by this host's clock")
        }
        Some(webpki::Error::CertNotValidYet { time, not_before }) => {
            let hours = not_before.as_secs().saturating_sub(time.as_secs()) / 3_600;
            format!("it begins in {hours} h by this host's clock")
        }
        Some(webpki::Error::InvalidCertValidity) => "it ends before it begins".to_owned(),
        _ if has_no_name(&own) => "it has no name of a host (subjectAltName)".to_owned(),
        _ => return,
    };
    warn!(
        event = "certificate_refused",
        "{setting} = {path:?}: clients refuse this certificate, {what}; put a good one in its \
         place, and SIGHUP (systemctl reload) has it read"
    );
}

/// Whether the certificate is for no name and no address; what its subject says counts no more (RFC 6125 §6.4.4).
fn has_no_name(own: &EndEntityCert<'_>) -> bool {
    let any = ServerName::try_from("any.invalid").expect("it is a name");
    let error = own.verify_is_valid_for_subject_name(&any);
    matches!(error, Err(webpki::Error::CertNotValidForName(names)) if names.presented.is_empty())
}

/// Whether the bytes are one sequence in DER (X.690 §8.1), as an OCSP response is (RFC 6960 §4.2.1), short enough
/// for a handshake.
fn is_sequence(bytes: &[u8]) -> bool {
    let (header, length) = match bytes {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(*high) << 8 | usize::from(*low)),
        _ => return false,
    };
    length > 0 && bytes.len() == header + length
}

/// Whether bytes that came first begin TLS: a handshake record (RFC 8446 §5.1) of any version.
pub(crate) fn is_hello(bytes: &[u8]) -> bool {
    bytes.starts_with(&[22, 3])
}
