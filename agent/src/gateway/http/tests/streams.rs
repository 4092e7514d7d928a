//! Streams of legacy sessions that outlive their connections.

use super::*;

fn newest() -> Gateway {
    gateway(&LEGACY.replace("2025-06-18", "2025-11-25"), GatewayOptions::default())
}

/// Reads the next event of a stream with all of its fields.
async fn whole(body: &mut GatewayBody) -> Option<sse::Event> {
    let frame = body.frame().await?.unwrap().into_data().unwrap();
    let mut decoder = sse::Decoder::new(1_000_000);
    decoder.push(&frame);
    decoder.next_event().unwrap()
}

const TELL: &str = r#"{"id":1,"method":"tell","params":{"_meta":{"progressToken":"p"}}}"#;
/// A call that says something and is answered only after something else was said to the server.
const ASK: &str = r#"{"id":5,"method":"ask"}"#;

/// A server that asks its client something within a call.
const ASKS: &str = r#"
id() { echo "$1" | sed 's/.*"id":\([^,}]*\).*/\1/'; }
while read -r line; do
  case "$line" in
    *initialize\"*) echo '{"id":'$(id "$line")',"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"sh"}}}';;
    *initialized\"*) ;;
    *ask\"*) call=$(id "$line"); echo '{"id":"q","method":"roots/list"}';;
    *'"q"'*) echo '{"id":'$call',"result":{}}';;
    *) echo '{"method":"notifications/heard"}';;
  esac
done
"#;

#[tokio::test]
async fn streams_of_2025_11_25_open_with_an_id_and_older_ones_have_ids_only() {
    for (gateway, primed) in [(legacy(), false), (newest(), true)] {
        let id = open(&gateway).await;
        let mut body = post(&gateway, &[(SESSION_HEADER, &id)], TELL).await.into_body();
        let mut ids = Vec::new();
        let mut first = None;
        while let Some(event) = whole(&mut body).await {
            ids.push(event.id.clone().unwrap());
            first.get_or_insert(event);
        }
        let first = first.unwrap();
        assert_eq!((first.data.is_empty(), first.retry_ms.is_some()), (primed, primed));
        assert_eq!(ids[usize::from(primed)..], ["p1-1", "p1-2", "p1-3"]);
        gateway.shutdown().await;
    }
}

#[tokio::test]
async fn an_answer_waits_for_a_client_that_lost_its_stream() {
    let gateway = gateway(ASKS, GatewayOptions { max_sessions: 1, ..GatewayOptions::default() });
    let body = r#"{"id":0,"method":"initialize","params":{"capabilities":{"roots":{}}}}"#;
    let opened = post(&gateway, &[], body).await;
    let id = opened.headers()[SESSION_HEADER].to_str().unwrap().to_owned();
    let session = [(SESSION_HEADER, id.as_str())];
    let mut lost = post(&gateway, &session, ASK).await.into_body();
    let question = whole(&mut lost).await.unwrap();
    assert_eq!(question.id.as_deref(), Some("p1-1"));
    drop(lost);
    // The request goes on, so the session has its place.
    let other = post(&gateway, &[], r#"{"id":0,"method":"initialize"}"#).await;
    assert_eq!(other.status(), 503);
    let question: Value = serde_json::from_slice(&question.data).unwrap();
    let reply = format!(r#"{{"id":{},"result":{{"roots":[]}}}}"#, question["id"]);
    assert_eq!(post(&gateway, &session, &reply).await.status(), 202);
    let heads = [session[0], ("last-event-id", "p1-1")];
    let back = send(&gateway, Method::GET, &heads, "").await;
    assert_eq!(back.status(), 200);
    let mut back = back.into_body();
    let answer = whole(&mut back).await.unwrap();
    assert_eq!(answer.id.as_deref(), Some("p1-2"));
    assert_eq!(&answer.data[..], br#"{"id":5,"result":{}}"#);
    assert!(back.frame().await.is_none());
    let heads = [session[0], ("last-event-id", "p9-1")];
    assert_eq!(send(&gateway, Method::GET, &heads, "").await.status(), 400);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_listener_resumes_and_a_strange_id_opens_a_fresh_stream() {
    let gateway = legacy();
    let id = open(&gateway).await;
    let session = [(SESSION_HEADER, id.as_str())];
    let nudge = async || {
        assert_eq!(post(&gateway, &session, NUDGE).await.status(), 202);
    };
    let mut body = send(&gateway, Method::GET, &session, "").await.into_body();
    nudge().await;
    assert_eq!(whole(&mut body).await.unwrap().id.as_deref(), Some("g1-1"));
    drop(body);
    nudge().await;
    let heads = [session[0], ("last-event-id", "g1-1")];
    let mut body = send(&gateway, Method::GET, &heads, "").await.into_body();
    assert_eq!(whole(&mut body).await.unwrap().id.as_deref(), Some("g1-2"));
    let heads = [session[0], ("last-event-id", "somebody-elses")];
    let mut fresh = send(&gateway, Method::GET, &heads, "").await.into_body();
    assert!(body.frame().await.is_none());
    nudge().await;
    assert_eq!(whole(&mut fresh).await.unwrap().id.as_deref(), Some("g2-1"));
    gateway.shutdown().await;
}

/// What a modern server does whose calls ask two questions.
const ASKS_TWICE: &str = r#"*tools/call*) echo '{"id":'$id',"result":{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"roots/list"}}}}';;"#;

#[tokio::test]
async fn questions_are_withdrawn_on_the_stream_that_brought_them_and_only_if_they_are_open() {
    let script = MODERN.replacen(" in\n", &format!(" in\n{ASKS_TWICE}\n"), 1);
    let gateway = gateway(&script, GatewayOptions::default());
    let open = r#"{"id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"roots":{}}}}"#;
    let opened = post(&gateway, &[], open).await;
    let id = opened.headers()[SESSION_HEADER].to_str().unwrap().to_owned();
    let session = [(SESSION_HEADER, id.as_str())];
    let ask = async |id: u8| {
        let call = format!(r#"{{"id":{id},"method":"tools/call","params":{{"name":"x"}}}}"#);
        let mut body = post(&gateway, &session, &call).await.into_body();
        let questions = [event(&mut body).await.unwrap(), event(&mut body).await.unwrap()];
        (body, questions.map(|question| question["id"].clone()))
    };
    let withdrawn = |message: Value| {
        assert_eq!(message["method"], "notifications/cancelled", "{message}");
        message["params"]["requestId"].clone()
    };
    let (mut body, [first, second]) = ask(1).await;
    let answer = format!(r#"{{"id":{first},"result":{{"roots":[]}}}}"#);
    assert_eq!(post(&gateway, &session, &answer).await.status(), 202);
    let cancel = r#"{"method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(post(&gateway, &session, cancel).await.status(), 202);
    assert_eq!(withdrawn(event(&mut body).await.unwrap()), second);
    assert!(body.frame().await.is_none());
    // A client that cannot answer one need not answer the other.
    let (mut body, [first, second]) = ask(2).await;
    let error = format!(r#"{{"id":{first},"error":{{"code":-1,"message":"no"}}}}"#);
    assert_eq!(post(&gateway, &session, &error).await.status(), 202);
    assert_eq!(withdrawn(event(&mut body).await.unwrap()), second);
    assert_eq!(event(&mut body).await.unwrap()["id"], 2);
    gateway.shutdown().await;
}
