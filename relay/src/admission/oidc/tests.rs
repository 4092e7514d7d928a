//! An issuer that a test is: real signatures, documents from memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex as StdMutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use mcpm_shared::token::Token;
use serde_json::json;

use super::*;

const ISSUER: &str = "https://idp.example/realm";
const NOW: u64 = 1_800_000_000;
/// An RSA key for these tests alone: making one takes seconds.
const RSA: &str = include_str!("rsa_for_tests.b64");

/// What the issuer serves.
#[derive(Debug, Default)]
struct Documents {
    served: StdMutex<HashMap<String, String>>,
    away: AtomicBool,
    asked: AtomicU32,
}

#[async_trait]
impl Fetch for Documents {
    async fn get(&self, url: &str) -> Result<Bytes, BoxError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err("gone".into());
        }
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(url).map(|text| Bytes::from(text.clone())).ok_or_else(|| "404".into())
    }
}

/// A key that signs.
struct Signer {
    id: Option<&'static str>,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn ed25519(id: &'static str) -> Self {
        // PKCS #8 of a seed (RFC 8410 §7).
        let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        der.extend(URL_SAFE_NO_PAD.decode(Token::generate().expose()).unwrap());
        let key = EncodingKey::from_ed_der(&der);
        Self { id: Some(id), algorithm: Algorithm::EdDSA, key }
    }

    fn p256(id: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        Self { id: Some(id), algorithm: Algorithm::ES256, key }
    }

    fn rsa(id: &'static str) -> Self {
        let der = STANDARD.decode(RSA.replace('\n', "")).unwrap();
        let key = EncodingKey::from_rsa_der(&der);
        Self { id: Some(id), algorithm: Algorithm::RS256, key }
    }

    fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["use"] = json!("sig");
        if let Some(id) = self.id {
            jwk["kid"] = json!(id);
        }
        jwk
    }

    fn sign(&self, changes: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.id.map(str::to_owned);
        self.sign_as(&header, changes)
    }

    fn sign_as(&self, header: &Header, changes: &Value) -> String {
        let mut claims = json!({ "iss": ISSUER, "aud": "mcpm", "sub": "ada", "exp": NOW + 60 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        jsonwebtoken::encode(header, &claims, &self.key).unwrap()
    }
}

struct Bench {
    issuer: Issuer,
    documents: Arc<Documents>,
}

impl Bench {
    fn new() -> Self {
        let documents = Arc::new(Documents::default());
        let settings = Oidc {
            issuer: ISSUER.to_owned(),
            audiences: vec!["mcpm".to_owned()],
            owner_claim: "sub".to_owned(),
            names_claim: None,
            require: Vec::new(),
            ca: None,
        };
        let fetch = Arc::clone(&documents) as Arc<dyn Fetch>;
        let way = Some(Way { trust: Trust::System, fetch });
        let bench = Self { issuer: Issuer::by(Arc::new(settings), way), documents };
        let found = json!({ "issuer": ISSUER, "jwks_uri": "https://idp.example/keys" });
        bench.serve(&format!("{ISSUER}/.well-known/openid-configuration"), &found);
        bench
    }

    fn serve(&self, url: &str, document: &Value) {
        let mut served = self.documents.served.lock().unwrap();
        served.insert(url.to_owned(), document.to_string());
    }

    /// Publishes these keys, beside some that are of no use.
    fn publish(&self, signers: &[&Signer]) {
        let mut keys: Vec<Value> = signers.iter().map(|signer| signer.public()).collect();
        keys.push(json!({ "kty": "post-quantum", "kid": "future", "x": 1 }));
        keys.push(json!({ "kty": "EC", "crv": "P-521", "kid": "large", "x": "AA", "y": "AA" }));
        self.serve("https://idp.example/keys", &json!({ "keys": keys }));
    }

    async fn identify(&self, jwt: &str) -> Result<Identity, OidcError> {
        self.issuer.identify(jwt, "thumb", NOW).await
    }

    /// Shows a token that does not do, and returns what is said.
    async fn refused(&self, jwt: &str) -> String {
        self.identify(jwt).await.unwrap_err().to_string()
    }

    fn asked(&self) -> u32 {
        // Discovery and keys go together.
        self.documents.asked.load(Ordering::Relaxed) / 2
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_the_three_algorithms_is_believed() {
    let bench = Bench::new();
    let signers = [Signer::ed25519("a"), Signer::p256("b"), Signer::rsa("c")];
    bench.publish(&signers.each_ref());
    for signer in &signers {
        let found = bench.identify(&signer.sign(&json!({}))).await.unwrap();
        assert_eq!(found.subject, "ada", "{:?}", signer.algorithm);
    }
    assert_eq!(bench.asked(), 1, "the keys are kept");
    let foreign = bench.refused(&signers[0].sign(&json!({ "aud": "other" }))).await;
    assert!(foreign.contains("audience"), "{foreign}");
}

#[tokio::test(start_paused = true)]
async fn a_signature_by_anything_else_is_refused() {
    let bench = Bench::new();
    let (good, evil) = (Signer::p256("a"), Signer::p256("a"));
    bench.publish(&[&good]);
    bench.identify(&good.sign(&json!({}))).await.unwrap();
    let told = bench.refused(&evil.sign(&json!({}))).await;
    assert!(told.contains("signature"), "{told}");
    // The public key as the secret of an HMAC (RFC 8725 §2.1).
    let public = serde_json::to_vec(&good.public()).unwrap();
    let confused = Signer {
        id: Some("a"),
        algorithm: Algorithm::HS256,
        key: EncodingKey::from_secret(&public),
    };
    assert!(bench.refused(&confused.sign(&json!({}))).await.contains("algorithm"));
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let claims = good.sign(&json!({})).split('.').nth(1).unwrap().to_owned();
    assert!(bench.refused(&format!("{none}.{claims}.")).await.contains("no JWT"));
    // Another algorithm than the key's.
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("a".to_owned());
    let other = Signer::ed25519("a").sign_as(&header, &json!({}));
    assert!(bench.identify(&other).await.is_err());
    let mut critical = Header::new(Algorithm::ES256);
    critical.crit = Some(vec!["b64".to_owned()]);
    assert!(bench.refused(&good.sign_as(&critical, &json!({}))).await.contains("critical"));
    assert!(bench.refused("x").await.contains("no JWT"));
}

#[tokio::test(start_paused = true)]
async fn a_new_key_is_found_at_once_and_made_up_ones_are_looked_for_rarely() {
    let bench = Bench::new();
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    bench.publish(&[&old]);
    bench.identify(&old.sign(&json!({}))).await.unwrap();
    tokio::time::advance(LOOK_PAUSE).await;
    bench.publish(&[&new]);
    bench.identify(&new.sign(&json!({}))).await.unwrap();
    assert_eq!(bench.asked(), 2);
    // The key that was withdrawn is known no more, and a flood of names asks the issuer nothing.
    for _ in 0..50 {
        let error = bench.identify(&old.sign(&json!({}))).await.unwrap_err();
        assert!(matches!(error, OidcError::Later(wait) if wait <= LOOK_PAUSE), "{error}");
    }
    assert_eq!(bench.asked(), 2);
    tokio::time::advance(LOOK_PAUSE).await;
    let told = bench.refused(&old.sign(&json!({}))).await;
    assert!(told.contains("no key of the issuer"), "{told}");
    assert_eq!(bench.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_whose_keys_carry_no_ids_rotates_them_too() {
    let bench = Bench::new();
    let nameless = || Signer { id: None, ..Signer::ed25519("") };
    let (old, new) = (nameless(), nameless());
    bench.publish(&[&old]);
    bench.identify(&old.sign(&json!({}))).await.unwrap();
    bench.publish(&[&old, &new]);
    tokio::time::advance(LOOK_PAUSE).await;
    bench.identify(&new.sign(&json!({}))).await.unwrap();
    bench.identify(&old.sign(&json!({}))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_comes_in_before_the_keys_were_read_and_all_may_while_the_issuer_is_away() {
    let bench = Bench::new();
    let signer = Signer::ed25519("a");
    bench.publish(&[&signer]);
    bench.documents.away.store(true, Ordering::Relaxed);
    let token = signer.sign(&json!({}));
    for _ in 0..3 {
        assert!(matches!(bench.identify(&token).await.unwrap_err(), OidcError::NoKeys));
    }
    bench.documents.away.store(false, Ordering::Relaxed);
    tokio::time::advance(LOOK_PAUSE).await;
    bench.identify(&token).await.unwrap();
    bench.documents.away.store(true, Ordering::Relaxed);
    tokio::select! {
        () = bench.issuer.follow() => unreachable!("it follows for ever"),
        () = tokio::time::sleep(REFRESH * 3) => {}
    }
    bench.identify(&token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_keys_are_read_from_time_to_time() {
    let bench = Bench::new();
    let (old, new) = (Signer::ed25519("a"), Signer::ed25519("b"));
    bench.publish(&[&old]);
    let withdrawn = async {
        bench.identify(&old.sign(&json!({}))).await.unwrap();
        bench.publish(&[&new]);
        tokio::time::sleep(REFRESH + LOOK_PAUSE).await;
        assert!(bench.identify(&old.sign(&json!({}))).await.is_err());
        bench.identify(&new.sign(&json!({}))).await.unwrap();
    };
    tokio::select! {
        biased;
        () = bench.issuer.follow() => unreachable!("it follows for ever"),
        () = withdrawn => {}
    }
}

#[tokio::test(start_paused = true)]
async fn documents_of_another_issuer_are_not_believed() {
    let signer = Signer::ed25519("a");
    let token = signer.sign(&json!({}));
    let discovery = format!("{ISSUER}/.well-known/openid-configuration");
    for document in [
        json!({ "issuer": "https://evil.example", "jwks_uri": "https://idp.example/keys" }),
        json!({ "issuer": ISSUER, "jwks_uri": "http://idp.example/keys" }),
        json!({ "issuer": ISSUER }),
    ] {
        let bench = Bench::new();
        bench.publish(&[&signer]);
        bench.serve("http://idp.example/keys", &json!({ "keys": [signer.public()] }));
        bench.serve(&discovery, &document);
        assert!(matches!(bench.identify(&token).await, Err(OidcError::NoKeys)), "{document}");
    }
}

#[test]
fn keys_that_are_weak_or_for_something_else_are_left_out() {
    let of = |change: &dyn Fn(&mut Value)| {
        let mut key = Signer::p256("a").public();
        change(&mut key);
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).is_ok()
    };
    assert!(of(&|_| ()));
    assert!(!of(&|key| key["use"] = json!("enc")));
    assert!(!of(&|key| key["alg"] = json!("ES384")));
    assert!(!of(&|key| key["key_ops"] = json!(["sign"])));
    let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
    let weak = json!({ "keys": [{ "kty": "RSA", "n": short, "e": "AQAB" }] });
    assert!(KeySet::parse(weak.to_string().as_bytes()).is_err());
    assert!(KeySet::parse(b"[]").is_err() && KeySet::parse(b"{\"keys\":[]}").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_no_root_asks_the_issuer_nothing() {
    let bench = Bench::new();
    let signer = Signer::ed25519("a");
    bench.publish(&[&signer]);
    let reloaded = async {
        bench.identify(&signer.sign(&json!({}))).await.unwrap();
        let mut settings = Oidc::clone(&bench.issuer.settings.load());
        settings.audiences = vec!["other".to_owned()];
        bench.issuer.obey(bench.issuer.prepare(Arc::new(settings)).unwrap());
        tokio::time::sleep(LOOK_PAUSE).await;
        bench.identify(&signer.sign(&json!({ "aud": "other" }))).await.unwrap();
        assert_eq!(bench.asked(), 1);
    };
    tokio::select! {
        biased;
        () = bench.issuer.follow() => unreachable!("it follows for ever"),
        () = reloaded => {}
    }
}

#[cfg(feature = "oidc")]
#[test]
fn a_root_is_read_before_anything_changes_and_taken_where_it_is_another() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let path = dir.path().join("root.pem");
    let mut settings = Oidc::clone(&bench.issuer.settings.load());
    settings.ca = Some(path.clone());
    let settings = Arc::new(settings);
    let prepare = || bench.issuer.prepare(Arc::clone(&settings));
    let wrong = ["", "no root", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"];
    assert!(prepare().is_err(), "there is none");
    for text in wrong {
        std::fs::write(&path, text).unwrap();
        let error = prepare().unwrap_err().to_string();
        assert!(error.contains("root.pem"), "{error}");
    }
    let root = || rcgen::generate_simple_self_signed(vec!["idp".to_owned()]).unwrap().cert.pem();
    for _ in 0..2 {
        std::fs::write(&path, root()).unwrap();
        let prepared = prepare().unwrap();
        assert!(prepared.way.is_some());
        bench.issuer.obey(prepared);
        assert!(prepare().unwrap().way.is_none(), "it is the same");
    }
}

#[cfg(feature = "oidc")]
#[tokio::test]
async fn a_root_that_was_missing_at_start_is_taken_once_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.pem");
    let mut settings = Oidc::clone(&Bench::new().issuer.settings.load());
    settings.ca = Some(path.clone());
    // Where nobody answers.
    settings.issuer = "http://127.0.0.1:1/realm".to_owned();
    let issuer = Issuer::new(Arc::new(settings));
    for _ in 0..2 {
        let error = issuer.read().await.unwrap_err();
        assert!(error.contains("root.pem"), "{error}");
    }
    let root = rcgen::generate_simple_self_signed(vec!["idp".to_owned()]).unwrap();
    std::fs::write(&path, root.cert.pem()).unwrap();
    let error = issuer.read().await.unwrap_err();
    assert!(!error.contains("root.pem"), "the issuer was not asked: {error}");
    let way = issuer.way.load_full().unwrap();
    assert!(issuer.read().await.is_err());
    assert!(Arc::ptr_eq(&way, &issuer.way.load_full().unwrap()), "it is kept");
}
