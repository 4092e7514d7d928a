//! Credentials for relays: `relays.json`, from `mcpm relay login`.

use std::path::PathBuf;

use indexmap::IndexMap;
use mcpm_shared::assertion::Proof;
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::CredentialError;
use crate::fs::{self, Paths};

/// What we show one relay, and what we expect of it.
#[derive(Clone, Debug, Default)]
pub struct RelayCredential {
    /// The proof that the relay asks for.
    pub proof: Proof,
    /// A file of certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// SHA-256 of the certificate that the relay must show.
    pub fingerprint: Option<String>,
}

/// All credentials for relays, by the origin of the relay.
#[derive(Debug)]
pub struct RelayStore {
    paths: Paths,
    relays: IndexMap<String, RelayCredential>,
}

impl RelayStore {
    /// Reads the file; a missing one has no credentials.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn open(paths: &Paths) -> Result<Self, CredentialError> {
        let stored: Stored = fs::read_json(&paths.relays())?.unwrap_or_default();
        let relays = stored.into_iter().map(|(origin, entry)| (origin, entry.into())).collect();
        Ok(Self { paths: paths.clone(), relays })
    }

    /// Returns the credential for the relay at `origin`.
    #[must_use]
    pub fn get(&self, origin: &str) -> Option<&RelayCredential> {
        self.relays.get(origin)
    }

    /// Iterates over origins and credentials.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RelayCredential)> {
        self.relays.iter().map(|(origin, credential)| (origin.as_str(), credential))
    }

    /// Keeps a credential, in place of an older one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn login(
        &mut self,
        origin: &str,
        credential: RelayCredential,
    ) -> Result<(), CredentialError> {
        self.edit(|relays| {
            relays.insert(origin.to_owned(), credential);
            Ok(())
        })
    }

    /// Forgets a credential.
    ///
    /// # Errors
    /// When there is none or the file cannot be written.
    pub fn logout(&mut self, origin: &str) -> Result<(), CredentialError> {
        self.edit(|relays| match relays.shift_remove(origin) {
            Some(_) => Ok(()),
            None => Err(CredentialError::UnknownRelay(origin.to_owned())),
        })
    }

    fn edit(
        &mut self,
        change: impl FnOnce(&mut IndexMap<String, RelayCredential>) -> Result<(), CredentialError>,
    ) -> Result<(), CredentialError> {
        let path = self.paths.relays();
        let _lock = fs::lock(&path)?;
        let mut relays = Self::open(&self.paths)?.relays;
        change(&mut relays)?;
        let stored: Stored =
            relays.iter().map(|(origin, entry)| (origin.clone(), entry.into())).collect();
        fs::write_json(&path, &stored)?;
        self.relays = relays;
        Ok(())
    }
}

type Stored = IndexMap<String, StoredRelay>;

/// One entry as it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRelay {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    None,
    Secret,
    Token,
}

impl From<StoredRelay> for RelayCredential {
    fn from(StoredRelay { kind, value, ca, fingerprint }: StoredRelay) -> Self {
        let proof = match (kind, value) {
            (Kind::Secret, Some(value)) => Proof::Secret(Token::new(value)),
            (Kind::Token, Some(value)) => Proof::Token(Token::new(value)),
            _ => Proof::None,
        };
        Self { proof, ca, fingerprint }
    }
}

impl From<&RelayCredential> for StoredRelay {
    fn from(RelayCredential { proof, ca, fingerprint }: &RelayCredential) -> Self {
        let (kind, value) = match proof {
            Proof::None => (Kind::None, None),
            Proof::Secret(secret) => (Kind::Secret, Some(secret)),
            Proof::Token(token) => (Kind::Token, Some(token)),
        };
        let value = value.map(|value| value.expose().to_owned());
        Self { kind, value, ca: ca.clone(), fingerprint: fingerprint.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_kept_and_a_logout_forgets_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut store = RelayStore::open(&paths).unwrap();
        let credential = RelayCredential {
            proof: Proof::Secret(Token::new("s3cret")),
            ca: Some("/etc/team.pem".into()),
            fingerprint: None,
        };
        store.login("https://relay.example", credential).unwrap();
        let again = RelayStore::open(&paths).unwrap();
        let kept = again.get("https://relay.example").unwrap();
        assert!(matches!(&kept.proof, Proof::Secret(secret) if secret.expose() == "s3cret"));
        assert!(!format!("{again:?}").contains("s3cret"));
        store.logout("https://relay.example").unwrap();
        assert_eq!(RelayStore::open(&paths).unwrap().iter().count(), 0);
        assert!(matches!(
            store.logout("https://relay.example"),
            Err(CredentialError::UnknownRelay(_))
        ));
    }

    #[test]
    fn a_faulty_file_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        std::fs::write(paths.relays(), r#"{"https://r":{"kind":"future"}}"#).unwrap();
        assert!(RelayStore::open(&paths).is_err());
        assert!(paths.relays().exists());
    }
}
