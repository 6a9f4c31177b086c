//! The thread of a core: its ring, its tasks, and the sockets that it accepts.

use std::{
    net::TcpListener,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use presence::{Core, Settings};
use ring::{CoreId, Epoch};
use tracing::{error, warn};

use super::error::in_words;
use crate::{
    bus::Bus,
    clock,
    cluster::WorkerLinks,
    connection,
    mesh::Mesh,
    shared::Shared,
    store::Store,
    worker::{CoreMessage, Worker},
};

/// What a core's thread begins with.
pub(super) struct CoreStart {
    pub(super) shared: Arc<Shared>,
    pub(super) id: CoreId,
    /// The CPU to pin it to, by `server.pin`.
    pub(super) cpu: usize,
    pub(super) settings: Settings,
    pub(super) owned: Option<(Epoch, u64)>,
    pub(super) listener: TcpListener,
    pub(super) mesh: Mesh<CoreMessage>,
    pub(super) store: Box<dyn Store + Send>,
    pub(super) bus: Box<dyn Bus + Send>,
    pub(super) links: Option<WorkerLinks>,
}

impl CoreStart {
    /// Runs the core on a thread of its own until it is drained; then it is no longer counted among
    /// those that are `running`. One that fails ends the process.
    pub(super) fn spawn(self, running: Arc<AtomicUsize>) -> std::io::Result<()> {
        let (n, cpu) = (self.id.get(), self.cpu);
        let core = move || {
            if self.shared.config.server.pin
                && let Err(error) = monoio::utils::bind_to_cpu_set([cpu])
            {
                warn!(
                    event = "core_not_pinned",
                    core = n,
                    cpu,
                    "core {n} is not pinned to CPU {cpu}: {error}"
                );
            }
            if let Err(error) = self.run() {
                error!(
                    event = "core_failed",
                    core = n,
                    "core {n}: {}",
                    in_words_of_core(&error)
                );
                program::log::flush();
                std::process::exit(1);
            }
            running.fetch_sub(1, Ordering::AcqRel);
        };
        let thread = std::thread::Builder::new().name(format!("core-{n}"));
        thread.spawn(core).map(drop)
    }

    /// Runs the core until it is drained.
    fn run(self) -> std::io::Result<()> {
        let mut ring = io_uring::IoUring::builder();
        // Completions interrupt nothing, and are noticed without a system call: with work that is
        // deferred to the next wait instead, a busy loop would see them late.
        ring.setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_single_issuer()
            .setup_cqsize(4_096);
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .with_entries(1_024)
            .uring_builder(ring)
            .enable_timer()
            .build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> std::io::Result<()> {
        let Self {
            shared,
            id,
            cpu: _,
            settings,
            owned,
            listener,
            mesh,
            store,
            bus,
            links,
        } = self;
        let mut core = Core::new(settings, clock::now());
        for vnode in shared.vnodes.all() {
            let home = shared.core_of(vnode);
            if home != id {
                core.at_home_on(vnode, home);
            } else if let Some((epoch, seq)) = owned {
                core.own(vnode, epoch, seq);
            }
        }
        let worker = Worker::new(Arc::clone(&shared), core, mesh, store, bus, links)?;
        monoio::spawn(Rc::clone(&worker).pump_task());
        monoio::spawn(Rc::clone(&worker).receive_task());
        monoio::spawn(Rc::clone(&worker).read_task(worker.waiter()?));
        let listener = monoio::net::TcpListener::from_std(listener)?;
        monoio::spawn(accept(Rc::clone(&worker), listener));
        worker.tick_task().await;
        Ok(())
    }
}

async fn accept(worker: Rc<Worker>, listener: monoio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                monoio::spawn(connection::serve(Rc::clone(&worker), stream, peer));
            }
            Err(_) => {
                // Out of descriptors, mostly: the others go on, and it is tried again.
                worker.stats.borrow_mut().accept_errors += 1;
                monoio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Why a core ended. That its rings found no memory is mostly a limit, which the error does not name.
fn in_words_of_core(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::OutOfMemory => in_words(error),
        _ => error.to_string(),
    }
}
