//! What owners used, what they were granted, and the audit trail by filters.

use sqlx::AssertSqlSafe;

use super::rows::{EventRow, QuotaRow, from_column, to_column};
use super::{Pool, SqlStore};
use crate::quota::{Amounts, DAY_SECS};
use crate::store::{AuditFilter, Usage};

/// How many rows one statement writes: five values each stay far below what a statement may have
/// (32,766 in SQLite, 65,535 in PostgreSQL).
const ROWS: usize = 1000;

/// Keeps a decision over an owner, as the latest of all.
pub(super) const SET_QUOTA: &str = "
    INSERT INTO owners (owner, max_shares, names_per_hour, requests_per_day, bytes_per_day,
        max_streams, blocked_at, note, changed_at, revision)
    SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), CAST($3 AS BIGINT), CAST($4 AS BIGINT),
        CAST($5 AS BIGINT), CAST($6 AS BIGINT), CAST($7 AS BIGINT), CAST($8 AS TEXT),
        CAST($9 AS BIGINT), (SELECT COALESCE(MAX(revision), 0) + 1 FROM owners)
    WHERE 1 = 1
    ON CONFLICT (owner) DO UPDATE SET
        max_shares = excluded.max_shares, names_per_hour = excluded.names_per_hour,
        requests_per_day = excluded.requests_per_day, bytes_per_day = excluded.bytes_per_day,
        max_streams = excluded.max_streams, blocked_at = excluded.blocked_at,
        note = excluded.note, changed_at = excluded.changed_at, revision = excluded.revision
    RETURNING revision";

/// Reads decisions over owners; what follows says which.
macro_rules! select_quotas {
    ($rest:literal) => {
        concat!(
            "SELECT owner, max_shares, names_per_hour, requests_per_day, bytes_per_day,
                 max_streams, blocked_at, note, changed_at, revision
             FROM owners ",
            $rest
        )
    };
}

const QUOTA: &str = select_quotas!("WHERE owner = $1");
const QUOTAS: &str = select_quotas!("ORDER BY owner");
const QUOTAS_AFTER: &str = select_quotas!("WHERE revision > $1 ORDER BY revision");

const EVENTS: &str = "
    SELECT at, action, actor, object, detail FROM audit
    WHERE (CAST($1 AS BIGINT) IS NULL OR at >= CAST($1 AS BIGINT))
        AND (CAST($2 AS BIGINT) IS NULL OR at < CAST($2 AS BIGINT))
        AND (CAST($3 AS TEXT) IS NULL OR action = CAST($3 AS TEXT)
            OR substr(action, 1, length(CAST($3 AS TEXT)) + 1) = CAST($3 AS TEXT) || '.')
        AND (CAST($4 AS TEXT) IS NULL OR actor = CAST($4 AS TEXT))
        AND (CAST($5 AS TEXT) IS NULL OR object = CAST($5 AS TEXT))
    ORDER BY at DESC, seq DESC LIMIT $6";

type UsageRow = (i64, String, i64, i64, i64);

fn usage((day, owner, requests, bytes_in, bytes_out): UsageRow) -> Usage {
    let amounts = Amounts {
        requests: from_column(requests),
        bytes_in: from_column(bytes_in),
        bytes_out: from_column(bytes_out),
    };
    Usage { day: from_column(day), owner, amounts }
}

/// Returns the statement that adds so many rows up.
fn adding(rows: usize) -> String {
    let row = |n: usize| {
        let at = n * 5;
        format!("(${}, ${}, ${}, ${}, ${})", at + 1, at + 2, at + 3, at + 4, at + 5)
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO usage (day, owner, requests, bytes_in, bytes_out) VALUES {}
         ON CONFLICT (day, owner) DO UPDATE SET
             requests = usage.requests + excluded.requests,
             bytes_in = usage.bytes_in + excluded.bytes_in,
             bytes_out = usage.bytes_out + excluded.bytes_out
         RETURNING day, owner, requests, bytes_in, bytes_out",
        rows.join(", ")
    )
}

