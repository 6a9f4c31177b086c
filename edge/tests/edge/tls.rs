//! TLS: sessions over it, and new certificates without dropping them.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName},
};

use crate::common::{Client, Edge, FIN, Folder, SECRET, TEXT, bearer, frame, token, upgrade};

pub(crate) type Pair = CertifiedKey<rcgen::KeyPair>;

pub(crate) fn certificate() -> Pair {
    generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate")
}

/// Puts the pair into `cert.pem` and `key.pem`; their paths.
pub(crate) fn in_files(folder: &Folder, pair: &Pair) -> (String, String) {
    let certificate = folder.file("cert.pem", pair.cert.pem());
    let key = folder.file("key.pem", pair.signing_key.serialize_pem());
    (certificate, key)
}

fn connect(edge: &Edge, trusted: &Pair) -> Option<Client> {
    connect_behind(edge, trusted, Vec::new())
}

/// A socket whose first write is behind other bytes, in one piece with them.
pub(crate) struct Behind(Vec<u8>, TcpStream);

impl Behind {
    pub(crate) fn socket(&self) -> TcpStream {
        self.1.try_clone().expect("a descriptor")
    }
}

impl Read for Behind {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1.read(buffer)
    }
}

impl Write for Behind {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let first = std::mem::take(&mut self.0);
        self.1.write_all(&[&first, bytes].concat())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.1.flush()
    }
}

fn connect_behind(edge: &Edge, trusted: &Pair, first: Vec<u8>) -> Option<Client> {
    let stream = open_behind(edge, trusted, first)?;
    let mut client = Client::over(Box::new(stream), &bearer(&token("alice")));
    client.message();
    Some(client)
}

/// A connection by TLS, over which nothing was said yet.
pub(crate) fn open(edge: &Edge, trusted: &Pair) -> StreamOwned<ClientConnection, Behind> {
    open_behind(edge, trusted, Vec::new()).expect("TLS")
}

fn open_behind(
    edge: &Edge,
    trusted: &Pair,
    first: Vec<u8>,
) -> Option<StreamOwned<ClientConnection, Behind>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(trusted.cert.der().clone())
        .expect("a certificate");
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(edge.address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    let mut stream = Behind(first, stream);
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).ok()?;
    }
    Some(StreamOwned::new(tls, stream))
}

