//! The producer and the consumer against librdkafka's own mock of a cluster, which speaks the
//! real protocol within this process. What needs a broker's storage is in `broker.rs`.

use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use crate::support::{
    Ledger, Log, LogSink, PATIENCE, Told, options, producer, send, try_send, wait_for,
};
use kafka_bus::{Consumer, Options};
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

const TOPIC: &str = "user_status_events";

type Mock = MockCluster<'static, DefaultProducerContext>;

fn mock(partitions: i32) -> (Mock, Options) {
    let mock = MockCluster::new(1).expect("a mock cluster");
    mock.create_topic(TOPIC, partitions, 1).expect("a topic");
    let options = options(&mock.bootstrap_servers(), TOPIC);
    (mock, options)
}

/// A consumer that has its partitions.
fn consumer(options: &Options) -> (Consumer, Arc<Log>) {
    let (consumer, log) = crate::support::consumer(options);
    wait_for("the first assignment", || log.gaps() == 1);
    (consumer, log)
}

#[test]
fn what_is_sent_is_reported_once_and_read_in_order() {
    let (_mock, options) = mock(4);
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    for ticket in 0..3000 {
        send(
            &producer,
            ticket,
            &format!("user{}", ticket % 10),
            u64::from(ticket),
        );
    }
    wait_for("all reports", || ledger.reported() == 3000);
    ledger.assert_each_once(3000);
    assert_eq!(ledger.delivered(), 3000);
    for user in 0..10 {
        let expected: Vec<u64> = (0..300).map(|n| n * 10 + user).collect();
        let name = format!("user{user}");
        wait_for("the user's events", || log.of(&name).len() >= 300);
        assert_eq!(log.of(&name), expected);
    }
    let stats = producer.health().stats();
    assert_eq!(
        (stats.accepted, stats.delivered, stats.waiting()),
        (3000, 3000, 0)
    );
    assert_eq!((stats.partitions, stats.connected), (4, true));
    let stats = consumer.health().stats();
    assert_eq!((stats.consumed, stats.wanted, stats.bad), (3000, 3000, 0));
    assert_eq!((stats.partitions, stats.gaps), (4, 1));
    assert!(log.batches() < 3000, "events come in batches");
    wait_for("a lag of nothing", || consumer.health().stats().lag == 0);
}

#[test]
fn events_from_before_the_start_are_not_read_and_the_first_thing_told_is_a_gap() {
    let (_mock, options) = mock(1);
    let (producer, ledger) = producer(&options);
    send(&producer, 0, "alice", 1);
    wait_for("the report", || ledger.delivered() == 1);
    let (_consumer, log) = consumer(&options);
    send(&producer, 1, "alice", 2);
    wait_for("the second event", || !log.of("alice").is_empty());
    assert_eq!(log.told(), [Told::Gap, Told::Event("alice".into(), 2)]);
}

#[test]
fn users_that_nobody_wants_are_counted_and_not_shown() {
    let (_mock, options) = mock(2);
    let (consumer, log) = consumer(&options);
    let (producer, _ledger) = producer(&options);
    for n in 0..100 {
        send(&producer, n, &format!("other{n}"), 1);
    }
    send(&producer, 100, "alice", 1);
    wait_for("all messages", || consumer.health().stats().consumed == 101);
    assert_eq!(log.told(), [Told::Gap, Told::Event("alice".into(), 1)]);
    assert_eq!(consumer.health().stats().wanted, 1);
}

#[test]
fn several_cores_may_send_at_once() {
    let (_mock, options) = mock(4);
    let (producer, ledger) = producer(&options);
    send(&producer, 0, "first", 1);
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for core in 0..4_u32 {
            let (producer, barrier) = (&producer, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for n in 0..2000 {
                    send(
                        producer,
                        1 + core * 2000 + n,
                        &format!("user{core}"),
                        n.into(),
                    );
                }
            });
        }
    });
    wait_for("all reports", || ledger.reported() == 8001);
    ledger.assert_each_once(8001);
}

