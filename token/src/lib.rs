//! Tokens: who a client is and what it may see. It owns the keys; what a token says is never
//! trusted before its signature is checked with a key of the kind its algorithm needs (RFC 8725).
//! It does no I/O but reading key files, and has no clock.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, JwkSet, PublicKeyUse},
};
use protocol::{Pattern, UserId, WatchRule};
use serde_json::Value;

/// The secret of a program that was given none. It is public, so such a program only listens on
/// loopback.
pub const DEVELOPMENT_SECRET: &str = "online-status-development-secret-change-me";
/// The fewest bytes of a secret (RFC 7518 §3.2, for HS256).
pub const MIN_SECRET: usize = 32;

/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 << 10;

/// What is accepted, and the keys; named as the settings of the section `auth`.
#[derive(Clone, Default)]
pub struct Options {
    /// The secret of HS256, HS384 and HS512 tokens; empty = none.
    pub secret: String,
    /// Algorithms that are accepted; each needs the kind of key that belongs to it.
    pub algorithms: Vec<String>,
    /// A public key in PEM, for RS, PS, ES and EdDSA tokens; empty = none.
    pub public_key: PathBuf,
    /// A JSON Web Key Set file; empty = none.
    pub jwks_file: PathBuf,
    /// What `iss` must be; empty = anything.
    pub issuer: String,
    /// What `aud` must contain; empty = anything.
    pub audience: String,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// A token only lets see whom its `watch` claim lists.
    pub by_claim: bool,
}

impl Options {
    /// Whether there is no key at all, so that only [`DEVELOPMENT_SECRET`] is left.
    #[must_use]
    pub fn has_no_key(&self) -> bool {
        self.secret.is_empty()
            && self.public_key.as_os_str().is_empty()
            && self.jwks_file.as_os_str().is_empty()
    }
}

/// What a good token says.
#[derive(Debug)]
pub struct Claims {
    /// Whose token it is.
    pub user: UserId,
    /// ms since 1970.
    pub expires: u64,
    /// Whom its bearer may see.
    pub rule: WatchRule,
    scopes: Vec<String>,
}

impl Claims {
    /// Whether `scope` is among the token's.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|have| have == scope)
    }
}

/// Why a token is refused. The text never has the token in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of the right form.
    #[error("the token is no JWT")]
    Malformed,
    /// Its algorithm is not in the allow-list.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// It has a `crit` header.
    #[error("the token has a critical extension that is not understood")]
    Critical,
    /// No key is of its kind and name.
    #[error("there is no key for the token")]
    Key,
    /// The signature is another one.
    #[error("the token's signature is wrong")]
    Signature,
    /// It has no `exp`.
    #[error("the token has no expiry (exp)")]
    NoExpiry,
    /// Its `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` is to come.
    #[error("the token is not valid yet (nbf)")]
    Early,
    /// Its `iss` is another one.
    #[error("the token's issuer (iss) is not accepted")]
    Issuer,
    /// Its `aud` is another one.
    #[error("the token's audience (aud) is not accepted")]
    Audience,
    /// Its `sub` is no user, and why.
    #[error("the token's user (sub): {0}")]
    User(String),
    /// Its `watch` is no list of texts.
    #[error("the token's watch claim is not a list of texts")]
    Watch,
}

impl TokenError {
    /// For a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Critical => "critical",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::User(_) => "user",
            Self::Watch => "watch",
        }
    }
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// An algorithm that is not supported.
    #[error(
        "auth.algorithms: {0:?} is not one of HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA"
    )]
    Algorithm(String),
    /// An accepted algorithm without a key, and where one could come from.
    #[error("auth.algorithms: {0:?} is accepted, but there is no key for it ({1})")]
    NoKey(Algorithm, &'static str),
    /// No algorithm is accepted at all.
    #[error("auth.algorithms is empty: at least one is needed")]
    NoAlgorithm,
    /// A setting, the file that it names, and what is wrong with that.
    #[error("{0} = {1:?}: {2}")]
    File(&'static str, String, String),
}

/// The kinds of keys; an algorithm only ever meets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed,
}

/// The fewest bits of an RSA key (RFC 7518 §3.3).
const MIN_RSA_BITS: usize = 2_048;

