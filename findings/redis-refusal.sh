#!/usr/bin/env bash
# redis 1.8.1 (crates.io), Redis 7.0.15: a server that takes no more clients (`maxclients`) writes
# "-ERR max number of clients reached" to whoever connects, and closes, before anything is asked. The client does not
# read it before it writes what it has to say itself: its error is one of a broken connection, and the server's
# reason is lost. Whoever reads first, as below by bash, has it.
#
# Seen:
#   by bash: -ERR max number of clients reached
#   by redis: broken pipe
#
# Exits 0 while bash shows the reason and the client's error does not. Needs cargo and redis-server; fetches redis
# into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "refused"
version = "0.0.0"
edition = "2021"

[dependencies]
redis = { version = "=1.8.1", default-features = false, features = ["tokio-comp"] }
tokio = { version = "1", features = ["rt", "macros"] }

[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let client = redis::Client::open(std::env::args().nth(1).unwrap()).unwrap();
    match client.get_multiplexed_async_connection().await {
        Ok(mut connection) => {
            let answer: redis::RedisResult<String> = redis::cmd("PING").query_async(&mut connection).await;
            println!("{answer:?}");
        }
        Err(error) => println!("{error}"),
    }
}
RUST
cd "$folder"
cargo build --quiet
port=27379
redis-server --port "$port" --save '' --maxclients 1 --daemonize no > server.log &
server=$!
exec 3<>/dev/null
for _ in $(seq 50); do
  # The one client that it takes.
  { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2> /dev/null && break
  sleep 0.1
done
printf 'PING\r\n' >&3
read -r -u 3 pong
[[ $pong == +PONG* ]]
exec 4<>"/dev/tcp/127.0.0.1/$port"
read -r -u 4 reason
reason=${reason%$'\r'}
errors=$(for _ in 1 2 3 4 5; do target/debug/refused "redis://127.0.0.1:$port/"; done | sort | uniq)
printf 'by bash: %s\nby redis: %s\n' "$reason" "$errors"
[[ $reason == *'max number of clients'* && $errors != *'max number of clients'* ]]
