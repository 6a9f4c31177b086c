//! What a token says, held against what is accepted. A claim that is null is one that is missing.

use protocol::{Pattern, UserId, WatchRule};
use serde_json::{Map, Value};

use crate::{Options, TokenError};

/// How far ahead of this clock an issuer's may be before `iat` says nothing, ms, without the leeway.
const MAX_AHEAD: u64 = 60_000;

/// What a verified token says of its bearer.
#[derive(Debug)]
pub struct Claims {
    /// The user whom the token names.
    pub user: UserId,
    /// When the token ends, ms since 1970.
    pub expires: u64,
    /// Which users the bearer may watch and ask for.
    pub rule: WatchRule,
    /// When it was issued (`iat`), ms since 1970, by this clock at the latest when it was verified; 0 = it
    /// does not say, or names a time that is far ahead.
    pub issued: u64,
    /// Its name (`jti`).
    pub id: Option<Box<str>>,
    scopes: Vec<String>,
}

impl Claims {
    /// Whether the token grants `scope`.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|have| have == scope)
    }
}

/// The rules that claims must keep, made from [`Options`].
pub(crate) struct Rules {
    issuers: Vec<String>,
    audiences: Vec<String>,
    audience_claims: Vec<String>,
    user_claim: String,
    scope_claims: Vec<String>,
    leeway_ms: u64,
    /// 0 = any.
    max_lifetime_ms: u64,
    by_claim: bool,
    accept_bound: bool,
}

impl Rules {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            issuers: options.issuers.clone(),
            audiences: options.audiences.clone(),
            audience_claims: options.audience_claims.clone(),
            user_claim: options.user_claim.clone(),
            scope_claims: options.scope_claims.clone(),
            leeway_ms: options.leeway.as_millis() as u64,
            max_lifetime_ms: options.max_lifetime.as_millis() as u64,
            by_claim: options.by_claim,
            accept_bound: options.accept_bound_tokens,
        }
    }

    /// What the claims say, if they are good at `now`.
    pub(crate) fn check(
        &self,
        claims: &Map<String, Value>,
        now: u64,
    ) -> Result<Claims, TokenError> {
        let expires = time(claims, "exp")?.ok_or(TokenError::NoExpiry)?;
        if expires.saturating_add(self.leeway_ms) <= now {
            return Err(TokenError::Expired);
        }
        let longest = self.max_lifetime_ms;
        if longest != 0 && expires > now.saturating_add(longest + self.leeway_ms) {
            return Err(TokenError::Lifetime);
        }
        // Who revokes all tokens so far means those that were shown already, whatever their issuer's clock.
        let believed = |at: &u64| *at <= now.saturating_add(MAX_AHEAD + self.leeway_ms);
        let issued = time(claims, "iat")?.filter(believed);
        let issued = issued.map_or(0, |at| at.min(now));
        if let Some(not_before) = time(claims, "nbf")?
            && not_before > now.saturating_add(self.leeway_ms)
        {
            return Err(TokenError::Early);
        }
        if !self.issuers.is_empty() {
            let issuer = match find(claims, "iss") {
                Some(Value::String(issuer)) => Some(issuer),
                Some(_) => {
                    return Err(TokenError::Member("iss".into(), "a text (RFC 7519 §4.1.1)"));
                }
                None => None,
            };
            if !issuer.is_some_and(|issuer| self.issuers.contains(issuer)) {
                return Err(TokenError::Issuer);
            }
        }
        if !self.is_for_us(claims)? {
            return Err(TokenError::Audience(self.audience_claims.join(",")));
        }
        if !self.accept_bound && find(claims, "cnf").is_some() {
            return Err(TokenError::Bound);
        }
        let rule = match self.by_claim {
            true => watch_rule(claims)?,
            false => WatchRule::Anyone,
        };
        // A session does not end at once whose token was accepted only by the leeway.
        let expires = match expires > now {
            true => expires,
            false => expires + self.leeway_ms,
        };
        Ok(Claims {
            user: self.user(claims)?,
            expires,
            rule,
            issued,
            id: find(claims, "jti").and_then(name),
            scopes: self.scopes(claims),
        })
    }

    /// The first of the audience's claims that is there decides, so that a claim further down lets
    /// in no token that was made for somebody else.
    fn is_for_us(&self, claims: &Map<String, Value>) -> Result<bool, TokenError> {
        let ours = |audience: &str| self.audiences.iter().any(|one| one == audience);
        let mut names = self.audience_claims.iter();
        let found = names.find_map(|name| Some((name, find(claims, name)?)));
        Ok(match found {
            _ if self.audiences.is_empty() => true,
            None => false,
            Some((_, Value::String(audience))) => ours(audience),
            Some((_, Value::Array(list))) => list.iter().filter_map(Value::as_str).any(ours),
            Some((name, _)) => {
                return Err(TokenError::Member(
                    name.clone(),
                    "a text or a list of texts",
                ));
            }
        })
    }

    fn user(&self, claims: &Map<String, Value>) -> Result<UserId, TokenError> {
        let wrong = |what: String| TokenError::User(self.user_claim.clone(), what);
        let user = find(claims, &self.user_claim).ok_or_else(|| wrong("it is missing".into()))?;
        let user =
            name(user).ok_or_else(|| wrong("it is neither a text nor a whole number".into()));
        UserId::parse(&user?).map_err(|error| wrong(error.to_string()))
    }

    /// The scopes of all claims that have some: words of a text (RFC 6749 §3.3), or a list.
    fn scopes(&self, claims: &Map<String, Value>) -> Vec<String> {
        let mut scopes = Vec::new();
        for found in self
            .scope_claims
            .iter()
            .filter_map(|name| find(claims, name))
        {
            match found {
                Value::String(words) => scopes.extend(words.split_whitespace().map(str::to_owned)),
                Value::Array(list) => {
                    scopes.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                _ => {}
            }
        }
        scopes
    }
}

