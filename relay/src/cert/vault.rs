//! What only this relay can read: the account at an authority and the certificates' keys.
//!
//! Sealed with ChaCha20-Poly1305 under a key that is derived from the relay's own key file. The
//! name of a text is sealed with it, so that one cannot be put in the place of another. They are
//! rows of the store, which nodes share; a relay that keeps its store in memory has files.

mod files;

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mcpm_shared::token::Token;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::UnixTime;
use zeroize::Zeroizing;

use super::CertError;
use crate::store::{Store, Tally, until_next_hour};

/// What a sealed text begins with.
const MAGIC: &[u8] = b"mcpm-sealed/1\n";
/// How long a node has the turn at something, which it takes anew as long as it is at it: so long
/// others wait for one that died.
const TURN: Duration = Duration::from_secs(90);

/// A secret in the clear.
pub(super) type Plain = Zeroizing<Vec<u8>>;

/// Where sealed texts are kept.
#[derive(Clone, Debug)]
pub enum Place {
    /// Files in a directory, which need not exist.
    Files {
        /// The directory.
        dir: PathBuf,
        /// Where is counted: a store that keeps nothing.
        store: Arc<dyn Store>,
    },
    /// Rows of a store.
    Rows {
        /// The store.
        store: Arc<dyn Store>,
        /// Where an earlier version kept files: they are moved into the store.
        files: Option<PathBuf>,
    },
}

/// Sealed texts by name.
pub struct Vault {
    place: Place,
    key: LessSafeKey,
    /// Who has a turn: this process, which is more than this node while one replaces another.
    holder: String,
}

