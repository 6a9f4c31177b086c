//! Which key of a set a token meets, and what is said of those that none does.
#![expect(
    clippy::needless_pass_by_value,
    reason = "what `json!` makes is a value"
)]

use base64::{
    Engine,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use jsonwebtoken::jwk::Jwk;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::{Value, json};

use super::*;

/// A private key, and what a set says of its public half.
pub(super) struct Pair {
    pub(super) key: EncodingKey,
    pub(super) jwk: Value,
}

impl Pair {
    fn of(key: EncodingKey, algorithm: Algorithm) -> Self {
        let jwk = Jwk::from_encoding_key(&key, algorithm).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk.as_object_mut().expect("an object").remove("alg");
        Self { key, jwk }
    }

    pub(super) fn rsa() -> Self {
        let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).expect("a key");
        Self::of(key, Algorithm::RS256)
    }

    pub(super) fn p256() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
        Self::of(key, Algorithm::ES256)
    }

    pub(super) fn ed25519() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        Self {
            key: EncodingKey::from_ed_der(&pair.serialize_der()),
            jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": x }),
        }
    }

    /// The same key with more members.
    pub(super) fn with(&self, members: Value) -> Value {
        let mut jwk = self.jwk.clone();
        let object = jwk.as_object_mut().expect("an object");
        object.extend(members.as_object().expect("an object").clone());
        jwk
    }

    /// A token of the algorithm, whose head has these members as well.
    pub(super) fn token(&self, algorithm: Algorithm, head: Value) -> String {
        let mut whole = json!({ "alg": format!("{algorithm:?}") });
        let members = head.as_object().expect("an object").clone();
        whole.as_object_mut().expect("an object").extend(members);
        forge(
            &whole,
            &json!({ "sub": "alice", "exp": 10 }),
            algorithm,
            &self.key,
        )
    }
}

/// A token that says this, signed with the key whatever its head says.
pub(super) fn forge(
    head: &Value,
    claims: &Value,
    algorithm: Algorithm,
    key: &EncodingKey,
) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(head), part(claims));
    let signature = crypto::sign(signed.as_bytes(), key, algorithm).expect("a signature");
    format!("{signed}.{signature}")
}

fn set(keys: &[Value]) -> Arc<KeySet> {
    let set = json!({ "keys": keys }).to_string();
    Arc::new(KeySet::served(set.as_bytes()).expect("a set"))
}

fn accepting(algorithms: &[&str], keys: &[Value]) -> Verifier {
    let options = Options {
        algorithms: algorithms.iter().map(|name| (*name).into()).collect(),
        jwks_url: "http://127.0.0.1/".into(),
        ..Options::default()
    };
    Verifier::new(&options)
        .expect("keys come later")
        .serving(set(keys))
}

fn says(verifier: &Verifier, token: &str) -> Option<TokenError> {
    verifier.verify(token, 9_000).err()
}

const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];

#[test]
fn one_key_under_one_name_for_several_algorithms_serves_each_of_them() {
    use Algorithm as A;
    let (rsa, p256) = (Pair::rsa(), Pair::p256());
    let of = |alg: &str| rsa.with(json!({ "kid": "a", "alg": alg, "use": "sig" }));
    // Several kinds may share the name as well.
    let p256_jwk = p256.with(json!({ "kid": "a", "alg": "ES256" }));
    let keys = [of("RS256"), of("RS384"), p256_jwk, of("RS512")];
    let verifier = accepting(&[&RSA[..], &["ES256"]].concat(), &keys);
    for algorithm in [A::RS256, A::RS384, A::RS512] {
        let token = rsa.token(algorithm, json!({ "kid": "a" }));
        assert_eq!(says(&verifier, &token), None, "{algorithm:?}");
    }
    let token = p256.token(A::ES256, json!({ "kid": "a" }));
    assert_eq!(says(&verifier, &token), None);
    // Nobody published it for PSS.
    let token = rsa.token(A::PS256, json!({ "kid": "a" }));
    assert_eq!(says(&verifier, &token), Some(TokenError::Key));
    assert_eq!(verifier.served().expect("a set").ids(), ["a"]);
}

