//! What operators of several nodes see and decide, whichever node they ask; and agents that move.

use std::sync::Arc;

use harness::{Service, TestAgent, eventually, free_port, request, soon, visitor};
use mcpm_relay::Ports;
use mcpm_relay::admission::unix_now;
#[cfg(unix)]
use mcpm_relay::store::SqlStore;
use mcpm_relay::store::{Claim, NewNode};
use mcpm_shared::access::AccessPolicy;
use mcpm_shared::proto::ShareMode;
use mcpm_shared::token::Token;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Nodes;
#[cfg(unix)]
use super::private_postgres::PrivatePostgres;
use crate::limits::{are_limited, come_up, hour};

const ADMIN: &str = "the admin token of this test";

fn with_admin(ports: Ports) -> Ports {
    Ports { admin_token: Some(Token::new(ADMIN)), ..ports }
}

/// Asks the admin API of a node.
async fn ask(nodes: &Nodes, at: usize, method: Method, path: &str) -> (u16, Value) {
    let admin = nodes.all[at].relay.admin_addr().unwrap();
    let url = format!("http://{admin}/api/v1{path}");
    let call = visitor().request(method, url).bearer_auth(ADMIN).send();
    let answer = soon("the API answers", call).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn shares(nodes: &Nodes, at: usize) -> Vec<(String, String)> {
    let (status, shares) = ask(nodes, at, Method::GET, "/shares").await;
    assert_eq!(status, 200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    shares.as_array().unwrap().iter().map(|it| (text(&it["name"]), text(&it["node"]))).collect()
}

async fn every_node_lists_and_closes_all_shares(ports: Ports) {
    let nodes = Nodes::on(with_admin(ports), 3).await;
    let (agent, other, service) = (TestAgent::new(), TestAgent::new(), Service::echo().await);
    let (_one, _) = nodes.share(&agent, 0, "one", &service).await;
    let (two, info) = nodes.share(&other, 1, "two", &service).await;
    let pair = |name: &str, node: &str| (name.to_owned(), node.to_owned());
    let both = [pair("one", "node0"), pair("two", "node1")];
    for at in 0..3 {
        eventually("the node knows the others", || async {
            (shares(&nodes, at).await == both).then_some(())
        })
        .await;
    }
    let call = visitor().get(nodes.url(2, "two")).send();
    assert_eq!(soon("an answer", call).await.unwrap().status(), 200);
    let (_, listed) = ask(&nodes, 2, Method::GET, "/shares").await;
    assert_eq!(listed[1]["url"], info.url);
    assert_eq!(listed[1]["agent"], other.key.thumbprint());
    assert_eq!(
        (&listed[1]["requests_served"], &listed[1]["requests_in_flight"]),
        (&json!(1), &json!(0))
    );

    assert_eq!(ask(&nodes, 0, Method::DELETE, "/shares/two").await.0, 204);
    assert_eq!(two.refused().await.code(), "forbidden");
    eventually("no node lists it", || async {
        for at in 0..3 {
            if shares(&nodes, at).await != both[..1] {
                return None;
            }
        }
        Some(())
    })
    .await;
    assert_eq!(ask(&nodes, 2, Method::DELETE, "/shares/two").await.0, 404);
    assert_eq!(ask(&nodes, 2, Method::DELETE, "/shares/nobody").await.0, 404);
    let trail = eventually("the trail tells of it", || async {
        let (_, trail) = ask(&nodes, 1, Method::GET, "/audit?action=share.close").await;
        (!trail.as_array().unwrap().is_empty()).then_some(trail)
    })
    .await;
    assert_eq!((&trail[0]["actor"], &trail[0]["object"]), (&json!("operator"), &json!("two")));
}

#[tokio::test]
async fn any_node_lists_and_closes_the_shares_of_all() {
    every_node_lists_and_closes_all_shares(Ports::in_memory()).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn any_node_lists_and_closes_the_shares_of_all_over_postgres() {
    let Some(server) = PrivatePostgres::start() else { return };
    let store = Arc::new(SqlStore::connect(&server.database()).await.unwrap());
    every_node_lists_and_closes_all_shares(Ports { store, ..Ports::in_memory() }).await;
}

#[tokio::test]
async fn of_a_node_that_does_not_answer_the_database_tells() {
    let nodes = Nodes::on(with_admin(Ports::in_memory()), 1).await;
    let (store, now) = (Arc::clone(&nodes.ports.store), unix_now());
    let ghost = NewNode {
        id: "ghost".to_owned(),
        // Nobody listens there.
        address: format!("127.0.0.1:{}", free_port()),
        version: "1".to_owned(),
        now,
    };
    let generation = store.enter_node(ghost).await.unwrap();
    let claim = Claim {
        name: "far".parse().unwrap(),
        owner: "key:x".to_owned(),
        node: "ghost".to_owned(),
        mode: ShareMode::Mcp,
        floor_generation: 0,
        now,
        expires_at: None,
        keep_secs: 60,
        max_live: 3,
    };
    store.claim(claim).await.unwrap();
    let listed = eventually("its share is listed", || async {
        assert!(store.beat_node("ghost", generation, false, now).await.unwrap().known);
        let (_, shares) = ask(&nodes, 0, Method::GET, "/shares").await;
        shares.get(0).cloned()
    })
    .await;
    assert_eq!((&listed["name"], &listed["node"]), (&json!("far"), &json!("ghost")));
    assert_eq!((&listed["agent"], &listed["requests_in_flight"]), (&Value::Null, &Value::Null));
    let (status, error) = ask(&nodes, 0, Method::DELETE, "/shares/far").await;
    assert_eq!((status, &error["code"]), (503, &json!("node_away")));
    assert!(error["message"].as_str().unwrap().contains("`ghost`"), "{error}");
}

async fn nodes_share_one_cap_of_names(ports: Ports) {
    let nodes = Nodes::with(ports, 2, |config| {
        config.limits.per_owner.names_per_hour = Some(2);
        // Every attempt of an agent that is told to wait counts.
        config.limits.claims_per_minute_per_key = None;
    })
    .await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let open = |at: usize, name: &str| {
        nodes.balancer.set([nodes.all[at].relay.addr()]);
        let asked = request(name, ShareMode::Http, AccessPolicy::public());
        agent.open_at(&nodes.balancer.url(""), asked, service.backend())
    };
    let began = hour();
    let mut up = come_up(2, |n| open(n % 2, &format!("name{n}"))).await;
    for at in 0..2 {
        up.extend(come_up(2, |n| open(at, &format!("more{at}{n}"))).await);
    }
    // Were each node to count by itself, there would be two at each.
    are_limited(&up, 2, began);
    let info = up[1].up().await;
    up.remove(1).tunnel.shutdown().await;
    let (_again, again) = nodes.share(&agent, 0, "name1", &service).await;
    assert!(again.generation > info.generation, "a name that it had is not new elsewhere");
}

#[tokio::test]
async fn new_names_are_counted_for_all_nodes_together() {
    nodes_share_one_cap_of_names(Ports::in_memory()).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn new_names_are_counted_for_all_nodes_together_over_postgres() {
    let Some(server) = PrivatePostgres::start() else { return };
    let store = Arc::new(SqlStore::connect(&server.database()).await.unwrap());
    nodes_share_one_cap_of_names(Ports { store, ..Ports::in_memory() }).await;
}

/// A lane is chosen at the first node, and before anything is sent there the agent is at the other.
#[tokio::test]
async fn a_request_goes_after_an_agent_that_moved_before_anything_was_sent() {
    let nodes = Nodes::start(2).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (first, _) = nodes.share(&agent, 0, "moving", &service).await;
    let mut visitor = TcpStream::connect(nodes.all[0].relay.addr()).await.unwrap();
    let head = "POST /s/moving/deep?a=1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\
                content-type: text/plain\r\nx-own: kept\r\nconnection: close\r\n\r\nhello";
    visitor.write_all(head.as_bytes()).await.unwrap();
    eventually("a lane is chosen", || async {
        (nodes.metric(0, "streams_open").await == "1").then_some(())
    })
    .await;
    let (_second, moved) = nodes.share(&agent, 1, "moving", &service).await;
    assert_eq!(moved.generation, 2);
    first.tunnel.shutdown().await;
    eventually("the agent is gone from the first node", || async {
        (nodes.metric(0, "sessions").await == "0").then_some(())
    })
    .await;
    visitor.write_all(b" you!").await.unwrap();
    let mut answer = String::new();
    soon("the answer", visitor.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    let said: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&said["method"], &said["body"]), (&json!("POST"), &json!("hello you!")));
    assert_eq!(said["target"], "/deep?a=1");
    assert!(said["headers"].as_array().unwrap().contains(&json!(["x-own", "kept"])), "{said}");
    assert_eq!(nodes.metric(1, "hops_taken_total").await, "1");
    for node in nodes.all {
        node.relay.shutdown().await;
    }
    let owner = format!("key:{}", agent.key.thumbprint());
    let used = nodes.ports.store.usage_of(&owner, 0).await.unwrap();
    let requests: Vec<u64> = used.iter().map(|used| used.amounts.requests).collect();
    assert_eq!(requests, [1], "it is counted where it went, and nowhere else");
}
