//! Everything that is under way in a run, in the order of its time. It owns when what is sent arrives:
//! ways that keep an order keep it here.

use std::collections::BTreeMap;

use super::{
    client::ToClient, coordinators::ToCoordinator, faults::Heal, process::In, redis::Command,
    store::End, world::World,
};

/// An event of the simulated time.
pub(crate) enum Event {
    Process(usize, In),
    Client(usize, u64, ToClient),
    Dial(usize, u64),
    Watchdog(usize, u64),
    WatchAgain(usize, u64),
    Coordinator(usize, u64, ToCoordinator),
    /// A request of a program reaches the store.
    Store(End, u64, u64, Command),
    Heal(Heal),
    /// A process makes its connection to the store (`true`), or the store notices its end.
    Link(usize, bool),
    /// A user was shown offline at that time, and seemed not to be.
    Doubt(usize, u64, String),
    /// A node that has left joins again.
    Rejoin(usize),
}

/// What is under way.
#[derive(Default)]
pub(crate) struct Agenda {
    /// By time, and among those of one time by the order in which they were made.
    events: BTreeMap<(u64, u64), Event>,
    order: u64,
    tickets: u64,
    /// By process and lane to it: when the last input that is under way arrives, ms. A lane keeps its order.
    lanes: BTreeMap<(usize, u64), u64>,
    /// The same by a client's connection and whether it is the way to the server.
    wires: BTreeMap<(u64, bool), u64>,
}

impl Agenda {
    /// The earliest event, with its time, if it is not later than `end`.
    pub(super) fn next_until(&mut self, end: u64) -> Option<(u64, Event)> {
        let next = self.events.first_entry()?;
        let (at, _) = *next.key();
        (at <= end).then(|| (at, next.remove()))
    }
}

impl World {
    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        let agenda = &mut self.agenda;
        agenda.order += 1;
        agenda.events.insert((at, agenda.order), event);
    }

    pub(crate) fn later(&mut self, delay: u64, pid: usize, input: In) {
        self.schedule(self.now + delay, Event::Process(pid, input));
    }

    pub(crate) fn at(&mut self, at: u64, pid: usize, input: In) {
        self.schedule(at, Event::Process(pid, input));
    }

    /// When something that is sent now arrives on a way that keeps its order.
    pub(crate) fn in_order(&mut self, pid: usize, lane: u64, delay: u64) -> u64 {
        let last = self.agenda.lanes.entry((pid, lane)).or_default();
        *last = (self.now + delay).max(*last);
        *last
    }

    /// The same of a client's connection, to its server or from it.
    pub(crate) fn wire(&mut self, conn: u64, to_server: bool, delay: u64) -> u64 {
        let last = self.agenda.wires.entry((conn, to_server)).or_default();
        *last = (self.now + delay).max(*last);
        *last
    }

    /// A number that nothing else in this run has.
    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.agenda.tickets += 1;
        self.agenda.tickets
    }
}
