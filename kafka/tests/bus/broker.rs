//! The producer and the consumer against a real Apache Kafka, which stops, comes back, deletes
//! records and gets new partitions. One broker serves all tests, one at a time.

use std::{
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use crate::support::{
    PATIENCE, Told, consumer, encoded, event, options, producer, send, try_send, wait_for,
};
use kafka_bus::testing::{KafkaServer, answer};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminOptions, NewPartitions},
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

/// The broker, which runs, for one test at a time.
fn broker() -> MutexGuard<'static, KafkaServer> {
    static BROKER: OnceLock<Mutex<KafkaServer>> = OnceLock::new();
    let start = || Mutex::new(KafkaServer::start().expect("a broker"));
    let mut broker = BROKER
        .get_or_init(start)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    broker.start_again().expect("the broker is back");
    broker
}

/// Sends a message that nobody checked.
fn send_foreign(broker: &KafkaServer, topic: &str, key: Option<&str>, value: Option<&str>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .create()
        .expect("a producer");
    let mut record = BaseRecord::to(topic).partition(0);
    record.key = key;
    record.payload = value;
    assert!(producer.send(record).is_ok());
    producer.flush(PATIENCE).expect("it arrives");
}

#[test]
fn the_events_of_each_vnode_arrive_once_and_in_order() {
    let broker = broker();
    let mut options = options(&broker.brokers(), "order");
    options.create_topic = true;
    options.partitions = 6;
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    wait_for("the first assignment", || log.gaps() > 0);
    for n in 0..20_000_u32 {
        send(&producer, n, &format!("user{}", n % 50), n.into());
    }
    wait_for("all reports", || ledger.reported() == 20_000);
    ledger.assert_each_once(20_000);
    assert_eq!(ledger.delivered(), 20_000);
    wait_for("all events", || consumer.health().stats().wanted >= 20_000);
    for user in 0..50 {
        let expected: Vec<u64> = (0..400).map(|n| n * 50 + user).collect();
        assert_eq!(log.of(&format!("user{user}")), expected);
    }
    assert_eq!(producer.health().stats().partitions, 6);
    assert_eq!((log.gaps(), log.bad().len()), (1, 0));
    wait_for("a lag of nothing", || consumer.health().stats().lag == 0);
}

#[test]
fn a_broker_that_stops_and_comes_back_costs_no_event_and_no_report() {
    let mut broker = broker();
    broker.create_topic("outage", 4).expect("a topic");
    let mut options = options(&broker.brokers(), "outage");
    options.message_timeout = Duration::from_secs(120);
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    wait_for("the first assignment", || log.gaps() == 1);
    let mut tickets = 0..;
    let mut send_some = |count: usize| {
        for n in tickets.by_ref().take(count) {
            send(&producer, n, &format!("user{}", n % 7), n.into());
        }
    };
    // Once in order, once in the middle of requests.
    send_some(500);
    broker.stop().expect("it stops");
    send_some(500);
    wait_for("the outage to be seen", || {
        !producer.health().stats().connected && !consumer.health().stats().connected
    });
    broker.start_again().expect("it comes back");
    send_some(500);
    broker.kill().expect("it dies");
    send_some(500);
    thread::sleep(Duration::from_secs(2));
    broker.start_again().expect("it comes back");
    send_some(500);

    wait_for("all reports", || ledger.reported() == 2500);
    ledger.assert_each_once(2500);
    assert_eq!(ledger.delivered(), 2500, "no event is lost");
    for user in 0..7 {
        let expected: Vec<u64> = (0..2500).filter(|n| n % 7 == user).collect();
        let name = format!("user{user}");
        wait_for("the user's events", || {
            log.of(&name).len() >= expected.len()
        });
        assert_eq!(log.of(&name), expected);
    }
    assert_eq!(log.gaps(), 1, "nothing was missed");
    wait_for("both to be connected", || {
        producer.health().stats().connected && consumer.health().stats().connected
    });
}

