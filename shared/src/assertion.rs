//! The assertion: a JWT by which an agent proves that it holds its key, and what else it may show.
//!
//! Header `{"alg":"EdDSA","typ":"mcpm-agent+jwt","jwk":{…}}`; claims `iss` = `sub` = thumbprint of
//! the `jwk`, `aud` = the relay's origin, `jti`, `iat`, `exp` at most 60 s later, and by mode `sec`
//! (an HMAC with the shared secret) or `tok` (a token of the relay or of an identity provider).
//! Pure: the clock is an argument; whether a `jti` came before is the relay's to know.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, OctetKeyPairParameters};
use jsonwebtoken::jwk::{CommonParameters, OctetKeyPairType};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::identity::{AgentKey, thumbprint};
use crate::token::Token;

/// The `typ` of an assertion's header.
pub const ASSERTION_TYPE: &str = "mcpm-agent+jwt";
/// How long an assertion is good for, in seconds.
pub const LIFETIME_SECS: u64 = 60;
/// How far the two clocks may be apart, in seconds.
pub const LEEWAY_SECS: u64 = 30;
/// The longest assertion that is looked at, in bytes: headers are bounded before they are parsed.
pub const MAX_LEN: usize = 8 * 1024;

/// What an agent shows beside its key.
#[derive(Clone, Debug, Default)]
pub enum Proof {
    /// Nothing: relays in `open` mode ask for no more.
    #[default]
    None,
    /// The team's shared secret; only an HMAC made with it travels.
    Secret(Token),
    /// A token that the relay issued.
    Token(Token),
}

/// A verified assertion.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Thumbprint of the agent's key.
    pub subject: String,
    /// The id that may be used once.
    pub jti: String,
    /// When it was made, in Unix seconds.
    pub issued_at: u64,
    /// When it stops being good, in Unix seconds.
    pub expires_at: u64,
    /// The relay origin that it was made for.
    pub audience: String,
    /// The claim `sec`.
    pub secret_mac: Option<String>,
    /// The claim `tok`.
    pub token: Option<Token>,
}

/// Why an assertion was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssertionError {
    /// It is not a JWT of the shape above, or its signature does not hold.
    #[error("the agent's assertion is not valid: {0}")]
    Invalid(&'static str),
    /// The signer failed.
    #[error("the assertion could not be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
    /// It was made for another relay.
    #[error("the agent's assertion was made for another relay: `{0}`")]
    Audience(String),
    /// It is from the past or the future.
    #[error("the agent's clock is {ahead_secs} seconds ahead of the relay's")]
    ClockSkew {
        /// Positive when the agent's clock is ahead of the relay's, negative when behind.
        ahead_secs: i64,
    },
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    jti: String,
    iat: u64,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sec: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tok: Option<String>,
}

/// Signs an assertion for the relay at origin `audience`, good from `now` (Unix seconds) on.
///
/// # Errors
/// When the signer refuses the key, which an [`AgentKey`] gives no cause for.
pub fn sign(
    key: &AgentKey,
    audience: &str,
    proof: &Proof,
    now: u64,
) -> Result<String, AssertionError> {
    let subject = key.thumbprint();
    let jti = Token::generate().expose().to_owned();
    let (sec, tok) = match proof {
        Proof::None => (None, None),
        Proof::Secret(secret) => (Some(secret_mac(secret, &jti, &subject, audience)), None),
        Proof::Token(token) => (None, Some(token.expose().to_owned())),
    };
    let claims = Claims {
        iss: subject.clone(),
        sub: subject,
        aud: audience.to_owned(),
        jti,
        iat: now,
        exp: now + LIFETIME_SECS,
        sec,
        tok,
    };
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(ASSERTION_TYPE.to_owned());
    header.jwk = Some(public_jwk(key.public_x()));
    let signer = EncodingKey::from_ed_der(&key.to_der());
    jsonwebtoken::encode(&header, &claims, &signer).map_err(AssertionError::Sign)
}

