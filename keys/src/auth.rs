//! The settings of the section `auth`, which are the same for all who check tokens: their meaning,
//! their bounds, and the options and the source that they make.

use std::{path::PathBuf, time::Duration};

use settings::{List, Rules, Secret};
use token::{DEVELOPMENT_SECRET, MIN_SECRET, Options, Verifier};

use crate::Source;

settings::sections! {
    pub struct AuthSettings in auth {
        /// The secret of HS256, HS384 and HS512 tokens, at least 32 bytes.
        #[env("JWT_SECRET")]
        secret: Secret = "",
        /// Algorithms that are accepted; each needs the kind of key that belongs to it. `EdDSA` and
        /// `Ed25519` are one.
        algorithms: List = "HS256",
        /// A public key in PEM, for RS, PS, ES and EdDSA tokens.
        public_key: PathBuf = "",
        /// A JSON Web Key Set file; read again on SIGHUP.
        jwks_file: PathBuf = "",
        /// The same from a web server, `https://…` or `http://…`: fetched at the start, every
        /// `jwks_refresh`, on SIGHUP, and when a token comes that none of its keys verifies. Public
        /// keys only.
        jwks_url: String = "",
        /// Time between two fetches of `jwks_url`, when nothing asks for one earlier.
        jwks_refresh: Duration = "5m" in "1s"..="1d",
        /// The certificate authorities to trust with `https://`, in PEM; empty = the system's.
        jwks_ca_file: Option<PathBuf> = "",
        /// A proxy to reach `jwks_url` through (HTTP CONNECT), as `http://user:password@host:3128`;
        /// empty = none. The variables of other programs, like `HTTPS_PROXY`, do not count.
        jwks_proxy: Secret = "",
        /// Issuers of tokens that are accepted (`iss`); empty = any.
        issuer: List = "",
        /// Audiences whose tokens are accepted, one of which a token must have; empty = any.
        audience: List = "",
        /// Where a token's audience stands: the first of these claims that it has. Cognito's access
        /// tokens need `client_id`.
        audience_claims: List = "aud",
        /// Where a token's user stands: a text, or a whole number. `a.b` is `b` in the object `a`.
        user_claim: String = "sub",
        /// Where a token's scopes stand: words of a text, or a list, in all of these claims.
        scope_claims: List = "scope,scp,scopes",
        /// Types of tokens (`typ`) that are accepted besides none, `JWT` and `at+jwt`.
        token_types: List = "",
        /// Accepts tokens that are bound to their sender (`cnf`: DPoP, mTLS) as if whoever has one
        /// were who it was made for.
        accept_bound_tokens: bool = "false",
        /// How far the issuer's clock may be from this one's, for `exp` and `nbf` of a token that is shown.
        /// A session ends at its token's `exp`.
        leeway: Duration = "0s" in "0s"..="10m",
        /// How far away the end of a token (`exp`) may be; 0s = any time. So long revocations are kept:
        /// with 0s until an administrator takes them back.
        max_lifetime: Duration = "0s" in "0s"..="3650d",
        /// The scope that administration, and questions for many users at once, need.
        admin_scope: String = "presence:admin",
        /// Whom a token lets see: `open` = everyone, or `claim`: whom its claims `watch` and
        /// `watch_groups` list.
        #[env("ONLINE_STATUS_PRESENCE_WATCH_POLICY")]
        watch_policy: String = "open",
    }
}

impl AuthSettings {
    /// The options by which tokens are verified.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            secret: self.secret.expose().to_owned(),
            algorithms: self.algorithms.0.clone(),
            public_key: self.public_key.clone(),
            jwks_file: self.jwks_file.clone(),
            jwks_url: self.jwks_url.clone(),
            issuers: self.issuer.0.clone(),
            audiences: self.audience.0.clone(),
            audience_claims: self.audience_claims.0.clone(),
            user_claim: self.user_claim.clone(),
            scope_claims: self.scope_claims.0.clone(),
            token_types: self.token_types.0.clone(),
            accept_bound_tokens: self.accept_bound_tokens,
            leeway: self.leeway,
            max_lifetime: self.max_lifetime,
            by_claim: self.watch_policy == "claim",
        }
    }

    /// The source of fetched keys; `None` when `jwks_url` is empty.
    #[must_use]
    pub fn source(&self) -> Option<Source> {
        (!self.jwks_url.is_empty()).then(|| Source {
            jwks_ca_file: self.jwks_ca_file.clone(),
            jwks_proxy: self.jwks_proxy.clone(),
            jwks_refresh: self.jwks_refresh,
            ..Source::new(&self.jwks_url)
        })
    }

    /// How long a revocation is kept, ms: as long as a token may be good; 0 = for ever.
    #[must_use]
    pub fn longest_life(&self) -> u64 {
        match self.max_lifetime.as_millis() as u64 {
            0 => 0,
            lifetime => lifetime + 2 * self.leeway.as_millis() as u64,
        }
    }

    /// The rules that one setting's syntax does not say.
    pub fn check(&self, rules: &mut Rules) {
        rules.rule(
            self.jwks_url.is_empty() || self.jwks_file.as_os_str().is_empty(),
            "auth.jwks_file and auth.jwks_url: only one may be given",
        );
        rules.rule(
            !self.jwks_proxy.is_set() || !self.jwks_url.is_empty(),
            "auth.jwks_proxy is of no use without auth.jwks_url",
        );
        rules.rule(
            !self.user_claim.is_empty(),
            "auth.user_claim is empty: the claim of the user is needed, as sub",
        );
        rules.rule(
            self.audience.0.is_empty() || !self.audience_claims.0.is_empty(),
            "auth.audience_claims is empty: with auth.audience one at least is needed, as aud",
        );
        rules.word("auth.watch_policy", &self.watch_policy, &["open", "claim"]);
        rules.secret("auth.secret (JWT_SECRET)", &self.secret, MIN_SECRET);
    }

    /// What is wrong with the files that are named, and with the keys in them.
    pub fn check_files(&self, rules: &mut Rules) {
        let mut options = self.options();
        if options.has_no_key() {
            DEVELOPMENT_SECRET.clone_into(&mut options.secret);
        }
        rules.good(Verifier::new(&options));
        if let Some(source) = self.source() {
            rules.good(source.check());
        }
    }
}