#[test]
fn a_full_queue_refuses_and_every_accepted_event_is_still_reported_once() {
    let (mock, mut options) = mock(1);
    options.queue_messages = 100;
    options.message_timeout = Duration::from_secs(1);
    let (producer, ledger) = producer(&options);
    send(&producer, 0, "alice", 0);
    wait_for("the report", || ledger.delivered() == 1);
    mock.broker_down(-1).expect("the broker goes");
    let accepted = 1
        + (1..=1000)
            .filter(|n| try_send(&producer, *n, "alice", (*n).into()))
            .count() as u32;
    assert!((2..=101).contains(&accepted), "{accepted} were accepted");
    let stats = producer.health().stats();
    assert_eq!(stats.full, 1001 - u64::from(accepted));
    wait_for("the time of the events to be over", || {
        ledger.reported() == accepted as usize
    });
    assert_eq!(ledger.delivered(), 1);
    assert_eq!(producer.health().stats().failed, u64::from(accepted) - 1);

    mock.broker_up(-1).expect("the broker comes back");
    let mut again = accepted;
    wait_for("a delivery", || {
        // One that is sent before the connection is back runs out of time, too.
        again += u32::from(try_send(&producer, 2000 + again, "alice", again.into()));
        ledger.delivered() >= 2
    });
}

#[test]
fn a_stop_reports_what_is_left_as_not_delivered_and_ends_in_time() {
    let (mock, mut options) = mock(1);
    options.message_timeout = Duration::from_secs(300);
    let (producer, ledger) = producer(&options);
    send(&producer, 0, "alice", 0);
    wait_for("the report", || ledger.delivered() == 1);
    mock.broker_down(-1).expect("the broker goes");
    for n in 1..500 {
        send(&producer, n, "alice", n.into());
    }
    let begun = Instant::now();
    producer.stop(Duration::from_millis(200));
    assert!(begun.elapsed() < Duration::from_secs(10), "a bounded stop");
    ledger.assert_each_once(500);
    assert_eq!(ledger.delivered(), 1);
    assert!(
        !try_send(&producer, 500, "alice", 1),
        "no event is taken any more"
    );
    drop(producer);
    ledger.assert_each_once(500);
}

#[test]
fn a_stop_waits_for_confirmations_on_their_way() {
    let (mock, options) = mock(1);
    let (producer, ledger) = producer(&options);
    send(&producer, 0, "alice", 0);
    wait_for("the report", || ledger.delivered() == 1);
    mock.broker_round_trip_time(-1, Duration::from_millis(300))
        .expect("a slow broker");
    for n in 1..50 {
        send(&producer, n, "alice", n.into());
    }
    producer.stop(PATIENCE);
    ledger.assert_each_once(50);
    assert_eq!(ledger.delivered(), 50);
}

#[test]
fn a_producer_whose_sequence_is_broken_is_made_again() {
    let (mock, options) = mock(1);
    let (producer, ledger) = producer(&options);
    send(&producer, 0, "alice", 0);
    wait_for("the report", || ledger.delivered() == 1);
    mock.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER],
    );
    let mut ticket = 1;
    while producer.health().stats().rebuilt == 0 {
        send(&producer, ticket, "alice", ticket.into());
        ticket += 1;
        std::thread::sleep(Duration::from_millis(20));
        assert!(ticket < 1000, "the error is fatal");
    }
    let failed = |ledger: &Ledger| ledger.reported() - ledger.delivered();
    wait_for("reports of all", || ledger.reported() == ticket as usize);
    let lost = failed(&ledger);
    assert!(lost >= 1, "the event that met the error is not delivered");
    for n in ticket..ticket + 100 {
        send(&producer, n, "alice", n.into());
    }
    wait_for("the others", || ledger.reported() == ticket as usize + 100);
    ledger.assert_each_once(ticket + 100);
    assert_eq!(failed(&ledger), lost, "the new one delivers");
    let error = producer.health().last_error().expect("it is told");
    assert!(error.text.len() > 10);
}