#[test]
fn a_frozen_broker_lets_events_run_out_of_time_and_is_used_again_when_it_thaws() {
    let broker = broker();
    broker.create_topic("frozen", 1).expect("a topic");
    let mut options = options(&broker.brokers(), "frozen");
    // With time enough, on a busy machine, for the producer's new epoch after the thaw.
    options.message_timeout = Duration::from_secs(5);
    let (_consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    wait_for("the first assignment", || log.gaps() == 1);
    send(&producer, 0, "alice", 0);
    wait_for("the report", || ledger.delivered() == 1);
    broker.freeze().expect("it freezes");
    for n in 1..100 {
        send(&producer, n, "alice", n.into());
    }
    wait_for("the time to be over", || ledger.reported() == 100);
    assert_eq!(ledger.delivered(), 1);
    broker.thaw().expect("it thaws");
    let mut sent = 100;
    wait_for("a delivery", || {
        sent += u32::from(try_send(&producer, sent, "alice", sent.into()));
        ledger.delivered() >= 2
    });
    wait_for("all reports", || ledger.reported() == sent as usize);
    ledger.assert_each_once(sent);
    wait_for("the newest event", || log.of("alice").last() >= Some(&100));
}

#[test]
fn records_that_are_deleted_before_they_are_read_are_a_gap() {
    let broker = broker();
    broker.create_topic("deleted", 1).expect("a topic");
    let mut options = options(&broker.brokers(), "deleted");
    // Only librdkafka itself can notice.
    options.metadata_interval = Duration::from_secs(600);
    // Reads hardly ahead of what it shows.
    options.fetch_kbytes = 1;
    options.extra = vec![("fetch.message.max.bytes".into(), "1000".into())];
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    wait_for("the first assignment", || log.gaps() == 1);
    let hold = log.hold();
    for n in 0..100 {
        send(&producer, n, "alice", n.into());
        wait_for("the report", || ledger.delivered() > n as usize);
    }
    let mut all = TopicPartitionList::new();
    all.add_partition_offset("deleted", 0, Offset::End)
        .expect("a good offset");
    let admin = broker.admin().expect("a client");
    answer(admin.delete_records(&all, &AdminOptions::new()))
        .expect("an answer")
        .expect("they are deleted");
    drop(hold);

    wait_for("the gap", || log.gaps() == 2);
    assert!(log.of("alice").len() < 100, "events were missed");
    send(&producer, 200, "alice", 200);
    wait_for("reading on", || log.of("alice").last() == Some(&200));
    let told = log.told();
    let gap = told.iter().rposition(|told| *told == Told::Gap);
    assert_eq!(
        told[gap.expect("a gap") + 1..],
        [Told::Event("alice".into(), 200)]
    );
    assert_eq!(consumer.health().stats().gaps, 2);
}

#[test]
fn new_partitions_are_read_from_their_beginning_and_are_a_gap() {
    let broker = broker();
    broker.create_topic("grows", 1).expect("a topic");
    let options = options(&broker.brokers(), "grows");
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    wait_for("the first assignment", || log.gaps() == 1);
    send(&producer, 0, "alice", 0);
    let admin = broker.admin().expect("a client");
    let more = NewPartitions::new("grows", 8);
    let created = answer(admin.create_partitions([&more], &AdminOptions::new()));
    let created = created.expect("an answer").expect("a result");
    assert!(created.iter().all(Result::is_ok));
    wait_for("the producer to see them", || {
        producer.health().stats().partitions == 8
    });
    for n in 1..1000 {
        send(&producer, n, &format!("user{n}"), n.into());
    }
    wait_for("all reports", || ledger.delivered() == 1000);
    wait_for("all events", || consumer.health().stats().wanted >= 1000);
    assert!((1..1000).all(|n| log.of(&format!("user{n}")) == [n]));
    assert_eq!(log.of("alice"), [0]);
    assert_eq!(log.gaps(), 2);
    assert_eq!(consumer.health().stats().partitions, 8);
}

#[test]
fn foreign_messages_are_bad_and_the_rest_goes_on() {
    let broker = broker();
    broker.create_topic("foreign", 1).expect("a topic");
    let options = options(&broker.brokers(), "foreign");
    let (consumer, log) = consumer(&options);
    wait_for("the first assignment", || log.gaps() == 1);
    let alice = String::from_utf8(encoded(&event("alice", 1))).expect("JSON");
    let mut moved = event("alice", 1);
    moved.vnode = ring::Vnode::new(moved.vnode.get() ^ 1);
    let moved = String::from_utf8(encoded(&moved)).expect("JSON");
    let newer = alice.replace("\"v\":1", "\"v\":2");
    send_foreign(&broker, "foreign", None, Some(&alice));
    send_foreign(&broker, "foreign", Some("alice"), None);
    send_foreign(&broker, "foreign", Some("alice"), Some("hello"));
    send_foreign(&broker, "foreign", Some("alice"), Some(&newer));
    send_foreign(&broker, "foreign", Some("bob"), Some(&alice));
    send_foreign(&broker, "foreign", Some("alice"), Some(&moved));
    send_foreign(&broker, "foreign", Some("other"), Some("hello"));
    send_foreign(&broker, "foreign", Some("alice"), Some(&alice));
    wait_for("the good one", || log.of("alice") == [1]);
    let bad = log.bad();
    for (text, part) in bad.iter().zip([
        "no key",
        "no value",
        "not what version 1",
        "format version 2",
        "key is not",
        "vnode",
    ]) {
        assert!(text.contains(part), "{text} has {part}");
    }
    assert_eq!(bad.len(), 6);
    let stats = consumer.health().stats();
    assert_eq!((stats.consumed, stats.bad, stats.wanted), (8, 6, 6));
}

#[test]
fn a_broker_that_appears_later_is_used_when_it_is_there() {
    let mut broker = broker();
    broker.create_topic("later", 3).expect("a topic");
    broker.stop().expect("it stops");
    let options = options(&broker.brokers(), "later");
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    assert!(!try_send(&producer, 0, "alice", 0), "no partition is known");
    wait_for("an error", || consumer.health().last_error().is_some());
    assert_eq!(log.told(), []);
    broker.start_again().expect("it appears");
    wait_for("the first assignment", || log.gaps() == 1);
    send(&producer, 0, "alice", 7);
    wait_for("the event", || log.of("alice") == [7]);
    wait_for("the report", || ledger.delivered() == 1);
    ledger.assert_each_once(1);
    wait_for("a connection", || consumer.health().stats().connected);
}

#[test]
fn a_topic_that_is_missing_is_waited_for_when_it_may_not_be_created() {
    let broker = broker();
    let options = options(&broker.brokers(), "waited");
    let (consumer, log) = consumer(&options);
    let (producer, _ledger) = producer(&options);
    let missing = |error: Option<kafka_bus::LastError>| {
        error.is_some_and(|error| error.text.contains("does not exist"))
    };
    wait_for("the consumer to say so", || {
        missing(consumer.health().last_error())
    });
    wait_for("the producer to say so", || {
        missing(producer.health().last_error())
    });
    assert!(!try_send(&producer, 0, "alice", 0));
    broker.create_topic("waited", 2).expect("a topic");
    wait_for("the first assignment", || log.gaps() == 1);
    send(&producer, 0, "alice", 0);
    wait_for("the event", || log.of("alice") == [0]);
}

#[test]
fn a_topic_that_is_deleted_and_made_again_is_a_gap_and_is_used_again() {
    let broker = broker();
    broker.create_topic("again", 2).expect("a topic");
    let mut options = options(&broker.brokers(), "again");
    options.metadata_interval = Duration::from_secs(600);
    let (_consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    wait_for("the first assignment", || log.gaps() == 1);
    for n in 0..10 {
        send(&producer, n, "alice", n.into());
    }
    wait_for("the events", || log.of("alice").len() == 10);
    let admin = broker.admin().expect("a client");
    let deleted = answer(admin.delete_topics(&["again"], &AdminOptions::new()));
    let deleted = deleted.expect("an answer").expect("a result");
    assert!(deleted.iter().all(Result::is_ok));
    thread::sleep(Duration::from_secs(1));
    broker.create_topic("again", 2).expect("the topic again");
    wait_for("the gap", || log.gaps() >= 2);
    let mut sent = 10;
    wait_for("an event of the new topic", || {
        sent += u32::from(try_send(&producer, sent, "alice", sent.into()));
        thread::sleep(Duration::from_millis(50));
        log.of("alice").last() >= Some(&10)
    });
    wait_for("all reports", || ledger.reported() == sent as usize);
    ledger.assert_each_once(sent);
}
