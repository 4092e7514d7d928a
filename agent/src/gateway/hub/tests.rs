use std::time::Duration;

use mcpm_shared::scope::Scope;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines};

use super::*;
use crate::fs::Paths;
use crate::gateway::{Gateway, GatewayOptions};
use crate::mcp::era::MODERN;

mod filter;
mod ledger;
mod lists;
mod lives;
mod remote;
mod told;
mod warm;

/// A legacy server in shell: tools `one` and `ask`, the latter with a question to the user.
const LEGACY: &str = r#"
id() { echo "$1" | sed 's/.*"id":\([^,}]*\).*/\1/'; }
while read -r line; do
  echo "$line" >&2
  case "$line" in
    *server/discover*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"error":{"code":-32601,"message":"unknown"}}';;
    *initialize\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{}},"serverInfo":{"name":"sh","version":"1"},"instructions":"I am '$NAME'"}}';;
    *tools/list*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"tools":[{"name":"one","inputSchema":{"type":"object"},"x":1.50},{"name":"ask","inputSchema":{"type":"object"}},{"name":"die","inputSchema":{"type":"object"}}]}}';;
    *resources/list*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resources":[{"uri":"'$NAME'://x","name":"x"}]}}';;
    *resources/read*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"contents":[{"uri":"'$NAME'://x","text":"of '$NAME'"}]}}';;
    *tools/call*\"one\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"content":[{"type":"text","text":"'$NAME' one"}]}}';;
    *tools/call*\"ask\"*) call=$(id "$line"); echo '{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"who?","requestedSchema":{"type":"object","properties":{}}}}';;
    *\"result\"*) echo '{"jsonrpc":"2.0","id":'$call',"result":{"content":[{"type":"text","text":"thanks"}]}}';;
    *tools/call*\"die\"*) exit 3;;
    *\"method\":\"notifications*) ;;
    *\"id\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{}}';;
  esac
done
"#;

/// A modern server in shell: tools `one` and `ask`, the latter with a question to the user.
const MODERN_SERVER: &str = r#"
id() { echo "$1" | sed 's/.*"id":\([^,}]*\).*/\1/'; }
while read -r line; do
  case "$line" in
    *initialize\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"error":{"code":-32022,"message":"no","data":{"supported":["2026-07-28"],"requested":"2025-11-25"}}}';;
    *server/discover*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"new","version":"2"}}}}';;
    *subscriptions/listen*) ;;
    *tools/list*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"one","inputSchema":{"type":"object"}},{"name":"ask","inputSchema":{"type":"object"}}]}}';;
    *inputResponses*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resultType":"complete","content":[{"type":"text","text":"thanks"}]}}';;
    *\"ask\"*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resultType":"input_required","requestState":"s t","inputRequests":{"k":{"method":"elicitation/create","params":{"mode":"form","message":"who?","requestedSchema":{"type":"object","properties":{}}}}}}}';;
    *tools/call*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"resultType":"complete","content":[{"type":"text","text":"new one"}]}}';;
  esac
done
"#;

fn server(name: &str, script: &str) -> Server {
    let script = format!("NAME={name}\n{script}");
    Server::stdio(name, "sh", ["-c", script.as_str()])
}

struct Client {
    to: DuplexStream,
    from: Lines<BufReader<DuplexStream>>,
    gateway: Gateway,
    scope: Scope,
}

impl Client {
    fn of(servers: &[Server], options: GatewayOptions) -> Self {
        let scope = Scope::new();
        let gateway = Gateway::aggregate("many", servers, &[], options, scope.child()).unwrap();
        let (to, stdin) = tokio::io::duplex(1 << 20);
        let (stdout, from) = tokio::io::duplex(1 << 20);
        let serving = gateway.clone();
        scope.spawn(async move { serving.serve_stdio(stdin, stdout).await.unwrap() });
        Self { to, from: BufReader::new(from).lines(), gateway, scope }
    }

