//! How to reach Redis, as given by an operator. It owns the syntax of `REDIS_URL` and turns every
//! mistake in it into an error that names the setting and never holds the password.

use std::{
    fmt,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::Keys;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

use crate::sentinel::Credentials;

/// The options by which the store is reached.
#[derive(Clone)]
pub struct Options {
    /// `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. A comma and
    /// further nodes make it a Redis Cluster: they may leave out the scheme, the user and the
    /// password, which are those of the first. Special characters of a password are written with
    /// `%`, as in all URLs. Port 6379 and database 0 when not given.
    ///
    /// `redis+sentinel://[user[:password]@]host[:port][,host[:port]]/name[/database]`, or
    /// `rediss+sentinel://` for TLS to all: the hosts are Sentinels, port 26379 when not given, and
    /// the name is that of the master. The user and the password are the server's.
    pub url: String,
    /// How the Sentinels know this client. Without a password they are tried with the URL's, and
    /// without any where they ask for none.
    pub sentinel_username: String,
    /// The password of `sentinel_username`; empty = the server's password, or none.
    pub sentinel_password: String,
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
    /// The default options, for the server at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            sentinel_username: String::new(),
            sentinel_password: String::new(),
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

/// A mistake in an option, named as the setting.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The URL is empty.
    #[error(
        "redis.url (REDIS_URL) is not set: a cluster meets in Redis; set it, like \
         REDIS_URL=redis://127.0.0.1:6379. A standalone edge needs none: it is started by \
         `online-status-edge standalone`"
    )]
    NoUrl,
    /// A node of the URL is wrong.
    #[error("redis.url (REDIS_URL), node {node}: {reason}")]
    Url {
        /// The node's place in the list, from 1.
        node: usize,
        /// The mistake, without what may be a password.
        reason: String,
    },
    /// A timeout is out of its range.
    #[error("redis.{name} = {value:?}: allowed are 10ms to 60s")]
    Timeout {
        /// The timeout's name: `connect_timeout` or `response_timeout`.
        name: &'static str,
        /// The value that was given.
        value: Duration,
    },
    /// The prefix of keys has a brace.
    #[error("redis.prefix: {0}")]
    Prefix(#[from] protocol::keys::PrefixError),
    /// The file with certificate authorities cannot be used.
    #[error("redis.ca_file = {path:?}: {reason}")]
    CaFile {
        /// The path of the file.
        path: PathBuf,
        /// The mistake, without what may be a password.
        reason: String,
    },
    /// There is a CA file, and nothing to use it for.
    #[error(
        "redis.ca_file is given, and redis.url (REDIS_URL) begins neither with rediss:// nor with \
         rediss+sentinel://"
    )]
    CaFileWithoutTls,
    /// There is something for the Sentinels, and there are none.
    #[error(
        "redis.sentinel_username or redis.sentinel_password is given, and redis.url (REDIS_URL) \
         names no Sentinels: redis+sentinel://host1,host2/name"
    )]
    NoSentinels,
    /// The Sentinels know no user without a password.
    #[error("redis.sentinel_username is given without redis.sentinel_password")]
    SentinelUserAlone,
}

const SCHEMES: &str = "must begin with redis:// or rediss://, or for Sentinels with \
                       redis+sentinel:// or rediss+sentinel://";
/// The port that Sentinels listen at when the URL names none.
const SENTINEL_PORT: &str = ":26379";

/// The range of both timeouts, ms.
pub(crate) const TIMEOUT: RangeInclusive<u64> = 10..=60_000;

