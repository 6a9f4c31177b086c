//! The simulated bus: a log for each partition, of which the oldest events may be deleted. It owns
//! what was published; who reads it how late is the processes' and the network's business.

use protocol::{Event, partition};
use ring::Vnode;

pub(crate) const PARTITIONS: usize = 4;

#[derive(Default)]
pub(crate) struct Log {
    /// The first offset that is not deleted.
    pub(crate) begin: usize,
    /// Every event ever published, by offset.
    pub(crate) events: Vec<Event<'static>>,
}

pub(crate) struct Kafka {
    pub(crate) logs: Vec<Log>,
    pub(crate) away: bool,
    /// Reports are late, or say that an event is lost that is there.
    pub(crate) unreliable: bool,
}

impl Kafka {
    pub(crate) fn new() -> Self {
        Self {
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            away: false,
            unreliable: false,
        }
    }

    pub(crate) fn partition(vnode: Vnode, vnodes: usize) -> usize {
        partition(vnode, PARTITIONS as i32, vnodes as u32) as usize
    }

    /// Deletes every event there is, as retention does.
    pub(crate) fn delete(&mut self) {
        for log in &mut self.logs {
            log.begin = log.events.len();
        }
    }

    /// The newest event of a user, by version.
    pub(crate) fn last(&self, partition: usize, user: &str) -> Option<&Event<'static>> {
        let events = self.logs[partition].events.iter();
        events
            .filter(|event| event.user == user)
            .max_by_key(|event| event.version)
    }
}
