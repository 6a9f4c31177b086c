//! Tokens and key sets in the shapes of identity providers, by their documentation; the services
//! themselves are not asked.

use serde_json::{Value, json};

use super::{
    sets::{Pair, forge},
    *,
};

/// A provider's shape: what its set says of the key besides the key, what a token's head and claims
/// say, and the settings for it.
struct Shape {
    name: &'static str,
    algorithm: Algorithm,
    jwk: Value,
    head: Value,
    claims: Value,
    set: fn(&mut Options),
    user: &'static str,
    scope: &'static str,
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).into()).collect()
}

fn shapes() -> [Shape; 9] {
    use Algorithm::{ES256, RS256};
    [
        Shape {
            name: "Auth0",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k", "x5t": "x", "x5c": ["MII="] }),
            head: json!({ "alg": "RS256", "typ": "at+jwt", "kid": "k" }),
            claims: json!({
                "iss": "https://t.example/", "sub": "auth0|5f7c", "azp": "c", "scope": "openid x",
                "aud": ["https://api.example", "https://t.example/userinfo"],
                "permissions": ["presence:admin"],
            }),
            set: |options| {
                options.issuers = list(&["https://t.example/"]);
                options.audiences = list(&["https://api.example"]);
                options.scope_claims = list(&["scope", "permissions"]);
            },
            user: "auth0|5f7c",
            scope: "presence:admin",
        },
        Shape {
            name: "Okta, the organisation's server",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k", "e": "AQAB" }),
            head: json!({ "alg": "RS256", "kid": "k", "typ": "application/okta-internal-at+jwt" }),
            claims: json!({
                "ver": 1, "iss": "https://o.example", "aud": "https://o.example", "cid": "c",
                "uid": "00u", "sub": "a@example.com", "scp": ["openid", "presence:admin"],
            }),
            set: |options| {
                options.audiences = list(&["https://o.example"]);
                options.token_types = list(&["application/okta-internal-at+jwt"]);
            },
            user: "a@example.com",
            scope: "presence:admin",
        },
        Shape {
            name: "Entra ID",
            algorithm: RS256,
            jwk: json!({ "use": "sig", "kid": "k", "x5t": "k", "x5c": ["MII="], "issuer": "x" }),
            head: json!({ "typ": "JWT", "alg": "RS256", "kid": "k", "x5t": "k" }),
            claims: json!({
                "aud": "6e74", "iss": "https://l.example/t/v2.0", "oid": "690222be", "sub": "AAAA",
                "nbf": 5, "iat": 5, "scp": "User.Read presence:admin", "roles": ["r"], "ver": "2.0",
            }),
            set: |options| {
                options.audiences = list(&["6e74"]);
                options.user_claim = "oid".into();
                options.scope_claims = list(&["scp", "roles"]);
            },
            user: "690222be",
            scope: "presence:admin",
        },
        Shape {
            name: "Amazon Cognito, an access token",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k", "e": "AQAB" }),
            head: json!({ "kid": "k", "alg": "RS256" }),
            claims: json!({
                "sub": "aaaa-bbbb", "iss": "https://c.example/pool", "client_id": "c1",
                "token_use": "access", "scope": "presence:admin", "auth_time": 5, "username": "a",
            }),
            set: |options| {
                options.audiences = list(&["c1"]);
                options.audience_claims = list(&["aud", "client_id"]);
            },
            user: "aaaa-bbbb",
            scope: "presence:admin",
        },
        Shape {
            name: "Firebase",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k" }),
            head: json!({ "alg": "RS256", "kid": "k", "typ": "JWT" }),
            claims: json!({
                "iss": "https://f.example/project", "aud": "project", "user_id": "u1", "sub": "u1",
                "auth_time": 5, "firebase": { "identities": {}, "sign_in_provider": "custom" },
            }),
            set: |options| options.audiences = list(&["project"]),
            user: "u1",
            scope: "",
        },
        Shape {
            name: "Supabase",
            algorithm: ES256,
            jwk: json!({ "alg": "ES256", "use": "sig", "kid": "k", "key_ops": ["verify"], "ext": true }),
            head: json!({ "alg": "ES256", "kid": "k", "typ": "JWT" }),
            claims: json!({
                "iss": "https://s.example/auth/v1", "aud": "authenticated", "sub": "1111-2222",
                "role": "authenticated", "aal": "aal1", "app_metadata": { "roles": ["presence:admin"] },
            }),
            set: |options| {
                options.audiences = list(&["authenticated"]);
                options.scope_claims = list(&["app_metadata.roles"]);
            },
            user: "1111-2222",
            scope: "presence:admin",
        },
        Shape {
            name: "Clerk",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k" }),
            head: json!({ "alg": "RS256", "cat": "cl_B7d4", "kid": "k", "typ": "JWT" }),
            claims: json!({
                "azp": "https://app.example", "iss": "https://clerk.example", "nbf": 5, "iat": 5,
                "sid": "sess_1", "sub": "user_1", "v": 2,
            }),
            set: |options| {
                options.audiences = list(&["https://app.example"]);
                options.audience_claims = list(&["azp"]);
            },
            user: "user_1",
            scope: "",
        },
        Shape {
            name: "Zitadel",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k" }),
            head: json!({ "alg": "RS256", "kid": "k", "typ": "JWT" }),
            claims: json!({
                "iss": "https://z.example", "sub": "165460784409546753", "jti": "j", "iat": 5, "nbf": 5,
                "aud": ["p@app", "165460784409546999"], "client_id": "p@app",
            }),
            set: |options| options.audiences = list(&["p@app"]),
            user: "165460784409546753",
            scope: "",
        },
        Shape {
            name: "Ory Hydra",
            algorithm: RS256,
            jwk: json!({ "alg": "RS256", "use": "sig", "kid": "k" }),
            head: json!({ "alg": "RS256", "kid": "k", "typ": "JWT" }),
            claims: json!({
                "aud": [], "client_id": "c", "ext": {}, "iss": "https://h.example", "jti": "j", "nbf": 5,
                "scp": ["offline", "presence:admin"], "sub": "alice",
            }),
            set: |options| options.issuers = list(&["https://h.example"]),
            user: "alice",
            scope: "presence:admin",
        },
    ]
}