    async fn say(&mut self, message: &Value) {
        self.to.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(20), self.from.next_line()).await;
        serde_json::from_str(&line.expect("an answer in time").unwrap().unwrap()).unwrap()
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.say(&json!({"jsonrpc":"2.0","id":method,"method":method,"params":params})).await;
        let answer = self.hear().await;
        assert_eq!(answer["id"], method, "{answer}");
        answer
    }

    async fn open(&mut self) -> Value {
        let capabilities = json!({"elicitation":{}});
        let params = json!({"protocolVersion":"2025-11-25","capabilities":capabilities,"clientInfo":{"name":"t","version":"1"}});
        let answer = self.ask("initialize", params).await;
        self.say(&json!({"jsonrpc":"2.0","method":"notifications/initialized"})).await;
        answer["result"].clone()
    }

    async fn call(&mut self, tool: &str) -> Value {
        self.ask("tools/call", json!({"name":tool,"arguments":{}})).await
    }

    async fn end(self) {
        drop(self.to);
        self.gateway.shutdown().await;
        assert_eq!(self.gateway.stats().children, 0);
        self.scope.drain(Duration::from_secs(5)).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect()
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn two_servers_are_one_with_names_of_their_own() {
    let servers = [server("a", LEGACY), server("b", LEGACY)];
    let mut client = Client::of(&servers, GatewayOptions::default());
    let opened = client.open().await;
    assert_eq!(opened["serverInfo"]["name"], "mcpm");
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_one", "a_ask", "a_die", "b_one", "b_ask", "b_die"]);
    assert!(list.to_string().contains(r#""x":1.5"#), "{list}");
    assert_eq!(text(&client.call("b_one").await), "b one");
    assert_eq!(text(&client.call("a_one").await), "a one");
    let unknown = client.call("c_one").await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    let read = client.ask("resources/read", json!({"uri":"b://x"})).await;
    assert_eq!(read["result"]["contents"][0]["text"], "of b");
    client.end().await;
}

#[tokio::test]
async fn a_server_that_does_not_start_leaves_the_others_alone() {
    let options = GatewayOptions { start_timeout: Duration::from_secs(1), ..Default::default() };
    let servers = [
        server("a", LEGACY),
        server("hangs", "sleep 60"),
        server("dies", "exit 1"),
        Server::stdio("missing", "/no/such/program", [""; 0]),
    ];
    let mut client = Client::of(&servers, options);
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_one", "a_ask", "a_die"]);
    assert_eq!(text(&client.call("a_one").await), "a one");
    client.end().await;
}

#[tokio::test]
async fn a_question_goes_to_the_client_whose_call_caused_it_and_back() {
    let mut client = Client::of(&[server("a", LEGACY), server("b", LEGACY)], Default::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let call = json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"b_ask"}});
    client.say(&call).await;
    let question = client.hear().await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    assert_ne!(question["id"], 7, "the id is ours: two servers may use the same");
    client
        .say(
            &json!({"jsonrpc":"2.0","id":question["id"],"result":{"action":"accept","content":{}}}),
        )
        .await;
    let answer = client.hear().await;
    assert_eq!((&answer["id"], text(&answer)), (&json!(1), "thanks"));
    client.end().await;
}

fn modern(id: &str, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation":{}},
    });
    json!({"jsonrpc":"2.0","id":id,"method":method,"params":params})
}

#[tokio::test]
async fn a_modern_client_answers_a_legacy_servers_question_by_a_retry() {
    let mut client = Client::of(&[server("a", LEGACY), server("b", LEGACY)], Default::default());
    client.say(&modern("l", "tools/list", json!({}))).await;
    let list = client.hear().await;
    assert_eq!(list["result"]["resultType"], "complete", "{list}");
    assert_eq!(names(&list), ["a_one", "a_ask", "a_die", "b_one", "b_ask", "b_die"]);
    client.say(&modern("1", "tools/call", json!({"name":"a_ask","arguments":{}}))).await;
    let asked = client.hear().await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let (state, requests) = (&asked["result"]["requestState"], &asked["result"]["inputRequests"]);
    let key = requests.as_object().unwrap().keys().next().unwrap();
    assert_eq!(requests[key]["method"], "elicitation/create");
    // Another call must not take the handle of this one.
    let other = json!({"name":"b_ask","arguments":{},"requestState":state,"inputResponses":{}});
    client.say(&modern("x", "tools/call", other)).await;
    assert_eq!(client.hear().await["error"]["code"], -32602);
    let retry = json!({"name":"a_ask","arguments":{},"requestState":state,
        "inputResponses":{key:{"action":"accept","content":{}}}});
    client.say(&modern("2", "tools/call", retry)).await;
    let answer = client.hear().await;
    assert_eq!((&answer["id"], text(&answer)), (&json!("2"), "thanks"));
    assert_eq!(answer["result"]["resultType"], "complete");
    client.end().await;
}

