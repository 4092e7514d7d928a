//! A database that an earlier version wrote opens, with all that it holds.

use sqlx::Executor as _;

use super::open::{MIGRATIONS, sqlite_pool};
use super::*;
use crate::store::NameState;

/// What a relay of the first schema left behind.
const LEFT: [&str; 3] = [
    "INSERT INTO leases VALUES ('calc', 'key:a', 7, 'main', 'mcp', 100, NULL, 120)",
    "INSERT INTO tokens VALUES ('t1', 'ada', 'ada-* calc', 4, NULL, 100, 900, NULL)",
    "INSERT INTO audit VALUES (100, 0, 'token.issue', 'operator', 't1')",
];

async fn holds_what_was_left(store: &SqlStore) {
    let calc: Name = "calc".parse().unwrap();
    let lease = store.lease(&calc).await.unwrap().unwrap();
    assert_eq!((lease.owner.as_str(), lease.generation), ("key:a", 7));
    assert_eq!(store.token("t1").await.unwrap().unwrap().names, ["ada-*", "calc"]);
    let trail = store.audit_trail(9).await.unwrap();
    assert_eq!((trail[0].object.as_str(), trail[0].detail.as_str()), ("t1", ""));
    let (state, note) = (NameState::Blocked, String::new());
    let rule = NameRule { name: calc.clone(), state, note, changed_at: 1, revision: 0 };
    store.set_name_rule(rule).await.unwrap();
    assert_eq!(store.name_rule(&calc).await.unwrap().unwrap().revision, 1);
}

#[tokio::test]
async fn a_file_of_the_first_schema_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.db");
    drop(std::fs::File::create(&path).unwrap());
    let old = sqlite_pool(&path).await.unwrap();
    MIGRATIONS.run_to(1, &old).await.unwrap();
    for statement in LEFT {
        old.execute(statement).await.unwrap();
    }
    old.close().await;
    holds_what_was_left(&SqlStore::open(&path).await.unwrap()).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_database_of_the_first_schema_opens_on_postgres() {
    let Some(server) = super::private_postgres::PrivatePostgres::start() else { return };
    let url = server.database();
    let old = PgPool::connect(&url).await.unwrap();
    MIGRATIONS.run_to(1, &old).await.unwrap();
    for statement in LEFT {
        old.execute(statement).await.unwrap();
    }
    old.close().await;
    holds_what_was_left(&SqlStore::connect(&url).await.unwrap()).await;
}
