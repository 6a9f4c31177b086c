//! Tokens: who a client is and what it may see. It owns the keys; what a token says is never
//! trusted before its signature is checked with a key of the kind its algorithm needs (RFC 8725).
//! It does no I/O but reading key files, and has no clock.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod claims;
mod error;
mod head;
mod key;
mod set;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};

pub use crate::{
    claims::Claims,
    error::{KeyError, TokenError},
    set::KeySet,
};
use crate::{
    claims::Rules,
    head::Parts,
    key::{Key, KeyKind, algorithm_of, kind_of, read_pem},
};

/// The secret of a program that was given none. It is public, so such a program only listens on
/// loopback.
pub const DEVELOPMENT_SECRET: &str = "online-status-development-secret-change-me";
/// The fewest bytes of a secret (RFC 7518 §3.2, for HS256).
pub const MIN_SECRET: usize = 32;
/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// The most keys of a set that one token is tried with.
const MAX_TRIED: usize = 8;

/// What is accepted, and the keys; named as the settings of the section `auth`.
#[derive(Clone)]
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
    /// What `iss` must be one of; empty = anything.
    pub issuers: Vec<String>,
    /// What one of the audience must be one of; empty = anything.
    pub audiences: Vec<String>,
    /// Where the audience stands: the first of these claims that a token has.
    pub audience_claims: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claims that hold scopes; those of all count.
    pub scope_claims: Vec<String>,
    /// What `typ` may be besides JWT and at+jwt.
    pub token_types: Vec<String>,
    /// Tokens that are bound to their sender are taken for bearer tokens.
    pub accept_bound_tokens: bool,
    /// How far the issuer's clock may be from this one's.
    pub leeway: Duration,
    /// How far the end of a token may be away; 0 = any time.
    pub max_lifetime: Duration,
    /// A token only lets see whom its `watch` claim lists.
    pub by_claim: bool,
}

impl Default for Options {
    /// No key, no algorithm, and claims where the RFCs have them.
    fn default() -> Self {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            secret: String::new(),
            algorithms: Vec::new(),
            public_key: PathBuf::new(),
            jwks_file: PathBuf::new(),
            jwks_url: String::new(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            audience_claims: list(&["aud"]),
            user_claim: "sub".into(),
            scope_claims: list(&["scope", "scp", "scopes"]),
            token_types: Vec::new(),
            accept_bound_tokens: false,
            leeway: Duration::ZERO,
            max_lifetime: Duration::ZERO,
            by_claim: false,
        }
    }
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

/// A token that is not good by the keys there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The rule that the token breaks by the keys at hand.
    pub error: TokenError,
    /// Nothing is wrong with it but its key, and a set that is served now may have that.
    pub may_be_newer: bool,
}

/// What a token says in its head and its claims, as JSON, for people who look why it is refused; nothing
/// of it is proven. `None` when it is no JWT.
#[must_use]
pub fn unproven(token: &str) -> Option<[String; 2]> {
    let mut parts = token.split('.').map(head::decoded);
    let mut part = || serde_json::from_slice::<serde_json::Value>(&parts.next()?.ok()?).ok();
    let both = [part()?.to_string(), part()?.to_string()];
    (token.len() <= MAX_TOKEN).then_some(both)
}

/// Verifies tokens by the options' keys and by a served key set. Cheap to make anew from another.
pub struct Verifier {
    fixed: Arc<Fixed>,
    /// The key set that was served last; `None` before the first.
    served: Option<Arc<KeySet>>,
}

/// What the options determine for a verifier's whole life.
struct Fixed {
    algorithms: Vec<Algorithm>,
    types: Vec<String>,
    secret: Option<Key>,
    public: Option<Key>,
    file: KeySet,
    is_served: bool,
    rules: Rules,
}

impl Verifier {
    /// A verifier with the keys that the options name; it reads their files.
    ///
    /// # Errors
    /// When a key file cannot be used, an algorithm is not supported or has no key, or none is
    /// accepted.
    pub fn new(options: &Options) -> Result<Self, KeyError> {
        let known =
            |name: &String| algorithm_of(name).ok_or_else(|| KeyError::Algorithm(name.clone()));
        let algorithms: Vec<Algorithm> = options
            .algorithms
            .iter()
            .map(known)
            .collect::<Result<_, _>>()?;
        if algorithms.is_empty() {
            return Err(KeyError::NoAlgorithm);
        }
        let secret = (!options.secret.is_empty()).then(|| Key {
            id: None,
            kind: KeyKind::Secret,
            only: None,
            decoding: DecodingKey::from_secret(options.secret.as_bytes()).expect("it is not empty"),
        });
        let path = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        let public = path(&options.public_key)
            .map(|path| read_pem(&path))
            .transpose()?;
        let file = path(&options.jwks_file)
            .map(|path| KeySet::of_file(&path))
            .transpose()?;
        let fixed = Fixed {
            types: options.token_types.iter().map(|name| short(name)).collect(),
            secret,
            public,
            file: file.unwrap_or_default(),
            is_served: !options.jwks_url.is_empty(),
            rules: Rules::of(options),
            algorithms,
        };
        for (algorithm, name) in fixed.algorithms.iter().zip(&options.algorithms) {
            let kind = kind_of(*algorithm);
            let mut keys = fixed.own().chain(fixed.file.keys());
            if !fixed.may_be_served(*algorithm) && !keys.any(|key| key.kind == kind) {
                let hint = match kind {
                    KeyKind::Secret => "auth.secret (JWT_SECRET) is not set",
                    _ => "auth.public_key, auth.jwks_file or auth.jwks_url must give one",
                };
                let left_out = fixed.file.left_out(|key| fixed.accepts(key));
                let left_out = left_out
                    .iter()
                    .map(|why| format!("; auth.jwks_file: {why}"));
                return Err(KeyError::NoKey(name.clone(), hint, left_out.collect()));
            }
        }
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

    /// The key set that was served last; `None` before the first.
    #[must_use]
    pub fn served(&self) -> Option<&Arc<KeySet>> {
        self.served.as_ref()
    }

    /// Whether any key of the set is for an algorithm that is accepted.
    #[must_use]
    pub fn can_use(&self, set: &KeySet) -> bool {
        set.keys().any(|key| self.fixed.accepts(key))
    }

    /// For each key of the set that is not used, why; of many, some.
    #[must_use]
    pub fn left_out(&self, set: &KeySet) -> Vec<String> {
        set.left_out(|key| self.fixed.accepts(key))
    }

    /// The same of the set that is a file.
    #[must_use]
    pub fn left_out_of_file(&self) -> Vec<String> {
        self.left_out(&self.fixed.file)
    }

    /// What `token` says, if it is good at `now` (ms since 1970).
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        self.check(token, now).map_err(|refused| refused.error)
    }

