use std::collections::VecDeque;

use super::super::testing::{LIMITS, ask, id_of, next, nursery, opening, remote};
use super::super::{Conn, Nursery};
use super::*;
use crate::gateway::GatewayError;
use crate::gateway::upstream::fake::{Answer, Heard, Upstream};
use crate::mcp::message::Message;

const DISCOVERED: &str = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#;
const INITIALIZED: &str =
    r#"{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"l"}}"#;

fn result(heard: &Heard, result: &str) -> Answer {
    Answer::json(200, &format!(r#"{{"id":{},"result":{result}}}"#, id_of(&heard.body)))
}

/// What the opening of a conversation gets; `None` for everything else.
fn modern(heard: &Heard) -> Option<Answer> {
    heard.body.contains("server/discover").then(|| result(heard, DISCOVERED))
}

/// As [`modern`], for a legacy server with a session and no stream of its own.
fn legacy(heard: &Heard) -> Option<Answer> {
    if heard.body.contains("server/discover") {
        Some(Answer::json(400, r#"{"id":null,"error":{"code":-32000,"message":"no session"}}"#))
    } else if heard.body.contains(r#""initialize""#) {
        Some(result(heard, INITIALIZED).with("mcp-session-id", "s1"))
    } else if heard.method == "POST" && !heard.body.contains(r#""id""#) {
        Some(Answer::empty(202))
    } else if heard.method != "POST" {
        Some(Answer::empty(405))
    } else {
        None
    }
}

/// Answers prepared by a test, one after another.
#[derive(Clone, Default)]
struct Prepared(Arc<Mutex<VecDeque<Answer>>>);

impl Prepared {
    fn stream(&self) -> mpsc::Sender<String> {
        let (answer, sender) = Answer::stream();
        self.0.lock().unwrap().push_back(answer);
        sender
    }

    fn next(&self) -> Answer {
        self.0.lock().unwrap().pop_front().expect("an answer is prepared")
    }
}

async fn dial(upstream: &Upstream) -> Arc<Conn> {
    dial_in(upstream, &nursery()).await
}

async fn dial_in(upstream: &Upstream, nursery: &Nursery) -> Arc<Conn> {
    let target = remote(&upstream.url());
    Conn::open(&target, &opening(), None, nursery, &LIMITS).await.unwrap()
}

fn event(text: &str) -> String {
    format!("event: message\ndata: {text}\n\n")
}

#[tokio::test]
async fn a_modern_server_is_found_at_once_and_gets_its_headers() {
    let upstream = Upstream::start(|heard| {
        modern(heard).unwrap_or_else(|| {
            let id = id_of(&heard.body);
            let progress = format!(
                r#"{{"method":"notifications/progress","params":{{"progressToken":{id},"progress":0.10}}}}"#
            );
            let answer = format!(r#"{{"id":{id},"result":{{"n":12345678901234567890}}}}"#);
            Answer::events(&(event(&progress) + &event(&answer)))
        })
    })
    .await;
    let conn = dial(&upstream).await;
    assert_eq!(conn.facts().era, Era::Modern);
    let text =
        r#"{"id":"a","method":"tools/call","params":{"name":"t","_meta":{"progressToken":"p"}}}"#;
    let extra = HeaderMap::from_iter([(
        HeaderName::from_static("mcp-param-city"),
        HeaderValue::from_static("Bonn"),
    )]);
    let message = Message::parse(text).unwrap();
    let begun = conn.request_with_headers(&message, Vec::new(), extra, 1).await;
    let (_claim, mut queue) = begun.unwrap();
    let progress =
        r#"{"method":"notifications/progress","params":{"progressToken":"p","progress":0.10}}"#;
    assert_eq!(next(&mut queue).await, (progress.to_owned(), false));
    let answer = r#"{"id":"a","result":{"n":12345678901234567890}}"#;
    assert_eq!(next(&mut queue).await, (answer.to_owned(), true));
    let heard = upstream.until(|heard| heard.body.contains("tools/call")).await;
    for (name, value) in [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "t"),
        ("mcp-param-city", "Bonn"),
    ] {
        assert_eq!(heard.headers[name], value, "{name}");
    }
    assert_eq!(upstream.heard().len(), 2);
}

#[tokio::test]
async fn a_legacy_server_is_found_by_its_error_and_its_session_is_kept_and_ended() {
    let upstream =
        Upstream::start(|heard| legacy(heard).unwrap_or_else(|| result(heard, "{}"))).await;
    let conn = dial(&upstream).await;
    assert_eq!((conn.facts().era, conn.facts().version.as_str()), (Era::Legacy, "2025-06-18"));
    let (claim, mut queue) = ask(&conn, r#"{"id":"a","method":"x"}"#).await;
    assert_eq!(next(&mut queue).await, (r#"{"id":"a","result":{}}"#.to_owned(), true));
    drop((claim, conn));
    upstream.until(|heard| heard.method == "DELETE").await;
    for heard in upstream.heard() {
        let before = heard.body.contains("server/discover") || heard.body.contains("initialize\"");
        let expected = (!before).then_some("s1");
        let session = heard.headers.get("mcp-session-id").map(|id| id.to_str().unwrap());
        assert_eq!(session, expected, "{heard:?}");
        if !before {
            assert_eq!(heard.headers["mcp-protocol-version"], "2025-06-18");
        }
    }
    let methods: Vec<_> = upstream.heard().into_iter().map(|heard| heard.body).collect();
    assert!(methods[2].contains("notifications/initialized"), "{methods:?}");
}

#[tokio::test]
async fn what_was_known_of_a_server_may_be_wrong() {
    let only_modern = Upstream::start(|heard| {
        modern(heard).unwrap_or_else(|| {
            Answer::json(400, r#"{"id":null,"error":{"code":-32022,"message":"no"}}"#)
        })
    })
    .await;
    let target = remote(&only_modern.url());
    let conn = Conn::open(&target, &opening(), Some(Era::Legacy), &nursery(), &LIMITS).await;
    assert_eq!(conn.unwrap().facts().era, Era::Modern);
    let only_legacy = Upstream::start(|heard| legacy(heard).expect("an opening")).await;
    let target = remote(&only_legacy.url());
    let conn = Conn::open(&target, &opening(), Some(Era::Modern), &nursery(), &LIMITS).await;
    assert_eq!(conn.unwrap().facts().era, Era::Legacy);
    let heard = only_legacy.heard().len();
    let conn = Conn::open(&target, &opening(), Some(Era::Legacy), &nursery(), &LIMITS).await;
    assert!(conn.is_ok());
    assert!(only_legacy.heard()[heard].body.contains("initialize"));
}

#[tokio::test]
async fn a_session_that_a_probe_opened_by_mistake_is_ended() {
    let upstream = Upstream::start(|heard| {
        if heard.body.contains("server/discover") {
            let error = r#"{"id":1,"error":{"code":-32601,"message":"no"}}"#;
            Answer::json(200, error).with("mcp-session-id", "stray")
        } else {
            legacy(heard).expect("an opening")
        }
    })
    .await;
    let _conn = dial(&upstream).await;
    let ended = upstream.until(|heard| heard.method == "DELETE").await;
    assert_eq!(ended.headers["mcp-session-id"], "stray");
}

#[tokio::test]
async fn a_session_that_the_server_forgot_ends_all_that_waits() {
    let texts = [
        (404, r#"{"id":null,"error":{"code":-32001,"message":"Session not found"}}"#),
        (404, "nothing here"),
        (400, r#"{"id":"server-error","error":{"code":-32000,"message":"No valid session ID"}}"#),
    ];
    for (status, body) in texts {
        let prepared = Prepared::default();
        let upstream = {
            let prepared = prepared.clone();
            Upstream::start(move |heard| {
                legacy(heard).unwrap_or_else(|| {
                    if heard.body.contains("forgot") {
                        Answer::json(status, body)
                    } else {
                        prepared.next()
                    }
                })
            })
            .await
        };
        let conn = dial(&upstream).await;
        let _stream = prepared.stream();
        let (_a, mut first) = ask(&conn, r#"{"id":"a","method":"long"}"#).await;
        upstream.until(|heard| heard.body.contains("long")).await;
        let (_b, mut second) = ask(&conn, r#"{"id":2,"method":"forgot"}"#).await;
        for queue in [&mut first, &mut second] {
            let (text, last) = next(queue).await;
            assert!(last && text.contains("upstream_exited"), "{text}");
            assert!(text.contains("its session has ended"), "{text}");
        }
        assert_eq!(conn.over().await, "its session has ended");
        assert!(conn.is_over());
        let message = Message::parse(r#"{"id":3,"method":"x"}"#).unwrap();
        assert_eq!(conn.request(&message, Vec::new(), 1).await.unwrap_err(), Refusal::Gone);
        assert_eq!(conn.notify(Bytes::from_static(b"{}")).await, Err(Gone));
        let posts = upstream.heard().iter().filter(|heard| heard.body.contains("forgot")).count();
        assert_eq!(posts, 1, "nothing is replayed");
        assert!(upstream.heard().iter().all(|heard| heard.method != "DELETE"));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_is_taken_up_where_it_broke() {
    let upstream = Upstream::start(|heard| {
        if let Some(last) = heard.headers.get("last-event-id") {
            let text = match last.to_str().unwrap() {
                "e1" => "id: e2\nretry: 10\ndata:\n\n".to_owned(),
                "e2" => event(r#"{"id":2,"result":{"at":"last"}}"#),
                other => panic!("{other}"),
            };
            return Answer::events(&text);
        }
        legacy(heard).unwrap_or_else(|| {
            let note = r#"{"method":"notifications/message","params":{}}"#;
            Answer::events(&format!("retry: 10\nid: e1\n{}", event(note)))
        })
    })
    .await;
    let conn = dial(&upstream).await;
    let (_warm, mut queue) = ask(&conn, r#"{"id":"a","method":"x"}"#).await;
    assert!(next(&mut queue).await.0.contains("notifications/message"));
    let answer = r#"{"id":"a","result":{"at":"last"}}"#;
    assert_eq!(next(&mut queue).await, (answer.to_owned(), true));
    let posts = upstream.heard().iter().filter(|heard| heard.body.contains(r#""x""#)).count();
    assert_eq!(posts, 1);
}

#[tokio::test]
async fn a_stream_that_breaks_without_a_trace_fails_its_request() {
    let upstream =
        Upstream::start(|heard| legacy(heard).unwrap_or_else(|| Answer::events(": nothing\n\n")))
            .await;
    let conn = dial(&upstream).await;
    let (_claim, mut queue) = ask(&conn, r#"{"id":"a","method":"x"}"#).await;
    let (text, last) = next(&mut queue).await;
    assert!(last && text.contains("left the request unanswered"), "{text}");
    assert!(text.contains("upstream_failed") && !conn.is_over());
}

#[tokio::test]
async fn what_nobody_waits_for_is_cancelled_in_the_manner_of_its_era() {
    for era in [Era::Legacy, Era::Modern] {
        let prepared = Prepared::default();
        let script = prepared.clone();
        let opening = if era == Era::Legacy { legacy } else { modern };
        let upstream =
            Upstream::start(move |heard| opening(heard).unwrap_or_else(|| script.next())).await;
        let conn = dial(&upstream).await;
        let stream = prepared.stream();
        let (claim, _queue) = ask(&conn, r#"{"id":"a","method":"long"}"#).await;
        let long = upstream.until(|heard| heard.body.contains("long")).await;
        drop(claim);
        if era == Era::Legacy {
            let told = upstream.until(|heard| heard.body.contains("cancelled")).await;
            assert!(told.body.contains(&format!(r#""requestId":{}"#, id_of(&long.body))));
        }
        // The server sees its stream close when it next has something to say.
        while stream.send(": still here\n\n".to_owned()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        let told = upstream.heard().iter().any(|heard| heard.body.contains("cancelled"));
        assert_eq!(told, era == Era::Legacy);
        assert!(!conn.is_busy());
    }
}

#[tokio::test]
async fn a_legacy_server_speaks_unasked_and_asks_over_the_stream_of_its_request() {
    let (prepared, unasked) = (Prepared::default(), Prepared::default());
    let stream = unasked.stream();
    let script = (prepared.clone(), unasked);
    let upstream = Upstream::start(move |heard| {
        if heard.method == "GET" {
            return script.1.next();
        }
        if heard.body.contains(r#""result""#) {
            return Answer::empty(202);
        }
        legacy(heard).unwrap_or_else(|| script.0.next())
    })
    .await;
    let conn = dial(&upstream).await;
    let mut listener = conn.listen().unwrap();
    let changed = r#"{"method":"notifications/tools/list_changed"}"#;
    stream.send(event(changed)).await.unwrap();
    assert_eq!(next(&mut listener).await, (changed.to_owned(), false));
    stream.send(event(r#"{"id":"p","method":"ping"}"#)).await.unwrap();
    upstream.until(|heard| heard.body == r#"{"jsonrpc":"2.0","id":"p","result":{}}"#).await;
    let (first, second) = (prepared.stream(), prepared.stream());
    let (_a, mut a) =
        ask(&conn, r#"{"id":"a","method":"one","params":{"_meta":{"progressToken":"t"}}}"#).await;
    upstream.until(|heard| heard.body.contains("one")).await;
    let (_b, mut b) = ask(&conn, r#"{"id":"b","method":"two"}"#).await;
    upstream.until(|heard| heard.body.contains("two")).await;
    let question = r#"{"id":"q","method":"sampling/createMessage"}"#;
    first.send(event(question)).await.unwrap();
    assert_eq!(next(&mut a).await, (question.to_owned(), false));
    conn.answer(Bytes::from_static(br#"{"id":"q","result":{}}"#)).await.unwrap();
    upstream.until(|heard| heard.body == r#"{"id":"q","result":{}}"#).await;
    // The first id went to `initialize`. Progress finds its request over any stream.
    let progress = |token| {
        format!(r#"{{"method":"notifications/progress","params":{{"progressToken":{token}}}}}"#)
    };
    stream.send(event(&progress("2"))).await.unwrap();
    assert_eq!(next(&mut a).await, (progress(r#""t""#), false));
    second.send(event(r#"{"id":3,"result":{}}"#)).await.unwrap();
    first.send(event(r#"{"id":2,"result":{}}"#)).await.unwrap();
    assert_eq!(next(&mut b).await, (r#"{"id":"b","result":{}}"#.to_owned(), true));
    assert_eq!(next(&mut a).await, (r#"{"id":"a","result":{}}"#.to_owned(), true));
}

/// A message that is large.
fn large(message: &str) -> String {
    let padding = "x".repeat(64 * 1024);
    event(&message.replace("PADDING", &padding))
}

#[tokio::test]
async fn the_stream_of_a_request_waits_for_its_reader_and_holds_up_no_other() {
    let prepared = Prepared::default();
    let script = prepared.clone();
    let upstream = Upstream::start(move |heard| {
        modern(heard).unwrap_or_else(|| match heard.body.contains("quick") {
            true => result(heard, "{}"),
            false => script.next(),
        })
    })
    .await;
    let conn = dial(&upstream).await;
    let stream = prepared.stream();
    let slow = r#"{"id":"a","method":"slow","params":{"_meta":{"progressToken":"t"}}}"#;
    let (_slow, mut unread) = ask(&conn, slow).await;
    let progress =
        r#"{"method":"notifications/progress","params":{"progressToken":2,"message":"PADDING"}}"#;
    let talk = async {
        for _ in 0..400 {
            stream.send(large(progress)).await.unwrap();
        }
        stream.send(event(r#"{"id":2,"result":{}}"#)).await.unwrap();
    };
    let read = async {
        let (_quick, mut queue) = ask(&conn, r#"{"id":"b","method":"quick"}"#).await;
        assert_eq!(next(&mut queue).await, (r#"{"id":"b","result":{}}"#.to_owned(), true));
        let mut count = 0;
        while !next(&mut unread).await.1 {
            count += 1;
        }
        count
    };
    assert_eq!(tokio::join!(talk, read).1, 400);
}

#[tokio::test]
async fn a_question_for_a_listener_that_does_not_read_is_answered() {
    let unasked = Prepared::default();
    let stream = unasked.stream();
    let upstream = Upstream::start(move |heard| match heard.method.as_str() {
        "GET" => unasked.next(),
        _ if heard.body.contains(r#""error""#) => Answer::empty(202),
        _ => legacy(heard).unwrap_or_else(|| result(heard, "{}")),
    })
    .await;
    let conn = dial(&upstream).await;
    let _listener = conn.listen().unwrap();
    for _ in 0..80 {
        stream.send(large(r#"{"method":"notifications/x","params":"PADDING"}"#)).await.unwrap();
    }
    let question = r#"{"id":"q","method":"sampling/createMessage","params":"PADDING"}"#;
    stream.send(large(question)).await.unwrap();
    let told = upstream.until(|heard| heard.body.contains(r#""error""#)).await.body;
    assert!(told.starts_with(r#"{"jsonrpc":"2.0","id":"q","error":{"code":-32603"#), "{told}");
}

#[tokio::test]
async fn a_request_does_not_overtake_a_notification() {
    let upstream =
        Upstream::start(|heard| legacy(heard).unwrap_or_else(|| result(heard, "{}"))).await;
    let conn = dial(&upstream).await;
    let bodies = |n: usize| {
        (
            format!(r#"{{"method":"notifications/n{n}"}}"#),
            format!(r#"{{"id":{n},"method":"r{n}"}}"#),
        )
    };
    let mut waiting = Vec::new();
    for n in 0..20 {
        let (note, request) = bodies(n);
        conn.notify(note.into()).await.unwrap();
        waiting.push(ask(&conn, &request).await);
    }
    for (_claim, queue) in &mut waiting {
        assert!(next(queue).await.1);
    }
    let heard = upstream.heard();
    let at = |part: &str| heard.iter().position(|heard| heard.body.contains(part)).unwrap();
    for n in 0..20 {
        assert!(at(&format!("notifications/n{n}\"")) < at(&format!("\"r{n}\"")));
    }
}

#[tokio::test]
async fn a_refusal_of_our_credentials_is_told_as_such() {
    let upstream = Upstream::start(|_| Answer::json(401, "{}")).await;
    let target = remote(&upstream.url());
    let error = Conn::open(&target, &opening(), None, &nursery(), &LIMITS).await.unwrap_err();
    assert!(matches!(error, GatewayError::Unauthorized { status: 401, .. }), "{error}");
    assert_eq!(upstream.heard().len(), 1);
    let upstream =
        Upstream::start(|heard| legacy(heard).unwrap_or_else(|| Answer::empty(403))).await;
    let conn = dial(&upstream).await;
    let (_claim, mut queue) = ask(&conn, r#"{"id":"a","method":"x"}"#).await;
    let (text, last) = next(&mut queue).await;
    assert!(last && text.contains("refused our credentials (HTTP 403)"), "{text}");
}

#[tokio::test]
async fn errors_redirects_and_nonsense_answer_their_request() {
    let upstream = Upstream::start(|heard| {
        legacy(heard).unwrap_or_else(|| match id_of(&heard.body).as_str() {
            "2" => Answer::empty(307).with("location", "http://elsewhere.example/"),
            "3" => Answer::empty(503),
            "4" => Answer::json(200, "hello"),
            "5" => Answer::json(500, r#"{"id":5,"error":{"code":-32603,"message":"own words"}}"#),
            "6" => Answer::json(404, r#"{"id":6,"error":{"code":-32601,"message":"unknown"}}"#),
            _ => Answer::json(200, &format!(r#"{{"id":7,"result":"{}"}}"#, "x".repeat(2_000_000))),
        })
    })
    .await;
    let conn = dial(&upstream).await;
    let expected = ["redirect", "HTTP 503", "unanswered", "own words", "unknown", "longer than"];
    // The first id went to `initialize`.
    for (n, expected) in expected.iter().enumerate() {
        let (_claim, mut queue) = ask(&conn, &format!(r#"{{"id":"r{n}","method":"x"}}"#)).await;
        let (text, last) = next(&mut queue).await;
        assert!(last && text.contains(&format!(r#""id":"r{n}""#)), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    assert!(!conn.is_over());
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_or_is_no_mcp_is_told_as_such() {
    let upstream = Upstream::start(|_| Answer::empty(404)).await;
    let target = remote(&upstream.url());
    let error = Conn::open(&target, &opening(), None, &nursery(), &LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("HTTP 404"), "{error}");
    upstream.stop().await;
    let error = Conn::open(&target, &opening(), None, &nursery(), &LIMITS).await.unwrap_err();
    assert!(matches!(error, GatewayError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn the_end_of_the_gateway_ends_the_session() {
    let upstream =
        Upstream::start(|heard| legacy(heard).unwrap_or_else(|| result(heard, "{}"))).await;
    let nursery = nursery();
    let conn = dial_in(&upstream, &nursery).await;
    nursery.scope.cancel();
    assert_eq!(conn.over().await, "the gateway is shutting down");
    upstream.until(|heard| heard.method == "DELETE").await;
    assert_eq!(nursery.scope.clone().drain(Duration::from_secs(10)).await, 0);
}
