//! A visitor without an SDK: one request, one connection, all of the answer to look at.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// The head.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: Bytes,
}

impl Answer {
    /// A header as text; empty when there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Posts a JSON-RPC message as MCP clients do. An error is one of the connection, not of HTTP.
pub(super) async fn post(url: &str, token: Option<&str>, body: &Value) -> anyhow::Result<Answer> {
    let mut request = Request::post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    send(request.body(Full::from(body.to_string()))?).await
}

/// Asks for a page without a body.
pub(super) async fn get(url: &str) -> anyhow::Result<Answer> {
    send(Request::builder().method(Method::GET).uri(url).body(Full::default())?).await
}

async fn send(mut request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
    let authority = request.uri().authority().expect("an absolute URL").to_string();
    request.headers_mut().insert("host", authority.parse()?);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse::<Uri>()?;
    let stream = TcpStream::connect(&authority).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::select! {
        answer = exchange => answer,
        // The connection may end with the answer's last byte: the answer decides then.
        Err(error) = connection => Err(error.into()),
    }
}
