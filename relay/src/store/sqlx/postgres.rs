//! What holds for PostgreSQL, against a server of the test's own.

use std::sync::Arc;
use std::time::Duration;

use mcpm_shared::proto::ShareMode;

use super::private_postgres::PrivatePostgres;
use super::*;
use crate::store::{Guarded, Health, NameState};

const NOW: u64 = 1_800_000_000;
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn claim(name: &str, owner: &str) -> Claim {
    Claim {
        name: name.parse().unwrap(),
        owner: owner.to_owned(),
        node: "main".to_owned(),
        mode: ShareMode::Mcp,
        floor_generation: 0,
        now: NOW,
        expires_at: None,
        keep_secs: 60,
        max_live: 3,
    }
}

#[tokio::test]
async fn the_postgres_store_keeps_the_contract() {
    let Some(server) = PrivatePostgres::start() else { return };
    let fresh = || {
        let url = server.database();
        async move { SqlStore::connect(&url).await.unwrap() }
    };
    super::super::contract::check(fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_claims_of_two_nodes_are_fenced_and_counted() {
    let Some(server) = PrivatePostgres::start() else { return };
    let url = server.database();
    let nodes = [SqlStore::connect(&url).await.unwrap(), SqlStore::connect(&url).await.unwrap()];
    let claims = (0..200).map(|n| {
        let claim = Claim { node: format!("node{}", n % 2), ..claim("calc", "ada") };
        nodes[n % 2].claim(claim)
    });
    let given = futures_util::future::join_all(claims).await;
    let mut generations: Vec<_> = given.into_iter().map(|it| it.unwrap().generation).collect();
    generations.sort_unstable();
    assert_eq!(generations, (1..=200).collect::<Vec<u64>>(), "no generation was given twice");

    let strangers = (0..60).map(|n| nodes[n % 2].claim(claim("one", &format!("owner{n}"))));
    let won = futures_util::future::join_all(strangers).await;
    assert_eq!(won.iter().filter(|result| result.is_ok()).count(), 1);

    let names: Vec<_> = (0..40).map(|n| format!("n{n}")).collect();
    let many = names.iter().enumerate().map(|(n, name)| nodes[n % 2].claim(claim(name, "bob")));
    let given = futures_util::future::join_all(many).await;
    assert_eq!(given.iter().filter(|result| result.is_ok()).count(), 3, "the limit is exact");

    let tally = || crate::store::Tally::of_hour("names/owner/bob".to_owned(), NOW, 25);
    let counts = (0..100).map(|n| nodes[n % 2].count(tally()));
    let counted = futures_util::future::join_all(counts).await;
    let counted = counted.into_iter().filter(|it| *it.as_ref().unwrap()).count();
    assert_eq!(counted, 25, "two nodes share one limit");

    let names: Vec<Name> = (0..30).map(|n| format!("r{n}").parse().unwrap()).collect();
    let rules = names.iter().enumerate().map(|(n, name)| {
        let (name, state, note) = (name.clone(), NameState::Blocked, String::new());
        nodes[n % 2].set_name_rule(NameRule { name, state, note, changed_at: 1, revision: 0 })
    });
    for kept in futures_util::future::join_all(rules).await {
        kept.unwrap();
    }
    let rules = nodes[0].name_rules(0).await.unwrap();
    let revisions: Vec<_> = rules.iter().map(|rule| rule.revision).collect();
    assert_eq!(revisions, (1..=30).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_make_one_schema() {
    let Some(server) = PrivatePostgres::start() else { return };
    let url = server.database();
    let nodes = futures_util::future::join_all((0..4).map(|_| SqlStore::connect(&url))).await;
    for node in nodes {
        node.unwrap().ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_stops_is_noticed_and_used_again_when_it_is_back() {
    let Some(server) = PrivatePostgres::start() else { return };
    let store = SqlStore::connect(&server.database()).await.unwrap();
    let store = Guarded::new(Arc::new(store));
    store.claim(claim("calc", "ada")).await.unwrap();
    server.stop();
    let error = tokio::time::timeout(LONG, store.claim(claim("calc", "ada"))).await.unwrap();
    assert!(matches!(error, Err(ClaimError::Store(error)) if error.is_unreachable()));
    let started = std::time::Instant::now();
    assert!(store.ping().await.unwrap_err().is_unreachable());
    assert!(started.elapsed() < Duration::from_secs(1), "nobody waits for a server that is away");
    server.start_again();
    let mut health = store.health();
    tokio::select! {
        () = store.recover() => unreachable!("it recovers for ever"),
        up = tokio::time::timeout(LONG, health.wait_for(|it| *it == Health::Up)) => {
            drop(up.unwrap().unwrap());
        }
    }
    assert_eq!(store.claim(claim("calc", "ada")).await.unwrap().generation, 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unreachable_and_a_wrong_database_is_not() {
    let Some(server) = PrivatePostgres::start() else { return };
    let url = server.database();
    let error = SqlStore::connect(&url.replace("relay0", "none")).await.unwrap_err();
    assert!(!error.is_unreachable(), "{error:?}");
    server.stop();
    assert!(SqlStore::connect(&url).await.unwrap_err().is_unreachable());
}
