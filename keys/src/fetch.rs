//! One fetch of a key set over HTTP: bounded in time and bytes, and never led to another host.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use settings::without_user;
use token::{KeySet, Verifier};
use ureq::{
    Agent, Proxy,
    http::header::{self, HeaderMap},
    tls::{Certificate, RootCerts, TlsConfig},
    unversioned::{
        resolver::DefaultResolver,
        transport::{ConnectProxyConnector, Connector, RustlsConnector, TcpConnector},
    },
};
use url::Url;

use crate::{Source, authorities, in_time::Limit};

/// The most bytes of a set: some hundred keys.
const MAX_SET: u64 = 256 << 10;
/// The most bytes of the head of a web server's answer.
const MAX_HEAD: usize = 16 << 10;
/// The most redirects that one fetch follows.
const MAX_REDIRECTS: usize = 5;

/// A mistake in the settings of a key set's source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The setting `auth.jwks_url` is no address that can be fetched.
    #[error(
        "auth.jwks_url = {0:?}: allowed is http:// or https://, a host without a user, and a path"
    )]
    Url(String),
    /// The file of authorities (first) cannot be used, for the reason (second).
    #[error("auth.jwks_ca_file = {0:?}: {1}")]
    CaFile(String, String),
    /// The proxy, without what may be a password.
    #[error(
        "auth.jwks_proxy = {0:?}: allowed is http:// or https://, maybe user:password@, a host and a port"
    )]
    Proxy(String),
    /// The system's store of authorities is empty, so that no server is trusted.
    #[error("the system has no certificate authorities; set auth.jwks_ca_file")]
    NoAuthorities,
}

/// Why a fetch of the key set failed; the keys in force stay.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server did not answer, or broke the rules of HTTP.
    #[error("{0}")]
    Http(Box<ureq::Error>),
    /// The server answered with a status other than 200.
    #[error("the answer has the status {0}")]
    Status(u16),
    /// A redirect, and why it is not followed.
    #[error("the answer leads to {0:?}, {1}")]
    Redirect(String, &'static str),
    /// The answer has a content encoding that is not understood.
    #[error("the answer is encoded ({0:?}), though identity was asked for")]
    Encoded(String),
    /// The answer's body is no JSON Web Key Set; the text says why.
    #[error("{0}")]
    Set(String),
    /// It has no key that would be of use, and why not.
    #[error("it has no key for an algorithm of auth.algorithms{}", because(.0))]
    NoUse(Vec<String>),
}

/// The first reasons, for whom no log has them.
fn because(left_out: &[String]) -> String {
    left_out
        .iter()
        .take(3)
        .map(|what| format!("; {what}"))
        .collect()
}

impl From<ureq::Error> for FetchError {
    fn from(error: ureq::Error) -> Self {
        Self::Http(Box::new(error))
    }
}

pub(crate) struct Client {
    agent: Agent,
    url: Url,
    timeout: Duration,
}