    /// The same, with whether newer keys could let it in.
    pub fn check(&self, token: &str, now: u64) -> Result<Claims, Refused> {
        let never = |error| Refused {
            error,
            may_be_newer: false,
        };
        if token.len() > MAX_TOKEN {
            return Err(never(TokenError::TooLong));
        }
        let parts = Parts::of(token).map_err(never)?;
        let algorithm = self.fixed.check_head(&parts).map_err(never)?;
        match self.prove(&parts, algorithm) {
            Ok(()) => {
                let claims = parts.claims().map_err(never)?;
                self.fixed.rules.check(&claims, now).map_err(never)
            }
            Err(error @ TokenError::Malformed(_)) => Err(never(error)),
            Err(error) => Err(Refused {
                // Nothing of it is proven, but what is wrong with it already no key mends.
                may_be_newer: self.fixed.may_be_served(algorithm)
                    && (parts.claims())
                        .and_then(|claims| self.fixed.rules.check(&claims, now))
                        .is_ok(),
                error,
            }),
        }
    }

    /// Whether one of the keys that fit the token verifies its signature.
    fn prove(&self, parts: &Parts<'_>, algorithm: Algorithm) -> Result<(), TokenError> {
        let id = parts.head.kid.as_deref();
        let sets = || {
            [Some(&self.fixed.file), self.served.as_deref()]
                .into_iter()
                .flatten()
        };
        let meant = sets().flat_map(|set| set.meant_by(id));
        let fitting = meant.filter(|key| key.is_for(algorithm)).take(MAX_TRIED);
        let own = self.fixed.own().filter(|key| key.is_for(algorithm));
        let mut tried = false;
        for key in own.chain(fitting) {
            tried = true;
            let (signature, message) = (parts.signature, parts.signed.as_bytes());
            let verified = crypto::verify(signature, message, &key.decoding, algorithm);
            // The key is of the algorithm's kind, so that what fails is the signature's form.
            if verified.map_err(|_| head::SIGNATURE)? {
                return Ok(());
            }
        }
        Err(match id {
            _ if tried => TokenError::Signature,
            Some(id) if !sets().any(|set| set.has_name(id)) => TokenError::UnknownKey,
            _ => TokenError::Key,
        })
    }
}

impl Fixed {
    /// The configured keys that have no name: the secret and the public key.
    fn own(&self) -> impl Iterator<Item = &Key> {
        self.secret.iter().chain(&self.public)
    }

    /// Whether a set that is served may have keys for it; secrets it never has.
    fn may_be_served(&self, algorithm: Algorithm) -> bool {
        self.is_served && kind_of(algorithm) != KeyKind::Secret
    }

    fn accepts(&self, key: &Key) -> bool {
        self.algorithms
            .iter()
            .any(|algorithm| key.is_for(*algorithm))
    }

    /// The algorithm of a token whose head is acceptable.
    fn check_head(&self, parts: &Parts<'_>) -> Result<Algorithm, TokenError> {
        let head = &parts.head;
        let algorithm = head.alg.as_deref().and_then(algorithm_of);
        let algorithm = algorithm.filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or(TokenError::Algorithm)?;
        // RFC 8725 §3.11, RFC 9068 §4.
        if let Some(name) = &head.typ {
            let name = short(name);
            let known = ["jwt", "at+jwt"].contains(&name.as_str()) || self.types.contains(&name);
            if !known {
                return Err(TokenError::Type);
            }
        }
        // RFC 7797: with false, another text than the one that is here was signed.
        if head.crit || head.b64 == Some(false) {
            return Err(TokenError::Critical);
        }
        Ok(algorithm)
    }
}

/// A media type as it is compared (RFC 7515 §4.1.9): in lower case, without `application/`.
fn short(media_type: &str) -> String {
    let name = media_type.to_ascii_lowercase();
    match name.strip_prefix("application/") {
        Some(rest) if !rest.contains('/') => rest.to_owned(),
        _ => name,
    }
}

/// A test token for `user` that is issued at the first of two times and good until the second (ms since 1970).
///
/// # Panics
/// When the secret is empty.
#[must_use]
pub fn sign(secret: &str, user: &str, good: Range<u64>, scope: Option<&str>) -> String {
    let (issued, expires) = (good.start / 1_000, good.end / 1_000);
    let mut claims = serde_json::json!({ "sub": user, "iat": issued, "exp": expires });
    if let Some(scope) = scope {
        claims["scope"] = scope.into();
    }
    let key = EncodingKey::from_secret(secret.as_bytes()).expect("a secret is not empty");
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
        .expect("an HMAC takes any secret and these claims are JSON")
}

#[cfg(test)]
mod tests;
