//! The published keys of an issuer (RFC 7517). Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use serde::Deserialize;
use serde_json::Value;

/// How many keys are taken from a set; issuers have a handful.
const MAX_KEYS: usize = 64;
/// How long an RSA modulus is, in bytes: below, it can be factored (RFC 7518 §3.3 asks for 2048
/// bits); above, checking a signature costs more than it should.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// One key, and the one algorithm that it is for.
pub(super) struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys of an issuer.
pub(super) struct KeySet(Vec<Key>);

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a set. Keys that are of no use here, or of a kind that is not known, are left out.
    ///
    /// # Errors
    /// When it is no set, or none of its keys is of use.
    pub(super) fn parse(document: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(document)
            .map_err(|error| format!("its keys cannot be read: {error}"))?;
        let keys: Vec<Key> = document
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value(key).ok())
            .filter_map(|jwk: Jwk| usable(&jwk))
            .take(MAX_KEYS)
            .collect();
        match keys.is_empty() {
            true => Err("it publishes no key for RS256, ES256 or EdDSA".to_owned()),
            false => Ok(Self(keys)),
        }
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the keys that may have signed a token with this header.
    pub(super) fn fitting<'a>(&'a self, header: &'a Header) -> impl Iterator<Item = &'a Key> {
        let fits = |key: &&Key| {
            let named = header.kid.is_none() || key.id == header.kid;
            named && key.algorithm == header.alg
        };
        self.0.iter().filter(fits)
    }
}

fn usable(jwk: &Jwk) -> Option<Key> {
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    let verifies = common
        .key_operations
        .as_ref()
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !signs || !verifies {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(key) => {
            let modulus = URL_SAFE_NO_PAD.decode(&key.n).ok()?;
            let length = modulus.iter().skip_while(|byte| **byte == 0).count();
            RSA_BYTES.contains(&length).then_some((Algorithm::RS256, KeyAlgorithm::RS256))?
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    // A key that says what it is for is for nothing else.
    if common.key_algorithm.is_some_and(|said| said != named) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: common.key_id.clone(), algorithm, key })
}
