//! What an edge says when it has started.

use std::net::SocketAddr;

use tracing::{info, warn};

use super::scheme;
use crate::{clock, config::DEVELOPMENT_SECRET, shared::Shared};

/// Says that the edge has started: to people in plain text, and in a log of JSON.
/// `connections`: how many the limit of open files allows.
pub(super) fn announce(shared: &Shared, listen: SocketAddr, admin: SocketAddr, connections: u64) {
    let admin = format!("{}://{admin}", scheme("http", shared.admin_tls.is_some()));
    let config = &shared.config;
    let store = match &shared.place {
        Some(place) => format!("Redis at {}", place.link.address()),
        None if config.store.data.as_os_str().is_empty() => {
            "in memory; use --data DIR to keep it".to_owned()
        }
        None => config.store.data.display().to_string(),
    };
    let wanted = config.server.max_connections;
    if let Some(line) = program::few_connections(connections, "server.max_connections", wanted) {
        warn!(event = "connections_limited", "{line}");
    }
    if let Some(line) = config
        .links_on_loopback()
        .filter(|_| shared.place.is_some())
    {
        warn!(event = "links_on_loopback", "{line}");
    }
    if program::log::tells_people() {
        greet(shared, listen, &admin, &store);
    }
    if program::log::is_json() {
        info!(
            event = "started",
            version = env!("CARGO_PKG_VERSION"),
            node = config.node.id,
            cores = config.server.cores,
            connections = shared.gate.limits.connections,
            open_files = program::open_files(),
            clients = shared.public_url,
            admin,
            store,
            brokers = shared.place.is_some().then_some(&*config.kafka.brokers),
            development = shared.development,
            "online-status-edge has started"
        );
    }
}

fn greet(shared: &Shared, listen: SocketAddr, admin: &str, store: &str) {
    let scheme = scheme("http", shared.tls.is_some());
    let kind = match &shared.place {
        None => "standalone".to_owned(),
        Some(place) => format!("node {}", place.node),
    };
    println!(
        "online-status-edge {} {kind}, {} cores, up to {} connections (limit of open files: {})",
        env!("CARGO_PKG_VERSION"),
        shared.config.server.cores,
        shared.gate.limits.connections,
        program::open_files()
    );
    println!("  clients   {}", shared.public_url);
    println!("  admin     {admin}  (/healthz /readyz /metrics)");
    println!("  store     {store}");
    if shared.place.is_some() {
        println!("  bus       Kafka at {}", shared.config.kafka.brokers);
    }
    println!(
        "  a vanished client is offline within {} ms",
        shared.config.ghost_bound()
    );
    if shared.development {
        println!("  JWT_SECRET is not set: tokens of the public development secret are accepted");
        let now = clock::wall_ms();
        let token = token::sign(DEVELOPMENT_SECRET, "alice", now..now + 86_400_000, None);
        println!("  live page {scheme}://{listen}/  (open it in two tabs)");
        println!("  a token for alice, good for a day:\n{token}");
    } else {
        println!(
            "  live page {scheme}://{listen}/  (make a token: online-status-edge token --user alice)"
        );
    }
}
