//! The fixtures over Streamable HTTP.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;

use crate::fixture::Fixture;
use crate::modern;

/// A server that is bound and does not answer yet.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where clients reach it.
    pub(crate) url: String,
    listener: TcpListener,
    router: Router,
}

/// Binds 127.0.0.1.
///
/// # Errors
/// When the port is taken.
pub(crate) async fn bind(port: u16, fixture: Fixture) -> anyhow::Result<Server> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("bind")?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    let config = StreamableHttpServerConfig::default().with_allowed_origins([
        "http://localhost:*",
        "http://127.0.0.1:*",
        "http://[::1]:*",
    ]);
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(fixture.clone()), sessions, config);
    let router = Router::new().route_service("/mcp", service);
    Ok(Server { url, listener, router })
}

impl Server {
    /// Makes it one that knows no 2026-07-28.
    pub(crate) fn refuse_modern(&mut self) {
        let router = std::mem::take(&mut self.router);
        self.router = router.layer(middleware::from_fn(refuse_modern));
    }

    /// Makes it one that knows nothing else.
    pub(crate) fn refuse_legacy(&mut self) {
        let router = std::mem::take(&mut self.router);
        self.router = router.layer(middleware::from_fn(modern::refuse_legacy));
    }

    /// Serves for as long as the process lives.
    ///
    /// # Errors
    /// When the listener breaks.
    pub(crate) async fn serve(self) -> anyhow::Result<()> {
        axum::serve(self.listener, self.router).await.context("serve")
    }
}

/// Answers a request of a revision that it does not know as servers before 2026-07-28 do: with no word of what they know.
async fn refuse_modern(request: Request, next: Next) -> Response {
    let version = request.headers().get("mcp-protocol-version");
    if version.is_none_or(|version| version.as_bytes() < b"2026-07-28".as_slice()) {
        return next.run(request).await;
    }
    let message = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Unsupported protocol version"},"id":null}"#;
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/json")], message).into_response()
}
