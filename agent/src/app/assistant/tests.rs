use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, duplex, split};

use super::*;
use crate::registry::{Places, Policy};
use crate::web::Web;

const SECRET: &str = "s3cret-of-a-test";

fn desk(dir: &std::path::Path, profile: Option<&str>) -> Desk {
    let paths = Paths::new(dir);
    let servers = json!({
        "notes": {"command": "/opt/bin/uvx", "args": ["notes", "--key", SECRET],
            "env": {"NOTES_KEY": SECRET}, "profile_tags": ["work"]},
        "crm": {"url": format!("https://me:{SECRET}@crm.example/{SECRET}/mcp?k={SECRET}"),
            "headers": {"Authorization": SECRET}},
        "loud": {"command": "sh", "args": ["-c", format!("echo {SECRET} >&2; exit 3")], "profile_tags": ["work"]},
        "own": {"config": {"token": SECRET}},
        "bad": {"env": {"A": SECRET}},
    });
    if !paths.servers().exists() {
        std::fs::write(paths.servers(), servers.to_string()).unwrap();
    }
    let web = Arc::new(Web::new().unwrap());
    let registry = Registry::new(Places::new(None, None), &paths, &web, Policy::Offline);
    let patience = Duration::from_secs(20);
    Desk { paths, registry, profile: profile.map(str::to_owned), patience }
}

/// Lets a client say these lines, and returns what it got to read, by id.
async fn talk(desk: Desk, lines: &[Value]) -> Vec<Value> {
    let (ours, theirs) = duplex(1 << 20);
    let server = serve(desk, split(theirs));
    let client = async {
        let (reader, mut writer) = split(ours);
        let mut reader = BufReader::new(reader).lines();
        let mut answers = Vec::new();
        for line in lines {
            writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            if line.get("id").is_some() {
                let answer = reader.next_line().await.unwrap().unwrap();
                answers.push(serde_json::from_str(&answer).unwrap());
            }
        }
        answers
    };
    let (served, answers) = tokio::join!(server, client);
    served.unwrap();
    answers
}

fn initialize() -> [Value; 2] {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"}});
    [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    ]
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": name, "arguments": arguments}})
}

/// Calls one tool of a server for this profile; returns its result.
async fn ask(dir: &std::path::Path, profile: Option<&str>, tool: &str, arguments: Value) -> Value {
    let [first, second] = initialize();
    let lines = [first, second, call(tool, arguments)];
    let answer = talk(desk(dir, profile), &lines).await.remove(1);
    assert!(!answer.to_string().contains(SECRET), "{answer}");
    answer["result"].clone()
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap()
}

#[tokio::test]
async fn servers_are_listed_without_their_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let listed = ask(dir.path(), None, "list_servers", json!({})).await;
    let servers = &listed["structuredContent"]["servers"];
    assert_eq!(servers[0]["name"], "notes");
    assert_eq!(servers[0]["program"], "uvx");
    assert_eq!(servers[0]["variables"], json!(["NOTES_KEY"]));
    assert_eq!(servers[1]["host"], "crm.example");
    let kinds: Vec<_> = (0..5).map(|at| servers[at]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stdio", "remote", "stdio", "custom", "faulty"]);
    let profiles = ask(dir.path(), None, "list_profiles", json!({})).await;
    assert_eq!(profiles["structuredContent"]["profiles"][0]["servers"], json!(["notes", "loud"]));
}

#[tokio::test]
async fn a_server_is_enabled_and_disabled_in_one_profile() {
    let dir = tempfile::tempdir().unwrap();
    let enable = json!({"server": "crm"});
    let refused = ask(dir.path(), None, "enable_server", enable.clone()).await;
    assert!(refused["isError"] == true && text(&refused).contains("list_profiles"), "{refused}");
    let done = ask(dir.path(), Some("work"), "enable_server", enable.clone()).await;
    let expected = json!({"server": "crm", "profile": "work", "enabled": true, "changed": true,
        "note": "Whoever has profile `work` running sees it after the next start"});
    assert_eq!(done["structuredContent"], expected);
    let again = ask(dir.path(), Some("work"), "enable_server", enable.clone()).await;
    assert_eq!(again["structuredContent"]["changed"], false);
    let off = ask(dir.path(), Some("work"), "disable_server", enable).await;
    assert_eq!(off["structuredContent"]["enabled"], false);
    let desk = desk(dir.path(), None);
    assert!(!desk.servers().unwrap().servers[1].profiles.contains(&"work".to_owned()));
}

