//! Nodes that restart one after the other, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::join_all;
use harness::{Service, TestAgent, eventually, visitor};
use serde_json::Value;

use super::Nodes;

/// How many clients call all the time, each with a connection of its own that it keeps.
const CLIENTS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_three_nodes_loses_no_call() {
    let mut nodes = Nodes::start(3).await;
    let (agent, service) = (TestAgent::new(), Service::echo().await);
    let (_share, info) = nodes.share(&agent, 0, "rolling", &service).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = join_all((0..CLIENTS).map(|client| {
        let (url, stop, answered) = (info.url.clone(), Arc::clone(&stop), Arc::clone(&answered));
        async move {
            let http = visitor();
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                let body = format!("{client}/{calls}");
                let answer = http.post(&url).body(body.clone()).send().await;
                let answer = answer.unwrap_or_else(|error| panic!("call {body}: {error:?}"));
                assert_eq!(answer.status(), 200, "call {body}: {answer:?}");
                let said: Value = answer.json().await.unwrap();
                assert_eq!(said["body"], body);
                calls += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }));
    let restarts = async {
        for n in 0..3 {
            let before = answered.load(Ordering::Relaxed);
            // As an orchestrator does it: the balancer is told, then the node is, then the next comes.
            let old = nodes.all.remove(0);
            nodes.balance();
            old.relay.shutdown().await;
            nodes.add(&format!("next{n}")).await;
            eventually("calls go on", || async {
                (answered.load(Ordering::Relaxed) > before + 100).then_some(())
            })
            .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(clients, restarts);
    assert!(answered.load(Ordering::Relaxed) > 300);
}

/// What is in flight over a hop when the node that answers is told to stop comes to its end.
#[tokio::test]
async fn a_call_in_flight_over_a_hop_outlives_an_orderly_stop() {
    let mut nodes = Nodes::start(2).await;
    let (calls, mut called) = tokio::sync::watch::channel(0);
    let (finish, finished) = tokio::sync::watch::channel(false);
    let service = Service::start(move |_| {
        calls.send_modify(|calls| *calls += 1);
        let mut finished = finished.clone();
        async move {
            finished.wait_for(|finished| *finished).await.unwrap();
            http::Response::new(harness::full("done"))
        }
    })
    .await;
    let agent = TestAgent::new();
    let (share, info) = nodes.share(&agent, 1, "slow", &service).await;
    let call = visitor().post(nodes.url(0, "slow")).body("work").send();
    let stop = async {
        called.wait_for(|calls| *calls == 1).await.unwrap();
        let old = nodes.all.remove(1);
        nodes.balance();
        let end = old.relay.shutdown();
        let moved = async {
            share.up_after(info.generation).await;
            finish.send_replace(true);
        };
        tokio::join!(end, moved).0
    };
    let (answer, cut) = harness::soon("all is done", async { tokio::join!(call, stop) }).await;
    assert_eq!(cut, 0);
    assert_eq!(answer.unwrap().text().await.unwrap(), "done");
    assert_eq!(*called.borrow(), 1);
}

#[tokio::test]
async fn a_node_that_stopped_is_gone_at_once_and_stays_away() {
    let mut nodes = Nodes::start(3).await;
    for left in [2, 1] {
        let old = nodes.all.pop().unwrap();
        nodes.balance();
        old.relay.shutdown().await;
        let known = nodes.ports.store.beat_node("nobody", 0, false, 0).await.unwrap().nodes;
        let mut known: Vec<_> = known.iter().map(|node| node.id.as_str()).collect();
        known.sort_unstable();
        assert_eq!(known, ["node0", "node1"][..left], "the one that stopped did not enter again");
    }
}
