//! Workers that listen, as on other machines: their share of a load, whom they refuse, and what is left
//! of a run that loses one.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;

use crate::{bench, count, fake, passed, until_it_says};

const TOKEN: &str = "a token of a test, long enough";

/// A worker that listens; ended when it is dropped.
struct Listening {
    child: Child,
    at: String,
    certificate: PathBuf,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.child.kill().expect("it can be ended");
        self.child.wait().expect("it ends");
        let folder = self.certificate.parent().expect("its folder");
        fs::remove_dir_all(folder).expect("its folder goes");
    }
}

/// Starts a worker at a free port, with a certificate of its own.
fn listening(name: &str) -> Listening {
    let folder = std::env::temp_dir().join(format!("bench-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let pair = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).expect("a certificate");
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&certificate, pair.cert.pem()).expect("a file");
    fs::write(&key, pair.signing_key.serialize_pem()).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_online-status-bench"))
        .args(["worker", "--listen", "127.0.0.1:0", "--token", TOKEN])
        .arg("--certificate")
        .arg(&certificate)
        .arg("--key")
        .arg(&key)
        .stderr(Stdio::piped())
        .spawn()
        .expect("a worker starts");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("text");
    thread::spawn(move || said.read_to_end(&mut Vec::new()));
    let at = line.trim().rsplit_once(' ').expect("an address").1;
    Listening {
        child,
        at: at.into(),
        certificate,
    }
}

/// What the bench says when it ends with 2.
fn refused(arguments: &[&str]) -> String {
    let (url, _) = fake::start(fake::Fault::None, Duration::from_secs(4));
    let output = Command::new(env!("CARGO_BIN_EXE_online-status-bench"))
        .args(["connect", "--url", &url, "--sessions", "20", "--quiet"])
        .args(arguments)
        .output()
        .expect("the bench runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    said
}

#[test]
fn workers_that_listen_share_a_load_and_tell_of_their_clocks() {
    let (url, _) = fake::start(fake::Fault::None, Duration::from_secs(4));
    let worker = listening("share");
    let both = format!("{0},{0}", worker.at);
    let ca = worker.certificate.to_str().expect("a path");
    let options = [
        "--workers",
        &both,
        "--worker-ca",
        ca,
        "--worker-token",
        TOKEN,
    ];
    let load = ["--rate", "20", "--duration", "2"];
    let (_, report) = bench("fanout", &["--url", &url], &[&options[..], &load].concat());
    assert!(passed(&report), "{report}");
    assert_eq!(count(&report, "expected"), 40 * 20, "{report}");
    assert_eq!(count(&report, "delivered"), 40 * 20, "{report}");
    let clocks = report["generator"]["clocks"].as_array().expect("clocks");
    assert_eq!(clocks.len(), 2, "{report}");
    for clock in clocks {
        // It is the same clock.
        let offset = clock["offset"].as_i64().expect("an offset").unsigned_abs();
        let error = clock["error"].as_u64().expect("an error");
        assert!(offset <= error + 1 && error < 5_000_000, "{clock}");
    }
}

#[test]
fn a_worker_refuses_another_token_and_another_build_and_who_it_is_has_to_be_known() {
    let (worker, other) = (listening("refuse"), listening("other"));
    let ca = worker.certificate.to_str().expect("a path");
    let with = |more: &[&str]| refused(&[&["--workers", &worker.at], more].concat());
    let said = with(&[
        "--worker-ca",
        ca,
        "--worker-token",
        "another, and as long as it is",
    ]);
    assert!(said.contains("it does not take this token"), "{said}");
    assert!(said.contains("--worker-token"), "{said}");
    let said = with(&["--worker-ca", ca]);
    assert!(
        said.contains("--worker-token or BENCH_WORKER_TOKEN"),
        "{said}"
    );
    for unknown in [
        &["--worker-token", TOKEN][..],
        &[
            "--worker-token",
            TOKEN,
            "--worker-ca",
            other.certificate.to_str().expect("a path"),
        ],
    ] {
        let said = with(unknown);
        // A system without authorities says that instead.
        let told = said.contains("name the authority") || said.contains("name one with");
        assert!(told && said.contains("--worker-ca FILE"), "{said}");
    }
    let nobody = [
        "--workers",
        "127.0.0.1:9",
        "--worker-token",
        TOKEN,
        "--worker-ca",
        ca,
    ];
    assert!(refused(&nobody).contains("online-status-bench worker --listen"));

    let mut roots = RootCertStore::empty();
    let known = CertificateDer::from_pem_file(&worker.certificate).expect("a certificate");
    roots.add(known).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "127.0.0.1".try_into().expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("TLS");
    let socket = TcpStream::connect(&worker.at).expect("a connection");
    let mut wire = BufReader::new(StreamOwned::new(tls, socket));
    let hello = serde_json::json!({"bench": "0.0.1 (another)", "token": TOKEN});
    writeln!(wire.get_mut(), "{hello}").expect("it listens");
    let mut answer = String::new();
    wire.read_line(&mut answer).expect("an answer");
    assert!(answer.contains("0.0.1 (another)"), "{answer}");
    assert!(
        answer.contains("use the same build on all machines"),
        "{answer}"
    );
}

#[test]
fn a_run_that_loses_a_worker_reports_what_the_others_measured() {
    let (url, _) = fake::start(fake::Fault::None, Duration::from_secs(4));
    let (stays, mut goes) = (listening("stays"), listening("goes"));
    // The driver trusts both.
    let both = stays.certificate.with_file_name("both.pem");
    let read = |worker: &Listening| fs::read_to_string(&worker.certificate).expect("a file");
    fs::write(&both, read(&stays) + &read(&goes)).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_online-status-bench"))
        .args([
            "presence",
            "--url",
            &url,
            "--sessions",
            "20",
            "--watch",
            "5",
        ])
        .args([
            "--rate",
            "40",
            "--moves",
            "0",
            "--duration",
            "600",
            "--json",
        ])
        .arg(format!("--workers={},{}", stays.at, goes.at))
        .args(["--worker-token", TOKEN, "--worker-ca"])
        .arg(&both)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the bench starts");
    until_it_says(&mut child, Some("the measured part begins"));
    thread::sleep(Duration::from_secs(1));
    goes.child.kill().expect("it can be ended");
    let output = child.wait_with_output().expect("the bench ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(output.status.code(), Some(1), "{report}");
    let first = report["failures"][0].as_str().expect("a failure");
    let lost = format!("LOST: worker 1 ({}) ended early", goes.at);
    assert!(first.starts_with(&lost), "{report}");
    assert_eq!(count(&report, "ready"), 10, "{report}");
    assert!(count(&report, "delivered") > 20, "{report}");
    assert_eq!(count(&report, "missed"), 0, "{report}");
}
