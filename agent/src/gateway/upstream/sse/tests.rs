use std::sync::Mutex;

use super::super::testing::{LIMITS, ask, id_of, next, nursery, opening, remote};
use super::super::{Conn, Gone as ConnGone};
use super::*;
use crate::gateway::upstream::fake::{Answer, Heard, Upstream};
use crate::mcp::era::Era;

/// A server of the old transport: it answers over its stream by what is posted.
struct Old {
    upstream: Upstream,
    stream: Arc<Mutex<Option<mpsc::Sender<String>>>>,
}

impl Old {
    async fn start(endpoint: &'static str) -> Self {
        let stream: Arc<Mutex<Option<mpsc::Sender<String>>>> = Arc::default();
        let kept = stream.clone();
        let upstream = Upstream::start(move |heard| Self::serve(heard, endpoint, &kept)).await;
        Self { upstream, stream }
    }

    fn serve(
        heard: &Heard,
        endpoint: &str,
        stream: &Mutex<Option<mpsc::Sender<String>>>,
    ) -> Answer {
        if heard.method == "GET" {
            let (answer, sender) = Answer::stream();
            sender.try_send(format!("event: endpoint\ndata: {endpoint}\n\n")).unwrap();
            *stream.lock().unwrap() = Some(sender);
            return answer;
        }
        if !heard.path.starts_with("/messages") {
            return Answer::empty(405);
        }
        let say = |text: String| {
            let stream = stream.lock().unwrap();
            let event = format!("event: message\ndata: {text}\n\n");
            stream.as_ref().unwrap().try_send(event).unwrap();
        };
        let id = id_of(&heard.body);
        let about = |method: &str| heard.body.contains(method);
        if about(r#""initialize""#) {
            say(format!(
                r#"{{"id":{id},"result":{{"protocolVersion":"2024-11-05","capabilities":{{}}}}}}"#
            ));
        } else if about("refused") {
            return Answer::empty(500);
        } else if about("forgot") {
            return Answer::empty(404);
        } else if about(r#""echo""#) {
            let method = "notifications/progress";
            say(format!(r#"{{"method":"{method}","params":{{"progressToken":{id}}}}}"#));
            say(format!("{{\"id\":{id},\ndata: \"result\":{{}}}}"));
        }
        Answer::empty(202)
    }

    async fn say(&self, text: &str) {
        let stream = self.stream.lock().unwrap().clone().unwrap();
        stream.send(format!("event: message\ndata: {text}\n\n")).await.unwrap();
    }

    async fn open(&self, path: &str) -> Result<Arc<Conn>, GatewayError> {
        let target = remote(&self.upstream.at(path));
        Conn::open(&target, &opening(), None, &nursery(), &LIMITS).await
    }
}

#[tokio::test]
async fn a_conversation_runs_over_one_stream() {
    let old = Old::start("/messages?session=1").await;
    let conn = old.open("/sse").await.unwrap();
    assert_eq!((conn.facts().era, conn.facts().version.as_str()), (Era::Legacy, "2024-11-05"));
    let text = r#"{"id":"a","method":"echo","params":{"_meta":{"progressToken":"t"}}}"#;
    let (_claim, mut queue) = ask(&conn, text).await;
    let progress = r#"{"method":"notifications/progress","params":{"progressToken":"t"}}"#;
    assert_eq!(next(&mut queue).await, (progress.to_owned(), false));
    assert_eq!(next(&mut queue).await, (r#"{"id":"a", "result":{}}"#.to_owned(), true));
    old.upstream.until(|heard| heard.body.contains("notifications/initialized")).await;
    assert_eq!(old.upstream.heard()[1].path, "/messages?session=1");
}

#[tokio::test]
async fn it_is_found_where_the_url_does_not_tell() {
    let old = Old::start("messages").await;
    let conn = old.open("/mcp").await.unwrap();
    assert_eq!(conn.facts().version, "2024-11-05");
    let tried: Vec<_> = old.upstream.heard().into_iter().take(3).collect();
    assert!(tried[0].body.contains("server/discover") && tried[1].body.contains("initialize"));
    assert_eq!(tried[2].method, "GET");
}

#[tokio::test]
async fn a_url_that_only_looks_old_may_be_of_streamable_http() {
    let upstream = Upstream::start(|heard| {
        let result = r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#;
        match heard.method.as_str() {
            "POST" => {
                Answer::json(200, &format!(r#"{{"id":{},"result":{result}}}"#, id_of(&heard.body)))
            }
            _ => Answer::empty(405),
        }
    })
    .await;
    let target = remote(&upstream.at("/sse/"));
    let conn = Conn::open(&target, &opening(), None, &nursery(), &LIMITS).await.unwrap();
    assert_eq!(conn.facts().era, Era::Modern);
}

#[tokio::test]
async fn what_comes_unasked_is_listened_to_and_questions_are_answered() {
    let old = Old::start("/messages").await;
    let conn = old.open("/sse").await.unwrap();
    let mut listener = conn.listen().unwrap();
    let changed = r#"{"method":"notifications/tools/list_changed"}"#;
    old.say(changed).await;
    assert_eq!(next(&mut listener).await, (changed.to_owned(), false));
    let (claim, mut queue) = ask(&conn, r#"{"id":"a","method":"long"}"#).await;
    old.upstream.until(|heard| heard.body.contains("long")).await;
    let question = r#"{"id":"q","method":"roots/list"}"#;
    old.say(question).await;
    assert_eq!(next(&mut queue).await, (question.to_owned(), false));
    conn.answer(Bytes::from_static(br#"{"id":"q","result":{}}"#)).await.unwrap();
    old.upstream.until(|heard| heard.body == r#"{"id":"q","result":{}}"#).await;
    drop(claim);
    old.upstream.until(|heard| heard.body.contains("notifications/cancelled")).await;
}

#[tokio::test]
async fn a_post_that_is_not_taken_answers_its_request_only() {
    let old = Old::start("/messages").await;
    let conn = old.open("/sse").await.unwrap();
    let (_claim, mut queue) = ask(&conn, r#"{"id":"a","method":"refused"}"#).await;
    let (text, last) = next(&mut queue).await;
    assert!(last && text.contains(r#""id":"a""#) && text.contains("HTTP 500"), "{text}");
    let (_claim, mut queue) = ask(&conn, r#"{"id":"b","method":"echo"}"#).await;
    assert_eq!(next(&mut queue).await, (r#"{"id":"b", "result":{}}"#.to_owned(), true));
}

#[tokio::test]
async fn the_end_of_the_stream_or_of_the_session_ends_all_that_waits() {
    for forgotten in [false, true] {
        let old = Old::start("/messages").await;
        let conn = old.open("/sse").await.unwrap();
        let (_claim, mut queue) = ask(&conn, r#"{"id":"a","method":"long"}"#).await;
        old.upstream.until(|heard| heard.body.contains("long")).await;
        let why = if forgotten {
            conn.notify(Bytes::from_static(br#"{"method":"notifications/forgot"}"#)).await.unwrap();
            "its session has ended"
        } else {
            drop(old.stream.lock().unwrap().take());
            "its event stream ended"
        };
        let (text, last) = next(&mut queue).await;
        assert!(last && text.contains("upstream_exited") && text.contains(why), "{text}");
        assert_eq!(conn.over().await, why);
        assert!(conn.is_over());
        assert_eq!(conn.notify(Bytes::from_static(b"{}")).await, Err(ConnGone));
    }
}

#[tokio::test]
async fn letting_the_conversation_go_closes_the_stream() {
    let old = Old::start("/messages").await;
    let conn = old.open("/sse").await.unwrap();
    let stream = old.stream.lock().unwrap().clone().unwrap();
    drop(conn);
    // The server sees its stream close when it next has something to say.
    while stream.send(": still here\n\n".to_owned()).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_endpoint_of_another_origin_is_refused() {
    let old = Old::start("https://elsewhere.example/messages").await;
    let error = old.open("/sse").await.unwrap_err();
    assert!(error.to_string().contains("another origin"), "{error}");
    assert!(old.upstream.heard().iter().all(|heard| heard.method == "GET"));
}

#[test]
fn endpoints_are_resolved_against_the_url() {
    let base: Uri = "https://h.example:8443/a/sse?k=v".parse().unwrap();
    let resolve = |told: &str| resolve(&base, told.as_bytes()).map(|uri| uri.to_string());
    let here = |path: &str| Some(format!("https://h.example:8443{path}"));
    assert_eq!(resolve("/messages?id=1"), here("/messages?id=1"));
    assert_eq!(resolve(" messages "), here("/a/messages"));
    assert_eq!(resolve("https://h.example:8443/x#y"), here("/x"));
    for other in ["https://h.example/x", "http://h.example:8443/x", "//e.example/x", "data:,x"] {
        assert_eq!(resolve(other), None, "{other}");
    }
    assert_eq!(resolve("https://u:p@h.example:8443/x"), None);
}
