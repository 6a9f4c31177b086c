//! The header that a proxy of TCP connections sends before its client's bytes (PROXY protocol,
//! versions 1 and 2). It knows the header's forms and does no I/O.

use std::net::IpAddr;

use ppp::{PartialResult, v1, v2};

/// How a version 1 header begins, and its longest line.
const LINE: &[u8] = b"PROXY ";
const MAX_LINE: usize = 107;
/// Bytes of a version 2 header, of which the protocol allows 65,551: what proxies add to the
/// addresses are names, certificates' subjects and identifiers.
const MAX_HEADER: usize = 4 << 10;
/// The bytes that a version 2 header begins with.
const SIGNATURE: &[u8] = v2::PROTOCOL_PREFIX;
/// The command of a connection that is the proxy's own.
const LOCAL: u8 = 0x20;
/// What stands before the variable part, whose length are its last two bytes.
const FIXED: usize = 16;
/// Bit 0 of the first byte of a TLS entry: the client speaks TLS with the proxy.
const CLIENT_SSL: u8 = 1;

/// The content of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    /// The client's address; `None` for a connection of the proxy itself, as its health checks are,
    /// and for one whose client has no IP address.
    pub(crate) source: Option<IpAddr>,
    /// Whether the client speaks TLS with the proxy.
    pub(crate) is_secure: bool,
}

/// Bytes that are no header, nor the beginning of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoHeader;

/// The header at the beginning of `bytes`, and its length; `None` when more has to come.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, NoHeader> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(have, want)| have == want);
    if begins(LINE) {
        parse_line(bytes)
    } else if begins(SIGNATURE) {
        parse_binary(bytes)
    } else {
        Err(NoHeader)
    }
}

/// Version 1, a line. It is looked at once it is whole: the library takes one that ends behind its
/// last space for a wrong one.
fn parse_line(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, NoHeader> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE {
            Ok(None)
        } else {
            Err(NoHeader)
        };
    };
    let header = v1::Header::try_from(&bytes[..=end]).map_err(|_| NoHeader)?;
    let source = match header.addresses {
        v1::Addresses::Tcp4(tcp) => Some(tcp.source_address.into()),
        v1::Addresses::Tcp6(tcp) => Some(tcp.source_address.into()),
        v1::Addresses::Unknown => None,
    };
    let content = ProxyHeader {
        source,
        is_secure: false,
    };
    Ok(Some((content, header.header.len())))
}

