//! TLS: sessions over it, and new certificates without dropping them.

use std::{net::TcpStream, sync::Arc, time::Duration};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::{Client, Edge, Folder, bearer, token};

fn certificate() -> CertifiedKey<rcgen::KeyPair> {
    generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate")
}

fn connect(edge: &Edge, trusted: &CertifiedKey<rcgen::KeyPair>) -> Option<Client> {
    let mut roots = RootCertStore::empty();
    roots
        .add(trusted.cert.der().clone())
        .expect("a certificate");
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = TcpStream::connect(edge.address).expect("a connection");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
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
fn plain_text_on_a_tls_port_ends_only_itself() {
    let folder = Folder::new();
    let pair = certificate();
    let certificate = folder.file("cert.pem", pair.cert.pem());
    let key = folder.file("key.pem", pair.signing_key.serialize_pem());
    let edge = Edge::start(&["--tls-certificate", &certificate, "--tls-key", &key]);
    let mut plain = TcpStream::connect(edge.address).expect("a connection");
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it is read");
    let mut answer = Vec::new();
    // An alert, or the end.
    let _ = std::io::Read::read_to_end(&mut plain, &mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    connect(&edge, &pair).expect("TLS").works();
}
