//! How a database is opened, and how its failures are told apart.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, Postgres};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Acquire, ConnectOptions as _, Connection as _, Transaction};

use super::nodes::tell_of_changes;
use super::{Pool, SqlStore};
use crate::store::StoreError;

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a write waits for another process, such as `mcpm-relay token issue`, to finish its own.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite has one writer at a time; a few connections let reads go on beside it.
const SQLITE_CONNECTIONS: u32 = 4;
/// A claim takes a millisecond, so these serve thousands a second; ten nodes stay below the hundred
/// that PostgreSQL allows by default.
const POSTGRES_CONNECTIONS: u32 = 8;
/// How long to wait for a connection, new or free.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection is kept that nobody needs, and any at all: so that a database which moved
/// is found again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const MAX_LIFETIME: Duration = Duration::from_secs(1800);
/// What the server itself ends, in milliseconds, so that a statement we gave up on (see
/// [`crate::store::Guarded`]) does not hold on to its locks for ever.
const SERVER_TIMEOUTS: [(&str, &str); 3] = [
    ("statement_timeout", "60000"),
    ("lock_timeout", "3000"),
    ("idle_in_transaction_session_timeout", "10000"),
];

impl SqlStore {
    /// Opens the file, which is made with mode 0600 when absent, and brings its schema up to date.
    ///
    /// # Errors
    /// Fails when the file cannot be made, is no database, or was written by a newer relay.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| StoreError::new("make its file", error))?;
        let pool = sqlite_pool(path).await.map_err(failed("open its file"))?;
        // Once more, because another process may have done the same at the same time.
        if migrate(&pool).await.is_err() {
            migrate(&pool).await.map_err(not_migrated)?;
        }
        Ok(Self { pool: Pool::Sqlite(pool) })
    }

    /// Connects to a PostgreSQL server and brings the schema of its database up to date.
    ///
    /// What the URL leaves open comes from the variables and files that `psql` reads: `PGHOST`,
    /// `PGPASSWORD`, `~/.pgpass` and their like.
    ///
    /// # Errors
    /// Fails when the server does not answer or let us in, or a newer relay wrote the database.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(failed("read its URL"))?;
        let options = options.application_name("mcpm-relay").options(SERVER_TIMEOUTS);
        // Of a server that refuses, the pool would say no more than that time ran out.
        let first = tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await;
        let first = first.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(failed("connect"))?;
        first.close().await.map_err(failed("connect"))?;
        let pool = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .max_lifetime(MAX_LIFETIME)
            .connect_with(options)
            .await
            .map_err(failed("connect"))?;
        // Of nodes that start together one does it, and the others wait for the lock.
        migrate(&pool).await.map_err(not_migrated)?;
        tell_of_changes(&pool).await.map_err(failed("make the triggers that tell of changes"))?;
        Ok(Self { pool: Pool::Postgres(pool) })
    }

    /// Closes the database: an SQLite file after writing its log back into it.
    pub async fn close(&self) {
        match &self.pool {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
    }
}

pub(super) async fn sqlite_pool(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // Safe against corruption with WAL; a power cut may lose the last moments, which
        // resume tickets give back. FULL would make ten thousand reconnects wait for the disk.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT);
    SqlitePoolOptions::new().max_connections(SQLITE_CONNECTIONS).connect_with(options).await
}

async fn migrate<'a, A>(pool: A) -> Result<(), MigrateError>
where
    A: Acquire<'a>,
    <A::Connection as std::ops::Deref>::Target: Migrate,
{
    MIGRATIONS.run(pool).await
}

fn not_migrated(error: MigrateError) -> StoreError {
    StoreError::new("bring its schema up to date", error)
}

/// Makes an empty file that only its owner may read; SQLite gives its side files the same mode.
fn create_private(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Begins a transaction beside which none with the same key runs. Each of its later statements sees
/// what those before it committed (PostgreSQL §13.2.1, read committed).
pub(super) async fn begin_alone(
    pool: &PgPool,
    key: &str,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(key)
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// Puts what was attempted before an error of the database.
pub(super) fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| match is_unreachable(&error) {
        true => StoreError::unreachable(action, error),
        false => StoreError::new(action, error),
    }
}

/// Tells whether the database is away, rather than against what was asked.
fn is_unreachable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Codes of PostgreSQL (appendix A); SQLite's are plain numbers.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| away(&code)),
        _ => false,
    }
}

/// Connection exceptions, too many connections, a shutdown, a crash or a start under way, and a
/// server that became a read-only standby.
fn away(code: &str) -> bool {
    let known = ["53300", "57P01", "57P02", "57P03", "57P05", "25006"];
    code.len() == 5 && (code.starts_with("08") || known.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_not_an_absence() {
        for code in ["08006", "57P01", "57P03", "53300", "25006"] {
            assert!(away(code), "{code}");
        }
        // A duplicate key, a wrong password; and of SQLite a full disk, a busy file, a constraint.
        for code in ["23505", "28P01", "13", "5", "1555"] {
            assert!(!away(code), "{code}");
        }
        assert!(is_unreachable(&sqlx::Error::PoolTimedOut));
        assert!(!is_unreachable(&sqlx::Error::RowNotFound));
    }
}
