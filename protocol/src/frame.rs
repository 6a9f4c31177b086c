//! WebSocket frames from server to client (RFC 6455 §5.2): unmasked, final, never fragmented.
//! It writes headers around payloads that are already in place; it never reads a frame.

use std::ops::Range;

use crate::CloseCode;

/// The op code of a frame: the kind of data or control that it carries (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A message of UTF-8 text.
    Text = 1,
    /// A message of bytes.
    Binary = 2,
    /// The end, with an optional code and reason.
    Close = 8,
    /// Asks the other end for a pong.
    Ping = 9,
    /// Answers a ping with the ping's payload.
    Pong = 10,
}

/// The longest header that [`end`] writes, in bytes.
pub const MAX_HEADER: usize = 10;
/// The longest payload of a control frame, in bytes (RFC 6455 §5.5).
pub const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
/// Enough for payloads up to 65,535 bytes, so that only larger ones are moved.
const RESERVED: usize = 4;

/// Where a frame begins that is not ended yet.
#[derive(Debug)]
#[must_use = "a frame that is begun has to be ended"]
pub struct FrameStart(usize);

/// Begins a frame at the end of `out`: the caller appends the payload and calls [`end`].
pub fn begin(out: &mut Vec<u8>) -> FrameStart {
    let start = out.len();
    out.resize(start + RESERVED, 0);
    FrameStart(start)
}

/// Writes the header right before the payload, which is all of `out` since [`begin`], and
/// returns where the frame lies. Short frames leave unused bytes before them; a payload above
/// 65,535 bytes is moved up to make room.
///
/// # Panics
/// When `out` was cut below the frame's start.
#[expect(clippy::needless_pass_by_value, reason = "a frame is ended once")]
pub fn end(out: &mut Vec<u8>, start: FrameStart, opcode: Opcode) -> Range<usize> {
    let FrameStart(start) = start;
    let first = FIN | opcode as u8;
    let payload = start + RESERVED;
    let length = out.len() - payload;
    if length <= MAX_CONTROL {
        out[payload - 2] = first;
        out[payload - 1] = length as u8;
        return payload - 2..out.len();
    }
    if let Ok(short) = u16::try_from(length) {
        out[start] = first;
        out[start + 1] = 126;
        out[start + 2..payload].copy_from_slice(&short.to_be_bytes());
    } else {
        out.resize(out.len() + MAX_HEADER - RESERVED, 0);
        out.copy_within(payload..payload + length, start + MAX_HEADER);
        out[start] = first;
        out[start + 1] = 127;
        out[start + 2..start + MAX_HEADER].copy_from_slice(&(length as u64).to_be_bytes());
    }
    start..out.len()
}

/// Appends a whole control frame and returns where it lies.
///
/// # Panics
/// When `payload` is longer than [`MAX_CONTROL`].
pub fn control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) -> Range<usize> {
    assert!(
        payload.len() <= MAX_CONTROL,
        "a control frame carries at most {MAX_CONTROL} bytes"
    );
    let start = out.len();
    out.extend_from_slice(&[FIN | opcode as u8, payload.len() as u8]);
    out.extend_from_slice(payload);
    start..out.len()
}

/// Appends a close frame and returns where it lies. The reason is cut to 123 bytes at the start
/// of a character.
pub fn close(out: &mut Vec<u8>, code: CloseCode, reason: &str) -> Range<usize> {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL - 2)];
    let start = out.len();
    out.extend_from_slice(&[FIN | Opcode::Close as u8, reason.len() as u8 + 2]);
    out.extend_from_slice(&code.get().to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
    start..out.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header by the table of RFC 6455 §5.2: first byte, payload.
    fn parse(frame: &[u8]) -> (u8, &[u8]) {
        let (length, header) = match frame[1] {
            126 => (usize::from(frame[2]) << 8 | usize::from(frame[3]), 4),
            127 => {
                let length = frame[2..10]
                    .iter()
                    .fold(0, |n, byte| n << 8 | usize::from(*byte));
                (length, 10)
            }
            short => (usize::from(short), 2),
        };
        assert_eq!(frame.len(), header + length);
        (frame[0], &frame[header..])
    }

    #[test]
    fn a_frame_of_any_size_has_the_shortest_header_and_its_payload_behind_it() {
        for size in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..size).map(|i: u32| i as u8).collect();
            let mut out = b"before".to_vec();
            let start = begin(&mut out);
            out.extend_from_slice(&payload);
            let frame = end(&mut out, start, Opcode::Text);
            assert_eq!(frame.end, out.len());
            let header = frame.len() - payload.len();
            assert_eq!(
                header,
                match size {
                    0..=125 => 2,
                    126..=65_535 => 4,
                    _ => MAX_HEADER,
                }
            );
            assert_eq!(parse(&out[frame]), (0x81, payload.as_slice()));
            assert!(out.starts_with(b"before"));
        }
    }

    #[test]
    fn control_frames_carry_their_payload() {
        let mut out = vec![0];
        let ping = control(&mut out, Opcode::Ping, b"hello");
        let pong = control(&mut out, Opcode::Pong, &[7; 125]);
        assert_eq!(parse(&out[ping]), (0x89, b"hello".as_slice()));
        assert_eq!(parse(&out[pong]), (0x8a, [7; 125].as_slice()));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        let frame = close(&mut out, CloseCode::WRONG_NODE, &"é".repeat(100));
        let (first, payload) = parse(&out[frame]);
        assert_eq!(first, 0x88);
        assert_eq!(payload[..2], 4421_u16.to_be_bytes());
        assert_eq!(payload[2..], *"é".repeat(61).as_bytes());
    }
}