#[test]
fn a_token_without_a_name_is_tried_with_each_key_that_fits_and_a_name_picks_only_its_own() {
    let rsa = [Pair::rsa(), Pair::rsa()];
    let ed = Pair::ed25519();
    let named = |pair: &Pair, kid: &str| pair.with(json!({ "kid": kid }));
    let keys = [named(&rsa[0], "a"), named(&ed, "b"), named(&rsa[1], "c")];
    let verifier = accepting(&["RS256", "EdDSA"], &keys);
    for (pair, algorithm, kid) in [
        (&rsa[0], Algorithm::RS256, "a"),
        (&rsa[1], Algorithm::RS256, "c"),
        (&ed, Algorithm::EdDSA, "b"),
    ] {
        for head in [json!({}), json!({ "kid": null }), json!({ "kid": kid })] {
            assert_eq!(says(&verifier, &pair.token(algorithm, head)), None);
        }
    }
    for (kid, error) in [
        ("c", TokenError::Signature),
        ("b", TokenError::Key),
        ("#0", TokenError::UnknownKey),
        ("", TokenError::UnknownKey),
    ] {
        let token = rsa[0].token(Algorithm::RS256, json!({ "kid": kid }));
        assert_eq!(says(&verifier, &token), Some(error), "{kid}");
    }
    // A key without a name is no named token's.
    let verifier = accepting(&["RS256"], std::slice::from_ref(&rsa[0].jwk));
    let token = rsa[0].token(Algorithm::RS256, json!({ "kid": "#0" }));
    assert_eq!(says(&verifier, &token), Some(TokenError::UnknownKey));
    assert_eq!(
        says(&verifier, &rsa[0].token(Algorithm::RS256, json!({}))),
        None
    );
}

#[test]
fn a_token_is_tried_with_a_few_keys_only() {
    let pairs: Vec<Pair> = (0..=MAX_TRIED).map(|_| Pair::ed25519()).collect();
    let keys: Vec<Value> = pairs.iter().map(|pair| pair.jwk.clone()).collect();
    let verifier = accepting(&["EdDSA"], &keys);
    let token = |n: usize| pairs[n].token(Algorithm::EdDSA, json!({}));
    assert_eq!(says(&verifier, &token(MAX_TRIED - 1)), None);
    assert_eq!(
        says(&verifier, &token(MAX_TRIED)),
        Some(TokenError::Signature)
    );
}

#[test]
fn both_names_of_ed25519_are_one_for_keys_of_that_kind_alone() {
    let (ed, p256) = (Pair::ed25519(), Pair::p256());
    for setting in ["EdDSA", "Ed25519"] {
        for published in [
            json!({}),
            json!({ "alg": "EdDSA" }),
            json!({ "alg": "Ed25519" }),
        ] {
            let verifier = accepting(&[setting], &[ed.with(published)]);
            for alg in ["EdDSA", "Ed25519"] {
                let token = ed.token(Algorithm::EdDSA, json!({ "alg": alg }));
                assert_eq!(says(&verifier, &token), None, "{setting} {alg}");
            }
            let other = ed.token(Algorithm::EdDSA, json!({ "alg": "Ed448" }));
            assert_eq!(says(&verifier, &other), Some(TokenError::Algorithm));
            let confused = p256.token(Algorithm::ES256, json!({ "alg": "Ed25519" }));
            assert!(says(&verifier, &confused).is_some());
        }
    }
    let verifier = accepting(&["Ed25519"], &[p256.with(json!({ "alg": "Ed25519" }))]);
    let left_out = verifier.left_out(verifier.served().expect("a set"));
    assert!(left_out[0].contains("another kind of key"), "{left_out:?}");
    let none = Options {
        algorithms: vec!["Ed448".into()],
        ..options()
    };
    let error = Verifier::new(&none).err().expect("unknown").to_string();
    assert!(
        error.contains("Ed25519") && error.contains("\"Ed448\""),
        "{error}"
    );
}

