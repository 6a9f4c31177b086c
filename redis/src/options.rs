//! How to reach Redis, as given by an operator. It owns the syntax of `REDIS_URL` and turns every
//! mistake in it into an error that names the setting and never holds the password.

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::Keys;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// How to reach the store.
#[derive(Clone)]
pub struct Options {
    /// `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. A comma and
    /// further nodes make it a Redis Cluster: they may leave out the scheme, the user and the
    /// password, which are those of the first. Special characters of a password are written with
    /// `%`, as in all URLs. Port 6379 and database 0 when not given.
    pub url: String,
    /// Begins every key; `os:` by default. No braces.
    pub prefix: String,
    /// How long a connection may take to be there, 10 ms to 60 s; 1 s by default.
    pub connect_timeout: Duration,
    /// How long an answer may take, 10 ms to 60 s; 2 s by default.
    pub response_timeout: Duration,
    /// For `rediss`: a PEM file with the certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Options {
    /// The defaults, for the server at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: "os:".into(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(2),
            ca_file: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("url", &"(hidden)")
            .field("prefix", &self.prefix)
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

/// Which option is wrong, and how.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// There is no URL.
    #[error(
        "redis.url (REDIS_URL) is not set: a cluster meets in Redis; set it, like \
         REDIS_URL=redis://127.0.0.1:6379. A standalone edge needs none: it is started by \
         `online-status-edge standalone`"
    )]
    NoUrl,
    /// The URL, or one of several.
    #[error("redis.url (REDIS_URL), node {node}: {reason}")]
    Url {
        /// Which node of the list, from 1.
        node: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A timeout out of range.
    #[error("redis.{name} = {value:?}: allowed are 10ms to 60s")]
    Timeout {
        /// `connect_timeout` or `response_timeout`.
        name: &'static str,
        /// What it was.
        value: Duration,
    },
    /// The prefix.
    #[error("redis.prefix: {0}")]
    Prefix(#[from] protocol::keys::PrefixError),
    /// The file with certificate authorities.
    #[error("redis.ca_file = {path:?}: {reason}")]
    CaFile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a CA file, and nothing to use it for.
    #[error("redis.ca_file is given, and redis.url (REDIS_URL) does not begin with rediss://")]
    CaFileWithoutTls,
}

/// What a timeout may be, ms.
pub(crate) const TIMEOUT: RangeInclusive<u64> = 10..=60_000;

/// Options that have been checked.
pub(crate) struct Target {
    /// At least one; several are a Redis Cluster.
    pub(crate) nodes: Vec<ConnectionInfo>,
    /// The nodes as an error may show them.
    pub(crate) address: String,
    /// What no error may show.
    pub(crate) secrets: Vec<String>,
    pub(crate) keys: Keys,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// The content of the CA file.
    pub(crate) authorities: Option<Vec<u8>>,
}

impl Target {
    pub(crate) fn uses_tls(&self) -> bool {
        matches!(self.nodes[0].addr(), ConnectionAddr::TcpTls { .. })
    }
}

impl TryFrom<Options> for Target {
    type Error = OptionsError;

    fn try_from(options: Options) -> Result<Self, OptionsError> {
        let nodes = nodes(&options.url)?;
        let tls = matches!(nodes[0].addr(), ConnectionAddr::TcpTls { .. });
        if options.ca_file.is_some() && !tls {
            return Err(OptionsError::CaFileWithoutTls);
        }
        let authorities = options.ca_file.as_deref().map(authorities).transpose()?;
        let addresses: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
        let settings = nodes[0].redis_settings();
        let secrets = settings.password().map(ToOwned::to_owned);
        Ok(Self {
            address: addresses.join(", "),
            secrets: secrets.into_iter().filter(|s| !s.is_empty()).collect(),
            nodes,
            keys: Keys::new(&options.prefix)?,
            connect_timeout: timeout("connect_timeout", options.connect_timeout)?,
            response_timeout: timeout("response_timeout", options.response_timeout)?,
            authorities,
        })
    }
}

fn timeout(name: &'static str, value: Duration) -> Result<Duration, OptionsError> {
    if TIMEOUT.contains(&(value.as_millis() as u64)) {
        Ok(value)
    } else {
        Err(OptionsError::Timeout { name, value })
    }
}

fn nodes(url: &str) -> Result<Vec<ConnectionInfo>, OptionsError> {
    if url.is_empty() {
        return Err(OptionsError::NoUrl);
    }
    let mut nodes: Vec<ConnectionInfo> = Vec::new();
    let mut scheme = "";
    let several = url.contains(',');
    for (at, text) in url.split(',').enumerate() {
        let wrong = |reason: &str| OptionsError::Url {
            node: at + 1,
            reason: reason.into(),
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(wrong("is empty"));
        }
        let whole = match text.split_once("://") {
            Some(_) => text.to_owned(),
            None if at > 0 => format!("{scheme}://{text}"),
            None => return Err(wrong("must begin with redis:// or rediss://")),
        };
        let own_scheme = whole.split("://").next().unwrap_or_default();
        if !["redis", "rediss"].contains(&own_scheme) {
            return Err(wrong("must begin with redis:// or rediss://"));
        }
        if whole.contains(['?', '#']) {
            return Err(wrong("must not have a query or a fragment (? or #)"));
        }
        if at == 0 {
            scheme = if own_scheme == "rediss" {
                "rediss"
            } else {
                "redis"
            };
        } else if own_scheme != scheme {
            return Err(wrong("must have the scheme of the first node"));
        }
        // What the library says of a bad URL may quote it, password and all.
        let info = whole.as_str().into_connection_info().map_err(|error| {
            wrong(if error.to_string().contains("database") {
                "has a bad database number"
            } else {
                "is not redis://[user[:password]@]host[:port][/database]"
            })
        })?;
        if several && info.redis_settings().db() != 0 {
            return Err(wrong(
                "has a database, and a Redis Cluster has only number 0",
            ));
        }
        let info = match nodes.first() {
            None => info,
            Some(first) => like_the_first(info, first).map_err(wrong)?,
        };
        nodes.push(info);
    }
    Ok(nodes)
}

/// The node with the credentials of the first, unless it names others.
fn like_the_first(
    info: ConnectionInfo,
    first: &ConnectionInfo,
) -> Result<ConnectionInfo, &'static str> {
    let (own, first) = (info.redis_settings(), first.redis_settings());
    let anonymous = own.username().is_none() && own.password().is_none();
    if anonymous {
        return Ok(info.set_redis_settings(first.clone()));
    }
    if own.username() != first.username() || own.password() != first.password() {
        return Err("must have the user and password of the first node, or none");
    }
    Ok(info)
}

fn authorities(path: &Path) -> Result<Vec<u8>, OptionsError> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let bad = |reason: String| OptionsError::CaFile {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|error| bad(error.to_string()))?;
        found += 1;
    }
    if found == 0 {
        return Err(bad("has no certificate".into()));
    }
    Ok(pem)
}
