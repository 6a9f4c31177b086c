//! Tokens: who a client is and what it may see. It owns the keys; what a token says is never
//! trusted before its signature is checked with a key of the kind its algorithm needs (RFC 8725).

use std::{collections::HashMap, path::Path};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    jwk::{AlgorithmParameters, JwkSet},
};
use presence::{Pattern, WatchRule};
use protocol::UserId;
use serde_json::Value;

use crate::config::{self, Config};

/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 << 10;

/// What a good token says.
#[derive(Debug)]
pub(crate) struct Claims {
    pub(crate) user: UserId,
    /// ms since 1970.
    pub(crate) expires: u64,
    pub(crate) rule: WatchRule,
    scopes: Vec<String>,
}

impl Claims {
    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|have| have == scope)
    }
}

/// Why a token is refused. The text never has the token in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the token is no JWT")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token has a critical extension that is not understood")]
    Critical,
    #[error("there is no key for the token")]
    Key,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has no expiry (exp)")]
    NoExpiry,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet (nbf)")]
    Early,
    #[error("the token's issuer (iss) is not accepted")]
    Issuer,
    #[error("the token's audience (aud) is not accepted")]
    Audience,
    #[error("the token's user (sub): {0}")]
    User(String),
    #[error("the token's watch claim is not a list of texts")]
    Watch,
}

impl TokenError {
    /// For a metric's label.
    pub(crate) fn label(&self) -> &'static str {
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
pub(crate) enum AuthError {
    #[error(
        "auth.algorithms: {0:?} is not one of HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA"
    )]
    Algorithm(String),
    #[error("auth.algorithms: {0:?} is accepted, but there is no key for it ({1})")]
    NoKey(Algorithm, &'static str),
    #[error("{0}: {1}")]
    File(String, String),
}

/// The kinds of keys; an algorithm only ever meets its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Secret,
    Rsa,
    Ec,
    Ed,
}

fn kind_of(algorithm: Algorithm) -> KeyKind {
    use Algorithm as A;
    match algorithm {
        A::HS256 | A::HS384 | A::HS512 => KeyKind::Secret,
        A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => KeyKind::Rsa,
        A::ES256 | A::ES384 => KeyKind::Ec,
        A::EdDSA => KeyKind::Ed,
        // Not in the allow-list that `parse_algorithm` makes.
        _ => KeyKind::Ed,
    }
}

fn parse_algorithm(name: &str) -> Result<Algorithm, AuthError> {
    name.parse::<Algorithm>()
        .map_err(|_| AuthError::Algorithm(name.to_owned()))
}

struct Key {
    kind: KeyKind,
    /// The only algorithm it may be used with, when its owner says so.
    only: Option<Algorithm>,
    decoding: DecodingKey,
}

/// Checks tokens.
pub(crate) struct Verifier {
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
    pub(crate) fn new(config: &Config) -> Result<Self, AuthError> {
        let auth: &config::Auth = &config.auth;
        let algorithms = auth.algorithms.0.iter().map(|name| parse_algorithm(name));
        let algorithms = algorithms.collect::<Result<Vec<_>, _>>()?;
        let secret = auth.secret.is_set().then(|| Key {
            kind: KeyKind::Secret,
            only: None,
            decoding: DecodingKey::from_secret(auth.secret.expose().as_bytes()),
        });
        let path = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        let public = path(&auth.public_key)
            .map(|path| read_pem(&path))
            .transpose()?;
        let by_id = path(&auth.jwks_file)
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
                return Err(AuthError::NoKey(*algorithm, hint));
            }
        }
        Ok(Self {
            algorithms,
            secret,
            public,
            by_id,
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway_ms: auth.leeway.as_millis() as u64,
            by_claim: config.presence.watch_policy == "claim",
        })
    }

    /// What `token` says, if it is good at `now` (ms since 1970).
    pub(crate) fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
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

fn read(path: &Path) -> Result<Vec<u8>, AuthError> {
    std::fs::read(path)
        .map_err(|error| AuthError::File(path.display().to_string(), error.to_string()))
}

fn read_pem(path: &Path) -> Result<Key, AuthError> {
    let pem = read(path)?;
    let attempts = [
        (KeyKind::Rsa, DecodingKey::from_rsa_pem(&pem)),
        (KeyKind::Ec, DecodingKey::from_ec_pem(&pem)),
        (KeyKind::Ed, DecodingKey::from_ed_pem(&pem)),
    ];
    let good = attempts
        .into_iter()
        .find_map(|(kind, key)| Some((kind, key.ok()?)));
    let (kind, decoding) = good.ok_or_else(|| {
        let what = "it is no RSA, EC or Ed25519 public key in PEM";
        AuthError::File(path.display().to_string(), what.into())
    })?;
    Ok(Key {
        kind,
        only: None,
        decoding,
    })
}

fn read_jwks(path: &Path) -> Result<HashMap<String, Key>, AuthError> {
    let wrong = |what: String| AuthError::File(path.display().to_string(), what);
    let set: JwkSet = serde_json::from_slice(&read(path)?)
        .map_err(|error| wrong(format!("it is no JSON Web Key Set: {error}")))?;
    let mut keys = HashMap::new();
    for (n, jwk) in set.keys.iter().enumerate() {
        let id = jwk.common.key_id.clone().unwrap_or_else(|| format!("#{n}"));
        let kind = match jwk.algorithm {
            AlgorithmParameters::OctetKey(_) => KeyKind::Secret,
            AlgorithmParameters::RSA(_) => KeyKind::Rsa,
            AlgorithmParameters::EllipticCurve(_) => KeyKind::Ec,
            AlgorithmParameters::OctetKeyPair(_) => KeyKind::Ed,
            // A kind of key that no accepted algorithm uses.
            _ => continue,
        };
        let only = jwk
            .common
            .key_algorithm
            .and_then(|name| name.to_string().parse().ok());
        let decoding = DecodingKey::from_jwk(jwk)
            .map_err(|error| wrong(format!("its key {id:?} cannot be used: {error}")))?;
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

/// A test token for `user` that is good until `expires` (ms since 1970).
pub(crate) fn sign(secret: &str, user: &str, expires: u64, scope: Option<&str>) -> String {
    let mut claims = serde_json::json!({ "sub": user, "exp": expires / 1_000 });
    if let Some(scope) = scope {
        claims["scope"] = scope.into();
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .expect("an HMAC takes any secret and these claims are JSON")
}
