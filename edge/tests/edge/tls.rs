//! TLS: sessions over it, and new certificates without dropping them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::{Client, Edge, Folder, bearer, token};

fn certificate() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate")
}

fn connect(edge: &Edge, trusted: &CertifiedKey<rcgen::KeyPair>) -> Option<Client> {
    connect_behind(edge, trusted, Vec::new())
}

/// A socket whose first write is behind other bytes, in one piece with them.
struct Behind(Vec<u8>, TcpStream);

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

fn connect_behind(
    edge: &Edge,
    trusted: &CertifiedKey<rcgen::KeyPair>,
    first: Vec<u8>,
) -> Option<Client> {
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
    let stream = StreamOwned::new(tls, stream);
    let mut client = Client::over(Box::new(stream), &bearer(&token("alice")));
    client.message();
    Some(client)
}

#[test]
fn a_new_certificate_is_served_without_dropping_sessions() {
    let folder = Folder::new();
    let (old, new) = (certificate(), certificate());
    let write = |pair: &CertifiedKey<rcgen::KeyPair>| {
        let certificate = folder.file("cert.pem", pair.cert.pem());
        (
            certificate,
            folder.file("key.pem", pair.signing_key.serialize_pem()),
        )
    };
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
fn a_proxy_header_may_come_in_one_piece_with_the_beginning_of_tls() {
    let folder = Folder::new();
    let pair = certificate();
    let file = folder.file("cert.pem", pair.cert.pem());
    let key = folder.file("key.pem", pair.signing_key.serialize_pem());
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
fn plain_text_on_a_tls_port_ends_only_itself() {
    let folder = Folder::new();
    let pair = certificate();
    let certificate = folder.file("cert.pem", pair.cert.pem());
    let key = folder.file("key.pem", pair.signing_key.serialize_pem());
    let edge = Edge::start(&["--tls-certificate", &certificate, "--tls-key", &key]);
    let mut plain = TcpStream::connect(edge.address).expect("a connection");
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    let mut answer = Vec::new();
    // An alert, or the end.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    connect(&edge, &pair).expect("TLS").works();
}
