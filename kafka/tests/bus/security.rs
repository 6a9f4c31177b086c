//! Logins against a real Apache Kafka, over TLS and by every mechanism; what is wrong names the
//! setting to change.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::support::{
    Ledger, Log, LogSink,
    identity::{Authority, Provider, TOKEN_LIFE},
    options, send, wait_for,
};
use kafka_bus::{
    Consumer, Mechanism, Oidc, Options, Producer, Security, SecurityProtocol,
    testing::{KafkaServer, Ports},
};

/// A broker with two listeners over TLS: `other` wants a login, `third` a certificate. Those who
/// come to its first one may do everything.
struct Site {
    broker: KafkaServer,
    folder: PathBuf,
    authority: Authority,
    provider: Provider,
}

const LOGINS: &str = "org.apache.kafka.common.security";

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let name = format!("online-status-logins-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let authority = Authority::new(&folder);
        authority.issue("broker");
        authority.issue("edge");
        let keys = folder.join("keys.json");
        let provider = Provider::start(&keys);
        let keys = format!("file:{}", keys.display());
        let at = folder.display();
        let lines = format!(
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
ssl.keystore.type=PEM
ssl.keystore.location={at}/broker.both
ssl.truststore.type=PEM
ssl.truststore.location={at}/ca.pem
listener.name.third.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=([a-z]+)$/$1/
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.other.connections.max.reauth.ms=4000
listener.name.other.plain.sasl.jaas.config={LOGINS}.plain.PlainLoginModule required user_edge=\"right-secret\";
listener.name.other.scram-sha-256.sasl.jaas.config={LOGINS}.scram.ScramLoginModule required;
listener.name.other.scram-sha-512.sasl.jaas.config={LOGINS}.scram.ScramLoginModule required;
listener.name.other.oauthbearer.sasl.jaas.config={LOGINS}.oauthbearer.OAuthBearerLoginModule required;
listener.name.other.oauthbearer.sasl.server.callback.handler.class={LOGINS}.oauthbearer.OAuthBearerValidatorCallbackHandler
listener.name.other.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={keys}
"
        );
        let allowed = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}");
        let properties = |ports: &Ports| crate::support::listeners(ports, "SASL_SSL", "SSL") + &lines;
        let broker = KafkaServer::start_with(&[&allowed], properties).expect("a broker");
        let brokers = broker.brokers();
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let secret = format!("{mechanism}=[password=right-secret]");
            let user = ["--entity-type", "users", "--entity-name", "edge"];
            let change = ["--bootstrap-server", &brokers, "--alter"];
            let add = ["--add-config", &secret];
            let arguments = [&change[..], &user, &add].concat();
            let tool = "kafka.admin.ConfigCommand";
            broker.tool(tool, &arguments).expect("a user");
        }
        let needed = ["Read", "Write", "Describe"];
        crate::support::give_rights(&broker, "edge", "*", &needed);
        Site {
            broker,
            folder,
            authority,
            provider,
        }
    })
}

impl Site {
    /// A way in that is right in everything: a login, or a certificate with `None`.
    fn security(&self, mechanism: Option<Mechanism>) -> Security {
        let (cert, key) = (self.folder.join("edge.pem"), self.folder.join("edge.key"));
        Security {
            protocol: match mechanism {
                Some(_) => SecurityProtocol::SaslSsl,
                None => SecurityProtocol::Ssl,
            },
            mechanism: mechanism.unwrap_or(Mechanism::Plain),
            username: mechanism.map_or(String::new(), |_| "edge".into()),
            password: mechanism.map_or(String::new(), |_| "right-secret".into()),
            ca_file: Some(self.authority.file()),
            cert_file: mechanism.is_none().then_some(cert),
            key_file: mechanism.is_none().then_some(key),
            ..Security::default()
        }
    }

    fn oidc(&self, secret: &str) -> Security {
        let mut security = self.security(Some(Mechanism::OauthBearer));
        security.username.clear();
        security.password.clear();
        security.oidc = Oidc {
            token_url: self.provider.token_url.clone(),
            client_id: "edge".into(),
            client_secret: secret.into(),
            scope: "kafka".into(),
            ..Oidc::default()
        };
        security
    }

    /// Options for a topic of its own.
    fn options(&self, security: Security) -> Options {
        static TOPICS: AtomicU16 = AtomicU16::new(0);
        let topic = format!("topic{}", TOPICS.fetch_add(1, Relaxed));
        self.broker.create_topic(&topic, 2).expect("a topic");
        let ports = self.broker.ports();
        let port = match security.protocol {
            SecurityProtocol::Ssl => ports.third,
            _ => ports.other,
        };
        let mut options = options(&format!("127.0.0.1:{port}"), &topic);
        options.client_id = "online-status-n1".into();
        options.security = security;
        options.log = |_, line| {
            println!("kafka: {line}");
            assert!(!line.contains("-secret"), "{line}");
        };
        options
    }
}

