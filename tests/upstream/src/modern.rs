//! The server of a time when nobody speaks an era with `initialize` any more.

use std::io::Write as _;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rmcp::ServiceExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::fixture::Fixture;

/// How much of a request is read, in bytes.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Serves over stdin and stdout, and knows no `initialize`.
///
/// # Errors
/// When the streams break.
pub(crate) async fn stdio(fixture: Fixture) -> anyhow::Result<()> {
    let (to_server, from_client) = tokio::io::duplex(64 * 1024);
    let served = fixture.serve((from_client, tokio::io::stdout()));
    let pass = async {
        let mut to_server = to_server;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(refusal) = refusal(line.as_bytes()) {
                // Nothing else is said yet: it is how a conversation of the other era begins.
                writeln!(std::io::stdout().lock(), "{refusal}")?;
                continue;
            }
            to_server.write_all(line.as_bytes()).await?;
            to_server.write_all(b"\n").await?;
        }
        anyhow::Ok(())
    };
    let (served, passed) =
        tokio::join!(async { served.await?.waiting().await.map_err(anyhow::Error::from) }, pass);
    passed?;
    served.map(drop)
}

/// Refuses `initialize` over HTTP, as a server that never had it.
pub(crate) async fn refuse_legacy(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if let Some(refusal) = refusal(&body) {
        let json = [(header::CONTENT_TYPE, "application/json")];
        return (StatusCode::NOT_FOUND, json, refusal.to_string()).into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

/// What a message is answered that opens a conversation of the legacy era.
fn refusal(message: &[u8]) -> Option<Value> {
    let message: Value = serde_json::from_slice(message).ok()?;
    (message["method"] == "initialize").then(|| {
        let error = json!({ "code": -32601, "message": "Method not found" });
        json!({ "jsonrpc": "2.0", "id": message["id"], "error": error })
    })
}