#[test]
fn each_key_that_is_not_used_is_named_with_the_reason() {
    let (rsa, ed) = (Pair::rsa(), Pair::ed25519());
    let other = |kty: &str, crv: &str, more: Value| {
        let mut jwk = json!({ "kid": "x", "kty": kty, "crv": crv, "x": "AA", "y": "AA" });
        let members = more.as_object().expect("an object").clone();
        jwk.as_object_mut().expect("an object").extend(members);
        jwk
    };
    let long = "B".repeat(5_500);
    let cases = [
        (
            rsa.with(json!({ "kid": "x", "use": "enc" })),
            "use = \"enc\"",
        ),
        (
            rsa.with(json!({ "kid": "x", "alg": "RSA-OAEP" })),
            "alg = \"RSA-OAEP\"",
        ),
        (
            rsa.with(json!({ "kid": "x", "alg": "ES512" })),
            "alg = \"ES512\"",
        ),
        (
            rsa.with(json!({ "kid": "x", "alg": "ES256" })),
            "another kind of key",
        ),
        (
            rsa.with(json!({ "kid": "x", "key_ops": ["encrypt"] })),
            "key_ops",
        ),
        (
            rsa.with(json!({ "kid": "x", "alg": "PS256" })),
            "alg = \"PS256\") is not in auth.algorithms",
        ),
        (rsa.with(json!({ "kid": "x", "n": "AQAB" })), TOO_SHORT),
        (rsa.with(json!({ "kid": "x", "n": long })), "8192 bits"),
        (
            rsa.with(json!({ "kid": "x", "e": "AA" })),
            "e is no exponent",
        ),
        (
            rsa.with(json!({ "kid": "x", "n": "+/" })),
            "n is no base64url",
        ),
        (rsa.with(json!({ "kid": "x", "n": null })), "has no n"),
        (other("OKP", "Ed448", json!({})), "crv = \"Ed448\""),
        (
            other("OKP", "Ed448", json!({ "alg": "EdDSA" })),
            "crv = \"Ed448\"",
        ),
        (
            other("OKP", "X25519", json!({ "alg": "ECDH-ES" })),
            "alg = \"ECDH-ES\"",
        ),
        (other("OKP", "X25519", json!({})), "crv = \"X25519\""),
        (
            other("OKP", "Ed25519", json!({})),
            "length of an Ed25519 key",
        ),
        (other("EC", "secp256k1", json!({})), "crv = \"secp256k1\""),
        (other("EC", "P-521", json!({})), "crv = \"P-521\""),
        (
            other("EC", "P-256", json!({ "x": "Q".repeat(80) })),
            "x is too long",
        ),
        (
            other("AKP", "", json!({ "alg": "ML-DSA-44" })),
            "alg = \"ML-DSA-44\"",
        ),
        (other("AKP", "", json!({})), "kty = \"AKP\""),
        (
            other("oct", "", json!({})),
            "a secret that is served is none",
        ),
        (json!({ "kid": "x" }), "no kind (kty)"),
        (json!(7), "no JSON object"),
    ];
    for (jwk, reason) in cases {
        let good = ed.with(json!({ "kid": "good" }));
        let verifier = accepting(&["RS256", "EdDSA"], &[good, jwk.clone()]);
        let served = verifier.served().expect("a set");
        let left_out = verifier.left_out(served);
        assert_eq!(left_out.len(), 1, "{jwk}: {left_out:?}");
        let name = if jwk.is_object() {
            "key \"x\" "
        } else {
            "key #1 "
        };
        assert!(
            left_out[0].contains(reason) && left_out[0].contains(name),
            "{left_out:?}"
        );
        // The others are none the worse.
        let token = ed.token(Algorithm::EdDSA, json!({ "kid": "good" }));
        assert_eq!(says(&verifier, &token), None);
        assert!(
            says(
                &verifier,
                &rsa.token(Algorithm::RS256, json!({ "kid": "x" }))
            )
            .is_some()
        );
    }
    let many: Vec<Value> = (0..100).map(|_| json!({ "kty": "new" })).collect();
    let verifier = accepting(&["RS256"], &many);
    let left_out = verifier.left_out(verifier.served().expect("a set"));
    assert_eq!(left_out.len(), 21);
    assert!(left_out[20].starts_with("80 more"), "{}", left_out[20]);
}

#[test]
fn a_document_that_is_no_key_set_is_called_what_it_is() {
    for (document, part) in [
        (
            json!({ "issuer": "https://i", "jwks_uri": "https://i/keys" }),
            "its jwks_uri: \"https://i/keys\"",
        ),
        (Pair::rsa().with(json!({})), "a key by itself"),
        (json!([]), "no list of keys"),
        (json!({ "keys": {} }), "no list of keys"),
    ] {
        let document = document.to_string();
        let error = KeySet::served(document.as_bytes()).err().expect("no set");
        assert!(error.contains(part), "{document}: {error}");
    }
}

