//! Services behind shares.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use mcpm::tunnel::Backend;
use mcpm_shared::scope::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::soon;

/// What a [`Service`] answers with.
pub type Answer = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// Makes a body of known bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A real HTTP service on a real socket, whose behaviour a test writes.
#[derive(Debug)]
pub struct Service {
    addr: SocketAddr,
    scope: Scope,
}

impl Service {
    /// Starts a service that answers with what `handler` returns.
    pub async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Answer>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (scope, handler) = (Scope::new(), Arc::new(handler));
        let tasks = scope.clone();
        scope.spawn_until_cancelled(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let handler = Arc::clone(&handler);
                let service = hyper::service::service_fn(move |request| {
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tasks.spawn_until_cancelled(async move {
                    let _ended = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self { addr, scope }
    }

    /// Starts a service that answers nobody, and tells how many have asked.
    pub async fn silent() -> (Self, watch::Receiver<usize>) {
        let (calls, called) = watch::channel(0);
        let service = Self::start(move |_| {
            calls.send_modify(|calls| *calls += 1);
            std::future::pending()
        });
        (service.await, called)
    }

    /// Starts a service whose answers have no end.
    pub async fn endless() -> Self {
        Self::start(|_| async {
            let piece = Bytes::from_static(&[0; 64 * 1024]);
            let endless = futures_util::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            Response::new(StreamBody::new(endless).boxed_unsync())
        })
        .await
    }

    /// Starts a WebSocket service for one visitor, who hears what it says.
    pub async fn socket() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (addr, scope) = (listener.local_addr().unwrap(), Scope::new());
        scope.spawn_until_cancelled(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                socket.send(message).await.unwrap();
            }
        });
        Self { addr, scope }
    }

    /// Starts a service that says what it was asked: method, target, headers and body, as JSON.
    pub async fn echo() -> Self {
        Self::start(|request| async move {
            let (parts, body) = request.into_parts();
            let headers: Vec<(String, String)> = parts
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
                .collect();
            let body = body.collect().await.unwrap().to_bytes();
            let said = serde_json::json!({
                "method": parts.method.as_str(),
                "target": parts.uri.to_string(),
                "headers": headers,
                "body": String::from_utf8_lossy(&body),
            });
            Response::new(full(said.to_string()))
        })
        .await
    }

    /// Returns the backend of a share in front of this service.
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::Http(self.addr.port().to_string().parse().unwrap())
    }

    /// Returns the service's own URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

/// Says `texts` over a WebSocket to the share `name` of the relay at `addr`, and hears each again.
///
/// # Panics
/// When it does not.
pub async fn echoes_over_socket(addr: SocketAddr, name: &str, texts: &[&str]) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let url = format!("ws://localhost:{}/s/{name}/socket", addr.port());
    let upgrade = tokio_tungstenite::client_async(url, stream);
    let (mut socket, _) = soon("upgrade", upgrade).await.unwrap();
    for text in texts {
        socket.send((*text).into()).await.unwrap();
        let back = soon("the echo comes", socket.next()).await.unwrap().unwrap();
        assert_eq!(back.into_text().unwrap(), *text);
    }
}
