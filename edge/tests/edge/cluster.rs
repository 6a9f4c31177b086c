//! A node of a cluster whose store and bus have what they should not have, or are not there. Redis
//! is real; Kafka is librdkafka's mock; the test plays the coordinator and the other node.

use std::{path::PathBuf, process::Command, time::Duration};

use protocol::{Cause, Event, Lease, Record, Status, Version};
use rdkafka::{
    ClientConfig,
    mocking::MockCluster,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use redis_store::{Link, MapWrite, Options, testing::RedisServer};
use ring::{Epoch, Map, MapVersion, Node, NodeId, Vnode, VnodeCount};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    common::{Client, Edge, bearer, moment, now, request, token, upgrade},
    decrees::IN_FORCE,
};

const TOPIC: &str = "user_status_events";
const EPOCH: u32 = 20_000;

/// The first user of that name whose vnode, of two, it is.
pub(crate) fn user(name: &str, vnode: u16) -> String {
    let count = VnodeCount::new(2).expect("a power of two");
    let mut names = (0..).map(|n| format!("{name}{n}"));
    let found = names.find(|name| count.vnode(name).get() == vnode);
    found.expect("half of them are")
}

pub(crate) struct Cluster {
    pub(crate) redis: RedisServer,
    pub(crate) kafka: MockCluster<'static, DefaultProducerContext>,
    link: Link,
    runtime: tokio::runtime::Runtime,
    token: u64,
    log: PathBuf,
    pub(crate) edge: Edge,
}

impl Cluster {
    /// Node `n1`, ready, with vnode 0; vnode 1 is another node's.
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more flags.
    pub(crate) fn start_with(more: &[&str]) -> Self {
        let redis = RedisServer::start();
        let kafka = MockCluster::new(1).expect("a mock cluster");
        kafka.create_topic(TOPIC, 4, 1).expect("a topic");
        let log = redis.directory().join("edge.log");
        let (brokers, url) = (kafka.bootstrap_servers(), redis.url());
        let flags = ["--redis-url", &url, "--kafka-brokers", &brokers];
        let quick = ["--cluster-vnodes", "2", "--server-cores", "1"];
        let edge = Edge::launch_node(Some(&log), &[&flags[..], &quick, more].concat());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let (link, token) = runtime.block_on(async {
            let link = Link::open(Options::new(url)).expect("good options");
            let token = link.lead("test", Duration::from_secs(600), None).await;
            (link, token.expect("an answer").expect("nobody else leads"))
        });
        let mut cluster = Self {
            redis,
            kafka,
            link,
            runtime,
            token,
            log,
            edge,
        };
        cluster
            .edge
            .until_metric("online_status_lease_held", "", 1.0);
        cluster.write(MapVersion::new(0), &cluster.map(2, 1));
        cluster.edge.until_ready();
        cluster
    }

    /// Of so many vnodes, the first of which is `n1`'s.
    pub(crate) fn map(&self, vnodes: usize, version: u64) -> Map {
        let boot = self.leases()[0].boot;
        let node = |name: &str, boot| Node {
            id: NodeId::parse(name).expect("a name"),
            boot,
            address: format!("ws://{name}.example/socket"),
            weight: 100,
        };
        let mut owners = vec![Some(1); vnodes];
        owners[0] = Some(0);
        let count = VnodeCount::new(vnodes).expect("a power of two");
        let map = Map::empty(count).apply(vec![node("n1", boot), node("n2", 7)], &owners);
        map.raised(MapVersion::new(version), Epoch::new(EPOCH - 1))
    }

