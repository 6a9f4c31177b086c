//! Who is who in the tests of logins: a certificate authority, and an identity provider that gives
//! tokens for a client's name and secret.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A certificate authority with its files in one folder.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(folder: &Path) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.join("ca.pem"), certificate.pem()).expect("it is kept");
        Self {
            folder: folder.into(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate and its key, in `NAME.pem` and `NAME.key`, and both in `NAME.both`.
    pub(crate) fn issue(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("good names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let (key, signed) = (key.serialize_pem(), signed.pem());
        for (end, text) in [
            ("pem", &signed),
            ("key", &key),
            ("both", &(key.clone() + &signed)),
        ] {
            let file = self.folder.join(format!("{name}.{end}"));
            std::fs::write(&file, text).expect("it is kept");
        }
    }
}

/// An identity provider: its token endpoint knows one client, `edge` with `right-secret`.
pub(crate) struct Provider {
    pub(crate) token_url: String,
    pub(crate) asked: Arc<AtomicUsize>,
}

/// The life of the provider's tokens, seconds. librdkafka fetches the next one after four fifths of
/// it. A connection made shortly before has to be authenticated again within what is left, and
/// brokers refuse that within a second of the time before (KIP-368): a fifth has to be well above.
pub(crate) const TOKEN_LIFE: u64 = 15;

impl Provider {
    /// Starts it; brokers find its key in `keys`, a JWK set (RFC 7517).
    pub(crate) fn start(keys: &Path) -> Self {
        let key = KeyPair::generate().expect("a key");
        let point = key.public_key_raw();
        let (x, y) = point[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let jwk = format!(
            r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"k1","x":"{x}","y":"{y}"}}]}}"#
        );
        std::fs::write(keys, jwk).expect("it is kept");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Relaxed);
                answer(stream.expect("a client"), &key);
            }
        });
        Self {
            token_url: format!("http://{address}/token"),
            asked,
        }
    }
}

fn answer(mut stream: TcpStream, key: &KeyPair) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let (mut login, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        let line = line.trim();
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                login = value.into();
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().expect("a number");
            }
            None if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    assert!(body.starts_with(b"grant_type=client_credentials"));
    // "edge:right-secret" (RFC 7617).
    let (status, text) = match login.as_str() {
        "Basic ZWRnZTpyaWdodC1zZWNyZXQ=" => {
            let token = token(key);
            let answer = format!(
                r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{TOKEN_LIFE}}}"#
            );
            ("200 OK", answer)
        }
        _ => ("401 Unauthorized", r#"{"error":"invalid_client"}"#.into()),
    };
    let length = text.len();
    // A client that has gone away is none that waits for an answer.
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{text}"
    );
}

fn token(key: &KeyPair) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    let claims = serde_json::json!({
        "sub": "edge", "scope": "kafka", "iat": now, "exp": now + TOKEN_LIFE,
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k1".into());
    let pem = key.serialize_pem();
    let key = EncodingKey::from_ec_pem(pem.as_bytes()).expect("a key");
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}
