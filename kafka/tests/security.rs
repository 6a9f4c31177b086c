//! Logins against a real Apache Kafka that lets nobody do what it was not given the right to.
//! With the feature `tls`, TLS and SCRAM, too.

mod support;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use kafka_bus::{
    Consumer, Mechanism, Options, Producer, Security, SecurityProtocol,
    testing::{KafkaServer, Ports},
};
use support::{Ledger, Log, LogSink, options, send, wait_for};

/// A broker with a listener for logins; those who come without one may do everything.
fn server(protocol: &str, lines: &str) -> KafkaServer {
    let properties = |ports: &Ports| {
        let Ports {
            client,
            controller,
            other,
        } = ports;
        format!(
            "listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},OTHER://127.0.0.1:{other}
advertised.listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},OTHER://127.0.0.1:{other}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,OTHER:{protocol}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
{lines}
"
        )
    };
    KafkaServer::start_with(properties).expect("a broker")
}

/// Gives `edge` the rights that the README asks for.
fn give_rights(server: &KafkaServer, topic: &str, operations: &[&str]) {
    let brokers = server.brokers();
    let base = [
        "--bootstrap-server",
        &brokers,
        "--add",
        "--allow-principal",
        "User:edge",
    ];
    let on_topic = ["--topic", topic];
    let operations = operations.iter().flat_map(|name| ["--operation", name]);
    let arguments: Vec<&str> = base.into_iter().chain(on_topic).chain(operations).collect();
    let acls = "org.apache.kafka.tools.AclCommand";
    server.tool(acls, &arguments).expect("rights on the topic");
    let on_group = [
        "--group",
        "online-status",
        "--resource-pattern-type",
        "prefixed",
        "--operation",
        "Describe",
    ];
    let arguments: Vec<&str> = base.into_iter().chain(on_group).collect();
    server.tool(acls, &arguments).expect("rights on the group");
}

fn options_for(server: &KafkaServer, topic: &str, security: Security) -> Options {
    let mut options = options(&format!("127.0.0.1:{}", server.ports().other), topic);
    options.client_id = "online-status-n1".into();
    options.security = security;
    options
}

fn start(options: &Options) -> (Producer, Arc<Ledger>, Consumer, Arc<Log>) {
    let (ledger, log) = (Arc::<Ledger>::default(), Arc::<Log>::default());
    let producer = Producer::start(options.clone(), ledger.clone()).expect("good options");
    let sink = Box::new(LogSink(log.clone()));
    let consumer = Consumer::start(options.clone(), sink).expect("good options");
    (producer, ledger, consumer, log)
}

fn assert_events_pass(options: &Options) {
    let (producer, ledger, consumer, log) = start(options);
    wait_for("the first assignment", || log.gaps() == 1);
    send(&producer, 0, "alice", 7);
    wait_for("the report", || ledger.delivered() == 1);
    wait_for("the event", || log.of("alice") == [7]);
    for error in [
        producer.health().last_error(),
        consumer.health().last_error(),
    ] {
        let text = error.map_or(String::new(), |error| error.text.to_lowercase());
        assert!(
            !text.contains("authoriz") && !text.contains("denied"),
            "{text}"
        );
    }
}

fn plain_server() -> &'static KafkaServer {
    static SERVER: OnceLock<KafkaServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        server(
            "SASL_PLAINTEXT",
            "sasl.enabled.mechanisms=PLAIN
listener.name.other.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_edge=\"right-secret\";",
        )
    })
}

fn plain(password: &str) -> Security {
    Security {
        protocol: SecurityProtocol::SaslPlaintext,
        mechanism: Mechanism::Plain,
        username: "edge".into(),
        password: password.into(),
        ..Security::default()
    }
}

#[test]
fn a_login_with_the_documented_rights_is_enough() {
    let server = plain_server();
    server.create_topic("shared", 2).expect("a topic");
    give_rights(server, "shared", &["Read", "Write", "Describe"]);
    assert_events_pass(&options_for(server, "shared", plain("right-secret")));
}

#[test]
fn with_the_right_to_create_it_a_login_may_create_the_topic() {
    let server = plain_server();
    give_rights(server, "created", &["Read", "Write", "Describe", "Create"]);
    let mut options = options_for(server, "created", plain("right-secret"));
    options.create_topic = true;
    assert_events_pass(&options);
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let server = plain_server();
    let mut options = options_for(server, "shared", plain("wrong-secret"));
    options.log = |line| assert!(!line.contains("wrong-secret"), "{line}");
    let (producer, _ledger, consumer, _log) = start(&options);
    let told = |error: Option<kafka_bus::LastError>| {
        error.is_some_and(|error| error.text.to_lowercase().contains("authentication"))
    };
    wait_for("the producer to say so", || {
        told(producer.health().last_error())
    });
    wait_for("the consumer to say so", || {
        told(consumer.health().last_error())
    });
    assert!(!producer.health().stats().connected);
    let begun = std::time::Instant::now();
    producer.stop(Duration::ZERO);
    consumer.stop();
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[cfg(feature = "tls")]
#[test]
fn scram_over_tls_works_with_the_brokers_certificate_and_not_without() {
    let folder = std::env::temp_dir().join(format!("online-status-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (store, certificate) = (folder.join("broker.p12"), folder.join("broker.pem"));
    let keytool = |arguments: &[&str]| {
        let status = std::process::Command::new("keytool")
            .args(arguments)
            .arg("-keystore")
            .arg(&store)
            .args(["-storepass", "changeit", "-alias", "broker"])
            .status();
        assert!(status.expect("Java has it").success());
    };
    keytool(&[
        "-genkeypair",
        "-keyalg",
        "RSA",
        "-dname",
        "CN=broker",
        "-ext",
        "san=ip:127.0.0.1",
    ]);
    let file = certificate.to_str().expect("UTF-8");
    keytool(&["-exportcert", "-rfc", "-file", file]);
    let lines = format!(
        "sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.other.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.location={}
ssl.keystore.password=changeit
ssl.keystore.type=PKCS12",
        store.display()
    );
    let server = server("SASL_SSL", &lines);
    let brokers = server.brokers();
    server
        .tool(
            "kafka.admin.ConfigCommand",
            &[
                "--bootstrap-server",
                &brokers,
                "--alter",
                "--entity-type",
                "users",
                "--entity-name",
                "edge",
                "--add-config",
                "SCRAM-SHA-512=[password=right-secret]",
            ],
        )
        .expect("a user");
    server.create_topic("secret", 2).expect("a topic");
    give_rights(&server, "secret", &["Read", "Write", "Describe"]);
    let mut security = Security {
        protocol: SecurityProtocol::SaslSsl,
        mechanism: Mechanism::ScramSha512,
        username: "edge".into(),
        password: "right-secret".into(),
        ca_file: Some(certificate),
        ..Security::default()
    };
    assert_events_pass(&options_for(&server, "secret", security.clone()));

    security.ca_file = None;
    let (producer, _ledger, _consumer, _log) = start(&options_for(&server, "secret", security));
    wait_for("the certificate to be refused", || {
        let error = producer.health().last_error();
        error.is_some_and(|error| error.text.contains("certificate verify failed"))
    });
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}
