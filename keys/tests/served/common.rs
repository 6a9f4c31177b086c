//! A real web server that answers as each test wants, and keys to sign tokens with.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keys::{Keys, Source};
use rcgen::{KeyPair, PKCS_ED25519};
use token::{Options, TokenError};

/// Far longer than anything takes, so that a slow machine fails no test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test.
pub(crate) const NEVER: Duration = Duration::from_secs(3_600);

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes an answer of a request's head.
type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A web server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), None)
    }

    pub(crate) fn start_at(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            answer: Arc::new(Mutex::new(Arc::new(|_| Vec::new()))),
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

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys.json", self.address)
    }

    pub(crate) fn answers(&self, answer: impl Into<Vec<u8>>) {
        let answer = answer.into();
        self.answers_by(move |_| answer.clone());
    }

    pub(crate) fn answers_by(&self, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) {
        *self.answer.lock().expect("no panic") = Arc::new(answer);
    }

    pub(crate) fn serves(&self, keys: &[&Signer]) {
        self.answers(ok(&set(keys)));
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// A request's head, in whole.
pub(crate) fn head_of(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).expect("text"))
}

fn serve(
    mut stream: impl Read + Write,
    answer: &Mutex<Answer>,
    asked: &AtomicUsize,
) -> std::io::Result<()> {
    let head = head_of(&mut stream)?;
    assert!(head.starts_with("GET /"), "{head}");
    asked.fetch_add(1, Relaxed);
    let answer = answer.lock().expect("no panic").clone();
    stream.write_all(&answer(&head))?;
    stream.flush()
}

pub(crate) fn ok(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// A key, under a name.
pub(crate) struct Signer {
    pub(crate) name: &'static str,
    pub(crate) pair: KeyPair,
}

impl Signer {
    pub(crate) fn new(name: &'static str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self { name, pair }
    }

    pub(crate) fn jwk(&self) -> String {
        let x = BASE64.encode(self.pair.public_key_raw());
        let name = self.name;
        format!(r#"{{"kty":"OKP","crv":"Ed25519","use":"sig","x":"{x}","kid":"{name}"}}"#)
    }

    pub(crate) fn token(&self) -> String {
        self.token_named(Some(self.name))
    }

    pub(crate) fn token_named(&self, name: Option<&str>) -> String {
        let header = Header {
            kid: name.map(Into::into),
            ..Header::new(Algorithm::EdDSA)
        };
        let claims = serde_json::json!({ "sub": "alice", "exp": 10 });
        let key = EncodingKey::from_ed_der(&self.pair.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).expect("a token")
    }
}

pub(crate) fn set(keys: &[&Signer]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| key.jwk()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

pub(crate) fn options() -> Options {
    Options {
        algorithms: vec!["EdDSA".into()],
        ..Options::default()
    }
}

/// Fetched as rarely as possible.
pub(crate) fn source(url: String) -> Source {
    Source {
        jwks_refresh: NEVER,
        min_gap: Duration::ZERO,
        ..Source::new(url)
    }
}

pub(crate) fn start(source: &Source) -> Arc<Keys> {
    Keys::start(options(), Some(source)).expect("a good source")
}

pub(crate) fn says(keys: &Keys, signer: &Signer) -> Option<TokenError> {
    keys.verify(&signer.token(), 9_000)
        .err()
        .map(|refused| refused.error)
}
