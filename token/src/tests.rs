//! Which tokens and keys are accepted.

use protocol::WatchRule;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};

use super::*;
use crate::key::TOO_SHORT;

mod providers;
mod sets;
mod shapes;

fn options() -> Options {
    Options {
        secret: DEVELOPMENT_SECRET.into(),
        algorithms: vec!["HS256".into()],
        ..Options::default()
    }
}

#[test]
fn a_token_is_good_until_its_expiry_and_the_leeway_by_the_callers_clock() {
    let token = sign(DEVELOPMENT_SECRET, "alice", 3_000..10_000, Some("a b"));
    let strict = Verifier::new(&options()).expect("a key");
    let claims = strict.verify(&token, 9_999).expect("a good token");
    let times = (claims.issued, claims.expires);
    assert_eq!((&*claims.user, times), ("alice", (3_000, 10_000)));
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
    assert!(
        !claims.rule.allows("bob", |_| true),
        "no watch claim allows nobody"
    );
    assert_eq!(
        lenient.verify(&token, 12_000).err(),
        Some(TokenError::Expired)
    );
}

#[test]
fn a_token_is_issued_when_it_is_shown_at_the_latest_and_one_dated_far_ahead_at_no_time() {
    let verifier = Verifier::new(&options()).expect("a key");
    let issued = |iat, now| {
        let token = sign(DEVELOPMENT_SECRET, "alice", iat..9_000_000, None);
        verifier.verify(&token, now).expect("a good token").issued
    };
    assert_eq!(issued(3_000, 3_500), 3_000);
    assert_eq!(issued(4_000, 3_500), 3_500, "the issuer's clock is ahead");
    assert_eq!(issued(63_000, 3_000), 3_000);
    assert_eq!(issued(64_000, 3_000), 0, "no clock is so far ahead");
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
fn a_served_set_takes_the_place_of_the_former_one_and_a_bad_key_spoils_no_other() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let encoding = EncodingKey::from_ed_der(&key.serialize_der());
    let token = |id: &str| {
        let header = Header {
            kid: Some(id.into()),
            ..Header::new(Algorithm::EdDSA)
        };
        let claims = serde_json::json!({ "sub": "alice", "exp": 10 });
        jsonwebtoken::encode(&header, &claims, &encoding).expect("a token")
    };
    let x = BASE64.encode(key.public_key_raw());
    let set = |id: &str| {
        let set = format!(
            r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{id}"}},
            {{"kty":"new"}}, 7, {{"kty":"RSA","use":"enc"}}, {{"kty":"RSA","alg":"RSA-OAEP"}},
            {{"kty":"oct","k":"c2VjcmV0IHRoYXQgaXMgbG9uZyBlbm91Z2ggZm9yIGl0","kid":"s"}}]}}"#
        );
        Arc::new(KeySet::served(set.as_bytes()).expect("a set"))
    };
    let wanted = Options {
        algorithms: vec!["EdDSA".into()],
        jwks_url: "http://127.0.0.1/".into(),
        ..Options::default()
    };
    assert!(!wanted.has_no_key());
    let verifier = Verifier::new(&wanted).expect("keys come later");
    let says = |verifier: &Verifier, id: &str| verifier.verify(&token(id), 9_000).err();
    assert_eq!(says(&verifier, "a"), Some(TokenError::UnknownKey));
    let a = set("a");
    assert_eq!((a.ids(), verifier.left_out(&a).len()), (vec!["a"], 5));
    assert!(verifier.can_use(&a));
    let verifier = verifier.serving(a);
    assert_eq!(says(&verifier, "a"), None);
    let verifier = verifier.serving(set("b"));
    assert_eq!(says(&verifier, "a"), Some(TokenError::UnknownKey));
    assert_eq!(says(&verifier, "b"), None);
    assert!(KeySet::served(b"[]").is_err());
    let nothing = KeySet::served(br#"{"keys":[]}"#).expect("a set");
    assert!(nothing.is_empty() && !verifier.can_use(&nothing));
    // No secret comes from there.
    let secret = Options {
        algorithms: vec!["HS256".into()],
        ..wanted
    };
    assert!(matches!(
        Verifier::new(&secret).err(),
        Some(KeyError::NoKey(..))
    ));
}

#[test]
fn a_private_key_of_any_kind_is_no_public_one() {
    use rcgen::{PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let refused = |pem: &str, algorithm| {
        let error = with_file("private.pem", pem, algorithm).err();
        let error = error.expect("a private key");
        assert!(error.contains("it has a private key"), "{error}");
    };
    for (key, algorithm) in [(rsa, "RS256"), (p384, "ES384"), (ed25519, "EdDSA")] {
        let (pkcs8, public) = (key.serialize_pem(), key.public_key_pem());
        assert!(with_file("public.pem", &public, algorithm).is_ok());
        refused(&pkcs8, algorithm);
        refused(&format!("{public}{pkcs8}"), algorithm);
        // PKCS #1, SEC 1, encrypted PKCS #8: what is in them is not looked at.
        for kind in ["RSA ", "EC ", "ENCRYPTED "] {
            let named = format!("{kind}PRIVATE KEY");
            refused(&pkcs8.replace("PRIVATE KEY", &named), algorithm);
        }
    }
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
    let error = with_file("no.pem", "nothing", "ES384").err();
    assert!(error.expect("no key").contains("public key in PEM"));
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
    let jwk = |used: &str| format!(r#"{{"keys":[{{"kty":"oct","use":"{used}","k":"{secret}"}}]}}"#);
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