#[tokio::test]
async fn a_legacy_client_uses_a_modern_server() {
    let servers = [server("old", LEGACY), server("new", MODERN_SERVER)];
    let mut client = Client::of(&servers, Default::default());
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["old_one", "old_ask", "old_die", "new_one", "new_ask"]);
    assert!(!list.to_string().contains("resultType"), "{list}");
    assert_eq!(text(&client.call("new_one").await), "new one");
    let call = json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"new_ask"}});
    client.say(&call).await;
    let question = client.hear().await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    client
        .say(
            &json!({"jsonrpc":"2.0","id":question["id"],"result":{"action":"accept","content":{}}}),
        )
        .await;
    let answer = client.hear().await;
    assert_eq!((&answer["id"], text(&answer)), (&json!(1), "thanks"));
    client.end().await;
}

#[tokio::test]
async fn what_a_modern_server_asks_is_withdrawn_with_the_call_that_its_legacy_client_takes_back() {
    let servers = [server("old", LEGACY), server("new", MODERN_SERVER)];
    let mut client = Client::of(&servers, Default::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let call = json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"new_ask"}});
    client.say(&call).await;
    let question = client.hear().await;
    assert_eq!(question["method"], "elicitation/create", "{question}");
    let cancel =
        json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}});
    client.say(&cancel).await;
    let withdrawn = client.hear().await;
    assert_eq!(withdrawn["method"], "notifications/cancelled", "{withdrawn}");
    assert_eq!(withdrawn["params"]["requestId"], question["id"]);
    // An answer that crossed it on the way is for nobody.
    client.say(&json!({"jsonrpc":"2.0","id":question["id"],"result":{"action":"cancel"}})).await;
    assert_eq!(text(&client.call("new_one").await), "new one");
    client.end().await;
}

#[tokio::test]
async fn lists_of_known_servers_start_none_and_the_first_call_starts_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = || GatewayOptions {
        catalog: Some(Catalog::open(&Paths::new(dir.path()))),
        ..Default::default()
    };
    let servers = [server("a", LEGACY), server("b", LEGACY)];
    let mut client = Client::of(&servers, options());
    client.open().await;
    let before = client.ask("tools/list", json!({})).await;
    client.end().await;

    let mut client = Client::of(&servers, options());
    let opened = client.open().await;
    assert!(opened["instructions"].as_str().unwrap().contains("I am b"), "{opened}");
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(list, before);
    assert_eq!(client.gateway.stats().children, 0);
    assert_eq!(text(&client.call("b_one").await), "b one");
    assert_eq!(client.gateway.stats().children, 1);
    client.end().await;
}

