//! Keys, each bound to the kind of its algorithm, and those of PEM files. It owns which kinds and
//! algorithms there are.

use std::path::Path;

use jsonwebtoken::{Algorithm, DecodingKey};

use crate::KeyError;

/// The kinds of keys; an algorithm only ever meets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum KeyKind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// The fewest bits of an RSA key (RFC 7518 §3.3).
pub(crate) const MIN_RSA_BITS: usize = 2_048;

pub(crate) fn kind_of(algorithm: Algorithm) -> KeyKind {
    use Algorithm as A;
    match algorithm {
        A::HS256 | A::HS384 | A::HS512 => KeyKind::Secret,
        A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => KeyKind::Rsa,
        A::ES256 => KeyKind::P256,
        A::ES384 => KeyKind::P384,
        // The rest is not known to `algorithm_of`.
        _ => KeyKind::Ed25519,
    }
}

/// The algorithm of that name, if it is one that can be accepted. `EdDSA` (RFC 8037) and `Ed25519`
/// (RFC 9864) are one: here, only Ed25519 keys are for either.
pub(crate) fn algorithm_of(name: &str) -> Option<Algorithm> {
    use Algorithm as A;
    Some(match name {
        "HS256" => A::HS256,
        "HS384" => A::HS384,
        "HS512" => A::HS512,
        "RS256" => A::RS256,
        "RS384" => A::RS384,
        "RS512" => A::RS512,
        "PS256" => A::PS256,
        "PS384" => A::PS384,
        "PS512" => A::PS512,
        "ES256" => A::ES256,
        "ES384" => A::ES384,
        "EdDSA" | "Ed25519" => A::EdDSA,
        _ => return None,
    })
}

pub(crate) struct Key {
    /// The name by which tokens choose the key (`kid`); `None` when it has none.
    pub(crate) id: Option<String>,
    pub(crate) kind: KeyKind,
    /// The only algorithm it may be used with, when its owner says so.
    pub(crate) only: Option<Algorithm>,
    pub(crate) decoding: DecodingKey,
}

impl Key {
    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.kind == kind_of(algorithm) && self.only.is_none_or(|only| only == algorithm)
    }
}

/// Makes errors of the file that a setting names.
pub(crate) fn wrong_file(setting: &'static str, path: &Path) -> impl Fn(String) -> KeyError {
    let path = path.display().to_string();
    move |what| KeyError::File(setting, path.clone(), what)
}

pub(crate) fn read_pem(path: &Path) -> Result<Key, KeyError> {
    let wrong = wrong_file("auth.public_key", path);
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    // An RSA key's would be taken for a public one that verifies nothing.
    if pem.windows(PRIVATE.len()).any(|window| window == PRIVATE) {
        return Err(wrong(
            "it has a private key: give the public one (openssl pkey -in FILE -pubout), and keep the \
             private one where tokens are signed"
                .into(),
        ));
    }
    let der = pem_body(&pem).unwrap_or_default();
    let attempts = [
        (Some(KeyKind::Rsa), DecodingKey::from_rsa_pem(&pem)),
        (curve_of(&der), DecodingKey::from_ec_pem(&pem)),
        (Some(KeyKind::Ed25519), DecodingKey::from_ed_pem(&pem)),
    ];
    let good = attempts
        .into_iter()
        .find_map(|(kind, key)| Some((kind?, key.ok()?)));
    let (kind, decoding) = good.ok_or_else(|| {
        wrong("it is no RSA, EC (P-256, P-384) or Ed25519 public key in PEM".into())
    })?;
    // Of the file, which may be a certificate, the key alone: the modulus is all but a few bytes of it.
    let is_short = |key: &[u8]| key.len() * 8 < MIN_RSA_BITS;
    if kind == KeyKind::Rsa && decoding.try_get_as_bytes().is_ok_and(is_short) {
        return Err(wrong(TOO_SHORT.into()));
    }
    Ok(Key {
        id: None,
        kind,
        only: None,
        decoding,
    })
}

pub(crate) const TOO_SHORT: &str = "an RSA key needs at least 2048 bits";

/// The end of a private key's first line in PEM, of whatever kind it is (RFC 7468 §10).
const PRIVATE: &[u8] = b"PRIVATE KEY-----";

/// The bytes between the lines of a PEM file.
fn pem_body(pem: &[u8]) -> Option<Vec<u8>> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let lines = std::str::from_utf8(pem).ok()?.lines().map(str::trim);
    let body: String = lines.filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).ok()
}

/// The curve that the key's algorithm identifier names (RFC 5480 §2.1.1.1).
fn curve_of(der: &[u8]) -> Option<KeyKind> {
    const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 0x04, 0x00, 0x22];
    let names = |name: &[u8]| der.windows(name.len()).any(|window| window == name);
    match (names(P256), names(P384)) {
        (true, _) => Some(KeyKind::P256),
        (_, true) => Some(KeyKind::P384),
        _ => None,
    }
}
