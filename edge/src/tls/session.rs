//! One connection's TLS: ciphertext and plaintext go through buffers that the caller owns. It owns
//! the connection's keys, and of its bytes only what waits for the rest of it or for being sent; it
//! never touches a socket.

use std::sync::Arc;

use rustls::{
    ProtocolVersion, ServerConfig,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
    },
};

/// Bytes of a session that may wait for the rest of their record, which is 16,645 at most, or of
/// their handshake message.
const MAX_BEGUN: usize = 0xffff;
/// What a record adds to its plaintext, and more: header, type and tag (RFC 8446 §5.2), or an
/// explicit nonce (RFC 5288 §3).
const RECORD_OVERHEAD: usize = 32;

/// The TLS session of one connection. An idle one holds its keys and no buffer.
pub(crate) struct TlsSession(Box<Session>);

struct Session {
    rustls: UnbufferedServerConnection,
    /// What waits for the rest of its record, or of its handshake message.
    begun: Vec<u8>,
    /// What TLS itself has to say and was not taken yet.
    unsent: Vec<u8>,
    reading: Reading,
}

/// Whether more of a client is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    /// It has closed its direction.
    Closed,
    /// It has broken a rule. rustls is not asked any more, as what it had begun to read is gone.
    Failed,
}

impl TlsSession {
    /// A connection of which nothing has come yet.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self(Box::new(Session {
            rustls: UnbufferedServerConnection::new(config)?,
            begun: Vec::new(),
            unsent: Vec::new(),
            reading: Reading::On,
        })))
    }

    /// Takes what the client sent, which is decrypted where it is, and appends the plaintext in it.
    /// `true` when the client has closed its direction. After an error, [`TlsSession::urgent`]
    /// still has the alert to send.
    pub(crate) fn receive(
        &mut self,
        ciphertext: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let session = &mut *self.0;
        if session.reading != Reading::On {
            return Ok(true);
        }
        let mut begun = std::mem::take(&mut session.begun);
        if begun.is_empty() {
            let used = session.process(ciphertext, plaintext)?;
            begun.extend_from_slice(&ciphertext[used..]);
        } else {
            begun.extend_from_slice(ciphertext);
            let used = session.process(&mut begun, plaintext)?;
            begun.drain(..used);
        }
        if session.reading == Reading::Closed {
            return Ok(true);
        }
        if begun.len() > MAX_BEGUN {
            session.reading = Reading::Failed;
            return Err(rustls::Error::General(
                "a handshake message is too long".into(),
            ));
        }
        begun.shrink_to_fit();
        session.begun = begun;
        Ok(false)
    }

    /// Whether no more of the client is read: it has closed its direction, or broken a rule.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.reading != Reading::On
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.rustls.is_handshaking()
    }

    /// Encrypts `plaintext` and appends the ciphertext, after anything that was pending. Before the
    /// handshake is done there is nothing to send, and nothing is.
    pub(crate) fn send(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        self.pending(out);
        let room = plaintext.len() + RECORD_OVERHEAD;
        self.0
            .write(room, out, |traffic, out| traffic.encrypt(plaintext, out));
    }

    /// Appends what TLS itself has to say: handshake, alerts, tickets.
    fn pending(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.0.unsent);
        self.0.unsent = Vec::new();
    }

    /// Appends what the client waits for. A ticket (RFC 8446 §4.6.1) is not: it goes out with the
    /// next answer, which saves a packet.
    pub(crate) fn urgent(&mut self, out: &mut Vec<u8>) {
        let tickets = self.0.rustls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if self.is_handshaking() || self.0.reading != Reading::On || !tickets {
            self.pending(out);
        }
    }

    /// Appends the goodbye of TLS (RFC 8446 §6.1).
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        self.pending(out);
        self.0.write(RECORD_OVERHEAD, out, |traffic, out| {
            traffic.queue_close_notify(out)
        });
    }
}