/// The claim of that name, unless it is null. A name with dots that is none itself is a way through
/// objects, as `realm_access.roles`.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let inner = || {
        let (first, rest) = name.split_once('.')?;
        rest.split('.')
            .try_fold(claims.get(first)?, |value, part| value.get(part))
    };
    let found = claims.get(name).or_else(inner);
    found.filter(|value| !value.is_null())
}

/// A text, or a whole number in decimal.
fn name(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            Some(number.to_string().into())
        }
        _ => None,
    }
}

/// The seconds since 1970 from which on a time is taken for one in milliseconds, as JavaScript's
/// `Date.now()` is: the year 5138, or 1973 in milliseconds.
const MILLISECONDS: f64 = 1e11;

/// The claim's time, if it is there: a NumericDate (RFC 7519 §2: seconds, maybe with a fraction), in
/// milliseconds.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    let Some(value) = find(claims, name) else {
        return Ok(None);
    };
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
    let seconds = seconds.ok_or(TokenError::Time(name))?;
    if seconds >= MILLISECONDS {
        return Err(TokenError::Milliseconds(name));
    }
    Ok(Some(match value.as_u64() {
        Some(seconds) => seconds * 1_000,
        None => (seconds * 1_000.0) as u64,
    }))
}

fn watch_rule(claims: &Map<String, Value>) -> Result<WatchRule, TokenError> {
    let mut patterns = Vec::new();
    let group = |name: &str| Pattern::Group(name.into());
    for (claim, pattern) in [
        ("watch", &Pattern::new as &dyn Fn(&str) -> Pattern),
        ("watch_groups", &group),
    ] {
        let wrong = TokenError::Watch(claim);
        match find(claims, claim) {
            None => {}
            Some(Value::String(one)) => patterns.push(pattern(one)),
            Some(Value::Array(list)) => {
                let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                patterns.extend(texts.ok_or(wrong)?.into_iter().map(pattern));
            }
            Some(_) => return Err(wrong),
        }
    }
    Ok(WatchRule::Only(patterns.into()))
}