#[test]
fn a_new_certificate_is_served_without_dropping_sessions() {
    let folder = Folder::new();
    let (old, new) = (certificate(), certificate());
    let write = |pair: &Pair| in_files(&folder, pair);
    let (certificate, key) = write(&old);
    let edge = Edge::start(&["--tls-certificate", &certificate, "--tls-key", &key]);
    let mut session = connect(&edge, &old).expect("the old certificate");
    session.works();
    assert!(connect(&edge, &new).is_none());
    // A broken file changes nothing.
    folder.file("cert.pem", "no certificate");
    edge.signal(rustix::process::Signal::HUP);
    crate::common::moment();
    connect(&edge, &old)
        .expect("still the old certificate")
        .works();
    write(&new);
    edge.signal(rustix::process::Signal::HUP);
    let mut renewed = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        connect(&edge, &new)
    });
    renewed.as_mut().expect("the new certificate").works();
    session.works();
    // Large answers and many records go through it as well.
    let users: Vec<String> = (0..900).map(|n| format!("user-{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    assert_eq!(session.watch(&users).len(), 900);
}

#[test]
fn a_client_that_said_goodbye_before_its_turn_gets_no_session() {
    let folder = Folder::new();
    let pair = certificate();
    let (certificate, key) = in_files(&folder, &pair);
    let edge = Edge::start(&["--tls-certificate", &certificate, "--tls-key", &key]);
    let mut stream = open(&edge, &pair);
    edge.signal(rustix::process::Signal::STOP);
    let request = upgrade(&bearer(&token("alice")));
    stream
        .write_all(request.as_bytes())
        .expect("the kernel takes it");
    stream.conn.send_close_notify();
    stream.flush().expect("the kernel takes it");
    let socket = stream.sock.socket();
    let ended = socket.shutdown(std::net::Shutdown::Write);
    ended.expect("the kernel takes it");
    edge.signal(rustix::process::Signal::CONT);
    edge.until_metric("online_status_abandoned_connections_total", "", 1.0);
    edge.until_metric("online_status_connects_total", "", 0.0);
}

#[test]
fn a_proxy_header_may_come_in_one_piece_with_the_beginning_of_tls() {
    let folder = Folder::new();
    let pair = certificate();
    let (file, key) = in_files(&folder, &pair);
    let tls = ["--tls-certificate", &file, "--tls-key", &key];
    let proxy = [
        "--server-trusted-proxies",
        "127.0.0.1",
        "--server-proxy-protocol",
        "true",
    ];
    let edge = Edge::start(&[tls, proxy].concat());
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x01\x01\x02\x01\xbb";
    for header in [
        &b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n"[..],
        v2,
        b"PROXY UNKNOWN\r\n",
    ] {
        let client = connect_behind(&edge, &pair, header.to_vec());
        client.expect("TLS").works();
    }
    // Without one the connection ends, and nobody is told in plain text.
    let mut plain = TcpStream::connect(edge.address).expect("a connection");
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    let mut answer = Vec::new();
    // An end, or a reset.
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
}

#[test]
fn plain_text_on_a_tls_port_is_told_so_and_ends_only_itself() {
    let folder = Folder::new();
    let pair = certificate();
    let (certificate, key) = in_files(&folder, &pair);
    let log = folder.0.join("log");
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key];
    let edge = Edge::start_logged(&log, &[&["--auth-secret", SECRET], &flags[..]].concat());
    for (first, is_told) in [
        (&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], true),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", true),
        (b"SSH-2.0-x\r\n", false),
        (b"get / HTTP/1.1\r\n\r\n", false),
        (b"\x00\x01\x02\x03\x04\x05", false),
    ] {
        let mut plain = TcpStream::connect(edge.address).expect("a connection");
        plain.write_all(first).expect("it is read");
        let mut answer = Vec::new();
        // To the others an alert, or the end.
        let _ = plain.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.starts_with("HTTP/1.1 400 "), is_told, "{answer}");
        assert_eq!(
            answer.contains("use https:// or wss://"),
            is_told,
            "{answer}"
        );
    }
    edge.until_metric_reaches(
        "online_status_refused_connections_total",
        "plain_to_tls",
        2.0,
    );
    let log = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(log.matches("a port that speaks TLS").count(), 1, "{log}");
    connect(&edge, &pair).expect("TLS").works();
}

#[test]
fn tls_on_a_plain_port_is_closed_and_the_log_says_why_once() {
    let folder = Folder::new();
    let log = folder.0.join("log");
    let edge = Edge::start_logged(&log, &["--auth-secret", SECRET]);
    for _ in 0..2 {
        assert!(connect(&edge, &certificate()).is_none());
    }
    edge.until_metric_reaches(
        "online_status_refused_connections_total",
        "tls_to_plain",
        2.0,
    );
    let log = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(log.matches("a client speaks TLS to").count(), 1, "{log}");
    assert!(log.contains("tls.certificate"), "{log}");
    edge.user("alice").works();
}

#[test]
fn a_certificate_of_another_time_is_named_with_what_to_do_and_used_all_the_same() {
    let folder = Folder::new();
    for (name, from, until, what) in [
        ("ended", 2020, 2021, "it ended"),
        ("early", 2990, 2991, "it begins in"),
        ("never", 2991, 2020, "it ends before it begins"),
    ] {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        let certificate = folder.file(&format!("{name}.pem"), own.pem());
        let key = folder.file(&format!("{name}.key"), key.serialize_pem());
        let log = folder.0.join(name);
        let flags = ["--tls-certificate", &certificate, "--tls-key", &key];
        let own = ["--auth-secret", SECRET, "--log-format", "text"];
        let edge = Edge::start_logged(&log, &[&own, &flags[..]].concat());
        let log = std::fs::read_to_string(&log).expect("a log");
        let told =
            format!("tls.certificate = {certificate:?}: clients refuse this certificate, {what}");
        assert!(log.contains(&told) && log.contains("SIGHUP"), "{log}");
        assert_eq!(edge.get_admin("/healthz").0, 200);
    }
}

