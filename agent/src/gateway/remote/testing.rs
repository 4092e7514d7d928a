//! A small upstream under the control of a test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcpm_shared::scope::Scope;
use tokio::net::TcpListener;

/// A request that the upstream got.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Heard {
    pub(in crate::gateway) method: String,
    pub(in crate::gateway) headers: HeaderMap,
    pub(in crate::gateway) body: String,
}

/// What the upstream answers.
#[derive(Debug)]
pub(in crate::gateway) struct Answer(Response<Full<Bytes>>);

impl Answer {
    pub(in crate::gateway) fn json(status: u16, body: &str) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(in crate::gateway) fn events(body: &str) -> Self {
        Self::new(200, "text/event-stream", body)
    }

    pub(in crate::gateway) fn empty(status: u16) -> Self {
        Self::new(status, "text/plain", "")
    }

    fn new(status: u16, kind: &str, body: &str) -> Self {
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let response = Response::builder().status(status).header("content-type", kind);
        Self(response.body(body).unwrap())
    }

    pub(in crate::gateway) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.headers_mut().insert(name, value.parse().unwrap());
        self
    }
}

pub(in crate::gateway) struct Upstream {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    scope: Scope,
}

impl Upstream {
    pub(in crate::gateway) async fn start(
        answer: impl Fn(&Heard) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (scope, heard) = (Scope::new(), Arc::new(Mutex::new(Vec::new())));
        let (answer, tasks, log) = (Arc::new(answer), scope.clone(), heard.clone());
        scope.spawn_until_cancelled(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, log) = (answer.clone(), log.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let heard = Heard {
                            method: head.method.to_string(),
                            headers: head.headers,
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        };
                        let answer = answer(&heard).0;
                        log.lock().unwrap().push(heard);
                        Ok::<_, Infallible>(answer)
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                let connection = http.serve_connection(TokioIo::new(stream), service);
                tasks.spawn_until_cancelled(async move { drop(connection.await) });
            }
        });
        Self { address, heard, scope }
    }

    pub(in crate::gateway) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(in crate::gateway) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub(in crate::gateway) async fn stop(self) {
        assert_eq!(self.scope.drain(Duration::from_secs(5)).await, 0);
    }
}
