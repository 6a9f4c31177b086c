#!/usr/bin/env bash
# ppp 2.3.0 (crates.io), PROXY protocol version 1: `HeaderResult::parse(..).is_incomplete()` is to say
# whether more bytes may still make a header whole ("a terminal error will not result in a success even
# with more bytes"). One cut of a valid header is called terminal all the same: behind the space before the
# last port. A proxy's header that the network splits there would be refused.
#
# Seen:
#   cut at 36 of 40, "PROXY TCP4 192.0.2.1 10.0.0.1 12345 ": called terminal
#   1 of 39 cuts of a valid header are called terminal
#
# Exits 0 while that is so. Needs cargo; fetches ppp into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "split"
version = "0.0.0"
edition = "2021"

[dependencies]
ppp = "=2.3.0"

[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use ppp::{HeaderResult, PartialResult};

fn main() {
    let header = "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n";
    assert!(matches!(HeaderResult::parse(header.as_bytes()), HeaderResult::V1(Ok(_))));
    let mut terminal = 0;
    for cut in 1..header.len() {
        let part = &header[..cut];
        if !HeaderResult::parse(part.as_bytes()).is_incomplete() {
            terminal += 1;
            println!("cut at {cut} of {}, {part:?}: called terminal", header.len());
        }
    }
    println!("{terminal} of {} cuts of a valid header are called terminal", header.len() - 1);
    std::process::exit(if terminal == 1 { 0 } else { 1 });
}
RUST
cargo run --quiet --manifest-path "$folder/Cargo.toml"
