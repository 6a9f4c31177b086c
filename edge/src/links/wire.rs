//! One link: a connection with its TLS handshake, its batches and its signs of life. A batch is its length
//! (4 bytes, little-endian) and messages; an empty one is a sign of life.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use protocol::{
    FromOwner, LinkHello, ToOwner,
    link::{HELLO_HEAD, MAX_BATCH, MAX_HELLO},
};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf, split,
    },
    net::{TcpListener, TcpStream},
    time::{timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Conn, LinkEvent, Links, tls};

/// How long connecting and the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A link on which nothing comes, or nothing goes, for so long is given up.
const SILENCE: Duration = Duration::from_secs(2);
/// Connections whose handshake is not over; with more, they are closed.
const MOST_STRANGERS: usize = 64;
/// Between two tries to accept when that fails.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Bytes of one read of a socket, at most: rustls alone would read 4 KiB at a time.
const READ: usize = 32 << 10;
/// The first byte of a TLS handshake (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 22;

type Stream = TlsStream<BufReader<TcpStream>>;

/// Why a link does not stand, or no more.
#[derive(Debug, thiserror::Error)]
enum WireError {
    #[error("{0}")]
    Io(io::Error),
    #[error("it has closed")]
    Closed,
    #[error("it does not answer")]
    Silent,
    #[error(
        "no TLS handshake with it: {0}; there may be an edge of a former build, whose links are in the clear"
    )]
    Handshake(io::Error),
    #[error("it speaks without TLS")]
    Clear,
    #[error(transparent)]
    Message(#[from] protocol::LinkError),
    #[error("cluster.link_key differs")]
    Key,
    #[error("a batch of {0} bytes is too long")]
    Length(usize),
    #[error("it has {theirs} vnodes, this node {ours}")]
    Vnodes { theirs: u32, ours: usize },
    #[error("another process is there: {0}")]
    Other(String),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl WireError {
    fn of_handshake(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|error| error.downcast_ref());
        match tls {
            Some(rustls::Error::InvalidCertificate(_)) => Self::Key,
            _ => Self::Handshake(error),
        }
    }
}

