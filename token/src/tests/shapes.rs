//! What tokens say, in the shapes that identity providers give it, and what is refused of it.
#![expect(
    clippy::needless_pass_by_value,
    reason = "what `json!` makes is a value"
)]

use serde_json::{Value, json};

use super::{sets::forge, *};

fn key() -> EncodingKey {
    EncodingKey::from_secret(DEVELOPMENT_SECRET.as_bytes()).expect("a secret")
}

/// What a token that says this is by the options.
fn verdict(options: &Options, head: Value, claims: Value) -> Result<Claims, TokenError> {
    let mut whole = json!({ "alg": "HS256" });
    let members = head.as_object().expect("an object").clone();
    whole.as_object_mut().expect("an object").extend(members);
    let token = forge(&whole, &claims, Algorithm::HS256, &key());
    Verifier::new(options).expect("a key").verify(&token, 9_000)
}

/// The same of a token that is good but for these claims.
fn with(options: &Options, claims: Value) -> Result<Claims, TokenError> {
    let mut whole = json!({ "sub": "alice", "exp": 10 });
    let members = claims.as_object().expect("an object").clone();
    whole.as_object_mut().expect("an object").extend(members);
    verdict(options, json!({}), whole)
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).into()).collect()
}

#[test]
fn null_is_absence_for_claims_that_are_optional_and_is_no_expiry() {
    let nulls = json!({
        "nbf": null, "iss": null, "aud": null, "scope": null, "watch": null, "cnf": null,
        "client_id": null, "iat": null, "jti": null,
    });
    let by_claim = Options {
        by_claim: true,
        ..options()
    };
    let claims = with(&by_claim, nulls).expect("good");
    assert!(!claims.rule.allows("bob", |_| true));
    for claims in [
        json!({ "sub": "alice" }),
        json!({ "sub": "alice", "exp": null }),
    ] {
        let error = verdict(&options(), json!({}), claims).expect_err("no end");
        assert_eq!(error, TokenError::NoExpiry);
        assert!(error.to_string().contains("missing or null"), "{error}");
    }
    for time in [json!("10"), json!(-1), json!([10]), json!(true)] {
        let error = with(&options(), json!({ "exp": time })).err();
        assert_eq!(error, Some(TokenError::Time("exp")), "{time}");
        let error = with(&options(), json!({ "nbf": time })).err();
        assert_eq!(error, Some(TokenError::Time("nbf")), "{time}");
    }
    // Date.now(), with a fraction too; the last that still are seconds are of the year 5138.
    let (millis, far) = (1_764_453_600_000_u64, 99_999_999_999_u64);
    for time in [json!(millis), json!(millis as f64 + 0.5), json!(far + 1)] {
        for claim in ["exp", "nbf", "iat"] {
            let error = with(&options(), json!({ claim: time })).expect_err("milliseconds");
            assert_eq!(error, TokenError::Milliseconds(claim), "{time}");
            assert!(error.to_string().contains("seconds since 1970"), "{error}");
        }
    }
    let far = with(&options(), json!({ "exp": far })).expect("a good token");
    assert_eq!(far.expires, 99_999_999_999_000);
    assert_eq!(
        with(&options(), json!({ "exp": 9.5, "nbf": 8.5 }))
            .expect("good")
            .expires,
        9_500
    );
    let strict = Options {
        issuers: list(&["us"]),
        audiences: list(&["presence"]),
        ..options()
    };
    let error = with(&strict, json!({ "iss": null, "aud": "presence" })).err();
    assert_eq!(error, Some(TokenError::Issuer));
    let error = with(&strict, json!({ "iss": "us", "aud": null })).err();
    assert!(matches!(error, Some(TokenError::Audience(_))));
}

#[test]
fn scopes_are_words_or_lists_under_any_of_their_names() {
    for claims in [
        json!({ "scope": "a b" }),
        json!({ "scope": " b\ta " }),
        json!({ "scope": ["a", "b"] }),
        json!({ "scp": "a b" }),
        json!({ "scp": ["b", 7, "a"] }),
        json!({ "scopes": "a b" }),
        json!({ "scope": null, "scopes": ["a", "b"] }),
        json!({ "scope": "b", "scp": "a" }),
        json!({ "scope": {}, "scp": 7, "scopes": ["a", "b"] }),
    ] {
        let claims_read = with(&options(), claims.clone()).expect("good");
        assert!(
            claims_read.has_scope("a") && claims_read.has_scope("b"),
            "{claims}"
        );
        assert!(
            !claims_read.has_scope("c") && !claims_read.has_scope(""),
            "{claims}"
        );
    }
    let roles = Options {
        scope_claims: list(&[
            "permissions",
            "realm_access.roles",
            "https://example.com/roles",
        ]),
        ..options()
    };
    for claims in [
        json!({ "permissions": ["a"], "scope": "b" }),
        json!({ "realm_access": { "roles": ["a"] }, "scope": "b" }),
        json!({ "https://example.com/roles": "a", "scope": "b" }),
    ] {
        let claims_read = with(&roles, claims.clone()).expect("good");
        assert!(
            claims_read.has_scope("a") && !claims_read.has_scope("b"),
            "{claims}"
        );
    }
}

