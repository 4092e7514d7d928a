//! Servers behind HTTP, and what servers of the modern era are asked to tell.

use super::*;
use crate::gateway::upstream::fake::{Answer, Heard, Upstream};

const SCHEMA: &str = r#"{"type":"object","properties":{"city":{"type":"string","x-mcp-header":"City"},"o":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"Nights"}}}}}"#;

/// A modern server over HTTP whose tool `book` wants headers.
fn booking(heard: &Heard) -> Answer {
    let body: Value = serde_json::from_str(&heard.body).unwrap_or_default();
    let id = &body["id"];
    let result = |result: &str| {
        Answer::json(200, &format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
    };
    match body["method"].as_str() {
        Some("initialize") => Answer::json(
            400,
            &format!(
                r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32022,"message":"no","data":{{"supported":["2026-07-28"],"requested":"2025-11-25"}}}}}}"#
            ),
        ),
        Some("server/discover") => result(
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{},"x/y":{}}},"ttlMs":0,"cacheScope":"private"}"#,
        ),
        Some("tools/list") => result(&format!(
            r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{{"name":"book","inputSchema":{SCHEMA}}},{{"name":"plain","inputSchema":{{"type":"object"}}}}]}}"#
        )),
        Some("tools/call") => {
            result(r#"{"resultType":"complete","content":[{"type":"text","text":"done"}]}"#)
        }
        _ => Answer::empty(202),
    }
}

