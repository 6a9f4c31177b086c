//! Bytes on the wire: TCP, TLS, one HTTP request, a WebSocket. It knows no presence.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{ACCEPT, HOST, HeaderMap, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
        protocol::WebSocketConfig,
    },
};

use crate::{
    machine::{End, NoRoute},
    wire::{Route, SUBPROTOCOL},
};

/// The longest body of an HTTP answer, bytes.
const MAX_BODY: usize = 64 * 1_024;
/// The longest message of a server: a snapshot of 1,000 users with long names and texts, bytes.
const MAX_MESSAGE: usize = 4 * 1_024 * 1_024;
/// What may wait to be written, bytes: the client sends little, and never much at once.
const MAX_WRITE: usize = 4 * 1_024 * 1_024;
/// How much of what a server says is shown.
const MAX_SHOWN: usize = 200;
const AGENT: &str = concat!("online-status-client/", env!("CARGO_PKG_VERSION"));

/// The TLS settings: these authorities, or the system's when there are none.
pub(crate) fn tls(authorities: &[CertificateDer<'static>]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if authorities.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        let (good, _) = roots.add_parsable_certificates(found.certs);
        if good == 0 {
            let why = found
                .errors
                .first()
                .map_or_else(String::new, |error| format!(": {error}"));
            return Err(format!("the system has no certificate authorities{why}"));
        }
    }
    for authority in authorities {
        roots
            .add(authority.clone())
            .map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The certificates in a PEM text.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Err(error) => Err(error.to_string()),
        Ok(all) if all.is_empty() => Err("there is no certificate in it".into()),
        Ok(all) => Ok(all),
    }
}

/// A byte stream to a server, with or without TLS.
pub(crate) type Stream = Box<dyn Duplex>;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Opens TCP and TLS connections with one set of trusted roots.
#[derive(Clone)]
pub(crate) struct Dialer {
    /// Why there is no TLS, if there is none.
    pub(crate) tls: Result<Arc<ClientConfig>, String>,
}

impl Dialer {
    async fn connect(&self, uri: &Uri) -> Result<Stream, String> {
        let secure = matches!(uri.scheme_str(), Some("https" | "wss"));
        let host = uri.host().ok_or("it names no host")?;
        // Brackets are the URL's.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let tls = TlsConnector::from(self.tls.clone()?);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Box::new(stream))
    }

    /// The address in the answer of the route at `url`.
    pub(crate) async fn route(&self, url: &str) -> Result<String, NoRoute> {
        let no = |message: String| NoRoute {
            status: None,
            message: format!("{url}: {message}"),
            retry_after: None,
        };
        let (status, headers, body) = self.get(url).await.map_err(no)?;
        if status != StatusCode::OK {
            return Err(NoRoute {
                status: Some(status.as_u16()),
                message: format!("{url} answered {status}: {}", said(&body)),
                retry_after: retry_after(&headers),
            });
        }
        let route = serde_json::from_slice::<Route>(&body);
        route
            .map(|route| route.address)
            .map_err(|error| no(error.to_string()))
    }

    async fn get(&self, url: &str) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let authority = uri.authority().ok_or("it names no host")?.to_string();
        let path = uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let io = TokioIo::new(self.connect(&uri).await?);
        let failed = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(failed)?;
        let request = Request::get(path)
            .header(HOST, authority)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        // What goes wrong with the connection goes wrong with the answer.
        let driver = tokio::spawn(connection);
        let answer = async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((head.status, head.headers, body))
        };
        let answer = answer.await;
        driver.abort();
        answer
    }

    /// An open WebSocket to `address`.
    pub(crate) async fn socket(&self, address: &str) -> Result<WebSocketStream<Stream>, End> {
        let unreachable = |message: String| End::Unreachable(format!("{address}: {message}"));
        let request = address.into_client_request();
        let mut request = request.map_err(|error| unreachable(error.to_string()))?;
        let headers = request.headers_mut();
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let stream = self.connect(request.uri()).await.map_err(unreachable)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1_024)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(End::Refused {
                status: answer.status().as_u16(),
                message: answer.body().as_deref().map_or_else(String::new, said),
                retry_after: retry_after(answer.headers()),
            }),
            Err(error) => Err(unreachable(error.to_string())),
        }
    }
}

/// Seconds (RFC 9110 §10.2.3) as ms; a date is not understood.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let longest = Duration::from_secs(300).as_secs();
    Some(seconds.min(longest) * 1_000)
}

/// The `detail` or `title` of a problem (RFC 9457), or the beginning of another answer.
fn said(body: &[u8]) -> String {
    let problem = serde_json::from_slice::<serde_json::Value>(body).ok();
    let member = |name| problem.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let text = member("detail").or_else(|| member("title"));
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_SHOWN)
        .collect()
}
