//! The bus of a cluster: events go to Kafka's producer, what became of them comes back to a mailbox,
//! and what others published comes in through an inlet that asks the interest filter first.

use std::sync::{Arc, Mutex};

use kafka_bus::{BadMessage, Full, Producer, Report, Reports, Sink};
use presence::{Publication, Ticket};
use protocol::Event;
use ring::{NodeId, VnodeCount};
use tracing::warn;

use super::Bus;
use crate::{
    clock,
    cluster::{News, Place},
    mesh::Wakeup,
};

/// Events of one core that may be under way; more wait in the core, a user at most once.
const ROOM: usize = 16_384;
/// How long the producer is left alone after it took no more, µs.
const FULL: u64 = 20_000;
/// How long the inlet waits for a core whose ring is full, before it looks again.
const CORE_FULL: std::time::Duration = std::time::Duration::from_millis(1);

/// The delivery reports that wait for each core.
pub(crate) struct Mailboxes(Vec<Mailbox>);

struct Mailbox {
    reports: Mutex<Vec<(Ticket, bool)>>,
    wakeup: Arc<Wakeup>,
}

impl Mailboxes {
    pub(crate) fn new(wakeups: &[Arc<Wakeup>]) -> Arc<Self> {
        let mailbox = |wakeup: &Arc<Wakeup>| Mailbox {
            reports: Mutex::default(),
            wakeup: Arc::clone(wakeup),
        };
        Arc::new(Self(wakeups.iter().map(mailbox).collect()))
    }
}

impl Reports for Mailboxes {
    fn delivered(&self, reports: &[Report]) {
        for (
            core,
            Mailbox {
                reports: mailbox,
                wakeup,
            },
        ) in self.0.iter().enumerate()
        {
            let mine = reports
                .iter()
                .filter(|report| usize::from(report.core) == core);
            let mine = mine.map(|report| (Ticket::new(report.ticket), report.delivered));
            let mut mailbox = mailbox.lock().expect("nobody panics with this lock");
            let before = mailbox.len();
            mailbox.extend(mine);
            if mailbox.len() > before {
                drop(mailbox);
                wakeup.wake();
            }
        }
    }
}

/// A core's handle to the producer.
pub(crate) struct Kafka {
    core: usize,
    node: Box<str>,
    producer: Arc<Producer>,
    reports: Arc<Mailboxes>,
    under_way: usize,
    full_until: u64,
    refused: Vec<Ticket>,
    value: Vec<u8>,
}

impl Kafka {
    pub(crate) fn new(
        core: usize,
        node: &NodeId,
        producer: Arc<Producer>,
        reports: Arc<Mailboxes>,
    ) -> Self {
        Self {
            core,
            node: (**node).into(),
            producer,
            reports,
            under_way: 0,
            full_until: 0,
            refused: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Bus for Kafka {
    fn room(&self) -> usize {
        if self.full_until > 0 && clock::mono_us() < self.full_until {
            return 0;
        }
        ROOM.saturating_sub(self.under_way)
    }

    fn submit(&mut self, publication: Publication) {
        let Publication {
            ticket,
            user,
            record,
            vnode,
            cause,
            ..
        } = publication;
        self.value.clear();
        Event::of(&user, &record, vnode, &self.node, cause).encode(&mut self.value);
        let core = self.core as u16;
        self.under_way += 1;
        match self
            .producer
            .send(core, ticket.get(), vnode, &user, &self.value)
        {
            Ok(()) => self.full_until = 0,
            Err(Full) => {
                self.full_until = clock::mono_us() + FULL;
                self.refused.push(ticket);
            }
        }
    }

    fn poll(&mut self, reports: &mut Vec<(Ticket, bool)>) {
        let before = reports.len();
        reports.extend(self.refused.drain(..).map(|ticket| (ticket, false)));
        let mailbox = &self.reports.0[self.core].reports;
        reports.append(&mut mailbox.lock().expect("nobody panics with this lock"));
        self.under_way -= reports.len() - before;
    }

    fn waiting(&self) -> usize {
        self.under_way
    }
}

/// Where the consumer's events go: to the home core of their vnode.
pub(crate) struct Inlet {
    place: Arc<Place>,
    vnodes: VnodeCount,
    cores: Vec<rtrb::Producer<Event<'static>>>,
    fed: Vec<bool>,
    bad: u64,
}

impl Inlet {
    pub(crate) fn new(
        place: Arc<Place>,
        vnodes: VnodeCount,
        cores: Vec<rtrb::Producer<Event<'static>>>,
    ) -> Self {
        let fed = vec![false; cores.len()];
        Self {
            place,
            vnodes,
            cores,
            fed,
            bad: 0,
        }
    }

    /// Wakes the cores that got events since the last time.
    fn wake_fed(&mut self) {
        for (core, fed) in self.fed.iter_mut().enumerate() {
            if std::mem::take(fed) {
                self.place.wake(ring::CoreId::new(core as u16));
            }
        }
    }
}

impl Sink for Inlet {
    fn wants(&self, key: &[u8]) -> bool {
        std::str::from_utf8(key).is_ok_and(|user| self.place.interest.has(ring::hash(user)))
    }

    fn event(&mut self, event: Event<'_>) {
        let home = self.place.homes[self.vnodes.vnode(&event.user).index()];
        let core = usize::from(home.get());
        let mut event = event.into_owned();
        self.fed[core] = true;
        while let Err(rtrb::PushError::Full(back)) = self.cores[core].push(event) {
            if self.cores[core].is_abandoned() {
                return;
            }
            // The topic keeps what follows.
            event = back;
            self.wake_fed();
            self.fed[core] = true;
            std::thread::sleep(CORE_FULL);
        }
    }

    fn gap(&mut self) {
        self.place.tell(|| News::Gap);
    }

    fn bad(&mut self, partition: i32, offset: i64, error: &BadMessage) {
        self.bad += 1;
        // The metric has them all.
        if self.bad.is_power_of_two() {
            let nth = self.bad;
            warn!(
                event = "event_left_aside",
                partition,
                offset,
                "kafka: partition {partition}, offset {offset}: {error} (bad message {nth})"
            );
        }
    }

    fn idle(&mut self) {
        self.wake_fed();
    }
}
