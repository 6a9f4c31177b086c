//! Tokens: who a client is and what it may see. It owns the keys; what a token says is never
//! trusted before its signature is checked with a key of the kind its algorithm needs (RFC 8725).
//! It does no I/O but reading key files, and has no clock.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod key;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use protocol::{Pattern, UserId, WatchRule};
use serde_json::Value;

pub use crate::key::KeySet;
use crate::key::{Key, KeyKind, kind_of, parse_algorithm, read_jwks, read_pem};

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
    /// Where another such set is served, which the caller fetches: see [`Verifier::serving`];
    /// empty = nowhere.
    pub jwks_url: String,
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
            && self.jwks_url.is_empty()
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
    /// No key has the name that it gives.
    #[error("there is no key with the name that the token gives (kid)")]
    UnknownKey,
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
            Self::UnknownKey => "unknown_key",
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

/// Checks tokens.
pub struct Verifier {
    fixed: Arc<Fixed>,
    /// What was served last.
    served: Option<Arc<KeySet>>,
}

/// What the options say.
struct Fixed {
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
            let may_be_served = !options.jwks_url.is_empty() && kind != KeyKind::Secret;
            if !may_be_served && !keys.into_iter().any(|key| key.kind == kind) {
                let hint = match kind {
                    KeyKind::Secret => "auth.secret (JWT_SECRET) is not set",
                    _ => "auth.public_key, auth.jwks_file or auth.jwks_url must give one",
                };
                return Err(KeyError::NoKey(*algorithm, hint));
            }
        }
        let fixed = Fixed {
            algorithms,
            secret,
            public,
            by_id,
            issuer: options.issuer.clone(),
            audience: options.audience.clone(),
            leeway_ms: options.leeway.as_millis() as u64,
            by_claim: options.by_claim,
        };
        Ok(Self {
            fixed: Arc::new(fixed),
            served: None,
        })
    }

    /// The same with the keys of `set`, in place of those of a former one.
    #[must_use]
    pub fn serving(&self, set: Arc<KeySet>) -> Self {
        Self {
            fixed: Arc::clone(&self.fixed),
            served: Some(set),
        }
    }

    /// What was served last.
    #[must_use]
    pub fn served(&self) -> Option<&Arc<KeySet>> {
        self.served.as_ref()
    }

    /// Whether any key of the set is for an algorithm that is accepted.
    #[must_use]
    pub fn can_use(&self, set: &KeySet) -> bool {
        let algorithms = &self.fixed.algorithms;
        let mut keys = set.keys.values();
        keys.any(|key| algorithms.iter().any(|algorithm| key.is_for(*algorithm)))
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
        if !self.fixed.algorithms.contains(&algorithm) {
            return Err(TokenError::Algorithm);
        }
        if header.get("crit").is_some() {
            return Err(TokenError::Critical);
        }
        let id = header.get("kid").and_then(Value::as_str);
        let key = self.key_for(algorithm, id)?;
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

    fn key_for(&self, algorithm: Algorithm, id: Option<&str>) -> Result<&Key, TokenError> {
        let fixed = &*self.fixed;
        let served = self.served.as_ref().map(|set| &set.keys);
        let count = fixed.by_id.len() + served.map_or(0, HashMap::len);
        let meant = [Some(&fixed.by_id), served].map(|keys| match id {
            Some(id) => keys?.get(id),
            // Without a name, one key alone can only mean that one.
            None => keys?.values().next().filter(|_| count == 1),
        });
        let unknown = id.is_some() && meant.iter().all(Option::is_none);
        let keys = meant.into_iter().flatten();
        let mut keys = keys.chain(&fixed.secret).chain(&fixed.public);
        let key = keys.find(|key| key.is_for(algorithm));
        key.ok_or(match unknown {
            true => TokenError::UnknownKey,
            false => TokenError::Key,
        })
    }

    fn check(&self, claims: &Value, now: u64) -> Result<Claims, TokenError> {
        let expires = match claims.get("exp") {
            None => return Err(TokenError::NoExpiry),
            Some(time) => millis(time).ok_or(TokenError::Malformed)?,
        };
        if expires.saturating_add(self.fixed.leeway_ms) <= now {
            return Err(TokenError::Expired);
        }
        if let Some(time) = claims.get("nbf") {
            let not_before = millis(time).ok_or(TokenError::Malformed)?;
            if not_before > now.saturating_add(self.fixed.leeway_ms) {
                return Err(TokenError::Early);
            }
        }
        if !self.fixed.issuer.is_empty()
            && claims.get("iss").and_then(Value::as_str) != Some(&self.fixed.issuer)
        {
            return Err(TokenError::Issuer);
        }
        if !self.fixed.audience.is_empty() {
            let good = match claims.get("aud") {
                Some(Value::String(audience)) => *audience == self.fixed.audience,
                Some(Value::Array(list)) => list
                    .iter()
                    .any(|audience| audience.as_str() == Some(&self.fixed.audience)),
                _ => false,
            };
            if !good {
                return Err(TokenError::Audience);
            }
        }
        let user = claims.get("sub").and_then(Value::as_str);
        let user = user.ok_or_else(|| TokenError::User("it must be a text".into()))?;
        let user = UserId::parse(user).map_err(|error| TokenError::User(error.to_string()))?;
        let rule = if self.fixed.by_claim {
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
            expires + self.fixed.leeway_ms
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
mod tests;
