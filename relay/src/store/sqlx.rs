//! A store in an SQLite file. The SQL is the common ground of SQLite and PostgreSQL.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use mcpm_shared::name::Name;
use mcpm_shared::proto::ShareMode;
use sqlx::SqlitePool;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{AuditEvent, Claim, ClaimError, Lease, Store, StoreError, TokenRecord};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a write waits for another process, such as `mcpm-relay token issue`, to finish its own.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// SQLite has one writer at a time; a few connections let reads go on beside it.
const CONNECTIONS: u32 = 4;

/// A [`Store`] in an SQLite file.
#[derive(Debug)]
pub struct SqlStore {
    pool: SqlitePool,
    path: PathBuf,
}

impl SqlStore {
    /// Opens the file, which is made with mode 0600 when absent, and brings its schema up to date.
    ///
    /// # Errors
    /// Fails when the file cannot be made, is no database, or was written by a newer relay.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| StoreError::new("make its file", error))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // Safe against corruption with WAL; a power cut may lose the last moments, which
            // resume tickets give back. FULL would make ten thousand reconnects wait for the disk.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .connect_with(options)
            .await
            .map_err(failed("open its file"))?;
        // Once more, because another process may have done the same at the same time.
        if MIGRATIONS.run(&pool).await.is_err() {
            MIGRATIONS
                .run(&pool)
                .await
                .map_err(|error| StoreError::new("bring its schema up to date", error))?;
        }
        Ok(Self { pool, path: path.to_owned() })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file, after writing its log back into it.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Tells why a claim gave nothing. A racing change may make the answer stale, never the claim.
    async fn why_refused(&self, claim: Claim) -> ClaimError {
        match self.lease(&claim.name).await {
            Ok(Some(lease)) if lease.owner != claim.owner => ClaimError::Taken(claim.name),
            Ok(_) => ClaimError::TooMany { max: claim.max_live },
            Err(error) => error.into(),
        }
    }
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

fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| StoreError::new(action, error)
}

/// Times and counts beyond the range of the column mean "never" and "no limit" alike.
fn to_column(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn from_column(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn mode_to_column(mode: ShareMode) -> &'static str {
    match mode {
        ShareMode::Mcp => "mcp",
        ShareMode::Http => "http",
    }
}

type LeaseRow = (String, String, i64, String, String, i64, Option<i64>, Option<i64>);

fn lease(row: LeaseRow) -> Result<Lease, StoreError> {
    let (name, owner, generation, node, mode, claimed_at, held_until, released_at) = row;
    Ok(Lease {
        name: name.parse().map_err(|error| StoreError::new("read a name", error))?,
        owner,
        generation: from_column(generation),
        node,
        mode: if mode == "http" { ShareMode::Http } else { ShareMode::Mcp },
        claimed_at: from_column(claimed_at),
        held_until: held_until.map(from_column),
        released_at: released_at.map(from_column),
    })
}

type TokenRow = (String, String, String, Option<i64>, Option<String>, i64, i64, Option<i64>);

fn token(row: TokenRow) -> TokenRecord {
    let (jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at) = row;
    TokenRecord {
        jti,
        subject,
        names: names.split_whitespace().map(str::to_owned).collect(),
        max_shares: max_shares.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        bound_to,
        issued_at: from_column(issued_at),
        expires_at: from_column(expires_at),
        revoked_at: revoked_at.map(from_column),
    }
}

const CLAIM: &str = "
    INSERT INTO leases
        (name, owner, generation, node, mode, claimed_at, held_until, released_at)
    SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS BIGINT), CAST($4 AS TEXT),
        CAST($5 AS TEXT), CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST(NULL AS BIGINT)
    WHERE (
        SELECT COUNT(*) FROM leases
        WHERE owner = $2 AND name <> $1 AND released_at IS NULL
            AND (held_until IS NULL OR held_until > $6)
    ) < $8
    ON CONFLICT (name) DO UPDATE SET
        owner = excluded.owner,
        generation = CASE WHEN leases.generation >= excluded.generation
            THEN leases.generation + 1 ELSE excluded.generation END,
        node = excluded.node,
        mode = excluded.mode,
        claimed_at = excluded.claimed_at,
        held_until = excluded.held_until,
        released_at = NULL
    WHERE leases.owner = excluded.owner OR leases.released_at <= $9 OR leases.held_until <= $9
        OR ($3 > 1 AND leases.generation < $3)
    RETURNING name, owner, generation, node, mode, claimed_at, held_until, released_at";

