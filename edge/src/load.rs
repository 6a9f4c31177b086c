//! What the edge says of its load: rates and gauges, made from what the cores publish, their threads
//! and the process. It only reads.

use std::{collections::VecDeque, fs};

use kafka_bus::ConsumerHealth;
use protocol::{CoreLoad, DELIVERY_WINDOW_MS, Load};

use crate::{
    admission::memory,
    clock,
    metrics::{CoreStats, Latency, Metrics},
};

/// The close code of sessions that read too slowly.
const TOO_SLOW: u16 = 1013;
/// The most looks that the times of deliveries are kept of.
const MAX_LOOKS: usize = 64;

/// The shortest time that rates are made of, µs: cores publish what they count a few times a second, and a lease is
/// renewed as often as vnodes move.
const SHORTEST: u64 = 1_000_000;

/// What was counted at the last look, from which rates are made.
#[derive(Default)]
pub(crate) struct Busyness {
    at: u64,
    cpu_us: u64,
    cores: Vec<CoreStats>,
    threads: Vec<Thread>,
    /// All deliveries at former looks, with the time of each, the oldest first.
    deliveries: VecDeque<(u64, Latency)>,
    /// What was found at the last look.
    load: Load,
}

impl Busyness {
    /// The load since the last look, or that one's, if it was just now. `now`: by the monotonic clock, µs;
    /// `bus` is what is read from it, where the edge reads it at all.
    pub(crate) fn look(
        &mut self,
        now: u64,
        metrics: &Metrics,
        bus: Option<&ConsumerHealth>,
        memory_limit: u64,
    ) -> Load {
        if self.at > 0 && now < self.at + SHORTEST {
            return self.load.clone();
        }
        let cpu_us = clock::cpu_us();
        let cores = metrics.by_core();
        let passed = now.saturating_sub(self.at).max(1) as f64;
        if self.cores.is_empty() {
            self.cores.clone_from(&cores);
            self.threads.resize_with(cores.len(), Thread::default);
        }
        // A node takes its lease before its cores start.
        for (number, thread) in self.threads.iter_mut().enumerate() {
            if thread.file.is_none() {
                *thread = Thread::of_core(number);
            }
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 * 1e6 / passed;
        let sum = |read: fn(&CoreStats) -> u64| cores.iter().map(read).sum::<u64>();
        let sum_rate =
            |read: fn(&CoreStats) -> u64| rate(sum(read), self.cores.iter().map(read).sum());
        let mut delivery = Latency::default();
        cores.iter().for_each(|core| delivery.add(&core.delivery));
        while self.deliveries.len() > 1 && now - self.deliveries[0].0 > DELIVERY_WINDOW_MS * 1_000
            || self.deliveries.len() == MAX_LOOKS
        {
            self.deliveries.pop_front();
        }
        let before = self.deliveries.front().map(|(_, before)| before.clone());
        let before = before.unwrap_or_default();
        let bus = bus.map(ConsumerHealth::stats).unwrap_or_default();
        let per_core = (cores.iter().zip(&self.cores)).zip(&mut self.threads);
        let per_core = per_core.map(|((core, before), thread)| {
            let (presence, former) = (&core.presence, &before.presence);
            let rate = |now, before| rate(now, before).round() as u64;
            let busy = thread.ran_for_us().map(|us| us as f64 * 1e3 / passed);
            CoreLoad {
                connections: core.connections,
                sessions: presence.sessions,
                changes: rate(presence.changes, former.changes),
                deliveries: rate(presence.deliveries, former.deliveries),
                queued: presence.store_queue
                    + presence.bus_queue
                    + presence.link_queue
                    + presence.peer_queue,
                slow: core.slow,
                outbox_bytes: core.outbox_bytes,
                cpu: busy.map(|thousandths| thousandths.round().min(1e3) as u64),
            }
        });
        let load = Load {
            per_core: per_core.collect(),
            connections: sum(|core| core.connections),
            sessions: sum(|core| core.presence.sessions),
            events_per_second: sum_rate(|core| core.presence.changes),
            lag_ms: bus.age_ms,
            cpu: cpu_us.saturating_sub(self.cpu_us) as f64 / passed / cores.len() as f64,
            deliveries_per_second: sum_rate(|core| core.presence.deliveries),
            delivery_p50_us: delivery.quantile_since(&before, 0.5),
            delivery_p99_us: delivery.quantile_since(&before, 0.99),
            lag_records: bus.lag,
            store_writes_per_second: sum_rate(|core| core.presence.store_writes),
            store_queue: sum(|core| core.presence.store_queue),
            bus_queue: sum(|core| core.presence.bus_queue),
            slow: sum(|core| core.slow),
            outbox_bytes: sum(|core| core.outbox_bytes),
            slow_closed: sum(|core| core.closes.get(&TOO_SLOW).copied().unwrap_or(0)),
            memory: memory::resident().unwrap_or(0),
            memory_limit: if memory_limit == u64::MAX {
                0
            } else {
                memory_limit
            },
        };
        self.deliveries.push_back((now, delivery));
        (self.at, self.cpu_us, self.cores) = (now, cpu_us, cores);
        self.load.clone_from(&load);
        load
    }
}

/// A thread of this process, and for how long it had run at the last look.
#[derive(Default)]
struct Thread {
    /// Its file in /proc (proc_pid_stat(5)); `None` = there is none.
    file: Option<String>,
    ran_us: u64,
}

impl Thread {
    /// The thread of a core, which has its name from [`crate::start`].
    fn of_core(core: usize) -> Self {
        let name = format!("core-{core}");
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
        let mut folders = tasks.flatten().map(|task| task.path());
        let found = folders.find(|folder| {
            fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let file = found.map(|folder| folder.join("stat").display().to_string());
        let mut thread = Self { file, ran_us: 0 };
        thread.ran_for_us();
        thread
    }

    /// How long it has run since the last look, µs; `None` where the kernel does not tell.
    fn ran_for_us(&mut self) -> Option<u64> {
        let text = fs::read_to_string(self.file.as_ref()?).ok()?;
        // The name, in brackets, may hold anything.
        let mut fields = text.rsplit_once(") ")?.1.split(' ').skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let ticks = ticks()? + ticks()?;
        let ran_us = ticks * 1_000_000 / rustix::param::clock_ticks_per_second();
        let before = std::mem::replace(&mut self.ran_us, ran_us);
        Some(ran_us.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_has_the_rates_since_the_former_one_and_each_core() {
        let metrics = Metrics::new(2);
        let mut busyness = Busyness::default();
        let mut stats = CoreStats::default();
        stats.presence.deliveries = 1_000;
        metrics.publish(1, &stats);
        let now = 1_000;
        let first = busyness.look(now, &metrics, None, u64::MAX);
        assert_eq!(
            first.deliveries_per_second, 0.0,
            "a restarted count is no rate"
        );
        assert_eq!((first.memory_limit, first.per_core.len()), (0, 2));
        assert!(first.memory > 1 << 20);
        stats.presence.deliveries = 3_000;
        stats.slow = 2;
        (0..99).for_each(|_| stats.delivery.record(900));
        stats.delivery.record(4_000_000);
        stats.closes.insert(TOO_SLOW, 5);
        metrics.publish(1, &stats);
        // A lease that is renewed at once has the rates of before.
        let at_once = busyness.look(now + 3_000, &metrics, None, 7);
        assert_eq!(at_once, first);
        let now = now + 2 * SHORTEST;
        let load = busyness.look(now, &metrics, None, 7);
        assert!(
            (load.deliveries_per_second - 1_000.0).abs() < 0.1,
            "{load:?}"
        );
        assert_eq!(
            (load.per_core[0].deliveries, load.per_core[1].deliveries),
            (0, 1_000)
        );
        assert_eq!((load.slow, load.slow_closed, load.memory_limit), (2, 5, 7));
        assert!((500..=1_000).contains(&load.delivery_p50_us), "{load:?}");
        assert!(load.delivery_p99_us <= 1_000, "{load:?}");
        // The window slides over looks: what is old is no delivery of now.
        let same = busyness.look(now + SHORTEST, &metrics, None, 7);
        assert_eq!(same.delivery_p50_us, load.delivery_p50_us);
    }

    #[test]
    fn how_busy_a_core_is_is_known_though_it_starts_after_the_first_look() {
        let metrics = Metrics::new(100);
        let mut busyness = Busyness::default();
        let mut cpu = |second: u64| {
            let load = busyness.look(second * SHORTEST, &metrics, None, 7);
            load.per_core[99].cpu
        };
        assert_eq!(cpu(1), None);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = std::sync::mpsc::channel();
        let late = std::thread::Builder::new().name("core-99".into());
        let late = late.spawn(move || {
            begin.send(()).expect("somebody waits");
            // It fails when the other end is gone.
            let _ = ended.recv();
        });
        begun.recv().expect("it begins");
        assert!(cpu(2).is_some() && cpu(3).is_some());
        drop(end);
        late.expect("a thread").join().expect("it does not panic");
    }

    #[test]
    fn the_time_that_a_thread_runs_is_found_by_its_name() {
        let busy = std::thread::Builder::new().name("core-77".into());
        let busy = busy.spawn(|| {
            let mut thread = Thread::of_core(77);
            assert!(thread.file.is_some(), "its own name is not there");
            let mut ran = 0;
            while ran == 0 {
                ran = thread.ran_for_us().expect("the kernel tells");
            }
        });
        busy.expect("a thread").join().expect("it does not panic");
        assert!(Thread::of_core(78).file.is_none());
    }
}