fn start(options: &Options) -> (Producer, Arc<Ledger>, Consumer, Arc<Log>) {
    let (ledger, log) = (Arc::<Ledger>::default(), Arc::<Log>::default());
    let producer = Producer::start(options.clone(), ledger.clone()).expect("good options");
    let sink = Box::new(LogSink(log.clone()));
    let consumer = Consumer::start(options.clone(), sink).expect("good options");
    (producer, ledger, consumer, log)
}

/// Events pass from a producer to a consumer for `time`.
fn assert_events_pass(options: &Options, time: Duration) {
    options.check_client().expect("good options");
    let (producer, ledger, consumer, log) = start(options);
    wait_for("the first assignment", || log.gaps() == 1);
    let begun = std::time::Instant::now();
    let mut sent = 0;
    while sent == 0 || begun.elapsed() < time {
        send(&producer, sent, "alice", u64::from(sent));
        sent += 1;
        wait_for("the report", || ledger.reported() == sent as usize);
        wait_for("the event", || log.of("alice").len() >= sent as usize);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(ledger.delivered(), sent as usize);
    for error in [
        producer.health().last_error(),
        consumer.health().last_error(),
    ] {
        let text = error.map_or(String::new(), |error| error.text);
        assert!(
            !text.contains("uth") && !text.contains("see kafka."),
            "{text}"
        );
    }
}

/// What both say when they get nowhere has each of the parts.
fn assert_said(options: &Options, parts: &[&str]) {
    let (producer, _ledger, consumer, _log) = start(options);
    for health in [
        &(|| producer.health().last_error()) as &dyn Fn() -> Option<kafka_bus::LastError>,
        &|| consumer.health().last_error(),
    ] {
        wait_for(parts[0], || {
            health().is_some_and(|error| parts.iter().all(|part| error.text.contains(part)))
        });
    }
    assert!(!producer.health().stats().connected);
}

#[test]
fn every_mechanism_of_a_name_and_a_password_works_over_tls() {
    for mechanism in [
        Mechanism::Plain,
        Mechanism::ScramSha256,
        Mechanism::ScramSha512,
    ] {
        let site = site();
        let options = site.options(site.security(Some(mechanism)));
        assert_events_pass(&options, Duration::ZERO);
    }
}

#[test]
fn a_client_certificate_is_a_login_and_its_key_may_be_encrypted() {
    let site = site();
    let mut security = site.security(None);
    let key = security.key_file.clone().expect("it has one");
    assert_events_pass(&site.options(security.clone()), Duration::ZERO);

    let encrypted = site.folder.join("encrypted.key");
    let made = Command::new("openssl")
        .args([
            "pkcs8",
            "-topk8",
            "-v2",
            "aes-256-cbc",
            "-passout",
            "pass:right-secret",
        ])
        .arg("-in")
        .arg(key)
        .arg("-out")
        .arg(&encrypted)
        .status();
    assert!(made.expect("OpenSSL is there").success());
    security.key_file = Some(encrypted);
    security.key_password = "right-secret".into();
    assert_events_pass(&site.options(security.clone()), Duration::ZERO);

    security.key_password = "wrong-secret".into();
    let error = site.options(security).check_client().expect_err("refused");
    assert!(error.to_string().starts_with("kafka.key: "), "{error}");
}

#[test]
fn tokens_of_an_identity_provider_are_fetched_again_before_they_end() {
    let site = site();
    let options = site.options(site.oidc("right-secret"));
    assert_events_pass(&options, Duration::from_secs(TOKEN_LIFE + 3));
    // One of the check, two of each client.
    let asked = site.provider.asked.load(Relaxed);
    assert!(asked >= 5, "asked for a token {asked} times");
}

#[test]
fn a_login_that_is_refused_names_the_settings_and_shows_no_secret() {
    let site = site();
    for mechanism in [Mechanism::Plain, Mechanism::ScramSha512] {
        let mut security = site.security(Some(mechanism));
        security.password = "wrong-secret".into();
        let parts = ["uthentication", "kafka.username and kafka.password"];
        assert_said(&site.options(security), &parts);
    }
    let parts = ["invalid_client", "kafka.oidc_"];
    assert_said(&site.options(site.oidc("wrong-secret")), &parts);
}

#[test]
fn tls_that_does_not_fit_names_the_setting() {
    let site = site();
    let good = site.security(Some(Mechanism::Plain));
    let mut plaintext = good.clone();
    plaintext.protocol = SecurityProtocol::SaslPlaintext;
    plaintext.ca_file = None;
    assert_said(&site.options(plaintext), &["kafka.security_protocol"]);

    let mut unknown = good.clone();
    unknown.ca_file = None;
    let parts = ["certificate verify failed", "kafka.ca_file"];
    assert_said(&site.options(unknown), &parts);

    let mut nobody = site.security(None);
    (nobody.cert_file, nobody.key_file) = (None, None);
    assert_said(&site.options(nobody), &["kafka.certificate and kafka.key"]);

    let mut missing = good;
    missing.ca_file = Some("/nothing/there.pem".into());
    let error = site.options(missing).check_client().expect_err("no file");
    let error = error.to_string();
    assert!(
        error.starts_with("kafka.ca_file") && error.contains("/nothing/there.pem"),
        "{error}"
    );
}