/// A text that changed.
pub(super) struct Change {
    pub(super) name: String,
    /// `None` where it was forgotten, or cannot be opened.
    pub(super) plain: Option<Plain>,
    pub(super) revision: u64,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens a place; moves what is in files into the store.
    ///
    /// # Errors
    /// Fails when a file cannot be read, or the store fails.
    pub async fn open(place: Place, key: &[u8; 32], node: &str) -> Result<Self, CertError> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has 32 bytes");
        let holder = format!("{node}/{}", Token::generate().expose());
        let vault = Self { place, key: LessSafeKey::new(key), holder };
        vault.move_files().await?;
        Ok(vault)
    }

    /// Moves what an earlier version kept in files to where it is kept now. What is there already
    /// stands, and a file that cannot be opened stays where it is.
    async fn move_files(&self) -> Result<(), CertError> {
        let Place::Rows { store, files: Some(dir) } = &self.place else { return Ok(()) };
        for (name, sealed) in files::all(dir)? {
            if self.unseal(&name, sealed.clone()).is_none() {
                tracing::warn!(file = name, "a file was sealed with another key, and is ignored");
                continue;
            }
            if store.sealed(&name).await?.is_none() {
                store.keep_sealed(&name, &STANDARD.encode(&sealed), now()).await?;
                tracing::info!(file = name, "moved into the database");
            }
            files::remove(dir, &name);
        }
        Ok(())
    }

    /// Reads a text; `None` when there is none.
    ///
    /// # Errors
    /// Fails when it cannot be read, or was sealed otherwise.
    pub(super) async fn load(&self, name: &str) -> Result<Option<Plain>, CertError> {
        match &self.place {
            Place::Files { dir, .. } => {
                let Some(sealed) = files::read(dir, name)? else { return Ok(None) };
                let plain = self.unseal(name, sealed);
                plain.map(Some).ok_or_else(|| CertError::Sealed(dir.join(name)))
            }
            Place::Rows { store, .. } => {
                let Some(row) = store.sealed(name).await? else { return Ok(None) };
                let plain = self.unseal_row(name, &row.sealed);
                plain.map(Some).ok_or_else(|| CertError::SealedRow(name.to_owned()))
            }
        }
    }

    /// Keeps a text, in place of the one before.
    ///
    /// # Errors
    /// Fails when it cannot be written; the one before stays.
    pub(super) async fn save(&self, name: &str, plain: &[u8]) -> Result<(), CertError> {
        let sealed = self.seal(name, plain);
        match &self.place {
            Place::Files { dir, .. } => files::replace(dir, name, &sealed),
            Place::Rows { store, .. } => {
                Ok(store.keep_sealed(name, &STANDARD.encode(sealed), now()).await?)
            }
        }
    }

    /// Forgets a text; one that is not there is no error.
    ///
    /// # Errors
    /// Fails when the store does.
    pub(super) async fn forget(&self, name: &str) -> Result<(), CertError> {
        match &self.place {
            Place::Files { dir, .. } => files::remove(dir, name),
            Place::Rows { store, .. } => {
                if store.sealed(name).await?.is_some() {
                    store.keep_sealed(name, "", now()).await?;
                }
            }
        }
        Ok(())
    }

    /// Tells whether other nodes see what is kept here.
    pub(super) fn is_shared(&self) -> bool {
        matches!(&self.place, Place::Rows { store, .. } if store.is_shared())
    }

    /// Returns what changed after a revision.
    ///
    /// # Errors
    /// Fails when the store does.
    pub(super) async fn changes(&self, after: u64) -> Result<Vec<Change>, CertError> {
        let Place::Rows { store, .. } = &self.place else { return Ok(Vec::new()) };
        let rows = store.sealed_after(after).await?;
        let change = |row: crate::store::SealedRow| {
            let plain = self.unseal_row(&row.name, &row.sealed);
            Change { name: row.name, plain, revision: row.revision }
        };
        Ok(rows.into_iter().map(change).collect())
    }

    /// Does something that one node does for all; `None` when another one is at it.
    ///
    /// # Errors
    /// Fails when the store does not say whose turn it is.
    pub(super) async fn in_turn<T>(
        &self,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, CertError> {
        let Place::Rows { store, .. } = &self.place else { return Ok(Some(work.await)) };
        let take = || {
            let now = now();
            store.take_turn(what, &self.holder, now, now + TURN.as_secs())
        };
        if !take().await? {
            return Ok(None);
        }
        let mut work = pin!(work);
        let done = loop {
            match tokio::time::timeout(TURN / 3, work.as_mut()).await {
                Ok(done) => break done,
                // A store that is away lets nobody else have it either.
                Err(_) => drop(take().await),
            }
        };
        // Else it ends by itself.
        drop(store.end_turn(what, &self.holder).await);
        Ok(Some(done))
    }

    /// Counts something that may happen so often in an hour, at all nodes together; else says how
    /// long to wait.
    ///
    /// # Errors
    /// Fails when the store does.
    pub(super) async fn count(
        &self,
        what: &str,
        limit: u64,
    ) -> Result<Option<Duration>, CertError> {
        let now = now();
        let (Place::Files { store, .. } | Place::Rows { store, .. }) = &self.place;
        let counted = store.count(Tally::of_hour(what.to_owned(), now, limit)).await?;
        Ok((!counted).then(|| Duration::from_secs(until_next_hour(now))))
    }

    fn unseal_row(&self, name: &str, row: &str) -> Option<Plain> {
        self.unseal(name, Zeroizing::new(STANDARD.decode(row).ok()?))
    }

    fn unseal(&self, name: &str, mut sealed: Plain) -> Option<Plain> {
        let (nonce, text) = sealed
            .strip_prefix(MAGIC)
            .and_then(|rest| rest.split_first_chunk::<NONCE_LEN>())
            .map(|(nonce, text)| (*nonce, text.len()))?;
        let start = sealed.len() - text;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.key.open_in_place(nonce, Aad::from(aad(name)), &mut sealed[start..]);
        plain.ok().map(|plain| Zeroizing::new(plain.to_vec()))
    }

    fn seal(&self, name: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        // Random nonces of 96 bits are good for more texts than a relay ever writes.
        SystemRandom::new().fill(&mut nonce).expect("the system has random numbers");
        let mut text = Zeroizing::new(plain.to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad(name)),
                text.as_mut_slice(),
            )
            .expect("the text is far below the cipher's bound");
        [MAGIC, &nonce, &text, tag.as_ref()].concat()
    }
}

fn aad(name: &str) -> Vec<u8> {
    [MAGIC, name.as_bytes()].concat()
}

fn now() -> u64 {
    UnixTime::now().as_secs()
}

#[cfg(test)]
mod tests;