    /// Those that are good, by name.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        let leases = self.runtime.block_on(self.link.leases());
        leases.expect("leases").good
    }

    pub(crate) fn write(&self, after: MapVersion, map: &Map) {
        let written = self
            .runtime
            .block_on(self.link.write_map(self.token, after, map));
        assert_eq!(written.expect("an answer"), MapWrite::Written);
    }

    /// Publishes as anybody might.
    fn publish(&self, partition: i32, key: &str, value: &[u8]) {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap_servers())
            .set("message.max.bytes", "4000000")
            .create()
            .expect("a producer");
        let record = BaseRecord::to(TOPIC)
            .partition(partition)
            .key(key)
            .payload(value);
        producer.send(record).expect("room");
        producer
            .flush(Duration::from_secs(20))
            .expect("it is confirmed");
    }

    fn said(&self, what: &str) -> usize {
        let log = std::fs::read_to_string(&self.log).expect("a log");
        log.matches(what).count()
    }

    fn until_said(&mut self, what: &str) {
        let log = self.log.clone();
        self.edge.until(what, |_| {
            std::fs::read_to_string(&log).expect("a log").contains(what)
        });
    }
}

/// The other node's event.
fn event(user: &str, seq: u64) -> Event<'static> {
    let record = Record {
        status: Status::Away,
        since: 1,
        devices: 1,
        version: Version::new(Epoch::new(EPOCH), seq).expect("in range"),
        ..Record::default()
    };
    Event::of(user, &record, Vnode::new(1), "n2", Cause::Connect).into_owned()
}

fn encoded(event: &Event<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    bytes
}

/// A watcher here sees a user of this node come.
fn assert_serves(edge: &Edge, watcher: &mut Client, name: &str) {
    let user = user(name, 0);
    watcher.watch(&[&user]);
    let client = edge.user(&user);
    assert_eq!(watcher.change()["status"], "online");
    drop(client);
    watcher.say(&json!({ "type": "unwatch", "users": [user], "id": "u" }));
    while watcher.message()["id"] != "u" {}
}

#[test]
fn what_a_coordinator_decrees_is_in_force_at_once_and_survives_a_store_that_loses_it() {
    use protocol::policy::{Subject, revocation};
    let cluster = Cluster::start();
    let (alice, bob) = (user("alice", 0), user("bob", 0));
    let (mut good, mut bad) = (cluster.edge.user(&bob), cluster.edge.user(&alice));
    let body = json!({ "user": alice }).to_string();
    let (subject, entry) =
        revocation(body.as_bytes(), "root", now() * 1_000, 0).expect("a revocation");
    let began = std::time::Instant::now();
    let decree = |subject: &Subject, entry| {
        let done = cluster
            .runtime
            .block_on(cluster.link.decree(subject, entry));
        done.expect("an answer")
    };
    decree(&subject, Some(&entry));
    assert_eq!(bad.closed(), 4401);
    assert!(began.elapsed() < IN_FORCE, "{:?}", began.elapsed());
    good.works();
    let refused = || request(cluster.edge.address, &upgrade(&bearer(&token(&alice)))).0 == 401;
    assert!(refused());
    // Another entry by a new store: both are known then.
    assert_eq!(cluster.redis.cli(&["FLUSHALL"]).trim(), "OK");
    decree(&Subject::Token("t".into()), Some(&entry));
    cluster
        .edge
        .until_metric("online_status_policy_entries", "", 2.0);
    assert!(refused());
    decree(&subject, Some(&entry));
    decree(&subject, None);
    cluster
        .edge
        .until_metric("online_status_policy_entries", "", 1.0);
    assert!(!refused());
    good.works();
}

