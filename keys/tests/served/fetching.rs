//! What is fetched, how, and when.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use keys::{Keys, KeysError, Source};
use rcgen::KeyPair;
use settings::Secret;
use token::TokenError;

use crate::common::{NEVER, Server, Signer, head_of, ok, options, says, set, source, start, until};

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

    // Of a server of its own, since the former keys may still ask theirs.
    let (server, other) = (Server::start(), Signer::new("other"));
    server.serves(&[&a, &b]);
    let seldom = Source {
        min_gap: NEVER,
        ..source(server.url())
    };
    let keys = start(&seldom);
    until("ready", || keys.are_ready());
    for _ in 0..1_000 {
        assert_eq!(says(&keys, &other), Some(TokenError::UnknownKey));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.asked(), 1);
    // Somebody who knows better is not made to wait.
    keys.reload().expect("no files");
    until("it is fetched", || server.asked() == 2);
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

/// Fetches once and says what came of it.
fn once(source: &Source, signer: &Signer) -> Result<(), String> {
    let verifier = Keys::once(options(), Some(source)).map_err(|error| error.to_string())?;
    let verdict = verifier.verify(&signer.token(), 9_000);
    verdict.map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_set_may_come_compressed_and_with_a_byte_order_mark_though_neither_was_asked_for() {
    use flate2::{Compression, write::GzEncoder};
    let (server, a) = (Server::start(), Signer::new("a"));
    let encoded = |encoding: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncontent-encoding: {encoding}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    };
    let zipped = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).expect("memory");
        encoder.finish().expect("memory")
    };
    let plain = set(&[&a]);
    let marked = format!("\u{feff}{plain}");
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    for answer in [
        ok(&marked).into_bytes(),
        encoded("gzip", &zipped(&plain)),
        encoded("gzip", &zipped(&marked)),
        encoded("identity", plain.as_bytes()),
    ] {
        let heads = Arc::clone(&heads);
        server.answers_by(move |head| {
            heads.lock().expect("no panic").push(head.to_lowercase());
            answer.clone()
        });
        assert_eq!(once(&source(server.url()), &a), Ok(()));
    }
    for head in &*heads.lock().expect("no panic") {
        assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
        assert!(!head.contains("gzip"), "{head}");
    }
    let bomb = zipped(&" ".repeat(64 << 20));
    assert!(bomb.len() < 100 << 10);
    for (answer, what) in [
        (encoded("gzip", &bomb), "larger than"),
        (encoded("br", b"\x0b\x02\x80"), "\"br\""),
        (encoded("gzip", plain.as_bytes()), ""),
        (encoded("gzip", &zipped(&plain)[..40]), ""),
    ] {
        server.answers(answer);
        let error = once(&source(server.url()), &a).expect_err("no set");
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn redirects_are_followed_on_the_same_host_and_never_elsewhere() {
    let (server, elsewhere, a) = (Server::start(), Server::start(), Signer::new("a"));
    elsewhere.serves(&[&a]);
    let (port, body) = (server.address.port(), ok(&set(&[&a])));
    let led = move |place: String| {
        let body = body.clone();
        move |head: &str| match head.starts_with("GET /keys.json ") {
            false if head.starts_with("GET /set?x=1 ") => body.clone().into_bytes(),
            false => "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".into(),
            true => format!("HTTP/1.1 308 There\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n")
                .into_bytes(),
        }
    };
    for place in [
        "/set?x=1",
        "set?x=1",
        "./a/../set?x=1",
        "//127.0.0.1:PORT/set?x=1",
        "http://127.0.0.1:PORT/set?x=1",
    ] {
        server.answers_by(led(place.replace("PORT", &port.to_string())));
        assert_eq!(once(&source(server.url()), &a), Ok(()), "{place}");
    }
    for (place, what) in [
        (elsewhere.url(), "another host"),
        (format!("http://localhost:{port}/set?x=1"), "another host"),
        (
            format!("http://u:secret@127.0.0.1:{port}/set?x=1"),
            "no address",
        ),
        ("ftp://127.0.0.1/set?x=1".into(), "another host"),
        ("file:///etc/passwd".into(), "another host"),
        (String::new(), "no address"),
        ("http://[".into(), "no address"),
        ("/keys.json".into(), "too many"),
        ("/nothing".into(), "404"),
    ] {
        server.answers_by(led(place.clone()));
        let error = once(&source(server.url()), &a).expect_err("elsewhere");
        assert!(
            error.contains(what) && !error.contains("secret"),
            "{place}: {error}"
        );
    }
    assert_eq!(elsewhere.asked(), 0);
    let nowhere = "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n";
    server.answers(nowhere);
    assert!(once(&source(server.url()), &a).is_err());
}

/// A proxy that connects to whoever it is asked for; the heads that it got.
fn proxy(authorization: Option<&'static str>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&heads);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a connection");
            let head = head_of(&mut client).expect("a request");
            let target = head
                .strip_prefix("CONNECT ")
                .and_then(|rest| rest.split(' ').next());
            let target = target.map(|target| target.replace("keys.example", "127.0.0.1"));
            let good = authorization.is_none_or(|wanted| head.contains(wanted));
            seen.lock().expect("no panic").push(head);
            let upstream = target
                .filter(|_| good)
                .and_then(|target| TcpStream::connect(target).ok());
            let Some(mut upstream) = upstream else {
                let _ = client.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n");
                continue;
            };
            client
                .write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
                .expect("a client");
            let mut back = (
                upstream.try_clone().expect("a socket"),
                client.try_clone().expect("a socket"),
            );
            std::thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
            std::thread::spawn(move || std::io::copy(&mut client, &mut upstream));
        }
    });
    (port, heads)
}

