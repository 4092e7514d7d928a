//! Nodes that die, agents that move, and stores that lose sight of somebody.

use harness::{PATIENCE, Service, TestAgent, TestRelay, eventually, soon, visitor};
use mcpm_relay::Ports;

use super::{Nodes, beats};

async fn answer_of(what: &'static str) -> Service {
    Service::start(move |_| async move { http::Response::new(harness::full(what)) }).await
}

#[tokio::test]
async fn a_call_that_waits_for_an_agent_follows_it_to_another_node() {
    let mut nodes = Nodes::with(Ports::in_memory(), 3, |config| beats(config, 1000)).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = nodes.share(&agent, 1, "mover", &service).await;
    let url = nodes.url(0, "mover");
    assert_eq!(visitor().get(&url).send().await.unwrap().status(), 200);
    // The node dies; nobody is told, and the agent finds the third.
    let died = nodes.all.remove(1);
    nodes.balancer.set([]);
    drop(died);
    let call = visitor().post(&url).body("still here").send();
    let back = async {
        eventually("a call is held", || async {
            (nodes.metric(0, "held_requests").await == "1").then_some(())
        })
        .await;
        nodes.balancer.set([nodes.all[1].relay.addr()]);
        share.up_after(info.generation).await
    };
    let (answer, back) = soon("the call is answered", async { tokio::join!(call, back) }).await;
    assert_eq!(back.url, info.url);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.unwrap().contains("still here"));
    eventually("the dead node is given up", || async {
        let known = nodes.ports.store.beat_node("nobody", 0, false, 0).await.unwrap().nodes;
        known.iter().all(|node| node.id != "node1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_that_waits_at_a_node_that_lost_its_agent_goes_where_the_agent_went() {
    let nodes = Nodes::start(3).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = nodes.share(&agent, 1, "roamer", &service).await;
    let url = nodes.url(0, "roamer");
    assert_eq!(visitor().get(&url).send().await.unwrap().status(), 200);
    nodes.balancer.set([]);
    nodes.balancer.cut();
    let body = "piece ".repeat(10_000);
    let call = visitor().post(&url).body(body.clone()).send();
    let move_on = async {
        eventually("the node that had the agent holds the call", || async {
            (nodes.metric(1, "held_requests").await == "1").then_some(())
        })
        .await;
        nodes.balancer.set([nodes.all[2].relay.addr()]);
        share.up_after(info.generation).await;
    };
    let (answer, ()) = soon("the answer", async { tokio::join!(call, move_on) }).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    let said: serde_json::Value = answer.json().await.unwrap();
    assert!(said["body"] == body.as_str(), "all of it is sent again");
    assert_eq!(nodes.metric(0, "hops_total{result=\"misrouted\"}").await, "1");
    assert_eq!(share.tunnel.stats().requests, 2, "and it is served once");
}

#[tokio::test]
async fn a_call_that_waits_is_served_where_it_waits_when_the_agent_comes_there() {
    let mut nodes = Nodes::start(2).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = nodes.share(&agent, 1, "home", &service).await;
    let url = nodes.url(0, "home");
    assert_eq!(visitor().get(&url).send().await.unwrap().status(), 200);
    drop(nodes.all.remove(1));
    nodes.balance();
    let answer = soon("an answer", visitor().post(&url).body("x".repeat(9999)).send()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(answer.text().await.unwrap().contains("xxx"));
    share.up_after(info.generation).await;
}

#[tokio::test]
async fn an_agent_that_claims_at_another_node_wins_over_the_old_one() {
    let nodes = Nodes::start(2).await;
    let (old, new) = (answer_of("old").await, answer_of("new").await);
    let agent = TestAgent::new();
    let (first, before) = nodes.share(&agent, 0, "mine", &old).await;
    let (_second, after) = nodes.share(&agent, 1, "mine", &new).await;
    assert!(after.generation > before.generation);
    assert_eq!(first.refused().await.code(), "superseded");
    for at in 0..2 {
        let answer = visitor().get(nodes.url(at, "mine")).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "new");
    }
}

#[tokio::test]
async fn a_call_in_flight_at_a_node_that_dies_fails_and_is_not_sent_again() {
    let mut nodes = Nodes::start(3).await;
    let (service, mut called) = Service::silent().await;
    let agent = TestAgent::new();
    let (_share, _) = nodes.share(&agent, 1, "dying", &service).await;
    let call = visitor().post(nodes.url(0, "dying")).body("once").send();
    let death = async {
        soon("the call arrives", called.wait_for(|calls| *calls == 1)).await.unwrap();
        drop(nodes.all.remove(1));
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! { answer = call => answer.unwrap(), () = death => unreachable!() };
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["mcpm-relay-error"], "agent_failed");
    assert_eq!(*called.borrow(), 1);
}

#[tokio::test]
async fn a_node_that_the_others_gave_up_lets_its_agents_connect_anew() {
    let nodes = Nodes::start(2).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, info) = nodes.share(&agent, 1, "lost", &service).await;
    let store = &nodes.ports.store;
    let known = store.beat_node("nobody", 0, false, 0).await.unwrap().nodes;
    let node = known.iter().find(|node| node.id == "node1").unwrap();
    assert!(store.lose_node("node1", node.generation, None).await.unwrap());
    store.release_orphans(mcpm_relay::admission::unix_now()).await.unwrap();
    let back = share.up_after(info.generation).await;
    assert_eq!(back.url, info.url);
    for at in 0..2 {
        let answer = soon("an answer", visitor().get(nodes.url(at, "lost")).send()).await;
        assert_eq!(answer.unwrap().status(), 200);
    }
    let known = store.beat_node("nobody", 0, false, 0).await.unwrap().nodes;
    assert!(known.iter().any(|node| node.id == "node1"), "it is a node again");
}

#[tokio::test]
async fn a_node_whose_name_another_process_takes_ends() {
    // It ends after several beats at which it found the other.
    let nodes = Nodes::with(Ports::in_memory(), 1, |config| beats(config, 200)).await;
    let other = TestRelay::on(nodes.config("node0"), nodes.ports.clone()).await;
    soon("the first ends", nodes.all[0].relay.closed()).await;
    drop(other);
}

#[tokio::test]
async fn a_share_that_was_given_up_is_offline_at_every_node_at_once() {
    // Nobody waits for it: whoever was held so long would be too late for this test.
    let nodes = Nodes::with(Ports::in_memory(), 2, |config| config.timing.hold = PATIENCE * 2);
    let nodes = nodes.await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (share, _) = nodes.share(&agent, 1, "gone", &service).await;
    let url = nodes.url(0, "gone");
    assert_eq!(visitor().get(&url).send().await.unwrap().status(), 200);
    share.tunnel.shutdown().await;
    eventually("it is offline", || async {
        let answer = visitor().get(&url).send().await.unwrap();
        (answer.status() == 503).then_some(())
    })
    .await;
}
