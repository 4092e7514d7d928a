//! A store in an SQLite file or a PostgreSQL database. One schema and one text of every statement
//! serve both: the SQL is their common ground.

mod open;
mod rows;
mod statements;
mod usage;

#[cfg(test)]
mod old_schema;
#[cfg(test)]
#[cfg(unix)]
mod postgres;
#[cfg(test)]
#[cfg(unix)]
pub(crate) mod private_postgres;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use mcpm_shared::name::Name;
use sqlx::{PgPool, SqlitePool};

use self::open::failed;
use self::rows::{
    LeaseRow, RuleRow, TokenRow, event, from_column, lease, mode_to_column, quota, rule,
    state_to_columns, to_column, token,
};
use self::statements::{CLAIM, RESTORE, SET_RULE};
use self::usage::SET_QUOTA;
use super::{
    AuditEvent, AuditFilter, Beat, Claim, ClaimError, DomainRecord, Feed, Lease, NameRule, NewNode,
    OwnerQuota, SealedRow, Store, StoreError, Tally, TokenRecord, Usage, refused_by,
};

/// A [`Store`] in a database.
#[derive(Debug)]
pub struct SqlStore {
    pool: Pool,
}

#[derive(Debug)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Changes rows, on whichever database it is, and gives their number.
macro_rules! execute {
    ($self:ident, $action:literal, $sql:expr $(, $value:expr)* $(,)?) => {
        match &$self.pool {
            Pool::Sqlite(pool) => {
                let done = sqlx::query($sql)$(.bind($value))*.execute(pool).await;
                done.map(|done| done.rows_affected())
            }
            Pool::Postgres(pool) => {
                let done = sqlx::query($sql)$(.bind($value))*.execute(pool).await;
                done.map(|done| done.rows_affected())
            }
        }
        .map_err(failed($action))
    };
}

/// Reads rows, on whichever database it is; `$fetch` says how many.
macro_rules! read {
    ($self:ident, $fetch:ident, $action:literal, $sql:expr $(, $value:expr)* $(,)?) => {
        match &$self.pool {
            Pool::Sqlite(pool) => sqlx::query_as($sql)$(.bind($value))*.$fetch(pool).await,
            Pool::Postgres(pool) => sqlx::query_as($sql)$(.bind($value))*.$fetch(pool).await,
        }
        .map_err(failed($action))
    };
}