#[test]
fn a_set_behind_a_proxy_is_fetched_through_it_and_only_through_it() {
    let (server, a) = (Server::start(), Signer::new("a"));
    server.serves(&[&a]);
    // A name that only the proxy knows.
    let url = format!("http://keys.example:{}/keys.json", server.address.port());
    let through = |proxy: String| Source {
        jwks_proxy: Secret::new(&proxy),
        timeout: Duration::from_secs(2),
        ..source(url.clone())
    };
    let (port, heads) = proxy(None);
    assert_eq!(
        once(&through(format!("http://127.0.0.1:{port}")), &a),
        Ok(())
    );
    let head = heads.lock().expect("no panic").pop().expect("it was asked");
    assert!(
        head.starts_with(&format!(
            "CONNECT keys.example:{} HTTP/1.1\r\n",
            server.address.port()
        )),
        "{head}"
    );
    let (port, _) = proxy(Some("Basic dXNlcjpwQHNz"));
    assert_eq!(
        once(&through(format!("http://user:p%40ss@127.0.0.1:{port}")), &a),
        Ok(())
    );
    // Without the proxy's consent, or the proxy, nobody is asked.
    let asked = server.asked();
    let here = Source {
        jwks_proxy: Secret::new(&format!("http://127.0.0.1:{port}/")),
        ..source(server.url())
    };
    let error = once(&here, &a).expect_err("no password");
    assert!(error.contains("407"), "{error}");
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = probe.local_addr().expect("an address");
    drop(probe);
    let dead = Source {
        jwks_proxy: Secret::new(&format!("http://{nobody}")),
        ..source(server.url())
    };
    assert!(once(&dead, &a).is_err());
    // One that says nothing, and one that ends in the middle.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = silent.local_addr().expect("an address");
    let mut slow = through(format!("http://{address}"));
    slow.timeout = Duration::from_millis(200);
    assert!(once(&slow, &a).is_err());
    std::thread::spawn(move || {
        for client in silent.incoming() {
            let _ = client.expect("a connection").write_all(b"HTTP/1.1 200 C");
        }
    });
    assert!(once(&slow, &a).is_err());
    assert_eq!(server.asked(), asked);
    for wrong in [
        "127.0.0.1:3128",
        "socks5://127.0.0.1",
        "http://",
        "http://u:secret@",
        "ftp://u:secret@h",
    ] {
        let error = through(wrong.into()).check().expect_err(wrong).to_string();
        assert!(
            error.starts_with("auth.jwks_proxy = ") && !error.contains("secret"),
            "{error}"
        );
    }
}

#[test]
fn a_server_or_proxy_that_drips_holds_a_fetch_no_longer_than_it_may_take() {
    let drip = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = drip.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in drip.incoming() {
            let mut client = client.expect("a connection");
            std::thread::spawn(move || {
                let mut asked = [0; 1_024];
                let _ = client.read(&mut asked);
                // The beginning of a TLS record, or of a head, that goes on and on.
                let begins: &[u8] = match asked[0] {
                    0x16 => b"\x16\x03\x03\x3f\xff\x02",
                    _ => b"HTTP/1.1 200 OK\r\nx: ",
                };
                let _ = client.write_all(begins);
                while client.write_all(b"y").is_ok() {
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
    let patient = |url: String, proxy: String| Source {
        jwks_proxy: Secret::new(&proxy),
        timeout: Duration::from_millis(500),
        ..source(url)
    };
    let file = std::env::temp_dir().join(format!("online-status-drip-{}.pem", std::process::id()));
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    std::fs::write(&file, pair.cert.pem()).expect("a writable temp dir");
    let secure = Source {
        jwks_ca_file: Some(file.clone()),
        ..patient(format!("https://{address}/"), String::new())
    };
    for source in [
        patient(format!("http://{address}/"), String::new()),
        patient("http://keys.example/".into(), format!("http://{address}")),
        secure,
    ] {
        let began = std::time::Instant::now();
        let (done, outcome) = std::sync::mpsc::channel();
        let (dripped, a) = (source.clone(), Signer::new("a"));
        std::thread::spawn(move || done.send(once(&dripped, &a)));
        let outcome = outcome.recv_timeout(Duration::from_secs(10));
        assert!(outcome.expect("an end").is_err());
        assert!(began.elapsed() < Duration::from_secs(10), "{source:?}");
    }
    std::fs::remove_file(&file).expect("it was written");
}
