//! The client's end of the protocol (RFC 6455): the upgrade, masked frames out, frames in.

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use crate::{address::Address, encoding::Encoding};

pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;

/// The key and its answer of RFC 6455 §1.3: any key will do for a server that is not a cache.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The life of the bench's tokens, seconds.
const TTL: u64 = 6 * 3_600;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: u64,
}

/// A token of a user.
pub(crate) fn token(secret: &str, user: &str) -> Result<String, jsonwebtoken::errors::Error> {
    let claims = Claims {
        sub: user,
        exp: jsonwebtoken::get_current_timestamp() + TTL,
    };
    let key = EncodingKey::from_secret(secret.as_bytes())?;
    jsonwebtoken::encode(&Header::default(), &claims, &key)
}

/// The upgrade request of a user, with its token.
pub(crate) fn request(
    address: &Address,
    secret: &str,
    user: &str,
    encoding: Encoding,
) -> Result<Vec<u8>, jsonwebtoken::errors::Error> {
    let token = token(secret, user)?;
    let subprotocol = encoding.subprotocol();
    let headers =
        format!("Sec-WebSocket-Protocol: {subprotocol}\r\nAuthorization: Bearer {token}\r\n");
    Ok(upgrade(address, &headers))
}

/// An upgrade request with more headers, a line each.
pub(crate) fn upgrade(address: &Address, headers: &str) -> Vec<u8> {
    let Address { host, path, .. } = address;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// The length of the upgrade's answer at the start of `bytes`, once it is whole.
///
/// # Errors
/// The first line of an answer that is no upgrade.
pub(crate) fn upgraded(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let first = head.lines().next().unwrap_or_default();
    if first.starts_with("HTTP/1.1 101") && head.contains(ACCEPT) {
        return Ok(Some(end + 4));
    }
    Err(first.to_owned())
}

/// Appends a masked frame of a client to `out`.
pub(crate) fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: u32) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(long as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = mask.to_be_bytes();
    out.extend_from_slice(&mask);
    out.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// The first frame in `bytes`, once it is whole: opcode, payload, and the bytes after it.
pub(crate) fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [first, second, ..] = *bytes else {
        return None;
    };
    let (header, length) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
        ),
        short => (2, usize::from(short)),
    };
    let rest = bytes.get(header..)?;
    (rest.len() >= length).then(|| (first & 0xf, &rest[..length], &rest[length..]))
}

/// Code and reason of a close frame; 1005 = it has none (RFC 6455 §7.1.5).
pub(crate) fn close(payload: &[u8]) -> (u16, &str) {
    match payload.split_first_chunk() {
        Some((code, reason)) => (
            u16::from_be_bytes(*code),
            std::str::from_utf8(reason).unwrap_or_default(),
        ),
        None => (1005, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_only_once_whole() {
        for length in [0_usize, 1, 125, 126, 65_535, 65_536] {
            let mut bytes = Vec::new();
            frame(&mut bytes, TEXT, &vec![b'x'; length], 0);
            // Zero keys leave the payload as it is; the server's frames have no key at all.
            let header = bytes.len() - length - 4;
            bytes.drain(header..header + 4);
            bytes[1] &= 0x7f;
            bytes.push(7);
            for whole in [0, 1, header, header + length.saturating_sub(1)] {
                if whole < header + length {
                    assert!(split(&bytes[..whole]).is_none());
                }
            }
            let (opcode, payload, rest) = split(&bytes).expect("a whole frame");
            assert_eq!((opcode, payload.len(), rest), (TEXT, length, &[7][..]));
        }
    }

    #[test]
    fn a_close_has_a_code_and_a_reason_or_neither() {
        assert_eq!(close(b"\x11\x45ws://b/socket"), (4421, "ws://b/socket"));
        assert_eq!(close(b"\x03\xe8"), (1000, ""));
        assert_eq!(close(b"\x03"), (1005, ""));
    }

    #[test]
    fn an_upgrade_is_checked() {
        let good = format!("HTTP/1.1 101 X\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\nrest");
        assert_eq!(upgraded(good.as_bytes()), Ok(Some(good.len() - 4)));
        assert_eq!(upgraded(b"HTTP/1.1 101 X\r\n"), Ok(None));
        let refused = upgraded(b"HTTP/1.1 401 Unauthorized\r\n\r\n");
        assert_eq!(refused, Err("HTTP/1.1 401 Unauthorized".into()));
    }
}