fn kind_of(algorithm: Algorithm) -> KeyKind {
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

fn parse_algorithm(name: &str) -> Result<Algorithm, KeyError> {
    name.parse::<Algorithm>()
        .map_err(|_| KeyError::Algorithm(name.to_owned()))
}

struct Key {
    kind: KeyKind,
    /// The only algorithm it may be used with, when its owner says so.
    only: Option<Algorithm>,
    decoding: DecodingKey,
}

/// Checks tokens.
pub struct Verifier {
    algorithms: Vec<Algorithm>,
    secret: Option<Key>,
    public: Option<Key>,
    by_id: HashMap<String, Key>,
    issuer: String,
    audience: String,
    leeway_ms: u64,
    by_claim: bool,
}

impl Verifier {
    /// Reads the keys.
    pub fn new(options: &Options) -> Result<Self, KeyError> {
        let algorithms = options.algorithms.iter().map(|name| parse_algorithm(name));
        let algorithms = algorithms.collect::<Result<Vec<_>, _>>()?;
        if algorithms.is_empty() {
            return Err(KeyError::NoAlgorithm);
        }
        let secret = (!options.secret.is_empty()).then(|| Key {
            kind: KeyKind::Secret,
            only: None,
            decoding: DecodingKey::from_secret(options.secret.as_bytes()),
        });
        let path = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        let public = path(&options.public_key)
            .map(|path| read_pem(&path))
            .transpose()?;
        let by_id = path(&options.jwks_file)
            .map(|path| read_jwks(&path))
            .transpose()?;
        let by_id = by_id.unwrap_or_default();
        for algorithm in &algorithms {
            let kind = kind_of(*algorithm);
            let keys = secret.iter().chain(&public).chain(by_id.values());
            if !keys.into_iter().any(|key| key.kind == kind) {
                let hint = match kind {
                    KeyKind::Secret => "auth.secret (JWT_SECRET) is not set",
                    _ => "auth.public_key or auth.jwks_file must give one",
                };
                return Err(KeyError::NoKey(*algorithm, hint));
            }
        }
        Ok(Self {
            algorithms,
            secret,
            public,
            by_id,
            issuer: options.issuer.clone(),
            audience: options.audience.clone(),
            leeway_ms: options.leeway.as_millis() as u64,
            by_claim: options.by_claim,
        })
    }

    /// What `token` says, if it is good at `now` (ms since 1970).
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let header = raw_header(token).ok_or(TokenError::Malformed)?;
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let algorithm: Algorithm = algorithm.parse().map_err(|_| TokenError::Algorithm)?;
        if !self.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        if header.get("crit").is_some() {
            return Err(TokenError::Critical);
        }
        let id = header.get("kid").and_then(Value::as_str);
        let key = self.key_for(algorithm, id).ok_or(TokenError::Key)?;
        // Times, issuer and audience are checked below, against the time that is given.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let token = jsonwebtoken::decode::<Value>(token, &key.decoding, &validation);
        let claims = token.map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
            _ => TokenError::Malformed,
        })?;
        self.check(&claims.claims, now)
    }

    fn key_for(&self, algorithm: Algorithm, id: Option<&str>) -> Option<&Key> {
        let named = id.and_then(|id| self.by_id.get(id));
        // Without a name, a set of one key can only mean that one.
        let only = (id.is_none() && self.by_id.len() == 1).then(|| self.by_id.values().next());
        named
            .into_iter()
            .chain(only.flatten())
            .chain(&self.secret)
            .chain(&self.public)
            .find(|key| {
                key.kind == kind_of(algorithm) && key.only.is_none_or(|only| only == algorithm)
            })
    }

    fn check(&self, claims: &Value, now: u64) -> Result<Claims, TokenError> {
        let expires = match claims.get("exp") {
            None => return Err(TokenError::NoExpiry),
            Some(time) => millis(time).ok_or(TokenError::Malformed)?,
        };
        if expires.saturating_add(self.leeway_ms) <= now {
            return Err(TokenError::Expired);
        }
        if let Some(time) = claims.get("nbf") {
            let not_before = millis(time).ok_or(TokenError::Malformed)?;
            if not_before > now.saturating_add(self.leeway_ms) {
                return Err(TokenError::Early);
            }
        }
        if !self.issuer.is_empty()
            && claims.get("iss").and_then(Value::as_str) != Some(&self.issuer)
        {
            return Err(TokenError::Issuer);
        }
        if !self.audience.is_empty() {
            let good = match claims.get("aud") {
                Some(Value::String(audience)) => *audience == self.audience,
                Some(Value::Array(list)) => list
                    .iter()
                    .any(|audience| audience.as_str() == Some(&self.audience)),
                _ => false,
            };
            if !good {
                return Err(TokenError::Audience);
            }
        }
        let user = claims.get("sub").and_then(Value::as_str);
        let user = user.ok_or_else(|| TokenError::User("it must be a text".into()))?;
        let user = UserId::parse(user).map_err(|error| TokenError::User(error.to_string()))?;
        let rule = if self.by_claim {
            watch_rule(claims)?
        } else {
            WatchRule::Anyone
        };
        let scopes = match claims.get("scope").or_else(|| claims.get("scopes")) {
            Some(Value::String(scopes)) => scopes.split(' ').map(str::to_owned).collect(),
            Some(Value::Array(scopes)) => scopes
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        };
        // A session does not end at once whose token was accepted only by the leeway.
        let expires = if expires > now {
            expires
        } else {
            expires + self.leeway_ms
        };
        Ok(Claims {
            user,
            expires,
            rule,
            scopes,
        })
    }
}

