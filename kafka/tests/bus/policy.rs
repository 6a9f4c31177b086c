//! Brokers that do not take a topic as it is wished for, and brokers whose advertised address leads
//! nowhere, on a real Apache Kafka.

use std::{
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::support::{Ledger, Log, LogSink, options, send, told, wait_for};
use kafka_bus::{
    Consumer, Producer,
    testing::{KafkaServer, Ports, libraries},
};

#[test]
fn a_wish_that_the_brokers_refuse_is_left_out_and_told_once() {
    // One broker cannot have three replicas.
    let broker = KafkaServer::start().expect("a broker");
    let mut wished = options(&broker.brokers(), "replicas");
    wished.create_topic = true;
    wished.replication = Some(3);
    wished.partitions = 3;
    let ledger = Arc::<Ledger>::default();
    let producer = Producer::start(wished, ledger.clone()).expect("good options");
    send(&producer, 0, "alice", 1);
    wait_for("the report", || ledger.delivered() == 1);
    assert_eq!(
        producer.health().stats().partitions,
        3,
        "that wish is taken"
    );
    let lines = told(&["the topic replicas"]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in [
        "created with the brokers' replication",
        // The broker's own words.
        "Unable to replicate the partition 3 time(s)",
        "kafka-topics.sh --bootstrap-server 127.0.0.1:",
        "--create --topic replicas --partitions 3 --replication-factor 3 --config cleanup.policy=",
    ] {
        assert!(lines[0].contains(part), "{} has {part}", lines[0]);
    }
}

/// A broker with the rules of `support/Policy.java`.
fn broker_with_a_policy() -> KafkaServer {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let libraries = libraries().expect("Kafka's libraries");
    let compiled = Command::new("javac")
        .args(["-cp", &format!("{}/*", libraries.display()), "-d"])
        .arg(folder)
        .arg("tests/bus/support/Policy.java")
        .status();
    assert!(compiled.expect("javac").success());
    let class_path = format!("{}/*:{folder}", libraries.display());
    KafkaServer::start_with(&["-cp", &class_path], |_| {
        "create.topic.policy.class.name=Policy\n".into()
    })
    .expect("a broker")
}

#[test]
fn a_policy_of_the_brokers_gets_a_topic_with_what_it_allows_or_is_told_once() {
    let broker = broker_with_a_policy();
    let started = |topic: &str| {
        let mut wished = options(&broker.brokers(), topic);
        wished.create_topic = true;
        wished.partitions = 4;
        let ledger = Arc::<Ledger>::default();
        let producer = Producer::start(wished, ledger.clone()).expect("good options");
        (producer, ledger)
    };
    // With all that is left of the wishes, and without them.
    for (topic, partitions, with, words) in [
        (
            "no-config",
            4,
            "created with the brokers' clean-up and retention",
            "retention is set by your plan",
        ),
        (
            "own-partitions",
            1,
            "created with the brokers' partitions, replication, clean-up and retention",
            "retention is set by your plan",
        ),
    ] {
        let (producer, ledger) = started(topic);
        send(&producer, 0, "alice", 1);
        wait_for("the report", || ledger.delivered() == 1);
        assert_eq!(producer.health().stats().partitions, partitions, "{topic}");
        let lines = told(&[&format!("the topic {topic} ")]);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        let command = format!("--create --topic {topic} --partitions 4 --config cleanup.policy=");
        for part in [with, words, "kafka-topics.sh --bootstrap-server", &command] {
            assert!(lines[0].contains(part), "{} has {part}", lines[0]);
        }
    }
    // With nothing: it is tried again after a second, and told once.
    let (producer, ledger) = started("presence");
    let trouble = "the topic presence cannot be created";
    wait_for("the refusal", || !told(&[trouble]).is_empty());
    thread::sleep(Duration::from_millis(1_500));
    let lines = told(&["the topic presence "]);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for part in [
        "names of topics begin with team-",
        "kafka-topics.sh --bootstrap-server",
        "--create --topic presence --partitions 4",
    ] {
        assert!(lines[0].contains(part), "{} has {part}", lines[0]);
    }
    broker.create_topic("presence", 3).expect("a topic");
    send(&producer, 0, "alice", 1);
    wait_for("the report", || ledger.delivered() == 1);
    assert_eq!(producer.health().stats().partitions, 3);
}

#[test]
fn an_advertised_address_that_leads_nowhere_is_told_from_no_broker() {
    // Who comes to this listener is sent to where nothing listens.
    let properties = |ports: &Ports| {
        let right = format!("OTHER://127.0.0.1:{}", ports.other);
        let nowhere = format!("OTHER://127.0.0.1:{}", ports.third);
        let both = crate::support::listeners(ports, "PLAINTEXT", "PLAINTEXT");
        let third = format!(",THIRD://127.0.0.1:{}", ports.third);
        let mut lines = both.replace(&third, "");
        let at = lines.find("advertised.listeners").expect("it is set");
        let advertised = lines.split_off(at).replace(&right, &nowhere);
        lines + &advertised
    };
    let broker = KafkaServer::start_with(&[], properties).expect("a broker");
    broker.create_topic("nowhere", 2).expect("a topic");
    let ports = broker.ports();
    // Apart from what the other tests of this program are told.
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut options = options(&format!("127.0.0.1:{}", ports.other), "nowhere");
    options.log = |_, line| LINES.lock().expect("no test failed").push(line.into());
    let ledger = Arc::<Ledger>::default();
    let producer = Producer::start(options.clone(), ledger.clone()).expect("good options");
    let sink = Box::new(LogSink(Arc::<Log>::default()));
    let consumer = Consumer::start(options, sink).expect("good options");
    let address = format!("127.0.0.1:{}", ports.third);
    wait_for("both to say so", || {
        let troubles = [producer.health().trouble(), consumer.health().trouble()];
        troubles
            .iter()
            .flatten()
            .filter(|text| text.contains(&address) && text.contains("advertised.listeners"))
            .count()
            == 2
    });
    let (out, taken) = (producer.health().stats(), consumer.health().stats());
    assert!(out.unreachable && taken.unreachable, "{out:?} {taken:?}");
    assert_eq!(ledger.delivered(), 0);
    let lines = LINES.lock().expect("no test failed").clone();
    let advertised =
        |line: &String| line.contains("advertised.listeners") && line.contains(&address);
    assert!(lines.iter().any(advertised), "{lines:#?}");
    let none = |line: &String| line.contains("no broker");
    assert!(!lines.iter().any(none), "another thing: {lines:#?}");
}
