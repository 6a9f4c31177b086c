//! What the tests of this crate share: sinks and reports that remember, events, and waiting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

#[cfg(feature = "tls")]
pub(crate) mod identity;

use kafka_bus::{
    BadMessage, Consumer, Options, Producer, Report, Reports, Sink,
    testing::{KafkaServer, Ports},
};
use protocol::{Cause, Event, Record, Status, Version};
use ring::{Epoch, VnodeCount};

/// For everything that has to happen: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What all clients of these tests have said.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The lines that have all these parts.
pub(crate) fn told(parts: &[&str]) -> Vec<String> {
    let lines = lock(&LINES);
    let fits = |line: &&String| parts.iter().all(|part| line.contains(part));
    lines.iter().filter(fits).cloned().collect()
}

pub(crate) fn options(brokers: &str, topic: &str) -> Options {
    Options {
        brokers: brokers.into(),
        topic: topic.into(),
        metadata_interval: Duration::from_millis(500),
        log: |_, line| {
            println!("kafka: {line}");
            lock(&LINES).push(line.into());
        },
        ..Options::default()
    }
}

pub(crate) fn producer(options: &Options) -> (Producer, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::default());
    let producer = Producer::start(options.clone(), ledger.clone()).expect("good options");
    (producer, ledger)
}

pub(crate) fn consumer(options: &Options) -> (Consumer, Arc<Log>) {
    let log = Arc::new(Log::default());
    let sink = Box::new(LogSink(log.clone()));
    let consumer = Consumer::start(options.clone(), sink).expect("good options");
    (consumer, log)
}

/// Lines for two more listeners of a broker, by these protocols. Its first one is without TLS and
/// login; who comes there is ANONYMOUS.
pub(crate) fn listeners(ports: &Ports, other: &str, third: &str) -> String {
    let at = |name: &str, port: u16| format!("{name}://127.0.0.1:{port}");
    let all = [
        at("PLAINTEXT", ports.client),
        at("CONTROLLER", ports.controller),
        at("OTHER", ports.other),
        at("THIRD", ports.third),
    ]
    .join(",");
    format!(
        "listeners={all}
advertised.listeners={all}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,OTHER:{other},THIRD:{third}
"
    )
}

/// Gives `user` rights on a topic, and on the group that is never joined.
pub(crate) fn give_rights(server: &KafkaServer, user: &str, topic: &str, operations: &[&str]) {
    let (brokers, user) = (server.brokers(), format!("User:{user}"));
    let base = [
        "--bootstrap-server",
        &brokers,
        "--add",
        "--allow-principal",
        &user,
    ];
    let on_topic: Vec<&str> = ["--topic", topic]
        .into_iter()
        .chain(operations.iter().flat_map(|name| ["--operation", name]))
        .collect();
    let on_group = [
        "--group",
        "online-status",
        "--resource-pattern-type",
        "prefixed",
    ];
    let on_group = [&on_group[..], &["--operation", "Describe"]].concat();
    for on in [on_topic, on_group] {
        let acls = "org.apache.kafka.tools.AclCommand";
        server
            .tool(acls, &[&base[..], &on].concat())
            .expect("rights");
    }
}

/// An event of `user` with the sequence number `seq`.
pub(crate) fn event(user: &str, seq: u64) -> Event<'static> {
    let record = Record {
        status: Status::Online,
        since: seq,
        devices: 1,
        version: Version::new(Epoch::new(1), seq).expect("a small number"),
        ..Record::default()
    };
    let vnode = VnodeCount::default().vnode(user);
    Event::of(user, &record, vnode, "n1", Cause::Connect).into_owned()
}

pub(crate) fn encoded(event: &Event<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    bytes
}

pub(crate) fn try_send(producer: &Producer, ticket: u32, user: &str, seq: u64) -> bool {
    let event = event(user, seq);
    producer
        .send(3, ticket, event.vnode, user, &encoded(&event))
        .is_ok()
}

/// Sends, however long it takes until the producer takes it.
pub(crate) fn send(producer: &Producer, ticket: u32, user: &str, seq: u64) {
    wait_for("room in the producer", || {
        try_send(producer, ticket, user, seq)
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers how often each ticket was reported as delivered and as not delivered.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<HashMap<u32, (u32, u32)>>);

impl Ledger {
    pub(crate) fn delivered(&self) -> usize {
        lock(&self.0).values().filter(|counts| counts.0 > 0).count()
    }

    pub(crate) fn reported(&self) -> usize {
        lock(&self.0).len()
    }

    /// Each of the tickets `0..count` has exactly one report.
    pub(crate) fn assert_each_once(&self, count: u32) {
        let counts = lock(&self.0);
        for ticket in 0..count {
            let (good, bad) = counts.get(&ticket).copied().unwrap_or_default();
            assert_eq!(
                good + bad,
                1,
                "reports of ticket {ticket}: {good} good, {bad} bad"
            );
        }
        assert_eq!(counts.len(), count as usize, "reports of unknown tickets");
    }
}

impl Reports for Ledger {
    fn delivered(&self, reports: &[Report]) {
        assert!(!reports.is_empty(), "an empty batch");
        let mut counts = lock(&self.0);
        for report in reports {
            assert_eq!(report.core, 3);
            let entry = counts.entry(report.ticket).or_default();
            if report.delivered {
                entry.0 += 1;
            } else {
                entry.1 += 1;
            }
        }
    }
}

/// What a sink was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Event(String, u64),
    Gap,
    Bad(String),
}

/// Remembers everything; wants users that do not begin with `other`.
#[derive(Debug, Default)]
pub(crate) struct Log {
    told: Mutex<Vec<Told>>,
    batches: Mutex<usize>,
    gate: Mutex<()>,
}

pub(crate) struct LogSink(pub(crate) Arc<Log>);

impl Log {
    pub(crate) fn told(&self) -> Vec<Told> {
        lock(&self.told).clone()
    }

    pub(crate) fn gaps(&self) -> usize {
        let told = lock(&self.told);
        told.iter().filter(|told| **told == Told::Gap).count()
    }

    pub(crate) fn bad(&self) -> Vec<String> {
        let bad = |told| match told {
            Told::Bad(text) => Some(text),
            _ => None,
        };
        self.told().into_iter().filter_map(bad).collect()
    }

    pub(crate) fn batches(&self) -> usize {
        *lock(&self.batches)
    }

    /// Lets the consumer hang in the next event until the guard is dropped.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.gate)
    }

    /// The sequence numbers of `user`'s events, in the order they came.
    pub(crate) fn of(&self, user: &str) -> Vec<u64> {
        let seq = |told| match told {
            Told::Event(who, seq) if who == user => Some(seq),
            _ => None,
        };
        self.told().into_iter().filter_map(seq).collect()
    }
}

impl Sink for LogSink {
    fn wants(&self, key: &[u8]) -> bool {
        !key.starts_with(b"other")
    }

    fn event(&mut self, event: Event<'_>) {
        drop(lock(&self.0.gate));
        let told = Told::Event(event.user.into_owned(), event.since);
        lock(&self.0.told).push(told);
    }

    fn gap(&mut self) {
        lock(&self.0.told).push(Told::Gap);
    }

    fn bad(&mut self, _: i32, _: i64, error: &BadMessage) {
        lock(&self.0.told).push(Told::Bad(error.to_string()));
    }

    fn idle(&mut self) {
        *lock(&self.0.batches) += 1;
    }
}