/// Adds up in one transaction, on whichever database it is.
macro_rules! add_up {
    ($pool:ident, $used:ident) => {{
        let mut transaction = $pool.begin().await?;
        let mut totals = Vec::with_capacity($used.len());
        for rows in $used.chunks(ROWS) {
            let mut query = sqlx::query_as(AssertSqlSafe(adding(rows.len())));
            for row in rows {
                query = query
                    .bind(to_column(row.day))
                    .bind(&row.owner)
                    .bind(to_column(row.amounts.requests))
                    .bind(to_column(row.amounts.bytes_in))
                    .bind(to_column(row.amounts.bytes_out));
            }
            let rows: Vec<UsageRow> = query.fetch_all(&mut *transaction).await?;
            totals.extend(rows.into_iter().map(usage));
        }
        transaction.commit().await?;
        Ok(totals)
    }};
}

/// Reads all rows, on whichever database it is.
macro_rules! rows {
    ($self:ident, $sql:expr $(, $value:expr)* $(,)?) => {
        match &$self.pool {
            Pool::Sqlite(pool) => sqlx::query_as($sql)$(.bind($value))*.fetch_all(pool).await,
            Pool::Postgres(pool) => sqlx::query_as($sql)$(.bind($value))*.fetch_all(pool).await,
        }
    };
}

impl SqlStore {
    pub(super) async fn add_up(&self, mut used: Vec<Usage>) -> Result<Vec<Usage>, sqlx::Error> {
        // In one order everywhere: nodes that write at once must not wait for each other in a ring.
        used.sort_by(|a, b| (&a.owner, a.day).cmp(&(&b.owner, b.day)));
        match &self.pool {
            Pool::Sqlite(pool) => add_up!(pool, used),
            Pool::Postgres(pool) => add_up!(pool, used),
        }
    }

    pub(super) async fn used(&self, day: u64, limit: u32) -> Result<Vec<Usage>, sqlx::Error> {
        let rows: Vec<UsageRow> = rows!(
            self,
            "SELECT day, owner, requests, bytes_in, bytes_out FROM usage
             WHERE day = $1 ORDER BY requests DESC, owner LIMIT $2",
            to_column(day),
            i64::from(limit),
        )?;
        Ok(rows.into_iter().map(usage).collect())
    }

    pub(super) async fn used_by(&self, owner: &str, since: u64) -> Result<Vec<Usage>, sqlx::Error> {
        let rows: Vec<UsageRow> = rows!(
            self,
            "SELECT day, owner, requests, bytes_in, bytes_out FROM usage
             WHERE owner = $1 AND day >= $2 ORDER BY day",
            owner,
            to_column(since),
        )?;
        Ok(rows.into_iter().map(usage).collect())
    }

    pub(super) async fn quota_rows(
        &self,
        owner: Option<&str>,
    ) -> Result<Vec<QuotaRow>, sqlx::Error> {
        match owner {
            Some(owner) => rows!(self, QUOTA, owner),
            None => rows!(self, QUOTAS),
        }
    }

    pub(super) async fn quota_rows_after(&self, after: u64) -> Result<Vec<QuotaRow>, sqlx::Error> {
        rows!(self, QUOTAS_AFTER, to_column(after))
    }

    pub(super) async fn events(&self, filter: &AuditFilter) -> Result<Vec<EventRow>, sqlx::Error> {
        let AuditFilter { limit, since, until, action, actor, object } = filter;
        rows!(
            self,
            EVENTS,
            since.map(to_column),
            until.map(to_column),
            action.as_deref(),
            actor.as_deref(),
            object.as_deref(),
            i64::from(*limit),
        )
    }
}

/// Returns the day before which amounts are forgotten when all before a time is.
pub(super) fn first_day_kept(before: u64) -> i64 {
    to_column(before / DAY_SECS)
}
