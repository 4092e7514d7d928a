//! Published servers, alone and as one profile, used by every client that we know through every door.

use harness::initialize;
use harness::process::Program;
use serde_json::{Value, json};

use super::clients::{Call, Client, Door, mcp_remote};
use super::published::{PROFILE, Published, Tools};
use super::sdks::{Sdk, node, node_ready, published_npm, script};
use super::stage::{Stage, until};

/// How many servers a client calls when that starts processes for each client. The clients take turns, so that each
/// server is called by several.
const SOME: usize = 2;
/// All of them, where the clients share the processes.
const EVERY: usize = 7;

/// Lets every client that fits list all tools of the profile, and call the tools of so many servers.
async fn all_use_the_profile((published, tools): &(Published, Tools), door: &Door, servers: usize) {
    let clients = Client::ALL.into_iter().filter(|client| client.fits(door));
    for (turn, client) in clients.enumerate() {
        // One call is one process there.
        let servers = if client.is_inspector() { SOME } else { servers };
        let mut calls = published.calls(&format!("visitor-{turn}"));
        let first = turn * SOME % calls.len();
        calls.rotate_left(first);
        let seen = client.tour(&published.stage, door, &calls[..servers].concat()).await;
        tools.check(&format!("{client:?}"), &seen);
        let spoken = if client.is_modern() { "2026-07-28" } else { "2025-11-25" };
        assert_eq!(seen.protocol.as_deref().unwrap_or(spoken), spoken, "{client:?}");
    }
}

/// Lets these clients use one server; what one writes, the same reads by the next call.
async fn all_use_memory(published: &Published, door: &Door, clients: &[Client]) {
    let tools = published.tools_of("memory").await;
    for client in clients.iter().filter(|client| client.fits(door)) {
        let who = format!("{client:?}");
        let entity = json!({ "name": who, "entityType": "client", "observations": ["grüße 🙂"] });
        let calls = [
            Call::new("create_entities", json!({ "entities": [entity] }), "grüße 🙂"),
            Call::new("open_nodes", json!({ "names": [who] }), "grüße 🙂"),
        ];
        let seen = client.tour(&published.stage, door, &calls).await;
        tools.check(&who, &seen);
    }
}

#[tokio::test]
async fn every_client_uses_seven_published_servers_as_one_over_stdio() {
    let Some(world) = Published::known().await else { return };
    let (published, _) = &world;
    let door = Door::Stdio(published.stage.mcpm_line(&["profile", "run", PROFILE]));
    all_use_the_profile(&world, &door, SOME).await;
    published.stage.nothing_is_left().await;
}

#[tokio::test]
async fn every_client_uses_seven_published_servers_as_one_over_http() {
    let Some(world) = Published::known().await else { return };
    let (published, _) = &world;
    let serving = published.stage.serve(&["profile", "run", PROFILE]).await;
    all_use_the_profile(&world, &serving.door(), EVERY).await;
    serving.stop().await;
    published.stage.nothing_is_left().await;
}

#[tokio::test]
async fn every_client_uses_seven_published_servers_as_one_through_a_relay() {
    let Some(world) = Published::known().await else { return };
    let (published, _) = &world;
    let relay = published.stage.relay(&[]).await;
    let share = published.stage.profile_share(&relay, &[PROFILE]).await;
    all_use_the_profile(&world, &share.door(), SOME).await;
    share.stop().await;
    relay.stop().await;
    published.stage.nothing_is_left().await;
}

#[tokio::test]
async fn every_client_uses_one_published_server_over_stdio() {
    let Some(published) = Published::new().await else { return };
    let door = Door::Stdio(published.stage.mcpm_line(&["run", "memory"]));
    all_use_memory(&published, &door, &Client::ALL).await;
    published.stage.nothing_is_left().await;
}

#[tokio::test]
async fn every_client_uses_one_published_server_over_http() {
    let Some(published) = Published::new().await else { return };
    let serving = published.stage.serve(&["run", "memory"]).await;
    all_use_memory(&published, &serving.door(), &Client::ALL).await;
    serving.stop().await;
    published.stage.nothing_is_left().await;
}