#[test]
fn a_map_that_cannot_be_used_is_named_once_counted_and_left_aside() {
    let mut cluster = Cluster::start();
    let mut watcher = cluster.edge.user(&user("watcher", 0));
    let unusable = "online_status_unusable_maps_total";
    assert_eq!(
        cluster.redis.cli(&["set", "os:map", "garbage"]).trim(),
        "OK"
    );
    cluster
        .edge
        .until_metric_is(unusable, "", |count| count > 1.5);
    assert_eq!(cluster.said("redis: the map is left aside: "), 1);
    assert_serves(&cluster.edge, &mut watcher, "first");
    cluster.write(MapVersion::new(0), &cluster.map(2, 5));
    cluster.until_said("redis: the map can be used again");
    cluster
        .edge
        .until_metric("online_status_map_followed", "", 6.0);
    // Another cluster's, or a wrong setting.
    let before = cluster.edge.metric(unusable, "");
    cluster.write(MapVersion::new(6), &cluster.map(1, 6));
    cluster
        .edge
        .until_metric_is(unusable, "", |count| count > before + 1.5);
    assert_eq!(cluster.said("it has 1 vnodes, and cluster.vnodes is 2"), 1);
    assert_serves(&cluster.edge, &mut watcher, "second");
    let why = "the map in Redis is left aside: it has 1 vnodes, and cluster.vnodes is 2";
    let (status, body) = cluster.edge.get_admin("/readyz");
    assert!(status == 200 && body.contains(why), "{status} {body}");
    // Who starts now can follow no map.
    let flags = ["--redis-url", &cluster.redis.url(), "--cluster-vnodes", "2"];
    let check = Command::new(env!("CARGO_BIN_EXE_online-status-edge"))
        .args(["config", "check"])
        .args(flags)
        .output()
        .expect("it runs");
    let errors = String::from_utf8_lossy(&check.stderr);
    assert!(
        check.status.code() == Some(1) && errors.contains("has 1 vnodes, and cluster.vnodes is 2"),
        "{errors}"
    );
    let brokers = cluster.kafka.bootstrap_servers();
    let flags = [&flags[..], &["--kafka-brokers", &brokers]].concat();
    let other = Edge::launch_named("n3", None, &flags);
    other.until_metric_is(unusable, "", |count| count > 0.5);
    let (status, body) = other.get_admin("/readyz");
    assert!(status == 503 && body.contains(why), "{status} {body}");
    assert_eq!(
        cluster.leases().iter().map(|lease| lease.vnodes).min(),
        Some(2)
    );
}

#[test]
fn a_record_of_an_unknown_encoding_is_named_counted_and_taken_as_absent() {
    let mut cluster = Cluster::start();
    // What is published before is not read.
    cluster.until_said("reading 4 partitions of user_status_events, 0 before");
    let (bob, carol) = (user("bob", 1), user("carol", 1));
    let key = ["hset", "os:{v1}:users", &bob, "garbage"];
    assert_eq!(cluster.redis.cli(&key).trim(), "1");
    let mut watcher = cluster.edge.user(&user("watcher", 0));
    let snapshot = watcher.watch(&[&bob, &carol]);
    assert_eq!(snapshot.len(), 2);
    assert!(snapshot.iter().all(|record| record["status"] == "offline"));
    cluster
        .edge
        .until_metric_is("online_status_redis_bad_records_total", "", |bad| bad > 0.5);
    cluster.until_said(&format!(
        "redis: the record of {bob:?} in vnode 1 is left aside: "
    ));
    // Its next event repairs what is seen.
    cluster.until_said("reading 4 partitions of user_status_events");
    cluster.publish(2, &bob, &encoded(&event(&bob, 1)));
    assert_eq!(watcher.change()["status"], "away");
    assert_serves(&cluster.edge, &mut watcher, "first");
}

#[test]
fn foreign_messages_on_the_topic_are_named_counted_and_passed_over() {
    let mut cluster = Cluster::start();
    cluster
        .until_said("reading 4 partitions of user_status_events, 0 before; kafka.partitions = 16");
    let bob = user("bob", 1);
    let mut watcher = cluster.edge.user(&user("watcher", 0));
    watcher.watch(&[&bob]);
    let good = String::from_utf8(encoded(&event(&bob, 1))).expect("JSON");
    let newer = good.replacen("\"v\":1", "\"v\":2", 1);
    let other = Event {
        vnode: Vnode::new(0),
        ..event(&bob, 1)
    };
    let foreign = [
        b"hello".to_vec(),
        br#"{"type":"order","id":7}"#.to_vec(),
        newer.into_bytes(),
        encoded(&other),
        encoded(&event("somebody else", 1)),
        vec![b'x'; 900_000],
        Vec::new(),
    ];
    for value in &foreign {
        cluster.publish(2, &bob, value);
    }
    cluster.edge.until_metric(
        "online_status_kafka_bad_messages_total",
        "",
        foreign.len() as f64,
    );
    cluster.until_said("kafka: partition 2, offset 0: ");
    // In another partition than its vnode's, which happens while partitions are added: its version
    // says what it is worth.
    cluster.publish(0, &bob, &encoded(&event(&bob, 2)));
    assert_eq!(watcher.change()["status"], "away");
    assert_serves(&cluster.edge, &mut watcher, "first");
}

