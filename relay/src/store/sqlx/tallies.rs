//! What is counted for all nodes together, in a database.

use super::open::failed;
use super::rows::to_column;
use super::{Pool, SqlStore};
use crate::store::{StoreError, Tally};

/// Counts once more, unless that is over the limit. Of two that race for the last place, PostgreSQL
/// has one wait for the row and look at the condition again.
const COUNT: &str = "
    INSERT INTO tallies (what, began, counted)
    SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), 1 WHERE CAST($3 AS BIGINT) > 0
    ON CONFLICT (what) DO UPDATE SET
        counted = CASE WHEN tallies.began < excluded.began THEN 1 ELSE tallies.counted + 1 END,
        began = CASE WHEN tallies.began < excluded.began
            THEN excluded.began ELSE tallies.began END
    WHERE tallies.began < excluded.began OR tallies.counted < CAST($3 AS BIGINT)";

impl SqlStore {
    pub(super) async fn count_up(&self, tally: Tally) -> Result<bool, StoreError> {
        let (began, limit) = (to_column(tally.began), to_column(tally.limit));
        let changed = execute!(self, "count", COUNT, &tally.what, began, limit)?;
        Ok(changed > 0)
    }

    pub(super) async fn count_down(&self, what: &str, began: u64) -> Result<(), StoreError> {
        execute!(
            self,
            "take a count back",
            "UPDATE tallies SET counted = counted - 1
             WHERE what = $1 AND began = $2 AND counted > 0",
            what,
            to_column(began),
        )
        .map(drop)
    }

    pub(super) async fn drop_tallies(&self, before: u64) -> Result<u64, StoreError> {
        execute!(self, "forget counts", "DELETE FROM tallies WHERE began < $1", to_column(before),)
    }
}