#[test]
fn tokens_and_sets_of_identity_providers_are_taken_with_the_settings_for_them() {
    let (rsa, p256, other) = (Pair::rsa(), Pair::p256(), Pair::rsa());
    for shape in shapes() {
        let pair = if shape.algorithm == Algorithm::ES256 {
            &p256
        } else {
            &rsa
        };
        // Next to one that is not the token's.
        let set = json!({ "keys": [other.with(json!({ "kid": "older" })), pair.with(shape.jwk)] });
        let set = KeySet::served(set.to_string().as_bytes()).expect("a set");
        let mut options = Options {
            algorithms: vec!["RS256".into(), "ES256".into()],
            jwks_url: "http://127.0.0.1/".into(),
            ..Options::default()
        };
        (shape.set)(&mut options);
        let verifier = Verifier::new(&options)
            .expect("keys come later")
            .serving(Arc::new(set));
        let mut claims = shape.claims;
        claims["exp"] = json!(10);
        let token = forge(&shape.head, &claims, shape.algorithm, &pair.key);
        let read = verifier.verify(&token, 9_000);
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", shape.name));
        assert_eq!(&*read.user, shape.user, "{}", shape.name);
        assert_eq!(
            read.has_scope("presence:admin"),
            !shape.scope.is_empty(),
            "{}",
            shape.name
        );
        claims["exp"] = json!(8);
        let token = forge(&shape.head, &claims, shape.algorithm, &pair.key);
        let error = verifier.verify(&token, 9_000).err();
        assert_eq!(error, Some(TokenError::Expired), "{}", shape.name);
    }
}
