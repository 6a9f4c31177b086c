//! JSON Web Key Sets (RFC 7517): which keys of one are used, under which name, and for each of the
//! others why not.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use jsonwebtoken::DecodingKey;
use serde_json::Value;

use crate::{
    KeyError, MIN_SECRET,
    key::{Key, KeyKind, MIN_RSA_BITS, TOO_SHORT, algorithm_of, kind_of, wrong_file},
};

/// Keys that are shown by their names, and as many of those that are left out.
const SHOWN: usize = 20;
/// The most bits of an RSA key that are computed with.
const MAX_RSA_BITS: usize = 8_192;
/// Base64url with or without padding: some issuers pad, against RFC 7515 §2.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys of a set, and what is wrong with the others.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Where in `keys` those with a name are; several may have one (RFC 7517 §4.5).
    by_id: HashMap<String, Vec<usize>>,
    left_out: Vec<LeftOut>,
    /// Equal in sets of the same keys, in any order.
    digest: u64,
}

/// A key of a set that is passed over, and why.
struct LeftOut {
    what: String,
    /// It could have been, were it what it should be; others are there for something else.
    is_broken: bool,
}

/// What a document without a list of keys is taken to be.
fn without_keys(document: &Value) -> String {
    match document.get("jwks_uri").and_then(Value::as_str) {
        Some(at) if at.len() <= 256 => {
            format!("it is a provider's description, whose keys are at its jwks_uri: {at:?}")
        }
        _ if document.get("kty").is_some() => {
            r#"it is a key by itself, and a set is {"keys": [ … ]}"#.into()
        }
        _ => "it has no list of keys".into(),
    }
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

    /// The keys of the file, none of which may be broken.
    pub(crate) fn of_file(path: &Path) -> Result<Self, KeyError> {
        let wrong = wrong_file("auth.jwks_file", path);
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let set = Self::parse(&bytes, true).map_err(&wrong)?;
        match set.left_out.iter().find(|key| key.is_broken) {
            None => Ok(set),
            Some(key) => Err(wrong(key.what.clone())),
        }
    }

    fn parse(bytes: &[u8], may_have_secrets: bool) -> Result<Self, String> {
        let not_one = |what: String| format!("it is no JSON Web Key Set: {what}");
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let set: Value =
            serde_json::from_slice(bytes).map_err(|error| not_one(error.to_string()))?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| not_one(without_keys(&set)))?;
        let mut set = Self::default();
        for (n, jwk) in keys.iter().enumerate() {
            let id = jwk.get("kid").and_then(Value::as_str);
            match key_of(jwk, may_have_secrets) {
                Ok(key) => set.add(key, jwk),
                Err(reason) => {
                    let shown = id.map_or_else(|| format!("#{n}"), |id| format!("{id:?}"));
                    let (what, is_broken) = match reason {
                        Reason::NotForUs(what) => (what, false),
                        Reason::Broken(what) => (what, true),
                    };
                    let what = format!("its key {shown} is not used: {what}");
                    set.left_out.push(LeftOut { what, is_broken });
                }
            }
        }
        Ok(set)
    }

    fn add(&mut self, key: Key, jwk: &Value) {
        let mut hasher = DefaultHasher::new();
        let material = ["n", "e", "x", "y", "k"].map(|name| jwk.get(name).and_then(Value::as_str));
        let only = key.only.map(|only| format!("{only:?}"));
        (&key.id, key.kind, only, material).hash(&mut hasher);
        self.digest = self.digest.wrapping_add(hasher.finish());
        if let Some(id) = &key.id {
            let named = self.by_id.entry(id.clone()).or_default();
            named.push(self.keys.len());
        }
        self.keys.push(key);
    }

    /// All keys of the set, whatever their names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Those of that name; without a name, all.
    pub(crate) fn meant_by(&self, id: Option<&str>) -> impl Iterator<Item = &Key> {
        let named = id.map(|id| self.by_id.get(id).map_or(&[][..], Vec::as_slice));
        let all = match named {
            None => &self.keys[..],
            Some(_) => &[],
        };
        let named = named.unwrap_or_default().iter().map(|n| &self.keys[*n]);
        named.chain(all)
    }

    /// Whether any usable key of the set has the name `id`.
    pub(crate) fn has_name(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// The number of keys that can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the set has no key that can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the other has the same keys, in whatever order.
    #[must_use]
    pub fn has_the_keys_of(&self, other: &Self) -> bool {
        (self.len(), self.digest) == (other.len(), other.digest)
    }

    /// The names of its keys, sorted, each once; of a large set, some.
    #[must_use]
    pub fn ids(&self) -> Vec<&str> {
        let mut ids: Vec<&str> = self.by_id.keys().map(String::as_str).collect();
        ids.sort_unstable();
        ids.truncate(SHOWN);
        ids
    }

    /// For each key that is not used, why; of many, some. `accepts`: a key is for an algorithm that
    /// is accepted.
    pub(crate) fn left_out(&self, accepts: impl Fn(&Key) -> bool) -> Vec<String> {
        let others = self.keys.iter().filter(|key| !accepts(key)).map(|key| {
            let shown = key.id.as_deref().unwrap_or("without a name");
            let what = match key.only {
                Some(only) => format!("its algorithm (alg = \"{only:?}\")"),
                None => format!("no algorithm for its kind ({:?})", key.kind),
            };
            format!("its key {shown:?} is not used: {what} is not in auth.algorithms")
        });
        let broken = self.left_out.iter().map(|key| key.what.clone());
        let mut all: Vec<String> = broken.chain(others).collect();
        let more = all.len().saturating_sub(SHOWN);
        if more > 0 {
            all.truncate(SHOWN);
            all.push(format!("{more} more of its keys are not used"));
        }
        all
    }
}