#[async_trait]
impl Store for SqlStore {
    async fn claim(&self, claim: Claim) -> Result<Lease, ClaimError> {
        // Leases of others that ended by then are free; none is, when all must be kept for ever.
        let free_since = claim.now.checked_sub(claim.keep_secs).map_or(-1, to_column);
        let row: Option<LeaseRow> = sqlx::query_as(CLAIM)
            .bind(claim.name.as_str())
            .bind(&claim.owner)
            .bind(to_column(claim.floor_generation.saturating_add(1)))
            .bind(&claim.node)
            .bind(mode_to_column(claim.mode))
            .bind(to_column(claim.now))
            .bind(claim.expires_at.map(to_column))
            .bind(i64::from(claim.max_live))
            .bind(free_since)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed("claim a name"))?;
        match row {
            Some(row) => Ok(lease(row)?),
            None => Err(self.why_refused(claim).await),
        }
    }

    async fn renew(
        &self,
        name: &Name,
        generation: u64,
        now: u64,
        expires_at: Option<u64>,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE leases SET held_until = $4
             WHERE name = $1 AND generation = $2 AND released_at IS NULL
                 AND (held_until IS NULL OR held_until > $3)",
        )
        .bind(name.as_str())
        .bind(to_column(generation))
        .bind(to_column(now))
        .bind(expires_at.map(to_column))
        .execute(&self.pool)
        .await
        .map_err(failed("renew a lease"))?;
        Ok(done.rows_affected() > 0)
    }

    async fn release(
        &self,
        name: &Name,
        owner: &str,
        generation: u64,
        now: u64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE leases SET released_at = $4
             WHERE name = $1 AND owner = $2 AND generation = $3 AND released_at IS NULL
                 AND (held_until IS NULL OR held_until > $4)",
        )
        .bind(name.as_str())
        .bind(owner)
        .bind(to_column(generation))
        .bind(to_column(now))
        .execute(&self.pool)
        .await
        .map_err(failed("release a lease"))?;
        Ok(done.rows_affected() > 0)
    }

    async fn release_node(&self, node: &str, now: u64) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE leases SET released_at = $2
             WHERE node = $1 AND released_at IS NULL AND (held_until IS NULL OR held_until > $2)",
        )
        .bind(node)
        .bind(to_column(now))
        .execute(&self.pool)
        .await
        .map_err(failed("release the leases of a node"))?;
        Ok(done.rows_affected())
    }

    async fn lease(&self, name: &Name) -> Result<Option<Lease>, StoreError> {
        let row: Option<LeaseRow> = sqlx::query_as(
            "SELECT name, owner, generation, node, mode, claimed_at, held_until, released_at
             FROM leases WHERE name = $1",
        )
        .bind(name.as_str())
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("read a lease"))?;
        row.map(lease).transpose()
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let rows: Vec<LeaseRow> = sqlx::query_as(
            "SELECT name, owner, generation, node, mode, claimed_at, held_until, released_at
             FROM leases ORDER BY name",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the leases"))?;
        rows.into_iter().map(lease).collect()
    }

    async fn live_names(&self, owner: &str, now: u64) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM leases
             WHERE owner = $1 AND released_at IS NULL AND (held_until IS NULL OR held_until > $2)",
        )
        .bind(owner)
        .bind(to_column(now))
        .fetch_one(&self.pool)
        .await
        .map_err(failed("count names"))?;
        Ok(from_column(count))
    }

    async fn insert_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tokens
                 (jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&token.jti)
        .bind(&token.subject)
        .bind(token.names.join(" "))
        .bind(token.max_shares.map(i64::from))
        .bind(&token.bound_to)
        .bind(to_column(token.issued_at))
        .bind(to_column(token.expires_at))
        .bind(token.revoked_at.map(to_column))
        .execute(&self.pool)
        .await
        .map_err(failed("keep a token"))?;
        Ok(())
    }

    async fn token(&self, jti: &str) -> Result<Option<TokenRecord>, StoreError> {
        let row: Option<TokenRow> = sqlx::query_as(
            "SELECT jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at
             FROM tokens WHERE jti = $1",
        )
        .bind(jti)
        .fetch_optional(&self.pool)
        .await
        .map_err(failed("read a token"))?;
        Ok(row.map(token))
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows: Vec<TokenRow> = sqlx::query_as(
            "SELECT jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at
             FROM tokens ORDER BY issued_at, jti",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the tokens"))?;
        Ok(rows.into_iter().map(token).collect())
    }

    async fn revoke_token(&self, jti: &str, now: u64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE tokens SET revoked_at = COALESCE(revoked_at, CAST($2 AS BIGINT))
             WHERE jti = $1",
        )
        .bind(jti)
        .bind(to_column(now))
        .execute(&self.pool)
        .await
        .map_err(failed("revoke a token"))?;
        Ok(done.rows_affected() > 0)
    }

    async fn revoked(&self, now: u64) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(
            "SELECT jti FROM tokens WHERE revoked_at IS NOT NULL AND expires_at > $1 ORDER BY jti",
        )
        .bind(to_column(now))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the revoked tokens"))
    }

    async fn audit(&self, event: AuditEvent) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO audit (at, seq, action, actor, object)
             SELECT CAST($1 AS BIGINT),
                 COALESCE((SELECT MAX(seq) + 1 FROM audit WHERE at = $1), 0),
                 CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT)",
        )
        .bind(to_column(event.at))
        .bind(&event.action)
        .bind(&event.actor)
        .bind(&event.object)
        .execute(&self.pool)
        .await
        .map_err(failed("write the audit trail"))?;
        Ok(())
    }

    async fn audit_trail(&self, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        let rows: Vec<(i64, String, String, String)> = sqlx::query_as(
            "SELECT at, action, actor, object FROM audit ORDER BY at DESC, seq DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the audit trail"))?;
        let event =
            |(at, action, actor, object)| AuditEvent { at: from_column(at), action, actor, object };
        Ok(rows.into_iter().map(event).collect())
    }

    async fn prune(&self, before: u64) -> Result<u64, StoreError> {
        let mut pruned = 0;
        for statement in [
            "DELETE FROM leases WHERE released_at < $1 OR held_until < $1",
            "DELETE FROM tokens WHERE expires_at < $1",
            "DELETE FROM audit WHERE at < $1",
        ] {
            let done = sqlx::query(statement)
                .bind(to_column(before))
                .execute(&self.pool)
                .await
                .map_err(failed("forget what ended"))?;
            pruned += done.rows_affected();
        }
        Ok(pruned)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads the file, unlike `SELECT 1`.
        sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM (SELECT 1 FROM leases LIMIT 1) AS one")
            .fetch_one(&self.pool)
            .await
            .map(drop)
            .map_err(failed("read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open_in(dir: &tempfile::TempDir) -> SqlStore {
        SqlStore::open(&dir.path().join("relay.db")).await.unwrap()
    }

    #[tokio::test]
    async fn the_sqlite_store_keeps_the_contract() {
        let dirs = std::cell::RefCell::new(Vec::new());
        super::super::contract::check(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("relay.db");
            dirs.borrow_mut().push(dir);
            async move { SqlStore::open(&path).await.unwrap() }
        })
        .await;
    }

    #[tokio::test]
    async fn leases_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let calc: Name = "calc".parse().unwrap();
        let claim = Claim {
            name: calc.clone(),
            owner: "ada".to_owned(),
            node: "main".to_owned(),
            mode: ShareMode::Mcp,
            floor_generation: 0,
            now: 1,
            expires_at: None,
            keep_secs: 1,
            max_live: 1,
        };
        let store = open_in(&dir).await;
        let lease = store.claim(claim).await.unwrap();
        store.close().await;
        assert_eq!(open_in(&dir).await.lease(&calc).await.unwrap(), Some(lease));
    }

    #[tokio::test]
    async fn another_process_sees_a_revocation_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (serving, operator) = (open_in(&dir).await, open_in(&dir).await);
        let token = TokenRecord {
            jti: "t1".to_owned(),
            subject: "ada".to_owned(),
            names: vec!["*".to_owned()],
            max_shares: None,
            bound_to: None,
            issued_at: 1,
            expires_at: 10,
            revoked_at: None,
        };
        operator.insert_token(token).await.unwrap();
        assert!(operator.revoke_token("t1", 2).await.unwrap());
        assert_eq!(serving.revoked(2).await.unwrap(), ["t1"]);
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.db");
        std::fs::write(&path, "no database at all").unwrap();
        let error = SqlStore::open(&path).await.unwrap_err();
        assert_eq!(error.to_string(), "the relay's database failed to open its file");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "no database at all");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_file_and_its_side_files_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = open_in(&dir).await;
        store.revoke_token("none", 1).await.unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", entry.path().display());
            seen += 1;
        }
        assert!(seen >= 1);
    }
}
