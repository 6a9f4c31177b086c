//! TLS of links, by rustls, without I/O: who may be at the other end. The cluster's key makes one Ed25519
//! key pair, the same in all edges. Each side shows its public half as it is (RFC 7250), proves the
//! private half by its signature over the handshake (RFC 8446 §4.4.3), and takes no other key.

use std::sync::Arc;

use aws_lc_rs::{hmac, signature::Ed25519KeyPair};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs::sign::any_eddsa_type,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{
        CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SigningKey},
    version::TLS13,
};

use crate::tls::provider;

/// What the seed of the key pair is drawn for: no other use of the cluster's key gets the same bytes.
const PURPOSE: &[u8] = b"online-status links, format 2, Ed25519";

/// The key that all edges of a cluster share, as TLS takes it.
#[derive(Clone)]
pub(crate) struct ClusterKey {
    pub(super) watcher: Arc<ClientConfig>,
    pub(super) owner: Arc<ServerConfig>,
}

impl ClusterKey {
    pub(crate) fn new(secret: &str) -> Self {
        let signing = key_pair(secret);
        let public = public_half(&*signing);
        Self::showing(CertifiedKey::new(vec![public.clone()], signing), public)
    }

    /// Of a side that shows `own` and takes `theirs` alone.
    fn showing(own: CertifiedKey, theirs: CertificateDer<'static>) -> Self {
        let (own, provider) = (Arc::new(own), Arc::new(provider()));
        let only = Arc::new(Only {
            public: theirs,
            algorithms: provider.signature_verification_algorithms,
        });
        let mut watcher = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&only) as _)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&own),
            )));
        // Edges have no names in TLS, and a link that broke shows the key anew.
        watcher.enable_sni = false;
        watcher.resumption = Resumption::disabled();
        let mut owner = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(only)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        owner.send_tls13_tickets = 0;
        Self {
            watcher: Arc::new(watcher),
            owner: Arc::new(owner),
        }
    }
}

/// Who has the secret can make it; from its public half the secret can only be guessed.
fn key_pair(secret: &str) -> Arc<dyn SigningKey> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let seed = hmac::sign(&secret, PURPOSE);
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).expect("32 bytes are a seed");
    let encoded = pair.to_pkcs8v1().expect("a key pair has a form");
    any_eddsa_type(&PrivatePkcs8KeyDer::from(encoded.as_ref())).expect("it was encoded above")
}

fn public_half(key: &dyn SigningKey) -> CertificateDer<'static> {
    let public = key.public_key().expect("an Ed25519 key has one");
    // TLS carries a raw key where certificates go.
    CertificateDer::from(public.to_vec())
}

/// The other side's name in TLS, which nothing looks at.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::try_from("edge").expect("a name")
}

/// Takes one public key, and whoever signs with its private half.
#[derive(Debug)]
struct Only {
    public: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Only {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match *shown == self.public {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let public = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &public, signature, &self.algorithms)
    }
}

/// Links speak TLS 1.3 alone, so that nobody asks.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(PeerIncompatible::Tls12NotOffered.into())
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        ClientConnection, Connection, ServerConnection, client::ResolvesClientCert, version::TLS12,
    };

    use super::*;

    fn ours() -> ClusterKey {
        ClusterKey::new(&"k".repeat(32))
    }

    /// What each side made of the other: the watcher, then the owner.
    type Met = (Result<(), Error>, Result<(), Error>);

    fn meet(watcher: &Arc<ClientConfig>, owner: &Arc<ServerConfig>) -> Met {
        let watcher = ClientConnection::new(Arc::clone(watcher), no_name()).expect("a client");
        let owner = ServerConnection::new(Arc::clone(owner)).expect("a server");
        let mut sides = [Connection::from(watcher), Connection::from(owner)];
        let mut ends = [Ok(()), Ok(())];
        // Each flight of a handshake of TLS 1.3, an alert, and one more.
        for turn in 0..6 {
            let mut bytes = Vec::new();
            let (from, to) = (turn % 2, 1 - turn % 2);
            while sides[from].wants_write() {
                sides[from].write_tls(&mut bytes).expect("room");
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() && ends[to].is_ok() {
                sides[to].read_tls(&mut rest).expect("bytes");
                ends[to] = sides[to].process_new_packets().map(|_| ());
            }
        }
        let [watcher, owner] = ends;
        let [finished, served] = sides.map(|side| !side.is_handshaking());
        let done = |end: Result<(), Error>, done| match (&end, done) {
            (Ok(()), false) => Err(Error::HandshakeNotComplete),
            _ => end,
        };
        (done(watcher, finished), done(owner, served))
    }

    fn plainly(watcher: &ClusterKey, owner: &ClusterKey) -> Met {
        meet(&watcher.watcher, &owner.owner)
    }

    fn is_refused_for_its_key(end: &Result<(), Error>) -> bool {
        matches!(end, Err(Error::InvalidCertificate(_)))
    }

    /// A side with another key that knows the cluster's public one, takes it, and shows `shown`.
    fn stranger(shown: CertificateDer<'static>) -> ClusterKey {
        let own = CertifiedKey::new(vec![shown], key_pair(&"x".repeat(32)));
        ClusterKey::showing(own, public_half(&*key_pair(&"k".repeat(32))))
    }

    #[test]
    fn two_edges_with_the_key_meet_and_no_other_is_taken() {
        assert_eq!(plainly(&ours(), &ours()), (Ok(()), Ok(())));
        let (watcher, owner) = plainly(&ours(), &ClusterKey::new(&"x".repeat(32)));
        assert!(is_refused_for_its_key(&watcher), "{watcher:?}");
        assert!(owner.is_err());
        // Neither who shows a key of its own, nor who shows the cluster's and cannot sign with it.
        for of in ["k", "x"] {
            let stranger = stranger(public_half(&*key_pair(&of.repeat(32))));
            let (watcher, _) = plainly(&ours(), &stranger);
            assert!(is_refused_for_its_key(&watcher), "{watcher:?}");
            let (_, owner) = plainly(&stranger, &ours());
            assert!(is_refused_for_its_key(&owner), "{owner:?}");
        }
    }

    /// Says that it has raw public keys, and shows none.
    #[derive(Debug)]
    struct NoKey;

    impl ResolvesClientCert for NoKey {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }

        fn only_raw_public_keys(&self) -> bool {
            true
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    #[test]
    fn who_shows_no_key_or_a_certificate_or_speaks_an_older_tls_is_refused() {
        let bare = |version| {
            let only = Only {
                public: public_half(&*key_pair(&"k".repeat(32))),
                algorithms: provider().signature_verification_algorithms,
            };
            let builder = ClientConfig::builder_with_provider(Arc::new(provider()));
            builder
                .with_protocol_versions(&[version])
                .expect("suites")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(only))
        };
        let silent = bare(&TLS13).with_client_cert_resolver(Arc::new(NoKey));
        let (_, owner) = meet(&Arc::new(silent), &ours().owner);
        assert_eq!(owner, Err(Error::NoCertificatesPresented));
        let older = Arc::new(bare(&TLS12).with_no_client_auth());
        let (_, owner) = meet(&older, &ours().owner);
        assert!(
            matches!(owner, Err(Error::PeerIncompatible(_))),
            "{owner:?}"
        );

        let made = rcgen::generate_simple_self_signed(vec!["edge".into()]).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let web = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("suites")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .expect("a certificate and its key");
        let (watcher, _) = meet(&ours().watcher, &Arc::new(web));
        assert!(watcher.is_err(), "{watcher:?}");
    }
}
