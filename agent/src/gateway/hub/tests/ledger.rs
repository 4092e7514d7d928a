//! What is noted of calls.

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::*;
use crate::usage::{About, Action, Origin, Recorder};

/// Server, name, client, whether the size of the answer is known, and the error.
type Row = (Option<String>, String, Option<String>, Option<i64>, Option<String>);

/// Returns the calls that were noted while `work` used these servers.
async fn noted(servers: &[Server], work: impl AsyncFnOnce(&mut Client)) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path());
    let books = Scope::new();
    let about = About {
        server: None,
        profile: None,
        action: Action::ProfileRun,
        origin: Origin::Stdio,
        client: None,
    };
    let usage = Some((Recorder::start(&paths, &books), about));
    let mut client = Client::of(servers, GatewayOptions { usage, ..GatewayOptions::default() });
    work(&mut client).await;
    client.end().await;
    assert_eq!(books.drain(Duration::from_secs(20)).await, 0);
    let options = SqliteConnectOptions::new().filename(paths.monitor_db());
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let query = "SELECT server_id, resource_id, client_id, response_size, error_message
        FROM monitor_events WHERE event_type NOT LIKE 'SESSION%' ORDER BY id";
    sqlx::query_as::<_, Row>(query).fetch_all(&mut connection).await.unwrap()
}

/// A server that knows no resource, but has some.
fn without(name: &str) -> Server {
    let no = r#"*resources/read*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"error":{"code":-32002,"message":"no such thing"}}';;"#;
    let script = LEGACY.replace("    *resources/read*", &format!("    {no}\n    *resources/read*"));
    server(name, &script.replace("://x", "://y"))
}

#[tokio::test]
async fn a_call_is_noted_with_its_error_its_size_and_its_client() {
    let servers = [server("a", LEGACY), server("gone", "exit 1")];
    let rows = noted(&servers, async |client| {
        client.open().await;
        client.ask("tools/list", json!({})).await;
        let answer = client.call("a_one").await;
        assert_eq!(text(&answer), "a one");
        client.call("a_die").await;
        let params = json!({"name":"gone_x"});
        client.ask("tools/call", params).await;
    })
    .await;
    let [one, die] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((one.0.as_deref(), one.1.as_str(), one.2.as_deref()), (Some("a"), "one", Some("t")));
    assert!(one.3.unwrap() > 60 && one.4.is_none(), "{one:?}");
    assert_eq!(die.1, "die");
    let error = die.4.as_deref().unwrap();
    assert!(error.starts_with("-32") && error.contains("server `a`"), "{error}");
}

#[tokio::test]
async fn the_client_of_a_modern_call_is_the_one_that_the_request_names() {
    let rows = noted(&[server("a", LEGACY), server("b", LEGACY)], async |client| {
        client.say(&modern("l", "tools/list", json!({}))).await;
        client.hear().await;
        for name in [Some("one client"), Some("another"), None] {
            let mut call = modern("c", "tools/call", json!({"name":"a_one"}));
            if let Some(name) = name {
                call["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] =
                    json!({"name":name,"version":"1"});
            }
            client.say(&call).await;
            assert_eq!(text(&client.hear().await), "a one");
        }
    })
    .await;
    let clients: Vec<_> = rows.iter().map(|row| row.2.as_deref()).collect();
    assert_eq!(clients, [Some("one client"), Some("another"), None]);
}

#[tokio::test]
async fn of_several_servers_that_are_asked_only_the_last_is_noted() {
    let servers = [without("a"), without("b"), server("c", LEGACY)];
    let rows = noted(&servers, async |client| {
        client.open().await;
        let read = client.ask("resources/read", json!({"uri":"other://z"})).await;
        assert_eq!(read["result"]["contents"][0]["text"], "of c", "{read}");
    })
    .await;
    let [only] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((only.0.as_deref(), only.4.as_deref()), (Some("c"), None));
    assert!(only.3.is_some());

    let rows = noted(&[without("a"), without("b")], async |client| {
        client.open().await;
        let read = client.ask("resources/read", json!({"uri":"other://z"})).await;
        assert_eq!(read["error"]["code"], -32002);
    })
    .await;
    let [only] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((only.0.as_deref(), only.4.as_deref()), (Some("b"), Some("-32002: no such thing")));
}

#[tokio::test]
async fn a_tool_of_a_server_that_cannot_be_had_fails_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = || Some(Catalog::open(&Paths::new(dir.path())));
    let flag = dir.path().join("flag");
    let script = format!("test -e {} && exit 1\n{LEGACY}", flag.display());
    let servers = [server("a", &script), server("b", LEGACY)];
    let options = GatewayOptions { catalog: catalog(), ..GatewayOptions::default() };
    let mut client = Client::of(&servers, options);
    client.open().await;
    client.ask("tools/list", json!({})).await;
    client.end().await;
    std::fs::write(&flag, "").unwrap();
    let rows = noted(&servers, async |client| {
        client.open().await;
        client.ask("tools/list", json!({})).await;
        client.call("b_one").await;
    })
    .await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    let only = std::slice::from_ref(&servers[0]);
    let rows = noted(only, async |client| {
        client.say(&modern("1", "tools/call", json!({"name":"one"}))).await;
        assert_eq!(client.hear().await["result"]["isError"], true);
    })
    .await;
    let error = rows[0].4.as_deref().unwrap();
    assert!(error.starts_with("server `a` is unavailable"), "{error}");
}
