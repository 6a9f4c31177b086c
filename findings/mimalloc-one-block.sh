#!/usr/bin/env bash
# mimalloc 3 (crate mimalloc 0.1.52, crates.io): `mi_collect(true)` gives back pages of its own that are empty, and nothing
# of one in which a block is left. Blocks of some 9 to 64 KiB lie in pages of 512 KiB, so that one of them, kept when a
# thousand others are freed, holds up to half a megabyte; freed as well, it is all given back.
#
# Seen, resident KiB beyond the start (differs by machine):
#   all blocks: 12336, one kept: 556, none: 52
#
# Exits 0 while the one holds more than 256 KiB that the last step gives back. Needs cargo and a C compiler; fetches
# mimalloc into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "kept"
version = "0.0.0"
edition = "2021"

[dependencies]
mimalloc = { version = "=0.1.52", default-features = false, features = ["no_thp"] }

[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

extern "C" {
    fn mi_collect(force: bool);
}

/// Resident anonymous memory, KiB, once what is free is given back.
fn resident() -> i64 {
    unsafe { mi_collect(true) };
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(1_024);
    let start = resident();
    blocks.extend((0..1_024).map(|_| vec![1; 12 << 10]));
    let all = resident() - start;
    blocks.truncate(1);
    let one = resident() - start;
    blocks.clear();
    let none = resident() - start;
    println!("all blocks: {all}, one kept: {one}, none: {none}");
    std::process::exit(i32::from(one - none <= 256));
}
RUST
cd "$folder"
cargo run --quiet --release
