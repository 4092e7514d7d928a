//! mcpm itself as an MCP server, used by every client that we know.

use serde_json::json;

use super::clients::{Call, Client, Door};
use super::sdks::node_ready;
use super::stage::Stage;

#[tokio::test]
async fn every_client_lists_enables_and_checks_servers_of_a_profile() {
    if !node_ready() {
        return;
    }
    let mut stage = Stage::new();
    let secret = "s3cret-of-a-test";
    let entry = |tags: &[&str]| json!({"command": "sh", "args": ["-c", "exit 3", secret], "env": {"KEY": secret}, "profile_tags": tags});
    stage.add_entry("old", entry(&["work"]));
    stage.add_entry("new", entry(&[]));
    let door = Door::Stdio(stage.mcpm_line(&["mcp", "--profile", "work", "--offline"]));
    let server = |name: &str| json!({ "server": name });
    for client in Client::ALL.into_iter().filter(|client| client.fits(&door)) {
        let calls = [
            Call::new("list_servers", json!({}), "\"variables\":[\"KEY\"]"),
            Call::new("enable_server", server("new"), "\"enabled\":true"),
            Call::new("list_profiles", json!({}), "[\"old\",\"new\"]"),
            Call::new("disable_server", server("new"), "\"enabled\":false"),
            Call::new("server_status", json!({ "server": "old" }), "\"works\":false"),
            Call::new("show_details", json!({ "server": "time" }), "mcpm install time"),
        ];
        // One call is one process there.
        let calls = if client.is_inspector() { &calls[..2] } else { &calls[..] };
        let seen = client.tour(&stage, &door, calls).await;
        assert!(!format!("{seen:?}").contains(secret), "{client:?}: {seen:?}");
    }
    let servers = std::fs::read_to_string(stage.config().join("servers.json")).unwrap();
    assert!(servers.contains(secret), "what it must not show, it keeps");
    stage.nothing_is_left().await;
}
