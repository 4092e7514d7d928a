//! Real servers, shared through a relay process, used by the official SDK clients.

use harness::free_port;
use harness::process::{Program, command};
use serde_json::json;

use super::sdks::{Sdk, each_sdk, everything, node, python, python_ready, script};
use super::stage::{Relay, Share, Stage, until};

/// A world with one server, shared through a relay.
struct Shared {
    stage: Stage,
    relay: Relay,
    share: Share,
}

impl Shared {
    async fn everything() -> Self {
        let mut stage = Stage::new();
        let program = everything();
        stage.add("everything", &node(), &[program.to_str().unwrap(), "stdio"]);
        Self::up(stage, "everything").await
    }

    /// The peers' own server, in the era that the SDK prefers.
    async fn own(sdk: Sdk) -> Self {
        let mut stage = Stage::new();
        let (program, file) = match sdk.is_modern() && python_ready() {
            true => (python(), script("server.py")),
            false => (node(), script("server.mjs")),
        };
        stage.add("own", &program, &[file.to_str().unwrap()]);
        Self::up(stage, "own").await
    }

    async fn up(stage: Stage, name: &str) -> Self {
        let relay = stage.relay(&[]).await;
        let share = stage.share(&relay, &[name]).await;
        Self { stage, relay, share }
    }

    async fn run(
        &self,
        sdk: Sdk,
        scenario: &str,
        options: serde_json::Value,
    ) -> super::sdks::Events {
        sdk.run(scenario, &self.share.url, self.share.token.as_deref(), options).await
    }

    async fn stop(self) {
        self.share.stop().await;
        self.relay.stop().await;
        self.stage.nothing_is_left().await;
    }
}

async fn a_client_connects_lists_and_calls(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let shared = Shared::everything().await;
    let options = json!({ "tool": "echo", "args": { "message": "grüße 🙂" } });
    let events = shared.run(sdk, "basic", options).await;
    assert_eq!(events.one("connected")["server"], "mcp-servers/everything");
    let tools = events.one("tools")["names"].as_array().unwrap().clone();
    assert!(tools.contains(&json!("trigger-long-running-operation")), "{tools:?}");
    assert_eq!(events.one("result")["text"], "Echo: grüße 🙂");
    shared.stop().await;
}
each_sdk!(a_client_connects_lists_and_calls);

async fn progress_arrives_in_order_and_before_the_result(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let shared = Shared::everything().await;
    let args = json!({ "duration": 0.5, "steps": 10 });
    let options = json!({ "tool": "trigger-long-running-operation", "args": args });
    let events = shared.run(sdk, "progress", options).await;
    let text = events.progress_then_result(10);
    assert!(text.starts_with("Long running operation completed."), "{text}");
    shared.stop().await;
}
each_sdk!(progress_arrives_in_order_and_before_the_result);

async fn a_cancelled_call_stops_at_the_server(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let shared = Shared::own(sdk).await;
    let options = json!({
        "tool": "wait", "args": { "steps": 1000, "step_ms": 50 },
        "then": { "tool": "echo", "args": { "message": "still here" } },
    });
    let events = shared.run(sdk, "cancel", options).await;
    events.one("cancelled");
    assert_eq!(events.one("result")["text"], "still here");
    let seen = until("the server learns of the cancel", async || {
        let events = shared.stage.events();
        events.iter().any(|event| event == "cancelled").then_some(events)
    });
    let seen = seen.await;
    assert!(!seen.iter().any(|event| event == "finished"), "{seen:?}");
    shared.stop().await;
}
each_sdk!(a_cancelled_call_stops_at_the_server);

async fn a_result_of_ten_megabytes_arrives_whole(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let shared = Shared::own(sdk).await;
    let options = json!({ "tool": "bulk", "args": { "bytes": 10 * 1024 * 1024 } });
    let result = shared.run(sdk, "bulk", options).await.one("result");
    assert_eq!(result["length"], 10 * 1024 * 1024);
    // Of "0123456789abcdef", 655,360 times.
    let expected = "3f5862181da2da49ce240dea1c5cfdafda27f0864f7576b59b0b437c3e463bfd";
    assert_eq!(result["sha256"], expected);
    shared.stop().await;
}
each_sdk!(a_result_of_ten_megabytes_arrives_whole);

