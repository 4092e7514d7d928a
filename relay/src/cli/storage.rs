//! For the commands that work on the database of a relay, which may run meanwhile.

use std::path::Path;
use std::sync::Arc;

use mcpm_relay::config::{Database, KeySource, Storage};
use mcpm_relay::keys::RelayKey;
use mcpm_relay::ports::{Ports, PortsError};
use mcpm_relay::store::Store;

use super::error::CliError;
use super::out::note;
use super::settings::StorageArgs;

/// Runs a command on a runtime of its own.
pub(super) fn block_on(
    command: impl Future<Output = Result<(), CliError>>,
) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::System("start the runtime", error))?;
    runtime.block_on(command)
}

/// Opens the database and the key, for commands that have nothing to do where no relay was yet.
pub(super) async fn open(args: StorageArgs) -> Result<(Arc<dyn Store>, RelayKey), CliError> {
    open_at(&args.resolve()?).await
}

/// As [`open`], where settings name the place.
pub(super) async fn open_at(storage: &Storage) -> Result<(Arc<dyn Store>, RelayKey), CliError> {
    if let Some(path) = missing(storage) {
        return Err(CliError::NoDatabase(path.to_owned()));
    }
    open_storage(storage).await
}

/// Opens the database and the key, or makes them, for what may be decided before the first start.
pub(super) async fn open_or_make(
    args: StorageArgs,
) -> Result<(Arc<dyn Store>, RelayKey), CliError> {
    open_or_make_at(&args.resolve()?).await
}

/// As [`open_or_make`], where settings name the place.
pub(super) async fn open_or_make_at(
    storage: &Storage,
) -> Result<(Arc<dyn Store>, RelayKey), CliError> {
    let made = missing(storage);
    let opened = open_storage(storage).await?;
    if let Some(path) = made {
        let path = path.display();
        note(&format!("made a new database, {path}: no relay has used it yet"));
    }
    Ok(opened)
}

/// Returns the file of a database that is not there: a wrong directory looks like an empty relay.
/// Of one that cannot be looked at, opening it says why.
fn missing(storage: &Storage) -> Option<&Path> {
    match &storage.database {
        Database::Sqlite(path) if matches!(path.try_exists(), Ok(false)) => Some(path),
        _ => None,
    }
}

async fn open_storage(storage: &Storage) -> Result<(Arc<dyn Store>, RelayKey), CliError> {
    if storage.database == Database::Memory || storage.key == KeySource::Memory {
        return Err(CliError::MemoryDatabase);
    }
    let ports = Ports::open_storage(storage).await.map_err(|error| match error {
        PortsError::Key(error) => CliError::Key(error),
        error => CliError::Ports(error),
    })?;
    Ok((ports.store, ports.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_missing_only_where_it_surely_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| Storage {
            database: Database::Sqlite(dir.path().join(path)),
            key: KeySource::Memory,
        };
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(missing(&at("relay.db")).is_some());
        assert!(missing(&at("file")).is_none());
        // As with a directory that may not be entered, nobody can tell.
        #[cfg(unix)]
        assert!(missing(&at("file/relay.db")).is_none());
    }
}
