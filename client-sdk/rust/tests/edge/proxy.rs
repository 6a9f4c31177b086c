//! A TCP proxy that can stop to pass on what it has, without a word to either side.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Connections that began before the cut are silent for ever; those after it work.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    cut: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let proxy = Self {
            address: listener.local_addr().expect("an address"),
            cut: Arc::default(),
            connections: Arc::default(),
        };
        let (cut, connections) = (proxy.cut.clone(), proxy.connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let began = cut.load(Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(to).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, cut.clone(), began));
                tokio::spawn(pass(from_server, to_client, cut.clone(), began));
            }
        });
        proxy
    }

    pub(crate) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, cut: Arc<AtomicU64>, began: u64) {
    let mut bytes = vec![0; 16_384];
    loop {
        // An error is the end too.
        let count = from.read(&mut bytes).await.unwrap_or_default();
        if cut.load(Ordering::Relaxed) != began {
            // The sockets stay open, and nothing comes out of them.
            std::future::pending::<()>().await;
        }
        if count == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
