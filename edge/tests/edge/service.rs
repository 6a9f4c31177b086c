//! What a service manager is told, as systemd hears it.

use std::{os::unix::net::UnixDatagram, time::Duration};

use rustix::process::Signal;

use crate::common::{Edge, Folder};

/// A manager's end of what it is told.
struct Manager(UnixDatagram);

impl Manager {
    /// Waits until it is told something with this line; the whole of it.
    fn hears(&self, line: &str) -> String {
        let mut bytes = [0; 4_096];
        loop {
            let taken = self
                .0
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("never {line}: {error}"));
            let told = String::from_utf8_lossy(&bytes[..taken]).into_owned();
            if told.lines().any(|told| told == line) {
                return told;
            }
        }
    }
}

#[test]
fn a_service_manager_hears_of_the_start_of_life_of_reloads_and_of_the_end() {
    let folder = Folder::new();
    let socket = folder.0.join("notify");
    let manager = Manager(UnixDatagram::bind(&socket).expect("a socket"));
    manager
        .0
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    let (certificate, key) = crate::tls::in_files(&folder, &crate::tls::certificate());
    let flags = ["--tls-certificate", &certificate, "--tls-key", &key];
    let mut edge = Edge::start_as_service(&socket, &flags);
    assert!(manager.hears("READY=1").contains("STATUS=ready"));
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
    edge.signal(Signal::HUP);
    assert!(manager.hears("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(manager.hears("READY=1").contains("STATUS=ready"));
    folder.file("cert.pem", "none");
    edge.signal(Signal::HUP);
    manager.hears("RELOADING=1");
    let said = manager.hears("READY=1");
    assert!(
        said.contains("STATUS=the old certificate stays: tls.certificate = ")
            && said.contains("cert.pem is no PEM"),
        "{said}"
    );
    edge.signal(Signal::TERM);
    manager.hears("STOPPING=1");
    assert_eq!(edge.wait(), Some(0));
}
