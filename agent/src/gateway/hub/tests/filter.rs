//! Tools that clients must not have.

use std::sync::{Arc, Mutex};

use super::*;
use crate::gateway::{StderrSink, ToolPattern};
use crate::hint::Hint as _;

/// A server with further keys in its entry.
fn entry(name: &str, script: &str, keys: Value) -> Server {
    let mut entry = keys;
    entry["command"] = "sh".into();
    entry["args"] = json!(["-c", format!("NAME={name}\n{script}")]);
    Server::from_entry(name, &entry).unwrap()
}

/// What servers of a test heard: they write it to stderr.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn options(&self) -> GatewayOptions {
        let heard = self.0.clone();
        let sink = StderrSink::new(move |server, line| {
            heard.lock().unwrap().push(format!("{server} {line}"));
        });
        GatewayOptions { stderr: Some(sink), ..GatewayOptions::default() }
    }

    fn any(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line.contains(text))
    }
}

fn patterns(texts: &[&str]) -> Vec<ToolPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl Client {
    async fn say_raw(&mut self, text: &str) {
        self.to.write_all(text.as_bytes()).await.unwrap();
        self.to.write_all(b"\n").await.unwrap();
    }
}

#[tokio::test]
async fn a_denied_tool_is_in_no_list_and_its_call_is_that_of_an_unknown_tool() {
    let servers = [
        entry("a", LEGACY, json!({"denyTools":["die","as*"]})),
        entry("b", LEGACY, json!({"allowTools":["one"]})),
    ];
    let heard = Heard::default();
    let mut client = Client::of(&servers, heard.options());
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_one", "b_one"]);
    let unknown = client.call("a_nothing").await["error"].to_string();
    for denied in ["a_die", "a_ask", "b_ask", "b_die", "die", "ask"] {
        for params in [json!({"name":denied}), json!({"name":denied,"task":{"ttl":1}})] {
            let answer = client.ask("tools/call", params).await;
            assert_eq!(answer["error"].to_string(), unknown.replace("a_nothing", denied));
        }
    }
    assert_eq!(text(&client.call("a_one").await), "a one");
    assert_eq!(text(&client.call("b_one").await), "b one");
    client.end().await;
    assert!(heard.any(r#""one""#) && !heard.any(r#""die""#) && !heard.any(r#""ask""#));
}

#[tokio::test]
async fn options_of_the_gateway_go_by_advertised_names() {
    let tools = ToolFilter::new(patterns(&["*_one", "a_die"]), patterns(&["B_*"]));
    let options = GatewayOptions { tools, ..GatewayOptions::default() };
    let mut client = Client::of(&[server("a", LEGACY), server("b", LEGACY)], options);
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_one", "a_die"]);
    for denied in ["b_one", "a_ask", "b_ask", "ask"] {
        assert_eq!(client.call(denied).await["error"]["code"], -32602, "{denied}");
    }
    assert_eq!(text(&client.call("a_one").await), "a one");
    client.end().await;
}

#[tokio::test]
async fn a_name_that_went_to_another_server_is_denied_with_it() {
    let names_of = |tool: &str| LEGACY.replace(r#""one""#, &format!(r#""{tool}""#));
    // Both would be `a_b_c`; the first has it.
    let servers = [server("a", &names_of("b_c")), server("a_b", &names_of("c"))];
    let options = || GatewayOptions {
        tools: ToolFilter::new(Vec::new(), patterns(&["a_b_c"])),
        ..Default::default()
    };
    let mut client = Client::of(&servers, options());
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_ask", "a_die", "a_b_ask", "a_b_die"]);
    client.end().await;
}

#[tokio::test]
async fn a_single_server_keeps_its_tools_back_from_every_spelling() {
    let heard = Heard::default();
    let servers = [entry("a", LEGACY, json!({"denyTools":["die"]}))];
    let mut client = Client::of(&servers, heard.options());
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["one", "ask"]);
    let paged = client.ask("tools/list", json!({"cursor":"x"})).await;
    assert_eq!(paged["error"]["code"], -32602, "{paged}");
    assert_eq!(client.call("die").await["error"]["message"], "unknown tool: die");
    for text in [
        r#"{"id":1,"method":"tools/call","params":{"name":"one","name":"die"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"one","Name":"die"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"one"},"Params":{"name":"die"}}"#,
        r#"{"id":1,"method":"x/y","METHOD":"tools/call","params":{"name":"die"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"n\u0061me":"d\u0069e"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":" Die"}}"#,
        r#"{"id":1,"method":"tools/call","params":["die"]}"#,
        r#"{"id":1,"method":"tools/call","params":{}}"#,
        r#"{"id":1,"method":"tools/call"}"#,
    ] {
        client.say_raw(text).await;
        let answer = client.hear().await;
        assert!(matches!(answer["error"]["code"].as_i64(), Some(-32602 | -32600)), "{answer}");
    }
    client.say_raw(r#"{"method":"tools/call","params":{"name":"die"}}"#).await;
    client
        .say_raw(r#"{"method":"notifications/x","Method":"tools/call","params":{"name":"die"}}"#)
        .await;
    assert_eq!(text(&client.call("one").await), "a one");
    client.end().await;
    assert!(heard.any("tools/call") && !heard.any("die") && !heard.any("Die"));
}

#[tokio::test]
async fn a_modern_client_is_kept_from_the_same_tools() {
    let servers = [entry("new", MODERN_SERVER, json!({"allowTools":["one"]}))];
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.say(&modern("1", "tools/list", json!({}))).await;
    let list = client.hear().await;
    assert_eq!((names(&list), &list["result"]["resultType"]), (vec!["one"], &json!("complete")));
    client.say(&modern("2", "tools/call", json!({"name":"ask"}))).await;
    assert_eq!(client.hear().await["error"]["code"], -32602);
    client.say(&modern("3", "tools/call", json!({"name":"one"}))).await;
    assert_eq!(text(&client.hear().await), "new one");
    client.end().await;
}

#[tokio::test]
async fn a_profile_of_one_server_of_several_denies_what_the_whole_does() {
    let parts = [("small".to_owned(), vec!["a".to_owned()])];
    let tools = ToolFilter::new(Vec::new(), patterns(&["a_die"]));
    let options = GatewayOptions { tools, ..GatewayOptions::default() };
    let servers = [server("a", LEGACY), server("b", LEGACY)];
    let gateway = Gateway::aggregate("m", &servers, &parts, options, Scope::new()).unwrap();
    let hub = &gateway.0.hub;
    let view = hub.view(Some("small")).unwrap();
    let text = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let open = Message::parse(text).unwrap();
    let opened = hub.open(&open, &Principal::Anonymous, &view).await;
    let (session, _) = opened.unwrap_or_else(|error| panic!("{error}"));
    let ask = async |text: &str| {
        let (sink, mut answer) = tokio::sync::mpsc::channel(4);
        let _call = session.begin(&Message::parse(text).unwrap(), sink).unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answer.recv()).await;
        serde_json::from_slice::<Value>(&answer.unwrap().unwrap().message).unwrap()
    };
    let list = ask(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).await;
    assert_eq!(names(&list), ["one", "ask"]);
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"die"}}"#;
    assert_eq!(ask(call).await["error"]["message"], "unknown tool: die");
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_change_that_clients_do_not_see_is_not_told() {
    let servers = [entry("a", LEGACY, json!({"denyTools":["hidden*"]})), server("b", LEGACY)];
    let gateway =
        Gateway::aggregate("m", &servers, &[], GatewayOptions::default(), Scope::new()).unwrap();
    let hub = &gateway.0.hub;
    let replace = |names: &[&str]| {
        let items = names.iter().map(|name| {
            serde_json::value::RawValue::from_string(json!({"name":name}).to_string()).unwrap()
        });
        let items = Arc::new(items.collect());
        let asked = hub.members[0].known().said_mut(Era::Legacy).ask(List::Tools);
        fetch::replace(hub, &hub.members[0], Era::Legacy, List::Tools, (&items, asked)).0
    };
    assert!(replace(&["one", "hidden"]));
    assert!(!replace(&["one", "hidden", "hidden2"]));
    assert!(!replace(&["one"]));
    assert!(replace(&["one", "two"]));
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_faulty_entry_is_not_served() {
    for (key, value) in [
        ("denyTools", json!("die")),
        ("allowTools", json!([3])),
        ("warm", json!("yes")),
        ("isolation", json!("sesion")),
    ] {
        let servers = [entry("a", LEGACY, json!({key:value})), server("b", LEGACY)];
        for servers in [&servers[..], &servers[..1]] {
            let options = GatewayOptions::default();
            let made = Gateway::aggregate("m", servers, &[], options, Scope::new());
            let error = made.unwrap_err();
            let text = error.to_string();
            assert!(text.contains("`a`") && text.contains(&format!("`{key}`")), "{text}");
            assert!(error.hint().unwrap().contains(key));
        }
    }
}
