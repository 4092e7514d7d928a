//! Custom domains, what is sealed, and turns, in a database.

use super::open::{self, failed};
use super::rows::{DomainRow, SealedColumns, domain, sealed, to_column};
use super::statements::{KEEP_SEALED, SET_DOMAIN, TAKE_TURN};
use super::{Pool, SqlStore};
use crate::store::{DomainRecord, SealedRow, StoreError};

impl SqlStore {
    pub(super) async fn change_domain(
        &self,
        record: DomainRecord,
        seen: u64,
    ) -> Result<bool, StoreError> {
        // Revisions must appear in their order, as those of rules.
        let row: Result<Option<(i64,)>, _> = alone!(self, "domains", executor => {
            sqlx::query_as(SET_DOMAIN)
                .bind(record.domain.as_str())
                .bind(&record.owner)
                .bind(record.name.as_str())
                .bind(&record.token)
                .bind(record.state.name())
                .bind(to_column(record.added_at))
                .bind(record.checked_at.map(to_column))
                .bind(record.proved_at.map(to_column))
                .bind(record.failing_since.map(to_column))
                .bind(&record.problem)
                .bind(to_column(record.changed_at))
                .bind(to_column(seen))
                .fetch_optional(executor)
        });
        row.map(|row| row.is_some()).map_err(failed("keep a domain"))
    }

    pub(super) async fn one_domain(&self, name: &str) -> Result<Option<DomainRecord>, StoreError> {
        let row: Option<DomainRow> = read!(
            self,
            fetch_optional,
            "read a domain",
            "SELECT domain, owner, name, token, state, added_at, checked_at, proved_at,
                 failing_since, problem, changed_at, revision
             FROM domains WHERE domain = $1",
            name,
        )?;
        row.map(domain).transpose()
    }

    pub(super) async fn domains_after(&self, after: u64) -> Result<Vec<DomainRecord>, StoreError> {
        let rows: Vec<DomainRow> = read!(
            self,
            fetch_all,
            "read the domains",
            "SELECT domain, owner, name, token, state, added_at, checked_at, proved_at,
                 failing_since, problem, changed_at, revision
             FROM domains WHERE revision > $1 ORDER BY revision",
            to_column(after),
        )?;
        rows.into_iter().map(domain).collect()
    }

    pub(super) async fn put_sealed(
        &self,
        name: &str,
        sealed: &str,
        now: u64,
    ) -> Result<(), StoreError> {
        let row: Result<(i64,), _> = alone!(self, "certificates", executor => {
            sqlx::query_as(KEEP_SEALED)
                .bind(name)
                .bind(sealed)
                .bind(to_column(now))
                .fetch_one(executor)
        });
        row.map(drop).map_err(failed("keep a certificate"))
    }

    pub(super) async fn one_sealed(&self, name: &str) -> Result<Option<SealedRow>, StoreError> {
        let row: Option<SealedColumns> = read!(
            self,
            fetch_optional,
            "read a certificate",
            "SELECT name, sealed, revision FROM certificates WHERE name = $1 AND sealed <> ''",
            name,
        )?;
        Ok(row.map(sealed))
    }

    pub(super) async fn all_sealed_after(
        &self,
        revision: u64,
    ) -> Result<Vec<SealedRow>, StoreError> {
        let rows: Vec<SealedColumns> = read!(
            self,
            fetch_all,
            "read the certificates",
            "SELECT name, sealed, revision FROM certificates WHERE revision > $1 ORDER BY revision",
            to_column(revision),
        )?;
        Ok(rows.into_iter().map(sealed).collect())
    }

    pub(super) async fn try_turn(
        &self,
        what: &str,
        holder: &str,
        now: u64,
        ends_at: u64,
    ) -> Result<bool, StoreError> {
        let (ends_at, now) = (to_column(ends_at), to_column(now));
        let changed = execute!(self, "take a turn", TAKE_TURN, what, holder, ends_at, now)?;
        Ok(changed > 0)
    }

    pub(super) async fn give_turn_back(&self, what: &str, holder: &str) -> Result<(), StoreError> {
        execute!(
            self,
            "end a turn",
            "DELETE FROM turns WHERE what = $1 AND holder = $2",
            what,
            holder,
        )
        .map(drop)
    }
}