#[tokio::test]
async fn a_server_that_dies_fails_its_calls_and_comes_back() {
    let mut client = Client::of(&[server("a", LEGACY), server("b", LEGACY)], Default::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let died = client.call("b_die").await;
    assert_eq!(died["error"]["data"]["reason"], "upstream_exited", "{died}");
    assert_eq!(text(&client.call("a_one").await), "a one");
    assert_eq!(text(&client.call("b_one").await), "b one");
    client.end().await;
}

#[tokio::test]
async fn a_server_that_is_late_holds_up_one_list_and_not_the_next() {
    let slow = server("slow", &format!("sleep 3600\n{LEGACY}"));
    let options = GatewayOptions { first_list: Duration::from_secs(1), ..Default::default() };
    let mut client = Client::of(&[server("a", LEGACY), slow], options);
    client.open().await;
    let started = std::time::Instant::now();
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_one", "a_ask", "a_die"]);
    let first = started.elapsed();
    client.ask("tools/list", json!({})).await;
    client.ask("prompts/list", json!({})).await;
    assert!(started.elapsed() - first < first / 2, "the first took {first:?}");
    client.end().await;
}

#[tokio::test]
async fn a_session_that_ends_while_a_server_starts_leaves_no_process() {
    let late = server("late", &format!("sleep 1\n{LEGACY}"));
    let servers = [server("a", LEGACY), late];
    let scope = Scope::new();
    let gateway =
        Gateway::aggregate("m", &servers, &[], GatewayOptions::default(), scope.child()).unwrap();
    let Gateway(inner) = &gateway;
    let hub = &inner.hub;
    let text = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let open = Message::parse(text).unwrap();
    let (session, _) = hub.open(&open, &Principal::Anonymous, &hub.everything).await.unwrap();
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let (sink, mut answer) = tokio::sync::mpsc::channel(4);
    let call = session.begin(&Message::parse(text).unwrap(), sink).unwrap();
    let mut alive = inner.nursery.alive.subscribe();
    alive.wait_for(|alive| *alive == 2).await.unwrap();
    session.stop();
    drop(call);
    assert!(answer.recv().await.is_none());
    let gone = tokio::time::timeout(Duration::from_secs(15), alive.wait_for(|alive| *alive == 0));
    gone.await.expect("both end").unwrap();
}

#[tokio::test]
async fn a_resource_that_two_servers_list_is_told_once_and_answered_by_the_first() {
    let same = LEGACY.replace("'$NAME'://x", "same://x");
    let servers = [server("a", &same), server("b", &same)];
    let mut client = Client::of(&servers, Default::default());
    client.open().await;
    let list = client.ask("resources/list", json!({})).await;
    assert_eq!(list["result"]["resources"].as_array().unwrap().len(), 1, "{list}");
    let read = client.ask("resources/read", json!({"uri":"same://x"})).await;
    assert_eq!(read["result"]["contents"][0]["text"], "of a");
    client.end().await;
}

#[tokio::test]
async fn a_modern_client_sees_the_profile_of_each_request_and_never_more() {
    use http_body_util::{BodyExt as _, Full};

    let parts = [("small".to_owned(), vec!["a".to_owned()])];
    let servers = [server("a", LEGACY), server("b", LEGACY)];
    let options = GatewayOptions::default();
    let gateway = Gateway::aggregate("m", &servers, &parts, options, Scope::new()).unwrap();
    let list = async |query: &str| {
        let body = modern("1", "tools/list", json!({})).to_string();
        let request = http::Request::post(format!("/mcp{query}"))
            .header("content-type", "application/json")
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", "tools/list")
            .body(Full::new(bytes::Bytes::from(body)))
            .unwrap();
        let answer = gateway.dispatch(request, &Principal::Anonymous).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    let (_, all) = list("").await;
    assert_eq!(names(&all).len(), 6);
    let (_, small) = list("?profile=small").await;
    assert_eq!(names(&small), ["one", "ask", "die"]);
    assert_eq!(list("?profile=other").await.0, 403);
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_headers_that_a_tool_asks_for_are_no_matter_of_its_namesake_in_another_profile() {
    use http_body_util::{BodyExt as _, Full};

    let schema = r#"{"name":"one","inputSchema":{"type":"object"},"x":1.50}"#;
    let asks = r#"{"name":"one","inputSchema":{"type":"object","properties":{"n":{"type":"string","x-mcp-header":"N"}}}}"#;
    let servers = [server("a", LEGACY), server("b", &LEGACY.replace(schema, asks))];
    let parts = ["a", "b"].map(|name| (name.to_owned(), vec![name.to_owned()]));
    let options = GatewayOptions::default();
    let gateway = Gateway::aggregate("m", &servers, &parts, options, Scope::new()).unwrap();
    let ask = async |profile: &str, method: &str, params: Value| {
        let body = modern("1", method, params).to_string();
        let request = http::Request::post(format!("/mcp?profile={profile}"))
            .header("content-type", "application/json")
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", method)
            .header("mcp-name", "one")
            .body(Full::new(bytes::Bytes::from(body)))
            .unwrap();
        let answer = gateway.dispatch(request, &Principal::Anonymous).await;
        let status = answer.status().as_u16();
        drop(answer.into_body().collect().await.unwrap());
        status
    };
    for profile in ["a", "b"] {
        assert_eq!(ask(profile, "tools/list", json!({})).await, 200);
    }
    let call = json!({"name":"one","arguments":{"n":"x"}});
    assert_eq!(ask("a", "tools/call", call.clone()).await, 200);
    assert_eq!(ask("b", "tools/call", call).await, 400, "there the header is missing");
    gateway.shutdown().await;
}
