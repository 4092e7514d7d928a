//! Several real servers as one: two eras behind, five SDK clients in front, a relay between.

use std::time::Duration;

use serde_json::json;

use super::sdks::{Sdk, each_sdk, everything, node, python, python_ready, script};
use super::stage::{Relay, Share, Stage, until};

/// Tools of all servers of the profile.
const TOOLS: [&str; 5] = ["everything_echo", "old_echo", "new_echo", "old_wait", "new_wait"];

/// A profile with server-everything (legacy), and the peers' own servers of both eras, whose lists are known.
async fn shared() -> (Stage, Relay, Share) {
    let mut stage = Stage::new();
    let everything = everything();
    stage.add_tagged("everything", &node(), &[everything.to_str().unwrap(), "stdio"], &["work"]);
    stage.add_tagged("old", &node(), &[script("server.mjs").to_str().unwrap()], &["work"]);
    stage.add_tagged("new", &python(), &[script("server.py").to_str().unwrap()], &["work"]);
    stage.learn("work", &TOOLS.map(str::to_owned).into()).await;
    let relay = stage.relay(&[]).await;
    let share = stage.profile_share(&relay, &["work"]).await;
    (stage, relay, share)
}

async fn stop((stage, relay, share): (Stage, Relay, Share)) {
    share.stop().await;
    relay.stop().await;
    stage.nothing_is_left().await;
}

async fn a_client_uses_servers_of_both_eras_as_one(sdk: Sdk) {
    if !(sdk.ready() && python_ready()) {
        return;
    }
    let world = shared().await;
    let (url, token) = (world.2.url.clone(), world.2.token.clone());
    let run = async |scenario, options| sdk.run(scenario, &url, token.as_deref(), options).await;
    let options = json!({ "tool": "everything_echo", "args": { "message": "grüße 🙂" } });
    let events = run("basic", options).await;
    assert_eq!(events.one("connected")["server"], "mcpm");
    assert_eq!(events.one("result")["text"], "Echo: grüße 🙂");
    let tools = events.one("tools")["names"].as_array().unwrap().clone();
    for tool in TOOLS {
        assert!(tools.contains(&json!(tool)), "{tool} in {tools:?}");
    }
    for tool in ["old_echo", "new_echo"] {
        let options = json!({ "tool": tool, "args": { "message": tool } });
        assert_eq!(run("basic", options).await.one("result")["text"], tool);
    }
    let args = json!({ "duration": 0.5, "steps": 10 });
    let options = json!({ "tool": "everything_trigger-long-running-operation", "args": args });
    let text = run("progress", options).await.progress_then_result(10);
    assert!(text.starts_with("Long running operation completed."), "{text}");
    stop(world).await;
}

async fn a_cancelled_call_stops_at_servers_of_both_eras(sdk: Sdk) {
    if !(sdk.ready() && python_ready()) {
        return;
    }
    let world = shared().await;
    for (server, cancelled) in [("old", 1), ("new", 2)] {
        let options = json!({
            "tool": format!("{server}_wait"), "args": { "steps": 1000, "step_ms": 50 },
            "then": { "tool": format!("{server}_echo"), "args": { "message": "still here" } },
        });
        let token = world.2.token.as_deref();
        let events = sdk.run("cancel", &world.2.url, token, options).await;
        events.one("cancelled");
        assert_eq!(events.one("result")["text"], "still here");
        let seen = until("the server learns of the cancel", async || {
            let events = world.0.events();
            let count = events.iter().filter(|event| *event == "cancelled").count();
            (count >= cancelled).then_some(events)
        });
        let seen = tokio::time::timeout(Duration::from_secs(30), seen).await.expect(server);
        assert!(!seen.iter().any(|event| event == "finished"), "{seen:?}");
    }
    stop(world).await;
}

each_sdk!(a_client_uses_servers_of_both_eras_as_one);
each_sdk!(a_cancelled_call_stops_at_servers_of_both_eras);
