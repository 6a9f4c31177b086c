//! Whether the node reads the bus: where all edges have links nobody has to. While one has none, as in a
//! rolling upgrade, all do; and so does a node whose lease is not renewed, as it hears of no successor
//! that it cannot find in Redis. It owns the consumer, and finds out who has links.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kafka_bus::{BadMessage, Consumer, OpenError, Sink};
use protocol::Event;
use redis_store::Link;
use tracing::{error, info};

use super::Place;
use crate::bus::Inlet;

/// The longest time between two looks at who has links.
const LOOK: Duration = Duration::from_secs(1);

/// The reader of the bus, if there is one.
pub(crate) struct BusReader {
    options: kafka_bus::Options,
    inlet: Arc<Mutex<Inlet>>,
    place: Arc<Place>,
    consumer: Mutex<Option<Consumer>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BusReader {
    pub(super) fn new(options: kafka_bus::Options, inlet: Inlet, place: Arc<Place>) -> Self {
        Self {
            options,
            inlet: Arc::new(Mutex::new(inlet)),
            place,
            consumer: Mutex::default(),
        }
    }

    /// Begins to read the bus, from now on.
    pub(super) fn start(&self) -> Result<(), OpenError> {
        let tap = Tap(Arc::clone(&self.inlet));
        let consumer = Consumer::start(self.options.clone(), Box::new(tap))?;
        self.place.set_consumer(Some(Arc::clone(consumer.health())));
        *locked(&self.consumer) = Some(consumer);
        Ok(())
    }

    fn is_reading(&self) -> bool {
        locked(&self.consumer).is_some()
    }

    /// Ends reading; what was read goes on to the cores.
    pub(super) fn stop(&self) {
        let consumer = locked(&self.consumer).take();
        self.place.set_consumer(None);
        if let Some(consumer) = consumer {
            consumer.stop();
        }
    }
}

/// The way of a consumer to the inlet, which outlives it.
struct Tap(Arc<Mutex<Inlet>>);

impl Sink for Tap {
    fn wants(&self, key: &[u8]) -> bool {
        locked(&self.0).wants(key)
    }

    fn event(&mut self, event: Event<'_>) {
        locked(&self.0).event(event);
    }

    fn gap(&mut self) {
        locked(&self.0).gap();
    }

    fn bad(&mut self, partition: i32, offset: i64, error: &BadMessage) {
        locked(&self.0).bad(partition, offset, error);
    }

    fn idle(&mut self) {
        locked(&self.0).idle();
    }
}

/// Finds out who has links, and reads the bus while somebody in the map has none. Runs until the node
/// ends.
pub(super) async fn keep(link: Link, place: &Place, reader: &Arc<BusReader>) {
    let Some(links) = &place.links else {
        return;
    };
    while !place.is_ending() {
        let lapses = place.lease_lapses();
        // A Redis that does not answer would keep this from what follows; that is said elsewhere.
        if !lapses
            && links.take_unknown()
            && let Ok(leases) = link.leases().await
        {
            for lease in leases.good {
                links.knows(lease.boot, &lease.link);
            }
        }
        let why = if links.needs_bus(place) {
            Some("an edge of the cluster has no links")
        } else if lapses {
            Some("this node's lease is not renewed")
        } else {
            None
        };
        if let Some(why) = why
            && !reader.is_reading()
        {
            match reader.start() {
                Ok(()) => {
                    info!(event = "events_read", "kafka: events are read, since {why}");
                    links.tell_bus(true);
                }
                Err(error) => {
                    error!(
                        event = "events_not_read",
                        "kafka: events cannot be read: {error}"
                    );
                }
            }
        } else if why.is_none() && reader.is_reading() {
            info!(
                event = "events_read_no_longer",
                "kafka: events are read no longer, since all edges are heard over links"
            );
            links.tell_bus(false);
            let reader = Arc::clone(reader);
            // It may wait for a broker.
            std::thread::spawn(move || reader.stop());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        links.bus_news(LOOK).await;
    }
}