/// Changes rows while nobody changes what belongs to the same `$key`. SQLite has one writer anyhow;
/// PostgreSQL would let two look at the same state and both go on.
macro_rules! alone {
    ($self:ident, $key:expr, $executor:ident => $query:expr) => {
        match &$self.pool {
            Pool::Sqlite($executor) => $query.await,
            Pool::Postgres(pool) => match open::begin_alone(pool, $key).await {
                Ok(mut transaction) => {
                    let $executor = &mut *transaction;
                    match $query.await {
                        Ok(done) => transaction.commit().await.map(|()| done),
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            },
        }
    };
}

// Below the macros, which it uses.
mod nodes;

// Below the macros, which it uses.
mod domains;

// Below the macros, which it uses.
mod tallies;

impl SqlStore {
    /// Tells why a claim gave nothing. A racing change may make the answer stale, never the claim.
    async fn why_refused(&self, claim: Claim) -> Result<ClaimError, StoreError> {
        let rule = self.name_rule(&claim.name).await?.map(|rule| rule.state);
        if let Some(rule) = &rule
            && !rule.allows(&claim.owner, claim.now)
        {
            return Ok(refused_by(rule, claim.name));
        }
        let held = self.lease(&claim.name).await?;
        if rule.is_none_or(|rule| !rule.is_in_force(claim.now))
            && held.is_some_and(|held| held.owner != claim.owner && !held.owner.is_empty())
        {
            return Ok(ClaimError::Taken(claim.name));
        }
        let max = self.owner_quota(&claim.owner).await?.and_then(|quota| quota.max_shares);
        Ok(ClaimError::TooMany { max: max.unwrap_or(claim.max_live) })
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn claim(&self, claim: Claim) -> Result<Lease, ClaimError> {
        // Leases of others that ended by then are free; none is, when all must be kept for ever.
        let free_since = claim.now.checked_sub(claim.keep_secs).map_or(-1, to_column);
        let row: Option<LeaseRow> = alone!(self, &claim.owner, executor => {
            sqlx::query_as(CLAIM)
                .bind(claim.name.as_str())
                .bind(&claim.owner)
                .bind(to_column(claim.floor_generation.saturating_add(1)))
                .bind(&claim.node)
                .bind(mode_to_column(claim.mode))
                .bind(to_column(claim.now))
                .bind(claim.expires_at.map(to_column))
                .bind(i64::from(claim.max_live))
                .bind(free_since)
                .fetch_optional(executor)
        })
        .map_err(failed("claim a name"))?;
        match row {
            Some(row) => Ok(lease(row)?),
            None => Err(self.why_refused(claim).await?),
        }
    }

    async fn restore(&self, lease: Lease) -> Result<bool, StoreError> {
        let changed = execute!(
            self,
            "restore a lease",
            RESTORE,
            lease.name.as_str(),
            &lease.owner,
            to_column(lease.generation),
            &lease.node,
            mode_to_column(lease.mode),
            to_column(lease.claimed_at),
            lease.held_until.map(to_column),
        )?;
        Ok(changed > 0)
    }

    async fn renew(
        &self,
        name: &Name,
        generation: u64,
        now: u64,
        expires_at: Option<u64>,
    ) -> Result<bool, StoreError> {
        let changed = execute!(
            self,
            "renew a lease",
            "UPDATE leases SET held_until = $4
             WHERE name = $1 AND generation = $2 AND released_at IS NULL
                 AND (held_until IS NULL OR held_until > $3)",
            name.as_str(),
            to_column(generation),
            to_column(now),
            expires_at.map(to_column),
        )?;
        Ok(changed > 0)
    }

    async fn release(
        &self,
        name: &Name,
        owner: &str,
        generation: u64,
        now: u64,
    ) -> Result<bool, StoreError> {
        let changed = execute!(
            self,
            "release a lease",
            "UPDATE leases SET released_at = $4
             WHERE name = $1 AND owner = $2 AND generation = $3 AND released_at IS NULL
                 AND (held_until IS NULL OR held_until > $4)",
            name.as_str(),
            owner,
            to_column(generation),
            to_column(now),
        )?;
        Ok(changed > 0)
    }

    async fn release_node(&self, node: &str, now: u64) -> Result<u64, StoreError> {
        execute!(
            self,
            "release the leases of a node",
            "UPDATE leases SET released_at = $2
             WHERE node = $1 AND released_at IS NULL AND (held_until IS NULL OR held_until > $2)",
            node,
            to_column(now),
        )
    }

    async fn enter_node(&self, node: NewNode) -> Result<u64, StoreError> {
        let (id, now) = (node.id.clone(), node.now);
        let generation = self.enter(node).await?;
        self.release_node(&id, now).await?;
        Ok(generation)
    }

    async fn beat_node(
        &self,
        id: &str,
        generation: u64,
        draining: bool,
        now: u64,
    ) -> Result<Beat, StoreError> {
        self.beat(id, generation, draining, now).await
    }

    async fn lose_node(
        &self,
        id: &str,
        generation: u64,
        beats: Option<u64>,
    ) -> Result<bool, StoreError> {
        self.lose(id, generation, beats).await
    }

    async fn release_orphans(&self, now: u64) -> Result<u64, StoreError> {
        self.free_orphans(now).await
    }

    async fn feed(&self) -> Result<Option<Box<dyn Feed>>, StoreError> {
        self.listen().await
    }

    async fn lease(&self, name: &Name) -> Result<Option<Lease>, StoreError> {
        let row: Option<LeaseRow> = read!(
            self,
            fetch_optional,
            "read a lease",
            "SELECT name, owner, generation, node, mode, claimed_at, held_until, released_at
             FROM leases WHERE name = $1",
            name.as_str(),
        )?;
        row.map(lease).transpose()
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let rows: Vec<LeaseRow> = read!(
            self,
            fetch_all,
            "read the leases",
            "SELECT name, owner, generation, node, mode, claimed_at, held_until, released_at
             FROM leases ORDER BY name",
        )?;
        rows.into_iter().map(lease).collect()
    }

    async fn live_names(&self, owner: &str, now: u64) -> Result<u64, StoreError> {
        let (count,): (i64,) = read!(
            self,
            fetch_one,
            "count names",
            "SELECT COUNT(*) FROM leases
             WHERE owner = $1 AND released_at IS NULL AND (held_until IS NULL OR held_until > $2)",
            owner,
            to_column(now),
        )?;
        Ok(from_column(count))
    }

    async fn vacate(&self, name: &Name, now: u64) -> Result<Option<String>, StoreError> {
        let Some(held) = self.lease(name).await?.filter(|held| !held.owner.is_empty()) else {
            return Ok(None);
        };
        let changed = execute!(
            self,
            "take a name from its owner",
            "UPDATE leases SET owner = '',
                 released_at = COALESCE(released_at, CAST($3 AS BIGINT))
             WHERE name = $1 AND owner = $2",
            name.as_str(),
            &held.owner,
            to_column(now),
        )?;
        Ok((changed > 0).then_some(held.owner))
    }

    async fn set_name_rule(&self, rule: NameRule) -> Result<(), StoreError> {
        let (state, owner, ends_at) = state_to_columns(&rule.state);
        // Revisions must appear in their order: a relay asks for those above the last it saw.
        let row: Result<(i64,), _> = alone!(self, "name_rules", executor => {
            sqlx::query_as(SET_RULE)
                .bind(rule.name.as_str())
                .bind(state)
                .bind(owner)
                .bind(ends_at)
                .bind(&rule.note)
                .bind(to_column(rule.changed_at))
                .fetch_one(executor)
        });
        row.map(drop).map_err(failed("keep a rule over a name"))
    }

    async fn name_rule(&self, name: &Name) -> Result<Option<NameRule>, StoreError> {
        let row: Option<RuleRow> = read!(
            self,
            fetch_optional,
            "read the rule over a name",
            "SELECT name, state, owner, ends_at, note, changed_at, revision
             FROM name_rules WHERE name = $1",
            name.as_str(),
        )?;
        row.map(rule).transpose()
    }

    async fn name_rules(&self, after: u64) -> Result<Vec<NameRule>, StoreError> {
        let rows: Vec<RuleRow> = read!(
            self,
            fetch_all,
            "read the rules over names",
            "SELECT name, state, owner, ends_at, note, changed_at, revision
             FROM name_rules WHERE revision > $1 ORDER BY revision",
            to_column(after),
        )?;
        rows.into_iter().map(rule).collect()
    }

    async fn set_owner_quota(&self, quota: OwnerQuota) -> Result<(), StoreError> {
        // Revisions must appear in their order, as those of rules.
        let row: Result<(i64,), _> = alone!(self, "owners", executor => {
            sqlx::query_as(SET_QUOTA)
                .bind(&quota.owner)
                .bind(quota.max_shares.map(i64::from))
                .bind(quota.names_per_hour.map(to_column))
                .bind(quota.requests_per_day.map(to_column))
                .bind(quota.bytes_per_day.map(to_column))
                .bind(quota.max_streams.map(to_column))
                .bind(quota.blocked_at.map(to_column))
                .bind(&quota.note)
                .bind(to_column(quota.changed_at))
                .fetch_one(executor)
        });
        row.map(drop).map_err(failed("keep a quota"))
    }

    async fn owner_quota(&self, owner: &str) -> Result<Option<OwnerQuota>, StoreError> {
        let rows = self.quota_rows(Some(owner)).await.map_err(failed("read a quota"))?;
        Ok(rows.into_iter().next().map(quota))
    }

    async fn owner_quotas(&self) -> Result<Vec<OwnerQuota>, StoreError> {
        let rows = self.quota_rows(None).await.map_err(failed("read the quotas"))?;
        Ok(rows.into_iter().map(quota).collect())
    }

    async fn owner_quotas_after(&self, revision: u64) -> Result<Vec<OwnerQuota>, StoreError> {
        let rows = self.quota_rows_after(revision).await.map_err(failed("read the quotas"))?;
        Ok(rows.into_iter().map(quota).collect())
    }

    async fn add_usage(&self, used: Vec<Usage>) -> Result<Vec<Usage>, StoreError> {
        self.add_up(used).await.map_err(failed("add up what owners used"))
    }

    async fn usage(&self, day: u64, limit: u32) -> Result<Vec<Usage>, StoreError> {
        self.used(day, limit).await.map_err(failed("read what owners used"))
    }

    async fn usage_of(&self, owner: &str, since_day: u64) -> Result<Vec<Usage>, StoreError> {
        self.used_by(owner, since_day).await.map_err(failed("read what an owner used"))
    }

    async fn set_domain(&self, record: DomainRecord, seen: u64) -> Result<bool, StoreError> {
        self.change_domain(record, seen).await
    }

    async fn domain(&self, domain: &str) -> Result<Option<DomainRecord>, StoreError> {
        self.one_domain(domain).await
    }

    async fn domains(&self, after: u64) -> Result<Vec<DomainRecord>, StoreError> {
        self.domains_after(after).await
    }

    async fn keep_sealed(&self, name: &str, sealed: &str, now: u64) -> Result<(), StoreError> {
        self.put_sealed(name, sealed, now).await
    }

    async fn sealed(&self, name: &str) -> Result<Option<SealedRow>, StoreError> {
        self.one_sealed(name).await
    }

    async fn sealed_after(&self, revision: u64) -> Result<Vec<SealedRow>, StoreError> {
        self.all_sealed_after(revision).await
    }

    async fn take_turn(
        &self,
        what: &str,
        holder: &str,
        now: u64,
        ends_at: u64,
    ) -> Result<bool, StoreError> {
        self.try_turn(what, holder, now, ends_at).await
    }

    async fn end_turn(&self, what: &str, holder: &str) -> Result<(), StoreError> {
        self.give_turn_back(what, holder).await
    }

    async fn count(&self, tally: Tally) -> Result<bool, StoreError> {
        self.count_up(tally).await
    }

    async fn take_back(&self, what: &str, began: u64) -> Result<(), StoreError> {
        self.count_down(what, began).await
    }

    async fn forget_tallies(&self, before: u64) -> Result<u64, StoreError> {
        self.drop_tallies(before).await
    }

    fn is_shared(&self) -> bool {
        matches!(self.pool, Pool::Postgres(_))
    }

    async fn insert_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        execute!(
            self,
            "keep a token",
            "INSERT INTO tokens
                 (jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &token.jti,
            &token.subject,
            token.names.join(" "),
            token.max_shares.map(i64::from),
            &token.bound_to,
            to_column(token.issued_at),
            to_column(token.expires_at),
            token.revoked_at.map(to_column),
        )
        .map(drop)
    }

    async fn token(&self, jti: &str) -> Result<Option<TokenRecord>, StoreError> {
        let row: Option<TokenRow> = read!(
            self,
            fetch_optional,
            "read a token",
            "SELECT jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at
             FROM tokens WHERE jti = $1",
            jti,
        )?;
        Ok(row.map(token))
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let rows: Vec<TokenRow> = read!(
            self,
            fetch_all,
            "read the tokens",
            "SELECT jti, subject, names, max_shares, bound_to, issued_at, expires_at, revoked_at
             FROM tokens ORDER BY issued_at, jti",
        )?;
        Ok(rows.into_iter().map(token).collect())
    }

    async fn revoke_token(&self, jti: &str, now: u64) -> Result<bool, StoreError> {
        let changed = execute!(
            self,
            "revoke a token",
            "UPDATE tokens SET revoked_at = COALESCE(revoked_at, CAST($2 AS BIGINT))
             WHERE jti = $1",
            jti,
            to_column(now),
        )?;
        Ok(changed > 0)
    }

    async fn revoked(&self, now: u64) -> Result<Vec<String>, StoreError> {
        let rows: Vec<(String,)> = read!(
            self,
            fetch_all,
            "read the revoked tokens",
            "SELECT jti FROM tokens WHERE revoked_at IS NOT NULL AND expires_at > $1 ORDER BY jti",
            to_column(now),
        )?;
        Ok(rows.into_iter().map(|(jti,)| jti).collect())
    }

    async fn audit(&self, event: AuditEvent) -> Result<(), StoreError> {
        execute!(
            self,
            "write the audit trail",
            "INSERT INTO audit (at, seq, action, actor, object, detail)
             SELECT CAST($1 AS BIGINT),
                 COALESCE((SELECT MAX(seq) + 1 FROM audit WHERE at = $1), 0),
                 CAST($2 AS TEXT), CAST($3 AS TEXT), CAST($4 AS TEXT), CAST($5 AS TEXT)",
            to_column(event.at),
            &event.action,
            &event.actor,
            &event.object,
            &event.detail,
        )
        .map(drop)
    }

    async fn audit_events(&self, filter: AuditFilter) -> Result<Vec<AuditEvent>, StoreError> {
        let rows = self.events(&filter).await.map_err(failed("read the audit trail"))?;
        Ok(rows.into_iter().map(event).collect())
    }

    async fn prune(&self, before: u64) -> Result<u64, StoreError> {
        let mut pruned = 0;
        for statement in [
            "DELETE FROM leases WHERE released_at < $1 OR held_until < $1",
            "DELETE FROM tokens WHERE expires_at < $1",
            "DELETE FROM audit WHERE at < $1",
        ] {
            pruned += execute!(self, "forget what ended", statement, to_column(before))?;
        }
        let day = usage::first_day_kept(before);
        execute!(self, "forget what owners used", "DELETE FROM usage WHERE day < $1", day)?;
        // These only tell others that something is gone, and their highest revisions stay.
        for statement in [
            "DELETE FROM domains WHERE state = 'removed' AND changed_at < $1
                 AND revision < (SELECT MAX(revision) FROM domains)",
            "DELETE FROM certificates WHERE sealed = '' AND changed_at < $1
                 AND revision < (SELECT MAX(revision) FROM certificates)",
            "DELETE FROM turns WHERE ends_at < $1",
        ] {
            execute!(self, "forget what was removed", statement, to_column(before))?;
        }
        Ok(pruned)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Reads the database, unlike `SELECT 1`.
        let _one: (i64,) = read!(
            self,
            fetch_one,
            "read",
            "SELECT COUNT(*) FROM (SELECT 1 FROM leases LIMIT 1) AS one",
        )?;
        Ok(())
    }
}
