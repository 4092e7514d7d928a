//! A minimal MCP client (Streamable HTTP, 2025-11-25) that visits the share as strangers would.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use crate::mcp::sse::Decoder;

/// The revision that the client speaks.
const REVISION: &str = "2025-11-25";
/// The longest answer that is read, in bytes.
const LONGEST: usize = 1024 * 1024;
/// How long one exchange may take: everything is on this machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// From where the demo counts down.
const STEPS: u64 = 3;

/// What the client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What the server calls itself.
    pub server: String,
    /// The tools it offers.
    pub tools: Vec<String>,
    /// What `add` said to 19 and 23.
    pub sum: String,
    /// How many progress messages of `countdown` came before its result.
    pub progress: u64,
    /// The status a visitor without a token got.
    pub stranger: u16,
}

/// What did not go as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The request did not get through.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The public URL.
        url: String,
        /// What the client says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer came.
    #[error("{0} got no answer in time")]
    TimedOut(&'static str),
    /// Something else came than what must come.
    #[error("{step} was answered with {got}")]
    Unexpected {
        /// What was asked.
        step: &'static str,
        /// What came.
        got: String,
    },
}

/// Visits the share at `url` and checks what comes back.
pub(super) async fn visit(url: String, token: String) -> Result<Proof, ProofError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let stranger = Visitor { http: http.clone(), url: url.clone(), token: None, session: None };
    let refused = stranger.send("a visit without a token", &initialize()).await?.status();
    if refused != StatusCode::UNAUTHORIZED {
        return Err(unexpected("a visit without a token", refused));
    }
    let mut visitor = Visitor { http, url, token: Some(token), session: None };
    let server = visitor.initialize().await?;
    let tools = visitor.tools().await?;
    let sum = visitor.add().await?;
    let progress = visitor.countdown().await?;
    visitor.leave().await?;
    Ok(Proof { server, tools, sum, progress, stranger: refused.as_u16() })
}

struct Visitor {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    token: Option<String>,
    session: Option<String>,
}

impl Visitor {
    async fn initialize(&mut self) -> Result<String, ProofError> {
        const STEP: &str = "`initialize`";
        let response = self.send(STEP, &initialize()).await?;
        let session = response.headers().get("mcp-session-id");
        self.session = session.and_then(|id| id.to_str().ok()).map(str::to_owned);
        let messages = read(STEP, response).await?;
        let result = result(STEP, &messages)?;
        let server = result["serverInfo"]["name"].as_str().unwrap_or_default().to_owned();
        let done = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let accepted = self.send("`notifications/initialized`", &done).await?.status();
        if accepted != StatusCode::ACCEPTED {
            return Err(unexpected("`notifications/initialized`", accepted));
        }
        Ok(server)
    }

    async fn tools(&self) -> Result<Vec<String>, ProofError> {
        let messages = self.ask("`tools/list`", 2, "tools/list", json!({})).await?;
        let result = result("`tools/list`", &messages)?;
        let names = result["tools"].as_array().into_iter().flatten();
        Ok(names.filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect())
    }

    async fn add(&self) -> Result<String, ProofError> {
        const STEP: &str = "the tool `add`";
        let params = json!({ "name": "add", "arguments": { "a": 19, "b": 23 } });
        let messages = self.ask(STEP, 3, "tools/call", params).await?;
        match text_of(result(STEP, &messages)?) {
            Some("42") => Ok("42".to_owned()),
            other => Err(unexpected(STEP, other.unwrap_or("nothing"))),
        }
    }

    /// Calls the tool that reports progress, and checks that all of it came, in order, first.
    async fn countdown(&self) -> Result<u64, ProofError> {
        const STEP: &str = "the tool `countdown`";
        let params = json!({
            "name": "countdown",
            "arguments": { "from": STEPS, "step_ms": 10 },
            "_meta": { "progressToken": "demo" },
        });
        let messages = self.ask(STEP, 4, "tools/call", params).await?;
        result(STEP, &messages)?;
        let progress: Vec<f64> =
            messages.iter().filter_map(|message| message["params"]["progress"].as_f64()).collect();
        let last_is_result = messages.last().is_some_and(|last| last.get("result").is_some());
        if !last_is_result || progress != [1.0, 2.0, 3.0] {
            return Err(unexpected(STEP, format!("progress {progress:?}")));
        }
        Ok(STEPS)
    }

    /// Ends the session, so that its child process goes.
    async fn leave(self) -> Result<(), ProofError> {
        let request = self.request(Method::DELETE, Bytes::new())?;
        self.exchange("the end of the session", request).await.map(drop)
    }

    async fn ask(
        &self,
        step: &'static str,
        id: u64,
        method: &str,
        params: Value,
    ) -> Result<Vec<Value>, ProofError> {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let response = self.send(step, &message).await?;
        read(step, response).await
    }

    async fn send(
        &self,
        step: &'static str,
        message: &Value,
    ) -> Result<Response<Incoming>, ProofError> {
        let request = self.request(Method::POST, message.to_string().into())?;
        self.exchange(step, request).await
    }

    fn request(&self, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>, ProofError> {
        let mut request = Request::builder()
            .method(method)
            .uri(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header("mcp-protocol-version", REVISION);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        request.body(Full::new(body)).map_err(|error| self.unreachable(error))
    }

    async fn exchange(
        &self,
        step: &'static str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ProofError> {
        tokio::time::timeout(PATIENCE, self.http.request(request))
            .await
            .map_err(|_| ProofError::TimedOut(step))?
            .map_err(|error| self.unreachable(error))
    }

    fn unreachable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ProofError {
        ProofError::Unreachable { url: self.url.clone(), source: source.into() }
    }
}

fn initialize() -> Value {
    let params = json!({
        "protocolVersion": REVISION,
        "capabilities": {},
        "clientInfo": { "name": "mcpm-demo-visitor", "version": env!("CARGO_PKG_VERSION") },
    });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params })
}

/// Reads an answer, JSON or an event stream, into its messages.
async fn read(step: &'static str, response: Response<Incoming>) -> Result<Vec<Value>, ProofError> {
    let (head, body) = response.into_parts();
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST).collect());
    let body = collected
        .await
        .map_err(|_| ProofError::TimedOut(step))?
        .map_err(|error| unexpected(step, error))?
        .to_bytes();
    let text = || String::from_utf8_lossy(&body).into_owned();
    if head.status != StatusCode::OK {
        return Err(unexpected(step, format!("{} {}", head.status, text())));
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|_| unexpected(step, text()));
    if !kind.unwrap_or_default().starts_with("text/event-stream") {
        return Ok(vec![parse(&body)?]);
    }
    let mut decoder = Decoder::new(LONGEST);
    decoder.push(&body);
    let mut messages = Vec::new();
    while let Some(event) = decoder.next_event().map_err(|error| unexpected(step, error))? {
        if event.is_message() {
            messages.push(parse(&event.data)?);
        }
    }
    Ok(messages)
}

fn result<'a>(step: &'static str, messages: &'a [Value]) -> Result<&'a Value, ProofError> {
    let found = messages.iter().find_map(|message| message.get("result"));
    found.ok_or_else(|| unexpected(step, messages.last().unwrap_or(&Value::Null)))
}

fn text_of(result: &Value) -> Option<&str> {
    result["content"][0]["text"].as_str()
}

fn unexpected(step: &'static str, got: impl ToString) -> ProofError {
    ProofError::Unexpected { step, got: got.to_string() }
}
