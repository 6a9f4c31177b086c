#!/usr/bin/env bash
# Linux 6.18 (io_uring, by the crate io-uring 0.6.4 of crates.io): the removal of a multishot poll request that is
# made while bytes arrive can fail with EALREADY, and the request stays then: it goes on telling of the socket,
# and the socket, whose descriptor is closed, stays open to the other side. io_uring_prep_poll_remove(3) says that
# the request is "already in process of executing"; a one-shot request would end with that. Who removes requests
# by name has to look at this result, and ask again.
#
# Seen, with clients that write all the time (differs by machine and run):
#   100 removals, 9 failed with EALREADY, then 11 more events of those sockets
#
# Exits 0 while a removal fails so and the request tells of its socket afterwards. Needs cargo and two cores.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "removals"
version = "0.0.0"
edition = "2021"

[dependencies]
io-uring = "=0.6.4"
libc = "0.2"

[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types::Fd};

const REMOVAL: u64 = 1 << 32;

/// Enters the kernel; the completions: name, result, whether more come.
fn turn(ring: &mut IoUring) -> Vec<(u64, i32, bool)> {
    ring.submit().unwrap();
    let more = |entry: &cqueue::Entry| cqueue::more(entry.flags());
    ring.completion().map(|entry| (entry.user_data(), entry.result(), more(&entry))).collect()
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    unsafe { ring.submission().push(entry).unwrap() };
}

fn main() {
    let mut ring = IoUring::builder().setup_coop_taskrun().setup_single_issuer().setup_cqsize(4096).build(8).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut removals, mut failed, mut told_after) = (0, 0, 0);
    for name in 0..100 {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut end = listener.accept().unwrap().0;
        end.set_nonblocking(true).unwrap();
        let flood = std::thread::spawn(move || while client.write_all(&[0; 1 << 10]).is_ok() {});
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        push(&mut ring, &opcode::PollAdd::new(Fd(end.as_raw_fd()), events).multi(true).build().user_data(name));
        let mut told = 0;
        while told < 20 {
            told += turn(&mut ring).iter().filter(|(which, ..)| *which == name).count();
            while end.read(&mut [0; 1 << 10]).is_ok() {}
        }
        let removal = opcode::PollRemove::new(name).build().user_data(name | REMOVAL);
        push(&mut ring, &removal);
        removals += 1;
        drop(end);
        let mut asked_again = false;
        while !flood.is_finished() {
            for (which, result, more) in turn(&mut ring) {
                if which == name | REMOVAL && result == -libc::EALREADY {
                    failed += 1;
                    push(&mut ring, &removal);
                    asked_again = true;
                } else if which == name && more && asked_again {
                    told_after += 1;
                }
            }
            std::thread::yield_now();
        }
        flood.join().unwrap();
    }
    println!("{removals} removals, {failed} failed with EALREADY, then {told_after} more events of those sockets");
    std::process::exit(i32::from(failed == 0 || told_after == 0));
}
RUST
cd "$folder"
cargo run --quiet --release
