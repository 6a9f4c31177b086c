//! The stores and buses behind the cores: embedded, or those of a cluster.

use std::sync::Arc;

use keys::Keys;
use ring::{CoreId, Epoch};

use super::StartError;
use crate::{
    bus::{self, Bus},
    clock,
    cluster::{self, WorkerLinks},
    config::Config,
    mesh::Wakeup,
    metrics::Metrics,
    store::{self, Failing, Store},
    surveys::Surveys,
    trace::Traces,
};

/// The stores and buses behind the cores.
pub(super) struct Backend {
    pub(super) stores: Vec<Box<dyn Store + Send>>,
    pub(super) buses: Vec<Box<dyn Bus + Send>>,
    pub(super) links: Vec<Option<WorkerLinks>>,
    /// The epoch and first sequence of all vnodes, when all are this edge's.
    pub(super) owned: Option<(Epoch, u64)>,
    pub(super) end: Option<cluster::End>,
    pub(super) failing: Arc<Failing>,
}

pub(super) fn standalone(config: &Config, wakeups: &[Arc<Wakeup>]) -> Result<Backend, StartError> {
    let retention = config.store.retention.as_millis() as u64;
    let failing = Arc::default();
    let (stores, epoch, seq) = open_store(config, retention, wakeups, &failing)?;
    let bus = |_| Box::new(bus::Embedded::default()) as Box<dyn Bus + Send>;
    Ok(Backend {
        stores,
        buses: wakeups.iter().map(bus).collect(),
        links: wakeups.iter().map(|_| None).collect(),
        owned: Some((epoch, seq)),
        end: None,
        failing,
    })
}

pub(super) fn clustered(
    config: &Config,
    address: &str,
    homes: &[CoreId],
    wakeups: &[Arc<Wakeup>],
    seen: (&Arc<Metrics>, &Arc<Traces>, &Arc<Surveys>),
    keys: &Arc<Keys>,
) -> Result<Backend, StartError> {
    let node = cluster::node_id(config)?;
    let cluster = cluster::start(config, node, address, homes, wakeups, seen, keys)?;
    let links = cluster.events.into_iter().map(|events| {
        let place = Arc::clone(&cluster.place);
        Some(WorkerLinks { place, events })
    });
    Ok(Backend {
        stores: cluster.stores,
        buses: cluster.buses,
        links: links.collect(),
        owned: None,
        end: Some(cluster.end),
        failing: Arc::clone(&cluster.place.store_stats.failing),
    })
}

type Stores = (Vec<Box<dyn Store + Send>>, Epoch, u64);

fn open_store(
    config: &Config,
    retention: u64,
    wakeups: &[Arc<Wakeup>],
    failing: &Arc<Failing>,
) -> Result<Stores, StartError> {
    if config.store.data.as_os_str().is_empty() {
        let memory = |_| Box::new(store::Memory::new(retention)) as Box<dyn Store + Send>;
        // Nothing of a former process is left but what clients know: versions must be newer.
        // Days count as epochs and 64ths of milliseconds as the sequence of the day.
        const DAY: u64 = 86_400_000;
        let now = clock::wall_ms();
        let epoch = Epoch::new((now / DAY) as u32);
        return Ok((wakeups.iter().map(memory).collect(), epoch, now % DAY * 64));
    }
    let (data, failing) = (&config.store.data, Arc::clone(failing));
    let (handles, epoch) = store::Durable::open(data, retention, wakeups, failing)?;
    let boxed = |handle| Box::new(handle) as Box<dyn Store + Send>;
    Ok((handles.into_iter().map(boxed).collect(), epoch, 0))
}
