//! What can be wrong with a token, and with the keys. A refusal names the setting that would let
//! the token in, where there is one, and has nothing of the token in it.

use crate::MAX_TOKEN;

/// Why a token is refused. The text never has the token in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is not three parts of base64url with JSON in them (RFC 7515 §3), and which is not.
    #[error("the token is no JWT: {0}")]
    Malformed(&'static str),
    /// A member of its head, or a claim, is of another kind than it has to be, and of which.
    #[error("the token's {0} is not {1}")]
    Member(String, &'static str),
    /// Longer than any token that is looked at.
    #[error("the token is too long: at most {MAX_TOKEN} bytes")]
    TooLong,
    /// Five parts: a JWE (RFC 7516), whose content only its audience can read.
    #[error("the token is encrypted (JWE): a signed one (JWS) is needed")]
    Encrypted,
    /// The token's algorithm is not in the allow-list.
    #[error("the token's algorithm (alg) is not in auth.algorithms")]
    Algorithm,
    /// Its `typ` says that it is there for something else (RFC 8725 §3.11).
    #[error("the token's type (typ) is none of JWT, at+jwt and auth.token_types")]
    Type,
    /// It has a `crit` header, or an unencoded payload (RFC 7797).
    #[error("the token has a critical extension that is not understood")]
    Critical,
    /// No key is of its kind and name.
    #[error("there is no key for the token's algorithm (alg)")]
    Key,
    /// No key has the name that it gives.
    #[error("there is no key with the name that the token gives (kid)")]
    UnknownKey,
    /// The signature is not one of the key that the token names.
    #[error("the token's signature is wrong")]
    Signature,
    /// The token has no `exp`.
    #[error("the token has no expiry: exp is missing or null")]
    NoExpiry,
    /// One of its times is none, and which.
    #[error("the token's {0} is no time: it has to be a number, seconds since 1970 (RFC 7519 §2)")]
    Time(&'static str),
    /// One of its times is so far away that it can only be meant in milliseconds, and which.
    #[error(
        "the token's {0} looks like milliseconds: it has to be seconds since 1970 (RFC 7519 §2), \
         Math.floor(Date.now() / 1000) in JavaScript"
    )]
    Milliseconds(&'static str),
    /// The token's `exp` is past.
    #[error("the token has expired")]
    Expired,
    /// The token's `exp` is further away than `auth.max_lifetime` allows.
    #[error("the token lives longer than auth.max_lifetime")]
    Lifetime,
    /// An administrator has revoked the token.
    #[error("the token was revoked")]
    Revoked,
    /// The token's `nbf` is still to come.
    #[error("the token is not valid yet (nbf)")]
    Early,
    /// The token's `iss` is not one of those accepted.
    #[error("the token's issuer (iss) is not in auth.issuer")]
    Issuer,
    /// The token's audience is not one of those accepted; the value names the claims.
    #[error("the token's audience (auth.audience_claims: {0}) is not in auth.audience")]
    Audience(String),
    /// The claim of its user, and why that is no user.
    #[error("the token's user (auth.user_claim: {0}): {1}")]
    User(String, String),
    /// The named claim is not a text or a list of texts.
    #[error("{0} is neither a text nor a list of texts")]
    Watch(&'static str),
    /// It is bound to a key that its sender proves to have (RFC 7800), which nobody asked for here.
    #[error("the token is bound to its sender (cnf): auth.accept_bound_tokens lets it in unproven")]
    Bound,
}

impl TokenError {
    /// The word for this error in a metric's label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Member(..) => "malformed",
            Self::TooLong => "too_long",
            Self::Encrypted => "encrypted",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::Critical => "critical",
            Self::Key => "key",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::NoExpiry => "no_expiry",
            Self::Time(_) | Self::Milliseconds(_) => "time",
            Self::Expired => "expired",
            Self::Lifetime => "lifetime",
            Self::Revoked => "revoked",
            Self::Early => "early",
            Self::Issuer => "issuer",
            Self::Audience(_) => "audience",
            Self::User(..) => "user",
            Self::Watch(_) => "watch",
            Self::Bound => "bound",
        }
    }
}

/// Why the configured keys or algorithms cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The configured algorithm is not supported.
    #[error(
        "auth.algorithms: {0:?} is not one of HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 EdDSA Ed25519"
    )]
    Algorithm(String),
    /// An accepted algorithm without a key, where one could come from, and why those of the file are
    /// none.
    #[error("auth.algorithms: {0} is accepted, but there is no key for it ({1}){2}")]
    NoKey(String, &'static str, String),
    /// The list of accepted algorithms is empty.
    #[error("auth.algorithms is empty: at least one is needed")]
    NoAlgorithm,
    /// A setting, the file that it names, and what is wrong with that.
    #[error("{0} = {1:?}: {2}")]
    File(&'static str, String, String),
}