async fn a_thousand_calls_in_a_row_are_answered(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let shared = Shared::everything().await;
    let options = json!({ "tool": "echo", "prefix": "Echo: ", "count": 1000 });
    assert_eq!(shared.run(sdk, "many", options).await.one("result")["calls"], 1000);
    shared.stop().await;
}
each_sdk!(a_thousand_calls_in_a_row_are_answered);

async fn two_clients_at_once_do_not_mix(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let shared = Shared::everything().await;
    let call = |steps| {
        let args = json!({ "duration": 1, "steps": steps });
        json!({ "tool": "trigger-long-running-operation", "args": args })
    };
    let events = shared.run(sdk, "pair", json!({ "first": call(4), "second": call(7) })).await;
    for (client, steps) in [(1, 4), (2, 7)] {
        let text = events.of_client(client).progress_then_result(steps);
        assert!(text.ends_with(&format!("Steps: {steps}.")), "{text}");
    }
    shared.stop().await;
}
each_sdk!(two_clients_at_once_do_not_mix);

async fn mcp_server_time_tells_the_time(sdk: Sdk) {
    if !(sdk.ready() && python_ready()) {
        return;
    }
    let mut stage = Stage::new();
    stage.add("time", &python(), &["-m", "mcp_server_time"]);
    let shared = Shared::up(stage, "time").await;
    let options = json!({ "tool": "get_current_time", "args": { "timezone": "Asia/Tokyo" } });
    let events = shared.run(sdk, "basic", options).await;
    let text = events.one("result")["text"].as_str().unwrap().to_owned();
    assert!(text.contains("Asia/Tokyo") && text.contains("+09:00"), "{text}");
    shared.stop().await;
}
each_sdk!(mcp_server_time_tells_the_time);

async fn a_server_that_speaks_http_itself_is_shared_as_well(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let mut stage = Stage::new();
    let port = free_port();
    let mut server = command(node());
    server.arg(everything()).arg("streamableHttp").env("PORT", port.to_string());
    // Only for the processes' end: what knows of the folder counts as left behind.
    server.env("HOME", stage.path(""));
    let mut server = Program::start(server);
    let url = format!("http://127.0.0.1:{port}/mcp");
    server.listens(port).await;
    stage.add_entry("everything", json!({ "url": url }));
    let shared = Shared::up(stage, "everything").await;
    let args = json!({ "duration": 0.5, "steps": 5 });
    let options = json!({ "tool": "trigger-long-running-operation", "args": args });
    let events = shared.run(sdk, "progress", options).await;
    events.progress_then_result(5);
    server.signal("KILL");
    server.ended().await;
    shared.stop().await;
}
each_sdk!(a_server_that_speaks_http_itself_is_shared_as_well);

async fn without_the_right_token_a_client_gets_401_and_no_server_starts(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let mut stage = Stage::new();
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let shared = Shared::up(stage, "own").await;
    // The probe before publishing starts it once.
    let started = shared.stage.events();
    for token in [None, Some("wrong")] {
        let error = sdk.run_refused(&shared.share.url, token).await;
        let statuses = error["statuses"].as_array().unwrap();
        assert!(!statuses.is_empty() && statuses.iter().all(|s| s == 401), "{error}");
    }
    assert_eq!(shared.stage.events(), started);
    shared.stop().await;
}
each_sdk!(without_the_right_token_a_client_gets_401_and_no_server_starts);

async fn a_link_opens_the_share_without_a_token(sdk: Sdk) {
    if !sdk.ready() {
        return;
    }
    let mut stage = Stage::new();
    stage.add("own", &node(), &[script("server.mjs").to_str().unwrap()]);
    let relay = stage.relay(&[]).await;
    let share = stage.share(&relay, &["own", "--link"]).await;
    let link = share.up["link"].as_str().unwrap().to_owned();
    let options = json!({ "tool": "echo", "args": { "message": "by link" } });
    let events = sdk.run("basic", &link, None, options).await;
    assert_eq!(events.one("result")["text"], "by link");
    Shared { stage, relay, share }.stop().await;
}
each_sdk!(a_link_opens_the_share_without_a_token);
