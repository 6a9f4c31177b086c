//! Where changes are published: the trait that every bus implements, one handle a core. As with
//! the store, nothing blocks, and the delivery reports are polled.

mod kafka;

use presence::{Publication, Ticket};

pub(crate) use self::kafka::{Inlet, Kafka, Mailboxes};

/// A core's handle to a bus.
pub(crate) trait Bus {
    /// The number of changes that it takes now.
    fn room(&self) -> usize;

    /// Takes a change, when there is room; it will be reported.
    fn submit(&mut self, publication: Publication);

    /// Appends the reports that came since the last time: whether the change is delivered.
    fn poll(&mut self, reports: &mut Vec<(Ticket, bool)>);

    /// The number of changes that wait for their reports.
    fn waiting(&self) -> usize;
}

/// The bus of a single node: its cores tell each other of changes directly, so that an event has
/// nowhere else to go and is delivered at once.
#[derive(Default)]
pub(crate) struct Embedded {
    reports: Vec<(Ticket, bool)>,
}

impl Bus for Embedded {
    fn room(&self) -> usize {
        1_024
    }

    fn submit(&mut self, publication: Publication) {
        self.reports.push((publication.ticket, true));
    }

    fn poll(&mut self, reports: &mut Vec<(Ticket, bool)>) {
        reports.append(&mut self.reports);
    }
    fn waiting(&self) -> usize {
        self.reports.len()
    }
}
