//! What the bus costs against a real broker on this machine: `send` on the core's side, events a
//! second through the topic, the time from `send` to the sink, and the CPU when nothing happens.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use kafka_bus::{
    BadMessage, Consumer, EventKeys, Options, Producer, Report, Reports, Sink, testing::KafkaServer,
};
use protocol::{Cause, Event, Record, Status, Version};
use ring::{Epoch, Vnode, VnodeCount};

#[derive(Default)]
struct Counter(AtomicU64);

impl Reports for Counter {
    fn delivered(&self, reports: &[Report]) {
        assert!(reports.iter().all(|report| report.delivered));
        self.0.fetch_add(reports.len() as u64, Relaxed);
    }
}

/// Takes the time of `since` of each wanted event as when it was sent, µs from `begin`.
struct Timer {
    begin: Instant,
    wants: bool,
    taken: Arc<Mutex<Vec<u64>>>,
    ready: Arc<AtomicU64>,
}

impl Sink for Timer {
    fn wants(&self, _: &[u8]) -> bool {
        self.wants
    }
    fn event(&mut self, event: Event<'_>) {
        let now = self.begin.elapsed().as_micros() as u64;
        let mut taken = self.taken.lock().expect("no panic");
        taken.push(now.saturating_sub(event.since));
    }
    fn gap(&mut self) {
        self.ready.fetch_add(1, Relaxed);
    }
    fn bad(&mut self, _: i32, _: i64, error: &BadMessage) {
        panic!("{error}");
    }
    fn idle(&mut self) {}
}

struct User {
    name: String,
    vnode: Vnode,
}

fn users() -> Vec<User> {
    let user = |n| {
        let name = format!("user-{n}@example.com");
        let vnode = VnodeCount::default().vnode(&name);
        User { name, vnode }
    };
    (0..4096).map(user).collect()
}

fn value(user: &User, since: u64, out: &mut Vec<u8>) {
    out.clear();
    let record = Record {
        status: Status::Online,
        since,
        devices: 1,
        version: Version::new(Epoch::new(20_000), since).expect("below 2^33"),
        ..Record::default()
    };
    Event::of(&user.name, &record, user.vnode, "edge-1", Cause::Connect).encode(out);
}

/// The CPU time of this process, all threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    let ticks = |n: usize| fields[n].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(12) + ticks(13)) * 10)
}

fn wait_for(done: impl Fn() -> bool) {
    while !done() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Checking a signature is the same work as making it.
fn signatures() {
    const TIMES: u32 = 200_000;
    let keys = EventKeys::new(&["a key of the bench that is long enough"], false);
    let keys = keys.expect("a good key");
    let mut bytes = Vec::new();
    value(&users()[0], 1, &mut bytes);
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let started = Instant::now();
        for _ in 0..TIMES / 10 {
            std::hint::black_box(keys.signed(std::hint::black_box(&bytes)));
        }
        best = best.min(started.elapsed());
    }
    let signed = keys.signed(&bytes).map_or(0, |signed| signed.len());
    println!(
        "a signature: {} ns for {} bytes, which become {signed}",
        best.as_nanos() / u128::from(TIMES / 10),
        bytes.len()
    );
}

fn main() {
    signatures();
    let broker = KafkaServer::start().expect("a broker");
    let mut options = Options {
        brokers: broker.brokers(),
        create_topic: true,
        ..Options::default()
    };
    options.queue_messages = 1_000_000;
    let (begin, users) = (Instant::now(), users());
    let counter = Arc::new(Counter::default());
    let producer = Producer::start(options.clone(), counter.clone()).expect("good options");
    let start = |wants| {
        let (taken, ready) = (Arc::default(), Arc::new(AtomicU64::new(0)));
        let sink = Timer {
            begin,
            wants,
            taken: Arc::clone(&taken),
            ready: Arc::clone(&ready),
        };
        let consumer = Consumer::start(options.clone(), Box::new(sink)).expect("good options");
        wait_for(|| ready.load(Relaxed) > 0);
        (consumer, taken)
    };
    wait_for(|| producer.health().stats().partitions > 0);

    let send_many = |count: u64| {
        let mut bytes = Vec::new();
        for n in 0..count {
            let user = &users[n as usize % users.len()];
            value(user, begin.elapsed().as_micros() as u64, &mut bytes);
            wait_for(|| {
                producer
                    .send(0, n as u32, user.vnode, &user.name, &bytes)
                    .is_ok()
            });
        }
    };
    let delivered = |count: u64| wait_for(|| counter.0.load(Relaxed) == count);
    send_many(20_000);
    delivered(20_000);
    let mut total = 20_000;

    for threads in [1, 2, 4] {
        let count = 200_000 / threads;
        let mut bytes = Vec::new();
        value(&users[0], 1, &mut bytes);
        let (cpu_before, started) = (cpu(), Instant::now());
        let times: Vec<_> = thread::scope(|scope| {
            let run = |_| {
                scope.spawn(|| {
                    let started = Instant::now();
                    for n in 0..count {
                        let user = &users[n as usize % users.len()];
                        producer
                            .send(0, n as u32, user.vnode, &user.name, &bytes)
                            .expect("room");
                    }
                    started.elapsed()
                })
            };
            let threads: Vec<_> = (0..threads).map(run).collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect()
        });
        total += count * threads;
        let slowest = times.into_iter().max().expect("a thread");
        delivered(total);
        println!(
            "send, {threads} threads at once: {} ns each; all confirmed after {:.2} s, {:.2} s CPU",
            slowest.as_nanos() as u64 / count,
            started.elapsed().as_secs_f64(),
            (cpu() - cpu_before).as_secs_f64()
        );
    }

    for wants in [true, false] {
        let (consumer, _taken) = start(wants);
        let (cpu_before, started) = (cpu(), Instant::now());
        send_many(200_000);
        total += 200_000;
        delivered(total);
        wait_for(|| consumer.health().stats().consumed >= 200_000);
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "through the topic, {}: {:.0} events/s, {:.2} s CPU for 200,000",
            if wants { "all wanted" } else { "none wanted" },
            200_000.0 / seconds,
            (cpu() - cpu_before).as_secs_f64()
        );
    }

    let (consumer, taken) = start(true);
    for rate in [100, 5000] {
        taken.lock().expect("no panic").clear();
        let cpu_before = cpu();
        let mut bytes = Vec::new();
        let first = Instant::now();
        let count = rate * 5;
        for n in 0..count {
            let at = first + Duration::from_secs(1) * n / rate;
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let user = &users[n as usize % users.len()];
            value(user, begin.elapsed().as_micros() as u64, &mut bytes);
            producer
                .send(0, n, user.vnode, &user.name, &bytes)
                .expect("room");
        }
        wait_for(|| taken.lock().expect("no panic").len() == count as usize);
        let used = cpu() - cpu_before;
        let mut times = taken.lock().expect("no panic").clone();
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
        println!(
            "{rate} events/s: send to sink {:.1} ms half, {:.1} ms 99 %, {:.1} ms all; {:.1} % CPU",
            at(0.5),
            at(0.99),
            at(1.0),
            used.as_secs_f64() / 5.0 * 100.0
        );
    }
    let cpu_before = cpu();
    thread::sleep(Duration::from_secs(10));
    println!(
        "idle: {:.2} % CPU",
        (cpu() - cpu_before).as_secs_f64() * 10.0
    );
    consumer.stop();
}
