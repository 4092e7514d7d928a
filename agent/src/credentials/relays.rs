//! Credentials for relays: `relays.json`, from `mcpm relay login`.

use std::fmt;
use std::path::PathBuf;

use indexmap::IndexMap;
use mcpm_shared::assertion::Proof;
use mcpm_shared::token::Token;
use serde::{Deserialize, Serialize};

use super::{CredentialError, ProofSource, TokenCommand};
use crate::fs::{self, Paths};

/// What we show one relay, and what we expect of it.
#[derive(Clone, Debug, Default)]
pub struct RelayCredential {
    /// The proof that the relay asks for.
    pub proof: ProofSource,
    /// A file of certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// SHA-256 of the certificate that the relay must show.
    pub fingerprint: Option<String>,
}

/// By what a relay's certificate is known, besides the system's authorities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// A file of certificates.
    Ca,
    /// The fingerprint of the certificate itself.
    Fingerprint,
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "a CA file",
            Self::Fingerprint => "a fingerprint",
        })
    }
}

/// What becomes of one part of a credential.
#[derive(Clone, Debug, Default)]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// It is set or replaced.
    Set(T),
    /// It is forgotten.
    Clear,
}

impl<T> Change<T> {
    fn apply(self, kept: &mut Option<T>) {
        match self {
            Self::Keep => {}
            Self::Set(new) => *kept = Some(new),
            Self::Clear => *kept = None,
        }
    }
}

/// What a login changes of a credential; all the rest stays.
#[derive(Clone, Debug, Default)]
pub struct RelayChange {
    /// The new proof, if one was given.
    pub proof: Option<ProofSource>,
    /// What becomes of the CA file.
    pub ca: Change<PathBuf>,
    /// What becomes of the fingerprint.
    pub fingerprint: Change<String>,
}

impl RelayChange {
    /// Returns what `credential` for the relay at `origin` becomes.
    ///
    /// # Errors
    /// When a CA file would stand beside a fingerprint: the fingerprint alone would be checked.
    pub fn apply(
        self,
        origin: &str,
        mut credential: RelayCredential,
    ) -> Result<RelayCredential, CredentialError> {
        let Self { proof, ca, fingerprint } = self;
        let kept = if matches!(ca, Change::Set(_)) { Trust::Fingerprint } else { Trust::Ca };
        ca.apply(&mut credential.ca);
        fingerprint.apply(&mut credential.fingerprint);
        if credential.ca.is_some() && credential.fingerprint.is_some() {
            return Err(CredentialError::TwoTrusts { relay: origin.to_owned(), kept });
        }
        credential.proof = proof.unwrap_or(credential.proof);
        Ok(credential)
    }
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