#[test]
fn the_user_stands_where_the_setting_says_as_a_text_or_a_whole_number() {
    let by = |claim: &str| Options {
        user_claim: claim.into(),
        ..options()
    };
    for (claim, claims, user) in [
        ("sub", json!({ "sub": 7 }), "7"),
        ("sub", json!({ "sub": -7 }), "-7"),
        ("sub", json!({ "sub": u64::MAX }), "18446744073709551615"),
        (
            "email",
            json!({ "email": "a@example.com" }),
            "a@example.com",
        ),
        ("oid", json!({ "sub": null, "oid": "b-1" }), "b-1"),
        (
            "https://example.com/id",
            json!({ "https://example.com/id": 5 }),
            "5",
        ),
        ("user.id", json!({ "user": { "id": "u" } }), "u"),
        (
            "user.id",
            json!({ "user.id": "v", "user": { "id": "u" } }),
            "v",
        ),
    ] {
        assert_eq!(&*with(&by(claim), claims).expect(user).user, user);
    }
    for (claim, claims) in [
        ("sub", json!({ "sub": 7.5 })),
        ("sub", json!({ "sub": 1e30 })),
        ("sub", json!({ "sub": true })),
        ("sub", json!({ "sub": ["alice"] })),
        ("sub", json!({ "sub": null })),
        ("sub", json!({ "sub": "" })),
        ("email", json!({})),
        ("user.id", json!({ "user": "alice" })),
        ("user.id", json!({ "user": [{ "id": "alice" }] })),
    ] {
        let error = with(&by(claim), claims.clone())
            .expect_err("no user")
            .to_string();
        assert!(
            error.contains(&format!("auth.user_claim: {claim}")),
            "{claims}: {error}"
        );
    }
}

#[test]
fn issuers_and_audiences_are_lists_and_the_refusal_names_the_setting() {
    let lists = Options {
        issuers: list(&["https://a.example/", "https://b.example"]),
        audiences: list(&["web", "mobile"]),
        ..options()
    };
    let token = |iss: &str, aud: Value| with(&lists, json!({ "iss": iss, "aud": aud }));
    for iss in ["https://a.example/", "https://b.example"] {
        for aud in [json!("web"), json!("mobile"), json!(["x", "mobile"])] {
            assert!(token(iss, aud).is_ok());
        }
    }
    let error = token("https://a.example", json!("web"))
        .expect_err("another")
        .to_string();
    assert!(error.contains("auth.issuer"), "{error}");
    for aud in [json!("web,mobile"), json!([]), json!(["x"])] {
        let error = token("https://b.example", aud)
            .expect_err("another")
            .to_string();
        assert!(error.ends_with("auth.audience"), "{error}");
        assert!(error.contains("auth.audience_claims"), "{error}");
    }
}

#[test]
fn the_audience_stands_in_the_first_of_its_claims_that_is_there() {
    let by = |claims: &[&str]| Options {
        audiences: list(&["app"]),
        audience_claims: list(claims),
        ..options()
    };
    let cognito = json!({ "client_id": "app", "token_use": "access" });
    assert!(with(&by(&["aud"]), cognito.clone()).is_err());
    assert!(with(&by(&["aud", "client_id"]), cognito).is_ok());
    assert!(with(&by(&["azp"]), json!({ "aud": "account", "azp": "app" })).is_ok());
    // Made for somebody else, who got it by way of the same client.
    let other = json!({ "aud": "other", "client_id": "app" });
    assert!(with(&by(&["aud", "client_id"]), other).is_err());
    let null = json!({ "aud": null, "client_id": "app" });
    assert!(with(&by(&["aud", "client_id"]), null).is_ok());
}

