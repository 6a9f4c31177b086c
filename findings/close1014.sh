#!/usr/bin/env bash
# tungstenite 0.30.0 (crates.io): `CloseCode::from(1014)` is `Bad`, and `is_allowed` says no, so that a peer's
# close with 1014 is a protocol error. IANA has 1014 ("Bad Gateway") in its registry of WebSocket close codes,
# beside 1012 and 1013, which are known.
#
# Seen:
#   1011 allowed, 1012 allowed, 1013 allowed, 1014 refused
#
# Exits 0 while that is so. Needs cargo; fetches tungstenite into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "close"
version = "0.0.0"
edition = "2021"

[dependencies]
tungstenite = { version = "=0.30.0", default-features = false }

[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use tungstenite::protocol::frame::coding::CloseCode;

fn main() {
    let of = |code: u16| match CloseCode::from(code).is_allowed() {
        true => format!("{code} allowed"),
        false => format!("{code} refused"),
    };
    println!("{}", [1011, 1012, 1013, 1014].map(of).join(", "));
}
RUST
cd "$folder"
seen=$(cargo run --quiet)
echo "$seen"
[ "$seen" = "1011 allowed, 1012 allowed, 1013 allowed, 1014 refused" ]
