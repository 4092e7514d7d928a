//! What a relay is started with: everything that varies between a server, a laptop and a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::token::Token;

use crate::cert::{CertError, CertFiles, CertSource, SelfSigned, Uncovered};
#[cfg(feature = "acme")]
use crate::cert::{Place, Vault};
use crate::config::{Acme, Config, Database, KeySource, SettingsSource, Storage, Tls};
use crate::domains::Domains;
use crate::handover::{DatabaseLock, Inherited, LockError};
use crate::keys::{KeyFileError, RelayKey, open_admin_token};
use crate::store::{MemoryStore, Store, StoreError};

/// How long a relay that starts waits for its database, and how long between two attempts.
const DATABASE_PATIENCE: Duration = Duration::from_secs(30);
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

/// The ports of a relay. Clones share what they refer to.
#[derive(Clone, Debug)]
pub struct Ports {
    /// What must not be forgotten.
    pub store: Arc<dyn Store>,
    /// The certificate to show; `None` serves plain HTTP.
    pub cert: Option<Arc<dyn CertSource>>,
    /// The domains of owners, which the certificates follow too.
    pub domains: Arc<Domains>,
    /// The key that signs tickets and tokens.
    pub key: RelayKey,
    /// What the admin API asks for; without it nobody may use it.
    pub admin_token: Option<Token>,
    /// Where the settings are read again; without it they stay as they are.
    pub settings: Option<Arc<dyn SettingsSource>>,
    /// What a process has left that this one replaces.
    pub inherited: Inherited,
    /// Keeps other relays from the database, where only one may use it.
    pub lock: Option<DatabaseLock>,
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
    /// Another relay may be using the database.
    #[error(transparent)]
    Lock(#[from] LockError),
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
            Self::Store { database: Database::Postgres(_), source } => Some(
                if source.is_unreachable() {
                    "Check that the server runs, can be reached from here, and speaks TLS if the \
                     URL's sslmode asks for it"
                } else {
                    "Check user, password and database, and that no newer mcpm-relay wrote it; the \
                     user must be able to make tables"
                }
                .to_owned(),
            ),
            Self::Store { .. } => Some(
                "Check that this user may write the file and its directory, and that no newer \
                 mcpm-relay wrote it"
                    .to_owned(),
            ),
            Self::Lock(LockError::Held(_)) => Some(
                "Stop it first, or replace it without a pause by `serve --take-over` with its own \
                 settings; several relays over one database need PostgreSQL and --node-listen"
                    .to_owned(),
            ),
            Self::Lock(LockError::Io { .. }) => {
                Some("Check that this user may write the file and its directory".to_owned())
            }
            Self::Key(KeyFileError::Malformed(_)) => Some(
                "Restore the key from a backup, or move the file away to get a new key: all agent \
                 tokens must then be issued again"
                    .to_owned(),
            ),
            Self::Cert(CertError::Sealed(_)) => Some(
                "Restore the key file that it was sealed with, or remove the file: the relay then \
                 orders a new certificate"
                    .to_owned(),
            ),
            Self::Cert(CertError::SealedRow(name)) => Some(format!(
                "Give every node the key file that it was sealed with, or make it unreadable for \
                 good: DELETE FROM certificates WHERE name = '{name}'; the relay then orders anew"
            )),
            Self::Cert(CertError::Authority { .. }) => Some(
                "Restore both from the same backup, or remove all three files of the authority: a \
                 new one is made, which everybody must be told to trust"
                    .to_owned(),
            ),
            Self::Cert(CertError::Read { .. }) => {
                Some("Check the path, and that this user may read the file".to_owned())
            }
            Self::Cert(CertError::Pem { .. }) => Some(
                "Give --tls-cert the chain, leaf first, and --tls-key its private key, both as PEM"
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
        let (store, domains) = (Arc::new(MemoryStore::new()), Arc::default());
        Self {
            store,
            cert: None,
            domains,
            key: RelayKey::generate(),
            admin_token: None,
            settings: None,
            inherited: Inherited::default(),
            lock: None,
        }
    }

    /// Opens what the settings name; makes the data directory, key and database when absent.
    ///
    /// # Errors
    /// Fails when one of them cannot be read or made, or another relay uses the database.
    pub async fn open(config: &Config) -> Result<Self, PortsError> {
        Self::inherit(config, Inherited::default()).await
    }

    /// Opens what the settings name, in the place of a process that has left its own.
    ///
    /// # Errors
    /// As [`Ports::open`].
    pub async fn inherit(config: &Config, inherited: Inherited) -> Result<Self, PortsError> {
        if let Some(dir) = &config.data_dir {
            create_private_dir(dir)?;
        }
        let lock = lock(&config.database, &inherited)?;
        let storage = Storage { database: config.database.clone(), key: config.key.clone() };
        let Self { store, key, domains, .. } = open_patiently(&storage).await?;
        let token_file =
            config.admin_token_file.as_deref().filter(|_| config.admin_listen.is_some());
        let admin_token = token_file.map(open_admin_token).transpose()?;
        let cert: Option<Arc<dyn CertSource>> = match (&config.tls, &config.data_dir) {
            (Tls::None, _) => None,
            (Tls::SelfSigned, Some(dir)) => Some(Arc::new(SelfSigned::open(dir, &config.domain)?)),
            (Tls::SelfSigned, None) => Some(Arc::new(SelfSigned::generate(&config.domain)?)),
            (Tls::Files { cert, key }, _) => Some(Arc::new(CertFiles::open(cert, key)?)),
            (Tls::Acme(acme), _) => {
                let shared = (Arc::clone(&store), Arc::clone(&domains));
                Some(open_acme(acme, config, shared, &key).await?)
            }
        };
        // What is ordered follows the settings.
        if !matches!(config.tls, Tls::Acme(_))
            && let Some(leaf) = cert.as_ref().and_then(|cert| cert.leaf())
            && let Some(lacks) = Uncovered::find(&leaf, &config.domain, config.paths)
        {
            tracing::warn!("{lacks}: clients refuse it there");
        }
        Ok(Self { store, cert, domains, key, admin_token, inherited, lock, ..Self::in_memory() })
    }

    /// Opens key and database only, making them and their directories when absent.
    ///
    /// # Errors
    /// Fails when one of them cannot be read or made.
    pub async fn open_storage(storage: &Storage) -> Result<Self, PortsError> {
        let key = match &storage.key {
            KeySource::Memory => RelayKey::generate(),
            KeySource::NodeSecret(path) => RelayKey::of_nodes(path)?,
            KeySource::File(path) => {
                create_dir_of(path)?;
                RelayKey::open(path)?
            }
        };
        if let Database::Sqlite(path) = &storage.database {
            create_dir_of(path)?;
        }
        let store = open_store(&storage.database).await?;
        Ok(Self { store, key, ..Self::in_memory() })
    }
}

/// Makes this process the only relay of its database. PostgreSQL knows by itself who its nodes are.
fn lock(database: &Database, left: &Inherited) -> Result<Option<DatabaseLock>, PortsError> {
    let Database::Sqlite(path) = database else { return Ok(None) };
    create_dir_of(path)?;
    Ok(DatabaseLock::take(path, left.lock())?)
}

/// Opens key and database; waits a while for a database that starts beside the relay.
async fn open_patiently(storage: &Storage) -> Result<Ports, PortsError> {
    let give_up = tokio::time::Instant::now() + DATABASE_PATIENCE;
    loop {
        match Ports::open_storage(storage).await {
            Err(PortsError::Store { database, source })
                if source.is_unreachable() && tokio::time::Instant::now() < give_up =>
            {
                let error = &source as &dyn std::error::Error;
                tracing::warn!(error, %database, "database does not answer yet");
                tokio::time::sleep(DATABASE_PAUSE).await;
            }
            done => return done,
        }
    }
}

#[cfg(feature = "sqlx")]
async fn open_store(database: &Database) -> Result<Arc<dyn Store>, PortsError> {
    let opened = match database {
        Database::Memory => return Ok(Arc::new(MemoryStore::new())),
        Database::Sqlite(path) => crate::store::SqlStore::open(path).await,
        Database::Postgres(url) => crate::store::SqlStore::connect(url.expose()).await,
    };
    match opened {
        Ok(store) => Ok(Arc::new(store)),
        Err(source) => Err(PortsError::Store { database: database.clone(), source }),
    }
}

#[cfg(not(feature = "sqlx"))]
#[expect(clippy::unused_async, reason = "the other features' signature")]
async fn open_store(database: &Database) -> Result<Arc<dyn Store>, PortsError> {
    match database {
        Database::Memory => Ok(Arc::new(MemoryStore::new())),
        Database::Sqlite(_) | Database::Postgres(_) => Err(PortsError::Store {
            database: database.clone(),
            source: StoreError::new("open", "built without the feature `sqlx`"),
        }),
    }
}

/// What certificates are ordered for, and where they are kept.
type Shared = (Arc<dyn Store>, Arc<Domains>);

#[cfg(feature = "acme")]
async fn open_acme(
    acme: &Acme,
    config: &Config,
    (store, domains): Shared,
    key: &RelayKey,
) -> Result<Arc<dyn CertSource>, CertError> {
    let files = config.data_dir.as_ref().map(|dir| dir.join("acme"));
    // What is in memory would have to be ordered again at each start, until the authority refuses.
    let place = match (&config.database, files) {
        (Database::Memory, Some(dir)) => Place::Files { dir, store },
        (_, files) => Place::Rows { store, files },
    };
    let vault = Vault::open(place, key.storage_key(), &config.node).await?;
    let cert = crate::cert::AcmeCert::open(acme, &config.domain, vault, domains).await?;
    Ok(Arc::new(cert))
}

#[cfg(not(feature = "acme"))]
#[expect(clippy::unused_async, reason = "the other features' signature")]
async fn open_acme(
    _: &Acme,
    _: &Config,
    _: Shared,
    _: &RelayKey,
) -> Result<Arc<dyn CertSource>, CertError> {
    Err(CertError::Order("built without the feature `acme`".to_owned()))
}

/// Makes the directory that a file is to be in.
fn create_dir_of(file: &Path) -> Result<(), PortsError> {
    file.parent().map_or(Ok(()), create_private_dir)
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
        let mut ports = Ports::open(&config).await.unwrap();
        ports.store.ping().await.unwrap();
        let error = Ports::open(&config).await.unwrap_err();
        assert!(matches!(error, PortsError::Lock(_)) && error.hint().is_some(), "{error}");
        ports.lock = None;
        let again = Ports::open(&config).await.unwrap();
        let print = |ports: &Ports| ports.cert.as_ref().unwrap().fingerprint().unwrap();
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
