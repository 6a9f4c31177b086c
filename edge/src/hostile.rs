//! Whatever comes to a socket before there is a session is read or refused: heads, PROXY headers, frames.

use fuzz::{corpus, hostile};
use proptest::prelude::*;

use crate::{forwarded, http, proxy_protocol, websocket};

proptest! {
    #[test]
    fn heads_of_requests(bytes in hostile(corpus("head"))) {
        if let Ok(Some((request, length))) = http::parse(&bytes, 2_000) {
            prop_assert!(length <= bytes.len() && request.body_length <= http::MAX_BODY);
            // All that looks at a request.
            let _ = (request.host(), request.bearer().is_ok(), request.parameters("userId"));
            let trusted = forwarded::TrustedProxies::default();
            let peer = forwarded::Peer::new([127, 0, 0, 1].into(), &trusted);
            let _ = forwarded::Client::of(&request, &peer, &trusted);
            // It is seen when it is whole, and not before.
            for end in 0..length {
                prop_assert!(!matches!(http::parse(&bytes[..end], 2_000), Ok(Some(_))));
            }
        }
    }

    #[test]
    fn proxy_headers(bytes in hostile(corpus("proxy"))) {
        if let Ok(Some((_, length))) = proxy_protocol::parse(&bytes) {
            prop_assert!(length <= bytes.len());
        }
        proxy_protocol::is_header(&bytes);
    }

    #[test]
    fn frames_in_pieces(
        bytes in hostile(corpus("frames")),
        piece in 1_usize..40,
    ) {
        let found = |piece: usize| {
            let mut reader = websocket::Reader::new(100);
            let mut found = Vec::new();
            for part in bytes.clone().chunks_mut(piece) {
                reader.read(part, |inbound| {
                    found.push(format!("{inbound:?}"));
                    true
                });
            }
            found
        };
        prop_assert_eq!(found(piece), found(bytes.len().max(1)));
    }
}
