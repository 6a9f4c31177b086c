//! The inbound side of RFC 6455: the frames of one client in bytes that were read elsewhere. It
//! owns the rules, the limits and what has come of a message so far; between messages it holds no
//! buffer. It does no I/O; outbound frames are made by `protocol`.

mod header;

use protocol::{CloseCode, Encoding};

use self::header::{Broken, Frame, Header, Opcode, broken};

/// Why a binary frame on the JSON subprotocol, or a text on the other, ends a connection.
pub(crate) const OTHER_KIND: &str = "this subprotocol has the other kind of frames";

/// A message or control frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inbound<'a> {
    /// A whole message, with the encoding whose kind of frame it came in; a text is UTF-8.
    Message(Encoding, &'a [u8]),
    /// A ping, to be answered with its payload.
    Ping(&'a [u8]),
    /// A pong, whether it was asked for or not.
    Pong,
    /// The client says goodbye; nothing follows.
    Close(Option<CloseCode>),
    /// The client broke a rule: the connection has to be closed so, and nothing follows.
    Error(CloseCode, &'static str),
}

/// The reader of one client's frames (RFC 6455 §5).
pub(crate) struct Reader {
    max_message: usize,
    header: Header,
    /// The frame whose payload is coming.
    frame: Option<Frame>,
    /// The kind of the message that is coming.
    kind: Option<Encoding>,
    /// What has come of it, when it does not come at once.
    message: Vec<u8>,
    /// Bytes of `message` that are known to be UTF-8.
    checked: usize,
    /// The number of frames that continued the message.
    continued: usize,
    /// What has come of a control frame, when it does not come at once.
    control: Vec<u8>,
    ended: bool,
}

impl Reader {
    /// For messages of at most `max_message` bytes, in at most as many fragments.
    pub(crate) fn new(max_message: usize) -> Self {
        Self {
            max_message,
            header: Header::default(),
            frame: None,
            kind: None,
            message: Vec::new(),
            checked: 0,
            continued: 0,
            control: Vec::new(),
            ended: false,
        }
    }

    /// Whether nothing has come of a next message: then any other reader can go on from here.
    pub(crate) fn is_between_messages(&self) -> bool {
        let nothing = self.header.is_empty() && self.frame.is_none() && self.control.is_empty();
        nothing && self.kind.is_none() && !self.ended
    }

    /// Reads `input`, which it unmasks in place, and calls `each` with what it finds until `each`
    /// says `false`; how many bytes are used then. Everything behind a close or an error is.
    pub(crate) fn read(
        &mut self,
        input: &mut [u8],
        mut each: impl FnMut(Inbound<'_>) -> bool,
    ) -> usize {
        let mut used = 0;
        while !self.ended {
            let found = match self.frame.take() {
                Some(frame) => Ok(Some(frame)),
                None => self.begin_frame(input, &mut used),
            };
            let go_on = match found {
                Ok(None) => return used,
                Ok(Some(frame)) if frame.left > 0 && used == input.len() => {
                    self.frame = Some(frame);
                    return used;
                }
                Ok(Some(mut frame)) => {
                    let length = frame.left.min(input.len() - used);
                    let payload = &mut input[used..used + length];
                    used += length;
                    frame.unmask(payload);
                    match self.read_payload(frame, payload, &mut each) {
                        Ok(go_on) => go_on,
                        Err(error) => self.fail(error, &mut each),
                    }
                }
                Err(error) => self.fail(error, &mut each),
            };
            if !go_on {
                break;
            }
        }
        if self.ended { input.len() } else { used }
    }

    fn fail(&mut self, (code, rule): Broken, each: &mut impl FnMut(Inbound<'_>) -> bool) -> bool {
        self.ended = true;
        self.message = Vec::new();
        each(Inbound::Error(code, rule))
    }

    /// Takes bytes of a header; a frame that is wrong, or too long for the message, is refused
    /// before its payload has come.
    fn begin_frame(&mut self, input: &[u8], used: &mut usize) -> Result<Option<Frame>, Broken> {
        let Some(frame) = self.header.read(input, used, self.kind.is_some())? else {
            return Ok(None);
        };
        match frame.opcode {
            Opcode::First(kind) => self.kind = Some(kind),
            Opcode::Continuation => self.continued += 1,
            _ => return Ok(Some(frame)),
        }
        let room = self.max_message - self.message.len();
        if frame.left > room || self.continued > self.max_message {
            return Err((CloseCode::TOO_BIG, "the message is too long"));
        }
        Ok(Some(frame))
    }

    /// Takes bytes of a frame's payload; `false` when the caller wants no more for now.
    fn read_payload(
        &mut self,
        frame: Frame,
        payload: &[u8],
        each: &mut impl FnMut(Inbound<'_>) -> bool,
    ) -> Result<bool, Broken> {
        if frame.opcode.is_control() {
            if frame.left > 0 {
                self.control.extend_from_slice(payload);
                self.frame = Some(frame);
                return Ok(true);
            }
            let mut control = std::mem::take(&mut self.control);
            if control.is_empty() {
                return self.take_control(frame.opcode, payload, each);
            }
            control.extend_from_slice(payload);
            return self.take_control(frame.opcode, &control, each);
        }
        let kind = self.kind.expect("set by the message's first frame");
        let ends = frame.is_final && frame.left == 0;
        if ends && self.message.is_empty() {
            if kind == Encoding::Json && std::str::from_utf8(payload).is_err() {
                return Err(NO_TEXT);
            }
            self.end_message();
            return Ok(each(Inbound::Message(kind, payload)));
        }
        self.message.extend_from_slice(payload);
        if kind == Encoding::Json {
            self.check_text(ends)?;
        }
        if frame.left > 0 {
            self.frame = Some(frame);
        }
        if !ends {
            return Ok(true);
        }
        let message = self.end_message();
        Ok(each(Inbound::Message(kind, &message)))
    }

    /// Fails as soon as the text so far is none (RFC 6455 §8.1); a character may be cut at its
    /// end, unless that is the message's.
    fn check_text(&mut self, ends: bool) -> Result<(), Broken> {
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = self.message.len(),
            Err(error) if error.error_len().is_none() && !ends => {
                self.checked += error.valid_up_to();
            }
            Err(_) => return Err(NO_TEXT),
        }
        Ok(())
    }

    fn end_message(&mut self) -> Vec<u8> {
        self.kind = None;
        self.checked = 0;
        self.continued = 0;
        std::mem::take(&mut self.message)
    }

    fn take_control(
        &mut self,
        opcode: Opcode,
        payload: &[u8],
        each: &mut impl FnMut(Inbound<'_>) -> bool,
    ) -> Result<bool, Broken> {
        match opcode {
            Opcode::Ping => Ok(each(Inbound::Ping(payload))),
            Opcode::Pong => Ok(each(Inbound::Pong)),
            _ => {
                let code = close_code(payload)?;
                self.ended = true;
                self.message = Vec::new();
                Ok(each(Inbound::Close(code)))
            }
        }
    }
}

const NO_TEXT: Broken = (CloseCode::INVALID_DATA, "a text must be UTF-8");

/// The code in a close frame's payload (RFC 6455 §5.5.1, §7.4).
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Broken> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return broken("a close code of one byte"),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // 1004 to 1006 and 1015 never stand in a frame; 1016 to 2999 are not given out.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return broken("a close code that must not be sent");
    }
    if std::str::from_utf8(reason).is_err() {
        return Err((
            CloseCode::INVALID_DATA,
            "the reason of a close must be UTF-8",
        ));
    }
    Ok(Some(CloseCode::from_wire(code)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tungstenite::{
        Error, Message,
        protocol::{Role, WebSocketConfig, WebSocketContext},
    };

    use super::*;

    const MAX: usize = 100;
    const MASK: [u8; 4] = [7, 0, 200, 31];

    /// A frame as clients send it; `form` is how many bytes its length takes.
    fn frame(first: u8, payload: &[u8], form: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match form {
            0 => frame.push(0x80 | payload.len() as u8),
            2 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        let masked = payload.iter().zip(MASK.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// What was found, as text, in bytes that come in pieces.
    fn found(bytes: &[u8], pieces: impl IntoIterator<Item = usize>) -> Vec<String> {
        let mut reader = Reader::new(MAX);
        let mut found = Vec::new();
        let mut bytes = bytes.to_vec();
        let mut rest = &mut bytes[..];
        for piece in pieces {
            let (now, later) = rest.split_at_mut(piece.min(rest.len()));
            let used = reader.read(now, |inbound| {
                found.push(match inbound {
                    Inbound::Error(code, _) => format!("error {code}"),
                    other => format!("{other:?}"),
                });
                true
            });
            assert_eq!(used, piece.min(now.len()));
            rest = later;
        }
        assert!(reader.message.capacity() == 0 || reader.kind.is_some());
        found
    }

    fn at_once(bytes: &[u8]) -> Vec<String> {
        found(bytes, [bytes.len()])
    }

    #[test]
    fn a_reader_holds_nothing_between_messages_however_they_came() {
        let text = frame(0x81, &[b'x'; MAX], 0);
        let mut reader = Reader::new(MAX);
        let mut messages = 0;
        for pieces in [vec![text.len()], vec![1; text.len()], vec![50; 3]] {
            let mut bytes = text.clone();
            for piece in bytes.chunks_mut(pieces[0]) {
                reader.read(piece, |inbound| {
                    assert_eq!(inbound, Inbound::Message(Encoding::Json, &[b'x'; MAX]));
                    messages += 1;
                    true
                });
            }
            assert_eq!(
                (reader.message.capacity(), reader.control.capacity()),
                (0, 0)
            );
        }
        assert_eq!(messages, 3);
    }

    #[test]
    fn a_wrong_frame_is_refused_before_its_payload_has_come() {
        let cases: [(&[u8], &str); 8] = [
            (&[0xc1, 0x85], "error 1002"),
            (&[0x81, 0x05], "error 1002"),
            (&[0x83, 0x85], "error 1002"),
            (&[0x89, 0xfe], "error 1002"),
            (&[0x09, 0x81], "error 1002"),
            (&[0x80, 0x81], "error 1002"),
            (&[0x81, 0xfe, 0, 101, 0, 0, 0, 0], "error 1009"),
            (
                &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                "error 1002",
            ),
        ];
        for (bytes, error) in cases {
            assert_eq!(at_once(bytes), [error], "{bytes:x?}");
        }
        // A text that is none, at the first byte that shows it.
        let mut cut = frame(0x01, b"\"ab\xff", 0);
        assert_eq!(at_once(&cut), ["error 1007"]);
        cut = frame(0x81, &[b"\"\xed\xa0".as_slice(), &[b'x'; 60]].concat(), 0);
        assert_eq!(at_once(&cut[..9]), ["error 1007"]);
    }

    #[test]
    fn endless_empty_fragments_are_too_long() {
        let start = frame(0x01, b"", 0);
        let fragment = frame(0x00, b"", 0);
        let end = frame(0x80, b"x", 0);
        let many = [start.clone(), fragment.repeat(MAX - 1), end].concat();
        assert_eq!(at_once(&many), ["Message(Json, [120])"]);
        let more = [start, fragment.repeat(MAX + 1)].concat();
        assert_eq!(at_once(&more), ["error 1009"]);
    }

    #[test]
    fn a_ping_fits_into_a_message_that_is_full() {
        let ping = frame(0x89, &[b'p'; 60], 0);
        let bytes = [frame(0x01, &[b'x'; MAX], 0), ping, frame(0x80, b"", 0)].concat();
        let found = at_once(&bytes);
        assert!(found[0].starts_with("Ping") && found[1].starts_with("Message"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_caller_that_stops_is_given_the_rest_later() {
        let mut bytes = [frame(0x89, b"a", 0), frame(0x89, b"b", 0)].concat();
        let mut reader = Reader::new(MAX);
        let mut pings = Vec::new();
        let used = reader.read(&mut bytes, |_| false);
        assert_eq!(used, bytes.len() / 2);
        reader.read(&mut bytes[used..], |inbound| {
            pings.push(format!("{inbound:?}"));
            true
        });
        assert_eq!(pings, ["Ping([98])"]);
    }

    #[test]
    fn nothing_is_read_behind_a_close() {
        let bytes = [
            frame(0x88, b"\x03\xe8", 0),
            frame(0x89, b"", 0),
            vec![0xff; 9],
        ]
        .concat();
        assert_eq!(at_once(&bytes), ["Close(Some(CloseCode(1000)))"]);
        assert_eq!(
            at_once(&frame(0x88, b"\x03\xf6", 0)),
            ["Close(Some(CloseCode(1014)))"]
        );
        assert_eq!(at_once(&frame(0x88, b"", 0)), ["Close(None)"]);
    }

    /// The same by tungstenite, which takes a whole message before it looks at most rules.
    fn by_tungstenite(bytes: &[u8]) -> Vec<String> {
        struct Input<'a>(&'a [u8]);
        impl std::io::Read for Input<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                if self.0.is_empty() {
                    return Err(std::io::ErrorKind::WouldBlock.into());
                }
                self.0.read(buffer)
            }
        }
        impl std::io::Write for Input<'_> {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX))
            .max_frame_size(Some(MAX));
        let mut context = WebSocketContext::new(Role::Server, Some(config));
        let mut input = Input(bytes);
        let mut found = Vec::new();
        loop {
            let message = match context.read(&mut input) {
                Ok(Message::Text(text)) => {
                    format!("{:?}", Inbound::Message(Encoding::Json, text.as_bytes()))
                }
                Ok(Message::Binary(bytes)) => {
                    format!("{:?}", Inbound::Message(Encoding::Cbor, &bytes))
                }
                Ok(Message::Ping(payload)) => format!("{:?}", Inbound::Ping(&payload)),
                Ok(Message::Pong(_) | Message::Frame(_)) => format!("{:?}", Inbound::Pong),
                Ok(Message::Close(Some(close))) if close.reason == "Protocol violation" => {
                    "error 1002".into()
                }
                Ok(Message::Close(close)) => {
                    let code = close.map(|close| CloseCode::from_wire(close.code.into()));
                    format!("{:?}", Inbound::Close(code))
                }
                Err(Error::Io(_)) => return found,
                Err(Error::Utf8(_)) => "error 1007".into(),
                Err(Error::Capacity(_)) => "error 1009".into(),
                Err(_) => "error 1002".into(),
            };
            let last = message.starts_with("Close") || message.starts_with("error");
            found.push(message);
            if last {
                return found;
            }
        }
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            8 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a]),
            1 => Just(0x88),
            1 => any::<u8>(),
        ];
        let payload = prop_oneof![
            "[a-zé€🦀]{0,12}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..60),
        ];
        let form = prop::sample::select(vec![0_usize, 0, 0, 2, 8]);
        // 1014 was registered after tungstenite's table was made.
        let code = (900_u16..5_100).prop_filter("1014", |code| *code != 1_014);
        (first, payload, form, code).prop_map(|(first, payload, form, code)| {
            match first & 0x0f {
                // Which rule of two is broken first is nobody's business.
                8 => frame(first, &[&code.to_be_bytes(), "é".as_bytes()].concat(), 0),
                // tungstenite lets a control frame have a long form of its length.
                9.. => frame(first, &payload, 0),
                _ => frame(first, &payload, form),
            }
        })
    }

    proptest! {
        #[test]
        fn what_comes_in_pieces_is_what_comes_at_once_and_what_tungstenite_finds(
            frames in prop::collection::vec(any_frame(), 1..12),
            pieces in prop::collection::vec(1_usize..40, 1..200),
        ) {
            let bytes = frames.concat();
            let whole = at_once(&bytes);
            prop_assert_eq!(&whole, &by_tungstenite(&bytes));
            let sum: usize = pieces.iter().sum();
            let last = bytes.len().saturating_sub(sum);
            prop_assert_eq!(whole, found(&bytes, pieces.into_iter().chain([last])));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            at_once(&bytes);
        }
    }
}
