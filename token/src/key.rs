//! Keys, each bound to the kind of its algorithm: from a PEM file, or a JSON Web Key Set. It owns
//! what a key must be to be used at all.

use std::{collections::HashMap, path::Path};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk},
};
use serde_json::Value;

use crate::{KeyError, MIN_SECRET};

/// The kinds of keys; an algorithm only ever meets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed,
}

/// The fewest bits of an RSA key (RFC 7518 §3.3).
const MIN_RSA_BITS: usize = 2_048;

pub(crate) fn kind_of(algorithm: Algorithm) -> KeyKind {
    use Algorithm as A;
    match algorithm {
        A::HS256 | A::HS384 | A::HS512 => KeyKind::Secret,
        A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => KeyKind::Rsa,
        A::ES256 => KeyKind::P256,
        A::ES384 => KeyKind::P384,
        A::EdDSA => KeyKind::Ed,
        // Not in the allow-list that `parse_algorithm` makes.
        _ => KeyKind::Ed,
    }
}

pub(crate) fn parse_algorithm(name: &str) -> Result<Algorithm, KeyError> {
    name.parse::<Algorithm>()
        .map_err(|_| KeyError::Algorithm(name.to_owned()))
}

pub(crate) struct Key {
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
fn wrong_file(setting: &'static str, path: &Path) -> impl Fn(String) -> KeyError {
    let path = path.display().to_string();
    move |what| KeyError::File(setting, path.clone(), what)
}

pub(crate) fn read_pem(path: &Path) -> Result<Key, KeyError> {
    let wrong = wrong_file("auth.public_key", path);
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let der = pem_body(&pem).unwrap_or_default();
    let attempts = [
        (Some(KeyKind::Rsa), DecodingKey::from_rsa_pem(&pem)),
        (curve_of(&der), DecodingKey::from_ec_pem(&pem)),
        (Some(KeyKind::Ed), DecodingKey::from_ed_pem(&pem)),
    ];
    let good = attempts
        .into_iter()
        .find_map(|(kind, key)| Some((kind?, key.ok()?)));
    let (kind, decoding) = good.ok_or_else(|| {
        wrong("it is no RSA, EC (P-256, P-384) or Ed25519 public key in PEM".into())
    })?;
    // The modulus is all but a few dozen bytes of it.
    if kind == KeyKind::Rsa && der.len() * 8 < MIN_RSA_BITS {
        return Err(wrong(TOO_SHORT.into()));
    }
    Ok(Key {
        kind,
        only: None,
        decoding,
    })
}

pub(crate) const TOO_SHORT: &str = "an RSA key needs at least 2048 bits";

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

/// The keys of the file, all of which must be good.
pub(crate) fn read_jwks(path: &Path) -> Result<HashMap<String, Key>, KeyError> {
    let wrong = wrong_file("auth.jwks_file", path);
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let set = KeySet::parse(&bytes, true).map_err(&wrong)?;
    match set.unusable.into_iter().next() {
        None => Ok(set.keys),
        Some(what) => Err(wrong(what)),
    }
}

/// A JSON Web Key Set (RFC 7517 §5).
pub struct KeySet {
    pub(crate) keys: HashMap<String, Key>,
    unusable: Vec<String>,
}

impl KeySet {
    /// Reads a set that somebody serves. Secrets in it are no secrets, so they are not taken; a key
    /// that cannot be used is passed over, as the RFC wants.
    ///
    /// # Errors
    /// When it is no key set at all.
    pub fn served(bytes: &[u8]) -> Result<Self, String> {
        Self::parse(bytes, false)
    }

    fn parse(bytes: &[u8], may_have_secrets: bool) -> Result<Self, String> {
        let not_one = |what: String| format!("it is no JSON Web Key Set: {what}");
        let set: Value =
            serde_json::from_slice(bytes).map_err(|error| not_one(error.to_string()))?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| not_one("it has no list of keys".into()))?;
        let mut set = Self {
            keys: HashMap::new(),
            unusable: Vec::new(),
        };
        for (n, jwk) in keys.iter().enumerate() {
            let id = jwk.get("kid").and_then(Value::as_str);
            let id = id.map_or_else(|| format!("#{n}"), str::to_owned);
            match key_of(jwk, may_have_secrets) {
                Ok(Some(key)) => {
                    set.keys.insert(id, key);
                }
                Ok(None) => {}
                Err(what) => {
                    let what = format!("its key {id:?} cannot be used: {what}");
                    set.unusable.push(what);
                }
            }
        }
        Ok(set)
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The names of its keys, sorted.
    #[must_use]
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.keys.keys().map(String::as_str).collect();
        ids.sort_unstable();
        ids
    }

    /// What is wrong with those that cannot be used.
    #[must_use]
    pub fn unusable(&self) -> &[String] {
        &self.unusable
    }
}

/// `None` for a key that is there for something else than the signatures of accepted algorithms.
fn key_of(jwk: &Value, may_be_secret: bool) -> Result<Option<Key>, String> {
    let used = jwk.get("use").and_then(Value::as_str);
    let only = jwk.get("alg").and_then(Value::as_str);
    let only = only.map(str::parse::<Algorithm>).transpose();
    // RFC 7517 §4.2 and §4.4: a key to encrypt with signs nothing.
    let (Ok(only), false) = (only, used.is_some_and(|used| used != "sig")) else {
        return Ok(None);
    };
    let jwk: Jwk = serde_json::from_value(jwk.clone()).map_err(|error| error.to_string())?;
    let kind = match &jwk.algorithm {
        AlgorithmParameters::OctetKey(_) if !may_be_secret => {
            return Err("a secret that is served is none".into());
        }
        AlgorithmParameters::OctetKey(key) if bytes_of(&key.value) < MIN_SECRET => {
            return Err("a secret needs at least 32 bytes".into());
        }
        AlgorithmParameters::OctetKey(_) => KeyKind::Secret,
        AlgorithmParameters::RSA(key) if bytes_of(&key.n) * 8 < MIN_RSA_BITS => {
            return Err(TOO_SHORT.into());
        }
        AlgorithmParameters::RSA(_) => KeyKind::Rsa,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => KeyKind::P256,
            EllipticCurve::P384 => KeyKind::P384,
            _ => return Ok(None),
        },
        AlgorithmParameters::OctetKeyPair(_) => KeyKind::Ed,
        // A kind of key that no accepted algorithm uses.
        _ => return Ok(None),
    };
    let decoding = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    Ok(Some(Key {
        kind,
        only,
        decoding,
    }))
}

/// How many bytes a base64url text stands for.
fn bytes_of(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}