/// Takes links until the runtime ends.
pub(super) async fn accept(links: Arc<Links>, listener: TcpListener) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(MOST_STRANGERS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, mostly.
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let Ok(stranger) = Arc::clone(&strangers).try_acquire_owned() else {
            links.stats.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let links = Arc::clone(&links);
        tokio::task::spawn_local(async move {
            let met = timeout(HANDSHAKE, meet_watcher(&links, stream)).await;
            drop(stranger);
            match met.unwrap_or(Err(WireError::Silent)) {
                Ok(stream) => {
                    // Why it ended the other side finds out by itself.
                    run(&links, stream, false).await;
                }
                Err(_) => {
                    links.stats.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
}

/// Connects to a process and watches over the link until it breaks; why it did.
pub(super) async fn watch(links: &Arc<Links>, boot: u64, address: &str) -> String {
    let met = timeout(HANDSHAKE, meet_owner(links, boot, address)).await;
    let error = match met.unwrap_or(Err(WireError::Silent)) {
        Ok(stream) => {
            links.is_linked(boot);
            run(links, stream, true).await
        }
        Err(error) => error,
    };
    error.to_string()
}

async fn meet_owner(links: &Links, boot: u64, address: &str) -> Result<Stream, WireError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::clone(&links.key.watcher));
    let met = connector.connect(tls::no_name(), BufReader::with_capacity(READ, stream));
    let mut stream = met.await.map_err(WireError::of_handshake)?;
    let hello = check_hello(links, &read_part(&mut stream).await?)?;
    if hello.boot != boot {
        return Err(WireError::Other(hello.node.to_string()));
    }
    write_hello(links, &mut stream).await?;
    Ok(stream.into())
}

async fn meet_watcher(links: &Links, mut stream: TcpStream) -> Result<Stream, WireError> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0] != TLS_HANDSHAKE {
        // A former build is told this one's format, and says so.
        read_part(&mut stream).await?;
        write_part(&mut stream, &HELLO_HEAD).await?;
        return Err(WireError::Clear);
    }
    let acceptor = TlsAcceptor::from(Arc::clone(&links.key.owner));
    let met = acceptor.accept(BufReader::with_capacity(READ, stream));
    let mut stream = met.await.map_err(WireError::of_handshake)?;
    // The owner first: who wanted another process says nothing, and is not taken for a watcher.
    write_hello(links, &mut stream).await?;
    let hello = check_hello(links, &read_part(&mut stream).await?)?;
    links.is_watched_by(&hello);
    Ok(stream.into())
}

fn check_hello(links: &Links, bytes: &[u8]) -> Result<LinkHello, WireError> {
    let hello = LinkHello::decode(bytes)?;
    let ours = links.vnodes.get();
    if hello.vnodes as usize != ours {
        let theirs = hello.vnodes;
        return Err(WireError::Vnodes { theirs, ours });
    }
    Ok(hello)
}

async fn write_hello(
    links: &Links,
    stream: &mut (impl AsyncWrite + Unpin),
) -> Result<(), WireError> {
    let mut hello = Vec::new();
    links.hello().encode(&mut hello);
    write_part(stream, &hello).await
}

async fn write_part(stream: &mut (impl AsyncWrite + Unpin), part: &[u8]) -> Result<(), WireError> {
    let mut bytes = (part.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(part);
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

async fn read_part(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, WireError> {
    let length = stream.read_u32_le().await? as usize;
    if length > MAX_HELLO {
        return Err(WireError::Length(length));
    }
    let mut part = vec![0; length];
    stream.read_exact(&mut part).await?;
    Ok(part)
}

/// Serves a link until it breaks; why it did.
async fn run(links: &Arc<Links>, stream: Stream, to_owner: bool) -> WireError {
    let number = links.numbers.fetch_add(1, Ordering::Relaxed);
    let conn = Arc::new(Conn::new(number, to_owner));
    let standing = match to_owner {
        true => &links.stats.owners,
        false => &links.stats.watchers,
    };
    links.stats.connects.fetch_add(1, Ordering::Relaxed);
    standing.fetch_add(1, Ordering::Relaxed);
    links.tell_all(|| match to_owner {
        true => LinkEvent::OwnerLinked(Arc::clone(&conn)),
        false => LinkEvent::WatcherLinked(Arc::clone(&conn)),
    });
    let (reading, writing) = split(stream);
    let Err(ended) = tokio::select! {
        ended = read(links, &conn, reading) => ended,
        ended = write(links, &conn, writing) => ended,
    };
    standing.fetch_sub(1, Ordering::Relaxed);
    links.tell_all(|| LinkEvent::Unlinked(number));
    ended
}

async fn write(
    links: &Links,
    conn: &Conn,
    mut stream: WriteHalf<Stream>,
) -> Result<Infallible, WireError> {
    let mut frame = Vec::new();
    loop {
        // With each beat a sign of life, if there is nothing else.
        let _ = timeout_at(links.next_beat(), conn.wake.notified()).await;
        let (batch, was_full) = conn.take();
        if was_full {
            links.ring_all();
        }
        frame.clear();
        frame.extend_from_slice(&(batch.len() as u32).to_le_bytes());
        frame.extend_from_slice(&batch);
        let written = timeout(SILENCE, async {
            stream.write_all(&frame).await?;
            stream.flush().await
        });
        written.await.map_err(|_| WireError::Silent)??;
        let stats = &links.stats;
        stats.sent_batches.fetch_add(1, Ordering::Relaxed);
        stats
            .sent_bytes
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
    }
}

async fn read(
    links: &Links,
    conn: &Conn,
    mut stream: ReadHalf<Stream>,
) -> Result<Infallible, WireError> {
    let mut batch = Vec::new();
    loop {
        let head = timeout(SILENCE, stream.read_u32_le()).await;
        let length = head.map_err(|_| WireError::Silent)?? as usize;
        if length > MAX_BATCH {
            return Err(WireError::Length(length));
        }
        batch.resize(length, 0);
        let read = timeout(SILENCE, stream.read_exact(&mut batch)).await;
        read.map_err(|_| WireError::Silent)??;
        let bytes = (size_of::<u32>() + length) as u64;
        links
            .stats
            .received_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        if length > 0 {
            links.has_room().await;
            links.deliver(parse(links, conn, &batch)?);
        }
    }
}

/// The messages of a batch, each for the home core of its vnode.
fn parse(
    links: &Links,
    conn: &Conn,
    mut batch: &[u8],
) -> Result<Vec<(ring::CoreId, LinkEvent)>, WireError> {
    let home = |user: &str| links.homes[links.vnodes.vnode(user).index()];
    let mut parsed = Vec::new();
    if conn.to_owner {
        while let Some(message) = FromOwner::decode(&mut batch)? {
            let core = match &message {
                FromOwner::Owns(vnode, _) | FromOwner::Left(vnode) => {
                    let core = links.homes.get(vnode.index());
                    *core.ok_or(protocol::LinkError::Bad("vnode"))?
                }
                FromOwner::State(_, user, _) => home(user),
            };
            parsed.push((core, LinkEvent::Owner(conn.number, message)));
        }
    } else {
        while let Some(message) = ToOwner::decode(&mut batch)? {
            let core = home(message.user());
            parsed.push((core, LinkEvent::Watcher(conn.number, message)));
        }
    }
    Ok(parsed)
}