/// The first part of a token, as JSON.
fn raw_header(token: &str) -> Option<serde_json::Map<String, Value>> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let (header, _) = token.split_once('.')?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
}

/// A NumericDate (RFC 7519 §2: seconds, maybe with a fraction) in milliseconds.
fn millis(value: &Value) -> Option<u64> {
    match value.as_u64() {
        Some(seconds) => seconds.checked_mul(1_000).filter(|ms| *ms < 1 << 53),
        None => {
            let seconds = value.as_f64()?;
            (0.0..9e12)
                .contains(&seconds)
                .then_some((seconds * 1_000.0) as u64)
        }
    }
}

fn watch_rule(claims: &Value) -> Result<WatchRule, TokenError> {
    let list = match claims.get("watch") {
        None => return Ok(WatchRule::Only(Box::default())),
        Some(Value::Array(list)) => list,
        Some(Value::String(one)) => return Ok(WatchRule::Only([Pattern::new(one)].into())),
        Some(_) => return Err(TokenError::Watch),
    };
    let pattern = |value: &Value| value.as_str().map(Pattern::new).ok_or(TokenError::Watch);
    Ok(WatchRule::Only(
        list.iter().map(pattern).collect::<Result<_, _>>()?,
    ))
}

/// Makes errors of the file that a setting names.
fn wrong_file(setting: &'static str, path: &Path) -> impl Fn(String) -> KeyError {
    let path = path.display().to_string();
    move |what| KeyError::File(setting, path.clone(), what)
}

fn read_pem(path: &Path) -> Result<Key, KeyError> {
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

const TOO_SHORT: &str = "an RSA key needs at least 2048 bits";

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

fn read_jwks(path: &Path) -> Result<HashMap<String, Key>, KeyError> {
    let wrong = wrong_file("auth.jwks_file", path);
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let set: JwkSet = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("it is no JSON Web Key Set: {error}")))?;
    let mut keys = HashMap::new();
    for (n, jwk) in set.keys.iter().enumerate() {
        // RFC 7517 §4.2: a key to encrypt with signs nothing.
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            continue;
        }
        let id = jwk.common.key_id.clone().unwrap_or_else(|| format!("#{n}"));
        let wrong = |what: &str| wrong(format!("its key {id:?} cannot be used: {what}"));
        let kind = match &jwk.algorithm {
            AlgorithmParameters::OctetKey(key) if bytes_of(&key.value) < MIN_SECRET => {
                return Err(wrong("a secret needs at least 32 bytes"));
            }
            AlgorithmParameters::OctetKey(_) => KeyKind::Secret,
            AlgorithmParameters::RSA(key) if bytes_of(&key.n) * 8 < MIN_RSA_BITS => {
                return Err(wrong(TOO_SHORT));
            }
            AlgorithmParameters::RSA(_) => KeyKind::Rsa,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => KeyKind::P256,
                EllipticCurve::P384 => KeyKind::P384,
                _ => continue,
            },
            AlgorithmParameters::OctetKeyPair(_) => KeyKind::Ed,
            // A kind of key that no accepted algorithm uses.
            _ => continue,
        };
        let only = jwk
            .common
            .key_algorithm
            .and_then(|name| name.to_string().parse().ok());
        let decoding = DecodingKey::from_jwk(jwk).map_err(|error| wrong(&error.to_string()))?;
        keys.insert(
            id,
            Key {
                kind,
                only,
                decoding,
            },
        );
    }
    Ok(keys)
}