impl Client {
    pub(crate) fn new(source: &Source) -> Result<Self, SourceError> {
        let wrong = || SourceError::Url(without_user(&source.jwks_url));
        // What `Url` would mend: spaces, and a missing host.
        let host = source.jwks_url.split_once("://").map(|(_, rest)| rest);
        if host.is_none_or(|rest| rest.starts_with(['/', '?', '#']))
            || !source.jwks_url.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(wrong());
        }
        let url = Url::parse(&source.jwks_url).map_err(|_| wrong())?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !["http", "https"].contains(&url.scheme()) || !url.has_host() || has_user {
            return Err(wrong());
        }
        let proxy = proxy_of(source.jwks_proxy.expose())?;
        let through_tls =
            (proxy.as_ref()).is_some_and(|proxy| proxy.uri().scheme_str() == Some("https"));
        let authorities = match &source.jwks_ca_file {
            Some(path) => from_file(path)?,
            None if url.scheme() == "https" || through_tls => of_system()?,
            None => Vec::new(),
        };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities)))
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ));
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEAD)
            // The next fetch is far away.
            .max_idle_connections(0)
            .proxy(proxy)
            .user_agent(concat!("online-status/", env!("CARGO_PKG_VERSION")))
            .build();
        let connector = ().chain(ConnectProxyConnector::default());
        let connector = connector.chain(TcpConnector::default()).chain(Limit);
        let connector = connector.chain(RustlsConnector::default());
        Ok(Self {
            agent: Agent::with_parts(agent, connector, DefaultResolver::default()),
            url,
            timeout: source.timeout,
        })
    }

    /// The set that is there now, with a key at least that `verifier` can use.
    pub(crate) fn fetch(&self, verifier: &Verifier) -> Result<KeySet, FetchError> {
        let deadline = Instant::now() + self.timeout;
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let left = deadline.saturating_duration_since(Instant::now());
            let request = self
                .agent
                .get(url.as_str())
                .config()
                .timeout_global(Some(left));
            let request = request.build();
            let request =
                request.header(header::ACCEPT, "application/jwk-set+json, application/json");
            let request = request.header(header::ACCEPT_ENCODING, "identity");
            let mut response = request.call()?;
            match response.status().as_u16() {
                200 => {}
                301 | 302 | 303 | 307 | 308 => {
                    url = leads_to(&url, response.headers())?;
                    continue;
                }
                status => return Err(FetchError::Status(status)),
            }
            // What is understood was taken off with its header.
            if let Some(encoding) = response.headers().get(header::CONTENT_ENCODING)
                && encoding != "identity"
            {
                let encoding = String::from_utf8_lossy(encoding.as_bytes());
                return Err(FetchError::Encoded(encoding.into_owned()));
            }
            let body = response.body_mut().with_config().limit(MAX_SET);
            let set = KeySet::served(&body.read_to_vec()?).map_err(FetchError::Set)?;
            return match verifier.can_use(&set) {
                true => Ok(set),
                false => Err(FetchError::NoUse(verifier.left_out(&set))),
            };
        }
        let what = "which is one redirect too many";
        Err(FetchError::Redirect(url.into(), what))
    }
}

/// Where a redirect leads, which is on the same host and no less secure.
fn leads_to(from: &Url, headers: &HeaderMap) -> Result<Url, FetchError> {
    let place = headers
        .get(header::LOCATION)
        .map(|place| String::from_utf8_lossy(place.as_bytes()));
    let place = place.unwrap_or_default();
    let wrong = |what| FetchError::Redirect(without_user(&place), what);
    let to = from
        .join(&place)
        .map_err(|_| wrong("which is no address"))?;
    let upgraded = (from.scheme(), to.scheme()) == ("http", "https");
    if to.host() != from.host()
        || !(upgraded || to.port_or_known_default() == from.port_or_known_default())
    {
        return Err(wrong(
            "another host: set auth.jwks_url to where the key set is",
        ));
    }
    if !(upgraded || to.scheme() == from.scheme()) {
        return Err(wrong("which is not https"));
    }
    if place.is_empty() || !to.username().is_empty() || to.password().is_some() {
        return Err(wrong("which is no address"));
    }
    Ok(to)
}

fn proxy_of(address: &str) -> Result<Option<Proxy>, SourceError> {
    if address.is_empty() {
        return Ok(None);
    }
    let wrong = || SourceError::Proxy(without_user(address));
    let schemes = ["http://", "https://"];
    if !schemes.iter().any(|scheme| address.starts_with(scheme)) {
        return Err(wrong());
    }
    match Proxy::new(address) {
        Ok(proxy) if !proxy.host().is_empty() => Ok(Some(proxy)),
        _ => Err(wrong()),
    }
}

fn from_file(path: &Path) -> Result<Vec<Certificate<'static>>, SourceError> {
    let wrong = |what: String| SourceError::CaFile(path.display().to_string(), what);
    match authorities::of_file(path).map_err(wrong)? {
        found if found.is_empty() => Err(wrong("it has no certificate".into())),
        found => Ok(found),
    }
}

fn of_system() -> Result<Vec<Certificate<'static>>, SourceError> {
    match authorities::of_system() {
        found if found.is_empty() => Err(SourceError::NoAuthorities),
        found => Ok(found),
    }
}
