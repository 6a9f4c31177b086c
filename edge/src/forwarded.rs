//! Clients behind proxies: whose word is taken for where a request came from, and what it says. It
//! decides by addresses and headers alone and does no I/O.

use std::{fmt::Write, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use settings::{Kind, Literal};

use crate::{
    http::{Request, is_authority},
    proxy_protocol::ProxyHeader,
};

/// The proxies whose word is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|prefix| prefix.contains(&address))
    }
}

impl Kind for TrustedProxies {
    const ALLOWED: &'static str =
        "addresses and prefixes separated by commas, like 10.0.0.5,172.16.0.0/12,2001:db8::/32";
    const LITERAL: Literal = Literal::List;

    fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim);
        let parts = parts.filter(|part| !part.is_empty());
        let prefixes = parts.map(|part| {
            prefix(part).ok_or_else(|| format!("{part:?} is neither an address nor a prefix"))
        });
        prefixes.collect::<Result<_, _>>().map(Self)
    }

    fn show(&self) -> String {
        let mut text = String::new();
        for prefix in &self.0 {
            let comma = if text.is_empty() { "" } else { "," };
            write!(text, "{comma}{prefix}").expect("a String takes all text");
        }
        text
    }
}

/// One address, or a prefix. One of IPv4 addresses in IPv6 (RFC 4291 §2.5.5.2) is one of IPv4, as
/// the addresses are that it is compared with.
fn prefix(text: &str) -> Option<IpNet> {
    let Some((address, length)) = text.split_once('/') else {
        return IpAddr::from_str(text)
            .ok()
            .map(|address| address.to_canonical().into());
    };
    let address = IpAddr::from_str(address).ok()?;
    let length: u8 = length.parse().ok()?;
    let (address, length) = match address.to_canonical() {
        mapped @ IpAddr::V4(_) if address.is_ipv6() => (mapped, length.checked_sub(96)?),
        _ => (address, length),
    };
    Some(IpNet::new(address, length).ok()?.trunc())
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// A proxy whose headers say who the client is.
    pub(crate) is_proxy: bool,
    /// A PROXY protocol header said the address, so that the connection goes through a proxy all
    /// the same.
    pub(crate) is_relayed: bool,
    /// A PROXY protocol header said that the client speaks TLS with the proxy.
    pub(crate) is_secure: bool,
}

impl Peer {
    pub(crate) fn new(address: IpAddr, trusted: &TrustedProxies) -> Self {
        Self {
            address: address.to_canonical(),
            is_proxy: trusted.contains(address),
            is_relayed: false,
            is_secure: false,
        }
    }
}

impl Peer {
    /// The peer, with what the header of a trusted proxy says of its connection. A connection
    /// without a client's address is the proxy's own: what a header of HTTP says is not believed
    /// there, as it may be a client's that the proxy does not name.
    pub(crate) fn relaying(self, header: ProxyHeader, trusted: &TrustedProxies) -> Self {
        match header.source {
            Some(source) => Self {
                is_relayed: true,
                is_secure: header.is_secure,
                ..Self::new(source, trusted)
            },
            None => Self {
                is_proxy: false,
                ..self
            },
        }
    }
}

/// The client of a request, as the proxies that are trusted tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client<'a> {
    pub(crate) address: IpAddr,
    /// Whether it came by TLS to the outermost trusted proxy, when that is known.
    pub(crate) is_secure: Option<bool>,
    /// The host that the client asked for, with a port where one was given with it.
    pub(crate) host: Option<&'a str>,
    /// The port that the proxy was asked at, when the host has none and it is no scheme's own.
    pub(crate) port: Option<u16>,
    /// There is a proxy between it and the edge.
    pub(crate) is_proxied: bool,
}

impl<'a> Client<'a> {
    /// The client of a request that came from `peer`. What a header says counts only when a trusted
    /// proxy has written it: of the addresses in `X-Forwarded-For` the rightmost that is no trusted
    /// proxy, of `X-Forwarded-Proto`, `-Host` and `-Port` what the same proxy wrote that wrote this.
    pub(crate) fn of(request: &'a Request, peer: &Peer, trusted: &TrustedProxies) -> Self {
        let mut client = Self {
            address: peer.address,
            is_secure: peer.is_secure.then_some(true),
            host: request.host(),
            port: None,
            is_proxied: peer.is_proxy || peer.is_relayed,
        };
        if !peer.is_proxy {
            return client;
        }
        let hops: Vec<&str> = request.words("x-forwarded-for").collect();
        // Entries that were written by the proxies before the last one.
        let mut passed = 0;
        for (index, hop) in hops.iter().rev().enumerate() {
            // Who is no address cannot be trusted either: what is left of it anyone may have said.
            let Some(address) = hop_address(hop) else {
                break;
            };
            (client.address, passed) = (address, index);
            if !trusted.contains(address) {
                break;
            }
        }
        let written = |name| {
            let values: Vec<&str> = request.words(name).collect();
            let at = values.len().saturating_sub(passed + 1);
            values.get(at).copied()
        };
        let scheme = written("x-forwarded-proto").and_then(is_secure);
        client.is_secure = scheme.or(client.is_secure);
        let host = written("x-forwarded-host").filter(|host| is_authority(host));
        client.host = host.or(client.host);
        let port = written("x-forwarded-port").and_then(|port| port.parse().ok());
        // A proxy behind the one that ends TLS may tell 80 of what came by TLS.
        client.port = port.filter(|port| ![0, 80, 443].contains(port));
        client.port = client
            .port
            .filter(|_| client.host.is_some_and(|host| !has_port(host)));
        client
    }
}

