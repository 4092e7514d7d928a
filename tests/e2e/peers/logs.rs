//! What the logs of shares in use hold at the finest level: nothing that opens one, and nothing that passes.

use harness::process::{Program, built};
use harness::{initialize, soon, visitor};
use http::HeaderValue;
use serde_json::{Value, json};

use super::stage::{Relay, Share, Stage, until};

/// What visitors say and servers say back.
const BODY: &str = "b0dy-0123456789";
/// The finest level there is; libraries that are named have no finer one.
const FINEST: &str = "trace,tungstenite=trace,tokio_tungstenite=trace,yamux=trace,hyper=trace,h2=trace,\
                      rmcp=trace,rustls=trace";

/// Lets a visitor open a session and say something that comes back.
async fn visit(url: &str, token: Option<&str>) {
    let client = visitor();
    let post = async |session: Option<HeaderValue>, message: Value| {
        let mut request = client.post(url).json(&message);
        request = request.header("accept", "application/json, text/event-stream");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        soon("an answer", request.send()).await.unwrap().error_for_status().unwrap()
    };
    let mut opening = initialize();
    opening["params"]["clientInfo"]["name"] = BODY.into();
    let session = post(None, opening).await.headers().get("mcp-session-id").cloned();
    let params = json!({ "name": "echo", "arguments": { "message": BODY } });
    let call = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params });
    let said = soon("the echo", post(session, call).await.text()).await.unwrap();
    assert!(said.contains(BODY), "{said}");
}

async fn shared(stage: &Stage, relay: &Relay, args: &[&str]) -> Share {
    let address = relay.url();
    let args = [&["--log", FINEST, "share", "--json", "--address", &address], args].concat();
    Share::up(Program::start(stage.command("mcpm", &args))).await
}

/// The tickets that the relay gave, once they are kept.
async fn tickets(stage: &Stage, shares: usize) -> Vec<String> {
    until("the tickets are kept", async || {
        let files = std::fs::read_dir(stage.config().join("shares")).ok()?;
        let paths = files.map(|file| file.unwrap().path());
        let texts = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let records = texts
            .map(|path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap());
        let tickets = records.filter_map(|record| record["ticket"].as_str().map(str::to_owned));
        Some(tickets.collect::<Vec<_>>()).filter(|tickets| tickets.len() == shares)
    })
    .await
}

#[tokio::test]
async fn the_finest_logs_of_relay_and_agent_hold_no_token_link_body_or_ticket() {
    let mut stage = Stage::new();
    stage.add("demo", &built("mcpm"), &["demo-server"]);
    stage.add("linked", &built("mcpm"), &["demo-server"]);
    let mut relay = stage.relay(&["--log", FINEST]).await;
    let by_token = shared(&stage, &relay, &["demo"]).await;
    let by_link = shared(&stage, &relay, &["linked", "--link"]).await;
    let link = by_link.up["link"].as_str().unwrap();
    visit(&by_token.url, by_token.token.as_deref()).await;
    visit(link, None).await;
    let mut secrets = tickets(&stage, 2).await;
    secrets.extend([&by_token, &by_link].map(|share| share.token.clone().unwrap()));
    secrets.extend([link.split_once("?s=").unwrap().1.to_owned(), BODY.to_owned()]);

    let mut logs = Vec::new();
    for mut share in [by_token, by_link] {
        share.program.signal("INT");
        logs.push(share.program.ended().await.stderr);
    }
    relay.program.signal("TERM");
    logs.push(relay.program.ended().await.stderr);
    for log in logs {
        // Else the finest level would prove nothing.
        assert!(log.contains("DEBUG"), "{log}");
        for secret in &secrets {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
    }
    stage.nothing_is_left().await;
}
