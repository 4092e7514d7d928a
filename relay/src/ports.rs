//! What a relay is started with: everything that varies between a server, a laptop and a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cert::{CertError, CertFiles, CertSource, SelfSigned};
use crate::config::{Config, Database, KeySource, Storage, Tls};
use crate::keys::{KeyFileError, RelayKey};
use crate::store::{MemoryStore, Store, StoreError};

/// The ports of a relay. Clones share what they refer to.
#[derive(Clone, Debug)]
pub struct Ports {
    /// What must not be forgotten.
    pub store: Arc<dyn Store>,
    /// The certificate to show; `None` serves plain HTTP.
    pub cert: Option<Arc<dyn CertSource>>,
    /// The key that signs tickets and tokens.
    pub key: RelayKey,
}

/// Why the ports of a relay cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortsError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory {}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The database cannot be used.
    #[error("cannot use the database {database}")]
    Store {
        /// Where it is.
        database: Database,
        /// Why.
        source: StoreError,
    },
    /// There is no certificate to show.
    #[error(transparent)]
    Cert(#[from] CertError),
}

impl PortsError {
    /// Returns what an operator may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DataDir { .. } => {
                Some("Choose a directory that this user may write with --data-dir".to_owned())
            }
            Self::Store { .. } => Some(
                "Check that this user may write the file and its directory, and that no newer \
                 mcpm-relay wrote it"
                    .to_owned(),
            ),
            Self::Key(KeyFileError::Malformed(_)) => Some(
                "Restore the key from a backup, or move the file away to get a new key: all agent \
                 tokens must then be issued again"
                    .to_owned(),
            ),
            Self::Cert(CertError::Unusable(_)) => {
                Some("Check that --tls-key is the key of the certificate in --tls-cert".to_owned())
            }
            _ => None,
        }
    }
}

impl Ports {
    /// Returns ports that keep nothing: for tests and embedded relays.
    pub fn in_memory() -> Self {
        Self { store: Arc::new(MemoryStore::new()), cert: None, key: RelayKey::generate() }
    }

    /// Opens what the settings name; makes the data directory, key and database when absent.
    ///
    /// # Errors
    /// Fails when one of them cannot be read or made.
    pub async fn open(config: &Config) -> Result<Self, PortsError> {
        if let Some(dir) = &config.data_dir {
            create_private_dir(dir)?;
        }
        let storage = Storage { database: config.database.clone(), key: config.key.clone() };
        let Self { store, key, cert: _ } = Self::open_storage(&storage).await?;
        let cert: Option<Arc<dyn CertSource>> = match (&config.tls, &config.data_dir) {
            (Tls::None, _) => None,
            (Tls::SelfSigned, Some(dir)) => Some(Arc::new(SelfSigned::open(dir, &config.domain)?)),
            (Tls::SelfSigned, None) => Some(Arc::new(SelfSigned::generate(&config.domain)?)),
            (Tls::Files { cert, key }, _) => Some(Arc::new(CertFiles::open(cert, key)?)),
        };
        Ok(Self { store, cert, key })
    }

    /// Opens key and database only, making them and their directories when absent.
    ///
    /// # Errors
    /// Fails when one of them cannot be read or made.
    pub async fn open_storage(storage: &Storage) -> Result<Self, PortsError> {
        let key = match &storage.key {
            KeySource::Memory => RelayKey::generate(),
            KeySource::File(path) => {
                path.parent().map_or(Ok(()), create_private_dir)?;
                RelayKey::open(path)?
            }
        };
        if let Database::Sqlite(path) = &storage.database {
            path.parent().map_or(Ok(()), create_private_dir)?;
        }
        let store = open_store(&storage.database).await?;
        Ok(Self { store, cert: None, key })
    }
}

#[cfg(feature = "sqlx")]
async fn open_store(database: &Database) -> Result<Arc<dyn Store>, PortsError> {
    match database {
        Database::Memory => Ok(Arc::new(MemoryStore::new())),
        Database::Sqlite(path) => match crate::store::SqlStore::open(path).await {
            Ok(store) => Ok(Arc::new(store)),
            Err(source) => Err(PortsError::Store { database: database.clone(), source }),
        },
    }
}

#[cfg(not(feature = "sqlx"))]
#[expect(clippy::unused_async, reason = "the other features' signature")]
async fn open_store(database: &Database) -> Result<Arc<dyn Store>, PortsError> {
    match database {
        Database::Memory => Ok(Arc::new(MemoryStore::new())),
        Database::Sqlite(_) => Err(PortsError::Store {
            database: database.clone(),
            source: StoreError::new("open its file", "built without the feature `sqlx`"),
        }),
    }
}

/// Makes a directory and those above it; the empty path is the present one.
fn create_private_dir(dir: &Path) -> Result<(), PortsError> {
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| PortsError::DataDir { path: dir.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    #[cfg(feature = "sqlx")]
    #[tokio::test]
    async fn a_first_start_makes_everything_in_the_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b");
        let layer = Layer {
            data_dir: Some(data.clone()),
            tls: Some(crate::config::TlsKind::SelfSigned),
            ..Layer::default()
        };
        let config = layer.resolve().unwrap();
        let ports = Ports::open(&config).await.unwrap();
        ports.store.ping().await.unwrap();
        let again = Ports::open(&config).await.unwrap();
        let print = |ports: &Ports| ports.cert.as_ref().unwrap().fingerprint();
        assert_eq!(print(&ports), print(&again));
        for file in ["relay.db", "relay.key", "self-signed-localhost.pem"] {
            assert!(data.join(file).exists(), "{file}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let config = Config { data_dir: Some(file.join("data")), ..Config::local() };
        let error = Ports::open(&config).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot make the data directory"), "{error}");
        assert!(error.hint().is_some());
    }
}
