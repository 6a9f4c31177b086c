//! The inbound side of RFC 6455, by tungstenite over bytes that were read elsewhere. It owns the
//! limits and the mapping of mistakes to close codes; outbound frames are made by `protocol`.

use std::io::{self, Read, Write};

use protocol::{CloseCode, Encoding};
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketConfig, WebSocketContext},
};

/// What a client sent.
pub(crate) enum Inbound<'a> {
    /// A whole message, with the encoding whose kind of frame it came in.
    Message(Encoding, &'a [u8]),
    /// A ping or pong; a ping's answer is in the answers.
    Ping,
    /// The client says goodbye.
    Close(Option<CloseCode>),
    /// The client broke a rule: the connection has to be closed so.
    Error(CloseCode, String),
}

/// A connection's state, with bytes that came behind the upgrade. Its buffer is empty between
/// messages.
pub(crate) fn context(already_read: Vec<u8>, max_message: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(0)
        .write_buffer_size(0)
        .max_write_buffer_size(64 << 10)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    WebSocketContext::from_partially_read(already_read, Role::Server, Some(config))
}

/// Bytes in, answers out.
struct Pipe<'i, 'o> {
    input: &'i [u8],
    answers: &'o mut Vec<u8>,
}

impl Read for Pipe<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Pipe<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answers.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads everything in `input`, and what waited before it. Pongs are appended to `answers`.
pub(crate) fn read(
    context: &mut WebSocketContext,
    input: &[u8],
    answers: &mut Vec<u8>,
    mut each: impl FnMut(Inbound<'_>),
) {
    let mut pipe = Pipe { input, answers };
    while next(context, &mut pipe, &mut each) {}
}

/// As [`read`], but only to the first message; gives back what stands behind it.
pub(crate) fn read_one<'a>(
    context: &mut WebSocketContext,
    input: &'a [u8],
    answers: &mut Vec<u8>,
    mut each: impl FnMut(Inbound<'_>),
) -> &'a [u8] {
    let mut pipe = Pipe { input, answers };
    let mut found = false;
    let mut first = |inbound: Inbound<'_>| {
        found = !matches!(inbound, Inbound::Ping);
        each(inbound);
        found
    };
    let mut done = false;
    while !done && next(context, &mut pipe, &mut |inbound| done = first(inbound)) {}
    pipe.input
}

fn next(
    context: &mut WebSocketContext,
    pipe: &mut Pipe<'_, '_>,
    each: &mut impl FnMut(Inbound<'_>),
) -> bool {
    let before = pipe.answers.len();
    match context.read(pipe) {
        Ok(Message::Text(text)) => each(Inbound::Message(Encoding::Json, text.as_bytes())),
        Ok(Message::Binary(bytes)) => each(Inbound::Message(Encoding::Cbor, &bytes)),
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => each(Inbound::Ping),
        Ok(Message::Close(close)) => {
            // The answer is made by the session, after what it still has to say.
            pipe.answers.truncate(before);
            let code = close.map(|close| CloseCode::from_wire(u16::from(close.code)));
            each(Inbound::Close(code));
            return false;
        }
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return false,
        Err(error) => {
            pipe.answers.truncate(before);
            let code = match &error {
                Error::Utf8(_) => CloseCode::INVALID_DATA,
                Error::Capacity(_) => CloseCode::TOO_BIG,
                _ => CloseCode::PROTOCOL,
            };
            each(Inbound::Error(code, error.to_string()));
            return false;
        }
    }
    true
}