impl Session {
    /// Takes the records in `bytes` and returns how many bytes they are. What is behind them has to
    /// be there again, at the beginning, with what comes next.
    fn process(
        &mut self,
        bytes: &mut [u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<usize, rustls::Error> {
        let mut used = 0;
        let mut failure = None;
        let error = loop {
            let UnbufferedStatus { mut discard, state } =
                self.rustls.process_tls_records(&mut bytes[used..]);
            match state {
                // An alert comes out before anything is read on.
                Ok(ConnectionState::EncodeTlsData(message)) => keep(message, &mut self.unsent),
                Ok(ConnectionState::TransmitTlsData(said)) => said.done(),
                _ if let Some(error) = failure.take() => break error,
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plaintext.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.reading = Reading::Closed;
                    return Ok(bytes.len());
                }
                Ok(_) => return Ok(used + discard),
                Err(error) => failure = Some(error),
            }
            used += discard;
        };
        self.reading = Reading::Failed;
        Err(error)
    }

    /// Appends what `what` writes into `room` bytes, or as many as it asks for.
    fn write(
        &mut self,
        mut room: usize,
        out: &mut Vec<u8>,
        mut what: impl FnMut(
            &mut WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) {
        while self.reading != Reading::Failed {
            // It is no whole record, so that nothing becomes of it.
            let state = self.rustls.process_tls_records(&mut self.begun).state;
            let written = match state {
                Ok(ConnectionState::EncodeTlsData(message)) => {
                    keep(message, out);
                    continue;
                }
                Ok(ConnectionState::TransmitTlsData(said)) => {
                    said.done();
                    continue;
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = out.len();
                    out.resize(start + room, 0);
                    let written = what(&mut traffic, &mut out[start..]);
                    out.truncate(start + written.as_ref().map_or(0, |written| *written));
                    written
                }
                _ => return,
            };
            match written {
                Err(EncryptError::InsufficientSize(wanted)) if wanted.required_size > room => {
                    room = wanted.required_size;
                }
                // With its keys used up, TLS says its goodbye, and no more.
                _ => return,
            }
        }
    }
}

/// Appends a message of TLS itself.
fn keep(mut message: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    let start = out.len();
    if let Err(EncodeError::InsufficientSize(wanted)) = message.encode(&mut []) {
        out.resize(start + wanted.required_size, 0);
        message
            .encode(&mut out[start..])
            .expect("it has the room that it asked for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        time::{Duration, Instant},
    };

    use crate::tls::{Acceptor, Files};
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, RootCertStore, SupportedProtocolVersion,
        version::{TLS12, TLS13},
    };

    /// A server with a certificate of its own, and a client of that version that trusts it.
    fn pair(version: &'static SupportedProtocolVersion) -> (Acceptor, Arc<ClientConfig>) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tls-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("made");
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let files = Files::of(&certificate, &key, &[]).expect("a pair");
        let acceptor = Acceptor::new(files.expect("named")).expect("good files");
        std::fs::remove_dir_all(&folder).expect("it is ours");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let client = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        (acceptor, Arc::new(client))
    }

    fn client(config: &Arc<ClientConfig>) -> ClientConnection {
        let name = "localhost".try_into().expect("a name");
        ClientConnection::new(Arc::clone(config), name).expect("a client")
    }

    /// Moves what there is from one to the other, `most` bytes at a time, until nothing is left to
    /// move; what the server reads is returned, and the time it took.
    fn exchange(
        client: &mut ClientConnection,
        server: &mut TlsSession,
        most: usize,
    ) -> (Result<Vec<u8>, rustls::Error>, Duration) {
        let (mut read, mut spent) = (Vec::new(), Duration::ZERO);
        loop {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).expect("a Vec");
            }
            let mut answers = Vec::new();
            let began = Instant::now();
            for chunk in bytes.chunks_mut(most) {
                if let Err(error) = server.receive(chunk, &mut read) {
                    return (Err(error), spent);
                }
                server.urgent(&mut answers);
            }
            spent += began.elapsed();
            if bytes.is_empty() && answers.is_empty() {
                return (Ok(read), spent);
            }
            assert_eq!(take(client, &answers), b"");
        }
    }

