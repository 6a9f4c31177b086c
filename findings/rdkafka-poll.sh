#!/usr/bin/env bash
# rdkafka 0.39.0 (crates.io): `BaseProducer::poll(timeout)` waits for the whole milliseconds that are left, and
# then calls librdkafka without a wait, over and over, until the rest of the last one is over. So an idle producer
# that is polled in turns spins for most of a millisecond in each; with a timeout a little above whole
# milliseconds it does not.
#
# Seen, CPU of the thread a call, µs (differs by machine):
#   poll(50 ms): 853, poll(50.3 ms): 214
#
# Exits 0 while the first is more than twice the second. Needs cargo, a C compiler and make; fetches rdkafka
# into a temporary folder, and builds librdkafka.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "turns"
version = "0.0.0"
edition = "2021"

[dependencies]
rdkafka = { version = "=0.39.0", default-features = false, features = ["libz-static"] }

[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use std::time::Duration;

use rdkafka::{ClientConfig, producer::BaseProducer};

/// CPU time of this thread, ns.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn main() {
    let producer: BaseProducer = ClientConfig::new().create().unwrap();
    let spent = |turn: Duration| {
        let before = cpu();
        (0..40).for_each(|_| producer.poll(turn));
        (cpu() - before) / 40 / 1_000
    };
    let (whole, above) = (spent(Duration::from_millis(50)), spent(Duration::from_micros(50_300)));
    println!("poll(50 ms): {whole}, poll(50.3 ms): {above}");
    std::process::exit(i32::from(whole <= 2 * above));
}
RUST
cd "$folder"
cargo run --quiet
