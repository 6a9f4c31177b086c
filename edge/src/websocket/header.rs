//! The headers of a client's frames (RFC 6455 §5.2): bytes that come in pieces, read to what they
//! say. It owns the rules for a header, and the mask of the payload behind it.

use protocol::{CloseCode, Encoding, frame::MAX_CONTROL};

/// The longest header of a client's frame: two bytes, a length of eight and a mask of four.
const MAX_HEADER: usize = 14;

/// The rule that a client broke, and the code to close with.
pub(super) type Broken = (CloseCode, &'static str);

pub(super) fn broken<T>(rule: &'static str) -> Result<T, Broken> {
    Err((CloseCode::PROTOCOL, rule))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    First(Encoding),
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn of(first: u8) -> Result<Self, Broken> {
        match first & 0x0f {
            0 => Ok(Self::Continuation),
            1 => Ok(Self::First(Encoding::Json)),
            2 => Ok(Self::First(Encoding::Cbor)),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            _ => broken("an opcode that is not defined"),
        }
    }
}

/// A frame whose header is read.
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) is_final: bool,
    /// Turned so that its first byte is for the next one of the payload.
    mask: [u8; 4],
    /// Bytes of the payload that have not come yet.
    pub(super) left: usize,
}

impl Frame {
    /// Unmasks the next bytes of the payload (RFC 6455 §5.3).
    pub(super) fn unmask(&mut self, payload: &mut [u8]) {
        for four in payload.chunks_mut(4) {
            for (byte, mask) in four.iter_mut().zip(self.mask) {
                *byte ^= mask;
            }
        }
        self.mask.rotate_left(payload.len() % 4);
        self.left -= payload.len();
    }
}

/// The bytes of a header that have come.
#[derive(Default)]
pub(super) struct Header {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Header {
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes bytes until the header is whole, and refuses it as soon as it is wrong. `within`: it
    /// comes within a message.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        used: &mut usize,
        within: bool,
    ) -> Result<Option<Frame>, Broken> {
        loop {
            let wanted = match self.length {
                0 | 1 => 2,
                _ => match self.bytes[1] & 0x7f {
                    126 => 8,
                    127 => 14,
                    _ => 6,
                },
            };
            if self.length == wanted {
                return self.parse().map(Some);
            }
            let Some(byte) = input.get(*used) else {
                return Ok(None);
            };
            *used += 1;
            self.bytes[self.length] = *byte;
            self.length += 1;
            if self.length == 2 {
                self.check(within)?;
            }
        }
    }

    /// The rules for a header's first two bytes (RFC 6455 §5.1, §5.2, §5.4, §5.5).
    fn check(&self, within: bool) -> Result<(), Broken> {
        let [first, second] = [self.bytes[0], self.bytes[1]];
        if first & 0x70 != 0 {
            return broken("a reserved bit is set");
        }
        if second & 0x80 == 0 {
            return broken("a client's frame must be masked");
        }
        match Opcode::of(first)? {
            Opcode::Continuation if !within => broken("there is nothing to continue"),
            Opcode::First(_) if within => broken("a message begins within another one"),
            opcode if !opcode.is_control() => Ok(()),
            _ if first & 0x80 == 0 => broken("a control frame must not be fragmented"),
            _ if usize::from(second & 0x7f) > MAX_CONTROL => broken("a control frame is too long"),
            _ => Ok(()),
        }
    }

    fn parse(&mut self) -> Result<Frame, Broken> {
        let header = &self.bytes[..std::mem::take(&mut self.length)];
        let (length, mask) = header[2..].split_at(header.len() - 6);
        let length = match length {
            [] => u64::from(header[1] & 0x7f),
            _ => length.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        };
        if length >> 63 != 0 {
            return broken("a length of more than 63 bits");
        }
        Ok(Frame {
            opcode: Opcode::of(header[0])?,
            is_final: header[0] & 0x80 != 0,
            mask: mask.try_into().expect("the last four bytes"),
            left: length as usize,
        })
    }
}
