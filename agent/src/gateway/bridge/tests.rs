use mcpm_shared::scope::Scope;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, split};

use super::super::remote::testing::{Answer, Heard, Upstream};
use super::super::{Gateway, GatewayOptions};
use super::*;
use crate::mcp::era::{METHOD_HEADER, NAME_HEADER, encode_header};
use crate::model::Server;

const INITIALIZE: &str = r#"{"id":0,"method":"initialize","params":{}}"#;
const INITIALIZED: &str = r#"{"method":"notifications/initialized"}"#;

struct Client {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
}

impl Client {
    async fn say(&mut self, line: &str) {
        self.writer.write_all(line.as_bytes()).await.unwrap();
        self.writer.write_all(b"\n").await.unwrap();
    }

    async fn hear(&mut self) -> String {
        self.lines.next_line().await.unwrap().unwrap()
    }

    /// Ends the input and returns what still comes.
    async fn end(mut self) -> Vec<String> {
        self.writer.shutdown().await.unwrap();
        let mut rest = Vec::new();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            rest.push(line);
        }
        rest
    }
}

/// Runs a conversation with an upstream; returns what the client still heard after its input ended.
async fn talk(upstream: &Upstream, script: impl AsyncFnOnce(&mut Client)) -> Vec<String> {
    let server = Server::remote("far", upstream.url());
    let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (reader, writer) = split(ours);
    let mut client = Client { lines: BufReader::new(reader).lines(), writer };
    let (stdin, stdout) = split(theirs);
    let serve = async move {
        let end = gateway.serve_stdio(stdin, stdout).await;
        end.unwrap();
    };
    let talk = async move {
        script(&mut client).await;
        client.end().await
    };
    tokio::join!(serve, talk).1
}

fn opened() -> Answer {
    let body = r#"{"id":0,"result":{"protocolVersion":"2025-06-18"}}"#;
    Answer::json(200, body).with("mcp-session-id", "s1")
}

/// Answers as a legacy server does; `extra` goes first.
fn legacy(
    extra: impl Fn(&Heard) -> Option<Answer> + Send + Sync + 'static,
) -> impl Fn(&Heard) -> Answer {
    move |heard: &Heard| {
        if heard.body == INITIALIZE {
            assert!(!heard.headers.contains_key(SESSION_HEADER));
            return opened();
        }
        assert_eq!(heard.headers[SESSION_HEADER], "s1");
        assert_eq!(heard.headers[VERSION_HEADER], "2025-06-18");
        if let Some(answer) = extra(heard) {
            return answer;
        }
        match heard.method.as_str() {
            "GET" => Answer::empty(405),
            "DELETE" => Answer::empty(200),
            _ => Answer::empty(202),
        }
    }
}

