//! One question to a server over HTTP, bounded in time and bytes, with an error that says what to type.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use keys::authorities;
use ureq::{
    Agent,
    http::header,
    tls::{Certificate, RootCerts, TlsConfig},
};
use url::Url;

use crate::{fleet::Fleet, top::TopError};

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of an answer: the 1,024 nodes that are followed, with 64 cores each.
const MAX_ANSWER: u64 = 32 << 20;
/// The most bytes of a file with a token.
const MAX_TOKEN_FILE: usize = 64 << 10;

/// A server that is asked again and again.
pub(crate) struct Server {
    agent: Agent,
    /// Where the fleet is told.
    pub(crate) nodes: Url,
    token: Option<String>,
}

impl Server {
    pub(crate) fn new(
        url: &str,
        ca: Option<&Path>,
        token_file: Option<&PathBuf>,
    ) -> Result<Self, TopError> {
        let wrong = || TopError::Url(url.to_owned());
        let mut nodes = Url::parse(url).map_err(|_| wrong())?;
        let has_user = !nodes.username().is_empty() || nodes.password().is_some();
        if !["http", "https"].contains(&nodes.scheme()) || !nodes.has_host() || has_user {
            return Err(wrong());
        }
        let folder = nodes.path().trim_end_matches('/').to_owned();
        nodes.set_path(&format!("{folder}/nodes"));
        nodes.set_query(None);
        nodes.set_fragment(None);
        let authorities = match ca {
            Some(path) => from_file(path)?,
            None if nodes.scheme() == "https" => of_system()?,
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
            .timeout_global(Some(PATIENCE))
            // No variable of the environment leads an operator's token elsewhere.
            .proxy(None)
            .user_agent(concat!("online-status/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: agent.into(),
            nodes,
            token: token_file.map(read_token).transpose()?,
        })
    }

    /// The fleet as it is now.
    pub(crate) fn fleet(&self) -> Result<Fleet, TopError> {
        let url = || self.nodes.to_string();
        let failed = |error: ureq::Error| TopError::Unreachable(url(), error.to_string());
        let mut request = self.agent.get(self.nodes.as_str());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut answer = request.call().map_err(failed)?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER);
        let body = body.read_to_vec().map_err(failed)?;
        match answer.status().as_u16() {
            200 => serde_json::from_slice(&body)
                .map_err(|error| TopError::Foreign(url(), error.to_string())),
            401 | 403 => Err(TopError::Token(url(), detail(&body))),
            404 => Err(TopError::Foreign(url(), "nothing is at this path".into())),
            status => Err(TopError::Status(url(), status, detail(&body))),
        }
    }
}

/// What a problem of RFC 9457 says, as one line.
fn detail(body: &[u8]) -> String {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = body.as_ref().and_then(|body| body.get("detail")?.as_str());
    let printable = |c: &char| !c.is_control();
    detail
        .unwrap_or("no reason is given")
        .chars()
        .filter(printable)
        .take(200)
        .collect()
}

fn read_token(path: &PathBuf) -> Result<String, TopError> {
    let wrong = |what: String| TopError::TokenFile(path.display().to_string(), what);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true if (1..=MAX_TOKEN_FILE).contains(&token.len()) => Ok(token.to_owned()),
        _ => Err(wrong("it must hold one token".into())),
    }
}

fn from_file(path: &Path) -> Result<Vec<Certificate<'static>>, TopError> {
    let wrong = |what: String| TopError::Ca(path.display().to_string(), what);
    match authorities::of_file(path).map_err(wrong)? {
        found if found.is_empty() => Err(wrong("it must be a file of certificates in PEM".into())),
        found => Ok(found),
    }
}

fn of_system() -> Result<Vec<Certificate<'static>>, TopError> {
    match authorities::of_system() {
        found if found.is_empty() => Err(TopError::NoAuthorities),
        found => Ok(found),
    }
}
