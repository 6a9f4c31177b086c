//! An address that leads to another server from one moment on, as a DNS name does, for tests.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    thread,
};

/// What passes on the way from the server, changed in place.
type Change = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// An address on 127.0.0.1 whose new connections go to the server that it leads to then. Those
/// that there are stay where they are.
pub struct Detour {
    port: u16,
    target: Arc<AtomicU16>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Detour {
    /// To the server at that port of 127.0.0.1.
    ///
    /// # Panics
    /// When there is no port to listen on.
    #[must_use]
    pub fn to(port: u16) -> Self {
        Self::with(port, |_| {})
    }

    /// The same, with the server's bytes changed on their way, which keep their number.
    ///
    /// # Panics
    /// When there is no port to listen on.
    #[must_use]
    pub fn with(port: u16, change: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let detour = Self {
            port: listener.local_addr().expect("its address").port(),
            target: Arc::new(AtomicU16::new(port)),
            open: Arc::default(),
        };
        let (target, open) = (Arc::clone(&detour.target), Arc::clone(&detour.open));
        let change: Change = Arc::new(change);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target.load(Relaxed))) else {
                    continue;
                };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                let (from, to) = (clone(&client), clone(&server));
                open.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend([clone(&client), clone(&server)]);
                let change = Arc::clone(&change);
                thread::spawn(move || pass(&from, &to, &|_| {}));
                thread::spawn(move || pass(&server, &client, &*change));
            }
        });
        detour
    }

    /// The port of this detour, on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on it leads to the server at that port.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Relaxed);
    }

    /// Ends every connection through the detour.
    pub fn cut(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, change: &dyn Fn(&mut [u8])) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
