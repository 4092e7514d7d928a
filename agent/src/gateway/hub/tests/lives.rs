//! Processes that come and go, and clients that have nothing to do with each other.

use std::sync::Arc;

use super::*;
use crate::gateway::StderrSink;
use crate::mcp::era::Era;

/// A server that says who it is, grows a resource for whoever asks, and may die slowly.
const ALIVE: &str = r#"
id() { echo "$1" | sed 's/.*"id":\([^,}]*\).*/\1/'; }
more=
while read -r line; do
  case "$line" in
    *initialize\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"protocolVersion":"2025-11-25","capabilities":{"resources":{"listChanged":true},"tools":{}},"serverInfo":{"name":"sh"}}}';;
    *tools/list*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"tools":[{"name":"grow"},{"name":"pid"}]}}';;
    *resources/list*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resources":[{"uri":"x://all","name":"all"}'"$more"']}}';;
    *\"grow\"*) more=',{"uri":"x://secret","name":"secret"}'; echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"content":[]}}';;
    *\"slow\"*) exec >&-; sleep 1; exit 3;;
    *\"pid\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"content":[{"type":"text","text":"'$$'"}]}}';;
    *\"method\":\"notifications*) ;;
    *\"id\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{}}';;
  esac
done
"#;

/// Another client of the same gateway.
fn beside(client: &Client) -> Client {
    let (scope, gateway) = (client.scope.child(), client.gateway.clone());
    let (to, stdin) = tokio::io::duplex(1 << 20);
    let (stdout, from) = tokio::io::duplex(1 << 20);
    let serving = gateway.clone();
    scope.spawn(async move { serving.serve_stdio(stdin, stdout).await.unwrap() });
    Client { to, from: BufReader::new(from).lines(), gateway, scope }
}

fn count(list: &Value) -> usize {
    list["result"]["resources"].as_array().unwrap_or_else(|| panic!("{list}")).len()
}

#[tokio::test]
async fn what_the_server_of_one_client_lists_is_not_what_another_client_sees() {
    for servers in [vec![server("a", ALIVE)], vec![server("a", ALIVE), server("b", LEGACY)]] {
        let many = servers.len();
        let dir = tempfile::tempdir().unwrap();
        let catalog = || Some(Catalog::open(&Paths::new(dir.path())));
        let options = || GatewayOptions { catalog: catalog(), ..Default::default() };
        let mut ann = Client::of(&servers, options());
        ann.open().await;
        assert_eq!(count(&ann.ask("resources/list", json!({})).await), many);
        let grow = if many == 1 { "grow" } else { "a_grow" };
        ann.call(grow).await;
        assert_eq!(count(&ann.ask("resources/list", json!({})).await), many + 1);
        let mut bob = beside(&ann);
        bob.open().await;
        assert_eq!(count(&bob.ask("resources/list", json!({})).await), many);
        drop(bob.to);
        ann.end().await;
        let mut next = Client::of(&servers, options());
        next.open().await;
        assert_eq!(
            count(&next.ask("resources/list", json!({})).await),
            many,
            "nor in the next run"
        );
        next.end().await;
    }
}