#[test]
fn only_access_tokens_are_taken_for_such() {
    let fine = || json!({ "sub": "alice", "exp": 10 });
    for typ in [
        json!(null),
        json!("JWT"),
        json!("jwt"),
        json!("at+jwt"),
        json!("AT+JWT"),
        json!("application/jwt"),
        json!("application/at+jwt"),
        json!("Application/At+JWT"),
    ] {
        assert!(
            verdict(&options(), json!({ "typ": typ }), fine()).is_ok(),
            "{typ}"
        );
    }
    let others = [
        "logout+jwt",
        "secevent+jwt",
        "application/secevent+jwt",
        "dpop+jwt",
        "JOSE",
        "",
        "x/jwt",
        "application/",
    ];
    for typ in others {
        let error = verdict(&options(), json!({ "typ": typ }), fine()).err();
        assert_eq!(error, Some(TokenError::Type), "{typ}");
    }
    assert!(TokenError::Type.to_string().contains("auth.token_types"));
    assert!(verdict(&options(), json!({ "typ": 7 }), fine()).is_err());
    let more = Options {
        token_types: list(&["application/Okta-internal-at+jwt"]),
        ..options()
    };
    for (typ, good) in [
        ("application/okta-internal-at+jwt", true),
        ("okta-internal-at+JWT", true),
        ("JWT", true),
        ("logout+jwt", false),
    ] {
        assert_eq!(
            verdict(&more, json!({ "typ": typ }), fine()).is_ok(),
            good,
            "{typ}"
        );
    }
}

#[test]
fn a_token_that_is_bound_to_its_sender_is_no_bearer_token_unless_a_setting_says_so() {
    let accepting = Options {
        accept_bound_tokens: true,
        ..options()
    };
    for cnf in [
        json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" }),
        json!({ "x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2" }),
        json!({ "jwk": {} }),
        json!({}),
        json!("x"),
    ] {
        let error = with(&options(), json!({ "cnf": cnf })).expect_err("bound");
        assert_eq!(error, TokenError::Bound);
        assert!(
            error.to_string().contains("auth.accept_bound_tokens"),
            "{error}"
        );
        assert!(with(&accepting, json!({ "cnf": cnf })).is_ok());
    }
}

#[test]
fn what_is_too_long_encrypted_or_no_token_is_called_so() {
    let verifier = Verifier::new(&options()).expect("a key");
    let of_length = |length: usize| {
        let claims = |pad: usize| json!({ "sub": "alice", "exp": 10, "pad": "x".repeat(pad) });
        let token = |pad| {
            forge(
                &json!({ "alg": "HS256" }),
                &claims(pad),
                Algorithm::HS256,
                &key(),
            )
        };
        let pad = (0..length).rev().find(|pad| token(*pad).len() <= length);
        token(pad.expect("room"))
    };
    let longest = of_length(MAX_TOKEN);
    assert!(longest.len() > MAX_TOKEN - 2);
    assert!(verifier.verify(&longest, 9_000).is_ok());
    let error = verifier
        .verify(&of_length(MAX_TOKEN + 3), 9_000)
        .expect_err("too long");
    assert_eq!(
        error.to_string(),
        "the token is too long: at most 16384 bytes"
    );
    let error = verifier
        .verify("eyJhbGciOiJkaXIifQ..a.b.c", 9_000)
        .expect_err("a JWE");
    assert!(error.to_string().contains("JWE"), "{error}");
    let fine = sign(DEVELOPMENT_SECRET, "alice", 3_000..10_000, None);
    let (signed, signature) = fine.rsplit_once('.').expect("a signature");
    let (parts, base64, signature_form) = ("not three parts", "not base64url", "signature is not");
    for (token, why) in [
        ("", parts),
        (".", parts),
        ("..", "head is no JSON object"),
        ("...", parts),
        ("a.b", parts),
        (&format!("{signed}.{signature}="), signature_form),
        (&format!("{signed}.{}!", &signature[1..]), signature_form),
        (&format!("{signed}.{signature}."), parts),
        (&format!(" {fine}"), base64),
        (&format!("Bearer {fine}"), base64),
        (&format!("\"{fine}\""), base64),
        (&format!("{fine}\n"), signature_form),
        (signed, parts),
    ] {
        let error = verifier.verify(token, 9_000).expect_err(token).to_string();
        assert!(
            error.starts_with("the token is no JWT: "),
            "{token:?}: {error}"
        );
        assert!(error.contains(why), "{token:?}: {error}");
    }
}

