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
    /// A ping, to be answered with its payload.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong,
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

/// Bytes in. What would go out is dropped: the session answers, in the order of what came.
struct Inlet<'i>(&'i [u8]);

impl Read for Inlet<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(buffer)
    }
}

impl Write for Inlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads everything in `input`, and what waited before it.
pub(crate) fn read(
    context: &mut WebSocketContext,
    input: &[u8],
    mut each: impl FnMut(Inbound<'_>),
) {
    let mut inlet = Inlet(input);
    while next(context, &mut inlet, &mut each) {}
}

/// As [`read`], but only to the first message; gives back what stands behind it.
pub(crate) fn read_one<'a>(
    context: &mut WebSocketContext,
    input: &'a [u8],
    mut each: impl FnMut(Inbound<'_>),
) -> &'a [u8] {
    let mut inlet = Inlet(input);
    let mut found = false;
    let mut first = |inbound: Inbound<'_>| {
        found = !matches!(inbound, Inbound::Ping(_) | Inbound::Pong);
        each(inbound);
        found
    };
    let mut done = false;
    while !done && next(context, &mut inlet, &mut |inbound| done = first(inbound)) {}
    inlet.0
}

fn next(
    context: &mut WebSocketContext,
    inlet: &mut Inlet<'_>,
    each: &mut impl FnMut(Inbound<'_>),
) -> bool {
    match context.read(inlet) {
        Ok(Message::Text(text)) => each(Inbound::Message(Encoding::Json, text.as_bytes())),
        Ok(Message::Binary(bytes)) => each(Inbound::Message(Encoding::Cbor, &bytes)),
        Ok(Message::Ping(payload)) => each(Inbound::Ping(&payload)),
        Ok(Message::Pong(_) | Message::Frame(_)) => each(Inbound::Pong),
        Ok(Message::Close(close)) => {
            let code = close.map(|close| CloseCode::from_wire(u16::from(close.code)));
            each(Inbound::Close(code));
            return false;
        }
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return false,
        Err(error) => {
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
