//! Objects of either encoding, written member by member into a buffer. It owns the bytes of numbers, texts
//! and containers; which members a message has is its user's.

use std::io::Write;

use crate::{
    Encoding, MessageId,
    names::{Member, MessageType},
};

// RFC 8949 §3.2: containers of indefinite length, so that nothing has to be counted ahead.
pub(super) const CBOR_MAP: u8 = 0xbf;
pub(super) const CBOR_ARRAY: u8 = 0x9f;
pub(super) const CBOR_BREAK: u8 = 0xff;

/// An object that is being written into a buffer, member by member.
pub(super) struct Object<'a> {
    encoding: Encoding,
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(encoding: Encoding, out: &'a mut Vec<u8>) -> Self {
        out.push(match encoding {
            Encoding::Json => b'{',
            Encoding::Cbor => CBOR_MAP,
        });
        Self {
            encoding,
            out,
            empty: true,
        }
    }

    pub(super) fn key(&mut self, member: Member) {
        match self.encoding {
            Encoding::Json => {
                if !std::mem::take(&mut self.empty) {
                    self.out.push(b',');
                }
                self.out.push(b'"');
                self.out.extend_from_slice(member.as_str().as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            Encoding::Cbor => cbor_head(0, member.number().into(), self.out),
        }
    }

    pub(super) fn kind(&mut self, kind: MessageType) {
        match self.encoding {
            Encoding::Json => self.text(Member::Type, kind.as_str()),
            Encoding::Cbor => self.number(Member::Type, kind.number().into()),
        }
    }

    pub(super) fn id(&mut self, id: Option<&MessageId>) {
        match id {
            None => {}
            Some(MessageId::Text(id)) => self.text(Member::Id, id),
            Some(MessageId::Integer(id)) => {
                self.key(Member::Id);
                match self.encoding {
                    Encoding::Json => write_json_number(*id, self.out),
                    Encoding::Cbor => match u64::try_from(*id) {
                        Ok(id) => cbor_head(0, id, self.out),
                        // RFC 8949 §3.1: major type 1 carries -1 - n.
                        Err(_) => cbor_head(1, !*id as u64, self.out),
                    },
                }
            }
        }
    }

    pub(super) fn text(&mut self, member: Member, text: &str) {
        self.key(member);
        match self.encoding {
            Encoding::Json => json_text(text, self.out),
            Encoding::Cbor => {
                cbor_head(3, text.len() as u64, self.out);
                self.out.extend_from_slice(text.as_bytes());
            }
        }
    }

    pub(super) fn number(&mut self, member: Member, number: u64) {
        self.key(member);
        match self.encoding {
            Encoding::Json => write_json_number(number, self.out),
            Encoding::Cbor => cbor_head(0, number, self.out),
        }
    }

    pub(super) fn texts(&mut self, member: Member, texts: &[&str]) {
        self.key(member);
        match self.encoding {
            Encoding::Json => {
                self.out.push(b'[');
                for (n, text) in texts.iter().enumerate() {
                    if n > 0 {
                        self.out.push(b',');
                    }
                    json_text(text, self.out);
                }
                self.out.push(b']');
            }
            Encoding::Cbor => {
                cbor_head(4, texts.len() as u64, self.out);
                for text in texts {
                    cbor_head(3, text.len() as u64, self.out);
                    self.out.extend_from_slice(text.as_bytes());
                }
            }
        }
    }

    /// Begins an object that is the member's value.
    pub(super) fn object(&mut self, member: Member) -> Object<'_> {
        self.key(member);
        Object::begin(self.encoding, self.out)
    }

    pub(super) fn end(self) {
        self.out.push(match self.encoding {
            Encoding::Json => b'}',
            Encoding::Cbor => CBOR_BREAK,
        });
    }
}

pub(super) fn write_json_number(number: impl std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "{number}").expect("a Vec takes all bytes");
}

pub(super) fn json_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    // Names are mostly plain: copy up to what needs an escape (RFC 8259 §7).
    while let Some(at) = rest
        .bytes()
        .position(|b| b < 0x20 || b == b'"' || b == b'\\')
    {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        match rest.as_bytes()[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => write!(out, "\\u{byte:04x}").expect("a Vec takes all bytes"),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

/// The head of a CBOR item in its shortest form (RFC 8949 §3).
pub(super) fn cbor_head(major: u8, argument: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        0..24 => out.push(major | argument as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, argument as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}