fn public_jwk(x: String) -> Jwk {
    Jwk {
        common: CommonParameters::default(),
        algorithm: AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            key_type: OctetKeyPairType::OctetKeyPair,
            curve: EllipticCurve::Ed25519,
            x,
        }),
    }
}

/// Verifies an assertion that must be meant for one of the relay's origins in `audience`.
///
/// # Errors
/// Says what is wrong; never panics, whatever the text.
pub fn verify(jwt: &str, audience: &[String], now: u64) -> Result<Verified, AssertionError> {
    if jwt.len() > MAX_LEN {
        return Err(AssertionError::Invalid("it is too long"));
    }
    let header =
        jsonwebtoken::decode_header(jwt).map_err(|_| AssertionError::Invalid("not a JWT"))?;
    if header.typ.as_deref() != Some(ASSERTION_TYPE) || header.alg != Algorithm::EdDSA {
        return Err(AssertionError::Invalid("not of type mcpm-agent+jwt with EdDSA"));
    }
    let x = match header.jwk.map(|jwk| jwk.algorithm) {
        Some(AlgorithmParameters::OctetKeyPair(key)) if key.curve == EllipticCurve::Ed25519 => {
            key.x
        }
        _ => return Err(AssertionError::Invalid("no Ed25519 key in its header")),
    };
    let claims = checked_claims(jwt, &x)?;
    check_clock(&claims, now)?;
    if !audience.contains(&claims.aud) {
        return Err(AssertionError::Audience(claims.aud));
    }
    Ok(Verified {
        subject: claims.sub,
        jti: claims.jti,
        issued_at: claims.iat,
        expires_at: claims.exp,
        audience: claims.aud,
        secret_mac: claims.sec,
        token: claims.tok.map(Token::new),
    })
}

/// Checks the signature with the key of the header, and that the claims speak of that key.
fn checked_claims(jwt: &str, x: &str) -> Result<Claims, AssertionError> {
    let invalid = AssertionError::Invalid;
    let canonical = URL_SAFE_NO_PAD.decode(x).ok().filter(|bytes| bytes.len() == 32);
    if canonical.is_none_or(|bytes| URL_SAFE_NO_PAD.encode(bytes) != x) {
        return Err(invalid("the key in its header is malformed"));
    }
    let key = DecodingKey::from_ed_components(x)
        .map_err(|_| invalid("the key in its header is malformed"))?;
    let mut rules = Validation::new(Algorithm::EdDSA);
    // Audience and clock are checked by our own rules, which say more.
    rules.validate_aud = false;
    rules.validate_exp = false;
    rules.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    let claims = jsonwebtoken::decode::<Claims>(jwt, &key, &rules)
        .map_err(|_| invalid("its signature does not hold"))?
        .claims;
    if claims.sub != claims.iss || claims.sub != thumbprint(x) {
        return Err(invalid("its subject is not the key that signed it"));
    }
    if claims.jti.is_empty() || claims.jti.len() > 128 {
        return Err(invalid("its jti has no usable length"));
    }
    Ok(claims)
}

fn check_clock(claims: &Claims, now: u64) -> Result<(), AssertionError> {
    let ahead_secs = i64::try_from(i128::from(claims.iat) - i128::from(now)).unwrap_or(i64::MAX);
    if claims.exp < claims.iat || claims.exp - claims.iat > LIFETIME_SECS {
        return Err(AssertionError::Invalid("it lives longer than 60 seconds"));
    }
    let early = claims.iat > now.saturating_add(LEEWAY_SECS);
    let late = claims.exp.saturating_add(LEEWAY_SECS) < now;
    if early || late { Err(AssertionError::ClockSkew { ahead_secs }) } else { Ok(()) }
}

