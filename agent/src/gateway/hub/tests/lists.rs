//! Lists that are made once, and servers that are asked once for many.

use tokio::sync::mpsc;

use super::*;

/// A server with a tool more each time its file has grown, which counts how often it is asked.
fn counting(name: &str, dir: &std::path::Path, slow: bool) -> Server {
    let log = dir.join(name).display().to_string();
    let wait = if slow { "sleep 0.3;" } else { "" };
    let list = format!(
        r#"*tools/list*) echo . >>'{log}'; {wait} tool=$(cat '{log}.tool' 2>/dev/null || echo one); echo '{{"jsonrpc":"2.0","id":'$(id "$line")',"result":{{"tools":[{{"name":"'$tool'","inputSchema":{{"type":"object"}}}}]}}}}';;"#
    );
    let script = LEGACY.replacen("case \"$line\" in", &format!("case \"$line\" in\n{list}"), 1);
    server(name, &script)
}

fn asked(dir: &std::path::Path, name: &str) -> usize {
    std::fs::read_to_string(dir.join(name)).map_or(0, |text| text.lines().count())
}

#[tokio::test]
async fn the_list_of_running_servers_is_made_once_until_one_of_them_says_another() {
    let dir = tempfile::tempdir().unwrap();
    let servers = [counting("a", dir.path(), false), counting("b", dir.path(), false)];
    for isolation in [Isolation::Shared, Isolation::Session] {
        std::fs::remove_file(dir.path().join("a.tool")).ok();
        let options = GatewayOptions { isolation, ..GatewayOptions::default() };
        let mut client = Client::of(&servers, options);
        client.open().await;
        let made = |client: &Client| {
            let Gateway(inner) = &client.gateway;
            inner.hub.everything.merged.last(Era::Legacy, List::Tools).unwrap()
        };
        let list = client.ask("tools/list", json!({})).await;
        assert_eq!(names(&list), ["a_one", "b_one"]);
        // From its first call on, what it lists may be this client's own.
        client.call("a_one").await;
        client.ask("tools/list", json!({})).await;
        let (before, first) = (asked(dir.path(), "a"), made(&client));
        let again = client.ask("tools/list", json!({})).await;
        assert_eq!(again, list);
        assert_eq!(asked(dir.path(), "a") - before, 1, "a server that runs is asked");
        assert!(Arc::ptr_eq(&first, &made(&client)), "nothing is made anew");
        std::fs::write(dir.path().join("a.tool"), "two").unwrap();
        let other = client.ask("tools/list", json!({})).await;
        assert_eq!(names(&other), ["a_two", "b_one"]);
        client.end().await;
    }
}

#[tokio::test]
async fn a_list_of_servers_that_rest_is_there_at_once_and_one_that_runs_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let options = || GatewayOptions {
        catalog: Some(Catalog::open(&Paths::new(dir.path()))),
        ..GatewayOptions::default()
    };
    let meta = || json!({"io.modelcontextprotocol/protocolVersion":MODERN,"io.modelcontextprotocol/clientCapabilities":{}});
    let servers = [counting("a", dir.path(), false), counting("b", dir.path(), false)];
    let mut client = Client::of(&servers, options());
    let before = client.ask("tools/list", json!({"_meta":meta()})).await;
    client.end().await;

    let mut client = Client::of(&servers, options());
    let Gateway(inner) = client.gateway.clone();
    let caller = inner.hub.caller(&Principal::Anonymous, &inner.hub.everything, None);
    let at_once = |params: Value| {
        let id = "tools/list";
        let text = json!({"jsonrpc":"2.0","id":id,"method":id,"params":params}).to_string();
        let answer = caller.at_once(&Message::parse(&text).unwrap())?;
        Some(serde_json::from_slice::<Value>(&answer).unwrap())
    };
    let list = at_once(json!({"_meta":meta()}));
    assert_eq!(list, Some(before));
    assert_eq!(client.gateway.stats().children, 0);
    assert_eq!(at_once(json!({"_meta":meta(),"cursor":"x"})), None, "that is to be refused");
    let call = json!({"name":"a_one","arguments":{},"_meta":meta()});
    assert_eq!(text(&client.ask("tools/call", call).await), "a one");
    assert_eq!(at_once(json!({"_meta":meta()})), None, "a server that runs is asked");
    client.end().await;
}

/// A server that starts when `gate` is there.
fn waiting(name: &str, gate: &std::path::Path) -> Server {
    let gate = gate.display();
    server(name, &format!("until [ -e '{gate}' ]; do sleep 0.02; done\n{LEGACY}"))
}

#[tokio::test]
async fn who_did_not_wait_for_a_server_is_told_when_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("open");
    let options =
        GatewayOptions { first_list: Duration::from_millis(300), ..GatewayOptions::default() };
    let mut client = Client::of(&[server("a", LEGACY), waiting("late", &gate)], options);
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    assert_eq!(names(&list), ["a_one", "a_ask", "a_die"]);
    std::fs::write(&gate, "").unwrap();
    assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    let list = client.ask("tools/list", json!({})).await;
    let all = ["a_one", "a_ask", "a_die", "late_one", "late_ask", "late_die"];
    assert_eq!(names(&list), all);
    client.end().await;
}

#[tokio::test]
async fn a_server_that_is_late_is_listed_as_clients_of_the_other_era_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("open");
    std::fs::write(&gate, "").unwrap();
    let options = || GatewayOptions {
        catalog: Some(crate::catalog::Catalog::open(&crate::fs::Paths::new(dir.path()))),
        first_list: Duration::from_secs(20),
        ..GatewayOptions::default()
    };
    let servers = [server("a", LEGACY), waiting("late", &gate)];
    let mut client = Client::of(&servers, options());
    client.open().await;
    let list = client.ask("tools/list", json!({})).await;
    let all = ["a_one", "a_ask", "a_die", "late_one", "late_ask", "late_die"];
    assert_eq!(names(&list), all);
    client.end().await;
    std::fs::remove_file(&gate).unwrap();
    let mut client = Client::of(&servers, options());
    client.say(&modern("1", "tools/list", json!({}))).await;
    let list = client.hear().await;
    assert_eq!(list["result"]["resultType"], "complete");
    assert_eq!(names(&list), all);
    client.end().await;
}

#[tokio::test]
async fn who_asks_for_a_list_that_a_server_is_asked_for_shares_the_next_answer() {
    let dir = tempfile::tempdir().unwrap();
    let servers = [counting("a", dir.path(), true), server("b", LEGACY)];
    let gateway =
        Gateway::aggregate("m", &servers, &[], GatewayOptions::default(), Scope::new()).unwrap();
    let hub = &gateway.0.hub;
    let caller = hub.caller(&Principal::Anonymous, &hub.everything, None);
    let text = modern("1", "tools/list", json!({})).to_string();
    let message = Message::parse(&text).unwrap();
    let list = async || {
        let (sink, mut packets) = mpsc::channel(4);
        let _call = caller.begin(&message, sink).unwrap();
        let packet = packets.recv().await.unwrap();
        assert_eq!(names(&serde_json::from_slice(&packet.message).unwrap())[0], "a_one");
    };
    list().await;
    let before = asked(dir.path(), "a");
    futures_util::future::join_all((0..20).map(|_| list())).await;
    let asked = asked(dir.path(), "a") - before;
    assert!((1..=2).contains(&asked), "{asked} questions for all who came meanwhile");
    gateway.shutdown().await;
}