/// What a server showed in a handshake, whoever it is of: its certificate and the staple (OCSP).
#[derive(Debug, Default)]
struct Shown(std::sync::Mutex<(Vec<u8>, Vec<u8>)>);

impl rustls::client::danger::ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        staple: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.0.lock().expect("nobody panics") = (own.to_vec(), staple.to_vec());
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _own: &CertificateDer<'_>,
        _signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The certificate and the staple for a client that asks for that name, by that version of TLS.
fn shown(
    edge: &Edge,
    name: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> (Vec<u8>, Vec<u8>) {
    let shown = Arc::new(Shown::default());
    let config = ClientConfig::builder_with_protocol_versions(&[version])
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&shown) as _)
        .with_no_client_auth();
    let name = name.to_owned().try_into().expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = TcpStream::connect(edge.address).expect("a connection");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).expect("a handshake");
    }
    assert_eq!(tls.protocol_version(), Some(version.version));
    shown.0.lock().expect("nobody panics").clone()
}

/// A certificate for these names in files; its path, its key's, and itself.
fn files(folder: &Folder, file: &str, names: &[&str]) -> (String, String, Vec<u8>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let pair = generate_simple_self_signed(names).expect("a certificate");
    let certificate = folder.file(&format!("{file}.pem"), pair.cert.pem());
    let key = folder.file(&format!("{file}.key"), pair.signing_key.serialize_pem());
    (certificate, key, pair.cert.der().to_vec())
}

/// What an authority says, as far as an edge looks: a sequence in DER.
const STAPLE: &[u8] = b"\x30\x16what an authority says";

#[test]
fn each_name_has_its_certificate_and_staple_by_both_versions_and_other_names_the_first() {
    let folder = Folder::new();
    let (first, first_key, first_der) = files(&folder, "first", &["a.example"]);
    let (other, other_key, other_der) = files(&folder, "other", &["b.example", "*.deep.b.example"]);
    folder.file("other.pem.ocsp", STAPLE);
    let more = format!("{other}:{other_key}");
    let edge = Edge::start(&[
        "--tls-certificate",
        &first,
        "--tls-key",
        &first_key,
        "--tls-more",
        &more,
    ]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (name, der, staple) in [
            ("a.example", &first_der, &b""[..]),
            ("b.example", &other_der, STAPLE),
            ("x.deep.b.example", &other_der, STAPLE),
            ("x.b.example", &first_der, b""),
            ("127.0.0.1", &first_der, b""),
        ] {
            let (own, stapled) = shown(&edge, name, version);
            assert!(own == *der && stapled == staple, "{name}: {stapled:?}");
        }
    }
    // A staple that is none changes nothing, and neither does what else is new then.
    for broken in [&b""[..], b"x", &STAPLE[..20]] {
        folder.file("other.pem.ocsp", broken);
        edge.signal(rustix::process::Signal::HUP);
        std::thread::sleep(Duration::from_millis(300));
        let stapled = shown(&edge, "b.example", &rustls::version::TLS13).1;
        assert_eq!(stapled, STAPLE);
    }
    folder.file("other.pem.ocsp", STAPLE);
    // New files of any pair count after SIGHUP.
    let (_, _, new_der) = files(&folder, "other", &["b.example"]);
    edge.signal(rustix::process::Signal::HUP);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while shown(&edge, "b.example", &rustls::version::TLS13).0 != new_der {
        assert!(std::time::Instant::now() < deadline, "still the old one");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_administration_address_asks_clients_for_a_certificate_of_its_authorities() {
    let folder = Folder::new();
    let (certificate, key, der) = files(&folder, "own", &["localhost"]);
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        (own.pem(), rcgen::Issuer::new(params, key))
    };
    let ((good_pem, good), (_, foreign)) = (authority("good"), authority("foreign"));
    let authorities = folder.file("clients.pem", good_pem);
    let client = |issuer: &rcgen::Issuer<'_, rcgen::KeyPair>| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["operator".into()]).expect("a name");
        let own = params.signed_by(&key, issuer).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der());
        (own.der().clone(), key.expect("a key"))
    };
    let mut edge = Edge::launch(&[
        "--auth-secret",
        crate::common::SECRET,
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
        "--tls-admin-client-ca",
        &authorities,
    ]);
    let health = |edge: &Edge, shows: Option<(CertificateDer<'static>, _)>| {
        let mut roots = RootCertStore::empty();
        roots.add(der.clone().into()).expect("a certificate");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let config = match shows {
            None => config.with_no_client_auth(),
            Some((own, key)) => config
                .with_client_auth_cert(vec![own], key)
                .expect("a pair"),
        };
        let name = "localhost".try_into().expect("a name");
        let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
        let stream = TcpStream::connect(edge.admin).expect("a connection");
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).expect("a timeout");
        let mut stream = StreamOwned::new(tls, stream);
        // The refusal may come before all is written.
        let _ = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("UTF-8")
    };
    edge.until("it is ready", |edge| {
        health(edge, Some(client(&good))).starts_with("HTTP/1.1 200 ")
    });
    for shows in [None, Some(client(&foreign))] {
        assert_eq!(health(&edge, shows), "");
    }
    // Plain text is nobody's, and a silent client holds nobody up.
    let _silent = TcpStream::connect(edge.admin).expect("a connection");
    let mut plain = TcpStream::connect(edge.admin).expect("a connection");
    plain
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(health(&edge, Some(client(&good))).contains("ready"));
}

