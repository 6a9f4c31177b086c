//! Health, metrics and administration on an address of their own, served by a few threads with blocking
//! sockets, so that they answer even when a core is busy. It reads what the cores publish, and changes
//! nothing but what administrators decree.

mod decree;

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{http, pages, shared::Shared};

/// How long a client may take for its request, for its answer, and to read that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Clients that are served at a time; one more waits for the one before it.
const MAX_CLIENTS: usize = 128;

/// Serves `listener` for the life of the process.
pub(crate) fn run(listener: &TcpListener, shared: &Arc<Shared>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, mostly.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let busy = clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS;
        let place = Place(Arc::clone(&clients));
        let shared = Arc::clone(shared);
        let client = move || {
            // A failed client is its own loss alone.
            let _ = serve(stream, &shared);
            drop(place);
        };
        if busy {
            client();
            continue;
        }
        let thread = std::thread::Builder::new().name("admin-client".into());
        if let Err(error) = thread.spawn(client) {
            warn!(
                event = "admin_client_not_served",
                "a client of the admin address is not served: {error}"
            );
        }
    }
}

/// Stands for one client that is served.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let deadline = Instant::now() + PATIENCE;
    let mut stream = InTime { stream, deadline };
    match &shared.admin_tls {
        None => answer(&mut stream, shared)?,
        Some(tls) => {
            let mut connection = tls.connection().map_err(io::Error::other)?;
            let mut secure = rustls::Stream::new(&mut connection, &mut stream);
            let answered = answer(&mut secure, shared);
            // What is wrong with the handshake is told, too.
            secure.conn.send_close_notify();
            let flushed = secure.flush();
            answered.and(flushed)?;
        }
    }
    stream.linger()
}

/// A socket whose bytes are waited for until a deadline only. Those that are there by then are still
/// read, as a thread that a full machine let wait is no reason to refuse a probe.
struct InTime {
    stream: TcpStream,
    deadline: Instant,
}

impl InTime {
    /// Lets the client read what it was told: a socket closed with unread bytes would be reset.
    fn linger(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        self.deadline = Instant::now() + PATIENCE;
        let mut dropped = [0; 16 << 10];
        while self.read(&mut dropped)? > 0 && Instant::now() < self.deadline {}
        Ok(())
    }
}

impl Read for InTime {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            // No timeout of zero can be set: that would be none.
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                // A process that was stopped and goes on (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for InTime {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Reads one request and answers it.
fn answer(mut stream: impl Read + Write, shared: &Shared) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    let (response, head_only) = loop {
        match http::parse(&bytes, shared.config.server.max_header.0) {
            Err(bad) => break (http::Response::problem(bad.0, &bad.1), false),
            Ok(Some((request, head))) if decree::is_decree(&request) => {
                let by = match decree::administrator(shared, &request) {
                    Ok(by) => by,
                    Err(response) => break (response, false),
                };
                let end = head + request.body_length;
                if bytes.len() >= end {
                    break (
                        decree::answer(shared, &request, &by, &bytes[head..end]),
                        false,
                    );
                }
            }
            Ok(Some((request, _))) => {
                let response = pages::health(shared, &request).unwrap_or_else(|| {
                    http::Response::problem(404, "there is nothing at this path")
                });
                break (response, request.method == "HEAD");
            }
            Ok(None) => {}
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            taken => bytes.extend_from_slice(&buffer[..taken]),
        }
    };
    stream.write_all(&response.encode(false, head_only))
}
