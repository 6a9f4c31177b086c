//! What the tests share.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use protocol::{
    Lease, Mode, Record, Status, Stored, Survey, Version,
    policy::{Subject, revocation},
    survey::{About, Found},
};
use redis_store::{Decreed, Done, Link, MapWrite, Op, Options, PolicyReader, StoreError};
use ring::{Epoch, Map, MapVersion, NodeId, Vnode, VnodeCount};

pub(crate) fn connect(url: &str) -> Link {
    Link::open(options(url)).expect("good options")
}

/// Patient, since test machines are busy.
pub(crate) fn options(url: &str) -> Options {
    Options {
        connect_timeout: Duration::from_secs(10),
        response_timeout: Duration::from_secs(10),
        ..Options::new(url)
    }
}

/// The lease of a node that has nothing yet.
pub(crate) fn lease() -> Lease {
    Lease {
        node: "n1".into(),
        boot: 1,
        address: "ws://n1/socket".into(),
        cores: 1,
        weight: 1,
        ..Lease::default()
    }
}

pub(crate) async fn run_one(link: &Link, op: Op) -> Result<Done, StoreError> {
    let mut done = link.run(vec![op]).await;
    assert_eq!(done.len(), 1);
    done.remove(0)
}

pub(crate) fn user(number: u64) -> Box<str> {
    format!("user-{number}").into()
}

pub(crate) fn stored(epoch: u32, seq: u64, connected: bool) -> Stored {
    let status = if connected {
        Status::Online
    } else {
        Status::Offline
    };
    Stored {
        record: Record {
            status,
            since: 1_000,
            last_seen: 2_000,
            devices: u32::from(connected),
            version: Version::new(Epoch::new(epoch), seq).expect("in range"),
            ..Record::default()
        },
        mode: Mode::Auto,
        connected,
    }
}

/// Tries until there is something, for at most a minute: a cluster of Redis that lacks CPU is slow to agree.
pub(crate) async fn until<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "it did not happen within a minute"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every operation once, as a permission test needs it.
pub(crate) async fn exercise(link: &Link) {
    let (vnode, epoch) = (Vnode::new(1), Epoch::new(1));
    let record = (user(1), stored(1, 1, true));
    let done = link
        .run(vec![
            Op::Claim {
                vnode,
                epoch,
                wait_below: Epoch::MAX,
                since_ms: 0,
            },
            Op::Write {
                vnode,
                epoch,
                records: vec![record.clone()],
            },
            Op::Read {
                vnode,
                users: vec![record.0],
            },
            Op::Trim {
                vnode,
                epoch,
                before_ms: 1,
                limit: 1,
            },
            Op::Release { vnode, epoch },
        ])
        .await;
    let done: Result<Vec<Done>, StoreError> = done.into_iter().collect();
    let done = done.expect("all is done");
    assert_eq!(done[2], Done::Records(epoch, vec![Some(record.1)]));
    assert_eq!(done[4], Done::Released);

    let ttl = Duration::from_secs(600);
    let lease = lease();
    let node = NodeId::parse("n1").expect("a good name");
    link.renew(&lease, ttl, true).await.expect("a lease");
    assert_eq!(link.leases().await.expect("the leases").good, [lease]);
    link.forget(&node, 1).await.expect("forgotten");
    link.drain(&node, "ops").await.expect("drained");
    assert_eq!(link.drained().await, Ok(vec!["n1".into()]));
    link.undrain(&node, "ops").await.expect("undrained");

    let lead = link.lead("c1", ttl, None).await.expect("an answer");
    let token = lead.expect("nobody leads");
    assert_eq!(link.lead("c1", ttl, lead).await, Ok(lead));
    let before = link
        .map()
        .await
        .expect("an answer")
        .map_or(MapVersion::new(0), |m| m.version());
    let map = Map::empty(VnodeCount::default()).raised(before, epoch);
    let written = link.write_map(token, before, &map).await;
    assert_eq!(written, Ok(MapWrite::Written));
    assert_eq!(link.map_version().await, Ok(Some(map.version())));
    assert_eq!(link.map().await, Ok(Some(map)));
    link.resign("c1", token).await.expect("resigned");
    assert_eq!(link.leader().await, Ok(None));

    let user = Subject::User("alice".into());
    let (_, entry) = revocation(br#"{"user":"alice"}"#, "root", 1, 0).expect("good");
    assert_eq!(link.decree(&user, Some(&entry)).await, Ok(Decreed::Done));
    assert_eq!(PolicyReader::default().read(link).await, Ok(true));
    link.clear(&user, &entry).await.expect("cleared");
    link.add_trace("alice", &["none".into()])
        .await
        .expect("added");
    assert_eq!(link.trace("alice").await, Ok(Vec::new()));
    let survey = Survey::new(7, About::Slow);
    let found = Found::default();
    link.answer_survey(&survey, "n1", &found)
        .await
        .expect("answered");
    let answers = link.survey_answers(&survey, &["n1".into()]).await;
    assert_eq!(answers, Ok(vec![Some(found)]));

    let incarnation = link.incarnation().await.expect("an incarnation");
    assert_eq!(link.incarnation().await, Ok(incarnation));
    assert!(!link.run_id().await.expect("a run id").is_empty());
    assert_eq!(link.counters().hints_lost, 0);
}

/// What the README tells operators to set, from the user's name on.
pub(crate) fn documented_acl_rule(password: &str) -> String {
    let readme = include_str!("../../../README.md");
    readme
        .lines()
        .find_map(|line| line.strip_prefix("ACL SETUSER "))
        .expect("the README has the rule")
        .replace(">PASSWORD", &format!(">{password}"))
}

/// A private authority and a certificate of it for a server on this machine, as files.
pub(crate) struct Certificates {
    pub(crate) directory: PathBuf,
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    pub(crate) fn new(name: &str) -> Self {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        // OpenSSL takes a certificate that bears its issuer's name for its own issuer.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&ca_key).expect("a certificate");
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()])
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("a certificate");
        let directory = format!("online-status-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        std::fs::create_dir_all(&directory).expect("a directory");
        let mut files = Self {
            directory,
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        };
        files.ca = files.file("ca.pem", &ca.pem());
        files.certificate = files.file("server.pem", &certificate.pem());
        files.key = files.file("server.key", &key.serialize_pem());
        files
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// Those of a server that speaks TLS only.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        let path = |path: &'_ PathBuf| path.to_str().expect("UTF-8").to_owned();
        let [certificate, key, ca] = [&self.certificate, &self.key, &self.ca].map(path);
        let text = format!(
            "--port 0 --tls-port {{port}} --tls-cert-file {certificate} --tls-key-file {key} \
             --tls-ca-cert-file {ca} --tls-auth-clients no --tls-replication yes"
        );
        text.leak().split(' ').collect()
    }

    /// Those as lines of a file.
    pub(crate) fn lines(&self) -> String {
        self.arguments()
            .chunks(2)
            .map(|pair| format!("{} {}\n", pair[0].trim_start_matches("--"), pair[1]))
            .collect()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