#[tokio::test]
async fn the_late_end_of_a_process_leaves_its_successor_alone() {
    let mut client = Client::of(&[server("a", ALIVE)], GatewayOptions::default());
    client.open().await;
    let first = text(&client.call("pid").await).to_owned();
    let mut alive = client.gateway.0.nursery.alive.subscribe();
    client
        .say(&json!({"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"slow"}}))
        .await;
    // The conversation is over long before the process.
    let mut second = first.clone();
    while second == first || second.is_empty() {
        client
            .say(&json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pid"}}))
            .await;
        let mut answer = client.hear().await;
        while answer["id"] != 1 {
            answer = client.hear().await;
        }
        second = answer["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        tokio::task::yield_now().await;
    }
    alive.wait_for(|alive| *alive == 1).await.unwrap();
    let third = client.call("pid").await;
    assert_eq!(text(&third), second);
    client.end().await;
}

#[tokio::test]
async fn requests_go_out_in_the_order_of_their_arrival_however_many_come_at_once() {
    let (told, mut heard) = tokio::sync::mpsc::channel(1024);
    let script = r#"
while read -r line; do
  echo "$line" >&2
  case "$line" in
    *initialize\"*) echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"sh"}}}';;
  esac
done"#;
    let stderr = StderrSink::new(move |_, line| told.try_send(line.to_owned()).unwrap());
    let options = GatewayOptions { stderr: Some(stderr), ..GatewayOptions::default() };
    let mut client = Client::of(&[server("a", script)], options);
    client.open().await;
    client.say(&json!({"jsonrpc":"2.0","method":"notifications/first"})).await;
    let call =
        |n: usize| format!(r#"{{"jsonrpc":"2.0","id":{n},"method":"x","params":{{"n":{n}}}}}"#);
    let burst: Vec<String> = (0..400).map(call).collect();
    client.to.write_all((burst.join("\n") + "\n").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < burst.len() {
        let line = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
        let line: Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        seen.extend(line["params"]["n"].as_u64());
    }
    assert!(seen.is_sorted(), "{seen:?}");
    drop(client.to);
    client.gateway.shutdown().await;
}

#[tokio::test]
async fn a_shared_server_has_one_process_whatever_its_clients_speak() {
    let options = GatewayOptions { isolation: Isolation::Shared, ..GatewayOptions::default() };
    let mut old = Client::of(&[server("a", ALIVE)], options);
    old.open().await;
    let pid = text(&old.call("pid").await).to_owned();
    let hub = &old.gateway.0.hub;
    let new = hub.caller(&Principal::Anonymous, &hub.everything, None);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}});
    let call =
        json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pid","_meta":meta}})
            .to_string();
    let (sink, mut answers) = tokio::sync::mpsc::channel(4);
    let _call = new.begin(&Message::parse(&call).unwrap(), sink).unwrap();
    let answer: Value = serde_json::from_slice(&answers.recv().await.unwrap().message).unwrap();
    assert_eq!(text(&answer), pid);
    assert_eq!(new.era, Era::Modern);
    assert_eq!(old.gateway.stats().children, 1);
    drop(new);
    old.end().await;
}

#[tokio::test]
async fn a_server_that_never_listed_anything_and_does_not_start_is_not_shown_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("broken");
    let script = format!("[ -e {} ] && exit 4\n{ALIVE}", flag.display());
    let catalog = || Some(Catalog::open(&Paths::new(dir.path())));
    let options = || GatewayOptions { catalog: catalog(), ..GatewayOptions::default() };
    let servers = [server("a", &script)];
    let mut client = Client::of(&servers, options());
    client.open().await;
    client.call("pid").await;
    client.end().await;
    std::fs::write(&flag, "").unwrap();
    let mut client = Client::of(&servers, options());
    client.open().await;
    let list = client.ask("resources/list", json!({})).await;
    assert!(list["error"]["message"].as_str().unwrap().contains("exit status: 4"), "{list}");
    client.end().await;
}

#[tokio::test]
async fn a_look_at_a_server_is_over_when_its_process_is() {
    let slow = format!("trap 'sleep 0.3' EXIT\n{ALIVE}");
    let servers = [server("a", &slow)];
    let gateway =
        Gateway::aggregate("m", &servers, &[], GatewayOptions::default(), Scope::new()).unwrap();
    gateway.probe().await.unwrap();
    assert_eq!(gateway.stats().children, 0);
    let hub: &Arc<Hub> = &gateway.0.hub;
    assert!(hub.everything.single().unwrap().known().any_list(List::Resources).is_some());
}

#[tokio::test]
async fn a_server_that_we_stopped_ourselves_has_not_failed() {
    let options = GatewayOptions { isolation: Isolation::Shared, ..Default::default() };
    let mut client = Client::of(&[server("a", ALIVE)], options);
    client.open().await;
    let mut before = String::new();
    for _ in 0..6 {
        let pid = client.call("pid").await;
        assert_ne!(text(&pid), before, "{pid}");
        before = text(&pid).to_owned();
        // As room is made for another client.
        let living = client.gateway.0.hub.members[0].living();
        living.iter().for_each(|conn| conn.stop());
        for conn in living {
            conn.over().await;
        }
    }
    client.end().await;
}

#[tokio::test]
async fn a_server_that_dies_at_each_call_is_given_a_rest_although_it_takes_its_time_to_die() {
    let case = r#"*tools/call*) exec >&-; sleep 0.3; exit 3;;"#;
    let dying = ALIVE.replacen("case \"$line\" in", &format!("case \"$line\" in\n{case}"), 1);
    let mut client = Client::of(&[server("a", &dying), server("b", LEGACY)], Default::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let mut said = Vec::new();
    for id in 0..12 {
        let params = json!({"name":"a_grow"});
        client.say(&json!({"jsonrpc":"2.0","id":id,"method":"tools/call","params":params})).await;
    }
    for _ in 0..12 {
        said.push(client.hear().await.to_string());
    }
    assert!(said.iter().any(|answer| answer.contains("stopped")), "{said:?}");
    for _ in 0..4 {
        said.push(client.call("a_grow").await.to_string());
    }
    assert!(said.iter().any(|answer| answer.contains("unavailable")), "{said:?}");
    client.end().await;
}
