//! The agent's identity: an Ed25519 key, known by its RFC 7638 thumbprint.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::{
    DecodePrivateKey as _, EncodePrivateKey as _, spki::der::pem::LineEnding,
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The private key that an agent makes once and signs its assertions with.
#[derive(Clone)]
pub struct AgentKey(SigningKey);

/// The error of a key file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the agent key is not an Ed25519 private key in PKCS#8 PEM form")]
pub struct KeyError(#[source] ed25519_dalek::pkcs8::Error);

impl AgentKey {
    /// Makes a new key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(seed.as_mut()).expect("the system gives randomness");
        Self(SigningKey::from_bytes(&seed))
    }

    /// Reads a key that [`AgentKey::to_pem`] wrote.
    ///
    /// # Errors
    /// When the text is not such a key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(KeyError)
    }

    /// Writes the key as PKCS#8 PEM, for a file of mode 0600.
    ///
    /// # Panics
    /// Never: an Ed25519 key always has a PKCS#8 form.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key has a PKCS#8 form")
    }

    /// Writes the key as PKCS#8 DER, for the signer.
    pub(crate) fn to_der(&self) -> Zeroizing<Vec<u8>> {
        self.0.to_pkcs8_der().expect("an Ed25519 key has a PKCS#8 form").to_bytes()
    }

    /// Returns the public key as the `x` of a JWK (RFC 8037 §2).
    #[must_use]
    pub fn public_x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.verifying_key().as_bytes())
    }

    /// Returns the RFC 7638 thumbprint of the public key: 43 characters of base64url.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        thumbprint(&self.public_x())
    }
}

impl std::fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AgentKey({})", self.thumbprint())
    }
}

/// Returns the RFC 7638 thumbprint of the Ed25519 key with this `x` (members by RFC 8037 §2).
#[must_use]
pub fn thumbprint(x: &str) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_8037() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        assert_eq!(thumbprint(x), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = AgentKey::generate();
        let again = AgentKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.thumbprint(), again.thumbprint());
        assert!(AgentKey::from_pem("-----BEGIN NONSENSE-----").is_err());
    }
}