/// The content of a version 2 header and its length; `None` while it is not whole.
fn parse_binary(bytes: &[u8]) -> Result<Option<(ProxyHeader, usize)>, NoHeader> {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[FIXED - 2], fixed[FIXED - 1]]));
    if length > MAX_HEADER {
        return Err(NoHeader);
    }
    // Whatever else it has does not count, not even when it is none of the known families.
    if fixed[SIGNATURE.len()] == LOCAL {
        let own = ProxyHeader {
            source: None,
            is_secure: false,
        };
        return Ok((bytes.len() >= length).then_some((own, length)));
    }
    let header = v2::Header::try_from(bytes);
    if header.is_incomplete() {
        return Ok(None);
    }
    let header = header.map_err(|_| NoHeader)?;
    let source = match header.addresses {
        v2::Addresses::IPv4(ip) => Some(ip.source_address.into()),
        v2::Addresses::IPv6(ip) => Some(ip.source_address.into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    // An entry that is cut short ends the list.
    let is_secure = header.tlvs().map_while(Result::ok).any(|entry| {
        let flags = entry.value.first().copied().unwrap_or_default();
        entry.kind == u8::from(v2::Type::SSL) && flags & CLIENT_SSL != 0
    });
    Ok(Some((ProxyHeader { source, is_secure }, length)))
}

/// Whether bytes that are no HTTP request are such a header.
pub(crate) fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE) || bytes.starts_with(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEHIND: &[u8] = b"GET / HTTP/1.1\r\n\r\n\0\xff";

    /// A version 2 header.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    fn v4() -> Vec<u8> {
        vec![192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80]
    }

    fn v6() -> Vec<u8> {
        let source: std::net::Ipv6Addr = "2001:db8::7".parse().expect("an address");
        [&source.octets()[..], &[0; 16], &[1, 2, 0, 80]].concat()
    }

    /// What a header says, however it comes in pieces.
    fn parsed(header: &[u8]) -> Option<ProxyHeader> {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{cut} of {header:?}");
        }
        let (content, length) = parse(&[header, BEHIND].concat()).ok()??;
        assert_eq!(length, header.len());
        Some(content)
    }

    fn from(address: &str) -> Option<ProxyHeader> {
        Some(ProxyHeader {
            source: Some(address.parse().expect("an address")),
            is_secure: false,
        })
    }

    const NOBODY: Option<ProxyHeader> = Some(ProxyHeader {
        source: None,
        is_secure: false,
    });

    #[test]
    fn both_versions_say_the_source_however_they_come() {
        let tcp4 = b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n";
        assert_eq!(parsed(tcp4), from("192.0.2.1"));
        let tcp6 = b"PROXY TCP6 2001:db8::7 2001:db8:ffff:ffff:ffff:ffff:ffff:1 65535 65535\r\n";
        assert_eq!(parsed(tcp6), from("2001:db8::7"));
        assert_eq!(parsed(&binary(0x21, 0x11, &v4())), from("192.0.2.1"));
        assert_eq!(parsed(&binary(0x21, 0x21, &v6())), from("2001:db8::7"));
    }

    #[test]
    fn a_connection_without_a_client_address_is_the_proxys_own() {
        assert_eq!(parsed(b"PROXY UNKNOWN\r\n"), NOBODY);
        assert_eq!(parsed(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), NOBODY);
        assert_eq!(parsed(&binary(0x21, 0x00, b"")), NOBODY);
        assert_eq!(parsed(&binary(0x21, 0x31, &[b'/'; 216])), NOBODY);
        // What else a local one says does not count, nor whether that is whole.
        for family in [0x00, 0x11, 0x21, 0x31, 0xff] {
            assert_eq!(parsed(&binary(0x20, family, b"")), NOBODY);
            assert_eq!(parsed(&binary(0x20, family, &v4())), NOBODY);
        }
    }

    #[test]
    fn entries_behind_the_addresses_are_passed_over_but_for_tls() {
        let with = |entry: &[u8]| binary(0x21, 0x11, &[&v4(), entry].concat());
        assert_eq!(
            parsed(&with(&[0x02, 0, 3, b'h', b'o', b'm'])),
            from("192.0.2.1")
        );
        assert_eq!(parsed(&with(&[0x05, 0xff, 0xff, 1])), from("192.0.2.1"));
        let plain = parsed(&with(&[0x20, 0, 5, 0, 0, 0, 0, 1])).expect("a header");
        assert!(!plain.is_secure);
        let secure = parsed(&with(&[0x20, 0, 5, 1, 0, 0, 0, 0])).expect("a header");
        assert!(secure.is_secure);
        assert_eq!(parsed(&with(&[0xee; 4_000][..3_900])), from("192.0.2.1"));
    }

    #[test]
    fn what_is_no_header_is_seen_as_early_as_can_be() {
        for bytes in [
            BEHIND,
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"PROXY TCP4 2001:db8::7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 99999\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n\r\n",
            b"PROXY TCP5 192.0.2.1 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 192.0.2.1\n",
            b"proxy UNKNOWN\r\n",
            b"PROXY\r\n",
            // Another version, command, family; addresses that are cut short; too long.
            &binary(0x11, 0x11, &v4()),
            &binary(0x22, 0x11, &v4()),
            &binary(0x21, 0x41, &v4()),
            &binary(0x21, 0x11, &v4()[..11]),
            &binary(0x21, 0x21, &v4()),
            &binary(0x21, 0x31, &[0; 215]),
            &binary(0x21, 0x11, &[0; 4_090]),
            &binary(0x20, 0x11, &[0; 4_090])[..16],
        ] {
            assert_eq!(
                parse(bytes),
                Err(NoHeader),
                "{:?}",
                bytes.escape_ascii().to_string()
            );
        }
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        assert_eq!(parse(&endless), Err(NoHeader));
    }
}