/// How many bytes a base64url text stands for.
fn bytes_of(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// A test token for `user` that is good until `expires` (ms since 1970).
#[must_use]
pub fn sign(secret: &str, user: &str, expires: u64, scope: Option<&str>) -> String {
    let mut claims = serde_json::json!({ "sub": user, "exp": expires / 1_000 });
    if let Some(scope) = scope {
        claims["scope"] = scope.into();
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .expect("an HMAC takes any secret and these claims are JSON")
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    fn options() -> Options {
        Options {
            secret: DEVELOPMENT_SECRET.into(),
            algorithms: vec!["HS256".into()],
            ..Options::default()
        }
    }

    #[test]
    fn a_token_is_good_until_its_expiry_and_the_leeway_by_the_callers_clock() {
        let token = sign(DEVELOPMENT_SECRET, "alice", 10_000, Some("a b"));
        let strict = Verifier::new(&options()).expect("a key");
        let claims = strict.verify(&token, 9_999).expect("a good token");
        assert_eq!((&*claims.user, claims.expires), ("alice", 10_000));
        assert!(claims.has_scope("b") && !claims.has_scope("a b"));
        assert_eq!(claims.rule, WatchRule::Anyone);
        assert_eq!(
            strict.verify(&token, 10_000).err(),
            Some(TokenError::Expired)
        );
        let lenient = Options {
            leeway: Duration::from_secs(2),
            by_claim: true,
            ..options()
        };
        let lenient = Verifier::new(&lenient).expect("a key");
        let claims = lenient.verify(&token, 11_999).expect("within the leeway");
        assert_eq!(claims.expires, 12_000);
        assert!(!claims.rule.allows("bob"), "no watch claim allows nobody");
        assert_eq!(
            lenient.verify(&token, 12_000).err(),
            Some(TokenError::Expired)
        );
    }

    #[test]
    fn an_algorithm_without_a_key_is_named_with_where_one_could_come_from() {
        let wrong = Options {
            algorithms: vec!["HS256".into(), "ES256".into()],
            ..options()
        };
        let error = Verifier::new(&wrong).err().expect("no key").to_string();
        assert!(
            error.contains("ES256") && error.contains("auth.jwks_file"),
            "{error}"
        );
        let nothing = Options {
            secret: String::new(),
            ..options()
        };
        assert!(nothing.has_no_key() && !options().has_no_key());
        let error = Verifier::new(&nothing)
            .err()
            .expect("no secret")
            .to_string();
        assert!(error.contains("JWT_SECRET"), "{error}");
    }

    fn with_file(name: &str, content: &str, algorithm: &str) -> Result<Verifier, String> {
        let name = format!("online-status-token-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("a writable temp dir");
        let mut wanted = Options {
            algorithms: vec![algorithm.into()],
            ..Options::default()
        };
        match content.starts_with('{') {
            true => wanted.jwks_file.clone_from(&path),
            false => wanted.public_key.clone_from(&path),
        }
        let verifier = Verifier::new(&wanted).map_err(|error| error.to_string());
        std::fs::remove_file(&path).expect("it was written");
        verifier
    }

    #[test]
    fn a_key_that_can_never_verify_is_refused_at_the_start() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let pem = p384.public_key_pem();
        assert!(with_file("p384.pem", &pem, "ES384").is_ok());
        let error = with_file("p384.pem", &pem, "ES256").err().expect("a curve");
        assert!(error.contains("ES256"), "{error}");
        let short = "-----BEGIN PUBLIC KEY-----\n\
            MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDQyqUvPzbDj17zpJrh9N7Ig07c\n\
            3LtrjbhyUzLckhYkkkJth1PpYuD0UBJX4m598K78/7sUN9jOLDZ1LNLEEaikYzQD\n\
            HOMCQ0mY8aec7/9cO/T1+jvompaMR+ao9GLCHZuVdFLnlUKOzuObdZzM+11sFHpE\n\
            begx5UNxe4tca691hwIDAQAB\n\
            -----END PUBLIC KEY-----\n";
        let error = with_file("rsa.pem", short, "RS256").err().expect("short");
        assert!(
            error.starts_with("auth.public_key = ") && error.ends_with(TOO_SHORT),
            "{error}"
        );
        let private = p384.serialize_pem();
        let error = with_file("private.pem", &private, "ES384").err();
        assert!(error.expect("no public key").contains("public key in PEM"));
        for (jwks, mistake) in [
            (
                r#"{"keys":[{"kty":"oct","k":"c2hvcnQ","kid":"a"}]}"#,
                "32 bytes",
            ),
            (r#"{"keys":[]}"#, "no key for it"),
            (r#"{"kees":[]}"#, "no JSON Web Key Set"),
        ] {
            let error = with_file("jwks.json", jwks, "HS256").err().expect(jwks);
            assert!(error.contains(mistake), "{error}");
        }
        // Meant for something else: it is not there for signatures.
        let secret = "c2VjcmV0IHRoYXQgaXMgbG9uZyBlbm91Z2ggZm9yIGl0";
        let jwk =
            |used: &str| format!(r#"{{"keys":[{{"kty":"oct","use":"{used}","k":"{secret}"}}]}}"#);
        assert!(with_file("sig.json", &jwk("sig"), "HS256").is_ok());
        assert!(with_file("enc.json", &jwk("enc"), "HS256").is_err());
        let nothing = Options {
            algorithms: Vec::new(),
            ..options()
        };
        assert!(matches!(
            Verifier::new(&nothing).err(),
            Some(KeyError::NoAlgorithm)
        ));
    }
}