#[test]
fn a_member_or_claim_of_the_wrong_kind_is_named_with_what_it_has_to_be() {
    let fine = || json!({ "sub": "alice", "exp": 10 });
    let strict = Options {
        issuers: list(&["https://issuer"]),
        audiences: list(&["web"]),
        ..options()
    };
    for (head, name, kind) in [
        (json!({ "kid": 7 }), "kid", "a text (RFC 7515 §4.1.4)"),
        (json!({ "kid": ["a"] }), "kid", "a text (RFC 7515 §4.1.4)"),
        (
            json!({ "alg": ["HS256"] }),
            "alg",
            "a text (RFC 7515 §4.1.1)",
        ),
        (json!({ "typ": true }), "typ", "a text (RFC 7515 §4.1.9)"),
        (json!({ "b64": 1 }), "b64", "true or false (RFC 7797 §3)"),
    ] {
        let error = verdict(&options(), head, fine()).expect_err(name);
        assert_eq!(
            error.to_string(),
            format!("the token's {name} is not {kind}")
        );
        assert_eq!(error.label(), "malformed");
    }
    for (claim, value, what) in [
        ("iss", json!(7), "iss is not a text (RFC 7519 §4.1.1)"),
        (
            "iss",
            json!(["https://issuer"]),
            "iss is not a text (RFC 7519 §4.1.1)",
        ),
        (
            "aud",
            json!({ "web": true }),
            "aud is not a text or a list of texts",
        ),
        ("aud", json!(7), "aud is not a text or a list of texts"),
        ("exp", json!("10"), "exp is no time: it has to be a number"),
        ("nbf", json!("9"), "nbf is no time: it has to be a number"),
        ("iat", json!({}), "iat is no time: it has to be a number"),
    ] {
        let mut claims = json!({ "sub": "a", "exp": 10, "iss": "https://issuer", "aud": "web" });
        claims[claim] = value.clone();
        let error = with(&strict, claims).expect_err(claim).to_string();
        assert!(error.contains(what), "{claim} {value}: {error}");
    }
    // What nobody asks for may be of any kind.
    let odd = json!({ "sub": "a", "exp": 10, "iss": 7, "aud": {}, "jti": 7 });
    let claims = with(&options(), odd).expect("neither is looked at");
    assert_eq!(
        claims.id.as_deref(),
        Some("7"),
        "it can be revoked by its name"
    );
    assert!(verdict(&options(), json!({ "cty": 7, "x": [] }), fine()).is_ok());
}

#[test]
fn what_the_library_refuses_is_refused() {
    let fine = || json!({ "sub": "alice", "exp": 10 });
    for head in [
        json!({ "crit": ["exp"], "exp": 1 }),
        json!({ "crit": ["b64"], "b64": true }),
        json!({ "crit": [] }),
        json!({ "crit": null }),
        json!({ "crit": "b64" }),
        json!({ "b64": false }),
        json!({ "b64": false, "crit": ["b64"] }),
    ] {
        let error = verdict(&options(), head.clone(), fine()).err();
        assert_eq!(error, Some(TokenError::Critical), "{head}");
    }
    assert!(verdict(&options(), json!({ "b64": true }), fine()).is_ok());
    for alg in ["none", "None", "hs256", "HS257", "", "dir"] {
        let error = verdict(&options(), json!({ "alg": alg }), fine()).err();
        assert_eq!(error, Some(TokenError::Algorithm), "{alg}");
    }
    for claims in [json!([]), json!("x"), json!(7), json!(null)] {
        let error = verdict(&options(), json!({}), claims.clone()).expect_err("no claims");
        assert!(
            error.to_string().contains("claims are no JSON object"),
            "{claims}: {error}"
        );
    }
    // A name given twice means two things.
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let head = BASE64.encode(r#"{"alg":"HS256","kid":"a","kid":"b"}"#);
    let signed = format!("{head}.{}", BASE64.encode(fine().to_string()));
    let signature = crypto::sign(signed.as_bytes(), &key(), Algorithm::HS256).expect("a signature");
    let verifier = Verifier::new(&options()).expect("a key");
    let error = verifier.verify(&format!("{signed}.{signature}"), 9_000);
    let error = error.expect_err("two names").to_string();
    assert!(error.contains("has a member twice"), "{error}");
    // The library, too, meets no key of another kind.
    let public = DecodingKey::from_ed_der(&[7; 32]);
    assert!(crypto::verify(&signature, signed.as_bytes(), &public, Algorithm::HS256).is_err());
    assert!(DecodingKey::from_secret(b"").is_err());
}
