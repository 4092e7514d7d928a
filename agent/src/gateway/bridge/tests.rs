use mcpm_shared::scope::Scope;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, split};

use super::super::remote::testing::{Answer, Heard, Upstream};
use super::super::{Gateway, GatewayOptions};
use super::*;
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
