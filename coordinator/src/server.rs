//! The listener: connections within their limits, and an end that lets requests finish. It owns
//! sockets; what is answered is the router's business.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{error, warn};

use crate::{linger::Lingering, metrics::Metrics, stop::Stop};

/// Headers that a request may have; more are answered 431.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's head, one of the longest tokens among them; more are answered 431.
const MAX_HEAD: usize = token::MAX_TOKEN + (4 << 10);
/// The answer to a connection above the limit.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
content-length: 100\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections\"}  \n";

/// The limits of connections and of their steps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// For a request's head, and between two requests.
    pub(crate) header_timeout: Duration,
    /// For what is under way at the end.
    pub(crate) shutdown: Duration,
}

/// Serves until `stop`; then lets the requests that are under way finish, for a while.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    metrics: Arc<Metrics>,
    mut stop: Stop,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Takes the finished ones out of the set.
            Some(_) = connections.join_next() => continue,
            () = stop.signalled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No descriptors or memory: those that are open may end meanwhile.
                if !is_of_the_connection(&error) {
                    error!(
                        event = "connections_not_accepted",
                        "connections cannot be accepted: {error}"
                    );
                    sleep(Duration::from_millis(100)).await;
                }
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            metrics.connection_refused();
            refuse(stream);
            continue;
        };
        let (router, metrics, stop) = (router.clone(), Arc::clone(&metrics), stop.clone());
        connections.spawn(async move {
            let _open = metrics.connection();
            let _permit = permit;
            converse(stream, router, limits, stop).await;
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.shutdown, finished).await.is_err() {
        warn!(
            event = "connections_cut",
            "{} connections did not end in time",
            connections.len()
        );
        connections.shutdown().await;
    }
}

async fn converse(stream: TcpStream, router: Router, limits: Limits, mut stop: Stop) {
    // Without it answers are only slower.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(
            TokioIo::new(Lingering::new(stream)),
            TowerToHyperService::new(router),
        );
    let mut connection = pin!(connection);
    // How a client leaves is its own business.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.signalled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// Answers without waiting, which the empty buffer of a new connection allows, and takes what the
/// client has sent, since closing over it would take the answer back.
fn refuse(stream: TcpStream) {
    use std::io::{Read, Write};
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(BUSY);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0; 4_096]);
    }
}

/// The client was gone before it was accepted.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
    )
}
