//! Every way of ending an agent, and that no process is left after it.

use std::path::Path;
use std::time::Duration;

use harness::initialize;
use harness::process::Program;
use serde_json::json;

use super::sdks::{Sdk, node, node_ready, script};
use super::stage::{Share, Stage};

/// A share with a client that is connected, so that the server runs.
async fn in_use(stage: &mut Stage, relay: &super::stage::Relay) -> (Share, Program) {
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let share = stage.share(relay, &["own"]).await;
    let client = Sdk::TypeScript1;
    let mut client = client.start("interactive", &share.url, share.token.as_deref(), &json!({}));
    client.event("connected").await;
    (share, client)
}

async fn a_signal_ends_the_share_and_its_children(signal: &str) {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let relay = stage.relay(&[]).await;
    let (share, _client) = in_use(&mut stage, &relay).await;
    share.stop_by(signal).await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn ctrl_c_ends_a_share_and_its_children() {
    a_signal_ends_the_share_and_its_children("INT").await;
}

#[tokio::test]
async fn sigterm_ends_a_share_and_its_children() {
    a_signal_ends_the_share_and_its_children("TERM").await;
}

#[tokio::test]
async fn sighup_ends_a_share_and_its_children() {
    a_signal_ends_the_share_and_its_children("HUP").await;
}

#[tokio::test]
async fn kill_9_of_the_agent_leaves_no_child() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let relay = stage.relay(&[]).await;
    let (mut share, _client) = in_use(&mut stage, &relay).await;
    share.program.signal("KILL");
    share.program.ended().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

/// Starts `mcpm run` over stdio and waits until its server has answered.
async fn running(stage: &mut Stage) -> Program {
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let mut program = Program::start(stage.command("mcpm", &["run", "own"]));
    program.say(&initialize().to_string()).await;
    program
        .line("the answer to initialize", |line| line.contains("serverInfo").then_some(()))
        .await;
    program
}

#[tokio::test]
async fn run_ends_with_its_stdin() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let mut program = running(&mut stage).await;
    program.hang_up();
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    stage.nothing_is_left().await;
}

/// A subscription has no end of its own: it must not count as work that is left.
#[tokio::test]
async fn run_ends_with_its_stdin_while_the_client_is_subscribed() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let mut program = Program::start(stage.command("mcpm", &["run", "own"]));
    let listen = json!({ "jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
        "notifications": { "toolsListChanged": true },
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "visitor", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    } });
    program.say(&listen.to_string()).await;
    program.line("the subscription", |line| line.contains("acknowledged").then_some(())).await;
    program.hang_up();
    // Official clients wait two seconds before they send SIGTERM; a busy machine gets some more.
    let ended = tokio::time::timeout(Duration::from_secs(20), program.ended()).await;
    assert_eq!(ended.expect("it ends by itself").code, Some(0), "{}", program.transcript());
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn run_ends_by_a_signal_with_the_code_that_shells_expect() {
    if !node_ready() {
        return;
    }
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut stage = Stage::new();
        let mut program = running(&mut stage).await;
        program.signal(signal);
        assert_eq!(program.ended().await.code, Some(code), "{signal}: {}", program.transcript());
        stage.nothing_is_left().await;
    }
}

#[tokio::test]
async fn the_demo_proves_itself_and_leaves_an_empty_home_empty() {
    let stage = Stage::new();
    let home = stage.path("home");
    std::fs::create_dir(&home).unwrap();
    let mut demo = stage.command("mcpm", &["demo", "--once"]);
    demo.env("HOME", &home).env_remove("MCPM_CONFIG_DIR");
    let mut demo = Program::start(demo);
    demo.hang_up();
    let ended = demo.ended().await;
    assert_eq!(ended.code, Some(0), "{}", demo.transcript());
    assert!(ended.stdout.contains("/mcp"), "{}", demo.transcript());
    assert!(is_empty(&home), "the demo wrote into its home");
    stage.nothing_is_left().await;
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}
