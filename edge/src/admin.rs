//! Health and metrics on an address of their own, served by one thread with blocking sockets, so
//! that they answer even when a core is busy. It reads what the cores publish and changes nothing.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use crate::{http, pages, shared::Shared};

/// How long a client may take for its request, and for its answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves `listener` for the life of the process.
pub(crate) fn run(listener: &TcpListener, shared: &Arc<Shared>) {
    // A failed accept or client is the client's loss alone.
    for stream in listener.incoming().flatten() {
        let _ = serve(stream, shared);
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    let started = std::time::Instant::now();
    let response = loop {
        match http::parse(&bytes, shared.config.server.max_header.0) {
            Err(bad) => break http::Response::problem(bad.0, bad.1),
            Ok(Some((request, _))) => {
                break pages::health(shared, &request.path).unwrap_or_else(|| {
                    http::Response::problem(404, "there is nothing at this path")
                });
            }
            Ok(None) => {}
        }
        if started.elapsed() > PATIENCE {
            return Ok(());
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            taken => bytes.extend_from_slice(&buffer[..taken]),
        }
    };
    stream.write_all(&response.encode(false, false))
}
