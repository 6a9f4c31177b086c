//! Whether somebody still listens where an edge's clients come. It tells a process that is dead from
//! one that is cut off from Redis alone, whose connection there has gone too.

use std::{io::ErrorKind, time::Duration};

use axum::http::Uri;
use tokio::{net::TcpStream, time::timeout};

/// How long an address has to answer. Silence is no answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// Whether the host at this WebSocket URL says that nobody listens there. A host that says nothing, a
/// name without an address, and a proxy in front of the edge do not.
pub(crate) async fn refuses(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else {
        return false;
    };
    let Some(host) = uri.host() else {
        return false;
    };
    let default = if uri.scheme_str() == Some("wss") {
        443
    } else {
        80
    };
    let place = format!("{host}:{}", uri.port_u16().unwrap_or(default));
    let connected = timeout(PATIENCE, TcpStream::connect(place)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_closed_port_refuses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let url = format!("ws://{address}/socket");
        assert!(!refuses(&url).await, "somebody listens");
        drop(listener);
        assert!(refuses(&url).await);
        for other in [
            "",
            "ws://",
            "not a url",
            "ws://edge.invalid/socket",
            "ws://[::1",
        ] {
            assert!(!refuses(other).await, "{other}");
        }
    }
}