#[test]
fn leaders_that_move_and_brokers_that_go_cost_no_event_and_no_order() {
    const PARTITIONS: i32 = 4;
    let mock: Mock = MockCluster::new(3).expect("a mock cluster");
    mock.create_topic(TOPIC, PARTITIONS, 3).expect("a topic");
    let lead = |broker| {
        for partition in 0..PARTITIONS {
            mock.partition_leader(TOPIC, partition, broker)
                .expect("a partition");
        }
    };
    lead(Some(3));
    let mut options = options(&mock.bootstrap_servers(), TOPIC);
    options.message_timeout = PATIENCE;
    let (consumer, log) = consumer(&options);
    let (producer, ledger) = producer(&options);
    let mut ticket = 0;
    let mut publish = || {
        for _ in 0..200 {
            let user = format!("user{}", ticket % 10);
            send(&producer, ticket, &user, u64::from(ticket));
            ticket += 1;
        }
        ticket as usize
    };
    for (old, new) in [(3, 1), (1, 2), (2, 3), (3, 2)] {
        // Some are on their way to a leader that goes, some wait for the next.
        publish();
        mock.broker_down(old).expect("the broker goes");
        publish();
        lead(Some(new));
        let sent = publish();
        wait_for("all reports", || ledger.reported() == sent);
        mock.broker_up(old).expect("the broker comes back");
    }
    ledger.assert_each_once(2400);
    assert_eq!(ledger.delivered(), 2400, "a change of leader is no failure");
    for user in 0..10 {
        let name = format!("user{user}");
        let expected: Vec<u64> = (0..240).map(|n| n * 10 + user).collect();
        // The mock does not recognise what it has when a confirmation was lost with a connection.
        let mut seen = std::collections::HashSet::new();
        wait_for("the user's last event", || {
            log.of(&name).contains(&expected[239])
        });
        let mut first = log.of(&name);
        first.retain(|seq| seen.insert(*seq));
        assert_eq!(first, expected, "{name}");
    }
    assert_eq!(log.gaps(), 1, "only that of the start");
    assert_eq!(consumer.health().stats().bad, 0);
    assert_eq!(producer.health().stats().rebuilt, 0);
}

#[test]
fn a_consumer_stops_in_time_while_the_brokers_are_away() {
    let (mock, options) = mock(3);
    let (consumer, log) = consumer(&options);
    mock.broker_down(-1).expect("the broker goes");
    wait_for("the connection's end", || {
        !consumer.health().stats().connected
    });
    let begun = Instant::now();
    consumer.stop();
    assert!(begun.elapsed() < Duration::from_secs(10), "a bounded stop");
    let told = log.told();
    drop(consumer);
    assert_eq!(log.told(), told);
}

#[test]
fn without_a_broker_both_start_and_refuse_or_wait_and_say_so() {
    // A port that nothing listens on.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("an address").to_string();
    drop(socket);
    let options = options(&address, TOPIC);
    let (producer, ledger) = producer(&options);
    let log = Arc::new(Log::default());
    let consumer = Consumer::start(options, Box::new(LogSink(log.clone()))).expect("good options");
    assert!(!try_send(&producer, 0, "alice", 1));
    assert_eq!(producer.health().stats().unready, 1);
    wait_for("an error", || producer.health().last_error().is_some());
    wait_for("an error", || consumer.health().last_error().is_some());
    assert!(!producer.health().stats().connected);
    assert!(!consumer.health().stats().connected);
    assert_eq!((ledger.reported(), log.told().len()), (0, 0));
}

#[test]
fn a_sink_that_panics_is_told_by_health() {
    struct Panics;
    impl kafka_bus::Sink for Panics {
        fn wants(&self, _: &[u8]) -> bool {
            true
        }
        fn event(&mut self, _: protocol::Event<'_>) {}
        fn gap(&mut self) {
            panic!("on purpose");
        }
        fn bad(&mut self, _: i32, _: i64, _: &kafka_bus::BadMessage) {}
        fn idle(&mut self) {}
    }
    let (_mock, options) = mock(1);
    let consumer = Consumer::start(options, Box::new(Panics)).expect("good options");
    wait_for("the end of its thread", || {
        !consumer.health().stats().running
    });
    let error = consumer.health().last_error().expect("it is told");
    assert_eq!(error.text, "a panic ended the thread");
    consumer.stop();
}

#[test]
fn a_compression_that_the_brokers_do_not_take_names_the_setting() {
    let (mock, options) = mock(1);
    let (producer, ledger) = producer(&options);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE;
    mock.request_errors(RDKafkaApiKey::Produce, &[refused; 3]);
    send(&producer, 0, "alice", 0);
    wait_for("the report", || ledger.reported() == 1);
    assert_eq!(ledger.delivered(), 0);
    wait_for("the setting", || {
        let error = producer.health().last_error();
        error.is_some_and(|error| error.text.ends_with("(see kafka.compression)"))
    });
}