/// Returns the claim `sec`: HMAC-SHA256 keyed with the shared secret over `jti ‖ sub ‖ aud`,
/// base64url. The parts have fixed meaning and `jti` and `sub` fixed length, so no separator.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn secret_mac(secret: &Token, jti: &str, subject: &str, audience: &str) -> String {
    URL_SAFE_NO_PAD.encode(mac(secret, jti, subject, audience).finalize().into_bytes())
}

/// Tells in constant time whether the claim `sec` of an assertion was made with `secret`.
#[must_use]
pub fn secret_mac_matches(secret: &Token, verified: &Verified) -> bool {
    let Some(presented) = &verified.secret_mac else { return false };
    let Ok(presented) = URL_SAFE_NO_PAD.decode(presented) else { return false };
    mac(secret, &verified.jti, &verified.subject, &verified.audience)
        .verify_slice(&presented)
        .is_ok()
}

fn mac(secret: &Token, jti: &str, subject: &str, audience: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of any length");
    for part in [jti, subject, audience] {
        mac.update(part.as_bytes());
    }
    mac
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RELAY: &str = "https://relay.example";

    fn signed(proof: &Proof, now: u64) -> String {
        sign(&AgentKey::generate(), RELAY, proof, now).unwrap()
    }

    fn origins() -> Vec<String> {
        vec![RELAY.to_owned()]
    }

    #[test]
    fn an_assertion_names_the_key_that_signed_it() {
        let key = AgentKey::generate();
        let jwt = sign(&key, RELAY, &Proof::None, 1_000).unwrap();
        let verified = verify(&jwt, &origins(), 1_010).unwrap();
        assert_eq!(verified.subject, key.thumbprint());
        assert_eq!((verified.issued_at, verified.expires_at), (1_000, 1_060));
    }

    #[test]
    fn the_secret_proves_itself_without_travelling() {
        let secret = Token::new("team secret");
        let jwt = signed(&Proof::Secret(secret.clone()), 5);
        let verified = verify(&jwt, &origins(), 5).unwrap();
        assert!(secret_mac_matches(&secret, &verified));
        assert!(!secret_mac_matches(&Token::new("other"), &verified));
        let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap();
        assert!(!String::from_utf8(payload).unwrap().contains("team secret"));
    }

    #[test]
    fn clocks_that_differ_too_much_are_told_apart_from_bad_credentials() {
        let jwt = signed(&Proof::None, 10_000);
        assert!(verify(&jwt, &origins(), 10_000 + 90).is_ok());
        assert!(verify(&jwt, &origins(), 10_000 - 30).is_ok());
        for now in [10_091, 9_969, 0, u64::MAX] {
            let error = verify(&jwt, &origins(), now).unwrap_err();
            assert!(matches!(error, AssertionError::ClockSkew { .. }), "{now}: {error}");
        }
    }

    #[test]
    fn another_relays_assertion_is_refused() {
        let jwt = signed(&Proof::None, 1);
        let error = verify(&jwt, &["https://other.example".to_owned()], 1).unwrap_err();
        assert!(matches!(error, AssertionError::Audience(_)));
    }

    #[test]
    fn a_changed_assertion_does_not_verify() {
        let jwt = signed(&Proof::None, 1);
        let mut parts: Vec<String> = jwt.split('.').map(str::to_owned).collect();
        let claims = URL_SAFE_NO_PAD.decode(&parts[1]).unwrap();
        let claims = String::from_utf8(claims).unwrap().replace(RELAY, "https://rel4y.example");
        parts[1] = URL_SAFE_NO_PAD.encode(claims);
        let error = verify(&parts.join("."), &["https://rel4y.example".to_owned()], 1).unwrap_err();
        assert!(matches!(error, AssertionError::Invalid(_)));
    }

    proptest! {
        #[test]
        fn no_text_makes_verify_panic(text in "[A-Za-z0-9_.-]{0,400}", now: u64) {
            prop_assert!(verify(&text, &origins(), now).is_err());
        }
    }
}