#[test]
fn an_algorithm_without_a_key_in_the_file_is_told_with_the_keys_that_are_none() {
    let jwk = Pair::rsa().with(json!({ "kid": "x", "use": "enc" }));
    let set = json!({ "keys": [jwk] }).to_string();
    let error = with_file("no-use.json", &set, "RS256")
        .err()
        .expect("no key");
    for part in [
        "auth.algorithms: RS256",
        r#"auth.jwks_file: its key "x" is not used"#,
        r#"use = "enc""#,
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn numbers_with_zeros_too_many_or_too_few_and_padded_ones_are_what_was_meant() {
    let bytes = |value: &Value| {
        URL_SAFE_NO_PAD
            .decode(value.as_str().expect("text"))
            .expect("base64")
    };
    let rsa = Pair::rsa();
    let zero = [&[0][..], &bytes(&rsa.jwk["n"])].concat();
    let verifier = accepting(
        &["RS256"],
        &[rsa.with(json!({ "n": URL_SAFE.encode(zero) }))],
    );
    assert_eq!(
        says(&verifier, &rsa.token(Algorithm::RS256, json!({}))),
        None
    );
    // One coordinate in 128 begins with a zero.
    let (p256, x) = (0..5_000)
        .map(|_| Pair::p256())
        .find_map(|pair| {
            let x = bytes(&pair.jwk["x"]);
            (x[0] == 0).then(|| (pair, x[1..].to_vec()))
        })
        .expect("one of many");
    let verifier = accepting(
        &["ES256"],
        &[p256.with(json!({ "x": URL_SAFE_NO_PAD.encode(x) }))],
    );
    assert_eq!(
        says(&verifier, &p256.token(Algorithm::ES256, json!({}))),
        None
    );
}

#[test]
fn a_set_with_a_byte_order_mark_is_one_and_the_order_of_its_keys_changes_nothing() {
    let (a, b) = (Pair::ed25519(), Pair::ed25519());
    let marked = format!("\u{feff}{}", json!({ "keys": [a.jwk] }));
    assert_eq!(KeySet::served(marked.as_bytes()).expect("a set").len(), 1);
    let (a, b) = (a.with(json!({ "kid": "k" })), b.with(json!({ "kid": "k" })));
    let both = set(&[a.clone(), b.clone()]);
    assert!(both.has_the_keys_of(&set(&[b.clone(), a.clone()])));
    assert!(!both.has_the_keys_of(&set(&[a.clone(), a.clone()])));
    assert!(!set(&[a]).has_the_keys_of(&set(&[b])), "under one name");
}

#[test]
fn only_a_token_that_is_good_but_for_its_key_may_be_newer_than_the_set() {
    let (known, newer) = (Pair::ed25519(), Pair::ed25519());
    let options = Options {
        algorithms: vec!["EdDSA".into(), "HS256".into()],
        jwks_url: "http://127.0.0.1/".into(),
        issuers: vec!["us".into()],
        ..options()
    };
    let verifier = Verifier::new(&options).expect("a secret");
    let verifier = verifier.serving(set(&[known.with(json!({ "kid": "k" }))]));
    let newer = |head: Value, claims: Value| {
        verifier.check(&forge(&head, &claims, Algorithm::EdDSA, &newer.key), 9_000)
    };
    let fine = json!({ "sub": "alice", "exp": 10, "iss": "us" });
    for (kid, error) in [("k", TokenError::Signature), ("l", TokenError::UnknownKey)] {
        let refused = newer(json!({ "alg": "EdDSA", "kid": kid }), fine.clone());
        let refused = refused.expect_err("not the key");
        assert_eq!(
            (refused.error, refused.may_be_newer),
            (error, true),
            "{kid}"
        );
    }
    for claims in [
        json!({ "sub": "alice", "exp": 8, "iss": "us" }),
        json!({ "sub": "alice", "exp": 10, "iss": "them" }),
        json!({ "sub": "", "exp": 10, "iss": "us" }),
        json!([]),
    ] {
        let refused = newer(json!({ "alg": "EdDSA", "kid": "l" }), claims.clone());
        assert!(!refused.expect_err("not the key").may_be_newer, "{claims}");
    }
    // No secret is served.
    let secret = EncodingKey::from_secret(&[7; 32]).expect("a secret");
    let head = json!({ "alg": "HS256", "kid": "l" });
    let refused = verifier.check(&forge(&head, &fine, Algorithm::HS256, &secret), 9_000);
    let refused = refused.expect_err("another secret");
    assert_eq!(
        (refused.error, refused.may_be_newer),
        (TokenError::Signature, false)
    );
}