#[test]
fn a_wrong_password_of_the_store_is_named_and_waited_out() {
    let redis = RedisServer::start_with(&["--requirepass", "the right one"]);
    let kafka = MockCluster::new(1).expect("a mock cluster");
    kafka.create_topic(TOPIC, 4, 1).expect("a topic");
    let url = redis.url().replace("//", "//:hunter2@");
    let log = redis.directory().join("edge.log");
    let (log, brokers) = (Some(log.as_path()), kafka.bootstrap_servers());
    let flags = ["--redis-url", &url, "--kafka-brokers", &brokers];
    let mut edge = Edge::launch_node(log, &flags);
    let failures = "online_status_redis_connect_failures_total";
    edge.until_metric_is(failures, "", |failed| failed > 1.5);
    let said = || std::fs::read_to_string(log.expect("set above")).expect("a log");
    edge.until("it says why", |_| {
        said().contains("Password authentication failed")
    });
    assert!(
        said().contains("redis: the lease cannot be renewed"),
        "{}",
        said()
    );
    assert!(!said().contains("hunter2"), "{}", said());
    assert_eq!(edge.get_admin("/healthz").0, 200);
    assert_eq!(edge.get_admin("/readyz").0, 503);
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));
}

#[test]
fn brokers_that_cannot_be_reached_and_outputs_that_nobody_reads_end_no_node() {
    let redis = RedisServer::start();
    let flags = [
        "--redis-url",
        &redis.url(),
        "--kafka-brokers",
        "127.0.0.1:1",
    ];
    let mut edge = Edge::launch_node(None, &flags);
    edge.until_metric("online_status_lease_held", "", 1.0);
    edge.until_metric("online_status_kafka_producer_connected", "", 0.0);
    // The bus has said by now that nobody is there, and could not.
    for _ in 0..10 {
        moment();
    }
    assert_eq!(edge.get_admin("/healthz").0, 200);
    edge.signal(Signal::TERM);
    assert_eq!(edge.wait(), Some(0));
}

/// Waits until an edge that is ready says so with these words.
fn until_ready_says(edge: &mut Edge, words: &str) {
    edge.until(words, |edge| {
        let (status, body) = edge.get_admin("/readyz");
        assert_eq!(status, 200, "its own watchers are served");
        body.trim_end().ends_with(words)
    });
}

#[test]
fn an_edge_whose_redis_is_away_serves_its_own_and_says_so_until_it_is_back() {
    let mut cluster = Cluster::start();
    let mut watcher = cluster.edge.user(&user("watcher", 0));
    until_ready_says(&mut cluster.edge, "ready");
    cluster.redis.stop();
    cluster.edge.until("not storing", |edge| {
        let (status, body) = edge.get_admin("/readyz");
        assert_eq!(status, 200, "its own watchers are served");
        body.starts_with("ready; not storing: ")
    });
    assert_serves(&cluster.edge, &mut watcher, "without");
    cluster.redis.start_again();
    until_ready_says(&mut cluster.edge, "ready");
}