#[test]
fn a_session_that_ends_tls_is_answered_and_one_that_breaks_its_rules_is_told_why() {
    let folder = Folder::new();
    let pair = certificate();
    let (file, key) = in_files(&folder, &pair);
    let edge = Edge::start(&["--tls-certificate", &file, "--tls-key", &key]);
    let session = || {
        let mut stream = open(&edge, &pair);
        let request = upgrade(&bearer(&token("alice")));
        stream.write_all(request.as_bytes()).expect("it is sent");
        let (mut shown, mut bytes) = (String::new(), [0; 4_096]);
        while !shown.contains("welcome") {
            let taken = stream.read(&mut bytes).expect("an answer");
            shown.push_str(&String::from_utf8_lossy(&bytes[..taken]));
        }
        stream
    };
    // What it asked before is answered, in whatever pieces it comes.
    let mut stream = session();
    let bye = frame(FIN | TEXT, br#"{"type":"bye"}"#);
    stream.conn.writer().write_all(&bye).expect("a buffer");
    stream.conn.send_close_notify();
    stream.flush().expect("it is sent");
    let mut last = Vec::new();
    let ended = stream.read_to_end(&mut last);
    ended.expect("its goodbye, and not the bare end");
    assert!(last.starts_with(&[0x88]) && last[2..4] == 1000_u16.to_be_bytes());

    let mut stream = session();
    let forged = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
    stream.sock.write_all(&forged).expect("it is sent");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("an alert");
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[test]
fn what_came_with_the_goodbye_of_tls_is_answered_and_no_other_end_is_waited_for() {
    let folder = Folder::new();
    let pair = certificate();
    let (file, key) = in_files(&folder, &pair);
    // Nothing else ends these connections.
    let edge = Edge::start(&[
        "--tls-certificate",
        &file,
        "--tls-key",
        &key,
        "--server-upgrade-timeout",
        "10m",
        "--presence-heartbeat",
        "10m",
    ]);
    let answered = |said: &[u8]| {
        let mut stream = open(&edge, &pair);
        stream.conn.writer().write_all(said).expect("a buffer");
        stream.conn.send_close_notify();
        stream.flush().expect("it is sent");
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).map_err(|end| end.kind());
        let is_over = matches!(ended, Ok(_) | Err(ErrorKind::UnexpectedEof));
        assert!(is_over, "{ended:?}");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let page = answered(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 404"), "{page}");
    let request = upgrade(&bearer(&token("alice")));
    let ping = frame(FIN | TEXT, br#"{"type":"ping","id":"7"}"#);
    let session = answered(&[request.as_bytes(), &ping].concat());
    assert!(
        session.contains("welcome") && session.contains("\"7\""),
        "{session}"
    );
    edge.until_metric("online_status_connections", "", 0.0);
}