/// Whether a host, which may be an IPv6 address in brackets, has a port.
fn has_port(host: &str) -> bool {
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    after_address.contains(':')
}

/// Whether a scheme is one over TLS.
fn is_secure(scheme: &str) -> Option<bool> {
    match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => Some(true),
        "http" | "ws" => Some(false),
        _ => None,
    }
}

/// An address as proxies write it: with or without a port, in brackets or not.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim_matches('"');
    if let Ok(address) = IpAddr::from_str(hop) {
        return Some(address.to_canonical());
    }
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match hop.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => host,
            (host, port) if port.strip_prefix(':').is_some_and(is_port) => host,
            _ => return None,
        },
        None => match hop.split_once(':')? {
            (host, port) if is_port(port) => host,
            _ => return None,
        },
    };
    IpAddr::from_str(host)
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(text: &str) -> TrustedProxies {
        TrustedProxies::parse(text).expect(text)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn request(headers: &str) -> Request {
        let text = format!("GET / HTTP/1.1\r\nHost: edge.internal\r\n{headers}\r\n");
        let parsed = crate::http::parse(text.as_bytes(), 4_000).expect("good");
        parsed.expect("whole").0
    }

    fn client_address(peer: &str, headers: &str) -> IpAddr {
        let trusted = trusted("10.0.0.0/8,2001:db8:1::/48");
        let request = request(headers);
        Client::of(&request, &Peer::new(ip(peer), &trusted), &trusted).address
    }

    #[test]
    fn proxies_are_addresses_and_prefixes_of_both_kinds() {
        let some = trusted(" 10.1.2.3/8, 192.0.2.7 ,2001:db8::/32,::1,::ffff:172.16.0.0/108,");
        for inside in [
            "10.0.0.1",
            "10.255.255.255",
            "::ffff:10.9.8.7",
            "192.0.2.7",
            "2001:db8:ffff::1",
            "::1",
            "172.31.0.1",
            "::ffff:172.16.0.1",
        ] {
            assert!(some.contains(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "2001:db9::1", "::2", "172.32.0.1"] {
            assert!(!some.contains(ip(outside)), "{outside}");
        }
        assert_eq!(
            some.show(),
            "10.0.0.0/8,192.0.2.7/32,2001:db8::/32,::1/128,172.16.0.0/12"
        );
        let none = trusted("");
        assert!(none.is_empty() && !none.contains(ip("127.0.0.1")) && none.show().is_empty());
        assert!(trusted("0.0.0.0/0").contains(ip("::ffff:1.2.3.4")));
        assert!(!trusted("::/0").contains(ip("1.2.3.4")));
        for bad in [
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.1:80",
            "proxy.example",
            "::1/129",
            "::ffff:10.0.0.0/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "10.0.0.1 10.0.0.2",
        ] {
            let error = TrustedProxies::parse(bad).expect_err(bad);
            assert!(error.contains(&format!("{bad:?} is neither")), "{error}");
        }
    }

    #[test]
    fn the_client_is_the_rightmost_hop_that_is_no_trusted_proxy() {
        for (headers, address) in [
            ("", "10.0.0.1"),
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n", "192.0.2.1"),
            (
                "X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.9.9.9\r\n",
                "192.0.2.1",
            ),
            // Several lines are one list, and empty members are none.
            (
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.1,,\r\nx-forwarded-for: 10.2.0.1\r\n",
                "192.0.2.1",
            ),
            // A client in the proxies' own network.
            ("X-Forwarded-For: 10.3.0.1, 10.2.0.1\r\n", "10.3.0.1"),
            ("X-Forwarded-For: 192.0.2.1:4711\r\n", "192.0.2.1"),
            ("X-Forwarded-For: [2001:db8::7]:4711\r\n", "2001:db8::7"),
            ("X-Forwarded-For: [2001:db8::7]\r\n", "2001:db8::7"),
            ("X-Forwarded-For: \"[2001:db8::7]:1\"\r\n", "2001:db8::7"),
            (
                "X-Forwarded-For: 2001:db8::7, 2001:db8:1::9\r\n",
                "2001:db8::7",
            ),
            ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1"),
            (
                "X-Forwarded-For: 192.0.2.1, ::ffff:10.7.7.7\r\n",
                "192.0.2.1",
            ),
            // What is no address is believed by nobody, nor what is left of it.
            ("X-Forwarded-For: 192.0.2.1, unknown\r\n", "10.0.0.1"),
            (
                "X-Forwarded-For: 192.0.2.1, unknown, 10.2.0.1\r\n",
                "10.2.0.1",
            ),
            ("X-Forwarded-For: 192.0.2.1:\r\n", "10.0.0.1"),
            ("X-Forwarded-For: [2001:db8::7\r\n", "10.0.0.1"),
            ("X-Forwarded-For: [2001:db8::7]x\r\n", "10.0.0.1"),
            ("X-Forwarded-For: <script>\r\n", "10.0.0.1"),
            // Other headers are not read.
            (
                "Forwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n",
                "10.0.0.1",
            ),
        ] {
            assert_eq!(
                client_address("10.0.0.1", headers),
                ip(address),
                "{headers}"
            );
            // From anyone else it is never believed.
            assert_eq!(client_address("192.0.2.9", headers), ip("192.0.2.9"));
        }
        let mapped = client_address("::ffff:10.0.0.1", "X-Forwarded-For: 192.0.2.1\r\n");
        assert_eq!(mapped, ip("192.0.2.1"));
    }

    #[test]
    fn scheme_and_host_are_those_that_the_same_proxy_wrote() {
        let trusted = trusted("10.0.0.0/8");
        let ask = |peer: &str, headers: &str| {
            let request = request(headers);
            let client = Client::of(&request, &Peer::new(ip(peer), &trusted), &trusted);
            (client.is_secure, client.host.map(str::to_owned))
        };
        let inside = |host: &str| Some(host.to_owned());
        for (headers, secure, host) in [
            ("", None, "edge.internal"),
            ("X-Forwarded-Proto: https\r\n", Some(true), "edge.internal"),
            ("X-Forwarded-Proto: WSS\r\n", Some(true), "edge.internal"),
            ("X-Forwarded-Proto: http\r\n", Some(false), "edge.internal"),
            ("X-Forwarded-Proto: gopher\r\n", None, "edge.internal"),
            (
                "X-Forwarded-Host: chat.example:8443\r\n",
                None,
                "chat.example:8443",
            ),
            (
                "X-Forwarded-Host: chat.example/x\r\n",
                None,
                "edge.internal",
            ),
            // What the client had written stands left of what the proxy wrote.
            (
                "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-Proto: https, http\r\n\
                 X-Forwarded-Host: evil.example, chat.example\r\n",
                Some(false),
                "chat.example",
            ),
            // Two proxies, of which the inner one got plain text.
            (
                "X-Forwarded-For: 192.0.2.1, 10.0.0.2\r\nX-Forwarded-Proto: https, http\r\n\
                 X-Forwarded-Host: chat.example, inner.example\r\n",
                Some(true),
                "chat.example",
            ),
            // Two proxies, of which the inner one passes on what the outer one wrote.
            (
                "X-Forwarded-For: 192.0.2.1, 10.0.0.2\r\nX-Forwarded-Proto: https\r\n",
                Some(true),
                "edge.internal",
            ),
        ] {
            assert_eq!(
                ask("10.0.0.1", headers),
                (secure, inside(host)),
                "{headers}"
            );
            assert_eq!(ask("192.0.2.9", headers), (None, inside("edge.internal")));
        }
        let port = |peer: &str, headers: &str| {
            let request = request(headers);
            Client::of(&request, &Peer::new(ip(peer), &trusted), &trusted).port
        };
        for (headers, expected) in [
            ("X-Forwarded-Port: 8443\r\n", Some(8443)),
            (
                "X-Forwarded-Port: 8443\r\nX-Forwarded-Host: chat.example\r\n",
                Some(8443),
            ),
            (
                "X-Forwarded-Port: 8443\r\nX-Forwarded-Host: [::1]\r\n",
                Some(8443),
            ),
            // The host says where it was asked itself.
            (
                "X-Forwarded-Port: 8443\r\nX-Forwarded-Host: chat.example:99\r\n",
                None,
            ),
            (
                "X-Forwarded-Port: 8443\r\nX-Forwarded-Host: [::1]:99\r\n",
                None,
            ),
            (
                "X-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\n",
                None,
            ),
            ("X-Forwarded-Port: 80\r\nX-Forwarded-Proto: https\r\n", None),
            ("X-Forwarded-Port: 65536\r\n", None),
            ("X-Forwarded-Port: 0\r\n", None),
            ("X-Forwarded-Port: 8443/x\r\n", None),
            (
                "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-Port: 6666, 8443\r\n",
                Some(8443),
            ),
        ] {
            assert_eq!(port("10.0.0.1", headers), expected, "{headers}");
            assert_eq!(port("192.0.2.9", headers), None, "{headers}");
        }
        // What a PROXY protocol header says of TLS stands where a proxy of HTTP says nothing.
        let header = ProxyHeader {
            source: Some(ip("10.0.0.2")),
            is_secure: true,
        };
        let relayed = Peer::new(ip("10.0.0.1"), &trusted).relaying(header, &trusted);
        for (headers, secure) in [("", true), ("X-Forwarded-Proto: http\r\n", false)] {
            let request = request(headers);
            let client = Client::of(&request, &relayed, &trusted);
            assert_eq!(client.is_secure, Some(secure), "{headers}");
        }
    }
}
