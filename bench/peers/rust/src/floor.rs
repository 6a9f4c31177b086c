//! The floor: readiness by epoll, sends in batches through one io_uring, and nothing else that a server
//! needs: no checks, no backpressure, no state beside who subscribed.

mod topics;

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::fd::AsRawFd,
    rc::Rc,
};

use io_uring::{IoUring, opcode, types};
use mio::{Events, Interest, Poll, Token, net::TcpListener, net::TcpStream};
use slab::Slab;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use topics::{Said, Topics};

/// Sends that are handed to the kernel at once.
const BATCH: usize = 512;
const LISTENER: Token = Token(usize::MAX);

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    upgraded: bool,
    topics: Vec<String>,
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).expect("an address");
    let mut listener = TcpListener::bind(address.parse().expect("HOST:PORT"))?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(BATCH as u32)?;
    let mut clients: Slab<Client> = Slab::new();
    let mut topics: Topics<()> = Topics::default();
    let mut events = Events::with_capacity(1024);
    let mut scratch = vec![0; 1 << 16];
    println!("listening");
    loop {
        poll.poll(&mut events, None)?;
        // Of one turn, in their order.
        let mut sends: Vec<(usize, Rc<[u8]>)> = Vec::new();
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let entry = clients.vacant_entry();
                    poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE)?;
                    entry.insert(Client { stream, input: Vec::new(), upgraded: false, topics: Vec::new() });
                }
                continue;
            }
            let id = event.token().0;
            while let Some(client) = clients.get_mut(id) {
                match client.stream.read(&mut scratch) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(count) if count > 0 => {
                        client.input.extend_from_slice(&scratch[..count]);
                        take(id, client, &mut topics, &mut sends);
                    }
                    _ => {
                        let gone = clients.remove(id);
                        topics.leave(&gone.topics, id);
                    }
                }
            }
        }
        send(&mut ring, &clients, &sends)?;
    }
}

fn take(id: usize, client: &mut Client, topics: &mut Topics<()>, sends: &mut Vec<(usize, Rc<[u8]>)>) {
    let mut input = std::mem::take(&mut client.input);
    if !client.upgraded {
        let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
            client.input = input;
            return;
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
        });
        let accept = derive_accept_key(key.unwrap_or_default().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let _ = client.stream.write_all(answer.as_bytes());
        client.upgraded = true;
        input.drain(..end + 4);
    }
    let mut at = 0;
    while let Some((mut payload, used)) = frame(&input[at..]) {
        at += used;
        let Ok(text) = std::str::from_utf8_mut(&mut payload) else { continue };
        match topics::read(text) {
            Said::Subscribe(all) => {
                for topic in all {
                    topics.subscribe(topic, id, ());
                    client.topics.push(topic.to_owned());
                }
                sends.push((id, framed("ok")));
            }
            Said::Publish(topic, text) => {
                let bytes = framed(text);
                sends.extend(topics.of(topic).iter().map(|(to, ())| (*to, bytes.clone())));
            }
            Said::Echo(text) => sends.push((id, framed(text))),
        }
    }
    client.input = input[at..].to_vec();
}

/// The payload of the masked frame at the start, and its length with its header.
fn frame(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (header, length) = match bytes.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        short => (2, usize::from(short)),
    };
    let mask = bytes.get(header..header + 4)?;
    let payload = bytes.get(header + 4..)?.get(..length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Some((payload, header + 4 + length))
}

fn framed(text: &str) -> Rc<[u8]> {
    let mut bytes = vec![0x81];
    match text.len() {
        short @ 0..126 => bytes.push(short as u8),
        long => {
            bytes.push(126);
            bytes.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes.into()
}

/// Sends all. What is for one client in a row goes out as one send: io_uring orders nothing else.
fn send(ring: &mut IoUring, clients: &Slab<Client>, sends: &[(usize, Rc<[u8]>)]) -> io::Result<()> {
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut joined: Vec<(usize, Rc<[u8]>)> = Vec::new();
    for (to, bytes) in sends {
        match places.get(to) {
            Some(place) => {
                let both = [&*joined[*place].1, &**bytes].concat();
                joined[*place].1 = both.into();
            }
            None => {
                places.insert(*to, joined.len());
                joined.push((*to, bytes.clone()));
            }
        }
    }
    for batch in joined.chunks(BATCH) {
        let mut count = 0;
        for (to, bytes) in batch {
            let Some(client) = clients.get(*to) else { continue };
            let fd = types::Fd(client.stream.as_raw_fd());
            let entry = opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32)
                .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
                .build();
            // SAFETY: the bytes live in `joined` until all completions of this batch have come, below.
            unsafe { ring.submission().push(&entry).map_err(io::Error::other)? };
            count += 1;
        }
        ring.submit_and_wait(count)?;
        let mut done = 0;
        while done < count {
            done += ring.completion().count();
            if done < count {
                ring.submit_and_wait(1)?;
            }
        }
    }
    Ok(())
}
