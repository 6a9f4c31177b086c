//! One fetch of a key set over HTTP: bounded in time and bytes, and never led elsewhere.

use std::{path::Path, sync::Arc};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use token::{KeySet, Verifier};
use ureq::{
    Agent,
    http::{Uri, header, uri::Scheme},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::Source;

/// The most bytes of a set: some hundred keys.
const MAX_SET: u64 = 256 << 10;
/// The most bytes of an answer's head.
const MAX_HEAD: usize = 16 << 10;

/// What makes a source unusable.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The address.
    #[error(
        "auth.jwks_url = {0:?}: allowed is http:// or https://, a host without a user, and a path"
    )]
    Url(String),
    /// The file of authorities.
    #[error("auth.jwks_ca_file = {0:?}: {1}")]
    CaFile(String, String),
    /// Nobody is trusted.
    #[error("the system has no certificate authorities; set auth.jwks_ca_file")]
    NoAuthorities,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or none that HTTP allows.
    #[error("{0}")]
    Http(Box<ureq::Error>),
    /// Another answer than the set; redirects are not followed.
    #[error("the answer has the status {0}")]
    Status(u16),
    /// It is not what it should be.
    #[error("{0}")]
    Set(String),
    /// It has no key that would be of use.
    #[error("none of its {0} usable keys is for an algorithm of auth.algorithms")]
    NoUse(usize),
}

impl From<ureq::Error> for FetchError {
    fn from(error: ureq::Error) -> Self {
        Self::Http(Box::new(error))
    }
}

pub(crate) struct Client {
    agent: Agent,
    url: Uri,
}

impl Client {
    pub(crate) fn new(source: &Source) -> Result<Self, SourceError> {
        // What stands before the host may be a password.
        let shown = match source.jwks_url.rsplit_once('@') {
            Some((_, rest)) => format!("…@{rest}"),
            None => source.jwks_url.clone(),
        };
        let wrong = || SourceError::Url(shown.clone());
        let url: Uri = source.jwks_url.parse().map_err(|_| wrong())?;
        let authority = url.authority().ok_or_else(wrong)?.as_str();
        let secure = url.scheme() == Some(&Scheme::HTTPS);
        if !(secure || url.scheme() == Some(&Scheme::HTTP)) || authority.contains('@') {
            return Err(wrong());
        }
        let authorities = match &source.jwks_ca_file {
            Some(path) => from_file(path)?,
            None if secure => of_system()?,
            None => Vec::new(),
        };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities)))
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ));
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .timeout_global(Some(source.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEAD)
            // The next fetch is far away.
            .max_idle_connections(0)
            .proxy(None)
            .user_agent(concat!("online-status/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: agent.into(),
            url,
        })
    }

    /// The set that is there now, with a key at least that `verifier` can use.
    pub(crate) fn fetch(&self, verifier: &Verifier) -> Result<KeySet, FetchError> {
        let request = self.agent.get(&self.url);
        let request = request.header(header::ACCEPT, "application/jwk-set+json, application/json");
        let mut response = request.call()?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status(status));
        }
        let body = response.body_mut().with_config().limit(MAX_SET);
        let bytes = body.read_to_vec()?;
        let set = KeySet::served(&bytes).map_err(FetchError::Set)?;
        match verifier.can_use(&set) {
            true => Ok(set),
            false => Err(FetchError::NoUse(set.len())),
        }
    }
}

fn from_file(path: &Path) -> Result<Vec<Certificate<'static>>, SourceError> {
    let wrong = |what: String| SourceError::CaFile(path.display().to_string(), what);
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<Certificate<'static>> = CertificateDer::pem_slice_iter(&pem)
        .map(|der| Ok(Certificate::from_der(&der?).to_owned()))
        .collect::<Result<_, rustls::pki_types::pem::Error>>()
        .map_err(|error| wrong(error.to_string()))?;
    match certificates.is_empty() {
        false => Ok(certificates),
        true => Err(wrong("it has no certificate".into())),
    }
}

fn of_system() -> Result<Vec<Certificate<'static>>, SourceError> {
    // Some that cannot be read do not make the others worse.
    let found = rustls_native_certs::load_native_certs().certs;
    let found: Vec<Certificate<'static>> = found
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    match found.is_empty() {
        false => Ok(found),
        true => Err(SourceError::NoAuthorities),
    }
}
