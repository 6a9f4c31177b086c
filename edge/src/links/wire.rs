//! One link: a connection with its handshake, its batches and its signs of life. A batch is its length
//! (4 bytes, little-endian), a signature and messages; an empty one is a sign of life.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use protocol::{
    FromOwner, LinkHello, ToOwner,
    link::{MAX_BATCH, MAX_HELLO},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{timeout, timeout_at},
};

use super::{
    Conn, LinkEvent, Links,
    handshake::{self, ANSWER, Hellos, MAC, Side, Signer},
};

/// How long connecting and the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A link on which nothing comes, or nothing goes, for so long is given up.
const SILENCE: Duration = Duration::from_secs(2);
/// Connections whose handshake is not over; with more, they are closed.
const MOST_STRANGERS: usize = 64;
/// Between two tries to accept when that fails.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Why a link does not stand, or no more.
#[derive(Debug, thiserror::Error)]
enum WireError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it does not answer")]
    Silent,
    #[error(transparent)]
    Message(#[from] protocol::LinkError),
    #[error("cluster.link_key differs")]
    Key,
    #[error("a batch was changed on its way")]
    Signature,
    #[error("a batch of {0} bytes is too long")]
    Length(usize),
    #[error("it has {theirs} vnodes, this node {ours}")]
    Vnodes { theirs: u32, ours: usize },
    #[error("another process is there: {0}")]
    Other(String),
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
                Ok((stream, signers)) => {
                    // Why it ended the other side finds out by itself.
                    let _ = run(&links, stream, signers, false).await;
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
        Ok((stream, signers)) => {
            links.is_linked(boot);
            run(links, stream, signers, true).await.err()
        }
        Err(error) => Some(error),
    };
    error.map_or_else(|| "it has closed".into(), |error| error.to_string())
}

/// Signs what goes out, and checks what comes in.
struct Signers {
    out: Signer,
    incoming: Signer,
}

async fn meet_owner(
    links: &Links,
    boot: u64,
    address: &str,
) -> Result<(TcpStream, Signers), WireError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut own = Vec::new();
    links.hello().encode(&mut own);
    write_part(&mut stream, &own).await?;
    let theirs = read_part(&mut stream).await?;
    let hello = check_hello(links, &theirs)?;
    if hello.boot != boot {
        return Err(WireError::Other(hello.node.to_string()));
    }
    let mut answer = [0; ANSWER];
    let hellos = Hellos {
        watcher: &own,
        owner: &theirs,
    };
    stream
        .read_exact(&mut answer)
        .await
        .map_err(|_| WireError::Key)?;
    if !handshake::is_right(&links.key, Side::Owner, &hellos, &answer) {
        return Err(WireError::Key);
    }
    let answer = handshake::answer(&links.key, Side::Watcher, &hellos);
    stream.write_all(&answer).await?;
    let signers = Signers {
        out: Signer::new(&links.key, Side::Watcher, &hellos),
        incoming: Signer::new(&links.key, Side::Owner, &hellos),
    };
    Ok((stream, signers))
}

async fn meet_watcher(
    links: &Links,
    mut stream: TcpStream,
) -> Result<(TcpStream, Signers), WireError> {
    stream.set_nodelay(true)?;
    let theirs = read_part(&mut stream).await?;
    let hello = check_hello(links, &theirs)?;
    let mut own = Vec::new();
    links.hello().encode(&mut own);
    write_part(&mut stream, &own).await?;
    let hellos = Hellos {
        watcher: &theirs,
        owner: &own,
    };
    let answer = handshake::answer(&links.key, Side::Owner, &hellos);
    stream.write_all(&answer).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await?;
    if !handshake::is_right(&links.key, Side::Watcher, &hellos, &answer) {
        return Err(WireError::Key);
    }
    let signers = Signers {
        out: Signer::new(&links.key, Side::Owner, &hellos),
        incoming: Signer::new(&links.key, Side::Watcher, &hellos),
    };
    links.is_watched_by(&hello);
    Ok((stream, signers))
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

async fn write_part(stream: &mut TcpStream, part: &[u8]) -> Result<(), WireError> {
    let mut bytes = (part.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(part);
    Ok(stream.write_all(&bytes).await?)
}

async fn read_part(stream: &mut TcpStream) -> Result<Vec<u8>, WireError> {
    let length = stream.read_u32_le().await? as usize;
    if length > MAX_HELLO {
        return Err(WireError::Length(length));
    }
    let mut part = vec![0; length];
    stream.read_exact(&mut part).await?;
    Ok(part)
}

/// Serves a link until it breaks.
async fn run(
    links: &Arc<Links>,
    stream: TcpStream,
    signers: Signers,
    to_owner: bool,
) -> Result<(), WireError> {
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
    let (reading, writing) = stream.into_split();
    let ended = tokio::select! {
        ended = read(links, &conn, reading, signers.incoming) => ended,
        ended = write(links, &conn, writing, signers.out) => ended,
    };
    standing.fetch_sub(1, Ordering::Relaxed);
    links.tell_all(|| LinkEvent::Unlinked(number));
    ended
}

async fn write(
    links: &Links,
    conn: &Conn,
    mut stream: OwnedWriteHalf,
    mut signer: Signer,
) -> Result<(), WireError> {
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
        frame.extend_from_slice(&signer.next(&batch));
        frame.extend_from_slice(&batch);
        let written = timeout(SILENCE, stream.write_all(&frame)).await;
        written.map_err(|_| WireError::Silent)??;
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
    stream: OwnedReadHalf,
    mut signer: Signer,
) -> Result<(), WireError> {
    let mut stream = tokio::io::BufReader::with_capacity(64 << 10, stream);
    let mut batch = Vec::new();
    loop {
        let mut head = [0; 4 + MAC];
        let read = timeout(SILENCE, stream.read_exact(&mut head)).await;
        read.map_err(|_| WireError::Silent)??;
        let (length, mac) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if length > MAX_BATCH {
            return Err(WireError::Length(length));
        }
        batch.resize(length, 0);
        let read = timeout(SILENCE, stream.read_exact(&mut batch)).await;
        read.map_err(|_| WireError::Silent)??;
        if !signer.is_right(&batch, mac) {
            return Err(WireError::Signature);
        }
        let bytes = (head.len() + length) as u64;
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
