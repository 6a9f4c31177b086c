//! What the first thread does while the cores serve: it hears signals, tells the service manager how
//! the edge is, and sees to the shutdown.

use std::{
    io::{ErrorKind, Read},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use program::{AGAIN, Condition, Service};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::{backend::SignalDelivery, exfiltrator::SignalOnly},
};
use tracing::{error, info, warn};

use crate::{allocator, clock, cluster, pages, shared::Shared, start::StartError};

/// Time between two looks at the cores and the process's memory; a signal is heard at once.
const LOOK: Duration = Duration::from_millis(500);
/// The same while a service manager waits for the edge to be ready.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The same once the edge was told to end.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// Returns when a signal has ended the edge.
pub(crate) fn until_end(shared: &Arc<Shared>, running: &AtomicUsize) -> Result<(), StartError> {
    // The cores end by themselves; one that does not is not waited for.
    let patience = shared.config.server.drain_timeout + Duration::from_secs(2);
    let mut stopping: Option<Instant> = None;
    let mut last_move = (0, Instant::now());
    let mut signals = Signals::new()?;
    // The start took more than this thread will.
    allocator::give_back();
    let (mut service, mut published) = (Service::new(), Vec::new());
    loop {
        shared.gate.look_at_memory();
        if let Some(decrees) = &shared.decrees {
            decrees.forget(clock::wall_ms());
        }
        service.update(|| condition(shared, &mut published));
        for signal in signals.0.pending() {
            match signal {
                SIGHUP => service.reload(|| reload(shared)),
                _ if stopping.is_some_and(|since| since.elapsed() < AGAIN) => {}
                _ if stopping.is_some() => {
                    warn!(event = "stopped_at_once", "told twice to stop: ending now");
                    return Ok(());
                }
                _ => {
                    info!(
                        event = "stopping",
                        "shutting down: sessions are told to go elsewhere"
                    );
                    service.stop();
                    stopping = Some(Instant::now());
                    match &shared.place {
                        Some(place) => place.leave(),
                        None => shared.drain(),
                    }
                }
            }
        }
        if let (Some(since), Some(place)) = (stopping, &shared.place)
            && !shared.is_draining()
            && (moved_away(place, &mut last_move)
                || since.elapsed() > shared.config.server.drain_timeout / 2)
        {
            shared.drain();
        }
        if stopping.is_some_and(|since| since.elapsed() > patience) {
            return Err(StartError::Drain(running.load(Ordering::Acquire)));
        }
        if running.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        signals.wait(match stopping {
            Some(_) => LAST_LOOK,
            None if service.is_starting() => FIRST_LOOK,
            None => LOOK,
        })?;
    }
}

/// The signals that the edge hears; its pipe has a byte for each that came.
struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    fn new() -> std::io::Result<Self> {
        let (pipe, write) = UnixStream::pair()?;
        let all = [SIGTERM, SIGINT, SIGHUP];
        SignalDelivery::with_pipe(pipe, write, SignalOnly, all).map(Self)
    }

    /// Waits for a signal, no longer than `patience`.
    fn wait(&mut self, patience: Duration) -> std::io::Result<()> {
        let pipe = self.0.get_read_mut();
        pipe.set_read_timeout(Some(patience))?;
        match pipe.read(&mut [0; 16]) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// How long nothing moves any more when nobody takes it.
const NOBODY_TAKES: Duration = Duration::from_secs(5);

/// Whether no other node has to take, or takes, anything more from this one. `last`: when how many
/// vnodes were left.
fn moved_away(place: &cluster::Place, last: &mut (usize, Instant)) -> bool {
    let (_, moving) = place.progress();
    let left = place.owned() + moving;
    if left != last.0 {
        *last = (left, Instant::now());
    }
    left == 0 || !place.has_others() || last.1.elapsed() > NOBODY_TAKES
}

/// How the edge is. `published`: how often each core had published at the last look.
fn condition(shared: &Shared, published: &mut Vec<u64>) -> Condition {
    let before = std::mem::replace(published, shared.metrics.published());
    // A core that has ended publishes nothing; how long that may take is limited elsewhere.
    let goes_on = |(now, before): (&u64, &u64)| now != before;
    let (status, what) = pages::readiness(shared);
    Condition {
        is_ready: status == 200,
        is_alive: shared.is_draining() || published.iter().zip(&before).all(goes_on),
        status: what,
    }
}

/// Takes new certificates and keys for new connections; on an error the old ones stay.
fn reload(shared: &Shared) -> Result<(), String> {
    let mut errors = Vec::new();
    let advised = |error: String| match settings::file_advice(&error) {
        Some(advice) => format!("{error}; {advice}"),
        None => error,
    };
    for tls in [&shared.tls, &shared.admin_tls].into_iter().flatten() {
        match tls.reload() {
            Ok(()) => info!(
                event = "certificate_loaded",
                "the certificate was loaded again"
            ),
            Err(error) => {
                let error = advised(error.to_string());
                errors.push(format!("the old certificate stays: {error}"));
            }
        }
    }
    match shared.keys.reload() {
        Ok(()) => info!(
            event = "keys_loaded",
            "the keys for tokens were loaded again"
        ),
        Err(error) => {
            let error = advised(error.to_string());
            errors.push(format!("the old token keys stay: {error}"));
        }
    }
    errors
        .iter()
        .for_each(|error| error!(event = "reload_failed", "{error}"));
    if errors.is_empty() {
        return Ok(());
    }
    Err(errors.join("; "))
}