/// Options that have been checked.
pub(crate) struct Target {
    /// At least one; several are a Redis Cluster, or Sentinels. All have the server's credentials.
    pub(crate) nodes: Vec<ConnectionInfo>,
    /// Whose Sentinels the nodes are, if they are.
    pub(crate) master: Option<String>,
    /// What the Sentinels are told, the likeliest first; at least one.
    pub(crate) sentinel_credentials: Vec<Credentials>,
    /// The nodes as an error may show them.
    pub(crate) address: String,
    /// The passwords, which no error may show.
    pub(crate) secrets: Vec<String>,
    pub(crate) keys: Keys,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// The content of the file with certificate authorities; `None` = the system's.
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
        let (nodes, master) = match sentinels(&options.url)? {
            Some((nodes, master)) => (nodes, Some(master)),
            None => (nodes(&options.url)?, None),
        };
        let tls = matches!(nodes[0].addr(), ConnectionAddr::TcpTls { .. });
        if options.ca_file.is_some() && !tls {
            return Err(OptionsError::CaFileWithoutTls);
        }
        let authorities = options.ca_file.as_deref().map(authorities).transpose()?;
        let addresses: Vec<String> = nodes.iter().map(|node| node.addr().to_string()).collect();
        let settings = nodes[0].redis_settings();
        let secrets = [
            settings.password().unwrap_or_default(),
            &options.sentinel_password,
        ];
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty());
        let secrets = secrets.map(ToOwned::to_owned).collect();
        let sentinel_credentials = sentinel_credentials(&options, master.is_some(), settings)?;
        Ok(Self {
            address: addresses.join(", "),
            secrets,
            master,
            sentinel_credentials,
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

/// What the Sentinels are told of who asks.
fn sentinel_credentials(
    options: &Options,
    there_are: bool,
    server: &RedisConnectionInfo,
) -> Result<Vec<Credentials>, OptionsError> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let user = given(&options.sentinel_username);
    let password = given(&options.sentinel_password);
    match (user, password) {
        (None, None) => {}
        _ if !there_are => return Err(OptionsError::NoSentinels),
        (Some(_), None) => return Err(OptionsError::SentinelUserAlone),
        own => return Ok(vec![own]),
    }
    let nobody = (None, None);
    let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
    let servers = (owned(server.username()), owned(server.password()));
    Ok(if servers == nobody {
        vec![nobody]
    } else {
        vec![servers, nobody]
    })
}

/// The Sentinels and the master's name, when the URL is one of these.
fn sentinels(url: &str) -> Result<Option<(Vec<ConnectionInfo>, String)>, OptionsError> {
    let wrong = |node: usize, reason: &str| OptionsError::Url {
        node,
        reason: reason.into(),
    };
    let Some((scheme, rest)) = url.trim().split_once("+sentinel://") else {
        return Ok(None);
    };
    if !["redis", "rediss"].contains(&scheme) {
        return Err(wrong(
            1,
            "must begin with redis+sentinel:// or rediss+sentinel://",
        ));
    }
    if rest.contains(['?', '#']) {
        return Err(wrong(1, "must not have a query or a fragment (? or #)"));
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, database) = path.split_once('/').unwrap_or((path, "0"));
    if name.is_empty() {
        return Err(wrong(
            hosts.split(',').count(),
            "must be followed by the name that the Sentinels have for the master: \
             redis+sentinel://host1,host2/name",
        ));
    }
    let (credentials, hosts) = match hosts.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), hosts),
    };
    if credentials.contains(',') {
        return Err(wrong(
            1,
            "must have the user and the password before the first host only, a comma in them \
             written as %2C",
        ));
    }
    let node = |(at, host): (usize, &str)| {
        let host = host.trim();
        if host.is_empty() {
            return Err(wrong(at + 1, "is empty"));
        }
        let behind_address = host.rsplit(']').next().unwrap_or_default();
        let port = if behind_address.contains(':') {
            ""
        } else {
            SENTINEL_PORT
        };
        let whole = format!("{scheme}://{credentials}{host}{port}/{database}");
        whole.as_str().into_connection_info().map_err(|error| {
            wrong(
                at + 1,
                if error.to_string().contains("database") {
                    "has a bad database number"
                } else {
                    "is not redis+sentinel://[user[:password]@]host[:port]/name[/database]"
                },
            )
        })
    };
    let nodes = hosts.split(',').enumerate().map(node);
    Ok(Some((nodes.collect::<Result<_, _>>()?, name.to_owned())))
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
            None => return Err(wrong(SCHEMES)),
        };
        let own_scheme = whole.split("://").next().unwrap_or_default();
        if !["redis", "rediss"].contains(&own_scheme) {
            return Err(wrong(SCHEMES));
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
