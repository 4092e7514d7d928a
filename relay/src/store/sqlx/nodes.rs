//! Nodes in the database, and what PostgreSQL tells them of each other.
//!
//! Triggers tell of every change, whichever statement or program makes it, when its transaction is
//! committed: no news is lost between a change and the telling.

use async_trait::async_trait;
use serde::Deserialize;
use sqlx::postgres::{PgListener, PgPool};

use super::open::{begin_alone, failed};
use super::rows::{from_column, to_column};
use super::{Pool, SqlStore};
use crate::store::{Beat, Feed, NewNode, News, NodeRecord, StoreError};

/// What PostgreSQL tells on.
const CHANNEL: &str = "mcpm_relay";
const TRIGGERS: &str = "
    SELECT COUNT(*) FROM pg_trigger
    WHERE tgname = 'mcpm_relay_tell' AND tgrelid IN (to_regclass('leases'), to_regclass('nodes'))";
const MAKE_TRIGGERS: &str = "
    CREATE OR REPLACE FUNCTION mcpm_relay_tell() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        news json;
    BEGIN
        IF TG_TABLE_NAME = 'leases' THEN
            news := json_build_object('lease', NEW.name, 'generation', NEW.generation,
                'node', NEW.node, 'ended', NEW.released_at IS NOT NULL);
        ELSIF TG_OP = 'DELETE' THEN
            news := json_build_object('lost', OLD.id);
        ELSE
            news := json_build_object('entered', NEW.id);
        END IF;
        PERFORM pg_notify('mcpm_relay', news::text);
        RETURN NULL;
    END
    $$;
    DROP TRIGGER IF EXISTS mcpm_relay_tell ON leases;
    CREATE TRIGGER mcpm_relay_tell AFTER INSERT OR UPDATE OF generation, released_at ON leases
        FOR EACH ROW EXECUTE FUNCTION mcpm_relay_tell();
    DROP TRIGGER IF EXISTS mcpm_relay_tell ON nodes;
    CREATE TRIGGER mcpm_relay_tell AFTER INSERT OR DELETE OR UPDATE OF generation ON nodes
        FOR EACH ROW EXECUTE FUNCTION mcpm_relay_tell();";

const ENTER: &str = "
    INSERT INTO nodes (id, address, generation, beats, version, draining, started_at, seen_at)
    VALUES ($1, $2, $3, 0, $4, 0, $3, $3)
    ON CONFLICT (id) DO UPDATE SET
        address = excluded.address,
        generation = CASE WHEN nodes.generation >= excluded.generation
            THEN nodes.generation + 1 ELSE excluded.generation END,
        beats = nodes.beats + 1,
        version = excluded.version,
        draining = 0,
        started_at = excluded.started_at,
        seen_at = excluded.seen_at
    RETURNING generation";

type NodeRow = (String, String, i64, i64, String, i64, i64, i64);

