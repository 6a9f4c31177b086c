//! What a client may do, on a real Apache Kafka with an authorizer.

use std::sync::{Arc, OnceLock};

use crate::support::{Ledger, Log, LogSink, give_rights, options, send, wait_for};
use kafka_bus::{
    Consumer, Mechanism, Options, Producer, Security, SecurityProtocol,
    testing::{KafkaServer, Ports},
};

/// A broker where `edge`, `reader` and others log in; those who come without a login may do
/// everything.
fn server() -> &'static KafkaServer {
    static SERVER: OnceLock<KafkaServer> = OnceLock::new();
    let lines = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
sasl.enabled.mechanisms=PLAIN
listener.name.other.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_edge=\"right-secret\";
";
    let properties =
        |ports: &Ports| crate::support::listeners(ports, "SASL_PLAINTEXT", "PLAINTEXT") + lines;
    SERVER.get_or_init(|| KafkaServer::start_with(&[], properties).expect("a broker"))
}

fn options_for(topic: &str) -> Options {
    let mut options = options(&format!("127.0.0.1:{}", server().ports().other), topic);
    options.client_id = "online-status-n1".into();
    options.security = Security {
        protocol: SecurityProtocol::SaslPlaintext,
        mechanism: Mechanism::Plain,
        username: "edge".into(),
        password: "right-secret".into(),
        ..Security::default()
    };
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

#[test]
fn a_login_with_the_documented_rights_is_enough() {
    server().create_topic("shared", 2).expect("a topic");
    give_rights(server(), "edge", "shared", &["Read", "Write", "Describe"]);
    assert_events_pass(&options_for("shared"));
}

#[test]
fn with_the_right_to_create_it_a_login_may_create_the_topic() {
    let operations = ["Read", "Write", "Describe", "Create"];
    give_rights(server(), "edge", "created", &operations);
    let mut options = options_for("created");
    options.create_topic = true;
    assert_events_pass(&options);
}

#[test]
fn each_missing_right_is_named_with_the_line_that_gives_it() {
    let server = server();
    let lacks = |right: &str, on: &str| {
        let line = format!("--add --allow-principal User:edge --operation {right} {on}");
        !crate::support::told(&[&line]).is_empty()
    };
    give_rights(server, "edge", "forbidden", &["Describe"]);
    let mut options = options_for("forbidden");
    options.create_topic = true;
    let (producer, ..) = start(&options);
    wait_for("Create", || lacks("Create", "--topic forbidden"));
    server.create_topic("forbidden", 1).expect("a topic");
    let (_producer, _, _consumer, _) = start(&options);
    // The right to write on any topic stands for the first, in these brokers.
    wait_for("IdempotentWrite or Write", || {
        let _ = crate::support::try_send(&producer, 0, "alice", 1);
        lacks("IdempotentWrite", "--cluster") || lacks("Write", "--topic forbidden")
    });
    wait_for("Read", || lacks("Read", "--topic forbidden"));

    server.create_topic("hidden", 1).expect("a topic");
    let (_producer, ..) = start(&options_for("hidden"));
    wait_for("Describe", || lacks("Describe", "--topic hidden"));
    assert!(!lacks("Read", "--topic hidden"), "one thing at a time");
}
