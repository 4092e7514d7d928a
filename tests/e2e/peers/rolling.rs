//! Three relay processes over one PostgreSQL, restarted one after the other under a connected client.

#![cfg(unix)]

use harness::balancer::Balancer;
use harness::process::Program;
use serde_json::json;

use super::sdks::{Sdk, everything, node, node_ready};
use super::stage::{Relay, Share, Stage};
use crate::nodes::private_postgres::PrivatePostgres;

/// Calls between two restarts, at least.
const CALLS: usize = 40;

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
            "--grace-secs",
            "3",
        ];
        self.stage.relay(&args).await
    }

    fn balance(&self, nodes: &[Relay]) {
        self.balancer.set(nodes.iter().map(|node| node.addr));
    }
}

/// Calls a tool again and again, and expects each answer.
async fn calls(client: &mut Program, name: &str) {
    for n in 0..CALLS {
        let message = format!("{name} {n}");
        client.say(&json!({ "tool": "echo", "args": { "message": message } }).to_string()).await;
        let result = client.event("result").await;
        assert_eq!(result["text"], format!("Echo: {message}"), "{result}");
    }
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
    let mut clients = [Sdk::TypeScript1, Sdk::TypeScript2].map(start);
    // The first call starts the server, which takes longer than the grace period on a busy machine.
    for client in &mut clients {
        calls(client, "before").await;
    }
    for (turn, id) in ["a2", "b2", "c2"].into_iter().enumerate() {
        let old = nodes.remove(0);
        world.balance(&nodes);
        let name = format!("while {turn} restarts");
        let [one, two] = &mut clients;
        let restart = async {
            old.stop().await;
            world.node(id).await
        };
        let ((), (), new) = tokio::join!(calls(one, &name), calls(two, &name), restart);
        nodes.push(new);
        world.balance(&nodes);
        for client in &mut clients {
            calls(client, "between").await;
        }
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
