//! Servers that run before they are used.

use super::*;

async fn until_alive(gateway: &Gateway, count: usize) {
    let mut alive = gateway.0.nursery.alive.subscribe();
    let wait = alive.wait_for(|alive| *alive == count);
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").unwrap();
}

fn warm(name: &str, isolation: &str) -> Server {
    let script = format!("NAME={name}\n{LEGACY}");
    let entry = json!({"command":"sh","args":["-c",script],"warm":true,"isolation":isolation});
    Server::from_entry(name, &entry).unwrap()
}

#[tokio::test]
async fn a_warm_server_of_everybody_runs_before_any_client_comes() {
    let servers = [warm("a", "shared"), warm("b", "session"), server("c", LEGACY)];
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.gateway.warm();
    until_alive(&client.gateway, 1).await;
    client.open().await;
    until_alive(&client.gateway, 2).await;
    assert_eq!(text(&client.call("b_one").await), "b one");
    assert_eq!(client.gateway.stats().children, 2);
    client.end().await;
}

#[tokio::test]
async fn all_servers_can_be_warm_and_one_that_hangs_holds_up_nobody() {
    let cold = json!({"command":"sh","args":["-c",LEGACY],"warm":false});
    let servers =
        [server("a", LEGACY), server("hangs", "sleep 60"), Server::from_entry("c", &cold).unwrap()];
    let options = GatewayOptions { warm: true, ..GatewayOptions::default() };
    let mut client = Client::of(&servers, options);
    client.gateway.warm();
    client.open().await;
    until_alive(&client.gateway, 2).await;
    assert_eq!(text(&client.call("a_one").await), "a one");
    assert!(client.gateway.notes()[0].ends_with(": c"));
    client.end().await;
}

#[tokio::test]
async fn a_warm_server_ends_with_the_session_it_was_started_for() {
    let gateway = Gateway::aggregate(
        "m",
        &[warm("a", "session"), server("b", LEGACY)],
        &[],
        GatewayOptions::default(),
        Scope::new(),
    )
    .unwrap();
    let hub = &gateway.0.hub;
    let text = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}"#;
    let open = Message::parse(text).unwrap();
    let opened = hub.open(&open, &Principal::Anonymous, &hub.everything).await;
    let (session, _) = opened.unwrap_or_else(|error| panic!("{error}"));
    until_alive(&gateway, 1).await;
    session.stop();
    until_alive(&gateway, 0).await;
    gateway.shutdown().await;
}