/// Makes what tells of changes, unless it is there.
pub(super) async fn tell_of_changes(pool: &PgPool) -> Result<(), sqlx::Error> {
    let there = || sqlx::query_as::<_, (i64,)>(TRIGGERS);
    if there().fetch_one(pool).await? == (2,) {
        return Ok(());
    }
    // Of nodes that start together one does it.
    let mut transaction = begin_alone(pool, CHANNEL).await?;
    if there().fetch_one(&mut *transaction).await? != (2,) {
        sqlx::raw_sql(MAKE_TRIGGERS).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

impl SqlStore {
    pub(super) async fn enter(&self, node: NewNode) -> Result<u64, StoreError> {
        let (generation,): (i64,) = read!(
            self,
            fetch_one,
            "enter a node",
            ENTER,
            &node.id,
            &node.address,
            to_column(node.now),
            &node.version,
        )?;
        Ok(from_column(generation))
    }

    pub(super) async fn beat(
        &self,
        id: &str,
        generation: u64,
        draining: bool,
        now: u64,
    ) -> Result<Beat, StoreError> {
        let changed = execute!(
            self,
            "note that a node lives",
            "UPDATE nodes SET beats = beats + 1, draining = $3, seen_at = $4
             WHERE id = $1 AND generation = $2",
            id,
            to_column(generation),
            i64::from(draining),
            to_column(now),
        )?;
        let rows: Vec<NodeRow> = read!(
            self,
            fetch_all,
            "read the nodes",
            "SELECT id, address, generation, beats, version, draining, started_at, seen_at
             FROM nodes ORDER BY id",
        )?;
        Ok(Beat { known: changed > 0, nodes: rows.into_iter().map(record).collect() })
    }

    pub(super) async fn lose(
        &self,
        id: &str,
        generation: u64,
        beats: Option<u64>,
    ) -> Result<bool, StoreError> {
        let changed = execute!(
            self,
            "take a node out",
            "DELETE FROM nodes WHERE id = $1 AND generation = $2 AND beats = COALESCE($3, beats)",
            id,
            to_column(generation),
            beats.map(to_column),
        )?;
        Ok(changed > 0)
    }

    pub(super) async fn free_orphans(&self, now: u64) -> Result<u64, StoreError> {
        execute!(
            self,
            "release the leases of lost nodes",
            "UPDATE leases SET released_at = $1
             WHERE released_at IS NULL AND (held_until IS NULL OR held_until > $1)
                 AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.id = leases.node)",
            to_column(now),
        )
    }

    pub(super) async fn listen(&self) -> Result<Option<Box<dyn Feed>>, StoreError> {
        let Pool::Postgres(pool) = &self.pool else { return Ok(None) };
        let listening = async {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        let listener = listening.await.map_err(failed("listen"))?;
        Ok(Some(Box::new(PostgresFeed(listener))))
    }
}

fn record(row: NodeRow) -> NodeRecord {
    let (id, address, generation, beats, version, draining, started_at, seen_at) = row;
    NodeRecord {
        id,
        address,
        generation: from_column(generation),
        beats: from_column(beats),
        version,
        draining: draining != 0,
        started_at: from_column(started_at),
        seen_at: from_column(seen_at),
    }
}

/// Hears what PostgreSQL tells.
struct PostgresFeed(PgListener);

impl std::fmt::Debug for PostgresFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostgresFeed")
    }
}

#[async_trait]
impl Feed for PostgresFeed {
    async fn next(&mut self) -> Result<News, StoreError> {
        // `None` stands for a connection that was lost; a new one listens already.
        let told = self.0.try_recv().await.map_err(failed("listen"))?;
        Ok(told.map_or(News::Gap, |told| read_news(told.payload())))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Lease { lease: String, generation: i64, node: String, ended: bool },
    Lost { lost: String },
    Entered { entered: String },
}

/// Reads what was told. What a later version may tell means that something changed.
fn read_news(payload: &str) -> News {
    match serde_json::from_str(payload) {
        Ok(Told::Lease { lease, generation, node, ended }) => match lease.parse() {
            Ok(name) => News::Lease { name, generation: from_column(generation), node, ended },
            Err(_) => News::Gap,
        },
        Ok(Told::Lost { lost }) => News::Lost(lost),
        Ok(Told::Entered { entered }) => News::Entered(entered),
        Err(_) => News::Gap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_that_cannot_be_read_means_that_all_must_be() {
        let told = r#"{"lease" : "calc", "generation" : 7, "node" : "a", "ended" : false}"#;
        let (name, node) = ("calc".parse().unwrap(), "a".to_owned());
        let news = News::Lease { name, generation: 7, node, ended: false };
        assert_eq!(read_news(told), news);
        assert_eq!(read_news(r#"{"lost":"a"}"#), News::Lost("a".to_owned()));
        assert_eq!(read_news(r#"{"entered":"a"}"#), News::Entered("a".to_owned()));
        for odd in ["", "{}", "[1]", r#"{"lease":"-","generation":1,"node":"a","ended":true}"#] {
            assert_eq!(read_news(odd), News::Gap, "{odd}");
        }
    }
}
