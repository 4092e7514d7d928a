//! The one task that writes events, many in one transaction.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, QueryBuilder, SqliteConnection};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, Outcome, clip};
use super::schema;

/// How many events one transaction holds at most.
const BATCH: usize = 1024;
/// How many events one statement adds; SQLite takes some thousand values.
const ROWS: usize = 32;
/// How many old events one transaction deletes.
const PRUNE_BATCH: i64 = 2000;
/// How many such transactions one round of pruning has, so that it comes to an end.
const PRUNE_ROUNDS: usize = 500;

/// The times and sizes that tests change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// How long the first event of a batch waits for others: one wake-up and one transaction
    /// serve them all.
    pub(super) linger: Duration,
    /// How long to wait for another process that writes; shutdown waits as long.
    pub(super) busy: Duration,
    /// How long to leave the file alone after a failure.
    pub(super) pause: Duration,
    /// How long events are kept.
    pub(super) keep_days: i64,
    /// How many events are kept: some 150 MB.
    pub(super) keep_events: i64,
    /// How often old events are deleted.
    pub(super) prune_every: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(100),
            busy: Duration::from_secs(2),
            pause: Duration::from_secs(30),
            keep_days: 90,
            keep_events: 500_000,
            prune_every: Duration::from_secs(3600),
        }
    }
}

/// Writes events to the file.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    tuning: Tuning,
    lost: Arc<AtomicU64>,
    connection: Option<SqliteConnection>,
    pruned: Option<Instant>,
    /// Until when the file is left alone.
    resting: Option<Instant>,
    warned: bool,
}

impl Writer {
    pub(super) fn new(path: PathBuf, lost: Arc<AtomicU64>, tuning: Tuning) -> Self {
        Self { path, tuning, lost, connection: None, pruned: None, resting: None, warned: false }
    }

    /// Writes until `stop` is cancelled or nobody can send any more, and then all that is queued.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Event>, stop: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled(), if !queue.is_closed() => {
                    // What was sent before is still received.
                    queue.close();
                    continue;
                }
                first = queue.recv() => first,
            };
            let Some(first) = first else { break };
            let was_full = batch.len() == BATCH;
            batch.clear();
            batch.push(first);
            if !was_full {
                stop.run_until_cancelled(tokio::time::sleep(self.tuning.linger)).await;
            }
            while batch.len() < BATCH
                && let Ok(event) = queue.try_recv()
            {
                batch.push(event);
            }
            self.write(&batch).await;
        }
        if let Some(connection) = self.connection.take() {
            // What is committed is safe; closing only tidies up.
            let _untidy = connection.close().await;
        }
    }

    async fn write(&mut self, batch: &[Event]) {
        let resting = self.resting.is_some_and(|until| Instant::now() < until);
        let result = if resting { Ok(false) } else { self.try_write(batch).await.map(|()| true) };
        match result {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                self.connection = None;
                self.resting = Some(Instant::now() + self.tuning.pause);
                if !self.warned {
                    self.warned = true;
                    let path = self.path.display().to_string();
                    tracing::warn!(path, %error, "usage is not recorded for now");
                }
            }
        }
        self.lost.fetch_add(batch.len().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    async fn try_write(&mut self, batch: &[Event]) -> Result<(), sqlx::Error> {
        if self.connection.is_none() {
            self.connection = Some(open(&self.path, self.tuning.busy).await?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let mut transaction = connection.begin().await?;
        for events in batch.chunks(ROWS) {
            insert(events, &mut transaction).await?;
        }
        transaction.commit().await?;
        let due = self.pruned.is_none_or(|at| at.elapsed() >= self.tuning.prune_every);
        if due {
            self.pruned = Some(Instant::now());
            // These events are safe; the next round may have more luck.
            if let Err(error) = prune(connection, self.tuning).await {
                tracing::debug!(%error, "old events are not deleted");
            }
        }
        Ok(())
    }
}

async fn open(path: &Path, busy: Duration) -> Result<SqliteConnection, sqlx::Error> {
    let own = path.to_owned();
    let private = tokio::task::spawn_blocking(move || make_private(&own));
    private.await.map_err(io::Error::other)??;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(busy)
        .journal_mode(SqliteJournalMode::Wal)
        // A power cut may cost the last events, never the file.
        .synchronous(SqliteSynchronous::Normal)
        // The process serves others: 256 KiB do for appending.
        .pragma("cache_size", "-256")
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::query(schema::TABLE).execute(&mut connection).await?;
    let has: i64 = sqlx::query_scalar(schema::HAS_SESSION).fetch_one(&mut connection).await?;
    if has == 0 {
        sqlx::query(schema::ADD_SESSION).execute(&mut connection).await?;
    }
    for statement in schema::REST {
        sqlx::query(*statement).execute(&mut connection).await?;
    }
    Ok(connection)
}

/// Makes the file for its owner alone, also one that Python made; its side files get its mode.
fn make_private(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        crate::fs::create_private_dir(dir)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
    }
    drop(file);
    Ok(())
}

/// Adds events in one statement: each statement is a round trip to the thread that writes.
async fn insert(events: &[Event], connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut statement = QueryBuilder::new(schema::INSERT);
    statement.push_values(events, |mut row, event| {
        let at = event.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        row.push_bind(event.kind.column())
            .push_bind(event.server.as_deref())
            .push_bind(event.resource_column())
            .push_bind(event.session.as_ref())
            .push_bind(event.about.client.as_deref().map(clip))
            .push(schema::TIME.0)
            .push_bind_unseparated(millis(at))
            .push_unseparated(schema::TIME.1)
            .push_bind(event.took.map(millis))
            .push_bind(event.request_size.map(column))
            .push_bind(event.response_size.map(column))
            .push_bind(event.outcome == Outcome::Done)
            .push_bind(event.error_column())
            .push_bind(event.metadata_column());
    });
    statement.build().execute(connection).await.map(drop)
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn column(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Deletes what is too old or too much.
async fn prune(connection: &mut SqliteConnection, tuning: Tuning) -> Result<(), sqlx::Error> {
    let limits = [(schema::PRUNE_OLD, tuning.keep_days), (schema::PRUNE_MANY, tuning.keep_events)];
    for (statement, keep) in limits {
        for _ in 0..PRUNE_ROUNDS {
            let query = sqlx::query(statement).bind(keep).bind(PRUNE_BATCH);
            if query.execute(&mut *connection).await?.rows_affected() == 0 {
                break;
            }
        }
    }
    Ok(())
}