    /// Changes what is kept for the relay at `origin`, starting from nothing for a new one.
    ///
    /// # Errors
    /// When the change makes no sense or the file cannot be written.
    pub fn login(&mut self, origin: &str, change: RelayChange) -> Result<(), CredentialError> {
        self.edit(|relays| {
            let entry = relays.entry(origin.to_owned()).or_default();
            *entry = change.apply(origin, entry.clone())?;
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
    /// The value is a command that prints a token.
    Command,
}

impl From<StoredRelay> for RelayCredential {
    fn from(StoredRelay { kind, value, ca, fingerprint }: StoredRelay) -> Self {
        let proof = match (kind, value) {
            (Kind::Secret, Some(value)) => Proof::Secret(Token::new(value)).into(),
            (Kind::Token, Some(value)) => Proof::Token(Token::new(value)).into(),
            (Kind::Command, Some(line)) => {
                TokenCommand::new(&line).map_or_else(ProofSource::default, ProofSource::Command)
            }
            _ => ProofSource::default(),
        };
        Self { proof, ca, fingerprint }
    }
}

impl From<&RelayCredential> for StoredRelay {
    fn from(RelayCredential { proof, ca, fingerprint }: &RelayCredential) -> Self {
        let (kind, value) = match proof {
            ProofSource::Kept(Proof::None) => (Kind::None, None),
            ProofSource::Kept(Proof::Secret(secret)) => (Kind::Secret, Some(secret.expose())),
            ProofSource::Kept(Proof::Token(token)) => (Kind::Token, Some(token.expose())),
            ProofSource::Command(command) => (Kind::Command, Some(command.as_str())),
        };
        let value = value.map(str::to_owned);
        Self { kind, value, ca: ca.clone(), fingerprint: fingerprint.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint as _;

    const RELAY: &str = "https://relay.example";

    fn secret(text: &str) -> Option<ProofSource> {
        Some(Proof::Secret(Token::new(text)).into())
    }

    /// The secret that is kept; empty when there is none.
    fn kept_secret(credential: &RelayCredential) -> &str {
        match &credential.proof {
            ProofSource::Kept(Proof::Secret(secret)) => secret.expose(),
            _ => "",
        }
    }

    #[test]
    fn a_command_is_kept_as_it_was_written() {
        let (_dir, paths, mut store) = store();
        let command = TokenCommand::new(" idp token --for 'mcpm' ").unwrap();
        let proof = Some(ProofSource::Command(command));
        store.login(RELAY, RelayChange { proof, ..RelayChange::default() }).unwrap();
        let again = RelayStore::open(&paths).unwrap();
        let ProofSource::Command(kept) = &again.get(RELAY).unwrap().proof else { panic!("other") };
        assert_eq!(kept.as_str(), "idp token --for 'mcpm'");
    }

    fn store() -> (tempfile::TempDir, Paths, RelayStore) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let store = RelayStore::open(&paths).unwrap();
        (dir, paths, store)
    }

    #[test]
    fn a_login_is_kept_and_a_logout_forgets_it() {
        let (_dir, paths, mut store) = store();
        let ca = Change::Set("/etc/team.pem".into());
        let change = RelayChange { proof: secret("s3cret"), ca, ..RelayChange::default() };
        store.login(RELAY, change).unwrap();
        let again = RelayStore::open(&paths).unwrap();
        let kept = again.get(RELAY).unwrap();
        assert_eq!(kept_secret(kept), "s3cret");
        assert!(!format!("{again:?}").contains("s3cret"));
        store.logout(RELAY).unwrap();
        assert_eq!(RelayStore::open(&paths).unwrap().iter().count(), 0);
        assert!(matches!(store.logout(RELAY), Err(CredentialError::UnknownRelay(_))));
    }

    #[test]
    fn a_login_replaces_what_it_was_given_and_keeps_the_rest() {
        let (_dir, paths, mut store) = store();
        let fingerprint = Change::Set("ab".repeat(32));
        let pin = RelayChange { fingerprint, ..RelayChange::default() };
        store.login(RELAY, RelayChange { proof: secret("old"), ..pin.clone() }).unwrap();
        // A rotated secret keeps the pin, and a new pin keeps the secret.
        let rotate = RelayChange { proof: secret("new"), ..RelayChange::default() };
        store.login(RELAY, rotate).unwrap();
        store.login(RELAY, pin).unwrap();
        let again = RelayStore::open(&paths).unwrap();
        let kept = again.get(RELAY).unwrap();
        assert_eq!(kept_secret(kept), "new");
        assert_eq!(kept.fingerprint, Some("ab".repeat(32)));

        let unpin = RelayChange { fingerprint: Change::Clear, ..RelayChange::default() };
        store.login(RELAY, unpin).unwrap();
        let kept = store.get(RELAY).unwrap();
        assert!(kept.fingerprint.is_none());
        assert_eq!(kept_secret(kept), "new");
    }

    #[test]
    fn a_pin_gives_way_to_a_ca_file_only_when_it_is_dropped_by_name() {
        let (_dir, _, mut store) = store();
        let fingerprint = Change::Set("ab".repeat(32));
        store.login(RELAY, RelayChange { fingerprint, ..RelayChange::default() }).unwrap();
        let ca = || Change::Set(PathBuf::from("/etc/team.pem"));
        let error =
            store.login(RELAY, RelayChange { ca: ca(), ..RelayChange::default() }).unwrap_err();
        assert!(error.hint().unwrap().contains("--no-fingerprint"), "{error}");
        assert!(store.get(RELAY).unwrap().fingerprint.is_some());
        let both = RelayChange { ca: ca(), fingerprint: Change::Clear, proof: None };
        store.login(RELAY, both).unwrap();
        assert!(store.get(RELAY).unwrap().fingerprint.is_none());
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