    /// Gives the client what the server sent, and returns what that says.
    fn take(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
        let mut said = Vec::new();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("a slice");
            let state = client.process_new_packets().expect("the server's");
            let start = said.len();
            said.resize(start + state.plaintext_bytes_to_read(), 0);
            let read = client.reader().read_exact(&mut said[start..]);
            read.expect("there is that much");
        }
        said
    }

    #[test]
    fn bytes_come_through_in_pieces_of_any_size_and_none_is_held_between_messages() {
        for (version, most) in [(&TLS12, 1), (&TLS13, 1), (&TLS12, 7_000), (&TLS13, 7_000)] {
            let (acceptor, config) = pair(version);
            let (mut client, mut server) = (client(&config), acceptor.accept().expect("new"));
            let (read, _) = exchange(&mut client, &mut server, most);
            assert_eq!(read, Ok(Vec::new()));
            assert!(!client.is_handshaking() && !server.is_handshaking());
            let long: Vec<u8> = (0..40_000).map(|n| n as u8).collect();
            let mut left = &long[..];
            while !left.is_empty() {
                let taken = client.writer().write(left).expect("in memory");
                let (read, _) = exchange(&mut client, &mut server, most);
                assert_eq!(read.as_deref(), Ok(&left[..taken]));
                left = &left[taken..];
            }
            // Keys are renewed on the way.
            if version == &TLS13 {
                client.refresh_traffic_keys().expect("it may");
            }
            client.writer().write_all(b"more").expect("in memory");
            let (read, _) = exchange(&mut client, &mut server, most);
            assert_eq!(read.as_deref(), Ok(&b"more"[..]));
            let mut answer = Vec::new();
            server.send(&long, &mut answer);
            server.send(b"", &mut answer);
            assert_eq!(take(&mut client, &answer), long);
            let held = (server.0.begun.capacity(), server.0.unsent.capacity());
            assert_eq!(held, (0, 0));
            assert!(size_of::<Session>() <= 1_280, "{}", size_of::<Session>());

            client.send_close_notify();
            let mut goodbye = Vec::new();
            client.write_tls(&mut goodbye).expect("a Vec");
            let end = server.receive(&mut goodbye, &mut Vec::new());
            assert_eq!(end, Ok(true));
            assert_eq!(server.receive(&mut [0; 100], &mut Vec::new()), Ok(true));
            let mut goodbye = Vec::new();
            server.close(&mut goodbye);
            server.close(&mut Vec::new());
            assert_eq!(take(&mut client, &goodbye), b"");
            assert_eq!(client.reader().read(&mut [0]).ok(), Some(0));
        }
    }

    #[test]
    fn a_broken_rule_is_answered_by_an_alert_and_nothing_is_read_or_said_after_it() {
        for version in [&TLS12, &TLS13] {
            let (acceptor, config) = pair(version);
            let (mut client, mut server) = (client(&config), acceptor.accept().expect("new"));
            exchange(&mut client, &mut server, 100)
                .0
                .expect("it is well");
            client.writer().write_all(b"forged").expect("in memory");
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("a Vec");
            *bytes.last_mut().expect("a record") ^= 1;
            let mut read = Vec::new();
            let failed = server.receive(&mut bytes, &mut read);
            assert_eq!((failed, read.len()), (Err(rustls::Error::DecryptError), 0));
            let mut alert = Vec::new();
            server.urgent(&mut alert);
            client.read_tls(&mut &alert[..]).expect("a slice");
            let heard = client.process_new_packets().expect_err("an alert");
            let rustls::AlertDescription::BadRecordMac = (match heard {
                rustls::Error::AlertReceived(alert) => alert,
                other => panic!("{other}"),
            }) else {
                panic!("another alert");
            };
            assert_eq!(server.receive(&mut bytes, &mut read), Ok(true));
            let mut nothing = Vec::new();
            server.send(b"words", &mut nothing);
            server.close(&mut nothing);
            assert_eq!((nothing.len(), read.len()), (0, 0));
        }
        // A handshake message is 16 MiB long by its head, and comes in records of their own.
        let (acceptor, _) = pair(&TLS13);
        let mut server = acceptor.accept().expect("new");
        let mut endless = vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff];
        let failed = (0..1_000).find_map(|_| {
            let failed = server.receive(&mut endless, &mut Vec::new()).err();
            endless = [&[22, 3, 1, 0x3f, 0xff][..], &[0; 0x3fff]].concat();
            failed
        });
        assert!(failed.is_some());
        assert_eq!(server.0.begun.capacity(), 0);
    }

    /// A whole connect with a ticket, and what it took the server.
    fn connect(acceptor: &Acceptor, config: &Arc<ClientConfig>) -> (HandshakeKind, Duration) {
        let mut client = client(config);
        let began = Instant::now();
        let mut server = acceptor.accept().expect("new");
        let accepted = began.elapsed();
        let (read, spent) = exchange(&mut client, &mut server, 16_000);
        assert_eq!(read, Ok(Vec::new()));
        // The ticket waits for the first answer.
        let mut answer = Vec::new();
        server.send(b"hello", &mut answer);
        assert_eq!(take(&mut client, &answer), b"hello");
        let kind = client.handshake_kind().expect("it is over");
        (kind, accepted + spent)
    }

    #[test]
    fn who_comes_back_is_resumed_by_a_suite_whose_hash_is_cheap() {
        let (acceptor, config) = pair(&TLS13);
        assert_eq!(connect(&acceptor, &config).0, HandshakeKind::Full);
        for _ in 0..3 {
            assert_eq!(connect(&acceptor, &config).0, HandshakeKind::Resumed);
        }
        let (mut client, mut server) = (client(&config), acceptor.accept().expect("new"));
        exchange(&mut client, &mut server, 16_000).0.expect("well");
        let suite = client.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
    }

    /// For docs/performance.md: full and resumed handshakes in turn.
    #[test]
    #[ignore = "it measures and asserts nothing"]
    fn what_handshakes_cost() {
        let (acceptor, config) = pair(&TLS13);
        let (mut full, mut resumed) = (Vec::new(), Vec::new());
        for _ in 0..2_000 {
            let mut forgetful = ClientConfig::clone(&config);
            forgetful.resumption = rustls::client::Resumption::in_memory_sessions(32);
            let forgetful = Arc::new(forgetful);
            let (kind, spent) = connect(&acceptor, &forgetful);
            assert_eq!(kind, HandshakeKind::Full);
            full.push(spent);
            let (kind, spent) = connect(&acceptor, &forgetful);
            assert_eq!(kind, HandshakeKind::Resumed);
            resumed.push(spent);
        }
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let (full, resumed) = (median(full), median(resumed));
        println!("median of the server's part: full {full:?}, resumed {resumed:?}");
    }
}
