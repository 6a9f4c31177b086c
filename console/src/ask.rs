//! One question to a server over HTTP, bounded in time and bytes, with an error that says what to type.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Arg, ArgMatches, Command, value_parser};
use keys::authorities;
use protocol::policy::NOT_TRACED;
use serde::de::DeserializeOwned;
use settings::without_user;
use ureq::{
    Agent,
    http::{Request, header},
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

/// The command with the flags that say which server is asked.
pub(crate) fn with_flags(command: Command) -> Command {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    let ca = "Authorities to trust for https, in PEM [default: those of the system]";
    let token = "A file with the token of an administrator, where one is asked for";
    command
        .arg(
            Arg::new("url")
                .long("url")
                .default_value("http://127.0.0.1:8090")
                .help("The coordinator to ask"),
        )
        .arg(file("ca", ca))
        .arg(file("token-file", token))
}

/// The server that the arguments of a command with these flags name.
pub(crate) fn server_of(arguments: &ArgMatches) -> Result<Server, TopError> {
    let path = |name| arguments.get_one::<PathBuf>(name);
    let url: &String = arguments.get_one("url").expect("it has a default");
    Server::new(url, path("ca").map(PathBuf::as_path), path("token-file"))
}

/// A server that is asked again and again.
pub(crate) struct Server {
    agent: Agent,
    /// Where the fleet is told.
    pub(crate) nodes: Url,
    /// Where the steps of traced users are.
    trace: Url,
    token: Option<String>,
}

impl Server {
    pub(crate) fn new(
        url: &str,
        ca: Option<&Path>,
        token_file: Option<&PathBuf>,
    ) -> Result<Self, TopError> {
        let wrong = || TopError::Url(without_user(url));
        let base = web_address(url).ok_or_else(wrong)?;
        let folder = base.path().trim_end_matches('/').to_owned();
        let at = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{folder}/{path}"));
            url.set_query(None);
            url.set_fragment(None);
            url
        };
        Ok(Self {
            agent: agent(&base, ca)?,
            nodes: at("nodes"),
            trace: at("trace"),
            token: token_file.map(read_token).transpose()?,
        })
    }

    /// The fleet as it is now.
    pub(crate) fn fleet(&self) -> Result<Fleet, TopError> {
        self.ask("GET", &self.nodes, "")
    }

    /// What the question for whom is traced is answered.
    pub(crate) fn traces<T: DeserializeOwned>(&self) -> Result<T, TopError> {
        self.ask("GET", &self.trace, "")
    }

    /// What a request about the trace of a user is answered.
    pub(crate) fn trace<T: DeserializeOwned>(
        &self,
        method: &str,
        user: &str,
        body: &str,
    ) -> Result<T, TopError> {
        let mut url = self.trace.clone();
        url.query_pairs_mut().append_pair("userId", user);
        self.ask(method, &url, body)
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, url: &Url, body: &str) -> Result<T, TopError> {
        let failed = |error: String| TopError::Unreachable(url.to_string(), error);
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let wrong = |error: ureq::http::Error| failed(error.to_string());
        let answer = match body {
            "" => self.agent.run(request.body(()).map_err(wrong)?),
            body => self
                .agent
                .run(request.body(body.to_owned()).map_err(wrong)?),
        };
        let mut answer = answer.map_err(|error| failed(in_words(url, error.to_string())))?;
        let body = answer.body_mut().with_config().limit(MAX_ANSWER);
        let body = body.read_to_vec();
        let body = body.map_err(|error| failed(error.to_string()))?;
        let url = url.to_string();
        match answer.status().as_u16() {
            200 => serde_json::from_slice(&body)
                .map_err(|error| TopError::Foreign(url, error.to_string())),
            401 | 403 => Err(TopError::Token(url, detail(&body))),
            404 if detail(&body) == NOT_TRACED => Err(TopError::NotTraced),
            404 => Err(TopError::Foreign(url, "nothing is at this path".into())),
            status => Err(TopError::Status(url, status, detail(&body))),
        }
    }
}

/// Why a server was not reached. What rustls says of one that answers a handshake with anything else names no cause.
fn in_words(url: &Url, error: String) -> String {
    match url.scheme() {
        "https" if error.contains("InvalidContentType") => {
            format!("it does not speak TLS: http:// may be meant ({error})")
        }
        _ => error,
    }
}

/// The address when it is one of HTTP, without a user.
pub(crate) fn web_address(url: &str) -> Option<Url> {
    let url = Url::parse(url).ok()?;
    let has_user = !url.username().is_empty() || url.password().is_some();
    let is_web = ["http", "https"].contains(&url.scheme()) && url.has_host();
    (is_web && !has_user).then_some(url)
}

/// What asks servers like the one at `url`.
pub(crate) fn agent(url: &Url, ca: Option<&Path>) -> Result<Agent, TopError> {
    let authorities = match ca {
        Some(path) => from_file(path)?,
        None if url.scheme() == "https" => of_system()?,
        None => Vec::new(),
    };
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(authorities)))
        .unversioned_rustls_crypto_provider(
            Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        );
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
    Ok(agent.into())
}

/// What a problem of RFC 9457 says, as one line.
pub(crate) fn detail(body: &[u8]) -> String {
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
        _ => Err(wrong(
            "it must hold one token and nothing else: letters, digits, and the signs . - _".into(),
        )),
    }
}

fn from_file(path: &Path) -> Result<Vec<Certificate<'static>>, TopError> {
    let wrong = |what: String| TopError::Ca(path.display().to_string(), what);
    let damaged = |what: String| match path.is_file() {
        true => wrong(format!("{what}; {}", settings::file_content(path))),
        false => wrong(what),
    };
    match authorities::of_file(path).map_err(damaged)? {
        found if found.is_empty() => Err(damaged("there is no certificate in it".into())),
        found => Ok(found),
    }
}

fn of_system() -> Result<Vec<Certificate<'static>>, TopError> {
    match authorities::of_system() {
        found if found.is_empty() => Err(TopError::NoAuthorities),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_wrong_address_is_named_without_its_password() {
        for url in [
            "http://ops:hush@c:8090",
            "ops:hush@c:8090",
            "ftp://ops:hush@c",
        ] {
            let error = Server::new(url, None, None).err().expect("it has a user");
            let error = error.to_string();
            assert!(!error.contains("hush") && error.contains("…@c"), "{error}");
        }
    }

    #[test]
    fn a_server_without_tls_is_said_to_be_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let plain = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).expect("the begin of a hello");
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let server = Server::new(&format!("https://{address}"), None, None).expect("good");
        let error = server.fleet().expect_err("it is plain").to_string();
        assert!(error.contains("it does not speak TLS: http://"), "{error}");
        drop(server);
        plain.join().expect("it does not panic");
    }

    #[test]
    fn a_file_of_authorities_that_has_none_is_named_with_what_it_has() {
        let file = std::env::temp_dir().join(format!("online-status-ca-{}", std::process::id()));
        let error = |content: &str| {
            std::fs::write(&file, content).expect("a writable temp dir");
            from_file(&file).expect_err("no authority").to_string()
        };
        let named = format!("--ca {}: ", file.display());
        for (content, what) in [
            ("", "is empty"),
            ("-----BEGIN CERTIFICATE-----\nMIIB", "was cut off"),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                "has: PRIVATE KEY",
            ),
        ] {
            let error = error(content);
            assert!(error.starts_with(&named) && error.contains(what), "{error}");
        }
        std::fs::remove_file(&file).expect("it was written");
        let error = from_file(&file).expect_err("no file").to_string();
        assert!(error.contains("No such file"), "{error}");
    }
}
