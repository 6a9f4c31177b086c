//! Keys from a real web server that answers as each test wants.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keys::{Keys, KeysError, Source};
use rcgen::{KeyPair, PKCS_ED25519};
use token::{Options, TokenError};

/// Far longer than anything takes, so that a slow machine fails no test.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3_600);

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A web server.
struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), None)
    }

    fn start_at(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            answer: Arc::default(),
            asked: Arc::default(),
        };
        let (answer, asked) = (Arc::clone(&server.answer), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("a connection");
                // Not that of a client which does not trust it.
                let served = match &tls {
                    None => serve(stream, &answer, &asked),
                    Some(config) => {
                        let connection = rustls::ServerConnection::new(Arc::clone(config));
                        let connection = connection.expect("a good configuration");
                        serve(
                            rustls::StreamOwned::new(connection, stream),
                            &answer,
                            &asked,
                        )
                    }
                };
                drop(served);
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://{}/keys.json", self.address)
    }

    fn answers(&self, answer: impl Into<Vec<u8>>) {
        *self.answer.lock().expect("no panic") = answer.into();
    }

    fn serves(&self, keys: &[&Signer]) {
        self.answers(ok(&set(keys)));
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

fn serve(
    mut stream: impl Read + Write,
    answer: &Mutex<Vec<u8>>,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"GET /keys.json HTTP/1.1\r\n"));
    asked.fetch_add(1, Relaxed);
    let answer = answer.lock().expect("no panic").clone();
    stream.write_all(&answer)?;
    stream.flush()
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// A key, under a name.
struct Signer {
    name: &'static str,
    pair: KeyPair,
}

impl Signer {
    fn new(name: &'static str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self { name, pair }
    }

    fn jwk(&self) -> String {
        let x = BASE64.encode(self.pair.public_key_raw());
        let name = self.name;
        format!(r#"{{"kty":"OKP","crv":"Ed25519","use":"sig","x":"{x}","kid":"{name}"}}"#)
    }

    fn token(&self) -> String {
        let header = Header {
            kid: Some(self.name.into()),
            ..Header::new(Algorithm::EdDSA)
        };
        let claims = serde_json::json!({ "sub": "alice", "exp": 10 });
        let key = EncodingKey::from_ed_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    }
}

fn set(keys: &[&Signer]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| key.jwk()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn options() -> Options {
    Options {
        algorithms: vec!["EdDSA".into()],
        ..Options::default()
    }
}

/// Fetched as rarely as possible.
fn source(url: String) -> Source {
    Source {
        jwks_refresh: NEVER,
        min_gap: Duration::ZERO,
        ..Source::new(url)
    }
}

fn start(source: &Source) -> Arc<Keys> {
    Keys::start(options(), Some(source)).expect("a good source")
}

fn says(keys: &Keys, signer: &Signer) -> Option<TokenError> {
    keys.verify(&signer.token(), 9_000).err()
}

#[test]
fn keys_are_fetched_again_and_again_and_what_is_gone_counts_no_more() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let often = Source {
        jwks_refresh: Duration::from_millis(20),
        min_gap: NEVER,
        ..source(server.url())
    };
    let keys = start(&often);
    until("ready", || keys.are_ready());
    assert_eq!(says(&keys, &a), None);
    assert_eq!(says(&keys, &b), Some(TokenError::UnknownKey));
    server.serves(&[&a, &b]);
    until("b is known", || says(&keys, &b).is_none());
    assert_eq!(says(&keys, &a), None);
    server.serves(&[&b]);
    until("a is gone", || says(&keys, &a).is_some());
    assert_eq!(keys.fetches().keys, 1);
    assert_eq!(keys.fetches().failed, 0);
}

#[test]
fn a_token_with_an_unknown_key_has_the_set_fetched_and_not_too_often() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let keys = start(&source(server.url()));
    until("ready", || keys.are_ready());
    assert_eq!(says(&keys, &a), None);
    assert_eq!(server.asked(), 1);
    server.serves(&[&a, &b]);
    until("b is known", || says(&keys, &b).is_none());
    assert!(server.asked() >= 2);

    let seldom = Source {
        min_gap: NEVER,
        ..source(server.url())
    };
    let (asked, other) = (server.asked(), Signer::new("other"));
    let keys = start(&seldom);
    until("ready", || keys.are_ready());
    for _ in 0..1_000 {
        assert_eq!(says(&keys, &other), Some(TokenError::UnknownKey));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.asked(), asked + 1);
    // Somebody who knows better is not made to wait.
    keys.reload().expect("no files");
    until("it is fetched", || server.asked() == asked + 2);
}

#[test]
fn a_server_that_is_away_at_the_start_is_asked_until_it_is_there() {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = probe.local_addr().expect("an address");
    drop(probe);
    let keys = start(&source(format!("http://{nobody}/keys.json")));
    until("it fails", || keys.fetches().failed > 1);
    let a = Signer::new("a");
    assert!(!keys.are_ready());
    assert_eq!(says(&keys, &a), Some(TokenError::UnknownKey));
    let server = Server::start_at(nobody, None);
    server.serves(&[&a]);
    until("ready", || keys.are_ready());
    assert_eq!(says(&keys, &a), None);
}

