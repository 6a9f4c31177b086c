//! Brokers that do not take a topic as it is wished for, and brokers whose advertised address leads
//! nowhere, on a real Apache Kafka.

use std::sync::{Arc, Mutex};

use crate::support::{Ledger, Log, LogSink, options, send, told, wait_for};
use kafka_bus::{
    Consumer, Producer,
    testing::{KafkaServer, Ports},
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
    options.log = |line| LINES.lock().expect("no test failed").push(line.into());
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
