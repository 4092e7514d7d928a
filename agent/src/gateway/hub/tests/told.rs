//! What servers say unasked, and what clients are subscribed to.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;

/// A server that writes down what it hears, and does more than others by these cases.
struct Scribe {
    dir: TempDir,
    server: Server,
}

impl Scribe {
    fn new(name: &str, isolation: &str, cases: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = LEGACY
            .replacen("case \"$line\" in", &format!("case \"$line\" in\n{cases}"), 1)
            .replace(r#""resources":{}"#, r#""resources":{"subscribe":true},"logging":{}"#)
            .replace(">&2", ">> \"$LOG\"");
        let script = format!("NAME={name}\nLOG='{}'\n{script}", log(&dir).display());
        let entry = json!({"command":"sh","args":["-c",script],"isolation":isolation});
        let server = Server::from_entry(name, &entry).unwrap();
        Self { dir, server }
    }

    /// How many lines with this text it has heard.
    fn heard(&self, text: &str) -> usize {
        let all = std::fs::read_to_string(log(&self.dir)).unwrap_or_default();
        all.lines().filter(|line| line.contains(text)).count()
    }

    /// Makes requests until it has heard something.
    async fn until(&self, session: &Arc<Session>, text: &str) {
        let heard = async {
            while self.heard(text) == 0 {
                call(session).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect(text);
    }
}

fn log(dir: &TempDir) -> PathBuf {
    Path::join(dir.path(), "heard")
}

fn gateway(servers: &[Server]) -> Gateway {
    Gateway::aggregate("m", servers, &[], GatewayOptions::default(), Scope::new()).unwrap()
}

async fn open(hub: &Arc<Hub>) -> Arc<Session> {
    open_as(hub, &Principal::Anonymous).await
}

async fn open_as(hub: &Arc<Hub>, principal: &Principal) -> Arc<Session> {
    let open = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{"elicitation":{}}}}"#;
    let open = Message::parse(open).unwrap();
    let (session, _) = hub.open(&open, principal, &hub.everything).await.unwrap();
    session
}

async fn request(session: &Arc<Session>, method: &str, params: Value) -> Value {
    let text = json!({"jsonrpc":"2.0","id":1,"method":method,"params":params}).to_string();
    let (sink, mut packets) = mpsc::channel(16);
    let _call = session.begin(&Message::parse(&text).unwrap(), sink).unwrap();
    loop {
        let packet = packets.recv().await.unwrap();
        if packet.last {
            return serde_json::from_slice(&packet.message).unwrap();
        }
    }
}

async fn call(session: &Arc<Session>) {
    let answer = request(session, "tools/call", json!({"name":"one"})).await;
    assert!(answer["result"].is_object(), "{answer}");
}

#[tokio::test]
async fn a_subscription_is_made_once_and_given_up_when_the_last_client_has_left() {
    let scribe = Scribe::new("a", "shared", "");
    let gateway = gateway(std::slice::from_ref(&scribe.server));
    let hub = &gateway.0.hub;
    let (one, other) = (open(hub).await, open(hub).await);
    let living = hub.members[0].living();
    living[0].stop();
    living[0].over().await;
    drop(living);
    // This starts it again.
    let subscribed = request(&one, "resources/subscribe", json!({"uri":"a://x"})).await;
    assert!(subscribed["result"].is_object(), "{subscribed}");
    call(&one).await;
    assert_eq!(scribe.heard("resources/subscribe"), 1);
    request(&other, "resources/subscribe", json!({"uri":"a://x"})).await;
    one.stop();
    call(&other).await;
    let third = open(hub).await;
    call(&third).await;
    assert_eq!(scribe.heard("resources/unsubscribe"), 0, "one is still there");
    drop(other);
    scribe.until(&third, "resources/unsubscribe").await;
    drop(one);
    call(&third).await;
    assert_eq!(scribe.heard("resources/unsubscribe"), 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_subscription_of_a_modern_client_starts_a_legacy_server_and_is_made_once() {
    let scribe = Scribe::new("a", "shared", "");
    let mut client = Client::of(&[scribe.server.clone(), server("b", LEGACY)], Default::default());
    let wants = json!({"notifications":{"resourceSubscriptions":["a://x"]}});
    client.say(&modern("l", "tools/list", json!({}))).await;
    client.hear().await;
    client.say(&modern("r", "resources/list", json!({}))).await;
    client.hear().await;
    let heard = async |text: &str, times: usize| {
        let heard = async {
            while scribe.heard(text) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect(text);
    };
    let conns = client.gateway.0.hub.members[0].living();
    conns.iter().for_each(|conn| conn.stop());
    for conn in conns {
        conn.over().await;
    }
    client.say(&modern("s", "subscriptions/listen", wants.clone())).await;
    let acknowledged = client.hear().await;
    assert_eq!(acknowledged["params"]["notifications"], wants["notifications"], "{acknowledged}");
    heard("resources/subscribe", 1).await;
    // Whoever changes what he listens to opens another subscription and ends this one.
    client.say(&modern("t", "subscriptions/listen", wants)).await;
    client.hear().await;
    client
        .say(
            &json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"s"}}),
        )
        .await;
    client.say(&modern("c", "tools/call", json!({"name":"a_one"}))).await;
    assert_eq!(text(&client.hear().await), "a one");
    assert_eq!(scribe.heard("resources/subscribe"), 1);
    assert_eq!(scribe.heard("resources/unsubscribe"), 0);
    client
        .say(
            &json!({"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"t"}}),
        )
        .await;
    heard("resources/unsubscribe", 1).await;
    client.end().await;
}

#[tokio::test]
async fn a_subscription_lasts_in_a_profile_without_the_server_that_would_be_asked_first() {
    let [first, second, third] = ["a", "b", "c"].map(|name| Scribe::new(name, "shared", ""));
    let servers = [first.server.clone(), second.server.clone(), third.server.clone()];
    let profile = [("p".to_owned(), vec!["b".to_owned(), "c".to_owned()])];
    let options = GatewayOptions::default();
    let gateway = Gateway::aggregate("m", &servers, &profile, options, Scope::new()).unwrap();
    let hub = &gateway.0.hub;
    let view = hub.view(Some("p")).unwrap();
    let open = Message::parse(
        r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{}}}"#,
    )
    .unwrap();
    let (one, _) = hub.open(&open, &Principal::Anonymous, &view).await.unwrap();
    let (other, _) = hub.open(&open, &Principal::Anonymous, &view).await.unwrap();
    // Nobody lists these, so that nobody knows whose they are.
    for (session, uri) in [(&one, "new://x"), (&other, "new://y")] {
        let subscribed = request(session, "resources/subscribe", json!({ "uri": uri })).await;
        assert!(subscribed["result"].is_object(), "{subscribed}");
    }
    // What is wanted is looked at when a client goes.
    drop(other);
    let heard = async {
        while second.heard("resources/unsubscribe") == 0 {
            request(&one, "tools/call", json!({"name":"b_one"})).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("an end");
    assert_eq!(second.heard(r#""uri":"new://x""#), 1, "subscribed, and not given up");
    assert_eq!(first.heard("resources/subscribe"), 0);
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_precedes_the_answer_to_a_subscription_is_passed_on_in_order() {
    let cases = r#"*resources/subscribe*) echo '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"first"}}'; echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{}}';;"#;
    let scribe = Scribe::new("a", "session", cases);
    let mut client = Client::of(std::slice::from_ref(&scribe.server), GatewayOptions::default());
    client.open().await;
    let subscribe =
        json!({"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a://x"}});
    client.say(&subscribe).await;
    assert_eq!(client.hear().await["params"]["data"], "first");
    assert_eq!(client.hear().await["id"], 1);
    client.end().await;
}

#[tokio::test]
async fn a_server_whose_list_changes_each_time_it_is_asked_is_asked_at_its_pace() {
    let cases = r#"*tools/list*) count=$((count+1)); echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"tools":[{"name":"t'$count'","inputSchema":{"type":"object"}}]}}'; for i in 1 2 3 4 5 6 7 8 9; do echo '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'; done;;"#;
    let scribe = Scribe::new("a", "session", cases);
    let servers = [scribe.server.clone(), server("b", LEGACY)];
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let before = scribe.heard("tools/list");
    for _ in 0..2 {
        assert_eq!(client.hear().await["method"], "notifications/tools/list_changed");
    }
    let asked = scribe.heard("tools/list") - before;
    assert!((1..=4).contains(&asked), "{asked} requests");
    client.end().await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_to_a_level_keeps_no_client_waiting() {
    let scribe = Scribe::new("a", "session", "*logging/setLevel*) ;;");
    let servers = [scribe.server.clone(), server("b", LEGACY)];
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let asked = Instant::now();
    for level in ["info", "error"] {
        client.ask("logging/setLevel", json!({"level":level})).await;
    }
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!(text(&client.call("a_one").await), "a one");
    assert_eq!(scribe.heard("logging/setLevel"), 1, "the next one waits for its turn");
    client.end().await;
}

#[tokio::test]
async fn a_question_that_no_client_will_ever_read_is_refused() {
    let cases = r#"*notifications/initialized*) long=$(head -c 1200000 /dev/zero | tr '\0' x); echo '{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"'$long'","requestedSchema":{"type":"object","properties":{}}}}';;
    *does\ not\ read*) ;;"#;
    let scribe = Scribe::new("a", "session", cases);
    let gateway = gateway(&[scribe.server.clone(), server("b", LEGACY)]);
    let session = open(&gateway.0.hub).await;
    request(&session, "tools/list", json!({})).await;
    let heard = async {
        while scribe.heard(r#""id":"q""#) == 0 {
            request(&session, "tools/call", json!({"name":"a_one"})).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("a refusal");
    assert_eq!(scribe.heard("the client does not read"), 1);
    gateway.shutdown().await;
}

#[tokio::test]
async fn progress_with_a_question_reaches_the_one_of_several_servers_that_asked() {
    let cases = r#"*notifications/progress*) echo '{"jsonrpc":"2.0","id":'$call',"result":{"content":[{"type":"text","text":"on its way"}]}}';;
    *tools/call*\"ask\"*) call=$(id "$line"); echo '{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"_meta":{"progressToken":"p"},"message":"who?","requestedSchema":{"type":"object","properties":{}}}}';;"#;
    let scribe = Scribe::new("a", "session", cases);
    let servers = [scribe.server.clone(), server("b", LEGACY)];
    let mut client = Client::of(&servers, GatewayOptions::default());
    client.open().await;
    client.ask("tools/list", json!({})).await;
    let call = json!({"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a_ask"}});
    client.say(&call).await;
    let question = client.hear().await;
    let token = &question["params"]["_meta"]["progressToken"];
    let progress = json!({"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":token,"progress":1}});
    client.say(&progress).await;
    assert_eq!(text(&client.hear().await), "on its way");
    client.end().await;
}

#[tokio::test]
async fn a_task_in_a_shared_process_is_its_makers_only() {
    let cases = r#"*tools/call*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"task":{"taskId":"t","status":"working"}}}';;
    *tasks/get*) echo '{"jsonrpc":"2.0","id":'$(id "$line")',"result":{"taskId":"t","status":"completed"}}'; echo '{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t","status":"completed"}}'; echo '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":"for all"}}';;"#;
    let scribe = Scribe::new("a", "shared", cases);
    let gateway = gateway(std::slice::from_ref(&scribe.server));
    let hub = &gateway.0.hub;
    let ann = open_as(hub, &Principal::Token("ann".into())).await;
    let bob = open_as(hub, &Principal::Token("bob".into())).await;
    call(&ann).await;
    let refused = request(&bob, "tasks/get", json!({"taskId":"t"})).await;
    assert_eq!(refused["error"]["message"], "unknown task: t");
    let task = request(&ann, "tasks/get", json!({"taskId":"t"})).await;
    assert_eq!(task["result"]["status"], "completed");
    for (session, first) in [(&ann, "notifications/tasks/status"), (&bob, "notifications/message")]
    {
        let mut said = session.outlet.listen(None).unwrap();
        let packet = tokio::time::timeout(Duration::from_secs(20), said.recv()).await.unwrap();
        let packet = packet.unwrap();
        let message: Value = serde_json::from_slice(&packet.message).unwrap();
        assert_eq!(message["method"], first);
    }
    gateway.shutdown().await;
}