#[test]
fn whatever_the_server_answers_the_keys_stay_until_it_answers_with_others() {
    let (server, a, b) = (Server::start(), Signer::new("a"), Signer::new("b"));
    server.serves(&[&a]);
    let often = Source {
        jwks_refresh: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        ..source(server.url())
    };
    let keys = start(&often);
    until("ready", || keys.are_ready());
    let good = set(&[&b]);
    let huge = format!("{}{}", " ".repeat(1 << 20), good);
    let endless = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        format!("{:x}\r\n{}\r\n", 1 << 16, " ".repeat(1 << 16)).repeat(16)
    );
    let elsewhere = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        server.url()
    );
    let failed = format!(
        "HTTP/1.1 500 Oh\r\ncontent-length: {}\r\n\r\n{good}",
        good.len()
    );
    let cut = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{good}",
        good.len() + 1
    );
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    for (what, answer) in [
        ("garbage", ok("garbage")),
        ("no set", ok("{}")),
        ("no keys", ok(r#"{"keys":[]}"#)),
        (
            "secrets",
            ok(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0IHRoYXQgaXMgbG9uZyBlbm91Z2ggZm9yIGl0"}]}"#),
        ),
        ("huge", ok(&huge)),
        ("endless", endless),
        ("a redirect", elsewhere),
        ("an error", failed),
        ("cut off", cut),
        ("no HTTP", "hello\r\n\r\n".into()),
        ("a huge head", head),
        ("nothing", String::new()),
    ] {
        server.answers(answer);
        let before = keys.fetches();
        until(what, || keys.fetches().failed > before.failed + 1);
        assert_eq!(says(&keys, &a), None, "{what}");
        assert!(says(&keys, &b).is_some(), "{what}");
    }
    // One that accepts and is silent takes as long as a fetch may, and no longer.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address");
    let waiting = start(&Source {
        timeout: Duration::from_millis(100),
        ..source(format!("http://{address}/keys.json"))
    });
    until("it gives up", || waiting.fetches().failed > 0);
    server.serves(&[&b]);
    until("the new key", || says(&keys, &b).is_none());
}

#[test]
fn over_https_only_those_who_are_trusted_are_believed() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
    let authority = KeyPair::generate().expect("a key");
    let mut of_authority = CertificateParams::new(Vec::new()).expect("no names");
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = of_authority.self_signed(&authority).expect("a certificate");
    let issuer = Issuer::from_params(&of_authority, &authority);
    let pair = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec!["localhost".into()]).expect("a name");
    let certificate = certificate
        .signed_by(&pair, &issuer)
        .expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(pair.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a pair");
    let here = "127.0.0.1:0".parse().expect("an address");
    let (server, a) = (
        Server::start_at(here, Some(Arc::new(config))),
        Signer::new("a"),
    );
    server.serves(&[&a]);
    let file = std::env::temp_dir().join(format!("online-status-keys-{}.pem", std::process::id()));
    std::fs::write(&file, root.pem()).expect("a writable temp dir");
    let url = format!("https://localhost:{}/keys.json", server.address.port());
    let trusted = Source {
        jwks_ca_file: Some(file.clone()),
        ..source(url.clone())
    };
    let verifier = Keys::once(options(), Some(&trusted)).expect("trusted");
    assert!(verifier.verify(&a.token(), 9_000).is_ok());
    let error = Keys::once(options(), Some(&source(url))).err();
    assert!(
        matches!(error, Some(KeysError::Fetch(_) | KeysError::Source(_))),
        "{error:?}"
    );
    std::fs::remove_file(&file).expect("it was written");
    let error = trusted.check().expect_err("no file").to_string();
    assert!(error.starts_with("auth.jwks_ca_file = "), "{error}");
    // So that a test that connects to nobody does not pass.
    assert!(TcpStream::connect(server.address).is_ok());
}

#[test]
fn an_address_that_can_never_be_asked_is_named_at_the_start() {
    for url in [
        "ftp://example.com/keys",
        "example.com/keys",
        "/keys",
        "https://user:word@example.com/keys",
        "https://",
        "http://a b/",
    ] {
        let error = source(url.into()).check().expect_err(url).to_string();
        assert!(error.starts_with("auth.jwks_url = "), "{error}");
        assert!(Keys::start(options(), Some(&source(url.into()))).is_err());
    }
}

#[test]
fn a_password_in_a_wrong_address_is_not_shown() {
    let source = Source::new("http://keys:secret@/jwks.json");
    let error = source.check().expect_err("no host").to_string();
    assert!(!error.contains("secret"), "{error}");
    assert!(error.contains("…@/jwks.json"), "{error}");
}
