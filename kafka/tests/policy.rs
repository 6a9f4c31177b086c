//! Brokers that do not take a topic as it is wished for, and brokers whose advertised address leads
//! nowhere, on a real Apache Kafka.

mod support;

use std::sync::Arc;

use kafka_bus::{Producer, testing::KafkaServer};
use support::{Ledger, options, send, told, wait_for};

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
