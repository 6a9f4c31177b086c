//! Sends back each message that comes over a WebSocket, read and written as the edge does: what
//! Autobahn's test suite asks of a server. `echo ADDRESS`, such as 127.0.0.1:9001. One thread a client.
#![allow(
    dead_code,
    unused_imports,
    reason = "the edge's modules have more than is used here"
)]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
};

use edge::{clock, http, websocket};
use protocol::{CloseCode, Opcode, frame};
use websocket::Inbound;

#[path = "../../edge/src"]
mod edge {
    pub(crate) mod clock;
    pub(crate) mod http;
    pub(crate) mod websocket;
}

/// The suite sends messages of 16 MiB.
const MAX_MESSAGE: usize = 17 << 20;

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1);
    let address = address.ok_or_else(|| std::io::Error::other("usage: echo ADDRESS"))?;
    let listener = TcpListener::bind(&address)?;
    println!("ws://{address}");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            if let Err(error) = serve(stream) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    let mut head = Vec::new();
    let (request, length) = loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..count]);
        let parsed = http::parse(&head, 20 << 10).map_err(|bad| std::io::Error::other(bad.1))?;
        if let Some(parsed) = parsed {
            break parsed;
        }
    };
    let key = request.only("sec-websocket-key").unwrap_or_default();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    )?;
    let mut reader = websocket::Reader::new(MAX_MESSAGE);
    let mut rest = head.split_off(length);
    loop {
        let mut out = Vec::new();
        let mut ends = false;
        reader.read(&mut rest, |inbound| {
            // What stands in `out` already goes out first; gaps before a frame do not.
            let end = out.len();
            let frame = match inbound {
                Inbound::Message(encoding, message) => {
                    let start = frame::begin(&mut out);
                    out.extend_from_slice(message);
                    frame::end(&mut out, start, encoding.opcode())
                }
                Inbound::Ping(payload) => frame::control(&mut out, Opcode::Pong, payload),
                Inbound::Pong => return true,
                Inbound::Close(code) => {
                    ends = true;
                    frame::close(&mut out, code.unwrap_or(CloseCode::NORMAL), "")
                }
                Inbound::Error(code, reason) => {
                    ends = true;
                    frame::close(&mut out, code, reason)
                }
            };
            out.drain(end..frame.start);
            true
        });
        stream.write_all(&out)?;
        if ends {
            stream.shutdown(Shutdown::Write)?;
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        rest.clear();
        rest.extend_from_slice(&buffer[..count]);
    }
}
