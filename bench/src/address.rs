//! Where servers and coordinators are: URLs, resolved once, and the table of the servers that this
//! process has been sent to.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{SocketAddr, ToSocketAddrs},
};

use serde::{Deserialize, Serialize};

/// Servers that a run may be sent to; a redirect to one more is not followed.
const MAX_PLACES: usize = 4_096;

/// Why a URL cannot be used as a server's or a coordinator's address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("{url:?}: expected {}", forms(schemes))]
    Url {
        url: String,
        schemes: &'static [&'static str],
    },
    #[error("{0:?} has no address: {1}")]
    Unresolved(String, io::Error),
    #[error("more than {MAX_PLACES} servers")]
    TooMany,
}

/// A URL taken apart into what a connection and its first request need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) socket: SocketAddr,
    /// The value of the `Host` header: host and port.
    pub(crate) host: String,
    /// The path of the request; it begins with `/`.
    pub(crate) path: String,
    /// It is `wss://` or `https://`.
    #[serde(default)]
    pub(crate) tls: bool,
}

/// The schemes that a server's URL may have.
pub(crate) const WEBSOCKET: &[&str] = &["ws://", "wss://"];
/// The schemes that a coordinator's URL may have.
pub(crate) const HTTP: &[&str] = &["http://"];

/// What URLs of these schemes look like.
fn forms(schemes: &[&str]) -> String {
    let forms: Vec<String> = schemes
        .iter()
        .map(|scheme| format!("{scheme}host:port/path"))
        .collect();
    forms.join(" or ")
}

impl Address {
    /// Takes a URL apart and resolves its host, which waits for DNS when that is a name.
    pub(crate) fn parse(url: &str, schemes: &'static [&'static str]) -> Result<Self, AddressError> {
        let wrong = || AddressError::Url {
            url: url.into(),
            schemes,
        };
        let mut found = schemes.iter();
        let found = found.find_map(|scheme| Some((scheme, url.strip_prefix(scheme)?)));
        let (scheme, rest) = found.ok_or_else(wrong)?;
        let tls = matches!(*scheme, "wss://" | "https://");
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let with_port = match host.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => host.into(),
            _ => format!("{host}:{}", if tls { 443 } else { 80 }),
        };
        let resolved = with_port
            .to_socket_addrs()
            .map_err(|error| AddressError::Unresolved(host.into(), error));
        Ok(Self {
            socket: resolved?.next().ok_or_else(wrong)?,
            host: host.into(),
            path: format!("/{path}"),
            tls,
        })
    }
}

/// An index into [`Places`]: one server that sessions connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(u16);

/// The servers that sessions have been sent to, and how many are open at each.
#[derive(Debug, Default)]
pub(crate) struct Places {
    known: Vec<(Address, u64)>,
    by_url: HashMap<String, Place>,
}

impl Places {
    /// The server behind a whole WebSocket URL, added when it is new.
    pub(crate) fn find(&mut self, url: &str) -> Result<Place, AddressError> {
        if let Some(place) = self.by_url.get(url) {
            return Ok(*place);
        }
        let address = Address::parse(url, WEBSOCKET)?;
        let place = self.add(address)?;
        self.by_url.insert(url.into(), place);
        Ok(place)
    }

    /// The server at a parsed address, added when it is new.
    pub(crate) fn add(&mut self, address: Address) -> Result<Place, AddressError> {
        if self.known.len() >= MAX_PLACES {
            return Err(AddressError::TooMany);
        }
        self.known.push((address, 0));
        Ok(Place(self.known.len() as u16 - 1))
    }

    pub(crate) fn address(&self, place: Place) -> &Address {
        &self.known[usize::from(place.0)].0
    }

    pub(crate) fn opened(&mut self, place: Place) {
        self.known[usize::from(place.0)].1 += 1;
    }

    pub(crate) fn closed(&mut self, place: Place) {
        self.known[usize::from(place.0)].1 -= 1;
    }

    /// The number of open connections, by server address.
    pub(crate) fn census(&self) -> BTreeMap<SocketAddr, u64> {
        let mut census = BTreeMap::new();
        for (address, open) in &self.known {
            *census.entry(address.socket).or_default() += open;
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_and_wrong_ones_are_refused() {
        let address = Address::parse("ws://127.0.0.1:8080/socket", WEBSOCKET).expect("a URL");
        assert_eq!(address.socket, ([127, 0, 0, 1], 8080).into());
        assert_eq!(
            (&*address.host, &*address.path),
            ("127.0.0.1:8080", "/socket")
        );
        let six = Address::parse("http://[::1]", HTTP).expect("a URL");
        assert_eq!((six.socket.port(), &*six.path), (80, "/"));
        let tls = Address::parse("wss://127.0.0.1/socket", WEBSOCKET).expect("a URL");
        assert!(tls.tls && tls.socket.port() == 443 && !six.tls && !address.tls);
        for wrong in [
            "https://127.0.0.1/socket",
            "127.0.0.1:80",
            "ws://127.0.0.1:x/",
        ] {
            assert!(Address::parse(wrong, WEBSOCKET).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_one_place_whoever_names_it() {
        let mut places = Places::default();
        let one = places.find("ws://127.0.0.1:1/socket").expect("a URL");
        assert_eq!(places.find("ws://127.0.0.1:1/socket").expect("a URL"), one);
        let two = places.find("ws://127.0.0.1:2/socket").expect("a URL");
        assert_ne!(one, two);
        places.opened(two);
        assert_eq!(places.census()[&places.address(two).socket], 1);
        places.closed(two);
        assert_eq!(places.census()[&places.address(two).socket], 0);
    }
}
