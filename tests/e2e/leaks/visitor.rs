//! A client that comes, calls, hangs and goes, in ways good and bad; each exchange has a connection of its own.

use harness::{soon, visitor};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

/// Calls that the server does not answer say so first, so that the call is known to be there.
const HANG: [&str; 2] = [
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":@token@,"progress":1}}"#,
    "@never@",
];
/// An answer that says which process gave it.
const WHO: [&str; 1] = [r#"{"jsonrpc":"2.0","id":@id@,"result":{"content":[],"pid":@pid@}}"#];

/// Where a client goes, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) url: String,
    pub(super) token: Option<String>,
}

/// A call, in one era or the other.
pub(super) fn call(id: u32, modern: bool, say: &[&str]) -> Value {
    let mut meta = json!({ "progressToken": id });
    if modern {
        meta["io.modelcontextprotocol/protocolVersion"] = "2026-07-28".into();
        meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    }
    let params = json!({ "name": "echo", "say": say, "_meta": meta });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// A call that is answered with the process that answers.
pub(super) fn who(id: u32) -> Value {
    call(id, false, &WHO)
}

/// A call that is not answered.
pub(super) fn hang(id: u32) -> Value {
    call(id, false, &HANG)
}

/// How a client of the legacy era opens.
pub(super) fn initialize() -> Value {
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "leaks", "version": "1" },
    } })
}

/// The process in an answer to [`who`].
pub(super) fn pid(answer: &str) -> u32 {
    let number = answer.split(r#""pid":"#).nth(1).unwrap_or_else(|| panic!("no pid: {answer}"));
    let digits = number.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap()
}

impl Door {
    fn head(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request
            .header("accept", "application/json, text/event-stream")
            .header("connection", "close");
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    fn post(&self, message: &Value) -> RequestBuilder {
        let mut request = self.head(visitor().post(&self.url)).json(message);
        let version = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
        if let Some(version) = version.as_str() {
            request = request
                .header("mcp-protocol-version", version)
                .header("mcp-method", message["method"].as_str().unwrap())
                .header("mcp-name", "echo");
        }
        request
    }

    /// Opens a session of the legacy era.
    pub(super) async fn open(&self) -> Session {
        let response = soon("a session opens", self.post(&initialize()).send()).await.unwrap();
        let id = response.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        let id = id.unwrap_or_else(|| panic!("no session: {text}"));
        Session { door: self.clone(), id }
    }

    /// Makes a call of the modern era.
    pub(super) async fn call_modern(&self) -> String {
        let response = self.post(&call(1, true, &WHO)).send();
        soon("a call is answered", response).await.unwrap().text().await.unwrap()
    }

    /// Makes a call of the modern era that hangs; it does when this returns.
    pub(super) async fn hang_modern(&self) -> Response {
        begun(self.post(&call(1, true, &HANG))).await
    }
}

/// A session of the legacy era.
#[derive(Debug)]
pub(super) struct Session {
    door: Door,
    id: String,
}

impl Session {
    fn within(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("mcp-session-id", &self.id).header("mcp-protocol-version", "2025-11-25")
    }

    /// Makes a call to its end.
    pub(super) async fn call(&self, message: &Value) -> String {
        let response = self.within(self.door.post(message)).send();
        soon("a call is answered", response).await.unwrap().text().await.unwrap()
    }

    /// Makes a call that hangs; it does when this returns.
    pub(super) async fn hang(&self, id: u32) -> Response {
        begun(self.within(self.door.post(&hang(id)))).await
    }

    /// Opens the stream of what belongs to no call.
    pub(super) async fn listen(&self) -> Response {
        let request = self.within(self.door.head(visitor().get(&self.door.url)));
        let response = soon("the stream opens", request.send()).await.unwrap();
        assert_eq!(response.status(), 200);
        response
    }

    /// Ends the session.
    pub(super) async fn end(self) {
        let request = self.within(self.door.head(visitor().delete(&self.door.url)));
        let response = soon("the session ends", request.send()).await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
    }
}

/// Sends a call and waits until the server has said something to it.
async fn begun(request: RequestBuilder) -> Response {
    let mut response = soon("a call begins", request.send()).await.unwrap();
    let mut said = String::new();
    while !said.contains("notifications/progress") {
        let chunk = soon("the call is there", response.chunk()).await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("it ended with {said}"));
        said.push_str(&String::from_utf8_lossy(&chunk));
    }
    response
}