/// Why a key of a set is passed over.
enum Reason {
    /// The key is of a kind or for a use that tokens do not need here.
    NotForUs(String),
    /// The key is malformed or too weak.
    Broken(String),
}

fn broken<T>(what: &str) -> Result<T, Reason> {
    Err(Reason::Broken(what.into()))
}

fn not_for_us<T>(what: String) -> Result<T, Reason> {
    Err(Reason::NotForUs(what))
}

/// The key, if it is one whose signatures can be checked.
fn key_of(jwk: &Value, may_be_secret: bool) -> Result<Key, Reason> {
    if !jwk.is_object() {
        return broken("it is no JSON object");
    }
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    // RFC 7517 §4.2 to §4.4: a key to encrypt with signs nothing.
    if let Some(used) = text("use").filter(|used| *used != "sig") {
        return not_for_us(format!("it is not there for signatures (use = {used:?})"));
    }
    if let Some(Value::Array(operations)) = jwk.get("key_ops")
        && !operations.iter().any(|name| name == "verify")
    {
        return not_for_us("it is not there for signatures (key_ops has no \"verify\")".into());
    }
    let only = match text("alg").map(|name| (name, algorithm_of(name))) {
        Some((name, None)) => {
            return not_for_us(format!("its algorithm (alg = {name:?}) is not supported"));
        }
        Some((_, only)) => only,
        None => None,
    };
    let (kind, decoding) = match text("kty") {
        Some("RSA") => (KeyKind::Rsa, rsa(jwk)?),
        Some("EC") => match text("crv") {
            Some("P-256") => (KeyKind::P256, point(jwk, 32)?),
            Some("P-384") => (KeyKind::P384, point(jwk, 48)?),
            other => return not_for_us(curve(other)),
        },
        Some("OKP") => match text("crv") {
            Some("Ed25519") => {
                let x = bytes(jwk, "x")?;
                if x.len() != 32 {
                    return broken("its x has not the length of an Ed25519 key");
                }
                (KeyKind::Ed25519, DecodingKey::from_ed_der(&x))
            }
            other => return not_for_us(curve(other)),
        },
        Some("oct") if !may_be_secret => return broken("a secret that is served is none"),
        Some("oct") => {
            let secret = bytes(jwk, "k")?;
            if secret.len() < MIN_SECRET {
                return broken("a secret needs at least 32 bytes");
            }
            let decoding = DecodingKey::from_secret(&secret);
            let decoding = decoding.map_err(|error| Reason::Broken(error.to_string()))?;
            (KeyKind::Secret, decoding)
        }
        Some(other) => return not_for_us(format!("its kind (kty = {other:?}) is not supported")),
        None => return broken("it has no kind (kty)"),
    };
    if only.is_some_and(|only| kind_of(only) != kind) {
        return broken("its algorithm (alg) is for another kind of key");
    }
    Ok(Key {
        id: text("kid").map(str::to_owned),
        kind,
        only,
        decoding,
    })
}

fn curve(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("its curve (crv = {name:?}) is not supported"),
        None => "it has no curve (crv)".into(),
    }
}

/// The bytes that a member holds in base64url.
fn bytes(jwk: &Value, name: &str) -> Result<Vec<u8>, Reason> {
    let text = jwk.get(name).and_then(Value::as_str);
    let text = text.ok_or_else(|| Reason::Broken(format!("it has no {name}")))?;
    let bytes = BASE64.decode(text);
    bytes.map_err(|_| Reason::Broken(format!("its {name} is no base64url")))
}

/// A number without zeros in front, which some libraries leave there (RFC 7518 §6.3.1.1).
fn number(jwk: &Value, name: &str) -> Result<Vec<u8>, Reason> {
    let mut bytes = bytes(jwk, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Ok(bytes)
}

fn rsa(jwk: &Value) -> Result<DecodingKey, Reason> {
    let (n, e) = (number(jwk, "n")?, number(jwk, "e")?);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if bits < MIN_RSA_BITS {
        return broken(TOO_SHORT);
    }
    if bits > MAX_RSA_BITS {
        return broken("an RSA key may have 8192 bits at most");
    }
    if e.last().is_none_or(|byte| byte % 2 == 0) || e.len() > 8 {
        return broken("its e is no exponent of an RSA key");
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

/// A point on a curve with coordinates of so many bytes, some of which may have lost zeros in front.
fn point(jwk: &Value, size: usize) -> Result<DecodingKey, Reason> {
    let mut point = vec![0x04];
    for name in ["x", "y"] {
        let coordinate = number(jwk, name)?;
        if coordinate.len() > size {
            return Err(Reason::Broken(format!(
                "its {name} is too long for its curve"
            )));
        }
        point.resize(point.len() + size - coordinate.len(), 0);
        point.extend(coordinate);
    }
    Ok(DecodingKey::from_ec_der(&point))
}
