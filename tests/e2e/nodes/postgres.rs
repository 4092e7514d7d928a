//! The same over PostgreSQL, which tells all nodes of every change.

#![cfg(unix)]

use std::sync::Arc;

use harness::{Service, TestAgent, eventually, soon, visitor};
use mcpm_relay::Ports;
use mcpm_relay::store::{MemoryStore, News, SqlStore, Store};

use super::Nodes;
use super::private_postgres::PrivatePostgres;

async fn ports(url: &str) -> Ports {
    Ports { store: Arc::new(SqlStore::connect(url).await.unwrap()), ..Ports::in_memory() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_over_postgres_find_shares_and_go_on_while_it_is_away() {
    let Some(server) = PrivatePostgres::start() else { return };
    let nodes = Nodes::on(ports(&server.database()).await, 3).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = nodes.share(&agent, 1, "calc", &service).await;
    for at in 0..3 {
        let answer = soon("an answer", visitor().get(nodes.url(at, "calc")).send()).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    server.stop();
    for at in 0..3 {
        for _ in 0..3 {
            let answer = soon("an answer", visitor().get(nodes.url(at, "calc")).send()).await;
            assert_eq!(answer.unwrap().status(), 200, "the way is known without the database");
        }
    }
    eventually("it is noticed that the database is away", || async {
        (nodes.metric(0, "store_up").await == "0").then_some(())
    })
    .await;
    let answer = soon("an answer", visitor().get(nodes.url(2, "calc")).send()).await;
    assert_eq!(answer.unwrap().status(), 200);
    server.start_again();
    eventually("all nodes use it again", || async {
        for at in 0..3 {
            if nodes.metric(at, "store_up").await == "0" {
                return None;
            }
        }
        Some(())
    })
    .await;
    // What happens now is heard again: the agent moves, and every node knows where.
    nodes.balancer.set([nodes.all[2].relay.addr()]);
    let (moved, service) = (TestAgent::new(), Service::echo().await);
    let (_other, _) = nodes.share(&moved, 2, "later", &service).await;
    for at in 0..3 {
        let answer = soon("an answer", visitor().get(nodes.url(at, "later")).send()).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    drop((share, info));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_node_that_died_is_found_elsewhere_over_postgres() {
    let Some(server) = PrivatePostgres::start() else { return };
    let mut nodes = Nodes::on(ports(&server.database()).await, 3).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = nodes.share(&agent, 1, "calc", &service).await;
    assert_eq!(visitor().get(nodes.url(0, "calc")).send().await.unwrap().status(), 200);
    drop(nodes.all.remove(1));
    nodes.balance();
    for at in 0..2 {
        eventually("the agent is found", || async {
            let answer = visitor().get(nodes.url(at, "calc")).send().await.unwrap();
            // The node's tasks end on other threads: what it had in hand by then is lost with it.
            assert!([200, 502].contains(&answer.status().as_u16()), "{answer:?}");
            (answer.status() == 200).then_some(())
        })
        .await;
    }
    share.up_after(info.generation).await;
}

#[tokio::test]
async fn every_change_is_told_and_a_lost_connection_is_a_gap() {
    let Some(server) = PrivatePostgres::start() else { return };
    let url = server.database();
    let (here, there) =
        (SqlStore::connect(&url).await.unwrap(), SqlStore::connect(&url).await.unwrap());
    let mut feed = here.feed().await.unwrap().unwrap();
    let mut next = async || soon("news", feed.next()).await;
    let node = mcpm_relay::store::NewNode {
        id: "b".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        version: "1".to_owned(),
        now: 1_800_000_000,
    };
    let generation = there.enter_node(node).await.unwrap();
    assert_eq!(next().await.unwrap(), News::Entered("b".to_owned()));
    let claim = mcpm_relay::store::Claim {
        name: "calc".parse().unwrap(),
        owner: "ada".to_owned(),
        node: "b".to_owned(),
        mode: mcpm_shared::proto::ShareMode::Mcp,
        floor_generation: 6,
        now: 1_800_000_000,
        expires_at: None,
        keep_secs: 60,
        max_live: 3,
    };
    there.claim(claim).await.unwrap();
    let (name, node) = ("calc".parse::<mcpm_shared::name::Name>().unwrap(), "b".to_owned());
    let given = News::Lease { name: name.clone(), generation: 7, node: node.clone(), ended: false };
    assert_eq!(next().await.unwrap(), given);
    // A beat is no news.
    assert!(there.beat_node("b", generation, true, 1_800_000_001).await.unwrap().known);
    assert!(there.lose_node("b", generation, None).await.unwrap());
    assert_eq!(next().await.unwrap(), News::Lost("b".to_owned()));
    assert_eq!(there.release_orphans(1_800_000_002).await.unwrap(), 1);
    assert_eq!(next().await.unwrap(), News::Lease { name, generation: 7, node, ended: true });
    server.stop();
    server.start_again();
    let after = soon("the loss is noticed", feed.next()).await;
    assert!(matches!(after, Ok(News::Gap) | Err(_)), "{after:?}");
}

#[tokio::test]
async fn a_file_of_one_machine_is_refused_by_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqlStore::open(&dir.path().join("relay.db")).await.unwrap());
    let nodes = Nodes::on(Ports { store, ..Ports::in_memory() }, 0).await;
    let refused = mcpm_relay::Relay::start(nodes.config("a"), nodes.ports.clone()).await;
    let error = refused.unwrap_err();
    assert_eq!(error.to_string(), "this database cannot be shared by several nodes");
    assert!(error.hint().unwrap().contains("PostgreSQL"));
    let shared: Arc<dyn Store> = Arc::new(MemoryStore::new());
    assert!(shared.feed().await.unwrap().is_some());
}