/// The official SDKs have suites of their own on this way.
#[tokio::test]
async fn the_other_clients_use_one_published_server_through_a_relay_with_the_right_token_only() {
    let Some(published) = Published::new().await else { return };
    let relay = published.stage.relay(&[]).await;
    let share = published.stage.share(&relay, &["memory"]).await;
    let clients = [
        Client::Library(Sdk::FastMcp),
        Client::Library(Sdk::FastMcpLegacy),
        Client::McpRemote,
        Client::Inspector,
        Client::InspectorModern,
    ];
    all_use_memory(&published, &share.door(), &clients).await;
    let wrong = Door::Url { url: share.url.clone(), token: Some("wrong".to_owned()) };
    for client in clients {
        client.is_refused(&published.stage, &wrong).await;
    }
    share.stop().await;
    relay.stop().await;
    published.stage.nothing_is_left().await;
}

#[tokio::test]
async fn mcp_remote_is_a_server_like_any_other() {
    let Some(mut published) = Published::new().await else { return };
    let serving = published.stage.serve(&["run", "everything"]).await;
    let remote = mcp_remote(&serving.door());
    published.stage.add_entry("remote", json!({ "command": remote[0], "args": remote[1..] }));
    let tools = published.tools_of("everything").await;
    let door = Door::Stdio(published.stage.mcpm_line(&["run", "remote"]));
    for sdk in [Sdk::TypeScript2Auto, Sdk::PythonLegacy] {
        let calls = [Call::new("echo", json!({ "message": "twice through" }), "twice through")];
        let seen = Client::Library(sdk).tour(&published.stage, &door, &calls).await;
        tools.check(&format!("{sdk:?}"), &seen);
    }
    serving.stop().await;
    published.stage.nothing_is_left().await;
}

/// Answers what the server asks of the client, until the answer to our request comes.
async fn answer_to(program: &mut Program, id: u64, roots: &Value) -> Value {
    loop {
        let message = program
            .line(&format!("the answer to {id}"), |line| {
                let message: Value = serde_json::from_str(line).ok()?;
                (message["method"] == "roots/list" || message["id"] == id).then_some(message)
            })
            .await;
        if message["method"] != "roots/list" {
            return message;
        }
        let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": { "roots": roots } });
        program.say(&answer.to_string()).await;
    }
}

/// server-filesystem asks for the client's folders when it starts, unless it was given some: nobody's request is the
/// cause, but there is only one client that can be meant.
#[tokio::test]
async fn a_server_learns_the_folders_of_the_only_client_alone_and_in_a_profile() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let program = published_npm("filesystem");
    stage.add_tagged("filesystem", &node(), &[program.to_str().unwrap()], &[PROFILE]);
    stage.add_tagged("own", &node(), &[script("server.mjs").to_str().unwrap()], &[PROFILE]);
    let folder = stage.path("files");
    std::fs::create_dir(&folder).unwrap();
    let roots = json!([{ "uri": format!("file://{}", folder.display()) }]);
    let profile = (&["profile", "run", PROFILE][..], "filesystem_list_allowed_directories");
    // The second time its lists are known, and its first request comes from the client.
    for (args, tool) in [(&["run", "filesystem"][..], "list_allowed_directories"), profile, profile]
    {
        let mut program = Program::start(stage.command("mcpm", args));
        let mut hello = initialize();
        hello["params"]["capabilities"] = json!({ "roots": { "listChanged": true } });
        program.say(&hello.to_string()).await;
        answer_to(&mut program, 1, &roots).await;
        program.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        let mut id = 1;
        until(&format!("{args:?}: the server knows the folder"), async || {
            id += 1;
            let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
                "params": { "name": tool, "arguments": {} } });
            program.say(&call.to_string()).await;
            let answer = answer_to(&mut program, id, &roots).await;
            answer.to_string().contains(folder.to_str().unwrap()).then_some(())
        })
        .await;
        program.hang_up();
        assert_eq!(program.ended().await.code, Some(0), "{}", program.transcript());
    }
    stage.nothing_is_left().await;
}