#[tokio::test]
async fn a_session_opens_is_used_and_ends() {
    let upstream = Upstream::start(legacy(|heard| {
        let events = "event: message\ndata: {\"method\":\"notifications/progress\"}\n\n\
                      event: message\ndata: {\"id\":1,\"result\":0.10}\n\n";
        heard.body.contains("tools/call").then(|| Answer::events(events))
    }))
    .await;
    let rest = talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        assert!(client.hear().await.contains("2025-06-18"));
        client.say(INITIALIZED).await;
        client.say(r#"{"id":1,"method":"tools/call"}"#).await;
        assert_eq!(client.hear().await, r#"{"method":"notifications/progress"}"#);
        assert_eq!(client.hear().await, r#"{"id":1,"result":0.10}"#);
    })
    .await;
    assert!(rest.is_empty());
    let heard = upstream.heard();
    let posts: Vec<_> = heard.iter().filter(|h| h.method == "POST").map(|h| &h.body).collect();
    assert_eq!(posts[..2], [INITIALIZE, INITIALIZED]);
    assert_eq!(heard.last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn a_request_waits_for_what_the_client_said_before_it() {
    let upstream = Upstream::start(legacy(|heard| {
        heard.body.contains(r#""x""#).then(|| Answer::json(200, r#"{"id":1,"result":1}"#))
    }))
    .await;
    let rest = talk(&upstream, async |client| {
        // All at once, as a client may that does not wait.
        client.say(&format!("{INITIALIZE}\n{INITIALIZED}\n{{\"id\":1,\"method\":\"x\"}}")).await;
    })
    .await;
    assert_eq!(rest.len(), 2);
    let posts: Vec<_> =
        upstream.heard().into_iter().filter(|h| h.method == "POST").map(|h| h.body).collect();
    assert_eq!(posts, [INITIALIZE, INITIALIZED, r#"{"id":1,"method":"x"}"#]);
}

#[tokio::test]
async fn failures_are_answered_with_the_id_of_the_request() {
    let upstream = Upstream::start(legacy(|heard| match heard.body.as_str() {
        body if body.contains("gone") => Some(Answer::json(404, "{}")),
        body if body.contains("broken") => Some(Answer::json(503, "busy")),
        body if body.contains("own") => {
            Some(Answer::json(400, r#"{"id":"c","error":{"code":-32602,"message":"mine"}}"#))
        }
        _ => None,
    }))
    .await;
    talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        client.hear().await;
        for (method, id, text) in [
            ("gone", r#""a""#, "the session has ended"),
            ("broken", r#""b""#, "HTTP 503"),
            ("own", r#""c""#, "mine"),
        ] {
            client.say(&format!(r#"{{"id":{id},"method":"{method}"}}"#)).await;
            let answer: Value = serde_json::from_str(&client.hear().await).unwrap();
            assert_eq!(answer["id"].to_string(), id);
            assert!(answer["error"]["message"].as_str().unwrap().contains(text), "{answer}");
        }
        client.say("not json").await;
        assert!(client.hear().await.contains("-32700"));
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_closed_early_is_taken_up_again() {
    let upstream = Upstream::start(legacy(|heard| match heard.headers.get("last-event-id") {
        Some(id) => {
            assert_eq!((heard.method.as_str(), id.to_str().unwrap()), ("GET", "e1"));
            Some(Answer::events("data: {\"id\":1,\"result\":\"late\"}\n\n"))
        }
        None => heard.body.contains("slow").then(|| Answer::events("id: e1\nretry: 1\ndata:\n\n")),
    }))
    .await;
    talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        client.hear().await;
        client.say(r#"{"id":1,"method":"slow"}"#).await;
        assert_eq!(client.hear().await, r#"{"id":1,"result":"late"}"#);
    })
    .await;
}

#[tokio::test]
async fn modern_requests_are_mirrored_in_headers() {
    let call = r#"{"id":1,"method":"tools/call","params":{"name":"größe","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let upstream = Upstream::start(move |heard: &Heard| {
        assert_eq!(heard.headers[VERSION_HEADER], "2026-07-28");
        assert_eq!(heard.headers[METHOD_HEADER], "tools/call");
        assert_eq!(heard.headers[NAME_HEADER].to_str().unwrap(), encode_header("größe"));
        assert_eq!(heard.body, call);
        Answer::json(200, "{\n\"id\":1,\"result\":{}\n}")
    })
    .await;
    talk(&upstream, async |client| {
        client.say(call).await;
        assert_eq!(client.hear().await, r#"{ "id":1,"result":{} }"#);
    })
    .await;
}

#[tokio::test]
async fn what_belongs_to_no_request_comes_from_the_stream_of_the_session() {
    let upstream = Upstream::start(legacy(|heard| {
        (heard.method == "GET").then(|| Answer::events("data: {\"method\":\"changed\"}\n\n"))
    }))
    .await;
    talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        client.hear().await;
        assert_eq!(client.hear().await, r#"{"method":"changed"}"#);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_down_is_named_with_the_reason() {
    let upstream = Upstream::start(|_: &Heard| Answer::empty(200)).await;
    let server = Server::remote("far", upstream.url());
    upstream.stop().await;
    let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
    let mut out = Vec::new();
    gateway.serve_stdio(INITIALIZE.as_bytes(), &mut out).await.unwrap();
    let answer: Value = serde_json::from_slice(&out).unwrap();
    let text = answer["error"]["message"].as_str().unwrap();
    assert!(text.contains("cannot reach server `far`") && text.contains("refused"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_does_not_outlive_its_client() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::remote("far", format!("http://{}/mcp", silent.local_addr().unwrap()));
    let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
    let input = format!("{INITIALIZE}\n{INITIALIZED}\n{INITIALIZED}\n");
    let begun = Instant::now();
    gateway.serve_stdio(input.as_bytes(), &mut Vec::new()).await.unwrap();
    assert!(begun.elapsed() <= DRAIN + GOODBYE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_keep_us() {
    let upstream = Upstream::start(legacy(|_| None)).await;
    let server = Server::remote("far", upstream.url());
    let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
    let (stdout, _unread) = tokio::io::duplex(1);
    gateway.serve_stdio(INITIALIZE.as_bytes(), stdout).await.unwrap();
}

#[tokio::test]
async fn an_opening_that_is_not_answered_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::remote("far", format!("http://{}/mcp", silent.local_addr().unwrap()));
    let options =
        GatewayOptions { start_timeout: Duration::from_millis(50), ..GatewayOptions::default() };
    let gateway = Gateway::new(&server, options, Scope::new()).unwrap();
    let mut out = Vec::new();
    gateway.serve_stdio(INITIALIZE.as_bytes(), &mut out).await.unwrap();
    let answer: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(answer["id"], 0);
    assert!(answer["error"]["message"].as_str().unwrap().contains("did not answer within"));
}

#[tokio::test]
async fn an_answer_may_be_asked_for_as_often_as_the_server_likes() {
    let upstream = Upstream::start(legacy(|heard| {
        let Some(last) = heard.headers.get("last-event-id") else {
            return heard
                .body
                .contains("slow")
                .then(|| Answer::events("id: 1\nretry: 1\ndata:\n\n"));
        };
        let next = last.to_str().unwrap().parse::<u32>().unwrap() + 1;
        Some(match next {
            30 => Answer::events("data: {\"id\":1,\"result\":\"late\"}\n\n"),
            next => Answer::events(&format!("id: {next}\ndata:\n\n")),
        })
    }))
    .await;
    talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        client.hear().await;
        client.say(r#"{"id":1,"method":"slow"}"#).await;
        assert_eq!(client.hear().await, r#"{"id":1,"result":"late"}"#);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_taken_up_at_once_is_tried_again() {
    let tries = std::sync::atomic::AtomicU32::new(0);
    let upstream = Upstream::start(legacy(move |heard| {
        if !heard.headers.contains_key("last-event-id") {
            let slow = || Answer::events("id: 1\nretry: 1\ndata:\n\n");
            return heard.body.contains("\"m\"").then(slow);
        }
        match tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0..3 => Some(Answer::empty(503)),
            3 => Some(Answer::events("data: {\"id\":1,\"result\":\"late\"}\n\n")),
            _ => Some(Answer::empty(502)),
        }
    }))
    .await;
    talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        client.hear().await;
        client.say(r#"{"id":1,"method":"m"}"#).await;
        assert_eq!(client.hear().await, r#"{"id":1,"result":"late"}"#);
        client.say(r#"{"id":2,"method":"m"}"#).await;
        let answer = client.hear().await;
        assert!(answer.contains("\"id\":2,") && answer.contains("HTTP 502"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn what_stays_open_after_the_answer_keeps_nobody_waiting() {
    let open = Mutex::new(Vec::new());
    let upstream = Upstream::start(legacy(move |heard| {
        if !(heard.body.contains("call") || heard.body.contains("note")) {
            return None;
        }
        let (answer, sender) = Answer::stream();
        sender.try_send("data: {\"id\":1,\"result\":1}\n\n".to_owned()).unwrap();
        open.lock().unwrap().push(sender);
        Some(answer)
    }))
    .await;
    let talk = talk(&upstream, async |client| {
        client.say(INITIALIZE).await;
        client.hear().await;
        client.say(r#"{"method":"note"}"#).await;
        client.say(r#"{"id":1,"method":"call"}"#).await;
        assert_eq!(client.hear().await, r#"{"id":1,"result":1}"#);
    });
    // Less than a notification, or what is left at the end, would be waited for.
    let rest = timeout(Duration::from_secs(8), talk).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_cancellation_does_not_overtake_its_request() {
    let open = Mutex::new(Vec::new());
    let upstream = Upstream::start(legacy(move |heard| {
        if !heard.body.contains("tools/call") {
            return None;
        }
        let (answer, sender) = Answer::stream();
        open.lock().unwrap().push(sender);
        Some(answer)
    }))
    .await;
    let cancel =
        |id| format!(r#"{{"method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#);
    let modern = r#"{"id":2,"method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let legacy = r#"{"id":1,"method":"tools/call"}"#;
    let server = Server::remote("far", upstream.url());
    let gateway = Gateway::new(&server, GatewayOptions::default(), Scope::new()).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (stdin, stdout) = split(theirs);
    let talk = async move {
        let (_reader, mut writer) = split(ours);
        let said = format!("{INITIALIZE}\n{legacy}\n{}\n{modern}\n{}\n", cancel(1), cancel(2));
        writer.write_all(said.as_bytes()).await.unwrap();
        upstream.until(|heard| heard.body.contains("cancelled")).await;
        upstream.heard()
    };
    let heard = tokio::select! {
        heard = talk => heard,
        end = gateway.serve_stdio(stdin, stdout) => panic!("{end:?}"),
    };
    let posts: Vec<_> = heard.into_iter().filter(|h| h.method == "POST").map(|h| h.body).collect();
    assert_eq!(posts, [INITIALIZE, legacy, &cancel(1)]);
}

#[tokio::test]
async fn an_error_without_an_id_still_tells_its_code() {
    let modern = |method: &str, params: &str| {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        format!(r#"{{"id":7,"method":"{method}","params":{{{params}{meta}}}}}"#)
    };
    let upstream = Upstream::start(|heard: &Heard| {
        if heard.body.contains("tasks/get") {
            assert_eq!(heard.headers[NAME_HEADER], "t1");
        }
        Answer::json(400, r#"{"id":null,"error":{"code":-32022,"message":"no"}}"#)
    })
    .await;
    talk(&upstream, async |client| {
        for line in [modern("server/discover", ""), modern("tasks/get", r#""taskId":"t1","#)] {
            client.say(&line).await;
            let answer: Value = serde_json::from_str(&client.hear().await).unwrap();
            assert_eq!(answer["id"], 7);
            assert_eq!(answer["error"]["code"], -32022);
        }
    })
    .await;
}