#[tokio::test]
async fn with_a_profile_no_other_one_is_seen_or_changed() {
    let dir = tempfile::tempdir().unwrap();
    let work = Some("work");
    let listed = ask(dir.path(), work, "list_servers", json!({})).await;
    let crm = &listed["structuredContent"]["servers"][1];
    assert_eq!((&crm["enabled"], &crm["host"]), (&json!(false), &Value::Null));
    let other = json!({"server": "crm", "profile": "home"});
    let refused = ask(dir.path(), work, "enable_server", other).await;
    assert!(text(&refused).contains("only profile `work`"), "{refused}");
    let refused = ask(dir.path(), work, "server_status", json!({"server": "crm"})).await;
    assert!(refused["isError"] == true && text(&refused).contains("enable_server"), "{refused}");
    let refused = ask(dir.path(), work, "usage", json!({"server": "crm"})).await;
    assert_eq!(refused["isError"], true);
    for (server, why) in [("own", "one client"), ("bad", "not valid"), ("nots", "notes")] {
        let refused = ask(dir.path(), work, "enable_server", json!({"server": server})).await;
        assert!(text(&refused).contains(why), "{refused}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_a_server_wrote_does_not_reach_the_assistant() {
    let dir = tempfile::tempdir().unwrap();
    let status = ask(dir.path(), None, "server_status", json!({"server": "loud"})).await;
    let status = &status["structuredContent"];
    assert_eq!(status["works"], false);
    assert!(status["problem"].as_str().unwrap().contains("stopped"), "{status}");
}

#[tokio::test]
async fn the_catalogue_is_searched_and_shown_with_what_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let query = json!({"query": "clock", "limit": 3});
    let found = ask(dir.path(), None, "search_catalogue", query).await;
    let servers = found["structuredContent"]["servers"].as_array().unwrap();
    assert!(servers.iter().any(|server| server["name"] == "time"), "{found}");
    let shown = ask(dir.path(), None, "show_details", json!({"server": "tavily"})).await;
    let arguments = &shown["structuredContent"]["installations"][0]["arguments"];
    assert_eq!((&arguments[0]["required"], &arguments[0]["secret"]), (&json!(true), &json!(true)));
    assert_eq!(shown["structuredContent"]["install"], "mcpm install tavily");
    let none = ask(dir.path(), None, "show_details", json!({"server": "no-such-server"})).await;
    assert_eq!(none["isError"], true);
    let empty = ask(dir.path(), None, "search_catalogue", json!({"query": " "})).await;
    assert_eq!(empty["isError"], true);
}

#[tokio::test]
async fn usage_of_nothing_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let used = ask(dir.path(), Some("work"), "usage", json!({"days": 7})).await;
    let used = &used["structuredContent"];
    assert_eq!((&used["days"], &used["calls"]), (&json!(7), &json!(0)), "{used}");
}

#[tokio::test]
async fn every_tool_has_schemas_and_says_whether_it_changes_anything() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = initialize();
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let answers = talk(desk(dir.path(), None), &[first, second, list]).await;
    let tools = answers[1]["result"]["tools"].as_array().unwrap();
    let mut changing = Vec::new();
    for tool in tools {
        let name = tool["name"].as_str().unwrap();
        assert_eq!(tool["inputSchema"]["type"], "object", "{name}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{name}");
        let notes = &tool["annotations"];
        assert!(notes["title"].is_string() && notes["openWorldHint"].is_boolean(), "{tool}");
        if notes["readOnlyHint"] != true {
            changing.push((name, notes["destructiveHint"].as_bool().unwrap()));
        }
    }
    changing.sort_unstable();
    assert_eq!(changing, [("disable_server", true), ("enable_server", false)]);
    assert_eq!(tools.len(), 8);
}

#[tokio::test]
async fn a_client_of_the_modern_era_needs_no_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let request = |id: u32, method: &str, params: Value| {
        let mut params = params;
        params["_meta"] = meta.clone();
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    };
    let lines = [
        request(0, "server/discover", json!({})),
        request(1, "tools/call", json!({"name": "list_profiles", "arguments": {}})),
    ];
    let answers = talk(desk(dir.path(), None), &lines).await;
    let versions = &answers[0]["result"]["supportedVersions"];
    assert!(versions.as_array().unwrap().contains(&json!("2026-07-28")), "{}", answers[0]);
    assert_eq!(answers[1]["result"]["structuredContent"]["profiles"][0]["name"], "work");
}