#[test]
fn an_edge_that_is_connected_and_publishes_nothing_serves_its_own_and_says_why() {
    let mut cluster = Cluster::start();
    let mut watcher = cluster.edge.user(&user("watcher", 0));
    assert_serves(&cluster.edge, &mut watcher, "first");
    until_ready_says(&mut cluster.edge, "ready");
    let slow = Duration::from_secs(60);
    let set = cluster.kafka.broker_round_trip_time(-1, slow);
    set.expect("a slow broker");
    assert_serves(&cluster.edge, &mut watcher, "second");
    let oldest = "online_status_kafka_oldest_unreported_seconds";
    cluster.edge.until_metric_is(oldest, "", |age| age > 5.0);
    let (_, body) = cluster.edge.get_admin("/readyz");
    let why = "ready; not publishing: the brokers have not confirmed changes for 5 s";
    assert!(body.contains(why), "{body}");
    assert_serves(&cluster.edge, &mut watcher, "third");

    let set = cluster.kafka.broker_round_trip_time(-1, Duration::ZERO);
    set.expect("a broker as before");
    cluster.edge.until_metric(oldest, "", 0.0);
    until_ready_says(&mut cluster.edge, "ready");
}

#[test]
fn redis_tells_that_a_process_is_gone_when_it_is_killed_and_not_when_it_stands_still() {
    let mut cluster = Cluster::start();
    let runtime = &cluster.runtime;
    let alive = |link: &Link| {
        let leases = runtime.block_on(link.leases()).expect("leases");
        let process = (leases.good[0].id(), leases.good[0].boot);
        let alive = runtime.block_on(link.alive(std::slice::from_ref(&process)));
        alive
            .expect("an answer")
            .expect("Redis tells")
            .contains(&process)
    };
    assert!(alive(&cluster.link));
    cluster.edge.signal(Signal::STOP);
    moment();
    assert!(alive(&cluster.link));
    cluster.edge.signal(Signal::KILL);
    assert_eq!(cluster.edge.wait(), None);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while alive(&cluster.link) {
        assert!(
            std::time::Instant::now() < deadline,
            "its subscription stays"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn events_that_no_edge_of_the_cluster_signed_are_passed_over_and_old_ones_change_nothing() {
    const OURS: &str = "the key of the cluster's events that is long enough";
    const NEXT: &str = "the key that the cluster's events get later";
    const OTHERS: &str = "a key that nobody in the cluster has and is long";
    let keys = format!("{OURS},{NEXT}");
    let mut cluster = Cluster::start_with(&["--kafka-event-keys", &keys]);
    cluster.until_said("reading 4 partitions of user_status_events");
    let bob = user("bob", 1);
    let mut watcher = cluster.edge.user(&user("watcher", 0));
    watcher.watch(&[&bob]);
    let signed = |key: &str, seq| {
        let keys = kafka_bus::EventKeys::new(&[key], false).expect("a good key");
        // What only has another version is no news.
        let event = Event {
            devices: seq as u32,
            ..event(&bob, seq)
        };
        let value = keys.signed(&encoded(&event));
        value.expect("there is a key")
    };
    let forged = [
        encoded(&event(&bob, 900)),
        signed(OTHERS, 901),
        // Another version under a good signature.
        String::from_utf8(signed(OURS, 902))
            .expect("JSON")
            .replacen("\"since\":1", "\"since\":2", 1)
            .into_bytes(),
    ];
    for value in &forged {
        cluster.publish(2, &bob, value);
    }
    let bad = "online_status_kafka_bad_messages_total";
    cluster.edge.until_metric(bad, "", forged.len() as f64);
    cluster.until_said("kafka: partition 2, offset 0: an event is not signed");
    cluster.until_said("kafka: partition 2, offset 1: an event's signature is of none");
    // Each key is good, so that they can be changed one edge after the other.
    for (key, seq) in [(OURS, 1), (NEXT, 2)] {
        cluster.publish(2, &bob, &signed(key, seq));
        assert_eq!(watcher.change()["devices"], seq);
    }
    // What was signed once, and is replayed, is no news.
    cluster.publish(2, &bob, &signed(OURS, 1));
    cluster.publish(2, &bob, &signed(OURS, 3));
    assert_eq!(watcher.change()["devices"], 3);
    cluster.edge.until_metric(bad, "", forged.len() as f64);
    assert_serves(&cluster.edge, &mut watcher, "first");
}
