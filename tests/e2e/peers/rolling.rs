//! Three relay processes over one PostgreSQL, restarted one after the other under a connected client.

#![cfg(unix)]

use futures_util::future::join_all;
use harness::balancer::Balancer;
use harness::process::Program;
use harness::{eventually, visitor};
use serde_json::json;
use tokio::sync::watch;

use super::sdks::{Sdk, everything, node, node_ready};
use super::stage::{Relay, Share, Stage};
use crate::nodes::private_postgres::PrivatePostgres;

/// How often each client calls between two restarts.
const CALLS: usize = 40;
/// How often it calls during a restart, at least; it goes on until the restart is over.
const MEANWHILE: usize = 10;

/// What the processes have in common.
struct World {
    stage: Stage,
    balancer: Balancer,
    database: String,
}

impl World {
    async fn node(&self, id: &str) -> Relay {
        let secret = self.stage.path("nodes.secret");
        let url = self.balancer.url("");
        let args = [
            "--database",
            &self.database,
            "--node-listen",
            "127.0.0.1:0",
            "--node-id",
            id,
            "--node-secret-file",
            secret.to_str().unwrap(),
            "--public-url",
            &url,
            "--drain-secs",
            "1",
            // Event streams of the clients stay open so long, and on a busy machine a call takes seconds.
            "--grace-secs",
            "12",
        ];
        self.stage.relay(&args).await
    }

    fn balance(&self, nodes: &[Relay]) {
        self.balancer.set(nodes.iter().map(|node| node.addr));
    }
}

/// Has all clients call a tool again and again, `least` times each and until it is `over`, and expects each answer.
async fn calls(clients: &mut [Program], name: &str, least: usize, over: watch::Receiver<bool>) {
    let each = clients.iter_mut().map(|client| async {
        let mut called = 0;
        while called < least || !*over.borrow() {
            let message = format!("{name} {called}");
            let call = json!({ "tool": "echo", "args": { "message": message } });
            client.say(&call.to_string()).await;
            let result = client.event("result").await;
            assert_eq!(result["text"], format!("Echo: {message}"), "{result}");
            called += 1;
        }
    });
    join_all(each).await;
}

/// Stops a node as an orchestrator does: it is told, and the balancer finds out from `/readyz` while it still serves.
async fn stop(mut old: Relay, others: &[Relay], world: &World) {
    old.program.signal("TERM");
    let ready = format!("http://{}/readyz", old.admin);
    let client = visitor();
    eventually("the node says that it goes", || async {
        let answer = client.get(&ready).send().await;
        (!answer.is_ok_and(|answer| answer.status() == 200)).then_some(())
    })
    .await;
    world.balance(others);
    let ended = old.program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_three_nodes_loses_no_call_of_the_typescript_client() {
    if !node_ready() {
        return;
    }
    let Some(server) = PrivatePostgres::start() else { return };
    let mut stage = Stage::new();
    let program = everything();
    stage.add("everything", &node(), &[program.to_str().unwrap(), "stdio"]);
    std::fs::write(stage.path("nodes.secret"), "0123456789abcdef".repeat(4)).unwrap();
    let world = World { stage, balancer: Balancer::start().await, database: server.database() };
    let mut nodes = Vec::new();
    for id in ["a", "b", "c"] {
        nodes.push(world.node(id).await);
    }
    world.balance(&nodes);
    let address = world.balancer.url("");
    let args = ["share", "--json", "--address", &address, "everything"];
    let share = Share::up(Program::start(world.stage.command("mcpm", &args))).await;
    assert!(share.url.starts_with(&address), "{}", share.url);
    let start = |sdk: Sdk| sdk.start("interactive", &share.url, share.token.as_deref(), &json!({}));
    let sdks = [Sdk::TypeScript1, Sdk::TypeScript2, Sdk::TypeScript2Auto, Sdk::TypeScript2];
    let mut clients = sdks.map(start);
    let (_, at_once) = watch::channel(true);
    // The first call starts the server.
    calls(&mut clients, "before", CALLS, at_once.clone()).await;
    for (turn, id) in ["a2", "b2", "c2"].into_iter().enumerate() {
        let old = nodes.remove(0);
        let name = format!("while {turn} restarts");
        let (ready, over) = watch::channel(false);
        let restart = async {
            stop(old, &nodes, &world).await;
            let new = world.node(id).await;
            ready.send_replace(true);
            new
        };
        let ((), new) = tokio::join!(calls(&mut clients, &name, MEANWHILE, over), restart);
        nodes.push(new);
        world.balance(&nodes);
        calls(&mut clients, "between", CALLS, at_once.clone()).await;
    }
    for mut client in clients {
        client.hang_up();
        assert_eq!(client.ended().await.code, Some(0), "{}", client.transcript());
    }
    share.stop().await;
    for node in nodes {
        node.stop().await;
    }
    world.stage.nothing_is_left().await;
}