fn headers(heard: &Heard) -> Vec<(&str, &str)> {
    let mut headers: Vec<_> = heard
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("mcp-param-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    headers.sort_unstable();
    headers
}

#[tokio::test]
async fn calls_of_tools_that_want_headers_have_them() {
    let upstream = Upstream::start(booking).await;
    let far = Server::remote("far", upstream.url());
    let arguments = json!({"city":"Köln","o":{"n":3}});
    let expected = [("mcp-param-city", "=?base64?S8O2bG4=?="), ("mcp-param-nights", "3")];
    // With a prefix and without, for clients of both eras.
    let servers = [far, server("a", LEGACY)];
    let mut calls = 0;
    for (servers, tool) in [(&servers[..], "far_book"), (&servers[..1], "book")] {
        let mut client = Client::of(servers, GatewayOptions::default());
        client.open().await;
        client.ask("tools/list", json!({})).await;
        let call = json!({"name":tool,"arguments":arguments});
        assert_eq!(text(&client.ask("tools/call", call.clone()).await), "done");
        client.end().await;
        let mut client = Client::of(servers, GatewayOptions::default());
        client.say(&modern("1", "tools/list", json!({}))).await;
        client.hear().await;
        client.say(&modern("2", "tools/call", call)).await;
        assert_eq!(text(&client.hear().await), "done");
        client.say(&modern("3", "tools/call", json!({"name":tool.replace("book", "plain")}))).await;
        assert_eq!(text(&client.hear().await), "done");
        client.end().await;
        let heard = upstream.heard();
        let heard: Vec<_> = heard.iter().filter(|h| h.body.contains("tools/call")).collect();
        let [.., old, new, plain] = heard.as_slice() else { panic!("{heard:?}") };
        assert_eq!(headers(old), expected);
        assert_eq!(headers(new), expected);
        assert_eq!(headers(plain), []);
        calls += 3;
        assert_eq!(heard.len(), calls);
    }
    upstream.stop().await;
}

#[tokio::test]
async fn tasks_are_offered_to_clients_of_the_era_of_their_server() {
    let upstream = Upstream::start(booking).await;
    let tasks = r#""tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}},"#;
    let old = LEGACY.replace(r#""resources":{}"#, &format!(r#"{tasks}"resources":{{}}"#));
    let servers = [Server::remote("far", upstream.url()), server("old", &old)];
    // What they offer is known only after they ran.
    let dir = tempfile::tempdir().unwrap();
    let options = || GatewayOptions {
        catalog: Some(Catalog::open(&Paths::new(dir.path()))),
        ..GatewayOptions::default()
    };
    let mut client = Client::of(&servers, options());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    client.end().await;
    let mut client = Client::of(&servers, options());
    let opened = client.open().await;
    let offered = &opened["capabilities"];
    assert_eq!(offered["tasks"], json!({"cancel":{},"requests":{"tools":{"call":{}}}}));
    assert_eq!(offered["extensions"], Value::Null);
    client.end().await;
    let mut client = Client::of(&servers, options());
    client.say(&modern("1", "server/discover", json!({}))).await;
    let discovered = client.hear().await;
    let offered = &discovered["result"]["capabilities"];
    assert_eq!(offered["tasks"], Value::Null, "{discovered}");
    assert_eq!(offered["extensions"], json!({"io.modelcontextprotocol/tasks":{}}));
    client.end().await;
    upstream.stop().await;
}

#[tokio::test]
async fn a_server_is_asked_to_tell_only_what_it_offers_to() {
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let log = heard.clone();
    let sink = crate::gateway::StderrSink::new(move |_, line| {
        log.lock().unwrap().push(line.to_owned());
    });
    let options = GatewayOptions { stderr: Some(sink), ..GatewayOptions::default() };
    let script =
        MODERN_SERVER.replace("case \"$line\" in", "echo \"$line\" >&2; case \"$line\" in");
    let offers = |capabilities: &str| script.replace(r#"{"tools":{}}"#, capabilities);
    let servers = [
        server("none", &script),
        server("no", &offers(r#"{"tools":{"listChanged":false},"resources":{"subscribe":true}}"#)),
        server("some", &offers(r#"{"tools":{},"prompts":{"listChanged":true}}"#)),
    ];
    let mut client = Client::of(&servers, options);
    client.open().await;
    for tool in ["none_one", "no_one", "some_one"] {
        client.ask("tools/list", json!({})).await;
        assert_eq!(text(&client.call(tool).await), "new one");
    }
    client.end().await;
    let heard = heard.lock().unwrap();
    let asked: Vec<Value> = heard
        .iter()
        .filter(|line| line.contains("subscriptions/listen"))
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["params"]["notifications"].clone())
        .collect();
    assert_eq!(asked, [json!({"promptsListChanged":true})]);
}

#[tokio::test]
async fn what_a_single_server_does_not_tell_is_not_promised() {
    let mut client = Client::of(&[server("new", MODERN_SERVER)], GatewayOptions::default());
    client.say(&modern("1", "tools/list", json!({}))).await;
    client.hear().await;
    let wanted = json!({"toolsListChanged":true,"resourceSubscriptions":["x://y"]});
    client.say(&modern("2", "subscriptions/listen", json!({"notifications":wanted}))).await;
    let acknowledged = client.hear().await;
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], json!({}));
    client.end().await;

    let mut client = Client::of(&[server("new", MODERN_SERVER)], GatewayOptions::default());
    client.open().await;
    let refused = client.ask("resources/subscribe", json!({"uri":"x://y"})).await;
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
    client.end().await;
}

#[tokio::test]
async fn an_empty_batch_is_an_invalid_request() {
    let mut client = Client::of(&[server("a", LEGACY)], GatewayOptions::default());
    client.say(&json!([])).await;
    let answer = client.hear().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32600)));
    client.end().await;
}

#[tokio::test]
async fn names_that_collide_are_told() {
    let names_of = |tool: &str| LEGACY.replace(r#""one""#, &format!(r#""{tool}""#));
    let servers = [server("a", &names_of("b_c")), server("a_b", &names_of("c"))];
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.open().await;
    assert_eq!(client.gateway.notes().len(), 1, "nothing is known yet");
    let list = client.ask("tools/list", json!({})).await;
    let other = names(&list)[3];
    assert!(other.starts_with("a_b_c_"), "{list}");
    let note = client.gateway.notes().pop().unwrap();
    let expected = format!(
        "tool `c` of server `a_b` is called `{other}`: `a_b_c` is tool `b_c` of server `a`"
    );
    assert_eq!(note, expected);
    client.end().await;
}

#[tokio::test]
async fn tools_are_listed_again_when_a_server_wants_other_headers_than_it_said() {
    let new = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let wants = new.clone();
    let upstream = Upstream::start(move |heard: &Heard| {
        let body: Value = serde_json::from_str(&heard.body).unwrap_or_default();
        let id = &body["id"];
        let method = body["method"].as_str().unwrap_or_default();
        let named = heard.headers.contains_key("mcp-param-town");
        match (wants.load(std::sync::atomic::Ordering::Relaxed), method) {
            (true, "tools/list") => Answer::json(
                200,
                &json!({"jsonrpc":"2.0","id":id,"result":{
                    "resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"book",
                    "inputSchema":{"type":"object","properties":{
                        "city":{"type":"string","x-mcp-header":"Town"}}}}]}})
                .to_string(),
            ),
            (true, "tools/call") if !named => Answer::json(
                400,
                &json!({"jsonrpc":"2.0","id":id,"error":{"code":-32020,"message":"no town"}})
                    .to_string(),
            ),
            _ => booking(heard),
        }
    })
    .await;
    let servers = [Server::remote("far", upstream.url())];
    let call = json!({"name":"book","arguments":{"city":"Bern"}});
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    assert_eq!(text(&client.ask("tools/call", call.clone()).await), "done");
    new.store(true, std::sync::atomic::Ordering::Relaxed);
    let refused = client.ask("tools/call", call.clone()).await;
    assert!(refused["error"].is_object(), "{refused}");
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    assert_eq!(text(&client.ask("tools/call", call).await), "done");
    client.end().await;
    upstream.stop().await;
}
